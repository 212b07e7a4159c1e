"""Miniatures: each is read by the adapter of the data set whose name it bears, and never passes for it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlbench.annotation import State
from mlbench.annotation.sparse import SparseLabels, count_states
from mlbench.datasets import DATASETS, Dataset, load_dataset
from mlbench.datasets.miniature import MARKER
from mlbench.datasets.openimages import N_CLASSES
from mlbench.errors import DataError, UsageError
from mlbench.miniature import list_miniatures, make
from mlbench.miniature.classes import coco_categories, cub_attributes, long_tail, read_classes, shares
from mlbench.miniature.labels import draw_labels, part_sizes

SMALL = 60


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the small miniatures of this module lie, each under its name."""
    return tmp_path_factory.mktemp("miniatures")


def small(name: str, folder: Path) -> Path:
    return make(name, folder / name, images=SMALL)


def hashes(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def positives(dataset: Dataset, part: str) -> np.ndarray:
    return count_states(dataset.splits[part].labels, State.POSITIVE)


# --- every data set ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list_miniatures())
def test_the_adapter_reads_what_was_written(name: str, folder: Path) -> None:
    root = small(name, folder)
    written = json.loads((root / MARKER).read_text())["datasets"][name]
    dataset = load_dataset(name, root)
    assert dataset.id == name
    assert {part: len(split) for part, split in dataset.splits.items()} == {p: v["samples"] for p, v in written.items()}
    for part, split in dataset.splits.items():
        assert positives(dataset, part).tolist() == written[part]["positives"]
        assert split.images.load(0).shape[2] == 3
    assert dataset.is_miniature
    assert dataset.version == "1-miniature"
    assert dataset.source.startswith("MINIATURE of ")
    assert "not the data set" in dataset.notes[0]
    assert not [note for note in dataset.notes if "partial copy" in note]


def test_there_is_one_of_every_official_distribution() -> None:
    assert set(list_miniatures()) == {name for name in DATASETS if hasattr(DATASETS[name], "load_partial")}


@pytest.mark.parametrize("name", ["voc2012", "coco2014", "cub", "wider", "openimages-v3", "nuswide-tagged", "vg-200"])
def test_the_same_call_gives_the_same_bytes_and_another_seed_does_not(name: str, folder: Path, tmp_path: Path) -> None:
    first = hashes(small(name, folder))
    assert hashes(make(name, tmp_path / "again", images=SMALL)) == first
    other = hashes(make(name, tmp_path / "other", images=SMALL, seed=1))
    assert other.keys() != first.keys() or other != first
    images = [path for path in first if path.endswith(".jpg")]
    assert len({first[path] for path in images}) == len(images)  # none twice


# --- what belongs to one of them --------------------------------------------------------------------------------------


def test_voc_has_difficult_objects_and_boxes(folder: Path) -> None:
    for name in ("voc2007", "voc2012"):
        train = load_dataset(name, small(name, folder)).splits["train"]
        assert isinstance(train.labels, np.ndarray)
        assert (train.labels == State.UNSPECIFIED).any()
        assert train.boxes is not None
        seen = {(int(row), int(column)) for row, column in train.boxes[:, :2]}
        assert seen == set(zip(*(map(int, axis) for axis in np.nonzero(train.labels == State.POSITIVE)), strict=True))


def test_coco_has_crowds_and_images_without_an_annotation_which_its_other_version_keeps(folder: Path) -> None:
    root = small("coco2014", folder)
    some, every = (load_dataset(name, root) for name in ("coco2014", "coco2014-all"))
    assert len(every.splits["train"]) > len(some.splits["train"])
    assert [note for note in some.notes if "frame a crowd" in note]
    assert make("coco2014-all", root, images=SMALL) == root  # the same files


def test_published_lists_are_there(folder: Path) -> None:
    for name, shown in (
        ("coco2014", ("single", "0.4", "0.75", "full")),
        ("voc2012", ("single",)),
        ("cub", ("single",)),
    ):
        train = load_dataset(name, small(name, folder)).splits["train"]
        assert train.lists is not None
        for which in shown:
            listed = train.lists.load(which) == State.POSITIVE
            assert (np.asarray(train.labels)[listed] == State.POSITIVE).all()
            assert listed.any(axis=1).all()
            assert which != "single" or (listed.sum(axis=1) == 1).all()
            assert which != "full" or (listed == (train.labels == State.POSITIVE)).all()


def test_wider_has_several_persons_an_image_and_unspecified_attributes(folder: Path) -> None:
    split = load_dataset("wider", small("wider", folder)).splits["train"]
    assert len(set(split.groups)) < len(split)
    assert set(np.unique(np.asarray(split.labels))) == {State.POSITIVE, State.NEGATIVE, State.UNSPECIFIED}


def test_nuswide_has_tags_that_tell_of_the_labels(folder: Path) -> None:
    split = load_dataset("nuswide-tagged", small("nuswide-tagged", folder)).splits["train"]
    assert split.tags is not None
    tags, present = split.tags.load(), np.asarray(split.labels) == State.POSITIVE
    own = tags[:, : present.shape[1]]
    assert own[present].mean() > 10 * own[~present].mean()


def test_each_group_of_openimages_has_classes_that_can_be_scored(folder: Path) -> None:
    dataset = load_dataset("openimages-v3", small("openimages-v3", folder))
    train, test = dataset.splits["train"].labels, dataset.splits["test"].labels
    assert isinstance(train, SparseLabels)
    counts = count_states(train, State.POSITIVE) + count_states(train, State.NEGATIVE)
    scored = (count_states(test, State.POSITIVE) > 0) & (count_states(test, State.NEGATIVE) > 0)
    groups = np.array_split(np.argsort(counts, kind="stable"), 5)
    assert len(groups[0]) == N_CLASSES // 5
    assert all(scored[group].any() for group in groups)


# --- names and numbers ------------------------------------------------------------------------------------------------


def test_class_lists_are_the_official_ones() -> None:
    categories = coco_categories()
    known = {1: "person", 13: "stop sign", 27: "backpack", 46: "wine glass", 67: "dining table", 90: "toothbrush"}
    assert len(set(categories.values())) == len(categories) == 80
    assert {number: categories[number] for number in known} == known
    assert not {12, 26, 29, 30, 45, 66, 68, 69, 71, 83} & categories.keys()
    about = read_classes()
    assert len(set(about["nuswide"]["classes"])) == 81
    assert about["nuswide"]["classes"] == sorted(about["nuswide"]["classes"])
    assert len(about["wider"]["classes"]) == 14
    attributes, parts = cub_attributes()
    assert (len(set(attributes)), len(set(parts))) == (312, 28)
    assert attributes[0] == "has_bill_shape::curved_(up_or_down)"
    assert attributes[-1] == "has_wing_pattern::multi-colored"
    for name in ("coco", "nuswide", "wider"):
        assert set(about[name]["head"]) <= set(about[name]["classes"])


def test_a_long_tail_falls_from_the_first_share_to_the_wanted_mean() -> None:
    found = long_tail(80, 0.55, 2.9)
    assert found[0] == pytest.approx(0.55)
    assert found.sum() == pytest.approx(2.9)
    assert (np.diff(found) < 0).all()
    person = shares("coco", read_classes()["coco"]["classes"])[0]
    assert person == pytest.approx(0.55)
    assert shares("voc2012", [])[14] == pytest.approx(1994 / 5717)


def test_labels_keep_shares_a_few_of_each_class_and_leave_no_image_bare() -> None:
    wanted = long_tail(80, 0.55, 2.9)
    present = draw_labels(np.random.RandomState(0), 400, wanted)
    counts = present.sum(axis=0)
    assert present.any(axis=1).all()
    assert counts.min() >= 3
    assert counts[0] / 400 == pytest.approx(0.55, abs=0.1)
    assert counts[-1] <= 5
    together = np.corrcoef(present[:, :20].T)  # some classes go together
    assert np.abs(together - np.eye(20)).max() > 0.15
    assert draw_labels(np.random.RandomState(0), 5, wanted).any(axis=1).all()


def test_parts_are_divided_as_the_official_ones_with_a_fifth_at_least() -> None:
    assert part_sizes(1000, {"train": 700, "test": 300}) == {"train": 700, "test": 300}
    sizes = part_sizes(400, {"train": 9_000_000, "val": 41_000, "test": 125_000})
    assert sum(sizes.values()) == 400
    assert min(sizes.values()) >= 400 // 7


# --- it never passes for the data set ---------------------------------------------------------------------------------


def test_without_its_marker_it_is_an_incomplete_copy(folder: Path, tmp_path: Path) -> None:
    root = make("coco2014", tmp_path / "copy", images=SMALL)
    (root / MARKER).unlink()
    with pytest.raises(DataError, match="ask for 'coco2014-partial'"):
        load_dataset("coco2014", root)
    with pytest.raises(UsageError, match="a miniature, which has no parts"):
        load_dataset("coco2014-partial", small("coco2014", folder))


def test_it_is_found_from_within_and_refused_from_above(folder: Path, tmp_path: Path) -> None:
    root = small("voc2012", folder)
    assert load_dataset("voc2012", root / "VOCdevkit" / "VOC2012").is_miniature
    make("coco2017", tmp_path / "coco", images=SMALL)
    with pytest.raises(DataError, match="is a miniature: give its own folder"):
        load_dataset("coco2017", tmp_path)


def test_one_of_something_else_and_one_that_was_changed_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="a miniature of voc2012, not of 'cub'"):
        load_dataset("cub", _with_marker_of(small("voc2012", folder), make("cub", tmp_path / "cub", images=SMALL)))
    root = make("voc2012", tmp_path / "voc", images=SMALL)
    lists = root / "VOCdevkit" / "VOC2012" / "ImageSets" / "Main"
    file = lists / "cow_train.txt"
    file.write_text(file.read_text().replace(" -1\n", "  1\n", 1))
    with pytest.raises(DataError, match=r"other numbers of positives of cow\); make the miniature again"):
        load_dataset("voc2012", root)
    (root / MARKER).write_text("[]")
    with pytest.raises(DataError, match="not a marker of a miniature"):
        load_dataset("voc2012", root)


def _with_marker_of(other: Path, root: Path) -> Path:
    (root / MARKER).write_bytes((other / MARKER).read_bytes())
    return root


def test_the_command_line_makes_describes_and_verifies_one(mlbench: Callable[..., Any], tmp_path: Path) -> None:
    root = tmp_path / "wider"
    code, out, err = mlbench("data", "miniature", "wider", "--to", root, "--images", SMALL)
    assert (code, err) == (0, "")
    assert f"--dataset wider --data-root {root}" in out
    assert "made-up copy" in mlbench("data", "describe", "wider", "--root", root)[1]
    code, out, _ = mlbench("data", "verify", "wider", "--root", root)
    assert code == 0
    assert "counts as its own marker has them" in out
    code, _, err = mlbench("data", "prepare", "wider", "--root", root)
    assert code == 2
    assert "a miniature; prepare the data set in a folder of its own" in err
    assert " yes" not in mlbench("data", "list", "--root", root)[1]


def test_wrong_calls_are_told(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(UsageError, match=r"unknown miniature 'coco214'\. Did you mean 'coco2014'"):
        make("coco214", tmp_path / "x")
    with pytest.raises(UsageError, match="--images 5: expected"):
        make("cub", tmp_path / "x", images=5)
    with pytest.raises(UsageError, match="--seed -1: expected"):
        make("cub", tmp_path / "x", seed=-1)
    with pytest.raises(UsageError, match="holds another miniature"):
        make("voc2012", small("voc2012", folder), images=SMALL, seed=5)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").touch()
    with pytest.raises(UsageError, match="not empty"):
        make("cub", tmp_path / "full", images=SMALL)
    with pytest.raises(UsageError, match="no folder"):
        make("cub", tmp_path / "full" / "thesis.txt", images=SMALL)
    with pytest.raises(UsageError, match="no pictures in it"):
        make("cub", tmp_path / "x", photographs=tmp_path / "full")
    with pytest.raises(UsageError, match="no such folder"):
        make("cub", tmp_path / "x", photographs=tmp_path / "nowhere")
    assert not (tmp_path / "x").exists()


def test_photographs_of_ones_own(photos: Path, tmp_path: Path) -> None:
    root = make("voc2007", tmp_path / "own", images=SMALL, photographs=photos / "pictures")
    assert json.loads((root / MARKER).read_text())["photographs"] == "34 of pictures"
    assert load_dataset("voc2007", root).is_miniature


# --- runs -------------------------------------------------------------------------------------------------------------


def test_a_run_learns_and_no_table_takes_it_for_one_on_the_data_set(
    mlbench: Callable[..., Any], tmp_path: Path
) -> None:
    from mlbench.report.paper_tables import paper_tables
    from mlbench.report.tables import build_table
    from mlbench.store import find_records

    root = make("voc2012", tmp_path / "voc", images=300)
    settings = ("train.lr=1e-3", "train.batch_size=4", "train.image_size=48", "train.epochs=6")
    code, out, err = mlbench(
        *("run", "--dataset", "voc2012", "--data-root", root, "--protocol", "single_positive", "--method", "full"),
        *("--backbone", "scenes", "--track", "full", "--store", tmp_path / "runs", "--device", "cpu", "--quiet"),
        *(part for setting in settings for part in ("--set", setting)),
    )
    assert code == 0, out + err
    (record,), _ = find_records(tmp_path / "runs")
    test = load_dataset("voc2012", root).splits["test"]
    prior = 100 * (np.asarray(test.labels) == State.POSITIVE).mean()
    assert record["results"]["test"]["mAP"] > 2 * prior
    assert record["identity"]["dataset"]["version"] == "1-miniature"
    assert record["notes"][0].startswith("MINIATURE: not the data set")

    (plain,) = paper_tables([record], "boostlu", "single_positive")
    assert not (plain.cells["n"] > 0).any()
    assert "Left out: 1 runs on miniatures" in plain.footer[-2] + plain.footer[-1]
    (rehearsed,) = paper_tables([record], "boostlu", "single_positive", miniatures=True)
    assert (rehearsed.cells["n"] > 0).sum() == 1
    assert rehearsed.title.startswith("REHEARSAL ON MINIATURES")
    text = build_table([record]).to_markdown()
    assert "voc2012 (miniature)" in text
