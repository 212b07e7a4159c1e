"""The moving average of a network's weights (EMA) while it is trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class WeightAverage:
    """``a = decay * a + (1 - decay) * w`` after each step, of all floating-point weights and statistics of `network`.

    It starts from the weights before the first step. Whatever is no floating-point number (a count of batches) is
    copied. Every process has its own, which is the same but for running statistics: as everywhere, those of the main
    process count (`World.share_buffers`).
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network, self.decay = network, decay
        self.values = {name: value.detach().clone() for name, value in self._present().items()}

    def _present(self) -> dict[str, Tensor]:
        found = self.network.state_dict()
        return {name: value for name, value in found.items() if not nn.parameter.is_lazy(value)}

    @torch.no_grad()
    def update(self) -> None:
        """Take in the present weights; those that were made only now begin with what they are."""
        for name, value in self._present().items():
            if name not in self.values or not value.is_floating_point():
                self.values[name] = value.detach().clone()
            else:
                self.values[name].mul_(self.decay).add_(value, alpha=1 - self.decay)

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Inside, the network has the averages; afterwards it has its own weights again, to the bit."""
        own = {name: value.detach().clone() for name, value in self._present().items()}
        self._put(self.values)
        try:
            yield
        finally:
            self._put(own)

    @torch.no_grad()
    def _put(self, values: Mapping[str, Tensor]) -> None:
        for name, value in self._present().items():
            value.copy_(values[name])

    def state_dict(self) -> dict[str, Tensor]:
        return dict(self.values)

    def load_state_dict(self, saved: Mapping[str, Tensor]) -> None:
        present = self._present()
        self.values = {name: value.to(present[name].device).clone() for name, value in saved.items()}
