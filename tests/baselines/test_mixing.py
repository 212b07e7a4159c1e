"""Batch transforms with labels of three values: plans, what is made of them, by brute force; and their methods."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from loss_checks import saturated
from torch import Tensor
from torch.nn import functional

from mlbench.annotation import State
from mlbench.baselines.batch_transforms import (
    Splice,
    draw_logic_mix,
    draw_pairs,
    draw_splice,
    joined_states,
    mean_of,
    mixed_targets,
    spliced_images,
    spliced_states,
    states_of,
    tile_maps,
)
from mlbench.baselines.mixing import mixup_pme, splice_consistency
from mlbench.errors import UsageError

STATES = [int(state) for state in State]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def joined(labels: list[int]) -> int:
    """OR of three values, written as one would say it."""
    if State.POSITIVE in labels:
        return State.POSITIVE
    if State.UNSPECIFIED in labels:
        return State.UNSPECIFIED
    return State.UNKNOWN if State.UNKNOWN in labels else State.NEGATIVE


# -- labels ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("images", [1, 2, 3])
def test_states_are_joined_as_a_logical_or_of_three_values(images: int) -> None:
    for labels in itertools.product(STATES, repeat=images):
        states = torch.tensor(labels, dtype=torch.int8)[:, None]
        assert joined_states(states).tolist() == [joined(list(labels))], labels
        assert joined_states(states).dtype == torch.int8


def test_an_or_is_right_whatever_the_unknown_labels_truly_are() -> None:
    for labels in itertools.product((State.POSITIVE, State.NEGATIVE, State.UNKNOWN), repeat=3):
        choices = [(1, -1) if label == State.UNKNOWN else (int(label),) for label in labels]
        truths = {max(truth) for truth in itertools.product(*choices)}
        found = int(joined_states(torch.tensor(labels, dtype=torch.int8)[:, None]))
        assert found == (truths.pop() if len(truths) == 1 else State.UNKNOWN)


# -- LogicMix ----------------------------------------------------------------------------------------------------------


def test_logicmix_averages_and_joins_what_its_plan_says() -> None:
    parts = torch.tensor([[0, -1, -1], [1, 3, -1], [2, 2, 0], [3, -1, -1]])
    inputs = torch.randn(4, 2, 3, generator=generator(), dtype=torch.float64)
    states = torch.tensor([[1, -1, 0], [-1, -1, 2], [0, -1, -1], [-1, 0, 0]], dtype=torch.int8)
    wanted = torch.stack([inputs[0], (inputs[1] + inputs[3]) / 2, (2 * inputs[2] + inputs[0]) / 3, inputs[3]])
    torch.testing.assert_close(mean_of(inputs, parts), wanted)
    assert torch.equal(mean_of(inputs, parts)[0], inputs[0])
    assert states_of(states, parts).tolist() == [[1, -1, 0], [-1, 0, 2], [1, -1, 0], [-1, 0, 0]]


def test_logicmix_mixes_the_share_asked_for_in_twos_and_threes_with_any_partner() -> None:
    parts = torch.cat([draw_logic_mix(50, generator(seed), share=0.5) for seed in range(400)])
    sizes = (parts >= 0).sum(dim=1)
    assert (parts[:, 0] == torch.arange(50).repeat(400)).all()
    shares = [(sizes == size).double().mean().item() for size in (1, 2, 3)]
    assert shares == pytest.approx([0.5, 0.25, 0.25], abs=4 * math.sqrt(0.25 / len(parts)))
    partners = parts[:, 1:][parts[:, 1:] >= 0]
    assert partners.bincount(minlength=50).double().std() / (len(partners) / 50) < 0.1  # any, as often
    assert (draw_logic_mix(9, generator(), share=0.0)[:, 1:] == -1).all()
    assert (draw_logic_mix(9, generator(), share=1.0)[:, 1] >= 0).all()
    assert draw_logic_mix(1, generator(3), share=1.0)[0, :2].tolist() == [0, 0]


# -- MixUp-PME ---------------------------------------------------------------------------------------------------------


def test_mixup_targets_are_shares_of_the_labels_and_a_half_where_unknown() -> None:
    value = {State.POSITIVE: 1.0, State.NEGATIVE: 0.0, State.UNKNOWN: 0.5, State.UNSPECIFIED: 0.5}
    pairs = list(itertools.product(State, repeat=2))
    first, second = (torch.tensor([column], dtype=torch.int8) for column in zip(*pairs, strict=True))
    found = mixed_targets(first, second, torch.tensor([0.8], dtype=torch.float64))
    assert found[0].tolist() == pytest.approx([0.8 * value[a] + 0.2 * value[b] for a, b in pairs])


def test_mixup_counts_entries_whose_own_label_is_known_and_divides_by_all() -> None:
    logits = torch.randn(3, 4, generator=generator(), dtype=torch.float64)
    first = torch.tensor([[1, -1, 0, 2], [1, 0, 0, 0], [0, 0, 0, 0]], dtype=torch.int8)
    second = torch.tensor([[-1, 0, 1, 1], [1, 1, 1, 1], [-1, -1, 1, 0]], dtype=torch.int8)
    share = torch.tensor([0.75, 0.9, 1.0], dtype=torch.float64)
    p = logits.sigmoid()

    def entropy(x: Tensor, target: float) -> Tensor:
        return -(target * x.log() + (1 - target) * (1 - x).log())

    wanted = entropy(p[0, 0], 0.75) + entropy(p[0, 1], 0.25 * 0.5) + entropy(p[1, 0], 1.0)
    assert float(mixup_pme(logits, first, partners=second, share=share)) == pytest.approx(float(wanted / 12))
    entries = mixup_pme(logits, first, partners=second, share=share, reduction="none")
    assert (entries != 0).sum() == 3


def test_mixup_shares_lie_between_the_least_and_one() -> None:
    partner, share = draw_pairs(20_000, generator(), least=0.75)
    assert 0.75 <= share.min() < 0.7502
    assert 0.9998 < share.max() <= 1
    assert share.mean().item() == pytest.approx(0.875, abs=0.002)
    assert partner.min() == 0
    assert partner.max() == 19_999


# -- SpliceMix ---------------------------------------------------------------------------------------------------------


def test_splicemix_grids_drops_and_tiles_have_their_chances() -> None:
    plans = [draw_splice(16, generator(seed)) for seed in range(4000)]
    grids = [(plan.rows, plan.columns) for plan in plans]
    chances = {(1, 2): 0.15, (2, 1): 0.15, (2, 2): 0.4, (2, 3): 0.15, (3, 2): 0.15}
    assert set(grids) == set(chances)
    for grid, chance in chances.items():
        assert grids.count(grid) / len(grids) == pytest.approx(chance, abs=4 * math.sqrt(chance / len(grids)))
    dropped = [plan for plan in plans if not plan.kept.all()]
    assert len(dropped) / len(plans) == pytest.approx(0.3, abs=0.03)
    for plan in plans:
        assert plan.tiles.shape == plan.kept.shape == (4, plan.rows * plan.columns)
        flat = plan.tiles.flatten()
        assert len(set(flat[:16].tolist())) == min(16, len(flat))  # a whole permutation before the next begins
        assert plan.kept.any(dim=1).all()
    lost = {
        grid: {int(n) for plan in dropped if (plan.rows, plan.columns) == grid for n in (~plan.kept).sum(dim=1)}
        for grid in chances
    }
    assert lost == {(1, 2): {1}, (2, 1): {1}, (2, 2): {1, 2, 3}, (2, 3): {1, 2, 3, 4, 5}, (3, 2): {1, 2, 3, 4, 5}}


@pytest.mark.parametrize("count", [0, 1, 3, 4, 7])
def test_splicemix_makes_one_mix_of_each_four_images(count: int) -> None:
    plan = draw_splice(count, generator(1))
    assert len(plan.tiles) == count // 4
    images = torch.randn(count, 3, 8, 8)
    assert spliced_images(images, plan).shape == (count // 4, 3, 8, 8)
    assert spliced_states(torch.zeros(count, 5, dtype=torch.int8), plan).shape == (count // 4, 5)


@pytest.mark.parametrize(("rows", "columns"), [(1, 2), (2, 1), (2, 2), (2, 3), (3, 2)])
@pytest.mark.parametrize("side", [12, 13])
def test_spliced_images_are_their_tiles_side_by_side(rows: int, columns: int, side: int) -> None:
    images = torch.randn(5, 3, side, side, generator=generator(), dtype=torch.float64)
    tiles = torch.randint(5, (2, rows * columns), generator=generator(1))
    kept = torch.ones_like(tiles, dtype=torch.bool)
    kept[1, 0] = False
    found = spliced_images(images, Splice(rows, columns, tiles, kept))
    h, w = side // rows, side // columns
    for mix in range(2):
        whole = torch.zeros(3, rows * h, columns * w, dtype=torch.float64)
        for place, (row, column) in enumerate(itertools.product(range(rows), range(columns))):
            if kept[mix, place]:
                tile = functional.interpolate(
                    images[tiles[mix, place]][None], size=(h, w), mode="bilinear", align_corners=True
                )[0]
                whole[:, row * h : (row + 1) * h, column * w : (column + 1) * w] = tile
        if whole.shape[-2:] != (side, side):
            whole = functional.interpolate(whole[None], size=(side, side), mode="bilinear", align_corners=True)[0]
        torch.testing.assert_close(found[mix], whole)


def test_spliced_states_are_the_or_of_the_tiles_kept() -> None:
    random = np.random.RandomState(0)
    states = random.choice(STATES, size=(6, 30)).astype(np.int8)
    tiles, kept = random.randint(0, 6, (4, 6)), random.rand(4, 6) < 0.6
    kept[:, 0] = True
    found = spliced_states(torch.tensor(states), Splice(2, 3, torch.tensor(tiles), torch.tensor(kept)))
    for mix, c in itertools.product(range(4), range(30)):
        assert found[mix, c] == joined([states[tiles[mix, t], c] for t in range(6) if kept[mix, t]])


@pytest.mark.parametrize("side", [6, 7])
def test_maps_are_cut_where_the_tiles_lie(side: int) -> None:
    maps = torch.randn(2, 4, side, side, generator=generator(), dtype=torch.float64)
    plan = Splice(2, 3, torch.zeros(2, 6, dtype=torch.int64), torch.ones(2, 6, dtype=torch.bool))
    found = tile_maps(maps, plan)
    size = (math.ceil(side / 2) * 2, math.ceil(side / 3) * 3)
    resized = maps if size == (side, side) else functional.interpolate(maps, size, mode="bilinear", align_corners=True)
    h, w = size[0] // 2, size[1] // 3
    for place, (row, column) in enumerate(itertools.product(range(2), range(3))):
        cut = resized[:, :, row * h : (row + 1) * h, column * w : (column + 1) * w]
        torch.testing.assert_close(found[:, place], cut)


def test_tile_consistency_is_cross_entropy_with_the_whole_image() -> None:
    plan = Splice(1, 2, torch.tensor([[2, 0], [1, 1]]), torch.tensor([[True, True], [False, True]]))
    tiles = torch.randn(2, 2, 3, generator=generator(), dtype=torch.float64, requires_grad=True)
    logits = torch.randn(3, 3, generator=generator(1), dtype=torch.float64, requires_grad=True)
    q, p = logits.detach().sigmoid(), tiles.detach().sigmoid()
    total = 0.0
    for mix, place, image in ((0, 0, 2), (0, 1, 0), (1, 1, 1)):
        total -= float((q[image] * p[mix, place].log() + (1 - q[image]) * (1 - p[mix, place]).log()).sum())
    loss = splice_consistency(tiles, logits, splice=plan)
    assert loss.item() == pytest.approx(total / 12)
    found = torch.autograd.grad(loss, [tiles, logits], allow_unused=True)
    assert found[1] is None
    assert (found[0][1, 0] == 0).all()
    assert (found[0][0] != 0).all()
    taught = torch.autograd.grad(splice_consistency(tiles, logits, splice=plan, detach=False), logits)[0]
    assert (taught != 0).all()
    # The released way to leave tiles out: both logits far below 0.
    low = torch.where(plan.kept[..., None], tiles, -1e3)
    seen = torch.where(plan.kept[..., None], logits[plan.tiles], -1e3).sigmoid()
    assert float(functional.binary_cross_entropy_with_logits(low, seen)) == pytest.approx(loss.item())


def test_losses_stay_finite_at_saturated_logits() -> None:
    logits, observed = (torch.tensor(part) for part in saturated())
    x = logits.requires_grad_()
    share = torch.full((4,), 0.8, dtype=torch.float64)
    plan = Splice(1, 2, torch.tensor([[0, 1], [2, 3]]), torch.ones(2, 2, dtype=torch.bool))
    for loss in (
        mixup_pme(x, observed, partners=observed.flip(0), share=share),
        splice_consistency(x.reshape(2, 2, 4), x, splice=plan),
    ):
        (gradient,) = torch.autograd.grad(loss, x)
        assert loss.isfinite()
        assert gradient.isfinite().all()


def test_partners_of_another_shape_are_refused() -> None:
    labels = torch.zeros(2, 3, dtype=torch.int8)
    with pytest.raises(UsageError, match=r"expected both \[B, C\]"):
        mixup_pme(torch.zeros(2, 3), labels, partners=labels[:1], share=torch.ones(2))
