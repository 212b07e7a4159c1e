"""The corruption set: each corruption against arithmetic, and draws that depend on the sample alone."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage

from mlbench.errors import UsageError
from mlbench.explain.corruptions import CORRUPTIONS, NAME, SEVERITIES, VERSION, corrupt
from mlbench.explain.robustness import spoil
from mlbench.images.decode import decode_image
from mlbench.seeds import derive


def photograph(side: int = 64, seed: int = 0) -> np.ndarray:
    """Smooth coloured blobs."""
    noise = np.random.default_rng(seed).random((side, side, 3))
    smooth = ndimage.gaussian_filter(noise, (3, 3, 0))
    return (255 * (smooth - smooth.min()) / np.ptp(smooth)).astype(np.uint8)


def spoilt(name: str, severity: int, picture: np.ndarray) -> np.ndarray:
    return corrupt(picture, name, severity, "a").astype(np.float64)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_every_severity_changes_the_picture_and_more_than_the_one_before(name: str) -> None:
    picture = photograph(128)
    before = picture.copy()
    errors = [np.abs(spoilt(name, severity, picture) - picture).mean() for severity in SEVERITIES]
    assert errors[0] > 0
    assert errors == sorted(errors)
    assert len(set(errors)) == len(errors)
    np.testing.assert_array_equal(picture, before)


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize("shape", [(64, 64, 3), (7, 40, 3), (1, 1, 3)])
def test_shape_and_type_stay_also_of_odd_and_tiny_pictures(name: str, shape: tuple[int, ...]) -> None:
    picture = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    for severity in SEVERITIES:
        found = corrupt(picture, name, severity, "a")
        assert (found.shape, found.dtype) == (shape, np.uint8)


def test_noise_is_that_of_the_generator_the_names_seed() -> None:
    picture = photograph()
    draw = torch.Generator().manual_seed(derive(NAME, VERSION, "gaussian_noise", 3, "sample 7"))
    noise = torch.randn((3, 64, 64), generator=draw).permute(1, 2, 0).numpy()
    expected = np.clip(picture + np.trunc(0.18 * 255 * noise), 0, 255)
    assert np.abs(corrupt(picture, "gaussian_noise", 3, "sample 7") - expected).max() <= 1  # rounding of the product


def test_noise_has_the_deviation_it_says() -> None:
    grey = np.full((224, 224, 3), 127, dtype=np.uint8)
    assert spoilt("gaussian_noise", 1, grey).std() / 255 == pytest.approx(0.08, rel=0.02)


def test_blur_is_a_gaussian_of_the_picture_s_own_scale() -> None:
    picture = photograph(112)
    expected = ndimage.gaussian_filter(picture.astype(np.float64), (3.0, 3.0, 0), mode="mirror", radius=(9, 9, 0))
    assert np.abs(spoilt("gaussian_blur", 5, picture) - expected).max() <= 1.0  # 6 px of 224 are 3 px of 112


def test_pixels_grow_to_blocks() -> None:
    found = spoilt("pixelate", 5, photograph(64))
    blocks = found.reshape(16, 4, 16, 4, 3)
    np.testing.assert_array_equal(blocks, np.broadcast_to(blocks[:, :1, :, :1], blocks.shape))


def test_compression_gives_the_picture_a_jpeg_file_of_that_quality_shows(tmp_path: Path) -> None:
    picture = photograph()
    for severity, quality in zip(SEVERITIES, (25, 18, 15, 10, 7), strict=True):
        Image.fromarray(picture).save(tmp_path / "a.jpg", quality=quality)
        np.testing.assert_array_equal(corrupt(picture, "jpeg", severity, "a"), decode_image(tmp_path / "a.jpg"))


def test_brightness_contrast_and_saturation_by_hand() -> None:
    picture = photograph().astype(np.float64)
    grey = picture @ np.array([0.2989, 0.587, 0.114])
    cases = {
        "brightness": (4, picture * 1.8),
        "contrast": (2, 0.3 * picture + 0.7 * np.floor(grey).mean()),
        "saturation": (3, 0.4 * picture + 0.6 * grey[..., None]),
    }
    for name, (severity, expected) in cases.items():
        found = spoilt(name, severity, picture.astype(np.uint8))
        assert np.abs(found - np.clip(expected, 0, 255)).max() <= 1.6, name  # grey is rounded down first
    last = spoilt("saturation", 5, picture.astype(np.uint8))
    assert (last == last[..., :1]).all()


def test_a_draw_depends_on_sample_severity_and_corruption_and_on_nothing_else() -> None:
    pictures = np.stack([photograph(seed=i) for i in range(5)])
    ids = [f"test/{i}" for i in range(5)]
    cell = ("gaussian_noise", 2)
    torch.manual_seed(1)
    whole = spoil(pictures, cell, ids)
    torch.manual_seed(2)
    backwards = spoil(pictures[::-1], cell, ids[::-1])[::-1]
    pieces = np.concatenate([spoil(pictures[i : i + 2], cell, ids[i : i + 2]) for i in (0, 2, 4)])
    np.testing.assert_array_equal(whole, backwards)
    np.testing.assert_array_equal(whole, pieces)
    same = np.stack([pictures[0]] * 2)
    first, second = spoil(same, cell, ["a", "b"])
    assert (first != second).any()
    assert ((first.astype(int) - same[0]) != (spoil(same, ("gaussian_noise", 3), ["a", "b"])[0] - same[0])).any()


def test_the_global_generator_is_left_as_it_was() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    for name in CORRUPTIONS:
        corrupt(photograph(), name, 1, "a")
    torch.testing.assert_close(torch.rand(3), expected)


def test_another_process_draws_the_same() -> None:
    code = (
        "import hashlib, numpy as np\n"
        "from mlbench.explain.corruptions import corrupt\n"
        "picture = np.arange(64 * 64 * 3, dtype=np.uint64).reshape(64, 64, 3) * 7 % 256\n"
        "found = corrupt(picture.astype(np.uint8), 'gaussian_noise', 5, 'x')\n"
        "print(hashlib.sha256(found.tobytes()).hexdigest())"
    )
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    picture = (np.arange(64 * 64 * 3, dtype=np.uint64).reshape(64, 64, 3) * 7 % 256).astype(np.uint8)
    assert hashlib.sha256(corrupt(picture, "gaussian_noise", 5, "x").tobytes()).hexdigest() == there


@pytest.mark.parametrize(
    ("name", "severity", "message"),
    [("gaussian_nose", 1, "Did you mean 'gaussian_noise'"), ("jpeg", 0, "severity 0"), ("jpeg", 6, "expected 1 to 5")],
)
def test_an_unknown_corruption_or_severity_is_refused(name: str, severity: int, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        corrupt(photograph(8), name, severity, "a")
