"""Methods that train on images put together from several of a batch: LogicMix, MixUp-PME, SpliceMix.

The plan of a batch is drawn from (data set, repetition, method, phase, epoch, step), never from what a process happens
to hold; each process mixes its own rows, of the whole batch's images.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mlbench.annotation import State
from mlbench.inputs.tensors import on_device
from mlbench.methods import Batch, Hyper, Method, Step

from .assume_negative import an
from .batch_transforms import (
    Splice,
    draw_logic_mix,
    draw_pairs,
    draw_splice,
    mean_of,
    mixed_targets,
    spliced_images,
    spliced_states,
    states_of,
    tile_maps,
)
from .losses import bce_entries, check_inputs, reduce
from .observed_only import iu


def mixup_pme(
    logits: Tensor, observed: Tensor, *, partners: Tensor, share: Tensor, eps: float = 0.0, reduction: str = "mean"
) -> Tensor:
    """Cross-entropy of mixed images with `mixed_targets`, where the first image's label is known, 0 elsewhere.

    The mean divides by all B*C entries.

    Parameters
    ----------
    logits : float [B, C] of the mixed images. observed, partners : int8 [B, C] of `State` codes, of the images and of
        those they are mixed with. share : float [B], of the first in the mix. eps : see `bce_entries`.
    reduction : "mean" over B*C, "sum" or "none".

    Source: MixUp-PME as in the package mlcpl 0.1.7, MIT.
    """
    check_inputs(logits, observed)
    check_inputs(logits, partners)
    targets = mixed_targets(observed, partners, share).to(logits.dtype)
    known = (observed == State.POSITIVE) | (observed == State.NEGATIVE)
    return reduce(bce_entries(logits, targets, eps).masked_fill(~known, 0.0), reduction)


def splice_consistency(
    tiles: Tensor, logits: Tensor, *, splice: Splice, detach: bool = True, reduction: str = "mean"
) -> Tensor:
    """Cross-entropy of each tile with the probabilities of the whole image it is from; dropped tiles add 0.

    The mean divides by all M*T*C entries, those of dropped tiles included (the released code sets both their logits to
    -1000, which comes to the same).

    Parameters
    ----------
    tiles : float [M, T, C], logits of the tiles in the mixed images. logits : float [B, C] of the regular images.
    detach : whether the regular images are taught nothing. The released code does so on COCO, and not on VOC.
    reduction : "mean", "sum" or "none".

    Source: Zhu et al., TMM 2025 (SpliceMix-CL): models/SpliceMix_CL.py of the released code, MIT.
    """
    probabilities = torch.sigmoid(logits.detach() if detach else logits)[splice.tiles]
    return reduce(bce_entries(tiles, probabilities).masked_fill(~splice.kept[..., None], 0.0), reduction)


@dataclass
class _Whole:
    """The batch of all processes: images, states int8 [B, C], and which rows are this process's own, int64 [b]."""

    inputs: Tensor
    states: Tensor
    own: Tensor


UNKNOWN = {
    "unknown": Hyper(
        "negative", "what an unknown label of a mixed image is; ignore: left out", choices=("negative", "ignore")
    )
}


class _Mixing(Method):
    """Mixes images of the whole batch, whichever process holds them."""

    batch_global = True

    def whole(self, batch: Batch, step: Step) -> _Whole:
        """The whole batch, and where in it this process stands."""
        index = step.gather(batch.index)
        own = (index[None, :] == batch.index[:, None]).int().argmax(dim=1)
        return _Whole(step.gather(batch.inputs), step.whole().state, own)

    def draws(self, step: Step) -> torch.Generator:
        """The generator of this step's plan."""
        return self.task.generator(f"mix {step.phase} {step.epoch} {step.step}")


class LogicMix(_Mixing):
    """LogicMix: images are averaged in twos and threes, their labels joined by OR with three values.

    Faithful: plain averages, partners with replacement, chance 0.5 an image within the batch, positive if any is,
    negative only if all are known to be. Substituted: unknown labels of the result count as negative by default, as in
    `an`, and are left out with unknown=ignore (as where some negatives are known); on cached features, features are
    averaged and not images.

    Cost: no more than `an` at inference, and hardly more in a step.

    Source: the package mlcpl 0.1.7 (MIT, 2026).
    """

    level = "B"
    hyperparameters = {
        "share": Hyper(0.5, "chance of an image to be mixed", low=0.0, high=1.0, search=("linear", 0.1, 1.0)),
        **UNKNOWN,
    }

    def training_step(self, network: nn.Module, batch: Batch, step: Step) -> Tensor:
        whole = self.whole(batch, step)
        parts = draw_logic_mix(len(whole.inputs), self.draws(step), self.hyper["share"])
        parts = on_device(parts, whole.inputs.device)
        logits = step.gather(network(mean_of(whole.inputs, parts[whole.own])).logits)
        loss = an if self.hyper["unknown"] == "negative" else iu
        return loss(logits, states_of(whole.states, parts))


class MixUpPME(_Mixing):
    """MixUp-PME: mixup for partial labels, in which an unknown label counts as one half.

    Faithful: the image has a share between 0.75 and 1 in the mix, the target of an unknown label is 0.5, and there is
    loss only where the image's own label is known. With single positives, where no negative is known, that teaches to
    say yes to everything; unknown=negative assumes them negative before mixing. Substituted: partners are from the
    batch; on cached features, features are mixed and not images.

    Cost: no more than `an` at inference, and hardly more in a step.

    Source: the package mlcpl 0.1.7 (MIT, 2026).
    """

    level = "B"
    hyperparameters = {
        "least": Hyper(0.75, "least share of the image itself", low=0.0, high=1.0, search=("linear", 0.5, 0.95)),
        "unknown": Hyper(
            "ignore", "what an unknown label is: left out (as published) or negative", choices=("ignore", "negative")
        ),
    }

    def training_step(self, network: nn.Module, batch: Batch, step: Step) -> Tensor:
        whole = self.whole(batch, step)
        partner, share = draw_pairs(len(whole.inputs), self.draws(step), self.hyper["least"])
        partner, share = on_device(partner, whole.inputs.device), on_device(share, whole.inputs.device)
        ours = share[whole.own].to(whole.inputs).reshape(-1, *[1] * (whole.inputs.ndim - 1))
        mixed = ours * whole.inputs[whole.own] + (1 - ours) * whole.inputs[partner[whole.own]]
        states = whole.states
        if self.hyper["unknown"] == "negative":
            states = states.masked_fill(states == State.UNKNOWN, int(State.NEGATIVE))
        logits = step.gather(network(mixed).logits)
        return mixup_pme(logits, states, partners=states[partner], share=share)


class SpliceMix(_Mixing):
    """SpliceMix: to every four images comes one made of shrunken ones, laid side by side, with all their labels.

    Faithful: grids and their chances, order of tiles, dropped tiles, resizing (bilinear, corners aligned, no
    antialiasing), labels by OR, one mean over regular and mixed images. Substituted: the run's backbone and head (there
    ResNet-101 with global max pooling); unknown labels count as negative, where there none is unknown (unknown=ignore
    leaves them out); the chance to drop tiles is drawn for a batch (open).

    Cost: no more than `an` at inference; a step sees a quarter more images.

    Source: Zhu et al., TMM 2025 (arXiv 2311.15200); released code, MIT.
    """

    level = "B"
    tracks = ("full",)  # tiles of cached features would show what no image looks like
    hyperparameters = {
        "drop": Hyper(0.3, "chance of a batch whose mixed images lose tiles", low=0.0, high=1.0),
        **UNKNOWN,
    }

    def training_step(self, network: nn.Module, batch: Batch, step: Step) -> dict[str, Tensor]:
        whole = self.whole(batch, step)
        splice = draw_splice(len(whole.inputs), self.draws(step), self.hyper["drop"])
        device = whole.inputs.device
        splice = splice._replace(tiles=on_device(splice.tiles, device), kept=on_device(splice.kept, device))
        # Mixed image j is made by whichever process has row 4j + 3 of the batch, and travels in that row's place.
        rows = torch.arange(3, 4 * len(splice.tiles), 4, device=device)
        carried = (whole.own % 4 == 3).nonzero()[:, 0]
        ours = splice.of(whole.own[carried] // 4)
        shown = torch.cat([whole.inputs[whole.own], spliced_images(whole.inputs, ours)])
        output = network(shown)
        regular, mixed = output.logits.tensor_split([len(whole.own)])

        def of_all(found: Tensor) -> Tensor:
            """What the processes have of their mixed images, [m, ...], as [M, ...] of all."""
            places = found.new_zeros((len(whole.own), *found.shape[1:])).index_copy(0, carried, found)
            return step.gather(places)[rows]

        logits = step.gather(regular)
        states = torch.cat([whole.states, spliced_states(whole.states, splice)])
        loss = an if self.hyper["unknown"] == "negative" else iu
        terms = {"labels": loss(torch.cat([logits, of_all(mixed)]), states)}
        return terms | self.further(network, output.features[len(whole.own) :], ours, of_all, logits, splice)

    def further(
        self, network: Any, maps: Tensor, ours: Splice, of_all: Any, logits: Tensor, splice: Splice
    ) -> dict[str, Tensor]:
        """Terms beside that of the labels."""
        return {}


class SpliceMixConsistency(SpliceMix):
    """SpliceMix-CL: each tile of a mixed image is to be recognised as the whole image it was made of.

    Faithful: the mixed image's map cut into tiles, the shared classifier on each, cross-entropy with the probabilities
    of the regular image, dropped tiles left out of the sum and counted in the mean, weight 1. The regular image is
    taught nothing by it, as the released code has it on COCO (by the number of classes: on VOC it is); detach=false is
    the other. Substituted: as in `splicemix`; the run's head pools a tile (there the maximum).

    Cost: no more than `an` at inference; a step sees a quarter more images.

    Source: Zhu et al., TMM 2025 (arXiv 2311.15200); released code, MIT.
    """

    hyperparameters = {
        **SpliceMix.hyperparameters,
        "weight": Hyper(1.0, "of the consistency of tiles", low=0.0, high=1e6, search=("log", 0.1, 10.0)),
        "detach": Hyper(True, "the regular image is taught nothing by its tiles"),
    }

    def further(
        self, network: Any, maps: Tensor, ours: Splice, of_all: Any, logits: Tensor, splice: Splice
    ) -> dict[str, Tensor]:
        if not len(splice.tiles):  # a batch of fewer than four images has no mixed one
            return {"tiles": 0.0 * logits.sum()}
        tiles = tile_maps(maps, ours)
        found = network.head(tiles.flatten(0, 1)).reshape(*tiles.shape[:2], logits.shape[1])
        consistency = splice_consistency(of_all(found), logits, splice=splice, detach=self.hyper["detach"])
        return {"tiles": self.hyper["weight"] * consistency}
