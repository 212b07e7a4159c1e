"""docs/metrics.md: its blocks run, its table of names is true, and its figures are those of the benchmark."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")


def test_the_blocks_run_one_after_another(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torchmetrics", reason="the page compares with it")
    space: dict[str, object] = {}
    blocks = re.findall(r"(?ms)^```python\n(.*?)^```", PAGE)
    assert len(blocks) == 4
    for block in blocks:
        exec(compile(block, "docs/metrics.md", "exec"), space)
    assert 0.5 < float(capsys.readouterr().out.splitlines()[0]) < 1


def test_the_names_side_by_side_give_the_same_numbers() -> None:
    pytest.importorskip("torchmetrics", reason="the page compares with it")
    import sklearn.metrics as theirs
    import torch
    from torchmetrics.functional import classification as torchs

    from mlbench import metrics as ours

    rng = np.random.default_rng(1)
    targets = rng.random((300, 7)) < 0.3
    values = np.clip(0.2 * targets + 0.8 * rng.random((300, 7)), 0, 1)
    scores, decided = ours.Probabilities(values), values > 0.5
    tensors = torch.from_numpy(values), torch.from_numpy(targets).long(), 7
    counted = ours.precision_recall_f1(ours.threshold(scores, 0.5), targets)
    area = ours.roc_auc(scores, targets)
    ap = ours.average_precision(scores, targets)
    triples = [
        (ours.mean_average_precision(ap, "skip"), theirs.average_precision_score(targets, values),
         torchs.multilabel_average_precision(*tensors)),
        (counted.F1_C_mean, theirs.f1_score(targets, decided, average="macro"),
         torchs.multilabel_f1_score(*tensors, average="macro")),
        (counted.F1_O, theirs.f1_score(targets, decided, average="micro"),
         torchs.multilabel_f1_score(*tensors, average="micro")),
        (ours.hamming_loss(decided, targets), theirs.hamming_loss(targets, decided),
         torchs.multilabel_hamming_distance(*tensors, average="micro")),
        (ours.coverage_error(scores, targets), theirs.coverage_error(targets, values),
         torchs.multilabel_coverage_error(*tensors)),
        (ours.label_ranking_loss(scores, targets), theirs.label_ranking_loss(targets, values),
         torchs.multilabel_ranking_loss(*tensors)),
        (ours.label_ranking_average_precision(scores, targets),
         theirs.label_ranking_average_precision_score(targets, values),
         torchs.multilabel_ranking_average_precision(*tensors)),
        (area.macro, theirs.roc_auc_score(targets, values, average="macro"), torchs.multilabel_auroc(*tensors)),
        (area.micro, theirs.roc_auc_score(targets, values, average="micro"),
         torchs.multilabel_auroc(*tensors, average="micro")),
    ]  # fmt: skip
    for mine, of_sklearn, of_torch in triples:
        assert mine == pytest.approx(of_sklearn, abs=1e-9)
        assert mine == pytest.approx(float(of_torch), abs=1e-6)
    assert ours.average_precision(scores, targets) == pytest.approx(
        theirs.average_precision_score(targets, values, average=None)
    )


def test_every_name_of_the_table_is_there() -> None:
    import sklearn.metrics

    from mlbench import metrics

    for line in PAGE.split("## Which is which")[1].split("##")[0].splitlines():
        if line.startswith("| `"):
            here, there, _ = (re.findall(r"`\.?(\w+)[^`=]*?", cell) for cell in line.strip("|").split("|"))
            known = {*dir(metrics), "F1_C_hm", "F1_O", "F1_C_mean", "macro", "micro"}
            assert set(here) <= known, line
            assert {name for name in there if not name.startswith(("average", "probabilities"))} <= set(
                dir(sklearn.metrics)
            )


def test_the_figures_are_those_of_the_benchmark() -> None:
    text = (ROOT / "results" / "benchmarks" / "metrics.md").read_text(encoding="utf-8")
    found = {
        (what.strip(), by.strip()): float(median)
        for what, by, median in re.findall(r"(?m)^\| ([^|]+) \| ([^|]+) \| ([\d.]+)[ |]", text)
    }
    assert json.loads((ROOT / "results" / "benchmarks" / "metrics.json").read_text(encoding="utf-8"))
    whole, times = "40,137 x 80, mAP + both F1-C + F1-O", "40,137 x 80, as many times ours"
    for library in ("torchmetrics", "scikit-learn"):
        seconds, slower = found[whole, library], found[times, library]
        assert f"| {library} | {seconds:.2g} | {slower:.0f} |" in PAGE
    assert f"| mlbench | {found[whole, 'mlbench']:.2g} | 1 |" in PAGE
    assert f"takes {found['125,436 x 5,000, 1,665,260 known', '100% of the labels']:.2g} s" in PAGE
    assert f"over COCO's {found['40,137 x 80, 1000 paired replicates', 'mlbench']:.2g} s" in PAGE
