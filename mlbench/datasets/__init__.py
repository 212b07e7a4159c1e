"""The catalogue: every data set by name, and people's own by their TOML description."""

from __future__ import annotations

import tomllib
from pathlib import Path

from mlbench.datasets.base import Dataset, Split
from mlbench.errors import UsageError, unknown

__all__ = ["Dataset", "Split", "list_datasets", "load_dataset"]

_BUILT_IN = {
    "coco2014": "MS-COCO 2014, train and val as test, from the official distribution (part of it: coco2014-partial)",
    "coco2014-all": "MS-COCO 2014 with the images that have no annotation (part of it: coco2014-all-partial)",
    "coco2017": "MS-COCO 2017, train and val as test, from the official distribution (part of it: coco2017-partial)",
    "cub": "CUB-200-2011, 312 attributes, from the official distribution (part of it: cub-partial)",
    "nuswide-official": "NUS-WIDE, 81 concepts, official lists, labelled images (part of it: nuswide-official-partial)",
    "nuswide-random150k": "NUS-WIDE, the labelled images split at random (part of it: nuswide-random150k-partial)",
    "nuswide-splc": "NUS-WIDE, SPLC's lists, one known label a training image (part of it: nuswide-splc-partial)",
    "nuswide-spml": "NUS-WIDE, the single-positive papers' re-crawl, from arrays (part of it: nuswide-spml-partial)",
    "nuswide-srn": "NUS-WIDE, the images SRN had, from lists of yours (part of it: nuswide-srn-partial)",
    "nuswide-tagged": "NUS-WIDE, images with labels and user tags (part of it: nuswide-tagged-partial)",
    "openimages-v3": "OpenImages V3, 5,000 trainable classes, verified labels (part of it: openimages-v3-partial)",
    "openimages-v4": "OpenImages, label files of V4 or later, classes of V3 (part of it: openimages-v4-partial)",
    "scenes": "embedded: 7,000 pictures of handwritten digits on photographs, made at first use, no files needed",
    "voc2007": "PASCAL VOC 2007, trainval and test, from the official distribution (part of it: voc2007-partial)",
    "voc2012": "PASCAL VOC 2012, train and val as test, from the official distribution (part of it: voc2012-partial)",
    "wider": "WIDER Attribute, 14 attributes of persons, trainval and test (part of it: wider-partial)",
}
# What the folder of each official distribution holds, for the message about a missing one.
_OFFICIAL = {
    "coco2014": "annotations/instances_train2014.json",
    "coco2014-all": "annotations/instances_train2014.json",
    "coco2017": "annotations/instances_train2017.json",
    "cub": "CUB_200_2011",
    "nuswide-official": "ImageList/TrainImagelist.txt",
    "nuswide-random150k": "ImageList/TrainImagelist.txt",
    "nuswide-splc": "nus_train_single.txt",
    "nuswide-spml": "formatted_train_labels.npy",
    "nuswide-srn": "ImageList/TrainImagelist.txt and srn/train.txt",
    "nuswide-tagged": "ImageList/TrainImagelist.txt and Train_Tags1k.dat or All_Tags.txt",
    "openimages-v3": "train/annotations-human.csv",
    "openimages-v4": "train-annotations-human-imagelabels.csv",
    "voc2007": "VOCdevkit/VOC2007",
    "voc2012": "VOCdevkit/VOC2012",
    "wider": "wider_attribute_annotation/wider_attribute_trainval.json",
}
_PARTIAL = tuple(f"{name}-partial" for name in _OFFICIAL)


def _descriptions() -> dict[str, Path]:
    """The shipped descriptions by data set name."""
    return {path.stem: path for path in sorted((Path(__file__).parent / "descriptions").glob("*.toml"))}


def list_datasets() -> dict[str, str]:
    """Name and one-line description of every data set that `load_dataset` knows; reads no data."""
    shipped = {
        name: str(tomllib.loads(path.read_text(encoding="utf-8"))["summary"]) for name, path in _descriptions().items()
    }
    return {**_BUILT_IN, **shipped}


def load_dataset(name: str, root: str | Path | None = None) -> Dataset:
    """Load a data set.

    Parameters
    ----------
    name : a name of `list_datasets`, with "-partial" after the name of an official distribution for a copy of it
        that is not complete, or the path of a ``.toml`` description (see `mlbench.datasets.description.Description`).
    root : folder the data lie in. `scenes` needs none; a description of your own defaults to its own folder.

    Returns
    -------
    Dataset. UsageError for an unknown name or a missing root, DataError for data that are missing or broken.
    """
    shipped = _descriptions()
    if name == "scenes":
        from mlbench.datasets.scenes import load_scenes

        return load_scenes()
    if name.endswith(".toml"):
        from mlbench.datasets.files import load_files

        return load_files(name, Path(name).parent if root is None else root)
    if name not in (*_BUILT_IN, *_PARTIAL, *shipped):
        raise unknown("data set", name, (*_BUILT_IN, *_PARTIAL, *shipped))
    if name in shipped:
        from mlbench.datasets.files import load_files, read_description

        about = read_description(shipped[name])
        return load_files(shipped[name], _needed(root, name, f"'{about.labels or about.images}'"))
    official, partial = name.removesuffix("-partial"), name in _PARTIAL
    return _load_official(official, _needed(root, name, _OFFICIAL[official]), partial)


def _load_official(name: str, root: Path, partial: bool) -> Dataset:
    if name == "cub":
        from mlbench.datasets.cub import load_cub

        return load_cub(root, partial)
    if name == "nuswide-splc":
        from mlbench.datasets.nuswide_splc import load_splc

        return load_splc(root, partial)
    if name == "nuswide-spml":
        from mlbench.datasets.nuswide_spml import load_spml

        return load_spml(root, partial)
    if name.startswith("nuswide"):
        from mlbench.datasets.nuswide import load_nuswide

        return load_nuswide(name.removeprefix("nuswide-"), root, partial)
    if name.startswith("openimages"):
        from mlbench.datasets.openimages import load_openimages

        return load_openimages(name.removeprefix("openimages-"), root, partial)
    if name == "wider":
        from mlbench.datasets.wider import load_wider

        return load_wider(root, partial)
    if name.startswith("coco"):
        from mlbench.datasets.coco import load_coco

        return load_coco(name.removeprefix("coco"), root, partial)
    from mlbench.datasets.voc import load_voc

    return load_voc(name.removeprefix("voc"), root, partial)


def _needed(root: str | Path | None, name: str, inside: str) -> Path:
    if root is None:
        raise UsageError(f"data set '{name}' needs its files: pass --data-root FOLDER, the folder that holds {inside}")
    return Path(root)
