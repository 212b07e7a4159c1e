"""`results verify | merge | rescore`: what they find, and what they leave alone."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlbench.results_repo import merge, rescore, verify
from mlbench.store import find_records, published_name, run_key
from mlbench.store.schema import dump_record

PUBLISHED = Path(__file__).parents[2] / "results" / "runs"
Change = Callable[[dict[str, Any]], None]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with three of our published records."""
    target = tmp_path / "runs"
    target.mkdir()
    for path in sorted(PUBLISHED.glob("an__scenes__*.json"))[:3]:
        shutil.copy(path, target)
    assert len(list(target.iterdir())) == 3
    return target


def first(folder: Path) -> dict[str, Any]:
    return find_records(folder)[0][0]


def put(folder: Path, record: dict[str, Any]) -> Path:
    record["key"] = run_key(record["identity"])
    path = folder / published_name(record)
    path.write_text(dump_record(record, "test"), encoding="ascii")
    return path


def other(folder: Path, target: Path, change: Change) -> Path:
    """A folder with the first record of `folder`, changed."""
    record = copy.deepcopy(first(folder))
    change(record)
    target.mkdir()
    put(target, record)
    return target


def moved(record: dict[str, Any]) -> None:
    record["results"]["test"]["mAP"] += 0.1


def moved_class(record: dict[str, Any]) -> None:
    record["per_class"]["AP"][next(iter(record["per_class"]["AP"]))] = 1.5


def rerun(record: dict[str, Any]) -> None:
    record["provenance"]["seconds"] += 1


def bumped(record: dict[str, Any]) -> None:
    record["identity"]["method"]["version"] += 1
    moved(record)


def test_our_own_records_hold() -> None:
    report = verify(PUBLISHED, PUBLISHED)
    assert report.problems == []
    assert report.counts["records"] == len(list(PUBLISHED.glob("*.json")))


def test_a_record_under_another_name_is_found(folder: Path) -> None:
    path = next(folder.iterdir())
    path.rename(path.with_name("llr__scenes__single_positive__0123456789ab.json"))
    (problem,) = verify(folder).problems
    assert "this record belongs under the name" in problem


def test_a_broken_record_is_found(folder: Path) -> None:
    path = next(folder.iterdir())
    path.write_bytes(path.read_bytes()[:-9])
    (problem,) = verify(folder).problems
    assert "broken record" in problem


def test_an_edited_score_is_found_against_the_earlier_state(folder: Path, tmp_path: Path) -> None:
    earlier = tmp_path / "earlier"
    shutil.copytree(folder, earlier)
    record = first(folder)
    moved(record)
    put(folder, record)
    assert verify(folder).problems == []
    (problem,) = verify(folder, earlier).problems
    assert "scores moved without a version bump: results.test.mAP" in problem


def test_a_score_may_move_with_a_version(folder: Path, tmp_path: Path) -> None:
    earlier = tmp_path / "earlier"
    shutil.copytree(folder, earlier)
    record = first(folder)
    (folder / published_name(record)).unlink()
    (gone,) = verify(folder, earlier).problems
    assert "gone, and no record of a later version" in gone
    bumped(record)
    put(folder, record)
    assert not any("gone" in problem or "moved" in problem for problem in verify(folder, earlier).problems)


@pytest.mark.parametrize(
    "elsewhere", [{"precision": "bf16"}, {"mask": {"process": "partial", "params": {"keep": 0.9}, "seed": 0}}]
)
def test_a_later_version_elsewhere_does_not_stand_for_a_record_that_is_gone(
    folder: Path, tmp_path: Path, elsewhere: dict[str, Any]
) -> None:
    earlier = Path(shutil.copytree(folder, tmp_path / "earlier"))
    record = first(folder)
    (folder / published_name(record)).unlink()
    bumped(record)
    record["identity"] |= elsewhere
    put(folder, record)
    assert any("gone, and no record of a later version" in problem for problem in verify(folder, earlier).problems)


@pytest.mark.parametrize(
    ("name", "version", "problem"),
    [("never_registered", 1, "no code: method 'never_registered'"), ("an", 99, "version 99 of 'an'; the code here is")],
)
def test_a_method_without_code_is_found(folder: Path, name: str, version: int, problem: str) -> None:
    record = first(folder)
    record["identity"]["method"] |= {"name": name, "version": version}
    put(folder, record)
    (found,) = verify(folder).problems
    assert problem in found


@pytest.mark.parametrize(
    ("change", "outcome"), [(rerun, "already there, rerun"), (lambda record: None, "already there"), (bumped, "new")]
)
def test_merging_adds_what_is_new_and_keeps_what_is_there(
    folder: Path, tmp_path: Path, change: Change, outcome: str
) -> None:
    source = other(folder, tmp_path / "source", change)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    report = merge(folder, source)
    assert (report.counts, report.problems) == ({outcome: 1}, [])
    after = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert len(after) == 3 + (outcome == "new")
    assert before.items() <= after.items()


@pytest.mark.parametrize("change", [moved, moved_class])
def test_a_conflict_is_told_and_nothing_is_copied(folder: Path, tmp_path: Path, change: Change) -> None:
    source = other(folder, tmp_path / "source", change)
    put(source, (new := copy.deepcopy(first(folder)), new["identity"].update(repetition=7))[0])
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    report = merge(folder, source)
    (problem,) = report.problems
    assert "scores moved without a version bump" in problem
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_merging_into_a_new_folder_copies_all(folder: Path, tmp_path: Path, mlbench) -> None:
    code, out, _ = mlbench("results", "merge", tmp_path / "new", folder)
    assert (code, out) == (0, "3 new\n")
    assert {p.name: p.read_bytes() for p in (tmp_path / "new").iterdir()} == {
        p.name: p.read_bytes() for p in folder.iterdir()
    }
    assert mlbench("results", "verify", tmp_path / "new", "--against", folder)[:2] == (0, "3 records\n")


def test_merging_from_a_broken_source_copies_nothing(folder: Path, tmp_path: Path) -> None:
    (folder / "x.json").write_text("{")
    report = merge(tmp_path / "new", folder)
    assert "broken record" in report.problems[0]
    assert not (tmp_path / "new").exists()


def test_rescoring_compares_with_predictions_and_counts_those_not_here(
    train, tmp_path: Path, monkeypatch, mlbench
) -> None:
    from mlbench import rescore as module
    from mlbench.testing import tiny_dataset

    monkeypatch.setattr(module, "load_dataset", lambda name, root: tiny_dataset())
    monkeypatch.setattr(module, "dataset_of", lambda record, dataset: "tiny")
    record, folder = train("an"), tmp_path / "published"
    merge(folder, tmp_path / "runs")
    report = rescore(folder, tmp_path / "runs")
    assert (report.counts, report.problems) == ({"scored again": 1}, [])
    moved(record)
    record["results"]["test"]["mAP"] = min(record["results"]["test"]["mAP"], 100) - 1
    put(folder, record)
    code, out, err = mlbench("results", "rescore", folder, "--output", tmp_path / "runs")
    assert code == 1
    assert "problem: an__tiny__single_positive" in out
    assert "results.test.mAP" in out
    assert "1 records do not agree" in err
    assert rescore(folder, tmp_path / "none").counts == {"without predictions here": 1}


def test_two_submissions_of_one_version_are_found(tmp_path: Path) -> None:
    record = json.loads(next(PUBLISHED.glob("an__scenes__*.json")).read_text())
    record["identity"]["method"]["name"] = "submitted/x"
    claims = {
        "title": "X",
        "authors": ["A"],
        "source": "https://x.org",
        "card_sha256": "0" * 64,
        "file_sha256": "0" * 64,
    }
    record["provenance"] |= {"kind": "predictions", "submission": claims}
    for number in range(2):
        record["identity"]["scores"] = {"kind": "logit", "sha256": str(number) * 64}
        put(tmp_path, record)
    (problem,) = verify(tmp_path).problems
    assert "under the same version" in problem
    assert verify(tmp_path).counts == {"submissions": 2}
