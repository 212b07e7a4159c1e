"""Decoding: every kind of picture becomes RGB as hand-worked, every broken one an error that names it."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mlbench.errors import DataError
from mlbench.images.decode import FileImages, crop_padded, decode_image, image_size


def picture(height: int = 6, width: int = 4) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def png(path: Path, colour_type: int, rows: np.ndarray, extra: bytes = b"") -> Path:
    """Write a 16-bit PNG by hand; `rows` uint16 [H, W] or [H, W, channels]."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    height, width = rows.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    body = b"".join(b"\0" + row.astype(">u2").tobytes() for row in rows)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + extra
        + chunk(b"IDAT", zlib.compress(body))
        + chunk(b"IEND", b"")
    )
    return path


# --- kinds ------------------------------------------------------------------------------------------------------------


def test_rgb_png_comes_back_unchanged(tmp_path: Path) -> None:
    Image.fromarray(picture()).save(tmp_path / "a.png")
    image = decode_image(tmp_path / "a.png")
    assert image.dtype == np.uint8
    assert (image == picture()).all()
    image[0, 0] = 0  # the array is the caller's own


def test_greyscale_is_repeated_over_three_channels(tmp_path: Path) -> None:
    grey = picture()[..., 0]
    Image.fromarray(grey).save(tmp_path / "a.png")
    assert (decode_image(tmp_path / "a.png") == grey[..., None]).all()


def test_one_bit_becomes_black_and_white(tmp_path: Path) -> None:
    bits = picture()[..., 0] > 127
    Image.fromarray(bits).save(tmp_path / "a.png")
    assert (decode_image(tmp_path / "a.png") == np.where(bits, 255, 0)[..., None]).all()


def test_sixteen_bit_grey_is_scaled_not_clipped(tmp_path: Path) -> None:
    values = np.array([[0, 128, 129, 257], [32768, 40000, 65279, 65535]], dtype=np.uint16)
    image = decode_image(png(tmp_path / "a.png", 0, values))
    assert image[..., 0].tolist() == [[0, 0, 1, 1], [128, 156, 254, 255]]
    assert (image == image[..., :1]).all()


def test_sixteen_bit_colour_is_scaled_not_clipped(tmp_path: Path) -> None:
    values = np.array([[[0, 32896, 65535], [257, 25700, 51400]]], dtype=np.uint16)
    assert decode_image(png(tmp_path / "a.png", 2, values)).tolist() == [[[0, 128, 255], [1, 100, 200]]]


def test_palette_colours_are_looked_up(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 1], [2, 1]], dtype=np.uint8)).convert("P")
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    image.save(tmp_path / "a.png")
    assert decode_image(tmp_path / "a.png").tolist() == [[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [0, 255, 0]]]


def test_a_transparent_palette_colour_is_laid_on_white(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 1]], dtype=np.uint8)).convert("P")
    image.putpalette([255, 0, 0, 0, 255, 0])
    image.save(tmp_path / "a.png", transparency=0)
    assert decode_image(tmp_path / "a.png").tolist() == [[[255, 255, 255], [0, 255, 0]]]


def test_rgba_is_laid_on_white(tmp_path: Path) -> None:
    rgba = np.array([[[10, 20, 30, 255], [10, 20, 30, 0], [0, 0, 0, 51]]], dtype=np.uint8)
    Image.fromarray(rgba).save(tmp_path / "a.png")
    assert decode_image(tmp_path / "a.png").tolist() == [[[10, 20, 30], [255, 255, 255], [204, 204, 204]]]


def test_cmyk_jpeg_keeps_its_colours(tmp_path: Path) -> None:
    colours = {"white": (0, 0, 0, 0), "black": (0, 0, 0, 255), "red": (0, 255, 255, 0)}
    expected = {"white": (255, 255, 255), "black": (0, 0, 0), "red": (255, 0, 0)}
    for name, ink in colours.items():
        Image.new("CMYK", (16, 16), ink).save(tmp_path / f"{name}.jpg", quality=100)
        assert np.abs(decode_image(tmp_path / f"{name}.jpg")[8, 8].astype(int) - expected[name]).max() <= 3


@pytest.mark.parametrize(
    ("orientation", "turn"),
    [
        (1, lambda a: a),
        (2, lambda a: a[:, ::-1]),
        (3, lambda a: a[::-1, ::-1]),
        (4, lambda a: a[::-1]),
        (5, lambda a: a.transpose(1, 0, 2)),
        (6, lambda a: np.rot90(a, -1)),
        (7, lambda a: a[::-1, ::-1].transpose(1, 0, 2)),
        (8, np.rot90),
    ],
)
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int, turn) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(picture()).save(tmp_path / "a.png", exif=exif)
    image = decode_image(tmp_path / "a.png")
    assert (image == turn(picture())).all()
    assert image_size(tmp_path / "a.png") == (image.shape[1], image.shape[0])


def test_a_photograph_held_upright_is_turned_as_its_jpeg_says(tmp_path: Path) -> None:
    stored = np.zeros((16, 32, 3), np.uint8)
    stored[:, :16] = 255  # left half white: turned a quarter clockwise, it is the upper half
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(stored).save(tmp_path / "a.jpg", quality=100, exif=exif)
    image = decode_image(tmp_path / "a.jpg")
    assert image.shape == (32, 16, 3)
    assert image[:14].min() > 240
    assert image[18:].max() < 15


def test_the_first_frame_of_an_animation_is_taken(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (3, 3), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert decode_image(tmp_path / "a.gif")[0, 0].tolist() == [255, 0, 0]


# --- broken files -----------------------------------------------------------------------------------------------------


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.jpg: no such image"):
        decode_image(tmp_path / "gone.jpg")


def test_an_empty_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").touch()
    with pytest.raises(DataError, match=r"a\.jpg: empty file \(0 bytes\)"):
        decode_image(tmp_path / "a.jpg")


def test_a_text_file_is_no_image(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_text("<html>404</html>")
    for read in (decode_image, image_size):
        with pytest.raises(DataError, match=r"a\.jpg: not an image"):
            read(tmp_path / "a.jpg")


def test_a_folder_is_no_image(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="broken image"):
        decode_image(tmp_path)


@pytest.mark.parametrize("suffix", ["jpg", "png", "gif", "webp", "bmp"])
@pytest.mark.parametrize("share", [0.4, 0.8])
def test_a_truncated_file_is_named_and_never_filled_up(tmp_path: Path, suffix: str, share: float) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(picture(64, 64)).save(path)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(DataError, match=rf"a\.{suffix}: (broken|not an) image"):
        decode_image(path)


def test_a_float_image_is_refused_rather_than_clipped(tmp_path: Path) -> None:
    Image.fromarray(np.full((2, 2), 1e3, dtype=np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(DataError, match="mode F has no defined range"):
        decode_image(tmp_path / "a.tif")


# --- FileImages -------------------------------------------------------------------------------------------------------


def test_file_images_load_and_describe_rows(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    Image.fromarray(picture()).save(tmp_path / "sub" / "a.png")
    images = FileImages(tmp_path, ["sub/a.png"])
    assert len(images) == 1
    assert (images.load(0) == picture()).all()
    assert images.describe(0) == f"sub/a.png {(tmp_path / 'sub' / 'a.png').stat().st_size}"


def test_missing_images_are_counted_before_anything_is_read(tmp_path: Path) -> None:
    (tmp_path / "there.png").write_bytes(b"x")
    with pytest.raises(DataError, match=r"7 of 8 images missing: m0, m1, m2, m3, m4, \.\.\."):
        FileImages(tmp_path, ["there.png", *(f"m{i}" for i in range(7))])


def test_empty_images_are_counted_before_anything_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"x")
    (tmp_path / "b.png").touch()
    with pytest.raises(DataError, match=r"1 of 2 images empty \(0 bytes\): b\.png"):
        FileImages(tmp_path, ["a.png", "b.png"])


def test_crops_are_padded_black_and_told_apart(tmp_path: Path) -> None:
    Image.fromarray(picture()).save(tmp_path / "a.png")
    images = FileImages(tmp_path, ["a.png", "a.png"], crops=[(1, 2, 3, 5), (-1.5, -1, 2, 1)])
    assert (images.load(0) == picture()[2:5, 1:3]).all()
    padded = images.load(1)
    assert padded.shape == (2, 4, 3)
    assert (padded[1, 2:] == picture()[0, :2]).all()
    assert not padded[0].any()
    assert not padded[1, :2].any()
    assert images.describe(0) != images.describe(1)


def test_a_crop_far_outside_is_black_and_an_empty_one_an_error() -> None:
    assert not crop_padded(picture(), (100, 100, 102, 103)).any()
    with pytest.raises(DataError, match="empty"):
        crop_padded(picture(), (3, 0, 3, 2))


def test_one_crop_a_row_is_needed(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="1 crop boxes for 2 images"):
        FileImages(tmp_path, ["a", "b"], crops=[(0, 0, 1, 1)])


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["tif", "jpg", "png", "webp"])
def test_the_size_is_that_of_the_upright_picture_in_every_format(tmp_path: Path, suffix: str, orientation: int) -> None:
    path = tmp_path / f"a.{suffix}"
    stored = Image.new("RGB", (60, 30), (40, 90, 160))
    if suffix == "tif":
        stored.save(path, tiffinfo={274: orientation})
    else:
        exif = Image.Exif()
        exif[274] = orientation
        stored.save(path, exif=exif)
    height, width = decode_image(path).shape[:2]
    assert image_size(path) == (width, height) == ((30, 60) if orientation > 4 else (60, 30))


def test_a_compressed_tiff_is_turned_once(tmp_path: Path) -> None:
    picture = np.zeros((30, 60, 3), np.uint8)
    picture[:, :10] = 255  # on the left, and on top once it is turned
    Image.fromarray(picture).save(tmp_path / "a.tif", tiffinfo={274: 6}, compression="tiff_lzw")
    upright = decode_image(tmp_path / "a.tif")
    assert image_size(tmp_path / "a.tif") == (30, 60)
    assert upright[:10].min() == 255
    assert upright[10:].max() == 0


@pytest.mark.parametrize(
    "spoilt", [b"II*\x00\xff\xff\xff\xff", b"MM\x00*\x00\x00\x00\x08\x00\x09\x01\x12\x00\x02", b"nonsense", b""]
)
def test_a_picture_with_a_spoilt_exif_tag_is_read(tmp_path: Path, spoilt: bytes) -> None:
    path = tmp_path / "a.jpg"
    Image.new("RGB", (60, 30), (40, 90, 160)).save(path, exif=b"Exif\x00\x00" + spoilt)
    assert decode_image(path).shape == (30, 60, 3)
    assert image_size(path) == (60, 30)
