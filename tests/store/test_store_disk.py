"""Disks that are full or read-only, and many writers of one store, some of them killed."""

from __future__ import annotations

import errno
import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from made_records import make_record, put, with_files

from mlbench import store
from mlbench.errors import DataError, MlbenchError
from mlbench.store import find_records, read_record, run_dir, verify_run, write_record

# folders that cannot be written


def refuse_with(number: int) -> Callable[..., None]:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    return refuse


@pytest.mark.parametrize(
    ("function", "number", "replace"),
    [
        ("os.fsync", errno.ENOSPC, False),
        ("os.fsync", errno.ENOSPC, True),
        ("os.link", errno.ENOSPC, False),
        ("os.link", errno.EROFS, False),
        ("os.replace", errno.ENOSPC, True),
        ("os.replace", errno.EACCES, True),
        ("os.mkdir", errno.EROFS, False),
        ("builtins.open", errno.EROFS, False),
        ("builtins.open", errno.EROFS, True),
    ],
)
def test_a_full_or_read_only_disk_leaves_nothing_and_says_so_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str, number: int, replace: bool
) -> None:
    record = make_record()
    folder = run_dir(tmp_path, record["key"])
    store.schema._validator()  # reads the schema's file, before files can no longer be opened
    monkeypatch.setattr(function, refuse_with(number))
    with pytest.raises(MlbenchError) as caught:
        write_record(tmp_path, record, replace=replace)
    monkeypatch.undo()
    assert str(caught.value) == f"{folder}: cannot write record.json: {os.strerror(number)}"
    assert not folder.exists() or not os.listdir(folder)


def test_a_full_disk_in_the_middle_of_a_record_keeps_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = make_record()
    path = write_record(tmp_path, record)
    monkeypatch.setattr(os, "replace", refuse_with(errno.ENOSPC))
    with pytest.raises(MlbenchError, match="No space left on device"):
        write_record(tmp_path, put(record, "results.test.mAP", 1.0), replace=True)
    assert read_record(path) == record
    assert os.listdir(path.parent) == ["record.json"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_truly_full_device_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import builtins

    plain = builtins.open
    store.schema._validator()
    monkeypatch.setattr(builtins, "open", lambda path, mode="r": plain("/dev/full", "wb") if "x" in mode else None)
    with pytest.raises(MlbenchError, match=r"cannot write record.json: No space left on device"):
        write_record(tmp_path, make_record())
    assert find_records(tmp_path) == ([], [])


def test_a_file_in_the_place_of_the_store_is_reported(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("")
    with pytest.raises(MlbenchError, match=r"cannot write record.json: Not a directory"):
        write_record(tmp_path / "runs", make_record())


def test_interrupting_a_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    record = make_record()
    with pytest.raises(KeyboardInterrupt):
        write_record(tmp_path, record)
    assert os.listdir(run_dir(tmp_path, record["key"])) == []


def test_a_file_system_without_hard_links_still_keeps_the_first_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "link", refuse_with(errno.EPERM))
    record = make_record()
    path = write_record(tmp_path, record)
    write_record(tmp_path, record)
    with pytest.raises(DataError, match="another record of this run"):
        write_record(tmp_path, put(record, "results.test.mAP", 1.0))
    assert read_record(path) == record
    assert os.listdir(path.parent) == ["record.json"]


# several processes

_FORK = multiprocessing.get_context("fork")


def _write_same(root: Path, number: int, barrier: Any, outcomes: Any) -> None:
    record = put(make_record(), "results.test.mAP", float(number))
    barrier.wait()
    try:
        write_record(root, record)
        outcomes.put((number, "written"))
    except DataError as error:
        outcomes.put((number, str(error)))


def test_of_many_writers_of_one_run_exactly_one_wins_and_the_others_are_told(tmp_path: Path) -> None:
    for turn in range(5):
        root = tmp_path / str(turn)
        barrier, outcomes = _FORK.Barrier(6), _FORK.Queue()
        writers = [_FORK.Process(target=_write_same, args=(root, i, barrier, outcomes)) for i in range(6)]
        for writer in writers:
            writer.start()
        told = dict(outcomes.get(timeout=30) for _ in writers)
        for writer in writers:
            writer.join()
        winners = [number for number, outcome in told.items() if outcome == "written"]
        assert len(winners) == 1
        assert sum("another record of this run" in outcome for outcome in told.values()) == 5
        ((record,), problems) = find_records(root)
        assert record["results"]["test"]["mAP"] == float(winners[0])
        assert problems == []
        assert os.listdir(run_dir(root, record["key"])) == ["record.json"]


def _write_forever(root: Path, log: Path, worker: int) -> None:
    """Write runs with files and log each key after its record is written; half of the writes replace old ones."""
    with open(log, "a", encoding="ascii") as file:
        for number in range(10_000):
            record = with_files(root, repetition=worker, mask_seed=number % 200)
            write_record(root, put(record, "results.test.mAP", number % 97), replace=True)
            file.write(record["key"] + "\n")
            file.flush()


def _lines(log: Path) -> int:
    return len(log.read_text(encoding="ascii").splitlines()) if log.exists() else 0


def test_writers_killed_at_any_moment_lose_nothing_and_leave_no_half_record(tmp_path: Path) -> None:
    root, draw = tmp_path / "runs", random.Random(1)
    for _ in range(3):
        logs = [tmp_path / f"log{worker}" for worker in range(4)]
        before = [_lines(log) for log in logs]
        writers = [_FORK.Process(target=_write_forever, args=(root, log, i)) for i, log in enumerate(logs)]
        for writer in writers:
            writer.start()
        for writer, log, least in zip(writers, logs, before, strict=True):
            until = time.monotonic() + 60
            while _lines(log) < least + 6:  # at work, however busy the machine is
                assert time.monotonic() < until
                time.sleep(0.01)
            time.sleep(0.1 * draw.random())
            os.kill(writer.pid or 0, signal.SIGKILL)
        for writer in writers:
            writer.join()
            assert writer.exitcode == -signal.SIGKILL
        assert find_records(root)[1] == []
    records, problems = find_records(root)
    assert problems == []
    promised = {key for log in logs for key in log.read_text(encoding="ascii").splitlines() if len(key) == 64}
    assert len(promised) > 20
    assert promised <= {record["key"] for record in records}
    for record in records:
        verify_run(root, record["key"])
