"""`curriculum`: which labels are added, when, and that rounds survive a stop and a second process."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mlbench.annotation import State
from mlbench.baselines.curriculum import STRATEGIES, dropout_factors, easy_labels, round_epochs
from mlbench.conformance.suite import compare, read_course, run_with_stops
from mlbench.errors import MlbenchError, UsageError
from mlbench.methods.labels import LabelStore
from mlbench.runner.loop import PhaseLoop

#: Settings under which every strategy adds labels on the tiny data set within two epochs a round.
EASY = {"threshold": 0.02, "share": 0.5, "max_spread": 0.03, "members": 2, "passes": 3, "train.epochs": 8}


def naive(logits, candidates, strategy, threshold, share, spread, max_spread):
    """One entry at a time."""
    found = np.zeros(logits.shape, dtype=np.int8)
    places = [tuple(place) for place in np.argwhere(candidates)]
    kept = sorted(places, key=lambda place: -abs(logits[place]))[: int(round(share * len(places), 9))]
    for place in places:
        x = logits[place]
        easy = {
            "score": abs(x) > threshold,
            "ensemble": abs(x) > threshold,
            "positives": x > threshold,
            "proportion": place in kept,
            "uncertainty": spread[place] < max_spread,
        }[strategy]
        if easy:
            found[place] = 1 if x > 0 else -1
    return found


@pytest.mark.parametrize("share", [0.0, 0.29, 0.8, 1.0])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_easy_labels_are_those_found_one_by_one(strategy, share):
    random = np.random.RandomState(1)
    logits = random.uniform(-6, 6, (9, 7)).round(1)  # ties
    logits[0], logits[1] = 0.0, [50.0, -50.0, 2.0, -2.0, 2.0, 0.0, -0.0]
    candidates, spread = random.rand(9, 7) < 0.6, random.rand(9, 7)
    wanted = naive(logits, candidates, strategy, 2.0, share, spread, 0.4)
    found = easy_labels(
        torch.tensor(logits),
        torch.tensor(candidates),
        strategy=strategy,
        share=share,
        spread=torch.tensor(spread),
        max_spread=0.4,
    )
    assert found.dtype == torch.int8
    assert found.tolist() == wanted.tolist()


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_nothing_is_added_without_candidates(strategy):
    none = torch.zeros(3, 4, dtype=torch.bool)
    assert not easy_labels(torch.full((3, 4), 9.0), none, strategy=strategy, spread=torch.zeros(3, 4)).any()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"strategy": "scores"}, "Did you mean 'score'"),
        ({"share": 1.1}, "share"),
        ({"threshold": -1.0}, "threshold"),
        ({"strategy": "uncertainty"}, "spread"),
    ],
)
def test_impossible_settings_are_refused(wrong, said):
    with pytest.raises(UsageError, match=said):
        easy_labels(torch.zeros(1, 2), torch.ones(1, 2, dtype=torch.bool), **wrong)


def test_dropout_depends_on_the_row_and_not_on_its_company():
    rows = torch.tensor([4, 900, 17])
    factors = dropout_factors(rows, 4000, 0.25, seed=5)
    assert factors.unique().tolist() == pytest.approx([0.0, 4 / 3])
    assert (factors == 0).float().mean().item() == pytest.approx(0.25, abs=0.02)
    assert torch.equal(dropout_factors(rows[1:2], 4000, 0.25, seed=5)[0], factors[1])
    assert not torch.equal(dropout_factors(rows, 4000, 0.25, seed=6), factors)
    assert torch.equal(dropout_factors(rows, 8, 0.0, seed=5), torch.ones(3, 8))


@pytest.mark.parametrize(
    ("epochs", "rounds", "wanted"), [(20, 3, [10, 5, 5]), (25, 3, [13, 6, 6]), (7, 1, [7]), (2, 3, [1, 1, 1])]
)
def test_the_first_round_is_the_longest(epochs, rounds, wanted):
    assert round_epochs(epochs, rounds) == wanted


def watch(monkeypatch):
    """(phase, epoch, state after the epoch) of each epoch, and what was applied with the epoch's weights."""
    seen = []
    plain = PhaseLoop.run_epoch

    def watched(self, *arguments):
        row = plain(self, *arguments)
        seen.append((self.phase.name, self.position.epoch, self.task.labels.state.copy(), self.task.labels.observed))
        return row

    monkeypatch.setattr(PhaseLoop, "run_epoch", watched)
    return seen


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_labels_change_at_the_end_of_a_round_only_and_only_unknown_ones(train, monkeypatch, strategy):
    seen = watch(monkeypatch)
    train("curriculum", changes={**EASY, "strategy": strategy})
    assert [(phase, epoch) for phase, epoch, *_ in seen] == [
        *(("round1", epoch) for epoch in range(1, 5)),
        *(("round2", epoch) for epoch in (1, 2)),
        *(("round3", epoch) for epoch in (1, 2)),
    ]
    states = [state for _, _, state, _ in seen]
    observed = seen[0][-1]
    for number, state in enumerate(states):
        known = observed != State.UNKNOWN
        assert (state[known] == observed[known]).all()
        if number < 3:
            assert (state == observed).all(), "nothing is added within the first round"
    added = states[3] != observed
    assert added.any()
    assert (states[3] == states[4]).all()
    assert (states[5] == states[7]).all(), "the last round adds nothing"
    if strategy == "positives":
        assert (states[5][added] != State.NEGATIVE).all()
    if strategy == "proportion":
        unknown = int((observed == State.UNKNOWN).sum())
        assert [int((states[number] != observed).sum()) for number in (3, 5)] == [unknown // 2] * 2


def test_a_round_starts_from_the_last_weights_of_the_one_before_with_a_new_optimiser(train, monkeypatch):
    ends, starts = {}, {}
    plain = PhaseLoop.run_epoch

    def watched(self, *arguments):
        if self.position.epoch == 1:
            assert not self.optimizer.state
            starts[self.phase.name] = self.network.head.weight.detach().clone()
        row = plain(self, *arguments)
        ends[self.phase.name] = self.network.head.weight.detach().clone()
        return row

    monkeypatch.setattr(PhaseLoop, "run_epoch", watched)
    record = train("curriculum", changes={"train.epochs": 8})
    assert torch.equal(starts["round2"], ends["round1"])
    assert torch.equal(starts["round3"], ends["round2"])
    assert record["selected"]["phase"] == "round3"


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_stopped_again_and_again_it_reaches_the_same_bits(train, tiny_request, tmp_path, strategy):
    changes = {**EASY, "strategy": strategy}
    whole = train("curriculum", changes=changes)
    course, stops = run_with_stops(tiny_request("curriculum", changes=changes), tmp_path / "stopped", 2)
    assert stops > 8
    compare(read_course(tmp_path / "runs", whole), course, 0.0)


def test_forgetting_the_added_labels_would_be_seen(train, tiny_request, tmp_path, monkeypatch):
    whole = train("curriculum", changes=EASY)
    monkeypatch.setattr(LabelStore, "load_state_dict", lambda self, saved: None)
    course, _ = run_with_stops(tiny_request("curriculum", changes=EASY), tmp_path / "stopped", 7)
    with pytest.raises(MlbenchError, match="differ"):
        compare(read_course(tmp_path / "runs", whole), course, 0.0)
