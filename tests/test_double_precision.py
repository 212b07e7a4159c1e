"""Comparing processes in float64: what is inside, what is not, and that nothing of it stays behind."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import nn

from mlbench.conformance.suite import double_precision, make_request, read_scores
from mlbench.conformance.testing import tiny_dataset
from mlbench.inputs.tensors import normalise
from mlbench.methods import Batch, Method, Step
from mlbench.registry import load_method
from mlbench.runner.execute import Options, run


def test_networks_images_and_guards_against_half_precision_are_double_inside() -> None:
    pixels = torch.randint(0, 256, (2, 4, 4, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with double_precision():
        assert nn.Linear(2, 2).weight.dtype == torch.float64
        assert torch.zeros(2, dtype=torch.float16).float().dtype == torch.float64
        assert torch.zeros(2).to(torch.float32).dtype == torch.float32  # what is stored
        images = normalise(pixels, (0.5, 0.4, 0.3), (0.25, 0.25, 0.2))
    wanted = (pixels.double() / 255 - torch.tensor([0.5, 0.4, 0.3]).double()) / torch.tensor([0.25, 0.25, 0.2]).double()
    assert images.dtype == torch.float64
    torch.testing.assert_close(images, wanted.permute(0, 3, 1, 2), rtol=1e-6, atol=1e-6)
    assert normalise(pixels, (0.5,) * 3, (0.25,) * 3).dtype == torch.float32


def test_nothing_stays_behind_after_an_error() -> None:
    def fail() -> None:
        with double_precision():
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert torch.get_default_dtype() == torch.float32
    assert torch.zeros(2, dtype=torch.float16).float().dtype == torch.float32


@pytest.mark.parametrize("track", ["full", "head"])
def test_a_run_is_double_throughout_and_stores_single(
    track: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = set()
    method = load_method("an")
    plain = Method.training_step

    def watched(self: Method, network: nn.Module, batch: Batch, step: Step) -> torch.Tensor:
        loss = plain(self, network, batch, step)
        assert isinstance(loss, torch.Tensor)
        seen.update({batch.inputs.dtype, loss.dtype, *(p.dtype for p in network.parameters())})
        return loss

    monkeypatch.setattr(method, "training_step", watched)
    request = make_request(method, track, tmp_path, tiny_dataset())
    options = Options(store=tmp_path / "double", device="cpu", quiet=True)
    with double_precision():
        double = run(request, options)
    assert seen == {torch.float64}
    assert read_scores(tmp_path / "double", double).dtype == "float32"
    run(request, dataclasses.replace(options, store=tmp_path / "single"))
    assert seen == {torch.float64, torch.float32}
