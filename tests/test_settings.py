"""Settings from TOML and the command line: types, ranges, and the words of an error."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from mlbench.errors import UsageError
from mlbench.settings import TrainSettings, build, coerce, parse_assignments, parse_value, to_plain

GOOD = {"epochs": 3, "batch_size": 16, "lr": 0.1, "image_size": 64}


@dataclass(frozen=True)
class Sample:
    """One field of each kind."""

    number: float
    count: int = 1
    flag: bool = False
    text: str = ""
    maybe: int | None = None
    choice: Literal["red", "green"] = "red"
    names: tuple[str, ...] = ()
    table: Mapping[str, float] = field(default_factory=dict)
    anything: Any = None


def test_values_take_the_declared_type_where_that_is_exact() -> None:
    made = build(Sample, {"number": 1, "count": 2.0, "names": ["a"], "table": {"x": 1}, "maybe": 4}, "f: [s]")
    assert (made.number, made.count, made.names, made.table, made.maybe) == (1.0, 2, ("a",), {"x": 1.0}, 4)
    assert type(made.number) is float
    assert type(made.count) is int
    assert type(made.table["x"]) is float


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({}, "f: [s]: missing key 'number'"),
        ({"number": 1, "nmber": 2}, "f: [s]: unknown key 'nmber'. Did you mean 'number'?"),
        ({"number": "1"}, "f: [s] number = '1': expected a number"),
        ({"number": True}, "f: [s] number = True: expected a number"),
        ({"number": None}, "f: [s] number = None: expected a number"),
        ({"number": 1, "count": 1.5}, "f: [s] count = 1.5: expected a whole number"),
        ({"number": 1, "count": False}, "f: [s] count = False: expected a whole number"),
        ({"number": 1, "flag": 1}, "f: [s] flag = 1: expected true or false"),
        ({"number": 1, "text": 3}, "f: [s] text = 3: expected text"),
        ({"number": 1, "maybe": "x"}, "f: [s] maybe = 'x': expected a whole number"),
        ({"number": 1, "choice": "gren"}, "f: [s] choice = 'gren': expected one of red, green. Did you mean 'green'?"),
        ({"number": 1, "choice": ["red"]}, "f: [s] choice = ['red']: expected one of red, green."),
        ({"number": 1, "names": "a"}, "f: [s] names = 'a': expected a list"),
        ({"number": 1, "names": ["a", 2]}, "f: [s] names[1] = 2: expected text"),
        ({"number": 1, "table": 3}, "f: [s] table = 3: expected a table"),
        ({"number": 1, "table": {"x": "y"}}, "f: [s] table.x = 'y': expected a number"),
    ],
)
def test_a_wrong_table_is_refused_in_words(table: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        build(Sample, table, "f: [s]")
    assert str(caught.value).startswith(message)


def test_none_is_allowed_where_declared_and_anything_where_undeclared() -> None:
    assert coerce(None, int | None, "x") is None
    for value in (None, True, 3, "x", [1], {"a": 2}):
        assert coerce(value, Any, "x") == value


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("epochs", 0, "f: [train]: epochs = 0: expected at least 1"),
        ("batch_size", -4, "batch_size = -4: expected at least 1"),
        ("image_size", 0, "image_size = 0: expected at least 1"),
        ("accumulate", 0, "accumulate = 0: expected at least 1"),
        ("step_every", 0, "step_every = 0: expected at least 1"),
        ("lr", 0, "lr = 0.0: expected more than 0"),
        ("lr", -1e-3, "lr = -0.001: expected more than 0"),
        ("lr", math.nan, "lr = nan: expected more than 0"),
        ("lr", math.inf, "lr = inf: expected more than 0"),
        ("warmup", 0, "warmup = 0.0: expected a share between 0 and 1"),
        ("warmup", 1, "warmup = 1.0: expected a share between 0 and 1"),
        ("weight_decay", -1, "weight_decay = -1.0: expected 0 or more"),
        ("weight_decay", math.nan, "weight_decay = nan: expected 0 or more"),
        ("momentum", -0.1, "momentum = -0.1: expected 0 or more"),
        ("step_factor", -1, "step_factor = -1.0: expected 0 or more"),
        ("lr_multipliers", {"head": -2}, "lr_multipliers.head = -2.0: expected 0 or more"),
    ],
)
def test_training_settings_out_of_range_are_refused(key: str, value: Any, message: str) -> None:
    assert build(TrainSettings, GOOD, "f: [train]").lr == 0.1
    with pytest.raises(UsageError) as caught:
        build(TrainSettings, {**GOOD, key: value}, "f: [train]")
    assert str(caught.value).startswith("f: [train]: ")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1),
        ("1e-4", 1e-4),
        ("0.5", 0.5),
        ("true", True),
        ("[1, 2]", [1, 2]),
        ("{ head = 10.0 }", {"head": 10.0}),
        ('"quoted"', "quoted"),
        ("plain", "plain"),
        ("", ""),
        ("1/3", "1/3"),
        ("a=b", "a=b"),
        ("9" * 5_000, "9" * 5_000),
        ("[" * 10_000, "[" * 10_000),
    ],
    ids=lambda value: str(value)[:20],
)
def test_a_value_on_the_command_line_is_a_number_a_list_or_text(text: str, value: Any) -> None:
    found = parse_value(text)
    assert found == value
    assert type(found) is type(value)


def test_a_value_cannot_smuggle_in_another_key() -> None:
    assert parse_value("1\nother = 2") == "1\nother = 2"


def test_assignments_are_read_in_order() -> None:
    found = parse_assignments(("delta=0.5", " train.lr = 1e-4", "name=x=y"))
    assert found == {"delta": 0.5, "train.lr": 1e-4, "name": "x=y"}
    assert list(found) == ["delta", "train.lr", "name"]
    assert parse_assignments(()) == {}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("delta",), "--set delta: expected key=value"),
        (("=3",), "--set =3: expected key=value"),
        (("delta=1", "delta=2"), "--set delta: given twice"),
    ],
)
def test_a_wrong_assignment_is_refused(given: tuple[str, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_assignments(given)


def test_plain_settings_are_what_json_can_hold_and_build_the_same_again() -> None:
    made = build(TrainSettings, {**GOOD, "augment": ["flip"], "lr_multipliers": {"head": 10}}, "f")
    plain = to_plain(made)
    assert plain["augment"] == ["flip"]
    assert plain["lr_multipliers"] == {"head": 10.0}
    assert build(TrainSettings, plain, "f") == made
