"""The catalogue of data sets."""

from __future__ import annotations

import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from mlbench.conformance.testing import tiny_dataset
from mlbench.datasets import DATASETS, Dataset, Described, list_datasets, load_dataset
from mlbench.datasets import built_in as built_in_sets
from mlbench.datasets.entries import Official
from mlbench.errors import MlbenchError, UsageError


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


def test_every_official_distribution_has_its_reader() -> None:
    official = {name: entry for name, entry in vars(built_in_sets).items() if isinstance(entry, Official)}
    assert len(official) == 17
    for entry in official.values():
        assert callable(pkgutil.resolve_name(entry.reader))
        assert DATASETS[entry.name] is entry
        with pytest.raises(UsageError, match=f"data set '{entry.name}-partial' needs its files"):
            load_dataset(f"{entry.name}-partial")


def tiny(root: Path | None) -> Dataset:
    """Made from nothing.

    Not shown.
    """
    return tiny_dataset()


class Shapes:
    """An object with a summary of its own."""

    summary = "coloured shapes"

    def load(self, root: Path | None) -> Dataset:
        if root is None:
            raise UsageError("where?")
        return tiny_dataset(train=int(root.name))


SHAPES = Shapes()


def test_a_function_and_an_object_of_another_package_are_data_sets(plug_in, mlbench) -> None:
    plug_in("datasets", "tiny", f"{__name__}:tiny")
    plug_in("datasets", "shapes", f"{__name__}:SHAPES")
    listed = list_datasets()
    assert (listed["tiny"], listed["shapes"]) == ("Made from nothing.", "coloured shapes")
    dataset = load_dataset("tiny")
    assert (dataset.id, dataset.owner) == ("tiny", "theirs 1.0")
    assert dataset.fingerprint == tiny_dataset().fingerprint
    assert load_dataset("theirs:tiny").owner == "theirs 1.0"
    with pytest.raises(
        MlbenchError, match=r"data set 'shapes' \(.*:SHAPES\): load gave a data set with id 'tiny', exp"
    ):
        load_dataset("shapes", "40")
    with pytest.raises(UsageError, match=r"where\?"):
        load_dataset("shapes")
    with pytest.raises(UsageError, match="unknown data set 'shapes-partial'"):
        load_dataset("shapes-partial")
    code, out, _ = mlbench("list", "datasets")
    assert code == 0
    assert "coloured shapes" in out


def broken(root: Path | None) -> Dataset:
    """Fails."""
    raise KeyError("gone")


def nothing(root: Path | None) -> None:
    """Gives nothing."""


def test_what_another_package_gets_wrong_is_one_line_and_blocks_no_list(plug_in) -> None:
    plug_in("datasets", "broken", f"{__name__}:broken")
    plug_in("datasets", "nothing", f"{__name__}:nothing")
    plug_in("datasets", "missing", f"{__name__}:MISSING")
    plug_in("datasets", "wrong", f"{__name__}:Shapes")
    listed = list_datasets()
    assert listed["broken"] == "Fails."
    assert "does not load: " in listed["missing"]
    assert "is neither a function load(root) nor an object that has one" in listed["wrong"]
    with pytest.raises(MlbenchError, match=r"data set 'broken' \(.*:broken\): load failed: KeyError: 'gone'"):
        load_dataset("broken")
    with pytest.raises(MlbenchError, match=r"load gave a NoneType, expected a mlbench.datasets.Dataset"):
        load_dataset("nothing")


def test_a_data_set_that_two_packages_claim_is_loaded_by_its_package(plug_in) -> None:
    plug_in("datasets", "tiny", f"{__name__}:tiny")
    plug_in("datasets", "tiny", f"{__name__}:broken", "other")
    with pytest.raises(UsageError, match=r"'tiny' is registered twice: .*:tiny \(theirs 1.0\) and .*\(other 1.0\)"):
        load_dataset("tiny")
    assert load_dataset("theirs:tiny").id == "tiny"
    assert {"theirs:tiny", "other:tiny"} <= list_datasets().keys()


def test_a_description_in_a_package_is_a_data_set(plug_in, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(photos.parent)
    described = Described(photos.name, "mine.toml")
    monkeypatch.setattr(sys.modules[__name__], "MINE", described, raising=False)
    plug_in("datasets", "mine", f"{__name__}:MINE")
    assert load_dataset("mine", photos).fingerprint == load_dataset(str(photos / "mine.toml")).fingerprint
    with pytest.raises(UsageError, match=r"--data-root FOLDER, the folder that holds 'labels.csv'"):
        load_dataset("mine")
