"""Protocols read from TOML files, those shipped and one's own, and checked."""

from __future__ import annotations

import hashlib
import os
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import fields
from importlib.metadata import EntryPoint
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from mlbench.errors import DataError, MlbenchError, UsageError, unknown
from mlbench.protocol.definition import (
    TRACKS,
    Annotation,
    DatasetRules,
    Inference,
    MetricRules,
    Protocol,
    SplitRule,
    Stress,
    TableLayout,
    Unspecified,
    read_annotation,
)
from mlbench.registry import OWN_PACKAGE, Registry
from mlbench.settings import TrainSettings, build

_COUNTS = ("classes", "train", "val", "test")


def protocol_named(name: str, records: Iterable[Mapping[str, Any]]) -> Protocol:
    """The protocol `name`: a registered one, a file's, or else one that some of `records` hold."""
    if name not in PROTOCOLS and not name.endswith(".toml"):
        for record in records:
            if record.get("protocol", {}).get("name") == name:
                return protocol_of(record)
    return load_protocol(name)


#: What of a protocol tells about it and decides nothing.
_PROSE = ("title", "source", "description", "unverified", "where")


def _file_of(point: EntryPoint) -> Traversable:
    """The file that an entry point names: "package" is NAME.toml in it, "package:other.toml" another."""
    package, _, file = (part.strip() for part in point.value.partition(":"))
    path = files(package) / (file or f"{point.name}.toml")
    if not path.is_file():
        raise DataError(f"package {package} has no file {file or f'{point.name}.toml'}")
    return path


def _as_file(name: str, found: Any) -> Traversable:
    return found  # type: ignore[no-any-return]


#: The files of protocols by name, ours and those that other packages ship.
PROTOCOLS: Registry[Traversable] = Registry("mlbench.protocols", "protocol", _as_file, _file_of)


def list_protocols() -> dict[str, str]:
    """Registered protocols: name and title; of one that cannot be read, the reason."""
    found = {}
    for name in PROTOCOLS:
        try:
            found[name] = load_protocol(name).title
        except MlbenchError as error:
            if PROTOCOLS.point(name).value.startswith("mlbench."):
                raise
            found[name] = str(error)
    return found


def load_protocol(name: str) -> Protocol:
    """Read a registered protocol by name, or one's own by the path of its ``.toml`` file.

    One's own has a name of its own: UsageError where it takes a registered one's, unless it says the same.
    """
    table, where = _read(name)
    protocol = _validate(table, where)
    if not name.endswith(".toml") and protocol.name != (known := PROTOCOLS.point(name).name):
        raise UsageError(f"{where}: name = '{protocol.name}': it is registered as '{known}'")
    if name.endswith(".toml") and protocol.name in PROTOCOLS:
        shipped = load_protocol(protocol.name)
        differing = [
            f.name
            for f in fields(Protocol)
            if f.name not in _PROSE and getattr(protocol, f.name) != getattr(shipped, f.name)
        ]
        if differing:
            raise UsageError(
                f"{where}: name = '{protocol.name}' is that of a registered protocol, which says something else "
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
    """The protocol that a record was made under: the one it holds, or of schema 1 the registered one it names.

    UsageError for a record of schema 1 whose protocol is not registered.
    """
    where = f"run {record['key'][:16]}: protocol"
    if "protocol" in record:
        return _validate(dict(record["protocol"]), where)
    name = record["identity"]["protocol"]
    if name not in PROTOCOLS:
        raise UsageError(
            f"{where}: '{name}' is not registered, and records of schema 1 do not hold their protocol: give its file "
            "with --protocol FILE.toml"
        )
    return load_protocol(name)


def _read(name: str, chain: tuple[str, ...] = ()) -> tuple[dict[str, Any], str]:
    asked = f"{chain[-1]}: extends: " if chain else ""
    if name in chain:
        raise UsageError(f"protocol '{name}' extends itself ({' -> '.join((*chain, name))})")
    if name.endswith(".toml"):
        path: Path | Traversable = Path(name)
        if not path.is_file():
            raise UsageError(f"{asked}no protocol file '{name}'")
    else:
        try:
            path = PROTOCOLS[name]
        except MlbenchError as error:
            raise type(error)(f"{asked}{error}") from error.__cause__
    where = name if name.endswith(".toml") else _place(name, path)
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # not UTF-8, a number of thousands of digits, nested deep
        raise UsageError(f"{where}: not valid TOML: {error}") from None
    base = table.pop("extends", None)
    if base is not None:
        if not isinstance(base, str):
            raise UsageError(f"{where}: extends = {base!r}: expected text")
        if base.endswith(".toml") and not name.endswith(".toml"):
            raise UsageError(f"{where}: extends = '{base}': a registered protocol extends a registered one, by name")
        place = os.path.normpath(Path(name).parent / base) if base.endswith(".toml") else base
        under = _read(place, (*chain, os.path.normpath(name)))[0]
        if table.get("name", under.get("name")) == under.get("name"):
            raise UsageError(
                f"{where}: extends = '{base}': a protocol that extends another needs a name of its own: add name = "
                f"\"...\" other than '{under.get('name')}'"
            )
        table = _merge(under, table)
    return table, where


def _place(name: str, path: Path | Traversable) -> str:
    """Where a registered protocol stands, for messages."""
    package = PROTOCOLS.owner(name).package
    return f"protocols/{path.name}" if package == OWN_PACKAGE else f"{package}: {path.name}"


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
        values["annotation"] = read_annotation(values["annotation"], f"{where}: [annotation]")
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


def _check_stress(stress: Stress, annotation: Annotation, where: str) -> None:
    section, _, name = stress.key.partition(".")
    if section != "annotation" or not name:
        raise UsageError(f"{where} key = '{stress.key}': expected annotation.PARAMETER")
    if not stress.values:
        raise UsageError(f"{where} values: expected at least one")
    for value in stress.values:
        annotation.changed({name: value}, where)
