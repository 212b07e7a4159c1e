"""``--quick``: the tests that fit into five minutes on two cores, chosen by measured time and nothing else.

``--times FILE`` measures: processor seconds of each test, those of its child processes included, which the load of the
machine moves little. tests/times.txt is such a file, as `make test` wrote it last; `make test-quick` reads it and
leaves out the longest tests until the others fit. A test that is not in it has not been measured, and is run.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Mapping
from contextlib import suppress
from pathlib import Path

import pytest

TIMES = Path(__file__).with_name("times.txt")
#: Processor seconds of all quick tests; what two cores have in five minutes is 600, of which imports take a part.
BUDGET = 300.0
#: Tests that take less are not listed one by one.
SHORT = 0.3
_REST = "all others"
_LAST = pytest.StashKey[float]()
_MEASURED: dict[str, float] = {}


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "chained: the tests of this file build on one another, and run all or none")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--quick", action="store_true", help="leave out the longest tests, by tests/times.txt")
    parser.addoption("--times", metavar="FILE", help="write how long each test takes (processor seconds)")


def read_times(path: Path | None = None) -> tuple[dict[str, float], float]:
    """Seconds of the tests (and of the files, for their fixtures) in `path`, and of all others; nothing without it."""
    path = path or TIMES
    if not path.is_file():
        return {}, 0.0
    lines = (line.split(" ", 1) for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#"))
    found = {name: float(seconds) for seconds, name in lines}
    return found, found.pop(_REST, 0.0)


def write_times(path: Path, measured: Mapping[str, float]) -> None:
    """Write what `read_times` reads, the longest first."""
    listed = sorted(((s, name) for name, s in measured.items() if s >= SHORT), key=lambda pair: (-pair[0], pair[1]))
    rest = sum(s for s in measured.values() if s < SHORT)
    lines = [f"{rest:.1f} {_REST}", *(f"{seconds:.1f} {name}" for seconds, name in listed)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("# processor seconds, by `make test`\n" + "\n".join(lines) + "\n", encoding="utf-8")


def too_long(times: Mapping[str, float], rest: float, budget: float | None = None) -> set[str]:
    """The fewest tests without which all others take at most `budget` seconds."""
    budget = BUDGET if budget is None else budget
    left, out = rest + sum(times.values()), set()
    for name in sorted(times, key=lambda name: (-times[name], name)):
        if left <= budget:
            break
        out.add(name)
        left -= times[name]
    return out


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--quick"):
        out = too_long(*read_times())
        dropped = [item for item in items if {item.nodeid, item.nodeid.partition("::")[0]} & out]
        config.hook.pytest_deselected(items=dropped)
        items[:] = [item for item in items if item not in set(dropped)]


def pytest_collection_finish(session: pytest.Session) -> None:
    session.config.stash[_LAST] = processor_seconds()  # the first test's fixtures count, too


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    now = processor_seconds()
    report.processor = now - item.config.stash[_LAST]  # travels from a worker to the process that writes
    report.chained = item.get_closest_marker("chained") is not None
    item.config.stash[_LAST] = now
    return report


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    # What a file's fixtures take is no matter of the test that comes first, and of tests that build on one another none
    # can be left out alone: the file is listed by its own name.
    shared = report.chained or (report.when == "setup" and report.processor >= 1.0)
    name = report.nodeid.partition("::")[0] if shared else report.nodeid
    _MEASURED[name] = _MEASURED.get(name, 0.0) + report.processor


def pytest_sessionfinish(session: pytest.Session) -> None:
    path = session.config.getoption("--times")
    if path and not hasattr(session.config, "workerinput"):
        write_times(Path(path), _MEASURED)


def processor_seconds() -> float:
    """Of this process and of its children, those that live on (Linux only) and what these have waited for, too."""
    return sum(os.times()[:4]) + sum(map(_of_living, _children(os.getpid())))


def _of_living(process: int) -> float:
    """Processor seconds of `process` and of what it started; 0 where it has just ended."""
    try:
        # The name, which comes second, may hold blanks and brackets.
        fields = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK") + sum(map(_of_living, _children(process)))


def _children(process: int) -> list[int]:
    """Those of `process` that live, by the thread that started them."""
    found: list[int] = []
    for path in Path(f"/proc/{process}/task").glob("*/children"):
        with suppress(OSError):
            found += map(int, path.read_text(encoding="ascii").split())
    return found
