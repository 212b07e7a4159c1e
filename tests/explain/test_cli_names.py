"""Names in an option, parted by commas."""

from __future__ import annotations

import click
import pytest

from mlbench.cli.options import comma_list


@pytest.mark.parametrize(
    ("text", "names"),
    [
        (None, []),
        ("", []),
        ("oak", ["oak"]),
        (" oak , ash,", ["oak", "ash"]),
        ('"oak, red"', ["oak, red"]),
        ('ash, "oak, red",fir', ["ash", "oak, red", "fir"]),
        ('"a ""b"""', ['a "b"']),
        ('6" gun', ['6" gun']),
    ],
)
def test_a_name_with_a_comma_stands_in_quotes(text: str | None, names: list[str]) -> None:
    assert comma_list(text) == names


def test_a_quote_without_end_is_said() -> None:
    with pytest.raises(click.UsageError, match="quotes that do not close"):
        comma_list('"oak, red')
