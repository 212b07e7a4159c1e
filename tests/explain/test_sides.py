"""Sides and pairs: what may stand together, what is paired with what, and what is refused."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from mlbench.errors import UsageError
from mlbench.explain import sides
from mlbench.explain.sides import Side, pairs_of, require_same_test, sides_of


def record(key: str, method: str = "an", seed: int = 0, mask: int = 0, **changed: Any) -> dict[str, Any]:
    identity = {
        "harness": 1,
        "protocol": "p",
        "protocol_sha256": "00",
        "dataset": {"id": "d", "version": "1", "fingerprint": "ff"},
        "mask": {"process": "single_positive", "params": {}, "seed": mask, "sha256": f"{mask}"},
        "method": {"name": method, "version": 1, "hyperparameters": {}},
        "train": {"lr": 0.1},
        "uses": {"teacher": f"{seed}"},
        "repetition": seed,
        "mask_seed": mask,
        **changed,
    }
    return {"key": key * 8, "identity": identity, "definitions": {"ap": "step"}}


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    records = [record("aa"), record("bb", seed=1, mask=1), record("cc", "em"), record("dd", train={"lr": 0.2})]
    monkeypatch.setattr(sides, "all_runs", lambda store: records)
    monkeypatch.setattr(sides, "find_run", lambda key, store: next(r for r in records if r["key"].startswith(key)))
    return records


def test_seeds_of_one_method_and_its_settings_are_one_side(store) -> None:
    assert [(side.name, [r["key"][:2] for r in side.records]) for side in sides_of([])] == [
        ("an (aaaaaaaa)", ["aa", "bb"]),
        ("em", ["cc"]),
        ("an (dddddddd)", ["dd"]),
    ]
    assert [side.name for side in sides_of(["aa, bb", "cc"])] == ["an", "em"]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (["aa,cc"], "differ in method"),
        (["aa,dd"], "differ in train"),
        (["aa", "aa,bb"], "'aaaaaaaaaaaaaaaa' is given twice"),
        ([","], "expected the first characters of a key"),
    ],
)
def test_what_is_no_side_is_refused(store, asked: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        sides_of(asked)


def test_runs_are_paired_by_what_was_drawn() -> None:
    first = Side("an", (record("aa"), record("bb", seed=1), record("ee", mask=1)))
    second = Side("em", (record("ff", "em", mask=1), record("cc", "em"), record("99", "em", seed=7)))
    assert [(a["key"][:2], b["key"][:2]) for a, b in pairs_of(first, second)] == [("aa", "cc"), ("ee", "ff")]


def test_one_run_each_is_a_pair_whatever_was_drawn() -> None:
    one, other = record("aa"), record("cc", "em", seed=3)
    assert pairs_of(Side("an", (one,)), Side("em", (other,))) == [(one, other)]


def test_runs_without_a_common_draw_and_two_of_one_draw_are_refused() -> None:
    two = Side("an", (record("aa"), record("bb", seed=1)))
    with pytest.raises(UsageError, match="shares seed and mask"):
        pairs_of(two, Side("em", (record("cc", "em", seed=3),)))
    with pytest.raises(UsageError, match="the runs of an: two have the same seed and mask"):
        pairs_of(Side("an", (record("aa"), record("bb"))), two)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (
            "dataset",
            {"id": "d", "version": "2", "fingerprint": "ee"},
            r"dataset\.version \(1 and 2\), dataset\.fingerprint \(ff and ee\)",
        ),
        (
            "dataset",
            {"id": "d", "version": "1", "fingerprint": "ee"},
            r"differ in dataset\.fingerprint \(ff and ee\): expected",
        ),
        ("protocol", "q", r"differ in protocol \(p and q\)"),
        ("protocol_sha256", "01", r"differ in protocol_sha256 \(00 and 01\)"),
        ("harness", 2, r"differ in harness \(1 and 2\)"),
    ],
)
def test_runs_tested_otherwise_are_refused(name: str, value: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        require_same_test([record("aa"), record("bb", **{name: value})])


def test_other_definitions_are_refused_but_not_those_an_older_record_lacks() -> None:
    first = record("aa")
    newer, other = copy.deepcopy(first), copy.deepcopy(first)
    newer["definitions"]["groups"] = None
    require_same_test([first, newer])
    other["definitions"]["ap"] = "envelope"
    with pytest.raises(UsageError, match=r"differ in definitions\.ap \(step and envelope\)"):
        require_same_test([first, other])
