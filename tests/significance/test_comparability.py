"""What of a run is drawn, what is its row's and what a column shares."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from mlbench.errors import UsageError
from mlbench.protocol import load_protocol
from mlbench.significance.comparability import (
    annotation_text,
    apart_notes,
    as_written,
    by_draw,
    column_of,
    draw_of,
    place_of,
    require_one,
    require_one_mask_a_seed,
    rows_of,
    settings_of,
)

Make = Callable[..., dict[str, Any]]


@pytest.fixture
def make() -> Make:
    def record(key: str = "a", seed: int = 0, draw: int = 0, **changes: Any) -> dict[str, Any]:
        identity: dict[str, Any] = {
            "harness": 7,
            "protocol": "single_positive",
            "protocol_sha256": load_protocol("single_positive").sha256,
            "dataset": {"id": "scenes", "version": "1", "fingerprint": "f" * 64},
            "mask": {"process": "single_positive", "params": {}, "seed": draw, "sha256": f"{draw:064d}"},
            "track": "full",
            "backbone": {"name": "scenes", "weights": "none"},
            "method": {"name": "an", "version": 1, "hyperparameters": {}, "supervision": ["observed"]},
            "train": {"epochs": 3},
            "precision": "fp32",
            "selection": "clean_val",
            "uses": {},
            "repetition": seed,
            "mask_seed": draw,
        }
        for name, value in changes.items():
            place: Any = identity
            *path, last = name.split("__")
            for part in path:
                place = place.setdefault(part, {})
            place[last] = copy.deepcopy(value)
        return {"key": key * 64, "identity": identity, "definitions": {"ap": "step", "groups": None}}

    return record


@pytest.mark.parametrize(
    "change",
    [
        {"harness": 8},
        {"protocol_sha256": "b" * 64},
        {"dataset__fingerprint": "e" * 64},
        {"mask__process": "partial"},
        {"mask__params": {"keep": 0.1}},
        {"precision": "bf16"},
        {"track": "head"},
        {"backbone__weights": "c" * 64},
        {"selection": "last"},
        {"an_entry_of_later_times": {"deep": 1}},
    ],
)
def test_all_that_is_not_the_methods_own_or_drawn_is_shared_by_a_column(make: Make, change: dict[str, Any]) -> None:
    assert column_of(make()) != column_of(make(**change))
    assert settings_of(make()) != settings_of(make(**change))


@pytest.mark.parametrize("change", [{"method__hyperparameters": {"delta": 1}}, {"train__epochs": 4}, {"inputs__n": 2}])
def test_what_a_method_has_for_itself_makes_a_row_and_no_column(make: Make, change: dict[str, Any]) -> None:
    assert column_of(make()) == column_of(make(**change))
    assert settings_of(make()) != settings_of(make(**change))


def test_what_a_repetition_draws_makes_neither(make: Make) -> None:
    one, other = make(), make(seed=3, draw=5, uses={"teacher": "9" * 64}, scores__sha256="d" * 64)
    assert settings_of(one) == settings_of(other)
    assert draw_of(other) == (3, 5)
    later = make()
    del later["definitions"]["groups"]
    assert settings_of(one) == settings_of(later)


def test_a_run_that_no_mask_decides_is_drawn_by_its_seed_alone(make: Make) -> None:
    full = {"method__supervision": ["full"]}
    whole = {"mask__process": "partial", "mask__params": {"keep": 1.0}}
    for change in (full, {"mask__process": "full"}, whole, {"method__supervision": []}):
        assert draw_of(make(seed=2, draw=1, **change)) == (2, None)
    for change in (
        {"mask__params": {"keep": 0.9}},
        {"method__supervision": ["oracle_negatives"]},
        {**full, "selection": "observed_val"},
        {**full, "uses": {"teacher": "9" * 64}},
    ):
        assert draw_of(make(seed=2, draw=1, **change)) == (2, 1)


def test_three_masks_of_one_seed_are_one_run_where_none_is_seen(make: Make) -> None:
    grid = [(s, m) for s in (1, 0) for m in (2, 0, 1)]
    seen = [make(f"{i}", s, m) for i, (s, m) in enumerate(grid)]
    unseen = [make(f"{i}", s, m, method__supervision=["full"]) for i, (s, m) in enumerate(grid)]
    assert sorted(by_draw(seen, "")) == sorted(grid)
    assert {draw: record["key"][0] for draw, record in by_draw(unseen, "").items()} == {(0, None): "4", (1, None): "1"}
    with pytest.raises(UsageError, match="cell has several runs of one repetition and mask seed"):
        by_draw([make("a"), make("b", method__supervision=["full"])], "cell")


def test_rows_are_told_apart_by_the_settings_of_the_runs_they_build_on(make: Make) -> None:
    teachers = [make("1"), make("2", seed=1), make("3", train__epochs=9)]
    students = [
        make(key, method__name="kd", uses={"teacher": teacher * 64}) for key, teacher in zip("abc", "123", strict=True)
    ]
    rows = rows_of([*teachers, *students])
    a, b, c = (rows[key * 64] for key in "abc")
    assert a == b != c
    unknown = make("d", method__name="kd", uses={"teacher": "8" * 64})
    rows = rows_of([*teachers[:2], *students[:2], unknown])
    assert rows["a" * 64] == rows["b" * 64] == rows["d" * 64]
    rows = rows_of([*teachers, *students, unknown])
    assert len({rows[key * 64] for key in "abcd"}) == 3


def test_a_refusal_names_what_differs_the_runs_and_how_to_choose(make: Make) -> None:
    records = [make("a", mask__params={"keep": 0.1}), make("b", mask__params={"keep": 0.9})]
    with pytest.raises(UsageError) as error:
        require_one(records, column_of, "column 'x'")
    assert str(error.value) == (
        "column 'x' mixes runs that differ in mask.params.keep: 0.1 (runs aaaaaaaaaaaaaaaa) | 0.9 (runs "
        "bbbbbbbbbbbbbbbb). Keep one kind with --where mask.params.keep=0.1"
    )
    hashed = [make("a"), make("b", protocol_sha256="b" * 64, precision="bf16")]
    with pytest.raises(UsageError, match=r"--where precision=fp32$"):
        require_one(hashed, column_of, "column 'x'")
    (note,) = apart_notes(records)
    assert "mask.params.keep (0.1 and 0.9)" in note
    assert apart_notes(records[:1]) == []


def test_a_submission_is_held_to_what_is_known_of_it_alone(make: Make) -> None:
    own = make("a")
    given = make("b", method__name="submitted/x", track="submitted", precision="unknown", mask={"process": "unknown"})
    require_one([own, given], column_of, "column")
    given["identity"]["dataset"]["fingerprint"] = "e" * 64
    with pytest.raises(UsageError, match=r"dataset\.fingerprint"):
        require_one([own, given], column_of, "column")
    versions = [given, make("c", method__name="submitted/x", method__version=2, dataset__fingerprint="e" * 64)]
    with pytest.raises(UsageError, match=r"method\.version"):
        require_one(versions, settings_of, "cell")


def test_one_mask_seed_is_one_mask_in_a_column_and_two_are_two(make: Make) -> None:
    require_one_mask_a_seed([make("a"), make("b", seed=1), make("c", draw=1)], "column")
    with pytest.raises(UsageError, match=r"mask seed 0 mixes runs that differ in mask\.sha256"):
        require_one_mask_a_seed([make("a"), make("b", seed=1, mask__sha256="d" * 64)], "column")
    with pytest.raises(UsageError, match="mask seeds 0 and 1 are one and the same mask"):
        require_one_mask_a_seed([make("a"), make("b", draw=1, mask__sha256="0" * 64)], "column")
    full = make("b", mask__sha256="d" * 64, method__supervision=["full"])
    require_one_mask_a_seed([make("a"), full], "column")


def test_a_mask_of_another_process_is_not_the_protocols_own(make: Make) -> None:
    assert as_written(make())
    assert not as_written(make(mask={"process": "full", "params": {}}))
    partial = {"protocol": "partial", "protocol_sha256": load_protocol("partial").sha256}
    tenth, half = ({"process": "partial", "params": {"keep": keep}} for keep in (0.1, 0.5))
    assert as_written(make(**partial, mask=tenth))
    assert not as_written(make(**partial, mask=half))
    assert as_written(make(**{**partial, "protocol_sha256": "b" * 64}, mask=half))  # of another form: not known
    assert as_written(make(protocol="of_my_own", mask=half))
    assert annotation_text(make(mask=half)) == "partial, keep 0.5"


def test_a_place_is_of_no_version_but_of_one_annotation_and_precision(make: Make) -> None:
    versions = {"method__version": 2, "harness": 8, "protocol_sha256": "b" * 64, "dataset__fingerprint": "e" * 64}
    assert place_of(make()) == place_of(make(**versions))
    for change in ({"mask__params": {"keep": 0.1}}, {"precision": "bf16"}, {"backbone__name": "resnet50"}):
        assert place_of(make()) != place_of(make(**change))
