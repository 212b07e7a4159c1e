"""mAP under corruptions: against sklearn on pictures spoilt by hand, and what tables and curves make of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import average_precision_score

from mlbench.conformance.testing import tiny_dataset
from mlbench.errors import UsageError
from mlbench.explain import sides
from mlbench.explain.corruptions import SEVERITIES, corrupt
from mlbench.explain.robustness import Robustness, draw_robustness, measure_robustness
from mlbench.explain.sides import Side
from mlbench.models.backbones import build_backbone
from mlbench.models.heads import Classifier, Head
from mlbench.runner.checkpoint import load_tensors
from mlbench.store import SUBMITTED, run_dir


def map_by_hand(folder: Path, record: dict, cell: tuple[str, int]) -> float:
    """mAP in percent of a run on track full, the pictures spoilt one by one and the network put together here."""
    test = tiny_dataset().splits["test"]
    network = Classifier(build_backbone("scenes"), Head(64, 4, kind="linear")).eval()
    network.load_state_dict(load_tensors(run_dir(folder / "runs", record["key"]) / "weights.safetensors"))
    pictures = np.stack([corrupt(test.images.load(row), *cell, test.ids[row]) for row in range(len(test))])
    inputs = (torch.from_numpy(pictures).float() / 255 - 0.5) / 0.25
    with torch.no_grad():
        scores = network(inputs.permute(0, 3, 1, 2)).logits.double().numpy()
    return 100 * float(np.mean([average_precision_score(test.labels[:, c] == 1, scores[:, c]) for c in range(4)]))


def test_runs_of_both_tracks_keep_their_clean_map_and_lose_what_sklearn_says(
    train, reloadable, mlbench, tmp_path: Path
) -> None:
    full, head, prior = train("an"), train("an", track="head"), train("prior")
    keys = [record["key"][:12] for record in (full, head, prior)]
    found = measure_robustness(keys, tmp_path / "runs", corruptions=["jpeg", "gaussian_noise"])
    assert found.corruptions == ("gaussian_noise", "jpeg")
    for record in (full, head, prior):
        values = found.values[record["key"]]
        assert values.shape == (2, 6)
        np.testing.assert_allclose(values[:, 0], record["results"]["test"]["mAP"], atol=1e-6)
    np.testing.assert_array_equal(found.values[prior["key"]], found.values[prior["key"]][0, 0])
    for i, name in enumerate(found.corruptions):
        for severity in (1, 5):
            expected = map_by_hand(tmp_path, full, (name, severity))
            assert found.values[full["key"]][i, severity] == pytest.approx(expected, abs=1e-4)
    for record in (full, head):
        assert np.ptp(found.values[record["key"]]) > 0
    assert not any("in its record" in note for note in found.notes)

    picture = tmp_path / "new" / "curves.png"
    given = ("explain", "corruptions", *keys[::2], "--store", tmp_path / "runs", "--device", "cpu")
    code, out, err = mlbench(*given, "--only", "jpeg", "--picture", picture)
    assert code == 0, err
    assert "corruption set photometric 1" in out
    assert f"{found.values[full['key']][1, 1:].mean():.2f}" in out
    assert out.strip().endswith(f"wrote {picture}")
    code, _, err = mlbench(*given, "--only", "jpg")
    assert code == 2
    assert "unknown corruption 'jpg'. Did you mean 'jpeg'?" in err


def run(key: str, seed: int = 0) -> dict:
    return {"key": key * 8, "identity": {"repetition": seed, "mask_seed": 0, "method": {"name": key}}}


def two_sides() -> Robustness:
    random = np.random.default_rng(0)
    first = Side("bce", (run("a0"), run("a1", 1)))
    second = Side("kd_wsd", (run("b1", 1), run("b0"), run("b2", 2)))
    third = Side("alone", (run("c7", 7),))
    values = {}
    for side in (first, second, third):
        for record in side.records:
            values[record["key"]] = np.column_stack([np.full(2, 80.0), random.uniform(10, 70, (2, 5))])
    return Robustness((first, second, third), ("jpeg", "contrast"), values, ("told",))


def test_tables_hold_means_by_hand() -> None:
    found = two_sides()
    a, b = (np.stack([found.values[f"{s}{i}" * 8] for i in (0, 1)]) for s in "ab")
    lines = found.text().splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    first = next(row for row in rows if row[0] == "bce")
    spoilt = a[:, :, 1:]
    expected = [80, *spoilt.mean(axis=(0, 2)), spoilt.mean(), 100 * spoilt.mean() / 80]
    assert first[1:] == ["2", *(f"{value:.2f}" for value in expected)]
    by_severity = next(row for row in rows if row[:2] == ["bce", "contrast"])
    assert by_severity[2:] == [f"{value:.2f}" for value in a[:, 1, 1:].mean(axis=0)]
    over_all = next(row for row in rows if row[:2] == ["bce", "(mean)"])
    assert over_all[2:] == [f"{value:.2f}" for value in spoilt.mean(axis=(0, 1))]
    difference = [row for row in rows if row[0] == "kd_wsd"][-1]
    gaps = (b - a)[:, :, 1:].mean(axis=(1, 2))
    assert difference[1] == "2"
    assert difference[-1] == f"{gaps.mean():+.2f} ± {gaps.std(ddof=1):.2f}"
    assert [row for row in rows if row[0] == "alone"][-1][1] == "0"  # no draw in common
    assert lines[-1] == "- told"


def test_curves_have_a_panel_a_corruption_and_one_for_the_mean(tmp_path: Path) -> None:
    found = two_sides()
    with Image.open(draw_robustness(found, tmp_path / "curves.png")) as picture:
        assert picture.size == (round(3 * 3.2 * 120), round(3.4 * 120))
        drawn = np.asarray(picture.convert("RGB")).astype(int)
    for colour in ((31, 119, 180), (255, 127, 14), (44, 160, 44)):
        assert (np.abs(drawn - colour).sum(axis=2) < 10).sum() > 300
    assert len(SEVERITIES) == 5


def test_what_cannot_be_asked_is_refused(train, reloadable, tmp_path: Path, monkeypatch) -> None:
    with pytest.raises(UsageError, match="unknown corruption 'fog'"):
        measure_robustness([], tmp_path / "nowhere", corruptions=["fog"])
    record = train("prior")
    other = {**record, "key": "9" * 64, "identity": {**record["identity"], "protocol": "full"}}
    submitted = {**record, "identity": {**record["identity"], "method": {"name": f"{SUBMITTED}x"}}}
    found = {"a": record, "b": other, "c": submitted}
    monkeypatch.setattr(sides, "find_run", lambda key, store: found[key])
    with pytest.raises(UsageError, match=r"differ in protocol \(single_positive and full\)"):
        measure_robustness(["a", "b"], tmp_path / "runs")
    with pytest.raises(UsageError, match="submitted as predictions"):
        measure_robustness(["c"], tmp_path / "runs")
