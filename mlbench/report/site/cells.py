"""What pages have thousands of, made by functions: cells of numbers, rows of them, and lists of settings.

A template that makes each cell by itself takes most of a page's time, to escape what cannot need it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import jinja2
from markupsafe import Markup, escape

#: Names of classes, metrics and settings are the same on many pages.
_escaped = lru_cache(maxsize=2**15)(escape)


def missing(value: float | None) -> bool:
    """Whether there is no number: None, NaN, or what a template has no value for."""
    return value is None or isinstance(value, jinja2.Undefined) or math.isnan(value)


def percent(value: float | None, digits: int = 1) -> str:
    """A number as text; a dash where there is none."""
    return "–" if missing(value) else f"{value:.{digits}f}"


def signed(value: float, digits: int = 1) -> str:
    """A gain as text, with its sign; what rounds to 0 has none."""
    rounded = round(value, digits)
    return f"{rounded:+.{digits}f}" if rounded else f"{0:.{digits}f}"


def raw(value: float) -> str:
    """A number to sort by."""
    return "" if math.isnan(value) else f"{value:.6g}"


def number(value: float | None, digits: int = 1, kind: str = "") -> Markup:
    """A cell of a sortable number; `kind` "more" is of a column that a board at first leaves out, "wide" on a phone."""
    found = _cell(value, digits)
    return Markup(found.replace('"number"', f'"number {kind}"', 1) if kind else found)


def number_rows(names: Iterable[str], columns: Iterable[Mapping[str, float | None]], digits: int = 1) -> Markup:
    """A row for each of `names`, with a sortable number of each column; a dash where a column has not the name."""
    columns = list(columns)
    rows = []
    for name in names:
        cells = "".join([_cell(column.get(name), digits) for column in columns])
        rows.append(f'<tr><th scope="row">{_escaped(name)}</th>{cells}</tr>\n')
    return Markup("".join(rows))


def epoch_rows(epochs: Iterable[Mapping[str, Any]], metric: str) -> Markup:
    """A row for each epoch of a run: loss, `metric` on both parts, seconds, and how unknown labels were judged."""
    rows = []
    for epoch in epochs:
        judged = [
            f"{kind}: {f['entries']}, precision {percent(f['precision'])}, recall {percent(f['recall'])}"
            for kind, f in epoch.get("forensics", {}).items()
        ]
        rows.append(
            f'<tr><th scope="row">{_escaped(epoch["phase"])}</th>'
            f"{_cell(epoch['epoch'], 0)}{_cell(epoch.get('loss'), 4)}"
            f"{_cell(epoch.get('val', {}).get(metric), 2)}{_cell(epoch.get('test_sealed', {}).get(metric), 2)}"
            f'{_cell(epoch.get("seconds"), 1)}<td class="long">{escape("; ".join(judged) or "–")}</td></tr>\n'
        )
    return Markup("".join(rows))


def entries(mapping: Mapping[str, Any]) -> Markup:
    """A list of names and values; nested ones under dotted names."""
    listed = [f"<dt>{_escaped(key)}</dt><dd>{_escaped(value)}</dd>" for key, value in _flat(mapping)]
    return Markup(f"<dl>{''.join(listed)}</dl>")


def _cell(value: float | None, digits: int) -> str:
    # Most are numbers, of which a page has thousands; only NaN is not equal to itself.
    if (type(value) is not float or value != value) and missing(value):
        return '<td class="number" data-value="">–</td>'
    return f'<td class="number" data-value="{value:.6g}">{value:.{digits}f}</td>'


def _flat(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, entry in value.items():
        if isinstance(entry, Mapping) and entry:
            yield from _flat(entry, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", _text(entry)


def _text(entry: str | float | Sequence[Any] | Mapping[str, Any] | None) -> str:
    if type(entry) is int:  # most of them
        return str(entry)
    return entry if isinstance(entry, str) else "none" if entry in ([], {}, None) else json.dumps(entry)
