"""The catalogue of data sets."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from mlbench.datasets import list_datasets, load_dataset
from mlbench.errors import UsageError


def test_every_data_set_has_one_line() -> None:
    listed = list_datasets()
    assert {"scenes", "voc2007", "voc2012", "corel5k-199", "corel5k-260", "ccp", "coco256"} <= listed.keys()
    assert {"coco2014", "coco2017", "cub", "nuswide-official"} <= listed.keys()
    assert all(line and "\n" not in line for line in listed.values())


def test_listing_needs_no_torch() -> None:
    code = "import sys; from mlbench.datasets import list_datasets; list_datasets(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("name", "inside"),
    [
        ("voc2012", "VOCdevkit/VOC2012"),
        ("voc2007-partial", "VOCdevkit/VOC2007"),
        ("ccp", "'ccp/labels.csv'"),
        ("coco2014", "annotations/instances_train2014.json"),
        ("coco2017-partial", "annotations/instances_train2017.json"),
        ("cub", "CUB_200_2011"),
        ("nuswide-official-partial", "ImageList/TrainImagelist.txt"),
        ("nuswide-random150k", "ImageList/TrainImagelist.txt"),
        ("nuswide-spml", "formatted_train_labels.npy"),
        ("nuswide-srn-partial", "ImageList/TrainImagelist.txt and srn/train.txt"),
        ("nuswide-tagged", "ImageList/TrainImagelist.txt and Train_Tags1k.dat or All_Tags.txt"),
        ("coco2014-all", "annotations/instances_train2014.json"),
    ],
)
def test_a_missing_root_says_what_to_pass(name: str, inside: str) -> None:
    with pytest.raises(UsageError, match=f"--data-root FOLDER, the folder that holds {inside}"):
        load_dataset(name)


def test_an_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"unknown data set 'voc2021'. Did you mean 'voc2012'"):
        load_dataset("voc2021", "anywhere")


def test_a_description_of_ones_own_is_loaded_by_path_beside_its_files(tmp_path: Path) -> None:
    for name in ("train/cat/1.png", "test/cat/1.png"):
        (tmp_path / "photos" / name).parent.mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(tmp_path / "photos" / name)
    path = tmp_path / "own.toml"
    path.write_text('id = "own"\nimages = "photos"\nsplits = { train = "train", test = "test" }\n')
    dataset = load_dataset(str(path))
    assert (dataset.id, dataset.classes, len(dataset.splits["train"])) == ("own", ("cat",), 1)
    assert load_dataset(str(path), tmp_path).fingerprint == dataset.fingerprint
