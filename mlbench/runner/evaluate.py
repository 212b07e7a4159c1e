"""Scores of a whole part: every row once, in row order, for any number of processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from mlbench.errors import MethodError, MlbenchError
from mlbench.methods import Batch, Method, Prediction
from mlbench.runner.crops import mean_prediction
from mlbench.runner.feed import Feed, takes_maps
from mlbench.runner.hooks import calling, prediction_of
from mlbench.runner.world import World

PredictBatch = Callable[[nn.Module, Batch], "Tensor | Prediction"]


def evaluation_batch(size: int) -> int:
    """Images a batch in inference: as many pixels as 64 images of 448 px, at most 512 images."""
    return max(1, min(512, 64 * 448**2 // size**2))


@contextmanager
def evaluating(network: nn.Module, world: World) -> Iterator[None]:
    """`network` in evaluation mode, the same on every process; afterwards each of its modules is in the mode it was in.

    They may differ: frozen roles are in evaluation mode while the others train. All processes must enter.
    """
    modes = [(module, module.training) for module in network.modules()]
    world.share_buffers(network)
    network.eval()
    try:
        yield
    finally:
        network.train(modes[0][1])
        for module, training in modes:
            module.training = training


def predict_part(
    network: nn.Module,
    predict: PredictBatch,
    feed: Feed,
    part: str,
    world: World,
    epoch: int | None = None,
    source: str = "images",
) -> Prediction:
    """Predict part `part`: float32 scores [N, C] (and decisions) on the CPU of every process, in row order.

    Networks trained in mixed precision score in full precision. Rows are shared out among the processes; each comes
    back with its row number, and a row that is missing or counted twice is an error.
    """
    count = len(feed.run.parts[part])
    local, sizes = world.share(np.arange(count))
    method = feed.run.method
    scores: list[Tensor] = []
    decisions: list[Tensor] = []
    per_batch = evaluation_batch(feed.settings.image_size if feed.run.track == "full" else 64)
    # In full precision: the logits of half precision tie, and ties decide ranks.
    with evaluating(network, world), torch.inference_mode():
        pooled = not takes_maps(network)
        for start in range(0, len(local), per_batch):
            shown = feed.shown(part, local[start : start + per_batch], epoch, pooled, source)
            answers = []
            for batch in shown:
                with calling(method, f"predict on {part}"):
                    found = predict(network, batch)
                answers.append(prediction_of(method, found))
            with calling(method, "decide"):
                answer = mean_prediction(answers, method, feed.run.hyper)
            scores.append(answer.scores.to(torch.float32))
            if answer.decisions is not None:
                decisions.append(answer.decisions.to(torch.uint8))
    classes = len(feed.run.dataset.classes)
    mine = _joined(method, scores) if scores else torch.zeros((0, classes), device=world.device)
    if mine.shape != (len(local), classes):
        raise MethodError(
            f"predict gave scores of shape {list(mine.shape)} for {part}, expected [{len(local)}, {classes}]"
        )
    whole = world.gather(mine, sizes)
    rows = world.gather(torch.from_numpy(local).to(world.device), sizes).cpu().numpy()
    if not np.array_equal(rows, np.arange(count)):
        raise MlbenchError(f"inference on {part} did not give every sample exactly once")
    if not torch.isfinite(whole).all():
        raise MlbenchError(f"predict gave scores that are not finite for {part}")
    chosen = None
    if world.agree(bool(decisions)):  # the main process always has rows
        if not feed.run.method.decision_rule:
            raise MlbenchError(f"predict gave decisions, but method '{feed.run.method.name}' declares no decision_rule")
        own = (
            _joined(method, decisions)
            if decisions
            else torch.zeros((0, classes), dtype=torch.uint8, device=world.device)
        )
        if own.shape != mine.shape:
            raise MlbenchError(f"predict gave decisions of shape {list(own.shape)}, expected {list(mine.shape)}")
        chosen = world.gather(own, sizes).bool().cpu()
    return Prediction(whole.cpu(), chosen)


def _joined(method: type[Method], parts: list[Tensor]) -> Tensor:
    """What `predict` gave for the batches, one below the other."""
    if len({part.shape[1] for part in parts}) > 1:
        widths = ", ".join(str(part.shape[1]) for part in parts)
        raise MethodError(f"method '{method.name}': predict gave batches of {widths} classes")
    return torch.cat(parts)
