"""Images decoded on the fly are those of the cache, whatever was expected; which of the two a run takes is told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mlbench.datasets.base import Split, size_of
from mlbench.errors import UsageError
from mlbench.images.decode import FileImages
from mlbench.inputs import on_the_fly
from mlbench.inputs.on_the_fly import OnTheFly, open_pixels, storage
from mlbench.inputs.pixels import load_pixels


@pytest.fixture
def split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Split:
    monkeypatch.setenv("MLBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("MLBENCH_PIXELS", raising=False)
    random, names = np.random.RandomState(0), []
    for number in range(12):
        names.append(f"{number}.png")
        Image.fromarray(random.randint(0, 255, (20 + number, 30, 3)).astype(np.uint8)).save(tmp_path / names[-1])
    images = FileImages(tmp_path, names)
    return Split(tuple(names), np.ones((12, 1), np.int8), images).take(np.arange(12)[::-1])


@pytest.mark.parametrize("ahead", [1, 3, 100])
def test_whatever_is_expected_the_rows_asked_for_come(split: Split, ahead: int, monkeypatch) -> None:
    monkeypatch.setattr(on_the_fly, "AHEAD", ahead * 3 * 8 * 8)
    cached, live = load_pixels(split, 8), OnTheFly(split, 8, workers=2)
    order = np.array([3, 1, 4, 0, 5, 9, 2, 6, 8, 7, 10, 11])
    for asked in (order, order[::-1], np.repeat(order, 2)):
        live.expect(order)
        for rows in np.array_split(asked, 4):
            assert np.array_equal(live[rows], cached[rows])
            assert np.array_equal(live[np.array([5])], cached[[5]])  # a look at others in between
        assert len(live._begun) <= ahead
    assert np.array_equal(live[2:9], cached[2:9])


def test_a_row_that_was_told_is_decoded_once(split: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[int] = []
    live, load = OnTheFly(split, 8, workers=1), split.images.load
    monkeypatch.setattr(type(split.images), "load", lambda images, row: loaded.append(row) or load(row))
    live.expect(np.array([4, 2, 7]))
    assert live[np.array([4, 2])].shape == (2, 8, 8, 3)
    live[np.array([7])]
    assert loaded == [4, 2, 7]


@pytest.mark.parametrize(
    ("free", "wanted", "kind"),
    [(10**9, None, "cache"), (2400, None, "decode"), (2400, "cache", "cache"), (10**9, "decode", "decode")],
)
def test_a_cache_that_would_fill_the_disk_is_not_built(
    split: Split, free: int, wanted: str | None, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """12 images of 8 x 8 pixels take 2304 bytes."""
    monkeypatch.setattr(on_the_fly, "_free", lambda folder: free)
    if wanted:
        monkeypatch.setenv("MLBENCH_PIXELS", wanted)
    found = storage(split, 8)
    assert (found.kind, found.size, found.free) == (kind, 2304, free)
    assert isinstance(open_pixels(split, 8), OnTheFly) == (kind == "decode")
    if kind == "cache":
        assert storage(split, 8).kind == "ready"


def test_another_wish_is_an_error(split: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLBENCH_PIXELS", "cash")
    with pytest.raises(UsageError, match="MLBENCH_PIXELS 'cash'"):
        storage(split, 8)


def test_the_size_of_an_image_file_takes_no_decoding(split: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = [split.images.load(row).shape[1::-1] for row in range(12)]
    monkeypatch.setattr("mlbench.images.decode.decode_image", lambda path: pytest.fail("decoded"))
    assert [size_of(split.images, row) for row in range(12)] == expected


def test_a_large_cache_is_told_before_it_is_written_and_decoding_offered(split: Split, monkeypatch) -> None:
    assert on_the_fly.warning(split, 8) == ""
    monkeypatch.setattr(on_the_fly, "LARGE", 12 * 3 * 8 * 8 - 1)
    said = on_the_fly.warning(split, 8)
    assert "12 at 8 px" in said
    assert "MLBENCH_PIXELS=decode" in said
    monkeypatch.setenv("MLBENCH_PIXELS", "decode")
    assert on_the_fly.warning(split, 8) == ""
    monkeypatch.delenv("MLBENCH_PIXELS")
    load_pixels(split, 8)
    assert on_the_fly.warning(split, 8) == ""  # it is there
