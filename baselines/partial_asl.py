"""Partial asymmetric loss (P-ASL): three kinds of labels, three focusing powers, and a choice of negatives to trust."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mlbench.annotation import State
from mlbench.errors import UsageError, unknown
from mlbench.methods import Hyper, Method, Phase, Step
from mlbench.methods.labels import Labels

from .focusing import asl
from .large_loss import large_loss_mask
from .losses import check_inputs, reduce

if TYPE_CHECKING:
    from mlbench.methods import Task

MODES = ("negative", "ignore", "selective")


def partial_asl_loss(
    logits: Tensor,
    observed: Tensor,
    *,
    mode: str = "negative",
    gamma_pos: float = 0.0,
    gamma_neg: float = 1.0,
    gamma_unknown: float = 2.0,
    margin: float = 0.0,
    prior: Tensor | None = None,
    prior_threshold: float = 0.05,
    likelihood_topk: int = 5,
    eps: float = 0.0,
    reduction: str = "sum",
) -> Tensor:
    """Asymmetric loss with a power of its own for unknown labels, of which some or all may be left out (loss 0).

    Known labels and, as negatives, the unknown ones have the entries of `asl` (weights outside the gradient), with
    `gamma_unknown` for the unknown. Mode "negative" counts all, "ignore" no unknown one. "selective" leaves out the
    unknown labels of classes whose `prior` is above the threshold, and the ``likelihood_topk * B`` unknown labels of
    the batch with the highest logits, those of frequent classes counted in; ties at the last place are all left out.

    Parameters
    ----------
    logits : float [B, C] of the whole batch. observed : int8 [B, C] of `State` codes.
    mode : one of `MODES`. gamma_pos, gamma_neg, gamma_unknown, margin, eps : see `asl` (released code: eps 1e-8).
    prior : float [C], how likely a class is; without it "selective" looks at the batch only.
    prior_threshold : from 0 to 1. likelihood_topk : entries an image, from 0, whatever the number of classes.
    reduction : "sum" as published, "mean" over B*C or "none".

    Raises
    ------
    UsageError : an unknown mode, a prior of another length, or a number outside its range.

    Source: released code of Ben-Baruch et al., CVPR 2022, partial_asymmetric_loss.py lines 7-128. There unknown is -1
    and a negative 0; here the codes are those of `State`.
    """
    check_inputs(logits, observed)
    if mode not in MODES:
        raise unknown("mode", mode, MODES, "partial_asl_loss")
    if not 0 <= prior_threshold <= 1:
        raise UsageError(f"partial_asl_loss: prior_threshold = {prior_threshold!r}: expected a number from 0 to 1")
    if likelihood_topk < 0:
        raise UsageError(f"partial_asl_loss: likelihood_topk = {likelihood_topk!r}: expected a whole number from 0")
    if prior is not None and prior.shape != logits.shape[1:]:
        raise UsageError(f"partial_asl_loss: prior {list(prior.shape)}: expected one number a class, {logits.shape[1]}")

    def entries_with(gamma: float) -> Tensor:
        return asl(logits, observed, gamma_neg=gamma, gamma_pos=gamma_pos, margin=margin, eps=eps, reduction="none")

    unknown_entries = observed == State.UNKNOWN
    entries = torch.where(unknown_entries, entries_with(gamma_unknown), entries_with(gamma_neg))
    if mode == "ignore":
        entries = entries.masked_fill(unknown_entries, 0.0)
    elif mode == "selective":
        left_out = selective_mask(
            logits, observed, prior=prior, prior_threshold=prior_threshold, likelihood_topk=likelihood_topk
        )
        entries = entries.masked_fill(left_out, 0.0)
    return reduce(entries, reduction)


def selective_mask(
    logits: Tensor,
    observed: Tensor,
    *,
    prior: Tensor | None = None,
    prior_threshold: float = 0.05,
    likelihood_topk: int = 5,
) -> Tensor:
    """Bool [B, C]: the unknown entries that `partial_asl_loss` leaves out in mode "selective".

    Parameters
    ----------
    As of `partial_asl_loss`.
    """
    unknown_entries = observed == State.UNKNOWN
    left_out = large_loss_mask(logits, unknown_entries, likelihood_topk * len(logits))
    return left_out if prior is None else left_out | (unknown_entries & (prior > prior_threshold))


class PartialAsymmetric(Method):
    """Asymmetric loss for partial labels (P-ASL), summed over the batch; unknown labels are trusted selectively.

    Mode "selective" trains twice for the run's epochs: a temporary model in mode "ignore", whose mean score of each
    class over all its training steps is the class's prior, then the model itself. The other modes train once.

    Which mode the published OpenImages row has is not stated. The default here is the paper's own proposal, with the
    other defaults of its released code (whose mode is "negative"). Left out of its training: the moving average of
    the weights and its choice between raw and averaged weights on the test set, its backbone, mixed precision.

    Source: Ben-Baruch et al., CVPR 2022 (class-aware selective loss), released code.
    """

    level = "B"
    reduction = "sum"
    batch_global = True
    hyperparameters = {
        "mode": Hyper("selective", "what becomes of unknown labels", choices=MODES),
        "gamma_pos": Hyper(0.0, "power of a positive's weight", low=0.0, high=100.0),
        "gamma_neg": Hyper(1.0, "power of a negative's weight", low=0.0, high=100.0, search=("linear", 0.0, 4.0)),
        "gamma_unknown": Hyper(
            2.0, "power of an unknown label's weight", low=0.0, high=100.0, search=("linear", 0.0, 7.0)
        ),
        "margin": Hyper(0.0, "probability up to which a negative costs nothing", low=0.0, high=0.99),
        "prior_threshold": Hyper(0.05, "prior above which a class's unknown labels are left out", low=0.0, high=1.0),
        "likelihood_topk": Hyper(5, "likely positives an image left out", low=0, high=100000),
    }

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self._total = torch.zeros(task.num_classes, dtype=torch.float64, device=task.device)
        self._images = 0

    def phases(self) -> Sequence[Phase]:
        if self.hyper["mode"] != "selective":
            return [Phase()]
        return [Phase("prior", selection="last"), Phase()]

    def loss(self, logits: Tensor, labels: Labels, step: Step) -> Tensor:
        settings = {name: self.hyper[name] for name in PartialAsymmetric.hyperparameters}
        if step.phase == "prior":
            self._total += logits.detach().sigmoid().double().sum(dim=0)
            self._images += len(logits)
            settings["mode"] = "ignore"
        elif settings["mode"] == "selective":
            settings["prior"] = self.task.artefacts["prior"]["prior"].to(logits)
            chosen_by = {name: settings[name] for name in ("prior", "prior_threshold", "likelihood_topk")}
            labels.note("rejected", selective_mask(logits, labels.state, **chosen_by))
        return partial_asl_loss(logits, labels.state, **settings)

    def handover(self, phase: Phase, network: torch.nn.Module) -> dict[str, Tensor]:
        if phase.name == "prior":
            return {"prior": self._total / max(self._images, 1)}
        return super().handover(phase, network)

    def state_dict(self) -> dict[str, Tensor]:
        return {"total": self._total.clone(), "images": torch.tensor(self._images)}

    def load_state_dict(self, saved: Mapping[str, Tensor]) -> None:
        self._total, self._images = saved["total"].to(self.task.device), int(saved["images"])
