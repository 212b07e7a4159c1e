"""What a protocol is: annotation, split, training, selection, metrics, by data set and track."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from mlbench.errors import DataError, UsageError, unknown
from mlbench.settings import TrainSettings, build, coerce, to_plain, without_defaults

TRACKS = ("head", "full")


@dataclass(frozen=True)
class Annotation:
    """Which labels of the training part are shown: a process of ``mlbench.annotation.PROCESSES``.

    In a file the process's parameters stand beside `process` and `seed`.
    """

    process: str
    seed: int | None = None  # a published draw's own seed; without it the run's mask seed decides
    params: Mapping[str, Any] = field(default_factory=dict)

    @property
    def table(self) -> dict[str, Any]:
        """As it stands in a file."""
        return {"process": self.process, **self.params} | ({} if self.seed is None else {"seed": self.seed})

    def changed(self, params: Mapping[str, Any], where: str) -> Annotation:
        """This annotation with other parameters; UsageError, beginning with `where`, for a wrong name or value."""
        from mlbench.annotation import check_process

        try:
            check_process(self.process, {**self.params, **params})
        except UsageError as error:
            raise UsageError(f"{where}: {error}") from None
        return replace(self, params={**self.params, **params})

    @property
    def meaning(self) -> dict[str, Any]:
        """What it hides, whichever way it is written: without parameters that have their default."""
        from mlbench.annotation import PROCESSES, check_process

        known = PROCESSES[self.process].params
        params = check_process(self.process, self.params)
        changed = {name: value for name, value in params.items() if value != known[name].default}
        return {"process": self.process, "params": changed} | ({} if self.seed is None else {"seed": self.seed})


@dataclass(frozen=True)
class Stress:
    """A sweep: the values that parameter `key` ("annotation.bias") takes in turn, a run each."""

    key: str
    values: tuple[Any, ...]


@dataclass(frozen=True)
class SplitRule:
    """Where validation images come from.

    "official": the data set's own part; "holdout": the last share of a seeded permutation of the training part
    (Cole et al. 2021: 20 %, seed 1200); "official_else_holdout": whichever the data set has; "none".
    """

    validation: Literal["official", "holdout", "official_else_holdout", "none"] = "official_else_holdout"
    fraction: float = 0.2
    seed: int = 1200

    def __post_init__(self) -> None:
        if not 0 < self.fraction < 1:
            raise UsageError(f"fraction = {self.fraction}: expected a share between 0 and 1")


@dataclass(frozen=True)
class Unspecified:
    """What the source's UNSPECIFIED labels (WIDER's 0, VOC's difficult) mean in each stage."""

    train: Literal["negative", "positive", "unknown", "ignore"] = "ignore"
    ap: Literal["negative", "positive", "ignore"] = "ignore"
    f1: Literal["negative", "positive", "ignore"] = "ignore"


@dataclass(frozen=True)
class Inference:
    """How validation and test images are shown: whole, or as `crops` whose scores are averaged.

    Ten crops are the four corners, the centre and their mirror images, of the run's image size, cut from the whole
    image resized so that a crop's side is `share` of it. Where a mirrored image is another class there are five.
    """

    crops: Literal[1, 10] = 1
    share: float = 0.875

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise UsageError(f"share = {self.share}: expected a share above 0, at most 1")


@dataclass(frozen=True)
class MetricRules:
    """Which of the published definitions make this protocol's numbers (`mlbench.metrics` names them).

    `groups` cuts the classes, ordered by what `groups_by` counts on the training images, into so many groups of equal
    size with a mean AP each, "mAP_G1" being that of the rarest (`mlbench.evaluation.class_groups`).
    """

    headline: str = "mAP"
    ap: Literal["step", "envelope", "eleven_point"] = "step"
    empty_class: Literal["zero", "skip", "zero_if_known"] = "skip"
    decision: float = 0.5
    top_k: int = 3
    groups: int | None = None
    groups_by: Literal["train_annotations", "train_positives"] | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.decision <= 1:
            raise UsageError(f"decision = {self.decision}: expected a probability from 0 to 1")
        if self.top_k < 1:
            raise UsageError(f"top_k = {self.top_k}: expected at least 1")
        if (self.groups is None) != (self.groups_by is None):
            raise UsageError("groups and groups_by go together: one of them is missing")
        if self.groups is not None and self.groups < 1:
            raise UsageError(f"groups = {self.groups}: expected at least 1")


@dataclass(frozen=True)
class TableLayout:
    """The published table this protocol makes: metrics (of results) and data sets, in the order of its columns."""

    metrics: tuple[str, ...] = ("mAP",)
    datasets: tuple[str, ...] = ()


@dataclass(frozen=True)
class DatasetRules:
    """What a protocol says of one data set.

    `version` is that of the data set's labels, `expect` the counts (classes, train, val, test) after the split;
    `train`, `unspecified` and `annotation` replace the protocol's own. `unverified` lists what stands in its `source`
    without proof.
    """

    version: str | None = None
    expect: Mapping[str, int] = field(default_factory=dict)
    train: Mapping[str, Any] = field(default_factory=dict)
    unspecified: Mapping[str, str] = field(default_factory=dict)
    annotation: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""
    unverified: tuple[str, ...] = ()


@dataclass(frozen=True)
class Protocol:
    """One protocol, validated. `unverified` lists what its source left open, in words."""

    name: str
    title: str
    source: str
    annotation: Annotation
    selection: Literal["clean_val", "observed_val", "last"]
    train: Mapping[str, Any]
    description: str = ""
    split: SplitRule = SplitRule()
    unspecified: Unspecified = Unspecified()
    inference: Inference = Inference()
    metrics: MetricRules = MetricRules()
    table: TableLayout = TableLayout()
    datasets: Mapping[str, DatasetRules] = field(default_factory=dict)
    stress: Stress | None = None
    unverified: tuple[str, ...] = ()
    where: str = ""

    @property
    def sha256(self) -> str:
        """SHA-256 of what it hides, how it splits, selects, shows images, and reads unspecified labels in training.

        Two ways to write the same have one hash: order of keys, titles, remarks, a default written out or left out.
        Metric definitions and training settings are not in it: a run's identity has its own of both, resolved, and a
        change for one data set must not rename the runs on the others.
        """
        from mlbench.canonical import canonical_json

        meaning = {
            "annotation": self.annotation.meaning,
            "split": without_defaults(self.split),
            "unspecified": {"train": self.unspecified.train},
            "selection": self.selection,
            "inference": without_defaults(self.inference),
        }
        return hashlib.sha256(canonical_json(meaning)).hexdigest()

    def definitions(self, dataset: str) -> dict[str, Any]:
        """The definitions that numbers on `dataset` follow, in full, as a record states them."""
        return to_plain(self.metrics) | {"unspecified": to_plain(self.unspecified_for(dataset))}

    @property
    def counted(self) -> dict[str, Any]:
        """What of the metric definitions decides a number and is not their default: that part of a run's identity."""
        return {name: value for name, value in without_defaults(self.metrics).items() if name != "headline"}

    def plain(self, dataset: str) -> dict[str, Any]:
        """The whole protocol as plain JSON values, of the data sets `dataset` alone; `protocol_of` reads it back."""
        table: dict[str, Any] = {
            **{"name": self.name, "title": self.title, "source": self.source, "description": self.description},
            **{"selection": self.selection, "annotation": self.annotation.table, "train": self.train},
            **{key: to_plain(getattr(self, key)) for key in ("split", "unspecified", "inference", "metrics", "table")},
            "datasets": {dataset: to_plain(self.datasets[dataset])} if dataset in self.datasets else {},
            "unverified": self.unverified,
            **({"stress": to_plain(self.stress)} if self.stress else {}),
        }
        found: dict[str, Any] = json.loads(json.dumps(table))  # tuples and views become lists and dicts
        return found

    def train_settings(self, dataset: str, track: str, changes: Mapping[str, Any]) -> TrainSettings:
        """Settings for one data set and track: general, then by track, by data set, by both, then `changes`."""
        rules = self.datasets.get(dataset, DatasetRules())
        merged: dict[str, Any] = {}
        for table in (self.train, rules.train):
            merged |= {k: v for k, v in table.items() if k not in TRACKS}
            merged |= table.get(track, {})
        settings = build(TrainSettings, merged, f"{self.where}: [train]")
        return build(TrainSettings, to_plain(settings) | dict(changes), "train settings") if changes else settings

    def unspecified_for(self, dataset: str) -> Unspecified:
        """The rule for UNSPECIFIED labels on `dataset`."""
        own = self.datasets.get(dataset, DatasetRules()).unspecified
        general = {"train": self.unspecified.train, "ap": self.unspecified.ap, "f1": self.unspecified.f1}
        return build(Unspecified, general | dict(own), f"{self.where}: [datasets.{dataset}.unspecified]")

    def annotation_for(self, dataset: str) -> Annotation:
        """The annotation process on `dataset`."""
        own = self.datasets.get(dataset, DatasetRules()).annotation
        return read_annotation(self.annotation.table | dict(own), f"{self.where}: [datasets.{dataset}.annotation]")

    def check_counts(self, dataset: str, counts: Mapping[str, int], version: str | None = None) -> None:
        """Compare `counts` (classes, train, val, test) and `version` with what the protocol expects of `dataset`."""
        rules = self.datasets.get(dataset, DatasetRules())
        wrong = [
            f"{k}: expected {v}, found {counts.get(k, 0)}" for k, v in rules.expect.items() if counts.get(k, 0) != v
        ]
        if None not in (rules.version, version) and rules.version != version:
            wrong.append(f"version: expected {rules.version}, found {version}")
        if wrong:
            raise DataError(
                f"data set '{dataset}' is not what protocol '{self.name}' was defined on ({'; '.join(wrong)}). "
                "A part of a data set needs an id of its own"
            )


def read_annotation(table: Mapping[str, Any], where: str) -> Annotation:
    """Read an annotation table; it may hold the parameters of its process and no others."""
    from mlbench.annotation import PROCESSES, check_process

    params = dict(table)
    annotation = build(Annotation, {key: params.pop(key) for key in ("process", "seed") if key in params}, where)
    if annotation.process not in PROCESSES:
        raise unknown("annotation process", annotation.process, PROCESSES, where)
    known = PROCESSES[annotation.process].params
    for key, value in params.items():
        if key not in known:
            raise unknown("key", key, ["process", "seed", *known], f"{where} of process '{annotation.process}'")
        params[key] = coerce(value, known[key].kind, f"{where} {key}")
    if not 0 < params.get("keep", 1) <= 1:
        raise UsageError(f"{where} keep = {params['keep']:g}: expected a share above 0, at most 1")
    try:
        check_process(annotation.process, params)
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from None
    return replace(annotation, params=params)
