"""Binary cross-entropy over observed labels, shared by the families here.

Every loss of this package is ``loss(logits, observed, *, ...)``: logits float [B, C], observed [B, C] with the
codes of `mlbench.annotation.State`: 1 positive, -1 negative, 0 unknown, 2 unspecified. Unspecified means that the
protocol says to ignore the entry: its loss is 0, though a mean still divides by all B*C entries, as the published code
of the single-positive family does with every entry it sets to 0. Results have the logits' floating-point type.
`docs/losses.md` lists them all.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from mlbench.annotation import State
from mlbench.errors import UsageError, unknown

REDUCTIONS = ("mean", "sum", "none")


def check_inputs(logits: Tensor, observed: Tensor) -> None:
    """UsageError unless `logits` are float [B, C] and `observed` numbers of the same shape.

    Booleans are refused: they cannot say unknown. Any other type may hold the codes; values are not looked at
    (`mlbench.annotation.check_labels` does that once, on the CPU), so of a 0/1 matrix the 0 is read as unknown.
    """
    if logits.ndim != 2 or observed.shape != logits.shape:
        raise UsageError(
            f"loss: logits {list(logits.shape)} and observed labels {list(observed.shape)}: expected both [B, C]"
        )
    if not logits.is_floating_point() or observed.dtype == torch.bool:
        raise UsageError(
            f"loss: logits are {logits.dtype} and observed labels {observed.dtype}: expected floating-point logits and "
            "State codes (1 positive, -1 negative, 0 unknown, 2 unspecified)"
        )


def reduce(entries: Tensor, reduction: str) -> Tensor:
    """Reduce per-entry losses [B, C]: "mean" over all B*C entries, "sum", or "none" (the entries themselves)."""
    if reduction == "mean":
        return entries.mean()
    if reduction == "sum":
        return entries.sum()
    if reduction == "none":
        return entries
    raise unknown("reduction", reduction, REDUCTIONS)


def assumed_targets(observed: Tensor, dtype: torch.dtype) -> Tensor:
    """1 where a label is observed positive, else 0: unknown is taken as negative."""
    return (observed == State.POSITIVE).to(dtype)


def bce_entries(logits: Tensor, targets: Tensor, eps: float = 0.0) -> Tensor:
    """Binary cross-entropy of each entry [B, C].

    With ``eps = 0`` the numerically stable form on logits; otherwise ``-log(p + eps)`` and ``-log(1 - p + eps)`` on
    probabilities, the variant of the SPML family (there eps = 1e-5). That variant goes down to ``-log(1 + eps)``, a
    little below 0, is at most ``-log(eps)``, and its gradient vanishes on confident mistakes.

    Parameters
    ----------
    logits : float [B, C]. targets : same shape and type, from 0 to 1 (soft targets allowed).
    eps : 0, or a positive number no smaller than the least normal one of the logits' type.
    """
    if eps == 0.0:
        return functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    if not torch.finfo(logits.dtype).tiny <= eps < math.inf:
        raise UsageError(f"eps = {eps!r}: expected 0 (stable form) or a small positive number such as 1e-5")
    positive = -torch.log(torch.sigmoid(logits) + eps)
    negative = -torch.log(torch.sigmoid(-logits) + eps)
    return targets * positive + (1 - targets) * negative


def bce(logits: Tensor, observed: Tensor, *, eps: float = 0.0, reduction: str = "mean") -> Tensor:
    """Binary cross-entropy with every unknown label taken as negative.

    On full labels this is the ordinary loss (`full`, `bce`); on partial ones it is assume-negative (`an`).

    Parameters
    ----------
    logits : float [B, C]. observed : int8 [B, C] of `State` codes. eps : see `bce_entries`.
    reduction : "mean" over B*C, "sum" or "none".

    Source: released code of Cole et al., CVPR 2021, losses.py lines 30-42 and 105-116 (with eps = 1e-5).
    """
    check_inputs(logits, observed)
    entries = bce_entries(logits, assumed_targets(observed, logits.dtype), eps)
    return reduce(entries.masked_fill(observed == State.UNSPECIFIED, 0.0), reduction)
