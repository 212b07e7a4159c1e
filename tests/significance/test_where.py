"""Runs chosen by what their identity says."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from mlbench.errors import UsageError
from mlbench.significance.where import choose, parse_where


def record(key: str, **identity: Any) -> dict[str, Any]:
    own = {"precision": "fp32", "mask": {"process": "partial", "params": {"keep": 0.1}}, "inference": {"mirror": True}}
    method = {"name": "an", "supervision": ["observed"], "hyperparameters": {}}
    return {
        "key": key,
        "identity": {**own, "method": method, **identity},
        "definitions": {"ap": "step", "groups": None},
    }


def chosen(records: list[dict[str, Any]], *conditions: str, others: bool = False) -> str:
    return "".join(r["key"] for r in choose(records, parse_where(conditions), others))


def test_conditions_are_entries_of_identity_and_definitions_and_all_must_hold() -> None:
    half = {"process": "partial", "params": {"keep": 0.5}}
    records = [record("a"), record("b", mask=half), record("c", mask=half, precision="bf16")]
    assert chosen(records, "mask.params.keep=0.5") == "bc"
    assert chosen(records, "mask.params.keep=0.50", "precision=bf16") == "c"
    assert chosen(records, "definitions.ap=step", "inference.mirror=true") == "abc"
    assert chosen(records, "definitions.groups=none") == "abc"
    assert chosen(records, "method.supervision=observed") == "abc"
    assert chosen(records) == "abc"


def test_a_run_without_the_entry_is_left_out_but_in_tables_kept_where_it_is_another_methods_own() -> None:
    tuned = {"name": "llr", "supervision": ["observed"], "hyperparameters": {"delta": 0.2}}
    single = {"process": "single_positive", "params": {}}
    records = [record("a"), record("b", method=tuned), record("c", mask=single)]
    assert chosen(records, "method.hyperparameters.delta=0.2") == "b"
    assert chosen(records, "method.hyperparameters.delta=0.2", others=True) == "abc"
    assert chosen(records, "mask.params.keep=0.1", others=True) == "ab"


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("keep=0.1", r"--where: unknown key 'keep'\. Did you mean 'mask\.params\.keep'\?"),
        ("precison=fp32", r"--where: unknown key 'precison'\. Did you mean 'precision'\? Known: "),
        ("precision=fp23", r"--where precision=fp23: no run has it\. Did you mean 'fp32'\? .*'precision' here: fp32$"),
        ("mask.params.keep=0.3", r"no run has it.* Values of 'mask\.params\.keep' here: 0\.1$"),
        ("precision", "expected KEY=VALUE"),
        ("=fp32", "expected KEY=VALUE"),
        ("precision=", "expected KEY=VALUE"),
    ],
)
def test_what_is_no_condition_is_refused_with_what_there_is(condition: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        chosen([record("a")], condition)


def test_a_key_given_twice_is_refused_and_an_empty_store_is_not() -> None:
    with pytest.raises(UsageError, match="--where precision: given twice"):
        parse_where(["precision=fp32", "precision=bf16"])
    assert choose([], {"anything": 1}) == []


def test_the_commands_that_read_many_runs_take_conditions(mlbench, tmp_path: Path) -> None:
    code, _, told = mlbench("list", "methods", "--where", "precision=fp32")
    assert (code, "--where: chooses among runs" in told) == (2, True)
    published = files("mlbench.results") / "runs"
    store = tmp_path / "runs"
    store.mkdir()
    for path in published.iterdir():
        if path.name.startswith(("an__corel5k-199__partial__", "llr__corel5k-199__partial__")):
            (store / path.name).write_bytes(path.read_bytes())
    kept = len(list(store.iterdir())) // 5  # of five shares as many runs each
    code, _, told = mlbench("table", "--store", store, "--protocol", "partial")
    assert code == 2
    assert "mixes runs that differ in mask.params.keep: " in told
    asked = re.search(r"Keep one kind with --where (\S+)$", told.strip())
    assert asked
    code, out, _ = mlbench("table", "--store", store, "--protocol", "partial", "--where", asked[1])
    assert code == 0
    assert f"Runs: {kept};" in out
    code, out, _ = mlbench("list", "runs", "--store", store, "--where", asked[1])
    assert (code, len(out.splitlines())) == (0, kept + 2)
    code, _, told = mlbench("list", "runs", "--store", store, "--where", "keep=0.5")
    assert (code, told) == (2, "error: --where: unknown key 'keep'. Did you mean 'mask.params.keep'?\n")
