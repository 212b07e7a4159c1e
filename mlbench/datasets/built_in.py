"""Our data sets, as the package registers them. Nothing is read, and no reader imported, before one is loaded."""

from __future__ import annotations

from pathlib import Path

from mlbench.datasets.base import Dataset
from mlbench.datasets.entries import Described, Official

_COCO = "mlbench.datasets.coco:load_coco"
_NUSWIDE = "mlbench.datasets.nuswide:load_nuswide"
_OPENIMAGES = "mlbench.datasets.openimages:load_openimages"
_VOC = "mlbench.datasets.voc:load_voc"
_IMAGE_LIST = "ImageList/TrainImagelist.txt"

COCO2014 = Official(
    "coco2014",
    "MS-COCO 2014, train and val as test, from the official distribution",
    "annotations/instances_train2014.json",
    _COCO,
    "2014",
)
COCO2014_ALL = Official(
    "coco2014-all",
    "MS-COCO 2014 with the images that have no annotation",
    "annotations/instances_train2014.json",
    _COCO,
    "2014-all",
)
COCO2017 = Official(
    "coco2017",
    "MS-COCO 2017, train and val as test, from the official distribution",
    "annotations/instances_train2017.json",
    _COCO,
    "2017",
)
CUB = Official(
    "cub",
    "CUB-200-2011, 312 attributes, from the official distribution",
    "CUB_200_2011",
    "mlbench.datasets.cub:load_cub",
)
NUSWIDE_ASL = Official(
    "nuswide-asl",
    "NUS-WIDE, the split of ASL and SPLC (119,103 / 50,720), from their table",
    "nus_wid_data.csv",
    "mlbench.datasets.nuswide_asl:load_nuswide_asl",
)
NUSWIDE_OFFICIAL = Official(
    "nuswide-official",
    "NUS-WIDE, 81 concepts, official lists, labelled images",
    _IMAGE_LIST,
    _NUSWIDE,
    "official",
)
NUSWIDE_RANDOM150K = Official(
    "nuswide-random150k", "NUS-WIDE, the labelled images split at random", _IMAGE_LIST, _NUSWIDE, "random150k"
)
NUSWIDE_SPLC = Official(
    "nuswide-splc",
    "NUS-WIDE, SPLC's lists, one known label a training image",
    "nus_train_single.txt",
    "mlbench.datasets.nuswide_splc:load_splc",
)
NUSWIDE_SPML = Official(
    "nuswide-spml",
    "NUS-WIDE, the single-positive papers' re-crawl, from arrays",
    "formatted_train_labels.npy",
    "mlbench.datasets.nuswide_spml:load_spml",
)
NUSWIDE_SRN = Official(
    "nuswide-srn",
    "NUS-WIDE, the images SRN had, from lists of yours",
    f"{_IMAGE_LIST} and srn/train.txt",
    _NUSWIDE,
    "srn",
)
NUSWIDE_TAGGED = Official(
    "nuswide-tagged",
    "NUS-WIDE, images with labels and user tags",
    f"{_IMAGE_LIST} and Train_Tags1k.dat or All_Tags.txt",
    _NUSWIDE,
    "tagged",
)
OPENIMAGES_V3 = Official(
    "openimages-v3",
    "OpenImages V3, 5,000 trainable classes, verified labels",
    "train/annotations-human.csv",
    _OPENIMAGES,
    "v3",
)
OPENIMAGES_V4 = Official(
    "openimages-v4",
    "OpenImages, label files of V4 or later, classes of V3",
    "train-annotations-human-imagelabels.csv",
    _OPENIMAGES,
    "v4",
)
VG_200 = Official(
    "vg-200",
    "Visual Genome, 200 categories, as papers on partial labels use it (counts unverified)",
    "vg_category_200_labels_index.json",
    "mlbench.datasets.visual_genome:load_vg200",
)
VOC2007 = Official(
    "voc2007",
    "PASCAL VOC 2007, trainval and test, from the official distribution",
    "VOCdevkit/VOC2007",
    _VOC,
    "2007",
)
VOC2012 = Official(
    "voc2012",
    "PASCAL VOC 2012, train and val as test, from the official distribution",
    "VOCdevkit/VOC2012",
    _VOC,
    "2012",
)
WIDER = Official(
    "wider",
    "WIDER Attribute, 14 attributes of persons, trainval and test",
    "wider_attribute_annotation/wider_attribute_trainval.json",
    "mlbench.datasets.wider:load_wider",
)

CCP = Described(__package__, "descriptions/ccp.toml")
COCO256 = Described(__package__, "descriptions/coco256.toml")
COREL5K_199 = Described(__package__, "descriptions/corel5k-199.toml")
COREL5K_260 = Described(__package__, "descriptions/corel5k-260.toml")


def scenes(root: Path | None = None) -> Dataset:
    """embedded: 7,000 pictures of handwritten digits on photographs, made at first use, no files needed"""
    from mlbench.datasets.scenes import load_scenes

    return load_scenes()


def scenes_2(root: Path | None = None) -> Dataset:
    """embedded: the second edition of scenes: 15,000 pictures, on which runs of a method are alike; no files needed"""
    from mlbench.datasets.scenes import SECOND, load_scenes

    return load_scenes(SECOND)
