"""A whole run: its record, its identity, and what happens when it is there already, busy, or built on another."""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mlbench.annotation import State, save_mask
from mlbench.conformance.suite import read_scores
from mlbench.conformance.testing import tiny_dataset
from mlbench.errors import DataError, MlbenchError, UsageError
from mlbench.models.heads import HeadSpec
from mlbench.registry import load_method
from mlbench.runner import execute
from mlbench.runner.checkpoint import load_tensors
from mlbench.runner.execute import Options, run
from mlbench.runner.plan import resolve
from mlbench.store import RECORD_FILE, find_records, read_record, run_dir, verify_run


def folder(tmp_path: Path, record: dict[str, Any]) -> Path:
    return run_dir(tmp_path / "runs", record["key"])


# --- one run, its record ----------------------------------------------------------------------------------------------


def test_a_run_leaves_a_verified_record_predictions_and_weights(train, tmp_path: Path) -> None:
    record = train()
    assert verify_run(tmp_path / "runs", record["key"]) == record
    assert find_records(tmp_path / "runs") == ([record], [])
    assert [row["epoch"] for row in record["epochs"]] == [1, 2]
    assert record["phases"][0]["epochs"] == 2
    assert set(record["predictions"]) == {"val", "test"}
    scores = read_scores(tmp_path / "runs", record)
    assert scores.shape == (9, 4)
    assert scores.dtype == np.float32
    files = {str(path.relative_to(folder(tmp_path, record))) for path in folder(tmp_path, record).rglob("*.*")}
    epochs = {f"epochs/{epoch:03d}-{part}.safetensors" for epoch in (1, 2) for part in ("val", "test")}
    expected = {"record.json", "test.safetensors", "val.safetensors", "weights.safetensors"}
    assert files >= epochs | expected
    assert not any(name.endswith((".tmp", ".pt")) for name in files)


def test_the_selected_epochs_predictions_are_the_runs(train, tmp_path: Path) -> None:
    record = train(changes={"train.epochs": 4, "train.lr": 0.02})
    chosen = folder(tmp_path, record) / "epochs" / f"{record['selected']['epoch']:03d}-test.safetensors"
    assert (folder(tmp_path, record) / "test.safetensors").read_bytes() == chosen.read_bytes()


def test_the_same_run_gives_the_same_bits_in_another_store(train, tmp_path: Path) -> None:
    records = [train(store=tmp_path / name) for name in "ab"]
    assert records[0]["predictions"] == records[1]["predictions"]
    assert records[0]["weights"] == records[1]["weights"]
    assert records[0]["results"] == records[1]["results"]


def test_labels_consumed_are_counted(train) -> None:
    tiny = tiny_dataset()
    shown = {name: train(name)["supervision"] for name in ("an", "full")}
    val = tiny.splits["val"].labels.size
    both = {"selection_labels": val, "pretraining": "random"}
    assert shown["an"] == {"observed_labels": 32, "extra": [], **both}
    assert shown["full"] == {"observed_labels": 32 * 4, "extra": ["full"], **both}


def test_the_record_says_how_it_was_made_without_a_path_of_the_machine(train, tmp_path: Path) -> None:
    command = [str(tmp_path / "bin" / "mlbench"), "run", "--store", str(tmp_path / "runs")]
    record = train(command=command)
    assert record["provenance"]["command"] == "mlbench run --store runs"
    assert record["provenance"]["processes"] == 1
    assert record["provenance"]["owners"]["method"].startswith("mlbench-multilabel ")
    assert record["provenance"]["images_per_s"] > 0
    assert str(tmp_path) not in str(record)


def test_fewer_classes_than_the_top_k_takes_are_scored_and_those_numbers_are_undefined(train) -> None:
    record = train(dataset=tiny_dataset(classes=2))
    test = record["results"]["test"]
    undefined = {name for name, value in test.items() if value is None}
    assert undefined == {name for name in test if name.startswith("top3_")}
    assert len(undefined) == 14


def test_test_numbers_of_each_epoch_are_kept_apart(train) -> None:
    for row in train()["epochs"]:
        assert set(row["val"]) == {"mAP", "mAP_observed"}
        assert set(row["test_sealed"]) == {"mAP"}


@pytest.mark.parametrize("name", ["prior", "random"])
def test_methods_without_training_are_scored_all_the_same(train, tmp_path: Path, name: str) -> None:
    record = train(name)
    assert record["epochs"] == record["phases"] == []
    assert record["selected"]["phase"] == "none"
    scores = read_scores(tmp_path / "runs", record)
    assert scores.shape == (9, 4)
    if name == "prior":  # hand-worked: the log-odds of each class's observed count
        parts = resolve_tiny(tmp_path, name).parts["train"]
        positive = (parts.observed == State.POSITIVE).sum(axis=0) + 0.5
        assert scores[0] == pytest.approx(np.log(positive / (33 - positive)), rel=1e-6)
        assert (scores == scores[0]).all()
    else:
        assert abs(scores.mean()) < 1
        assert len(np.unique(scores)) == 36


def resolve_tiny(tmp_path: Path, name: str) -> Any:
    from mlbench.conformance.suite import make_request

    return resolve(make_request(load_method(name), "full", tmp_path, tiny_dataset()))


def test_bfloat16_runs_on_the_processor_and_the_record_says_so(train, tmp_path: Path) -> None:
    full, half = train(), train(precision="bf16")
    assert (full["identity"]["precision"], half["identity"]["precision"]) == ("fp32", "bf16")
    assert full["key"] != half["key"]
    scores = [read_scores(tmp_path / "runs", record) for record in (full, half)]
    assert scores[1].dtype == np.float32
    assert (scores[0] != scores[1]).any()
    np.testing.assert_allclose(scores[0], scores[1], atol=0.2)
    weights = load_tensors(folder(tmp_path, half) / "weights.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}


# --- there already, again, busy ---------------------------------------------------------------------------------------


def test_a_finished_run_is_reported_and_not_trained_again(train, tmp_path: Path, capsys) -> None:
    first = train()
    before = {path: path.stat().st_mtime_ns for path in folder(tmp_path, first).rglob("*")}
    again = train(quiet=False, resume=True)
    assert again == first
    assert "already in the store" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in folder(tmp_path, first).rglob("*")} == before


def test_again_trains_to_the_same_predictions(train, tmp_path: Path) -> None:
    first = train()
    (folder(tmp_path, first) / "test.safetensors").write_bytes(b"damaged")
    second = train(again=True)
    assert second["predictions"] == first["predictions"]
    assert second["weights"] == first["weights"]
    assert verify_run(tmp_path / "runs", first["key"])["provenance"] == second["provenance"]


def test_a_broken_record_is_an_error_and_again_mends_it(train, tmp_path: Path) -> None:
    path = folder(tmp_path, train()) / RECORD_FILE
    path.write_text(path.read_text()[:200])
    with pytest.raises(DataError, match=r"record\.json: broken record"):
        train()
    assert train(again=True) == read_record(path)


@contextmanager
def held(path: Path) -> Iterator[None]:
    """The lock another process holds: `flock` tells two openings of a file apart, also in one process."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def test_a_run_that_another_process_makes_is_left_to_it(train, tmp_path: Path) -> None:
    key = resolve_tiny(tmp_path, "an").key
    with (
        held(run_dir(tmp_path / "runs", key) / "lock"),
        pytest.raises(MlbenchError, match=r"an on tiny .* is being run by another process \(.*runs/"),
    ):
        train()
    record = train()
    with held(folder(tmp_path, record) / "lock"), pytest.raises(MlbenchError, match="another process"):
        train(again=True)
    assert read_record(folder(tmp_path, record) / RECORD_FILE) == record


def test_a_run_that_another_process_finished_meanwhile_is_taken_from_it(
    train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    """Between the look for the record and the lock another process makes the run: its record stays."""
    real = execute.Execution.run_used
    made: list[Any] = []

    def window(self: Any) -> Any:
        if not made:
            made.append(None)
            made[0] = train()
        return real(self)

    def never() -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(execute.Execution, "run_used", window)
    record = train(quiet=False, checkpoint_seconds=0.0, on_checkpoint=lambda: never() if made[0] else None)
    assert record == made[0]
    assert "was finished meanwhile" in capsys.readouterr().err
    assert read_record(folder(tmp_path, record) / RECORD_FILE) == record


# --- methods that build on another's weights --------------------------------------------------------------------------


def test_boostlu_inference_evaluates_the_weights_that_an_trained(train, tmp_path: Path, capsys) -> None:
    record = train("an_boostlu_inference", quiet=False)
    told = capsys.readouterr().err
    assert "'an_boostlu_inference' uses 'an'" in told
    trained = train("an")
    assert record["identity"]["uses"] == {"trained": trained["key"]}
    weights = [load_tensors(folder(tmp_path, r) / "weights.safetensors") for r in (record, trained)]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert (read_scores(tmp_path / "runs", record) != read_scores(tmp_path / "runs", trained)).any()
    # once more, without boost: then it is `an` itself
    plain = train("an_boostlu_inference", changes={"head.alpha": 1})
    assert (read_scores(tmp_path / "runs", plain) == read_scores(tmp_path / "runs", trained)).all()


def test_a_used_run_is_trained_once_and_its_weights_are_checked(train, tmp_path: Path) -> None:
    trained = train("an")
    path = folder(tmp_path, trained) / "weights.safetensors"
    before = path.stat().st_mtime_ns
    train("an_boostlu_inference", again=True)
    assert path.stat().st_mtime_ns == before
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"the weights of 'an' .* which 'an_boostlu_inference' uses, are changed"):
        train("an_boostlu_inference", again=True)


# --- identity ---------------------------------------------------------------------------------------------------------


def strings(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from (key, *strings(item))
    elif isinstance(value, list):
        for item in value:
            yield from strings(item)
    elif isinstance(value, str):
        yield value


def test_the_identity_holds_no_path(tiny_request, tmp_path: Path) -> None:
    run = resolve(tiny_request(track="head", data_root=tmp_path))
    assert run.weights is not None
    assert not [text for text in strings(run.identity) if "/" in text or "\\" in text or str(tmp_path) in text]


def test_a_run_that_needs_pooled_features_alone_keeps_no_maps(
    train: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLBENCH_CACHE", str(tmp_path / "pooled"))
    alone = train("an", track="head", store=tmp_path / "a")
    assert list((tmp_path / "pooled").rglob("*-means*"))
    assert not list((tmp_path / "pooled").rglob("*-maps*"))
    monkeypatch.setenv("MLBENCH_CACHE", str(tmp_path / "maps"))
    train("llr_boostlu", track="head", store=tmp_path / "b")
    assert list((tmp_path / "maps").rglob("*-maps*"))
    after = train("an", track="head", store=tmp_path / "c")
    assert after["predictions"] == alone["predictions"]
    assert after["provenance"]["pixels_sha256"] == alone["provenance"]["pixels_sha256"]


def test_the_key_is_that_of_the_settings_wherever_and_however_a_run_is_made(tiny_request, tmp_path: Path) -> None:
    request = tiny_request(track="head")
    key = resolve(request).key
    assert resolve(replace(request, data_root=tmp_path)).key == key
    elsewhere = tmp_path / "other name.safetensors"
    shutil.copy(request.weights, elsewhere)
    assert resolve(replace(request, weights=elsewhere)).key == key
    protocol = replace(request.protocol, title="Other", where="elsewhere.toml")
    assert resolve(replace(request, protocol=protocol)).key == key


def test_device_store_and_progress_are_no_part_of_the_identity(train, tmp_path: Path) -> None:
    first = train(store=tmp_path / "a", device="cpu")
    second = train(store=tmp_path / "b", device="auto", quiet=False, checkpoint_seconds=0.0)
    assert first["key"] == second["key"]
    assert first["identity"] == second["identity"]


@pytest.mark.parametrize(
    "other",
    [
        {"seed": 1},
        {"mask_seed": 1},
        {"precision": "bf16"},
        {"epochs": 3},
        {"changes": {"train.lr": 0.5}},
        {"changes": {"train.batch_size": 10}},
        {"changes": {"train.accumulate": 2}},
        {"changes": {"head.alpha": 5}},
        {"track": "head"},
        {"dataset": tiny_dataset(test=10)},
        {"method": "full"},
    ],
    ids=str,
)
def test_each_setting_that_decides_numbers_changes_the_key(tiny_request, other: dict[str, Any]) -> None:
    base = tiny_request(changes={"train.epochs": 2})
    if "epochs" in other:
        base = replace(base, changes={k: v for k, v in base.changes.items() if k != "train.epochs"}, epochs=2)
        assert resolve(base).key != resolve(replace(base, epochs=3)).key
    else:
        assert resolve(base).key != resolve(tiny_request(**other)).key


def test_a_mask_given_is_used_and_known_by_its_content(train, tiny_request, tmp_path: Path) -> None:
    from mlbench.annotation import load_mask

    drawn = resolve(tiny_request(mask_seed=5)).mask
    save_mask(drawn, tmp_path / "mask.safetensors")
    given = load_mask(tmp_path / "mask.safetensors")
    record = train(mask=given, mask_seed=5)
    assert record["identity"]["mask"]["sha256"] == drawn.sha256
    assert record["key"] == resolve(tiny_request(mask_seed=5)).key


# --- null controls ----------------------------------------------------------------------------------------------------


class BoostedByOne(load_method("an")):  # type: ignore[misc]
    """AN through the BoostLU head with alpha 1."""

    name = "boosted_by_one"

    def head_spec(self) -> HeadSpec:
        return HeadSpec("boostlu", 1.0, 1.0)


@pytest.mark.parametrize("track", ["full", "head"])
def test_boostlu_with_alpha_one_is_an_bit_for_bit(train, tiny_request, tmp_path: Path, track: str) -> None:
    plain = train("an", track=track)
    assert resolve(tiny_request("an", track=track, changes={"head.alpha": 1})).key == plain["key"]
    stated = train("an", track=track, changes={"head.alpha": 1}, store=tmp_path / "other")
    assert stated["predictions"] == plain["predictions"]
    boosted = train(BoostedByOne, track=track)
    scores = [read_scores(tmp_path / "runs", record) for record in (plain, boosted)]
    assert (scores[0] == scores[1]).all()


def test_full_labels_make_an_and_full_the_same_loss(train, tmp_path: Path) -> None:
    from mlbench.protocol import load_protocol

    records = [train(name, protocol=load_protocol("full"), changes={"train.augment": []}) for name in ("an", "full")]
    scores = [read_scores(tmp_path / "runs", record) for record in records]
    assert (scores[0] == scores[1]).all()


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"seed": -1}, "--seed -1 --mask-seed 0: expected whole numbers from 0"),
        ({"epochs": 3}, "--epochs and --set train.epochs disagree"),
        ({"changes": {"annotation.keep": 0.5}}, "protocol 'single_positive' does not hide a share of the labels"),
        ({"backbone": "resnet5O"}, "unknown backbone 'resnet5O'. Did you mean 'resnet50'?"),
        ({"changes": {"delt": 1}}, "method 'an' has no hyperparameter 'delt'"),
        ({"changes": {"train.lrr": 1}}, "unknown key 'lrr'. Did you mean 'lr'?"),
        ({"changes": {"train.schedule": "onecycle"}}, "schedule = 'onecycle': expected one of constant, one_cycle"),
        ({"changes": {"head.alpha": 0.5}}, "hyperparameter head.alpha_train = 0.5: expected 1.0 to"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused_before_anything_is_written(train, tmp_path: Path, given, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        train(**given)
    assert message in str(caught.value)
    assert not (tmp_path / "runs").exists()


def test_a_published_draw_has_no_mask_seed(train) -> None:
    from mlbench.protocol import load_protocol

    with pytest.raises(UsageError, match="--mask-seed: protocol 'single_positive_spml' uses one published draw"):
        train(protocol=load_protocol("single_positive_spml"), mask_seed=1)


def test_a_method_runs_on_its_own_tracks_only(train) -> None:
    class FullOnly(load_method("an")):  # type: ignore[misc]
        """Needs images."""

        name = "full_only"
        tracks = ("full",)

    with pytest.raises(UsageError, match="method 'full_only' does not run on track 'head', only on full"):
        train(FullOnly, track="head")
    assert train(FullOnly, track="full")["identity"]["track"] == "full"


def test_the_head_track_needs_weights(tiny_request) -> None:
    with pytest.raises(UsageError, match=r"track 'head' trains on features of a pretrained backbone, and no weights"):
        resolve(replace(tiny_request(track="head"), weights=None))


def test_a_network_from_nothing_that_nobody_asked_for_is_told_with_a_way_to_a_first_look(tiny_request) -> None:
    found = resolve(tiny_request(backbone=None))
    assert any("no weights were found" in note and "--backbone scenes" in note for note in found.notes)
    assert not any("no weights" in note for note in resolve(tiny_request()).notes)


def test_images_that_must_not_be_mirrored_are_not_and_the_record_says_so(train) -> None:
    record = train(dataset=replace(tiny_dataset(), flippable=False), changes={"train.augment": ["flip"]})
    assert record["identity"]["train"]["augment"] == []
    assert any("not mirrored" in note for note in record["notes"])


def test_a_rate_for_a_role_that_the_network_has_not_is_told(train, capsys) -> None:
    train(changes={"train.lr_multipliers": {"haed": 10.0, "head": 2.0}}, quiet=False)
    told = capsys.readouterr().err
    assert "note: lr_multipliers.haed has no effect: the network of phase 'train' has backbone, head" in told
    assert "lr_multipliers.head " not in told


def test_two_phases_of_one_name_are_refused(train) -> None:
    class Twice(load_method("an")):  # type: ignore[misc]
        """Two stages that cannot be told apart."""

        name = "twice"

        def phases(self) -> list[Any]:
            return [*super().phases(), *super().phases()]

    with pytest.raises(MlbenchError, match=r"method 'twice' has two phases.* of one name"):
        train(Twice)


def test_run_takes_names_as_well_as_objects(tiny_request, tmp_path: Path) -> None:
    request = replace(tiny_request(), protocol="single_positive", method="an")
    record = run(request, Options(store=tmp_path / "runs", device="cpu", quiet=True))
    assert record["key"] == resolve(tiny_request()).key
