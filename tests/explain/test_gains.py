"""Gain of each class: differences by hand, what is left out and said, and the bars."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mlbench.errors import UsageError
from mlbench.explain import gains as gains_module
from mlbench.explain import sides
from mlbench.explain.gains import Gain, Gains, class_gains, draw_gains

AP = {
    "a0": {"x": 10.0, "y": 50.0, "z": None, "w": 30.0},
    "a1": {"x": 20.0, "y": 50.0, "z": 9.0, "w": 30.0},
    "b0": {"x": 12.0, "y": 45.0, "z": 9.0, "w": 30.0},
    "b1": {"x": 26.0, "y": 52.0, "z": 9.0, "w": 30.0},
}


@pytest.fixture
def records(monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, Any]]:
    made = {}
    for key, ap in AP.items():
        seed = int(key[1])
        identity = {
            **{"harness": 1, "protocol": "p", "protocol_sha256": "0", "repetition": seed, "mask_seed": seed},
            "dataset": {"id": "d", "version": "1", "fingerprint": "f"},
            "method": {"name": {"a": "bce", "b": "kd_wsd"}[key[0]]},
        }
        made[key] = {"key": key * 8, "identity": identity, "definitions": {"ap": "step"}, "per_class": {"AP": ap}}
    monkeypatch.setattr(sides, "find_run", lambda key, store: made[key])
    return made


def test_gains_are_means_of_paired_differences_sorted(records) -> None:
    found = class_gains("a1,a0", "b0,b1")  # paired by seed, whatever the order
    assert [(gain.name, gain.mean) for gain in found.classes] == [("x", 4.0), ("w", 0.0), ("y", -1.5)]
    x = found.classes[0]
    assert (x.first, x.second, sorted(x.differences)) == (15.0, 19.0, [2.0, 6.0])
    assert x.deviation == pytest.approx(np.std([2, 6], ddof=1))
    assert found.undefined == ("z",)
    text = found.text()
    assert "kd_wsd minus bce on d, protocol p" in text
    assert "| x       |    15.0 |     19.0 |   +4.0 |  2.8 |          2 |" in text
    assert "1 classes gain, 1 lose, 1 stay; mean +0.83, median +0.00" in text
    assert "no known positive in the test part): z." in text


def test_one_pair_has_no_deviation_and_tells_other_draws(records) -> None:
    found = class_gains("a1", "b0")
    assert [(gain.name, gain.mean) for gain in found.classes] == [("z", 0.0), ("w", 0.0), ("y", -5.0), ("x", -8.0)]
    assert math.isnan(found.classes[0].deviation)
    assert "sd" not in found.text().splitlines()[2]
    assert "differ in what was drawn, too: (seed, mask) (1, 1) and (0, 0)" in found.text()


def test_runs_without_a_partner_and_other_tests_are_refused(records) -> None:
    with pytest.raises(UsageError, match=r"runs without a partner: \(seed, mask\) \(1, 1\)"):
        class_gains("a0,a1", "b0")
    records["b0"]["identity"]["dataset"] = {"id": "d", "version": "2", "fingerprint": "g"}
    with pytest.raises(UsageError, match=r"differ in dataset\.version"):
        class_gains("a0", "b0")


def test_no_class_with_a_number_is_refused(records) -> None:
    for record in records.values():
        record["per_class"]["AP"] = {"x": None}
    with pytest.raises(UsageError, match="no class has an average precision"):
        class_gains("a0", "b0")


def test_bars_stand_for_gains_to_the_right_and_losses_to_the_left(tmp_path: Path) -> None:
    gains = Gains("t", (Gain("up", 0, 9, (9.0,)), Gain("down", 9, 0, (-9.0,))), (), ())
    with Image.open(draw_gains(gains, tmp_path / "new" / "bars.png")) as image:
        drawn = np.asarray(image.convert("RGB")).astype(int)
    blue = np.argwhere((drawn[..., 2] - drawn[..., 0]) > 100)
    orange = np.argwhere((drawn[..., 0] - drawn[..., 2]) > 100)
    assert blue[:, 1].min() >= orange[:, 1].max() - 2
    assert blue[:, 0].max() < orange[:, 0].min()
    assert np.ptp(blue[:, 1]) == pytest.approx(np.ptp(orange[:, 1]), abs=4)


def test_of_very_many_classes_both_ends_are_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gains_module, "SHOWN", 10)
    many = tuple(Gain(f"c{i}", 0, 0, (float(-i), float(-i - 1))) for i in range(30))
    few = Gains("t", many[:10], (), ())
    with Image.open(draw_gains(Gains("t", many, (), ()), tmp_path / "many.png")) as image:
        height = image.height
    with Image.open(draw_gains(few, tmp_path / "few.png")) as image:
        assert image.height == height


def test_the_command_lists_and_draws(train, mlbench, tmp_path: Path) -> None:
    first, second = train("an"), train("full")
    picture = tmp_path / "bars.png"
    given = ("explain", "gains", first["key"][:12], second["key"][:12], "--store", tmp_path / "runs")
    code, out, err = mlbench(*given, "--picture", picture)
    assert code == 0, err
    assert f"wrote {picture}" in out
    gain = second["per_class"]["AP"]["class 0"] - first["per_class"]["AP"]["class 0"]
    assert next(line for line in out.splitlines() if line.startswith("| class 0")).endswith(f"{gain:+.1f} |")
    assert picture.exists()
    code, _, err = mlbench("explain", "gains", first["key"][:12], first["key"][:12], "--store", tmp_path / "runs")
    assert code == 2
    assert "given twice" in err
