"""The definitions behind the papers' numbers, as data: what each code counts, and one set of predictions under any."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeVar

import numpy as np

from mlbench.errors import UsageError, unknown
from mlbench.metrics.average_precision import average_precision, mean_average_precision
from mlbench.metrics.decisions import threshold, top_k
from mlbench.metrics.label_metrics import PrecisionRecallF1, harmonic_mean, mean_accuracy, precision_recall_f1
from mlbench.metrics.registered import METRICS, Predicted
from mlbench.metrics.scores import Ranks, Scores

Value = TypeVar("Value")

#: Decision rules by name: probability, and whether equality decides for the class. VAC's "logit > 0" is "p > 0.5"
#: and MLGCN's "logit >= 0" is "p >= 0.5", without the rounding of a sigmoid.
DECISIONS = {"p > 0.5": (0.5, False), "p >= 0.5": (0.5, True), "p > 0.8": (0.8, False)}

#: Every choice that a published code makes, by axis of `Definition`.
AXES: Mapping[str, tuple[str, ...]] = {
    "ap": ("step", "envelope", "eleven_point"),
    "empty_ap": ("zero", "skip", "undefined"),
    "decision": tuple(DECISIONS),
    "top": ("strict", "thresholded"),
    "f1_c": ("mean", "hm"),
    "f1_o": ("micro", "hm_image"),
    "never_predicted": ("zero", "one", "skip"),
    "no_positives": ("zero", "one", "skip", "undefined"),
    "unlabelled": ("counted", "dropped"),
    "guard": ("none", "one_each"),
    "zero_by_zero": ("zero", "one", "undefined"),
    "beyond": ("undefined", "all"),
}

#: The axes that a metric depends on; in the top-k columns "top" comes to those with a "decision", and "beyond" where
#: there are fewer classes than k.
DEPENDS: Mapping[str, tuple[str, ...]] = {
    "mAP": ("ap", "empty_ap", "unlabelled"),
    "mA": ("decision", "unlabelled"),
    "F1-C": ("decision", "f1_c", "never_predicted", "no_positives", "unlabelled", "zero_by_zero"),
    "P-C": ("decision", "never_predicted", "no_positives", "unlabelled"),
    "R-C": ("decision", "no_positives", "unlabelled"),
    "F1-O": ("decision", "f1_o", "unlabelled", "guard", "zero_by_zero"),
    "P-O": ("decision", "unlabelled", "guard", "zero_by_zero"),
    "R-O": ("decision", "unlabelled", "zero_by_zero"),
}


@dataclass(frozen=True)
class Definition:
    """What a code counts, for every metric of a paper's table.

    Parameters
    ----------
    ap : flavour of average precision, see `average_precision`.
    empty_ap : what the AP of a class without positives counts as: "zero", "skip", "zero_if_known" (see
        `mean_average_precision`), or "undefined" where the code stops or gives NaN.
    decision : a name of `DECISIONS`, another "p > PROBABILITY", or "own": what the predictions decide themselves.
    top : which labels the top-k columns take: "strict" exactly k, "thresholded" those of them also decided for.
    f1_c : "mean" of the classes' F1, or "hm", the harmonic mean of P-C and R-C.
    f1_o : "micro", or "hm_image", the harmonic mean of the images' mean precision and mean recall.
    never_predicted, no_positives : see `class_means`.
    unlabelled : whether images without any positive label are "counted" or "dropped".
    guard : "one_each" counts one prediction for each class that is never predicted in P-O, and so in F1-O.
    zero_by_zero : what 0/0 is in P-O, R-O and F1-O, and in the harmonic mean of P-C and R-C: 0 ("zero": VAC), 1 where
        both counts are 0 ("one": SRN, which adds a tiny number to each), or "undefined" where the code gives NaN
        (MLGCN, CSRA, and ASL, whose F1-C alone is guarded).
    beyond : top-k columns with fewer classes than k are "undefined", or "all" classes are taken.
    """

    ap: str = "step"
    empty_ap: str = "skip"
    decision: str = "p > 0.5"
    top: str = "thresholded"
    f1_c: str = "mean"
    f1_o: str = "micro"
    never_predicted: str = "zero"
    no_positives: str = "zero"
    unlabelled: str = "counted"
    guard: str = "none"
    zero_by_zero: str = "zero"
    beyond: str = "undefined"


#: What released codes count. Where a code has no choice of its own (top-k of ASL, images of CSRA, whose scripts
#: decide), the default stands. VAC has no top-k code: SRN's rule fits its printed numbers. SRN thresholds its top-3
#: on COCO only. The AP of VAC for a class without positives is that of scikit-learn now; old versions gave NaN.
#: Source: VAC test.py; SRN evaluate.m, tools/precision_recall_f1.m; ASL validate.py, helper_functions.py; ML-GCN
#: util.py; CSRA utils/evaluation.
PUBLISHED: Mapping[str, Definition] = {
    "VAC": Definition(empty_ap="zero"),
    "SRN": Definition(
        ap="envelope", empty_ap="undefined", never_predicted="one", no_positives="one", zero_by_zero="one"
    ),
    "ASL": Definition(empty_ap="zero", decision="p > 0.8", unlabelled="dropped", zero_by_zero="undefined"),
    "MLGCN": Definition(
        empty_ap="undefined",
        decision="p >= 0.5",
        f1_c="hm",
        no_positives="undefined",
        unlabelled="dropped",
        guard="one_each",
        zero_by_zero="undefined",
    ),
    "CSRA": Definition(
        empty_ap="undefined",
        decision="p >= 0.5",
        f1_c="hm",
        no_positives="undefined",
        guard="one_each",
        zero_by_zero="undefined",
    ),
}


@dataclass(frozen=True)
class ClassMeans:
    """Macro precision, recall and F1 (both definitions) as fractions; NaN where undefined."""

    P_C: float
    R_C: float
    F1_C_mean: float
    F1_C_hm: float


def class_means(counted: PrecisionRecallF1, never_predicted: str = "zero", no_positives: str = "zero") -> ClassMeans:
    """Means over classes of `counted`, with 0/0 as a published code takes it.

    never_predicted : the precision of a class without predictions is 0 ("zero": VAC, ASL, MLGCN, CSRA), 1 ("one":
        SRN, which adds a tiny number to both counts), or it leaves P-C ("skip"). Its F1 is 0 all the same.
    no_positives : a class without positives has recall 0 and F1 0 ("zero": VAC, ASL); recall 1, and F1 1 if it is
        never predicted, too ("one": SRN); leaves all the means ("skip"); or makes R-C and F1-C NaN ("undefined":
        MLGCN, CSRA).

    Source: SRN tools/precision_recall_f1.m:6-11; MLGCN util.py:228-289. UsageError names an unknown rule.
    """
    for axis, choice in (("never_predicted", never_predicted), ("no_positives", no_positives)):
        if choice not in AXES[axis]:
            raise unknown(f"rule '{axis}'", choice, AXES[axis])
    silent, empty = counted.per_class.predicted == 0, counted.per_class.positives == 0
    precision, recall, f1 = counted.P.copy(), counted.R.copy(), counted.F1.copy()
    if never_predicted == "one":
        precision[silent] = 1.0
    if no_positives == "one":
        recall[empty], f1[empty & silent] = 1.0, 1.0
    elif no_positives == "undefined":
        recall[empty] = f1[empty] = np.nan
    kept = ~empty if no_positives == "skip" else np.ones_like(empty)
    spoken = kept & ~silent if never_predicted == "skip" else kept
    p, r = _mean(precision[spoken]), _mean(recall[kept])
    return ClassMeans(P_C=p, R_C=r, F1_C_mean=_mean(f1[kept]), F1_C_hm=harmonic_mean(p, r))


class Lens:
    """One set of predictions and labels, to be looked at under any `Definition`.

    Parameters
    ----------
    scores : Logits, Probabilities or Ranks [N, C].
    targets, known : bool [N, C], for P, R, F1 and mA; True where the class is present, where its label counts.
    ap_targets, ap_known : the same for average precision, where protocols may take unspecified labels otherwise.
    own : bool [N, C], decisions that came with the predictions, or None.
    k : labels an image in the top-k columns.
    """

    def __init__(
        self,
        scores: Scores,
        targets: np.ndarray,
        known: np.ndarray,
        ap_targets: np.ndarray | None = None,
        ap_known: np.ndarray | None = None,
        own: np.ndarray | None = None,
        k: int = 3,
    ) -> None:
        self.scores, self.targets, self.known, self.own, self.k = scores, targets, known, own, k
        self.ap_targets = targets if ap_targets is None else ap_targets
        self.ap_known = known if ap_known is None else ap_known
        self.labelled = (targets & known).any(axis=1)
        self._memory: dict[Hashable, Any] = {}

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names that `value` takes: those of `DEPENDS`, and "top3/F1-C" for k = 3."""
        top = [f"top{self.k}/{name}" for name in DEPENDS if name not in ("mAP", "mA")]
        return (*DEPENDS, *top)

    def axes(self, metric: str) -> dict[str, tuple[str, ...]]:
        """The axes that `metric` depends on, with the choices that these scores allow; UsageError if it is unknown."""
        if metric not in self.metrics:
            raise unknown("metric", metric, self.metrics)
        name = metric.rpartition("/")[2]
        found = {axis: AXES[axis] for axis in DEPENDS[name]}
        if "/" in metric:
            found["top"] = AXES["top"]
            found |= {"beyond": AXES["beyond"]} if self.k > self.scores.shape[1] else {}
        if isinstance(self.scores, Ranks):
            found |= {"decision": ()} if "decision" in found else {}
            found |= {"top": ("strict",)} if "top" in found and self.own is None else {}
        if "decision" in found and self.own is not None:
            found["decision"] = ("own", *found["decision"])
        return found

    def value(self, definition: Definition, metric: str) -> float:
        """`metric`, one of `metrics` or a registered one, under `definition`; NaN where it is undefined.

        A fraction, but of a registered one whose unit is a number. UsageError for an unknown metric.
        """
        if metric not in self.metrics:
            if metric in METRICS:
                return self._predicted(definition).measure(METRICS[metric])
            raise unknown("metric", metric, (*self.metrics, *METRICS))
        if metric == "mAP":
            return self._mean_ap(definition)
        if metric == "mA":
            return self._mean_accuracy(definition)
        counted = self._counted(definition, "/" in metric)
        if counted is None:
            return float("nan")
        name = metric.rpartition("/")[2]
        if name.endswith("-O"):
            return _overall(counted, definition)[name]
        means = class_means(counted, definition.never_predicted, definition.no_positives)
        f1 = means.F1_C_mean
        if definition.f1_c == "hm":
            f1 = _harmonic(means.P_C, means.R_C, definition)
        return {"P-C": means.P_C, "R-C": means.R_C, "F1-C": f1}[name]

    def range(self, metric: str, base: Definition, fixed: Sequence[str] = ()) -> tuple[float, float]:
        """Lowest and highest `metric` over all combinations of choices, the axes of `fixed` as in `base`.

        NaN twice where nothing is defined.
        """
        values = [self.value(definition, metric) for definition in self.combinations(metric, base, fixed)]
        values = [value for value in values if not math.isnan(value)]
        return (min(values), max(values)) if values else (float("nan"), float("nan"))

    def combinations(self, metric: str, base: Definition, fixed: Sequence[str] = ()) -> Iterator[Definition]:
        """Every definition that differs from `base` in axes that matter to `metric` and are not `fixed`."""
        free = {axis: choices for axis, choices in self.axes(metric).items() if axis not in fixed and choices}
        for choices in itertools.product(*free.values()):
            yield replace(base, **dict(zip(free, choices, strict=True)))

    def _mean_ap(self, definition: Definition) -> float:
        rows = self._rows(definition)
        known = self.ap_known[rows]
        ap = self._once(
            ("ap", definition.ap, definition.unlabelled),
            lambda: average_precision(
                type(self.scores)(self.scores.values[rows]), self.ap_targets[rows], known, definition.ap
            ),
        )
        if definition.empty_ap == "undefined":
            return float(ap.mean())
        return mean_average_precision(ap, definition.empty_ap, known)

    def _mean_accuracy(self, definition: Definition) -> float:
        rows, decided = self._rows(definition), self._decided(definition.decision)
        if decided is None:
            return float("nan")
        return mean_accuracy(decided[rows], self.targets[rows], self.known[rows]).value

    def _predicted(self, definition: Definition) -> Predicted:
        """What registered metrics are given."""
        every = Predicted(
            self.scores,
            self.targets,
            self.known,
            self.ap_targets,
            self.ap_known,
            self._decided(definition.decision),
            definition.ap,
        )
        name = ("predicted", definition.decision, definition.ap, definition.unlabelled)
        return self._once(name, lambda: every.take(self._rows(definition)))

    def _counted(self, definition: Definition, top: bool) -> PrecisionRecallF1 | None:
        """Counts of what `definition` decides, None where these scores allow no such decision."""
        if top and self.k > self.scores.shape[1] and definition.beyond == "undefined":
            return None
        name = ("counts", definition.decision, definition.top if top else None, definition.unlabelled)
        return self._once(name, lambda: self._count(definition, top))

    def _count(self, definition: Definition, top: bool) -> PrecisionRecallF1 | None:
        best = self._once("top", lambda: top_k(self.scores, self.k, "all")) if top else None
        decided = best if best is not None and definition.top == "strict" else self._decided(definition.decision)
        if decided is None:
            return None
        if best is not None:
            decided = decided & best
        rows = self._rows(definition)
        return precision_recall_f1(decided[rows], self.targets[rows], self.known[rows])

    def _decided(self, rule: str) -> np.ndarray | None:
        if rule == "own":
            return self.own
        if isinstance(self.scores, Ranks):
            return None
        return self._once(("decided", rule), lambda: decide(self.scores, rule))

    def _rows(self, definition: Definition) -> np.ndarray:
        return self.labelled if definition.unlabelled == "dropped" else np.ones_like(self.labelled)

    def _once(self, name: Hashable, make: Callable[[], Value]) -> Value:
        if name not in self._memory:
            self._memory[name] = make()
        return self._memory[name]


def decide(scores: Scores, rule: str) -> np.ndarray:
    """Decisions bool [N, C] by a rule of `DECISIONS` or "p > PROBABILITY"; UsageError for anything else."""
    if rule in DECISIONS:
        return threshold(scores, *DECISIONS[rule])
    try:
        return threshold(scores, float(rule.removeprefix("p > ")))
    except ValueError:
        raise UsageError(f"decision rule '{rule}': expected {', '.join(DECISIONS)} or p > PROBABILITY") from None


def users(axis: str, choice: str) -> str:
    """Who takes `choice` on `axis`: names of `PUBLISHED`, then of papers without a code of that table."""
    names = [
        name
        for name, definition in PUBLISHED.items()
        if asdict(definition)[axis] == choice and (name, axis) not in _SILENT
    ]
    return ", ".join([*names, *_OTHERS.get((axis, choice), ())])


#: Codes without a choice of their own on an axis.
_SILENT = {("ASL", "top"), ("CSRA", "unlabelled")}

_OTHERS: Mapping[tuple[str, str], tuple[str, ...]] = {
    ("ap", "step"): ("SPML", "LL", "BoostLU"),
    ("ap", "envelope"): ("VOC 2010",),
    ("ap", "eleven_point"): ("VOC 2007",),
    ("empty_ap", "zero"): ("SPML", "LL", "BoostLU"),
    ("top", "strict"): ("WARP", "SRN and CNN-RNN on NUS-WIDE", "Tag-Neighbors"),
    ("f1_c", "hm"): ("WARP", "CNN-RNN"),
    ("f1_o", "hm_image"): ("Tag-Neighbors",),
}


def _overall(counted: PrecisionRecallF1, definition: Definition) -> dict[str, float]:
    counts, rule = counted.per_class, definition.zero_by_zero
    hits, positives = int(counts.true_positives.sum()), int(counts.positives.sum())
    predicted = int((np.maximum(counts.predicted, 1) if definition.guard == "one_each" else counts.predicted).sum())
    empty = {"zero": 0.0, "one": 1.0, "undefined": float("nan")}[rule]
    precision = hits / predicted if predicted else empty
    recall = hits / positives if positives else empty
    if definition.f1_o == "hm_image":
        f1 = _harmonic(counted.P_I, counted.R_I, definition)
    elif definition.guard == "none" and predicted + positives:
        # Of whole counts, without the rounding of two ratios; with none of one kind, no hit is 0 of what there is.
        f1 = 2 * hits / (predicted + positives)
        f1 = float("nan") if rule == "undefined" and not hits else f1
    else:
        f1 = _harmonic(precision, recall, definition)
    return {"P-O": precision, "R-O": recall, "F1-O": f1}


def _harmonic(precision: float, recall: float, definition: Definition) -> float:
    """Harmonic mean, with the definition's own value for 0/0; a tiny number in all counts makes that of two zeros 0."""
    if definition.zero_by_zero == "undefined" and precision + recall == 0:
        return float("nan")
    return harmonic_mean(precision, recall)


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if values.size else float("nan")
