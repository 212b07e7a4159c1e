"""The files that people's labels lie in: which of them there are, the part each is of, and what COCO's form says."""

from __future__ import annotations

import mmap
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from mlbench.datasets.description import PARTS
from mlbench.datasets.folders import look_into
from mlbench.datasets.guess import PART_WORDS
from mlbench.datasets.reading import entries_of, file_name, is_number, read_json
from mlbench.errors import DataError
from mlbench.images.decode import first_few

#: Endings of tables of labels.
TABLES = (".csv", ".tsv", ".txt", ".jsonl", ".ndjson", ".parquet")
#: Names that a folder of pictures usually has, in the order they are looked for.
USUAL_FOLDERS = ("images", "pictures", "photos", "img", "imgs", "data", "train")
_COCO_LISTS = ("images", "annotations", "categories")
_ID = (int, str)


@dataclass(frozen=True)
class Coco:
    """A file of COCO's form: names of its categories, file by image id, and (image id, category's name, box) of each
    annotation; a box is x, y, width, height in pixels, None where there is none.
    """

    classes: tuple[str, ...]
    files: dict[int | str, str]
    found: list[tuple[int | str, str, list[float] | None]]


def part_in(name: str) -> str:
    """The part that a name speaks of ("instances_train2017": train); "" if of none, or of more than one."""
    told = {PART_WORDS[word] for word in re.findall("[a-z]+", name.lower()) if word in PART_WORDS}
    return told.pop() if len(told) == 1 else ""


def parts_of(sources: Sequence[Path]) -> dict[Path, str]:
    """The part of each file or folder, by its name, else by that of the folder it lies in, ordered by parts; "" of a
    single one.

    DataError if one of several does not tell, or if none of them is to be trained on, or none is not.
    """
    if len(sources) == 1:
        return {sources[0]: ""}
    shared = Path(os.path.commonpath([path.resolve().parent for path in sources]))
    own = {path: path.resolve().parent for path in sources}
    parts = {path: part_in(path.stem) or (part_in(own[path].name) if own[path] != shared else "") for path in sources}
    unknown = [path for path, part in parts.items() if not part]
    if unknown or "train" not in parts.values() or len(set(parts.values())) < 2:
        which = f"the name of {unknown[0]} does not say which" if unknown else "expected train and another"
        raise DataError(
            f"{first_few([str(path) for path in sources])}: several files or folders are the parts of a data set, and "
            f"{which} (words such as {', '.join(PARTS)} in a name do)"
        )
    if len({path.is_dir() for path in sources}) > 1:
        raise DataError(f"{first_few([str(path) for path in sources])}: files and folders; expected one kind")
    return dict(sorted(parts.items(), key=lambda item: PARTS.index(item[1])))


def label_files(folder: Path) -> list[Path]:
    """The files in `folder` that hold the labels of its pictures; none where the folders' names are the labels.

    Files of COCO's form count wherever they lie; tables at the top only, and where no folder's name can be a label.
    DataError where several could be meant.
    """
    below = sorted(path for pattern in ("*.json", "*/*.json") for path in folder.glob(pattern) if path.is_file())
    found = [path for path in below if _of_coco_form(path)]
    instances = [path for path in found if path.stem.startswith("instances")]
    found = instances or found
    if not found:
        usual = {*PART_WORDS, *USUAL_FOLDERS}
        named = {part for name in look_into(folder).images for part in PurePosixPath(name).parts[:-1]}
        if any(name.lower() not in usual for name in named):
            return []
        found = sorted(path for path in folder.iterdir() if path.suffix.lower() in TABLES and path.suffix != ".txt")
    if len(found) > 1:
        parts = parts_of(found)
        for part in PARTS:
            meant = [str(path.relative_to(folder)) for path, own in parts.items() if own == part]
            if len(meant) > 1:
                raise DataError(
                    f"{folder}: several files could be the labels of its {part} part: {first_few(meant)}; name those "
                    "that are meant"
                )
    return found


def _of_coco_form(path: Path) -> bool:
    """Whether the names of COCO's lists stand in the file: it may be large, and is read later."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return all(content.find(f'"{key}"'.encode()) >= 0 for key in _COCO_LISTS)
    except (OSError, ValueError):  # an empty file cannot be mapped
        return False


def read_coco(source: Path) -> Coco:
    """Read and check a file of COCO's form; DataError names the file and what is wrong with it."""
    content: Any = read_json(source)
    if not isinstance(content, dict) or not all(isinstance(content.get(key), list) for key in _COCO_LISTS):
        raise DataError(f"{source}: not of COCO's form (an object with the lists {', '.join(_COCO_LISTS)})")
    kinds: dict[str, dict[str, Any]] = {
        "categories": {"name": str},
        "images": {"file_name": str},
        "annotations": {"image_id": _ID},
    }
    listed = {key: entries_of(content, key, source, {"id": _ID, **more}) for key, more in kinds.items()}
    classes = {entry["id"]: entry["name"].strip() for entry in listed["categories"]}
    files = {entry["id"]: file_name(entry["file_name"], str(source)) for entry in listed["images"]}
    for key, names in (("images", files), ("categories", classes)):
        if len(names) < len(listed[key]):
            raise DataError(f"{source}: an id stands twice in '{key}'")
    twice = [file for file, count in Counter(files.values()).items() if count > 1]
    if twice:
        raise DataError(f"{source}: a file is listed under two image ids: {twice[0]}")
    found: list[tuple[int | str, str, list[float] | None]] = []
    for entry in listed["annotations"]:
        image, category, box = entry["image_id"], entry.get("category_id"), entry.get("bbox")
        if image not in files or not isinstance(category, int | str) or category not in classes:
            raise DataError(f"{source}: an annotation of image {image!r}, category {category!r}, which are not listed")
        whole = isinstance(box, list) and len(box) == 4 and all(map(is_number, box)) and min(box[2:]) > 0
        found.append((image, classes[category], box if whole else None))
    return Coco(tuple(classes.values()), files, found)
