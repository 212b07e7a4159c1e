"""A trained run as it would be used: from pixels to scores, through everything that inference needs."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mlbench.errors import UsageError
from mlbench.inputs.checked import Rows
from mlbench.inputs.pixels import load_pixels
from mlbench.inputs.tensors import normalise
from mlbench.methods import Batch, Prediction
from mlbench.models.backbones import BACKBONES
from mlbench.runner.feed import start_backbone, takes_maps
from mlbench.runner.trained import reload_network, reload_run
from mlbench.store import is_submitted


class Deployed:
    """A finished run brought back with the selected weights.

    On track `head` the frozen backbone belongs to it: features are computed from the pixels asked about, and rounded
    as cached ones are.
    """

    def __init__(
        self,
        record: dict[str, Any],
        store: Path | None = None,
        data_root: Path | None = None,
        weights: Path | None = None,
        dataset: str | None = None,
        device: str = "cpu",
    ) -> None:
        if is_submitted(record):
            raise UsageError(f"run {record['key'][:16]} was submitted as predictions: there is no network to ask")
        self.record = record
        self.run = reload_run(record, data_root, weights, dataset)
        self.method, self.network, self.feed = reload_network(self.run, store, device)
        self.device = self.feed.device
        self.trunk = start_backbone(self.run).to(self.device).eval() if self.run.track == "head" else None
        self.size = self.run.train.image_size

    @property
    def name(self) -> str:
        return self.run.method.name

    def modules(self) -> nn.ModuleList:
        """All that is needed to go from pixels to scores."""
        return nn.ModuleList([self.network] if self.trunk is None else [self.trunk, self.network])

    def pixels(self) -> Rows:
        """The test pictures as this run takes them: uint8 [N, size, size, 3]."""
        return load_pixels(self.run.dataset.splits["test"], self.size)

    def batch(self, rows: np.ndarray, pixels: np.ndarray) -> Batch:
        """Test rows `rows` [B] with `pixels` uint8 [B, size, size, 3] in place of their own.

        What the method takes beside the image (proposals) stays that of the row's own picture.
        """
        trunk = BACKBONES[self.run.backbone]
        images = normalise(torch.from_numpy(np.ascontiguousarray(pixels)).to(self.device), trunk.mean, trunk.std)
        return dataclasses.replace(self.feed.batch("test", rows, None), inputs=images)

    def predict(self, batch: Batch) -> Prediction:
        """The method's answer to a `batch` of images; features are computed here on track `head`."""
        bfloat16 = self.run.request.precision == "bf16"
        with torch.inference_mode():
            if self.trunk is not None:
                features = self.trunk(batch.inputs).half().to(batch.inputs.dtype)
                pooled = not takes_maps(self.network)
                features = features.mean(dim=(2, 3), keepdim=True) if pooled else features
                batch = dataclasses.replace(batch, inputs=features)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=bfloat16):
                answer = self.method.predict(self.network, batch)
        return answer if isinstance(answer, Prediction) else Prediction(answer)

    def scores(self, rows: np.ndarray, pixels: np.ndarray) -> Tensor:
        """Scores float32 [B, C] on the CPU; arguments as for `batch`."""
        return self.predict(self.batch(rows, pixels)).scores.float().cpu()
