"""Where a run looks at every image: the places at which a pilot looks at a few and measures."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from mlbench.datasets.base import Split
from mlbench.inputs.cache import Advance
from mlbench.inputs.checked import Rows
from mlbench.inputs.features import Features, load_features
from mlbench.inputs.on_the_fly import OnTheFly, open_pixels
from mlbench.inputs.pixels import pixels_sha256

if TYPE_CHECKING:
    from mlbench.methods import Prediction
    from mlbench.runner.feed import Feed


class Probe:
    """What a run looks at its images through. This one looks at all of them, and measures nothing."""

    def open_pixels(self, split: Split, size: int, advance: Advance | None = None) -> Rows | OnTheFly:
        """As `mlbench.inputs.on_the_fly.open_pixels`."""
        return open_pixels(split, size, advance)

    def load_features(
        self,
        split: Split,
        size: int,
        backbone: nn.Module,
        name: str,
        device: torch.device,
        advance: Advance | None = None,
        maps: bool = True,
    ) -> Features:
        """As `mlbench.inputs.features.load_features`."""
        return load_features(split, size, backbone, name, device, advance, maps=maps)

    def pixels_sha256(self, split: Split, size: int) -> str:
        """As `mlbench.inputs.pixels.pixels_sha256`."""
        return pixels_sha256(split, size)

    def predictions(self, predict: Callable[[Feed], Prediction], feed: Feed, part: str) -> Prediction:
        """What `predict` gives for every row of `part` that a feed has; here for all rows."""
        return predict(feed)

    def total(self, count: Callable[[Feed], int], feed: Feed, part: str) -> int:
        """What `count` sums up over every row of `part` that a feed has; here over all rows."""
        return count(feed)

    def phase_loop(self, loop: type[Any]) -> type[Any]:
        """The class that trains a phase, `loop` itself or one made of it."""
        return loop
