"""Interactive multi-label CNN learning (IMCL): images that resemble each other should have similar complete labels.

Source: Huynh and Elhamifar, CVPR 2020, with the released TensorFlow code.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor, nn

from mlbench.annotation import State
from mlbench.annotation.sparse import LabelMatrix, SparseLabels
from mlbench.errors import UsageError
from mlbench.methods import Batch, Hyper, Method, Phase, Step
from mlbench.settings import TrainSettings

from .observed_only import iu

if TYPE_CHECKING:
    from mlbench.methods import Task


def squash(logits: Tensor, c: float = 2.0) -> Tensor:
    """Scores between -1/c and 1, 0 at logit 0: ``(e^u - e^-u / c) / (e^u + e^-u)``, ``u = x - ln(c) / 2``.

    u is clipped to +-80, as in the source. c is at least 1; with 1 it is tanh.

    Source: released code of IMCL, colaborative_loss.py lines 13-15.
    """
    if not 1 <= c < math.inf:
        raise UsageError(f"imcl: c = {c!r}: expected a number from 1")
    u = (logits - 0.5 * math.log(c)).clamp(-80, 80)
    return 1 - (1 + 1 / c) * torch.sigmoid(-2 * u)


def complete(observed: Tensor, scores: Tensor, c: float = 2.0) -> Tensor:
    """Completed label vectors [B, C]: 1 for positives, -1/c for negatives, `scores` for all other entries.

    Parameters
    ----------
    observed : int8 [B, C] of `State` codes. scores : float [B, C], squashed.
    """
    known = torch.where(observed == State.POSITIVE, 1.0, -1.0 / c).to(scores.dtype)
    return torch.where((observed == State.POSITIVE) | (observed == State.NEGATIVE), known, scores)


def least_squares(targets: Tensor, atoms: Tensor) -> Tensor:
    """Coefficients [B, k] of the combination of `atoms` [B, k, D] nearest to `targets` [B, D]; least norm if several.

    A row of zeros gets coefficient 0.
    """
    atoms = atoms.double()
    gram = atoms @ atoms.transpose(1, 2)
    sides = (atoms @ targets.double()[:, :, None])[:, :, 0]
    return (torch.linalg.pinv(gram, rtol=1e-10, hermitian=True) @ sides[:, :, None])[:, :, 0].to(targets.dtype)


def match(
    labels: Tensor,
    features: Tensor,
    label_atoms: Tensor,
    feature_atoms: Tensor,
    *,
    label_weight: float,
    feature_weight: float,
    excluded: Tensor,
    most: int = 3,
    threshold: float = 1e-3,
    balance: bool = True,
) -> tuple[Tensor, Tensor, Tensor]:
    """Joint orthogonal matching pursuit: a few dictionary images that explain an image's labels and features.

    Image by image, atom after atom: with r the present residuals, an atom's score is the weighted sum of
    ``(Y r)^2 / |Y|^2`` and ``(F r)^2 / |F|^2`` (each divided by its largest value if `balance`), times
    ``sign(Y r) + sign(F r)``; a weight of 0 takes its part out, sign included. The weights are first divided by
    the larger one. The best atom is taken, then labels and features are fitted anew by least squares, each with
    coefficients of its own. An image stops at `most` atoms, below `threshold`, or when its best atom is taken already.

    Parameters
    ----------
    labels : float [B, C]. features : float [B, D]. label_atoms : float [M, C]. feature_atoms : float [M, D].
    label_weight, feature_weight : from 0, not both 0. excluded : bool [B, M], atoms an image must not take.

    Returns
    -------
    chosen int64 [B, most] (-1: none), label coefficients [B, most], feature coefficients [B, most] (0 where none).

    Source: released code of IMCL, colaborative_loss.py lines 44-155, with one fault mended: atom 0 can be taken in a
    later step (there it counts as taken from the start), and a singular system has a least-norm solution.
    """
    if not (label_weight >= 0 and feature_weight >= 0 and label_weight + feature_weight > 0):
        raise UsageError(f"imcl: weights {label_weight!r} and {feature_weight!r}: expected numbers from 0, not both 0")
    largest = max(label_weight, feature_weight) * (1 + 1e-4)
    sides = [
        (labels, label_atoms, label_weight / largest),
        (features, feature_atoms, feature_weight / largest),
    ]
    residuals = [labels, features]
    coefficients = [labels.new_zeros(len(labels), most), features.new_zeros(len(features), most)]
    chosen = torch.full((len(labels), most), -1, dtype=torch.int64, device=labels.device)
    going = torch.ones(len(labels), dtype=torch.bool, device=labels.device)
    for place in range(most):
        score = signs = torch.zeros_like(excluded, dtype=labels.dtype)
        for (_, atoms, weight), residual in zip(sides, residuals, strict=True):
            if not weight:
                continue
            inner = residual @ atoms.T
            gain = (inner**2 / atoms.square().sum(dim=1).clamp(min=1e-30)).masked_fill(excluded, 0.0)
            if balance:
                gain = gain / gain.amax(dim=1, keepdim=True).clamp(min=1e-30)
            score, signs = score + weight * gain, signs + inner.sign()
        value, best = (score * signs).masked_fill(excluded, -math.inf).max(dim=1)
        going = going & (value >= threshold) & ~(chosen == best[:, None]).any(dim=1)
        chosen[:, place] = torch.where(going, best, -1)
        for side, (targets, atoms, _) in enumerate(sides):
            taken = atoms[chosen] * (chosen >= 0)[:, :, None]
            coefficients[side] = least_squares(targets, taken)
            residuals[side] = targets - (coefficients[side][:, :, None] * taken).sum(dim=1)
    return chosen, coefficients[0], coefficients[1]


def residual(targets: Tensor, atoms: Tensor, chosen: Tensor, coefficients: Tensor) -> Tensor:
    """What the chosen atoms do not explain: ``targets - sum_j coefficients[:, j] * atoms[chosen[:, j]]``, [B, D]."""
    return targets - (coefficients[:, :, None] * atoms[chosen.clamp(min=0)]).sum(dim=1)


def known_mean(logits: Tensor, observed: Tensor) -> Tensor:
    """Cross-entropy averaged over the known labels of the batch (0 if there are none); see `iu` for its arguments.

    Source: released code of IMCL, e2e_interactive_learning_OpenImages.py lines 368-374.
    """
    known = (observed == State.POSITIVE) | (observed == State.NEGATIVE)
    return iu(logits, observed, reduction="sum") / known.sum().clamp(min=1)


def cooccurrence(observed: LabelMatrix, neighbours: int) -> np.ndarray:
    """Label graph [C, C] from observed positives: entry (i, j) is how often i is seen where j is, diagonal 1.

    A column keeps its `neighbours` largest entries beside the diagonal, then is divided by its sum.

    Parameters
    ----------
    observed : int8 [N, C] of `State` codes, or `SparseLabels`. neighbours : from 0.
    """
    if isinstance(observed, SparseLabels):
        rows, classes, states = observed.entries()
        rows, classes = rows[states == State.POSITIVE], classes[states == State.POSITIVE]
    else:
        rows, classes = np.nonzero(observed == State.POSITIVE)
    positive = csr_array((np.ones(len(rows)), (rows, classes)), shape=observed.shape)
    together = (positive.T @ positive).toarray()
    graph = together / np.maximum(together.diagonal(), 1.0)
    np.fill_diagonal(graph, 0.0)
    weakest = np.argsort(-graph, axis=0, kind="stable")[neighbours:]
    np.put_along_axis(graph, weakest, 0.0, axis=0)
    np.fill_diagonal(graph, 1.0)
    return graph / graph.sum(axis=0)


class LabelGraph(nn.Module):
    """A learned matrix [C, C] whose zeros stay zero."""

    places: Tensor

    def __init__(self, start: np.ndarray) -> None:
        super().__init__()
        self.classes = len(start)
        self.register_buffer("places", torch.from_numpy(np.flatnonzero(start)))
        self.values = nn.Parameter(torch.tensor(start[start != 0], dtype=torch.get_default_dtype()))

    def forward(self) -> Tensor:
        flat = self.values.new_zeros(self.classes**2).index_put((self.places,), self.values)
        return flat.view(self.classes, self.classes)


class Interactive(Method):
    """Classifier and image similarity teach each other: unknown labels are pulled to those of similar images (IMCL).

    Half of the epochs train the classifier on the known labels (`known_mean`); in the other half an image's completed
    label vector is also to be a combination of the completed vectors of at most three dictionary images, found by
    `match` without gradient. Dictionary vectors pass through a learned graph over the labels. The weight of each term
    is `alpha_...` times the logistic loss over the term, both taken from the first batch that has a known label (a term
    below a thousandth of its vectors' squared length counts as that much, which is ours).

    Level B. Faithful to the released OpenImages script: squashing, completion, matching with its limits, the terms
    and their weights, the fixed sparsity of the graph, a start from a trained classifier. Substituted, for what is
    unpublished or not to be had: a random dictionary of training images; the graph's start from co-occurring
    observed labels (there a prior graph from text); features of an ImageNet start (there OpenImages weights);
    optimiser, rates and epochs of the protocol (there RMSProp with three rates and one pass). No gradient flows into
    dictionary images' features, which are recomputed every `refresh` steps (there for matching only). An image never
    takes itself from the dictionary, however it is augmented. With BoostLU, dictionary logits come from pooled
    features.

    `alpha_features` weighs features in the matching (0.5 in the settings file, 0 in the script itself, which then
    matches labels only); `train_features` adds their residual to the loss, as that script would and the one for COCO
    does not. It needs a trained backbone.

    Source: Huynh and Elhamifar, CVPR 2020, released code.
    """

    needs_head = "weight"
    level = "B"
    batch_global = True
    hyperparameters = {
        "alpha_labels": Hyper(1.0, "weight of the label term", low=0.0, high=1000.0, search=("log", 0.1, 10.0)),
        "alpha_features": Hyper(0.5, "weight of features in the matching", low=0.0, high=1000.0),
        "train_features": Hyper(False, "add the feature term to the loss (track full)"),
        "c": Hyper(2.0, "a negative is -1/c", low=1.0, high=1000.0),
        "atoms": Hyper(3, "most dictionary images an image is made of", low=1, high=20),
        "threshold": Hyper(1e-3, "least score of an atom", low=0.0, high=1.0),
        "dictionary": Hyper(512, "training images in the dictionary", low=1, high=1000000),
        "refresh": Hyper(250, "steps until dictionary features are computed anew", low=1, high=1000000),
        "neighbours": Hyper(8, "labels that feed a label in the graph", low=0, high=100000),
    }

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        if self.hyper["train_features"] and task.track == "head":
            raise UsageError("imcl: train_features has no effect on track 'head', where features are fixed")
        if not self.hyper["alpha_labels"]:
            raise UsageError("imcl: alpha_labels = 0 leaves the matching without labels: expected more than 0")
        order = torch.randperm(task.num_train, generator=task.generator("dictionary")).numpy()
        self._rows = np.sort(order[: self.hyper["dictionary"]])
        self._features: Tensor | None = None  # [M, D + 1] of the dictionary
        self._weights: Tensor | None = None  # of the label and the feature term

    def phases(self) -> Sequence[Phase]:
        def first(settings: TrainSettings) -> Mapping[str, int]:
            return {"epochs": max(1, settings.epochs // 2)}

        def second(settings: TrainSettings) -> Mapping[str, int]:
            return {"epochs": max(1, settings.epochs - settings.epochs // 2)}

        return [Phase("logistic", first), Phase("interactive", second)]

    def network(self, phase: Phase) -> nn.Module:
        network = super().network(phase)
        if phase.name == "interactive":
            network.load_state_dict(self.task.artefacts["logistic"])
            network.graph = LabelGraph(cooccurrence(self.task.labels.observed, self.hyper["neighbours"]))
        return network

    def training_step(self, network: nn.Module, batch: Batch, step: Step) -> dict[str, Tensor]:
        similar = step.phase == "interactive"
        if similar and (self._features is None or step.step % self.hyper["refresh"] == 0):
            self._features = self.task.look(network, self._rows, _pooled)
        output = network(batch.inputs)
        labels, logits = step.whole(), step.gather(output.logits)
        terms = {"logistic": known_mean(logits, labels.state)}
        if similar:
            features = step.gather(_with_one(output.features.float().mean(dim=(2, 3))))
            terms |= self._similarity(network, features, logits, labels.state, labels.index, terms["logistic"])
        return terms

    def _similarity(
        self, network: Any, features: Tensor, logits: Tensor, state: Tensor, index: Tensor, logistic: Tensor
    ) -> dict[str, Tensor]:
        """The weighted label term, and the feature term where it is trained."""
        hyper, atoms = self.hyper, self._features
        assert atoms is not None
        observed = torch.from_numpy(self.task.labels.state[self._rows]).to(state.device)
        dictionary_logits = network.head(atoms[:, :-1, None, None])
        label_atoms = complete(observed, squash(dictionary_logits, hyper["c"]) @ network.graph(), hyper["c"])
        # Every process computes all atoms, and gradients are summed over processes: each gives its part.
        label_atoms = label_atoms.detach() + (label_atoms - label_atoms.detach()) / self.task.processes
        labels = complete(state, squash(logits, hyper["c"]), hyper["c"])
        same = index[:, None] == torch.from_numpy(self._rows).to(index.device)
        excluded = same | (torch.cdist(features.detach(), atoms, compute_mode="donot_use_mm_for_euclid_dist") < 1e-3)
        label_weight, feature_weight = (1e5, 1.0) if self._weights is None else self._weights.tolist()
        with torch.no_grad():
            chosen, for_labels, for_features = match(
                labels,
                features,
                label_atoms,
                atoms,
                label_weight=label_weight,
                feature_weight=feature_weight,
                excluded=excluded,
                most=hyper["atoms"],
                threshold=hyper["threshold"],
            )
        left = residual(labels, label_atoms, chosen, for_labels).masked_fill(state == State.UNSPECIFIED, 0.0)
        label_term = left.square().sum(dim=1).mean()
        feature_term = residual(features, atoms, chosen, for_features).square().sum(dim=1).mean()
        if self._weights is None and logistic > 0:
            # Vectors that are all alike leave nothing to explain, and a weight without bound would train rounding.
            least = 1e-3 * torch.stack([labels.square().sum(dim=1).mean(), features.square().sum(dim=1).mean()])
            found = torch.stack([label_term, feature_term])
            ratios = logistic.detach() / torch.maximum(found, least).detach()
            self._weights = ratios * ratios.new_tensor([hyper["alpha_labels"], hyper["alpha_features"]])
        weights = label_term.new_zeros(2) if self._weights is None else self._weights
        terms = {"labels": weights[0] * label_term}
        if hyper["train_features"]:
            terms["features"] = weights[1] * feature_term
        return terms

    def state_dict(self) -> dict[str, Tensor]:
        kept = {"features": self._features, "weights": self._weights}
        return {name: tensor.clone() for name, tensor in kept.items() if tensor is not None}

    def load_state_dict(self, saved: Mapping[str, Tensor]) -> None:
        kept = {name: tensor.to(self.task.device) for name, tensor in saved.items()}
        self._features, self._weights = kept.get("features"), kept.get("weights")


def _with_one(pooled: Tensor) -> Tensor:
    return torch.cat([pooled, torch.ones_like(pooled[:, :1])], dim=1)


def _pooled(network: Any, batch: Batch) -> Tensor:
    """Pooled features with a constant 1 appended, [B, D + 1]."""
    return _with_one(network.backbone(batch.inputs).float().mean(dim=(2, 3)))
