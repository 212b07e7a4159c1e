"""Draws by class and sign against counts taken one by one."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from mlbench.annotation import State, draw_mask
from mlbench.errors import UsageError

P, N, U, X = (int(s) for s in (State.POSITIVE, State.NEGATIVE, State.UNKNOWN, State.UNSPECIFIED))
IDS = [f"image {row}" for row in range(200)]


@pytest.fixture
def labels() -> np.ndarray:
    """Common, rare, absent, always present, and scarcely known classes."""
    draw = np.random.default_rng(0)
    shares = np.array([0.5, 0.03, 0.0, 1.0, 0.4])
    found = np.where(draw.random((200, 5)) < shares, P, N).astype(np.int8)
    found[10:, 4] = U
    found[:3, 0] = X
    return found


def counts(matrix: np.ndarray, sign: int) -> list[int]:
    return [sum(int(value) == sign for value in matrix[:, c]) for c in range(matrix.shape[1])]


@pytest.mark.parametrize("n", [0, 1, 7, 100, 1000, -1])
def test_fix_per_class_keeps_up_to_n_of_each_sign(labels: np.ndarray, n: int) -> None:
    observed = draw_mask(labels, "partial_per_class", {"n": n}, ids=IDS).observed
    for sign in (P, N):
        assert counts(observed, sign) == [there if n == -1 else min(n, there) for there in counts(labels, sign)]
    assert counts(observed, X) == counts(labels, X)
    shown = (observed == P) | (observed == N)
    assert (observed[shown] == labels[shown]).all()


@pytest.mark.parametrize("percent", [1, 10, 20, 29, 40, 57, 60, 80, 100])
def test_the_fraction_keeps_at_least_one_of_each_sign_there_is(labels: np.ndarray, percent: int) -> None:
    observed = draw_mask(labels, "partial_fraction", {"keep": percent / 100}, ids=IDS).observed
    for sign in (P, N):
        expected = [max(percent * there // 100, 1) if there else 0 for there in counts(labels, sign)]
        assert counts(observed, sign) == expected
    shown = (observed == P) | (observed == N)
    assert (observed[shown] == labels[shown]).all()


def test_the_fraction_does_not_fall_into_the_float_trap() -> None:
    labels = np.full((100, 1), P, dtype=np.int8)
    assert int(0.29 * 100) == 28
    assert counts(draw_mask(labels, "partial_fraction", {"keep": 0.29}, ids=IDS[:100]).observed, P) == [29]


@pytest.mark.parametrize(
    ("process", "name", "values"),
    [("partial_per_class", "n", (0, 1, 5, 50, -1)), ("partial_fraction", "keep", (0.01, 0.1, 0.5, 0.9, 1.0))],
)
def test_draws_of_one_seed_are_nested_and_those_of_another_differ(labels, process, name, values) -> None:
    known = [draw_mask(labels, process, {name: value}, 1, ids=IDS).observed != U for value in values]
    assert all((less <= more).all() for less, more in itertools.pairwise(known))
    assert ((labels != U) == known[-1]).all()
    assert (known[2] != (draw_mask(labels, process, {name: values[2]}, 2, ids=IDS).observed != U)).any()


@pytest.mark.parametrize(("process", "params"), [("partial_per_class", {"n": 3}), ("partial_fraction", {"keep": 0.1})])
def test_the_draw_belongs_to_ids_not_to_the_order_of_rows(labels, process, params) -> None:
    order = np.random.default_rng(5).permutation(200)
    straight = draw_mask(labels, process, params, 3, ids=IDS).observed
    shuffled = draw_mask(labels[order], process, params, 3, ids=[IDS[row] for row in order]).observed
    assert (shuffled == straight[order]).all()


@pytest.mark.parametrize(("process", "params"), [("partial_per_class", {"n": 2}), ("partial_fraction", {"keep": 0.2})])
def test_every_label_of_a_class_and_sign_is_as_likely_as_any_other(process, params) -> None:
    labels = np.repeat(np.array([[P], [N]], dtype=np.int8), 10, axis=0)
    draws = np.array([draw_mask(labels, process, params, seed, ids=IDS[:20]).observed != U for seed in range(2000)])
    share = draws.mean(axis=0)[:, 0]
    assert abs(share - 0.2).max() < 5 * np.sqrt(0.2 * 0.8 / 2000)


@pytest.mark.parametrize("process", ["partial_per_class", "partial_fraction"])
def test_an_empty_part_gives_an_empty_mask(process: str) -> None:
    mask = draw_mask(np.zeros((0, 4), dtype=np.int8), process, {"keep": 0.1} if "fraction" in process else {}, ids=[])
    assert mask.observed.shape == (0, 4)


@pytest.mark.parametrize(
    ("process", "params", "message"),
    [
        ("partial_per_class", {"n": -2}, "'n' is -2"),
        ("partial_per_class", {"n": 1.5}, "'n' is 1.5"),
        ("partial_per_class", {"keep": 0.1}, "unknown parameter 'keep'"),
        ("partial_fraction", {}, "'keep' is missing"),
        ("partial_fraction", {"keep": 10}, "'keep' is 10"),
    ],
)
def test_wrong_parameters_are_refused(labels, process, params, message) -> None:
    with pytest.raises(UsageError, match=message):
        draw_mask(labels, process, params, ids=IDS)
