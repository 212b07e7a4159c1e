"""Archives that want to leave their folder, fill the disk or are broken are refused; others are unpacked whole."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mlbench.acquire.archives import Limits
from mlbench.acquire.extract import extract, merge
from mlbench.errors import DataError, MlbenchError, UsageError

FILES = {"kit/a.txt": b"one", "kit/deep/b.bin": np.random.default_rng(0).bytes(70_000), "c.txt": b""}


def tar_entry(name: str, size: int = 0, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.size, entry.type, entry.linkname = size, kind, link
    return entry


def make_tar(path: Path, files: Any = FILES, extra: tuple[tarfile.TarInfo, ...] = ()) -> Path:
    with tarfile.open(path, "w:gz" if path.name.endswith("gz") else "w") as archive:
        for name, content in dict(files).items():
            archive.addfile(tar_entry(name, len(content)), io.BytesIO(content))
        for entry in extra:
            archive.addfile(entry, io.BytesIO(bytes(entry.size)))
    return path


def make_zip(path: Path, files: Any = FILES) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items() if isinstance(files, dict) else files:
            archive.writestr(name, content)
    return path


def make(path: Path, files: Any = FILES) -> Path:
    return make_zip(path, files) if path.suffix == ".zip" else make_tar(path, files)


def tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


KINDS = ["x.zip", "x.tar", "x.tar.gz", "x.tgz"]


@pytest.mark.parametrize("kind", KINDS)
def test_an_archive_is_unpacked(tmp_path: Path, kind: str) -> None:
    told: list[tuple[int, int]] = []
    archive = make(tmp_path / kind)
    count = extract(archive, tmp_path / "out", advance=lambda done, total: told.append((done, total)))
    assert (count, tree(tmp_path / "out")) == (3, FILES)
    assert told
    assert all(done <= total for done, total in told)


@pytest.mark.parametrize("kind", ["x.tar", "x.tgz"])
def test_a_tar_is_unpacked_where_tarfile_has_no_filters_yet(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def extract_of_python_3_11_0(
        self: tarfile.TarFile, member: object, path: str = "", set_attrs: bool = True, *, numeric_owner: bool = False
    ) -> None:
        raise AssertionError("would unpack unfiltered")

    monkeypatch.setattr(tarfile.TarFile, "extract", extract_of_python_3_11_0)
    assert extract(make(tmp_path / kind), tmp_path / "out") == 3
    assert tree(tmp_path / "out") == FILES


@pytest.mark.parametrize("kind", KINDS)
def test_an_interrupted_extraction_goes_on(tmp_path: Path, kind: str) -> None:
    archive, out = make(tmp_path / kind), tmp_path / "out"
    extract(archive, out)
    (out / "kit/deep/b.bin").write_bytes(b"half")
    (out / "c.txt").unlink()
    kept = (out / "kit/a.txt").stat().st_ino, (out / "kit/a.txt").stat().st_mtime_ns
    extract(archive, out)
    assert tree(out) == FILES
    assert ((out / "kit/a.txt").stat().st_ino, (out / "kit/a.txt").stat().st_mtime_ns) == kept


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("../evil.txt", "leaves the folder"),
        ("kit/../../evil.txt", "leaves the folder"),
        ("/tmp/evil.txt", "no plain relative path"),
        ("C:/evil.txt", "no plain relative path"),
        ("..\\evil.txt", "no plain relative path|leaves the folder"),
    ],
)
def test_a_path_that_leaves_the_folder_is_refused(tmp_path: Path, kind: str, name: str, message: str) -> None:
    archive = make(tmp_path / kind, {"good.txt": b"", name: b"evil"})
    with pytest.raises(DataError, match=f"refused: .*({message})"):
        extract(archive, tmp_path / "a" / "out")
    assert not list(tmp_path.rglob("evil.txt"))


@pytest.mark.parametrize("packed", ["x.tar", "x.tgz"])
@pytest.mark.parametrize(
    ("kind", "link"),
    [
        (tarfile.SYMTYPE, "/etc"),
        (tarfile.SYMTYPE, "good.txt"),
        (tarfile.LNKTYPE, "good.txt"),
        (tarfile.LNKTYPE, "../../x"),
        (tarfile.CHRTYPE, ""),
        (tarfile.BLKTYPE, ""),
        (tarfile.FIFOTYPE, ""),
    ],
)
def test_links_and_devices_are_refused(tmp_path: Path, packed: str, kind: bytes, link: str) -> None:
    archive = make_tar(tmp_path / packed, {"good.txt": b""}, (tar_entry("evil", kind=kind, link=link),))
    with pytest.raises(DataError, match="'evil' is a link, a device"):
        extract(archive, tmp_path / "out")
    assert not os.path.lexists(tmp_path / "out" / "evil")


def test_a_link_in_a_zip_is_refused(tmp_path: Path) -> None:
    entry = zipfile.ZipInfo("evil")
    entry.external_attr = 0o120777 << 16
    with pytest.raises(DataError, match="'evil' is a link or a device"):
        extract(make_zip(tmp_path / "x.zip", [(entry, "/etc")]), tmp_path / "out")


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("second", ["a.txt", "./a.txt", ".//a.txt"])
def test_a_name_that_comes_twice_is_refused(tmp_path: Path, second: str) -> None:
    with pytest.raises(DataError, match="comes twice"):
        extract(make_zip(tmp_path / "x.zip", [("a.txt", "1"), (second, "2")]), tmp_path / "zip")
    archive = make_tar(tmp_path / "x.tar", {"a.txt": b"1"}, (tar_entry(second, 1),))
    with pytest.raises(DataError, match="comes twice"):
        extract(archive, tmp_path / "tar")


@pytest.mark.parametrize("kind", KINDS)
def test_a_name_that_is_a_file_and_a_folder_is_refused(tmp_path: Path, kind: str) -> None:
    with pytest.raises(DataError, match="both a file and a folder"):
        extract(make(tmp_path / kind, {"a": b"1", "a/b": b"2"}), tmp_path / "out")


@pytest.mark.parametrize("kind", ["x.zip", "x.tgz"])
def test_a_bomb_is_refused_before_it_goes_off(tmp_path: Path, kind: str) -> None:
    archive = make(tmp_path / kind, {f"{i}.bin": bytes(10 << 20) for i in range(6)})
    assert archive.stat().st_size < 100_000
    with pytest.raises(DataError, match=r"unpacks to more than .* bytes, over 250 times its size"):
        extract(archive, tmp_path / "out")
    assert sum(len(content) for content in tree(tmp_path / "out").values()) <= 40 << 20


@pytest.mark.parametrize("kind", KINDS)
def test_too_many_files_are_refused(tmp_path: Path, kind: str) -> None:
    archive = make(tmp_path / kind, {f"{i}": b"" for i in range(11)})
    assert extract(archive, tmp_path / "out", Limits(files=11)) == 11
    with pytest.raises(DataError, match="more than 10 files"):
        extract(archive, tmp_path / "again", Limits(files=10))


@pytest.mark.parametrize("kind", KINDS)
def test_an_archive_larger_than_the_free_space_is_refused(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = make(tmp_path / kind)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=50_000))
    with pytest.raises(MlbenchError, match=r"70000 bytes to unpack, but only 50000 free|70003 bytes"):
        extract(archive, tmp_path / "out")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.02, 0.4, 0.9, 0.999])
def test_a_truncated_archive_is_refused(tmp_path: Path, kind: str, share: float) -> None:
    archive = make(tmp_path / kind, {f"{i}.bin": np.random.default_rng(i).bytes(20_000) for i in range(5)})
    # A tar is filled up with zeros to a multiple of 10,240: these are not missed.
    content = archive.read_bytes().rstrip(b"\0")
    archive.write_bytes(content[: int(share * len(content))])
    with pytest.raises(DataError, match="truncated or broken archive"):
        extract(archive, tmp_path / "out")


def test_a_tar_cut_between_two_members_is_refused(tmp_path: Path) -> None:
    archive = make_tar(tmp_path / "x.tar", {"a": bytes(512), "b": bytes(512)})
    archive.write_bytes(archive.read_bytes()[:1024])
    with pytest.raises(DataError, match="no end mark"):
        extract(archive, tmp_path / "out")


@pytest.mark.parametrize("kind", ["x.tar", "x.tgz"])
def test_a_tar_garbled_in_the_middle_is_refused(tmp_path: Path, kind: str) -> None:
    plain = make_tar(tmp_path / "plain.tar", {"a": bytes(512), "b": b"text", "c": b"text"})
    content = bytearray(plain.read_bytes())
    content[1024:1100] = b"\xff" * 76  # the header of b
    import gzip

    archive = tmp_path / kind
    archive.write_bytes(gzip.compress(content) if kind == "x.tgz" else bytes(content))
    with pytest.raises(DataError, match="broken archive"):
        extract(archive, tmp_path / "out")


@pytest.mark.parametrize("kind", ["x.zip", "x.tgz"])
def test_flipped_bytes_are_noticed_by_the_archives_own_checksum(tmp_path: Path, kind: str) -> None:
    archive = make(tmp_path / kind)
    content = bytearray(archive.read_bytes())
    content[len(content) // 2] ^= 255
    archive.write_bytes(content)
    with pytest.raises(DataError, match="truncated or broken archive"):
        extract(archive, tmp_path / "out")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("content", [b"", b"<html>sign in first</html>"])
def test_what_is_no_archive_is_refused(tmp_path: Path, kind: str, content: bytes) -> None:
    (tmp_path / kind).write_bytes(content)
    with pytest.raises(DataError, match="truncated or broken archive"):
        extract(tmp_path / kind, tmp_path / "out")


def test_an_encrypted_zip_is_refused(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "x.zip", {"a.txt": b"secret"})
    content = bytearray(archive.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1
    archive.write_bytes(content)
    with pytest.raises(DataError, match=r"'a\.txt' is encrypted"):
        extract(archive, tmp_path / "out")


def test_another_kind_of_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.rar").write_bytes(b"Rar!")
    with pytest.raises(UsageError, match=r"expected a \.zip, \.tar"):
        extract(tmp_path / "x.rar", tmp_path / "out")


def test_archives_that_share_folders_are_merged(tmp_path: Path) -> None:
    root = tmp_path / "root"
    for part in ("train", "test"):
        files = {f"kit/{part}.txt": part.encode(), f"kit/images/{part}.jpg": b"", "kit/readme": b"the same"}
        extract(make(tmp_path / f"{part}.tar", files), tmp_path / "half")
        merge(tmp_path / "half", root)
        assert not (tmp_path / "half").exists()
    assert set(tree(root)) == {"kit/readme", *(f"kit/{p}.txt" for p in ("train", "test"))} | {
        "kit/images/train.jpg",
        "kit/images/test.jpg",
    }


def test_a_file_of_the_person_is_never_overwritten(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "kit").mkdir(parents=True)
    (root / "kit" / "a.txt").write_text("mine")
    extract(make(tmp_path / "x.zip"), tmp_path / "half")
    with pytest.raises(DataError, match=r"a\.txt: is there already, with other content"):
        merge(tmp_path / "half", root)
    assert (root / "kit" / "a.txt").read_text() == "mine"
    (root / "kit" / "a.txt").unlink()
    merge(tmp_path / "half", root)
    assert tree(root) == FILES
