"""Beam search over label sequences, batched: shared by all methods that write an image's labels one after the other.

With C classes, word C is the end of a sequence and word C + 1 its start. A sequence never holds a label twice; its
log-probability is the sum of those of its labels and of its end, as the model gives them: what is left after forbidden
words are taken out is not scaled up to 1 again.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from mlbench.errors import UsageError

#: Tensors that a model hands from one word to the next; the first dimension of each counts sequences.
State = tuple[Tensor, ...]

#: ``step(words, state)``: log-probabilities float [N, C + 1] of the word after `words` int64 [N], and the state then.
StepModel = Callable[[Tensor, State], tuple[Tensor, State]]

#: Stands in place of labels after the last one.
PAD = -1


class Beam(NamedTuple):
    """What a search found, for B images, C classes and width W.

    labels : int64 [B, W, L], the best complete sequences, best first, `PAD` after the last label.
    log_prob : float [B, W], theirs; -inf where there are fewer than W sequences at all.
    best : float [B, C], of each label the log-probability of the most probable beginning of a sequence that ends with
        it, of those the search looked at. marginal : the same with all these beginnings added up. They exclude each
        other, so this is a lower bound of the probability that the sequence holds the label.
    """

    labels: Tensor
    log_prob: Tensor
    best: Tensor
    marginal: Tensor


def beam_search(
    step: StepModel, state: State, classes: int, *, width: int, min_length: int = 0, max_length: int | None = None
) -> Beam:
    """The most probable label sequences of each image, of those a beam of `width` beginnings comes by.

    At each place, every beginning is continued by every label it does not hold, and the `width` best of an image go
    on; ended ones are kept apart and take nobody's place. A beginning that can no longer become one of the `width`
    best complete sequences is dropped, which changes none of them. Of equally probable sequences the one with fewer
    labels comes first, then the one with the lower class index at the first place where they differ. An image's
    result does not depend on the others of the batch.

    Parameters
    ----------
    step : the model. state : at the start of each image's sequence, at least one tensor, [B, ...] each.
    classes : C. width : from 1; with as many as there are sequences, the search is exact.
    min_length, max_length : least and largest number of labels; None: as many as there are classes.

    Raises
    ------
    UsageError : no width, or lengths that no sequence can have.

    Source: Wang et al., CVPR 2016 (CNN-RNN). They stop when no live path is as probable as the ended ones; the best
    path is the same.
    """
    longest = classes if max_length is None else max_length
    check_search(classes, width, min_length, longest)
    images = len(state[0])
    state = tuple(part.repeat_interleave(width, dim=0) for part in state)
    device = state[0].device
    words = torch.full((images * width,), classes + 1, device=device)
    labels = torch.empty((images, width, 0), dtype=torch.int64, device=device)
    held = torch.zeros((images, width, classes), dtype=torch.bool, device=device)
    first = torch.arange(images, device=device)[:, None] * width
    live, ended = (torch.full((images, width), -math.inf, device=device) for _ in range(2))
    live[:, 0] = 0.0  # in the beginning all are the same
    best = marginal = torch.full((images, classes), -math.inf, device=device)
    done = labels
    for place in range(longest + 1):
        log_probs, state = step(words, state)
        log_probs = log_probs.view(images, width, classes + 1)
        if place >= min_length:
            ended, order = _highest(torch.cat([ended, live + log_probs[..., classes]], dim=1), width)
            done = torch.cat([done, labels], dim=1).take_along_dim(order[..., None], dim=1)
        if place == longest:
            break
        further = (live[..., None] + log_probs[..., :classes]).masked_fill(held, -math.inf)
        best = torch.maximum(best, further.amax(dim=1))
        marginal = torch.logaddexp(marginal, further.logsumexp(dim=1))
        # Beginnings stand in the order of their labels, so that a stable choice settles ties by the lower class index.
        live, chosen = _highest(further.flatten(1), width)
        chosen, order = chosen.sort(dim=1)
        live = live.take_along_dim(order, dim=1)
        live = live.masked_fill(live <= ended[:, -1:], -math.inf)
        if bool((live == -math.inf).all()):
            break
        parent, label = chosen // classes, chosen % classes
        held = held.take_along_dim(parent[..., None], dim=1).scatter(2, label[..., None], True)
        labels = torch.cat([labels.take_along_dim(parent[..., None], dim=1), label[..., None]], dim=2)
        done = functional.pad(done, (0, 1), value=PAD)
        rows = (first + parent).flatten()
        state, words = tuple(part[rows] for part in state), label.flatten()
    return Beam(done.masked_fill((ended == -math.inf)[..., None], PAD), ended, best, marginal)


def check_search(classes: int, width: int, min_length: int, max_length: int) -> None:
    """UsageError unless there is a beam of this width, and sequences of these lengths, over `classes` labels."""
    if width < 1:
        raise UsageError(f"beam search: width = {width}: expected a whole number from 1")
    if not 0 <= min_length <= max_length <= classes:
        raise UsageError(
            f"beam search: sequences of {min_length} to {max_length} labels out of {classes}: expected "
            f"0 <= min_length <= max_length <= {classes}"
        )


def on_best_path(beam: Beam, classes: int) -> Tensor:
    """Bool [B, C]: the labels of each image's best sequence."""
    best = beam.labels[:, 0]
    marks = torch.zeros((len(best), classes + 1), dtype=torch.bool, device=best.device)
    return marks.scatter(1, best.masked_fill(best == PAD, classes), True)[:, :classes]


def _highest(values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` highest of each row and their places; of equal ones the earlier (`torch.topk` promises nothing)."""
    found = values.sort(dim=1, descending=True, stable=True)
    return found.values[:, :count], found.indices[:, :count]
