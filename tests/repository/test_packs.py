"""Packs of published runs: made, taken in, and used by name; what does not hold is refused whole."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from click.testing import CliRunner

from mlbench.acquire.archives import Limits
from mlbench.cli.main import cli
from mlbench.errors import DataError, UsageError
from mlbench.evaluation.predictions import read_predictions
from mlbench.evaluation.rescore import score
from mlbench.explain.metrics import explain_metrics
from mlbench.paths import cache_dir
from mlbench.report.board import table
from mlbench.repository import archive
from mlbench.repository.archive import opened_pack
from mlbench.repository.packs import fetch, pack
from mlbench.repository.results import rescore
from mlbench.significance.compare import compare
from mlbench.store.published import fetched_scores, find_published

MakeRun = Callable[..., dict[str, Any]]


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *given: Any) -> None:
        pass


@pytest.fixture
def packed(board: Path, make_run: MakeRun, tmp_path: Path) -> Path:
    """A pack of two methods' draw 0; their store is gone, and another has a run of `an`."""
    for method, draw in (("an", 0), ("an", 1), ("llr", 0)):
        make_run(method, draw)
    report = pack(tmp_path / "packs", [tmp_path / "runs"], index=board / "packs")
    assert report.counts == {"runs of scenes": 2}
    make_run("an", 2, store="mine", publish=False)
    shutil.rmtree(tmp_path / "runs")
    return tmp_path / "packs" / "scenes.zip"


def test_the_index_names_every_file_by_its_hash(packed: Path, board: Path) -> None:
    index = json.loads((board / "packs" / "scenes.json").read_text())
    assert index["archive"]["bytes"] == packed.stat().st_size
    assert [(run["method"], run["seed"], run["mask"]) for run in index["runs"]] == [("an", 0, 0), ("llr", 0, 0)]
    with zipfile.ZipFile(packed) as source:
        inside = json.loads(source.read("index.json"))
        assert inside["runs"] == index["runs"]
        files = {name for run in index["runs"] for name in (run["record"], run["predictions"]["file"])}
        assert set(source.namelist()) == {"index.json", *files}
        for run in index["runs"]:
            assert source.getinfo(run["predictions"]["file"]).file_size == run["predictions"]["bytes"]


def test_the_same_runs_give_the_same_bytes(packed: Path, tmp_path: Path) -> None:
    fetch(str(packed))
    pack(tmp_path / "again")  # from what was fetched
    assert (tmp_path / "again" / "scenes.zip").read_bytes() == packed.read_bytes()


def test_fetched_scores_are_those_of_the_record_to_the_last_bit(packed: Path, tmp_path: Path) -> None:
    assert fetch(str(packed)).counts == {"scores taken in": 2}
    assert fetch(str(packed)).counts == {"already here": 2}
    record = find_published("published:llr@scenes")
    sha256 = record["predictions"]["test"]["sha256"]
    assert read_predictions(fetched_scores(sha256), sha256).meta["key"] == record["key"]
    again = score("published:llr@scenes", tmp_path / "mine")
    assert again.differences == {}
    assert again.results == pytest.approx(record["results"]["test"], abs=1e-12)


def test_a_run_is_compared_with_a_published_one(packed: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    own = next(mine.iterdir()).name
    with pytest.raises(DataError, match=r"llr.*are not at hand: `mlbench results fetch scenes.zip` brings them"):
        compare(own, "published:llr@scenes", mine, replicates=20)
    fetch(str(packed))
    found = compare(own, "published:llr@scenes", mine, replicates=20)
    other = find_published("published:llr@scenes")["results"]["test"]["mAP"]
    assert 100 * found.intervals["mAP"].b == pytest.approx(other, abs=1e-9)
    assert "mAP" in explain_metrics("published:llr@scenes", store=mine)


def test_a_table_of_published_records_has_draws_of_the_images(packed: Path, board: Path) -> None:
    fetching = "2 runs: the predictions are not at hand: \\`mlbench results fetch scenes.zip\\` brings them"
    kept = "1 runs: the predictions are not at hand: they stay in the store of the run"  # draw 1 is in no pack
    before = table(board / "runs", replicates=20).to_markdown()
    assert fetching in before
    assert kept in before
    fetch(str(packed))
    after = table(board / "runs", replicates=20).to_markdown()
    assert fetching not in after
    assert kept in after


def test_published_records_are_scored_again(packed: Path, board: Path, tmp_path: Path) -> None:
    fetch(str(packed))
    report = rescore(board / "runs", tmp_path / "mine")
    assert report.counts == {"scored again": 2, "without predictions here": 1}
    assert report.problems == []


def test_a_pack_is_fetched_by_its_address_and_by_its_name(packed: Path, board: Path, tmp_path: Path) -> None:
    handler = partial(Quiet, directory=str(packed.parent))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        base = f"http://127.0.0.1:{server.server_port}"
        assert fetch(f"{base}/scenes.zip").counts == {"scores taken in": 2}
        with pytest.raises(DataError, match="404"):
            fetch(f"{base}/none.zip")
        pack(packed.parent, [tmp_path / "mine"], index=board / "packs", url=base)
        result = CliRunner().invoke(cli, ["results", "fetch", "scenes"])
        assert result.output == "2 already here\n"
        packed.write_bytes(packed.read_bytes()[:-1] + b"x")  # not what the index says
        with pytest.raises(DataError, match="has sha256"):
            fetch("scenes")
    finally:
        server.shutdown()
        server.server_close()
    assert list((cache_dir() / "packs").iterdir()) == []


def test_scores_that_no_published_record_names_are_left_out(packed: Path, board: Path) -> None:
    next((board / "runs").glob("llr*")).unlink()
    assert fetch(str(packed)).counts == {
        "scores taken in": 1,
        "left out: no record that is published here names them": 1,
    }


def test_scores_that_are_not_the_records_are_not_packed(board: Path, make_run: MakeRun, tmp_path: Path) -> None:
    record = make_run()
    path = tmp_path / "runs" / record["key"][:16] / "test.safetensors"
    path.write_bytes(path.read_bytes()[:-4] + b"\0\0\0\0")
    report = pack(tmp_path / "packs", [tmp_path / "runs"])
    assert report.counts == {"runs of scenes whose scores are not at hand": 1}
    assert not (tmp_path / "packs").exists()


@pytest.mark.parametrize(
    ("reference", "says"),
    [
        ("published:lrr@scenes", r"unknown published method 'lrr'. Did you mean 'llr'\?"),
        ("published:llr@scene", r"unknown published dataset 'scene'. Did you mean 'scenes'\?"),
        ("published:llr@scenes/single", r"unknown published protocol 'single'. Did you mean 'single_positive'\?"),
        ("published:llr@scenes#7", "no published run of draw 7; there are 0"),
        ("published:llr@scenes#x", "expected published:METHOD@DATASET"),
        ("published:", "expected the first characters of a published run's key"),
        ("published:0000", "expected the first characters of a published run's key"),
    ],
)
def test_what_is_not_published_is_said(packed: Path, reference: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        find_published(reference)


def test_a_reference_means_one_run(board: Path, make_run: MakeRun) -> None:
    runs = [make_run("an", draw) for draw in (0, 1)]
    make_run("an", 0, track="head")  # one run of another track: the setting with more runs is meant
    assert find_published("published:an@scenes")["key"] == runs[0]["key"]
    assert find_published("published:an@scenes/single_positive#1")["key"] == runs[1]["key"]
    assert find_published(f"published:{runs[1]['key'][:9]}")["key"] == runs[1]["key"]
    make_run("an", 1, track="head")
    with pytest.raises(UsageError, match="2 published runs fit; name one by its key"):
        find_published("published:an@scenes")


def test_of_a_row_the_first_draw_at_hand_is_packed_and_meant(board: Path, make_run: MakeRun, tmp_path: Path) -> None:
    runs = [make_run("an", draw) for draw in (0, 1, 2)]
    assert find_published("published:an@scenes")["key"] == runs[0]["key"]
    shutil.rmtree(tmp_path / "runs" / runs[0]["key"][:16])
    report = pack(tmp_path / "packs", [tmp_path / "runs"], index=board / "packs")
    assert report.counts == {"runs of scenes": 1}
    assert [run["key"] for run in json.loads((board / "packs" / "scenes.json").read_text())["runs"]] == [runs[1]["key"]]
    assert find_published("published:an@scenes")["key"] == runs[1]["key"]
    assert find_published("published:an@scenes#0")["key"] == runs[0]["key"]
    assert pack(tmp_path / "none", [tmp_path / "runs"], draw=0).counts == {
        "runs of scenes whose scores are not at hand": 1
    }


# Packs that somebody else made.


def rewrite(path: Path, change: Callable[[dict[str, bytes]], Any]) -> Path:
    """The pack at `path` with its members changed."""
    with zipfile.ZipFile(path) as source:
        members = {name: source.read(name) for name in source.namelist()}
    change(members)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
        for name, content in members.items():
            target.writestr(name, content)
    return path


def index_of(members: dict[str, bytes], change: Callable[[dict[str, Any]], Any]) -> None:
    index = json.loads(members["index.json"])
    change(index)
    members["index.json"] = json.dumps(index).encode()


def other_scores(members: dict[str, bytes]) -> None:
    name = next(name for name in members if name.startswith("scores/"))
    members[name] = members[name][:-4] + b"\0\0\0\0"


def changed_record(members: dict[str, bytes]) -> None:
    name = next(name for name in members if name.startswith("records/"))
    members[name] = members[name].replace(b'"mAP": ', b'"mAP": 0', 1).replace(b'"mAP": 04', b'"mAP": 5', 1)


def swapped(index: dict[str, Any]) -> None:
    a, b = index["runs"]
    a["predictions"], b["predictions"] = b["predictions"], a["predictions"]


HOSTILE: dict[str, tuple[Callable[[dict[str, bytes]], Any], str]] = {
    "other scores": (other_scores, "its scores have SHA-256"),
    "a changed record": (changed_record, "changed after it was written"),
    "scores of another run": (lambda m: index_of(m, swapped), "says other things of this record"),
    "a flattering index": (
        lambda m: index_of(m, lambda i: i["runs"][0].update(method="best")),
        "says other things of this record",
    ),
    "more in the index": (lambda m: index_of(m, lambda i: i["runs"][0].update(x=1)), "says other things"),
    "a run twice": (lambda m: index_of(m, lambda i: i["runs"].append(i["runs"][0])), "stands twice"),
    "a member that is not indexed": (lambda m: m.update({"run.sh": b"#!"}), "'run.sh' is not in its index"),
    "a member that is missing": (
        lambda m: m.pop(next(n for n in m if n.startswith("scores/"))),
        "is in its index, and missing",
    ),
    "a path outside": (lambda m: m.update({"../x": b""}), "leaves the folder"),
    "an absolute path": (lambda m: m.update({"/x": b""}), "is no plain relative path"),
    "no index": (lambda m: m.pop("index.json"), "it has no index.json"),
    "an index that is none": (lambda m: m.update({"index.json": b"["}), "is no index of a pack"),
    "an index of numbers": (lambda m: m.update({"index.json": b'{"format":1,"runs":[1]}'}), "is no index of a pack"),
    "a nested index": (lambda m: m.update({"index.json": b"[" * 9000 + b"]" * 9000}), "nested deeper"),
    "another format": (lambda m: index_of(m, lambda i: i.update(format=2)), "is no index of a pack of format 1"),
    "a bomb": (lambda m: m.update({"bomb": bytes(2**26)}), "unpacks to more than"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_what_does_not_hold_is_refused_whole(
    case: str, packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "LIMITS", Limits(files=100, ratio=40, harmless=2**20, depth=2))
    change, says = HOSTILE[case]
    with pytest.raises(DataError, match=says):
        fetch(str(rewrite(packed, change)))
    assert not (cache_dir() / "scores").exists()
    assert list((cache_dir() / "packs").iterdir()) == []


def test_scores_of_another_part_are_refused(board: Path, make_run: MakeRun, tmp_path: Path) -> None:
    """A record may name any file by its hash, and be sealed: what the file says of itself must fit."""
    from dataclasses import replace

    from mlbench.evaluation.predictions import write_predictions
    from mlbench.store.schema import refit

    record = make_run()
    path = tmp_path / "runs" / record["key"][:16] / "test.safetensors"
    found = read_predictions(path)
    record["predictions"]["test"]["sha256"] = write_predictions(
        tmp_path / "val.safetensors", replace(found, meta={**found.meta, "split": "val"})
    )
    archive.write_pack(tmp_path / "x.zip", [(refit(record), tmp_path / "val.safetensors")])
    with (
        pytest.raises(DataError, match="its scores say split = 'val', expected 'test'"),
        opened_pack(tmp_path / "x.zip"),
    ):
        pass


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"no zip at all"])
def test_what_is_no_archive_is_refused(content: bytes, board: Path, tmp_path: Path) -> None:
    (tmp_path / "x.zip").write_bytes(content)
    with pytest.raises(DataError, match="truncated or broken archive"):
        fetch(str(tmp_path / "x.zip"))


def test_what_is_not_there_is_said(packed: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such pack"):
        fetch(str(tmp_path / "none.zip"))
    with pytest.raises(UsageError, match=r"no published pack of this name. Known: scenes"):
        fetch("scene")
    with pytest.raises(UsageError, match=r"the address of this pack is not known here; download scenes.zip"):
        fetch("scenes")
    with pytest.raises(UsageError, match=r"unknown published dataset 'scene'. Did you mean 'scenes'"):
        pack(tmp_path / "packs", datasets=["scene"])
