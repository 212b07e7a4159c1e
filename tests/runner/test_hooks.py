"""What a method's own code may do wrong is told in one line that names the method, the hook and the phase."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from mlbench.errors import MethodError, MlbenchError, UsageError
from mlbench.methods import Hyper, Method, Phase, Prediction
from mlbench.registry import load_method
from mlbench.runner import together
from mlbench.runner.execute import ERROR_LOG, Options
from mlbench.runner.plan import resolve, why_alone
from mlbench.store import find_records


class Good(load_method("an")):  # type: ignore[misc]
    """AN by another name."""

    name = "good"


def method_with(**attributes: Any) -> type[Method]:
    return type("Odd", (Good,), {"__doc__": "Odd.", "__module__": __name__, "name": "odd", **attributes})


def fails(*given: Any, **named: Any) -> Any:
    raise ValueError("no more\nof this")


def leaves(*given: Any, **named: Any) -> Any:
    sys.exit(0)


HOOKS = ["__init__", "phases", "network", "training_step", "loss", "after_step", "after_epoch", "handover", "predict"]
NAMED = {"loss": "training_step", "predict": "predict on val"}


@pytest.mark.parametrize("hook", [*HOOKS, "state_dict"])
@pytest.mark.parametrize("action", [fails, leaves])
def test_an_exception_or_exit_in_a_hook_names_method_hook_and_phase(
    train: Any, tmp_path: Path, hook: str, action: Any
) -> None:
    with pytest.raises(MethodError) as caught:
        train(method_with(**{hook: action}), checkpoint_seconds=0.0)
    text = str(caught.value)
    phase = "" if hook in ("__init__", "phases", "predict") else " (phase 'train')"
    error = "ValueError: no more of this" if action is fails else "SystemExit: 0"
    assert text.startswith(f"method 'odd' failed in {NAMED.get(hook, hook)}{phase}: {error} [test_hooks.py, line ")
    (log,) = tmp_path.glob(f"runs/*/{ERROR_LOG}")
    assert f"(traceback: {log})" in text
    assert "Traceback (most recent call last)" in log.read_text()
    assert action.__name__ in log.read_text()
    assert not find_records(tmp_path / "runs")[0]


def test_the_log_of_an_error_is_gone_once_the_run_is_made(train: Any, tmp_path: Path) -> None:
    with pytest.raises(MethodError):
        train(method_with(after_step=fails))
    train(method_with())
    assert not list(tmp_path.glob(f"runs/*/{ERROR_LOG}"))


def test_a_keyboard_interrupt_in_a_method_stays_one(train: Any) -> None:
    def interrupt(*given: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(method_with(after_step=interrupt))


LOSSES = {
    "None": (lambda *_: None, "the loss has None as 'loss', expected a tensor"),
    "number": (lambda *_: 1.5, "the loss has a float as 'loss'"),
    "by image": (lambda self, logits, labels, step: logits.mean(dim=1), r"shape \[11\] as 'loss', expected one real"),
    "no gradient": (lambda self, logits, labels, step: logits.detach().mean(), "the loss has no gradient"),
    "nothing": (lambda *_: {}, "the loss has no gradient"),
    "integer name": (lambda self, logits, labels, step: {3: logits.mean()}, "a term named 3, which no log can hold"),
    "empty name": (lambda self, logits, labels, step: {"": logits.mean()}, "a term named '', which no log can hold"),
    "taken name": (lambda self, logits, labels, step: {"pseudo_labels": logits.mean()}, "a term named 'pseudo_labels'"),
    "not finite": (
        lambda self, logits, labels, step: logits.mean() * float("nan"),
        "not finite in epoch 1 .* step 1 of",
    ),
}


@pytest.mark.parametrize("kind", LOSSES)
def test_a_loss_that_is_none_is_told_at_the_first_step(train: Any, kind: str) -> None:
    loss, message = LOSSES[kind]
    with pytest.raises(MlbenchError, match=message):
        train(method_with(loss=loss))


PREDICTIONS = {
    "None": (lambda *_: None, "predict gave None as scores"),
    "array": (lambda self, network, batch: network(batch.inputs).logits.numpy(), "predict gave a ndarray as scores"),
    "one column": (lambda self, network, batch: network(batch.inputs).logits[:, 0], r"scores of shape \[8\]"),
    "fewer classes": (lambda self, network, batch: network(batch.inputs).logits[:, :2], r"shape \[8, 2\] for val"),
    "fewer rows": (lambda self, network, batch: network(batch.inputs).logits[1:], r"shape \[7, 4\] for val"),
    "not finite": (lambda self, network, batch: network(batch.inputs).logits * float("nan"), "not finite for val"),
    "decisions": (lambda self, network, batch: Prediction(network(batch.inputs).logits, True), "a bool as decisions"),
}


@pytest.mark.parametrize("kind", PREDICTIONS)
def test_predictions_that_are_none_are_told(train: Any, kind: str) -> None:
    predict, message = PREDICTIONS[kind]
    with pytest.raises(MlbenchError, match=message):
        train(method_with(predict=predict))


@pytest.mark.parametrize(
    ("hook", "value", "message"),
    [
        ("network", None, "network\\(\\) gave None, expected a torch.nn.Module"),
        ("phases", [None], "phases\\(\\) gave None, expected mlbench.methods.Phase"),
        ("handover", {"a": 1}, "handover\\(\\) gave 'a': a int, expected tensors by name"),
        ("handover", None, "handover\\(\\) gave None, expected tensors by name"),
        ("state_dict", {"a": [1]}, "state_dict\\(\\) gave 'a': a list, expected tensors by name"),
    ],
)
def test_other_odd_returns_are_told(train: Any, hook: str, value: Any, message: str) -> None:
    with pytest.raises(MethodError, match=f"method 'odd': {message}"):
        train(method_with(**{hook: lambda *given: value}), checkpoint_seconds=0.0)


# --- weights that are no numbers --------------------------------------------------------------------------------------


def ranks(self: Any, network: Any, batch: Any) -> torch.Tensor:
    return network(batch.inputs).logits.argsort(dim=1).float()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_seen_behind_ranks(train: Any, tmp_path: Path, value: float) -> None:
    def poison(self: Any, network: Any, step: Any) -> None:
        with torch.no_grad():
            network.head.weight[0, 0] = value

    with pytest.raises(
        MlbenchError, match=r"head.weight of method 'odd' is not finite in 1 of \d+ numbers after epoch 1"
    ):
        train(method_with(scores="rank", predict=ranks, after_epoch=poison))
    assert not find_records(tmp_path / "runs")[0]


def test_weights_of_a_method_that_trains_nothing_are_looked_at_too(train: Any) -> None:
    def network(self: Any, phase: Any) -> nn.Module:
        found = Good.network(self, phase)
        found.head.weight.data.fill_(float("nan"))
        return found

    with pytest.raises(MlbenchError, match=r"head\.weight of method 'odd' is not finite .* in the end"):
        train(method_with(scores="rank", predict=ranks, network=network, phases=lambda self: []))


def test_a_mask_of_infinities_is_no_fault(train: Any) -> None:
    def network(self: Any, phase: Any) -> nn.Module:
        found = Good.network(self, phase)
        found.register_buffer("mask", torch.tensor([0.0, -float("inf")]))
        return found

    assert train(method_with(network=network))["results"]["test"]["mAP"] > 0


# --- settings that cannot be trained ----------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd", "rmsprop"])
@pytest.mark.parametrize("rate", [1e38, 1e300])
def test_a_rate_beyond_all_measure_is_one_line(train: Any, optimizer: str, rate: float) -> None:
    with pytest.raises(MlbenchError, match=r"not finite|cannot take a step of lr 1e\+"):
        train(changes={"train.lr": rate, "train.optimizer": optimizer})


class Normed(Good):
    """AN on a network with BatchNorm over single numbers."""

    name = "normed"

    def network(self, phase: Phase) -> nn.Module:
        torch.manual_seed(0)
        classes = self.task.num_classes
        return nn.Sequential(nn.Flatten(), nn.Linear(3 * 64 * 64, classes), nn.BatchNorm1d(classes))

    def training_step(self, network: nn.Module, batch: Any, step: Any) -> Any:
        return self.loss(network(batch.inputs), batch.labels, step)

    def predict(self, network: nn.Module, batch: Any) -> Any:
        return network(batch.inputs)


def test_batchnorm_on_a_last_batch_of_one_says_what_to_change(train: Any) -> None:
    with pytest.raises(
        MethodError, match=r"a batch of one image has no statistics .*: choose another train\.batch_size"
    ):
        train(Normed, changes={"train.batch_size": 31})
    assert train(Normed, changes={"train.batch_size": 30})["key"]


# --- refused before training ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"name": "submitted/x"}, "names that begin with 'submitted/' are those of submitted predictions"),
        ({"name": ""}, "expected a text that is not empty"),
        ({"version": "1.0"}, "version = '1.0': expected a whole number from 1"),
        ({"version": True}, "version = True: expected a whole number"),
        ({"supervision": ()}, "supervision = \\(\\): expected a tuple"),
        ({"supervision": "observed"}, "supervision = 'observed': expected a tuple"),
        ({"supervision": ("observd",)}, "unknown 'observd'. Did you mean 'observed'"),
        ({"supervision": ("observed", "observed")}, "a value stands twice"),
        ({"tracks": ("heads",)}, "unknown 'heads'. Did you mean 'head'"),
        ({"scores": "logits"}, "scores = 'logits': expected one of logit, probability, rank"),
        ({"reduction": "none"}, "reduction = 'none': expected one of mean, sum"),
        (
            {"hyperparameters": {"words": Hyper("/data/words.txt", "x")}},
            "hyperparameter words = '/data/words.txt': an abs",
        ),
        ({"hyperparameters": {"words": Hyper("C:\\words.txt", "x")}}, "hyperparameter words = .*: an absolute path"),
    ],
    ids=str,
)
def test_what_the_record_would_refuse_is_refused_before_training(
    train: Any, tmp_path: Path, attributes: dict[str, Any], message: str
) -> None:
    with pytest.raises(MlbenchError, match=message):
        train(method_with(**attributes))
    assert not list(tmp_path.glob("runs/*/*"))


@pytest.mark.parametrize("name", ["", "a/b", "..", None, "x" * 80, "a\nb"])
def test_a_phase_has_a_name_that_files_and_records_can_carry(name: Any) -> None:
    with pytest.raises(UsageError, match="expected a name of letters, digits"):
        Phase(name)


def test_a_store_whose_name_is_no_utf8_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="the name of the run store is not valid UTF-8"):
        Options(tmp_path / "caf\udce9")


# --- beside others ----------------------------------------------------------------------------------------------------


class InPlace(Good):
    """Works in place on what it is given."""

    name = "in_place"

    def predict(self, network: nn.Module, batch: Any) -> Any:
        return network(batch.inputs.clamp_(max=0.0)).logits


def test_a_foreign_method_changes_and_ends_nobody_but_itself(train: Any, tiny_request: Any, tmp_path: Path) -> None:
    alone = train(track="head")
    methods = ["an", InPlace, method_with(predict=leaves), method_with(name="other", after_step=fails)]
    requests = [tiny_request(method, track="head") for method in methods]
    outcomes = together.run_together(requests, Options(tmp_path / "beside", device="cpu", quiet=True))
    assert [type(outcome) for outcome in outcomes] == [dict, dict, MethodError, MethodError]
    assert outcomes[0]["predictions"] == alone["predictions"]  # type: ignore[index]
    assert "another package" in why_alone(resolve(requests[1], uses={}))


# --- the command line -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("debug", [True, False])
def test_the_command_prints_one_line_and_with_debug_the_traceback(
    mlbench: Any, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, debug: bool
) -> None:
    monkeypatch.setattr(load_method("an"), "loss", leaves)
    code, out, err = mlbench(
        *("run", "--protocol", "single_positive", "--method", "an", "--store", tmp_path / "runs", "--device", "cpu"),
        *("--dataset", photos / "mine.toml", "--backbone", "scenes", "--set", "train.image_size=32"),
        *("--quiet", "--epochs", 1, *(["--debug"] if debug else [])),
    )
    assert (code, out) == (1, "")
    first, *rest = err.strip().splitlines()
    assert first.startswith("error: method 'an' failed in training_step (phase 'train'): SystemExit: 0")
    assert any("Traceback" in line for line in rest) == debug
    assert bool(rest) == debug
