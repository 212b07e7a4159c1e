"""Names of strangers in pictures and drawings: XML stays XML, and no name stops the drawing of a sheet."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from hostile import TEXTS
from PIL import Image

from mlbench.annotation import State
from mlbench.conformance.testing import tiny_dataset
from mlbench.errors import visible
from mlbench.explain.gains import Gain, Gains, draw_gains
from mlbench.explain.pseudo_labels import draw_courses
from mlbench.explain.robustness import Robustness, draw_robustness
from mlbench.explain.sides import Side
from mlbench.explain.top import Top, draw_top
from mlbench.masks.picture import mask_picture
from mlbench.report.rank_diagram import draw_ranks
from mlbench.significance.ranks import CriticalDifference

NAMES = [
    *TEXTS,
    "a$b$c",
    "$\\frac$",
    "x" * 20_000,
    "e\u0301" * 300,
    "a\nb\n" * 9,
    "\x85",
    "\u200d" * 40,
    "\uffff",
    "[red]",
]


def test_drawings_in_svg_are_xml_whatever_the_names() -> None:
    labels = np.random.default_rng(0).random((5, len(NAMES))) < 0.5
    for title in NAMES:
        text = mask_picture(NAMES, labels, labels, title)
        assert visible(text) == text
        ElementTree.fromstring(text)
    ranks = CriticalDifference(tuple(range(1, len(NAMES) + 1)), 0.01, 1.5, ((0, 1),))
    text = draw_ranks(NAMES, ranks, 3, 0.05)
    assert visible(text) == text
    assert [node.tag for node in ElementTree.fromstring(text).iter() if node.tag.endswith("script")] == []


def test_the_sheet_of_top_predictions_is_drawn_for_any_name(tmp_path: Path) -> None:
    """At any width that is left: a score may be longer than its column."""
    plain = tiny_dataset()
    test, count = plain.splits["test"], len(plain.splits["test"])
    found = np.tile(np.arange(4), (2, count, 1))
    scores = np.array([1e30, np.nan, -np.inf, 0.5], dtype=np.float32) * np.ones((2, count, 4), dtype=np.float32)
    states = np.full((count, 4), State.POSITIVE, dtype=np.int8)
    for start in range(0, len(NAMES), 4):
        names = tuple((NAMES * 2)[start : start + 4])
        named = type("Named", (), {"splits": {"test": test}, "classes": names})()
        top = Top((names[0], names[1]), named, found, scores, states)  # type: ignore[arg-type]
        path = draw_top(top, tmp_path / "top.png", 1)
        with Image.open(path) as picture:
            picture.load()


@pytest.mark.filterwarnings("ignore:Glyph", "ignore:Tight layout", "ignore:constrained_layout")
def test_charts_are_drawn_for_any_name(tmp_path: Path) -> None:
    names = [name[:40] for name in NAMES]
    gains = tuple(Gain(name, 1.0, 2.0, (1.0, float(n))) for n, name in enumerate(names))
    draw_gains(Gains(names[8], gains, (), ()), tmp_path / "gains.png")
    rows = [
        {"method": name, "kind": name, "run": str(n), "epoch": epoch, "precision": 50.0, "recall": 1.0 * n}
        for n, name in enumerate(names)
        for epoch in (1, 2)
    ]
    draw_courses(rows, tmp_path / "courses.png")
    sides = tuple(Side(name, ({"key": str(n)},)) for n, name in enumerate(names[:12]))
    found = Robustness(sides, ("$x$",), {str(n): np.ones((1, 6)) * n for n in range(12)}, ())
    draw_robustness(found, tmp_path / "robustness.png")
    assert len(list(tmp_path.glob("*.png"))) == 3


def test_what_is_escaped_is_what_cannot_be_seen() -> None:
    """Every character by its class, so that a new kind is not forgotten; joiners and soft hyphens belong to writing."""
    kept = set("\t\n\u00ad\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f\u0890\u0891\u08e2\u180e")
    kept |= set(map(chr, [*range(0x200B, 0x200E), *range(0x2060, 0x2066)]))
    for code in [*range(0x3000), *range(0xD800, 0x10000)]:
        char = chr(code)
        hidden = unicodedata.category(char) in ("Cc", "Cf", "Cs", "Zl", "Zp") or code in (0xFFFE, 0xFFFF)
        if char not in kept and hidden:
            assert visible(char) == ascii(char)[1:-1], hex(code)
        elif not 0x2066 <= code <= 0x206F and not 0xFFF9 <= code <= 0xFFFF:
            assert visible(char) == char, hex(code)
