"""NUS-WIDE with its 81 concepts, read from the official distribution as unpacked, in the versions in circulation.

The versions hold other images or other splits of them: results on one are never those of another (attention facts
5.3, partial-label facts 4.2). ``nuswide-spml``, which comes as arrays, is read by `mlbench.datasets.nuswide_spml`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np

from mlbench.annotation import State
from mlbench.datasets.base import Dataset, Split, Tags
from mlbench.datasets.nuswide_files import (
    Pool,
    names_with_any_tag,
    names_with_frequent_tag,
    read_concepts,
    read_frequent_tags,
    read_image_list,
    read_labels,
)
from mlbench.datasets.official import find_folder, refuse_shared, rows_present
from mlbench.errors import DataError, unknown
from mlbench.images.decode import FileImages, first_few
from mlbench.seeds import derive, id_hashes, keyed_bits

#: Images in the list of each official part.
LISTED = {"Train": 161789, "Test": 107859}

#: Images of each split by version (attention facts 5.3). The labelled images of the official parts were counted in
#: another project's code; of them only the sum, 209,347, was counted by us.
SIZES: dict[str, dict[str, int]] = {
    "official": {"train": 125449, "test": 83898},
    "random150k": {"train": 150000, "test": 59347},
    "srn": {"train": 119986, "test": 80283},
    "tagged": {"train": 110000, "val": 40000, "test": 40253},
}

_TAG_FILES = {
    names_with_frequent_tag: ("Train_Tags1k.dat", "Test_Tags1k.dat"),
    names_with_any_tag: ("All_Tags.txt",),
}


def load_nuswide(version: str, root: str | Path, partial: bool = False) -> Dataset:
    """Load a version of NUS-WIDE that is made of the official files.

    Parameters
    ----------
    version :
        "official"
            The official Train and Test lists, images with at least one label.
        "random150k"
            A random split of all labelled images, as WARP and CNN-RNN have it. Unverified: theirs is not published,
            so the draw is ours.
        "srn"
            The images that SRN could still fetch. Its lists are not part of the official files: put them there as
            ``srn/train.txt`` and ``srn/test.txt``, one image name of the official lists a line. Labels are the
            official ones; images without a label are kept and counted.
        "tagged"
            Images with a label and tags, split at random as for Tag-Neighbors, with a validation part. Unverified:
            which images count as tagged (one of the 1,000 most frequent tags, or any tag) is not stated, so the
            reading is taken that gives the published number; the draw is ours.
    root : the folder, or one that holds it as ``NUS-WIDE``, with ``ImageList/{Train,Test}Imagelist.txt``,
        ``Groundtruth/TrainTestLabels/Labels_{concept}_{Train,Test}.txt``, ``Concepts81.txt`` (there or in
        ``ConceptsList``), and the images under ``Flickr``; for "tagged" also ``{Train,Test}_Tags1k.dat`` or
        ``All_Tags.txt`` (there or in ``NUS_WID_Tags``).
    partial : accept a copy with fewer images, as is usual since links died; the data set is then called
        ``nuswide-{version}-partial``. Without it such a copy is a DataError.

    Returns
    -------
    Dataset whose sample ids are the names in the image lists (``actor/0001_2124494179.jpg``), in their order (Train
    before Test), and whose classes stand in the order of Concepts81.txt. Images without a label are left out and
    counted. The source has no boxes. Where both Tags1k files are there, images have those tags of their users; they are
    read when a method asks for them.

    Raises
    ------
    DataError naming the file (and line) for anything missing, malformed or not as many as expected.
    """
    if version not in SIZES:
        raise unknown("version of NUS-WIDE", version, SIZES)
    name = f"nuswide-{version}"
    folder = find_folder(Path(root), "ImageList/TrainImagelist.txt", "NUS-WIDE")
    classes = read_concepts(folder)
    notes: list[str] = []
    pools = {part: _read_part(folder, classes, part, name, partial) for part in LISTED}
    refuse_shared({f"{folder}: {part}Imagelist.txt": pool.names for part, pool in pools.items()})
    if version == "srn":
        chosen = _listed_by_user(folder, Pool.join(*pools.values()), notes)
    else:
        labelled = {part: _labelled(pool, part, notes) for part, pool in pools.items()}
        if version == "official":
            chosen = {"train": labelled["Train"], "test": labelled["Test"]}
        else:
            pool = Pool.join(*labelled.values())
            if version == "tagged":
                pool = _tagged(folder, pool, {part: pools[part].names for part in pools}, partial, notes)
            chosen = draw_splits(pool, SIZES[version], name)
            notes.append("split drawn by mlbench: the published one is not available")
    tags_of = _user_tags(folder, {part: pools[part].names for part in pools})
    splits: dict[str, Split] = {}
    for split, pool in chosen.items():
        part = split.capitalize() if version == "official" else split
        files = [f"Flickr/{image}" for image in pool.names]
        there = rows_present(folder, files, part, SIZES[version][split], name, partial, notes)
        kept = pool.take(there)
        images = FileImages(folder, tuple(files[row] for row in there))
        splits[split] = Split(kept.names, kept.labels, images, tags=tags_of(kept.names))
    return Dataset(
        id=f"{name}-partial" if partial else name,
        version="1",
        classes=classes,
        splits=splits,
        notes=tuple(notes),
        source="NUS-WIDE, Groundtruth/TrainTestLabels",
    )


def _read_part(folder: Path, classes: tuple[str, ...], part: str, name: str, partial: bool) -> Pool:
    """All images of an official part with their labels."""
    path = folder / "ImageList" / f"{part}Imagelist.txt"
    names = read_image_list(path)
    if not partial and len(names) != LISTED[part]:
        raise DataError(
            f"{path}: {len(names)} images, expected {LISTED[part]}; ask for '{name}-partial' to use a partial copy"
        )
    return Pool(names, read_labels(folder, classes, part, len(names)))


def _labelled(pool: Pool, part: str, notes: list[str]) -> Pool:
    """The images with at least one label; `notes` counts the others."""
    has_label = (pool.labels == State.POSITIVE).any(axis=1)
    bare = np.flatnonzero(~has_label)
    if len(bare):
        listed = first_few([pool.names[row] for row in bare[:11]], 10)
        notes.append(f"{len(bare)} {part} images without a label left out: {listed}")
    return pool.take(np.flatnonzero(has_label))


def draw_splits(pool: Pool, sizes: dict[str, int], name: str) -> dict[str, Pool]:
    """Split `pool` at random into parts of `sizes` (or in their proportion, if it holds another number of images).

    Images are ranked by a hash of (name of the data set, image name), which no library's random generator, no order
    of the lists and no second draw can move; each part is in the order of `pool`.
    """
    order = np.argsort(keyed_bits(id_hashes(pool.names), derive("split", name)), kind="stable")
    share = len(pool.names) / sum(sizes.values())
    cuts = np.round(np.cumsum(list(sizes.values())) * share).astype(np.int64)[:-1]
    return {split: pool.take(np.sort(rows)) for split, rows in zip(sizes, np.split(order, cuts), strict=True)}


def _listed_by_user(folder: Path, pool: Pool, notes: list[str]) -> dict[str, Pool]:
    """The images of ``srn/train.txt`` and ``srn/test.txt``, in the order of those files."""
    row_of = {name: row for row, name in enumerate(pool.names)}
    used: dict[str, str] = {}
    chosen: dict[str, Pool] = {}
    for split in SIZES["srn"]:
        path = folder / "srn" / f"{split}.txt"
        if not path.is_file():
            raise DataError(f"{path}: no such file; SRN's lists do not come with NUS-WIDE: one image name a line")
        names = read_image_list(path)
        for number, name in enumerate(names, start=1):
            if name not in row_of:
                raise DataError(f"{path}, line {number}: '{name}' is in no official image list")
            if name in used:
                raise DataError(f"{path}, line {number}: '{name}' is in {used[name]}.txt, too")
        used |= dict.fromkeys(names, split)
        chosen[split] = pool.take(np.array([row_of[name] for name in names], dtype=np.int64))
        bare = int((~(chosen[split].labels == State.POSITIVE).any(axis=1)).sum())
        if bare:
            notes.append(f"{bare} {split} images without a label kept")
    return chosen


def _place_of(folder: Path, files: tuple[str, ...]) -> Path | None:
    """Where all of `files` are: `folder` or its ``NUS_WID_Tags``."""
    return next((p for p in (folder, folder / "NUS_WID_Tags") if all((p / f).is_file() for f in files)), None)


def _user_tags(folder: Path, lists: dict[str, tuple[str, ...]]) -> Callable[[tuple[str, ...]], Tags | None]:
    """What gives images, by their names, the tags of their users; they are read once."""
    files = _TAG_FILES[names_with_frequent_tag]
    place = _place_of(folder, files)
    if place is None:
        return lambda names: None
    row_of = {name: row for row, name in enumerate(name for part in lists.values() for name in part)}
    read = cache(lambda: read_frequent_tags(place, lists))
    origin = f"the most frequent tags of users ({' and '.join(files)})"
    return lambda names: Tags(read, origin, np.array([row_of[name] for name in names], dtype=np.int64))


def _tagged(folder: Path, pool: Pool, lists: dict[str, tuple[str, ...]], partial: bool, notes: list[str]) -> Pool:
    """The images of `pool` that have tags, in the reading of "tagged" that gives the published number."""
    expected = sum(SIZES["tagged"].values())
    found: dict[str, Pool] = {}
    for read, files in _TAG_FILES.items():
        place = _place_of(folder, files)
        if place is not None:
            tagged = read(place, lists)
            kept = pool.take(np.array([r for r, name in enumerate(pool.names) if name in tagged], dtype=np.int64))
            found[" and ".join(files)] = kept
    if not found:
        raise DataError(
            f"{folder}: no Train_Tags1k.dat with Test_Tags1k.dat, nor All_Tags.txt, there or in NUS_WID_Tags"
        )
    exact = [reading for reading, kept in found.items() if len(kept.names) == expected]
    if not exact and not partial:
        counts = "; ".join(f"{len(kept.names)} by {reading}" for reading, kept in found.items())
        raise DataError(f"{folder}: expected {expected} images with a label and tags, found {counts}")
    reading = exact[0] if exact else next(iter(found))
    notes.append(f"images without tags, by {reading}, left out: {len(pool.names) - len(found[reading].names)}")
    return found[reading]
