"""Query2Label: an encoder layer over the positions of the maps, and a query for each class that looks at them."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from mlbench.errors import UsageError
from mlbench.models.heads import ClassificationHead, check_features, without_autocast
from mlbench.settings import Hyper


def position_code(height: int, width: int, channels: int, like: Tensor) -> Tensor:
    """Code [height * width, channels] of the positions of a map, row by row; the type and device are those of `like`.

    The first half of the channels tells the row, the second the column. Coordinates of a side of n places are ``2 pi k
    / (n + 1e-6)``, k from 1 to n. Channel i of a half is the sine (i even) or cosine (i odd) of the coordinate divided
    by ``10000 ** (2 * (i // 2) / half)``. The released code makes it once, for one image size; here it is of the map.
    """
    half = channels // 2
    index = torch.arange(half, device=like.device)
    scale = 10000.0 ** (2 * (index // 2).to(like.dtype) / half)

    def along(places: int) -> Tensor:
        steps = torch.arange(1, places + 1, device=like.device, dtype=like.dtype)
        angles = (2 * math.pi * steps / (places + 1e-6))[:, None] / scale
        return torch.where(index % 2 == 0, angles.sin(), angles.cos())

    rows = along(height)[:, None].expand(height, width, half)
    columns = along(width)[None].expand(height, width, half)
    return torch.cat([rows, columns], dim=2).flatten(0, 1)


class _FeedForward(nn.Module):
    """``LN(x + drop(W2 drop(relu(W1 x))))``."""

    def __init__(self, width: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.grow, self.shrink = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.norm, self.dropout = nn.LayerNorm(width), nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x + self.dropout(self.shrink(self.dropout(self.grow(x).relu()))))


class _Look(nn.Module):
    """Attention and a feed-forward network, both with a residual and the norm after it."""

    def __init__(self, width: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(width, heads, dropout, batch_first=True)
        self.norm, self.dropout = nn.LayerNorm(width), nn.Dropout(dropout)
        self.further = _FeedForward(width, hidden, dropout)

    def forward(self, x: Tensor, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        seen, _ = self.attention(query, key, value, need_weights=False)
        return self.further(self.norm(x + self.dropout(seen)))


class Query2Label(ClassificationHead):
    """Query2Label: encoder layers with self-attention, decoder layers with cross-attention, one query a class.

    The position code is added to queries and keys of the encoder and to keys of the decoder, never to values. The
    decoder begins with zeros, to which a class's learned embedding is added as the query of each layer; it has no
    self-attention. Post-norm, ReLU; a last LayerNorm gives the class's embedding h_c, and ``w_c . h_c + b_c`` its
    logit.

    As published, the width is that of the backbone's maps (2048 for a ResNet-50: 150 million parameters). With another
    `width`, maps are first brought to it by a 1x1 convolution, which the released code has behind an option.

    Source: Liu et al., 2021 (arXiv 2107.10834), and its released code.
    """

    hyperparameters = {
        "width": Hyper(0, "numbers of an embedding, a multiple of 4; 0: the maps' channels", low=0, high=65536),
        "heads": Hyper(4, "attention heads, which divide the width", low=1, high=1024),
        "feedforward": Hyper(8192, "hidden numbers of a feed-forward network", low=1, high=1_000_000, tiny=96),
        "encoders": Hyper(1, "encoder layers", low=0, high=64),
        "decoders": Hyper(2, "decoder layers", low=1, high=64),
        "dropout": Hyper(0.1, "share dropped in training", low=0.0, high=0.99),
    }
    gives = ("embeddings",)

    def __init__(
        self,
        channels: int,
        classes: int,
        width: int = 0,
        heads: int = 4,
        feedforward: int = 8192,
        encoders: int = 1,
        decoders: int = 2,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if channels < 1 or classes < 1:
            raise UsageError(f"a head needs at least one channel and one class, got {channels} and {classes}")
        self.channels, width = channels, width or channels
        if width % heads or width % 4:
            raise UsageError(
                f"head 'q2l': width {width}: expected a multiple of 4 and of head.heads = {heads}; give --set "
                "head.width=... where the backbone's own does not fit"
            )
        self.project = nn.Identity() if width == channels else nn.Conv2d(channels, width, 1)
        settings = width, heads, feedforward, dropout
        self.encoder = nn.ModuleList(_Look(*settings) for _ in range(encoders))
        self.decoder = nn.ModuleList(_Look(*settings) for _ in range(decoders))
        for module in (self.encoder, self.decoder):
            for parameter in module.parameters():
                if parameter.dim() > 1:
                    nn.init.xavier_uniform_(parameter)
        self.norm = nn.LayerNorm(width)
        self.queries = nn.Parameter(torch.randn(classes, width))
        bound = 1 / math.sqrt(width)
        self.weight = nn.Parameter(torch.empty(classes, width).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(classes).uniform_(-bound, bound))

    def forward(self, features: Tensor) -> Tensor:
        """Logits [B, C] of feature maps [B, D, h, w], of any size."""
        return self.classify(self.embed(features))

    def embed(self, features: Tensor) -> Tensor:
        """Embeddings [B, C, width] of the classes."""
        check_features(features, self.channels)
        with without_autocast(features.device):
            maps = self.project(features.to(self.weight.dtype))
            _, width, rows, columns = maps.shape
            places = position_code(rows, columns, width, maps)
            memory = maps.flatten(2).transpose(1, 2)
            for layer in self.encoder:
                placed = memory + places
                memory = layer(memory, placed, placed, memory)
            placed = memory + places
            found = memory.new_zeros(len(features), *self.queries.shape)
            for layer in self.decoder:
                found = layer(found, found + self.queries, placed, memory)
            return self.norm(found)

    def classify(self, embeddings: Tensor) -> Tensor:
        """Logits [B, C] of the embeddings that `embed` gives."""
        with without_autocast(embeddings.device):
            return (embeddings.to(self.weight.dtype) * self.weight).sum(dim=2) + self.bias

    def extra_repr(self) -> str:
        classes, width = self.queries.shape
        return f"{self.channels}, {classes}, width={width}"
