"""``--json``: every command that prints a table or a list has it, and prints one object and nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd
import pytest

from mlbench.cli.main import cli
from mlbench.cli.output import JSON, answer, plain
from mlbench.grid import collected, grid

#: Commands that print neither table nor list: they say what they wrote, or write what a person reads.
WITHOUT = {
    "cache clear",
    "data adopt",
    "data from-fiftyone",
    "data from-hf",
    "data mask export",
    "data mask import",
    "data mask make",
    "data miniature",
    "data prepare",
    "inspect",
    "site",
}


def commands(group: click.Group, before: str = "") -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, f"{before}{name} ")
        else:
            yield f"{before}{name}", command


def test_every_command_has_it_but_those_that_print_no_table() -> None:
    have = {name for name, command in commands(cli) if any("--json" in p.opts for p in command.params)}
    every = {name for name, _ in commands(cli)}
    assert every - have == WITHOUT


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, photos: Path) -> Path:
    """Two runs on the photographs, of an epoch each, and the sweep that made them."""
    folder = tmp_path_factory.mktemp("json") / "runs"
    command = [sys.executable, "-m", "mlbench", "run", "--protocol", "single_positive", "--method", "an,llr"]
    command += ["--dataset", photos / "mine.toml", "--backbone", "scenes", "--track", "full", "--epochs", 1]
    command += ["--set", "train.image_size=32", "--set", "train.batch_size=8", "--device", "cpu"]
    command += ["--store", folder, "--quiet", "--json"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    table = json.loads(done.stdout)
    assert [row["method"] for row in table["rows"]] == ["an", "llr"]
    assert [row["done"] for row in table["runs"]] == ["now", "now"]
    return folder


@pytest.fixture
def ask(mlbench: Callable[..., Any], store: Path) -> Callable[..., dict[str, Any]]:
    """Return a function that calls a command with ``--json``; ``STORE`` and ``A``, ``B`` (keys of runs) are put in."""
    from mlbench.store import find_records

    first, second = (find_records(store, method=name)[0][0]["key"][:16] for name in ("an", "llr"))

    def call(*arguments: object, code: int = 0) -> dict[str, Any]:
        put = {"STORE": store, "A": first, "B": second}
        found, out, err = mlbench(*(put.get(str(word), word) for word in arguments), "--json")
        assert found == code, err
        return dict(json.loads(out))

    return call


@pytest.mark.parametrize(
    ("arguments", "keys"),
    [
        (("list", "methods"), {"method", "tracks"}),
        (("list", "protocols"), {"protocol"}),
        (("list", "datasets"), {"data set"}),
        (("list", "backbones"), {"backbone"}),
        (("list", "heads"), {"head"}),
        (("list", "metrics"), {"metric", "better"}),
        (("list", "runs", "--store", "STORE"), {"key", "method", "value"}),
        (("show", "llr", "--store", "STORE"), {"method", "hyperparameters"}),
        (("show", "single_positive", "--store", "STORE"), {"protocol", "annotation"}),
        (("show", "A", "--store", "STORE"), {"key", "identity", "results"}),
        (("table", "--store", "STORE"), {"method", "mean", "n"}),
        (("table", "--store", "STORE", "--paper", "vac"), {"table", "method"}),
        (("cards", "--store", "STORE"), {"method", "verdict", "interval"}),
        (("check", "metric", "one_error"), {"check", "outcome"}),
        (("data", "list"), {"data set", "licence"}),
        (("explain", "selection", "--store", "STORE"), {"method", "last"}),
        (("explain", "labels", "--store", "STORE"), {"method", "epoch"}),
        (("explain", "gains", "A", "B", "--store", "STORE"), {"name", "gain"}),
        (("sweep", "status", "--store", "STORE"), {"run", "state"}),
        (("env",), {"what", "value"}),
        (("doctor",), {"part", "name", "state"}),
        (("cache", "list"), {"kind", "key", "bytes"}),
    ],
    ids=lambda given: " ".join(map(str, given)) if isinstance(given, tuple) else None,
)
def test_rows_have_what_the_table_shows(ask: Callable[..., dict[str, Any]], arguments: Any, keys: set[str]) -> None:
    found = ask(*arguments)
    assert " ".join(map(str, arguments)).startswith(found["command"])
    assert found["rows"]
    for row in found["rows"]:
        assert keys <= row.keys()


def test_rows_of_commands_that_read_the_pictures(ask: Any, photos: Path, tmp_path: Path) -> None:
    mine = ("--dataset", photos / "mine.toml")
    scored = ask("score", "A", "--store", "STORE", *mine)["rows"]
    assert not any(row["differs"] for row in scored)
    test = ask("show", "A", "--store", "STORE")["rows"][0]["results"]["test"]
    assert {row["metric"]: row["value"] for row in scored} == pytest.approx(test)
    compared = {row["metric"]: row for row in ask("compare", "A", "B", "--store", "STORE", *mine)["rows"]}
    assert compared["mAP"]["first"] == pytest.approx(test["mAP"])
    assert compared["mAP"]["difference"] == pytest.approx(compared["mAP"]["second"] - compared["mAP"]["first"])
    found = ask("explain", "metrics", "A", "--store", "STORE", *mine)
    assert {"definition", "mAP"} <= found["rows"][0].keys()
    assert len(found["tables"]) == 2
    top = ask("explain", "top", "A", "--store", "STORE", "--picture", tmp_path / "top.png", *mine)
    assert top["picture"] == str(tmp_path / "top.png")
    described = ask("data", "describe", photos / "mine.toml")
    assert {row["part"]: row["samples"] for row in described["rows"]}["test"] == 10
    verified = ask("data", "verify", photos / "mine.toml", "--quiet")
    assert verified["problems"] == []


def test_what_a_command_also_says_goes_to_stderr(mlbench: Any, photos: Path, tmp_path: Path) -> None:
    mask, picture = tmp_path / "m.safetensors", tmp_path / "m.svg"
    assert mlbench("data", "mask", "make", "--dataset", photos / "mine.toml", "--output", mask)[0] == 0
    code, out, err = mlbench(
        "data", "mask", "show", mask, "--dataset", photos / "mine.toml", "--picture", picture, "--json"
    )
    assert code == 0
    assert [row["class"] for row in json.loads(out)["rows"]] == ["blue", "green", "red", "all"]
    assert f"wrote {picture}" in err


def test_a_problem_is_still_a_failure(ask: Any, tmp_path: Path) -> None:
    (tmp_path / "broken.json").write_text("{}")
    found = ask("results", "verify", tmp_path, code=1)
    assert [row["kind"] for row in found["rows"]] == ["problem"]


def test_an_error_prints_nothing_on_stdout(mlbench: Any, tmp_path: Path) -> None:
    code, out, err = mlbench("list", "runs", "--store", tmp_path, "--where", "nonsense", "--json")
    assert (code, out) == (2, "")
    assert err


def test_values_are_plain() -> None:
    frame = pd.DataFrame({"a": [1.5, float("nan")], "b": ["x", None]})
    given = {"array": np.arange(2), "float": np.float32(0.5), "path": Path("a/b"), "set": {"b", "a"}, "frame": frame}
    assert plain(given) == {
        "array": [0, 1],
        "float": 0.5,
        "path": "a/b",
        "set": ["a", "b"],
        "frame": [{"a": 1.5, "b": "x"}, {"a": None, "b": None}],
    }
    assert plain([float("inf"), float("nan"), True, None]) == [None, None, True, None]


def test_hidden_characters_are_escaped_in_it(capsys: pytest.CaptureFixture[str]) -> None:
    told = JSON(click.Command("told", callback=lambda: answer(str, [{"name": "a\u202eb\x1b[31m"}])))
    told.main(["--json"], standalone_mode=False)
    out = capsys.readouterr().out
    assert out.isascii()
    assert json.loads(out)["rows"] == [{"name": "a\u202eb\x1b[31m"}]


def test_tables_are_collected_as_they_are_given() -> None:
    with collected() as tables:
        grid([("1.10", 2.0)], ["class", "value"])
        grid([{"a": 1}, {"a": None}], "keys")
    grid([("not", "this")], ["one", "two"])
    assert tables == [[{"class": "1.10", "value": 2.0}], [{"a": 1}, {"a": None}]]
