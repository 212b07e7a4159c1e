"""What lies in a folder of pictures, which name was meant where one is missing, and files that are the same."""

from __future__ import annotations

import difflib
import os
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from mlbench.errors import DataError, visible
from mlbench.files import sha256_file
from mlbench.images.decode import file_size

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")

#: Entries that programs and systems leave behind, beside those whose name begins with a dot.
_SYSTEM = frozenset(
    ("__macosx", "@eadir", "#recycle", "$recycle.bin", "system volume information", "lost+found", "__pycache__")
)
_SYSTEM_FILES = frozenset(("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"))
#: Folders of small copies, left out below the folder of a class; as a class of its own one is taken, "thumbs" say.
_THUMBNAILS = frozenset(("thumbs", "thumbnails", "thumbnail", "_thumbs", "_thumbnails"))
_NEAREST_OF = 5000


@dataclass
class Contents:
    """Names below a folder, sorted, with forward slashes: images by their suffix, other files, hidden and system."""

    images: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    hidden: list[str] = field(default_factory=list)


def look_into(folder: Path, classes_below: Sequence[str] = ()) -> Contents:
    """All that lies below `folder`; symbolic links are followed.

    Parameters
    ----------
    classes_below : folders whose subfolders are classes: what is left out within those only is told by its depth.

    Returns
    -------
    Contents. DataError for a folder that cannot be read, and for a link that leads back to a folder it lies in.
    """
    found = Contents()

    def stop(error: OSError) -> None:
        raise DataError(f"{error.filename or folder}: not readable ({error.strerror or error})")

    for base, below, files in os.walk(folder, followlinks=True, onerror=stop):
        place = Path(base).relative_to(folder).as_posix()
        kept = []
        for name in sorted(below):
            path = _join(place, name)
            if _is_hidden(name) or (name.lower() in _THUMBNAILS and _within_class(path, classes_below)):
                found.hidden.append(f"{path}/")
                continue
            _refuse_loop(Path(base) / name)
            kept.append(name)
        below[:] = kept
        for name in files:
            kind = found.images if name.lower().endswith(IMAGE_SUFFIXES) else found.others
            (found.hidden if _is_hidden(name) else kind).append(_join(place, name))
    for names in (found.images, found.others, found.hidden):
        names.sort()
    return found


def _join(place: str, name: str) -> str:
    return name if place == "." else f"{place}/{name}"


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name.lower() in _SYSTEM | _SYSTEM_FILES


def _within_class(path: str, classes_below: Sequence[str]) -> bool:
    """Whether the folder `path` lies within the folder of a class."""
    below = [prefix for prefix in classes_below if prefix == "." or path.startswith(f"{prefix}/")]
    if not below:
        return False
    prefix = max(below, key=len)
    return len(PurePosixPath(path).parts) - len(PurePosixPath(prefix).parts) > 1


def _refuse_loop(path: Path) -> None:
    if path.is_symlink():
        real = path.resolve()
        if real == path.parent.resolve() or real in path.parent.resolve().parents:
            raise DataError(f"{path}: a symbolic link to a folder that it lies in ({real})")


def near_file(name: str, present: Sequence[str], guess: bool = True) -> str:
    """What is there in place of the missing file `name`, in words, or an empty string; `guess`: also the likeliest."""
    key = _likeness(name)
    for other in present:
        if _likeness(other) == key:
            same = unicodedata.normalize("NFC", other) == unicodedata.normalize("NFC", name)
            how = "the same letters in another Unicode form" if same else "another spelling"
            return f"; there is '{visible(other)}', {how} ({other!a})"
    for other in present:
        if other.startswith(f"{name}.") and PurePosixPath(other).stem == PurePosixPath(name).name:
            suffix = PurePosixPath(other).suffix
            return f"; there is '{visible(other)}': suffix = \"{suffix}\" in the description adds the ending"
    stem = str(PurePosixPath(key).with_suffix(""))
    for other in present:
        if str(PurePosixPath(_likeness(other)).with_suffix("")) == stem or other.endswith(f"/{name}"):
            return f"; there is '{visible(other)}'"
    for other in present:
        if name.endswith(f"/{other}"):
            return f"; there is '{visible(other)}': 'images' may name a folder too deep"
    found = difflib.get_close_matches(name, present[:_NEAREST_OF], n=1, cutoff=0.6) if guess else []
    return f"; there is '{visible(found[0])}'" if found else ""


def _likeness(name: str) -> str:
    return unicodedata.normalize("NFC", name.replace("\\", "/").removeprefix("./")).casefold()


def equal_files(files: Iterable[tuple[int, str, Path]]) -> list[list[int]]:
    """Groups of rows whose files have equal bytes, in the order of their first row.

    `files` are (row, kind, path): only files of one kind are compared, and only those of equal size are read.
    """
    by_size: dict[tuple[str, int], list[tuple[int, Path]]] = defaultdict(list)
    for row, kind, path in files:
        by_size[kind, file_size(path)].append((row, path))
    groups: list[list[int]] = []
    for candidates in by_size.values():
        if len(candidates) > 1:
            by_content: dict[str, list[int]] = defaultdict(list)
            for row, path in candidates:
                by_content[sha256_file(path)].append(row)
            groups += [rows for rows in by_content.values() if len(rows) > 1]
    return sorted(groups)
