"""Recurrent networks that write label sequences, and what trains them.

Words as in `mlbench.baselines.beam`: C labels, then the end (C) and the start (C + 1).
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.nn import functional

from .beam import State

#: Stands in targets after the end.
IGNORED = -100


def label_sequences(positive: Tensor, order: Tensor) -> Tensor:
    """The observed positives of each row in the order given, then the end, then `IGNORED`: int64 [B, L + 1].

    Parameters
    ----------
    positive : bool [B, C]; L is the largest number of positives in a row (0 is well). order : int64 [C], a permutation.
    """
    present = positive[:, order]
    count = present.sum(dim=1, keepdim=True)
    longest = int(count.max()) if len(count) else 0
    places = torch.arange(longest + 1, device=positive.device).expand(len(positive), -1)
    first = present.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :longest]
    words = functional.pad(order[first], (0, 1), value=IGNORED)
    words = words.masked_fill(places > count, IGNORED)
    return words.masked_fill(places == count, positive.shape[1])


def predicted_label_alignment(log_probs: Tensor, positive: Tensor) -> Tensor:
    """The observed positives of each row in the order the predictions suggest: int64 [B, T], shaped as by
    `label_sequences`.

    A row with n positives fills its first n places. A label predicted at one of them is kept there (at the first, if
    it is predicted twice); the others are matched to the places left so that their log-probabilities sum to the most.
    No gradient flows through the choice.

    Parameters
    ----------
    log_probs : float [B, T, C + 1] of what was predicted at each place, T above the largest number of positives.
    positive : bool [B, C].

    Source: Yazici et al., CVPR 2020 (PLA). Their released code (train_lstm.py lines 89-142) also takes a label as
    found that is predicted after place n only, and leaves it where it happened to stand; not so here.
    """
    predicted = log_probs.argmax(dim=2).cpu().numpy()
    # Numbers that are not finite are for the runner to report, which sees them in the loss.
    costs = np.nan_to_num(-log_probs.detach().float().cpu().numpy())
    targets = np.full(predicted.shape, IGNORED, dtype=np.int64)
    for row, marks in enumerate(positive.cpu().numpy()):
        left = np.flatnonzero(marks).tolist()
        count = len(left)
        free = []
        for place in range(count):
            word = int(predicted[row, place])
            if word in left:
                left.remove(word)
                targets[row, place] = word
            else:
                free.append(place)
        which, chosen = linear_sum_assignment(costs[row][np.ix_(free, left)])
        targets[row, np.array(free, dtype=np.int64)[which]] = np.array(left, dtype=np.int64)[chosen]
        targets[row, count] = marks.size
    return torch.from_numpy(targets).to(log_probs.device)


def sequence_loss(logits: Tensor, targets: Tensor, excluded: Tensor | None = None) -> Tensor:
    """Negative log-likelihood of the target sequences, summed over an image's words, averaged over the images.

    Parameters
    ----------
    logits : float [B, T, C + 1], the last column for the end. targets : int64 [B, T] words or `IGNORED`.
    excluded : bool [B, C], labels that take no part in the softmax (the protocol's unspecified ones); never a target.
    """
    if excluded is not None:
        logits = logits.masked_fill(functional.pad(excluded, (0, 1))[:, None], -torch.inf)
    entries = functional.cross_entropy(logits.transpose(1, 2), targets, ignore_index=IGNORED, reduction="none")
    return entries.sum(dim=1).mean()


class Decoder(nn.Module):
    """An LSTM over label embeddings; a subclass says how it starts and what it makes of a hidden state.

    `needs_maps` is False: the image comes in as one vector, so that pooled features are enough.
    """

    needs_maps = False

    def __init__(self, classes: int, embedding: int, units: int) -> None:
        super().__init__()
        self.classes = classes
        self.embedding = nn.Embedding(classes + 2, embedding)
        self.lstm = nn.LSTM(embedding, units, batch_first=True)

    def start(self, image: Tensor) -> State:
        """The state before the first word, of vectors [B, D]: hidden and cell state [B, units], and what stays."""
        raise NotImplementedError

    def output(self, hidden: Tensor, state: State) -> Tensor:
        """Logits [B, T, C + 1] of hidden states [B, T, units]."""
        raise NotImplementedError

    def forward(self, words: Tensor, state: State) -> tuple[Tensor, State]:
        """Logits [B, T, C + 1] of what follows each of `words` int64 [B, T], and the state after the last."""
        hidden, cell, *rest = state
        states, (hidden, cell) = self.lstm(self.embedding(words), (hidden[None].contiguous(), cell[None].contiguous()))
        return self.output(states, state), (hidden[0], cell[0], *rest)

    def teach(self, state: State, targets: Tensor) -> Tensor:
        """Logits [B, T, C + 1] at each place of `targets` [B, T], the true words before it being given."""
        start = torch.full_like(targets[:, :1], self.classes + 1)
        before = torch.cat([start, targets[:, :-1]], dim=1)
        return self(before.masked_fill(before == IGNORED, self.classes), state)[0]

    def run_free(self, state: State, places: int) -> Tensor:
        """Logits [B, places, C + 1], each word being the most probable after its own words before (no beam)."""
        words = torch.full((len(state[0]), 1), self.classes + 1, device=state[0].device)
        found = []
        for _ in range(places):
            logits, state = self(words, state)
            found.append(logits)
            words = logits.detach().argmax(dim=2)
        return torch.cat(found, dim=1)

    def step(self, words: Tensor, state: State) -> tuple[Tensor, State]:
        """As the beam search wants it: log-probabilities [N, C + 1] of what follows `words` [N]."""
        logits, state = self(words[:, None], state)
        return logits[:, 0].float().log_softmax(dim=1), state


class JointDecoder(Decoder):
    """Words, hidden state and image in one space: ``x_t = relu(U_o o_t + U_I I)``, scores ``U_l^T x_t``.

    The embedding U_l of the words is the output layer too. Source: Wang et al., CVPR 2016.
    """

    def __init__(self, channels: int, classes: int, embedding: int, units: int) -> None:
        super().__init__(classes, embedding, units)
        self.word = nn.Linear(units, embedding, bias=False)
        self.image = nn.Linear(channels, embedding)

    def start(self, image: Tensor) -> State:
        zeros = image.new_zeros(len(image), self.lstm.hidden_size)
        return zeros, zeros, self.image(image)

    def output(self, hidden: Tensor, state: State) -> Tensor:
        joint = functional.relu(self.word(hidden) + state[2][:, None])
        return functional.linear(joint, self.embedding.weight[: self.classes + 1])


class StateDecoder(Decoder):
    """The image is where the LSTM starts: ``h_0 = W v`` and ``c_0 = 0``, or with `cell` ``c_0 = W' v``.

    Source: Liu et al., CVPR 2017, in the form of public ports of it; with `cell`, Yazici et al., CVPR 2020.
    """

    def __init__(self, inputs: int, classes: int, embedding: int, units: int, cell: bool = False) -> None:
        super().__init__(classes, embedding, units)
        self.hidden = nn.Linear(inputs, units)
        self.cell = nn.Linear(inputs, units) if cell else None
        self.label = nn.Linear(units, classes + 1)

    def start(self, image: Tensor) -> State:
        hidden = self.hidden(image)
        return hidden, torch.zeros_like(hidden) if self.cell is None else self.cell(image)

    def output(self, hidden: Tensor, state: State) -> Tensor:
        return self.label(hidden)
