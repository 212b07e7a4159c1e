"""Two processes train a network of timm as one does, and score by what they saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mlbench.conformance.suite import compare, double_precision, read_course, with_sgd
from mlbench.conformance.testing import tiny_dataset
from mlbench.runner.execute import Options, run
from mlbench.runner.plan import Request, resolve
from mlbench.runner.processes import in_several
from mlbench.runner.world import leave
from mlbench.store import RECORD_FILE, read_record, run_dir

pytest.importorskip("timm")

#: Without BatchNorm, whose statistics are those of each process's share of a batch.
NAMES = ("test_vit", "test_convnext")


def ask(name: str) -> Request:
    changes = {"train.epochs": 1, "train.batch_size": 11, "train.image_size": 64, "train.lr": 1e-3}
    given: dict[str, Any] = {"dataset": tiny_dataset(), "track": "full", "backbone": f"timm:{name}"}
    return with_sgd(Request("single_positive", "an", changes=changes, **given))


def one_of_two(rank: int, store: Path) -> None:
    for name in NAMES:
        with double_precision():
            run(ask(name), Options(store=store, device="cpu", quiet=True))
    leave()


def test_one_and_two_processes_agree(tmp_path: Path) -> None:
    two = tmp_path / "two"
    in_several(one_of_two, 2, two)
    for name in NAMES:
        with double_precision():
            record = run(ask(name), Options(store=tmp_path / "one", device="cpu", quiet=True))
        other = read_record(run_dir(two, resolve(ask(name)).key) / RECORD_FILE)
        assert other["key"] == record["key"]
        assert other["provenance"]["processes"] == 2
        compare(read_course(tmp_path / "one", record), read_course(two, other), 1e-6)
