"""`vlpl`: its entries, which labels it takes from the scores; and `vl_zero_shot`, the scores as they are."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from loss_checks import TYPES, all_cases, assert_follows_naive, assert_gradient_is_numerical
from numpy_losses import NEGATIVE, POSITIVE, UNKNOWN, UNSPECIFIED, batch
from sklearn.metrics import average_precision_score

from mlbench.annotation import State
from mlbench.baselines.entropy import em
from mlbench.baselines.vlpl import class_shares, vlpl
from mlbench.conformance.testing import tiny_dataset, tiny_vl_scores
from mlbench.errors import UsageError
from mlbench.evaluation.predictions import read_predictions
from mlbench.runner.vl_scores import read_vl_scores, write_vl_scores
from mlbench.store import run_dir


def some(observed) -> torch.Tensor:
    """Pseudo-positives spread over all states: only those on unknown labels may count."""
    return torch.tensor(np.arange(np.size(observed)).reshape(np.shape(observed)) % 3 == 0)


def naive(x, observed, pseudo, alpha, beta=0.7, share=0.9, eps=0.0):
    """The published formula as it is written."""
    p, q = torch.sigmoid(x), torch.sigmoid(-x)
    positive, negative = -torch.log(p + eps), -torch.log(q + eps)
    entropy = p * positive + q * negative
    entries = torch.where(pseudo, beta * (share * positive + (1 - share) * negative), -alpha * entropy)
    entries = torch.where(observed == POSITIVE, positive, entries)
    entries = torch.where(observed == NEGATIVE, negative, entries)
    return torch.where(observed == UNSPECIFIED, 0.0 * x, entries)


@pytest.mark.parametrize(("dtype", "tolerance"), TYPES)
@pytest.mark.parametrize(
    "settings", [{"alpha": 0.2}, {"alpha": 0.01, "eps": 1e-5}, {"alpha": 0, "beta": 2, "share": 1}]
)
def test_it_follows_the_formula(dtype, tolerance, settings):
    for logits, observed in all_cases():
        pseudo = some(observed)
        assert_follows_naive(
            lambda x, y, pseudo=pseudo, **k: vlpl(x, y, pseudo=pseudo, **settings, **k),
            lambda x, y, pseudo=pseudo: naive(x, y, pseudo, **settings),
            logits,
            observed,
            dtype,
            tolerance,
        )


def test_its_gradient_is_numerical():
    logits, observed = batch(4, 6, seed=3)
    assert_gradient_is_numerical(lambda x, y: vlpl(x, y, pseudo=some(observed), alpha=0.2), logits, observed)


def test_entries_by_hand():
    """p = 3/4: observed positive and negative, pseudo-positive, other unknown label, one to be ignored."""
    x = torch.full((1, 5), math.log(3), dtype=torch.float64)
    observed = torch.tensor([[POSITIVE, NEGATIVE, UNKNOWN, UNKNOWN, UNSPECIFIED]])
    pseudo = torch.tensor([[True, True, True, False, True]])
    yes, no = -math.log(3 / 4), -math.log(1 / 4)
    wanted = [yes, no, 0.7 * (0.9 * yes + 0.1 * no), -0.2 * (0.75 * yes + 0.25 * no), 0.0]
    found = vlpl(x, observed, pseudo=pseudo, alpha=0.2, reduction="none")
    np.testing.assert_allclose(found[0].numpy(), wanted, rtol=1e-12)


def test_without_pseudo_labels_it_is_entropy_maximisation():
    logits, observed = (torch.tensor(part) for part in batch(16, 20, seed=1))
    none = torch.zeros(observed.shape, dtype=torch.bool)
    for eps in (0.0, 1e-5):
        assert torch.equal(
            vlpl(logits, observed, pseudo=none, alpha=0.2, eps=eps), em(logits, observed, alpha=0.2, eps=eps)
        )


def test_what_it_cannot_take_is_refused():
    x, y, pseudo = torch.zeros(2, 3), torch.zeros(2, 3, dtype=torch.int8), torch.zeros(2, 3, dtype=torch.bool)
    with pytest.raises(UsageError, match="alpha = nan: expected a finite number"):
        vlpl(x, y, pseudo=pseudo, alpha=math.nan)
    with pytest.raises(UsageError, match="beta = inf: expected a finite number"):
        vlpl(x, y, pseudo=pseudo, alpha=0.1, beta=math.inf)
    with pytest.raises(UsageError, match=r"share = 1\.5: expected a number from 0 to 1"):
        vlpl(x, y, pseudo=pseudo, alpha=0.1, share=1.5)
    for wrong in (pseudo.float(), pseudo[:1]):
        with pytest.raises(UsageError, match=r"vlpl: pseudo is torch\..*expected bool \[2, 3\]"):
            vlpl(x, y, pseudo=wrong, alpha=0.1)


def test_cosines_become_shares_by_a_softmax_and_shares_stay():
    cosines = torch.tensor([[0.21, 0.20, 0.10], [-0.5, -0.5, -0.5]], dtype=torch.float64)
    ratios = [math.exp(1), 1.0, math.exp(-10)]
    found = class_shares(cosines, "cosine", 0.01)
    np.testing.assert_allclose(found[0].numpy(), np.array(ratios) / sum(ratios), rtol=1e-12)
    np.testing.assert_allclose(found[1].numpy(), 1 / 3, rtol=1e-12)
    for values in ("softmax", "probability"):
        assert class_shares(cosines, values) is cosines


def pseudo_entries(record, epoch: int = 0) -> int:
    return record["epochs"][epoch]["forensics"]["corrected"]["entries"]


def test_a_run_takes_the_unknown_labels_whose_share_passes_the_threshold(train, tmp_path):
    """As many as the file says, judged against the hidden truth; none while warming up."""
    data = tiny_dataset()
    tiny_vl_scores(tmp_path / "scores.safetensors")
    scores = read_vl_scores(tmp_path / "scores.safetensors", data).of("train")
    record = train("vlpl", changes={"warmup": 1})
    from mlbench.annotation import load_mask

    observed = load_mask(run_dir(tmp_path / "runs", record["key"]) / "mask.safetensors").observed
    wanted = ((scores > 0.3) & (observed == State.UNKNOWN)).sum()
    assert 0 < wanted < observed.size / 2
    assert pseudo_entries(record, 1) == wanted
    assert pseudo_entries(record, 0) == 0


def test_cosines_and_their_softmax_are_one_run_but_for_what_they_say(train, tmp_path):
    data = tiny_dataset()
    ids = [sample for split in data.splits.values() for sample in split.ids]
    cosines = np.random.default_rng(0).uniform(0.1, 0.3, (len(ids), len(data.classes))).astype(np.float32)
    shares = class_shares(torch.tensor(cosines), "cosine", 0.01).numpy()
    found = []
    for values, numbers in (("cosine", cosines), ("softmax", shares)):
        path = tmp_path / f"{values}.safetensors"
        about = {"model": "none: noise", "prompt": "none", "crop": "none", "values": values}
        write_vl_scores(path, numbers, ids, data.classes, about)
        found.append(train("vlpl", side={"vl_scores": path}))
    assert found[0]["key"] != found[1]["key"]
    assert found[0]["results"] == found[1]["results"]


def test_the_zero_shot_row_is_the_file(train, tmp_path):
    data = tiny_dataset()
    record = train("vl_zero_shot")
    tiny_vl_scores(tmp_path / "scores.safetensors")
    scores = read_vl_scores(tmp_path / "scores.safetensors", data).of("test")
    kept = read_predictions(run_dir(tmp_path / "runs", record["key"]) / "test.safetensors")
    np.testing.assert_array_equal(kept.scores, scores)
    assert kept.kind == "rank"
    truth = data.splits["test"].labels == State.POSITIVE
    wanted = np.mean([average_precision_score(truth[:, c], scores[:, c]) for c in range(len(data.classes))])
    assert record["results"]["test"]["mAP"] == pytest.approx(100 * wanted)
    assert record["supervision"]["observed_labels"] == 0


def test_the_zero_shot_row_is_the_same_for_every_mask(tiny_request):
    from mlbench.runner.plan import resolve

    assert resolve(tiny_request("vl_zero_shot", mask_seed=3)).key == resolve(tiny_request("vl_zero_shot")).key
