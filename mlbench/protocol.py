"""Protocols: which labels are hidden, how data is split, how a method is trained, selected and scored.

A protocol is a TOML file in ``protocols/`` (or any path given on the command line). ``extends = "name"`` takes
another protocol and changes the keys given.
"""

from __future__ import annotations

import hashlib
import json
import os
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from mlbench.errors import DataError, UsageError, unknown
from mlbench.settings import TrainSettings, build, coerce, to_plain, without_defaults

TRACKS = ("head", "full")
_COUNTS = ("classes", "train", "val", "test")


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
        return _annotation(self.annotation.table | dict(own), f"{self.where}: [datasets.{dataset}.annotation]")

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


def protocol_named(name: str, records: Iterable[Mapping[str, Any]]) -> Protocol:
    """The protocol `name`: a shipped one, a file's, or else one that some of `records` hold."""
    if name not in _shipped() and not name.endswith(".toml"):
        for record in records:
            if record.get("protocol", {}).get("name") == name:
                return protocol_of(record)
    return load_protocol(name)


#: What of a protocol tells about it and decides nothing.
_PROSE = ("title", "source", "description", "unverified", "where")


def _shipped() -> dict[str, Any]:
    return {f.name.removesuffix(".toml"): f for f in files("mlbench.protocols").iterdir() if f.name.endswith(".toml")}


def list_protocols() -> dict[str, str]:
    """Shipped protocols: name and title."""
    return {name: load_protocol(name).title for name in sorted(_shipped())}


def load_protocol(name: str) -> Protocol:
    """Read a shipped protocol by name, or one's own by the path of its ``.toml`` file.

    One's own has a name of its own: UsageError where it takes a shipped one's, unless it says the same.
    """
    table, where = _read(name)
    protocol = _validate(table, where)
    if name.endswith(".toml") and protocol.name in _shipped():
        shipped = load_protocol(protocol.name)
        differing = [
            f.name
            for f in fields(Protocol)
            if f.name not in _PROSE and getattr(protocol, f.name) != getattr(shipped, f.name)
        ]
        if differing:
            raise UsageError(
                f"{where}: name = '{protocol.name}' is that of a shipped protocol, which says something else "
                f"({', '.join(differing)}): give this one a name of its own"
            )
    return protocol


def legacy_sha256(name: str) -> str:
    """The hash of a protocol under harness 1: of what its file writes, in the way it is written."""
    from mlbench.canonical import canonical_json

    table, _ = _read(name)
    meaning = ("annotation", "split", "unspecified", "selection", "inference")
    return hashlib.sha256(canonical_json({key: table[key] for key in meaning if key in table})).hexdigest()


def protocol_of(record: Mapping[str, Any]) -> Protocol:
    """The protocol that a record was made under: the one it holds, or of records of schema 1 the shipped one it names.

    UsageError for a record of schema 1 whose protocol is not shipped.
    """
    where = f"run {record['key'][:16]}: protocol"
    if "protocol" in record:
        return _validate(dict(record["protocol"]), where)
    name = record["identity"]["protocol"]
    if name not in _shipped():
        raise UsageError(
            f"{where}: '{name}' is not shipped, and records of schema 1 do not hold their protocol: give its file "
            "with --protocol FILE.toml"
        )
    return load_protocol(name)


def _read(name: str, chain: tuple[str, ...] = ()) -> tuple[dict[str, Any], str]:
    asked = f"{chain[-1]}: extends: " if chain else ""
    if name in chain:
        raise UsageError(f"protocol '{name}' extends itself ({' -> '.join((*chain, name))})")
    if name.endswith(".toml"):
        path: Any = Path(name)
        if not path.is_file():
            raise UsageError(f"{asked}no protocol file '{name}'")
    else:
        shipped = _shipped()
        if name not in shipped:
            raise unknown("protocol", name, shipped, asked.removesuffix(": "))
        path = shipped[name]
    where = f"protocols/{path.name}" if not name.endswith(".toml") else str(name)
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{where}: not valid TOML: {error}") from None
    base = table.pop("extends", None)
    if base is not None:
        if not isinstance(base, str):
            raise UsageError(f"{where}: extends = {base!r}: expected text")
        place = os.path.normpath(Path(name).parent / base) if base.endswith(".toml") else base
        under = _read(place, (*chain, os.path.normpath(name)))[0]
        if table.get("name", under.get("name")) == under.get("name"):
            raise UsageError(
                f"{where}: extends = '{base}': a protocol that extends another needs a name of its own: add name = "
                f"\"...\" other than '{under.get('name')}'"
            )
        table = _merge(under, table)
    return table, where


def _merge(base: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in change.items():
        both_tables = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both_tables else value
    return merged


def _validate(table: dict[str, Any], where: str) -> Protocol:
    sections = {
        **{"split": SplitRule, "unspecified": Unspecified, "stress": Stress},
        **{"inference": Inference, "metrics": MetricRules, "table": TableLayout},
    }
    values = dict(table)
    for key in ("annotation", *sections):
        if not isinstance(values.get(key, {}), dict):
            raise UsageError(f"{where}: '{key}' must be a table")
    if "annotation" in values:
        values["annotation"] = _annotation(values["annotation"], f"{where}: [annotation]")
    for key, cls in sections.items():
        if key in values:
            values[key] = build(cls, values[key], f"{where}: [{key}]")  # type: ignore[arg-type]
    datasets = values.get("datasets", {})
    if not isinstance(datasets, dict) or not all(isinstance(rules, dict) for rules in datasets.values()):
        raise UsageError(f"{where}: [datasets.NAME] must be tables")
    values["datasets"] = {
        name: build(DatasetRules, rules, f"{where}: [datasets.{name}]") for name, rules in datasets.items()
    }
    for key in ("sha256", "where"):
        if key in values:
            raise UsageError(f"{where}: key '{key}' is set by mlbench")
    protocol = build(Protocol, values | {"where": where}, where)
    _check_train(protocol.train, f"{where}: [train]")
    if protocol.stress is not None:
        _check_stress(protocol.stress, protocol.annotation, f"{where}: [stress]")
    for name, rules in protocol.datasets.items():
        _check_train(rules.train, f"{where}: [datasets.{name}.train]")
        protocol.annotation_for(name)
        for key in rules.expect:
            if key not in _COUNTS:
                raise unknown("key", key, _COUNTS, f"{where}: [datasets.{name}.expect]")
    for name in ("", *protocol.datasets):
        for track in TRACKS:
            protocol.train_settings(name, track, {})
        protocol.unspecified_for(name)
    return protocol


def _check_train(table: Mapping[str, Any], where: str) -> None:
    """The keys of a table of training settings, which may hold a table for each track."""
    known = (*(f.name for f in fields(TrainSettings)), *TRACKS)
    for key, value in table.items():
        if key not in known:
            raise unknown("key", key, known, where)
        if key in TRACKS and not isinstance(value, Mapping):
            raise UsageError(f"{where} {key} = {value!r}: expected a table")
        if key in TRACKS:
            _check_train(value, f"{where} {key}")


def _annotation(table: Mapping[str, Any], where: str) -> Annotation:
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


def _check_stress(stress: Stress, annotation: Annotation, where: str) -> None:
    section, _, name = stress.key.partition(".")
    if section != "annotation" or not name:
        raise UsageError(f"{where} key = '{stress.key}': expected annotation.PARAMETER")
    if not stress.values:
        raise UsageError(f"{where} values: expected at least one")
    for value in stress.values:
        annotation.changed({name: value}, where)
