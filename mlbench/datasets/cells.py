"""One field of a label file: how numbers are spelled, and which labels a text holds."""

from __future__ import annotations

import ast
import json
import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any, Generic, TypeVar

from mlbench.datasets.description import Description
from mlbench.errors import DataError, UsageError

T = TypeVar("T")

_WHOLE = re.compile(r"[+-]?(0|[1-9][0-9]{0,17})(\.0*)?", re.ASCII)
_ITEM = r"""(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|-?[0-9]+)"""
_LIST = re.compile(rf"\s*(?:{_ITEM}(?:\s*,\s*{_ITEM})*\s*,?)?\s*", re.DOTALL)
_BRACKETS = {"[": "]", "(": ")", "{": "}"}
#: What programs write where there is nothing. None of them becomes a class unasked.
NOTHING = frozenset(("nan", "none", "null", "na", "n/a", "<na>", "nat"))


def spelled(value: Any) -> str:
    """A field as the file has it: true of JSON is "true", nothing is ""."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value).strip()


def plain(value: Any) -> str:
    """One spelling of whole numbers: 1, 1.0, true and "1.0" are "1", and "-0.0" is "0"; all else as it is spelled."""
    if isinstance(value, bool):
        return str(int(value))
    text = spelled(value)
    return str(int(text.partition(".")[0])) if _WHOLE.fullmatch(text) else text


class Spellings(Generic[T]):
    """Look-up by what a description names: by the file's own spelling first, then by the number it spells."""

    def __init__(self, named: Mapping[str, T]) -> None:
        self.named = named
        self.plain: dict[str, T | None] = {}
        for name, meaning in named.items():
            key = plain(name)
            # "1" and "1.0" with two meanings: only their exact spelling tells.
            self.plain[key] = None if self.plain.get(key, meaning) != meaning else meaning

    def get(self, value: Any) -> T | None:
        """What `value` means, None if nothing names it."""
        own = spelled(value)
        return self.named[own] if own in self.named else self.plain.get(plain(value))


def labels_in(about: Description, field: Any, where: str, alone: bool = False) -> list[str | int]:
    """The labels in one field: a list (of JSON, or written as text), or text parted by the separator.

    An empty field, and the words of ``no_label``, hold none. `alone`: without a separator the text is one label, as the
    name of a folder is. DataError or UsageError, with `where`, for what is no label.
    """
    if isinstance(field, float) and math.isnan(field):
        return []
    field = field.strip() if isinstance(field, str) else field
    if field is None or field == "":
        return []
    if isinstance(field, str):
        labels = _labels_of_text(about, field, where, alone)
    elif isinstance(field, list) and all(isinstance(v, str | int) and not isinstance(v, bool) for v in field):
        labels = [str(label).strip() for label in field]
    elif about.label_style == "indices" and plain(field).isdecimal() and not isinstance(field, bool):
        labels = [plain(field)]
    else:
        raise DataError(f"{where}: labels are {field!r}, expected text or a list")
    labels = [label for label in labels if label not in about.no_label]
    if about.label_style == "indices":
        return [_index(label, where) for label in labels]
    for label in labels:
        if label.casefold() in NOTHING and label not in (about.classes or ()):
            raise UsageError(
                f"{about.where}: is the label '{label}' a class, or does it say that there is none ({where})? "
                f"no_label = [\"{label}\"] says that there is none; listing it in 'classes' makes it a class"
            )
    return list(labels)


def _labels_of_text(about: Description, text: str, where: str, alone: bool) -> list[str]:
    if not alone and _looks_like_list(text):
        items = _list_of(text)
        if items is not None:
            return items
        if not _all_known(about, text):
            raise DataError(
                f"{where}: labels {text!r} stand in brackets but are no list such as ['oak', 'ash']; where brackets "
                "belong to the names, list these in 'classes'"
            )
    if about.separator is None and not alone:
        if text in about.no_label or text.casefold() in NOTHING:
            return [text]
        raise UsageError(f"{about.where}: key 'separator' is missing: what parts the labels in '{text}' ({where})?")
    labels = [label.strip() for label in (text.split(about.separator) if about.separator else [text])]
    return [label for label in labels if label]


def _looks_like_list(text: str) -> bool:
    """Whether a field is a list that a program wrote, or what is left of one: ['oak', 'ash'], [oak, ash], {oak,ash}.

    A name may stand in round brackets as a whole, "(unknown)", but not several parted by commas.
    """
    closing = _BRACKETS.get(text[0])
    listed = text[0] in "[{" or text[1:2] in "'\"" or "," in text
    whole = closing is not None and text.endswith(closing) and listed
    return whole or any(mark in text for mark in ("['", '["', "']", '"]'))


def _list_of(text: str) -> list[str] | None:
    """The items between brackets, as JSON or Python writes them; None where it is no such list."""
    # Two texts side by side, as NumPy prints them, are one to Python: the pattern refuses them.
    if _BRACKETS.get(text[0]) != text[-1] or not _LIST.fullmatch(text[1:-1]):
        return None
    inside = f"[{text[1:-1]}]"
    try:
        found = json.loads(inside)
    except ValueError:
        try:
            found = ast.literal_eval(inside)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return None
    return [str(item).strip() for item in found]


def _all_known(about: Description, text: str) -> bool:
    """Whether what the separator leaves of `text` are all declared classes."""
    if not isinstance(about.classes, tuple):
        return False
    labels = text.split(about.separator) if about.separator else [text]
    return {label.strip() for label in labels} <= set(about.classes)


def _index(label: str, where: str) -> int:
    text = plain(label)
    if not (text.isascii() and text.isdecimal()):
        raise DataError(f"{where}: '{label}' is no class index, expected whole numbers from 0")
    if len(text) > 9:
        raise DataError(f"{where}: class index {text[:12]}... is too large")
    return int(text)


def alike(names: Sequence[str]) -> list[str]:
    """Groups of names, as text, that differ in case, blanks or Unicode form only, or in characters that nobody sees."""
    groups: dict[str, list[str]] = {}
    for name in names:
        letters = unicodedata.normalize("NFKC", name).casefold()
        key = "".join(c for c in letters if not c.isspace() and unicodedata.category(c) != "Cf")
        groups.setdefault(key, []).append(name)
    told = []
    for group in groups.values():
        if len(group) > 1:
            # Where the same letters are shown, only their codes tell.
            seen = {unicodedata.normalize("NFC", name) for name in group}
            told.append(" and ".join(map(repr if len(seen) == len(group) else ascii, group)))
    return told
