"""The official single-positive draw and split against a transcription of the rule, line by line, with plain lists."""

from __future__ import annotations

import numpy as np
import pytest

from mlbench.annotation import draw_mask
from mlbench.datasets.splits import legacy_split


def transcribed_draw(labels: list[list[int]], num_pos: int, num_neg: int, seed: int) -> list[list[int]]:
    """Facts 4.1: in row order, shuffle the list of positives and take the first; then the negatives likewise."""
    generator = np.random.RandomState(seed)
    observed = []
    for line in labels:
        row = [0] * len(line)
        positives = [c for c, state in enumerate(line) if state == 1]
        negatives = [c for c, state in enumerate(line) if state != 1]
        generator.shuffle(positives)
        for c in positives if num_pos == -1 else positives[:num_pos]:
            row[c] = 1
        generator.shuffle(negatives)
        for c in negatives if num_neg == -1 else negatives[:num_neg]:
            row[c] = -1
        observed.append(row)
    return observed


def matrix(kind: str) -> np.ndarray:
    rng = np.random.default_rng(5)
    labels = np.where(rng.random((50, 13)) < 0.3, 1, -1).astype(np.int8)
    if kind == "rows without positives":
        labels[[0, 7, 8, 49]] = -1
    elif kind == "rows all positive":
        labels[[0, 7, 8, 49]] = 1
    elif kind == "both":
        labels[::3], labels[1::7] = 1, -1
    elif kind == "nothing positive":
        labels[:] = -1
    elif kind == "everything positive":
        labels[:] = 1
    return labels[:, :1] if kind == "one class" else labels[:1] if kind == "one row" else labels


KINDS = [
    *("plain", "rows without positives", "rows all positive", "both"),
    *("nothing positive", "everything positive", "one class", "one row"),
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("num_pos", "num_neg"), [(1, 0), (2, 3), (0, 1), (-1, 0), (-1, -1), (20, 20)])
@pytest.mark.parametrize("seed", [1200, 0])
def test_the_official_draw_is_the_transcribed_one(kind: str, num_pos: int, num_neg: int, seed: int) -> None:
    labels = matrix(kind)
    params = {"num_pos": num_pos, "num_neg": num_neg}
    ids = [str(row) for row in range(len(labels))]
    observed = draw_mask(labels, "single_positive_spml", params, seed, ids=ids).observed
    assert observed.tolist() == transcribed_draw(labels.tolist(), num_pos, num_neg, seed)


@pytest.mark.parametrize("n", [3, 5, 8, 10, 12, 99, 5011, 5717])
@pytest.mark.parametrize("seed", [1200, 3])
def test_the_split_is_the_transcribed_one(n: int, seed: int) -> None:
    order = list(np.random.RandomState(seed).permutation(n))
    held = int(np.round(0.2 * n))
    train, val = legacy_split(n, 0.2, seed)
    assert train.tolist() == sorted(order[: n - held])
    assert val.tolist() == sorted(order[n - held :])


def test_the_draw_comes_before_the_split_and_covers_both_parts() -> None:
    labels = matrix("both")
    drawn = np.array(transcribed_draw(labels.tolist(), 1, 0, 1200))
    observed = draw_mask(labels, "single_positive_spml", ids=[str(row) for row in range(50)]).observed
    for rows in legacy_split(50):
        assert (observed[rows] == drawn[rows]).all()
        alone = draw_mask(labels[rows], "single_positive_spml", ids=[str(row) for row in rows]).observed
        assert (alone != drawn[rows]).any()  # drawn for a part alone it is another draw
