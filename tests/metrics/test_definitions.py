"""Published definitions: against scikit-learn, the printed numbers of the papers, and the codes' own arithmetic."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    label_ranking_average_precision_score,
    precision_recall_fscore_support,
)
from sklearn.metrics import hamming_loss as hamming_loss_score

from mlbench.errors import UsageError
from mlbench.metrics import (
    AXES,
    METRICS,
    PUBLISHED,
    Definition,
    Lens,
    Logits,
    Probabilities,
    Ranks,
    class_means,
    harmonic_mean,
    precision_recall_f1,
    users,
)

MACRO = ("P-C", "R-C", "F1-C")


def drawn(rows: int = 40, classes: int = 6, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits on a coarse grid (with ties and zeros), and labels with one class and three images without positives."""
    random = np.random.default_rng(seed)
    logits = np.round(random.normal(size=(rows, classes)) * 4) / 2
    targets = random.random((rows, classes)) < 0.4
    targets[:, 4] = False
    targets[~targets.any(axis=1), 0] = True
    targets[:3] = False
    logits[:, 5] = -1.0  # never predicted
    return logits, targets


def lens_of(logits: np.ndarray, targets: np.ndarray, **more) -> Lens:
    return Lens(Logits(logits), targets, np.ones_like(targets), **more)


@pytest.mark.parametrize(
    ("p", "r", "printed"),
    [(59.3, 52.5, 55.7), (66.0, 55.6, 60.4)],  # VAC table 6, top-3: WARP and CNN-RNN
)
def test_rows_copied_from_warp_and_cnn_rnn_are_harmonic_means(p, r, printed):
    assert harmonic_mean(p, r) == pytest.approx(printed, abs=0.05)


@pytest.mark.parametrize(
    ("p", "r", "hm", "printed"),  # the same table: ResNet101*, SRN and ACfs, all and top-3
    [
        (80.8, 63.4, 71.05, 69.5),
        (84.3, 57.4, 68.30, 65.9),
        (81.6, 65.4, 72.61, 71.2),
        (85.2, 58.8, 69.58, 67.4),
        (77.4, 68.3, 72.57, 72.2),
        (85.2, 59.4, 70.00, 68.0),
    ],
)
def test_rows_of_srn_and_vac_are_not(p, r, hm, printed):
    assert harmonic_mean(p, r) == pytest.approx(hm, abs=0.005)
    assert hm - printed > 0.3


@pytest.mark.parametrize(("rule", "zero_division"), [("zero", 0), ("one", 1), ("skip", np.nan)])
def test_zero_by_zero_is_what_scikit_learn_makes_of_it(rule, zero_division):
    logits, targets = drawn()
    decided = logits > 0
    got = class_means(precision_recall_f1(decided, targets), rule, rule if rule != "skip" else "zero")
    with np.errstate(invalid="ignore"):
        p, r, _, _ = precision_recall_fscore_support(targets, decided, average=None, zero_division=zero_division)
    assert pytest.approx(np.nanmean(p)) == got.P_C
    assert pytest.approx(np.mean(np.nan_to_num(r))) == got.R_C


def test_srn_adds_a_tiny_number_to_every_count():
    random = np.random.default_rng(3)
    eps = np.finfo(float).eps
    for _ in range(30):
        decided, targets = random.random((2, 4, 5)) < 0.3
        tp, predicted, positives = (m.sum(axis=0) for m in (decided & targets, decided, targets))
        p, r = (tp + eps) / (predicted + eps), (tp + eps) / (positives + eps)
        got = class_means(precision_recall_f1(decided, targets), "one", "one")
        assert pytest.approx((p.mean(), r.mean()), abs=1e-12) == (got.P_C, got.R_C)
        assert pytest.approx(np.mean(2 * p * r / (p + r)), abs=1e-12) == got.F1_C_mean


def test_classes_without_positives_leave_every_mean_or_make_recall_undefined():
    logits, targets = drawn()
    kept = [0, 1, 2, 3, 5]
    skipped = class_means(precision_recall_f1(logits > 0, targets), no_positives="skip")
    assert skipped == class_means(precision_recall_f1(logits[:, kept] > 0, targets[:, kept]))
    broken = class_means(precision_recall_f1(logits > 0, targets), no_positives="undefined")
    assert broken.P_C == class_means(precision_recall_f1(logits > 0, targets)).P_C
    assert all(math.isnan(value) for value in (broken.R_C, broken.F1_C_mean, broken.F1_C_hm))


def test_an_unknown_rule_is_named():
    counted = precision_recall_f1(*np.zeros((2, 1, 1), bool))
    with pytest.raises(UsageError, match=r"never_predicted.*Did you mean 'zero'"):
        class_means(counted, "zeros")


def test_vac_as_its_own_evaluation_code_does():
    logits, targets = drawn()
    lens, vac = lens_of(logits, targets), PUBLISHED["VAC"]
    ap = [average_precision_score(targets[:, c], logits[:, c]) if targets[:, c].any() else 0.0 for c in range(6)]
    macro = precision_recall_fscore_support(targets, logits > 0, average="macro", zero_division=0)[:3]
    micro = precision_recall_fscore_support(targets, logits > 0, average="micro", zero_division=0)[:3]
    assert lens.value(vac, "mAP") == pytest.approx(np.mean(ap))
    assert [lens.value(vac, name) for name in MACRO] == pytest.approx(macro)
    assert [lens.value(vac, name) for name in ("P-O", "R-O", "F1-O")] == pytest.approx(micro)


def test_mlgcn_counts_one_prediction_for_a_silent_class_and_drops_images_without_labels():
    logits, targets = drawn()
    logits, targets = np.delete(logits, 4, axis=1), np.delete(targets, 4, axis=1)
    lens, mlgcn = lens_of(logits, targets), PUBLISHED["MLGCN"]
    decided, truth = logits[3:] >= 0, targets[3:]
    correct, predicted, positives = ((decided & truth).sum(0), decided.sum(0), truth.sum(0))
    predicted[predicted == 0] = 1
    op, o_r = correct.sum() / predicted.sum(), correct.sum() / positives.sum()
    cp, cr = (correct / predicted).mean(), (correct / positives).mean()
    expected = {"P-O": op, "R-O": o_r, "F1-O": 2 * op * o_r / (op + o_r)}
    expected |= {"P-C": cp, "R-C": cr, "F1-C": 2 * cp * cr / (cp + cr)}
    assert {name: lens.value(mlgcn, name) for name in expected} == pytest.approx(expected)
    assert lens.value(mlgcn, "P-O") < lens.value(replace(mlgcn, guard="none"), "P-O")


def test_equality_decides_for_mlgcn_and_csra_only():
    logits = np.array([[0.0, -1.0], [1.0, 2.0]])
    targets = np.array([[True, False], [True, True]])
    lens = lens_of(logits, targets, k=2)
    found = {name: lens.value(definition, "R-O") for name, definition in PUBLISHED.items()}
    expected = {"VAC": 2 / 3, "SRN": 2 / 3, "ASL": 1 / 3, "MLGCN": 1.0, "CSRA": 1.0}  # p(1) = 0.73 and p(2) = 0.88
    assert found == pytest.approx(expected)


def test_probabilities_and_their_logits_agree_under_every_definition():
    logits, targets = drawn()
    probabilities = Lens(Probabilities(1 / (1 + np.exp(-logits))), targets, np.ones_like(targets))
    lens = lens_of(logits, targets)
    for definition, metric in itertools.product(PUBLISHED.values(), lens.metrics):
        assert probabilities.value(definition, metric) == pytest.approx(lens.value(definition, metric), nan_ok=True)


def test_top_k_strict_counts_k_labels_and_thresholded_only_likely_ones():
    logits, targets = np.array([[3.0, 2.0, -1.0, -2.0]]), np.array([[True, False, True, False]])
    lens = lens_of(logits, targets)
    strict, thresholded = Definition(top="strict"), Definition(top="thresholded")
    assert lens.value(strict, "top3/P-O") == pytest.approx(2 / 3)
    assert lens.value(thresholded, "top3/P-O") == pytest.approx(1 / 2)
    assert lens.value(replace(strict, decision="p > 0.8"), "top3/P-O") == pytest.approx(2 / 3)


def test_per_image_f1_is_the_harmonic_mean_of_the_images_means():
    logits, targets = drawn()
    metrics = precision_recall_f1(logits > 0, targets)
    got = lens_of(logits, targets).value(Definition(f1_o="hm_image"), "F1-O")
    assert got == pytest.approx(harmonic_mean(metrics.P_I, metrics.R_I))


def test_the_range_is_that_of_all_combinations_and_a_fixed_axis_narrows_it():
    logits, targets = drawn()
    lens, base = lens_of(logits, targets), Definition()
    values = [
        lens.value(
            replace(base, f1_c=f1, decision=rule, never_predicted=silent, no_positives=empty, unlabelled=rows), "F1-C"
        )
        for f1, rule, silent, empty, rows in itertools.product(
            ("mean", "hm"),
            ("p > 0.5", "p >= 0.5", "p > 0.8"),
            ("zero", "one", "skip"),
            ("zero", "one", "skip"),
            ("counted", "dropped"),
        )
    ]
    assert lens.range("F1-C", base) == pytest.approx((min(values), max(values)))
    every = ("decision", "f1_c", "never_predicted", "no_positives", "unlabelled")
    assert lens.range("F1-C", base, every) == pytest.approx((lens.value(base, "F1-C"),) * 2)
    low, high = lens.range("F1-C", base, ("f1_c",))
    assert min(values) <= low <= high < max(values)


def test_a_metric_depends_on_the_axes_it_declares_and_on_no_other():
    logits, targets = drawn()
    lens, base = lens_of(logits, targets), Definition()
    for metric in lens.metrics:
        depends = lens.axes(metric)
        for axis, choices in AXES.items():
            found = {lens.value(replace(base, **{axis: choice}), metric) for choice in choices}
            assert axis in depends or found == {lens.value(base, metric)}, (metric, axis)


def test_scores_that_only_order_have_no_decisions_but_a_strict_top_k():
    logits, targets = drawn()
    lens = Lens(Ranks(logits), targets, np.ones_like(targets))
    assert math.isnan(lens.value(PUBLISHED["VAC"], "F1-C"))
    assert math.isnan(lens.value(PUBLISHED["VAC"], "mA"))
    assert all(math.isnan(value) for value in lens.range("F1-C", Definition()))
    expected = lens_of(logits, targets).value(Definition(top="strict"), "top3/F1-C")
    assert lens.value(Definition(top="strict"), "top3/F1-C") == expected
    assert lens.axes("top3/F1-C")["top"] == ("strict",)


def test_decisions_that_came_with_the_predictions_are_one_more_rule():
    logits, targets = drawn()
    lens = Lens(Ranks(logits), targets, np.ones_like(targets), own=targets)
    assert lens.value(Definition(decision="own"), "F1-O") == 1.0
    assert lens.axes("F1-O")["decision"] == ("own",)


def test_images_without_labels_count_as_negatives_or_not_at_all():
    logits, targets = drawn()
    lens = lens_of(logits, targets)
    dropped = Definition(unlabelled="dropped")
    for metric in lens.metrics:
        alone = lens_of(logits[3:], targets[3:]).value(Definition(), metric)
        assert lens.value(dropped, metric) == pytest.approx(alone)


def test_no_images_left_is_undefined_and_one_image_is_fine():
    lens, dropped = lens_of(np.zeros((2, 3)), np.zeros((2, 3), bool)), Definition(unlabelled="dropped")
    assert math.isnan(lens.value(dropped, "mAP"))
    assert lens.value(dropped, "top3/P-O") == 0.0
    assert lens_of(np.full((1, 3), 50.0), np.ones((1, 3), bool)).value(Definition(), "F1-C") == 1.0


def test_unknown_names_are_refused_with_the_nearest():
    lens = lens_of(*drawn())
    with pytest.raises(UsageError, match=r"'F1-X'. Did you mean 'F1-.*Known: .*F1-C"):
        lens.value(Definition(), "F1-X")
    with pytest.raises(UsageError, match="decision rule 'often'"):
        lens.value(Definition(decision="often"), "F1-C")


def test_who_uses_what():
    assert users("f1_c", "hm") == "MLGCN, CSRA, WARP, CNN-RNN"
    assert users("ap", "envelope") == "SRN, VOC 2010"
    assert users("decision", "p > 0.8") == "ASL"


# --- nothing is predicted, nothing is present: what the released codes make of 0/0 ------------------------------------


def srn(decided: np.ndarray, targets: np.ndarray) -> tuple[float, ...]:
    """P, R and F1 over all entries, a tiny number added to each count (tools/precision_recall_f1.m)."""
    eps = np.finfo(float).eps
    hits, predicted, positives = (decided & targets).sum() + eps, decided.sum() + eps, targets.sum() + eps
    p, r = hits / predicted, hits / positives + eps
    return p, r, 2 * p * r / (p + r)


def asl(decided: np.ndarray, targets: np.ndarray) -> tuple[float, ...]:
    """P, R and F1 over all entries without a guard (validate.py)."""
    hits, predicted, positives = (float(n.sum()) for n in (decided & targets, decided, targets))
    with np.errstate(invalid="ignore"):
        p, r = np.float64(hits) / predicted, np.float64(hits) / positives
        return p, r, 2 * p * r / (p + r)


def mlgcn(decided: np.ndarray, targets: np.ndarray) -> tuple[float, ...]:
    """P, R and F1 over all entries, then by class (util.py, `evaluation`); NaN where it divides 0 by 0."""
    hits, predicted, positives = ((m).sum(axis=0).astype(float) for m in (decided & targets, decided, targets))
    predicted[predicted == 0] = 1
    with np.errstate(invalid="ignore"):
        p, r = hits.sum() / predicted.sum(), hits.sum() / positives.sum()
        pc, rc = (hits / predicted).mean(), (hits / positives).mean()
        return p, r, 2 * p * r / (p + r), pc, rc, 2 * pc * rc / (pc + rc)


CASES = {
    "nothing predicted": (np.full((4, 3), -9.0), np.eye(4, 3, dtype=bool)),
    "nothing right": (np.where(np.eye(4, 3, dtype=bool), -9.0, 9.0), np.eye(4, 3, dtype=bool)),
    "nothing present": (np.full((4, 3), 9.0), np.zeros((4, 3), bool)),
    "nothing at all": (np.full((4, 3), -9.0), np.zeros((4, 3), bool)),
    "something": (np.array([[9.0, -9.0, 9.0], [9.0, -9.0, -9.0]]), np.array([[1, 1, 0], [0, 0, 1]], bool)),
}


@pytest.mark.parametrize("case", CASES)
def test_zero_by_zero_is_what_the_released_codes_make_of_it(case: str) -> None:
    logits, targets = CASES[case]
    lens, overall = lens_of(logits, targets), ("P-O", "R-O", "F1-O")
    for name, code in (("SRN", srn), ("ASL", asl), ("MLGCN", mlgcn), ("CSRA", mlgcn)):
        definition = replace(PUBLISHED[name], unlabelled="counted")  # the four lines above know no dropped images
        names = (*overall, "P-C", "R-C", "F1-C") if code is mlgcn else overall
        got = [lens.value(definition, metric) for metric in names]
        assert got == pytest.approx(list(code(logits > 0, targets)), abs=1e-12, nan_ok=True), (name, case)
    vac = precision_recall_fscore_support(targets.ravel(), (logits > 0).ravel(), average="binary", zero_division=0)
    assert [lens.value(PUBLISHED["VAC"], metric) for metric in overall] == pytest.approx(list(vac[:3]))


def test_when_nothing_is_predicted_srn_has_precision_1_and_the_others_no_f1() -> None:
    lens = lens_of(*CASES["nothing predicted"])
    assert lens.value(PUBLISHED["SRN"], "P-O") == 1.0
    for name in ("ASL", "MLGCN", "CSRA"):
        assert math.isnan(lens.value(PUBLISHED[name], "F1-O"))
    assert math.isnan(lens.value(PUBLISHED["ASL"], "P-O"))
    assert lens.value(PUBLISHED["ASL"], "F1-C") == 0.0  # it guards each class
    assert math.isnan(lens.value(PUBLISHED["MLGCN"], "F1-C"))
    assert lens.value(Definition(), "P-O") == lens.value(Definition(), "F1-O") == 0.0


def test_top_k_beyond_the_number_of_classes_is_undefined_or_takes_all() -> None:
    logits, targets = drawn(classes=6)
    lens = lens_of(logits[:, :2], targets[:, :2])
    assert lens.axes("top3/F1-C")["beyond"] == ("undefined", "all")
    assert "beyond" not in lens_of(logits, targets).axes("top3/F1-C")
    strict = Definition(top="strict", beyond="all")
    for metric in ("F1-C", "P-O", "F1-O"):
        assert math.isnan(lens.value(Definition(), f"top3/{metric}"))
        assert lens.value(Definition(beyond="all"), f"top3/{metric}") == lens.value(Definition(), metric)
    assert lens.value(strict, "top3/R-O") == 1.0
    assert lens.value(strict, "top3/P-O") == pytest.approx(targets[:, :2].mean())


# --- measures beside the papers' tables -------------------------------------------------------------------------------


def vac_by_hand(decided: np.ndarray, targets: np.ndarray) -> dict[str, float]:
    union = [(d | t).sum() for d, t in zip(decided, targets, strict=True)]
    hits = [(d & t).sum() for d, t in zip(decided, targets, strict=True)]
    with np.errstate(invalid="ignore"):
        rates = (decided & targets).sum() / targets.sum(), (~decided & ~targets).sum() / (~targets).sum()
    return {
        "accuracy": float(np.mean([accuracy_score(t, d) for d, t in zip(decided.T, targets.T, strict=True)])),
        "accuracy-O": accuracy_score(targets.ravel(), decided.ravel()),
        "accuracy-I": float(np.mean([h / u if u else 0.0 for h, u in zip(hits, union, strict=True)])),
        "mA-O": sum(rates) / 2,
    }


def test_accuracies_are_those_of_vac() -> None:
    for seed in range(5):
        logits, targets = drawn(seed=seed)
        lens = lens_of(logits, targets)
        for measure, value in vac_by_hand(logits > 0, targets).items():
            assert lens.value(Definition(), measure) == pytest.approx(value, abs=1e-12), measure


def test_accuracies_leave_unknown_labels_out() -> None:
    logits, targets = drawn()
    known = np.random.default_rng(1).random(targets.shape) < 0.5
    known[:, 2], known[7] = False, False
    lens = Lens(Logits(logits), targets, known)
    right = (logits > 0) == targets
    by_class = [right[k, c].mean() for c, k in enumerate(known.T) if k.any()]
    by_image = [
        vac_by_hand((logits > 0)[[i]][:, k], targets[[i]][:, k])["accuracy-I"] for i, k in enumerate(known) if k.any()
    ]
    assert lens.value(Definition(), "accuracy") == pytest.approx(np.mean(by_class))
    assert lens.value(Definition(), "accuracy-O") == pytest.approx(right[known].mean())
    assert lens.value(Definition(), "accuracy-I") == pytest.approx(np.mean(by_image))
    nothing = Lens(Logits(logits), targets, np.zeros_like(targets))
    assert all(math.isnan(nothing.value(Definition(), measure)) for measure in METRICS)


def test_map_macro_is_that_of_csl() -> None:
    """AP of classes with both kinds of known labels, weighted by their positives."""
    logits, targets = drawn()
    random = np.random.default_rng(2)
    logits = logits + random.random(logits.shape) / 10  # CSL's code ranks ties at random
    known = random.random(targets.shape) < 0.6
    targets[:, 1] |= known[:, 1]  # all positive
    weights, values = [], []
    for c in range(targets.shape[1]):
        truth, scores = targets[known[:, c], c], logits[known[:, c], c]
        if truth.any() and not truth.all():
            weights.append(truth.sum())
            values.append(average_precision_score(truth, scores))
    assert len(values) < targets.shape[1] - 1
    got = Lens(Logits(logits), targets, known).value(Definition(), "map_macro")
    assert got == pytest.approx(np.average(values, weights=weights), abs=1e-12)


def test_further_measures_are_reached_by_name_and_ranks_have_those_without_decisions() -> None:
    logits, targets = drawn()
    lens = lens_of(logits, targets)
    assert lens.value(Definition(), "hamming_loss") == hamming_loss_score(targets, logits > 0)
    assert lens.value(Definition(), "LRAP") == pytest.approx(label_ranking_average_precision_score(targets, logits))
    ranks = Lens(Ranks(logits), targets, np.ones_like(targets))
    for measure in METRICS:
        undecided = math.isnan(ranks.value(Definition(), measure))
        deciding = ("accuracy", "accuracy-O", "accuracy-I", "mA-O", "hamming_loss")
        assert undecided == (measure in deciding or METRICS[measure].takes == "probabilities"), measure
        assert undecided or ranks.value(Definition(), measure) == lens.value(Definition(), measure)
