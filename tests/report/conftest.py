"""Run records as the runner writes them, short of what tables do not read."""

from __future__ import annotations

import copy
import hashlib
import json
from typing import Any

import pytest


def _merge(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    for dotted, value in changes.items():
        *path, last = dotted.split(".")
        place = base
        for part in path:
            place = place.setdefault(part, {})
        place[last] = value
    return base


@pytest.fixture
def make_record():
    """Return a function: method, mAP, repetition, and changes under dotted names of the whole record."""

    def make(method: str = "an", value: float | None = 60.0, repetition: int = 0, **changes: Any) -> dict[str, Any]:
        supervision = ["full"] if method == "full" else ["observed"]
        record: dict[str, Any] = {
            "schema": 1,
            "identity": {
                "harness": 1,
                "protocol": "single_positive",
                "protocol_sha256": "a" * 64,
                "dataset": {"id": "scenes", "version": "1", "fingerprint": "f" * 64},
                "split": {"validation": "holdout", "seed": 1200},
                "mask": {"process": "single_positive", "seed": repetition, "sha256": f"{repetition:064d}"},
                "track": "full",
                "backbone": {"name": "scenes", "weights": "none"},
                "method": {"name": method, "version": 1, "hyperparameters": {}, "supervision": supervision},
                "train": {"epochs": 12, "batch_size": 64},
                "precision": "fp32",
                "selection": "clean_val",
                "repetition": repetition,
                "mask_seed": repetition,
            },
            "definitions": {"ap": "step", "empty_class": "zero", "unspecified": {"ap": "ignore"}, "decision": 0.5},
            "results": {"test": {"mAP": value, "F1-C_mean": 50.0, "top3_thresholded/F1-O": 40.0}, "val": {"mAP": 1.0}},
        }
        _merge(record, {name.replace("__", "."): entry for name, entry in copy.deepcopy(changes).items()})
        record["key"] = hashlib.sha256(json.dumps(record["identity"], sort_keys=True).encode()).hexdigest()
        return record

    return make
