"""What a person sees while a run works: a bar with rate and time left on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from mlbench.errors import visible


class _Rate(ProgressColumn):
    """Images, or other units, a second."""

    def render(self, task: Task) -> Text:
        speed = f"{_rounded(task.speed)} {task.fields['unit']}/s" if task.speed else ""
        return Text(speed, style="progress.data.speed")


class Reporter:
    """Tells how a run goes, on stderr; silent on all processes but the main one, and where `quiet`."""

    def __init__(self, quiet: bool = False) -> None:
        self.quiet = quiet
        self.console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._progress: Progress | None = None
        self._spoken = 0.0

    def __enter__(self) -> Reporter:
        if not self.quiet and self.console.is_terminal:
            columns = (
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                MofNCompleteColumn(),
                _Rate(),
                TimeRemainingColumn(),
            )
            self._progress = Progress(
                *columns, TextColumn("{task.fields[note]}", markup=False), console=self.console, transient=True
            )
            self._progress.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def say(self, text: str) -> None:
        """One line."""
        if not self.quiet:
            self.console.print(visible(text), markup=False)
            sys.stderr.flush()

    def bar(self, title: str, total: int, done: int = 0, note: str = "", unit: str = "images") -> Callable[[int], None]:
        """A bar over `total` images (or other units); returns what advances it. Without a terminal it stays silent."""
        if self._progress is None:
            return lambda count: None
        progress, bar = (
            self._progress,
            self._progress.add_task(visible(title), total=total, completed=done, note=visible(note), unit=unit),
        )

        def advance(count: int) -> None:
            progress.advance(bar, count)
            if progress.tasks[progress.task_ids.index(bar)].finished:
                progress.remove_task(bar)

        return advance

    def counter(self, title: str, unit: str = "images") -> Callable[[int, int], None]:
        """For work that reports (done, total): a bar on a terminal, a line every ten seconds elsewhere.

        A count that does not grow is the first of another array.
        """
        forward: Callable[[int], None] | None = None
        reached, begun = 0, time.monotonic()

        def advance(done: int, total: int) -> None:
            nonlocal forward, reached, begun
            if forward is None or done <= reached:
                forward, reached = self.bar(title, total, unit=unit), 0
            forward(done - reached)
            reached = done
            now = time.monotonic()
            if done == total:
                begun = now
            elif self._progress is None and now - self._spoken > 10:
                self._spoken = now
                rate = done / (now - begun + 1e-9)
                self.say(f"{title}: {done}/{total}, {_rounded(rate)} {unit}/s, {(total - done) / rate:,.0f} s left")

        return advance


def _rounded(rate: float) -> str:
    """Two digits at least: units may be runs that take a minute each."""
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"
