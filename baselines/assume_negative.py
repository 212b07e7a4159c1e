"""Assume negative (AN): the plain baseline, and BoostLU switched on for its inference only."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from mlbench.labels import Labels
from mlbench.methods import Hyper, Method, Phase, Step, Uses

from .losses import bce


def an(logits: Tensor, observed: Tensor, *, eps: float = 0.0, reduction: str = "mean") -> Tensor:
    """Assume-negative loss: `bce` with unknown taken as negative (Cole et al., CVPR 2021, section 3)."""
    return bce(logits, observed, eps=eps, reduction=reduction)


class AssumeNegative(Method):
    """Binary cross-entropy with every unknown label taken as negative (AN).

    Source: Cole et al., CVPR 2021, section 3.
    """

    def loss(self, logits: Tensor, labels: Labels, step: Step) -> Tensor:
        return an(logits, labels.state)


class AssumeNegativeBoostLUInference(Method):
    """AN as trained, evaluated with BoostLU on its attribution maps (scenario i of the BoostLU paper).

    Nothing is trained here: the weights are those of `an` under the same protocol, data and seeds, taken from the
    store by key. Its epoch was selected without BoostLU; which of the two the paper used for selection is not stated.
    The released code has no such mode (one alpha for both phases).

    Source: Kim et al., CVPR 2023, scenario "only in inference phase"; alpha 5 (released settings).
    """

    head = {"alpha_infer": 5.0}
    uses = {"trained": Uses("an")}

    @classmethod
    def declared(cls) -> dict[str, Hyper]:
        # Another alpha in training would give a run of its own with the very same numbers: it is refused.
        fixed = Hyper(1.0, "fixed: nothing is trained here, the weights are those of 'an'", low=1.0, high=1.0)
        return super().declared() | {"head.alpha_train": fixed}

    def phases(self) -> Sequence[Phase]:
        return []

    def network(self, phase: Phase) -> nn.Module:
        network = super().network(phase)
        network.load_state_dict(self.task.artefacts["trained"])
        return network
