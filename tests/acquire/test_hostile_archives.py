"""Archives whose headers lie, promise too much or lead too deep: refused in a line, before anything is taken in."""

from __future__ import annotations

import contextlib
import gzip
import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from mlbench.acquire.archives import Limits, read_whole
from mlbench.acquire.extract import extract
from mlbench.errors import DataError, MlbenchError

END = bytes(1024)
PAX, LONG_NAME, LONG_LINK, GLOBAL = tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, b"g"


def header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    """A tar header as it is asked for, negative sizes too."""
    entry = tarfile.TarInfo(name)
    entry.size, entry.type = size, kind
    return entry.tobuf(tarfile.GNU_FORMAT)


def block(content: bytes) -> bytes:
    return content + bytes(-len(content) % 512)


def pax(**records: str) -> bytes:
    """An extended header before a member."""
    text = b""
    for key, value in records.items():
        line = f" {key}={value}\n".encode()
        length = len(line) + len(str(len(line)))
        text += f"{length + (len(str(length)) > len(str(len(line))))}".encode() + line
    return header("pax", len(text), PAX) + block(text)


def deep(levels: int) -> str:
    return "d/" * levels + "x"


GOOD = header("good", 3) + block(b"abc")

#: What a tar begins with, and what its refusal says.
TARS: dict[str, tuple[bytes, str]] = {
    "a pax header of 2 MB": (header("x", 2 << 20, PAX) + bytes(2 << 20), "header of a member has more than 131072"),
    "a global header of 2 MB": (header("x", 2 << 20, GLOBAL) + bytes(2 << 20), "header of a member has more than"),
    "a name of 2 MB": (header("x", 2 << 20, LONG_NAME) + b"a" * (2 << 20), "header of a member has more than"),
    "a link's name of 2 MB": (header("x", 2 << 20, LONG_LINK) + b"a" * (2 << 20), "header of a member has more"),
    "a pax header of 8 EB": (header("x", 2**63, PAX), "header of a member has more than"),
    "many pax headers": (pax(comment="x") * 2000 + GOOD, "header of a member has more than"),
    "many long names": ((header("x", 2, LONG_NAME) + block(b"a\0")) * 2000 + GOOD, "header of a member has more than"),
    "a file of negative size": (header("x", -512) + GOOD, "'x' has -512 bytes"),
    "a file of a negative size before the archive": (header("x", -(2**40)) + GOOD, "'x' has -1099511627776 bytes"),
    "a folder of negative size": (header("x/", -512, tarfile.DIRTYPE) + GOOD, "'x/?' has -512 bytes"),
    "a pax header of negative size": (header("x", -512, PAX) + GOOD, "header of a member has more than"),
    "a name of negative size": (header("x", -512, LONG_NAME) + GOOD, "header of a member has more than"),
    "a negative size in a pax header": (pax(size="-1024") + GOOD, "'good' has -1024 bytes"),
    "a size of 5000 digits": (pax(size="9" * 5000) + header("x", 0) + GOOD, "has a size that is no number"),
    "a size that is no number": (pax(size="1e9") + header("x", 600) + bytes(600), "has a size that is no number"),
    "2000 folders": (header("x", 4009, LONG_NAME) + block(deep(2000).encode()) + GOOD, "lies deeper than 64 folders"),
    "2000 folders alone": (
        header("x", 4009, LONG_NAME) + block(b"d/" * 2000) + header("d/", 0, tarfile.DIRTYPE),
        "lies deeper than 64 folders",
    ),
    "a name of 300 bytes": (pax(path="é" * 150) + GOOD, "is a name longer than 255 bytes"),
    "a path of 5000 bytes": (pax(path="/".join(["x" * 200] * 25)) + GOOD, "or than 4096 in all"),
    "a line end in a name": (pax(path="a\nb") + GOOD, "no plain relative path"),
    "an escape in a name": (pax(path="a\x1b[2Jb") + GOOD, "no plain relative path"),
    "a sparse map": (pax(**{"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}) + GOOD, "sparse|broken"),
    "a promise of more": (header("x", 4096) + bytes(1024), "broken archive"),
}


@pytest.mark.parametrize("kind", ["x.tar", "x.tar.gz"])
@pytest.mark.parametrize("name", TARS)
def test_a_tar_is_refused(tmp_path: Path, name: str, kind: str) -> None:
    content, reason = TARS[name]
    archive = tmp_path / kind
    whole = content + END
    archive.write_bytes(gzip.compress(whole, 1) if kind == "x.tar.gz" else whole)
    for refused in (lambda: extract(archive, tmp_path / "out"), lambda: read_whole(archive)):
        with pytest.raises(DataError, match=reason) as error:
            refused()
        assert len(str(error.value).replace(str(tmp_path), "")) < 300


def test_what_stands_before_such_a_member_is_unpacked_and_nothing_behind_it(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(GOOD + header("x", -512) + header("later", 0) + END)
    with pytest.raises(DataError):
        extract(tmp_path / "x.tar", tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["good"]


def test_honest_long_names_times_and_depths_are_unpacked(tmp_path: Path) -> None:
    name = "/".join(["n" * 60] * 30)
    for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        archive = tmp_path / f"{form}.tar"
        with tarfile.open(archive, "w", format=form) as packed:
            entry = tarfile.TarInfo(name)
            entry.size, entry.mtime, entry.uname = 3, 1e9 + 0.5, "é" * 40
            entry.pax_headers = {"SCHILY.xattr.user.note": "x" * 60_000}
            packed.addfile(entry, io.BytesIO(b"abc"))
        assert extract(archive, tmp_path / str(form)) == read_whole(archive) == 1
        assert (tmp_path / str(form) / name).read_bytes() == b"abc"


def write_zip(path: Path, *names: str, method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name in names:
            archive.writestr(name, b"" if name.endswith("/") else b"abc")
    return path


@pytest.mark.parametrize(
    ("names", "method", "reason"),
    [
        ((deep(2000),), zipfile.ZIP_DEFLATED, "lies deeper than 64 folders"),
        (("d/" * 2000,), zipfile.ZIP_DEFLATED, "lies deeper than 64 folders"),
        (("n" * 300,), zipfile.ZIP_DEFLATED, "is a name longer than 255 bytes"),
        (("a\x1b[2J",), zipfile.ZIP_DEFLATED, "no plain relative path"),
        (("x",), zipfile.ZIP_LZMA, "compressed by method 14: only deflate"),
        (("x",), zipfile.ZIP_BZIP2, "compressed by method 12: only deflate"),
        (tuple(f"{n}/" for n in range(11)), zipfile.ZIP_STORED, "more than 10 files"),
    ],
)
def test_a_zip_is_refused(tmp_path: Path, names: tuple[str, ...], method: int, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        extract(write_zip(tmp_path / "x.zip", *names, method=method), tmp_path / "out", Limits(files=10))
    assert list((tmp_path / "out").iterdir()) == []


def test_members_that_lie_on_each_other_are_counted_each(tmp_path: Path) -> None:
    """A zip whose directory names one member 100 times holds 100 times what it stores."""
    archive = tmp_path / "x.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("0", bytes(8 << 20))
        first = packed.infolist()[0]
        for number in range(1, 100):
            entry = zipfile.ZipInfo(str(number))
            for key in ("header_offset", "CRC", "compress_size", "file_size", "compress_type"):
                setattr(entry, key, getattr(first, key))
            packed.filelist.append(entry)
    with pytest.raises(DataError, match="unpacks to more than"):
        extract(archive, tmp_path / "out")


@pytest.mark.parametrize(("field", "value"), [(42, b"\xff" * 4), (24, b"\x10\0\0\0"), (16, b"\0" * 4)])
def test_a_directory_of_a_zip_that_lies_is_noticed(tmp_path: Path, field: int, value: bytes) -> None:
    """Where the member begins, its size, its checksum."""
    archive = write_zip(tmp_path / "x.zip", "a.txt")
    content = bytearray(archive.read_bytes())
    place = content.index(b"PK\x01\x02") + field
    content[place : place + 4] = value
    archive.write_bytes(content)
    with pytest.raises(DataError, match=r"broken archive|unpacks to more"):
        extract(archive, tmp_path / "out")


@pytest.mark.parametrize("kind", ["x.zip", "x.tar", "x.tgz"])
@pytest.mark.parametrize("at", [0, 123_456, 599_999])
def test_a_file_of_the_same_size_from_an_earlier_archive_is_not_kept(tmp_path: Path, kind: str, at: int) -> None:
    content, out = np.random.default_rng(0).bytes(600_000), tmp_path / "out"
    out.mkdir()
    archive = tmp_path / kind
    (tmp_path / "content").write_bytes(content)
    if kind == "x.zip":
        with zipfile.ZipFile(archive, "w") as packed:
            packed.write(tmp_path / "content", "a.bin")
    else:
        with tarfile.open(archive, "w:gz" if kind == "x.tgz" else "w") as packed:
            packed.add(tmp_path / "content", "a.bin")
    for earlier in (content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :], content[:at], content + b"more"):
        (out / "a.bin").write_bytes(earlier)
        extract(archive, out)
        assert (out / "a.bin").read_bytes() == content


@pytest.mark.parametrize("kind", ["x.zip", "x.tar", "x.tgz"])
def test_any_bytes_are_refused_or_read(tmp_path: Path, kind: str) -> None:
    """Flipped, cut, doubled and moved bytes of a good archive: an error for people, or its files, and nothing else."""
    archive = tmp_path / kind
    if kind == "x.zip":
        write_zip(archive, "a.txt", "b/c.txt")
    else:
        with tarfile.open(archive, "w:gz" if kind == "x.tgz" else "w") as packed:
            for name in ("a.txt", "b/c.txt"):
                entry = tarfile.TarInfo(name)
                entry.size = 3
                packed.addfile(entry, io.BytesIO(b"abc"))
    good, draw = archive.read_bytes(), np.random.default_rng(5)
    for number in range(150):
        content = bytearray(good)
        for _ in range(draw.integers(1, 4)):
            place = int(draw.integers(len(content)))
            how = draw.integers(3)
            if how == 0:
                content[place] = draw.integers(256)
            elif how == 1:
                content[place : place + int(draw.integers(9))] = draw.bytes(int(draw.integers(9)))
            else:
                content[place:place] = content[place : place + 512]
        archive.write_bytes(content)
        with contextlib.suppress(MlbenchError):
            extract(archive, tmp_path / "in" / f"{number}")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", kind]
