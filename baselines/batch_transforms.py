"""Images of a batch put together into others, with labels of three values: LogicMix, MixUp-PME, SpliceMix.

Each transform has two parts: a plan, drawn for the whole batch from a generator on the CPU (so that every process, and
a run that goes on, draws the same), and plain functions that carry it out on images, label states or scores.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from mlbench.annotation import State

#: SpliceMix: grids (rows, columns), and the chance of each.
GRIDS = ((1, 2), (2, 2), (2, 3))
GRID_CHANCES = (0.3, 0.4, 0.3)


def joined_states(states: Tensor, among: int = -2) -> Tensor:
    """States of an image made of several, by logical OR of labels with three values.

    Positive where any is positive; negative where all are known to be; else unknown. An UNSPECIFIED label, which the
    protocol says to ignore, stays so where none is positive.

    Parameters
    ----------
    states : int8 of `State` codes, [..., k, C] of k images by default. among : the dimension of the k images.
    """

    def any_is(state: State) -> Tensor:
        return (states == state).any(dim=among)

    rest = torch.where(any_is(State.UNKNOWN), int(State.UNKNOWN), int(State.NEGATIVE))
    rest = torch.where(any_is(State.UNSPECIFIED), int(State.UNSPECIFIED), rest)
    return torch.where(any_is(State.POSITIVE), int(State.POSITIVE), rest).to(states.dtype)


# -- LogicMix ----------------------------------------------------------------------------------------------------------


def draw_logic_mix(count: int, generator: torch.Generator, share: float = 0.5) -> Tensor:
    """Which images make each of `count` new ones: int64 [count, 3] of rows, -1 where there is none.

    With chance `share` an image is the average of 2 or 3, itself among them; its partners are any rows, with
    replacement.

    Source: LogicMix as in the package mlcpl 0.1.7, MIT (within a batch, share 0.5; as a data set, 1).
    """
    mixed = torch.rand(count, generator=generator, dtype=torch.float64) < share
    three = torch.randint(2, (count,), generator=generator).bool()
    partners = torch.randint(count, (count, 2), generator=generator)
    partners[~mixed] = -1
    partners[~three, 1] = -1
    return torch.cat([torch.arange(count)[:, None], partners], dim=1)


def mean_of(inputs: Tensor, parts: Tensor) -> Tensor:
    """Plain average [n, ...] of the rows of `inputs` [B, ...] that `parts` int64 [n, k] names (-1: none)."""
    there = parts >= 0
    chosen = inputs[parts.clamp(min=0)] * there.reshape(*there.shape, *[1] * (inputs.ndim - 1)).to(inputs)
    return chosen.sum(dim=1) / there.sum(dim=1).reshape(-1, *[1] * (inputs.ndim - 1)).to(inputs)


def states_of(states: Tensor, parts: Tensor) -> Tensor:
    """`joined_states` [n, C] of the rows of `states` int8 [B, C] that `parts` int64 [n, k] names (-1: none)."""
    chosen = states[parts.clamp(min=0)]
    nothing = torch.full_like(chosen, int(State.NEGATIVE))  # adds nothing to an OR
    return joined_states(torch.where((parts >= 0)[..., None], chosen, nothing))


# -- MixUp-PME ---------------------------------------------------------------------------------------------------------


class Pairs(NamedTuple):
    """A plan of MixUp-PME: the partner of each row, int64 [B], and the share of the row itself, float64 [B]."""

    partner: Tensor
    share: Tensor


def draw_pairs(count: int, generator: torch.Generator, least: float = 0.75) -> Pairs:
    """Partners with replacement, shares even between `least` and 1."""
    partner = torch.randint(count, (count,), generator=generator)
    share = least + (1 - least) * torch.rand(count, generator=generator, dtype=torch.float64)
    return Pairs(partner, share)


def mixed_targets(states: Tensor, partners: Tensor, share: Tensor) -> Tensor:
    """Targets [B, C] of mixed images: `share` [B] of one's, the rest of the partner's; any that is not known is 0.5.

    Parameters
    ----------
    states, partners : int8 [B, C] of `State` codes, of the images and of those they are mixed with.
    """

    def values(labels: Tensor) -> Tensor:
        known = torch.where(labels == State.POSITIVE, 1.0, 0.0).to(share.dtype)
        return known.masked_fill((labels == State.UNKNOWN) | (labels == State.UNSPECIFIED), 0.5)

    return share[:, None] * values(states) + (1 - share[:, None]) * values(partners)


# -- SpliceMix ---------------------------------------------------------------------------------------------------------


class Splice(NamedTuple):
    """A plan of SpliceMix: a grid, and for each of M mixed images the rows of its tiles and which of them are kept.

    tiles : int64 [M, rows * columns], row by row. kept : bool of the same shape.
    """

    rows: int
    columns: int
    tiles: Tensor
    kept: Tensor

    def of(self, mixes: Tensor) -> Splice:
        """The plan of some of the mixed images."""
        return self._replace(tiles=self.tiles[mixes], kept=self.kept[mixes])


def draw_splice(count: int, generator: torch.Generator, drop: float = 0.3) -> Splice:
    """The plan of ``count // 4`` mixed images of a batch of `count`.

    One grid a batch: 1 x 2, 2 x 2 or 2 x 3, transposed in half of the cases. Tiles are taken in order from random
    permutations of the batch, one after another: an image may be in several mixes and, where two permutations meet,
    twice in one. With chance `drop`, drawn once for the batch, each mixed image loses from 1 tile up to all but one
    (1 of 1 x 2, 1 to 3 of 2 x 2, 1 to 5 of 2 x 3), how many and which being drawn for each.

    Source: Zhu et al., TMM 2025 (SpliceMix): SpliceMix.py of the released code, MIT. Whether the chance to drop is
    drawn for a batch or for an image is open; here for the batch.
    """
    uniform = torch.rand(3, generator=generator, dtype=torch.float64)
    grid = int(
        torch.searchsorted(torch.tensor(GRID_CHANCES, dtype=torch.float64).cumsum(0)[:-1], uniform[0], right=True)
    )
    rows, columns = GRIDS[grid]
    if uniform[1] < 0.5:
        rows, columns = columns, rows
    mixes, each = count // 4, rows * columns
    rounds = -(-mixes * each // count) if count else 0
    order = [torch.randperm(count, generator=generator) for _ in range(rounds)]
    tiles = (
        torch.cat(order)[: mixes * each].reshape(mixes, each) if order else torch.zeros((0, each), dtype=torch.int64)
    )
    if uniform[2] >= drop:
        return Splice(rows, columns, tiles, torch.ones_like(tiles, dtype=torch.bool))
    lost = torch.randint(1, each, (mixes, 1), generator=generator)
    place = torch.rand((mixes, each), generator=generator, dtype=torch.float64).argsort(dim=1).argsort(dim=1)
    return Splice(rows, columns, tiles, place >= lost)


def shrink(images: Tensor, height: int, width: int) -> Tensor:
    """Images [B, D, H, W] at another size: bilinear, corners aligned, without antialiasing."""
    if images.shape[-2:] == (height, width):
        return images
    return functional.interpolate(images, size=(height, width), mode="bilinear", align_corners=True)


def spliced_images(images: Tensor, splice: Splice) -> Tensor:
    """Mixed images [M, D, H, W] of `images` [B, D, H, W]; dropped tiles are 0, which is the mean colour.

    Where the sides cannot be divided, the mixed image is resized once more, in the same way.
    """
    (height, width), (rows, columns) = images.shape[-2:], (splice.rows, splice.columns)
    small = shrink(images, height // rows, width // columns)[splice.tiles]  # [M, T, D, h, w]
    small = small * splice.kept[:, :, None, None, None].to(small)
    mixes, _, depth, h, w = small.shape
    grid = small.reshape(mixes, rows, columns, depth, h, w).permute(0, 3, 1, 4, 2, 5)
    return shrink(grid.reshape(mixes, depth, rows * h, columns * w), height, width)


def spliced_states(states: Tensor, splice: Splice) -> Tensor:
    """States int8 [M, C] of mixed images: the OR of the tiles kept, of `states` int8 [B, C]."""
    return states_of(states, torch.where(splice.kept, splice.tiles, -1))


def tile_maps(maps: Tensor, splice: Splice) -> Tensor:
    """Feature maps [M, T, D, h', w'] of the tiles in those of mixed images, [M, D, h, w].

    Maps whose sides cannot be divided are resized first, to the next sizes that can.
    """
    (mixes, depth, height, width), (rows, columns) = maps.shape, (splice.rows, splice.columns)
    h, w = -(-height // rows), -(-width // columns)
    grid = shrink(maps, h * rows, w * columns).reshape(mixes, depth, rows, h, columns, w)
    return grid.permute(0, 2, 4, 1, 3, 5).reshape(mixes, rows * columns, depth, h, w)
