"""Text from strangers on a screen and in tables: nothing steers the terminal, turns lines around, or is a formula."""

from __future__ import annotations

import io

import pandas as pd
import pytest
from rich.console import Console

from mlbench.cli.options import echo
from mlbench.errors import visible
from mlbench.progress import Reporter
from mlbench.report.render import Part, Table, csv_text

HOSTILE = "\x1b]0;x\x07\x1b[2J\x9b31m\rback\u202eltr\u2066\u200f\u2028\udc80"
SHOWN = r"\x1b]0;x\x07\x1b[2J\x9b31m\rback\u202eltr\u2066\u200f\u2028\udc80"


def test_what_steers_is_written_out_and_writing_stays() -> None:
    assert visible(HOSTILE) == SHOWN
    for text in ("a\tb\nc", "中文 🙂 é", "می‌خواهم", "👩‍🚀", ""):  # joiners belong to some scripts
        assert visible(text) == text


def test_it_holds_for_all_that_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    echo(HOSTILE)
    echo(HOSTILE, err=True)
    out, err = capsys.readouterr()
    assert (out, err) == (SHOWN + "\n", SHOWN + "\n")
    with Reporter() as reporter:
        reporter.say(HOSTILE)
        assert capsys.readouterr().err == SHOWN + "\n"
        reporter.console = Console(file=(terminal := io.StringIO()), force_terminal=True, width=300, highlight=False)
        reporter.say(HOSTILE)
    assert SHOWN in terminal.getvalue()


def test_errors_of_the_command_line_too(mlbench) -> None:
    code, out, err = mlbench("run", "--protocol", "\x1b[31m\u202ex", "--method", "an")
    assert (code, out) == (2, "")
    assert "\x1b" not in err
    assert r"\x1b[31m\u202ex" in err


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1+cmd", "@SUM(1)", "\t=1"])
def test_no_text_of_a_csv_is_a_formula(text: str) -> None:
    cells = pd.DataFrame({"method": [text, "an"], "value": [-1.5, 2.0]})
    again = pd.read_csv(io.StringIO(csv_text(cells)))
    assert list(again["method"]) == ["'" + visible(text), "an"]
    assert list(again["value"]) == [-1.5, 2.0]


def test_tables_hold_no_marks_that_turn_around() -> None:
    cells = pd.DataFrame({"method": [HOSTILE[:-1]], "value": [1.0]})  # pandas takes no lone surrogate
    part = (Part(HOSTILE),)
    made = Table((part, part), ((part, part),), (), (HOSTILE,), cells, HOSTILE)
    for text in (made.to_markdown(), made.to_html(), made.to_csv(), made.to_html(document=True)):
        assert visible(text) == text
