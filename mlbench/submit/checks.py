"""What scores must be before they are worth scoring: of these ids and classes, finite, and not tied by rounding."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from mlbench.errors import DataError, nearest
from mlbench.evaluation.predictions import Predictions
from mlbench.foreign.files import short

#: Share of scores that may equal the score of another sample of the same class. Average precision counts ties in an
#: order that the model did not choose: a few come from saturation, many from rounding.
MOST_TIED = 0.05


def check_says(says: dict[str, str], kind: str, dataset: str) -> None:
    """DataError if what a file says of itself contradicts the card or the test part."""
    for name, expected in (("kind", kind), ("dataset", dataset), ("split", "test")):
        if says.get(name, expected) != expected:
            raise DataError(f"its metadata says {name} = {short(says[name])}; expected '{expected}'")


def check_classes(found: Sequence[str], expected: Sequence[str]) -> None:
    """DataError unless `found` are the `expected` classes in their order."""
    if tuple(found) == tuple(expected):
        return
    _refuse_twice("class", found)
    for name in found:
        if name not in expected:
            raise DataError(f"class {short(name)} is not of this data set.{nearest(name, expected)}")
    missing = [name for name in expected if name not in found]
    if missing:
        raise DataError(f"{len(missing)} of {len(expected)} classes are missing: {_some(missing)}")
    place = next(i for i, (a, b) in enumerate(zip(found, expected, strict=True)) if a != b)
    raise DataError(
        f"classes are in another order: class {place + 1} is {short(found[place])}, not '{expected[place]}'"
    )


def rows_of(found: Sequence[str], expected: Sequence[str]) -> np.ndarray:
    """Rows of `found` for the ids `expected`, int64 [N]; DataError unless each of them is there once and no other."""
    _refuse_twice("id", found)
    row = {name: number for number, name in enumerate(found)}
    missing = [name for name in expected if name not in row]
    wanted = set(expected)
    extra = [name for name in found if name not in wanted]
    if missing or extra:
        parts = [f"{len(extra)} ids are not of the test part: {_some(extra)}"] if extra else []
        parts += [f"{len(missing)} of {len(expected)} ids are missing: {_some(missing)}"] if missing else []
        raise DataError("; ".join(parts))
    return np.array([row[name] for name in expected], dtype=np.int64)


def to_float32(scores: np.ndarray) -> np.ndarray:
    """`scores` as float32; what is too large for it becomes infinite, which `Predictions` refuses."""
    with np.errstate(over="ignore", invalid="ignore"):
        return np.ascontiguousarray(scores, dtype=np.float32)


def check_kind(predictions: Predictions) -> tuple[str, ...]:
    """Notes on scores that look like another kind than declared.

    Raises
    ------
    DataError
        For logits of which none is below 0: every label would count as present, which no classifier says.
    """
    scores = predictions.scores
    least, most = float(scores.min()), float(scores.max())
    if predictions.kind == "logit" and least >= 0:
        looks = "all scores lie from 0 to 1, as probabilities do" if most <= 1 else "no score is below 0"
        raise DataError(
            f'{looks}, but the card says kind = "logit", by which a label counts as present above 0: all would. Say '
            'kind = "probability" (present above one half; from 0 to 1), or "rank" if no threshold is meant'
        )
    if predictions.kind == "logit" and most <= 0 and scores.size > 1:
        return (
            "No logit is above 0, so no label counts as present: logarithms of probabilities? Send the logits, or "
            "the probabilities themselves.",
        )
    sums = scores.sum(axis=1, dtype=np.float64)
    if predictions.kind == "probability" and scores.shape[1] > 2 and np.abs(sums - 1).max() < 1e-3:
        return (
            "The probabilities of each sample add up to 1, as a softmax gives them: at most one label of a sample "
            "passes one half.",
        )
    return ()


def check_ties(predictions: Predictions) -> tuple[str, ...]:
    """Notes on tied scores, if there are any.

    Raises
    ------
    DataError
        For a class whose scores are all the same, for scores that are 16-bit numbers and tied, and where more than
        `MOST_TIED` of the scores are tied within their class.
    """
    scores = predictions.scores
    if len(scores) < 2:
        return ()
    ordered = np.sort(scores, axis=0)
    constant = np.flatnonzero(ordered[0] == ordered[-1])
    if len(constant):
        names = [predictions.classes[c] for c in constant]
        raise DataError(f"{len(constant)} classes have one score for all samples, which ranks nothing: {_some(names)}")
    same = ordered[1:] == ordered[:-1]
    tied = np.zeros(scores.shape, dtype=bool)
    tied[1:] |= same
    tied[:-1] |= same
    count, share = int(tied.sum()), float(tied.mean())
    if not count:
        return ()
    told = f"{count:,} scores ({_percent(share)} %) equal that of another sample of their class"
    # float16 keeps 10 bits of the fraction and bfloat16 7, of the 23 here.
    if not (scores.view(np.uint32) & 0x1FFF).any():
        raise DataError(f"{told}, and all are 16-bit numbers: write them in 32 bits, as the model gave them")
    if share > MOST_TIED:
        distinct = len(np.unique(scores))
        raise DataError(
            f"{told} ({distinct:,} distinct values in all): they are rounded or quantised; at most "
            f"{100 * MOST_TIED:.0f} % may be tied. Write all digits"
        )
    return (f"{told}.",)


def _percent(share: float) -> str:
    """Two digits at least, and never as a power of ten."""
    return f"{100 * share:.0f}" if share >= 0.1 else f"{100 * share:.2g}"


def _refuse_twice(what: str, names: Sequence[str]) -> None:
    if len(set(names)) == len(names):
        return
    seen: set[str] = set()
    twice = list(dict.fromkeys(name for name in names if name in seen or seen.add(name)))  # type: ignore[func-returns-value]
    raise DataError(f"{len(twice)} {what} names stand more than once: {_some(twice)}")


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    return ", ".join(map(short, listed[:3])) + (", ..." if len(listed) > 3 else "")
