"""SPA: a loss with different slopes for positives and negatives, and the link from its scores to probabilities."""

from __future__ import annotations

import math

from torch import Tensor
from torch.nn import functional

from mlbench.annotation import State
from mlbench.errors import UsageError
from mlbench.methods import Hyper, Method, Step
from mlbench.methods.labels import Labels

from .losses import check_inputs, reduce


def spa(
    logits: Tensor,
    observed: Tensor,
    *,
    k_pos: float = 1.0,
    b_pos: float = 0.0,
    z_pos: float = 1.0,
    k_neg: float = 3.0,
    b_neg: float = 1.0,
    z_neg: float = 5.0,
    reduction: str = "mean",
) -> Tensor:
    """SPA loss on assume-negative targets, in its form on logits.

    A positive costs ``-log(sigmoid(k_pos * (x - b_pos))) / z_pos``, all else ``-log(sigmoid(-k_neg * (x - b_neg))) /
    z_neg``. What it fits is not sigmoid(x): the probability of a score says `spa_log_odds`.

    Parameters
    ----------
    logits : float [B, C]. observed : int8 [B, C] of `State` codes.
    k_pos, z_pos, k_neg, z_neg : above 0. b_pos, b_neg : finite.
    reduction : "mean" over B*C, "sum" or "none".

    Raises
    ------
    UsageError : a value outside the ranges above.

    Source: Cheng and Vasconcelos, CVPR 2024 ("Towards calibrated multi-label deep neural networks"). No official code
    was followed; a public package puts the link before the loss, which then no longer fits that probability.
    """
    check_inputs(logits, observed)
    _check(k_pos, b_pos, z_pos, k_neg, b_neg, z_neg)
    found = -functional.logsigmoid(k_pos * (logits - b_pos)) / z_pos
    missed = -functional.logsigmoid(-k_neg * (logits - b_neg)) / z_neg
    entries = found.where(observed == State.POSITIVE, missed)
    return reduce(entries.masked_fill(observed == State.UNSPECIFIED, 0.0), reduction)


def spa_log_odds(
    logits: Tensor,
    *,
    k_pos: float = 1.0,
    b_pos: float = 0.0,
    z_pos: float = 1.0,
    k_neg: float = 3.0,
    b_neg: float = 1.0,
    z_neg: float = 5.0,
) -> Tensor:
    """Log-odds of the probability at which a score minimises `spa`, of the shape of `logits`.

    An entry that is positive with probability P has the least expected loss at the x where ``P / (1 - P) = (k_neg /
    z_neg * sigmoid(k_neg * (x - b_neg))) / (k_pos / z_pos * sigmoid(-k_pos * (x - b_pos)))``; it grows with x, so that
    ranks stay as they are. Log-odds rather than probabilities, of which high ones are all the same in float32.

    Parameters
    ----------
    As of `spa`.
    """
    _check(k_pos, b_pos, z_pos, k_neg, b_neg, z_neg)
    constant = math.log(k_neg * z_pos / (k_pos * z_neg))
    rising = functional.logsigmoid(k_neg * (logits - b_neg)) - functional.logsigmoid(-k_pos * (logits - b_pos))
    return constant + rising


def _check(k_pos: float, b_pos: float, z_pos: float, k_neg: float, b_neg: float, z_neg: float) -> None:
    for name, value in (("k_pos", k_pos), ("z_pos", z_pos), ("k_neg", k_neg), ("z_neg", z_neg)):
        if not 0 < value < math.inf:
            raise UsageError(f"spa: {name} = {value!r}: expected a number above 0")
    for name, value in (("b_pos", b_pos), ("b_neg", b_neg)):
        if not math.isfinite(value):
            raise UsageError(f"spa: {name} = {value!r}: expected a finite number")


class StronglyProperAsymmetric(Method):
    """SPA: an asymmetric loss whose scores have probabilities that can be trusted, by a link of their own.

    Every unknown label is taken as negative, so that what is calibrated is the probability that a label is *observed*:
    where labels are missing it lies below the truth.

    Faithful: the loss in its form on logits, its six numbers, its link; decisions and calibration go by the link.

    Substituted: the recipe.

    Scores: log-odds of the probability by the link, not the network's own logits; their order is the same.

    Source: Cheng and Vasconcelos, CVPR 2024.
    """

    level = "B"
    hyperparameters = {
        "k_pos": Hyper(1.0, "slope of a positive", low=1e-3, high=1e3),
        "b_pos": Hyper(0.0, "offset of a positive", low=-100.0, high=100.0),
        "z_pos": Hyper(1.0, "divisor of a positive's loss", low=1e-3, high=1e3),
        "k_neg": Hyper(3.0, "slope of a negative", low=1e-3, high=1e3, search=("linear", 1.0, 5.0)),
        "b_neg": Hyper(1.0, "offset of a negative", low=-100.0, high=100.0),
        "z_neg": Hyper(5.0, "divisor of a negative's loss", low=1e-3, high=1e3, search=("log", 1.0, 20.0)),
    }

    def loss(self, logits: Tensor, labels: Labels, step: Step) -> Tensor:
        return spa(logits, labels.state, **self._numbers())

    def log_odds(self, scores: Tensor) -> Tensor:
        return spa_log_odds(scores, **self._numbers())

    def _numbers(self) -> dict[str, float]:
        return {name: self.hyper[name] for name in StronglyProperAsymmetric.hyperparameters}
