"""The members of a zip or tar that somebody else made: named plainly, and bounded before they are read."""

from __future__ import annotations

import errno
import gzip
import lzma
import os
import re
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO

from mlbench.errors import DataError, UsageError

#: What Python's readers of archives raise at archives that are none, or were tampered with.
_BROKEN = (
    zipfile.BadZipFile,
    tarfile.TarError,
    gzip.BadGzipFile,
    lzma.LZMAError,
    zlib.error,
    struct.error,
    EOFError,
    ValueError,  # names that cannot be decoded, negative places, numbers of thousands of digits
    ArithmeticError,
    LookupError,
    RuntimeError,  # among them, recursion and what is not implemented
    MemoryError,
)
CHUNK = 1 << 18
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
#: Longest name of a file, and longest path, in bytes, that usual systems take.
_LONGEST_NAME, _LONGEST_PATH = 255, 4096


@dataclass(frozen=True)
class Limits:
    """What an archive may hold.

    files : files and folders. ratio, harmless : bytes for each byte of the archive, and bytes that are no matter
    anyway; headers count. depth : folders in one another. header : bytes that a tar may say of one member beside its
    content (a long name, times, attributes), which Python reads at once.
    """

    files: int = 2_000_000
    ratio: int = 250
    harmless: int = 16 << 20
    depth: int = 64
    header: int = 128 << 10


@dataclass(frozen=True)
class Member:
    """A folder, or a file of `size` bytes, which `open` reads; `progress`: (bytes done, bytes in all) before it."""

    path: PurePosixPath
    size: int
    is_folder: bool
    open: Callable[[], IO[bytes]]
    progress: tuple[int, int]


def is_archive(name: str) -> bool:
    """Whether the kind is known, told by the suffix."""
    return name.lower().endswith((".zip", ".tar", ".tar.gz", ".tgz"))


@contextmanager
def opened(archive: Path, limits: Limits | None = None, name: str = "") -> Iterator[Iterable[Member]]:
    """The members of a zip, tar or tar.gz: a list where all are known beforehand, else read as they come.

    Of a tar, each must be read before the next is asked for. `name` is what it will be called, if not so yet.

    Raises
    ------
    DataError naming archive and member, while it is opened or read within the context: for a path that leaves the
    folder, a link, a device, a name that comes twice, an encrypted member, more than `limits` allow, and an archive
    that is truncated or broken. UsageError for another suffix.
    """
    name = name or archive.name
    if not is_archive(name):
        raise UsageError(f"{archive}: expected a .zip, .tar, .tar.gz or .tgz")
    guard = _Guard(archive, limits or Limits())
    try:
        if name.lower().endswith(".zip"):
            with zipfile.ZipFile(archive) as source:
                yield _of_zip(source, guard)
        else:
            with archive.open("rb") as raw:
                plain = raw if name.lower().endswith(".tar") else gzip.GzipFile(fileobj=raw)
                yield _of_tar(raw, plain, guard)  # type: ignore[arg-type]
    except (*_BROKEN, OSError) as error:
        # Invalid is a place beyond any file, which a directory may name.
        if not isinstance(error, _BROKEN) and error.errno != errno.EINVAL:
            raise
        why = _short(str(error)) or type(error).__name__
        raise DataError(f"{archive}: truncated or broken archive ({why})") from None


def read_whole(archive: Path, limits: Limits | None = None, name: str = "") -> int:
    """Read all of an archive and keep nothing: the number of its files, or an error as `opened`."""
    count = 0
    with opened(archive, limits, name) as members:
        for member in members:
            if not member.is_folder:
                with member.open() as packed:
                    found = 0
                    while chunk := packed.read(CHUNK):
                        found += len(chunk)
                    require_size(member, found)
                count += 1
    return count


def require_size(member: Member, found: int) -> None:
    """EOFError, which `opened` explains, unless `found` bytes are what the member promised."""
    if found != member.size:
        raise EOFError(f"'{_short(str(member.path))}' has {found} bytes, not {member.size}")


@dataclass
class _Guard:
    """Checks each member before it is read, and counts."""

    archive: Path
    limits: Limits
    members: int = 0
    bytes: int = 0
    names: set[str] = field(default_factory=set)

    def refuse(self, name: str, why: str) -> DataError:
        return DataError(f"{self.archive}: refused: '{_short(name)}' {why}")

    def admit(self, name: str, size: int, is_folder: bool) -> PurePosixPath:
        """Its plain path; DataError if it must not be."""
        path = PurePosixPath(name)
        rooted = name.startswith(("/", "\\")) or ":" in name.partition("/")[0]
        if rooted or "\\" in name or _CONTROL.search(name) or not (path.parts or is_folder):
            raise self.refuse(name, "is no plain relative path")
        if ".." in path.parts:
            raise self.refuse(name, "leaves the folder")
        if len(path.parts) > self.limits.depth:
            raise self.refuse(name, f"lies deeper than {self.limits.depth} folders")
        if len(os.fsencode(name)) > _LONGEST_PATH or any(len(os.fsencode(p)) > _LONGEST_NAME for p in path.parts):
            raise self.refuse(name, f"is a name longer than {_LONGEST_NAME} bytes, or than {_LONGEST_PATH} in all")
        if size < 0:
            raise self.refuse(name, f"has {size} bytes")
        self.members += 1
        if self.members > self.limits.files:
            raise DataError(f"{self.archive}: refused: more than {self.limits.files} files")
        if not is_folder:
            if str(path) in self.names:
                raise self.refuse(name, "comes twice")
            self.names.add(str(path))
            self.count(size)
        return path

    def count(self, size: int) -> None:
        self.bytes += size
        most = self.limits.ratio * self.archive.stat().st_size + self.limits.harmless
        if self.bytes > most:
            raise DataError(
                f"{self.archive}: refused: unpacks to more than {most} bytes, over {self.limits.ratio} times its size"
            )


def _of_zip(source: zipfile.ZipFile, guard: _Guard) -> list[Member]:
    found, done, total = [], 0, sum(entry.file_size for entry in source.infolist())
    for entry in source.infolist():
        kind = stat.S_IFMT(entry.external_attr >> 16)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise guard.refuse(entry.filename, "is a link or a device")
        if entry.flag_bits & 1:
            raise guard.refuse(entry.filename, "is encrypted")
        # LZMA could ask for a dictionary of 4 GiB to unpack a byte; bzip2 is not met.
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise guard.refuse(entry.filename, f"is compressed by method {entry.compress_type}: only deflate is read")
        path = guard.admit(entry.filename, entry.file_size, entry.is_dir())
        found.append(
            Member(path, entry.file_size, entry.is_dir(), lambda entry=entry: source.open(entry), (done, total))  # type: ignore[misc]
        )
        done += entry.file_size
    return found


def _of_tar(raw: IO[bytes], plain: IO[bytes], guard: _Guard) -> Iterator[Member]:
    """`raw` is the file, `plain` what it unfolds to; a tarfile hides how far in they are, and how they end."""
    size = guard.archive.stat().st_size
    stream = _Sparing(plain, guard)
    with tarfile.open(fileobj=stream, mode="r:") as source:  # type: ignore[call-overload]
        for member in source:
            if not (member.isdir() or member.type in (tarfile.REGTYPE, tarfile.AREGTYPE)) or member.issparse():
                raise guard.refuse(member.name, "is a link, a device or a sparse file")
            # tarfile takes such a size for 0, and the file for empty.
            if not re.fullmatch(r"-?[0-9]{1,20}", member.pax_headers.get("size", "0")):
                raise guard.refuse(member.name, "has a size that is no number")
            path = guard.admit(member.name, member.size, member.isdir())
            stream.header = None
            # Not by `extract`: its filter, which it warns without from 3.12 on, came with 3.11.4.
            yield Member(path, member.size, member.isdir(), lambda m=member: source.extractfile(m), (raw.tell(), size))  # type: ignore[misc]
            stream.header = guard.limits.header
            source.members = []  # else all members seen are kept, which counts for a million files
        # tarfile takes an archive that is cut between two members, or garbled there, for one that ends; the rest must
        # be read anyway for gzip to compare its checksum.
        if stream.tell() != source.offset + tarfile.BLOCKSIZE:
            raise EOFError("it has no end mark")
        stream.header = None
        while chunk := stream.read(CHUNK):
            guard.count(len(chunk))
            if chunk.strip(b"\0"):
                raise tarfile.ReadError("there is something behind its end mark")


class _Sparing:
    """The stream a `tarfile` reads: what an archive says of one member is bounded before it is read.

    tarfile takes a long name or an extended header into memory at once, whatever size the archive promises for it, and
    one after another in recursion. `header` is how many bytes may still be read of them, None while content is read.
    """

    def __init__(self, stream: IO[bytes], guard: _Guard) -> None:
        self.stream, self.guard = stream, guard
        self.header: int | None = guard.limits.header
        self.tell, self.seekable = stream.tell, stream.seekable

    def read(self, size: int) -> bytes:
        if self.header is not None:
            if not 0 <= size <= self.header:
                most = self.guard.limits.header
                raise DataError(f"{self.guard.archive}: refused: the header of a member has more than {most} bytes")
            self.header -= size
            self.guard.count(size)
        return self.stream.read(size)

    def seek(self, place: int) -> int:
        if place < 0:
            raise tarfile.ReadError("a member begins before the archive does")
        return self.stream.seek(place)


def _short(text: str) -> str:
    return text if len(text) <= 100 else f"{text[:60]}...{text[-30:]}"
