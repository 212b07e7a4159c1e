"""Pictures of boards: what is drawn, and what a screen reader is told."""

from __future__ import annotations

import math
import random
import re
from itertools import pairwise

import pytest

from mlbench.report.site.cells import signed
from mlbench.report.site.pictures import Course, Gain, Spot, class_gains, cost_chart, course_chart, forest, spread
from mlbench.report.site.pictures import frontier as frontier_of


def numbers(pattern: str, drawing: str) -> list[float]:
    return [float(found) for found in re.findall(pattern, drawing)]


def test_gains_lie_right_of_zero_where_they_are_positive_and_intervals_around_their_points() -> None:
    drawn = forest(
        "t", [Gain("up", 2.0, 1.0, 3.0, True), Gain("down", -1.0, -1.5, -0.5), Gain("no", math.nan)], "points"
    )
    (zero,) = numbers(r'class="zero" d="M([\d.]+)', drawn)
    up, down = numbers(r'cx="([\d.]+)"', drawn)
    assert down < zero < up
    # Linear: a point of gain is as long on both sides.
    assert (up - zero) / 2 == pytest.approx(zero - down, abs=0.1)
    ends = re.findall(r'class="span" d="M([\d.]+) [\d.]+H([\d.]+)', drawn)
    assert [float(low) < at < float(high) for at, (low, high) in zip((up, down), ends, strict=True)] == [True, True]
    assert re.findall(r'class="(dot|ring)"', drawn) == ["dot", "ring"]
    assert "<desc>points: up +2.0 (+1.0 to +3.0); down -1.0 (-1.5 to -0.5)</desc>" in drawn


def test_what_rounds_to_zero_has_no_sign() -> None:
    assert [signed(value) for value in (0.04, -0.04, 0.06, -0.06, 0.0)] == ["0.0", "0.0", "+0.1", "-0.1", "0.0"]


def test_pictures_escape_names_and_are_nothing_without_points() -> None:
    assert forest("t", [], "a") == cost_chart("t", [Spot("a", 1, 1)], "x", "y") == course_chart("t", [], "x", "y") == ""
    assert class_gains("t", {"a": (1.0, 0.0, 2.0)}, "a") == ""
    for drawn in (
        forest("<t>", [Gain("<b>", 1.0)], "<a>"),
        cost_chart("<t>", [Spot("<b>", 1, 1), Spot("c", 2, 2)], "<x>", "<y>"),
        course_chart("<t>", [Course("<b>", [(1, 1), (2, 2)], True)], "<x>", "<y>"),
    ):
        assert not re.search(r"<[btaxy]>", drawn)
        assert "nan" not in drawn


def test_the_line_of_costs_has_those_that_nothing_cheaper_betters() -> None:
    draw = random.Random(0)
    spots = [Spot(str(i), draw.randint(1, 20), draw.randint(1, 20)) for i in range(60)]
    front = frontier_of(spots)
    for spot in spots:
        bettered = any((o.x <= spot.x and o.y > spot.y) or (o.x < spot.x and o.y >= spot.y) for o in spots)
        assert bettered != any((spot.x, spot.y) == (f.x, f.y) for f in front)
    assert [spot.x for spot in front] == sorted(spot.x for spot in front)


def test_costs_are_drawn_on_a_logarithmic_axis() -> None:
    drawn = cost_chart("t", [Spot("a", 1, 1), Spot("b", 10, 2), Spot("c", 100, 3)], "x", "y")
    a, b, c = numbers(r'cx="([\d.]+)"', drawn)
    assert b - a == pytest.approx(c - b, abs=0.2)


def test_places_are_moved_apart_in_their_order_and_stay_within() -> None:
    assert spread([50.0, 10.0], 5, 0, 100) == [50.0, 10.0]
    found = spread([10.0, 11.0, 10.5, 99.0, 99.5], 5, 0, 100)
    order = sorted(range(5), key=lambda i: found[i])
    assert order == [0, 2, 1, 3, 4]
    assert all(found[b] - found[a] >= 5 - 1e-9 for a, b in pairwise(order))
    assert max(found) <= 100


def test_the_classes_that_gain_and_lose_most_are_shown() -> None:
    gains = {f"class {i}": (float(i - 20), float(i - 21), float(i - 19)) for i in range(50)}
    drawn = class_gains("t", gains, "points", most=3)
    assert re.findall(r">(class \d+)<", drawn) == [f"class {i}" for i in (49, 48, 47, 2, 1, 0)]
    assert "29 of 50 classes gain. 44 classes between these are left out." in drawn


def test_courses_are_told_apart_without_colour() -> None:
    courses = [Course(name, [(10, i), (50, i + 1), (90, i + 2)], i < 3) for i, name in enumerate("abcd")]
    drawn = course_chart("t", courses, "x", "y")
    assert set(re.findall(r'class="(strong dash\d|faint)"', drawn)) == {
        "strong dash0",
        "strong dash1",
        "strong dash2",
        "faint",
    }
    assert re.findall(r'class="name"[^>]*>(\w)<', drawn) == ["a", "b", "c"]
