"""`KEY_boostlu`: a method with BoostLU, otherwise itself."""

from __future__ import annotations

import numpy as np
import pytest

from mlbench.baselines.boostlu import with_boostlu
from mlbench.evaluation.predictions import read_predictions
from mlbench.registry import available, load_method
from mlbench.runner.plan import resolve
from mlbench.store import run_dir

KEYS = ["full", "an", "ls", "wan", "iu", "iun", "epr", "focal", "asl", "role", "role_li", "em", "em_apl"]
KEYS += ["llr", "llct", "llcp"]
ALPHAS = {"head.alpha_train": 5.0, "head.alpha_infer": 5.0}


@pytest.mark.parametrize("key", KEYS)
def test_every_loss_of_the_table_has_a_preset_that_differs_by_its_head_alone(key):
    plain, boosted = load_method(key), load_method(f"{key}_boostlu")
    assert boosted.resolve({}) == plain.resolve({}) | ALPHAS
    assert boosted.resolve({"head.alpha": 1.0}) == plain.resolve({})
    for name in ("version", "tracks", "supervision", "batch_global", "reduction", "scores", "loss", "training_step"):
        assert getattr(boosted, name) == getattr(plain, name)
    title = plain.__doc__.splitlines()[0]
    assert boosted.__doc__.startswith(f"{title.rstrip('.')}, with BoostLU (alpha 5).\n")


def test_no_preset_is_without_its_method():
    presets = [name for name in available() if name.endswith("_boostlu")]
    assert set(presets) >= {f"{key}_boostlu" for key in KEYS}
    assert {name.removesuffix("_boostlu") for name in presets} <= set(available())


@pytest.mark.parametrize("track", ["head", "full"])
def test_settings_of_the_method_hold_unless_the_preset_has_its_own(track):
    for dataset in ("voc2012", "cub", "scenes"):
        assert load_method("em_boostlu").settings_for(dataset, track) == load_method("em").settings_for(dataset, track)
    assert load_method("em_boostlu").settings_for("voc2012", track)["alpha"] == 0.2
    assert load_method("an_boostlu").settings_for("corel5k-199", "head") == {"train.lr": 0.001}
    assert load_method("llr_boostlu").settings_for("corel5k-199", "head") == {"train.lr": 0.003, "delta": 0.2}


def test_a_preset_trains_as_its_method_does_with_that_alpha(train, tmp_path):
    records = train("ls", changes={"head.alpha": 5.0}), train("ls_boostlu")
    hyper = [record["identity"]["method"]["hyperparameters"] for record in records]
    assert hyper[0] == hyper[1]
    assert [row["loss"] for row in records[0]["epochs"]] == [row["loss"] for row in records[1]["epochs"]]
    folders = [run_dir(tmp_path / "runs", record["key"]) for record in records]
    scores = [read_predictions(folder / "test.safetensors").scores for folder in folders]
    np.testing.assert_array_equal(*scores)


def test_what_keys_and_recorded_runs_of_a_preset_are_made_of_has_not_moved(tiny_request):
    identity = resolve(tiny_request("llr_boostlu")).identity["method"]
    assert identity == {
        "name": "llr_boostlu",
        "version": 1,
        "hyperparameters": {"delta": 0.5, **ALPHAS},
        "supervision": ["observed"],
    }


def test_a_preset_of_a_method_of_ones_own():
    class Mine(load_method("an")):
        """My title.

        Source: here.
        """

    preset = with_boostlu(Mine)
    assert preset.__doc__.startswith("My title, with BoostLU (alpha 5).\n")
    assert preset.__module__ == Mine.__module__
    assert issubclass(preset, Mine)
