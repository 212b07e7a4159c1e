"""Pictures of boards as inline SVG: gains, cost, shares of labels, classes. Told apart by form, not by colour alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from mlbench.report.site.cells import signed
from mlbench.report.site.charts import ticks

_WIDTH, _ROW, _LEFT, _RIGHT, _TOP = 520, 19, 158, 48, 8
_HEIGHT, _BOTTOM = 300, 36
#: Letters of a name that a picture has room for.
_LONGEST = 26


@dataclass(frozen=True)
class Gain:
    """A line of a forest plot, in points; `filled` for the group of the best."""

    name: str
    value: float
    low: float = math.nan
    high: float = math.nan
    filled: bool = False


@dataclass(frozen=True)
class Spot:
    """A point of a method; `filled` for the group of the best."""

    name: str
    x: float
    y: float
    filled: bool = False


@dataclass(frozen=True)
class Course:
    """Points (x, y) of one method; `strong` for those whose name is written."""

    name: str
    points: Sequence[tuple[float, float]]
    strong: bool = False


def forest(title: str, gains: Sequence[Gain], axis: str, note: str = "") -> Markup:
    """A point with its interval for each of `gains`, from top to bottom, and a line at 0; empty for none."""
    gains = [gain for gain in gains if not math.isnan(gain.value)]
    if not gains:
        return Markup("")
    ends = [end for g in gains for end in (g.value, g.low, g.high) if not math.isnan(end)]
    levels = ticks(min(0.0, *ends), max(0.0, *ends))
    low, high = levels[0], levels[-1]
    bottom = _TOP + _ROW * len(gains)

    def x(value: float) -> float:
        return _LEFT + (value - low) / ((high - low) or 1) * (_WIDTH - _LEFT - _RIGHT)

    parts = []
    for level in levels:
        kind = "zero" if level == 0 else "grid"
        parts.append(f'<path class="{kind}" d="M{x(level):.1f} {_TOP}V{bottom}"/>')
        parts.append(f'<text x="{x(level):.1f}" y="{bottom + 14}" text-anchor="middle">{level:+g}</text>')
    for number, gain in enumerate(gains):
        y = _TOP + _ROW * (number + 0.5)
        parts.append(
            f'<text class="name" x="{_LEFT - 8}" y="{y:.1f}" dy=".32em" text-anchor="end">{_name(gain.name)}</text>'
        )
        if not math.isnan(gain.low):
            parts.append(f'<path class="span" d="M{x(gain.low):.1f} {y:.1f}H{x(gain.high):.1f}"/>')
        parts.append(_dot(x(gain.value), y, gain.filled))
        parts.append(f'<text x="{_WIDTH - 4}" y="{y:.1f}" dy=".32em" text-anchor="end">{signed(gain.value)}</text>')
    parts.append(
        f'<text x="{(_LEFT + _WIDTH - _RIGHT) / 2:.0f}" y="{bottom + 29}" text-anchor="middle">{escape(axis)}</text>'
    )
    said = [
        f"{g.name} {signed(g.value)}" + ("" if math.isnan(g.low) else f" ({signed(g.low)} to {signed(g.high)})")
        for g in gains
    ]
    return figure(title, f"{axis}: {'; '.join(said)}", bottom + 34, "".join(parts), note)


def cost_chart(title: str, spots: Sequence[Spot], x_label: str, y_label: str, note: str = "") -> Markup:
    """`spots` over a logarithmic axis, with the line of those that nothing cheaper betters; empty for fewer than 2."""
    spots = [s for s in spots if s.x > 0 and math.isfinite(s.x) and not math.isnan(s.y)]
    if len(spots) < 2:
        return Markup("")
    front = frontier(spots)
    decades = _log_ticks(min(s.x for s in spots), max(s.x for s in spots))
    levels = ticks(min(s.y for s in spots), max(s.y for s in spots))
    left, right, bottom = 44, _WIDTH - 16, _HEIGHT - _BOTTOM

    def x(value: float) -> float:
        low, high = math.log(decades[0]), math.log(decades[-1])
        return left + (math.log(value) - low) / ((high - low) or 1) * (right - left)

    def y(value: float) -> float:
        return bottom - (value - levels[0]) / ((levels[-1] - levels[0]) or 1) * (bottom - _TOP)

    parts = [_levels(levels, y, left, right)]
    for tick in decades:
        parts.append(f'<text x="{x(tick):.1f}" y="{bottom + 14}" text-anchor="middle">{tick:,g}</text>')
    steps = "".join(f"{'H' if i else 'M'}{x(s.x):.1f}{'V' if i else ' '}{y(s.y):.1f}" for i, s in enumerate(front))
    parts.append(f'<path class="span dashed" d="{steps}"/>')
    parts += [_dot(x(s.x), y(s.y), s.filled) for s in spots]
    dots = [(x(s.x), y(s.y)) for s in spots]
    for spot, (place, up, anchor) in zip(
        front, _places([(s.name, x(s.x), y(s.y)) for s in front], dots, right), strict=True
    ):
        where = f'x="{place:.1f}" y="{up:.1f}" dy=".32em" text-anchor="{anchor}"'
        parts.append(f'<text class="name" {where}>{_name(spot.name)}</text>')
    parts.append(_labels(x_label, y_label, left, right, bottom))
    said = [f"{s.name} {s.y:.1f} at {s.x:,.0f}" for s in sorted(spots, key=lambda s: -s.y)]
    return figure(title, f"{y_label} against {x_label}: {'; '.join(said)}", _HEIGHT, "".join(parts), note)


def course_chart(title: str, courses: Sequence[Course], x_label: str, y_label: str, note: str = "") -> Markup:
    """A line for each method over shares of labels; the strong ones have their names at the right end."""
    courses = [course for course in courses if len(course.points) > 1]
    if not courses:
        return Markup("")
    xs = sorted({x for course in courses for x, _ in course.points})
    ys = [y for course in courses for _, y in course.points]
    levels = ticks(min(ys), max(ys))
    left, right, bottom = 44, _WIDTH - 110, _HEIGHT - _BOTTOM

    def x(value: float) -> float:
        return left + (value - xs[0]) / ((xs[-1] - xs[0]) or 1) * (right - left)

    def y(value: float) -> float:
        return bottom - (value - levels[0]) / ((levels[-1] - levels[0]) or 1) * (bottom - _TOP)

    parts = [_levels(levels, y, left, right)]
    for tick in xs:
        parts.append(f'<text x="{x(tick):.1f}" y="{bottom + 14}" text-anchor="middle">{tick:g}</text>')
    strong = [course for course in courses if course.strong]
    for course in sorted(courses, key=lambda course: course.strong):
        dash = f" dash{strong.index(course) % 4}" if course.strong else ""
        steps = "L".join(f"{x(a):.1f} {y(b):.1f}" for a, b in course.points)
        parts.append(f'<path class="{"strong" if course.strong else "faint"}{dash}" d="M{steps}"/>')
    at = spread([y(course.points[-1][1]) for course in strong], 13, _TOP + 4, bottom - 4)
    for course, place in zip(strong, at, strict=True):
        last = course.points[-1]
        parts.append(f'<path class="lead" d="M{x(last[0]) + 3:.1f} {y(last[1]):.1f}L{right + 12} {place:.1f}"/>')
        parts.append(f'<text class="name" x="{right + 15}" y="{place:.1f}" dy=".32em">{_name(course.name)}</text>')
    parts.append(_labels(x_label, y_label, left, right, bottom))
    said = [f"{c.name} from {c.points[0][1]:.1f} to {c.points[-1][1]:.1f}" for c in courses]
    return figure(title, f"{y_label} by {x_label}: {'; '.join(said)}", _HEIGHT, "".join(parts), note)


def class_gains(title: str, gains: Mapping[str, tuple[float, float, float]], axis: str, most: int = 10) -> Markup:
    """The `most` classes with the highest gains and the `most` with the lowest: mean, and lowest and highest draw."""
    order = sorted((name for name, gain in gains.items() if not math.isnan(gain[0])), key=lambda name: -gains[name][0])
    if len(order) < 2:
        return Markup("")
    left_out = max(0, len(order) - 2 * most)
    shown = order if not left_out else order[:most] + order[-most:]
    gaining = sum(gains[name][0] > 0 for name in order)
    note = f"Lines: from the lowest to the highest draw. {gaining} of {len(order)} classes gain."
    if left_out:
        note += f" {left_out} classes between these are left out."
    return forest(title, [Gain(name, *gains[name], filled=gains[name][0] > 0) for name in shown], axis, note)


def frontier(spots: Sequence[Spot]) -> list[Spot]:
    """Those of `spots` that no other one betters at the same x or less, cheapest first."""
    front: list[Spot] = []
    for spot in sorted(spots, key=lambda s: (s.x, -s.y)):
        if not front or spot.y > front[-1].y:
            front.append(spot)
    return front


def spread(places: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """`places` moved apart to be `gap` from each other where there is room, their order kept."""
    order = sorted(range(len(places)), key=lambda i: places[i])
    moved = list(places)
    last = low - gap
    for i in order:
        moved[i] = last = max(places[i], last + gap)
    above = high + gap
    for i in reversed(order):
        moved[i] = above = min(moved[i], above - gap)
    return moved


def figure(title: str, said: str, height: float, drawing: str, note: str = "") -> Markup:
    """A figure with a caption; `said` is what a screen reader reads of it."""
    return Markup(
        '<figure><figcaption>{}</figcaption><svg class="chart" viewBox="0 0 {} {:.0f}" role="img" aria-label="{}">'
        "<desc>{}</desc>{}</svg>{}</figure>"
    ).format(
        title,
        _WIDTH,
        height,
        title,
        said,
        Markup(drawing),
        Markup('<p class="soft">{}</p>').format(note) if note else "",
    )


def _places(
    names: Sequence[tuple[str, float, float]], dots: Sequence[tuple[float, float]], right: float
) -> list[tuple[float, float, str]]:
    """Where to write names (text, x, y of the point) so that they cover the fewest points and names: x, y, anchor."""
    taken: list[tuple[float, float, float]] = []
    found = []
    for name, x, y in names:
        width = 6.2 * min(len(name), _LONGEST)
        best: tuple[int, float, float, str, float] | None = None
        for up in (-11.0, 11.0, -23.0, 23.0, 0.0):
            for anchor, start in (("start", x + 6), ("end", x - 6 - width)):
                inside = start >= 44 and start + width <= right + 12 and _TOP <= y + up <= _HEIGHT - _BOTTOM
                hits = sum(start - 5 < a < start + width + 5 and abs(b - y - up) < 9 for a, b in dots)
                hits += sum(start < b and a < start + width and abs(c - y - up) < 11 for a, b, c in taken)
                hits += 0 if inside else 9
                if best is None or hits < best[0]:
                    best = hits, (x + 6 if anchor == "start" else x - 6), y + up, anchor, start
        assert best is not None
        taken.append((best[4], best[4] + width, best[2]))
        found.append((best[1], best[2], best[3]))
    return found


def _dot(x: float, y: float, filled: bool) -> str:
    return f'<circle class="{"dot" if filled else "ring"}" cx="{x:.1f}" cy="{y:.1f}" r="4"/>'


def _name(name: str) -> str:
    return escape(name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…")


def _levels(levels: Sequence[float], y: Callable[[float], float], left: float, right: float) -> str:
    return "".join(
        f'<path class="grid" d="M{left} {y(level):.1f}H{right}"/>'
        f'<text x="{left - 6}" y="{y(level):.1f}" dy=".32em" text-anchor="end">{level:g}</text>'
        for level in levels
    )


def _labels(x_label: str, y_label: str, left: float, right: float, bottom: float) -> str:
    return (
        f'<text x="{(left + right) / 2:.0f}" y="{_HEIGHT - 5}" text-anchor="middle">{escape(x_label)}</text>'
        f'<text transform="translate(10 {(bottom + _TOP) / 2:.0f}) rotate(-90)" text-anchor="middle">'
        f"{escape(y_label)}</text>"
    )


def _log_ticks(low: float, high: float) -> list[float]:
    """1, 2, 5, 10, ... from the last at or below `low` to the first at or above `high`, thinned to eight."""
    steps = [factor * 10.0**power for power in range(-3, 9) for factor in (1, 2, 5)]
    first = max((i for i, s in enumerate(steps) if s <= low), default=0)
    last = min((i for i, s in enumerate(steps) if s >= high), default=len(steps) - 1)
    found = steps[first : max(last, first + 1) + 1]
    return found if len(found) <= 8 else [*found[:-1:3], found[-1]]
