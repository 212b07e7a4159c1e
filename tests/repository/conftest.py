"""Runs on `scenes` whose scores are drawn and whose records were made from them, as a runner's would be."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mlbench import paths
from mlbench.datasets import load_dataset
from mlbench.evaluation.predictions import Predictions, write_predictions
from mlbench.evaluation.scoring import score_predictions
from mlbench.protocol import load_protocol
from mlbench.store import publish_record, read_record, run_dir, run_key, seal, write_record
from mlbench.store.schema import refit

PUBLISHED = Path(__file__).parents[2] / "results" / "runs"
Record = dict[str, Any]


@pytest.fixture(scope="session")
def pattern() -> Record:
    """A published record of `scenes`, without what it has besides its test part."""
    record = read_record(min(PUBLISHED.glob("an__scenes__single_positive__*.json")))
    record |= {"weights": None, "phases": [], "epochs": [], "replications": [], "predictions": {}}
    del record["replications"]
    record["selected"] = {"phase": "train", "epoch": 0, "rule": record["selected"]["rule"]}
    record["results"] = {"test": {}}
    return record


@pytest.fixture
def make_run(tmp_path: Path, pattern: Record) -> Callable[..., Record]:
    """Return a function that stores a run of a method and draw in the store ``runs``, and publishes its record."""
    data, rules = load_dataset("scenes"), load_protocol("single_positive")
    test = data.splits["test"]

    def make(method: str = "an", draw: int = 0, store: str = "runs", publish: bool = True, **changes: Any) -> Record:
        record = copy.deepcopy(pattern)
        identity = record["identity"]
        identity["dataset"] = {"id": data.id, "version": data.version, "fingerprint": data.fingerprint}
        identity["protocol_sha256"] = rules.sha256
        identity["method"]["name"] = method
        identity["split"]["test"] = len(test)
        identity["repetition"] = identity["mask_seed"] = identity["mask"]["seed"] = draw
        identity["mask"]["sha256"] = f"{draw:064d}"
        identity |= changes
        random = np.random.default_rng([*method.encode(), draw])
        truth = np.asarray(test.labels) > 0
        scores = (random.normal(size=truth.shape) + truth).astype(np.float32)
        record["key"] = run_key(identity)
        kept = Predictions(
            scores,
            "logit",
            tuple(test.ids),
            tuple(test.groups),
            tuple(data.classes),
            meta={"key": record["key"], "dataset": data.id, "split": "test", "epoch": "0"},
        )
        results, per_class = score_predictions(
            kept, test.labels, test.ids, data.classes, rules.metrics, rules.unspecified_for(data.id)
        )
        root = tmp_path / store
        digest = write_predictions(run_dir(root, record["key"]) / "test.safetensors", kept)
        record["predictions"] = {"test": {"file": "test.safetensors", "sha256": digest, "kind": "logit"}}
        record |= {"results": {"test": results}, "per_class": per_class, "protocol": rules.plain(data.id)}
        record["definitions"] = rules.definitions(data.id)
        record = seal(refit(record))
        write_record(root, record)
        if publish:
            publish_record(root, record["key"], tmp_path / "results")
        return record

    return make


@pytest.fixture
def board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder ``results`` of a project whose published records are the test's own; no scores are fetched yet."""
    folder = tmp_path / "results"
    (folder / "runs").mkdir(parents=True)
    monkeypatch.setattr(paths, "find_spec", lambda name: SimpleNamespace(submodule_search_locations=[str(folder)]))
    shutil.rmtree(paths.cache_dir() / "scores", ignore_errors=True)
    return folder
