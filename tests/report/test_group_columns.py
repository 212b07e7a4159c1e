"""Tables with several metrics: a column each, the printed number of the same group beside it."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from mlbench.errors import UsageError
from mlbench.protocol import load_protocol
from mlbench.report import board
from mlbench.report.tables import build_table

GROUPS = ["mAP_G1", "mAP_G2", "mAP_G3", "mAP_G4", "mAP_G5", "mAP"]


def cells(made) -> dict[str, list[str]]:
    lines = [line for line in made.to_markdown().replace("\\_", "_").splitlines() if line.startswith("|")]
    rows = [[re.sub(r"<sup>\w+</sup>", "", cell).strip() for cell in line.split("|")[1:-1]] for line in lines]
    return {row[0]: row[1:] for row in rows[:1] + rows[2:]}


@pytest.fixture
def openimages(make_record):
    """Return a function: a method's record under the protocol of class groups."""

    def make(method: str, first: float, repetition: int = 0):
        values = {name: first + number for number, name in enumerate(GROUPS)}
        record = make_record(
            method,
            values.pop("mAP"),
            repetition,
            identity__protocol="openimages_groups",
            identity__dataset__id="openimages-v3",
            definitions__groups=5,
            definitions__groups_by="train_annotations",
        )
        record["results"]["test"] |= values
        return record

    return make


def test_one_group_is_a_metric_as_any_other_with_that_groups_printed_number(openimages) -> None:
    made = cells(build_table([openimages("llr", 70.0)], metric="mAP_G1"))
    assert made["method"] == ["openimages-v3", "openimages-v3 published"]
    assert made["llr"] == ["**70.0 (1)**", "77.76"]
    assert cells(build_table([openimages("llr", 70.0)], metric="mAP"))["llr"] == ["**75.0 (1)**", "82.53"]


def test_all_groups_stand_beside_each_other_under_their_names(openimages) -> None:
    records = [openimages("llr", 70.0), openimages("llr", 71.0, 1), openimages("llct", 70.6)]
    made = cells(build_table(records, metric=GROUPS, published=False))
    assert made["method"] == GROUPS
    assert made["llr"] == [f"{70.5 + n:.1f} ± 0.7 (2)" for n in range(6)]
    assert made["llct"] == [f"**{70.6 + n:.1f} (1)**" for n in range(6)]
    text = build_table(records, metric=GROUPS, published=False).to_markdown().replace("\\_", "_")
    assert "mAP_G1, mAP_G2, mAP_G3, mAP_G4, mAP_G5, mAP on test images" in text
    assert "Runs: 3;" in text
    assert "groups 5, groups_by train_annotations" in text


def test_two_data_sets_and_two_metrics_make_four_columns(make_record) -> None:
    records = [make_record("an", 60.0), make_record("an", 61.0, identity__dataset__id="corel5k-199")]
    made = cells(build_table(records, metric=["mAP", "F1-C_mean"]))
    assert made["method"] == ["corel5k-199 mAP", "corel5k-199 F1-C_mean", "scenes mAP", "scenes F1-C_mean"]
    assert [cell.strip("*") for cell in made["an"]] == ["61.0 (1)", "50.0 (1)", "60.0 (1)", "50.0 (1)"]


def test_runs_with_and_without_groups_do_not_share_a_column(openimages) -> None:
    other = openimages("llct", 70.0)
    del other["definitions"]["groups"]
    with pytest.raises(UsageError, match=r"definitions\.groups: .*5"):
        build_table([openimages("llr", 70.0), other])
    unset = {**other, "definitions": {**other["definitions"], "groups": None, "groups_by": None}}
    missing = openimages("llr", 70.0)
    missing["definitions"] = {k: v for k, v in missing["definitions"].items() if not k.startswith("groups")}
    assert len(build_table([missing, unset]).cells) == 2


def test_an_unknown_metric_gets_the_nearest(openimages) -> None:
    with pytest.raises(UsageError, match=r"unknown metric 'mAP_G6'\. Did you mean 'mAP_G"):
        build_table([openimages("llr", 70.0)], metric=["mAP", "mAP_G6"])


def test_the_layout_is_the_protocols_own_table(openimages, monkeypatch) -> None:
    records = [openimages("llr", 70.0), openimages("an", 69.0)]
    monkeypatch.setattr(board, "find_records", lambda root, **filters: (records, []))
    made = cells(board.table(protocol="openimages_groups", layout=True, published=False))
    assert made["method"] == GROUPS
    assert made["an"] == [f"{69 + n:.1f} (1)" for n in range(6)]
    assert cells(board.table(protocol="openimages_groups", metric="mAP_G2", layout=True, published=False))["an"] == [
        "70.0 (1)"
    ]
    with pytest.raises(UsageError, match="--layout: name the protocol"):
        board.table(layout=True)


def test_the_command_takes_metrics_separated_by_commas(train, tmp_path, mlbench) -> None:
    groups = load_protocol("groups")
    train(protocol=replace(groups, metrics=replace(groups.metrics, groups=2)))
    store = tmp_path / "runs"
    asked = board.table(store, metric="mAP_G1,mAP_G2,mAP", protocol="groups")
    assert cells(asked)["method"] == ["mAP_G1", "mAP_G2", "mAP"]
    code, out, _ = mlbench("table", "--store", store, "--protocol", "groups", "--metric", "mAP_G2,mAP")
    assert code == 0
    assert [name in out.splitlines()[0] for name in ("G1", "G2")] == [False, True]
