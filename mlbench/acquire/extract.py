"""Archives unpacked into a folder of their own: nothing outside it, no links, no bombs; goes on where it stopped."""

from __future__ import annotations

import filecmp
import gzip
import lzma
import os
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from mlbench.errors import DataError, MlbenchError, UsageError
from mlbench.inputs.cache import Advance

_BROKEN = (
    zipfile.BadZipFile,
    tarfile.TarError,
    gzip.BadGzipFile,
    lzma.LZMAError,
    zlib.error,
    EOFError,
    UnicodeDecodeError,
    struct.error,
    NotImplementedError,
)
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Limits:
    """What an archive may hold: files, bytes for each byte of the archive, and bytes that are no matter anyway."""

    files: int = 2_000_000
    ratio: int = 250
    harmless: int = 16 << 20


def is_archive(name: str) -> bool:
    """Whether `extract` knows the kind, told by the suffix."""
    return name.lower().endswith((".zip", ".tar", ".tar.gz", ".tgz"))


def extract(archive: Path, folder: Path, limits: Limits | None = None, advance: Advance | None = None) -> int:
    """Unpack a zip, tar or tar.gz into `folder`, where files of full size from an interrupted attempt are kept.

    Parameters
    ----------
    archive : the file; its suffix tells the kind.
    folder : made if it is not there. It must not be one that people put files in: see `merge`.
    limits : see `Limits`. The free space of the disk is a limit too.
    advance : told (bytes done, bytes in all).

    Returns
    -------
    Number of files.

    Raises
    ------
    DataError naming archive and member for a path that leaves the folder, a link, a device, a name that comes twice,
    an encrypted member, too many files, a bomb, and an archive that is truncated or broken. MlbenchError if the disk
    has not the room.
    """
    guard = _Guard(archive, folder, limits or Limits())
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if archive.name.lower().endswith(".zip"):
            _extract_zip(archive, folder, guard, advance)
        elif is_archive(archive.name):
            _extract_tar(archive, folder, guard, advance)
        else:
            raise UsageError(f"{archive}: expected a .zip, .tar, .tar.gz or .tgz")
    except _BROKEN as error:
        raise DataError(f"{archive}: truncated or broken archive ({error or type(error).__name__})") from None
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        raise DataError(f"{archive}: a name is both a file and a folder ({error.filename})") from None
    except OSError as error:
        raise MlbenchError(f"{folder}: cannot unpack {archive.name} ({error.strerror or error})") from None
    return guard.files


@dataclass
class _Guard:
    """Checks each member before it is written, and counts."""

    archive: Path
    folder: Path
    limits: Limits
    files: int = 0
    bytes: int = 0
    names: set[str] = field(default_factory=set)

    def refuse(self, name: str, why: str) -> DataError:
        return DataError(f"{self.archive}: refused: '{name}' {why}")

    def admit(self, name: str, size: int, is_file: bool) -> Path:
        """Where the member goes; DataError if it must not, MlbenchError if there is no room."""
        parts = PurePosixPath(name).parts
        if not parts and not is_file:
            return self.folder
        if not parts or name.startswith(("/", "\\")) or ":" in parts[0] or "\\" in name or "\0" in name:
            raise self.refuse(name, "is no plain relative path")
        if ".." in parts:
            raise self.refuse(name, "leaves the folder")
        plain = "/".join(parts)
        if is_file:
            if plain in self.names:
                raise self.refuse(name, "comes twice")
            self.names.add(plain)
            self.files += 1
            self.bytes += size
            self._check_amount(size)
        return self.folder.joinpath(*parts)

    def _check_amount(self, size: int) -> None:
        most = self.limits.ratio * self.archive.stat().st_size + self.limits.harmless
        if self.files > self.limits.files:
            raise DataError(f"{self.archive}: refused: more than {self.limits.files} files")
        if self.bytes > most:
            raise DataError(
                f"{self.archive}: refused: unpacks to more than {most} bytes, over {self.limits.ratio} times its size"
            )
        free = shutil.disk_usage(self.folder).free
        if size > free:
            raise MlbenchError(f"{self.folder}: {size} bytes to unpack, but only {free} free")


def _extract_zip(archive: Path, folder: Path, guard: _Guard, advance: Advance | None) -> None:
    with zipfile.ZipFile(archive) as source:
        entries = source.infolist()
        places = []
        for entry in entries:
            kind = stat.S_IFMT(entry.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise guard.refuse(entry.filename, "is a link or a device")
            if entry.flag_bits & 1:
                raise guard.refuse(entry.filename, "is encrypted")
            places.append(guard.admit(entry.filename, entry.file_size, not entry.is_dir()))
        done, total = 0, sum(entry.file_size for entry in entries)
        missing = sum(entry.file_size for entry, place in zip(entries, places, strict=True) if not place.exists())
        free = shutil.disk_usage(folder).free
        if missing > free:
            raise MlbenchError(f"{folder}: {missing} bytes to unpack, but only {free} free")
        for entry, place in zip(entries, places, strict=True):
            if entry.is_dir():
                place.mkdir(parents=True, exist_ok=True)
            elif not _is_whole(place, entry.file_size):
                place.parent.mkdir(parents=True, exist_ok=True)
                with source.open(entry) as packed, place.open("wb") as file:
                    shutil.copyfileobj(packed, file, _CHUNK)
            done += entry.file_size
            if advance is not None:
                advance(done, total)


def _extract_tar(archive: Path, folder: Path, guard: _Guard, advance: Advance | None) -> None:
    size = archive.stat().st_size
    # The stream is opened here, since what a tarfile hides of it is needed: how far it is, and how it ends.
    with (
        archive.open("rb") as raw,
        _unzipped(archive, raw) as stream,
        tarfile.open(fileobj=stream, mode="r:") as source,
    ):
        for member in source:
            if not (member.isdir() or member.type in (tarfile.REGTYPE, tarfile.AREGTYPE)) or member.issparse():
                raise guard.refuse(member.name, "is a link, a device or a sparse file")
            place = guard.admit(member.name, member.size, member.isfile())
            if member.isdir():
                place.mkdir(parents=True, exist_ok=True)
            elif not _is_whole(place, member.size):
                # Not by `extract`: its filter, which it warns without from 3.12 on, came with 3.11.4.
                place.parent.mkdir(parents=True, exist_ok=True)
                with source.extractfile(member) as packed, place.open("wb") as file:  # type: ignore[union-attr]
                    shutil.copyfileobj(packed, file, _CHUNK)
            source.members = []  # type: ignore[attr-defined]  # else all members seen are kept, which counts for a million files
            if advance is not None:
                advance(raw.tell(), size)
        # tarfile takes an archive that is cut between two members, or garbled there, for one that ends; the rest must
        # be read anyway for gzip to compare its checksum.
        if stream.tell() != source.offset + tarfile.BLOCKSIZE:
            raise EOFError("it has no end mark")
        while chunk := stream.read(_CHUNK):
            if chunk.strip(b"\0"):
                raise tarfile.ReadError("there is something behind its end mark")


def _unzipped(archive: Path, raw):  # type: ignore[no-untyped-def]
    return raw if archive.name.lower().endswith(".tar") else gzip.GzipFile(fileobj=raw)


def _is_whole(place: Path, size: int) -> bool:
    return place.is_file() and place.stat().st_size == size


def merge(unpacked: Path, root: Path) -> None:
    """Move all files under `unpacked` to the same place under `root`, where archives may share folders.

    A file already there is kept if it is the same, and a DataError if it is another: nothing is overwritten.
    Interrupted, it can be called again. `unpacked` is removed at the end.
    """
    for base, folders, files in os.walk(unpacked):
        target = root / Path(base).relative_to(unpacked)
        for name in list(folders):
            if not os.path.lexists(target / name):
                target.mkdir(parents=True, exist_ok=True)
                os.rename(Path(base) / name, target / name)
                folders.remove(name)
        target.mkdir(parents=True, exist_ok=True)
        for name in files:
            if os.path.lexists(target / name):
                if not (target / name).is_file() or not filecmp.cmp(Path(base) / name, target / name, shallow=False):
                    raise DataError(f"{target / name}: is there already, with other content than the archive's")
            else:
                os.rename(Path(base) / name, target / name)
    shutil.rmtree(unpacked)
