"""What the tests of inspection share: a made-up look at images with awkward names, and a real one at two tiny runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn

from mlbench.annotation import State
from mlbench.conformance.testing import ArrayImages
from mlbench.datasets.base import Dataset, Split
from mlbench.inspection.look import Look, Sight, _disagreement
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
from mlbench.metrics import Logits, Scores, scores_of_kind

CLASSES = ("<b>car</b>", "</script><script>alert(1)</script>", 'dog" onclick="x', "plain")


def make_look(count: int = 12, side: int = 40, runs: int = 2, kind: str = "logit") -> Look:
    """Noise with random labels and scores: four classes and ids that try to leave their place in a page."""
    draw = np.random.default_rng(3)
    truth = np.where(draw.random((count, 4)) < 0.5, State.POSITIVE, State.NEGATIVE).astype(np.int8)
    truth[0] = State.NEGATIVE
    observed = np.where(draw.random((count, 4)) < 0.5, truth, State.UNKNOWN).astype(np.int8)
    images = ArrayImages(draw.integers(0, 256, (count, side, side, 3), dtype=np.uint8))
    boxes = np.array([[1, 0, 4, 8, 20, 28], [1, 3, -5, 0, side + 5, side]], dtype=np.float32)
    ids = tuple(f"<img src=x onerror=alert({row})>\u202e" for row in range(count))
    split = Split(ids, truth, images, boxes=boxes)
    sights = tuple(
        make_sight(f"run_{number}", scores_of_kind(kind, draw.random((count, 4), dtype=np.float32)), truth, observed)
        for number in range(runs)
    )
    data = Dataset("made", "1", CLASSES, {"test": split})
    return Look("<i>made</i>", data, "train", split, truth, observed, sights, ("A <note>.",), *_disagreement(sights))


def make_sight(name: str, scores: Scores, truth: np.ndarray, observed: np.ndarray) -> Sight:
    if isinstance(scores, Logits):
        scores = Logits(4 * scores.values - 2)
    decided = scores.values > np.median(scores.values)
    known = np.ones(truth.shape, dtype=bool)
    loss, own = entry_loss(scores, truth == State.POSITIVE), entry_loss(scores, observed == State.POSITIVE)
    chance, none = probabilities(scores), np.zeros(truth.shape, dtype=bool)
    return Sight(
        name,
        name * 12,
        scores,
        decided,
        chance,
        image_ap(scores, truth == State.POSITIVE, known),
        None if loss is None else image_loss(loss, known),
        own,
        None if own is None else largest_unknown_loss(own, observed),
        found_negatives(decided, observed, truth),
        none if own is None else top_unknown(own, observed, 5),
        none if chance is None else suspects(chance, observed),
        nn.Identity(),
        None,  # type: ignore[arg-type]  # without maps nothing is fed
    )


@pytest.fixture
def made() -> Callable[..., Look]:
    return make_look


@pytest.fixture(scope="session")
def two_runs(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Options that name a store with a run of `an` and one of `prior` on `photos`; their keys under "keys"."""
    from mlbench.runner.execute import Options, run
    from mlbench.runner.plan import Request

    store = tmp_path_factory.mktemp("inspected")
    changes = {"train.image_size": 32, "train.batch_size": 8, "train.lr": 0.01}
    asked = {"dataset": str(photos / "mine.toml"), "backbone": "scenes", "track": "full", "epochs": 2}
    records = [
        run(
            Request(protocol="single_positive", method=method, changes=changes, **asked),  # type: ignore[arg-type]
            Options(store=store, device="cpu", quiet=True),
        )
        for method in ("an", "prior")
    ]
    return {"store": store, "dataset": asked["dataset"], "keys": [str(record["key"]) for record in records]}
