"""Labels from similar training images: neighbours by tags (Tag-Neighbors), and votes in a latent space (KCCA)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from mlbench.annotation import State
from mlbench.errors import UsageError
from mlbench.methods import Batch, Hyper, Method, Phase, Prediction, Step, Task, Uses

from .context_regions import draw_regions
from .distillation_losses import label_loss
from .encoders import ENCODER, make_encoder, uses_encoder
from .ranking import highest

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

#: Pairs of images whose shared tags are counted at once: at most 16 bytes each, 64 MiB.
_PAIRS = 2**22


def nearest_by_tags(
    words: np.ndarray, others: csr_matrix, count: int, own: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The rows of `others` that share most tags with each row of `words`, by Jaccard similarity.

    Parameters
    ----------
    words : bool [B, T], which tags each image has. others : the same of [N, T] images, sparse, of a number type.
    count : M, at least 1. own : int64 [B], a row of `others` that each image may not have (itself); None: all may.

    Returns
    -------
    Rows int64 [B, M], nearest first, ties to the lower row, -1 where no further image shares a tag; and the
    similarities float64 [B, M]: shared tags by tags that either image has (0 where the row is -1). Rows of `words` are
    compared in pieces, whose counts of shared tags take at most 64 MiB (where N is above 4 million, 16 N bytes).

    Raises
    ------
    UsageError : other numbers of tags, or a count below 1.

    Source: Johnson, Ballan and Fei-Fei, ICCV 2015; released code, jaccard.py.
    """
    from scipy.sparse import csr_matrix

    if words.ndim != 2 or words.shape[1] != others.shape[1] or count < 1:
        raise UsageError(
            f"nearest by tags: {list(words.shape)} and {list(others.shape)} tags, count {count}: expected [B, T], "
            "[N, T] and at least 1"
        )
    have, there = words.sum(axis=1), np.asarray(others.sum(axis=1)).ravel()
    across = others.T.tocsr()
    rows, similarities = np.full((len(words), count), -1, dtype=np.int64), np.zeros((len(words), count))
    piece = max(1, _PAIRS // max(1, len(there)))
    for first in range(0, len(words), piece):
        shared = csr_matrix(words[first : first + piece], dtype=np.float64) @ across
        for image, (start, end) in enumerate(zip(shared.indptr[:-1], shared.indptr[1:], strict=True), start=first):
            found, common = shared.indices[start:end], shared.data[start:end]
            similarity = common / (have[image] + there[found] - common)
            if own is not None:
                similarity[found == own[image]] = 0
            best = np.lexsort((found, -similarity))[:count]
            best = best[similarity[best] > 0]
            rows[image, : len(best)], similarities[image, : len(best)] = found[best], similarity[best]
    return rows, similarities


def canonical_directions(
    x: np.ndarray, y: np.ndarray, components: int, ridge: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Directions of `x` along which it goes with `y` most closely (canonical correlation analysis).

    Parameters
    ----------
    x : float [N, p]. y : float [N, q]. components : d; there are never more than either side has dimensions.
    ridge : from 0; so many times the mean variance of a column is added to each column's variance on both sides.

    Returns
    -------
    float64 [p, d], and the correlations float64 [d], largest first. Along a direction the centred `x` has variance 1
    (with what ridge adds). Directions in which a side does not vary at all are left out.

    Raises
    ------
    UsageError : shapes that do not fit, `components` below 1, `ridge` below 0.

    Source: Hotelling, 1936; with ridge as in Hardoon et al., Neural Computation 16, 2004.
    """
    from scipy import linalg

    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y) or components < 1 or ridge < 0:
        raise UsageError(
            f"canonical correlation: x {list(x.shape)}, y {list(y.shape)}, {components} components, ridge {ridge}: "
            "expected [N, p], [N, q], at least 1, at least 0"
        )

    def whitening(side: np.ndarray) -> np.ndarray:
        covariance = side.T @ side / len(side)
        covariance[np.diag_indices_from(covariance)] += ridge * covariance.trace() / len(covariance)
        values, vectors = linalg.eigh(covariance)
        kept = values > len(values) * np.finfo(np.float64).eps * values.max(initial=0)
        return vectors[:, kept] / np.sqrt(values[kept])

    x, y = (side.astype(np.float64) - side.mean(axis=0, dtype=np.float64) for side in (x, y))
    of_x, of_y = whitening(x), whitening(y)
    left, correlations, _ = linalg.svd(of_x.T @ (x.T @ y / len(x)) @ of_y, full_matrices=False)
    return of_x @ left[:, :components], correlations[:components]


def vote(similarities: Tensor, labels: Tensor, count: int) -> Tensor:
    """Share of the `count` most similar images that have each label, weighted by similarity: float [B, C] from 0 to 1.

    Parameters
    ----------
    similarities : float [B, N]; those below 0 count as 0, and where all are 0 nothing is voted for.
    labels : [N, C] of 0 and 1. count : more than N means all.
    """
    weights, rows = similarities.clamp(min=0).topk(min(count, similarities.shape[1]), dim=1)
    votes = (weights[..., None] * labels[rows].to(weights)).sum(dim=1)
    shares = votes / weights.sum(dim=1, keepdim=True).clamp(min=torch.finfo(weights.dtype).tiny)
    return shares.clamp(max=1)  # the two sums are not rounded alike


class NeighbourHead(nn.Module):
    """Logits [B, C] of an image's pooled features [B, D] and those of its neighbours [B, m, D].

    ``h = relu(W_x f(x))``; ``h' = max over neighbours of relu(W_z f(z))``, 0 without any; logits are linear in both.
    """

    needs_maps = False

    def __init__(self, channels: int, classes: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.own = nn.Linear(channels, hidden)
        self.near = nn.Linear(channels, hidden)
        self.dropout = nn.Dropout(dropout)
        self.classes = nn.Linear(2 * hidden, classes)

    def forward(self, features: Tensor, near: Tensor, shown: Tensor) -> Tensor:
        """`shown` bool [B, m]: which of the neighbours there are."""
        around = torch.relu(self.near(near)).masked_fill(~shown[..., None], 0.0).amax(dim=1)
        seen = torch.cat([torch.relu(self.own(features)), around], dim=1)
        return self.classes(self.dropout(seen))


class NotFitted(nn.Module):
    """In place of a head that is still to be made from pooled features."""

    needs_maps = False


class Retrieval(nn.Module):
    """A backbone, or what stands in for it, and a head on pooled features."""

    def __init__(self, backbone: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head

    def features(self, inputs: Tensor) -> Tensor:
        """Pooled features [B, D] of images or feature maps."""
        maps: Tensor = self.backbone(inputs)
        return maps.mean(dim=(2, 3))


def _own(batch: Batch) -> Tensor | None:
    """The training rows [B] that the images of `batch` are; None for images of another part."""
    return batch.index if batch.part == "train" else None


def _features(network: Any, batch: Batch) -> Tensor:
    return network.features(batch.inputs)


class TagNeighbours(Method):
    """A classifier that also looks at the training images with the most similar tags (Tag-Neighbors).

    Tags are those of the data set: users' on NUS-WIDE (the 1,000 most frequent, among them names of the classes),
    elsewhere held-out labels stand in, and the record says which (``inputs.tags.origin``). An image that shares no tag
    with any other has no neighbours: on corel5k-199, where only 70 of 499 test and 832 of 4,500 training images share a
    held-out word with a training image, this is for most a network without neighbours.

    Faithful: neighbours by Jaccard similarity of tags, never the image itself; m of the M nearest drawn at each step;
    the network; in inference, which reads the tags of validation and test images too, the mean over samples of
    neighbours; exactly three labels; sizes and settings of the released code.

    Substituted: pooled features of the run's backbone for fc7. Ours: cross-entropy summed over classes, and that logits
    are averaged (the loss is not in our sources).

    Cost: an image takes the backbone, the search among all training images, and ten times a linear layer for each of
    three neighbours.

    Source: Johnson, Ballan and Fei-Fei, ICCV 2015; released code.
    """

    needs_head = "none"
    level = "B"
    tracks = ("head",)
    supervision = ("observed", "tags")
    inputs = ("tags",)
    stochastic = True  # dropout
    decision_rule = "the top_k highest scores"
    hyperparameters = {
        "nearest": Hyper(6, "neighbours an image has (released code)", low=1, high=1000),
        "drawn": Hyper(3, "of which so many are drawn at each step (released code)", low=1, high=1000),
        "samples": Hyper(10, "draws whose logits are averaged in inference (released code)", low=1, high=1000),
        "hidden": Hyper(500, "width of the hidden layer (released code)", low=1, high=8192),
        "dropout": Hyper(0.5, "dropout on it (released code)", low=0.0, high=0.9),
        "top_k": Hyper(3, "labels decided for, for each image (published)", low=1),
    }

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self.refuse_boostlu()
        if self.hyper["drawn"] > self.hyper["nearest"]:
            raise UsageError(
                f"drawn = {self.hyper['drawn']}: expected at most nearest, which is {self.hyper['nearest']}"
            )

    def phases(self) -> Sequence[Phase]:
        return [Phase(source="pooled")]

    def network(self, phase: Phase) -> nn.Module:
        from scipy.sparse import csr_matrix

        trunk: Any = self.task.feature_width()
        head = NeighbourHead(trunk.out_channels, self.task.num_classes, self.hyper["hidden"], self.hyper["dropout"])
        network: Any = Retrieval(trunk, head)
        rows = np.arange(self.task.num_train)
        words = self.task.look(network, rows, lambda network, batch: batch.side["tags"]).cpu().numpy() > 0
        self._features = self.task.look(network, rows, _features)
        self._others = csr_matrix(words, dtype=np.float64)
        self._near = torch.from_numpy(nearest_by_tags(words, self._others, self.hyper["nearest"], rows)[0])
        return network

    def logits(self, network: Any, batch: Batch, near: Tensor, draw: str) -> Tensor:
        """Logits [B, C] with neighbours drawn from the rows `near` int64 [B, M], under the name `draw`."""
        seed = self.task.generator(f"neighbours {draw}").initial_seed()
        near = near.to(batch.inputs.device)
        places, shown = draw_regions(near >= 0, batch.index, self.hyper["drawn"], seed)
        features = self._features.to(batch.inputs)[near.gather(1, places).clamp(min=0)]
        return network.head(network.features(batch.inputs), features, shown)

    def training_step(self, network: nn.Module, batch: Batch, step: Step) -> Tensor:
        assert batch.labels is not None
        logits = self.logits(network, batch, self._near[batch.index.cpu()], f"step {step.step}")
        return label_loss(logits.float(), batch.labels.state)

    def predict(self, network: nn.Module, batch: Batch) -> Prediction:
        words = batch.side["tags"].cpu().numpy()
        own = _own(batch)
        without = None if own is None else own.cpu().numpy()
        near = torch.from_numpy(nearest_by_tags(words, self._others, self.hyper["nearest"], without)[0])
        found = [self.logits(network, batch, near, f"sample {number}") for number in range(self.hyper["samples"])]
        logits = torch.stack(found).mean(dim=0)
        return Prediction(logits, highest(logits, self.hyper["top_k"]))


class LatentHead(nn.Module):
    """Votes of the training images that are nearest in a latent space.

    Pooled features [B, D] go to kernel values with the landmarks, a linear map and the unit sphere, in float64: the map
    magnifies what rounding does to kernel values of nearly equal landmarks.

    Parameters
    ----------
    landmarks : float [L, D]. gamma : of the kernel ``exp(-gamma |a - b|^2)``. projection : float [L, d].
    offset : float [d], taken off after it. labels : uint8 [N, C] of the training images, whose features are `features`
    [N, D]. count : neighbours that vote.
    """

    needs_maps = False

    def __init__(
        self,
        landmarks: Tensor,
        gamma: float,
        projection: Tensor,
        offset: Tensor,
        features: Tensor,
        labels: Tensor,
        count: int,
    ) -> None:
        super().__init__()
        self.gamma, self.count = gamma, count
        for name, tensor in (("landmarks", landmarks), ("projection", projection), ("offset", offset)):
            self.register_buffer(name, tensor.double())
        self.register_buffer("latent", torch.cat([self.project(piece) for piece in features.split(4096)]))
        self.register_buffer("labels", labels)

    landmarks: Tensor
    projection: Tensor
    offset: Tensor
    latent: Tensor
    labels: Tensor

    def project(self, features: Tensor) -> Tensor:
        """Places [B, d] on the unit sphere of pooled features [B, D]."""
        features = nn.functional.normalize(features.to(self.landmarks.dtype))
        # Between unit vectors, squared distance is twice one minus the product.
        kernel = torch.exp(-2 * self.gamma * (1 - features @ self.landmarks.T))
        places = nn.functional.normalize(kernel @ self.projection - self.offset)
        return places.to(torch.get_default_dtype())

    def forward(self, features: Tensor, own: Tensor | None = None) -> Tensor:
        """`own` int64 [B]: a training image that has no vote on each image (itself)."""
        similarities = self.project(features) @ self.latent.T
        if own is not None:
            similarities = similarities.scatter(1, own[:, None], 0.0)
        return vote(similarities, self.labels, self.count)


class KernelCanonicalCorrelation(Method):
    """Nearest neighbours vote in the space where image features and labels correlate best (KCCA; an approximation).

    Nothing is trained by gradient; with ``encoder = "bce"`` the backbone is the one that method trained.

    Faithful: as described, CCA between features and label vectors, features of a fixed network, votes of the nearest
    training images; on NUS-WIDE, too, only a subset was used.

    Substituted: kernel values with a subset of the training images as landmarks (Nystroem) in place of all, a Gaussian
    kernel on unit vectors; ours: every size, the ridge, the weighting of directions by their correlation and of votes
    by similarity (the published settings are not known to us). Unknown and unspecified labels count as absent, in the
    correlation as in the votes.

    Scores: the share of votes, weighted by similarity, as a probability.

    Cost: an image takes the backbone, `landmarks` kernel values and a product with the latent places of all training
    images.

    Source: Uricchio et al., Pattern Recognition 71, 2017.
    """

    needs_head = "none"
    level = "C"
    scores = "probability"
    hyperparameters = {
        **ENCODER,
        "landmarks": Hyper(512, "training images that the kernel is taken with (ours)", low=1, high=100000),
        "width": Hyper(1.0, "squared width of the kernel, by the mean squared distance (ours)", low=1e-3, high=1e3),
        "components": Hyper(64, "dimensions of the latent space (ours)", low=1, high=100000),
        "ridge": Hyper(0.1, "added to each variance, by the mean variance (ours)", low=1e-3, high=1e6),
        "neighbours": Hyper(50, "training images that vote (ours)", low=1, high=100000),
    }

    @classmethod
    def dense_bytes(cls, hyper: Mapping[str, Any]) -> int:
        return 20  # labels as numbers, centred

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self.refuse_boostlu()

    @classmethod
    def uses_for(cls, hyper: Mapping[str, Any]) -> Mapping[str, Uses]:
        return uses_encoder(hyper)

    def phases(self) -> Sequence[Phase]:
        return []

    def network(self, phase: Phase) -> nn.Module:
        network: Any = Retrieval(make_encoder(self.task).to(self.task.device), NotFitted())
        rows = np.arange(self.task.num_train)
        features = self.task.look(network, rows, _features).cpu()
        network.head = self.fitted(features, np.asarray(self.task.labels.observed) == State.POSITIVE)
        return network

    def fitted(self, features: Tensor, present: np.ndarray) -> LatentHead:
        """The head for training features [N, D] and labels bool [N, C]."""
        from sklearn.kernel_approximation import Nystroem

        unit = nn.functional.normalize(features.double()).numpy()
        # The mean squared distance of two of them is twice their total variance.
        gamma = 1 / (self.hyper["width"] * max(2 * float(unit.var(axis=0).sum()), 1e-12))
        seed = self.task.generator("landmarks").initial_seed() % 2**32
        kernel = Nystroem(gamma=gamma, n_components=min(self.hyper["landmarks"], len(unit)), random_state=seed)
        x = kernel.fit_transform(unit)
        directions, correlations = canonical_directions(x, present, self.hyper["components"], self.hyper["ridge"])
        weighted = directions * correlations
        return LatentHead(
            torch.from_numpy(kernel.components_),
            gamma,
            torch.from_numpy(kernel.normalization_.T @ weighted),
            torch.from_numpy(x.mean(axis=0) @ weighted),
            features,
            torch.from_numpy(present.astype(np.uint8)),
            self.hyper["neighbours"],
        )

    def predict(self, network: Any, batch: Batch) -> Tensor:
        return network.head(network.features(batch.inputs), _own(batch))
