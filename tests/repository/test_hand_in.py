"""Records handed in: the archive and its text, what merging takes, and what it refuses."""

from __future__ import annotations

import copy
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from mlbench.cli.main import cli
from mlbench.errors import DataError, UsageError
from mlbench.evaluation.predictions import read_predictions
from mlbench.repository import archive
from mlbench.repository.hand_in import hand_in, request_text
from mlbench.repository.results import merge, verify
from mlbench.store import find_records
from mlbench.store.schema import refit

ROOT = Path(__file__).parents[2]
MakeRun = Callable[..., dict[str, Any]]


@pytest.fixture
def given(board: Path, make_run: MakeRun, tmp_path: Path) -> Path:
    """An archive of two runs that are not published."""
    keys = [make_run(method, 0, publish=False)["key"] for method in ("an", "llr")]
    return hand_in(keys, tmp_path / "out", tmp_path / "runs")[0]


def test_the_text_says_what_the_archive_is(given: Path, tmp_path: Path) -> None:
    text = given.with_suffix(".md").read_text()
    assert hashlib.sha256(given.read_bytes()).hexdigest() in text
    for record in find_records(tmp_path / "runs")[0]:
        assert record["content_sha256"] in text
        assert record["predictions"]["test"]["sha256"] in text
        assert f"mAP {record['results']['test']['mAP']:.2f}" in text
    assert "no badge" in text
    assert "(2 runs)" in text  # one environment


def test_the_same_runs_give_the_same_archive(given: Path, tmp_path: Path) -> None:
    keys = [record["key"][:12] for record in find_records(tmp_path / "runs")[0]]
    again, _ = hand_in([*reversed(keys), keys[0]], tmp_path / "again", tmp_path / "runs")
    assert again.name == given.name
    assert again.read_bytes() == given.read_bytes()
    with pytest.raises(UsageError, match="no run given"):
        hand_in([], tmp_path / "again", tmp_path / "runs")


def test_merging_scores_the_records_again_and_takes_them_once(given: Path, board: Path) -> None:
    report = merge(board / "runs", given)
    assert report.problems == []
    assert report.counts == {"scored again": 2, "new": 2}
    assert verify(board / "runs").problems == []
    assert merge(board / "runs", given).counts == {"scored again": 2, "already there": 2}
    result = CliRunner().invoke(cli, ["results", "merge", str(board / "runs"), str(given)])
    assert result.output == "2 scored again, 2 already there\n"


def repacked(tmp_path: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    """An archive whose first record was changed and sealed again, as a forger would."""
    records = copy.deepcopy(find_records(tmp_path / "runs")[0])
    stores = {record["key"]: tmp_path / "runs" / record["key"][:16] / "test.safetensors" for record in records}
    files = [stores[record["key"]] for record in records]
    change(records[0])
    records[0] = refit(records[0])
    archive.write_pack(tmp_path / "forged.zip", list(zip(records, files, strict=True)))
    return tmp_path / "forged.zip"


def better(record: dict[str, Any]) -> None:
    """Every number that says so is raised alike: the record does not contradict itself."""
    for name in ("mAP", "mAP_step"):
        record["results"]["test"][name] += 1
    record["per_class"]["AP"] = {name: value + 1 for name, value in record["per_class"]["AP"].items()}


def of_another_protocol(record: dict[str, Any]) -> None:
    record["identity"]["protocol_sha256"] = "0" * 64


@pytest.mark.parametrize(
    ("change", "says"),
    [(better, "results.test.mAP"), (of_another_protocol, "identity.protocol_sha256 is not that of its protocol")],
)
def test_a_forged_record_is_refused_and_nothing_is_merged(
    change: Callable[[dict[str, Any]], Any], says: str, given: Path, board: Path, tmp_path: Path
) -> None:
    report = merge(board / "runs", repacked(tmp_path, change))
    assert any(says in line for line in report.problems)
    assert list((board / "runs").iterdir()) == []
    result = CliRunner().invoke(cli, ["results", "merge", str(board / "runs"), str(tmp_path / "forged.zip")])
    assert result.exit_code == 1


def test_scores_of_a_submission_are_part_of_what_it_is(given: Path, board: Path, tmp_path: Path) -> None:
    def submitted(record: dict[str, Any]) -> None:
        record["identity"]["scores"] = {"kind": "logit", "sha256": "0" * 64}

    with pytest.raises(DataError, match="its scores say content"):
        merge(board / "runs", repacked(tmp_path, submitted))

    def honest(record: dict[str, Any]) -> None:
        scores = read_predictions(tmp_path / "runs" / record["key"][:16] / "test.safetensors").scores
        record["identity"]["scores"] = {"kind": "logit", "sha256": hashlib.sha256(scores.tobytes()).hexdigest()}

    assert merge(board / "runs", repacked(tmp_path, honest)).problems == []


def test_a_conflict_with_what_is_published_is_refused(given: Path, board: Path, make_run: MakeRun) -> None:
    """Another record of a published run, with its own scores: the same settings cannot give other numbers."""
    published = make_run("an", 0)
    path = next((board / "runs").glob("an*"))
    changed = copy.deepcopy(published)
    better(changed)
    from mlbench.store.schema import dump_record

    path.write_text(dump_record(refit(changed), "test"))
    report = merge(board / "runs", given)
    assert any("scores moved without a version bump" in line for line in report.problems)
    assert len(list((board / "runs").iterdir())) == 1


def test_the_text_of_a_submission_has_its_card(pattern: dict[str, Any]) -> None:
    record = copy.deepcopy(pattern)
    record["identity"]["method"]["name"] = "submitted/mine"
    record["predictions"] = {"test": {"sha256": "a" * 64}}
    record["results"]["test"] = {"mAP": None}
    record["provenance"]["submission"] = {
        "title": "What it is",
        "authors": ["A. Author"],
        "source": "https://example.org",
        "license": "CC-BY-4.0",
        "reported": {"mAP": 41.2},
        "card_sha256": "b" * 64,
    }
    text = request_text([record], {"file": "x.zip", "sha256": "c" * 64, "bytes": 1})
    for part in ("What it is; A. Author; https://example.org", "CC-BY-4.0", "mAP 41.2", "b" * 64, "undefined"):
        assert part in text
    assert "scored, not reproduced" in text


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_the_check_of_a_pull_request(given: Path, board: Path, tmp_path: Path) -> None:
    """`.ci/records BASE PROPOSED ARCHIVE`: what is proposed must be what the archive makes of the base."""
    proposed = tmp_path / "proposed"
    proposed.mkdir()
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}

    def check(archive_: Path | str = given) -> subprocess.CompletedProcess[str]:
        command = [str(ROOT / ".ci" / "records"), str(board / "runs"), str(proposed), str(archive_)]
        return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)

    merge(proposed, given)
    found = check()
    assert found.returncode == 0, found.stdout + found.stderr
    assert "the archive gives what is proposed" in found.stdout
    next(proposed.glob("llr*")).unlink()
    assert check().returncode == 1  # the archive has a record more than is proposed
    (proposed / "an__scenes__x__0.json").write_text("{}")
    assert check("").returncode == 1
