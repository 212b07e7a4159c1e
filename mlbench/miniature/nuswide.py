"""NUS-WIDE by its official files: image lists, a label file a concept, the users' tags, SRN's lists."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mlbench.annotation import State
from mlbench.datasets.nuswide import SIZES, draw_splits
from mlbench.datasets.nuswide_files import N_TAGS, Pool
from mlbench.miniature.classes import read_classes, shares
from mlbench.miniature.labels import LEAST, draw_labels, part_sizes
from mlbench.miniature.pictures import Studio, place

_BARE = 0.1  # share of the images that no concept fits
_LEAST = 6  # positives of each concept in each part, so that the parts of a random split have some, too
_LOST = 0.1  # share of the images that SRN could no longer fetch
_TAGGED = 0.9  # share of the images whose users gave a frequent tag
_HIT, _NOISE = 0.6, 0.01  # chance of a tag that is the name of a concept, where it is present, and of any other


def concepts() -> list[str]:
    """The 81 concepts in the official order."""
    return list(read_classes()["nuswide"]["classes"])


def draw_part(
    studio: Studio, data: str, part: str, n: int, bare: float, least: int = LEAST
) -> tuple[list[str], np.ndarray]:
    """Names of `n` images (``clouds/0001_1000001.jpg``) and their concepts, bool [n, 81]; a share `bare` has none."""
    random, names = studio.stream(data, part), concepts()
    without = round(bare * n)
    present = np.zeros((n, len(names)), dtype=bool)
    present[random.permutation(n)[without:]] = draw_labels(random, n - without, shares("nuswide", names), least)
    first = {"Train": 1_000_000, "train": 1_000_000}.get(part, 2_000_000)
    topics = [names[row.argmax()] for row in present]
    return [f"{topic}/{row:04d}_{first + row}.jpg" for row, topic in enumerate(topics)], present


def take_part(studio: Studio, data: str, names: list[str], present: np.ndarray, folder: Path) -> None:
    """Write the pictures."""
    for name, row in zip(names, present, strict=True):
        kinds = np.flatnonzero(row).tolist()
        studio.take(name, place(studio.stream(data, "place", name), kinds, studio.size(name)), folder / name)


def write_concepts(root: Path) -> None:
    """``ConceptsList/Concepts81.txt``."""
    (root / "ConceptsList").mkdir(parents=True)
    (root / "ConceptsList" / "Concepts81.txt").write_text("".join(f"{c}\n" for c in concepts()), encoding="utf-8")


def write_official(data: str, root: Path, studio: Studio, images: int) -> dict[str, dict[str, np.ndarray]]:
    """All official files, from which ``nuswide-official``, ``-random150k``, ``-tagged`` and ``-srn`` are read."""
    own = "nuswide"
    for folder in ("ImageList", "Groundtruth/TrainTestLabels", "NUS_WID_Tags", "srn"):
        (root / folder).mkdir(parents=True)
    write_concepts(root)
    sizes = part_sizes(images, {"Train": SIZES["official"]["train"], "Test": SIZES["official"]["test"]})
    parts = {part: draw_part(studio, own, part, n, _BARE, _LEAST) for part, n in sizes.items()}
    tags = {}
    for part, (names, present) in parts.items():
        take_part(studio, own, names, present, root / "Flickr")
        listed = "".join(name.replace("/", "\\") + "\r\n" for name in names)
        (root / "ImageList" / f"{part}Imagelist.txt").write_bytes(listed.encode())
        for column, concept in enumerate(concepts()):
            path = root / "Groundtruth" / "TrainTestLabels" / f"Labels_{concept}_{part}.txt"
            path.write_text("".join(f"{int(value)}\n" for value in present[:, column]), encoding="utf-8")
        tags[part] = _write_tags(studio, root / "NUS_WID_Tags", part, names, present)
    return _versions(studio, root, parts, tags)


def _write_tags(studio: Studio, folder: Path, part: str, names: list[str], present: np.ndarray) -> np.ndarray:
    """The tags of a part; bool [n]: which images have a frequent one. The first 81 frequent tags are the concepts."""
    random = studio.stream("nuswide", "tags", part)
    tagged = random.random_sample(len(names)) < _TAGGED
    given = random.random_sample((len(names), N_TAGS)) < _NOISE
    given[:, : present.shape[1]] |= present & (random.random_sample(present.shape) < _HIT)
    given &= tagged[:, None]
    rows = [" ".join("1" if value else "0" for value in row) + " \n" for row in given]
    (folder / f"{part}_Tags1k.dat").write_text("".join(rows), encoding="utf-8")
    lines = []
    for name, row in zip(names, given, strict=True):
        words = " ".join(f"tag{number}" for number in np.flatnonzero(row))
        lines.append(f"{name.rpartition('_')[2].removesuffix('.jpg')}  {words}\n")
    with (folder / "All_Tags.txt").open("a", encoding="utf-8") as file:
        file.writelines(lines)
    return np.asarray(given.any(axis=1))


def _versions(
    studio: Studio, root: Path, parts: dict[str, tuple[list[str], np.ndarray]], tags: dict[str, np.ndarray]
) -> dict[str, dict[str, np.ndarray]]:
    """What each version holds; those that mlbench draws itself by its own draw."""
    labelled = {part: present[present.any(axis=1)] for part, (_, present) in parts.items()}
    names = [name for listed, _ in parts.values() for name in listed]
    present = np.concatenate([values for _, values in parts.values()])
    some, tagged = present.any(axis=1), np.concatenate(list(tags.values()))
    truth = {"nuswide-official": {"train": labelled["Train"], "test": labelled["Test"]}}
    for version, rows in (("random150k", np.flatnonzero(some)), ("tagged", np.flatnonzero(some & tagged))):
        states = np.where(present[rows], State.POSITIVE, State.NEGATIVE).astype(np.int8)
        drawn = draw_splits(Pool(tuple(names[row] for row in rows), states), SIZES[version], f"nuswide-{version}")
        truth[f"nuswide-{version}"] = {split: pool.labels == State.POSITIVE for split, pool in drawn.items()}
    truth["nuswide-srn"] = {}
    for split, part in (("train", "Train"), ("test", "Test")):
        listed, values = parts[part]
        kept = np.flatnonzero(studio.stream("nuswide", "srn", part).random_sample(len(listed)) >= _LOST)
        (root / "srn" / f"{split}.txt").write_text("".join(f"{listed[row]}\n" for row in kept), encoding="utf-8")
        truth["nuswide-srn"][split] = values[kept]
    return truth
