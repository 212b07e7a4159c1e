"""`submit`: predictions made elsewhere become a record whose numbers are computed here."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from mlbench import HARNESS_VERSION
from mlbench.datasets import load_dataset
from mlbench.datasets.base import Dataset
from mlbench.errors import DataError, UsageError
from mlbench.evaluation.class_groups import groups_for
from mlbench.evaluation.predictions import Predictions, write_predictions
from mlbench.evaluation.scoring import score_predictions
from mlbench.foreign.readers import read_submission
from mlbench.inputs.duplicates import equal_pictures
from mlbench.paths import store_dir
from mlbench.protocol import Protocol, load_protocol
from mlbench.provenance import collect_provenance
from mlbench.settings import to_plain
from mlbench.store import SUBMITTED, find_records, is_submitted, run_dir, run_key, seal, write_record
from mlbench.submit.card import Card, read_card
from mlbench.submit.checks import check_classes, check_kind, check_says, check_ties, rows_of, to_float32


@dataclass(frozen=True)
class Receipt:
    """A submission that was taken: its record, and whether the store had it already."""

    record: dict[str, Any]
    known: bool

    def text(self) -> str:
        record = self.record
        identity, test = record["identity"], record["results"]["test"]
        shown = [f"{name} {test[name]:.2f}" for name in ("mAP", "F1-C_mean", "F1-O") if test.get(name) is not None]
        state = "was submitted before" if self.known else "taken"
        lines = [f"{identity['method']['name']} version {identity['method']['version']} {state}: {', '.join(shown)}"]
        return "\n".join([*lines, f"run {record['key'][:16]}", *(f"  - {note}" for note in record["notes"])])


def submit(
    predictions: Path,
    *,
    protocol: str,
    dataset: str,
    card: Path,
    data_root: Path | None = None,
    store: Path | None = None,
    seed: int = 0,
    mask_seed: int = 0,
) -> Receipt:
    """Check a predictions file, score it on the test part here, and keep both in the store.

    Nothing is written before every check has passed. The same submission again changes nothing.

    Parameters
    ----------
    predictions : ``.safetensors``, ``.parquet`` or ``.csv`` (docs/submit.md); one score for each test sample and
        class, higher means more likely present.
    card : the submission's card, a ``.toml`` file.
    seed, mask_seed : repetition and draw of hidden labels that the submitter says these are.

    Raises
    ------
    UsageError
        For an unknown protocol or data set, another file ending, or a negative seed.
    DataError
        For anything wrong with the file or its card, or a version submitted before with other scores.
    """
    started, clock = datetime.now(UTC), time.perf_counter()
    if seed < 0 or mask_seed < 0:
        raise UsageError(f"--seed {seed} --mask-seed {mask_seed}: expected whole numbers from 0")
    rules, about = load_protocol(protocol), read_card(card)
    data = load_dataset(dataset, data_root)
    _check_dataset(about, card, data, rules)
    test = data.splits["test"]
    ids, classes = tuple(test.ids), tuple(data.classes)
    found, raw = read_submission(predictions, ids, classes)
    try:
        check_says(found.says, about.kind, data.id)
        check_classes(found.classes, classes)
        scores = to_float32(found.scores[rows_of(found.ids, ids)])
        bare = Predictions(scores, about.kind, ids, tuple(test.groups), classes)  # type: ignore[arg-type]
        notes = check_ties(bare) + check_kind(bare)
    except DataError as error:
        raise DataError(f"{predictions}: {error}") from None
    root = store or store_dir()
    identity = _identity(about, rules, data, bare.scores, seed, mask_seed)
    key = run_key(identity)
    earlier = _earlier(root, identity, key, about)
    if earlier is not None:
        return Receipt(earlier, True)

    kept = Predictions(
        scores,
        bare.kind,
        ids,
        bare.groups,
        classes,
        meta={"key": key, "dataset": data.id, "split": "test", "epoch": "0"},
    )
    groups = groups_for(rules.metrics, data.splits["train"].labels, classes)
    unspecified = rules.unspecified_for(data.id)
    results, per_class = score_predictions(kept, test.labels, ids, classes, rules.metrics, unspecified, groups)
    target = run_dir(root, key) / "test.safetensors"
    digest = write_predictions(target, kept)
    provenance = collect_provenance(
        started=started,
        seconds=time.perf_counter() - clock,
        argv=["mlbench", "submit", f"predictions{predictions.suffix}", "--protocol", protocol, "--dataset", dataset],
    )
    claims = {**about.claims(), "file_sha256": hashlib.sha256(raw).hexdigest()}
    record = {
        "key": key,
        "identity": identity,
        "protocol": rules.plain(data.id),
        "definitions": rules.definitions(data.id),
        "results": {"test": results},
        "per_class": per_class,
        "selected": {"phase": "submitted", "epoch": 0, "rule": "unknown"},
        "epochs": [],
        "phases": [],
        "predictions": {"test": {"file": target.name, "sha256": digest, "kind": about.kind}},
        "weights": None,
        "supervision": {
            "observed_labels": None,
            "selection_labels": None,
            "extra": [level for level in about.supervision if level != "observed"],
        },
        "notes": [_NOTE, *data.notes, *equal_pictures(data), *notes, *_reported(about, results)],
        "provenance": {**provenance, "kind": "predictions", "submission": claims},
    }
    record = seal(record)
    write_record(root, record)
    return Receipt(record, False)


_NOTE = (
    "Submitted predictions: scored here, not reproduced. Supervision, backbone, seed and mask are what the submitter "
    "says; hardware and time are those of the scoring."
)


def _check_dataset(card: Card, path: Path, data: Dataset, rules: Protocol) -> None:
    """DataError unless the card names exactly the data set here, and it is what the protocol was defined on."""
    here = {"id": data.id, "version": data.version, "fingerprint": data.fingerprint}
    for name, value in here.items():
        if card.dataset[name] != value:
            raise DataError(f"{path}: dataset.{name} = {card.dataset[name][:70]!a}; the data set here has '{value}'")
    if data.is_miniature:  # whose counts its loader has compared with its own
        return
    # What the protocol expects of the other parts does not matter to numbers of the test part.
    expected = rules.datasets[data.id].expect if data.id in rules.datasets else {}
    counts = {**expected, "classes": len(data.classes), "test": len(data.splits["test"])}
    rules.check_counts(data.id, counts, data.version)


def _identity(
    card: Card, rules: Protocol, data: Dataset, scores: np.ndarray, seed: int, mask_seed: int
) -> dict[str, Any]:
    """What decides the numbers of a submission: its scores, the test part and the rules. The rest is claimed."""
    return {
        "harness": HARNESS_VERSION,
        "protocol": rules.name,
        "protocol_sha256": rules.sha256,
        "dataset": {"id": data.id, "version": data.version, "fingerprint": data.fingerprint},
        "split": {"test": len(scores)},
        "mask": {"process": "unknown"},
        "definitions": rules.counted,
        "unspecified": to_plain(rules.unspecified_for(data.id)),
        "track": "submitted",
        "backbone": {"name": card.backbone, "weights": "unknown"},
        "method": {
            "name": SUBMITTED + card.name,
            "version": card.version,
            "hyperparameters": {},
            "supervision": list(card.supervision),
        },
        "train": {},
        "precision": "unknown",
        "selection": "unknown",
        "uses": {},
        "scores": {"kind": card.kind, "sha256": hashlib.sha256(scores.tobytes()).hexdigest()},
        "repetition": seed,
        "mask_seed": mask_seed,
    }


def _earlier(root: Path, identity: dict[str, Any], key: str, card: Card) -> dict[str, Any] | None:
    """The record of this very submission if the store has it; DataError for other scores under a used version."""
    if not root.exists():
        return None
    method = identity["method"]
    same = {"protocol": identity["protocol"], "dataset": identity["dataset"]["id"], "method": method["name"]}
    drawn = {"repetition": identity["repetition"], "mask_seed": identity["mask_seed"]}
    records, _ = find_records(root, **same, **drawn)
    submitted = sorted(filter(is_submitted, records), key=lambda record: record["identity"]["method"]["version"])
    for record in submitted:  # first of all: whether it is there, whatever came after it
        if record["key"] == key:
            if record["provenance"]["submission"]["card_sha256"] != card.sha256:
                raise DataError(
                    f"'{card.name}' version {card.version} was submitted with another card: raise its version"
                )
            return record
    for record in submitted[-1:]:
        version = record["identity"]["method"]["version"]
        if version >= card.version:
            raise DataError(
                f"'{card.name}' version {version} is in the store with other scores (run {record['key'][:16]}): "
                f"raise the card's version to {version + 1}, or give another --seed or --mask-seed"
            )
    return None


def _reported(card: Card, results: dict[str, float | None]) -> list[str]:
    """A line for each number the card reports, beside the one computed here."""
    lines = []
    for name, value in card.reported.items():
        ours = results.get(name)
        lines.append(f"Reported {name} {value:g}; {'not computed' if ours is None else f'{ours:.2f}'} here.")
    return lines
