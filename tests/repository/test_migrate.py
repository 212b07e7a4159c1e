"""`results migrate`: what is proved comes over under the key a run has now; what is not stays, and is listed."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlbench.conformance.testing import tiny_dataset
from mlbench.datasets.recorded import legacy_fingerprint
from mlbench.files import link_files
from mlbench.protocol import legacy_sha256
from mlbench.repository import migrate as results_migrate
from mlbench.repository.migrate import migrate
from mlbench.repository.results import verify
from mlbench.runner.plan import resolve
from mlbench.store import find_records, published_name, read_record, run_dir, run_key, verify_run, write_record
from mlbench.store.schema import dump_record

Record = dict[str, Any]


def as_harness_1(record: Record, mask: Any, mask_seed: int, uses: dict[str, str] | None = None) -> Record:
    """`record` as harness 1 wrote it: every mask seed a key, the protocol's hash of its text, schema 1."""
    old = copy.deepcopy(record)
    for name in ("protocol", "content_sha256"):
        del old[name]
    del old["provenance"]["starts"], old["identity"]["definitions"]
    identity = old["identity"]
    identity |= {
        "harness": 1,
        "protocol_sha256": legacy_sha256(identity["protocol"]),
        "dataset": {**identity["dataset"], "fingerprint": legacy_fingerprint(tiny_dataset())},
        "mask": {**identity["mask"], "seed": mask.seed, "sha256": mask.sha256},
        "mask_seed": mask_seed,
        "uses": uses or {},
    }
    return old | {"schema": 1, "key": run_key(identity)}


def put(folder: Path, record: Record) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / published_name(record)
    path.write_text(dump_record(record, "test"), encoding="ascii")
    return path


@pytest.fixture(autouse=True)
def tiny_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results_migrate, "load_dataset", lambda name, root=None: tiny_dataset())


@pytest.fixture
def old(train, tiny_request, tmp_path: Path) -> Callable[..., tuple[Record, Record]]:
    """Return a function that trains a run and puts its record of harness 1 into ``tmp_path / "old"``: (new, old)."""

    def make(
        method: str = "an", mask_seed: int = 0, change: Callable[[Record], None] = lambda record: None, **given: Any
    ):
        request = {"mask_seed": mask_seed, "changes": {"train.epochs": 1}, **given}
        record, run = train(method, **request), resolve(tiny_request(method, **request))
        past = as_harness_1(record, run.mask, mask_seed)
        change(past)
        past["key"] = run_key(past["identity"])
        put(tmp_path / "old", past)
        return record, past

    return make


def test_a_record_comes_over_under_the_key_and_numbers_of_a_new_run(old, tmp_path: Path) -> None:
    record, past = old()
    before = tmp_path / "before"
    shutil.copytree(tmp_path / "old", before)
    dry = migrate(tmp_path / "old", dry_run=True)
    assert (dry.counts, dry.problems) == ({"brought over": 1}, [])
    assert find_records(tmp_path / "old")[0] == [past]
    report = migrate(tmp_path / "old")
    assert (report.counts, report.problems) == ({"brought over": 1}, [])
    (brought,) = find_records(tmp_path / "old")[0]
    for part in (
        "schema",
        "key",
        "identity",
        "protocol",
        "definitions",
        "results",
        "per_class",
        "epochs",
        "predictions",
    ):
        assert brought[part] == record[part], part
    said = brought["provenance"]["migrated"]
    assert (said["from"], said["harness"]) == ([past["key"]], 1)
    assert set(said["proved"]) == {"protocol", "labels", "mask", "pixels"}
    assert brought["provenance"]["starts"][0]["threads"] == past["provenance"]["threads"]
    assert verify(tmp_path / "old", before).problems == []
    again = migrate(tmp_path / "old")
    assert (again.counts, again.problems) == ({"of this harness already": 1}, [])


def test_masks_that_a_method_did_not_see_become_one_run_that_names_them_all(old, tmp_path: Path) -> None:
    pasts = [old("full", mask_seed)[1] for mask_seed in range(3)]
    assert len({past["key"] for past in pasts}) == 3
    before = tmp_path / "before"
    shutil.copytree(tmp_path / "old", before)
    report = migrate(tmp_path / "old")
    assert report.counts == {"brought over": 3}
    assert "3 records are this one run, of the same numbers" in report.notes[0]
    (brought,) = find_records(tmp_path / "old")[0]
    assert set(brought["provenance"]["migrated"]["from"]) == {past["key"] for past in pasts}
    assert verify(tmp_path / "old", before).problems == []


def test_other_numbers_of_one_run_stay_as_its_replications(old, tmp_path: Path) -> None:
    def moved(record: Record) -> None:
        record["results"]["test"]["mA"] -= 0.5
        record["predictions"]["test"]["sha256"] = "1" * 64
        record["provenance"]["threads"] = 2

    old("full", 0)
    old("full", 1, moved)
    before = tmp_path / "before"
    shutil.copytree(tmp_path / "old", before)
    report = migrate(tmp_path / "old")
    assert "points apart" in report.notes[0]
    (brought,) = find_records(tmp_path / "old")[0]
    assert [entry["predictions"] for entry in brought["replications"]] == ["1" * 64]
    assert verify(tmp_path / "old", before).problems == []


@pytest.mark.parametrize(
    ("place", "value", "problem"),
    [
        ("identity.dataset.fingerprint", "f" * 64, "has other labels or images"),
        ("identity.dataset.version", "7", "version 1 here, version 7 there"),
        ("identity.protocol_sha256", "f" * 64, "protocol 'single_positive' here is not the one it was made under"),
        ("identity.mask.sha256", "f" * 64, "its mask is not the one drawn here"),
        ("identity.mask.process", "partial", "was given in a file, and cannot be drawn again"),
        ("identity.split.train", 7, "its parts have other sizes"),
        ("provenance.pixels_sha256.test", "f" * 64, "its pixels of part 'test' are not those of the images here"),
        ("definitions.ap", "envelope", "its numbers follow other definitions"),
        ("identity.uses.trained", "f" * 64, "it builds on run ffffffffffffffff"),
        ("epochs.0.test_sealed.mAP", 1.0, "it contradicts itself"),
    ],
)
def test_what_is_not_proved_stays_as_it_is_with_the_reason(
    old, tmp_path: Path, place: str, value: Any, problem: str
) -> None:
    def change(record: Record) -> None:
        *path, last = place.split(".")
        inner: Any = record
        for name in path:
            inner = inner[int(name)] if isinstance(inner, list) else inner[name]
        inner[last] = value
        if place == "definitions.ap":
            record["results"]["test"]["mAP"] = record["results"]["test"]["mAP_envelope"]
            record["results"]["val"]["mAP"] = record["results"]["val"]["mAP_envelope"]
            record["epochs"] = []
            record["selected"] = {"phase": "none", "epoch": 0, "rule": "last"}
            record["per_class"] = {}

    _, past = old(change=change)
    report = migrate(tmp_path / "old")
    (line,) = report.problems
    assert line.startswith(f"{published_name(past)}: stays as it is: ")
    assert problem in line
    assert find_records(tmp_path / "old")[0] == [past]


def test_files_without_a_recorded_hash_of_their_pixels_prove_nothing(old, tmp_path: Path, monkeypatch) -> None:
    def forget(record: Record) -> None:
        record["provenance"]["pixels_sha256"] = {}

    old(change=forget)
    assert migrate(tmp_path / "old", dry_run=True).problems == []  # the fingerprint of arrays is of their content
    monkeypatch.setattr(results_migrate, "in_memory", lambda data: False)
    (line,) = migrate(tmp_path / "old").problems
    assert "no hash of its pixels was recorded" in line


def test_a_run_that_builds_on_another_names_its_new_key(train, tiny_request, old, tmp_path: Path) -> None:
    base, past = old("an")
    given = {"changes": {"train.epochs": 1}}
    record, run = train("an_boostlu_inference", **given), resolve(tiny_request("an_boostlu_inference", **given))
    put(tmp_path / "built", as_harness_1(record, run.mask, 0, {"trained": past["key"]}))
    (line,) = migrate(tmp_path / "built", dry_run=True).problems
    assert "it builds on run" in line
    migrate(tmp_path / "old")
    assert migrate(tmp_path / "built", known=[tmp_path / "old"]).problems == []
    (brought,) = find_records(tmp_path / "built")[0]
    assert brought["identity"]["uses"] == {"trained": base["key"]}
    assert brought["key"] == record["key"]


def test_a_store_comes_over_with_its_files_and_scores_them_again(old, train, tmp_path: Path) -> None:
    record, past = old()
    store = tmp_path / "store"
    link_files(run_dir(tmp_path / "runs", record["key"]), run_dir(store, past["key"]), without=("record.json",))
    write_record(store, past)
    report = migrate(store, store=store)
    assert (report.counts, report.problems) == ({"brought over": 1}, [])
    brought = verify_run(store, record["key"])
    assert "predictions" in brought["provenance"]["migrated"]["proved"]
    assert not run_dir(store, past["key"]).exists()
    assert train("an", changes={"train.epochs": 1}, store=store) == brought


def test_the_command_lists_what_stays(old, tmp_path: Path, mlbench) -> None:
    _, past = old(change=lambda record: record["identity"]["mask"].update(sha256="f" * 64))
    code, out, err = mlbench("results", "migrate", tmp_path / "old", "--data", "tiny=tiny")
    assert code == 1
    assert "stays as it is: its mask is not the one drawn here" in out
    assert "1 records stay as they are" in err
    assert mlbench("results", "migrate", tmp_path / "old", "--data", "tiny")[0] == 2
    assert read_record(tmp_path / "old" / published_name(past)) == past
