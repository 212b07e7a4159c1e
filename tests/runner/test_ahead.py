"""Batches that are made while the step before is under way: the same bits, and the time they take is hidden."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mlbench.errors import DataError
from mlbench.runner.data import ImageInputs
from mlbench.runner.feed import Feed
from mlbench.runner.plan import resolve
from mlbench.runner.world import World
from mlbench.store import run_dir

PARTS = ("predictions", "weights", "results", "selected")


class Stopped(Exception):
    """Stands for a kill."""


@pytest.fixture
def ahead(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], list[bool]]:
    """Return a function that makes all feeds make batches ahead, or not; it gives what is noted of each `begin`."""
    begin, make = Feed.begin, Feed.__init__

    def choose(on: bool) -> list[bool]:
        noted: list[bool] = []

        def made(self: Feed, *given: Any, **named: Any) -> None:
            make(self, *given, **named)
            self.ahead = on

        def begun(self: Feed, *given: Any, **named: Any) -> None:
            begin(self, *given, **named)
            noted.append(self._begun is not None)

        monkeypatch.setattr(Feed, "__init__", made)
        monkeypatch.setattr(Feed, "begin", begun)
        return noted

    return choose


RECIPES: dict[str, tuple[str, dict[str, Any]]] = {
    "flips": ("an", {}),
    "random crops, accumulated": ("an", {"train.crop": (0.5, 1.0), "train.cutout": 0.5, "train.accumulate": 2}),
    "views": ("wbce_fs", {}),
    "a method that looks at other rows between steps": ("em_apl", {}),
}


@pytest.mark.parametrize("recipe", RECIPES)
def test_bits_are_the_same(recipe: str, train: Any, ahead: Callable[[bool], list[bool]], tmp_path: Path) -> None:
    method, changes = RECIPES[recipe]
    found = []
    for on in (False, True):
        noted = ahead(on)
        record = train(method, changes={"train.epochs": 2, **changes}, store=tmp_path / str(on))
        found.append([record[part] for part in PARTS] + [[row["loss"] for row in record["epochs"]]])
        assert any(noted) == on
    assert found[0] == found[1]


def test_a_stopped_run_goes_on_to_the_same_bits(
    train: Any, ahead: Callable[[bool], list[bool]], tmp_path: Path
) -> None:
    ahead(False)
    whole = train("an", changes={"train.epochs": 2}, store=tmp_path / "whole")
    ahead(True)
    left = [3]

    def stop() -> None:
        left[0] -= 1
        if not left[0]:
            raise Stopped

    given = {"changes": {"train.epochs": 2}, "store": tmp_path / "stopped", "checkpoint_seconds": 0.0}
    with pytest.raises(Stopped):
        train("an", on_checkpoint=stop, **given)
    resumed = train("an", resume=True, **given)
    assert [resumed[part] for part in PARTS] == [whole[part] for part in PARTS]
    assert run_dir(tmp_path / "stopped", resumed["key"]).is_dir()


def test_nothing_is_begun_that_draws_from_the_generator_of_the_step(
    train: Any, ahead: Callable[[bool], list[bool]]
) -> None:
    noted = ahead(True)
    train("an", changes={"train.epochs": 1, "train.randaugment": 2})
    assert noted
    assert not any(noted)


def test_a_batch_that_cannot_be_made_is_told_of(tiny_request: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    feed = Feed(resolve(tiny_request("an")), World("cpu").device)
    feed.ahead = True
    rows = np.arange(4)
    feed.batch("train", rows, 1)
    monkeypatch.setattr(ImageInputs, "load", _broken)
    feed.begin("train", rows, 2)
    with pytest.raises(DataError, match="a broken image"):
        feed.batch("train", rows, 2)


def _broken(*given: Any) -> torch.Tensor:
    raise DataError("a broken image")


def test_another_batch_may_be_asked_for_in_between(tiny_request: Any) -> None:
    run = resolve(tiny_request("an"))
    feed, plain = (Feed(run, World("cpu").device) for _ in range(2))
    feed.ahead = True
    rows, others = np.arange(4), np.arange(4, 9)
    feed.batch("train", rows, 1)
    feed.begin("train", others, 1)
    for asked, epoch in ((rows, None), (others, 1), (others, 2)):
        assert torch.equal(feed.batch("train", asked, epoch).inputs, plain.batch("train", asked, epoch).inputs)


def test_the_time_that_batches_take_is_hidden_by_a_step_that_waits(
    tiny_request: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pause, steps = 0.06, 6
    feed = Feed(resolve(tiny_request("an")), World("cpu").device)
    feed.batch("train", np.arange(4), 1)
    load = ImageInputs.load

    def slowly(*given: Any) -> torch.Tensor:
        time.sleep(pause)
        return load(*given)

    monkeypatch.setattr(ImageInputs, "load", slowly)

    def epoch(on: bool) -> float:
        feed.ahead, begun = on, time.perf_counter()
        for step in range(steps):
            feed.batch("train", np.arange(4) + step, 1)
            if step + 1 < steps:
                feed.begin("train", np.arange(4) + step + 1, 1)
            time.sleep(pause)  # as the host waits for a GPU
        return time.perf_counter() - begun

    one_after_the_other, overlapped = epoch(False), min(epoch(True) for _ in range(3))
    assert one_after_the_other >= 2 * steps * pause
    assert overlapped < 0.85 * one_after_the_other


def test_settings_of_another_phase_are_another_batch(tiny_request: Any) -> None:
    feed = Feed(resolve(tiny_request("an")), World("cpu").device)
    feed.ahead = True
    rows = np.arange(4)
    feed.batch("train", rows, 1)
    feed.begin("train", rows, 1)
    feed.settings = dataclasses.replace(feed.settings, image_size=2 * feed.settings.image_size)
    assert feed.batch("train", rows, 1).inputs.shape[-1] == feed.settings.image_size
