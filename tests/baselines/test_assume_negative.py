"""`an` against plain numpy, and `an_boostlu_inference`: the same weights, other maps."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from numpy_losses import UNKNOWN, assumed_entries, batch
from safetensors.torch import load_file

from mlbench.baselines.assume_negative import an
from mlbench.conformance.testing import tiny_dataset
from mlbench.errors import UsageError
from mlbench.evaluation.predictions import read_predictions
from mlbench.models.heads import boostlu
from mlbench.models.scenes_net import ScenesNet
from mlbench.registry import load_method
from mlbench.runner.execute import Options, run
from mlbench.runner.plan import Request
from mlbench.store import read_record, run_dir

CHANGES = {"train.batch_size": 11, "train.image_size": 64, "train.lr": 1e-3}


def test_single_positive_labels_give_one_positive_term_and_the_rest_negative():
    logits, _ = batch(16, 20, seed=6)
    observed = np.zeros((16, 20), dtype=np.int8)
    observed[np.arange(15), np.arange(15)] = 1  # the last image has no positive at all
    wanted = sum(np.logaddexp(0, logits[i]).sum() for i in range(16)) - np.trace(logits[:15, :15])
    found = an(torch.tensor(logits), torch.tensor(observed))
    assert found.item() == pytest.approx(wanted / 320, rel=1e-10)


@pytest.mark.parametrize("eps", [0.0, 1e-5])
def test_batch_of_one_keeps_its_axes(eps):
    logits = np.array([[50.0, -50.0, 0.5]])
    observed = np.array([[UNKNOWN, UNKNOWN, 1]], dtype=np.int8)
    entries = an(torch.tensor(logits), torch.tensor(observed), eps=eps, reduction="none")
    assert entries.shape == (1, 3)
    np.testing.assert_allclose(entries.numpy(), assumed_entries(logits, observed, eps), rtol=1e-10, atol=1e-14)


def test_mean_over_batches_of_unequal_size_weighted_by_rows_is_the_mean_of_all():
    logits, observed = (torch.tensor(part) for part in batch(35, 4, seed=2))
    parts = [slice(0, 16), slice(16, 32), slice(32, 35)]
    joined = sum(an(logits[part], observed[part]) * len(logits[part]) for part in parts) / 35
    assert joined.item() == pytest.approx(an(logits, observed).item(), rel=1e-12)


def test_boostlu_with_alpha_one_leaves_the_maps_alone_bit_for_bit():
    maps = torch.randn(2, 3, 4, 4)
    assert torch.equal(boostlu(maps, 1.0), maps)


# -- BoostLU in inference only ----------------------------------------------------------------------------------


@dataclasses.dataclass
class Bench:
    """A store in which `an_boostlu_inference` ran once, and so `an` too."""

    store: object
    request: Request

    def run(self, **changes):
        request = dataclasses.replace(self.request, changes=CHANGES | changes)
        return run(request, Options(store=self.store, device="cpu", quiet=True))

    def scores(self, record):
        return read_predictions(run_dir(self.store, record["key"]) / "test.safetensors").scores

    def used(self, record):
        return read_record(run_dir(self.store, record["identity"]["uses"]["trained"]) / "record.json")


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    dataset = tiny_dataset()
    request = Request("single_positive", "an_boostlu_inference", dataset, backbone="scenes", track="full", epochs=2)
    found = Bench(tmp_path_factory.mktemp("store"), request)
    found.run()
    return found


def by_hand(weights, images, alpha):
    """Logits in numpy: the trunk's maps, one weighted sum a position, BoostLU, then the mean over positions."""
    trunk = ScenesNet()
    own = "backbone.scenes."
    trunk.load_state_dict({name.removeprefix(own): v for name, v in weights.items() if name.startswith(own)})
    pixels = torch.tensor((images.transpose(0, 3, 1, 2) / 255 - 0.5) / 0.25, dtype=torch.float64)
    with torch.no_grad():
        features = trunk.double()(pixels).numpy()
    weight, bias = weights["head.weight"].double().numpy(), weights["head.bias"].double().numpy()
    maps = np.tensordot(weight, features, axes=(1, 1)).transpose(1, 0, 2, 3) + bias[None, :, None, None]
    return np.where(maps > 0, alpha * maps, maps).mean(axis=(2, 3))


def test_predictions_are_boostlu_by_hand_on_the_network_of_an(bench):
    record = bench.run()
    trained = bench.used(record)
    images = bench.request.dataset.splits["test"].images.array
    weights = load_file(run_dir(bench.store, trained["key"]) / "weights.safetensors")
    np.testing.assert_allclose(bench.scores(trained), by_hand(weights, images, 1.0), atol=1e-5)
    np.testing.assert_allclose(bench.scores(record), by_hand(weights, images, 5.0), atol=1e-5)
    assert np.abs(bench.scores(record) - bench.scores(trained)).max() > 1e-2


def test_run_uses_an_by_key_and_trains_nothing(bench):
    record = bench.run()
    trained = bench.used(record)
    assert trained["identity"]["method"]["name"] == "an"
    assert trained["identity"]["method"]["hyperparameters"] == {"head.alpha_train": 1.0, "head.alpha_infer": 1.0}
    for part in ("protocol_sha256", "dataset", "mask", "split", "repetition", "backbone", "train"):
        assert trained["identity"][part] == record["identity"][part]
    assert record["identity"]["method"]["hyperparameters"] == {"head.alpha_train": 1.0, "head.alpha_infer": 5.0}
    assert (len(trained["epochs"]), len(record["epochs"])) == (2, 0)
    kept = [load_file(run_dir(bench.store, r["key"]) / "weights.safetensors") for r in (trained, record)]
    assert kept[0].keys() == kept[1].keys()
    assert all(torch.equal(kept[0][name], kept[1][name]) for name in kept[0])


def test_another_alpha_reuses_the_same_training_and_alpha_one_gives_an_bit_for_bit(bench):
    trained = bench.used(bench.run())
    file = run_dir(bench.store, trained["key"]) / "record.json"
    before = file.stat().st_mtime_ns
    plain = bench.run(**{"head.alpha_infer": 1.0})
    assert plain["key"] != bench.run()["key"]
    assert plain["identity"]["uses"]["trained"] == trained["key"]
    assert file.stat().st_mtime_ns == before
    np.testing.assert_array_equal(bench.scores(plain), bench.scores(trained))


@pytest.mark.parametrize("name", ["head.alpha_train", "head.alpha"])
def test_alpha_in_training_is_refused_since_nothing_is_trained(name):
    with pytest.raises(UsageError, match="nothing is trained here"):
        load_method("an_boostlu_inference").resolve({name: 5.0})
