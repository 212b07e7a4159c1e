"""Locks between processes: held by one, waited for or refused, and free again when the holder is killed."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mlbench import locks
from mlbench.errors import MlbenchError
from mlbench.locks import Busy, held, locked

HOLDER = """
import sys, time
from pathlib import Path
from mlbench.locks import locked

with locked(Path(sys.argv[1]), wait=True):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""


def hold(path: Path, seconds: float, before: str = "") -> subprocess.Popen:
    """A process that holds the lock for `seconds`; it runs the code `before` first."""
    command = [sys.executable, "-c", before + HOLDER, str(path), str(seconds)]
    holder = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    return holder


def test_a_held_lock_is_refused_and_free_after_a_kill(tmp_path: Path) -> None:
    holder = hold(tmp_path / "lock", 60)
    with (
        pytest.raises(MlbenchError, match="somebody else"),
        locked(tmp_path / "lock", wait=False, busy="somebody else"),
    ):
        pass
    holder.kill()
    holder.communicate()
    with locked(tmp_path / "lock", wait=False):
        pass


def test_a_waiting_process_gets_the_lock_when_the_holder_ends(tmp_path: Path) -> None:
    holder, begun = hold(tmp_path / "lock", 0.3), time.monotonic()
    with locked(tmp_path / "lock", wait=True):
        waited = time.monotonic() - begun
    holder.communicate()
    assert 0.2 < waited < 30


def test_a_lock_is_released_by_an_error(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), locked(tmp_path / "lock", wait=True):
        raise RuntimeError
    with locked(tmp_path / "lock", wait=False):
        pass


def test_processes_that_lock_with_flock_are_respected(tmp_path: Path) -> None:
    fcntl = pytest.importorskip("fcntl")
    with open(tmp_path / "lock", "w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        with pytest.raises(MlbenchError, match="busy"), locked(tmp_path / "lock", wait=False, busy="busy"):
            pass


def test_a_held_lock_names_its_path_and_its_holder(tmp_path: Path) -> None:
    holder = hold(tmp_path / "lock", 60)
    assert held(tmp_path / "lock")
    expected = rf"busy; .*lock is held by process {holder.pid} on \S+, since 20\d\d-"
    with pytest.raises(Busy, match=expected), locked(tmp_path / "lock", wait=False, busy="busy"):
        pass
    holder.kill()
    holder.communicate()
    assert not held(tmp_path / "lock")
    assert not held(tmp_path / "no such lock")


def test_waiting_ends(tmp_path: Path) -> None:
    begun = time.monotonic()
    with locked(tmp_path / "lock", wait=False), pytest.raises(Busy), locked(tmp_path / "lock", wait=0.3):
        pass
    assert 0.2 < time.monotonic() - begun < 30


def test_another_failure_of_the_lock_names_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_locks(monkeypatch, errno.EIO)
    with pytest.raises(OSError, match="cannot lock it") as caught, locked(tmp_path / "lock", wait=True):
        pass
    assert caught.value.filename == str(tmp_path / "lock")
    with pytest.raises(OSError, match="No such file"), locked(tmp_path / "nowhere" / "lock", wait=True):
        pass


# --- file systems without locks ---------------------------------------------------------------------------------------

NO_LOCKS = [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP]
LEASE_HOLDER = """
import errno, fcntl, os

def refuse(handle, kind):
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

fcntl.flock = refuse
"""


def without_locks(monkeypatch: pytest.MonkeyPatch, number: int = errno.ENOLCK) -> None:
    """A file system whose `flock` fails with `number`."""
    fcntl = pytest.importorskip("fcntl")

    def refuse(handle: int, kind: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)


def leases(path: Path) -> list[str]:
    return sorted(file.name for file in path.parent.iterdir() if "lease" in file.name)


def age(path: Path, seconds: float) -> None:
    """As if the holder had shown no sign of life for `seconds`."""
    (lease,) = path.parent.glob("*.lease-*")
    os.utime(lease, (time.time() - seconds,) * 2)


@pytest.mark.parametrize("number", NO_LOCKS)
def test_a_lease_stands_in_for_a_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    without_locks(monkeypatch, number)
    path = tmp_path / "lock"
    with locked(path, wait=False):
        assert held(path)
        named = rf"busy; .*lock is held by process {os.getpid()} on "
        with pytest.raises(Busy, match=named), locked(path, wait=False, busy="busy"):
            pass
    assert not held(path)
    for _ in range(3):
        with pytest.raises(KeyError), locked(path, wait=False):
            raise KeyError
    assert not held(path)
    assert leases(path) == ["lock.lease-4"]  # the last one, free


def test_a_lease_of_another_process_is_respected_and_free_after_a_kill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_locks(monkeypatch)
    path = tmp_path / "lock"
    holder = hold(path, 60, LEASE_HOLDER)
    age(path, 10 * locks.EXPIRY)  # it lives, and that is known here without any sign
    with pytest.raises(Busy, match=f"process {holder.pid} "), locked(path, wait=False):
        pass
    holder.kill()
    holder.communicate()
    assert not held(path)
    with locked(path, wait=False):
        assert held(path)


def test_a_waiting_process_gets_the_lease_when_the_holder_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_locks(monkeypatch)
    holder, begun = hold(tmp_path / "lock", 0.3, LEASE_HOLDER), time.monotonic()
    with locked(tmp_path / "lock", wait=True):
        waited = time.monotonic() - begun
    holder.communicate()
    assert 0.2 < waited < 30


def test_a_lease_of_another_machine_is_believed_as_long_as_it_shows_signs_of_life(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_locks(monkeypatch)
    path = tmp_path / "lock"
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(locks, "_machine", lambda: "another")
        lost = locked(path, wait=False)
        lost.__enter__()
    age(path, locks.EXPIRY / 2)
    assert held(path)
    age(path, 2 * locks.EXPIRY)
    assert not held(path)
    with locked(path, wait=False):
        assert leases(path) == ["lock.lease-2"]
        with pytest.raises(MlbenchError, match=r"lock: this process was not heard of for .* lost the lock"):
            lost.__exit__(None, None, None)
        assert held(path)


def test_a_lease_shows_signs_of_life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_locks(monkeypatch)
    monkeypatch.setattr(locks, "HEARTBEAT", 0.05)
    with locked(tmp_path / "lock", wait=False):
        age(tmp_path / "lock", 1000)
        (lease,) = tmp_path.glob("*.lease-*")
        until = time.monotonic() + 30
        while time.time() - lease.stat().st_mtime > 500:
            assert time.monotonic() < until
            time.sleep(0.02)


def test_a_process_that_comes_late_gives_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between its look at the leases and its own, others took the lock, left it, and took it again."""
    without_locks(monkeypatch)
    path, look = tmp_path / "lock", locks._leases
    later: list = []

    def slow(wanted: Path) -> list:
        found = look(wanted)
        monkeypatch.setattr(locks, "_leases", look)
        with locked(path, wait=False):
            pass
        later.append(locked(path, wait=False))
        later[0].__enter__()
        return found

    monkeypatch.setattr(locks, "_leases", slow)
    with pytest.raises(Busy), locked(path, wait=False):
        pass
    assert leases(path) == ["lock.lease-2"]
    later[0].__exit__(None, None, None)


def test_one_of_many_processes_gets_the_lease_at_a_time(tmp_path: Path) -> None:
    """Each adds 1 to a file that it reads and writes: nothing is lost."""
    (tmp_path / "count").write_text("0")
    code = f"""{LEASE_HOLDER}
import sys, time
from pathlib import Path
from mlbench.locks import locked

folder = Path(sys.argv[1])
for _ in range(15):
    with locked(folder / "lock", wait=True):
        count = int((folder / "count").read_text())
        time.sleep(0.001)
        (folder / "count").write_text(str(count + 1))
"""
    processes = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path)]) for _ in range(4)]
    assert [process.wait(timeout=120) for process in processes] == [0] * 4
    assert (tmp_path / "count").read_text() == "60"


def test_what_a_lease_says_may_be_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A holder that died while it wrote, on a full disk or another machine, or something that nobody wrote."""
    without_locks(monkeypatch)
    path = tmp_path / "lock"
    for content in (b"", b"{", b"[1]", b"\xff\x00", b"[" * 4000, b'{"process": 1e999}'):
        for old in tmp_path.iterdir():
            old.unlink()
        (tmp_path / "lock.lease-7").write_bytes(content)
        with pytest.raises(Busy, match="held by another process"), locked(path, wait=False):
            pass
        age(path, 2 * locks.EXPIRY)
        with locked(path, wait=False):
            assert leases(path) == ["lock.lease-8"]
