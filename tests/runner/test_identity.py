"""One key for one meaning; other metric definitions are another run, scored again and not trained again."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlbench.annotation import mask_matters
from mlbench.errors import DataError
from mlbench.evaluation.consistency import contradictions
from mlbench.evaluation.predictions import read_predictions
from mlbench.protocol import load_protocol
from mlbench.runner.plan import resolve
from mlbench.store import find_records, read_record, run_dir, verify_run


@pytest.fixture
def protocol(tmp_path: Path) -> Callable[..., str]:
    """Return a function that writes a protocol on `single_positive` and returns its path."""

    def write(name: str, text: str, base: str = "single_positive") -> str:
        path = tmp_path / f"{name}.toml"
        path.write_text(f'extends = "{base}"\nname = "{name}"\n{text}')
        return str(path)

    return write


ELEVEN = '[metrics]\nap = "eleven_point"\ntop_k = 1\n'


# --- keys -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({"train.lr": 1}, {"train.lr": 1.0}),
        ({"train.weight_decay": 0}, {"train.weight_decay": -0.0}),
        ({"train.epochs": 2}, {"train.epochs": 2.0}),
        ({"train.lr_multipliers": {"head": 1}}, {"train.lr_multipliers": {}}),
        (
            {"train.lr_multipliers": {"head": 2, "backbone": 3}},
            {"train.lr_multipliers": {"backbone": 3.0, "head": 2.0}},
        ),
        ({"head.alpha": 2}, {"head.alpha_train": 2.0, "head.alpha_infer": 2}),
    ],
)
def test_a_number_written_otherwise_is_the_same_run(tiny_request, changes: Any, same: Any) -> None:
    assert resolve(tiny_request("an", changes=changes)).key == resolve(tiny_request("an", changes=same)).key


def test_annotation_parameters_have_their_declared_type(tiny_request) -> None:
    runs = [
        resolve(tiny_request("an", protocol=load_protocol("partial"), changes={"annotation.keep": keep}))
        for keep in (1, 1.0)
    ]
    assert runs[0].key == runs[1].key


@pytest.mark.parametrize(
    ("method", "shipped", "changes", "one"),
    [
        ("full", "single_positive", {}, True),
        ("an", "single_positive", {}, False),
        ("an", "full", {}, True),
        ("an", "partial", {"annotation.keep": 1.0}, True),
        ("an", "partial", {"annotation.keep": 0.5}, False),
        ("prior", "single_positive", {}, False),
    ],
)
def test_a_run_that_sees_no_mask_is_one_run_whatever_the_mask_seed(
    tiny_request, method: str, shipped: str, changes: Any, one: bool
) -> None:
    keys = {
        resolve(tiny_request(method, protocol=load_protocol(shipped), mask_seed=seed, changes=changes)).key
        for seed in range(3)
    }
    assert len(keys) == (1 if one else 3)


def test_full_supervision_sees_the_mask_where_it_selects_the_epoch_or_made_what_is_built_on() -> None:
    seen = {
        (selection, builds): mask_matters("single_positive", {}, ("full",), selection, builds_on_others=builds)
        for selection in ("clean_val", "last", "observed_val")
        for builds in (False, True)
    }
    assert [key for key, matters in seen.items() if not matters] == [("clean_val", False), ("last", False)]
    assert not mask_matters("full", {}, ("observed",), "observed_val", builds_on_others=True)


def test_a_protocol_of_other_definitions_is_another_run_and_one_of_other_prose_is_not_but_for_its_name(
    tiny_request, protocol
) -> None:
    shipped = resolve(tiny_request("an"))
    eleven = resolve(tiny_request("an", protocol=protocol("eleven", ELEVEN)))
    headline = resolve(tiny_request("an", protocol=protocol("headline", '[metrics]\nheadline = "F1-O"\n')))
    assert eleven.identity["definitions"] == {"ap": "eleven_point", "empty_class": "zero", "top_k": 1}
    assert len({shipped.key, eleven.key, headline.key}) == 3
    assert headline.identity | {"protocol": "single_positive"} == shipped.identity


def test_runs_beside_each_other_look_up_protocols_by_what_was_asked_for(tiny_request, protocol) -> None:
    from mlbench.runner.together import _resolve_all

    paths = [protocol("one", ELEVEN), protocol("two", "")]
    Path(paths[1]).rename(Path(paths[1]).with_name("one_too.toml"))
    requests = [tiny_request("an", protocol=path) for path in (paths[0], "single_positive", paths[0])]
    runs = _resolve_all(requests, {})
    assert [runs[number].protocol.name for number in range(3)] == ["one", "single_positive", "one"]
    assert runs[1].protocol.metrics.ap == "step"


# --- scored again -----------------------------------------------------------------------------------------------------


def weights(root: Path, record: dict[str, Any]) -> bytes:
    return (run_dir(root, record["key"]) / "weights.safetensors").read_bytes()


@pytest.fixture
def no_training(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Return a function after which a run that trains fails."""
    from mlbench.runner.loop import PhaseLoop

    def forbid() -> None:
        def refuse(*given: Any) -> None:
            raise AssertionError("it was trained")

        monkeypatch.setattr(PhaseLoop, "run_epoch", refuse)

    return forbid


def test_other_definitions_are_scored_from_the_predictions_of_a_run_trained_alike(
    train, protocol, no_training, tmp_path: Path
) -> None:
    first = train("an", changes={"train.epochs": 1})
    own = protocol("eleven", ELEVEN)
    no_training()
    second = train("an", protocol=own, changes={"train.epochs": 1})
    assert second["key"] != first["key"]
    assert second["results"]["test"]["mAP"] == first["results"]["test"]["mAP_11point"]
    assert "top1_strict/F1-O" in second["results"]["test"]
    assert second["definitions"]["ap"] == "eleven_point"
    assert second["protocol"]["name"] == "eleven"
    assert second["provenance"]["rescored"]["from"] == first["key"]
    assert "nothing was trained" in second["notes"][-1]
    assert contradictions(second) == []
    assert verify_run(tmp_path / "runs", second["key"]) == second
    assert weights(tmp_path / "runs", first) == weights(tmp_path / "runs", second)
    assert train("an", protocol=own, changes={"train.epochs": 1}) == second
    assert find_records(tmp_path / "runs")[1] == []


def test_what_is_scored_again_is_what_training_under_these_definitions_gives(train, protocol, tmp_path: Path) -> None:
    own = protocol("eleven", ELEVEN)
    train("an", changes={"train.epochs": 2})
    again = train("an", protocol=own, changes={"train.epochs": 2})
    alone = train("an", protocol=own, changes={"train.epochs": 2}, store=tmp_path / "alone")
    assert "rescored" not in alone["provenance"]
    for part in ("identity", "definitions", "protocol", "results", "per_class", "selected", "supervision"):
        assert again[part] == alone[part], part
    for one, two in zip(again["epochs"], alone["epochs"], strict=True):
        assert (one["val"], one["test_sealed"]) == (two["val"], two["test_sealed"])
    scores = [
        read_predictions(run_dir(root, alone["key"]) / "test.safetensors").scores.tolist()
        for root in (tmp_path / "runs", tmp_path / "alone")
    ]
    assert scores[0] == scores[1]


def test_a_run_is_trained_anew_where_its_definitions_select_another_epoch(
    train, protocol, monkeypatch, tmp_path: Path
) -> None:
    from mlbench.runner import rescored

    train("an", changes={"train.epochs": 2})
    monkeypatch.setattr(rescored, "select", lambda rows, rule: 0 if len(rows) == 2 else len(rows) - 1)
    first = find_records(tmp_path / "runs")[0][0]
    monkeypatch.setattr(rescored, "select", lambda rows, rule: 2 - first["selected"]["epoch"])
    record = train("an", protocol=protocol("eleven", ELEVEN), changes={"train.epochs": 2})
    assert "rescored" not in record["provenance"]


def test_a_run_is_trained_anew_where_the_epochs_predictions_were_not_kept_or_changed(
    train, protocol, tmp_path: Path
) -> None:
    first = train("an", changes={"train.epochs": 1})
    epochs = run_dir(tmp_path / "runs", first["key"]) / "epochs"
    shutil.rmtree(epochs)
    record = train("an", protocol=protocol("eleven", ELEVEN), changes={"train.epochs": 1})
    assert "rescored" not in record["provenance"]
    # Definitions that select alike need none of them.
    record = train("an", protocol=protocol("top", "[metrics]\ntop_k = 2\n"), changes={"train.epochs": 1})
    assert record["provenance"]["rescored"]["from"] == first["key"]


def test_runs_that_build_on_others_are_scored_again_with_theirs(train, protocol, no_training, tmp_path: Path) -> None:
    train("an_boostlu_inference", changes={"train.epochs": 1})
    no_training()
    record = train(
        "an_boostlu_inference", protocol=protocol("top", "[metrics]\ntop_k = 2\n"), changes={"train.epochs": 1}
    )
    assert record["provenance"]["rescored"]
    records = find_records(tmp_path / "runs")[0]
    assert len(records) == 4
    assert record["identity"]["uses"]["trained"] in {
        r["key"] for r in records if r["identity"]["protocol"] == "top" and r["identity"]["method"]["name"] == "an"
    }


def test_other_training_is_not_taken_for_the_same(train, protocol) -> None:
    train("an", changes={"train.epochs": 1})
    own = protocol("top", "[metrics]\ntop_k = 2\n")
    for given in ({"changes": {"train.epochs": 1, "train.lr": 0.5}}, {"seed": 1, "changes": {"train.epochs": 1}}):
        assert "rescored" not in train("an", protocol=own, **given)["provenance"]


# --- a broken record --------------------------------------------------------------------------------------------------


def test_a_broken_record_stops_its_own_run_and_says_how_to_mend_it(train, tmp_path: Path) -> None:
    record = train("an", changes={"train.epochs": 1})
    path = run_dir(tmp_path / "runs", record["key"]) / "record.json"
    path.write_text(path.read_text().replace('"mAP"', '"mAp"', 1))
    for given in ({}, {"resume": True}):
        with pytest.raises(DataError, match=r"record\.json: .*give --again or delete the file"):
            train("an", changes={"train.epochs": 1}, **given)
    assert train("an", seed=1, changes={"train.epochs": 1})["key"] != record["key"]
    train("an", changes={"train.epochs": 1}, again=True)
    assert read_record(path)["results"] == record["results"]


# --- a protocol of one's own, without its file ------------------------------------------------------------------------


def test_all_that_reads_a_run_knows_its_own_protocol_when_the_file_is_gone(
    mlbench, photos: Path, protocol, tmp_path: Path
) -> None:
    own = protocol(
        "mine", '[metrics]\nap = "envelope"\ntop_k = 1\n[table]\nmetrics = ["mAP", "F1-O"]\ndatasets = ["mine"]\n'
    )
    store = tmp_path / "store"
    asked = ["--dataset", photos / "mine.toml", "--backbone", "scenes", "--track", "full", "--epochs", 1]
    for method in ("an", "ls"):
        code, _, err = mlbench("run", "--protocol", own, "--method", method, *asked, "--store", store)
        assert code == 0, err
    Path(own).unlink()
    keys = [record["key"][:12] for record in find_records(store)[0]]
    data = ["--store", store, "--dataset", photos / "mine.toml"]
    for command in (
        ["score", keys[0], *data],
        ["compare", *keys, *data, "--replicates", 10],
        ["explain", "metrics", keys[0], *data],
        ["list", "runs", "--store", store],
        ["show", keys[0], "--store", store],
        ["table", "--protocol", "mine", "--layout", "--store", store],
        ["results", "verify", store],
        ["site", "--output", tmp_path / "site", "--results", store],
    ):
        code, _, err = mlbench(*command)
        assert code == 0, (command, err)
    assert "top1_strict" in mlbench("score", keys[0], *data)[1]
    (board,) = (tmp_path / "site" / "boards").glob("mine-on-*.html")
    assert "F1-O" in board.read_text()


# --- precision --------------------------------------------------------------------------------------------------------


def test_scores_of_a_run_in_half_precision_do_not_tie(train, tmp_path: Path) -> None:
    from mlbench.methods import Method

    class Plain(Method):
        """A network whose last layer is no head of ours, so that nothing keeps it from half precision."""

        name = "plain_layer"

        def network(self, phase: Any) -> Any:
            from torch import nn

            return nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, self.task.num_classes))

        def training_step(self, network: Any, batch: Any, step: Any) -> Any:
            return network(batch.inputs).float().square().mean()

        def predict(self, network: Any, batch: Any) -> Any:
            return network(batch.inputs)

    record = train(Plain, precision="bf16", changes={"train.epochs": 1})
    scores = read_predictions(run_dir(tmp_path / "runs", record["key"]) / "test.safetensors").scores
    half = scores.view("uint32") & 0xFFFF  # what the last 16 bits of a float hold is lost in half precision
    assert (half != 0).mean() > 0.9
