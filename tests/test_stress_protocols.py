"""Stress protocols: a list of strengths stored with the protocol, each of which a run can be given."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mlbench.annotation import PROCESSES, check_process, draw_mask
from mlbench.cli.listing import show
from mlbench.conformance.testing import tiny_dataset
from mlbench.errors import DataError, UsageError
from mlbench.protocol import Protocol, list_protocols, load_protocol
from mlbench.runner.data import make_parts
from mlbench.runner.plan import Request, resolve

STRESS = sorted(name for name in list_protocols() if name.startswith("stress_"))


def test_there_is_a_sweep_for_every_way_of_annotating_badly() -> None:
    swept = {load_protocol(name).annotation.process for name in STRESS}
    assert swept == {
        *("single_positive_size", "single_positive_frequency", "single_positive_cooccurrence"),
        *("per_class_missing", "label_noise", "annotator_budget"),
    }
    assert swept <= PROCESSES.keys()


@pytest.mark.parametrize("name", STRESS)
def test_every_strength_of_a_sweep_is_another_mask_of_its_process(name: str) -> None:
    protocol, dataset = load_protocol(name), tiny_dataset(train=300)
    assert protocol.stress is not None
    parameter = protocol.stress.key.removeprefix("annotation.")
    masks = [make_parts(dataset, protocol, 0, {parameter: value})[1] for value in protocol.stress.values]
    assert len({mask.sha256 for mask in masks}) == len(masks) >= 4
    assert [mask.params[parameter] for mask in masks] == sorted(protocol.stress.values)


@pytest.mark.parametrize("name", STRESS)
def test_the_sweep_is_shown_and_not_hashed(name: str, tmp_path: Path) -> None:
    protocol = load_protocol(name)
    assert protocol.stress is not None
    text = show(name)
    assert f"key = {protocol.stress.key}" in text
    assert f"values = {list(protocol.stress.values)}" in text
    assert f"process = {protocol.annotation.process}" in text
    (tmp_path / "mine.toml").write_text(f'extends = "{name}"\nname = "mine"\n[stress]\nvalues = [0.5]\n')
    assert load_protocol(str(tmp_path / "mine.toml")).sha256 == protocol.sha256
    (tmp_path / "other.toml").write_text(
        'extends = "full"\nname = "other"\n[annotation]\nprocess = "partial"\nkeep = 0.5\n'
    )
    assert load_protocol(str(tmp_path / "other.toml")).stress is None


def test_a_run_takes_its_strength_as_a_setting_and_writes_it_into_its_identity() -> None:
    runs = [
        resolve(Request("stress_frequency", "an", tiny_dataset(), backbone="scenes", changes=changes))
        for changes in ({}, {"annotation.bias": 1}, {"annotation.bias": -2.0})
    ]
    assert [run.identity["mask"]["params"] for run in runs] == [{"bias": 1.0}, {"bias": 1.0}, {"bias": -2.0}]
    assert runs[0].key == runs[1].key != runs[2].key


@pytest.mark.parametrize(
    ("protocol", "changes", "message"),
    [
        (
            "stress_frequency",
            {"annotation.bais": 1},
            "--set annotation: .*unknown parameter 'bais'. Did you mean 'bias'",
        ),
        ("stress_frequency", {"annotation.bias": "strong"}, "'bias' is 'strong', expected a number"),
        ("stress_missing", {"annotation.by": "rarest"}, "Did you mean 'rare'"),
        ("stress_size", {"annotation.keep": 0.5}, "does not hide a share of the labels"),
    ],
)
def test_a_wrong_strength_is_refused(protocol: str, changes: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        resolve(Request(protocol, "an", tiny_dataset(), backbone="scenes", changes=changes))


def test_a_data_set_without_boxes_cannot_be_drawn_by_size() -> None:
    dataset = tiny_dataset()
    train = replace(dataset.splits["train"], boxes=None)
    with pytest.raises(DataError, match="'single_positive_size' needs boxes, and the data set has none"):
        make_parts(replace(dataset, splits={**dataset.splits, "train": train}, _cached={}), size(), 0)


def size() -> Protocol:
    return load_protocol("stress_size")


def test_a_run_by_size_uses_the_data_set_s_boxes() -> None:
    dataset = tiny_dataset()
    train = dataset.splits["train"]
    mask = make_parts(dataset, size(), 0, {"bias": 3})[1]
    drawn = draw_mask(train.labels, "single_positive_size", {"bias": 3}, 0, ids=train.ids, boxes=train.boxes)
    assert mask.sha256 == drawn.sha256


def test_the_official_validation_part_is_drawn_with_the_statistics_of_training() -> None:
    dataset = tiny_dataset(train=200, val=60)
    train, val = dataset.splits["train"], dataset.splits["val"]
    labels = np.where(np.arange(4) == 0, train.labels, -1).astype(np.int8)
    labels[:2, 1:] = 1
    dataset = replace(dataset, splits={**dataset.splits, "train": replace(train, labels=labels)}, _cached={})
    parts, _ = make_parts(dataset, load_protocol("stress_frequency"), 0, {"bias": 50.0})
    # In training the first class is far more frequent than all others.
    assert ((parts["val"].observed[:, 0] == 1) == (val.labels[:, 0] == 1)).all()


SLIPS = {
    "key": ('[stress]\nkey = "annotation.bais"\nvalues = [1]\n', ["[stress]", "'bais'", "Did you mean 'bias'?"]),
    "section": ('[stress]\nkey = "bias"\nvalues = [1]\n', ["[stress] key = 'bias'", "expected annotation.PARAMETER"]),
    "no values": ("[stress]\nvalues = []\n", ["[stress] values", "at least one"]),
    "value": ('[stress]\nvalues = [1, "x"]\n', ["[stress]", "'bias' is 'x'"]),
    "no list": ("[stress]\nvalues = 3\n", ["[stress] values = 3", "expected a list"]),
    "another key": ("[stress]\nvalue = [3]\n", ["[stress]", "'value'", "Did you mean 'values'?"]),
    "table": ("stress = 3\n", ["'stress' must be a table"]),
    "annotation key": ("[annotation]\nbias2 = 1\n", ["[annotation]", "unknown key 'bias2'", "Did you mean 'bias'?"]),
    "annotation value": ('[annotation]\nbias = "much"\n', ["[annotation] bias = 'much'", "expected a number"]),
    "annotation of a data set": (
        "[datasets.tiny.annotation]\nbias = true\n",
        ["[datasets.tiny.annotation] bias = True", "expected a number"],
    ),
}


@pytest.mark.parametrize("slip", SLIPS)
def test_a_slip_names_file_section_and_the_nearest_right_name(slip: str, tmp_path: Path) -> None:
    text, parts = SLIPS[slip]
    path = tmp_path / "mine.toml"
    path.write_text(f'extends = "stress_frequency"\nname = "mine"\n{text}')
    with pytest.raises(UsageError) as caught:
        load_protocol(str(path))
    assert str(caught.value).startswith(str(path))
    for part in parts:
        assert part in str(caught.value), str(caught.value)


def test_a_data_set_may_have_a_strength_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(
        'extends = "stress_frequency"\nname = "mine"\n[datasets.tiny.annotation]\nbias = 3\n'
    )
    protocol = load_protocol(str(tmp_path / "mine.toml"))
    assert protocol.annotation_for("tiny").params == {"bias": 3.0}
    assert protocol.annotation_for("other").params == {"bias": 1.0}
    assert check_process("single_positive_frequency", protocol.annotation.params) == {"bias": 1.0}
