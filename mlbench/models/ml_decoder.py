"""ML-Decoder: fixed queries look at the positions of the maps, and each query speaks for a group of classes."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from mlbench.errors import UsageError
from mlbench.models.heads import ClassificationHead, check_features, without_autocast
from mlbench.settings import Hyper

#: Queries where their number is not given, at most.
MOST_QUERIES = 100


class MLDecoder(ClassificationHead):
    """ML-Decoder: one decoder layer with cross-attention only, whose queries are drawn once and never trained.

    Positions [B, h*w, D] pass ``Linear(D, width)`` and ReLU; there is no position code. Of G queries N(0, 1) each makes
    an embedding of `width`; with post-norm: ``LN(2 q)`` (the first term under dropout in training), cross-attention, a
    feed-forward network with ReLU. Class ``g * f + j`` is output j of the f = ceil(C / G) outputs of query g; outputs
    beyond C are cut, so that of 312 classes and 100 queries 78 are in use.

    With a query for each class its embedding is that class's (``embed``).

    Source: Ridnik et al., WACV 2023, and its released code, which does not run on PyTorch 2.
    """

    hyperparameters = {
        "queries": Hyper(0, f"groups of classes; 0: one a class, at most {MOST_QUERIES}", low=0, high=100_000),
        "width": Hyper(768, "numbers of an embedding", low=1, high=65536, tiny=64),
        "heads": Hyper(8, "attention heads, which divide the width", low=1, high=1024),
        "feedforward": Hyper(2048, "hidden numbers of the feed-forward network", low=1, high=1_000_000, tiny=96),
        "dropout": Hyper(0.1, "share dropped in training", low=0.0, high=0.99),
    }
    gives = ("embeddings",)

    def __init__(
        self,
        channels: int,
        classes: int,
        queries: int = 0,
        width: int = 768,
        heads: int = 8,
        feedforward: int = 2048,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if channels < 1 or classes < 1:
            raise UsageError(f"a head needs at least one channel and one class, got {channels} and {classes}")
        queries = queries or min(MOST_QUERIES, classes)
        if queries > classes:
            raise UsageError(f"head.queries = {queries}: expected at most one for each of {classes} classes")
        if width % heads:
            raise UsageError(f"head.width = {width}: expected a multiple of head.heads = {heads}")
        self.channels, self.classes = channels, classes
        self.memory = nn.Linear(channels, width)
        self.register_buffer("queries", torch.randn(queries, width))
        self.attention = nn.MultiheadAttention(width, heads, dropout, batch_first=True)
        self.grow, self.shrink = nn.Linear(width, feedforward), nn.Linear(feedforward, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.dropout = nn.Dropout(dropout)
        self.weight = nn.Parameter(nn.init.xavier_normal_(torch.empty(queries, width, -(-classes // queries))))
        self.bias = nn.Parameter(torch.zeros(classes))

    def forward(self, features: Tensor) -> Tensor:
        """Logits [B, C] of feature maps [B, D, h, w]."""
        with without_autocast(features.device):
            return self._logits(self.decode(features))

    def embed(self, features: Tensor) -> Tensor:
        """Embeddings [B, C, width] of the classes."""
        if len(self.weight) != self.classes:
            raise UsageError(
                f"head 'ml_decoder' has {len(self.weight)} queries for {self.classes} classes, and so no embedding for "
                f"each class: give --set head.queries={self.classes}"
            )
        with without_autocast(features.device):
            return self.decode(features)

    def classify(self, embeddings: Tensor) -> Tensor:
        """Logits [B, C] of the embeddings that `embed` gives."""
        with without_autocast(embeddings.device):
            return self._logits(embeddings.to(self.weight.dtype))

    def decode(self, features: Tensor) -> Tensor:
        """What the queries make of feature maps [B, D, h, w]: [B, G, width]."""
        check_features(features, self.channels)
        memory = self.memory(features.to(self.weight.dtype).flatten(2).transpose(1, 2)).relu()
        queries: Tensor = self.queries  # type: ignore[assignment]
        found = queries.expand(len(features), -1, -1)
        found = self.norms[0](found + self.dropout(found))
        seen, _ = self.attention(found, memory, memory, need_weights=False)
        found = self.norms[1](found + self.dropout(seen))
        further = self.shrink(self.dropout(functional.relu(self.grow(found))))
        return self.norms[2](found + self.dropout(further))

    def extra_repr(self) -> str:
        return f"{self.channels}, {self.classes}, queries={len(self.weight)}"

    def _logits(self, embeddings: Tensor) -> Tensor:
        groups = torch.einsum("bgw,gwf->bgf", embeddings, self.weight)
        return groups.flatten(1)[:, : self.classes] + self.bias
