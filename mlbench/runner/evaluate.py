"""Scores of a whole part: every row once, in row order, for any number of processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from mlbench.errors import MethodError, MlbenchError
from mlbench.methods import Batch, Prediction
from mlbench.metrics.checks import release
from mlbench.runner.crops import mean_prediction
from mlbench.runner.feed import Feed, takes_maps
from mlbench.runner.hooks import calling, prediction_of
from mlbench.runner.scratch import as_tensor, new_matrix
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

    Networks trained in mixed precision score in full precision. Large scores lie in a file that is mapped
    (`mlbench.runner.scratch`): no more than a batch of them is in memory.
    """

    def predict_all(feed: Feed) -> Prediction:
        shape = len(feed.run.parts[part]), len(feed.run.dataset.classes)
        scores, decisions = new_matrix(shape, np.float32), None
        for rows, answer in predicted_batches(network, predict, feed, part, world, epoch, source):
            scores[rows] = answer.scores.numpy()
            release(scores)
            if answer.decisions is not None:
                decisions = new_matrix(shape, np.bool_) if decisions is None else decisions
                decisions[rows] = answer.decisions.numpy()
                release(decisions)
        return Prediction(as_tensor(scores), None if decisions is None else as_tensor(decisions))

    return feed.probe.predictions(predict_all, feed, part)


def predicted_batches(
    network: nn.Module,
    predict: PredictBatch,
    feed: Feed,
    part: str,
    world: World,
    epoch: int | None = None,
    source: str = "images",
) -> Iterator[tuple[np.ndarray, Prediction]]:
    """Rows of part `part`, and what is predicted of them (on the CPU), a batch of every process at a time.

    Rows are shared out among the processes, and all of them see all batches; a row that is missing or counted twice
    is an error.
    """
    count, classes, method = len(feed.run.parts[part]), len(feed.run.dataset.classes), feed.run.method
    local, shares = world.share(np.arange(count))
    per_batch = evaluation_batch(feed.settings.image_size if feed.run.track == "full" else 64)
    seen, decides = np.zeros(count, dtype=bool), False
    feed.expect(part, local)
    with evaluating(network, world):
        pooled = not takes_maps(network)
        for start in range(0, max(shares), per_batch):
            index = local[start : start + per_batch]
            answer = Prediction(torch.zeros((0, classes), device=world.device))
            # In full precision: the logits of half precision tie, and ties decide ranks.
            with torch.inference_mode():
                if len(index):
                    answers = []
                    for batch in feed.shown(part, index, epoch, pooled, source):
                        with calling(method, f"predict on {part}"):
                            found = predict(network, batch)
                        answers.append(prediction_of(method, found))
                    with calling(method, "decide"):
                        answer = mean_prediction(answers, method, feed.run.hyper)
                own = answer.decisions
                _check_shape("scores", answer.scores, (len(index), classes), part)
                sizes = [max(0, min(per_batch, size - start)) for size in shares]
                rows = world.gather(torch.from_numpy(index).to(world.device), sizes).cpu().numpy()
                whole = world.gather(answer.scores.to(torch.float32), sizes).cpu()
                if not torch.isfinite(whole).all():
                    raise MlbenchError(f"predict gave scores that are not finite for {part}")
                decides = (
                    bool(world.agree(own is not None)) if start == 0 else decides
                )  # the main process has rows then
                chosen = None
                if decides:
                    if not method.decision_rule:
                        raise MlbenchError(
                            f"predict gave decisions, but method '{method.name}' declares no decision_rule"
                        )
                    if own is None:
                        own = torch.zeros((0, classes), device=world.device)
                    _check_shape("decisions", own, (len(index), classes), part)
                    chosen = world.gather(own.to(torch.uint8), sizes).bool().cpu()
            if seen[rows].any():
                raise MlbenchError(f"inference on {part} gave samples more than once")
            seen[rows] = True
            yield rows, Prediction(whole, chosen)
    if not seen.all():
        raise MlbenchError(f"inference on {part} did not give every sample exactly once")


def total_over(
    network: nn.Module,
    compute: Callable[[Batch], int],
    feed: Feed,
    part: str,
    world: World,
    source: str = "images",
) -> int:
    """Sum of ``compute(batch)`` over all rows of part `part`, shared out among the processes; the same on all of them.

    Batches are those of inference for `network`: images are not augmented, there is no gradient.
    """

    def count_all(feed: Feed) -> int:
        local, _ = world.share(np.arange(len(feed.run.parts[part])))
        per_batch = evaluation_batch(feed.settings.image_size if feed.run.track == "full" else 64)
        feed.expect(part, local)
        found = 0
        with torch.no_grad(), world.accelerator.autocast():
            for start in range(0, len(local), per_batch):
                index = local[start : start + per_batch]
                found += compute(feed.batch(part, index, None, not takes_maps(network), source))
        return sum(world.gather_items([found], replicated=False))

    return feed.probe.total(count_all, feed, part)


def _check_shape(what: str, given: Tensor, expected: tuple[int, int], part: str) -> None:
    if given.shape != expected:
        raise MethodError(f"predict gave {what} of shape {list(given.shape)} for {part}, expected {list(expected)}")
