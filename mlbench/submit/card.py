"""The card of a submission: its name, makers, data and kind of scores. Claims, kept as such."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlbench.errors import DataError, nearest
from mlbench.evaluation.predictions import KINDS
from mlbench.foreign.files import parse_toml, read_file, short
from mlbench.methods import SUPERVISION

LONGEST_CARD = 64 * 1024
LONGEST_TEXT = 200
_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")
_METRIC = re.compile(r"[A-Za-z0-9][A-Za-z0-9_/@.-]{0,39}")
_SOURCE = re.compile(r"https?://[A-Za-z0-9.-]+(:[0-9]+)?(/[A-Za-z0-9._~/?=&%+,:@-]*)?")
#: Characters that begin markup in HTML, LaTeX, Markdown or a shell. Pages escape them all the same.
_MARKUP = set('<>&\\{}$%#^~`"|*[]')
_HIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}

_REQUIRED = ("name", "version", "title", "authors", "kind", "supervision", "backbone", "source", "dataset")
_OPTIONAL = ("license", "reported")
_DATASET = ("id", "version", "fingerprint")


@dataclass(frozen=True)
class Card:
    """A checked card. `sha256` is that of its file; `reported` are the submitter's own numbers, in percent."""

    name: str
    version: int
    title: str
    authors: tuple[str, ...]
    kind: str
    supervision: tuple[str, ...]
    backbone: str
    source: str
    dataset: dict[str, str]
    sha256: str
    license: str = ""
    reported: dict[str, float] = field(default_factory=dict)

    def claims(self) -> dict[str, Any]:
        """What a record keeps of the card beside its identity: all of it claimed, none of it checked."""
        kept = {"title": self.title, "authors": list(self.authors), "source": self.source}
        optional = {"license": self.license, "reported": self.reported}
        return {**kept, **{name: value for name, value in optional.items() if value}, "card_sha256": self.sha256}


def read_card(path: Path) -> Card:
    """Read and check the card at `path`; DataError names the file, the key and what was expected."""
    if path.suffix != ".toml":
        raise DataError(f"{path}: a card is a .toml file")
    raw = read_file(path, LONGEST_CARD, "card")
    try:
        table = parse_toml(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 (byte {error.start})") from None
    except ValueError as error:
        raise DataError(f"{path}: not TOML: {short(str(error))}") from None
    try:
        return _card(table, hashlib.sha256(raw).hexdigest())
    except DataError as error:
        raise DataError(f"{path}: {error}") from None


def _card(table: dict[str, Any], sha256: str) -> Card:
    _keys(table, _REQUIRED, _OPTIONAL, "")
    name, version, kind = table["name"], table["version"], table["kind"]
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise DataError(
            f"name = {short(name)}: expected up to 64 lower-case letters, digits, '_', '.', '-', the first a letter "
            "or digit; it becomes part of file names"
        )
    if type(version) is not int or not 1 <= version <= 10_000:
        raise DataError(f"version = {short(version)}: expected a whole number from 1")
    if kind not in KINDS:
        raise DataError(f"kind = {short(kind)}: expected one of {', '.join(KINDS)}.{nearest(short(kind), KINDS)}")
    supervision = _texts("supervision", table["supervision"])
    for level in supervision:
        if level not in SUPERVISION:
            raise DataError(f"supervision: {short(level)}: expected some of {', '.join(SUPERVISION)}")
    return Card(
        name=name,
        version=version,
        title=_text("title", table["title"]),
        authors=_texts("authors", table["authors"]),
        kind=kind,
        supervision=supervision,
        backbone=_text("backbone", table["backbone"]),
        source=_source(table["source"]),
        dataset=_dataset(table["dataset"]),
        sha256=sha256,
        license=_text("license", table["license"]) if "license" in table else "",
        reported=_reported(table.get("reported", {})),
    )


def _keys(table: Any, required: tuple[str, ...], optional: tuple[str, ...], place: str) -> None:
    if not isinstance(table, dict):
        raise DataError(f"{place or 'card'}: expected a table, found {short(table)}")
    known = (*required, *optional)
    for key in table:
        if key not in known:
            raise DataError(f"unknown key {place}{short(key)}.{nearest(key, known)} Known: {', '.join(known)}")
    missing = [key for key in required if key not in table]
    if missing:
        raise DataError(f"key '{place}{missing[0]}' is missing; needed: {', '.join(required)}")


def _text(name: str, value: Any) -> str:
    """One line of plain text: it begins with a letter or digit and holds no markup and nothing unseen."""
    if not isinstance(value, str) or not value or len(value) > LONGEST_TEXT:
        raise DataError(f"{name} = {short(value)}: expected a text of 1 to {LONGEST_TEXT} characters")
    text = unicodedata.normalize("NFC", value)
    wrong = [char for char in text if char in _MARKUP or unicodedata.category(char) in _HIDDEN]
    if wrong:
        raise DataError(
            f"{name} = {short(value)}: the character {short(wrong[0])} (U+{ord(wrong[0]):04X}) is not allowed: cards "
            "are plain text, without HTML, LaTeX, Markdown or control characters"
        )
    if not text[0].isalnum():
        raise DataError(f"{name} = {short(value)}: expected a letter or digit first (spreadsheets run '=', '+', '@')")
    return text


def _texts(name: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not 1 <= len(value) <= 50:
        raise DataError(f"{name} = {short(value)}: expected a list of 1 to 50 texts")
    found = tuple(_text(name, item) for item in value)
    if len(set(found)) < len(found):
        raise DataError(f"{name} = {short(value)}: a text stands twice")
    return found


def _source(value: Any) -> str:
    if not isinstance(value, str) or len(value) > LONGEST_TEXT or not _SOURCE.fullmatch(value):
        raise DataError(f"source = {short(value)}: expected the http or https address of the paper or code")
    return value


def _dataset(table: Any) -> dict[str, str]:
    _keys(table, _DATASET, (), "dataset.")
    for key, value in table.items():
        if not isinstance(value, str) or not value:
            raise DataError(f"dataset.{key} = {short(value)}: expected a text, as `mlbench data verify` prints it")
    return dict(table)


def _reported(table: Any) -> dict[str, float]:
    if not isinstance(table, dict) or len(table) > 100:
        raise DataError(f"reported = {short(table)}: expected a table of at most 100 numbers")
    for name, value in table.items():
        if not _METRIC.fullmatch(name):
            raise DataError(f"reported: {short(name)}: expected the name of a metric, such as mAP")
        plain = isinstance(value, int | float) and not isinstance(value, bool)
        if not plain or not 0 <= value <= 100:
            raise DataError(f"reported.{name} = {short(value)}: expected a number from 0 to 100 (percent)")
    return {name: float(value) for name, value in table.items()}
