"""Attention consistency and its controls: losses and gradients against loops in float64, steps against the recipe."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from loss_checks import SIZES, assert_follows, exact, saturated, uniform
from numpy_losses import NEGATIVE, POSITIVE, UNKNOWN, UNSPECIFIED, batch, probability
from torch.nn import functional

from mlbench.annotation import State
from mlbench.baselines.attention_consistency import (
    attention_consistency,
    flip_consistency,
    forward_views,
    heat_maps,
    prediction_consistency,
    scale_consistency,
    weighted_bce,
)
from mlbench.errors import MlbenchError, UsageError
from mlbench.inputs.views import View
from mlbench.methods import Step
from mlbench.models.heads import Classifier, Head, Output
from mlbench.protocol import load_protocol
from mlbench.registry import load_method
from mlbench.runner.feed import Feed
from mlbench.runner.plan import resolve
from mlbench.runner.task import RunTask
from mlbench.runner.world import World

CONTROLS = ("wbce_t", "wbce_r", "wbce_s", "wbce_f", "wbce_fs")
ATTENTIVE = ("vac_t", "vac_r", "vac_s", "vac_f", "vac_fs")
STATES = (POSITIVE, NEGATIVE, UNKNOWN, UNSPECIFIED)
CASES = [*(batch(*size, seed=size[0]) for size in SIZES), saturated(), *(uniform(state) for state in STATES)]


# --- weighted cross-entropy -------------------------------------------------------------------------------------------


def weighted(logits, observed, share):
    """Entries and slopes."""
    positive = observed == POSITIVE
    weight = np.where(positive, np.exp(1 - share), np.exp(share)) * (observed != UNSPECIFIED)
    sign = np.where(positive, -1.0, 1.0)
    return weight * np.logaddexp(0, sign * logits), weight * sign * probability(sign * logits)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
@pytest.mark.parametrize(("logits", "observed"), CASES)
def test_weighted_bce_sums_over_labels_and_averages_over_samples(logits, observed, dtype, tolerance):
    share = np.linspace(0, 1, logits.shape[1])
    entries, slopes = weighted(exact(logits, dtype), observed, share)

    def loss(x, labels, reduction):
        found = weighted_bce(x, labels, torch.tensor(share), reduction=reduction)
        # The shared check wants the mean over entries.
        return found / logits.shape[1] if reduction == "mean" else found

    assert_follows(loss, entries, slopes, exact(logits, dtype), observed, dtype, tolerance)


def test_weighted_bce_of_a_case_by_hand():
    found = weighted_bce(torch.zeros(1, 2), torch.tensor([[1, -1]]), torch.tensor([0.25, 0.25]))
    assert float(found) == pytest.approx(math.log(2) * (math.exp(0.75) + math.exp(0.25)))
    assert weighted_bce(torch.tensor([[-100.0]]), torch.tensor([[1]]), torch.ones(1)).item() == 100.0


@pytest.mark.parametrize(
    ("share", "reduction", "told"), [(torch.zeros(3), "mean", "positive_share"), (torch.zeros(2), "men", "reduction")]
)
def test_weighted_bce_refuses_what_does_not_fit(share, reduction, told):
    with pytest.raises(UsageError, match=told):
        weighted_bce(torch.zeros(1, 2), torch.zeros(1, 2), share, reduction=reduction)


# --- consistency of maps ----------------------------------------------------------------------------------------------


def maps_of(seed, *shape):
    return np.random.RandomState(seed).randn(*shape)


def distance_by_loops(a, b, mask, norm):
    """The loss and its derivative by each value of `a`."""
    count, labels, height, width = a.shape
    total, slope = 0.0, np.zeros_like(a)
    for n in range(count):
        cells = [(y, x) for y in range(height) for x in range(width) if mask[n, y, x]]
        for j in range(labels):
            squares = sum((a[n, j, y, x] - b[n, j, y, x]) ** 2 for y, x in cells)
            scale = 1 / (count * labels * max(1, len(cells)))
            root = math.sqrt(squares)
            total += scale * (squares if norm == "mse" else root)
            for y, x in cells:
                gap = a[n, j, y, x] - b[n, j, y, x]
                slope[n, j, y, x] = scale * (2 * gap if norm == "mse" else gap / root if root else 0.0)
    return total, slope


def check(loss, a, b, value, slope_a, slope_b):
    first, second = (torch.tensor(x, requires_grad=True) for x in (a, b))
    found = loss(first, second)
    assert found.item() == pytest.approx(value, rel=1e-12, abs=1e-15)
    for gradient, slope in zip(torch.autograd.grad(found, (first, second)), (slope_a, slope_b), strict=True):
        np.testing.assert_allclose(gradient.numpy(), slope, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("norm", ["mse", "l2"])
@pytest.mark.parametrize("masked", [False, True])
def test_attention_consistency_follows_its_formula_with_gradients_to_both(norm, masked):
    a, b = maps_of(0, 3, 2, 4, 5), maps_of(1, 3, 2, 4, 5)
    a[1, 0] = b[1, 0]  # a map that agrees: no gradient, and no division by its norm
    mask = np.ones((3, 4, 5), dtype=bool)
    if masked:
        mask = maps_of(2, 3, 4, 5) > 0
        mask[2] = False
    value, slope = distance_by_loops(a, b, mask, norm)
    given = torch.tensor(mask[:, None]) if masked else None
    check(lambda x, y: attention_consistency(x, y, given, norm=norm), a, b, value, slope, -slope)


def test_without_a_mask_it_is_the_mean_squared_error_and_what_a_mask_hides_may_be_anything():
    a, b = (torch.tensor(maps_of(seed, 2, 3, 4, 4)) for seed in (3, 4))
    assert attention_consistency(a, b).item() == pytest.approx(functional.mse_loss(a, b).item(), rel=1e-14)
    mask = torch.ones(2, 1, 4, 4, dtype=torch.bool)
    mask[:, :, 0] = False
    spoilt = a.masked_fill(~mask, math.nan)
    assert attention_consistency(spoilt, b, mask).item() == attention_consistency(a, b, mask).item()


@pytest.mark.parametrize("norm", ["mse", "l2"])
def test_flip_consistency_reverses_the_columns_of_the_second(norm):
    a, b = maps_of(5, 2, 3, 3, 4), maps_of(6, 2, 3, 3, 4)
    value, slope = distance_by_loops(a, b[..., ::-1], np.ones((2, 3, 4), bool), norm)
    check(lambda x, y: flip_consistency(x, y, norm=norm), a, b, value, slope, -slope[..., ::-1])


def scaled_by_loops(a, b, mask_a, mask_b, norm):
    """On the common grid; slopes summed over the blocks."""
    side = math.lcm(a.shape[-1], b.shape[-1])
    s, t = side // a.shape[-1], side // b.shape[-1]
    rows = range(side)
    large = np.array([[a[:, :, y // s, x // s] for x in rows] for y in rows]).transpose(2, 3, 0, 1)
    small = np.array([[b[:, :, y // t, x // t] for x in rows] for y in rows]).transpose(2, 3, 0, 1)
    mask = np.array([[mask_a[:, y // s, x // s] & mask_b[:, y // t, x // t] for x in rows] for y in rows])
    value, slope = distance_by_loops(large, small, mask.transpose(2, 0, 1), norm)

    def blocks(values, factor):
        n, c = values.shape[:2]
        return values.reshape(n, c, side // factor, factor, side // factor, factor).sum(axis=(3, 5))

    return value, blocks(slope, s), blocks(-slope, t)


@pytest.mark.parametrize("norm", ["mse", "l2"])
@pytest.mark.parametrize(("sides", "masked"), [((3, 2), False), ((4, 6), False), ((3, 2), True)])
def test_scale_consistency_compares_on_the_common_grid(norm, sides, masked):
    (h, k), n = sides, 2
    a, b = maps_of(7, n, 2, h, h), maps_of(8, n, 2, k, k)
    mask_a, mask_b = np.ones((n, h, h), bool), np.ones((n, k, k), bool)
    given = {}
    if masked:
        mask_a[0, 0] = mask_b[1, :, 0] = False
        given = {"mask": torch.tensor(mask_a[:, None]), "mask_other": torch.tensor(mask_b[:, None])}
    check(lambda x, y: scale_consistency(x, y, norm=norm, **given), a, b, *scaled_by_loops(a, b, mask_a, mask_b, norm))


def test_prediction_consistency_compares_probabilities():
    a, b = maps_of(9, 3, 4), maps_of(10, 3, 4)
    p, q = probability(a), probability(b)
    slope = 2 * (p - q) / a.size
    check(prediction_consistency, a, b, float(((p - q) ** 2).mean()), slope * p * (1 - p), -slope * q * (1 - q))


@pytest.mark.parametrize(("shapes", "mask", "norm", "told"), [
    (((1, 2, 3, 3), (1, 2, 3, 4)), None, "mse", r"expected both \[N, L, h, w\]"),
    (((2, 3), (2, 3)), None, "mse", r"expected both \[N, L, h, w\]"),
    (((1, 2, 3, 3), (1, 2, 3, 3)), None, "l1", "norm"),
    (((2, 2, 3, 3), (2, 2, 3, 3)), torch.ones(2, 1, 3, 3), "mse", "expected bool"),
    (((2, 2, 3, 3), (2, 2, 3, 3)), torch.ones(3, 1, 3, 3, dtype=torch.bool), "mse", "expected bool"),
])  # fmt: skip
def test_maps_that_do_not_fit_are_refused(shapes, mask, norm, told):
    with pytest.raises(UsageError, match=told):
        attention_consistency(*(torch.zeros(shape) for shape in shapes), mask, norm=norm)


@pytest.mark.parametrize(("shape", "masks", "told"), [
    ((2, 3, 3, 3), [], r"\[N, L, h, w\]"),
    ((2, 2, 3, 3), [torch.ones(2, 1, 3, 3, dtype=torch.bool)], "expected bool"),
    ((2, 2, 3, 3), [None, torch.ones(2, 3, 3, dtype=torch.bool)], "expected bool"),
])  # fmt: skip
def test_maps_of_two_sizes_that_do_not_fit_are_refused(shape, masks, told):
    with pytest.raises(UsageError, match=told):
        scale_consistency(torch.zeros(2, 2, 4, 4), torch.zeros(shape), *masks)


def test_heat_maps_take_the_weights_as_data_and_leave_out_the_bias():
    torch.manual_seed(0)
    head, features = Head(5, 3), torch.randn(2, 5, 4, 4, requires_grad=True)
    maps = heat_maps(features, head)
    expected = torch.stack([(features * w[:, None, None]).sum(dim=1) for w in head.weight], dim=1)
    torch.testing.assert_close(maps, expected)
    maps.square().mean().backward()
    assert head.weight.grad is None
    assert features.grad.abs().max() > 0
    torch.testing.assert_close(maps.mean(dim=(2, 3)) + head.bias, head(features))


# --- methods ----------------------------------------------------------------------------------------------------------


def start_of(request):
    run, world = resolve(request), World("cpu")
    feed = Feed(run, world.device)
    task = RunTask(run, world, feed)
    method = run.method(task)
    (phase,) = method.phases()
    task.begin(phase)
    return method, method.network(phase), feed


def step_of(method, network, feed, index=(3, 0, 17)):
    index = np.array(index)
    batch = feed.with_labels(feed.batch("train", index, 1), index, method.task.labels)
    step = Step("train", 1, 1, 0, 1, len(index), lambda x: x, lambda: batch.labels)
    return batch, method.training_step(network, batch, step)


def share_of(feed):
    return (feed.run.parts["train"].observed == State.POSITIVE).mean(axis=0)


def test_views_of_one_size_share_a_forward_and_come_apart_again():
    torch.manual_seed(0)
    network, seen = Classifier(torch.nn.Conv2d(3, 4, 2, stride=2), Head(4, 2)), []
    network.register_forward_pre_hook(lambda _, inputs: seen.append(tuple(inputs[0].shape)))
    views = {"a": torch.randn(3, 3, 8, 8), "b": torch.randn(3, 3, 6, 6), "c": torch.randn(3, 3, 8, 8)}
    found = forward_views(network, views)
    assert seen == [(6, 3, 8, 8), (3, 3, 6, 6)]
    assert list(found) == list(views)
    for name, images in views.items():
        assert isinstance(found[name], Output)
        torch.testing.assert_close(found[name].logits, network(images).logits)
        torch.testing.assert_close(found[name].features, network(images).features)


def test_vac_fs_is_the_published_sum_over_four_views(tiny_request):
    changes = {"flip_weight": 0.6, "scale_weight": 0.8, "train.augment": []}
    method, network, feed = start_of(tiny_request("vac_fs", changes=changes))
    batch, terms = step_of(method, network, feed)
    large, small = batch.views["original"], batch.views["small"]
    assert (large.shape[-1], small.shape[-1]) == (64, 56)
    assert torch.equal(batch.views["flipped"], large.flip(-1))
    assert torch.equal(batch.views["small_flipped"], small.flip(-1))
    outputs = [network(images) for images in (large, large.flip(-1), small, small.flip(-1))]
    weight = network.head.weight.detach().double()
    lo, lf, so, sf = (torch.einsum("cd,bdhw->bchw", weight, o.features.double()).detach().numpy() for o in outputs)
    pairs = np.concatenate([lo, lf]), np.concatenate([so, sf])
    scale, *_ = scaled_by_loops(*pairs, np.ones((6, 8, 8), bool), np.ones((6, 7, 7), bool), "mse")
    logits = torch.cat([o.logits for o in outputs]).detach().double().numpy()
    entries, _ = weighted(logits, np.tile(batch.labels.state.numpy(), (4, 1)), share_of(feed))
    expected = {
        "classification": entries.sum(axis=1).mean(),
        "flipped": 0.6 * ((lo - lf[..., ::-1]) ** 2).mean(),
        "small_flipped": 0.6 * ((so - sf[..., ::-1]) ** 2).mean(),
        "scale": 0.8 * scale,
    }
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(("name", "views", "terms"), [
    ("vac_f", ["original", "flipped"], {"flipped"}),
    ("vac_s", ["original", "small"], {"scale"}),
    ("vac_r", ["original", "rotated"], {"rotated"}),
    ("vac_t", ["original", "moved"], {"moved"}),
    ("pc_f", ["original", "flipped"], {"prediction"}),
])  # fmt: skip
def test_a_method_has_the_views_and_the_classification_term_of_its_control(tiny_request, name, views, terms):
    control = "wbce_f" if name == "pc_f" else name.replace("vac", "wbce")
    batches, found = zip(*(step_of(*start_of(tiny_request(n))) for n in (name, control)), strict=True)
    assert list(batches[0].views) == list(batches[1].views) == views
    assert all(torch.equal(batches[0].views[v], batches[1].views[v]) for v in views), "paired draws"
    assert set(found[0]) == {"classification", *terms}
    assert set(found[1]) == {"classification"}
    assert torch.equal(found[0]["classification"], found[1]["classification"])


@pytest.mark.parametrize(("name", "changes"), [("vac_r", {}), ("vac_t", {}), ("vac_r", {"angle": 20.0})])
def test_image_and_map_share_the_draw(tiny_request, name, changes):
    """With a trunk that is equivariant by construction nothing is left but the borders of a turned image."""
    method, network, feed = start_of(tiny_request(name, changes=changes))
    network.backbone = torch.nn.AvgPool2d(8)
    network.head = Head(3, 4)
    batch, terms = step_of(method, network, feed, range(11))
    (view,) = set(terms) - {"classification"}
    if changes:  # noise is not interpolated exactly: better than without bringing it back, no more
        aligned = attention_consistency(*(heat_maps(network.backbone(v), network.head) for v in batch.views.values()))
        assert 0 < terms[view].item() < aligned.item()
    else:
        assert terms[view].item() < 1e-12
    assert len(np.unique(batch.placements[view].matrix.reshape(11, 9).round(6), axis=0)) > 2


def test_consistency_reaches_the_trunk_alone(tiny_request):
    method, network, feed = start_of(tiny_request("vac_fs"))
    _, terms = step_of(method, network, feed)
    terms.pop("classification")
    sum(terms.values()).backward()
    assert network.head.weight.grad is None
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in network.backbone.parameters() if p.ndim > 1)


def test_the_share_of_positives_is_of_the_labels_that_may_be_seen(tiny_request):
    method, _, feed = start_of(tiny_request("wbce"))
    np.testing.assert_allclose(method.positive_share.numpy(), share_of(feed), rtol=1e-6)
    assert method.views_for(method.hyper) == ()
    assert feed.batch("train", np.arange(2), 1).views == {}


def test_inference_takes_the_plain_view_alone(tiny_request):
    method, network, feed = start_of(tiny_request("vac_fs"))
    plain = feed.batch("test", np.arange(2), None)
    assert not plain.views
    assert torch.equal(method.predict(network, plain), network(plain.inputs).logits)


def test_only_the_single_view_may_have_a_frozen_trunk():
    assert load_method("wbce").tracks == ("head", "full")
    assert {load_method(name).tracks for name in (*CONTROLS, *ATTENTIVE, "pc_f")} == {("full",)}


@pytest.mark.parametrize(("protocol", "dataset", "flip", "scale", "sides"), [
    ("wider_attribute", "wider", 1.0, 1.0, (224, 192)),
    ("coco_vac", "coco2014", 0.6, 0.8, (288, 256)),
    ("coco_vac", "coco2014-all", 0.6, 0.8, (288, 256)),
])  # fmt: skip
def test_the_recipe_of_a_data_set_is_the_published_one(protocol, dataset, flip, scale, sides):
    expected = load_protocol(protocol).train_settings(dataset, "full", {})
    for name in ("wbce", "pc_f", *CONTROLS, *ATTENTIVE):
        found = load_method(name).settings_for(dataset, "full")
        train = {key.removeprefix("train."): value for key, value in found.items() if key.startswith("train.")}
        assert load_protocol("single_positive").train_settings(dataset, "full", train) == expected
    weights = load_method("vac_fs").resolve({k: v for k, v in found.items() if not k.startswith("train.")})
    assert (weights["flip_weight"], weights["scale_weight"]) == (flip, scale)
    views = load_method("vac_fs").views_for(weights)
    assert [v.side(expected.image_size, 32) for v in views] == [sides[0], sides[0], sides[1], sides[1]]
    assert views[0] == View("original")


def test_views_of_one_name_are_refused(tiny_request):
    class Twice(load_method("wbce_f")):
        views = (View("a"), View("a", flip=True))

    with pytest.raises(MlbenchError, match="two views of one name"):
        start_of(tiny_request(Twice))


def test_a_mirrored_view_of_what_must_not_be_mirrored_is_noted(tiny_request):
    scenes = {"dataset": "scenes"}
    assert any("mirrored" in note and "vac_f" in note for note in resolve(tiny_request("vac_f", **scenes)).notes)
    assert not any("vac_t" in note for note in resolve(tiny_request("vac_t", **scenes)).notes)
