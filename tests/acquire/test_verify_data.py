"""Verification lists what is wrong: broken images, counts, what changed since the first time."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mlbench.acquire.verify import part_sizes, verify
from mlbench.conformance.testing import tiny_dataset
from mlbench.datasets import load_dataset
from mlbench.datasets.base import Dataset
from mlbench.images import file_hashes
from mlbench.inputs.features import load_features
from mlbench.inputs.pixels import load_pixels, pixel_file
from mlbench.models.backbones import build_backbone
from mlbench.paths import cache_dir
from mlbench.proposals import load_proposals
from mlbench.protocol import list_protocols, load_protocol
from mlbench.runner.data import make_parts
from mlbench.runner.plan import Request, resolve


@pytest.fixture
def mine(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MLBENCH_CACHE", str(tmp_path / "cache"))
    return Path(shutil.copytree(photos, tmp_path / "mine"))


def load(folder: Path) -> Dataset:
    return load_dataset(str(folder / "mine.toml"))


def test_a_sound_data_set_has_no_problems_and_is_remembered(mine: Path) -> None:
    first = verify(load(mine), mine, remember=True)
    assert first.problems == []
    assert [(part["part"], part["samples"], part["opened"]) for part in first.parts] == [
        ("train", 24, 24),
        ("test", 10, 10),
    ]
    assert "the same as when its hashes were kept here" in verify(load(mine), mine).remarks
    assert first.fingerprint == load(mine).fingerprint


def test_nothing_is_written_unless_asked(mine: Path, mlbench: Callable[..., Any]) -> None:
    before = sorted(mine.rglob("*"))
    result = verify(load(mine), mine)
    assert "no hashes were kept here to compare with (--remember keeps them)" in result.remarks
    assert mlbench("data", "verify", mine / "mine.toml", "--root", mine)[0] == 0
    assert sorted(mine.rglob("*")) == before
    assert mlbench("data", "verify", mine / "mine.toml", "--root", mine, "--remember")[0] == 0
    assert (mine / ".mlbench" / "mine.json").is_file()
    assert mlbench("data", "verify", mine / "mine.toml", "--remember")[0] == 2


def test_all_broken_images_are_listed(mine: Path) -> None:
    for name in ("03.png", "30.png"):
        path = mine / "pictures" / name
        path.write_bytes(path.read_bytes()[:-400])
    result = verify(load(mine), mine, remember=True)
    assert [next(n for n in ("03.png", "30.png") if n in text) for text in result.problems] == ["03.png", "30.png"]
    assert "PROBLEM" in result.text()
    assert result.text().endswith("2 problems")
    assert not (mine / ".mlbench").exists(), "what is broken is not remembered as right"


def test_a_picture_changed_under_the_same_name_and_size_is_noticed(mine: Path) -> None:
    verify(load(mine), mine, remember=True)
    path = mine / "pictures" / "00.png"
    before = path.stat().st_size
    pixels = np.asarray(Image.open(path)).copy()
    Image.fromarray(255 - pixels).save(path)
    path.write_bytes(path.read_bytes()[:before].ljust(before, b"\0"))
    result = verify(load(mine), mine)
    assert any("content of train" in problem for problem in result.problems)


def test_all_that_the_cache_holds_of_the_images_is_verified(mine: Path) -> None:
    train = load(mine).splits["train"]
    for size in (8, 12):
        load_pixels(train, size)
    load_features(train, 64, build_backbone("scenes"), "net", torch.device("cpu"))
    load_proposals(train, "grid", 5)
    told = [text for text in verify(load(mine), mine).remarks if text.startswith("cached")]
    assert sorted(told) == [
        f"cached {name}: whole, and made of these images"
        for name in (
            *("features of train at 64 px", "features of train at 64 px", "pixels of train at 12 px"),
            *("pixels of train at 64 px", "pixels of train at 8 px", "proposals of train"),
        )
    ]
    for path in (tmp for tmp in cache_dir().glob("*/*.npy") if tmp != pixel_file(train, 8)):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    problems = verify(load(mine), mine).problems
    assert len(problems) == 5
    assert all("are not what was written" in problem for problem in problems)


def test_arrays_of_an_earlier_version_and_damaged_hashes_are_told_of(mine: Path) -> None:
    for name, content in (("old", '{"format": 1, "chunks": []}'), ("odd", '{"format": 2}')):
        path = cache_dir() / "pixels" / f"{name}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, np.zeros(3))
        path.with_suffix(".json").write_text(content)
    result = verify(load(mine))
    (problem,) = result.problems
    assert "odd.json: damaged" in problem
    assert any(remark.startswith("1 cached arrays (0.0 GB) are of an earlier") for remark in result.remarks)


def test_a_file_that_its_disk_has_changed_is_a_problem(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_hashes, "_TICK", -(10**18))  # as if all had been hashed long after it was written
    dataset = load(mine)
    dataset.hash_images()
    known = file_hashes._read(file_hashes.index_file(mine / "pictures")).copy()
    known["sha256"][3] ^= 1  # the same as a flipped bit in the file, which no system call can make
    file_hashes._write(file_hashes.index_file(mine / "pictures"), known)
    (problem,) = verify(load(mine)).problems
    assert "not what it was when it was hashed" in problem
    assert "its disk has changed it" in problem


def test_hashes_kept_before_content_counted_are_brought_up_to_date(mine: Path) -> None:
    verify(load(mine), mine, remember=True)
    path = mine / ".mlbench" / "mine.json"
    kept = json.loads(path.read_text())
    path.write_text(json.dumps({**kept, "fingerprint": load(mine).legacy_fingerprint}))
    assert verify(load(mine), mine).problems == []
    assert verify(load(mine), mine, remember=True).problems == []
    assert json.loads(path.read_text()) == kept


def test_a_changed_label_is_noticed(mine: Path) -> None:
    verify(load(mine), mine, open_images=False, remember=True)
    path = mine / "labels.csv"
    path.write_text(path.read_text().replace("|blue", "", 1))
    (problem,) = verify(load(mine), mine, open_images=False).problems
    assert problem.startswith("fingerprint is ")


def test_counts_are_those_that_a_run_would_have() -> None:
    dataset = tiny_dataset()
    official = replace(dataset, splits={**dataset.splits, "val": dataset.splits["test"]})
    for name in list_protocols():
        protocol = load_protocol(name)
        for data in (dataset, official):
            if protocol.split.validation == "official" and "val" not in data.splits:
                continue
            rule = replace(protocol, annotation=load_protocol("full").annotation)
            parts, _ = make_parts(data, rule, 0)
            assert part_sizes(data, protocol) == {"classes": len(data.classes)} | {
                part: len(rows) for part, rows in parts.items()
            }


def test_a_copy_that_no_protocol_was_defined_on_is_a_problem() -> None:
    dataset = replace(tiny_dataset(), id="cub")
    result = verify(dataset, open_images=False)
    assert any("is not what protocol 'full'" in problem or "expected 312" in problem for problem in result.problems)


def test_a_folder_that_cannot_be_written_is_no_problem(mine: Path) -> None:
    (mine / ".mlbench").write_text("")
    result = verify(load(mine), mine, remember=True)
    assert result.problems == []
    assert any("hashes not kept" in remark for remark in result.remarks)


def test_the_command_fails_on_a_problem(mine: Path, mlbench: Callable[..., Any]) -> None:
    assert mlbench("data", "verify", mine / "mine.toml", "--root", mine)[0] == 0
    (mine / "pictures" / "05.png").write_bytes(b"no picture")
    code, out, err = mlbench("data", "verify", mine / "mine.toml", "--root", mine)
    assert code == 1
    assert "05.png: not an image" in out
    assert "problems" in err


def test_equal_pictures_are_counted_and_listed(mine: Path, mlbench: Callable[..., Any]) -> None:
    lines = (mine / "labels.csv").read_text().splitlines()
    labels = dict(line.split(",", 2)[::2] for line in lines[1:])
    other = next(name for name in labels if name >= "24" and labels[name] != labels["00.png"])
    shutil.copy(mine / "pictures" / "00.png", mine / "pictures" / other)
    shutil.copy(mine / "pictures" / "01.png", mine / "pictures" / "02.png")
    remarks = verify(load(mine), mine).remarks
    assert (
        f"pictures of equal bytes in several parts: 1, 1 of them with other labels there (train 00.png = test {other})"
        in remarks
    )
    assert "pictures of equal bytes within a part: 1 (train 01.png = train 02.png)" in remarks
    code, out, _ = mlbench("data", "verify", mine / "mine.toml")
    assert code == 0
    assert "note: pictures of equal bytes in several parts: 1" in out
    run = resolve(Request("full", "full", str(mine / "mine.toml"), backbone="scenes"))
    assert any(note.startswith("pictures of equal bytes in several parts: 1, 1 of them") for note in run.notes)
