"""Valid records, with and without files, for the tests of the store."""

from __future__ import annotations

import copy
import hashlib
import json
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from mlbench.errors import DataError
from mlbench.evaluation.predictions import Predictions, write_predictions
from mlbench.files import atomic_write
from mlbench.protocol import load_protocol
from mlbench.provenance import collect_provenance
from mlbench.store import run_dir, run_key, seal

HEX = "0123456789abcdef" * 4


def make_record(**identity: Any) -> dict[str, Any]:
    """A valid record without files; keyword arguments change its identity."""
    parts = {
        "harness": 2,
        "definitions": {"empty_class": "zero"},
        "protocol": "single_positive",
        "protocol_sha256": HEX,
        "dataset": {"id": "scenes", "version": "1", "fingerprint": HEX},
        "split": {"validation": "official", "train": 4000},
        "mask": {"process": "single_positive", "seed": 0, "sha256": HEX},
        "track": "full",
        "backbone": {"name": "scenes", "weights": "none"},
        "method": {
            "name": "llr",
            "version": 1,
            "hyperparameters": {"delta": 0.5},
            "supervision": ["observed"],
        },
        "train": {"epochs": 12, "batch_size": 64, "lr": 1e-3},
        "precision": "fp32",
        "selection": "clean_val",
        "repetition": 0,
        "mask_seed": 0,
        **identity,
    }
    metrics = {"mAP": 63.91, "F1-O": None, "top3_strict/F1-C_mean": 41.0}
    record = {
        "schema": 2,
        "key": run_key(parts),
        "identity": parts,
        "protocol": load_protocol("single_positive").plain("scenes"),
        "definitions": {
            "ap": "step",
            "empty_class": "zero",
            "unspecified": {"train": "negative", "ap": "ignore", "f1": "negative"},
            "decision": 0.5,
            "top_k": 3,
        },
        "results": {"test": metrics, "val": dict(metrics)},
        "per_class": {"AP": {"Wald und Wiese": 61.2, "été": None}},
        "selected": {"phase": "train", "epoch": 7, "rule": "clean_val"},
        "epochs": [
            {
                "phase": "train",
                "epoch": 1,
                "loss": 0.31,
                "seconds": 1.8,
                "images_per_s": 2200.0,
                "val": {"mAP": 20.1},
                "test_sealed": {"mAP": 19.0},
            }
        ],
        "phases": [{"name": "train", "epochs": 12, "seconds": 20.1}],
        "predictions": {},
        "weights": None,
        "supervision": {"observed_labels": 4000, "selection_labels": 10000, "extra": []},
        "notes": ["one photograph has no tag"],
        "provenance": collect_provenance(
            started=datetime(2026, 11, 21, tzinfo=UTC), seconds=33.0, argv=["mlbench", "run"]
        ),
    }
    return seal(record)


def as_schema_1(record: dict[str, Any]) -> dict[str, Any]:
    """`record` as it was written before records held their protocol and the hash of their content."""
    record = copy.deepcopy(record) | {"schema": 1}
    del record["protocol"], record["content_sha256"], record["provenance"]["starts"], record["identity"]["definitions"]
    record["identity"]["harness"] = 1
    return record | {"key": run_key(record["identity"])}


def with_files(root: Path, **identity: Any) -> dict[str, Any]:
    """A record whose predictions and weights lie in its run's folder; the record itself is not written."""
    record = make_record(**identity)
    folder = run_dir(root, record["key"])
    meta = {"key": record["key"], "dataset": "scenes", "epoch": "7"}
    for split in ("val", "test"):
        scores = np.arange(6, dtype=np.float32).reshape(3, 2)
        predictions = Predictions(scores, "logit", ("a", "b", "c"), (), ("x", "y"), meta={**meta, "split": split})
        digest = write_predictions(folder / f"{split}.safetensors", predictions)
        record["predictions"][split] = {"file": f"{split}.safetensors", "sha256": digest, "kind": "logit"}
    atomic_write(folder / "weights.safetensors", b"weights")
    record["weights"] = {"file": "weights.safetensors", "sha256": hashlib.sha256(b"weights").hexdigest()}
    return seal(record)


def put(record: dict[str, Any], place: str, value: Any) -> dict[str, Any]:
    """`record` with the entry at the dotted `place` set, key and content hash made to fit again."""
    record = copy.deepcopy(record)
    *path, last = place.split(".")
    inner: Any = record
    for part in path:
        inner = inner[int(part)] if isinstance(inner, list) else inner[part]
    inner[last] = value
    if path and path[0] == "identity":
        record["key"] = hashlib.sha256(json.dumps(record["identity"], sort_keys=True).encode()).hexdigest()
    if record.get("schema") == 2 and place != "content_sha256":
        with suppress(DataError):  # a value that JSON does not have has no hash
            record = seal(record)
    return record
