"""A gallery of inspected images: one HTML file that loads nothing, not even from beside it."""

from __future__ import annotations

import base64
import hashlib
import json
import math
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup

from mlbench.annotation import State
from mlbench.errors import UsageError, visible
from mlbench.files import atomic_write
from mlbench.inspection.look import FLAGS, Look, Sight
from mlbench.inspection.pictures import map_bytes, relative_boxes, thumbnail

#: Images of a gallery if nobody says how many: below 10 MB even where every picture is noise.
IMAGES = 240
#: Classes listed of an image, at most.
CLASSES = 8
_SIDE = 192

#: What a label's state is called, and the sign that goes before it.
_STATES = {
    State.POSITIVE: ("+", "yes"),
    State.NEGATIVE: ("\N{MINUS SIGN}", "no"),
    State.UNKNOWN: ("?", "unknown"),
    State.UNSPECIFIED: ("\N{EMPTY SET}", "left out"),
}
_MARKS = {"found": "found", "top_loss": "top loss", "suspect": "suspect", "differ": "differ"}
_FILTERS = {**FLAGS, "differ": "runs disagree"}


@dataclass(frozen=True)
class Gallery:
    """What was written."""

    path: Path
    shown: int
    size: int
    look: Look

    def text(self) -> str:
        lines = [f"wrote {self.path}: {self.shown} of {len(self.look)} images, {self.size / 1e6:.1f} MB"]
        return "\n".join([*lines, *(f"note: {note}" for note in self.look.notes)])


def write_gallery(look: Look, path: Path, images: int = IMAGES) -> Gallery:
    """Write the at most `images` images most worth a look (`Look.rows_by_interest`) to the HTML file `path`.

    Of each image at most `CLASSES` classes are listed (`Look.classes_of`), with their maps.
    """
    if images < 1:
        raise UsageError(f"--images {images}: expected at least 1")
    rows = look.rows_by_interest(images)
    shown = {int(row): look.classes_of(int(row), CLASSES) for row in rows}
    maps = [sight.maps(look.part, rows) for sight in look.runs]
    cards = [
        _card(look, row, at, classes, [None if found is None else found[at] for found in maps])
        for at, (row, classes) in enumerate(shown.items())
    ]
    listed = sorted({entry["name"] for card in cards for entry in card["entries"]})
    counts = {name: sum(name in card["marks"] for card in cards) for name in _FILTERS}
    page = _render(
        title=visible(look.title),
        notes=look.notes,
        total=len(look),
        part=look.part,
        runs=[sight.name for sight in look.runs],
        mapped=[sight.name for sight, found in zip(look.runs, maps, strict=True) if found is not None],
        filters=[(name, text, counts[name]) for name, text in _FILTERS.items() if counts[name]],
        orders=_orders(look),
        meanings=_MARKS.keys() & {mark for card in cards for mark in card["marks"]},
        classes=listed,
        cards=cards,
    ).encode()
    atomic_write(path, page)
    return Gallery(path, len(cards), len(page), look)


def _card(look: Look, row: int, at: int, classes: list[int], maps: list[np.ndarray | None]) -> dict[str, Any]:
    """What the template shows of one image. maps: per run CAMs [C, h, w] or None."""
    image = look.split.images.load(row)
    height, width = image.shape[:2]
    boxes = relative_boxes(look.split, row, (width, height))
    entries = []
    for c in classes:
        found = [None if heat is None else map_bytes(heat[c]) for heat in maps]
        entries.append(
            {
                "name": visible(look.data.classes[c]),
                "truth": _STATES[State(int(look.truth[row, c]))],
                "observed": _STATES[State(int(look.observed[row, c]))],
                "runs": [(_score(sight, row, c), bool(sight.decided[row, c])) for sight in look.runs],
                "marks": look.marks(row, c),
                "maps": {sight.name: heat for sight, heat in zip(look.runs, found, strict=True) if heat is not None},
                "boxes": json.dumps([[round(v, 4) for v in box] for label, box in boxes if label == c]),
            }
        )
    first = look.runs[0]
    values = {
        "chosen": at,
        "ap": first.ap[row],
        "loss": None if first.loss is None else first.loss[row],
        "unknown": None if first.unknown_loss is None else first.unknown_loss[row],
        "differ": None if look.differ is None else look.differ[row],
    }
    positive = np.flatnonzero(look.truth[row] == State.POSITIVE)
    return {
        "id": visible(look.split.ids[row]),
        "picture": thumbnail(image, _SIDE),
        "width": width,
        "height": height,
        "alt": ", ".join(visible(look.data.classes[c]) for c in positive) or "no true label known",
        "entries": entries,
        "marks": sorted({mark for entry in entries for mark in entry["marks"]}),
        "values": {name: _number(value) for name, value in values.items()},
        "numbers": [
            (
                sight.name,
                _text(sight.ap[row]),
                "none" if sight.loss is None else _text(sight.loss[row]),
            )
            for sight in look.runs
        ],
    }


def _orders(look: Look) -> list[tuple[str, str]]:
    """Value and name of each order to choose from; a leading "-" is for falling values."""
    orders = [("chosen", "each kind in turn"), ("ap", "lowest AP")]
    if look.runs[0].loss is not None:
        orders += [("-loss", "highest loss"), ("-unknown", "highest loss of an unknown label")]
    return [*orders, *([("-differ", "most disagreement")] if look.differ is not None else [])]


def _score(sight: Sight, row: int, c: int) -> str:
    """Probability in percent, or where scores only order, the rank among the image's classes."""
    if sight.probability is not None:
        return f"{100 * sight.probability[row, c]:.0f}\N{NO-BREAK SPACE}%"
    values = sight.scores.values[row]
    return f"rank {int((values > values[c]).sum()) + 1}"


def _number(value: Any) -> str:
    return "" if value is None or math.isnan(value) else f"{float(value):.6g}"


def _text(value: float) -> str:
    return "undefined" if math.isnan(value) else f"{value:.3f}"


def _render(**given: Any) -> str:
    package = files("mlbench.inspection")
    style, script = ((package / f"gallery.{kind}").read_text(encoding="utf-8") for kind in ("css", "js"))
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string((package / "gallery.html").read_text(encoding="utf-8"))
    return template.render(
        style=Markup(style),
        script=Markup(script),
        style_hash=_hash(style),
        script_hash=_hash(script),
        names=_MARKS,
        **given,
    )


def _hash(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
