"""Damage to cached arrays, wherever it falls and however it comes about, never reaches a number."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mlbench.datasets import load_dataset
from mlbench.datasets.base import Dataset
from mlbench.errors import DataError, MlbenchError
from mlbench.inputs.features import load_features
from mlbench.inputs.pixels import load_pixels, pixel_file
from mlbench.models.backbones import build_backbone
from mlbench.proposals import load_proposals
from mlbench.runner.feed import Feed

CPU = torch.device("cpu")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MLBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def mine(photos: Path, cache: Path) -> Dataset:
    return load_dataset(str(photos / "mine.toml"), photos)


def bit(content: bytearray, at: int, draw: random.Random) -> bytes:
    content[at] ^= 1 << draw.randrange(8)
    return bytes(content)


def some_bytes(content: bytearray, at: int, draw: random.Random) -> bytes:
    content[at : at + 16] = draw.randbytes(len(content[at : at + 16]))
    return bytes(content)


def block(content: bytearray, at: int, draw: random.Random) -> bytes:
    start = at // 4096 * 4096
    content[start : start + 4096] = bytes(len(content[start : start + 4096]))
    return bytes(content)


def cut(content: bytearray, at: int, draw: random.Random) -> bytes:
    return bytes(content[:at])


@pytest.mark.filterwarnings("ignore:invalid escape sequence")  # a header is parsed as Python
@pytest.mark.parametrize("part", ["train", "test"])
@pytest.mark.parametrize("kind", ["pixels", "features", "proposals"])
def test_no_damage_is_silent(kind: str, part: str, mine: Dataset, cache: Path) -> None:
    split, backbone = mine.splits[part], build_backbone("scenes")
    load: dict[str, Callable[[], list[Any]]] = {
        "pixels": lambda: [load_pixels(split, 40)],
        "features": lambda: [*vars(load_features(split, 64, backbone, "net", CPU)).values()],
        "proposals": lambda: [load_proposals(split, "grid", 30)],
    }
    right = [np.array(array) for array in load[kind]()]
    draw = random.Random(f"{kind} {part}")
    found = 0
    for path in sorted(file for file in (cache / kind).iterdir() if file.suffix in (".npy", ".json")):
        content = path.read_bytes()
        for damage in (bit, some_bytes, block, cut):
            # One in four near the front, where the header stands.
            for at in [draw.randrange(len(content)) for _ in range(6)] + [draw.randrange(128) for _ in range(2)]:
                path.write_bytes(damage(bytearray(content), at, draw))
                try:
                    read = [np.array(array) for array in load[kind]()]
                except DataError:
                    found += 1
                else:  # in the padding of a header, say
                    assert all(map(np.array_equal, read, right)), f"{damage.__name__} at {at} of {path.name}"
        path.write_bytes(content)
    assert found >= 40


def test_lost_hashes_and_damage_together_are_not_believed(mine: Dataset, cache: Path) -> None:
    split = mine.splits["test"]
    right = np.array(load_pixels(split, 40))
    path = pixel_file(split, 40)
    path.with_suffix(".json").unlink()
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    np.testing.assert_array_equal(load_pixels(split, 40), right)


def test_arrays_of_two_sets_that_were_exchanged_are_found_out(mine: Dataset, cache: Path) -> None:
    train = mine.splits["train"]
    one, two = train.take(range(10)), train.take(range(10, 20))
    for split in (one, two):
        load_pixels(split, 40)
    for ending in (".npy", ".json"):
        left, right = (pixel_file(split, 40).with_suffix(ending) for split in (one, two))
        shutil.move(left, cache / "aside")
        shutil.move(right, left)
        shutil.move(cache / "aside", right)
        for split in (one, two):
            with pytest.raises(DataError, match=r"damaged|belongs to"):
                load_pixels(split, 40)[:]


@pytest.mark.parametrize(("track", "room"), [("full", "pixels"), ("head", "features")])
def test_what_is_damaged_while_a_run_reads_it_is_found_before_the_record(
    mine: Dataset, cache: Path, tmp_path: Path, train, monkeypatch: pytest.MonkeyPatch, track: str, room: str
) -> None:
    plain = Feed.pixels_sha256

    def spoiled(self: Feed) -> dict[str, str]:
        """The end of a run, with a bit lost in the last array on the disk since it was read."""
        path = max((cache / room).glob("*.npy"), key=lambda file: file.stat().st_size)
        with open(path, "r+b") as file:
            file.seek(path.stat().st_size - 5)
            last = file.read(1)
            file.seek(-1, 1)
            file.write(bytes([last[0] ^ 1]))
        return plain(self)

    monkeypatch.setattr(Feed, "pixels_sha256", spoiled)
    dataset = replace(mine, _cached={})
    with pytest.raises(MlbenchError, match=rf"{room}/.*damaged, rows .* start the run anew, without --resume"):
        train(dataset=dataset, track=track, changes={"train.image_size": 64, "train.epochs": 1})
    assert not list(tmp_path.rglob("record.json"))
