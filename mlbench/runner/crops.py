"""Evaluation on several crops of an image, where the protocol asks for it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mlbench.errors import UsageError
from mlbench.methods import Method, Phase, Prediction
from mlbench.protocol import Protocol


def crops_of(images: Tensor, side: int, mirrored: bool = True) -> Iterator[Tensor]:
    """The four corners and the centre of images [B, 3, H, W], each [B, 3, side, side], and then their mirror images.

    An odd pixel is left over at the right and at the bottom of the centre.
    """
    height, width = images.shape[-2:]
    right, bottom = width - side, height - side
    for flipped in (False, True) if mirrored else (False,):
        for x, y in ((0, 0), (right, 0), (0, bottom), (right, bottom), (right // 2, bottom // 2)):
            crop = images[..., y : y + side, x : x + side]
            yield crop.flip(-1) if flipped else crop


def mean_prediction(answers: Sequence[Prediction], method: type[Method], hyper: Mapping[str, Any]) -> Prediction:
    """The mean of the scores [B, C] of each crop, and decisions on it where the crops have some."""
    if len(answers) == 1:
        return answers[0]
    scores = torch.stack([answer.scores for answer in answers]).mean(dim=0)
    return Prediction(scores, None if answers[0].decisions is None else method.decide(scores, hyper))


def check_crops(protocol: Protocol, method: type[Method], track: str) -> None:
    """UsageError where `protocol` asks for crops that `method` cannot be shown, or that would change nothing."""
    if protocol.inference.crops == 1:
        return
    asked = f"protocol '{protocol.name}' evaluates on {protocol.inference.crops} crops of an image"
    if track == "head":
        raise UsageError(f"{asked}, and track 'head' has features of whole images only: use --track full")
    fixed = [kind for kind in method.inputs if kind in ("boxes", "proposals")]
    if fixed:
        raise UsageError(f"{asked}, and method '{method.name}' takes {' and '.join(fixed)}, which lie in whole images")
    if method.decision_rule and method.decide.__func__ is Method.decide.__func__:  # type: ignore[attr-defined]
        raise UsageError(f"{asked}, and method '{method.name}' decides by more than scores, which is not averaged")


def check_last_phase(protocol: Protocol, method: type[Method], phases: Sequence[Phase]) -> None:
    """UsageError where `protocol` asks for crops and the last phase, which is scored, is fed from pooled features."""
    if protocol.inference.crops > 1 and phases and phases[-1].source == "pooled":
        raise UsageError(
            f"protocol '{protocol.name}' evaluates on {protocol.inference.crops} crops of an image, and the last phase "
            f"of method '{method.name}', '{phases[-1].name}', has pooled features of whole images only"
        )
