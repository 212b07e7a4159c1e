"""`results verify | merge | rescore`: what they find, and what they leave alone."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlbench.evaluation.consistency import contradictions
from mlbench.repository.results import merge, rescore, verify
from mlbench.store import find_records, published_name
from mlbench.store.schema import dump_record, refit

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
    record = refit(record)
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
    record["results"]["test"]["mA"] += 0.1  # no other number of the record follows from it


def moved_class(record: dict[str, Any]) -> None:
    a, b = list(record["per_class"]["AP"])[:2]
    record["per_class"]["AP"][a] += 0.5  # the mean over classes stays
    record["per_class"]["AP"][b] -= 0.5


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
    assert "scores moved without a version bump: results.test.mA" in problem


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
    from mlbench.conformance.testing import tiny_dataset
    from mlbench.evaluation import rescore as module

    monkeypatch.setattr(module, "load_dataset", lambda name, root: tiny_dataset())
    monkeypatch.setattr(module, "dataset_of", lambda record, dataset: "tiny")
    record, folder = train("an"), tmp_path / "published"
    merge(folder, tmp_path / "runs")
    report = rescore(folder, tmp_path / "runs")
    assert (report.counts, report.problems) == ({"scored again": 1}, [])
    record["results"]["test"]["mAP"] = min(record["results"]["test"]["mAP"], 100) - 1
    put(folder, record)
    code, out, err = mlbench("results", "rescore", folder, "--store", tmp_path / "runs")
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


# a record that contradicts itself


def edit(record: dict[str, Any], *place: Any) -> None:
    inner: Any = record
    for name in place[:-1]:
        inner = inner[name]
    inner[place[-1]] += 30.0


@pytest.mark.parametrize(
    ("place", "problem"),
    [
        (("results", "test", "mAP"), "results.test.mAP is 104.406, and was 74.4059 in epoch 16, which was selected"),
        (("results", "val", "mAP"), "results.val.mAP is 102.781, and was 72.781 in epoch 16"),
        (("results", "test", "mAP_step"), "results.test.mAP is 74.4059; mAP_step is 104.406"),
        (("epochs", 15, "test_sealed", "mAP"), "was 104.406 in epoch 16"),
        (("epochs", 14, "val", "mAP"), "selected is epoch 16; by 'clean_val' its epochs select 15"),
        (("per_class", "AP"), "the mean of its classes' AP is"),
        (("per_class", "F1"), "the mean of its classes' F1 is"),
        (("results", "test", "top3_strict/F1-O"), "top3_strict/F1-O is 99.9434; its precision and recall make 69.9434"),
        (("results", "test", "P-C"), "results.test.F1-C_hm is 28.3831; its precision and recall make"),
        (("selected", "epoch"), "selected is epoch 46 of phase 'train', which is not among its epochs"),
    ],
)
def test_a_number_that_another_of_the_record_denies_is_found(place: tuple[Any, ...], problem: str) -> None:
    drawn = {"repetition": 0, "mask_seed": 0, "dataset_version": "1", "backbone": "scenes"}
    (record,) = find_records(PUBLISHED, method="an", dataset="scenes", protocol="single_positive", **drawn)[0]
    assert contradictions(record) == []
    edit(record, *place, *([min(record["per_class"][place[1]])] if place[0] == "per_class" else []))
    record["selected"]["epoch"] = int(record["selected"]["epoch"])
    assert any(problem in line for line in contradictions(record)), contradictions(record)


def test_a_record_that_contradicts_itself_is_neither_verified_nor_merged(folder: Path, tmp_path: Path) -> None:
    def edited(record: dict[str, Any]) -> None:
        record["results"]["test"]["mAP"] += 1

    source = other(folder, tmp_path / "source", edited)
    assert "which was selected" in verify(source).problems[0]
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert "which was selected" in merge(tmp_path / "new", source).problems[0]
    assert not (tmp_path / "new").exists()
    assert merge(folder, source).problems
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


# reruns under other circumstances


@pytest.fixture
def trained(train, tmp_path: Path) -> Path:
    """A folder with one record of this schema, made by one thread."""
    record = train("an", changes={"train.epochs": 1})
    record["provenance"]["starts"][0]["threads"] = 1
    (tmp_path / "published").mkdir()
    put(tmp_path / "published", record)
    return tmp_path / "published"


def with_threads(threads: int, shift: float) -> Change:
    """A rerun whose numbers differ as rounding makes them."""

    def change(record: dict[str, Any]) -> None:
        record["provenance"]["starts"][0] |= {"threads": threads, "started": f"2026-11-2{threads}T00:00:00Z"}
        record["predictions"]["test"]["sha256"] = str(threads) * 64
        if "F1" in record["per_class"]:
            record["results"]["test"]["mA"] -= shift

    return change


def test_a_rerun_with_other_threads_is_a_replication_that_the_record_lists(trained: Path, tmp_path: Path) -> None:
    before = first(trained)
    for threads in (2, 3):
        report = merge(trained, other(trained, tmp_path / f"rerun{threads}", with_threads(threads, 0.2)))
        assert (report.counts, report.problems) == ({"replications": 1}, [])
    assert "(1 threads)" in report.notes[0]
    assert "(3 threads)" in report.notes[0]
    record = first(trained)
    assert [entry["predictions"][0] for entry in record["replications"]] == ["2", "3"]
    assert [entry["starts"][0]["threads"] for entry in record["replications"]] == [2, 3]
    assert record["results"] == before["results"]
    again = merge(trained, tmp_path / "rerun3")
    assert (again.counts, again.problems) == ({"already there, replicated": 1}, [])
    assert verify(trained).problems == []
    assert "replicated, mAP" in verify(trained).notes[0]


def test_replications_come_together_from_both_sides(trained: Path, tmp_path: Path) -> None:
    ours, theirs = (other(trained, tmp_path / f"rerun{threads}", with_threads(threads, 0.2)) for threads in (2, 3))
    merge(ours, theirs)
    merge(trained, ours)
    assert [entry["predictions"][0] for entry in first(trained)["replications"]] == ["2", "3"]


def test_a_rerun_under_the_same_circumstances_must_give_the_same_numbers(trained: Path, tmp_path: Path) -> None:
    def change(record: dict[str, Any]) -> None:
        record["predictions"]["test"]["sha256"] = "2" * 64
        moved(record)

    (problem,) = merge(trained, other(trained, tmp_path / "rerun", change)).problems
    assert "scores moved without a version bump: results.test.mA" in problem


def test_a_record_replaced_by_its_replication_is_told(trained: Path, tmp_path: Path) -> None:
    def rerun(record: dict[str, Any]) -> None:
        with_threads(2, 0.0)(record)
        moved(record)

    later = other(trained, tmp_path / "rerun", rerun)
    (problem,) = verify(later, trained).problems
    assert "replaced by a rerun under other circumstances; `results merge` keeps both" in problem
    merge(later, trained)
    assert verify(later, trained).problems == []


# a merge that is killed


def test_a_merge_that_is_killed_anywhere_leaves_the_old_folder_or_the_new_one(folder: Path, tmp_path: Path) -> None:
    from mlbench.store import journal

    whole = tmp_path / "whole"
    shutil.copytree(folder, whole)
    source = tmp_path / "source"
    source.mkdir()
    for repetition in (7, 8):
        record = copy.deepcopy(first(folder))
        record["identity"]["repetition"] = repetition
        put(source, record)
    merge(whole, source)

    class Killed(BaseException):
        pass

    calls = {"count": 0, "limit": 0}

    def dying(real):
        def call(*given, **named):
            calls["count"] += 1
            if calls["count"] > calls["limit"]:
                raise Killed
            return real(*given, **named)

        return call

    def keys(place: Path) -> list[str]:
        return [record["key"] for record in find_records(place)[0]]

    old, new = keys(folder), keys(whole)
    seen = set()
    for limit in range(12):
        target = tmp_path / f"target{limit}"
        shutil.copytree(folder, target)
        calls.update(count=0, limit=limit)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(journal.os, "replace", dying(journal.os.replace))
            patch.setattr(journal.os, "rename", dying(journal.os.rename))
            try:
                merge(target, source)
                seen.add("done")
            except Killed:
                pass
        assert keys(target) in (old, new)
        seen.add("old" if keys(target) == old else "new")
        assert find_records(target)[1] == []
        assert merge(target, source).problems == []
        assert keys(target) == new
        assert sorted(path.name for path in target.iterdir()) == sorted(path.name for path in whole.iterdir())
    assert seen == {"old", "new", "done"}


def test_a_run_is_shown_with_its_replications(trained: Path, tmp_path: Path, mlbench) -> None:
    merge(trained, other(trained, tmp_path / "rerun", with_threads(2, 0.2)))
    code, out, _ = mlbench("show", first(trained)["key"][:12], "--store", trained)
    assert code == 0
    assert "with its replications: mAP" in out
    assert "(2 threads)" in out
