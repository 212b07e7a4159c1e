"""Our own records, as committed."""

from __future__ import annotations

import itertools
import json
import subprocess
from pathlib import Path

import pytest

import mlbench.results
from mlbench.registry import available
from mlbench.store import find_records, published_name

#: Leaderboards and tables are made of `runs`; `ablations` has runs with other settings than a method's own.
RUNS, ABLATIONS = (Path(mlbench.results.__path__[0]) / folder for folder in ("runs", "ablations"))


@pytest.mark.parametrize("folder", [RUNS, ABLATIONS], ids=["runs", "ablations"])
def test_every_record_is_valid_and_named_by_its_content(folder: Path) -> None:
    records, problems = find_records(folder)
    assert problems == []
    assert {published_name(record) for record in records} == {path.name for path in folder.glob("*.json")}


@pytest.mark.parametrize("folder", [RUNS, ABLATIONS], ids=["runs", "ablations"])
def test_every_record_comes_from_a_committed_state_and_a_registered_method(folder: Path) -> None:
    records, _ = find_records(folder)
    assert records
    for record in records:
        assert record["provenance"]["git"]["dirty"] is False, record["key"]
        assert record["identity"]["method"]["name"] in available()


def test_no_score_of_a_record_has_moved_in_the_history_of_the_repository() -> None:
    root = RUNS.parents[1]

    def git(*given: str) -> str:
        done = subprocess.run(["git", *given], cwd=root, capture_output=True, text=True, check=False)
        return done.stdout if done.returncode == 0 else ""

    if git("rev-parse", "--show-prefix") != "\n":
        pytest.skip("not a checkout of the repository")
    compared = 0
    changed = git(
        "log", "--diff-filter=M", "--format=", "--name-only", "--", "results/runs", "results/ablations"
    ).split()
    for name in sorted(set(changed)):
        commits = git("log", "--format=%H", "--", name).split()
        texts = [text for commit in commits if (text := git("show", f"{commit}:{name}"))]
        states = [json.loads(text)["results"] for text in texts]
        for later, earlier in itertools.pairwise(states):
            for part, values in earlier.items():
                kept = {metric: later.get(part, {}).get(metric) for metric in values}
                assert kept == values, f"{name}: scores moved, and its version did not"
                compared += 1
    assert compared or not changed
