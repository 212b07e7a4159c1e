"""Curriculum labelling: train on what is known, add the labels the model finds easy, train on, and again.

Source: Durand et al., CVPR 2019; no official code. What is taken from public re-implementations, and what is ours, is
said where it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from mlbench.annotation import State
from mlbench.annotation.sparse import SparseLabels
from mlbench.errors import UsageError, unknown
from mlbench.methods import Batch, Hyper, Method, Phase, Prediction, Step
from mlbench.methods.labels import Labels
from mlbench.seeds import keyed_bits
from mlbench.settings import TrainSettings

from .partial_bce import partial_bce

if TYPE_CHECKING:
    from mlbench.methods import Task

STRATEGIES = ("score", "proportion", "positives", "ensemble", "uncertainty")


def easy_labels(
    logits: Tensor,
    candidates: Tensor,
    *,
    strategy: str = "score",
    threshold: float = 2.0,
    share: float = 0.8,
    spread: Tensor | None = None,
    max_spread: float = 0.05,
) -> Tensor:
    """Labels for the candidates that are easy: int8 [N, C] of `State` codes, UNKNOWN where none is added.

    An added label is the logit's sign (0 counts as negative). Easy are, by strategy,

    * "score": ``|x| > threshold``; "ensemble": the same of logits averaged over several models;
    * "proportion": the `share` of all candidates (rounded down) with the largest ``|x|``, ties by row, then class;
    * "positives": ``x > threshold``: nothing is ever added as negative;
    * "uncertainty": ``spread < max_spread``.

    Parameters
    ----------
    logits : float [N, C]. candidates : bool [N, C], the originally unknown entries.
    strategy : one of `STRATEGIES`. threshold : from 0. share : from 0 to 1.
    spread : float [N, C], how much draws of the model disagree; needed for "uncertainty". max_spread : from 0.

    Raises
    ------
    UsageError : an unknown strategy, a number outside its range, or no `spread` where it is needed.

    Source: Durand et al., CVPR 2019, section on curriculum strategies (unverified); logits and the strict comparisons
    as in a public re-implementation, relabel_baseline.py.
    """
    if strategy not in STRATEGIES:
        raise unknown("strategy", strategy, STRATEGIES, "curriculum")
    if not (threshold >= 0 and 0 <= share <= 1 and max_spread >= 0):
        raise UsageError(
            f"curriculum: threshold = {threshold!r}, share = {share!r}, max_spread = {max_spread!r}: expected numbers "
            "from 0, the share at most 1"
        )
    if strategy == "proportion":
        places = torch.nonzero(candidates.flatten())[:, 0]
        count = math.floor(Fraction(str(share)) * len(places))
        order = logits.flatten()[places].abs().argsort(descending=True, stable=True)
        easy = torch.zeros_like(candidates).flatten().index_fill(0, places[order[:count]], True).view_as(candidates)
    elif strategy == "positives":
        easy = candidates & (logits > threshold)
    elif strategy == "uncertainty":
        if spread is None:
            raise UsageError("curriculum: strategy 'uncertainty' needs the spread of several draws")
        easy = candidates & (spread < max_spread)
    else:
        easy = candidates & (logits.abs() > threshold)
    signs = torch.where(logits > 0, int(State.POSITIVE), int(State.NEGATIVE))
    return torch.where(easy, signs, int(State.UNKNOWN)).to(torch.int8)


def mean_and_spread(draws: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean logit and deviation of the probability over draws of logits [N, C], from two on; float64 [N, C] each."""
    logits = probability = square = torch.zeros((), dtype=torch.float64)
    count = 0
    for drawn in draws:
        x = drawn.double()
        logits, p, count = logits + x, x.sigmoid(), count + 1
        probability, square = probability + p, square + p**2
    variance = (square - probability**2 / count) / (count - 1)
    return logits / count, variance.clamp(min=0).sqrt()


def dropout_factors(rows: Tensor, width: int, rate: float, seed: int) -> Tensor:
    """Dropout factors float32 [B, width]: 0 with probability `rate`, else ``1 / (1 - rate)``.

    Drawn for each (row, channel) apart under `seed`, so that they depend neither on the batch a row is in nor on the
    number of processes.

    Parameters
    ----------
    rows : int64 [B]. width : number of channels. rate : from 0 to below 1.
    """
    places = rows.cpu().numpy()[:, None] * np.int64(width) + np.arange(width)
    uniform = (keyed_bits(places.astype(np.uint64), seed) >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return torch.from_numpy((uniform >= rate).astype(np.float32) / np.float32(1 - rate)).to(rows.device)


def round_epochs(epochs: int, rounds: int) -> list[int]:
    """Epochs of each round: the first takes two parts of ``rounds + 1``, each other one, and at least one epoch.

    20 epochs in 3 rounds are 10, 5 and 5, as in a public re-implementation.
    """
    later = max(1, epochs // (rounds + 1))
    return [max(1, epochs - later * (rounds - 1))] + [later] * (rounds - 1)


class Curriculum(Method):
    """Partial-BCE in rounds; after each round but the last, easy unknown labels are added (curriculum labelling).

    A round goes on from the weights the round before ended with, with a new optimiser and the whole schedule of the
    learning rate; the protocol's epochs are shared out by `round_epochs`. At the end of a round every originally
    unknown label is decided anew from the logits on the training images, not augmented: it may be added, turned or
    dropped again. Observed labels never change. The loss weighs an image by its known labels, added ones included.

    * "ensemble" averages the logits after each of the last `members` epochs of a round (snapshots, which is ours:
      how the paper makes its ensemble is not checked). With one epoch a round it is "score".
    * "uncertainty" trains with dropout on the channels that feed the head, and takes the standard deviation of the
      probability over `passes` draws of it; the label is the sign of the mean logit.

    Where few labels are known of very many (`SparseLabels`), the labels added are written nowhere: each batch's are
    decided when it comes, by the network (or networks) that the round before ended with. They are the same labels, for
    one more look at each image ("proportion", which ranks all of them, needs all logits at once).

    Level B: the paper's thresholds, shares and numbers of rounds are not known to us. Threshold 2, share 0.8 and 3
    rounds are those of a public re-implementation, `members`, `passes`, `dropout` and `max_spread` are ours. The
    paper's graph network over the labels is not part of this.

    Source: Durand et al., CVPR 2019.
    """

    level = "B"
    hyperparameters = {
        "strategy": Hyper("score", "which unknown labels are easy", choices=STRATEGIES),
        "rounds": Hyper(3, "rounds of training; 1 is 'partial_bce' (uncertainty: with dropout)", low=1, high=100),
        "threshold": Hyper(2.0, "least logit (score, positives, ensemble)", low=0.0, high=100.0),
        "share": Hyper(0.8, "share of the unknown labels added (proportion)", low=0.0, high=1.0),
        "members": Hyper(3, "epochs averaged (ensemble)", low=1, high=1000),
        "max_spread": Hyper(0.05, "largest deviation of a probability (uncertainty)", low=0.0, high=1.0),
        "passes": Hyper(10, "draws of dropout (uncertainty)", low=2, high=1000),
        "dropout": Hyper(0.5, "share of channels dropped (uncertainty)", low=0.0, high=0.99),
    }

    @classmethod
    def dense_bytes(cls, hyper: Mapping[str, Any]) -> int:
        return 40 if hyper["strategy"] == "proportion" else 0  # logits, their order, and the labels written

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self._sum: Tensor | None = None  # of the logits of this round's snapshots
        self._snapshots = 0
        self._draw = ""  # the dropout draw that `predict` looks through
        # Sparse labels: weights of the networks that decide which labels are added, and the round they were made in.
        self._judges: list[dict[str, Tensor]] = []
        self._judged = 0
        self._kept: list[dict[str, Tensor]] = []  # of this round, for the next
        self._networks: list[nn.Module] = []
        self._sparse = isinstance(task.labels.observed, SparseLabels) and self.hyper["strategy"] != "proportion"

    def phases(self) -> Sequence[Phase]:
        rounds = self.hyper["rounds"]

        def epochs_of(number: int) -> Callable[[TrainSettings], Mapping[str, int]]:
            return lambda settings: {"epochs": round_epochs(settings.epochs, rounds)[number]}

        return [
            Phase(f"round{number + 1}", epochs_of(number), selection="run" if number == rounds - 1 else "last")
            for number in range(rounds)
        ]

    def network(self, phase: Phase) -> nn.Module:
        network = super().network(phase)
        before = f"round{int(phase.name.removeprefix('round')) - 1}"
        if before in self.task.artefacts:
            network.load_state_dict(self.task.artefacts[before])
        return network

    def training_step(self, network: nn.Module, batch: Batch, step: Step) -> Tensor:
        assert batch.labels is not None
        if self.hyper["strategy"] == "uncertainty":
            logits = self._dropped(network, batch, f"{step.phase} epoch {step.epoch}")
        else:
            logits = network(batch.inputs).logits
        return partial_bce(logits, self._with_easy_labels(batch.labels) if self._networks else batch.labels.state)

    def predict(self, network: nn.Module, batch: Batch) -> Tensor | Prediction:
        return self._dropped(network, batch, self._draw) if self._draw else super().predict(network, batch)

    def _dropped(self, network: Any, batch: Batch, draw: str) -> Tensor:
        features = network.backbone(batch.inputs)
        seed = self.task.generator(f"dropout {draw}").initial_seed()
        factors = dropout_factors(batch.index, features.shape[1], self.hyper["dropout"], seed)
        return network.head(features * factors[:, :, None, None])

    def after_epoch(self, network: nn.Module, step: Step) -> None:
        if step.phase == f"round{self.hyper['rounds']}":
            return
        strategy, ends, spread = self.hyper["strategy"], step.epoch == step.epochs, None
        if self._sparse:
            if ends or (strategy == "ensemble" and step.epoch > step.epochs - self.hyper["members"]):
                self._keep(network, step)
            return
        if strategy == "ensemble" and step.epoch > step.epochs - self.hyper["members"]:
            logits = self.task.predict(network)
            self._sum = logits if self._sum is None else self._sum + logits
            self._snapshots += 1
        if not ends:
            return
        if strategy == "ensemble":
            assert self._sum is not None
            logits = self._sum / self._snapshots
            self._sum, self._snapshots = None, 0
        elif strategy == "uncertainty":
            logits, spread = self._draws(network, step.phase)
        else:
            logits = self.task.predict(network)
        self._relabel(logits, spread)

    def _draws(self, network: nn.Module, phase: str) -> tuple[Tensor, Tensor]:
        """Mean logit and deviation of the probability over the draws of dropout, [N, C] each."""

        def drawn() -> Iterator[Tensor]:
            for number in range(self.hyper["passes"]):
                self._draw = f"{phase} pass {number}"
                yield self.task.predict(network)
            self._draw = ""

        return mean_and_spread(drawn())

    # -- sparse labels: what is added is decided batch by batch ------------------------------------------------------

    def _keep(self, network: nn.Module, step: Step) -> None:
        """Keep this epoch's weights for the decisions of the next round; when the round ends, count these."""
        self._kept.append({name: tensor.detach().cpu().clone() for name, tensor in network.state_dict().items()})
        if step.epoch == step.epochs:
            self._judge_by(self._kept, int(step.phase.removeprefix("round")))
            self._kept = []
            self.task.labels.implied = self.task.total(self._networks[0], self._added)

    def _added(self, batch: Batch) -> int:
        """How many labels of a batch are added."""
        state = self.task.labels.rows(batch.index.cpu().numpy(), self.task.device).state
        return int((self._easy_labels(batch, state) != State.UNKNOWN).sum())

    def _judge_by(self, weights: list[dict[str, Tensor]], number: int) -> None:
        """Let the networks of these weights, of round `number`, decide which labels are added."""
        self._judges, self._judged, self._networks = weights, number, []
        for one in weights:
            network = super().network(Phase())
            network.load_state_dict(one)
            self._networks.append(network.to(self.task.device).eval())

    def _with_easy_labels(self, labels: Labels) -> Tensor:
        """States int8 [B, C]: what is observed, and what is added."""
        easy = self._easy_labels(self.task.plain_batch(labels.index, self._networks[0]), labels.state)
        return torch.where(labels.state == State.UNKNOWN, easy, labels.state)

    @torch.no_grad()
    def _easy_labels(self, batch: Batch, observed: Tensor) -> Tensor:
        """`easy_labels` of one batch, images not augmented."""
        spread: Tensor | None = None
        if self.hyper["strategy"] == "uncertainty":
            network, phase = self._networks[0], f"round{self._judged}"
            draws = (self._dropped(network, batch, f"{phase} pass {n}") for n in range(self.hyper["passes"]))
            logits, spread = mean_and_spread(draw.float() for draw in draws)
        else:
            logits = super().predict(self._networks[0], batch).float()  # type: ignore[union-attr]  # no decisions
            for network in self._networks[1:]:
                logits = logits + super().predict(network, batch).float()  # type: ignore[union-attr]
            logits = logits / len(self._networks) if self.hyper["strategy"] == "ensemble" else logits
        return easy_labels(logits, observed == State.UNKNOWN, spread=spread, **self._limits())

    def _limits(self) -> dict[str, Any]:
        return {name: self.hyper[name] for name in ("strategy", "threshold", "share", "max_spread")}

    # -- labels in a matrix: what is added is written ----------------------------------------------------------------

    def _relabel(self, logits: Tensor, spread: Tensor | None) -> None:
        everything, labels = np.arange(self.task.num_train), self.task.labels
        candidates = torch.from_numpy(labels.observed[everything] == State.UNKNOWN)
        wanted = easy_labels(logits, candidates, spread=spread, **self._limits())
        changed = candidates & (wanted != torch.from_numpy(labels.state[everything]))
        for state in (State.POSITIVE, State.NEGATIVE, State.UNKNOWN):
            rows, classes = torch.nonzero(changed & (wanted == state), as_tuple=True)
            self.task.change_labels(rows, classes, state, torch.full((len(rows),), float(state == State.POSITIVE)))

    def state_dict(self) -> dict[str, Tensor]:
        if self._sparse:
            saved = {"round": torch.tensor(self._judged), "implied": torch.tensor(self.task.labels.implied)}
            for kind, weights in (("judge", self._judges), ("kept", self._kept)):
                for number, one in enumerate(weights):
                    saved |= {f"{kind} {number} {name}": tensor for name, tensor in one.items()}
            return saved
        return {} if self._sum is None else {"sum": self._sum.clone(), "snapshots": torch.tensor(self._snapshots)}

    def load_state_dict(self, saved: Mapping[str, Tensor]) -> None:
        if self._sparse:
            found: dict[str, dict[str, dict[str, Tensor]]] = {"judge": {}, "kept": {}}
            for name, tensor in saved.items():
                if name not in ("round", "implied"):
                    kind, number, own = name.split(" ", 2)
                    found[kind].setdefault(number, {})[own] = tensor
            self._kept = list(found["kept"].values())
            self._judge_by(list(found["judge"].values()), int(saved["round"]))
            self.task.labels.implied = int(saved["implied"])
            return
        self._sum = saved["sum"].clone() if saved else None
        self._snapshots = int(saved["snapshots"]) if saved else 0
