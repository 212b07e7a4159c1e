"""A finished table, and how it is written as Markdown, HTML, CSV and LaTeX."""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from tabulate import tabulate

from mlbench.errors import visible
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
    underlined: bool = False


#: The parts of a cell, shown with a stroke between them; none at all is a missing cell.
Cell = tuple[Part, ...]


@dataclass(frozen=True)
class Table:
    """A finished table. `notes` are (mark, text) footnotes, `cells` the numbers behind it, one row a cell.

    `over` are groups of columns above the header (text, number of columns), all the columns or none; `rules` the rows
    of `body`, counted from 1, with a rule below; `stubs` the columns of text on the left.
    """

    header: tuple[Cell, ...]
    body: tuple[tuple[Cell, ...], ...]
    notes: tuple[tuple[str, str], ...]
    footer: tuple[str, ...]
    cells: pd.DataFrame
    title: str = ""
    over: tuple[tuple[str, int], ...] = ()
    rules: frozenset[int] = frozenset()
    stubs: int = 1

    def missing(self) -> list[str]:
        """The cells without a run, a line for all methods that lack the same data sets; for a look before drawing."""
        empty = self.cells[self.cells["n"] == 0] if len(self.cells) else self.cells
        if empty.empty:
            return []
        lacking: dict[str, list[str]] = {}
        for method, rows in empty.groupby("method", sort=False):
            lacking.setdefault(", ".join(dict.fromkeys(rows["column"])), []).append(str(method))
        name = f"{self.title}: " if self.title else ""
        count = f"{name}{len(empty)} of {len(self.cells)} cells have no run"
        return [count, *(f"  on {datasets}: {', '.join(methods)}" for datasets, methods in lacking.items())]

    def to_markdown(self) -> str:
        """Return a pipe table with its notes as a list below. Groups of columns stand before the columns' titles."""

        def show(cell: Cell) -> str:
            return _join(cell, _escape_markdown, "**{}**", "<u>{}</u>", "<sup>{}</sup>") if cell else MISSING

        header = [show(cell) for cell in self.header]
        groups = [text for text, count in self.over for _ in range(count)]
        if groups:
            header = [f"{_escape_markdown(g)} {h}" if g else h for g, h in zip(groups, header, strict=True)]
        align = ["left"] * self.stubs + ["right"] * (len(self.header) - self.stubs)
        rows = [[show(cell) for cell in row] for row in self.body]
        grid = tabulate(rows, header, "pipe", disable_numparse=True, colalign=align)
        notes = [f"- <sup>{mark}</sup> {_escape_markdown(text)}" for mark, text in self.notes]
        title = [f"**{_escape_markdown(self.title)}**", ""] if self.title else []
        return "\n".join([*title, grid, "", *notes, *(f"- {_escape_markdown(line)}" for line in self.footer), ""])

    def to_csv(self) -> str:
        """Return `cells` as CSV: a line a cell, numbers unrounded, so that programs can read them."""
        return csv_text(self.cells)

    def to_html(self, document: bool = False) -> str:
        """Return a ``table`` with its notes, all text escaped, or with `document` a whole page that loads nothing."""

        def show(cell: Cell) -> str:
            return _join(cell, _escape_html, "<b>{}</b>", "<u>{}</u>", "<sup>{}</sup>") if cell else MISSING

        def line(row: Sequence[Cell], number: int) -> str:
            stubs = "".join(f"<td>{show(cell)}</td>" for cell in row[1 : self.stubs])
            values = "".join(f'<td class="value">{show(cell)}</td>' for cell in row[self.stubs :])
            kind = ' class="rule"' if number in self.rules else ""
            return f'<tr{kind}><th scope="row">{show(row[0])}</th>{stubs}{values}</tr>'

        over = [f'<th colspan="{n}" scope="colgroup">{_escape_html(text)}</th>' for text, n in self.over]
        head = "".join(f'<th scope="col">{show(cell)}</th>' for cell in self.header)
        lines = [
            "<table>",
            *([f"<caption>{_escape_html(self.title)}</caption>"] if self.title else []),
            "<thead>",
            *([f"<tr>{''.join(over)}</tr>"] if over else []),
            *(f"<tr>{head}</tr>", "</thead>", "<tbody>"),
            *(line(row, number) for number, row in enumerate(self.body, start=1)),
            *("</tbody>", "</table>", '<ul class="notes">'),
            *(f"<li><sup>{mark}</sup> {_escape_html(text)}</li>" for mark, text in self.notes),
            *(f"<li>{_escape_html(text)}</li>" for text in self.footer),
            *("</ul>", ""),
        ]
        return html_document([self]) if document else "\n".join(lines)

    def to_latex(self, document: bool = False) -> str:
        """Return a booktabs ``tabular`` with its notes, or with `document` a whole file for pdflatex."""
        if document:
            return latex_document([self])

        def show(cell: Cell) -> str:
            marks = r"\textbf{{{}}}", r"\underline{{{}}}", r"\textsuperscript{{{}}}"
            return _join(cell, escape, *marks) if cell else escape(MISSING)

        def line(row: Sequence[Cell]) -> str:
            return " & ".join(map(show, row)) + r" \\"

        body: list[str] = []
        for number, row in enumerate(self.body, start=1):
            body.append(line(row))
            if number in self.rules and number < len(self.body):
                body.append(r"\midrule")
        notes = [rf"\textsuperscript{{{mark}}} {escape(text)}\par" for mark, text in self.notes]
        lines = [
            *([rf"\textbf{{{escape(self.title)}}}\par\smallskip"] if self.title else []),
            rf"\begin{{tabular}}{{{'l' * self.stubs}{'r' * (len(self.header) - self.stubs)}}}",
            *(r"\toprule", *self._over_latex(), line(self.header), r"\midrule", *body, r"\bottomrule"),
            r"\end{tabular}",
            *(r"\par\smallskip", r"{\footnotesize", *notes, *(rf"{escape(text)}\par" for text in self.footer), "}"),
        ]
        return "\n".join(lines) + "\n"

    def _over_latex(self) -> list[str]:
        if not self.over:
            return []
        cells = [rf"\multicolumn{{{count}}}{{c}}{{{escape(text)}}}" for text, count in self.over]
        rules, start = [], 1
        for text, count in self.over:
            rules += [rf"\cmidrule(lr){{{start}-{start + count - 1}}}"] if text else []
            start += count
        return [" & ".join(cells) + r" \\", " ".join(rules)]

    def _size_mm(self) -> tuple[float, float]:
        """A page as large as the table asks for, so that nothing runs over its edge."""
        columns = zip(self.header, *self.body, strict=True)
        widths = [max(sum(len(part.text) + 3 for part in cell) for cell in column) for column in columns]
        width = max(210.0, 30 + 2.1 * (sum(widths) + 2 * len(widths)))
        texts = [*(text for _, text in self.notes), *self.footer]
        lines = sum(1 + int(1.9 * len(text) / (width - 30)) for text in texts)
        return width, max(150.0, 60 + 5 * len(self.body) + 4 * lines)


def latex_document(tables: Sequence[Table]) -> str:
    """All `tables` in one file for pdflatex, each on a page of its own size."""
    sizes = [table._size_mm() for table in tables]
    pages = [tables[0].to_latex()]
    for table, (width, height) in zip(tables[1:], sizes[1:], strict=True):
        pages.append(rf"\newgeometry{{layoutwidth={width:.0f}mm,layoutheight={height:.0f}mm,margin=15mm}}")
        pages.append(rf"\pdfpagewidth={width:.0f}mm \pdfpageheight={height:.0f}mm")
        pages.append(table.to_latex())
    return wrap("\n".join(page.removesuffix("\n") for page in pages), *sizes[0])


def html_document(tables: Sequence[Table]) -> str:
    """All `tables` in one page of HTML, which loads nothing from anywhere."""
    title = tables[0].title if len(tables) == 1 and tables[0].title else "mlbench tables"
    head = f'<meta charset="utf-8">\n<title>{_escape_html(title)}</title>\n<style>{_STYLE}</style>'
    body = "\n".join(f"<section>\n{table.to_html()}</section>" for table in tables)
    return f'<!doctype html>\n<html lang="en">\n<head>\n{head}\n</head>\n<body>\n{body}\n</body>\n</html>\n'


_STYLE = (
    ":root{color-scheme:light dark}body{font-family:sans-serif;margin:1rem}section{overflow-x:auto;margin-bottom:3rem}"
    "table{border-collapse:collapse;border-block:2px solid}caption{font-weight:bold;text-align:left;padding:.5rem 0}"
    "th,td{padding:.2rem .6rem;text-align:left;white-space:nowrap}thead tr:last-child,tr.rule{border-bottom:1px solid}"
    "thead th[colspan]{text-align:center}tbody th{font-weight:normal}td.value{text-align:right}.notes{font-size:.85rem}"
)


def _join(cell: Cell, plain: Callable[[str], str], bold: str, underlined: str, mark: str) -> str:
    parts = []
    for part in cell:
        text = plain(part.text)
        text = underlined.format(text) if part.underlined else text
        text = bold.format(text) if part.bold else text
        parts.append(text + (mark.format(part.mark) if part.mark else ""))
    return " / ".join(parts)


def csv_text(cells: pd.DataFrame) -> str:
    """`cells` as CSV; a text that a spreadsheet would run as a formula begins with an apostrophe."""
    return cells.map(escape_csv).to_csv(index=False, lineterminator="\n")


def escape_csv(value: Any) -> Any:
    """A value of a CSV file; a text that a spreadsheet would run as a formula begins with an apostrophe."""
    if not isinstance(value, str):
        return value
    return re.sub(r"^(?=[=+@\t\r-])", "'", visible(value))


def _escape_html(text: str) -> str:
    return html.escape(visible(text))


def _escape_markdown(text: str) -> str:
    text = re.sub(r"([\\`*|<>&\[\]])", r"\\\1", visible(" ".join(text.split())))
    return re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\_", text)  # inside a word it is plain
