"""Decoded pictures at one size: resized as Pillow does it, named by all they depend on, decoded once."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mlbench.datasets.base import Split
from mlbench.errors import DataError
from mlbench.images.decode import FileImages
from mlbench.images.pixels import load_pixels, pixel_key, squash
from mlbench.images.tensors import flip_some, normalise
from mlbench.images.views import View
from mlbench.testing import ArrayImages


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
    pixels = load_pixels(split, 8)
    assert pixels.shape == (5, 8, 8, 3)
    assert pixels.dtype == np.uint8
    for row in range(5):
        image = Image.fromarray(split.images.load(row))
        assert (pixels[row] == np.asarray(image.resize((8, 8), Image.Resampling.BILINEAR))).all()


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


def test_the_cache_is_named_by_ids_files_sizes_and_side(split: Split, tmp_path: Path) -> None:
    key = pixel_key(split, 8)
    others = [
        pixel_key(split, 9),
        pixel_key(replace(split, ids=("z", *split.ids[1:])), 8),
        pixel_key(split.take([1, 0, 2, 3, 4]), 8),
        pixel_key(split.take([0, 1, 2, 3]), 8),
    ]
    assert len({key, *others}) == 5
    assert key == pixel_key(split, 8)
    labels = replace(split, labels=-split.labels)
    assert pixel_key(labels, 8) == key
    Image.new("RGB", (200, 200)).save(tmp_path / "pictures" / "0.png")
    changed = replace(split, images=FileImages(tmp_path / "pictures", split.ids))
    assert pixel_key(changed, 8) != key


def test_a_broken_picture_is_named_and_the_others_are_not_decoded_again(split: Split, tmp_path: Path) -> None:
    path = tmp_path / "pictures" / "3.png"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] + b"\0" * (len(content) - len(content) // 2))
    with pytest.raises(DataError, match=r"3\.png: broken image"):
        load_pixels(split, 8)
    path.write_bytes(content)
    assert load_pixels(split, 8).shape == (5, 8, 8, 3)


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
