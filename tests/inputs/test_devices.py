"""Tensors on their way to the device."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from mlbench.inputs.tensors import on_device


def test_on_the_host_nothing_is_copied() -> None:
    tensor = torch.arange(3)
    assert on_device(tensor, "cpu") is tensor


def test_to_a_gpu_the_host_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    monkeypatch.setattr(Tensor, "pin_memory", lambda self: calls.append("pin") or self)
    monkeypatch.setattr(Tensor, "to", lambda self, *where, **how: calls.append((*where, how)) or self)
    on_device(torch.arange(3), "cuda")
    assert calls == ["pin", ("cuda", {"non_blocking": True})]
