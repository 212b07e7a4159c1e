"""Metrics at the size of COCO and of OpenImages: seconds beside scikit-learn and torchmetrics, memory, the bootstrap.

All three compute average precision of each class and both F1-C and F1-O from the same float32 probabilities, each in
the fewest calls its interface allows, and have to agree. Labels and scores are made up.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
import numpy as np
from timing import OUTPUT, REPEATS, about, alone, markdown, ratio, seconds, spread, summary, take_turns, write

from mlbench.metrics import (
    Logits,
    Probabilities,
    average_precision,
    average_precision_of_known,
    harmonic_mean,
    mean_average_precision,
    precision_recall_f1,
    threshold,
)
from mlbench.provenance import peak_memory_mib, usable_cores
from mlbench.significance.bootstrap import paired_bootstrap

#: Images, classes and known labels of OpenImages V3's test part; every share of the labels is measured.
OPEN_IMAGES, SHARES = (125_436, 5_000, 1_667_399), (0.1, 0.5, 1.0)
COCO_LABELS = 2.9
#: Seconds, and how many times slower the others have to be.
TARGET, TIMES, KNOWN_TARGET, MEMORY_TARGET_MIB, BOOTSTRAP_TARGET = 0.2, (5.0, 3.0), 10.0, 1024, 30.0

Values = dict[str, float]


def made_up(images: int, classes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """bool targets [N, C], as frequent as in COCO, and float32 probabilities [N, C] of two systems."""
    rng = np.random.default_rng(0)
    frequency = np.exp(rng.normal(size=classes))
    targets = rng.random((images, classes)) < np.minimum(0.9, frequency * COCO_LABELS / frequency.sum())
    targets[0] = True  # no class without positives: the three libraries differ there
    logits = rng.normal(size=(images, classes)) + 2 * targets - 2
    other = logits + rng.normal(size=logits.shape) / 3
    return targets, *((1 / (1 + np.exp(-each))).astype(np.float32) for each in (logits, other))


def of_mlbench(probabilities: np.ndarray, targets: np.ndarray) -> Values:
    scores = Probabilities(probabilities)
    counted = precision_recall_f1(threshold(scores), targets)
    ap = mean_average_precision(average_precision(scores, targets), "skip")
    return {"mAP": ap, "F1-C_mean": counted.F1_C_mean, "F1-C_hm": counted.F1_C_hm, "F1-O": counted.F1_O}


def of_scikit_learn(probabilities: np.ndarray, targets: np.ndarray) -> Values:
    from sklearn.metrics import average_precision_score, f1_score, precision_recall_fscore_support

    decided = probabilities > 0.5
    precision, recall, f1, _ = precision_recall_fscore_support(targets, decided, average="macro", zero_division=0)
    return {
        "mAP": average_precision_score(targets, probabilities, average="macro"),
        "F1-C_mean": f1,
        "F1-C_hm": harmonic_mean(precision, recall),
        "F1-O": f1_score(targets, decided, average="micro", zero_division=0),
    }


def of_torchmetrics(probabilities: np.ndarray, targets: np.ndarray) -> Values:
    import torch
    from torchmetrics.functional import classification

    scores, labels = torch.from_numpy(probabilities), torch.from_numpy(targets).long()
    classes = scores.shape[1]
    ap = classification.multilabel_average_precision(scores, labels, classes, average="macro", validate_args=False)
    counts = classification.multilabel_stat_scores(scores, labels, classes, average="none", validate_args=False)
    hit, wrong, _, missed, _ = counts.double().unbind(dim=1)
    precision, recall = hit / (hit + wrong).clamp(min=1), hit / (hit + missed).clamp(min=1)
    return {
        "mAP": float(ap),
        "F1-C_mean": float((2 * hit / (2 * hit + wrong + missed).clamp(min=1)).mean()),
        "F1-C_hm": harmonic_mean(float(precision.mean()), float(recall.mean())),
        "F1-O": float(2 * hit.sum() / (2 * hit + wrong + missed).sum().clamp(min=1)),
    }


LIBRARIES: dict[str, Callable[[np.ndarray, np.ndarray], Values]] = {
    "mlbench": of_mlbench,
    "scikit-learn": of_scikit_learn,
    "torchmetrics": of_torchmetrics,
}


def disagreement(probabilities: np.ndarray, targets: np.ndarray) -> float:
    """Largest difference of any value of any library from ours; AssertionError above 1e-6."""
    ours = of_mlbench(probabilities, targets)
    largest = max(
        abs(value - ours[metric])
        for library in LIBRARIES.values()
        for metric, value in library(probabilities, targets).items()
    )
    assert largest <= 1e-6, f"the libraries disagree by {largest}"
    return float(largest)


def beside_others(images: int, classes: int, repeats: int) -> dict[str, Any]:
    """Seconds of each library, and how far they are apart, with ties and without."""
    targets, probabilities, _ = made_up(images, classes)
    tied = np.round(probabilities, 2)
    apart = {"distinct scores": disagreement(probabilities, targets), "tied scores": disagreement(tied, targets)}

    def timed(library: Callable[..., Values]) -> Callable[[], float]:
        return lambda: seconds(lambda: library(probabilities, targets))

    found = take_turns({name: timed(library) for name, library in LIBRARIES.items()}, repeats)
    return {
        "seconds": {name: summary(values) for name, values in found.items()},
        "times_slower": {name: ratio(found[name], found["mlbench"]) for name in LIBRARIES if name != "mlbench"},
        "largest_difference": apart,
    }


def write_scores(path: Path, images: int, classes: int) -> None:
    """A file of float32 logits [N, C], some thousand rows at a time."""
    rng = np.random.default_rng(1)
    file = np.lib.format.open_memmap(path, "w+", np.float32, (images, classes))
    for start in range(0, images, 2000):
        rows = file[start : start + 2000]
        rows[:] = rng.standard_normal(rows.shape, dtype=np.float32)


def of_known(path: Path, labels: int, repeats: int) -> dict[str, Any]:
    """Seconds of checking mapped scores and of average precision by known labels; for a process of its own."""
    mapped = np.load(path, mmap_mode="r")
    rng = np.random.default_rng(2)
    entries = np.unique(rng.integers(0, mapped.size, labels))
    rows, classes = np.divmod(entries, mapped.shape[1])
    present = rng.random(len(entries)) < 0.3
    before = peak_memory_mib() or 0.0
    scores = Logits(mapped)

    def known(share: float) -> Callable[[], float]:
        taken = slice(0, round(share * len(entries)))  # of sorted entries: a share of the images
        return lambda: seconds(lambda: average_precision_of_known(scores, rows[taken], classes[taken], present[taken]))

    ways = {"checking the scores": lambda: seconds(lambda: Logits(mapped))}
    found = take_turns({**ways, **{f"{share:.0%} of the labels": known(share) for share in SHARES}}, repeats)
    extra = (peak_memory_mib() or 0.0) - before  # before the dense reference below is made
    few = np.arange(min(20, mapped.shape[1]))
    columns = Logits(np.ascontiguousarray(mapped[:, few]))
    shown, targets = np.zeros(columns.shape, bool), np.zeros(columns.shape, bool)
    chosen = classes < len(few)
    shown[rows[chosen], classes[chosen]], targets[rows[chosen], classes[chosen]] = True, present[chosen]
    ours = average_precision_of_known(scores, rows, classes, present)[: len(few)]
    np.testing.assert_allclose(ours, average_precision(columns, targets, shown), rtol=0, atol=1e-12)
    return {
        "labels": len(entries),
        "seconds": {name: summary(values) for name, values in found.items()},
        "extra_memory_mib": extra,
    }


def open_images(images: int, classes: int, labels: int, repeats: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "scores.npy"
        write_scores(path, images, classes)
        return alone(of_known, path, labels, repeats)


def bootstrap(images: int, classes: int, replicates: int, repeats: int) -> dict[str, Any]:
    """Seconds of a paired bootstrap of mAP, from scores to interval."""
    targets, one, other = made_up(images, classes)

    def once() -> None:
        paired_bootstrap(Probabilities(one), Probabilities(other), targets, replicates=replicates)

    return {"seconds": summary([seconds(once) for _ in range(repeats)]), "replicates": replicates}


def as_text(found: dict[str, Any], size: str, open_size: str) -> str:
    others, known, drawn = found["beside_others"], found["open_images"], found["bootstrap"]
    apart = others["largest_difference"]
    rows = [
        (f"{size}, mAP + both F1-C + F1-O", name, spread(taken), f"at most {TARGET}" if name == "mlbench" else "")
        for name, taken in others["seconds"].items()
    ]
    rows += [
        (f"{size}, as many times ours", name, spread(times), f"at least {least:g}")
        for (name, times), least in zip(others["times_slower"].items(), TIMES, strict=True)
    ]
    rows += [
        (f"{open_size}, {known['labels']:,} known", name, spread(taken), f"at most {KNOWN_TARGET:g}")
        for name, taken in known["seconds"].items()
    ]
    rows.append(
        (f"{size}, {drawn['replicates']} paired replicates", "mlbench", spread(drawn["seconds"]), BOOTSTRAP_TARGET)
    )
    return (
        markdown(rows, ("what", "by", "seconds (or times): median [95 %]", "target"))
        + f"\n\nLargest difference from ours: {apart['distinct scores']:.1e}, with ties {apart['tied scores']:.1e} "
        f"(1e-6 allowed).\nMemory beyond what the process had with the labels: {known['extra_memory_mib']:.0f} MiB "
        f"(at most {MEMORY_TARGET_MIB}); the file of scores has {known['file_mib']:.0f} MiB."
    )


@click.command()
@click.option("--images", default=40_137, show_default=True)
@click.option("--classes", default=80, show_default=True)
@click.option("--replicates", default=1000, show_default=True)
@click.option("--shrink", default=1, show_default=True, help="Divide images, classes and labels of OpenImages by it.")
@REPEATS
@OUTPUT
def main(images: int, classes: int, replicates: int, shrink: int, repeats: int, output: Path) -> None:
    """Measure, assert that the libraries agree, and write the figures. Takes 2.5 GB of the temporary folder."""
    import torch

    if find_spec("torchmetrics") is None:
        raise click.UsageError("the comparison needs torchmetrics: pip install torchmetrics")
    torch.set_num_threads(usable_cores())
    rows, columns, labels = (max(2, number // shrink) for number in OPEN_IMAGES)
    found = {
        "beside_others": beside_others(images, classes, repeats),
        "open_images": open_images(rows, columns, labels, repeats) | {"file_mib": rows * columns * 4 / 2**20},
        "bootstrap": bootstrap(images, classes, replicates, repeats),
    }
    text = as_text(found, f"{images:,} x {classes}", f"{rows:,} x {columns:,}")
    write(output, "metrics", about(repeats=repeats), found, text)


if __name__ == "__main__":
    main()
