"""Calls into a method's own code: what goes wrong there is told as the method's, and what comes back is looked at."""

from __future__ import annotations

import hashlib
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mlbench.errors import MethodError, MlbenchError
from mlbench.methods import Method, Phase, Prediction
from mlbench.methods.badge import code_sha256

#: A name in the epoch's log that the runner writes itself.
PSEUDO_LABELS = "pseudo_labels"
_BATCH_OF_ONE = "Expected more than 1 value per channel"


@contextmanager
def calling(method: Method | type[Method], hook: str, phase: str = "") -> Iterator[None]:
    """Around a call of `hook` of `method`: any exception becomes a MethodError that names both, and the phase.

    So does `sys.exit`: a run that is not finished must not look like one that is.
    """
    try:
        yield
    except MlbenchError:
        raise
    except (Exception, SystemExit) as error:
        stage = f" (phase '{phase}')" if phase else ""
        text = " ".join(str(error).split())
        text = text if len(text) <= 300 else f"{text[:200]} ... {text[-90:]}"
        if _BATCH_OF_ONE in text:
            text += "; a batch of one image has no statistics for BatchNorm: choose another train.batch_size"
        raise MethodError(
            f"method '{method.name}' failed in {hook}{stage}: {type(error).__name__}{': ' if text else ''}{text}"
            f"{_place(error, method)}"
        ) from error


def _place(error: BaseException, method: Method | type[Method]) -> str:
    """The last line of the method's own files that `error` came through."""
    own = {cls.__module__ for cls in (method if isinstance(method, type) else type(method)).__mro__} - {
        Method.__module__
    }
    found = [
        f" [{Path(frame.f_code.co_filename).name}, line {line}, in {frame.f_code.co_name}]"
        for frame, line in traceback.walk_tb(error.__traceback__)
        if frame.f_globals.get("__name__") in own
    ]
    return found[-1] if found else ""


def code_of(method: type[Method]) -> str:
    """SHA-256 of a method's code as this process has it: its source files and the plain values of its classes."""
    plain = (str, int, float, bool, type(None))
    values = {
        f"{cls.__module__}.{cls.__qualname__}.{name}": repr(value)
        for cls in method.__mro__
        for name, value in vars(cls).items()
        if isinstance(value, plain) and not name.startswith("__")
    }
    return hashlib.sha256(f"{code_sha256(method)}\0{sorted(values.items())}".encode()).hexdigest()


def phases_of(method: Method, taken: Mapping[str, Any]) -> list[Phase]:
    """The phases of `method`, whose names differ from each other and from those `taken`."""
    with calling(method, "phases"):
        phases = list(method.phases())
    for phase in phases:
        if not isinstance(phase, Phase):
            raise MethodError(f"method '{method.name}': phases() gave {_kind(phase)}, expected mlbench.methods.Phase")
    if len({phase.name for phase in phases} | taken.keys()) != len(phases) + len(taken):
        raise MlbenchError(f"method '{method.name}' has two phases, or a phase and a used method, of one name")
    return phases


def network_of(method: Method, phase: Phase) -> nn.Module:
    """The network of `phase`."""
    with calling(method, "network", phase.name):
        network = method.network(phase)
    if not isinstance(network, nn.Module):
        raise MethodError(f"method '{method.name}': network() gave {_kind(network)}, expected a torch.nn.Module")
    if method.needs_head != "none" and method.task.chosen_head and not method.task.has_head:
        raise MethodError(
            f"method '{method.name}': network() did not ask task.classifier for the head, so that --head "
            f'{method.task.chosen_head} has no effect: declare needs_head = "none" where the network is its own'
        )
    return network


def tensors_of(method: Method, hook: str, found: Any) -> dict[str, Tensor]:
    """`found`, which `hook` gave, if it is tensors by name."""
    if not isinstance(found, Mapping):
        raise MethodError(f"method '{method.name}': {hook}() gave {_kind(found)}, expected tensors by name")
    for name, value in found.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise MethodError(
                f"method '{method.name}': {hook}() gave {name!r}: {_kind(value)}, expected tensors by name"
            )
    return dict(found)


def terms_of(method: Method, found: Any) -> dict[str, Tensor]:
    """The terms of a loss by name, of what `training_step` gave: scalars, with a gradient in at least one."""
    terms = found if isinstance(found, Mapping) else {"loss": found}
    for name, term in terms.items():
        if not isinstance(name, str) or not name or name == PSEUDO_LABELS:
            raise MethodError(f"method '{method.name}': the loss has a term named {name!r}, which no log can hold")
        if not isinstance(term, Tensor):
            raise MethodError(
                f"method '{method.name}': the loss has {_kind(term)} as '{name}', expected a tensor with one number"
            )
        if term.numel() != 1 or not term.is_floating_point():
            raise MethodError(
                f"method '{method.name}': the loss has a {term.dtype} tensor of shape {list(term.shape)} as '{name}', "
                "expected one real number"
            )
    if not any(term.requires_grad for term in terms.values()):
        raise MethodError(f"method '{method.name}': the loss has no gradient: it does not depend on what is trained")
    return dict(terms)


def prediction_of(method: type[Method], found: Any) -> Prediction:
    """What `predict` gave, if it is scores [B, C], and perhaps decisions, as tensors."""
    answer = found if isinstance(found, Prediction) else Prediction(found)
    for name, value in (("scores", answer.scores), ("decisions", answer.decisions)):
        if value is None and name == "decisions":
            continue
        if not isinstance(value, Tensor):
            raise MethodError(f"method '{method.name}': predict gave {_kind(value)} as {name}, expected a tensor")
        if value.dim() != 2 or value.is_complex():
            raise MethodError(
                f"method '{method.name}': predict gave {name} of shape {list(value.shape)}, expected [images, classes]"
            )
    return answer


def check_weights(method: type[Method], network: nn.Module, where: str) -> None:
    """MlbenchError if a parameter of `network` is not finite, or a buffer is not a number.

    Where scores are ranks nothing else would show it. (Buffers may be infinite: masks are. A gradient that is not
    finite is in the parameters after the step.)
    """
    for name, value in [*network.named_parameters(), *network.named_buffers()]:
        if nn.parameter.is_lazy(value) or not (value.is_floating_point() or value.is_complex()):
            continue
        bad = torch.isnan(value) if not isinstance(value, nn.Parameter) else ~torch.isfinite(value)
        if bad.any():
            raise MlbenchError(
                f"{name} of method '{method.name}' is not finite in {int(bad.sum())} of {value.numel()} numbers "
                f"{where}: nothing is recorded"
            )


def _kind(value: Any) -> str:
    return "None" if value is None else f"a {type(value).__name__}"
