"""What the search page finds: it holds its whole index, so that it works from disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mlbench.report.site.boards import Board
from mlbench.report.site.method_pages import Place, card_of
from mlbench.report.site.rendering import board_link, method_link, run_link


@dataclass(frozen=True)
class Entry:
    """A page to find: its kind, address and name, and words about it."""

    kind: str
    link: str
    name: str
    about: str


def entries_of(boards: Sequence[Board], found: Mapping[str, Sequence[Place]]) -> list[Entry]:
    """Boards, methods, and runs."""
    entries = [
        Entry("board", board_link(board, column), board.title, f"{board.protocol_title}; {column.name}")
        for board in boards
        for column in board.columns
    ]
    for name in sorted(found):
        card = card_of(name, found[name][0].row)
        entries.append(Entry("method", method_link(name), name, card.docstring[0]))
    for name in sorted(found):
        for place in found[name]:
            entries += [
                Entry(
                    "run",
                    run_link(record),
                    record["key"][:16],
                    f"{name} on {place.board.title}, seed {record['identity']['repetition']}",
                )
                for record in place.row.records
            ]
    return entries
