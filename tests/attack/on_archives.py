"""Archives with hostile members, spoilt or not: nothing outside the folder, no links, and only what was packed."""

from __future__ import annotations

import gzip
import io
import random
import tarfile
import zipfile
from pathlib import Path

from hostile import attempt, spoilt

from mlbench.acquire.archives import Limits, read_whole
from mlbench.acquire.extract import extract

_LIMITS = Limits(files=200)
_LINKS = [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.GNUTYPE_SPARSE, b"9"]


def archives(draw: random.Random, folder: Path) -> str:
    kind = draw.choice(["x.zip", "x.tar", "x.tar.gz"])
    members = {f"{draw.choice('abc')}/{n}": draw.randbytes(draw.choice([0, 3, 700])) for n in range(draw.randrange(4))}
    hostile = draw.random() < 0.5
    content, bad = (_zip if kind == "x.zip" else _tar)(draw, members, hostile)
    if kind == "x.tar.gz":
        content = gzip.compress(content, 1)
    broken = draw.random() < 0.5
    if broken:
        content = spoilt(draw, content)
    (archive := folder / kind).write_bytes(content)
    outcome = attempt(lambda: extract(archive, folder / "in" / "out", _LIMITS))
    assert {path.name for path in folder.iterdir()} <= {kind, "in"}, "left its folder"
    assert [path.name for path in (folder / "in").iterdir()] == ["out"], "left its folder"
    found = list((folder / "in" / "out").rglob("*"))
    assert not [path for path in found if path.is_symlink() or not (path.is_dir() or path.is_file())], (
        "a link or device"
    )
    assert sum(path.stat().st_size for path in found) <= 250 * len(content) + (16 << 20), "a bomb"
    read = attempt(lambda: read_whole(archive, _LIMITS))
    assert read == outcome or (read, outcome) == ("taken", "refused"), "what was unpacked cannot be read"
    if not broken:
        assert outcome == ("refused" if bad else "taken"), f"{bad} was {outcome}"
    if outcome == "taken" and not broken:
        packed = {str(path.relative_to(folder / "in" / "out")): path.read_bytes() for path in found if path.is_file()}
        assert packed == members
    return outcome


def _evil(draw: random.Random) -> str:
    return draw.choice(
        [
            "../x",
            "a/../../x",
            "/x",
            "C:/x",
            "..\\x",
            "d/" * draw.choice([65, 2000]) + "x",
            "x" * 256,
            "a\x1bb",
            "a\nb",
            "a/0/x/../0",
        ]
    )


def _tar(draw: random.Random, members: dict[str, bytes], hostile: bool) -> tuple[bytes, str]:
    made, bad = io.BytesIO(), ""
    with tarfile.open(fileobj=made, mode="w", format=draw.choice([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])) as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
        if hostile:
            entry = tarfile.TarInfo("evil")
            how = draw.randrange(4)
            if how == 0:
                entry.type, entry.linkname = draw.choice(_LINKS), draw.choice(["/etc/passwd", "a/0", "../x"])
                bad = "a link"
            elif how == 1:
                entry.name = bad = _evil(draw)
            elif how == 2:
                entry.pax_headers, bad = {"comment": "x" * (200 << 10)}, "a long header"
                archive.format = archive.format if archive.format == tarfile.PAX_FORMAT else tarfile.PAX_FORMAT
            else:
                archive.fileobj.write(_raw(draw))  # type: ignore[union-attr]
                archive.offset += 512
                bad = "a size"
            archive.addfile(entry)
    return made.getvalue(), bad


def _raw(draw: random.Random) -> bytes:
    entry = tarfile.TarInfo("evil")
    entry.size = draw.choice([-512, -(2**40), 2**62, 2**40])
    entry.type = draw.choice([tarfile.REGTYPE, tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME, b"g"])
    return entry.tobuf(tarfile.GNU_FORMAT)


def _zip(draw: random.Random, members: dict[str, bytes], hostile: bool) -> tuple[bytes, str]:
    made, bad = io.BytesIO(), ""
    with zipfile.ZipFile(made, "w", draw.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
        if hostile:
            how = draw.randrange(4)
            if how == 0:
                entry = zipfile.ZipInfo("evil")
                entry.external_attr = draw.choice([0o120777, 0o020666, 0o010666, 0o140777]) << 16
                archive.writestr(entry, "/etc/passwd")
                bad = "a link"
            elif how == 1:
                entry = zipfile.ZipInfo("evil")
                entry.filename = bad = _evil(draw)
                archive.writestr(entry, "x")
            elif how == 2:
                archive.writestr(zipfile.ZipInfo("evil"), b"x", draw.choice([zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2]))
                bad = "a method"
            else:
                archive.writestr("a bomb", bytes(draw.choice([40, 60]) << 20), zipfile.ZIP_DEFLATED)
                bad = "a bomb"
    return made.getvalue(), bad
