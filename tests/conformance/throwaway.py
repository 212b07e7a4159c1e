"""Six methods in small, each from another corner of the contract, as somebody else's package would bring them.

They are here to try the contract and give no numbers worth keeping. Their names begin with ``try_``, so that the real
methods can have theirs; test_contract.py installs this file as a distribution with entry points. Formulas are those of
the papers named; sizes are not.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import roi_align

from mlbench.annotation import State
from mlbench.inputs.views import View
from mlbench.methods import Hyper, Method, Phase, Prediction, Uses
from mlbench.models.heads import class_activation_maps
from mlbench.runner.feed import SIDE_INPUTS


class LargeLossCorrection(Method):
    """Unknown labels with a large loss become positive for good (LL-Cp): labels are changed in a step.

    Source: Kim et al., CVPR 2022. A change is felt an epoch later, so that two epochs would show nothing.
    """

    batch_global = True
    hyperparameters = {"delta": Hyper(5.0, "percent of a batch's entries corrected in each step", low=0.0)}

    def phases(self):
        return [Phase(train={"epochs": 4})]

    def loss(self, logits, labels, step):
        targets = labels.positive.float()
        losses = functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
        count = min(math.ceil(losses.numel() * self.hyper["delta"] / 100), int(labels.unknown.sum()))
        if step.epoch == 1 or not count:
            return losses.mean()
        threshold = losses.detach()[labels.unknown].topk(count).values[-1]
        large = labels.unknown & (losses.detach() >= threshold)
        labels.change(large, State.POSITIVE)
        flipped = functional.binary_cross_entropy_with_logits(logits, 1 - targets, reduction="none")
        return torch.where(large, flipped, losses).mean()


class RowLogits(nn.Module):
    """One row of free logits for each training image: a dense parameter."""

    def __init__(self, start: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(start)

    def forward(self, index: Tensor) -> Tensor:
        return self.logits[index]


class OnlineEstimation(Method):
    """Label estimates learned beside the classifier, from a linear start (ROLE + LI).

    Source: Cole et al., CVPR 2021: linear head and estimates on cached features, then end to end from both.
    """

    tracks = ("full",)
    supervision = ("observed", "label_count")
    batch_global = True

    def phases(self):
        def faster_state(train):
            return {"lr_multipliers": {**train.lr_multipliers, "state": 10.0}}

        return [Phase("linear", train=faster_state, source="pooled"), Phase("finetune", train=faster_state)]

    def network(self, phase):
        trunk = self.task.feature_width() if phase.source == "pooled" else self.task.backbone()
        network = self.task.classifier(self.head_spec(), trunk)
        network.state = RowLogits(self.start())
        if phase.name == "finetune":
            network.load_state_dict(self.task.artefacts["linear"], strict=False)
        return network

    def start(self):
        observed = torch.from_numpy(self.task.labels.observed.astype(np.float32))
        free = torch.rand(observed.shape, generator=self.task.generator("state"))
        undecided = (2 * free - 1) * math.log(0.6 / 0.4)
        return torch.where(observed == State.UNKNOWN, undecided, observed * math.log(0.995 / 0.005))

    def training_step(self, network, batch, step):
        labels, tiny = step.whole(), 1e-5
        p = torch.sigmoid(step.gather(network(batch.inputs).logits))
        e = torch.sigmoid(step.gather(network.state(batch.index)))

        def positives(q):
            return -(torch.log(q + tiny) * labels.positive).mean()

        def follow(q, target):
            target = target.detach()
            return -(target * torch.log(q + tiny) + (1 - target) * torch.log(1 - q + tiny)).mean()

        def count(q):
            return ((q.sum(dim=1).mean() - self.task.label_count) / q.shape[1]) ** 2

        return {
            "positives": (positives(p) + positives(e)) / 2,
            "agreement": (follow(p, e) + follow(e, p)) / 2,
            "count": (count(p) + count(e)) / 2,
        }


class AttentionConsistency(Method):
    """Heat maps of four views of an image are to agree (VAC, flip and scale).

    Source: Guo et al., CVPR 2019. The maps use the classifier's weights as data: consistency trains the trunk only.
    """

    tracks = ("full",)
    views = (
        View("large"),
        View("large_flipped", flip=True),
        View("small", size=48),
        View("small_flipped", flip=True, size=48),
    )

    def phases(self):
        return [Phase(train={"augment": ()})]  # the fixed views are all the augmentation

    def training_step(self, network, batch, step):
        targets = batch.labels.positive.float()
        often = torch.from_numpy((self.task.labels.observed == State.POSITIVE).mean(axis=0)).float()
        weights = torch.exp(torch.where(targets > 0, 1 - often, often))
        terms, logits, pairs = {}, [], []
        for plain, mirrored in (self.views[:2], self.views[2:]):
            both = network(torch.cat([batch.views[plain.name], batch.views[mirrored.name]]))
            maps = class_activation_maps(both.features, network.head.weight.detach())
            first, second = maps.chunk(2)
            terms[f"flip_{plain.name}"] = functional.mse_loss(first, mirrored.align(second))
            logits.append(both.logits)
            pairs.append(maps)
        entries = functional.binary_cross_entropy_with_logits(
            torch.cat(logits), targets.repeat(4, 1), weights.repeat(4, 1), reduction="none"
        )
        grid = math.lcm(*(maps.shape[-1] for maps in pairs))
        large, small = (functional.interpolate(maps, size=(grid, grid), mode="nearest") for maps in pairs)
        return {"classification": entries.sum(dim=1).mean(), "scale": functional.mse_loss(large, small), **terms}


def window_grid(part):
    """Nine windows of half the image's side, moved a little with the row: boxes [B, 9, 4] from 0 to 1."""
    corners = torch.cartesian_prod(torch.arange(3.0), torch.arange(3.0)) / 4
    boxes = torch.cat([corners, corners + 0.5], dim=1)
    return lambda index: boxes - (torch.from_numpy(index % 3)[:, None, None] * boxes / 16)


SIDE_INPUTS["window_grid"] = window_grid


def pool_windows(features, boxes):
    """Features [B, D, h, w] in windows [B, R, 4], pooled to 2 x 2: float [B, R, 4 D]."""
    scaled = list(boxes * features.shape[-1])
    return roi_align(features, scaled, 2, sampling_ratio=2).flatten(1).view(*boxes.shape[:2], -1)


class Detector(nn.Module):
    """Two streams over the windows of an image (WSDDN)."""

    def __init__(self, backbone: nn.Module, classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.classes = nn.Linear(4 * backbone.out_channels, classes)
        self.windows = nn.Linear(4 * backbone.out_channels, classes)

    def forward(self, images, boxes, sharper=1.0):
        """Window scores [B, R, C] and pooled windows [B, R, 4 D]."""
        pooled = pool_windows(self.backbone(images), boxes)
        return (sharper * self.classes(pooled)).softmax(2) * (sharper * self.windows(pooled)).softmax(1), pooled


class WeakDetector(Method):
    """Weakly supervised detector, the teacher (WSDDN). Source: Bilen and Vedaldi, CVPR 2016."""

    tracks = ("full",)
    inputs = ("window_grid",)
    scores = "probability"

    def network(self, phase):
        return Detector(self.task.backbone(), self.task.num_classes)

    def training_step(self, network, batch, step):
        p = self.predict(network, batch).clamp(1e-4, 1 - 1e-4)
        return functional.binary_cross_entropy(p, batch.labels.positive.float(), reduction="none").sum(dim=1).mean()

    def predict(self, network, batch):
        return network(batch.inputs, batch.side["window_grid"])[0].sum(dim=1).clamp(0, 1)


class DetectionDistillation(Method):
    """A classifier learns from a detector: its windows' features first, its image scores then (MLIC-KD-WSD).

    Source: Liu et al., ACM MM 2018, the paper's losses. The teacher looks at a larger image than the student.
    """

    tracks = ("full",)
    inputs = ("window_grid",)
    views = (View("student"), View("teacher", size=64))
    uses = {"teacher": Uses("try_wsddn")}

    def phases(self):
        features = {"image_size": 48, "lr": 1e-6}  # a sum over all features is large
        return [
            Phase("features", train=features, roles=("backbone",), selection="last"),
            Phase("predictions", train={"image_size": 48, "lr": 1e-4}),
        ]

    def network(self, phase):
        self.teacher = Detector(self.task.backbone(), self.task.num_classes)
        self.teacher.load_state_dict(self.task.artefacts["teacher"])
        self.teacher.to(self.task.device).eval().requires_grad_(False)
        network = self.task.classifier(self.head_spec())
        if phase.name == "predictions":
            network.load_state_dict(self.task.artefacts["features"])
        return network

    def training_step(self, network, batch, step):
        boxes, soft = batch.side["window_grid"], step.phase == "predictions"
        scores, windows = self.teacher(batch.views["teacher"], boxes, sharper=2.0 if soft else 1.0)
        logits, features = network(batch.views["student"])
        if soft:
            difference = scores.sum(dim=1) - torch.sigmoid(logits / 5)
            targets = batch.labels.positive.float()
            entries = functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
            return {"imitation": (difference**2).sum(dim=1).mean() / 2, "labels": entries.sum(dim=1).mean()}
        best, kept = scores.max(dim=2).values.topk(4)
        strength = (best / best.amax(dim=1, keepdim=True))[..., None]
        difference = (windows - pool_windows(features, boxes)).take_along_dim(kept[..., None], dim=1) * strength
        return {"windows": (difference**2).sum(dim=(1, 2)).mean() / 2 / 4}


class PairwiseRanking(Method):
    """Every positive above every other label, then a threshold for each class and image (LSEP).

    Source: Li, Song and Luo, CVPR 2017: the thresholds are learned on frozen scores, and decide.
    """

    decision_rule = "score above the learned threshold of its class"
    settings_file = "throwaway_plugin.toml"

    def phases(self):
        thresholds = Phase("thresholds", train={"lr": 1e-2}, roles=("decision",), selection="last")
        return [Phase("ranking"), thresholds]

    def network(self, phase):
        network = super().network(phase)
        if phase.name == "thresholds":
            network.load_state_dict(self.task.artefacts["ranking"])
            width = network.head.weight.shape[1]
            network.decision = nn.Sequential(nn.Linear(width, 10), nn.ReLU(), nn.Linear(10, self.task.num_classes))
        return network

    def training_step(self, network, batch, step):
        positive = batch.labels.positive
        logits, features = network(batch.inputs)
        if step.phase == "thresholds":
            margins = logits - network.decision(features.mean(dim=(2, 3)))
            return functional.binary_cross_entropy_with_logits(margins, positive.float())
        pairs = logits[:, None, :] - logits[:, :, None]  # [image, positive, other]
        pairs = pairs.masked_fill(~(positive[:, :, None] & ~positive[:, None, :]), -math.inf).flatten(1)
        return torch.cat([pairs.new_zeros(len(pairs), 1), pairs], dim=1).logsumexp(dim=1).mean()

    def predict(self, network, batch):
        logits, features = network(batch.inputs)
        if not hasattr(network, "decision"):
            return logits  # before the thresholds are there
        return Prediction(logits, logits > network.decision(features.mean(dim=(2, 3))))


class LabelWriter(nn.Module):
    """An LSTM that writes an image's labels one after the other; row C of the embedding ends, row C + 1 starts."""

    def __init__(self, backbone: nn.Module, classes: int, width: int = 16) -> None:
        super().__init__()
        self.backbone = backbone
        self.embedding = nn.Embedding(classes + 2, width)
        self.memory = nn.LSTMCell(width, width)
        self.image = nn.Linear(backbone.out_channels, width)
        self.word = nn.Linear(width, width)

    def forward(self, features, words, memory=None):
        """Log-probabilities [B, C + 1] of the next label or the end after `words` [B], and the memory."""
        memory = self.memory(self.embedding(words), memory)
        joint = functional.relu(self.word(memory[0]) + self.image(features))
        return functional.linear(joint, self.embedding.weight[:-1]).log_softmax(dim=1), memory


class LabelSequence(Method):
    """Labels written as a sequence, the frequent ones first (CNN-RNN).

    Source: Wang et al., CVPR 2016. Scores: labels on the greedy path by place, the rest by their best probability.
    """

    tracks = ("full",)
    scores = "rank"
    decision_rule = "on the greedy path"

    def network(self, phase):
        return LabelWriter(self.task.backbone(), self.task.num_classes)

    def training_step(self, network, batch, step):
        often = (self.task.labels.observed == State.POSITIVE).sum(axis=0)
        order = torch.from_numpy(np.argsort(-often, kind="stable").copy())
        features = network.backbone(batch.inputs).mean(dim=(2, 3))
        end = self.task.num_classes
        lists = [order[row[order]] for row in batch.labels.positive]
        targets = torch.full((len(lists), max(map(len, lists)) + 1), end)
        for row, words in enumerate(lists):
            targets[row, : len(words)] = words
        written = torch.tensor([len(words) for words in lists])
        loss, memory, words = features.new_zeros(()), None, torch.full((len(lists),), end + 1)
        for place in range(targets.shape[1]):
            scores, memory = network(features, words, memory)
            words = targets[:, place]
            loss = loss - (scores.gather(1, words[:, None])[:, 0] * (written >= place)).mean()
        return loss

    def predict(self, network, batch):
        features = network.backbone(batch.inputs).mean(dim=(2, 3))
        count, end = len(features), self.task.num_classes
        path = torch.zeros(count, end)  # place on the path, counted from the last possible one; 0: not on it
        best, memory, words = torch.zeros(count, end), None, torch.full((count,), end + 1)
        alive = torch.ones(count, dtype=torch.bool)
        for place in range(end):
            scores, memory = network(features, words, memory)
            best = torch.maximum(best, scores[:, :-1].exp() * alive[:, None])
            words = torch.cat([scores[:, :-1].masked_fill(path > 0, -math.inf), scores[:, -1:]], dim=1).argmax(dim=1)
            alive = alive & (words < end)
            path[alive, words[alive]] = float(end - place)
        return Prediction(torch.where(path > 0, path, best), path > 0)


class Relabelling(Method):
    """Changes labels row by row in its steps, and softly after each epoch by a look at the whole training part (APL).

    Source of the second: Zhou et al., ECCV 2022, without its schedule. The first is made up.
    """

    tracks = ("full",)

    def phases(self):
        return [Phase(train={"epochs": 3})]

    def loss(self, logits, labels, step):
        if step.epoch == 2:
            highest = labels.unknown & (logits == logits.masked_fill(~labels.unknown, -math.inf).amax(1, keepdim=True))
            labels.change(highest, State.POSITIVE, 0.75)
        entries = functional.binary_cross_entropy_with_logits(logits, labels.value, reduction="none")
        return (entries * torch.where(labels.pseudo, 0.5, 1.0)).mean()

    def after_epoch(self, network, step):
        p = torch.sigmoid(self.task.predict(network, augment=True, epoch=step.epoch))
        unknown = torch.from_numpy(self.task.labels.state == State.UNKNOWN)
        for c in range(self.task.num_classes):
            rows = torch.nonzero(unknown[:, c])[:, 0]
            lowest = rows[p[rows, c].argsort()[:2]]
            self.task.change_labels(lowest, torch.full_like(lowest, c), State.NEGATIVE, p[lowest, c])


class Counting(Method):
    """Weighs its loss by how many steps it has seen in its second phase, and keeps that number in checkpoints.

    Its dropout takes part in the same check: the generators' states have to be kept as well.
    """

    tracks = ("full",)

    def __init__(self, task):
        super().__init__(task)
        self.seen = torch.zeros(())

    def phases(self):
        return [Phase("first"), Phase("second")]

    def loss(self, logits, labels, step):
        self.seen += step.phase == "second"
        kept = functional.dropout(logits, 0.2)
        return functional.binary_cross_entropy_with_logits(kept, labels.positive.float()) * (1 + self.seen / 10)

    def state_dict(self):
        return {"seen": self.seen.clone()}

    def load_state_dict(self, saved):
        self.seen = saved["seen"].clone()


class Summed(Method):
    """Sums over images but says that it is a mean: several processes then train otherwise than one."""

    tracks = ("full",)

    def loss(self, logits, labels, step):
        return functional.binary_cross_entropy_with_logits(logits, labels.positive.float()) * len(labels)


class Forgetful(Counting):
    """The same, but the number is lost with the process: the conformance suite has to find that out."""

    def state_dict(self):
        return {}

    def load_state_dict(self, saved):
        pass
