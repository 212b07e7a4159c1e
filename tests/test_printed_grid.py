"""Tables for people: names as they are written, numbers as they are formatted."""

from __future__ import annotations

from mlbench.grid import grid


def test_names_stay_and_numbers_are_formatted() -> None:
    rows = [("1.10", 1.5, None), ("007", 20, 3.0), ("1e5", 0.25, 4.0)]
    lines = grid(rows, ["class", "AP", "F1"], floatfmt=".2f", missingval="-").splitlines()
    assert [line.split() for line in lines[2:]] == [
        ["1.10", "1.50", "-"],
        ["007", "20.00", "3.00"],
        ["1e5", "0.25", "4.00"],
    ]


def test_rows_may_have_keys_and_be_none_at_all() -> None:
    text = grid([{"data set": "1e5", "mAP": 7.0}, {"data set": "nan", "F1": 1.0}], "keys", floatfmt=".1f")
    assert text.splitlines()[2].split() == ["1e5", "7.0"]
    assert text.splitlines()[3].split() == ["nan", "1.0"]
    assert "class" in grid([], ["class"])
