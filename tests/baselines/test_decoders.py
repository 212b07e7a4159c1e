"""What label sequences are trained with: targets, their alignment, their loss, and the two decoders' formulas."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from mlbench.baselines.beam import beam_search
from mlbench.baselines.decoders import (
    IGNORED,
    JointDecoder,
    StateDecoder,
    label_sequences,
    predicted_label_alignment,
    sequence_loss,
)

DECODERS = [
    lambda: JointDecoder(channels=6, classes=5, embedding=3, units=4),
    lambda: StateDecoder(inputs=6, classes=5, embedding=3, units=4),
    lambda: StateDecoder(inputs=6, classes=5, embedding=3, units=4, cell=True),
]


@pytest.fixture(params=DECODERS)
def decoder(request):
    torch.manual_seed(1)
    return request.param().double()


# -- targets -------------------------------------------------------------------------------------------------------


def test_sequences_follow_the_order_and_end():
    positive = torch.tensor([[1, 0, 1, 1], [0, 0, 0, 0], [0, 1, 0, 0]], dtype=torch.bool)
    order = torch.tensor([2, 3, 0, 1])
    assert label_sequences(positive, order).tolist() == [
        [2, 3, 0, 4],
        [4, IGNORED, IGNORED, IGNORED],
        [1, 4, IGNORED, IGNORED],
    ]


def test_sequences_of_all_of_no_labels_and_of_no_images():
    order = torch.tensor([1, 0])
    assert label_sequences(torch.ones(1, 2, dtype=torch.bool), order).tolist() == [[1, 0, 2]]
    assert label_sequences(torch.zeros(2, 2, dtype=torch.bool), order).tolist() == [[2], [2]]
    assert label_sequences(torch.zeros(0, 2, dtype=torch.bool), order).shape == (0, 1)


def alignment_by_enumeration(log_probs, labels):
    """Labels predicted at one of the first places stay at the first such place; the rest in the likeliest order."""
    places, left, kept = range(len(labels)), list(labels), {}
    for place in places:
        word = int(log_probs[place].argmax())
        if word in left:
            left.remove(word)
            kept[place] = word
    free = [place for place in places if place not in kept]
    orders = list(itertools.permutations(left))
    best = max(orders, key=lambda order: sum(log_probs[p, c] for p, c in zip(free, order, strict=True)))
    kept |= dict(zip(free, best, strict=True))
    return [kept[place] for place in places]


def test_alignment_is_the_one_found_by_enumeration():
    random = np.random.RandomState(0)
    classes, images = 6, 60
    positive = random.rand(images, classes) < 0.5
    places = int(positive.sum(axis=1).max()) + 1
    logits = random.randn(images, places, classes + 1)
    log_probs = logits - np.logaddexp.reduce(logits, axis=2, keepdims=True)
    targets = predicted_label_alignment(torch.tensor(log_probs), torch.tensor(positive))
    moved = 0
    for row in range(images):
        labels = np.flatnonzero(positive[row]).tolist()
        expected = alignment_by_enumeration(log_probs[row], labels)
        moved += expected != labels
        padding = [IGNORED] * (places - len(labels) - 1)
        assert targets[row].tolist() == [*expected, classes, *padding]
    assert moved > images / 3


def test_alignment_by_hand():
    # Places 0 and 1 both predict label 2; place 2 predicts the end. Labels 0, 1, 2 are there.
    p = [[0.1, 0.2, 0.6, 0.1], [0.1, 0.3, 0.5, 0.1], [0.2, 0.1, 0.1, 0.6], [0.25] * 4]
    targets = predicted_label_alignment(torch.tensor([p]).log(), torch.tensor([[True, True, True]]))
    assert targets.tolist() == [[2, 1, 0, 3]]


def test_an_aligned_sequence_is_never_less_likely_than_one_in_class_order_where_nothing_is_predicted():
    torch.manual_seed(0)
    log_probs = torch.randn(20, 5, 5).log_softmax(2)
    log_probs[:, :, 4] = 9.0  # the end is predicted everywhere: all labels are matched
    positive = torch.rand(20, 4) < 0.7
    aligned = predicted_label_alignment(log_probs, positive)
    plain = padded(label_sequences(positive, torch.arange(4)), 5)

    def likelihood(targets):
        return (log_probs.gather(2, targets.clamp(min=0)[..., None])[..., 0] * (targets >= 0)).sum(dim=1)

    assert (likelihood(aligned) >= likelihood(plain) - 1e-6).all()


def padded(targets, places):
    return torch.nn.functional.pad(targets, (0, places - targets.shape[1]), value=IGNORED)


# -- the loss ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [3.0, 50.0])
def test_loss_is_the_likelihood_of_the_sequences(size):
    random = np.random.RandomState(2)
    logits = random.uniform(-size, size, (3, 3, 4))
    targets = np.array([[1, 0, 3], [3, IGNORED, IGNORED], [2, 3, IGNORED]])
    excluded = np.array([[False, False, True], [True, True, False], [False, False, False]])
    total = 0.0
    for row, place in itertools.product(range(3), range(3)):
        if targets[row, place] != IGNORED:
            open_words = [c for c in range(4) if c == 3 or not excluded[row, c]]
            total -= logits[row, place, targets[row, place]] - np.logaddexp.reduce(logits[row, place, open_words])
    found = sequence_loss(torch.tensor(logits), torch.tensor(targets), torch.tensor(excluded))
    assert found.item() == pytest.approx(total / 3, rel=1e-12)


def test_excluded_labels_and_places_after_the_end_have_no_gradient():
    logits = torch.randn(2, 2, 4, requires_grad=True)
    excluded = torch.tensor([[False, True, False], [False, False, False]])
    sequence_loss(logits, torch.tensor([[0, 3], [3, IGNORED]]), excluded).backward()
    assert torch.isfinite(logits.grad).all()
    assert not logits.grad[0, :, 1].any()
    assert not logits.grad[1, 1].any()
    assert logits.grad[0, :, 0].all()


# -- decoders ------------------------------------------------------------------------------------------------------


def test_true_words_at_once_give_what_they_give_one_by_one(decoder):
    targets = torch.tensor([[2, 0, 5], [4, 5, IGNORED]])
    state = decoder.start(torch.randn(2, 6, dtype=torch.float64))
    whole = decoder.teach(state, targets)
    for row, words in enumerate(([6, 2, 0], [6, 4])):
        at = tuple(part[row : row + 1] for part in state)
        for place, word in enumerate(words):
            log_probs, at = decoder.step(torch.tensor([word]), at)
            np.testing.assert_allclose(
                log_probs[0].detach(), whole[row, place].log_softmax(0).detach(), rtol=1e-5, atol=1e-6
            )


def test_free_running_follows_its_own_most_probable_words(decoder):
    state = decoder.start(torch.randn(3, 6, dtype=torch.float64))
    free = decoder.run_free(state, 4)
    words = free.argmax(dim=2)
    words[words == 5] = IGNORED  # as an input, the end and what is ignored are one
    torch.testing.assert_close(free, decoder.teach(state, words))


def test_search_runs_on_a_decoder_and_its_first_word_counts_every_label(decoder):
    state = decoder.start(torch.randn(4, 6, dtype=torch.float64))
    with torch.no_grad():
        beam = beam_search(decoder.step, state, 5, width=2)
        first, _ = decoder.step(torch.full((4,), 6), state)
    assert (beam.best >= first[:, :5] - 1e-6).all()


def test_joint_decoder_is_the_formula_of_the_paper():
    torch.manual_seed(0)
    decoder = JointDecoder(channels=6, classes=5, embedding=3, units=4)
    image = torch.randn(2, 6)
    logits, (hidden, *_) = decoder(torch.tensor([[6], [2]]), decoder.start(image))
    table = decoder.embedding.weight
    one, _ = decoder.lstm(table[torch.tensor([[6], [2]])])
    torch.testing.assert_close(hidden, one[:, 0])
    joint = (one[:, 0] @ decoder.word.weight.T + image @ decoder.image.weight.T + decoder.image.bias).clamp(min=0)
    torch.testing.assert_close(logits[:, 0], joint @ table[:6].T)


def test_state_decoder_starts_from_its_vector():
    decoder = StateDecoder(inputs=6, classes=5, embedding=3, units=4)
    vector = torch.randn(2, 6)
    hidden, cell = decoder.start(vector)
    torch.testing.assert_close(hidden, vector @ decoder.hidden.weight.T + decoder.hidden.bias)
    assert not cell.any()
    assert StateDecoder(6, 5, 3, 4, cell=True).start(vector)[1].any()
