"""The beam search finds what enumerating all label sequences finds, ties and lengths included."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from mlbench.baselines.beam import PAD, beam_search, on_best_path
from mlbench.errors import UsageError


class Table:
    """A model in which the next word depends on all words before, by a table of log-probabilities for each image.

    A word sequence is a number in base C + 2; the state is that number, and the image's number beside it.
    """

    def __init__(self, logits: np.ndarray) -> None:
        self.log_probs = torch.from_numpy(logits)
        self.words = logits.shape[2] + 1  # C + 2

    @classmethod
    def random(cls, images: int, classes: int, seed: int, largest: float = 3.0) -> Table:
        random = np.random.RandomState(seed)
        logits = random.uniform(-largest, largest, (images, (classes + 2) ** (classes + 1), classes + 1))
        return cls(logits - np.logaddexp.reduce(logits, axis=2, keepdims=True))

    def start(self):
        return torch.arange(len(self.log_probs)), torch.zeros(len(self.log_probs), dtype=torch.int64)

    def step(self, words, state):
        image, code = state
        classes = self.words - 2
        code = torch.where(words > classes, torch.zeros_like(code), code * self.words + words + 1)
        return self.log_probs[image, code], (image, code)

    def enumerate(self, image: int, least: int, most: int):
        """All sequences as (labels, log-probability), and all beginnings that a sequence of `most` labels may have."""
        table, classes, complete, beginnings = self.log_probs[image].numpy(), self.words - 2, [], []
        for length in range(most + 1):
            for labels in itertools.permutations(range(classes), length):
                code, total = 0, 0.0
                for label in labels:
                    total = total + table[code, label]
                    code = code * self.words + label + 1
                if labels:
                    beginnings.append((labels, total))
                if length >= least:
                    complete.append((labels, total + table[code, classes]))
        return sorted(complete, key=lambda item: (-item[1], len(item[0]), item[0])), beginnings


def found(beam, image):
    """The sequences of an image as tuples, those that do not exist left out."""
    rows = zip(beam.labels[image].tolist(), beam.log_prob[image].tolist(), strict=True)
    return [(tuple(label for label in row if label != PAD), value) for row, value in rows if value > -math.inf]


def assert_same(ours, expected):
    assert [labels for labels, _ in ours] == [labels for labels, _ in expected]
    np.testing.assert_allclose([v for _, v in ours], [v for _, v in expected], rtol=1e-12)


@pytest.mark.parametrize(("least", "most"), [(0, 3), (0, 2), (1, 3), (2, 2), (3, 3), (0, 0)])
def test_a_wide_beam_is_the_enumeration(least, most):
    table = Table.random(5, 3, seed=least + 7 * most)
    beam = beam_search(table.step, table.start(), 3, width=16, min_length=least, max_length=most)
    for image in range(5):
        complete, beginnings = table.enumerate(image, least, most)
        assert_same(found(beam, image), complete)
        for label in range(3):
            ending = [value for labels, value in beginnings if labels[-1] == label]
            assert beam.best[image, label].item() == pytest.approx(max(ending, default=-math.inf))
            total = np.logaddexp.reduce(ending) if ending else -math.inf
            assert beam.marginal[image, label].item() == pytest.approx(total)


def narrow_search(table, image, width, least, most):
    """The same search without tensors: beginnings in a list, the best `width` kept, nothing dropped early."""
    log_probs, classes = table.log_probs[image].numpy(), table.words - 2
    live, ended = [((), 0, 0.0)], []
    for place in range(most + 1):
        if place >= least:
            ended += [(labels, value + log_probs[code, classes]) for labels, code, value in live]
        further = [
            ((*labels, c), code * table.words + c + 1, value + log_probs[code, c])
            for labels, code, value in live
            for c in range(classes)
            if c not in labels
        ]
        live = sorted(further, key=lambda item: (-item[2], item[0]))[:width]
    return sorted(ended, key=lambda item: (-item[1], len(item[0]), item[0]))[:width]


@pytest.mark.parametrize("width", [1, 2, 3, 5])
@pytest.mark.parametrize(("least", "most"), [(0, 4), (2, 3), (0, 1)])
def test_a_narrow_beam_is_the_plain_search(width, least, most):
    table = Table.random(12, 4, seed=width)
    beam = beam_search(table.step, table.start(), 4, width=width, min_length=least, max_length=most)
    for image in range(12):
        assert_same(found(beam, image), narrow_search(table, image, width, least, most))


def test_a_greedy_beam_can_miss_the_best_sequence_and_a_wider_one_finds_it():
    p = np.full((1, 4**3, 3), 1e-9)
    p[0, 0] = [0.6, 0.4, 1e-9]  # label 0 first: but what follows it is uncertain
    p[0, 1] = [1e-9, 0.5, 0.5]
    p[0, 2] = [1e-9, 1e-9, 1.0]
    table = Table(np.log(p))
    assert found(beam_search(table.step, table.start(), 2, width=1), 0)[0][0] == (0,)
    best = found(beam_search(table.step, table.start(), 2, width=2), 0)[0]
    assert best == ((1,), pytest.approx(math.log(0.4)))


@pytest.mark.parametrize("width", [1, 2, 4, 20])
def test_ties_go_to_fewer_labels_and_then_to_the_lower_class_index(width):
    table = Table(np.full((2, 5**4, 4), -2.0))
    beam = beam_search(table.step, table.start(), 3, width=width)
    complete, _ = table.enumerate(0, 0, 3)
    expected = complete if width == 20 else narrow_search(table, 0, width, 0, 3)
    for image in range(2):
        assert found(beam, image) == expected[:width]
    # Equal log-probabilities after different beginnings: -1 - 2 as well as -2 - 1.
    uneven = np.full((1, 5**4, 4), -9.0)
    uneven[0, 0] = [-2.0, -1.0, -9.0, -9.0]
    uneven[0, 1] = [-9.0, -9.0, -1.0, -9.0]
    uneven[0, 2] = [-9.0, -9.0, -2.0, -9.0]
    ending = np.array([5 * 1 + 3, 5 * 2 + 3])
    uneven[0, ending, 3] = 0.0
    table = Table(uneven)
    beam = beam_search(table.step, table.start(), 3, width=2, min_length=2)
    assert found(beam, 0) == [((0, 2), -3.0), ((1, 2), -3.0)]


def test_an_image_does_not_depend_on_its_batch():
    table = Table.random(9, 4, seed=3, largest=6.0)
    whole = beam_search(table.step, table.start(), 4, width=3)
    for image in range(9):
        state = tuple(part[image : image + 1] for part in table.start())
        alone = beam_search(table.step, state, 4, width=3)
        assert found(alone, 0) == found(whole, image)
        for name in ("best", "marginal"):
            assert torch.equal(getattr(alone, name)[0], getattr(whole, name)[image])


@pytest.mark.parametrize("size", [50.0, 1000.0])
def test_extreme_logits_leave_every_score_finite(size):
    logits = np.random.RandomState(0).choice([-size, size], (6, 6**5, 5))
    table = Table(logits - np.logaddexp.reduce(logits, axis=2, keepdims=True))
    beam = beam_search(table.step, table.start(), 4, width=2)
    assert torch.isfinite(beam.best).all()
    assert torch.isfinite(beam.marginal).all()
    assert (beam.marginal >= beam.best - 1e-9).all()
    assert (beam.marginal <= 1e-9).all()
    assert torch.isfinite(beam.log_prob[:, 0]).all()


def test_labels_of_the_best_path_are_marked():
    table = Table.random(7, 3, seed=1)
    beam = beam_search(table.step, table.start(), 3, width=16)
    marks = on_best_path(beam, 3)
    for image in range(7):
        assert set(np.flatnonzero(marks[image]).tolist()) == set(found(beam, image)[0][0])
    beam = beam_search(table.step, table.start(), 3, width=2, max_length=0)
    assert not on_best_path(beam, 3).any()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"width": 0}, "width = 0"),
        ({"width": 1, "min_length": 4}, "4 to 3 labels out of 3"),
        ({"width": 1, "max_length": 4}, "0 to 4 labels out of 3"),
        ({"width": 1, "min_length": 2, "max_length": 1}, "2 to 1 labels"),
        ({"width": 1, "min_length": -1}, "-1 to 3"),
    ],
)
def test_searches_that_cannot_be_are_refused(settings, message):
    table = Table.random(1, 3, seed=0)
    with pytest.raises(UsageError, match=message):
        beam_search(table.step, table.start(), 3, **settings)
