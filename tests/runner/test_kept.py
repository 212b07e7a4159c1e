"""Files of an unfinished run that were damaged, exchanged or lost after they were written never reach a record."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mlbench.conformance.suite import run_with_stops
from mlbench.errors import DataError, MlbenchError, UsageError
from mlbench.methods import Phase
from mlbench.registry import load_method
from mlbench.runner import execute, training
from mlbench.runner.checkpoint import Kept, load_checkpoint, save_checkpoint
from mlbench.runner.plan import resolve
from mlbench.runner.trained import reload_network
from mlbench.store import find_records, run_dir, verify_run

TENSORS = {"weight": torch.arange(6.0).reshape(2, 3)}


class InTwoPhases(load_method("llcp")):  # type: ignore[misc]
    """LL-Cp twice; the second phase begins with what the first handed over."""

    name = "in_two_phases"

    def phases(self) -> list[Phase]:
        return [Phase("first", selection="last"), Phase("second")]

    def network(self, phase: Phase) -> Any:
        network = super().network(phase)
        if phase.name == "second":
            network.load_state_dict(self.task.artefacts["first"])
        return network


class Stopped(Exception):
    """Stands for a kill."""


def stop(train: Any, number: int, **given: Any) -> None:
    left = [number]

    def on_checkpoint() -> None:
        left[0] -= 1
        if not left[0]:
            raise Stopped

    with pytest.raises(Stopped):
        train(InTwoPhases, checkpoint_seconds=0.0, on_checkpoint=on_checkpoint, **given)


def numbers(record: dict[str, Any]) -> dict[str, Any]:
    return {name: record[name] for name in ("key", "results", "per_class", "selected", "predictions", "weights")}


# --- one file -------------------------------------------------------------------------------------------------------


def test_a_checkpoint_gives_back_what_was_saved(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "c", {"key": "k", "deep": [{"a": 1, "t": TENSORS["weight"]}]})
    found = load_checkpoint(tmp_path / "c", "k")
    assert found is not None
    assert torch.equal(found["deep"][0]["t"], TENSORS["weight"])
    assert load_checkpoint(tmp_path / "none", "k") is None


def test_no_changed_byte_of_a_checkpoint_is_read(tmp_path: Path) -> None:
    path = tmp_path / "c"
    save_checkpoint(path, {"key": "k", "w": torch.zeros(2000)})
    whole = path.read_bytes()
    for place in np.random.default_rng(0).integers(0, len(whole), 60):
        damaged = bytearray(whole)
        damaged[place] ^= 64
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=r"damaged.*delete it to start again"):
            load_checkpoint(path, "k")


@pytest.mark.parametrize("damage", ["bit", "cut", "other", "gone"])
def test_a_kept_file_that_is_not_as_it_was_written_is_refused(tmp_path: Path, damage: str) -> None:
    kept = Kept(tmp_path)
    kept.save("best-train-001.safetensors", TENSORS, {"key": "k"})
    assert torch.equal(kept.load("best-train-001.safetensors")["weight"], TENSORS["weight"])
    path = tmp_path / "best-train-001.safetensors"
    content = path.read_bytes()
    if damage == "gone":
        path.unlink()
    elif damage == "other":
        Kept(tmp_path).save(path.name, {"weight": TENSORS["weight"] + 1}, {"key": "k"})
    else:
        path.write_bytes(content[:-1] if damage == "cut" else content[:-1] + bytes([content[-1] ^ 1]))
    for read in (kept.load, lambda name: kept.copy(name, tmp_path / "target")):
        with pytest.raises(DataError, match=r"best-train-001.*cannot be used.*Delete .*checkpoint\.pt to start"):
            read(path.name)
    assert not (tmp_path / "target").exists()


def test_a_file_that_the_checkpoint_names_stays_until_there_is_another(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    kept.save("best-train-001.safetensors", TENSORS, {})
    kept.checkpointed()
    (tmp_path / "best-train-009.safetensors").touch()  # left by an attempt that was given up
    (tmp_path / "notes.txt").touch()
    kept.save("best-train-002.safetensors", TENSORS, {})
    kept.forget("best-train-001.safetensors")
    kept.save("best-train-003.safetensors", TENSORS, {})
    kept.forget("best-train-002.safetensors")
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {f"best-train-00{n}.safetensors" for n in (1, 3, 9)} | {"notes.txt"}
    kept.checkpointed()
    assert {path.name for path in tmp_path.iterdir()} == {"best-train-003.safetensors", "notes.txt"}


# --- a run ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [8, 13])
def test_damages_and_exchanges_between_stop_and_resume_never_reach_the_record(
    train: Any, tmp_path: Path, number: int
) -> None:
    """Each file of the stopped run in turn: changed in one bit, or in place of it that of a run with another seed."""
    whole = train(InTwoPhases, store=tmp_path / "whole")
    stop(train, number, store=tmp_path / "other", seed=1)
    stop(train, number, store=tmp_path / "stopped")
    folder = run_dir(tmp_path / "stopped", whole["key"])
    (other,) = (path for path in (tmp_path / "other").iterdir())
    refused = 0
    names = sorted(
        str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and path.stat().st_size
    )
    assert "checkpoint.pt" in names
    for name in names:
        for damage in ("bit", "exchange"):
            shutil.copytree(tmp_path / "stopped", tmp_path / "try")
            path = run_dir(tmp_path / "try", whole["key"]) / name
            if damage == "exchange":
                if not (other / name).exists():
                    continue
                shutil.copy(other / name, path)
            else:
                content = bytearray(path.read_bytes())
                content[-5] ^= 16
                path.write_bytes(content)
            try:
                assert numbers(train(InTwoPhases, store=tmp_path / "try", resume=True)) == numbers(whole)
            except DataError:
                refused += 1
                assert not find_records(tmp_path / "try")[0]
            shutil.rmtree(tmp_path / "try")
        shutil.rmtree(tmp_path / "try", ignore_errors=True)
    assert refused >= 4


def test_weights_of_another_epoch_than_the_selected_are_not_there_to_be_taken(train: Any, tmp_path: Path) -> None:
    """The run is killed after it wrote better weights than its checkpoint knows of, and goes on to worse ones."""
    mood = ["good"]

    class Moody(load_method("an")):  # type: ignore[misc]
        """AN whose second epoch is good before the kill and bad after it."""

        name = "moody"

        def after_epoch(self, network: Any, step: Any) -> None:
            if step.epoch != 2 or mood[0] == "bad":
                with torch.no_grad():
                    network.head.weight.zero_()
            elif mood[0] == "good":
                mood[0] = "bad"

    real = Kept.save

    def save(self: Kept, name: str, *given: Any) -> None:
        real(self, name, *given)
        if name == "best-train-002.safetensors":
            raise Stopped

    given = {"changes": {"train.epochs": 3, "train.lr": 0.02}, "checkpoint_seconds": 0.0}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Kept, "save", save)
        with pytest.raises(Stopped):
            train(Moody, **given)
    record = train(Moody, **given, resume=True)
    assert record["selected"]["epoch"] == 1
    weights = torch.from_numpy(np.asarray(load_weights(tmp_path, record)["head.weight"]))
    assert not weights.any()


def load_weights(tmp_path: Path, record: dict[str, Any]) -> dict[str, Any]:
    from safetensors.numpy import load_file

    return load_file(run_dir(tmp_path / "runs", record["key"]) / "weights.safetensors")


def test_changed_code_does_not_go_on_with_what_the_old_code_began(train: Any, tmp_path: Path) -> None:
    stop(train, 3)
    changed = type("InTwoPhases", (InTwoPhases,), {"margin": 2.0, "__module__": InTwoPhases.__module__})
    with pytest.raises(
        MlbenchError, match=r"the code that method 'in_two_phases' stands on was changed.*without --resume"
    ):
        train(changed, resume=True)
    assert not find_records(tmp_path / "runs")[0]
    assert train(changed)["key"]


# --- starts ---------------------------------------------------------------------------------------------------------


def test_the_record_tells_every_start_and_notes_how_they_differ(train: Any) -> None:
    stop(train, 2)
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        record = train(InTwoPhases, resume=True)
    finally:
        torch.set_num_threads(threads)
    starts = record["provenance"]["starts"]
    assert [start["threads"] for start in starts] == [threads, threads + 1]
    assert [start["processes"] for start in starts] == [1, 1]
    assert set(starts[0]) == {"started", "processes", "threads", "hardware", "git"}
    assert f"stopped and resumed with other threads: {threads}, then {threads + 1}" in record["notes"]
    assert len(train(InTwoPhases, again=True)["provenance"]["starts"]) == 1


# --- what stays of the epochs ---------------------------------------------------------------------------------------


def left(tmp_path: Path, record: dict[str, Any]) -> set[str]:
    folder = run_dir(tmp_path / "runs", record["key"])
    return {path.name for path in (folder / "epochs").glob("*")}


def test_of_large_predictions_only_the_selected_epochs_stay(
    train: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {"changes": {"train.epochs": 4, "train.lr": 0.02}}
    every = train("llr", **given, keep="epochs")
    assert {f"{n:03d}-{part}.safetensors" for n in (1, 2, 3, 4) for part in ("val", "test")} <= left(tmp_path, every)
    monkeypatch.setattr(training, "KEPT_UNASKED", 4 * 17 * 4 * 4 - 1)
    assert not left(tmp_path, train("llr", **given, again=True))
    assert left(tmp_path, train("llr", **given, again=True, keep="epochs")) == left(tmp_path, every)
    one = train("llr", **given, again=True, keep="selected")
    assert numbers(one) == numbers(every)
    assert [row["test_sealed"] for row in one["epochs"]] == [row["test_sealed"] for row in every["epochs"]]
    with pytest.raises(UsageError, match=r"unknown choice 'epoch'\. Did you mean 'epochs'"):
        train(keep="epoch")


def test_a_run_that_keeps_one_epoch_stops_and_goes_on_to_the_same_bits(tiny_request: Any, tmp_path: Path) -> None:
    request = tiny_request("llr", changes={"train.epochs": 3, "train.lr": 0.02})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "KEPT_UNASKED", 0)
        run_with_stops(request, tmp_path / "stopped", 2)
    key = resolve(request).key
    stopped = numbers(find_records(tmp_path / "stopped")[0][0])
    record = execute.run(request, execute.Options(tmp_path / "whole", device="cpu", quiet=True))
    assert stopped == numbers(record)
    assert not list((run_dir(tmp_path / "stopped", key)).glob("epochs/*"))


# --- results and epochs ---------------------------------------------------------------------------------------------


def test_nothing_is_recorded_that_contradicts_its_epochs(train: Any, tmp_path: Path, monkeypatch: Any) -> None:
    real = execute.score_predictions

    def otherwise(*given: Any) -> Any:
        results, per_class = real(*given)
        return {**results, "mAP": 12.0}, per_class

    monkeypatch.setattr(execute, "score_predictions", otherwise)
    with pytest.raises(DataError, match=r"nothing is recorded: results\.val\.mAP is 12, and was"):
        train()
    assert not find_records(tmp_path / "runs")[0]


# --- a finished run -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "changes", "of", "name"),
    [
        ("role_li", {"linear_epochs": 1, "train.epochs": 1}, "role_li", "phase-linear.safetensors"),
        ("an_boostlu_inference", {"train.epochs": 1}, "an", "weights.safetensors"),
    ],
)
def test_a_network_is_not_brought_back_from_files_that_were_changed(
    train: Any, tiny_request: Any, tmp_path: Path, method: str, changes: dict[str, Any], of: str, name: str
) -> None:
    record = train(method, changes=changes)
    run = resolve(tiny_request(method, changes=changes), record["identity"].get("uses", {}))
    assert run.key == record["key"]
    reload_network(run, tmp_path / "runs")
    (owner,) = find_records(tmp_path / "runs", method=of)[0]
    path = run_dir(tmp_path / "runs", owner["key"]) / name
    content = bytearray(path.read_bytes())
    content[-5] ^= 16
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"{name}: its SHA-256 is .*the record says"):
        reload_network(run, tmp_path / "runs")


def test_a_record_names_what_each_phase_handed_over(train: Any, tmp_path: Path) -> None:
    record = train(InTwoPhases)
    assert [phase["file"] for phase in record["phases"]] == ["phase-first.safetensors", "phase-second.safetensors"]
    (run_dir(tmp_path / "runs", record["key"]) / "phase-first.safetensors").unlink()
    with pytest.raises(DataError, match=r"phase-first\.safetensors"):
        verify_run(tmp_path / "runs", record["key"])
