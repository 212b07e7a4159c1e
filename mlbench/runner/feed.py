"""Batches for training and inference: which pixels or features a part's rows become."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mlbench.errors import DataError, MlbenchError, unknown
from mlbench.inputs.augment import Augmentation
from mlbench.inputs.cache import Advance
from mlbench.inputs.checked import Rows, verify_read
from mlbench.inputs.features import Features
from mlbench.inputs.on_the_fly import OnTheFly
from mlbench.inputs.tensors import on_device
from mlbench.methods import Batch
from mlbench.methods.labels import LabelStore
from mlbench.models.backbones import BACKBONES, build_backbone
from mlbench.runner.crops import crops_of
from mlbench.runner.data import FeatureInputs, ImageInputs
from mlbench.runner.plan import Run
from mlbench.runner.probe import Probe
from mlbench.runner.side import SIDE_INPUTS, LazySide, SideLoader, side_input
from mlbench.seeds import derive
from mlbench.settings import TrainSettings

#: Side inputs that a method has to declare as supervision, and why.
_TELLING = {
    "boxes": "tell the labels",
    "tags": "tell more than the image",
    "vl_scores": "tell what a model learnt from other data",
}


def start_backbone(run: Run) -> nn.Module:
    """The run's backbone at its start: pretrained weights, or a random start shared by all methods."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive("init backbone", run.dataset.id, run.seed))
        return build_backbone(run.backbone, run.weights, image_size=run.train.image_size)


#: Features by what they are of, each with the batch that was last read.
OpenedFeatures = dict[Hashable, tuple[Features, dict[Hashable, Tensor]]]


class Feed:
    """Makes batches of a run's parts; pixels and features are prepared when first needed.

    `settings` are the training settings in force (image size, augmentation): the run's, or those of its present phase.
    Feeds that were given the same `opened` share the features in it, and the batch that was last read of each. `probe`
    is what the images are looked at through. `ahead` says whether `begin` does anything: not where the same cores
    compute the step.
    """

    def __init__(
        self,
        run: Run,
        device: torch.device,
        advance: Callable[[str], Advance] | None = None,
        opened: OpenedFeatures | None = None,
        probe: Probe | None = None,
    ) -> None:
        self.run, self.device, self._settings = run, device, run.train
        self.probe = probe or Probe()
        self._shared, self._opened = opened is not None, {} if opened is None else opened
        self._trunk: nn.Module | None = None
        self.ahead = device.type != "cpu"
        self._begun: tuple[Any, Future[Batch]] | None = None
        self._thread: ThreadPoolExecutor | None = None
        self.views = run.method.views_for(run.hyper)
        if len({view.name for view in self.views}) < len(self.views):
            raise MlbenchError(f"method '{run.method.name}' has two views of one name")
        self._advance = advance
        self._images: dict[tuple[str, int, tuple[str, ...], Augmentation], ImageInputs] = {}
        self._features: dict[tuple[str, int], FeatureInputs] = {}
        self._side: dict[tuple[str, str], SideLoader] = {}
        for name in run.method.inputs:
            if name not in SIDE_INPUTS:
                raise unknown("side input", name, SIDE_INPUTS, f"method '{run.method.name}'")
        for kind, why in _TELLING.items():
            if kind in run.method.inputs and kind not in run.method.supervision:
                raise MlbenchError(
                    f"method '{run.method.name}' takes {kind}, which {why}, without declaring it in `supervision`"
                )
        if "boxes" in run.method.inputs and run.parts["train"].split.boxes is None:
            raise DataError(f"data set '{run.dataset.id}' has no boxes, which method '{run.method.name}' learns from")

    @property
    def settings(self) -> TrainSettings:
        """The training settings of the phase that batches are made for."""
        return self._settings

    @settings.setter
    def settings(self, settings: TrainSettings) -> None:
        if self._begun is not None:
            wait([self._begun[1]])  # it is made under the settings that it was begun with
        self._settings = settings

    def prepare(self, parts: Sequence[str], pooled: bool, maps: bool = True) -> None:
        """Load what `parts` need, with progress; of features, maps too only if `pooled` does not say otherwise."""
        for name in parts:
            if pooled or self.run.track == "head":
                self._feature_inputs(name, maps and not pooled)
            else:
                self._image_inputs(name)
        self._trunk = None  # all features are there

    def expect(self, name: str, index: np.ndarray) -> None:
        """Tell that the images of rows `index` of part `name` will be asked for in this order, without augmentation or
        with: those that are decoded on the fly are decoded ahead."""
        if self._begun is not None:
            self._begun[1].result()
        for (part, *_), inputs in self._images.items():
            if part == name:
                inputs.expect(index)

    def pixels_sha256(self) -> dict[str, str]:
        """SHA-256 of the pixels read so far, by split; ``split@side`` where `side` is not the run's image size.

        Every byte of the pixels and features that were read is hashed once more: DataError where one is not what was
        written. A record is composed after that.
        """
        run = self.run
        pixels = (array for images in self._images.values() for array in images.pixels.values())
        arrays: list[Rows] = [array for array in pixels if not isinstance(array, OnTheFly)]  # those are checked as read
        for cached in self._features.values():
            arrays += [array for array in (cached.features.maps, cached.features.pooled) if array is not None]
        for array in {getattr(array, "path", None): array for array in arrays}.values():
            try:
                verify_read(array)
            except DataError as error:
                raise DataError(f"{error}. The run may have read it: start the run anew, without --resume") from None
        read = {
            (run.parts[name].source, side)
            for (name, *_), inputs in self._images.items()
            for side, pixels in inputs.pixels.items()
            if not isinstance(pixels, OnTheFly)  # what is decoded anew each time is kept nowhere
        }
        read |= {(run.parts[name].source, side) for name, side in self._features}
        found = {}
        for source, side in sorted(read):
            name = source if side == run.train.image_size else f"{source}@{side}"
            found[name] = self.probe.pixels_sha256(run.dataset.splits[source], side)
        return found

    def side_sha256(self) -> dict[str, str]:
        """SHA-256 of the side inputs read so far that are kept in files, as ``split@kind``."""
        found = {}
        for kind, name in sorted(self._side):
            entry, part = side_input(kind), self.run.parts[name]
            if entry.sha256 is not None:
                found[f"{part.source}@{kind}"] = entry.sha256(self.run, part)
        return found

    def batch(
        self, name: str, index: np.ndarray, epoch: int | None, pooled: bool = False, source: str = "images"
    ) -> Batch:
        """Rows `index` of part `name`; augmented for `epoch` (None: not), pooled where maps are not needed."""
        if self._begun is not None:
            made = self._begun[1].result()  # whichever it is: two threads never read the same source
            if self._begun[0] == self._asked(name, index, epoch, pooled, source):
                self._begun = None
                return made
        return self._batch(name, index, epoch, pooled, source)

    def begin(
        self, name: str, index: np.ndarray, epoch: int | None, pooled: bool = False, source: str = "images"
    ) -> None:
        """Make the batch that `batch` will be asked for next, on a thread, while the present step is under way.

        It is the same to the bit. Nothing is begun where making it draws from generators that the step draws from, too
        (torchvision's transforms), where other runs read the same features, and for pooled features, which are read
        faster than a thread is woken.
        """
        small = source == "pooled" or (pooled and self.run.track == "head")
        if not self.ahead or small or self._shared or self._draws_from_torch():
            return
        self._thread = self._thread or ThreadPoolExecutor(1, "mlbench-batch", self._enter_thread)
        made = self._thread.submit(self._batch, name, index, epoch, pooled, source)
        self._begun = self._asked(name, index, epoch, pooled, source), made

    def _enter_thread(self) -> None:
        """A thread begins on the first GPU, whatever the others are on."""
        if self.device.type == "cuda" and self.device.index is not None:
            torch.cuda.set_device(self.device)

    def _asked(self, name: str, index: np.ndarray, epoch: int | None, pooled: bool, source: str) -> Any:
        return name, index.tobytes(), epoch, pooled, source, self.settings

    def _draws_from_torch(self) -> bool:
        views = (view.augment for view in self.views if view.augment is not None)
        return any(changes.draws_from_torch for changes in (Augmentation.of(self.settings), *views))

    def _batch(self, name: str, index: np.ndarray, epoch: int | None, pooled: bool, source: str) -> Batch:
        run, size = self.run, self.settings.image_size
        rows = on_device(torch.from_numpy(np.asarray(index, dtype=np.int64)), self.device)
        side = self._side_inputs(name, index, epoch, source)
        if source == "pooled" or run.track == "head":
            inputs = self._feature_inputs(name, not (pooled or source == "pooled"))
            inputs.pooled = pooled or source == "pooled"
            return Batch(inputs.load(index, size, self.device, epoch), rows, side=side, part=name)
        images = self._image_inputs(name)
        if not self.views or epoch is None:
            return Batch(images.load(index, size, self.device, epoch), rows, side=side, part=name)
        stride, seed = BACKBONES[run.backbone].stride, derive(*images.seed_names, epoch)
        loaded: dict[int, Tensor] = {}
        views, placements = {}, {}
        for view in self.views:
            length = view.side(size, stride)
            if view.augment is not None:
                shown = images.load(index, length, self.device, epoch, view)
            else:
                if length not in loaded:
                    loaded[length] = images.load(index, length, self.device, epoch)
                shown = loaded[length]
            placement = view.place(len(index), length / stride, images.hashes[index], seed)
            views[view.name], placements[view.name] = placement.image(shown), placement
        return Batch(next(iter(views.values())), rows, views=views, placements=placements, side=side, part=name)

    def shown(self, name: str, index: np.ndarray, epoch: int | None, pooled: bool, source: str) -> Iterator[Batch]:
        """Rows `index` of part `name` as inference sees them: one batch, or one for each crop that the protocol asks
        for (of the training part never)."""
        batch, large = self.batch(name, index, epoch, pooled, source), self._crops_from(name)
        if large is None or source == "pooled":
            yield batch
            return
        images = self._image_inputs(name).load(index, large, self.device, None)
        for crop in crops_of(images, self.settings.image_size, self.run.dataset.flippable):
            yield dataclasses.replace(batch, inputs=crop)

    def with_labels(self, batch: Batch, index: np.ndarray, labels: LabelStore) -> Batch:
        batch.labels = labels.rows(index, self.device)
        return batch

    def _sides(self) -> set[int]:
        """Sides in pixels of the views."""
        return {view.side(self.settings.image_size, BACKBONES[self.run.backbone].stride) for view in self.views}

    def _crops_from(self, name: str) -> int | None:
        """Side in pixels of the images of part `name` that crops are cut from; None: they are shown whole."""
        rule = self.run.protocol.inference
        return None if rule.crops == 1 or name == "train" else round(self.settings.image_size / rule.share)

    def _image_inputs(self, name: str) -> ImageInputs:
        size, augment, changes = self.settings.image_size, self.settings.augment, Augmentation.of(self.settings)
        if (name, size, augment, changes) not in self._images:
            run, part = self.run, self.run.parts[name]
            views = self._sides() if name == "train" else set()  # inference sees no views
            sizes = {size, self._crops_from(name) or size} | views
            split = run.dataset.splits[part.source]
            progress = self._advance(f"decode {part.source} images") if self._advance else None
            trunk = BACKBONES[run.backbone]
            self._images[name, size, augment, changes] = ImageInputs(
                {side: self.probe.open_pixels(split, side, progress) for side in sorted(sizes)},
                part.rows,
                part.split.ids,
                trunk.mean,
                trunk.std,
                augment,
                (run.dataset.id, run.seed),
                changes,
                split.images,
            )
        return self._images[name, size, augment, changes]

    def _feature_inputs(self, name: str, maps: bool) -> FeatureInputs:
        """Features of part `name`, with `maps` where these are needed, which may be later than the pooled ones are."""
        size = self.settings.image_size
        known = self._features.get((name, size))
        if known is None or (maps and known.features.maps is None):
            run, part = self.run, self.run.parts[name]
            start = run.weights.sha256 if run.weights else f"random start {run.dataset.id} {run.seed}"
            backbone = f"{run.backbone} {start}"
            key = (run.dataset.fingerprint, part.source, size, backbone)
            opened = self._opened.get(key)
            if opened is None or (maps and opened[0].maps is None):
                progress = self._advance(f"{run.backbone} features of {part.source}") if self._advance else None
                split = run.dataset.splits[part.source]
                self._trunk = self._trunk or start_backbone(run)
                about = (split, size, self._trunk, backbone, self.device, progress)
                found = self.probe.load_features(*about, maps=maps)
                self._opened[key] = found, {} if opened is None else opened[1]
            features, last = self._opened[key]
            self._features[name, size] = FeatureInputs(features, part.rows, last if self._shared else None)
        return self._features[name, size]

    def _side_inputs(self, name: str, index: np.ndarray, epoch: int | None, source: str) -> LazySide:
        mirrored = None
        if self.run.method.inputs and source == "images" and self.run.track == "full":
            mirrored = self._image_inputs(name).mirrored(index, epoch)

        def make(kind: str) -> Any:
            value, mirror = self._side_loader(kind, name)(index), side_input(kind).mirror
            return self._on_device(value if mirrored is None or mirror is None else mirror(value, mirrored))

        return LazySide(self.run.method.inputs, make)

    def _side_loader(self, kind: str, name: str) -> SideLoader:
        if (kind, name) not in self._side:
            part = self.run.parts[name]
            if kind == "boxes" and name != "train":  # they tell the labels that are to be predicted
                part = dataclasses.replace(part, split=dataclasses.replace(part.split, boxes=None))
            progress = self._advance(f"{kind} of {part.source}") if self._advance else None
            self._side[kind, name] = side_input(kind).make(self.run, part, progress)
        return self._side[kind, name]

    def _on_device(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return on_device(value, self.device)
        if isinstance(value, (list, tuple)) and all(isinstance(item, Tensor) for item in value):
            return [on_device(item, self.device) for item in value]
        return value


def takes_maps(network: nn.Module) -> bool:
    """Whether `network`, in its present mode, needs feature maps rather than their mean."""
    return bool(getattr(getattr(network, "head", None), "needs_maps", True))
