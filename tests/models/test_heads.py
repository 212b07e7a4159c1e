from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from mlbench.errors import UsageError
from mlbench.models.heads import (
    Classifier,
    Head,
    HeadSpec,
    Output,
    boostlu,
    build_head,
    class_activation_maps,
    convert_head,
)

LINEAR = HeadSpec("linear")
CAM = HeadSpec("cam")
BOOST = HeadSpec("boostlu", 5.0, 5.0)
INFERENCE_ONLY = HeadSpec("boostlu", 1.0, 5.0)


def features_of(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def seeded(spec: HeadSpec, channels: int = 12, classes: int = 5, seed: int = 3) -> Head:
    torch.manual_seed(seed)
    return build_head(spec, channels, classes)


# -- BoostLU ---------------------------------------------------------------------------------------------------------


def test_boostlu_multiplies_positive_values_only() -> None:
    maps = torch.tensor([-2.0, -0.5, 0.0, 0.5, 3.0])
    assert boostlu(maps, 5).tolist() == [-2.0, -0.5, 0.0, 2.5, 15.0]


def test_boostlu_with_alpha_one_returns_the_input_itself() -> None:
    maps = features_of(2, 3, 4, 4)
    assert boostlu(maps, 1.0) is maps


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=20), st.floats(1, 100))
@settings(max_examples=50, deadline=None)
def test_boostlu_is_the_maximum_of_x_and_alpha_x(values: list[float], alpha: float) -> None:
    x = np.array(values)
    expected = np.maximum(x, alpha * x)
    np.testing.assert_array_equal(boostlu(torch.tensor(x), alpha).numpy(), expected)


def test_boostlu_has_slope_one_at_zero_and_keeps_nan() -> None:
    x = torch.tensor([0.0, -0.0], requires_grad=True)
    boostlu(x, 5).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [1.0, 1.0]
    assert math.isnan(boostlu(torch.tensor([math.nan]), 5).item())


@pytest.mark.parametrize("alpha", [0.999, 0, -5, math.nan, math.inf, "5", True, None])
def test_an_alpha_that_is_no_finite_number_from_one_is_refused(alpha: object) -> None:
    with pytest.raises(UsageError, match="expected a finite number from 1"):
        boostlu(torch.zeros(1), alpha)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="alpha_infer"):
        HeadSpec("boostlu", 1.0, alpha)  # type: ignore[arg-type]


# -- a hand-worked example, float64, gradients -----------------------------------------------------------------------


def test_all_kinds_give_the_numbers_worked_by_hand() -> None:
    # One channel, a 1x4 map (2, -1, 0, 3), weight 1.5, bias -1: A = (2, -2.5, -1, 3.5), mean 0.5.
    # BoostLU with 5: (10, -2.5, -1, 17.5), mean 6.
    features = torch.tensor([2.0, -1.0, 0.0, 3.0]).reshape(1, 1, 1, 4)
    expected = {LINEAR: 0.5, CAM: 0.5, HeadSpec("boostlu"): 0.5, BOOST: 6.0}
    for spec, logit in expected.items():
        head = build_head(spec, 1, 1)
        head.load_state_dict({"weight": torch.tensor([[1.5]]), "bias": torch.tensor([-1.0])})
        assert head(features).tolist() == [[logit]]
        assert head.maps(features).flatten().tolist() == [2.0, -2.5, -1.0, 3.5]
    assert head.maps(features, boosted=True).flatten().tolist() == [10.0, -2.5, -1.0, 17.5]


@pytest.mark.parametrize("spec", [LINEAR, CAM, BOOST])
def test_logits_agree_with_plain_numpy_in_float64(spec: HeadSpec) -> None:
    head = seeded(spec).double()
    features = features_of(3, 12, 5, 4, dtype=torch.float64)
    weight, bias = head.weight.detach().numpy(), head.bias.detach().numpy()
    maps = np.einsum("bdhw,cd->bchw", features.numpy(), weight) + bias[None, :, None, None]
    boosted = np.where(maps > 0, spec.alpha_train * maps, maps)
    np.testing.assert_allclose(head(features).detach().numpy(), boosted.mean(axis=(2, 3)), rtol=0, atol=1e-12)


def test_maps_are_those_of_a_one_by_one_convolution() -> None:
    features, weight, bias = features_of(2, 6, 3, 4), features_of(5, 6, seed=1), features_of(5, seed=2)
    for b in (bias, None):
        expected = nn.functional.conv2d(features, weight[:, :, None, None], b)
        torch.testing.assert_close(class_activation_maps(features, weight, b), expected)


def test_the_gradient_at_a_map_is_alpha_over_positions_where_positive_and_one_over_positions_elsewhere() -> None:
    head = Head(4, 4, alpha_train=5.0)
    head.load_state_dict({"weight": torch.eye(4), "bias": torch.zeros(4)})
    features = features_of(2, 4, 3, 5).requires_grad_()
    head(features).sum().backward()
    expected = torch.where(features > 0, 5.0, 1.0) / 15
    torch.testing.assert_close(features.grad, expected)


def test_gradients_of_weight_and_bias_are_right() -> None:
    head = seeded(BOOST, 3, 2).double()
    features = features_of(2, 3, 2, 2, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda f, w, b: torch.func.functional_call(head, {"weight": w, "bias": b}, (f,)),
        (features, head.weight, head.bias),
    )


@pytest.mark.parametrize("logit", [50.0, -50.0])
def test_large_logits_pass_exactly(logit: float) -> None:
    features = torch.full((1, 1, 2, 2), logit)
    for spec, factor in ((LINEAR, 1.0), (CAM, 1.0), (BOOST, 5.0 if logit > 0 else 1.0)):
        head = build_head(spec, 1, 1)
        head.load_state_dict({"weight": torch.ones(1, 1), "bias": torch.zeros(1)})
        assert head(features).item() == factor * logit


# -- one parameter set, three uses -----------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", [(4, 12, 7, 7), (1, 12, 1, 1), (3, 12, 14, 9)])
def test_boostlu_with_alpha_one_equals_the_linear_head_bit_for_bit(shape: tuple[int, ...], training: bool) -> None:
    plain, boosted = seeded(LINEAR).train(training), seeded(HeadSpec("boostlu", 1, 1)).train(training)
    a, b = features_of(*shape).requires_grad_(), features_of(*shape).requires_grad_()
    logits, same = plain(a), boosted(b)
    assert torch.equal(logits, same)
    logits.square().sum().backward()
    same.square().sum().backward()
    assert torch.equal(a.grad, b.grad)
    assert torch.equal(plain.weight.grad, boosted.weight.grad)
    assert torch.equal(plain.bias.grad, boosted.bias.grad)


def test_the_linear_head_is_torch_linear_on_pooled_features_bit_for_bit() -> None:
    torch.manual_seed(3)
    linear = nn.Linear(12, 5)
    features = features_of(4, 12, 7, 7)
    assert torch.equal(seeded(LINEAR)(features), linear(features.mean(dim=(2, 3))))


def test_cam_equals_linear_to_rounding() -> None:
    features = features_of(3, 12, 6, 6, dtype=torch.float64)
    difference = seeded(CAM).double()(features) - seeded(LINEAR).double()(features)
    assert difference.abs().max() < 1e-12


@pytest.mark.parametrize("spec", [CAM, HeadSpec("boostlu"), BOOST, INFERENCE_ONLY])
def test_all_kinds_start_from_the_same_numbers(spec: HeadSpec) -> None:
    first, second = seeded(LINEAR), seeded(spec)
    after_second = torch.rand(1)
    assert torch.equal(first.weight, second.weight)
    assert torch.equal(first.bias, second.bias)
    seeded(LINEAR)
    assert torch.equal(after_second, torch.rand(1))


@pytest.mark.parametrize("source", [LINEAR, CAM, BOOST])
@pytest.mark.parametrize("target", [LINEAR, CAM, BOOST])
def test_heads_load_into_each_other_and_convert_exactly(source: HeadSpec, target: HeadSpec) -> None:
    head = seeded(source).eval()
    assert set(head.state_dict()) == {"weight", "bias"}
    loaded = seeded(target, seed=9).eval()
    loaded.load_state_dict(head.state_dict())
    converted = convert_head(head, target)
    features = features_of(2, 12, 4, 4)
    assert torch.equal(loaded(features), converted(features))
    assert torch.equal(convert_head(converted, source)(features), head(features))
    assert (converted.spec, head.spec, converted.training) == (target, source, False)


def test_converting_copies_and_draws_no_random_numbers() -> None:
    head = seeded(LINEAR)
    state = torch.random.get_rng_state()
    converted = convert_head(head, BOOST)
    assert torch.equal(torch.random.get_rng_state(), state)
    with torch.no_grad():
        converted.weight.add_(1)
    assert not torch.equal(head.weight, converted.weight)


def test_alpha_in_force_follows_the_mode() -> None:
    head = seeded(INFERENCE_ONLY)
    features = features_of(2, 12, 4, 4)
    plain, boosted = convert_head(head, LINEAR), convert_head(head, BOOST)
    assert not head.needs_maps
    assert head.alpha == 1
    assert torch.equal(head(features), plain(features))
    head.eval()
    assert head.needs_maps
    assert head.alpha == 5
    assert torch.equal(head(features), boosted(features))
    assert torch.equal(head.maps(features, boosted=True).mean(dim=(2, 3)), head(features))


def test_pooled_features_do_where_maps_are_not_needed() -> None:
    features = features_of(3, 12, 6, 6)
    pooled = features.mean(dim=(2, 3), keepdim=True)
    for spec in (LINEAR, CAM, HeadSpec("boostlu")):
        head = seeded(spec)
        assert not head.needs_maps
        torch.testing.assert_close(head(pooled), head(features), rtol=1e-5, atol=1e-6)


def test_on_one_by_one_maps_boostlu_acts_on_the_logit() -> None:
    pooled = features_of(6, 12, 1, 1)
    torch.testing.assert_close(seeded(BOOST)(pooled), boostlu(seeded(LINEAR)(pooled), 5.0))


def test_boosting_is_more_than_a_rescaling_and_can_reorder_images() -> None:
    # Means 1 and 1.1, but all the evidence of the first image sits in one place.
    features = torch.tensor([[[[8.0, -2.0, -2.0, 0.0]]], [[[1.1, 1.1, 1.1, 1.1]]]])
    head = Head(1, 1, alpha_train=1.0, alpha_infer=5.0)
    head.load_state_dict({"weight": torch.ones(1, 1), "bias": torch.zeros(1)})
    plain, boosted = head(features), head.eval()(features)
    assert plain[0] < plain[1]
    assert boosted[0] > boosted[1]


# -- types -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", [LINEAR, CAM, BOOST])
def test_logits_are_full_float32_under_autocast(spec: HeadSpec) -> None:
    head, features = seeded(spec), features_of(2, 12, 4, 4)
    expected = head(features.bfloat16().float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = head(features.bfloat16())
        maps = head.maps(features)
    assert logits.dtype == maps.dtype == torch.float32
    assert torch.equal(logits, expected)


@pytest.mark.parametrize("spec", [LINEAR, CAM, BOOST])
def test_float32_gives_float32_and_half_precision_features_are_widened(spec: HeadSpec) -> None:
    head, features = seeded(spec), features_of(2, 12, 4, 4)
    assert head(features).dtype == torch.float32
    assert torch.equal(head(features.half()), head(features.half().float()))


def test_heads_work_on_the_meta_device() -> None:
    for spec in (LINEAR, BOOST):
        assert seeded(spec).to("meta")(torch.empty(2, 12, 4, 4, device="meta")).shape == (2, 5)


# -- specification and misuse ----------------------------------------------------------------------------------------


def test_spec_is_plain_data_and_five_equals_five_point_zero() -> None:
    spec = HeadSpec("boostlu", 1, 5)
    assert spec.to_dict() == {"kind": "boostlu", "alpha_train": 1.0, "alpha_infer": 5.0}
    assert isinstance(spec.to_dict()["alpha_infer"], float)
    assert HeadSpec(**spec.to_dict()) == spec == INFERENCE_ONLY


def test_an_unknown_kind_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="Did you mean 'linear'"):
        HeadSpec("linaer")


@pytest.mark.parametrize("kind", ["linear", "cam"])
def test_kinds_without_boostlu_take_no_alpha(kind: str) -> None:
    with pytest.raises(UsageError, match="Use kind 'boostlu'"):
        HeadSpec(kind, 1.0, 5.0)


@pytest.mark.parametrize("shape", [(2, 12), (2, 11, 4, 4), (2, 12, 0, 4), (12, 4, 4)])
def test_features_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    head = seeded(LINEAR)
    for use in (head, head.maps):
        with pytest.raises(UsageError, match="the head expects features"):
            use(torch.zeros(shape))


@pytest.mark.parametrize(("channels", "classes"), [(0, 3), (3, 0)])
def test_a_head_without_channels_or_classes_is_refused(channels: int, classes: int) -> None:
    with pytest.raises(UsageError, match="at least one channel"):
        Head(channels, classes)


def test_a_batch_of_one_and_an_empty_batch_keep_their_axis() -> None:
    for spec in (LINEAR, BOOST):
        assert seeded(spec)(features_of(1, 12, 4, 4)).shape == (1, 5)
        assert seeded(spec)(features_of(0, 12, 4, 4)).shape == (0, 5)


# -- classifier ------------------------------------------------------------------------------------------------------


def test_classifier_returns_logits_and_the_maps_they_came_from() -> None:
    backbone = nn.Conv2d(3, 12, 3, stride=2)
    classifier = Classifier(backbone, seeded(LINEAR))
    images = features_of(2, 3, 9, 9)
    output = classifier(images)
    assert isinstance(output, Output)
    assert torch.equal(output.features, backbone(images))
    assert torch.equal(output.logits, classifier.head(output.features))
    roles = {name.split(".")[0] for name, _ in classifier.named_parameters()}
    assert roles == {"backbone", "head"}


def test_classifier_on_cached_features_has_no_backbone_parameters() -> None:
    classifier = Classifier(nn.Identity(), seeded(BOOST))
    features = features_of(2, 12, 4, 4)
    output = classifier(features)
    assert output.features is features
    assert [name for name, _ in classifier.named_parameters()] == ["head.weight", "head.bias"]
