"""Search of hyperparameters: spaces, equal budgets, validation only, and going on after a stop."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlbench.errors import MlbenchError, UsageError
from mlbench.locks import Busy
from mlbench.methods import Hyper, Method
from mlbench.registry import load_method
from mlbench.runner.plan import Request, resolve
from mlbench.store import find_records
from mlbench.sweep import search as module
from mlbench.sweep.search import Found, Trial, parse_space, search, search_space, validation_score

pytest.importorskip("optuna", reason="Optuna is not installed (extra 'search')")


@pytest.fixture
def request_(photos: Path) -> Request:
    changes = {"train.image_size": 32, "train.batch_size": 8}
    return Request(
        "single_positive", "an", str(photos / "mine.toml"), photos, "scenes", track="full", epochs=1, changes=changes
    )


def scored(score: Callable[[Request], float], calls: list[Request]) -> Callable[..., dict[str, Any]]:
    """A stand-in for `run`: the validation score is computed from the request, the test score is a trap."""

    def run(request: Request, options: Any) -> dict[str, Any]:
        calls.append(request)
        row = {"phase": "train", "epoch": 1, "val": {"mAP": score(request), "mAP_observed": -1.0}}
        return {"selected": {"phase": "train", "epoch": 1}, "epochs": [row]}

    return run


def test_the_space_is_what_the_method_declares() -> None:
    space = search_space(load_method("llr"))
    assert space == {"train.lr": ("log", 1e-5, 1e-2), "delta": ("log", 0.02, 2.0)}
    assert space.keys() | {"head.residual"} == search_space(load_method("llr"), head="csra").keys()
    assert search_space(load_method("llr"), {"head.residual": ("choice", 0.1)}) == space  # no such head, no such name
    changed = search_space(load_method("llr"), {"train.lr": (), "delta": ("choice", 0.1, 0.2), "gamma": ("log", 1, 2)})
    assert changed == {"delta": ("choice", 0.1, 0.2)}


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        (("lgo", 1, 2), "unknown kind of search space 'lgo'"),
        (("log", 0.0, 1.0), "begins above 0"),
        (("linear", 2.0, 1.0), "a low end and a high one"),
        (("linear", 1.0), "a low end and a high one"),
        (("choice",), "at least one choice"),
    ],
)
def test_a_space_that_cannot_be(declared: tuple, message: str) -> None:
    class Odd(Method):
        name = "odd"
        hyperparameters = {"x": Hyper(1.0, "x", search=declared)}

    with pytest.raises(UsageError, match=message):
        search_space(Odd)


def test_spaces_on_the_command_line() -> None:
    assert parse_space(("train.lr=log 1e-4 1e-2", "a=choice 1 x", "b=")) == {
        "train.lr": ("log", 1e-4, 1e-2),
        "a": ("choice", 1, "x"),
        "b": (),
    }
    for wrong in ("a", "a=log"):
        with pytest.raises(UsageError, match=f"--space {wrong}: expected KEY="):
            parse_space((wrong,))


def test_every_method_gets_the_same_number_of_trials_the_first_with_its_own_settings(
    request_: Request, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Request] = []
    monkeypatch.setattr(module, "run", scored(lambda r: 50.0, calls))
    found = search(["an", "llr"], request_, store=tmp_path, trials=7, quiet=True)
    assert [call.method for call in calls] == ["an"] * 7 + ["llr"] * 7
    assert [len(one.trials) for one in found] == [7, 7]
    for one, first in zip(found, (calls[0], calls[7]), strict=True):
        plain = Request(**{**vars(request_), "method": one.method})
        assert resolve(first).key == resolve(plain).key
        assert one.best.number == 0  # of equal scores the first
    for call in calls[8:]:
        assert 0.02 <= call.changes["delta"] <= 2.0
        assert 1e-5 <= call.changes["train.lr"] <= 1e-2
        assert call.changes["train.batch_size"] == 8


def test_it_finds_a_peak_and_prints_a_settings_table(
    request_: Request, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import math

    def score(request: Request) -> float:
        return 80.0 - 10 * abs(math.log10(request.changes["delta"] / 0.1))

    monkeypatch.setattr(module, "run", scored(score, []))
    (found,) = search(["llr"], request_, store=tmp_path, trials=25, quiet=True)
    assert 0.05 < found.best.changes["delta"] < 0.2
    assert found.best.score == max(trial.score for trial in found.trials if trial.score is not None)
    table = tomllib.loads(found.text())["llr"]["mine"]["full"]
    assert {key: table[key] for key in ("train.lr", "delta")} == found.best.changes
    assert "25 settings tried on validation" in table["source"]


def test_a_stopped_search_goes_on_as_it_would_have(
    request_: Request, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def score(request: Request) -> float:
        return 100 * request.changes["train.lr"] + request.changes["delta"]

    whole: list[Request] = []
    monkeypatch.setattr(module, "run", scored(score, whole))
    (expected,) = search(["llr"], request_, store=tmp_path / "whole", trials=12, quiet=True)

    calls: list[Request] = []
    going = scored(score, calls)

    def killed(request: Request, options: Any) -> dict[str, Any]:
        if len(calls) == 8:
            raise KeyboardInterrupt
        return going(request, options)

    monkeypatch.setattr(module, "run", killed)
    with pytest.raises(KeyboardInterrupt):
        search(["llr"], request_, store=tmp_path / "parts", trials=12, quiet=True)
    monkeypatch.setattr(module, "run", going)
    (found,) = search(["llr"], request_, store=tmp_path / "parts", trials=12, quiet=True)
    assert found.trials == expected.trials
    assert len(calls) == 12  # no trial twice
    search(["llr"], request_, store=tmp_path / "parts", trials=12, quiet=True)
    assert len(calls) == 12


def test_a_trial_that_fails_counts(request_: Request, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def score(request: Request) -> float:
        if request.changes["train.lr"] > 1e-4:
            raise MlbenchError("loss is not finite")
        return 40.0

    monkeypatch.setattr(module, "run", scored(score, []))
    (found,) = search(["an"], request_, store=tmp_path, trials=8, quiet=True)
    assert len(found.trials) == 8
    failed = sum(trial.score is None for trial in found.trials)
    assert 0 < failed < 8
    assert f"8 settings tried on validation (Optuna TPE), seed 0, {failed} of them failed" in found.text()
    with pytest.raises(MlbenchError, match="none of 1 trials"):
        _ = Found("an", "d", "full", "mAP", 0, (Trial(0, {}, None),)).best


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (UsageError("train.warmup = 0.001 leaves nothing to rise over"), "train.warmup = 0.001 leaves nothing"),
        (ZeroDivisionError("division by zero"), "ZeroDivisionError: division by zero"),
    ],
)
def test_a_trial_that_cannot_be_run_counts_and_never_blocks_the_search(
    request_: Request, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, why: str
) -> None:
    def score(request: Request) -> float:
        if request.changes["train.warmup"] == 0.001:
            raise error
        return 40.0

    monkeypatch.setattr(module, "run", scored(score, []))
    space = {"train.lr": (), "train.warmup": ("choice", 0.3, 0.001)}
    for _ in range(2):  # the second search finds all of them in the journal
        (found,) = search(["an"], request_, store=tmp_path, trials=8, space=space, quiet=True)
        assert len(found.trials) == 8
        assert {trial.score for trial in found.trials} == {40.0, None}
        assert all((why in trial.why) == (trial.score is None) for trial in found.trials)
    with pytest.raises(MlbenchError, match=f"none of 1 trials could be finished; the last: {why}"):
        _ = Found("an", "d", "full", "mAP", 0, (Trial(0, {}, None, why),)).best


@pytest.mark.parametrize("value", [None, float("nan"), float("inf")])
def test_a_trial_without_a_score_failed(
    request_: Request, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: Any
) -> None:
    monkeypatch.setattr(module, "run", scored(lambda r: value, []))
    (found,) = search(["an"], request_, store=tmp_path, trials=2, quiet=True)
    assert [trial.score for trial in found.trials] == [None, None]


def test_a_trial_that_another_process_runs_is_waited_for(
    request_: Request, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Request] = []
    free = scored(lambda r: 40.0, calls)
    busy = iter([True, True, False, False])

    def run(request: Request, options: Any) -> dict[str, Any]:
        if next(busy):
            raise Busy("is being run by another process")
        return free(request, options)

    monkeypatch.setattr(module, "run", run)
    monkeypatch.setattr(module, "_LOOK_AGAIN", 0.0)
    (found,) = search(["an"], request_, store=tmp_path, trials=2, quiet=True)
    assert [trial.score for trial in found.trials] == [40.0, 40.0]
    assert len(calls) == 2


def test_other_settings_begin_another_search(
    request_: Request, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Request] = []
    monkeypatch.setattr(module, "run", scored(lambda r: 1.0, calls))
    for given in (request_, Request(**{**vars(request_), "epochs": 2}), Request(**{**vars(request_), "seed": 1})):
        search(["an"], given, store=tmp_path, trials=2, quiet=True)
    search(["an"], request_, store=tmp_path, trials=2, quiet=True, space={"train.lr": ("log", 1e-4, 1e-3)})
    assert len(calls) == 8


def test_the_score_is_that_of_the_selected_epoch_on_validation() -> None:
    rows: list[dict[str, Any]] = [
        {"phase": "linear", "epoch": 2, "val": {"mAP": 1.0}, "test_sealed": {"mAP": 99.0}},
        {"phase": "train", "epoch": 1, "val": {"mAP": 70.0}, "test_sealed": {"mAP": 99.0}},
        {"phase": "train", "epoch": 2, "val": {"mAP": 60.0}, "test_sealed": {"mAP": 99.0}},
    ]
    record = {"epochs": rows, "selected": {"phase": "train", "epoch": 2}}
    assert validation_score(record, "mAP") == 60.0
    plain = {"epochs": [], "selected": {"phase": "none", "epoch": 0}, "results": {"val": {"mAP": 5.0}}}
    assert validation_score(plain, "mAP") == 5.0


def test_without_validation_there_is_nothing_to_search_on(request_: Request, tmp_path: Path) -> None:
    (tmp_path / "last.toml").write_text('extends = "single_positive"\nname = "last"\nselection = "last"\n')
    given = Request(**{**vars(request_), "protocol": str(tmp_path / "last.toml")})
    with pytest.raises(UsageError, match="without validation data"):
        search(["an"], given, store=tmp_path, trials=2, quiet=True)


def test_the_command_trains_and_is_resumed_from_the_store(mlbench, photos: Path, tmp_path: Path) -> None:
    arguments = [
        *("search", "--method", "an", "--protocol", "single_positive", "--dataset", photos / "mine.toml"),
        *("--data-root", photos, "--backbone", "scenes", "--track", "full", "--epochs", 1, "--trials", 2),
        *("--set", "train.image_size=32", "--set", "train.batch_size=8", "--device", "cpu", "--store", tmp_path),
    ]
    code, out, err = mlbench(*arguments)
    assert code == 0, err
    assert out.startswith("[an.mine.full]\n")
    assert "an trial 1: train.lr = " in err
    records, _ = find_records(tmp_path)
    assert len(records) == 2
    best = max(row["val"]["mAP"] for record in records for row in record["epochs"])
    assert f"validation mAP {best:.2f}" in out
    code, again, err = mlbench(*arguments)
    assert (code, again) == (0, out)
    assert "trial" not in err
