"""What a person sees: bars on a terminal, lines elsewhere, nothing where quiet was asked for."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from mlbench import progress
from mlbench.progress import Reporter, _rounded


def terminal(reporter: Reporter) -> io.StringIO:
    """Make `reporter` write to a terminal, and return what it writes."""
    shown = io.StringIO()
    reporter.console = Console(file=shown, force_terminal=True, width=120)
    return shown


def test_elsewhere_than_on_a_terminal_only_lines_are_told(capsys) -> None:
    with Reporter() as reporter:
        advance = reporter.bar("train", 10)
        for _ in range(10):
            advance(1)
        reporter.say("epoch 1 [of 2]: 50 % done")
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "epoch 1 [of 2]: 50 % done\n"


def test_quiet_says_nothing(capsys) -> None:
    with Reporter(quiet=True) as reporter:
        reporter.say("x")
        reporter.bar("train", 10)(10)
        reporter.counter("decode")(5, 10)
    assert capsys.readouterr() == ("", "")


def test_a_bar_shows_images_rate_and_is_gone_when_full() -> None:
    reporter = Reporter()
    shown = terminal(reporter)
    with reporter:
        advance = reporter.bar("train 1/2", 10, done=4, note="val mAP 61.20")
        assert reporter._progress is not None
        (task,) = reporter._progress.tasks
        assert (task.completed, task.total) == (4, 10)
        advance(3)
        reporter._progress.refresh()
        advance(3)
        assert reporter._progress.tasks == []
    text = shown.getvalue()
    assert "train 1/2" in text
    assert "7/10" in text
    assert "val mAP 61.20" in text
    assert reporter._progress is None


@pytest.mark.parametrize("chunks", [[5], [2, 4, 5]])
def test_one_counter_serves_several_arrays_one_after_the_other(chunks: list[int]) -> None:
    """As with two image sizes decoded by one run."""
    reporter = Reporter()
    terminal(reporter)
    with reporter:
        count = reporter.counter("decode")
        for _ in range(2):
            for done in chunks:
                count(done, 5)
        assert reporter._progress is not None
        assert reporter._progress.tasks == []


def test_long_work_is_told_every_ten_seconds_with_the_time_left(monkeypatch, capsys) -> None:
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with Reporter() as reporter:
        count = reporter.counter("decode train images")
        reporter._spoken = now[0]
        for done in range(1, 31):
            now[0] += 1.0
            count(done * 10, 400)
    assert capsys.readouterr().err.splitlines() == [
        "decode train images: 110/400, 10 images/s, 29 s left",
        "decode train images: 220/400, 10 images/s, 18 s left",
    ]


@pytest.mark.parametrize(
    ("rate", "told"), [(0.0512, "0.051"), (2.0, "2"), (9.94, "9.9"), (64.4, "64"), (1234.5, "1,234")]
)
def test_a_slow_rate_is_told_in_two_digits(rate: float, told: str) -> None:
    assert _rounded(rate) == told
