"""Losses on several views, against a teacher and between embeddings: worked by hand, brute force, and at the edges."""

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
from mlbench.baselines.global_consistency import Memory, contrast, plc, plc_targets
from mlbench.baselines.label_distillation import led, mld, structure_distance
from mlbench.baselines.robust_views import (
    ignore,
    ignore_terms,
    masked_images,
    normalised_maps,
    rejected_entries,
    updated_thresholds,
)
from mlbench.errors import UsageError

P, N, U, X = (int(s) for s in (State.POSITIVE, State.NEGATIVE, State.UNKNOWN, State.UNSPECIFIED))


def normal(*shape: int, seed: int = 0, grad: bool = False) -> Tensor:
    made = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return made.requires_grad_(grad)


def labels(*rows: list[int]) -> Tensor:
    return torch.tensor(rows, dtype=torch.int8)


def entropy(logit: float, target: float) -> float:
    p = 1 / (1 + math.exp(-logit))
    return -(target * math.log(p) + (1 - target) * math.log(1 - p))


# -- IGNORE ------------------------------------------------------------------------------------------------------------


def test_maps_are_normalised_over_the_batch_at_each_place_as_released() -> None:
    maps, shown = normal(5, 3, 4), torch.tensor([True, False, True, True, False])
    found = normalised_maps(maps, shown)
    for row, (y, x) in itertools.product(range(5), itertools.product(range(3), range(4))):
        column = [float(maps[other, y, x]) for other in (0, 2, 3)]
        assert found[row, y, x].item() == pytest.approx((float(maps[row, y, x]) - min(column)) / max(column))


def test_one_labelled_image_in_a_batch_is_masked_whole_as_released() -> None:
    maps = normal(3, 2, 2)
    shown = torch.tensor([False, True, False])
    assert (normalised_maps(maps, shown)[1] == 0).all()
    images = torch.ones(3, 3, 8, 8)
    assert masked_images(images, normalised_maps(maps, shown), shown).mean(dim=(1, 2, 3)).tolist() == [1, 0, 1]


def test_nothing_is_divided_by_nothing() -> None:
    maps = torch.stack([torch.zeros(2, 2), -torch.ones(2, 2)])
    for over in ("batch", "image"):
        for shown in ([True, True], [False, False]):
            assert normalised_maps(maps, torch.tensor(shown), over=over).isfinite().all()
    with pytest.raises(UsageError, match="batch, image"):
        normalised_maps(maps, torch.tensor([True, True]), over="images")


def test_a_mask_of_the_image_itself_depends_on_no_other() -> None:
    maps = normal(4, 3, 3)
    found = normalised_maps(maps, torch.ones(4, dtype=torch.bool), over="image")
    assert found.amin(dim=(1, 2)).tolist() == [0] * 4
    assert found.amax(dim=(1, 2)).tolist() == pytest.approx([1] * 4)
    torch.testing.assert_close(found[2:3], normalised_maps(maps[2:3], torch.tensor([True]), over="image"))


def test_pixels_stay_where_the_resized_map_is_above_the_threshold() -> None:
    images, maps = normal(2, 3, 6, 6), torch.rand(2, 3, 3, dtype=torch.float64)
    shown = torch.tensor([True, False])
    found = masked_images(images, maps, shown, threshold=0.5)
    large = functional.interpolate(maps[:1, None], (6, 6), mode="bilinear", align_corners=False)[0, 0]
    for y, x in itertools.product(range(6), range(6)):
        wanted = images[0, :, y, x] if large[y, x] > 0.5 else torch.zeros(3)
        assert torch.equal(found[0, :, y, x], wanted.double())
    assert torch.equal(found[1], images[1])


def test_thresholds_run_and_know_the_present_batch() -> None:
    logits, masked = torch.tensor([[2.0, -1.0], [0.5, 3.0]]), torch.tensor([[1.0, 0.0], [0.0, -1.0]])
    observed = labels([P, U], [U, P])
    change, level = updated_thresholds(
        logits, masked, observed, change=torch.tensor(0.5), level=torch.tensor([0.0, 1.0]), decay=0.9
    )
    assert change.item() == pytest.approx(0.45 + 0.1 * (1.0 + 4.0) / 2)
    assert level.tolist() == pytest.approx([0.1 * 1.25, 0.9 + 0.1 * 1.0])
    kept, _ = updated_thresholds(
        logits, masked, labels([U, U], [N, X]), change=torch.tensor(0.5), level=torch.zeros(2), decay=0.9
    )
    assert kept.item() == 0.5


def test_unknown_entries_that_change_and_lie_high_are_rejected_and_no_others() -> None:
    logits = torch.tensor([[3.0, 3.0, 3.0, 3.0, 0.0]])
    masked = torch.tensor([[0.0, 0.0, 0.0, 2.5, -3.0]])
    found = rejected_entries(
        logits, masked, labels([P, U, N, U, U]), change=torch.tensor(1.0), level=torch.full((5,), 0.5)
    )
    assert found.tolist() == [[False, True, False, False, False]]


def test_ignore_is_its_three_terms_each_a_mean_over_what_it_counts() -> None:
    weak, strong = normal(2, 3, grad=True), normal(2, 3, seed=1, grad=True)
    observed = labels([P, U, U], [N, U, X])
    rejected = torch.tensor([[False, True, False], [False, False, False]])
    terms = ignore_terms(weak, observed, strong=strong, rejected=rejected, positive_weight=0.3, consistency_weight=0.7)
    w, s = weak.detach().numpy(), strong.detach().numpy()
    assert terms["positives"].item() == pytest.approx(0.3 * entropy(w[0, 0], 1))
    counted = [entropy(s[0, 0], 1), entropy(s[0, 2], 0), entropy(s[1, 0], 0), entropy(s[1, 1], 0)]
    assert terms["assumed"].item() == pytest.approx(np.mean(counted))
    assert terms["consistency"].item() == pytest.approx(0.7 * ((s - w) ** 2).mean())
    total = ignore(weak, observed, strong=strong, rejected=rejected, positive_weight=0.3, consistency_weight=0.7)
    assert total.item() == pytest.approx(sum(term.item() for term in terms.values()))
    gradients = torch.autograd.grad(terms["consistency"], [weak, strong])
    torch.testing.assert_close(gradients[0], -gradients[1])


def test_ignore_with_the_published_guard_inside_the_logarithm() -> None:
    weak, strong, observed = normal(1, 2), normal(1, 2, seed=1), labels([P, U])
    rejected = torch.zeros(1, 2, dtype=torch.bool)
    p, q = weak.sigmoid()[0].tolist(), strong.sigmoid()[0].tolist()
    wanted = -0.5 * math.log(p[0] + 1e-5) - (math.log(q[0] + 1e-5) + math.log(1 - q[1] + 1e-5)) / 2
    wanted += 0.5 * float((strong - weak).square().mean())
    assert ignore(weak, observed, strong=strong, rejected=rejected, eps=1e-5).item() == pytest.approx(wanted)


# -- PLC ---------------------------------------------------------------------------------------------------------------


def test_plc_trusts_what_is_sure_and_what_was_observed() -> None:
    probabilities = torch.tensor([[0.6, 0.61, 0.59, 0.4, 0.41, 0.39, 0.01, 0.99, 0.5, 0.99]], dtype=torch.float64)
    logits = probabilities.logit()
    logits[0, 0] += 1e-9  # rounding of the inverse
    observed = labels([U, U, U, U, U, U, P, N, N, X])
    targets, used = plc_targets(logits, observed, threshold=0.6)
    assert targets.tolist() == [[True, True, False, False, False, False, True, False, False, False]]
    assert used.tolist() == [[True, True, False, False, False, True, True, True, True, False]]


def test_plc_is_the_mean_over_the_entries_used_and_teaches_the_strong_view_alone() -> None:
    weak, strong = normal(3, 4, grad=True), normal(3, 4, seed=1, grad=True)
    observed = labels([P, U, U, U], [U, N, U, X], [U, U, P, U])
    total, count = 0.0, 0
    for i, c in itertools.product(range(3), range(4)):
        q = {P: 1.0, N: 0.0}.get(int(observed[i, c]), weak[i, c].sigmoid().item())
        if observed[i, c] != X and (q >= 0.7 or q < 1 - 0.7):
            total, count = total + entropy(strong[i, c].item(), float(q >= 0.7)), count + 1
    loss = plc(weak, observed, strong=strong, threshold=0.7)
    assert loss.item() == pytest.approx(total / count)
    taught, strong_taught = torch.autograd.grad(loss, [weak, strong], allow_unused=True)
    assert taught is None
    assert (strong_taught != 0).sum() == count


def test_plc_of_entries_none_of_which_is_sure_is_zero_and_has_a_gradient() -> None:
    strong = normal(2, 3, grad=True)
    loss = plc(
        torch.zeros(2, 3, dtype=torch.float64), torch.zeros(2, 3, dtype=torch.int8), strong=strong, threshold=0.9
    )
    assert loss.item() == 0
    assert (torch.autograd.grad(loss, strong)[0] == 0).all()


# -- L2D ---------------------------------------------------------------------------------------------------------------


def test_mld_is_the_divergence_of_each_labels_two_outcomes() -> None:
    student, teacher = normal(3, 4, grad=True), normal(3, 4, seed=1)
    p, q = teacher.sigmoid(), student.detach().sigmoid()
    wanted = p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()
    torch.testing.assert_close(mld(student, teacher, reduction="none"), wanted)
    assert mld(student, teacher).item() == pytest.approx(wanted.sum().item() / 3)
    assert mld(student, student).item() == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_mld_is_finite_where_probabilities_round_to_one(dtype: torch.dtype) -> None:
    values = torch.tensor([[100.0, -100.0, 20.0, -20.0]], dtype=dtype)
    for teacher in (values, -values):
        student = values.clone().requires_grad_()
        loss = mld(student, teacher)
        (gradient,) = torch.autograd.grad(loss, student)
        assert loss.isfinite()
        assert gradient.isfinite().all()
    # One outcome is sure: -log of the chance that the student gives it.
    assert mld(values, -values).item() == pytest.approx(100 + 100 + 20 + 20, rel=1e-6)


def distance_by_loops(a: Tensor, b: Tensor) -> float:
    n = len(a)
    matrices = []
    for points in (a, b):
        d = [[0.0 if i == j else max(((points[i] - points[j]) ** 2).sum().item(), 1e-12) ** 0.5 for j in range(n)] for i in range(n)]  # fmt: skip # noqa: E501
        mean = sum(map(sum, d)) / (n * (n - 1))
        matrices.append([[value / mean for value in row] for row in d])
    total = 0.0
    for i, j in itertools.product(range(n), range(n)):
        gap = abs(matrices[0][i][j] - matrices[1][i][j])
        total += 0.5 * gap**2 if gap < 1 else gap - 0.5
    return total / n


def test_structure_distance_compares_distances_by_their_own_mean() -> None:
    ours, theirs = normal(5, 3, grad=True), normal(5, 7, seed=1)
    assert structure_distance(ours, theirs).item() == pytest.approx(distance_by_loops(ours.detach(), theirs))
    assert structure_distance(ours, 3 * ours).item() == pytest.approx(0, abs=1e-12)
    same = torch.zeros(3, 2, dtype=torch.float64, requires_grad=True)  # all in one place
    (gradient,) = torch.autograd.grad(structure_distance(same, theirs[:3]), same)
    assert gradient.isfinite().all()


def test_led_goes_through_classes_and_images_with_two_positives_at_least() -> None:
    observed = labels([P, P, U], [P, U, N], [U, P, P], [X, U, U])
    ours, theirs = normal(4, 3, 5, grad=True), normal(4, 3, 6, seed=1)
    o, t = ours.detach(), theirs
    classes = distance_by_loops(o[[0, 1], 0], t[[0, 1], 0]) + distance_by_loops(o[[0, 2], 1], t[[0, 2], 1])
    images = distance_by_loops(o[0, [0, 1]], t[0, [0, 1]]) + distance_by_loops(o[2, [1, 2]], t[2, [1, 2]])
    found = led(ours, theirs, observed, class_weight=2.0, instance_weight=3.0)
    assert found.item() == pytest.approx(2 * classes + 3 * images)


def test_led_of_nothing_to_compare_is_zero_and_an_embedding_of_zeros_does_no_harm() -> None:
    ours = normal(2, 3, 4, grad=True)
    alone = led(ours, normal(2, 3, 4, seed=1), labels([P, U, U], [U, U, U]))
    assert alone.item() == 0
    assert (torch.autograd.grad(alone, ours)[0] == 0).all()
    flat = torch.zeros(3, 3, 4, dtype=torch.float64, requires_grad=True)
    loss = led(flat, normal(3, 3, 4, seed=1), labels([P, P, U], [P, U, U], [U, P, U]))
    assert loss.isfinite()
    assert torch.autograd.grad(loss, flat)[0].isfinite().all()


# -- LAC ---------------------------------------------------------------------------------------------------------------


def test_contrast_is_a_softmax_over_all_others_averaged_over_those_of_the_class() -> None:
    anchors = functional.normalize(normal(5, 3), dim=1).requires_grad_()
    others = functional.normalize(normal(4, 3, seed=1), dim=1)
    classes, other_classes = torch.tensor([0, 1, 0, 2, 3]), torch.tensor([1, 1, 0, 5])
    everything, every_class = torch.cat([anchors, others]).detach(), torch.cat([classes, other_classes]).tolist()
    losses = []
    for i in range(5):
        against = [j for j in range(9) if j != i]
        share = {j: math.exp(float(everything[i] @ everything[j]) / 0.5) for j in against}
        same = [j for j in against if every_class[j] == every_class[i]]
        logs = [-math.log(share[j] / sum(share.values())) for j in same]
        losses.append(sum(logs) / len(logs) if logs else 0.0)
    found = contrast(anchors, classes, others, other_classes, temperature=0.5)
    assert found.item() == pytest.approx(sum(losses) / 5)
    assert torch.autograd.grad(found, anchors)[0].isfinite().all()


def test_contrast_without_anchors_or_with_one_alone_is_zero() -> None:
    none = torch.zeros(0, 3, requires_grad=True)
    index = torch.zeros(0, dtype=torch.int64)
    assert contrast(none, index, none.detach(), index).item() == 0
    one = torch.ones(1, 3, requires_grad=True)
    loss = contrast(one, torch.tensor([2]), none.detach(), index)
    assert loss.item() == 0
    assert torch.autograd.grad(loss, one)[0].isfinite().all()


def entries(*values: int) -> tuple[Tensor, Tensor]:
    return torch.tensor(values, dtype=torch.float32)[:, None], torch.tensor(values, dtype=torch.int64)


def held(memory: Memory) -> list[int]:
    assert (memory.embeddings[memory.classes >= 0, 0].long() == memory.classes[memory.classes >= 0]).all()
    return memory.classes.tolist()


def test_a_queue_lets_the_oldest_go() -> None:
    memory = Memory(5, 1)
    memory.write(*entries(1, 2, 3))
    assert held(memory) == [1, 2, 3, -1, -1]
    assert memory.others(3)[1].tolist() == [2, 3]
    memory.write(*entries(4, 5, 6))
    assert held(memory) == [6, 2, 3, 4, 5]
    memory.write(*entries(*range(10, 17)))  # more than there are places: the last
    assert sorted(held(memory)) == [12, 13, 14, 15, 16]
    memory.write(*entries(20))
    assert 12 not in held(memory)
    memory.write(*entries())
    assert 20 in held(memory)


def test_a_memory_that_starts_again_keeps_what_lies_behind_as_released() -> None:
    memory = Memory(5, 1, "restart")
    memory.write(*entries(1, 2, 3))
    memory.write(*entries(4, 5, 6))  # does not fit
    assert held(memory) == [4, 5, 6, -1, -1]
    memory.write(*entries(7, 8))
    assert held(memory) == [4, 5, 6, 7, 8]
    memory.write(*entries(9, 10))
    assert held(memory) == [9, 10, 6, 7, 8]
    with pytest.raises(UsageError, match="holds no more"):
        memory.write(*entries(*range(6)))
    with pytest.raises(UsageError, match="queue, restart"):
        Memory(5, 1, "stack")


# -- edges of all ------------------------------------------------------------------------------------------------------


def test_all_stay_finite_at_saturated_logits_with_any_labels() -> None:
    logits, every_state = (torch.tensor(part) for part in saturated())
    for observed in (every_state, *(torch.full_like(every_state, state) for state in (P, N, U, X))):
        for rows in (slice(None), slice(1)):  # and of a batch of one
            x, y = logits[rows].clone().requires_grad_(), observed[rows]
            none = torch.zeros_like(y, dtype=torch.bool)
            for loss in (
                ignore(x, y, strong=-x, rejected=none),
                ignore(x, y, strong=-x, rejected=~none & (y == U)),
                plc(x.detach(), y, strong=-x),
                mld(x, -x.detach()),
            ):
                (gradient,) = torch.autograd.grad(loss, x)
                assert loss.isfinite()
                assert gradient.isfinite().all()


def test_shapes_that_do_not_fit_are_refused() -> None:
    x, y = torch.zeros(2, 3), torch.zeros(2, 3, dtype=torch.int8)
    with pytest.raises(UsageError, match="rejected"):
        ignore(x, y, strong=x, rejected=y)
    with pytest.raises(UsageError, match=r"expected both \[B, C\]"):
        plc(x, y, strong=x[:1])
    with pytest.raises(UsageError, match="threshold"):
        plc(x, y, strong=x, threshold=0.4)
    with pytest.raises(UsageError, match="mld"):
        mld(x, x[:1])
    with pytest.raises(UsageError, match="led"):
        led(x[..., None], x[:1, :, None], y)
