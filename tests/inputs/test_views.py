"""Views: the map of a transformed image, brought back, is the map of the image, for a network that must have it so."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from mlbench.errors import UsageError
from mlbench.inputs.placement import overlaps
from mlbench.inputs.views import QUARTER_TURNS, Between, OneOf, View, whole_shifts
from mlbench.seeds import id_hashes

STRIDE, CELLS = 8, 6
SIDE = STRIDE * CELLS
HASHES = id_hashes([f"image {i}" for i in range(40)])


def network(images: Tensor) -> Tensor:
    """Maps [B, 4, h, w] of the mean colour of each cell: equivariant for all that takes cells to cells."""
    weight = torch.linspace(-1, 1, 12, dtype=images.dtype).reshape(4, 3)
    return torch.einsum("cd,bdhw->bchw", weight, functional.avg_pool2d(images, STRIDE))


def noise(count: int = 8, side: int = SIDE) -> Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(0))


def ramps(count: int = 8) -> Tensor:
    """Colours linear in x and y: interpolation, of pixels and of cells, is exact for them."""
    slopes = torch.randn(count, 3, 3, generator=torch.Generator().manual_seed(1))
    at = (torch.arange(SIDE) + 0.5) / SIDE - 0.5
    down, right = at[:, None], at[None, :]
    return slopes[..., :1, None] * down + slopes[..., 1:2, None] * right + slopes[..., 2:, None]


def inconsistency(view: View, images: Tensor, align=None) -> tuple[float, float]:
    """Mean squared difference over the valid cells, and their share."""
    placement = view.place(len(images), CELLS, HASHES[: len(images)], seed=3)
    maps, other = network(images), network(placement.image(images))
    mask = placement.valid(other)
    assert mask.shape == (len(images), 1, CELLS, CELLS)
    aligned = (align or placement.align)(other)
    return float((maps - aligned).square().masked_select(mask).mean()), float(mask.float().mean())


EXACT = [
    View("plain"),
    View("flip", flip=True),
    *(View(f"turn {degrees}", rotate=float(degrees)) for degrees in (90, 180, 270, -90)),
    View("drawn turn", rotate=QUARTER_TURNS),
    View("shift", shift=(2.0, -1.0)),
    View("drawn shift", shift=whole_shifts(2)),
    View("flip and turn", flip=True, rotate=QUARTER_TURNS),
    View("flip and shift", flip=True, shift=whole_shifts(1)),
    View("turn and shift", rotate=QUARTER_TURNS, shift=whole_shifts(2)),
    View("all", flip=True, rotate=QUARTER_TURNS, shift=whole_shifts(3)),
]


@pytest.mark.parametrize("view", EXACT, ids=lambda view: view.name)
def test_views_by_whole_cells_are_consistent_on_any_image(view: View) -> None:
    error, share = inconsistency(view, noise())
    assert error < 1e-12
    assert (share == 1) == (view.shift == (0.0, 0.0))
    assert share > 0.3


ANY = [
    View("angle", rotate=20.0),
    View("drawn angle", rotate=Between(-45, 45)),
    View("part of a cell", shift=(0.3, -0.7)),
    View("drawn shift", shift=Between(-1.5, 1.5)),
    View("flip and angle", flip=True, rotate=Between(-30, 30)),
    View("all", flip=True, rotate=Between(-30, 30), shift=Between(-1, 1)),
]


@pytest.mark.parametrize("view", ANY, ids=lambda view: view.name)
def test_views_between_cells_are_consistent_where_interpolation_is_exact(view: View) -> None:
    error, share = inconsistency(view, ramps())
    assert error < 1e-12
    assert 0.1 < share < 1


def misaligned(maps: Tensor) -> Tensor:
    """A mirrored grid from corner to corner, sampled as if its ends were edges."""
    at = torch.linspace(1, -1, maps.shape[-1])
    grid = torch.stack([at.expand(len(at), -1), at.flip(0)[:, None].expand(-1, len(at))], dim=-1)
    return functional.grid_sample(maps, grid.expand(len(maps), -1, -1, -1), padding_mode="border", align_corners=False)


def test_a_misaligned_map_is_found_out() -> None:
    view = View("flip", flip=True)
    for images in (noise(), ramps()):
        assert inconsistency(view, images)[0] < 1e-12
        assert inconsistency(view, images, misaligned)[0] > 1e-4
        assert inconsistency(view, images, lambda maps: maps)[0] > 1e-4


@pytest.mark.parametrize("view", [*EXACT[1:], *ANY], ids=lambda view: view.name)
def test_no_alignment_at_all_is_found_out_in_every_view(view: View) -> None:
    assert inconsistency(view, ramps(), lambda maps: maps)[0] > 1e-4


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("turns", [0, 1, 2, 3])
def test_sizes_are_consistent_on_their_common_grid(flip: bool, turns: int) -> None:
    quarters = noise(side=2)
    plain, small = View("plain"), View("small", cells=-2, flip=flip, rotate=90.0 * turns)
    assert (plain.side(64, 8), small.side(64, 8)) == (64, 48)
    maps = network(quarters.repeat_interleave(32, -1).repeat_interleave(32, -2))
    images = quarters.repeat_interleave(24, -1).repeat_interleave(24, -2)
    placement = small.place(len(images), 6)
    other = placement.align(network(placement.image(images)))
    large, less, _ = overlaps(maps, other)
    assert float((large - less).square().max()) < 1e-12
    assert float((large - overlaps(maps, misaligned(other))[1]).square().max()) > 1e-4


@pytest.mark.parametrize(("view", "expected"), [
    (View("v", flip=True), lambda x: x.flip(-1)),
    (View("v", rotate=90.0), lambda x: x.rot90(1, (-2, -1))),
    (View("v", rotate=-90.0), lambda x: x.rot90(-1, (-2, -1))),
    (View("v", flip=True, rotate=180.0), lambda x: x.flip(-1).rot90(2, (-2, -1))),
    (View("v", flip=True, rotate=90.0), lambda x: x.flip(-1).rot90(1, (-2, -1))),
])  # fmt: skip
def test_pixels_and_cells_are_moved_bit_by_bit(view: View, expected) -> None:
    images = noise()
    assert torch.equal(view.image(images), expected(images))
    assert torch.equal(view.align(view.image(images)), images)
    assert view.image(images).dtype == images.dtype


def test_a_shift_moves_by_cells_and_brings_in_zeros() -> None:
    images = noise()
    moved = View("v", shift=(1.0, -2.0)).image(images, stride=STRIDE)
    assert torch.equal(moved[..., STRIDE:, : SIDE - 2 * STRIDE], images[..., : SIDE - STRIDE, 2 * STRIDE :])
    assert not moved[..., :STRIDE, :].any()
    assert not moved[..., SIDE - 2 * STRIDE :].any()
    placement = View("v", shift=(1.0, -2.0)).place(8, CELLS)
    mask = placement.valid(network(moved))
    overlap = torch.zeros(CELLS, CELLS, dtype=torch.bool)
    overlap[:-1, 2:] = True
    assert torch.equal(mask, overlap.expand_as(mask))


def test_a_turned_mask_leaves_out_what_the_view_does_not_show() -> None:
    """Against brute force: the image is 1 everywhere, so a cell of the view is covered if its pixels are all 1."""
    ones = torch.ones(1, 1, 96, 96, dtype=torch.float64)
    for degrees in (10.0, 45.0, 60.0):
        placement = View("v", rotate=degrees).place(1, 12)
        covered = functional.avg_pool2d(placement.image(ones), 8)
        back = placement.align((covered > 1 - 1e-9).double())
        mask = placement.valid(covered)
        assert torch.equal(mask, back > 1 - 1e-9)
        assert not mask[..., 0, 0].any()
        assert mask[..., 5:7, 5:7].all()


def test_gradients_come_back_to_the_cells_they_belong_to() -> None:
    maps = noise(2, CELLS).requires_grad_()
    weights = noise(2, CELLS) + 1
    view = View("v", flip=True, rotate=90.0)
    (view.align(maps) * weights).sum().backward()
    assert torch.equal(maps.grad, view.image(weights))
    double = torch.randn(1, 1, 3, 3, dtype=torch.float64, requires_grad=True)
    placement = View("v", rotate=25.0, shift=(0.4, 0.1)).place(1, 3)
    assert torch.autograd.gradcheck(placement.align, double)


# --- draws ------------------------------------------------------------------------------------------------------------


def matrices(view: View, chosen: slice | list[int] = slice(None), seed: int = 5) -> np.ndarray:
    hashes = HASHES[chosen]
    return view.place(len(hashes), 7, hashes, seed).matrix


DRAWN = View("v", rotate=QUARTER_TURNS, shift=whole_shifts(2))


def test_draws_belong_to_the_sample_and_not_to_its_batch() -> None:
    whole = matrices(DRAWN)
    np.testing.assert_array_equal(matrices(DRAWN, [7, 3, 11]), whole[[7, 3, 11]])
    np.testing.assert_array_equal(matrices(DRAWN), whole)


def test_draws_differ_between_samples_seeds_and_views() -> None:
    whole = matrices(DRAWN)
    assert len(np.unique(whole.reshape(40, 9).round(6), axis=0)) > 15
    other_name = View("w", rotate=DRAWN.rotate, shift=DRAWN.shift)
    for other in (matrices(DRAWN, seed=6), matrices(other_name)):
        assert (np.abs(other - whole).max(axis=(1, 2)) > 1e-6).mean() > 0.5


def test_every_value_is_drawn_about_equally_often_and_no_shift_is_none() -> None:
    hashes = id_hashes([str(i) for i in range(8000)])
    turns = QUARTER_TURNS.pick(hashes, 1)
    assert np.abs(np.array([(turns == t).mean() for t in (90, 180, 270)]) - 1 / 3).max() < 0.03
    values, counts = np.unique(whole_shifts(1).pick(hashes, 1), axis=0, return_counts=True)
    assert len(values) == 8
    assert not (values == 0).all(axis=1).any()
    assert np.abs(counts / 8000 - 1 / 8).max() < 0.02
    angles = Between(-30, 10).pick(hashes, 1)
    assert -30 <= angles.min() < -29.9
    assert 9.9 < angles.max() <= 10
    assert abs(np.corrcoef(angles.T)[0, 1]) < 0.05


# --- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("make", "told"), [
    (lambda: View("v", rotate=float("nan")), "rotate"),
    (lambda: View("v", rotate=OneOf(((1.0, 2.0),))), "rotate"),
    (lambda: View("v", shift=(1.0, float("inf"))), "shift"),
    (lambda: View("v", shift=1.0), "two finite numbers"),
    (lambda: OneOf(()), "at least one"),
    (lambda: Between(3, 1), "lower one first"),
    (lambda: whole_shifts(0), "at least 1 cell"),
    (lambda: DRAWN.place(2, 7), "hashes"),
    (lambda: DRAWN.align(noise(2, 7)), "hashes"),
    (lambda: View("v", cells=-7).side(224, 32), "leave nothing"),
    (lambda: View("v", shift=(1.0, 0.0)).side(225, 32), "no multiple"),
    (lambda: View("v", rotate=90.0).image(torch.zeros(1, 3, 4, 5)), "square"),
])  # fmt: skip
def test_what_cannot_be_a_view_is_refused(make, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        make()


def test_the_second_size_of_vac_is_one_cell_smaller() -> None:
    small = View("small", cells=-1)
    assert [small.side(side, 32) for side in (224, 288)] == [192, 256]
    assert View("v", size=48).side(64, 8) == 48


@pytest.mark.parametrize(("one", "two", "common"), [((7, 7), (6, 6), (42, 42)), ((9, 9), (8, 8), (72, 72)),
                                                    ((4, 6), (2, 9), (4, 18)), ((5, 5), (5, 5), (5, 5))])  # fmt: skip
def test_pieces_stand_for_blocks_of_the_common_grid(one, two, common) -> None:
    a, b = (torch.randn(2, 3, *shape, dtype=torch.float64) for shape in (one, two))
    large, small = (
        x.repeat_interleave(common[0] // x.shape[2], 2).repeat_interleave(common[1] // x.shape[3], 3) for x in (a, b)
    )
    first, second, areas = overlaps(a, b)
    assert areas.sum() == common[0] * common[1]
    torch.testing.assert_close((first * second * areas).sum((2, 3)), (large * small).sum((2, 3)))
    torch.testing.assert_close(((first - second).square() * areas).sum((2, 3)), (large - small).square().sum((2, 3)))
    masks = a[:, :1] > 0, b[:, :1] > 0
    assert overlaps(*masks)[0].dtype == torch.bool
