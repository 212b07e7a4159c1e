"""Decoded pictures at one size: resized as Pillow does it, named by all they depend on, decoded once."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import mlbench
from mlbench.conformance.testing import ArrayImages
from mlbench.datasets import load_dataset
from mlbench.datasets.base import Split
from mlbench.errors import DataError
from mlbench.images.decode import FileImages
from mlbench.inputs import pixels
from mlbench.inputs.pixels import (
    LivePixels,
    files_sha256,
    load_pixels,
    pixel_file,
    pixels_sha256,
    squash,
)
from mlbench.inputs.sidecar import read_sidecar
from mlbench.inputs.tensors import flip_some, normalise
from mlbench.inputs.views import View
from mlbench.runner.data import ImageInputs


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MLBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@dataclass(frozen=True)
class Counted:
    """An image source that counts its decodings."""

    source: FileImages
    loaded: list[int]

    def __len__(self) -> int:
        return len(self.source)

    def load(self, row: int) -> np.ndarray:
        self.loaded.append(row)
        return self.source.load(row)

    def describe(self, row: int) -> str:
        return self.source.describe(row)

    def content(self, *given: Any) -> np.ndarray:
        return self.source.content(*given)


@pytest.fixture
def split(tmp_path: Path) -> Split:
    """Five PNGs of different sizes."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    draw = np.random.default_rng(0)
    names = tuple(f"{i}.png" for i in range(5))
    for i, name in enumerate(names):
        Image.fromarray(draw.integers(0, 256, (10 + i, 20, 3), dtype=np.uint8)).save(folder / name)
    return Split(names, np.ones((5, 1), np.int8), Counted(FileImages(folder, names), []))


def test_pictures_are_warped_to_a_square_with_pillows_bilinear_filter(split: Split) -> None:
    found = load_pixels(split, 8)
    assert found.shape == (5, 8, 8, 3)
    assert found.dtype == np.uint8
    for row in range(5):
        image = Image.fromarray(split.images.load(row))
        assert (found[row] == np.asarray(image.resize((8, 8), Image.Resampling.BILINEAR))).all()


def test_a_picture_of_the_right_size_is_not_touched() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    assert squash(picture, 8) is picture


def test_pictures_are_decoded_once_for_all_runs(split: Split) -> None:
    steps: list[tuple[int, int]] = []
    first = load_pixels(split, 8, lambda done, total: steps.append((done, total)))
    assert sorted(split.images.loaded) == [0, 1, 2, 3, 4]
    assert steps == [(5, 5)]
    assert (load_pixels(split, 8) == first).all()
    assert len(split.images.loaded) == 5
    load_pixels(split, 9)
    assert len(split.images.loaded) == 10


def test_pictures_in_memory_are_taken_as_they_are(own_cache: Path) -> None:
    array = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    split = Split(("a", "b", "c"), np.ones((3, 1), np.int8), ArrayImages(array))
    assert load_pixels(split, 8) is array
    assert not own_cache.exists()
    assert load_pixels(split, 4).shape == (3, 4, 4, 3)


def test_the_cache_is_named_by_content_order_and_side(split: Split, tmp_path: Path) -> None:
    file = pixel_file(split, 8)
    others = [
        pixel_file(split, 9),
        pixel_file(split.take([1, 0, 2, 3, 4]), 8),
        pixel_file(split.take([0, 1, 2, 3]), 8),
    ]
    assert len({file, *others}) == 4
    assert pixel_file(replace(split, ids=("z", *split.ids[1:]), labels=-split.labels), 8) == file
    moved = Path(shutil.copytree(tmp_path / "pictures", tmp_path / "elsewhere"))
    (moved / "0.png").rename(moved / "renamed.png")
    assert pixel_file(replace(split, images=FileImages(moved, ("renamed.png", *split.ids[1:]))), 8) == file
    Image.new("RGB", (200, 200)).save(tmp_path / "pictures" / "0.png")
    assert pixel_file(replace(split, images=FileImages(tmp_path / "pictures", split.ids)), 8) != file


@pytest.mark.parametrize("what", ["DECODE_RULE", "RESIZE_RULE", "_versions", "HARNESS_VERSION"])
def test_all_that_decides_the_pixels_is_in_their_name(split: Split, what: str, monkeypatch) -> None:
    before = pixel_file(split, 8)
    changed = (lambda: {"pillow": "other"}) if what == "_versions" else 7
    monkeypatch.setattr(mlbench if what == "HARNESS_VERSION" else pixels, what, changed)
    assert pixel_file(split, 8) != before


def test_two_sets_with_equal_names_and_sizes_have_their_own_pixels(tmp_path: Path) -> None:
    draw, names, found = np.random.default_rng(0), ("0.bmp", "1.bmp", "2.bmp"), {}
    for place in ("left", "right"):
        (tmp_path / place).mkdir()
        for name in names:
            path = tmp_path / place / name
            Image.fromarray(draw.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(path)
            os.utime(path, (1.5e9, 1.5e9))  # an archive that was unpacked
        found[place] = Split(names, np.ones((3, 1), np.int8), FileImages(tmp_path / place, names))
    for split in found.values():
        own = np.stack([split.images.load(row) for row in range(3)])
        np.testing.assert_array_equal(load_pixels(split, 8), own)


def test_a_broken_picture_is_named_and_the_mended_set_is_decoded(split: Split, tmp_path: Path) -> None:
    path = tmp_path / "pictures" / "3.png"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] + b"\0" * (len(content) - len(content) // 2))
    with pytest.raises(DataError, match=r"3\.png: broken image"):
        load_pixels(split, 8)
    path.write_bytes(content)
    mended = replace(split, images=FileImages(tmp_path / "pictures", split.ids))
    assert load_pixels(mended, 8).shape == (5, 8, 8, 3)


# --- the same pixels, and the same files behind them ------------------------------------------------------------------


@pytest.fixture
def files(split: Split, tmp_path: Path) -> Split:
    """`split` read by `FileImages` itself, its files written an hour ago."""
    hour_ago = time.time() - 3600
    for name in split.ids:
        os.utime(tmp_path / "pictures" / name, (hour_ago, hour_ago))
    return replace(split, images=FileImages(tmp_path / "pictures", split.ids))


def overwrite(path: Path, when: float | None = None) -> None:
    """Replace a PNG by another picture in a file of the same size."""
    size = path.stat().st_size
    with Image.open(path) as image:
        other = Image.new("RGB", image.size, "red")
    other.save(path)
    path.write_bytes(path.read_bytes().ljust(size, b"\0"))
    assert path.stat().st_size == size
    if when is not None:
        os.utime(path, (when, when))


def test_live_pixels_are_those_of_the_cache(files: Split) -> None:
    cached, live = load_pixels(files, 8), LivePixels(files, 8)
    assert live.shape == cached.shape
    for rows in (slice(0, 5), slice(1, 3), np.array([4, 0, 0, 2]), np.array([], dtype=np.int64)):
        assert live[rows].dtype == np.uint8
        assert np.array_equal(live[rows], cached[rows])


@pytest.mark.parametrize("augment", [(), ("flip",)])
def test_a_cached_epoch_gives_the_tensors_of_an_uncached_one(files: Split, augment: tuple[str, ...]) -> None:
    def tensors(held: object) -> list[torch.Tensor]:
        rows, ids = np.array([3, 1, 4, 0]), tuple(files.ids[row] for row in (3, 1, 4, 0))
        inputs = ImageInputs({8: held}, rows, ids, (0.4, 0.5, 0.6), (0.2, 0.25, 0.3), augment, ("d", 0))
        batches = [np.array([2, 0, 3]), np.array([1])]  # the last one smaller
        return [inputs.load(index, 8, torch.device("cpu"), epoch) for epoch in range(6) for index in batches]

    cached, live = tensors(load_pixels(files, 8)), tensors(LivePixels(files, 8))
    assert all(torch.equal(a, b) for a, b in zip(cached, live, strict=True))
    repeated = all(torch.equal(a, cached[0]) for a in cached[::2])
    assert repeated == (augment == ())  # a flip that never happened would make the comparison empty


def test_hashes_of_pixels_and_files_are_those_worked_by_hand(files: Split, tmp_path: Path) -> None:
    found = np.asarray(load_pixels(files, 8))
    assert pixels_sha256(files, 8) == hashlib.sha256(found.tobytes()).hexdigest()
    digests = [hashlib.sha256((tmp_path / "pictures" / name).read_bytes()).hexdigest() for name in files.ids]

    def by_hand(chosen: list[str]) -> str:
        return hashlib.sha256("".join(f"{digest}\n" for digest in chosen).encode()).hexdigest()

    assert files_sha256(files) == by_hand(digests)
    assert (
        files_sha256(files.take([3, 1]))
        == files_sha256(files.take([2, 3, 1]).take([1, 2]))
        == by_hand([digests[3], digests[1]])
    )


def test_the_sidecar_tells_the_rule_and_the_versions(files: Split) -> None:
    load_pixels(files, 8)
    about = read_sidecar(pixel_file(files, 8)).about
    assert (about["rule"], about["size"]) == ("squash_bilinear", 8)
    assert about["versions"]["pillow"]


def test_pictures_in_memory_are_hashed_without_a_cache(own_cache: Path) -> None:
    array = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    split = Split(("a", "b", "c"), np.ones((3, 1), np.int8), ArrayImages(array))
    expected = hashlib.sha256(array.tobytes()).hexdigest()
    assert pixels_sha256(split, 8) == expected
    assert not own_cache.exists()
    assert files_sha256(split) == ""


@pytest.mark.parametrize("when", [None, "as before", 1.0e9, "ahead"])
def test_pictures_replaced_in_place_are_decoded_anew_whatever_their_times(files: Split, tmp_path: Path, when) -> None:
    before = np.array(load_pixels(files, 8))
    path = tmp_path / "pictures" / "2.png"
    overwrite(path, when={"as before": path.stat().st_mtime, "ahead": time.time() + 1e6}.get(when, when))
    again = replace(files, images=FileImages(tmp_path / "pictures", files.ids))
    found = np.asarray(load_pixels(again, 8))
    assert (found[2] == (255, 0, 0)).all()
    np.testing.assert_array_equal(found[[0, 1, 3, 4]], before[[0, 1, 3, 4]])


def test_a_picture_replaced_while_its_set_is_in_use_is_an_error(files: Split, tmp_path: Path) -> None:
    load_pixels(files, 8)
    overwrite(tmp_path / "pictures" / "2.png")
    with pytest.raises(DataError, match=r"2\.png: not what it was when it was hashed"):
        load_pixels(files, 9)
    with pytest.raises(DataError, match=r"2\.png: not what it was"):
        files.images.load(2)


def test_damaged_pixels_are_found_when_they_are_read(files: Split) -> None:
    load_pixels(files, 8)
    path = pixel_file(files, 8)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match="damaged, rows 0 to 4"):
        load_pixels(files, 8)[1]


def test_a_record_states_the_pixels_its_run_read(train, photos: Path) -> None:
    dataset = load_dataset(str(photos / "mine.toml"), photos)
    record = train(dataset=dataset, changes={"train.image_size": 32, "train.epochs": 1})
    expected = {
        part: hashlib.sha256(LivePixels(dataset.splits[part], 32)[0:99].tobytes()).hexdigest()
        for part in dataset.splits
    }
    assert record["provenance"]["pixels_sha256"] == expected
    assert set(expected) == {"train", "test"}


# --- tensors and views ------------------------------------------------------------------------------------------------


def test_normalised_pixels_are_the_values_worked_in_double() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 3), dtype=np.uint8)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    got = normalise(torch.from_numpy(pixels), mean, std)
    expected = ((pixels / 255.0 - np.array(mean)) / np.array(std)).transpose(0, 3, 1, 2)
    assert got.shape == (2, 3, 3, 4)
    assert got.dtype == torch.float32
    np.testing.assert_allclose(got.numpy(), expected, atol=2e-6)


def test_only_the_chosen_images_are_mirrored() -> None:
    images = torch.arange(24.0).reshape(2, 3, 2, 2)
    got = flip_some(images, torch.tensor([False, True]))
    assert torch.equal(got[0], images[0])
    assert got[1, 0].tolist() == [[13.0, 12.0], [15.0, 14.0]]


@pytest.mark.parametrize("flip", [False, True])
def test_a_views_maps_come_back_to_the_frame_of_the_image(flip: bool) -> None:
    view = View("v", flip=flip)
    images = torch.randn(2, 3, 4, 5)
    assert torch.equal(view.align(view.image(images)), images)
    assert torch.equal(view.image(images), images.flip(3) if flip else images)
