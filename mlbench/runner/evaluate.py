"""Scores of a whole part: every row once, in row order, for any number of processes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from mlbench.errors import MlbenchError
from mlbench.methods import Batch, Prediction
from mlbench.runner.crops import mean_prediction
from mlbench.runner.feed import Feed, takes_maps
from mlbench.runner.world import World

PredictBatch = Callable[[nn.Module, Batch], "Tensor | Prediction"]


def evaluation_batch(size: int) -> int:
    """Images a batch in inference: as many pixels as 64 images of 448 px, at most 512 images."""
    return max(1, min(512, 64 * 448**2 // size**2))


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
    was_training = network.training
    network.eval()
    pooled = not takes_maps(network)
    scores, decisions = [], []
    per_batch = evaluation_batch(feed.settings.image_size if feed.run.track == "full" else 64)
    with torch.inference_mode():  # in full precision: the logits of half precision tie, and ties decide ranks
        for start in range(0, len(local), per_batch):
            shown = feed.shown(part, local[start : start + per_batch], epoch, pooled, source)
            found = [predict(network, batch) for batch in shown]
            answers = [each if isinstance(each, Prediction) else Prediction(each) for each in found]
            answer = mean_prediction(answers, feed.run.method, feed.run.hyper)
            scores.append(answer.scores.to(torch.float32))
            if answer.decisions is not None:
                decisions.append(answer.decisions.to(torch.uint8))
    network.train(was_training)
    classes = len(feed.run.dataset.classes)
    mine = torch.cat(scores) if scores else torch.zeros((0, classes), device=world.device)
    whole = world.gather(mine, sizes)
    rows = world.gather(torch.from_numpy(local).to(world.device), sizes).cpu().numpy()
    if not np.array_equal(rows, np.arange(count)):
        raise MlbenchError(f"inference on {part} did not give every sample exactly once")
    if whole.shape != (count, classes):
        raise MlbenchError(
            f"predict gave scores of shape {list(whole.shape)} for {part}, expected [{count}, {classes}]"
        )
    if not torch.isfinite(whole).all():
        raise MlbenchError(f"predict gave scores that are not finite for {part}")
    chosen = None
    if world.agree(bool(decisions)):  # the main process always has rows
        if not feed.run.method.decision_rule:
            raise MlbenchError(f"predict gave decisions, but method '{feed.run.method.name}' declares no decision_rule")
        own = torch.cat(decisions) if decisions else torch.zeros((0, classes), dtype=torch.uint8, device=world.device)
        if own.shape != mine.shape:
            raise MlbenchError(f"predict gave decisions of shape {list(own.shape)}, expected {list(mine.shape)}")
        chosen = world.gather(own, sizes).bool().cpu()
    return Prediction(whole.cpu(), chosen)
