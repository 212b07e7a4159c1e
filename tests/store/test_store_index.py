"""The index of records: an unchanged file is not checked again, and whatever happens to files or index is noticed."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from made_records import make_record

from mlbench.errors import DataError
from mlbench.store import find_records, index, run_dir, runs, summarise_records, write_record


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MLBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(index, "_TICK", 0.0)
    return tmp_path / "cache" / "records"


@pytest.fixture
def checked(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that were read and checked so far."""
    found: list[Path] = []
    check = runs.read_record

    def read(path: str | Path) -> dict[str, Any]:
        found.append(Path(path))
        return check(path)

    monkeypatch.setattr(runs, "read_record", read)
    return found


def fill(root: Path, count: int = 3) -> list[Path]:
    paths = [write_record(root, make_record(repetition=number)) for number in range(count)]
    time.sleep(0.02)  # past the tick of the file system's clock
    return sorted(paths)


def test_records_are_checked_once_and_read_the_same_ever_after(tmp_path: Path, checked: list[Path]) -> None:
    paths = fill(tmp_path / "runs")
    first = find_records(tmp_path / "runs")
    assert sorted(checked) == paths
    assert find_records(tmp_path / "runs") == first
    assert len(checked) == 3
    assert len(first[0]) == 3
    assert not first[1]


def test_a_summary_is_what_the_record_says(tmp_path: Path) -> None:
    fill(tmp_path / "runs", 1)
    for _ in range(2):
        ((summary,), problems) = summarise_records(tmp_path / "runs", method="llr", repetition=0)
        record = make_record(repetition=0)
        assert not problems
        assert (summary["key"], summary["method"], summary["dataset"]) == (record["key"], "llr", "scenes")
        assert (summary["metric"], summary["value"]) == ("mAP", 63.91)
    assert summarise_records(tmp_path / "runs", repetition=1) == ([], [])


@pytest.mark.parametrize("keep_times", [False, True])
def test_a_record_changed_in_place_is_checked_again(tmp_path: Path, checked: list[Path], keep_times: bool) -> None:
    path = fill(tmp_path / "runs", 1)[0]
    find_records(tmp_path / "runs")
    before = os.stat(path)
    text = path.read_text().replace('"loss": 0.31', '"loss": "31"')
    with open(path, "r+") as file:  # the same file, of the same length
        file.write(text)
    if keep_times:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert os.stat(path).st_size == before.st_size or not keep_times
    records, problems = find_records(tmp_path / "runs")
    assert records == []
    assert len(problems) == 1
    assert str(path) in problems[0]
    assert find_records(tmp_path / "runs") == (records, problems)
    assert len(checked) == 2  # a broken record is not checked anew each time either


def test_a_file_that_is_gone_or_new_is_noticed(tmp_path: Path) -> None:
    paths = fill(tmp_path / "runs")
    find_records(tmp_path / "runs")
    paths[1].unlink()
    write_record(tmp_path / "runs", make_record(repetition=7))
    assert {r["identity"]["repetition"] for r in find_records(tmp_path / "runs")[0]} >= {7}
    assert len(find_records(tmp_path / "runs")[0]) == 3


def test_a_file_replaced_between_index_and_reading_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = fill(tmp_path / "runs", 1)[0]
    find_records(tmp_path / "runs")
    matching = runs._matching

    def replaced(root: Path, filters: Any) -> Any:
        found = matching(root, filters)
        path.write_text("{}")
        return found

    monkeypatch.setattr(runs, "_matching", replaced)
    with pytest.raises(DataError, match=path.name):
        find_records(tmp_path / "runs")


def test_a_file_that_may_change_within_a_tick_is_checked_again(
    tmp_path: Path, checked: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index, "_TICK", 60.0)
    fill(tmp_path / "runs", 1)
    find_records(tmp_path / "runs")
    find_records(tmp_path / "runs")
    assert len(checked) == 2


@pytest.mark.parametrize("damage", ["bytes", "empty", "folder", "table"])
def test_a_damaged_index_is_made_anew_or_done_without(
    tmp_path: Path, cache: Path, checked: list[Path], damage: str
) -> None:
    fill(tmp_path / "runs")
    first = find_records(tmp_path / "runs")
    (file,) = cache.iterdir()
    if damage == "folder":
        file.unlink()
        file.mkdir()
    elif damage == "table":
        import sqlite3

        with sqlite3.connect(file) as connection:
            connection.execute("DROP TABLE records")
            connection.execute("CREATE TABLE records (other TEXT)")
    else:
        file.write_bytes(b"" if damage == "empty" else os.urandom(4096))
    assert find_records(tmp_path / "runs") == first
    assert len(checked) == 6


def test_without_a_cache_records_are_found_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path / "runs")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MLBENCH_CACHE", str(tmp_path / "file"))
    assert len(find_records(tmp_path / "runs")[0]) == 3


def test_a_moved_store_names_its_own_paths(tmp_path: Path) -> None:
    record = make_record()
    folder = run_dir(tmp_path / "runs", record["key"])
    folder.mkdir(parents=True)
    (folder / "record.json").write_text(json.dumps({**record, "key": "0"}))
    time.sleep(0.02)
    before = find_records(tmp_path / "runs")[1]
    assert find_records(tmp_path / "runs")[1] == before
    (tmp_path / "runs").rename(tmp_path / "moved")
    assert find_records(tmp_path / "moved")[1] == [line.replace("runs", "moved") for line in before]
