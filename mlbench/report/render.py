"""A finished table, and how it is written as Markdown, CSV and LaTeX."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
from tabulate import tabulate

from mlbench.report.latex import document as wrap
from mlbench.report.latex import escape

#: What stands in a cell without a run.
MISSING = "—"


@dataclass(frozen=True)
class Part:
    """A piece of text in a cell, with the letters of its footnote."""

    text: str
    bold: bool = False
    mark: str = ""


#: The parts of a cell, shown with a stroke between them; none at all is a missing cell.
Cell = tuple[Part, ...]


@dataclass(frozen=True)
class Table:
    """A finished table. `notes` are (mark, text) footnotes, `cells` the numbers behind it, one row a cell."""

    header: tuple[Cell, ...]
    body: tuple[tuple[Cell, ...], ...]
    notes: tuple[tuple[str, str], ...]
    footer: tuple[str, ...]
    cells: pd.DataFrame

    def to_markdown(self) -> str:
        """Return a pipe table with its notes as a list below."""

        def show(cell: Cell) -> str:
            parts = []
            for part in cell:
                text = _escape_markdown(part.text)
                parts.append((f"**{text}**" if part.bold else text) + (f"<sup>{part.mark}</sup>" if part.mark else ""))
            return " / ".join(parts) or MISSING

        rows = [[show(cell) for cell in row] for row in self.body]
        align = ["left"] + ["right"] * (len(self.header) - 1)
        grid = tabulate(rows, [show(c) for c in self.header], "pipe", disable_numparse=True, colalign=align)
        notes = [f"- <sup>{mark}</sup> {_escape_markdown(text)}" for mark, text in self.notes]
        return "\n".join([grid, "", *notes, *(f"- {_escape_markdown(line)}" for line in self.footer), ""])

    def to_csv(self) -> str:
        """Return `cells` as CSV: a line a cell, numbers unrounded, so that programs can read them."""
        return self.cells.to_csv(index=False, lineterminator="\n")

    def to_latex(self, document: bool = False) -> str:
        """Return a booktabs ``tabular`` with its notes, or with `document` a whole file for pdflatex."""

        def show(cell: Cell) -> str:
            parts = []
            for part in cell:
                text = rf"\textbf{{{escape(part.text)}}}" if part.bold else escape(part.text)
                parts.append(text + (rf"\textsuperscript{{{part.mark}}}" if part.mark else ""))
            return " / ".join(parts) or escape(MISSING)

        def line(row: Sequence[Cell]) -> str:
            return " & ".join(map(show, row)) + r" \\"

        notes = [rf"\textsuperscript{{{mark}}} {escape(text)}\par" for mark, text in self.notes]
        lines = [
            rf"\begin{{tabular}}{{l{'r' * (len(self.header) - 1)}}}",
            *(r"\toprule", line(self.header), r"\midrule", *map(line, self.body), r"\bottomrule"),
            r"\end{tabular}",
            *(r"\par\smallskip", r"{\footnotesize", *notes, *(rf"{escape(text)}\par" for text in self.footer), "}"),
        ]
        body = "\n".join(lines)
        if not document:
            return body + "\n"
        # The page is as large as the table asks for, so that nothing runs over its edge.
        widths = [
            max(sum(len(p.text) + 4 for p in row[i]) for row in (self.header, *self.body))
            for i in range(len(self.header))
        ]
        height = 60 + 5 * (len(self.body) + sum(1 + len(t) // 100 for _, t in self.notes) + len(self.footer))
        return wrap(body, 30 + 2.2 * (sum(widths) + 2 * len(widths)), height)


def _escape_markdown(text: str) -> str:
    text = re.sub(r"([\\`*|<>&\[\]])", r"\\\1", " ".join(text.split()))
    return re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\_", text)  # inside a word it is plain
