"""Does attention follow the image? Class activation maps of transformed test images, drawn and measured."""

from __future__ import annotations

import dataclasses
import io
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from tabulate import tabulate
from torch import Tensor, nn

from mlbench.errors import UsageError, unknown, visible
from mlbench.explain.cam import CAPTION, GAP, TILE, chosen_cells, class_maps, colour, has_maps
from mlbench.explain.sides import sides_of
from mlbench.files import atomic_write
from mlbench.grid import grid
from mlbench.inputs.cache import Advance
from mlbench.inputs.checked import Rows
from mlbench.inputs.pixels import load_pixels
from mlbench.inputs.placement import overlaps
from mlbench.inputs.tensors import normalise
from mlbench.inputs.views import View
from mlbench.methods import Batch, Method, Prediction
from mlbench.metrics import scores_of_kind, threshold
from mlbench.models.backbones import BACKBONES
from mlbench.runner.feed import Feed
from mlbench.runner.plan import Run
from mlbench.runner.trained import reload_network, reload_run

#: What a view is made of, by name; "flip+scale" combines. "scale" takes one cell of the heat map off each side, which
#: gives VAC's second size (192 beside 224, 256 beside 288); "shift" moves one cell to the right.
PARTS: Mapping[str, dict[str, Any]] = {
    "flip": {"flip": True},
    "scale": {"cells": -1},
    "rotate": {"rotate": 90.0},
    "shift": {"shift": (0.0, 1.0)},
}
#: How a row of the picture is called.
CAPTIONS = {"flip": "flipped", "scale": "scaled", "rotate": "rotated", "shift": "shifted"}
BATCH = 64


def views_of(names: Sequence[str]) -> list[View]:
    """The views called `names`: parts of `PARTS` joined by "+". UsageError names an unknown or repeated one."""
    views = []
    for name in names:
        parts = name.split("+")
        for part in parts:
            if part not in PARTS:
                raise unknown("view", part, PARTS)
        views.append(View(name, **{key: value for part in parts for key, value in PARTS[part].items()}))
    if not views:
        raise UsageError(f"no view given: expected some of {', '.join(PARTS)}, or several joined by '+'")
    if len(set(names)) < len(names):
        raise UsageError(f"views {', '.join(names)}: expected each once")
    return views


class Agreement:
    """Sums from which the consistency error of each of `classes` classes is told; see `errors`."""

    def __init__(self, classes: int) -> None:
        self._sums = torch.zeros(6, classes, dtype=torch.float64)

    def add(self, maps: Tensor, aligned: Tensor, weight: Tensor) -> None:
        """Count maps [B, C, p, q] of the images beside those of a view, brought back to the same frame and grid.

        weight : float [B, 1, p, q], what each place counts; 0 leaves it out.
        """
        a, b, w = maps.double().cpu(), aligned.double().cpu(), weight.double().cpu()
        entries = (w.expand_as(a), w * a, w * a**2, w * b, w * b**2, w * (a - b) ** 2)
        self._sums += torch.stack([entry.sum(dim=(0, 2, 3)) for entry in entries])

    def errors(self) -> np.ndarray:
        """Attention consistency error of each class, float64 [C]; NaN where all maps of the class are constant.

        ``mean (M - M')^2 / (Var M + Var M')``, with mean and variances over all test images and compared cells: M is
        the class's map of the image, M' that of the view brought back. It is VAC's training loss (Guo et al., CVPR
        2019, released code: mean squared error of raw maps) made free of the maps' scale, so that flat maps win
        nothing: 0 for equal maps, 1 for maps as far apart as unrelated ones of the same mean.
        """
        count, a, a2, b, b2, difference = self._sums.numpy()
        with np.errstate(invalid="ignore", divide="ignore"):
            spread = a2 / count - (a / count) ** 2 + b2 / count - (b / count) ** 2
            flat = spread <= 1e-12 * (a2 + b2) / count  # what rounding leaves of the variance of constant maps
            return np.where(flat, np.nan, difference / count / spread)


@dataclass(frozen=True)
class Consistency:
    """One run and one view over the test set: `error` float [C], see `Agreement`; `changed` float [C], the percent of
    images for which the class is decided otherwise than without the transform (NaN without decisions)."""

    error: np.ndarray
    changed: np.ndarray


class Model:
    """A finished run brought back, to be asked about transformed test images; `name` is that of its `Side`."""

    def __init__(self, name: str, run: Run, method: Method, network: nn.Module, feed: Feed) -> None:
        self.name, self.run, self.method, self.network, self.feed = name, run, method, network, feed
        self.trunk, self.size = BACKBONES[run.backbone], run.train.image_size
        self._pixels: dict[int, Rows] = {}

    def batches(self, rows: np.ndarray, views: Sequence[View]) -> list[Batch]:
        """Test images `rows` as they are, then under each of `views`."""
        plain = self.feed.batch("test", rows, None)
        found = [plain]
        for view in views:
            side, images = view.side(self.size, self.trunk.stride), plain.inputs
            if side != self.size:
                if side not in self._pixels:
                    self._pixels[side] = load_pixels(self.run.dataset.splits["test"], side)
                raw = torch.from_numpy(np.array(self._pixels[side][rows])).to(plain.inputs.device)
                images = normalise(raw, self.trunk.mean, self.trunk.std)
            found.append(dataclasses.replace(plain, inputs=view.image(images, self.trunk.stride)))
        return found

    def ask(self, batch: Batch) -> tuple[Tensor, Prediction]:
        """Class maps float32 [B, C, h, w] and the method's prediction, on the CPU."""
        with torch.inference_mode():
            answer = self.method.predict(self.network, batch)
        answer = answer if isinstance(answer, Prediction) else Prediction(answer)
        decisions = None if answer.decisions is None else answer.decisions.cpu()
        return class_maps(self.network, batch.inputs).cpu(), Prediction(answer.scores.float().cpu(), decisions)

    def decide(self, answer: Prediction) -> np.ndarray | None:
        """Decisions bool [B, C]: the method's own, else the protocol's; None for scores that only order."""
        if answer.decisions is not None:
            return answer.decisions.numpy().astype(bool)
        kind = self.run.method.scores
        if kind == "rank":
            return None
        return threshold(scores_of_kind(kind, answer.scores.numpy()), self.run.protocol.metrics.decision)

    def consistency(self, views: Sequence[View]) -> list[Consistency]:
        """Error and changed decisions under each of `views`, over the whole test set."""
        count, classes = len(self.run.dataset.splits["test"]), len(self.run.dataset.classes)
        sums = [Agreement(classes) for _ in views]
        changed = np.zeros((len(views), classes))
        for start in range(0, count, BATCH):
            rows = np.arange(start, min(start + BATCH, count))
            plain, *others = self.batches(rows, views)
            maps, answer = self.ask(plain)
            decided = self.decide(answer)
            for i, (view, batch) in enumerate(zip(views, others, strict=True)):
                seen, other = self.ask(batch)
                sums[i].add(*compared(maps, seen, view))
                now = self.decide(other)
                changed[i] += np.nan if decided is None or now is None else (decided != now).sum(axis=0)
        return [Consistency(s.errors(), 100.0 * c / count) for s, c in zip(sums, changed, strict=True)]


def compared(maps: Tensor, seen: Tensor, view: View) -> tuple[Tensor, Tensor, Tensor]:
    """Maps [B, C, h, w] of images and those of a view of them, the latter brought back, in pieces that lie within one
    cell of each: both [B, C, p, q], and float64 [B, 1, p, q], the weight of a piece; 0 where only one shows the image.
    """
    place = view.place(len(seen), seen.shape[-1])
    first, second, areas = overlaps(maps, place.align(seen))
    _, valid, _ = overlaps(maps, place.valid(seen))
    return first, second, valid * areas


def models_of(
    runs: Sequence[str],
    store: Path | None = None,
    data_root: Path | None = None,
    dataset: str | None = None,
    weights: Path | None = None,
    device: str = "cpu",
    advance: Advance | None = None,
) -> Iterator[Model]:
    """The runs given (or those of the whole store that can be asked), one after the other, all of one data set.

    Each of `runs` is the first characters of a key, or of several keys joined by commas, see `sides_of`. A caller that
    keeps no model needs memory for one. `advance` is told of runs done and in all.

    Raises
    ------
    UsageError
        A run given has no class activation maps, is of track "head", or takes inputs beside the image (boxes), which
        no view transforms; the runs are of different data sets; or there is none.
    """
    found = [(side.name, record) for side in sides_of(runs, store) for record in side.records]
    fingerprint = None
    for done, (name, record) in enumerate(found, start=1):
        reason, model = _refusal(record), None
        if reason is None:
            run = reload_run(record, data_root, weights, dataset)
            model = Model(name, run, *reload_network(run, store, device))
            if run.method.inputs:
                reason = f"its method takes {', '.join(run.method.inputs)} beside the image, which no view transforms"
            elif not has_maps(model.network):
                reason = "its network has no class activation maps"
        if reason is None and model is not None:
            if fingerprint not in (None, model.run.dataset.fingerprint):
                raise UsageError("the runs are of different data sets: give runs of one")
            fingerprint = model.run.dataset.fingerprint
            yield model
        elif runs:
            raise UsageError(f"run {record['key'][:16]} ({record['identity']['method']['name']}): {reason}")
        if advance:
            advance(done, len(found))
    if fingerprint is None:
        raise UsageError("no run here is of track 'full' and has class activation maps")


def _refusal(record: Mapping[str, Any]) -> str | None:
    if record["identity"]["track"] == "head":
        return "track 'head' is fed cached features, so that no image can be transformed: give a run of track 'full'"
    return None


def consistency_rows(models: Iterable[Model], views: Sequence[View], label: str | None = None) -> list[dict[str, Any]]:
    """Method, number of runs, view, class, `error` and `changed` (percent): means over the runs of a side.

    Class "(mean)" is the mean over the classes that have a number; after it every class, or `label` alone.
    UsageError, before anything is computed, if the data set has no class `label`.
    """
    found: dict[str, list[list[Consistency]]] = defaultdict(list)
    classes: Sequence[str] = ()
    for model in models:
        classes = model.run.dataset.classes
        if label is not None and label not in classes:
            raise unknown("class", label, classes)
        found[model.name].append(model.consistency(views))
    rows = []
    for method, runs in found.items():
        for i, view in enumerate(views):
            values = {name: np.mean([getattr(run[i], name) for run in runs], axis=0) for name in ("error", "changed")}
            head = {"method": method, "runs": len(runs), "view": view.name}
            rows.append({**head, "class": "(mean)"} | {name: _mean(value) for name, value in values.items()})
            for c, name_of_class in enumerate(classes):
                if label in (None, name_of_class):
                    numbers = {name: float(value[c]) for name, value in values.items()}
                    rows.append({**head, "class": name_of_class} | numbers)
    return rows


def consistency_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Means over classes as Markdown, then each class of `rows`."""
    means = [row for row in rows if row["class"] == "(mean)"]
    first = [{k: v for k, v in row.items() if k != "class"} for row in means]
    classes = list(dict.fromkeys(row["class"] for row in rows if row["class"] != "(mean)"))
    lines = []
    for name in classes:
        mine = [row for row in rows if row["class"] == name]
        line: dict[str, Any] = {"class": name}
        for row in mine:
            line[f"{row['method']} {row['view']}"] = f"{row['error']:.3f} / {row['changed']:.2f}"
        lines.append(line)
    table = grid(first, headers="keys", floatfmt=("", "", "", ".3f", ".2f"), tablefmt="github")
    each = tabulate(lines, headers="keys", tablefmt="github", disable_numparse=True)
    told = "Error 0: maps follow the image; 1: as unrelated maps. Changed: percent of decisions."
    return f"{table}\n\n{told}\n\nBy class, error / changed:\n\n{each}"


def draw_attention(
    models: Sequence[Model], label: str, views: Sequence[View], picture: Path, sample: str | None = None
) -> Path:
    """Write `picture` (PNG), see `attention_sheet`."""
    buffer = io.BytesIO()
    attention_sheet(models, label, views, sample).save(buffer, format="PNG")
    atomic_write(picture, buffer.getvalue())
    return picture


def attention_sheet(
    models: Sequence[Model], label: str, views: Sequence[View], sample: str | None = None
) -> Image.Image:
    """Maps of class `label` on one test image as a picture, a row a view and a column a model.

    The layout of VAC's figure 5: the first view, the original below it, then the other views; each map lies on the
    image as the network saw it, at its size. The image is `sample`, or the first test image with the class. A column
    is scaled by its largest magnitude, so that its rows compare; the class's score stands above each.
    """
    data = models[0].run.dataset
    row, c = chosen_cells(data.splits["test"], data.classes, 1, [sample] if sample else [], [label])[0]
    order = [0, -1, *range(1, len(views))]  # of `views`; -1 is the original
    names = ["original" if i < 0 else _caption(views[i]) for i in order]
    sheet = Image.new(
        "RGB", ((TILE + GAP) * (len(models) + 1) + GAP, CAPTION + (TILE + CAPTION) * len(order) + GAP), "white"
    )
    pen = ImageDraw.Draw(sheet)
    pen.text((GAP, 6), visible(f"{data.splits['test'].ids[row]}: {label}"), fill="black")
    for j, model in enumerate(models, start=1):
        left = GAP + j * (TILE + GAP)
        pen.text((left, 6), visible(model.name), fill="black")
        batches = model.batches(np.array([row]), views)
        asked = [model.ask(batches[i + 1]) for i in order]
        peak = max(float(maps[0, c].abs().max()) for maps, _ in asked)
        for k, (i, (maps, answer)) in enumerate(zip(order, asked, strict=True)):
            top = CAPTION + k * (TILE + CAPTION)
            side = round(TILE * batches[i + 1].inputs.shape[-1] / model.size)
            base = _shown(batches[i + 1].inputs[0].cpu(), model).resize((side, side), Image.Resampling.BILINEAR)
            heat = Image.fromarray(colour(maps[0, c].numpy() / max(peak, 1e-12)))
            blend = Image.blend(base, heat.resize((side, side), Image.Resampling.BILINEAR), 0.6)
            if j == 1:
                pen.text((GAP, top + 6), names[k], fill="black")
                sheet.paste(base, (GAP, top + CAPTION - 4))
            pen.text((left, top + 6), f"score {float(answer.scores[0, c]):.2f}", fill="black")
            sheet.paste(blend, (left, top + CAPTION - 4))
    return sheet


def _caption(view: View) -> str:
    return ", ".join(CAPTIONS[part] for part in view.name.split("+"))


def _shown(image: Tensor, model: Model) -> Image.Image:
    """A normalised image [3, H, W] as a picture."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (model.trunk.mean, model.trunk.std))
    pixels = ((image * std + mean).clamp(0, 1) * 255).round().to(torch.uint8)
    return Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())


def _mean(values: np.ndarray) -> float:
    return float("nan") if np.isnan(values).all() else float(np.nanmean(values))
