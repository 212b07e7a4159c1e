"""Line charts as inline SVG: no script, colours from the page's style sheet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from markupsafe import Markup, escape

#: Size of a chart and room for its labels, in SVG units.
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _BOTTOM, _TOP = 480, 260, 44, 16, 34, 12
#: Colours in the style sheet.
_COLOURS = 8


@dataclass(frozen=True)
class Line:
    """Points (x, y) of one run; None leaves a gap. `name` is shown once for all lines of that name and colour."""

    name: str
    points: Sequence[tuple[float, float | None]]
    colour: int = 0
    dashed: bool = False


def line_chart(title: str, lines: Sequence[Line], x_label: str, y_label: str, percent: bool = False) -> Markup:
    """A figure with `lines`, or nothing where no line has a point; with `percent`, both axes go from 0 to 100."""
    lines = [line for line in lines if any(y is not None for _, y in line.points)]
    if not lines:
        return Markup("")
    xs = [x for line in lines for x, _ in line.points]
    ys = [y for line in lines for _, y in line.points if y is not None]
    frame = _Frame(0, 100, 0, 100) if percent else _Frame(min(xs), max(xs), min(ys), max(ys))
    paths = Markup("").join(
        Markup('<path class="c{}{}" d="{}"/>').format(
            line.colour % _COLOURS, " dashed" if line.dashed else "", frame.path(line.points)
        )
        for line in lines
    )
    names = list(dict.fromkeys((line.name, line.colour % _COLOURS, line.dashed) for line in lines))
    legend = Markup("").join(
        Markup(
            '<li><svg class="key" viewBox="0 0 24 8" aria-hidden="true"><path class="c{}{}" d="M0 4H24"/></svg>{}</li>'
        ).format(colour, " dashed" if dashed else "", name)
        for name, colour, dashed in names
    )
    summary = f"{y_label} by {x_label}, from {min(ys):.1f} to {max(ys):.1f}"
    return _figure(title, summary, frame.axes(x_label, y_label) + paths, legend)


def _figure(title: str, summary: str, drawing: Markup, legend: Markup) -> Markup:
    return Markup(
        '<figure><figcaption>{}</figcaption><svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}: {}">{}'
        "</svg>{}</figure>"
    ).format(
        title,
        _WIDTH,
        _HEIGHT,
        title,
        summary,
        drawing,
        Markup('<ul class="legend">{}</ul>').format(legend) if legend else "",
    )


@dataclass(frozen=True)
class _Frame:
    """The rectangle that data is drawn in."""

    left: float
    right: float
    low: float
    high: float

    def x(self, value: float) -> float:
        return _LEFT + (value - self.left) / ((self.right - self.left) or 1) * (_WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        low, high = self._shown
        return _HEIGHT - _BOTTOM - (value - low) / ((high - low) or 1) * (_HEIGHT - _BOTTOM - _TOP)

    @cached_property
    def _levels(self) -> list[float]:
        return ticks(self.low, self.high)

    @cached_property
    def _shown(self) -> tuple[float, float]:
        """The lowest and the highest value that have a place; every point of every line asks."""
        return min(self._levels[0], self.low), max(self._levels[-1], self.high)

    def path(self, points: Sequence[tuple[float, float | None]]) -> str:
        steps, pen = [], "M"
        for x, y in points:
            if y is None:
                pen = "M"
                continue
            steps.append(f"{pen}{self.x(x):.1f} {self.y(y):.1f}")
            pen = "L"
        return "".join(steps) + ("h0" if len(steps) == 1 else "")

    def axes(self, x_label: str, y_label: str) -> Markup:
        """Grid lines, tick labels and the names of both axes."""
        parts = []
        right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
        for tick in self._levels:
            y = f"{self.y(tick):.1f}"
            parts.append(f'<path class="grid" d="M{_LEFT} {y}H{right}"/>')
            parts.append(f'<text x="{_LEFT - 6}" y="{y}" dy=".32em" text-anchor="end">{tick:g}</text>')
        for tick in ticks(self.left, self.right):
            if self.left <= tick <= self.right and tick.is_integer():  # epochs or percent
                parts.append(f'<text x="{self.x(tick):.1f}" y="{bottom + 14}" text-anchor="middle">{tick:g}</text>')
        parts.append(
            f'<text x="{(_LEFT + right) / 2:.0f}" y="{_HEIGHT - 4}" text-anchor="middle">{escape(x_label)}</text>'
        )
        middle = (_TOP + bottom) / 2
        parts.append(
            f'<text transform="translate(10 {middle:.0f}) rotate(-90)" text-anchor="middle">{escape(y_label)}</text>'
        )
        return Markup("".join(parts))


def ticks(low: float, high: float) -> list[float]:
    """Round numbers around `low` to `high`, four to nine of them."""
    span = (high - low) or 1.0
    step = 10 ** math.floor(math.log10(span))
    step = next(step * f for f in (0.1, 0.2, 0.25, 0.5, 1, 2) if span / (step * f) <= 6)
    return [float(tick * step) for tick in range(math.floor(low / step), math.ceil(high / step) + 1)]
