"""Plain finite JSON with one text for one value: what keys, hashes and records are made of."""

from __future__ import annotations

import json
import math
import re

from mlbench.errors import DataError

_DEEPEST = 64
_HALF = re.compile("[\ud800-\udfff]")


def canonical_json(obj: object) -> bytes:
    """The one JSON text of `obj`: keys sorted by code point, no spaces, ASCII, floats by ``repr``.

    ``1`` and ``1.0`` are different texts: give settings their declared type first. Tuples are lists.

    Raises
    ------
    DataError
        For NaN, an infinity, a key that is no text, half a character, or a value JSON does not have (a NumPy scalar, a
        path).
    """
    check_plain(obj, ())
    return json.dumps(obj, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def check_plain(value: object, place: tuple[str, ...]) -> None:
    """DataError if `value` is not exactly what JSON can hold; the message begins with the place in it."""
    if len(place) > _DEEPEST:
        raise DataError(f"{dotted(place[:3])}...: nested deeper than {_DEEPEST} levels")
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise DataError(f"{dotted(place)}: key {key!r} is not text")
            _check_text(key, place)
            check_plain(item, (*place, key))
    elif isinstance(value, (list, tuple)):
        for number, item in enumerate(value):
            check_plain(item, (*place, str(number)))
    elif isinstance(value, str):
        _check_text(value, place)
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise DataError(f"{dotted(place)}: {value!r} is not a finite number")
    elif value is not None and not isinstance(value, int):
        raise DataError(f"{dotted(place)}: a {type(value).__module__}.{type(value).__qualname__} is not a JSON value")


def _check_text(text: str, place: tuple[str, ...]) -> None:
    """DataError for half a character, which JSON can spell and UTF-8 cannot."""
    if not text.isascii() and _HALF.search(text):
        raise DataError(f"{dotted(place)}: {text[:60]!a} holds half a character (a lone surrogate)")


def dotted(place: tuple[str, ...]) -> str:
    return ".".join(place) or "the whole"
