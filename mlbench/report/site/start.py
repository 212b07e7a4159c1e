"""The start page: what to use, for each protocol and data set, and how sure that is."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mlbench.report.site.boards import Board, Column, Ranked
from mlbench.report.site.rows import Row

#: Rows that an answer shows where nothing was tested.
_SHOWN = 3
#: A chance of being the best below which a row is in the first group only for want of runs; one that is worth advice;
#: and a ratio of times that is.
_UNLIKELY, _LIKELY, _CHEAPER = 0.01, 0.05, 1.25
#: Seconds that are not worth a sentence.
_SPARED = 10


@dataclass(frozen=True)
class Answer:
    """What to use on one board with one kind of network, given one kind of labels.

    `rows` are the group of the best, the likeliest first, without those that are in it only since their runs say
    little (`unlikely`); where nothing was tested, the highest means. `apart` are the best of those that are given
    something else, which are not ranked with these.
    """

    board: Board
    column: Column
    ranked: Ranked
    rows: list[Row]
    unlikely: list[Row]
    apart: list[tuple[Ranked, Row]]

    @property
    def tested(self) -> bool:
        return bool(self.ranked.group)

    @property
    def cheapest(self) -> Row | None:
        """A row that may well be the best and takes clearly less time than the likeliest, if there is one."""
        if not self.tested:
            return None
        least = min(
            (row for row in self.rows if row.best >= _LIKELY), key=lambda row: row.seconds, default=self.rows[0]
        )
        first = self.rows[0].seconds
        return least if least.seconds * _CHEAPER < first and first - least.seconds >= _SPARED else None

    @property
    def draws(self) -> str:
        """Draws that rows have, as "9" or "3 to 9"."""
        counts = sorted({len(row.draws) for row in self.ranked.tested})
        return "none" if not counts else f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"

    @property
    def sure(self) -> str:
        """How sure the first row is, in words."""
        lead, others = self.rows[0], len(self.ranked.group) - 1
        if not self.tested or math.isnan(lead.best):
            return "not tested, for want of two draws in common: the highest number may be chance."
        told = (
            f"no test tells {others} {'other' if others == 1 else 'others'} from it"
            if others
            else ("every other method tests worse")
        )
        return f"best with a chance of {lead.chance}; {told}."


def needed_text(row: Row) -> str:
    """The draws that would tell a row from the first of its set, in words; a dash where that is not asked."""
    return "–" if not row.needed else "above 9,999" if math.isinf(row.needed) else f"{row.needed:,.0f}"


def answers(boards: Sequence[Board]) -> Iterator[tuple[str, str, list[Answer]]]:
    """Name and title of each protocol with its answers, boards in their order."""
    found: dict[str, list[Answer]] = {}
    titles = {board.protocol: board.protocol_title for board in boards}
    for board in boards:
        found.setdefault(board.protocol, []).extend(_of(board))
    for protocol, listed in found.items():
        if listed:
            yield protocol, titles[protocol], listed


def _of(board: Board) -> Iterator[Answer]:
    """An answer for each table: from its first set, the observed labels alone where some method had no more."""
    for column in board.columns:
        if column.sets:
            ranked, *others = column.sets
            rows = [row for row in ranked.group if not row.best < _UNLIKELY]
            unlikely = [row for row in ranked.group if row.best < _UNLIKELY]
            if not rows:
                rows = [row for row in ranked.rows if not math.isnan(row.numbers[board.metrics[0]].mean)][:_SHOWN]
            if rows:
                apart = [(other, (other.group or other.rows)[0]) for other in others]
                yield Answer(board, column, ranked, rows, unlikely, apart)


def answer_lines(asked: Sequence[tuple[str, str, Sequence[Answer]]]) -> list[dict[str, object]]:
    """A line for each row that an answer names, as data."""
    return [
        {
            "protocol": protocol,
            "dataset": answer.board.dataset["id"],
            "share_of_labels": answer.board.share,
            "table": answer.column.name,
            "supervision": row.supervision,
            "method": row.method,
            "tie_group": row.group,
            answer.board.metrics[0]: row.numbers[answer.board.metrics[0]].mean,
            "chance_best": row.best,
            "seconds": row.seconds,
            "draws": len(row.draws),
            "draws_needed": row.needed or None,
        }
        for protocol, _, listed in asked
        for answer in listed
        for row in (*answer.rows, *answer.unlikely)
    ]
