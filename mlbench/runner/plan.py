"""From what a person asked for to one frozen, hashed run: every semantic setting resolved before training."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlbench import HARNESS_VERSION
from mlbench.annotation import Mask, mask_matters
from mlbench.catalogue.declared import is_of_head
from mlbench.datasets import list_datasets, load_dataset
from mlbench.datasets.base import Dataset
from mlbench.errors import UsageError, unknown
from mlbench.evaluation.pretraining import PRETRAINING, implied, most, names_vision_language
from mlbench.inputs.augment import Augmentation
from mlbench.inputs.duplicates import notes_of
from mlbench.inputs.pixels import RESIZE_RULE
from mlbench.methods import Method, Phase
from mlbench.models.backbones import BACKBONES, library_of
from mlbench.models.head_choice import LINEAR, HeadChoice, check_head, choose_head, takes_head
from mlbench.models.heads import HeadSpec
from mlbench.models.weights import StartWeights, WeightsFile, find_weights
from mlbench.protocol import TRACKS, Protocol, load_protocol
from mlbench.registry import load_method
from mlbench.runner.crops import check_crops
from mlbench.runner.data import Part, check_dense_state, make_parts
from mlbench.runner.recordable import check_declarations, check_identity
from mlbench.runner.side import SIDE_INPUTS, inputs_of, method_used, methods_of, read_given, side_identity, side_input
from mlbench.settings import OF_IMAGES, RECIPE_DEFAULTS, TrainSettings, build, named_settings, to_plain
from mlbench.store import run_key

#: What a run takes when no data set is named; and all embedded ones, each with a network of its name, never pretrained.
EMBEDDED = "scenes-2"
ALL_EMBEDDED = (EMBEDDED, "scenes")

#: Modules whose methods may share a process and their inputs with others: these are known to leave both alone.
SHARED_PROCESS: tuple[str, ...] = ("mlbench.",)


@dataclass(frozen=True)
class Request:
    """What is asked of `mlbench run`. Names may also be given as the objects themselves.

    A `mask` given (``mlbench.annotation.load_mask``) is used instead of a draw. `side` are files with side inputs, by
    kind; `pretraining` says what the weights were trained on, where that is not ImageNet nor told by a name.
    """

    protocol: str | Protocol
    method: str | type[Method]
    dataset: str | Dataset = EMBEDDED
    data_root: Path | None = None
    backbone: str | None = None
    weights: Path | None = None
    head: str | None = None
    track: str | None = None
    seed: int = 0
    mask_seed: int = 0
    mask: Mask | None = None
    epochs: int | None = None
    changes: Mapping[str, Any] = field(default_factory=dict)
    precision: str = "fp32"
    side: Mapping[str, Path] = field(default_factory=dict)
    pretraining: str | None = None


@dataclass(frozen=True)
class Run:
    """One run, frozen: `identity` holds all that decides its numbers, `key` is its SHA-256."""

    request: Request
    protocol: Protocol
    method: type[Method]
    dataset: Dataset
    parts: Mapping[str, Part]
    mask: Mask
    track: str
    backbone: str
    weights: WeightsFile | None
    train: TrainSettings
    hyper: Mapping[str, Any]
    selection: str
    uses: Mapping[str, str]
    notes: tuple[str, ...]
    inputs: Mapping[str, Any] = field(default_factory=dict)
    given: Mapping[str, Any] = field(default_factory=dict)
    head: HeadChoice = field(default_factory=HeadChoice)

    @property
    def seed(self) -> int:
        return self.request.seed

    @property
    def start(self) -> StartWeights:
        """Where the backbone starts from, for record and screen."""
        return StartWeights.of(self.backbone, self.weights)

    @property
    def pretraining(self) -> str:
        """The level of `PRETRAINING` that its numbers rest on: of the backbone, and of what it and its bases get."""
        scores = any("vl_scores" in used.supervision for used in methods_of(self.method, self.hyper))
        named = self.weights is not None and (
            names_vision_language(self.backbone) or names_vision_language(self.weights.path.name)
        )
        plain = "vision_language" if named else "random" if self.weights is None else "imagenet"
        return most([self.request.pretraining or plain, "vision_language" if scores else "random"])

    @property
    def sees_mask(self) -> bool:
        """Whether the draw of the mask can move a number (`mask_matters`)."""
        builds = bool(self.method.uses_for(self.hyper))
        return mask_matters(
            self.mask.process, self.mask.params, self.method.supervision, self.selection, builds_on_others=builds
        )

    @property
    def identity(self) -> dict[str, Any]:
        """Everything that decides the numbers, and nothing else (no path, no machine).

        What is equal in meaning has one text here: numbers have their declared type, and a draw that decides nothing
        is not named, so that such a run is made once a repetition whatever the mask seed asked for.
        """
        drawn = {"seed": self.mask.seed, "sha256": self.mask.sha256} if self.sees_mask else {}
        counts = {name: len(part) for name, part in sorted(self.parts.items())}
        identity = {
            "harness": HARNESS_VERSION,
            "protocol": self.protocol.name,
            "protocol_sha256": self.protocol.sha256,
            "dataset": {
                "id": self.dataset.id,
                "version": self.dataset.version,
                "fingerprint": self.dataset.fingerprint,
            },
            "split": {**to_plain(self.protocol.split), **counts},
            "mask": {
                "process": self.mask.process,
                "params": dict(self.mask.params),
                **drawn,
            },
            "definitions": self.protocol.counted,
            "unspecified": to_plain(self.protocol.unspecified_for(self.dataset.id)),
            "track": self.track,
            "backbone": {
                "name": self.backbone,
                "weights": self.weights.sha256 if self.weights else "none",
                **({"library": library} if (library := library_of(self.backbone)) else {}),
            },
            "resize": RESIZE_RULE,
            "method": {
                "name": self.method.name,
                "version": self.method.version,
                "hyperparameters": dict(self.hyper),
                "supervision": list(self.method.supervision),
                **({} if self.method.default_head == LINEAR else {"head": self.method.default_head}),
            },
            **({"head": self.head.identity} if self.head.identity else {}),
            "train": named_settings(self.train),
            "precision": self.request.precision,
            "selection": self.selection,
            "uses": dict(self.uses),
            **({"inputs": dict(self.inputs)} if self.inputs else {}),
            "repetition": self.seed,
            "mask_seed": self.request.mask_seed if self.sees_mask else 0,
        }
        return identity if self.pretraining == implied(identity) else {**identity, "pretraining": self.pretraining}

    @property
    def key(self) -> str:
        return run_key(self.identity)


def resolve(request: Request, uses: Mapping[str, str] | None = None) -> Run:
    """Load and check everything a run needs.

    `uses` gives the keys of the runs this one builds on; without it they are those of `used_requests`.
    """
    run = _resolve(request)
    if uses is None:
        uses = {name: resolve(used).key for name, used in used_requests(run).items()}
    run = dataclasses.replace(run, uses=uses)
    check_identity(run.identity, run.method)
    return run


def used_requests(run: Run) -> dict[str, Request]:
    """The runs that `run` builds on, by the name its method gives them: same protocol, data, mask, track and seeds.

    They follow the run's training settings too, where the method's `Uses` does not fix them, and have its head where
    they can.
    """
    asked = dict(run.request.changes)
    if run.request.epochs is not None:
        asked["train.epochs"] = run.request.epochs
    shared = {key: value for key, value in asked.items() if key.startswith(("train.", "annotation."))}
    of_head = {f"head.{key}": value for key, value in run.head.hyper.items()}
    same = dataclasses.replace(
        run.request, protocol=run.protocol, dataset=run.dataset, track=run.track, mask=run.mask, epochs=None
    )
    found = {}
    for name, use in run.method.uses_for(run.hyper).items():
        same_head = takes_head(load_method(use.method).needs_head, run.head.name)
        changes = {**shared, **(of_head if same_head else {}), **use.hyperparameters}
        head = run.head.name if same_head else None
        taken = inputs_of(*method_used(use))
        side = {kind: file for kind, file in run.request.side.items() if kind in taken}
        found[name] = dataclasses.replace(same, method=use.method, head=head, changes=changes, side=side)
        if use.backbone is not None and use.backbone != run.backbone:
            found[name] = dataclasses.replace(found[name], backbone=use.backbone, weights=None)
    return found


def why_alone(run: Run) -> str:
    """Why `run` cannot be trained beside others (`mlbench.runner.together`); empty if it can."""
    if run.track != "head":
        return f"on track '{run.track}' each run has a backbone of its own to train"
    if run.method.uses_for(run.hyper):
        return "it builds on another run"
    if not run.method.__module__.startswith(SHARED_PROCESS):
        return "its method is from another package, whose code could change what others see, or end them"
    return ""


def _resolve(request: Request) -> Run:
    protocol = request.protocol if isinstance(request.protocol, Protocol) else load_protocol(request.protocol)
    method = load_method(request.method) if isinstance(request.method, str) else request.method
    check_declarations(method)
    if isinstance(request.dataset, Dataset):
        dataset = request.dataset
    else:
        dataset = load_dataset(request.dataset, request.data_root)
    if request.pretraining not in (None, *PRETRAINING):
        raise unknown("pretraining", request.pretraining, PRETRAINING, "--pretraining")
    if request.pretraining is not None and request.weights is None:
        raise UsageError(f"--pretraining {request.pretraining}: says what the weights of --weights were trained on")
    if request.seed < 0 or request.mask_seed < 0:
        raise UsageError(f"--seed {request.seed} --mask-seed {request.mask_seed}: expected whole numbers from 0")
    notes = notes_of(dataset)
    backbone = request.backbone or (dataset.id if dataset.id in ALL_EMBEDDED else "resnet50")
    backbone = BACKBONES.canonical(backbone)
    weights = find_weights(backbone, request.weights)
    track = _choose_track(request, method, dataset, weights, notes)
    check_crops(protocol, method, track)
    settings = method.settings_for(dataset.id, track)
    asked = dict(request.changes)
    if request.epochs is not None:
        if asked.get("train.epochs", request.epochs) != request.epochs:
            raise UsageError("--epochs and --set train.epochs disagree: give one of them")
        asked["train.epochs"] = request.epochs
    hidden = {k.removeprefix("annotation."): asked.pop(k) for k in list(asked) if k.startswith("annotation.")}
    head, settings, asked = _choose_head(request, method, settings, asked)
    merged = settings | asked
    train_changes = {k.removeprefix("train."): v for k, v in merged.items() if k.startswith("train.")}
    hyper = method.resolve({k: v for k, v in merged.items() if not k.startswith("train.")})
    alphas = hyper["head.alpha_train"], hyper["head.alpha_infer"]
    check_head(method.name, method.needs_head, head.name, HeadSpec("boostlu", *alphas))
    train = protocol.train_settings(dataset.id, track, train_changes)
    if track == "full" and "flip" in train.augment and not dataset.flippable:
        notes.append(f"images of '{dataset.id}' are not mirrored: a mirrored one is another class")
    if track == "full" and not dataset.flippable and any(view.flip for view in method.views_for(hyper)):
        notes.append(
            f"'{method.name}' learns on mirrored images of '{dataset.id}', where a mirrored one is another class"
        )
    train = allowed_settings(train, method, dataset, track)
    annotation = protocol.annotation_for(dataset.id)
    if "keep" in hidden and "keep" not in annotation.params:
        raise UsageError(f"--set annotation.keep: protocol '{protocol.name}' does not hide a share of the labels")
    annotation.changed(hidden, "--set annotation")
    if request.mask_seed and annotation.seed is not None:
        raise UsageError(f"--mask-seed: protocol '{protocol.name}' uses one published draw for all runs")
    parts, mask = make_parts(dataset, protocol, request.mask_seed, hidden, request.mask)
    check_dense_state(method, hyper, parts["train"])
    counts = {"classes": len(dataset.classes)} | {name: len(part) for name, part in parts.items()}
    if not dataset.is_miniature:  # whose counts its loader has compared with its own
        protocol.check_counts(dataset.id, counts, dataset.version)
    selection: str = protocol.selection
    if selection != "last" and "val" not in parts:
        raise UsageError(f"protocol '{protocol.name}' selects by '{selection}' but has no validation part")
    given = read_given(request.side, method, hyper, dataset)
    return Run(
        request,
        protocol,
        method,
        dataset,
        parts,
        mask,
        track,
        backbone,
        weights,
        train,
        hyper,
        selection,
        {},
        tuple(notes),
        side_identity(method.inputs, dataset, hyper, given),
        given,
        head,
    )


def allowed_settings(train: TrainSettings, method: type[Method], dataset: Dataset, track: str) -> TrainSettings:
    """`train` without augmentation that features or this data set do not allow; UsageError if `method` forbids it."""
    if method.batch_global and train.accumulate > 1:
        raise UsageError(
            f"method '{method.name}' looks across the whole batch: gradient accumulation (train.accumulate = "
            f"{train.accumulate}) would change what it computes. Use more processes or a smaller batch"
        )
    if track != "full":
        usual = {"augment": []} | {name: RECIPE_DEFAULTS[name] for name in OF_IMAGES if name in RECIPE_DEFAULTS}
        return build(TrainSettings, to_plain(train) | usual, "train settings")
    follows = [kind for kind in method.inputs if kind in SIDE_INPUTS and side_input(kind).mirror is not None]
    if follows and Augmentation.of(train).moves:
        raise UsageError(
            f"method '{method.name}' takes {follows[0]}, which do not follow images that are cropped or moved: "
            "train.crop and train.randaugment must stay off"
        )
    kept = tuple(a for a in train.augment if a != "flip" or dataset.flippable)
    return dataclasses.replace(train, augment=kept)


def phase_settings(run: Run, phase: Phase) -> TrainSettings:
    """The training settings of `run` with a phase's changes."""
    changes = phase.train(run.train) if callable(phase.train) else phase.train
    known = {field.name for field in dataclasses.fields(TrainSettings)}
    for name in changes:
        if name not in known:
            raise unknown("training setting", name, known, f"phase '{phase.name}'")
    changed = build(TrainSettings, to_plain(run.train) | dict(changes), f"phase '{phase.name}'")
    return allowed_settings(changed, run.method, run.dataset, run.track)


def _choose_head(
    request: Request, method: type[Method], settings: Mapping[str, Any], asked: Mapping[str, Any]
) -> tuple[HeadChoice, dict[str, Any], dict[str, Any]]:
    """The head of the run, and kept settings and changes without its hyperparameters.

    Those that are kept for the method are of its own head.
    """
    name = request.head or method.default_head

    def of_head(changes: Mapping[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in changes.items() if is_of_head(key)}

    kept, given = of_head(settings), of_head(asked)
    changes = (kept if name == method.default_head else {}) | given
    head = choose_head(name, {key.removeprefix("head."): value for key, value in changes.items()})
    rest = [{key: value for key, value in table.items() if key not in kept | given} for table in (settings, asked)]
    return head, rest[0], rest[1]


def _choose_track(
    request: Request, method: type[Method], dataset: Dataset, weights: WeightsFile | None, notes: list[str]
) -> str:
    if request.track is not None:
        if request.track not in TRACKS:
            raise unknown("track", request.track, TRACKS, "--track")
        if request.track not in method.tracks:
            raise UsageError(
                f"method '{method.name}' does not run on track '{request.track}', only on "
                f"{', '.join(method.tracks)}: part of it would have no effect there"
            )
        track = request.track
    else:
        track = "full" if dataset.id in ALL_EMBEDDED or weights is None else "head"
        if track not in method.tracks:
            track = method.tracks[0]
        notes.append(f"track '{track}' was chosen for this data set; --track chooses another")
    if track == "head" and weights is None:
        raise UsageError(
            "track 'head' trains on features of a pretrained backbone, and no weights for "
            f"'{request.backbone or 'resnet50'}' were found here: give a file with --weights, or use --track full"
        )
    if track == "full" and weights is None and request.backbone is None and dataset.id not in ALL_EMBEDDED:
        notes.append(
            "no weights were found: 'resnet50' is trained from nothing, which takes hours without a GPU; --weights "
            "FILE brings trained features, and --backbone scenes is a small network for a first look"
        )
    return track


def default_dataset_note() -> str:
    """The line that says which data set a run takes when none is named."""
    others = [name for name in list_datasets() if name != EMBEDDED]
    return f"No --dataset given: using the embedded one, '{EMBEDDED}'. Others: {', '.join(others)}, or a .toml file"
