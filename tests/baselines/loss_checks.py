"""Checks that the tests of several losses share: a loss against an oracle's entries and slopes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy_losses import NEGATIVE, POSITIVE, UNKNOWN, UNSPECIFIED, batch, central_differences

#: Floating-point types and how close a loss must come to its oracle in them.
TYPES = [(torch.float32, 1e-6), (torch.float64, 1e-10)]
SIZES = [(16, 20), (3, 7), (1, 5), (1, 2)]


def saturated() -> tuple[np.ndarray, np.ndarray]:
    """Logits of +-50 and +-100 in each of the four states."""
    logits = np.tile([50.0, -50.0, 100.0, -100.0], (4, 1))
    observed = np.repeat([[POSITIVE], [NEGATIVE], [UNKNOWN], [UNSPECIFIED]], 4, axis=1)
    return logits, observed.astype(np.int8)


def uniform(state: int, rows: int = 3, classes: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Random logits, all labels in one state."""
    logits, _ = batch(rows, classes, seed=7)
    return logits, np.full((rows, classes), state, dtype=np.int8)


def assert_follows(
    loss: Callable, entries: np.ndarray, slopes: np.ndarray, logits: np.ndarray, observed: np.ndarray, dtype, tolerance
) -> None:
    """``loss(logits, observed, reduction=...)`` has these entries, and these slopes, in every reduction."""
    for reduction, wanted, scale in (
        ("none", entries, 1.0),
        ("sum", entries.sum(), 1.0),
        ("mean", entries.mean(), 1.0 / entries.size),
    ):
        x = torch.tensor(logits, dtype=dtype, requires_grad=True)
        found = loss(x, torch.tensor(observed), reduction=reduction)
        (gradient,) = torch.autograd.grad(found.sum(), x)
        assert found.dtype == gradient.dtype == dtype
        np.testing.assert_allclose(found.detach().numpy(), wanted, rtol=tolerance, atol=tolerance)
        np.testing.assert_allclose(gradient.numpy(), slopes * scale, rtol=tolerance, atol=tolerance)


def assert_follows_naive(loss: Callable, naive: Callable, logits: np.ndarray, observed: np.ndarray, dtype, tol) -> None:
    """`assert_follows` with the entries, and autograd's slopes, of ``naive(logits, observed)`` in float64.

    Written with sigmoid(-x) for 1 - p, plain formulas are exact there up to logits of some hundreds.
    """
    logits = exact(logits, dtype)
    x = torch.tensor(logits, requires_grad=True)
    entries = naive(x, torch.tensor(observed))
    (slopes,) = torch.autograd.grad(entries.sum(), x)
    assert torch.isfinite(entries).all()
    assert torch.isfinite(slopes).all()
    assert_follows(loss, entries.detach().numpy(), slopes.numpy(), logits, observed, dtype, tol)


def all_cases() -> list[tuple[np.ndarray, np.ndarray]]:
    """Random batches, a batch of one among them, logits of +-50 and +-100, and labels all in one state."""
    sizes = [batch(*size, seed=size[0]) for size in SIZES]
    return [*sizes, saturated(), *(uniform(state) for state in (POSITIVE, NEGATIVE, UNKNOWN, UNSPECIFIED))]


def assert_gradient_is_numerical(loss: Callable, logits: np.ndarray, observed: np.ndarray) -> None:
    """The gradient of the mean agrees with central differences in float64."""
    labels = torch.tensor(observed)
    x = torch.tensor(logits, requires_grad=True)
    (gradient,) = torch.autograd.grad(loss(x, labels), x)
    numerical = central_differences(lambda moved: float(loss(torch.tensor(moved), labels)), logits)
    np.testing.assert_allclose(gradient.numpy(), numerical, atol=1e-8)


def exact(logits: np.ndarray, dtype) -> np.ndarray:
    """`logits` as `dtype` holds them, in float64: what the oracle must see."""
    return torch.tensor(logits, dtype=dtype).double().numpy()
