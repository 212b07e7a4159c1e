"""Label-aware global consistency: pseudo-labels of an image hold for its strong view (PLC), and embeddings of one label
lie together (LAC)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from mlbench.annotation import State
from mlbench.errors import UsageError, unknown
from mlbench.inputs.augment import Augmentation
from mlbench.inputs.views import View
from mlbench.methods import Batch, Hyper, Method, Phase, Step, Task, Uses

from .assume_negative import an
from .losses import bce_entries, check_inputs

#: What a full memory does (`Memory`).
ORDERS = ("queue", "restart")
#: The strong view: Cutout, RandAugment and colour jitter.
STRONG = Augmentation(cutout=0.5, randaugment=2, magnitude=9, jitter=(0.4, 0.4, 0.4, 0.1), jitter_chance=0.8)


def plc_targets(logits: Tensor, observed: Tensor, *, threshold: float = 0.6) -> tuple[Tensor, Tensor]:
    """Hard targets bool [B, C] from the plain view, and the entries used, bool [B, C]. No gradient.

    An observed label is its own target. That of an unknown one is 1 where the probability is at least `threshold`, 0
    where it is below ``1 - threshold``; in between, and where unspecified, the entry is not used.

    Parameters
    ----------
    logits : float [B, C] of the plain view. observed : int8 [B, C] of `State` codes. threshold : from 0.5 to 1.
    """
    check_inputs(logits, observed)
    if not 0.5 <= threshold <= 1:
        raise UsageError(f"plc: threshold = {threshold!r}: expected a probability from 0.5 to 1")
    probability = torch.sigmoid(logits.detach())
    open_ = observed == State.UNKNOWN
    positive = (observed == State.POSITIVE) | (open_ & (probability >= threshold))
    negative = (observed == State.NEGATIVE) | (open_ & (probability < 1 - threshold))
    return positive, positive | negative


def plc(logits: Tensor, observed: Tensor, *, strong: Tensor, threshold: float = 0.6, eps: float = 0.0) -> Tensor:
    """Cross-entropy of the strong view with the plain view's hard targets, its mean over the entries used.

    Where none is used it is 0.

    Parameters
    ----------
    logits : float [B, C] of the plain view, which is taught nothing. observed : int8 [B, C] of `State` codes.
    strong : float [B, C] of the strong view. threshold : see `plc_targets`. eps : see `bce_entries`.

    Source: Xie et al., NeurIPS 2022 (LAC); released code, first_stage.py, read for facts. Negatives and unknown labels
    have one code there; here an observed negative is never a positive.
    """
    check_inputs(strong, observed)
    targets, used = plc_targets(logits, observed, threshold=threshold)
    entries = bce_entries(strong, targets.to(strong.dtype), eps)
    return entries.masked_fill(~used, 0.0).sum() / used.sum().clamp(min=1)


class PseudoLabelConsistency(Method):
    """Pseudo-label consistency: a strongly augmented image is to be labelled as the network labels the plain one.

    Faithful: both views through the network as one batch, assumed negatives on the plain view, hard targets with
    threshold 0.6, one mean over the entries used, strong view of Cutout, RandAugment and colour jitter. Substituted:
    the run's backbone and head (there Query2Label over ResNet-50 with frozen statistics; --head q2l comes closest);
    torchvision's RandAugment, on the image at its final size; images are normalised, there they are not. The published
    recipe (AdamW, one cycle, EMA 0.9997) is asked for by train.KEY.

    Cost: one forward at inference; a training step has two views in one forward.

    Source: Xie et al., NeurIPS 2022 ("Label-Aware Global Consistency"), first stage; released code (no licence stated:
    read for facts).
    """

    level = "B"
    tracks = ("full",)  # cached features have no other view
    batch_global = True
    views = (View("weak"), View("strong", augment=STRONG))
    hyperparameters = {
        "threshold": Hyper(0.6, "probability from which a label is trusted", low=0.5, high=1.0),
        "weight": Hyper(1.0, "of the consistency", low=0.0, high=1e6, search=("log", 0.1, 10.0)),
    }

    def training_step(self, network: nn.Module, batch: Batch, step: Step) -> dict[str, Tensor]:
        both = network(torch.cat([batch.views["weak"], batch.views["strong"]])).logits
        weak, strong = (step.gather(logits) for logits in both.chunk(2))
        observed = step.whole().state
        consistency = plc(weak, observed, strong=strong, threshold=self.hyper["threshold"])
        return {"labels": an(weak, observed), "consistency": self.hyper["weight"] * consistency}


def contrast(
    anchors: Tensor, classes: Tensor, others: Tensor, other_classes: Tensor, *, temperature: float = 0.5
) -> Tensor:
    """Supervised contrastive loss: embeddings of one class are drawn together, all others apart; mean over anchors.

    For each anchor the mean, over all of its class but itself, of ``-log softmax`` of their similarity (a product, by
    `temperature`) among all but itself. An anchor that is alone in its class adds 0; without anchors it is 0.

    Parameters
    ----------
    anchors : float [n, d], of length 1. classes : int64 [n].
    others : float [m, d], what the anchors are held against beside each other; other_classes : int64 [m].

    Source: Khosla et al., NeurIPS 2020, as in Xie et al., NeurIPS 2022 (LAC), whose released code was read for facts.
    """
    if not len(anchors):
        return 0.0 * anchors.sum()
    everything, labels = torch.cat([anchors, others]), torch.cat([classes, other_classes])
    itself = torch.zeros(len(anchors), len(everything), dtype=torch.bool, device=anchors.device)
    itself[:, : len(anchors)].fill_diagonal_(True)
    similarity = (anchors @ everything.T / temperature).masked_fill(itself, -torch.inf)
    same = (classes[:, None] == labels[None]) & ~itself
    log_share = (similarity - similarity.logsumexp(dim=1, keepdim=True)).masked_fill(~same, 0.0)
    return -(log_share.sum(dim=1) / same.sum(dim=1).clamp(min=1)).mean()


class Memory:
    """Embeddings of earlier batches with their classes, in a fixed number of places.

    "queue" : the oldest give way. "restart", as the released code has it: where the next entries do not fit, writing
    starts again at the first place, and what stood behind the last one written stays, however old; more entries than
    places are an error there.

    Attributes
    ----------
    embeddings : float [slots, d]. classes : int64 [slots], -1 in an empty place. next : where the next entry goes.
    """

    def __init__(self, slots: int, width: int, order: str = "queue", like: Tensor | None = None) -> None:
        if order not in ORDERS:
            raise unknown("order", order, ORDERS, "memory")
        like = torch.zeros(()) if like is None else like
        self.order = order
        self.embeddings = like.new_zeros((slots, width))
        self.classes = torch.full((slots,), -1, dtype=torch.int64, device=like.device)
        self.next = 0

    def places(self, count: int) -> Tensor:
        """Where the next `count` entries go, int64 [count]; of more than there are places, the last ones' count."""
        slots = len(self.classes)
        if self.order == "restart":
            if count > slots:
                raise UsageError(
                    f"lac: {count} positives in a batch, and memory = {slots} in order restart holds no more"
                )
            start = self.next if self.next + count <= slots else 0
            return torch.arange(start, start + count, device=self.classes.device)
        return (self.next + torch.arange(count, device=self.classes.device)) % slots

    def others(self, count: int) -> tuple[Tensor, Tensor]:
        """Embeddings and classes that stay when the next `count` entries are written."""
        stays = self.classes >= 0
        stays[self.places(count)] = False
        return self.embeddings[stays], self.classes[stays]

    def write(self, embeddings: Tensor, classes: Tensor) -> None:
        """Put entries [n, d] of `classes` [n] into their places."""
        places, slots = self.places(len(classes)), len(self.classes)
        last = slice(max(0, len(classes) - slots), None)  # of more than there is room for, the last
        self.embeddings[places[last]] = embeddings[last].detach()
        self.classes[places[last]] = classes[last]
        if len(places):
            self.next = int(places[-1]) + 1
            self.next = self.next % slots if self.order == "queue" else self.next


class LabelAwareConsistency(PseudoLabelConsistency):
    """LAC: after pseudo-label consistency, embeddings of a label are drawn together over images and views.

    It goes on from `plc`, with the same head (q2l), threshold 0.9; the embeddings of labels that are observed or
    trusted positives, of both views, are projected and contrasted with each other and with a memory of earlier ones.

    Faithful: three terms, the projection (two layers to 128, of length 1), temperature 0.5, 512 places. Corrected: the
    memory is a queue (memory_order=restart is the released one, in which old entries may stay for good, and which fails
    on more positives than places). Substituted: as in `plc`; the released code trains both stages with the recipe given
    there, and stops early.

    Cost: what the head costs at inference; a training step has two views in one forward.

    Source: Xie et al., NeurIPS 2022 ("Label-Aware Global Consistency"), second stage; released code (no licence stated:
    read for facts).
    """

    needs_head = "embeddings"
    default_head = "q2l"
    stochastic = True  # dropout in the head, and in the first stage's training
    hyperparameters = {
        "threshold": Hyper(0.9, "probability from which a label is trusted", low=0.5, high=1.0),
        "weight": Hyper(1.0, "of the consistency", low=0.0, high=1e6, search=("log", 0.1, 10.0)),
        "contrast": Hyper(1.0, "weight of the contrast of embeddings", low=0.0, high=1e6, search=("log", 0.1, 10.0)),
        "temperature": Hyper(0.5, "divides similarities", low=1e-3, high=1e3),
        "projection": Hyper(128, "numbers of a projected embedding", low=1, high=65536),
        "memory": Hyper(512, "embeddings that are remembered", low=1, high=10_000_000),
        "memory_order": Hyper("queue", "which of them give way; restart: as released", choices=("queue", "restart")),
        "first.threshold": Hyper(0.6, "threshold of the first stage", low=0.5, high=1.0),
    }

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        like = torch.zeros((), device=task.device)
        self.memory = Memory(self.hyper["memory"], self.hyper["projection"], self.hyper["memory_order"], like)

    @classmethod
    def uses_for(cls, hyper: Mapping[str, Any]) -> Mapping[str, Uses]:
        return {"first": Uses("plc", {"threshold": hyper["first.threshold"]})}

    def network(self, phase: Phase) -> nn.Module:
        network: Any = super().network(phase)
        network.load_state_dict(self.task.artefacts["first"])
        width = network.head.weight.shape[1]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.task.generator("projection").initial_seed())
            layers = nn.Linear(width, width), nn.ReLU(), nn.Linear(width, self.hyper["projection"])
        network.projection = nn.Sequential(*layers)
        return network

    def training_step(self, network: Any, batch: Batch, step: Step) -> dict[str, Tensor]:
        images = torch.cat([batch.views["weak"], batch.views["strong"]])
        embeddings = network.head.embed(network.backbone(images))
        projected = functional.normalize(network.projection(embeddings), dim=2)
        weak, strong = (step.gather(logits) for logits in network.head.classify(embeddings).chunk(2))
        both = torch.stack([step.gather(view) for view in projected.chunk(2)])  # [2, B, C, d]
        observed = step.whole().state
        trusted, used = plc_targets(weak, observed, threshold=self.hyper["threshold"])
        consistency = plc(weak, observed, strong=strong, threshold=self.hyper["threshold"])
        chosen = (trusted & used).expand(2, *trusted.shape)
        anchors, classes = both[chosen], chosen.nonzero()[:, 2]
        others = self.memory.others(len(classes))
        apart = contrast(anchors, classes, *others, temperature=self.hyper["temperature"])
        self.memory.write(anchors, classes)
        return {
            "labels": an(weak, observed),
            "consistency": self.hyper["weight"] * consistency,
            "contrast": self.hyper["contrast"] * apart + 0.0 * both.sum(),
        }

    def state_dict(self) -> dict[str, Tensor]:
        memory = self.memory
        return {
            "embeddings": memory.embeddings.cpu(),
            "classes": memory.classes.cpu(),
            "next": torch.tensor(memory.next),
        }

    def load_state_dict(self, saved: Mapping[str, Tensor]) -> None:
        self.memory.embeddings, self.memory.classes = (
            saved[name].to(self.task.device) for name in ("embeddings", "classes")
        )
        self.memory.next = int(saved["next"])
