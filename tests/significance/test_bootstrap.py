"""The re-weighted bootstrap against the naive one, which repeats rows and computes every metric anew."""

from __future__ import annotations

import numpy as np
import pytest

from mlbench.errors import DataError, UsageError
from mlbench.metrics import (
    Logits,
    Probabilities,
    Ranks,
    average_precision,
    mean_average_precision,
    precision_recall_f1,
    threshold,
)
from mlbench.significance import bootstrap
from mlbench.significance.bootstrap import (
    LabelF1,
    MeanAP,
    draw_weights,
    paired_bootstrap,
    paired_interval,
    paired_replicates,
)

N, C, R = 60, 7, 40


@pytest.fixture(name="data")
def small_data() -> dict[str, np.ndarray]:
    """Ties everywhere; class 3 without positives, class 4 all positive, class 5 unknown, class 6 with one positive."""
    rng = np.random.default_rng(4)
    targets = rng.random((N, C)) < 0.2
    targets[:, 3], targets[:, 4] = False, True
    targets[:, 6] = np.arange(N) == 7
    known = rng.random((N, C)) < 0.7
    known[:, 5] = False
    known[7, 6] = True
    scores = np.round(rng.normal(size=(2, N, C)) + targets, 1).astype(np.float32)  # ties within and across classes
    return {"a": scores[0], "b": scores[1], "targets": targets, "known": known, "groups": np.arange(N) // 3}


def weights_of(groups: np.ndarray, replicates: int = R, seed: int = 0) -> np.ndarray:
    return np.concatenate(list(draw_weights(groups, replicates, seed)), axis=1)


def repeated(weights: np.ndarray, *arrays: np.ndarray) -> list[np.ndarray]:
    return [np.repeat(array, weights.astype(int), axis=0) for array in arrays]


@pytest.mark.parametrize("flavour", ["step", "envelope"])
def test_ap_equals_that_of_repeated_rows(data, flavour) -> None:
    weights = weights_of(np.arange(N))
    ours = MeanAP(Logits(data["a"]), data["targets"], data["known"], flavour).by_class(weights)
    for r in range(R):
        scores, targets, known = repeated(weights[:, r], data["a"], data["targets"], data["known"])
        np.testing.assert_allclose(
            ours[:, r], average_precision(Logits(scores), targets, known, flavour), rtol=0, atol=1e-9
        )
    assert np.isnan(ours[[3, 5]]).all()
    assert 0 < np.isnan(ours[6]).sum() < R  # the only positive is not always drawn


@pytest.mark.parametrize("rule", ["zero", "skip", "zero_if_known"])
def test_map_equals_that_of_repeated_rows(data, rule) -> None:
    known = data["known"].copy()
    known[:, 3] = np.arange(N) < 2  # known in some draws only
    weights = weights_of(np.arange(N))
    ours = MeanAP(Ranks(data["b"]), data["targets"], known, empty_class=rule)(weights)["mAP"]
    naive = []
    for column in weights.T:
        scores, targets, seen = repeated(column, data["b"], data["targets"], known)
        naive.append(mean_average_precision(average_precision(Ranks(scores), targets, seen), rule, seen))
    np.testing.assert_allclose(ours, naive, rtol=0, atol=1e-9)


def test_constant_scores_give_the_weighted_prevalence(data) -> None:
    weights = weights_of(np.arange(N))
    ap = MeanAP(Logits(np.zeros((N, C), np.float32)), data["targets"]).by_class(weights)
    prevalence = data["targets"].T @ weights / N
    np.testing.assert_allclose(ap[prevalence > 0], prevalence[prevalence > 0], atol=1e-12)


def test_f1_equals_that_of_repeated_rows(data) -> None:
    decisions = threshold(Logits(data["a"]))
    weights = weights_of(data["groups"])
    ours = LabelF1(decisions, data["targets"], data["known"], "x/")(weights)
    assert list(ours) == ["x/F1-C_mean", "x/F1-C_hm", "x/F1-O"]
    for r in range(R):
        counted = precision_recall_f1(*repeated(weights[:, r], decisions, data["targets"], data["known"]))
        for name in ("F1_C_mean", "F1_C_hm", "F1_O"):
            assert ours["x/" + name.replace("F1_", "F1-")][r] == pytest.approx(getattr(counted, name), abs=1e-9)


def test_f1_without_any_decision_is_zero(data) -> None:
    values = LabelF1(np.zeros((N, C), bool), data["targets"])(weights_of(np.arange(N)))
    assert all((value == 0).all() for value in values.values())


def test_all_samples_of_an_image_are_drawn_together(data) -> None:
    weights = weights_of(data["groups"])
    assert weights.shape == (N, R)
    by_group = weights.reshape(-1, 3, R)
    assert (by_group == by_group[:, :1]).all()
    assert (by_group[:, 0].sum(axis=0) == N // 3).all()  # as many images as there are
    assert weights.dtype == np.float32


def test_draws_are_uniform_and_do_not_depend_on_the_chunk(monkeypatch) -> None:
    whole = weights_of(np.arange(50), 400, seed=3)
    assert np.abs(whole.mean(axis=1) - 1).max() < 5 / np.sqrt(400)
    monkeypatch.setattr(bootstrap, "CHUNK", 7)
    np.testing.assert_array_equal(whole, weights_of(np.arange(50), 400, seed=3))
    assert (whole != weights_of(np.arange(50), 400, seed=4)).any()


def test_paired_bootstrap_equals_the_naive_one(data) -> None:
    arrays = data["targets"], data["known"]
    found = paired_bootstrap(Logits(data["a"]), Logits(data["b"]), *arrays, data["groups"], replicates=R, seed=5)
    naive = []
    for column in weights_of(data["groups"], seed=5).T:
        a, b, targets, known = repeated(column, data["a"], data["b"], *arrays)
        first, second = (np.nanmean(average_precision(Logits(s), targets, known)) for s in (a, b))
        naive.append(second - first)
    low, high = np.quantile(naive, [0.025, 0.975])
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-9)
    assert found.difference == pytest.approx(
        np.nanmean(average_precision(Logits(data["b"]), *arrays))
        - np.nanmean(average_precision(Logits(data["a"]), *arrays)),
        abs=1e-12,
    )
    rarer = min(np.sum(np.array(naive) <= 0), np.sum(np.array(naive) >= 0))
    assert found.p == min(1, 2 * (rarer + 1) / (R + 1))
    assert found.replicates == R
    assert found.centre == pytest.approx(np.mean(naive), abs=1e-9)


def test_a_system_does_not_differ_from_itself_and_differs_from_a_much_better_one(data) -> None:
    a, better = Logits(data["a"]), Logits(data["targets"].astype(np.float32))
    same = paired_bootstrap(a, a, data["targets"], replicates=50)
    assert (same.difference, same.low, same.high, same.p) == (0, 0, 0, 1)
    gap = paired_bootstrap(a, better, data["targets"], replicates=199)
    assert gap.low > 0
    assert gap.p == pytest.approx(2 / 200)
    back = paired_bootstrap(better, a, data["targets"], replicates=199)
    assert (back.low, back.high) == pytest.approx((-gap.high, -gap.low))


def test_logits_of_fifty_are_told_apart_and_kinds_may_differ(data) -> None:
    logits = np.linspace(-50, 50, N * C, dtype=np.float32).reshape(N, C)
    probabilities = Probabilities(np.linspace(0, 1, N * C).reshape(N, C))
    found = paired_bootstrap(Logits(logits), probabilities, data["targets"], replicates=20)
    assert found.difference == found.low == found.high == 0


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng, hits, trials = np.random.default_rng(0), 0, 120

    def sample(n: int) -> tuple[np.ndarray, np.ndarray]:
        targets = rng.random((n, 1)) < 0.3
        signal = rng.normal(size=(n, 1))
        return targets, np.stack([targets + signal + 0.5 * rng.normal(size=(n, 1)) for _ in range(2)])

    for _ in range(trials):  # two systems of the same quality: the true difference is 0
        targets, scores = sample(200)
        found = paired_bootstrap(Logits(scores[0]), Logits(scores[1]), targets, replicates=200)
        hits += found.low <= 0 <= found.high
    assert 0.88 <= hits / trials <= 1.0


def test_undefined_replicates_are_left_out_and_counted() -> None:
    found = paired_interval(np.array([0.5, np.nan, 0.4, 0.6]), np.array([0.7, 0.5, 0.5, 0.9]))
    assert found.replicates == 2
    assert found.low == pytest.approx(0.1 + 0.025 * 0.2)
    none = paired_interval(np.array([0.5, np.nan]), np.array([0.7, np.nan]))
    assert none.replicates == 0
    assert np.isnan([none.low, none.high, none.p]).all()


def test_one_image_is_always_drawn() -> None:
    scores = Logits(np.array([[1.0, -1.0]], dtype=np.float32))
    found = paired_bootstrap(scores, scores, np.array([[True, False]]), replicates=5)
    assert (found.a, found.low, found.high) == (1, 0, 0)


def test_heavy_groups_are_summed_exactly() -> None:
    groups = np.zeros(5000, dtype=int)
    groups[:4000] = np.arange(4000)  # one image of 1,001 samples: sums could pass what float32 holds
    chunk = next(iter(draw_weights(groups, 1, 0)))
    assert chunk.dtype == np.float32
    assert next(iter(draw_weights(np.repeat([0, *range(1, 5000)], [5000, *[1] * 4999]), 1, 0))).dtype == np.float64


def test_several_statistics_share_the_draws(data) -> None:
    systems = [
        [MeanAP(Logits(data[k]), data["targets"]), LabelF1(threshold(Logits(data[k])), data["targets"])] for k in "ab"
    ]
    first, second = paired_replicates(systems[0], systems[1], data["groups"], 10, 0)
    assert list(first) == list(second) == ["mAP", "F1-C_mean", "F1-C_hm", "F1-O"]
    assert all(values.shape == (11,) for values in (*first.values(), *second.values()))


def test_wrong_use_is_refused(data) -> None:
    a = Logits(data["a"])
    with pytest.raises(UsageError, match="replicates = 0"):
        paired_bootstrap(a, a, data["targets"], replicates=0)
    with pytest.raises(UsageError, match="flavour"):
        paired_bootstrap(a, a, data["targets"], flavour="eleven_point")
    with pytest.raises(UsageError, match="expected Logits"):
        paired_bootstrap(data["a"], a, data["targets"])
    with pytest.raises(UsageError, match="empty classes"):
        paired_bootstrap(a, a, data["targets"], empty_class="nought", replicates=2)
    with pytest.raises(UsageError, match="confidence"):
        paired_bootstrap(a, a, data["targets"], replicates=2, confidence=95)
    with pytest.raises(DataError, match="59 groups for 60 samples"):
        paired_bootstrap(a, a, data["targets"], groups=np.arange(59))
    with pytest.raises(DataError):
        paired_bootstrap(a, a, data["targets"].astype(int))
