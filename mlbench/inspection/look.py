"""What a run, or two, say of every image of one part, beside the labels that are true and those that were observed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from mlbench.annotation import State, map_unspecified
from mlbench.datasets.base import Dataset, Split
from mlbench.errors import UsageError, unknown
from mlbench.evaluation.predictions import Predictions, read_predictions
from mlbench.evaluation.scoring import align, targets_of
from mlbench.explain.cam import class_maps, has_maps
from mlbench.inspection.per_image import (
    entry_loss,
    found_negatives,
    image_ap,
    image_loss,
    largest_unknown_loss,
    probabilities,
    suspects,
    top_unknown,
)
from mlbench.metrics import Scores, scores_of_kind, threshold, top_k
from mlbench.paths import store_dir
from mlbench.runner.evaluate import predict_part
from mlbench.runner.feed import Feed
from mlbench.runner.plan import Run
from mlbench.runner.recording import predictions_of
from mlbench.runner.trained import reload_network, reload_run
from mlbench.runner.world import World
from mlbench.store import find_run, is_submitted, run_dir

PARTS = ("train", "val", "test")
#: How many unknown entries of the whole part count as those of top loss.
TOP = 200
#: Fields of `Sight` that mark entries worth a look, and what they are called.
FLAGS = {
    "found": "false negatives that the model finds",
    "top_loss": "top-loss unknowns",
    "suspect": "label-noise suspects",
}
_BATCH = 64


@dataclass(frozen=True, eq=False)
class Sight:
    """One run over N images and C classes; `mlbench.inspection.per_image` defines each number.

    name : the method, or ``METHOD_KEY`` where both runs are of one method; letters, digits and "_" only.
    decided : bool [N, C]. By the method itself where it decides, else at the protocol's probability, or where scores
        only order, its top k.
    ap, loss : float64 [N] against the truth, as far as it is known; NaN where undefined.
    observed_loss : float64 [N, C] against the observed labels, unknown ones taken for negative; unknown_loss : float64
        [N], the largest of an unknown entry.
    found, top_loss, suspect : bool [N, C], the entries of `FLAGS`.

    `probability` [N, C] and the losses are None where scores only order; no entry is of top loss or a suspect then.
    """

    name: str
    key: str
    scores: Scores
    decided: np.ndarray
    probability: np.ndarray | None
    ap: np.ndarray
    loss: np.ndarray | None
    observed_loss: np.ndarray | None
    unknown_loss: np.ndarray | None
    found: np.ndarray
    top_loss: np.ndarray
    suspect: np.ndarray
    network: nn.Module = field(repr=False)
    feed: Feed = field(repr=False)

    def maps(self, part: str, rows: np.ndarray) -> np.ndarray | None:
        """CAMs float32 [B, C, h, w] of part rows [B]; None where the network has none."""
        if not has_maps(self.network):
            return None
        pieces = [rows[start : start + _BATCH] for start in range(0, len(rows), _BATCH)]
        batches = [self.feed.batch(part, piece, None).inputs for piece in pieces]
        return np.concatenate([class_maps(self.network, inputs).cpu().numpy() for inputs in batches])

    def order(self, flag: str) -> np.ndarray:
        """Rows with an entry marked by `flag`, the largest first, ties in row order.

        A false negative is as large as its score, the other kinds as their loss against the observed label.
        """
        marked = getattr(self, flag)
        values = self.scores.values if flag == "found" or self.observed_loss is None else self.observed_loss
        return _largest_first(np.where(marked, values, -np.inf).max(axis=1), marked.any(axis=1))


@dataclass(frozen=True, eq=False)
class Look:
    """Part `part` of a data set as one run or two see it.

    truth, observed : int8 [N, C] `State` codes. Nothing is hidden of a test part: there both are the truth.
    differ : int64 [N], classes that the two runs decide otherwise; difference : float64 [N], the largest difference of
    their probabilities in a class. None with one run, `difference` also where scores only order.
    """

    title: str
    data: Dataset
    part: str
    split: Split
    truth: np.ndarray
    observed: np.ndarray
    runs: tuple[Sight, ...]
    notes: tuple[str, ...]
    differ: np.ndarray | None = None
    difference: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.split)

    def marks(self, row: int, c: int) -> list[str]:
        """What entry (row, c) is: names of `FLAGS` by any run, and "differ" where the runs decide otherwise."""
        found = [flag for flag in FLAGS if any(getattr(sight, flag)[row, c] for sight in self.runs)]
        return [*found, *(["differ"] if len({bool(sight.decided[row, c]) for sight in self.runs}) > 1 else [])]

    def classes_of(self, row: int, most: int) -> list[int]:
        """At most `most` classes of an image worth showing, the first run's highest score first in each group.

        Marked entries come first, then classes true or observed, then those decided; if there are none, the class of
        the highest score.
        """
        score = self.runs[0].scores.values[row]
        positive = (self.truth[row] == State.POSITIVE) | (self.observed[row] == State.POSITIVE)
        decided = np.any([sight.decided[row] for sight in self.runs], axis=0)
        marked = np.any([getattr(sight, flag)[row] for sight in self.runs for flag in FLAGS], axis=0)
        marked |= decided & ~np.all([sight.decided[row] for sight in self.runs], axis=0)
        group = np.select([marked, positive, decided], [3, 2, 1], 0)
        if not group.any():
            return [int(score.argmax())]
        return [int(c) for c in np.lexsort((-score, -group)) if group[c]][:most]

    def disagreeing(self) -> np.ndarray:
        """Rows that the two runs decide otherwise, by falling `differ`, then `difference`; ties in row order."""
        if self.differ is None:
            return np.zeros(0, dtype=np.int64)
        difference = np.zeros(len(self)) if self.difference is None else self.difference
        rows = np.lexsort((-difference, -self.differ))
        return rows[self.differ[rows] > 0]

    def rows_by_interest(self, most: int) -> np.ndarray:
        """At most `most` rows: of every kind of `FLAGS` by every run, of disagreement, and of low AP, in turn."""
        lists = [sight.order(flag) for flag in FLAGS for sight in self.runs]
        lists.append(self.disagreeing())
        lists.append(np.argsort(np.nan_to_num(self.runs[0].ap, nan=2.0), kind="stable"))
        longest = max(len(rows) for rows in lists)
        turns = (rows[at] for at in range(longest) for rows in lists if at < len(rows))
        return np.array(list(dict.fromkeys(map(int, turns)))[:most], dtype=np.int64)


def look(
    runs: Sequence[str],
    store: Path | None = None,
    data_root: Path | None = None,
    dataset: str | None = None,
    weights: Path | None = None,
    part: str = "train",
    device: str = "auto",
) -> Look:
    """Look at part `part` with the trained networks of one run or two (first characters of their keys).

    Scores of "val" and "test" are the stored predictions, those of "train" are computed from the stored weights, on
    images without augmentation. The observed labels are those that the first run's protocol and mask show.

    Raises
    ------
    UsageError
        Unknown part or run, the same run twice, a submitted run, runs of different data sets or splits.
    DataError
        The data here are not those of the run, or its files are missing or changed.
    """
    if part not in PARTS:
        raise unknown("part", part, PARTS)
    root = store or store_dir()
    records = [find_run(prefix, root) for prefix in runs]
    if not 1 <= len(records) <= 2:
        raise UsageError(f"{len(records)} runs: expected one, or two to compare")
    if len({record["key"] for record in records}) < len(records):
        raise UsageError(f"runs '{runs[0]}' and '{runs[1]}' are the same run")
    for record in records:
        if is_submitted(record):
            raise UsageError(f"run {record['key'][:16]} was submitted as predictions: there is no network to look into")
    loaded = [reload_run(record, data_root, weights, dataset) for record in records]
    if part not in loaded[0].parts:
        raise unknown("part", part, loaded[0].parts, f"protocol '{loaded[0].protocol.name}'")
    _require_same_images(loaded, part)
    first, split, data = loaded[0], loaded[0].parts[part].split, loaded[0].dataset
    unspecified = first.protocol.unspecified_for(data.id)
    truth = map_unspecified(np.asarray(first.parts[part].labels), unspecified.ap)
    observed = truth if part == "test" else np.asarray(first.parts[part].observed)
    names = _names(loaded)
    sights = tuple(
        _sight(name, run, record, root, part, truth, observed, device)
        for name, run, record in zip(names, loaded, records, strict=True)
    )
    shown = " and ".join(f"{run.method.name} (run {run.key[:16]})" for run in loaded)
    return Look(
        f"{shown} on the {part} part of {data.id}, protocol {first.protocol.name}",
        data,
        part,
        split,
        truth,
        observed,
        sights,
        tuple(_notes(loaded, sights, part)),
        *_disagreement(sights),
    )


def predictions_for(
    run: Run, record: dict[str, Any], root: Path, part: str, network: nn.Module, method: Any, feed: Feed, device: str
) -> Predictions:
    """The stored predictions of `part`, or where there are none, new ones by the selected weights."""
    stored = record["predictions"].get(part)
    if stored is not None:
        return read_predictions(run_dir(root, run.key) / stored["file"], stored["sha256"])
    world, phases = World(device, run.request.precision), method.phases()
    source = phases[-1].source if phases else "images"
    seen = predict_part(network, method.predict, feed, part, world, None, source)
    return predictions_of(run, seen, part, int(record["selected"]["epoch"]))


def _sight(
    name: str,
    run: Run,
    record: dict[str, Any],
    root: Path,
    part: str,
    truth: np.ndarray,
    observed: np.ndarray,
    device: str,
) -> Sight:
    method, network, feed = reload_network(run, root, device)
    predictions = predictions_for(run, record, root, part, network, method, feed, device)
    order = align(predictions, run.parts[part].split.ids, run.dataset.classes)
    scores = scores_of_kind(predictions.kind, predictions.scores[order])
    rules = run.protocol.metrics
    if predictions.decisions is not None:
        decided = predictions.decisions[order]
    else:
        decided = top_k(scores, rules.top_k) if predictions.kind == "rank" else threshold(scores, rules.decision)
    targets, known = targets_of(truth, "ignore")
    probability, loss = probabilities(scores), entry_loss(scores, targets)
    observed_loss = entry_loss(scores, observed == State.POSITIVE)
    none = np.zeros(scores.shape, dtype=bool)
    return Sight(
        name,
        run.key,
        scores,
        decided,
        probability,
        image_ap(scores, targets, known),
        None if loss is None else image_loss(loss, known),
        observed_loss,
        None if observed_loss is None else largest_unknown_loss(observed_loss, observed),
        found_negatives(decided, observed, truth),
        none if observed_loss is None else top_unknown(observed_loss, observed, TOP),
        none if probability is None else suspects(probability, observed),
        network,
        feed,
    )


def _names(runs: Sequence[Run]) -> list[str]:
    plain = [re.sub(r"\W", "_", run.method.name, flags=re.ASCII) for run in runs]
    alike = len(set(plain)) < len(plain)
    return [f"{name}_{run.key[:8]}" if alike else name for name, run in zip(plain, runs, strict=True)]


def _require_same_images(runs: Sequence[Run], part: str) -> None:
    if len({run.dataset.fingerprint for run in runs}) > 1:
        raise UsageError("the runs are of different data sets: give runs of one")
    splits = [run.parts[part].split for run in runs if part in run.parts]
    if len(splits) < len(runs) or any(tuple(split.ids) != tuple(splits[0].ids) for split in splits):
        raise UsageError(f"the runs' {part} parts are not the same images; --part test is the same for all")


def _disagreement(sights: Sequence[Sight]) -> tuple[np.ndarray | None, np.ndarray | None]:
    """(`differ`, `difference`) of `Look`."""
    if len(sights) < 2:
        return None, None
    differ = (sights[0].decided != sights[1].decided).sum(axis=1)
    chances = [sight.probability for sight in sights]
    if chances[0] is None or chances[1] is None:
        return differ, None
    return differ, np.abs(chances[0] - chances[1]).max(axis=1)


def _notes(runs: Sequence[Run], sights: Sequence[Sight], part: str) -> list[str]:
    notes = []
    if part == "test":
        notes.append("Nothing is hidden of a test part: its observed labels are the true ones.")
    elif len({run.mask.sha256 for run in runs}) > 1:
        notes.append("The runs saw different masks; the observed labels here are those of the first.")
    for run, sight in zip(runs, sights, strict=True):
        more = [level for level in run.method.supervision if level != "observed"]
        if more and part == "train":
            notes.append(f"{sight.name} was told more than the observed labels: {', '.join(more)}.")
        if sight.probability is None:
            notes.append(f"Scores of {sight.name} only order: it has no losses and no suspects.")
        if not has_maps(sight.network):
            notes.append(f"{sight.name} has no class activation maps.")
    return notes


def _largest_first(values: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """The rows in bool `kept` [N] by falling `values` [N], ties in row order."""
    rows = np.flatnonzero(kept)
    return rows[np.argsort(-values[rows], kind="stable")]
