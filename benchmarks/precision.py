"""How far gradients in fp32 and in bf16 (autocast, as the runner uses it) are from those in float64, and why.

Relative distance of the whole gradient, of the first and of the last convolution or linear layer, and the cosine of the
whole one; on random images and labels, at the network's random start, with the same weights in each precision. Variants
change one thing each, to tell what the distance comes from: running statistics in place of the batch's in BatchNorm, a
smooth function in place of ReLU, images rounded to bf16 with all else in fp32, weights likewise. Images in channels-
last form are beside those in the form in which a tensor is made.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click
import torch
from timing import OUTPUT, about, markdown, write
from torch import Tensor, nn
from torch.nn import functional

from mlbench.models.backbones import build_backbone

#: Pixels of a side and images of a batch.
NETWORKS = {"scenes": (64, 16), "resnet18": (64, 8), "resnet50": (64, 8)}
CLASSES = 20


class Network(nn.Module):
    """A trunk, the mean over places, and a linear layer."""

    def __init__(self, name: str, pixels: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.trunk = build_backbone(name, image_size=pixels)
        with torch.no_grad():
            width = self.trunk.eval()(torch.zeros(1, 3, pixels, pixels)).shape[1]
        self.head = nn.Linear(width, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.trunk(images).mean((2, 3)))


def gradients(network: nn.Module, images: Tensor, targets: Tensor, bf16: bool = False) -> dict[str, Tensor]:
    """Of the mean binary cross-entropy, by name, in float64."""
    network.zero_grad(set_to_none=True)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        logits = network(images)
    loss = functional.binary_cross_entropy_with_logits(logits.to(targets.dtype), targets)
    loss.backward()
    return {name: p.grad.double() for name, p in network.named_parameters() if p.grad is not None}


def apart(found: Mapping[str, Tensor], true: Mapping[str, Tensor]) -> dict[str, float]:
    deep = [name for name, value in true.items() if value.ndim > 1]
    a, b = (torch.cat([side[name].flatten() for name in true]) for side in (found, true))

    def far(name: str) -> float:
        return float((found[name] - true[name]).norm() / true[name].norm())

    return {
        "whole": float((a - b).norm() / b.norm()),
        "first": far(deep[0]),
        "last": far(deep[-1]),
        "cosine": float(functional.cosine_similarity(a, b, dim=0)),
    }


def smooth(network: nn.Module) -> nn.Module:
    """Each ReLU replaced by softplus, which has no edge that a rounded value may fall to either side of."""
    for name, child in network.named_children():
        setattr(network, name, nn.Softplus()) if isinstance(child, nn.ReLU) else smooth(child)
    return network


def rounded(network: nn.Module) -> nn.Module:
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(parameter.bfloat16().to(parameter.dtype))
    return network


def measure(name: str, pixels: int, batch: int) -> dict[str, dict[str, float]]:
    draw = torch.Generator().manual_seed(1)
    images = torch.randn(batch, 3, pixels, pixels, generator=draw)
    targets = (torch.rand(batch, CLASSES, generator=draw) < 0.1).float()
    start = Network(name, pixels)

    def beside(change: Callable[[nn.Module], nn.Module], bf16: bool, seen: Tensor = images, train: bool = True) -> Any:
        mine = change(copy.deepcopy(start)).train(train)
        exact = change(copy.deepcopy(start)).train(train).double()
        return apart(gradients(mine, seen, targets, bf16), gradients(exact, images.double(), targets.double()))

    def whole(network: nn.Module) -> nn.Module:
        return network

    coarse = copy.deepcopy(start)
    exact = gradients(copy.deepcopy(start).train().double(), images.double(), targets.double())
    last = images.to(memory_format=torch.channels_last)
    return {
        "fp32": beside(whole, False),
        "fp32, channels last": beside(whole, False, last),
        "bf16": beside(whole, True),
        "bf16, channels last": beside(whole, True, last),
        "bf16, BatchNorm with running statistics": beside(whole, True, train=False),
        "bf16, softplus for ReLU": beside(smooth, True),
        "fp32, images rounded to bf16": beside(whole, False, images.bfloat16().float()),
        "fp32, weights rounded to bf16": apart(gradients(rounded(coarse).train(), images, targets), exact),
    }


@click.command(help=__doc__)
@click.option("--networks", default=",".join(NETWORKS), show_default=True)
@OUTPUT
def main(networks: str, output: Path) -> None:
    found = {name: measure(name, *NETWORKS[name]) for name in networks.split(",")}
    texts = []
    for name, ways in found.items():
        rows = [
            (way, *(f"{one[key]:.1e}" for key in ("whole", "first", "last")), f"{one['cosine']:.5f}")
            for way, one in ways.items()
        ]
        pixels, batch = NETWORKS[name]
        heads = ["gradients in", "whole", "first layer", "last layer", "cosine"]
        texts.append(f"{name}, {pixels} px, {batch} images: distance to float64\n\n{markdown(rows, heads)}")
    write(output, "precision", about(), found, "\n\n".join(texts))


if __name__ == "__main__":
    main()
