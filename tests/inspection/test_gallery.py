"""The gallery: one file that loads nothing, shows what it is told and nothing else, and stays small."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mlbench.annotation import State
from mlbench.errors import UsageError
from mlbench.inspection.gallery import CLASSES, IMAGES, write_gallery
from mlbench.inspection.look import Look, Sight
from mlbench.inspection.pictures import map_bytes, relative_boxes, thumbnail, unit_map


class Page(HTMLParser):
    """Elements by name with their attributes, and the text of the page without scripts and styles."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._inside = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._inside = tag

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        self.text += "" if self._inside in ("script", "style") else data

    def all(self, tag: str, **wanted: str) -> list[dict[str, str | None]]:
        return [given for name, given in self.elements if name == tag and wanted.items() <= given.items()]


def page_of(look: Look, folder: Path, **given: Any) -> Page:
    return Page(write_gallery(look, folder / "page.html", **given).path)


def test_names_and_ids_stay_text(made: Callable[..., Look], tmp_path: Path) -> None:
    look = made()
    page = page_of(look, tmp_path)
    assert len(page.all("script")) == 1
    assert not page.all("b")
    assert not page.all("i")
    assert not [given for _, given in page.elements if any(name.startswith("on") for name in given)]
    assert r"<img src=x onerror=alert(1)>\u202e" in page.text
    assert "\u202e" not in (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "</script><script>alert(1)</script>" in page.text
    assert {given["data-class"] for given in page.all("tr") if "data-class" in given} <= set(look.data.classes)


def test_nothing_is_loaded_from_anywhere(made: Callable[..., Look], tmp_path: Path) -> None:
    page = page_of(made(), tmp_path)
    for _, given in page.elements:
        assert not {"srcset", "background", "action", "style"} & given.keys()
        assert given.get("src", "data:").startswith("data:image/jpeg;base64,") or "src" not in given
        assert given.get("href", "#").startswith("#")
    assert not page.all("link")
    (policy,) = page.all("meta", **{"http-equiv": "Content-Security-Policy"})
    assert policy["content"] is not None
    assert policy["content"].startswith("default-src 'none'; img-src data:; style-src 'sha256-")
    assert "http" not in re.sub("http-equiv", "", (tmp_path / "page.html").read_text(encoding="utf-8"))


def test_every_entry_says_in_words_what_is_true_observed_and_decided(made: Callable[..., Look], tmp_path: Path) -> None:
    look = made(runs=2)
    write_gallery(look, tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    cards = re.findall(r'<li class="card".*?</li>', text, flags=re.S)
    assert len(cards) == len(look)
    words = {State.POSITIVE: "+ yes", State.NEGATIVE: "\N{MINUS SIGN} no", State.UNKNOWN: "? unknown"}
    for row, card in zip(look.rows_by_interest(99), cards, strict=True):
        entries = re.findall(r"<tr data-class.*?</tr>", card, flags=re.S)
        shown = look.classes_of(int(row), CLASSES)
        assert len(entries) == len(shown)
        for c, entry in zip(shown, entries, strict=True):
            cells = [re.sub("<[^>]*>", "", cell).strip() for cell in re.findall(r"<td.*?</td>", entry, flags=re.S)]
            assert cells[0] == words[State(int(look.truth[row, c]))]
            assert cells[1] == words[State(int(look.observed[row, c]))]
            for sight, cell in zip(look.runs, cells[2:], strict=True):
                assert sight.probability is not None
                assert cell.startswith(f"{100 * sight.probability[row, c]:.0f}\N{NO-BREAK SPACE}%")
                assert ("decided present" in cell) == bool(sight.decided[row, c])
            assert f'data-marks="{" ".join(look.marks(int(row), c))}"' in entry


def test_filters_say_how_many_images_they_leave(made: Callable[..., Look], tmp_path: Path) -> None:
    look = made()
    page = page_of(look, tmp_path)
    for mark in ("found", "top_loss", "suspect", "differ"):
        rows = [r for r in range(len(look)) if any(mark in look.marks(r, c) for c in look.classes_of(r, CLASSES))]
        cards = [given for given in page.all("li") if mark in (given["data-marks"] or "").split()]
        assert len(cards) == len(rows)
        assert f"({len(rows)})" in page.text
        assert page.all("option", value=mark)


def test_one_run_and_scores_that_only_order(made: Callable[..., Look], tmp_path: Path) -> None:
    page = page_of(made(runs=1, kind="rank"), tmp_path)
    assert "rank 1" in page.text
    assert "loss none" in page.text
    assert not page.all("option", value="-loss")
    assert not page.all("option", value="differ")


def test_a_page_of_noise_stays_below_ten_megabytes(
    made: Callable[..., Look], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = np.random.default_rng(0).standard_normal((IMAGES, 4, 40, 40)).astype(np.float32)
    monkeypatch.setattr(Sight, "maps", lambda self, part, rows: noise[: len(rows)])
    gallery = write_gallery(made(IMAGES + 10, side=200), tmp_path / "page.html")
    assert gallery.shown == IMAGES
    assert gallery.size == (tmp_path / "page.html").stat().st_size < 10e6
    assert f"{IMAGES} of {IMAGES + 10} images" in gallery.text()
    assert "note: A <note>." in gallery.text()
    with pytest.raises(UsageError, match="--images 0: expected at least 1"):
        write_gallery(gallery.look, tmp_path / "none.html", 0)


def test_pictures_are_made_smaller_but_keep_their_shape() -> None:
    image = np.full((100, 400, 3), 77, dtype=np.uint8)
    small = Image.open(io.BytesIO(base64.b64decode(thumbnail(image, 192).split(",")[1])))
    assert small.size == (192, 48)
    assert np.abs(np.asarray(small).astype(int) - 77).max() <= 2


def test_a_map_keeps_its_zero_and_its_largest_magnitude() -> None:
    heat = np.array([[0.0, 2.0, -4.0]], dtype=np.float32)
    height, width, text = map_bytes(heat)
    assert (height, width, list(base64.b64decode(text))) == (1, 3, [128, 192, 1])
    assert unit_map(heat).tolist() == [[0.0, 0.5, -1.0]]
    assert unit_map(np.zeros((2, 2), dtype=np.float32)).tolist() == [[0, 0], [0, 0]]
    height, width, text = map_bytes(np.ones((56, 28), dtype=np.float32))
    assert (height, width, set(base64.b64decode(text))) == (16, 16, {255})


def test_boxes_are_shares_of_the_image_and_end_at_its_edge(made: Callable[..., Look]) -> None:
    look = made()
    (first, inside), (second, beyond) = relative_boxes(look.split, 1, (40, 40))
    assert (first, inside) == (0, pytest.approx([0.1, 0.2, 0.4, 0.5]))
    assert (second, beyond) == (3, [0.0, 0.0, 1.0, 1.0])
    assert relative_boxes(look.split, 2, (40, 40)) == []


def test_the_command_writes_a_gallery_with_maps(
    mlbench: Callable[..., tuple[int, str, str]], two_runs: dict[str, Any], tmp_path: Path
) -> None:
    given = ("--store", two_runs["store"], "--dataset", two_runs["dataset"], "--device", "cpu")
    path = tmp_path / "out" / "page.html"
    code, out, err = mlbench("inspect", *(key[:12] for key in two_runs["keys"]), *given, "--html", path, "--images", 5)
    assert code == 0, err
    assert f"wrote {path}: 5 of " in out
    assert "note: prior has no class activation maps." in out
    page = Page(path)
    assert len(page.all("li")) == 5
    assert page.all("select", name="map")
    assert all('"an": [' in (given["data-maps"] or "") for given in page.all("tr") if "data-class" in given)
    code, _, err = mlbench("inspect", two_runs["keys"][0], *given, "--html", path, "--name", "mine")
    assert (code, "--name: does not go with --html" in err) == (2, True)
