"""`mlbench data prepare` from end to end: VOC 2012 in its official layout, made small, served on this machine."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Site, corrupt, cut, status
from PIL import Image

from mlbench.acquire import prepare as room
from mlbench.acquire import sources
from mlbench.acquire.download import Patience
from mlbench.acquire.prepare import Options, prepare
from mlbench.acquire.verify import verify
from mlbench.datasets import load_dataset, voc
from mlbench.errors import DataError, MlbenchError, UsageError
from mlbench.inputs.pixels import pixel_file
from mlbench.protocol import Protocol

ARCHIVE = "VOCtrainval_11-May-2012.tar"
PARTS = {"train": 5, "val": 3}
BRISK = Patience(timeout=5, attempts=2, pause=0.001)


def voc_tar() -> bytes:
    """The official archive made small: image `i` of a part shows class `i`."""
    draw = np.random.default_rng(0)
    files: dict[str, bytes] = {}
    base = "VOCdevkit/VOC2012"
    for part, count in PARTS.items():
        names = [f"2008_{part}{i}" for i in range(count)]
        files[f"{base}/ImageSets/Main/{part}.txt"] = "".join(f"{name}\n" for name in names).encode()
        for c, label in enumerate(voc.CLASSES):
            lines = "".join(f"{name} {1 if i == c else -1:2d}\n" for i, name in enumerate(names))
            files[f"{base}/ImageSets/Main/{label}_{part}.txt"] = lines.encode()
        for i, name in enumerate(names):
            box = "<xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax>"
            files[f"{base}/Annotations/{name}.xml"] = (
                f"<annotation><size><width>16</width><height>12</height></size><object><name>{voc.CLASSES[i]}</name>"
                f"<difficult>0</difficult><bndbox>{box}</bndbox></object></annotation>"
            ).encode()
            picture = io.BytesIO()
            Image.fromarray(draw.integers(0, 255, (12, 16, 3), dtype=np.uint8)).save(picture, "JPEG")
            files[f"{base}/JPEGImages/{name}.jpg"] = picture.getvalue()
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return packed.getvalue()


@pytest.fixture
def mirror(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """URL of a mirror with a small VOC 2012, whose counts and checksum pass for the official ones."""
    content = voc_tar()
    site.files[f"/mirror/{ARCHIVE}"] = content
    text = sources.SOURCES.read_text()
    for old, new in (
        ("1999639040", str(len(content))),
        ("6cd6e144f989b92b3379bac3b3de84fd", hashlib.md5(content).hexdigest()),
    ):
        assert old in text
        text = text.replace(old, new)
    (tmp_path / "sources.toml").write_text(text)
    monkeypatch.setattr(sources, "SOURCES", tmp_path / "sources.toml")
    monkeypatch.setitem(voc.PARTS, "2012", {"train": ("train", 5), "test": ("val", 3)})
    monkeypatch.setattr(Protocol, "check_counts", lambda *_: None)
    monkeypatch.setenv("MLBENCH_CACHE", str(tmp_path / "cache"))
    return f"{site.url}/mirror/"


def test_a_spoilt_list_of_archives_is_named(mirror: str, tmp_path: Path) -> None:
    kept = tmp_path / "voc" / ".mlbench" / "archives.json"
    kept.parent.mkdir(parents=True)
    kept.write_text("{")
    with pytest.raises(DataError, match=r"archives\.json: not readable .*; delete it"):
        prepare("voc2012", tmp_path / "voc", Options(mirror=mirror, images=False))


def test_a_data_set_is_fetched_unpacked_verified_and_decoded(
    site: Site, mirror: str, tmp_path: Path, mlbench: Callable[..., Any]
) -> None:
    site.plan = [cut(10_000)]
    root = tmp_path / "voc"
    code, out, err = mlbench("data", "prepare", "voc2012", "--root", root, "--mirror", mirror, "--size", 32)
    assert code == 0, err
    assert f"{ARCHIVE}: fetched and unpacked (md5)" in out
    assert "decoded: 8 images at 32 x 32" in out
    assert "verified" in out
    dataset = load_dataset("voc2012", root)
    assert [len(split) for split in dataset.splits.values()] == [5, 3]
    assert all(pixel_file(split, 32).exists() for split in dataset.splits.values())
    kept = json.loads((root / ".mlbench" / "archives.json").read_text())
    assert kept[ARCHIVE]["sha256"] == hashlib.sha256(site.files[f"/mirror/{ARCHIVE}"]).hexdigest()
    assert sorted(path.name for path in root.iterdir()) == [".mlbench", "VOCdevkit", "downloads"]

    hashes = json.loads((root / ".mlbench" / "voc2012.json").read_text())
    assert hashes.keys() == {"fingerprint", "content of train", "content of test"}

    asked = len(site.requests)
    (root / "downloads" / ARCHIVE).unlink()  # not needed any more
    code, out, _ = mlbench("data", "prepare", "voc2012", "--root", root, "--size", 0)
    assert (code, len(site.requests)) == (0, asked)
    assert f"{ARCHIVE}: there already" in out

    code, out, _ = mlbench("data", "verify", "voc2012", "--root", root)
    assert code == 0
    assert "the same as when its hashes were kept here" in out
    assert "cached pixels of train at 32 px: whole, and made of these images" in out
    assert "yes" in mlbench("data", "list", "--root", root)[1]


def test_a_picture_that_changed_after_it_was_prepared_is_noticed(mirror: str, tmp_path: Path) -> None:
    root = tmp_path / "voc"
    prepare("voc2012", root, Options(mirror, size=8))
    path = root / "VOCdevkit/VOC2012/JPEGImages/2008_val0.jpg"
    content = bytearray(path.read_bytes())
    content[17] ^= 1  # the density in the JFIF header: still the same pixels
    path.write_bytes(content)
    told = verify(load_dataset("voc2012", root), root).problems
    assert len(told) == 2
    assert told[0].startswith("fingerprint is ")
    assert told[1].startswith("content of test is ")


def test_the_size_defaults_to_the_protocols_and_can_be_none(mirror: str, tmp_path: Path) -> None:
    assert "at 448 x 448" in prepare("voc2012", tmp_path / "voc", Options(mirror))
    with pytest.raises(UsageError, match="--size -1"):
        prepare("voc2012", tmp_path / "voc", Options(mirror, size=-1))


def test_a_corrupt_archive_is_neither_kept_nor_unpacked(site: Site, mirror: str, tmp_path: Path) -> None:
    site.plan = [corrupt]
    with pytest.raises(DataError, match="has md5"):
        prepare("voc2012", tmp_path / "voc", Options(mirror, patience=BRISK))
    assert sorted(path.name for path in (tmp_path / "voc").rglob("*")) == [".mlbench", "downloads", "lock"]
    prepare("voc2012", tmp_path / "voc", Options(mirror, size=0))


def test_a_server_that_fails_leaves_what_the_next_call_goes_on_with(site: Site, mirror: str, tmp_path: Path) -> None:
    site.plan = [cut(20_000), status(500), status(500)]
    with pytest.raises(MlbenchError, match="run it again to go on"):
        prepare("voc2012", tmp_path / "voc", Options(mirror, patience=BRISK))
    prepare("voc2012", tmp_path / "voc", Options(mirror, size=0))
    assert site.requests[-1][1]["Range"] == "bytes=20000-"


def test_a_call_that_was_killed_while_unpacking_or_moving_is_finished(
    mirror: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "voc"

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(room, "merge", killed)
        with pytest.raises(KeyboardInterrupt):
            prepare("voc2012", root, Options(mirror))
    whole = root / ".mlbench" / f"{ARCHIVE}.unpacked"
    assert (whole / "VOCdevkit").is_dir()
    # Half of it was moved already: what tells that the archive is there must not be believed yet.
    (root / "VOCdevkit" / "VOC2012" / "ImageSets").mkdir(parents=True)
    (whole / "VOCdevkit/VOC2012/ImageSets/Main").rename(root / "VOCdevkit/VOC2012/ImageSets/Main")
    prepare("voc2012", root, Options(mirror, size=0))
    assert len(load_dataset("voc2012", root).splits["train"]) == 5
    assert not whole.exists()


def test_two_calls_on_one_folder_do_not_mix(mirror: str, tmp_path: Path) -> None:
    from mlbench.locks import locked

    root = tmp_path / "voc"
    (root / ".mlbench").mkdir(parents=True)
    with locked(root / ".mlbench" / "lock", wait=False), pytest.raises(MlbenchError, match=r"another .* is at work"):
        prepare("voc2012", root, Options(mirror))


def test_an_archive_that_is_not_the_one_it_should_be_is_told(
    site: Site, mirror: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = sources.SOURCES.read_text().replace("VOCdevkit/VOC2012/ImageSets/Main/train.txt", "VOCdevkit/other.txt")
    sources.SOURCES.write_text(text.replace("VOC2012/ImageSets/Main/train.txt", "other.txt"))
    with pytest.raises(DataError, match=r"there is no VOCdevkit/other\.txt: not the archive it should be"):
        prepare("voc2012", tmp_path / "voc", Options(mirror))


def test_a_file_without_published_checksum_is_opened_and_told(site: Site, mirror: str, tmp_path: Path) -> None:
    lines = [line for line in sources.SOURCES.read_text().splitlines() if not line.startswith(("md5", "size"))]
    sources.SOURCES.write_text("\n".join(lines))
    with tarfile.open(fileobj=io.BytesIO(site.files[f"/mirror/{ARCHIVE}"])) as packed:
        files = len(packed.getnames())
    told = f"no published checksum: could not be verified; it opens as a whole archive of {files} files"
    assert f"({told})" in prepare("voc2012", tmp_path / "voc", Options(mirror, size=0))
    kept = json.loads((tmp_path / "voc" / ".mlbench" / "archives.json").read_text())
    assert kept[ARCHIVE]["checked"] == told


def test_what_a_person_must_fetch_is_told_after_all_else_was_fetched(site: Site, mirror: str, tmp_path: Path) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("wider_attribute_trainval.json"))
    sources.SOURCES.write_text(
        sources.SOURCES.read_text().replace("wider_attribute_annotation.zip", "wider_attribute_annotation.tar")
    )
    site.files["/mirror/wider_attribute_annotation.tar"] = packed.getvalue()
    with pytest.raises(DataError, match=r"to be fetched by hand .*wider_attribute_image\.tgz.*downloads"):
        prepare("wider", tmp_path / "wider", Options(mirror))
    assert (tmp_path / "wider" / "wider_attribute_annotation" / "wider_attribute_trainval.json").is_file()
    told = prepare("wider", tmp_path / "wider", Options(mirror, images=False))
    assert "wider: labels only; without its pictures it is not indexed" in told


def test_a_description_of_ones_own_is_verified_and_decoded(photos: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(photos, tmp_path / "mine")
    told = prepare(str(folder / "mine.toml"), folder, Options(size=16))
    assert "decoded: 34 images at 16 x 16" in told
    assert "no protocol says what to expect" in told
    assert not (folder / ".mlbench").exists(), "a folder that was not filled here is not written into"


def test_archives_find_their_folder_whether_they_have_it_or_not(tmp_path: Path) -> None:
    from mlbench.progress import Reporter

    for number, inside in enumerate(("Groundtruth/x.txt", "x.txt")):
        archive, root = tmp_path / f"{number}.tar", tmp_path / str(number)
        with tarfile.open(archive, "w") as packed:
            packed.addfile(tarfile.TarInfo(inside))
        room._unpack(archive, root, "Groundtruth", Reporter(quiet=True))
        assert (root / "Groundtruth" / "x.txt").is_file()
