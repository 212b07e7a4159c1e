"""A mask in words, and what it declares of itself."""

from __future__ import annotations

from mlbench.annotation.masks import Mask
from mlbench.annotation.processes import PROCESSES
from mlbench.annotation.states import State


def may_contradict(mask: Mask) -> bool:
    """Whether `mask` declares that labels it shows may be false: drawn by a noisy process, or imported as such."""
    return (mask.process in PROCESSES and PROCESSES[mask.process].noisy) or bool(mask.params.get("contradictions"))


def describe(mask: Mask) -> str:
    """Tell in a few printable lines what `mask` is and what it leaves visible."""
    counts = mask.counts
    rows, columns = mask.observed.shape
    params = "".join(f", {name} {value}" for name, value in sorted(mask.params.items()))
    entries = max(mask.observed.size, 1)
    noise = ["shown labels may contradict the data set: the process is noisy"] if may_contradict(mask) else []
    return "\n".join(
        [
            f"mask {mask.process}{params}, seed {mask.seed}: {rows} samples x {columns} classes",
            f"observed: {counts['positives']} positive, {counts['negatives']} negative, "
            f"{counts['unknown']} unknown ({100 * counts['unknown'] / entries:.1f} %), "
            f"{counts['unspecified']} unspecified",
            f"positives a sample: {counts['positives'] / max(rows, 1):.2f}; "
            f"samples without one: {int((~(mask.observed == State.POSITIVE).any(axis=1)).sum())}",
            *noise,
            f"sha256 {mask.sha256}",
        ]
    )
