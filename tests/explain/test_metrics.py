"""The definition lens: what a published number and ours differ by, and how much of it is the definition."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from mlbench.conformance.testing import tiny_dataset
from mlbench.errors import DataError, UsageError
from mlbench.evaluation.predictions import Predictions, write_predictions
from mlbench.evaluation.scoring import score_predictions
from mlbench.explain import metrics as lens_module
from mlbench.explain.metrics import (
    Distance,
    Subject,
    checks,
    choice_rows,
    class_order_change,
    default_definition,
    definition_rows,
    distance,
    explain_metrics,
    printed_number,
)
from mlbench.metrics import PUBLISHED, Definition, Lens, Logits, harmonic_mean, precision_recall_f1
from mlbench.protocol import load_protocol
from mlbench.store.papers import load_published


def drawn(seed: int = 0, rows: int = 60, classes: int = 5) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    targets = random.random((rows, classes)) < 0.4
    return (random.normal(size=(rows, classes)) + targets).astype(np.float32), targets


def subject_of(logits: np.ndarray, targets: np.ndarray, dataset: str = "coco2014-all") -> Subject:
    names = tuple("edcba"[: logits.shape[1]])
    return Subject("title", Lens(Logits(logits), targets, np.ones_like(targets)), Definition(), dataset, names)


def test_the_two_parts_of_a_distance_add_up_to_it():
    subject = subject_of(*drawn())
    found = distance(subject, printed_number("vac/Table 6/WARP [17]", "top3/F1-C", subject.dataset))
    for part, rest in zip(found.definition, reversed(found.remainder), strict=True):
        assert part + rest == pytest.approx(found.published - found.ours)
    assert found.anyhow[0] <= found.under[0] <= found.under[1] <= found.anyhow[1]


def test_a_published_number_of_our_own_predictions_leaves_no_remainder():
    logits, targets = drawn(3)
    subject = subject_of(logits, targets)
    counted = precision_recall_f1(logits >= 0, targets)
    hm = 100 * harmonic_mean(counted.P_C, counted.R_C)
    printed = lens_module.Printed(hm, "F1-C", PUBLISHED["CSRA"], tuple(vars(PUBLISHED["CSRA"])), "")
    found = distance(subject, printed)
    assert found.remainder == pytest.approx((0, 0), abs=1e-9)
    assert found.definition == pytest.approx((hm - 100 * counted.F1_C_mean,) * 2)


def test_vac_s_own_rows_are_of_its_code_and_copied_ones_of_srn_s():
    own = printed_number("vac/Table 6/ResNet101-ACfs", "F1-C", "coco2014-all")
    copied = printed_number("vac/Table 6/ResNet101-SRN [67]", "mAP", "coco2014-all")
    assert (own.value, own.definition) == (72.2, PUBLISHED["VAC"])
    assert (copied.value, copied.definition) == (77.1, PUBLISHED["SRN"])
    assert set(own.known) == set(copied.known) == set(vars(Definition()))


def test_a_source_that_does_not_tell_leaves_a_range():
    printed = printed_number("kd_wsd/MS-COCO/Ours-S-Cls (w/o)", "F1-C", "coco2014")
    assert printed.known == ()
    found = distance(subject_of(*drawn(), dataset="coco2014"), printed)
    assert found.under == pytest.approx(found.anyhow)
    assert "from" in found.text()


def test_every_published_row_can_be_held_against_predictions_of_its_data_set():
    subject = subject_of(*drawn())
    frame = load_published()
    frame = frame[frame["group"].isin(["all", "top3"])]
    frame = frame.drop_duplicates(["paper", "table", "row", "dataset", "definition", "metric", "group"]).sample(
        25, random_state=0
    )
    for row in frame.to_dict("records"):
        metric = f"top3/{row['metric']}" if row["group"] == "top3" else row["metric"]
        name = row["method"] if row["paper"] == "boostlu" else row["row"]  # one printed label there has three rows
        printed = printed_number(f"{row['paper']}/{row['table']}/{name}", metric, row["dataset"])
        found = distance(subject, printed)
        assert printed.value == row["value"]
        assert found.anyhow[0] - 1e-9 <= found.under[0] <= found.under[1] <= found.anyhow[1] + 1e-9


@pytest.mark.parametrize(
    ("address", "metric", "dataset", "message"),
    [
        ("vac/Table 6", "F1-C", "coco2014-all", "expected PAPER/TABLE/ROW"),
        ("vac/Table 9/R50", "F1-C", "wider", "unknown table 'Table 9'"),
        ("vac/Table 1/R51", "F1-C", "wider", "Did you mean 'R50'"),
        ("vac/Table 1/R50", "F1-C", "scenes", "is of wider_attribute, the predictions are of scenes"),
        ("vac/Table 1/R50", "top3/F1-C", "wider", "has none of top3/F1-C"),
    ],
)
def test_a_published_number_that_is_not_there_is_refused(address, metric, dataset, message):
    with pytest.raises(UsageError, match=message):
        printed_number(address, metric, dataset)


def test_the_first_row_is_what_the_record_says_and_each_definition_has_its_own():
    data = tiny_dataset(test=30)
    test = data.splits["test"]
    rows = np.random.default_rng(0).normal(size=test.labels.shape).astype(np.float32)
    predictions = Predictions(rows, "logit", test.ids, (), data.classes)
    protocol = load_protocol("coco_vac")
    recorded, _ = score_predictions(
        predictions, test.labels, test.ids, data.classes, protocol.metrics, protocol.unspecified_for(data.id)
    )
    lens = Lens(Logits(rows), test.labels == 1, np.ones(test.labels.shape, bool))
    subject = Subject("", lens, default_definition(protocol, predictions), "tiny", data.classes)
    ours, *others = definition_rows(subject)
    same = {"mAP": "mAP", "mA": "mA", "F1-C": "F1-C_mean", "P-C": "P-C", "R-O": "R-O", "F1-O": "F1-O"}
    same |= {"top3/F1-C": "top3_thresholded/F1-C_mean", "top3/P-O": "top3_thresholded/P-O"}
    assert {name: ours[name] for name in same} == pytest.approx({n: recorded[r] for n, r in same.items()})
    assert [row["definition"] for row in others] == list(PUBLISHED)
    assert others[3]["F1-C"] == pytest.approx(recorded["F1-C_hm"])


def test_the_defaults_follow_the_columns_of_the_protocol_s_table():
    scores = np.zeros((1, 1), np.float32)
    logits = Predictions(scores, "logit", ("a",), (), ("c",))
    decided = Predictions(scores, "rank", ("a",), (), ("c",), np.ones((1, 1), bool), "best")
    assert default_definition(load_protocol("coco_vac"), logits) == Definition()
    assert default_definition(load_protocol("full"), logits) == Definition(empty_ap="zero")
    assert default_definition(load_protocol("full"), decided) == Definition(
        empty_ap="zero", decision="own", top="strict"
    )


def test_one_choice_at_a_time_changes_only_metrics_that_depend_on_it():
    subject = subject_of(*drawn())
    rows = choice_rows(subject)
    by = {(row["axis"], row["choice"]): row for row in rows}
    assert set(by["ap", "envelope"]) == {"axis", "choice", "used by", "mAP"}
    assert by["ap", "envelope"]["mAP"] >= by["ap", "step"]["mAP"]
    assert by["f1_c", "hm"]["used by"] == "MLGCN, CSRA, WARP, CNN-RNN"
    assert by["f1_c", "mean"]["used by"].startswith("mlbench, VAC")
    assert sum("mlbench" in row["used by"] for row in rows) == len({row["axis"] for row in rows})


def test_the_order_of_the_classes_shows_only_in_ties_at_the_edge_of_the_top_k():
    logits, targets = drawn()
    assert class_order_change(subject_of(logits, targets)) == (pytest.approx(0, abs=1e-9), 0)
    tied = np.ones((2, 5), np.float32)
    change, samples = class_order_change(subject_of(tied, np.array([[True] * 3 + [False] * 2] * 2)))
    assert samples == 2
    assert change > 10


def test_what_could_differ_is_counted():
    logits = np.array([[0.0, 1.0, -1.0], [1e-9, -1.0, -2.0]], np.float32)
    targets = np.array([[False, False, False], [True, False, False]])
    lines = checks(subject_of(logits, targets))
    assert lines[:4] == [
        "2 of 3 classes have no positive",
        "1 of 2 samples have no positive label",
        "1 classes are never predicted at p > 0.5",
        "1 entries have p = 0.5 exactly",
    ]
    assert lines[4].startswith("1 entries with p > 0.5 in float32 unlike logit > 0")


def test_an_undefined_number_has_no_distance():
    logits, targets = drawn()
    targets[:, 0] = False
    subject = subject_of(logits, targets)
    printed = printed_number("vac/Table 6/ResNet101-SRN [67]", "mAP", "coco2014-all")
    found = distance(subject, printed)
    assert math.isnan(found.under[0])
    assert "undefined here" in found.text()


def test_the_text_of_a_distance():
    text = Distance(77.4, 70.0, (71.0, 72.0), (65.0, 75.0)).text()
    assert "distance +7.40 = definition from +1.00 to +2.00 and remainder from +5.40 to +6.40" in text
    assert "from -5.00 to +5.00" in text


@pytest.fixture
def prediction_file(tmp_path, monkeypatch):
    data = tiny_dataset(test=20)
    monkeypatch.setattr(lens_module, "load_dataset", lambda *given: data)
    test = data.splits["test"]

    def write(split: str = "test") -> str:
        scores = np.random.default_rng(1).normal(size=test.labels.shape).astype(np.float32)
        meta = {"key": "k", "dataset": "tiny", "split": split, "epoch": "1"}
        write_predictions(
            tmp_path / "p.safetensors", Predictions(scores, "logit", test.ids, (), data.classes, meta=meta)
        )
        return str(tmp_path / "p.safetensors")

    return write


def test_a_predictions_file_alone_is_enough(prediction_file):
    text = explain_metrics(prediction_file(), protocol="coco_vac", value=50.0, metric="F1-C", definition="MLGCN")
    assert "p.safetensors: test part of tiny (20 samples, 4 classes), protocol coco_vac, percent" in text
    assert all(f"| {name} " in text for name in ("mlbench", *PUBLISHED))
    assert text.splitlines()[-1].startswith("published 50.00, ours ")


def test_predictions_of_another_part_are_refused(prediction_file):
    with pytest.raises(UsageError, match="of part 'val', expected those of 'test'"):
        explain_metrics(prediction_file("val"))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"value": 50.0}, "--metric goes with"),
        ({"metric": "F1-C"}, "--metric goes with"),
        ({"value": 50.0, "published": "a/b/c", "metric": "F1-C"}, "expected one of them"),
        ({"value": 0.774, "metric": "F1-X"}, "unknown metric 'F1-X'"),
        ({"value": 774.0, "metric": "F1-C"}, "percentage from 0 to 100"),
        ({"value": 50.0, "metric": "F1-C", "definition": "VAK"}, "Did you mean 'VAC'"),
        ({"definition": "VAC"}, "which is missing"),
    ],
)
def test_wrong_use_is_refused(prediction_file, given, message):
    with pytest.raises(UsageError, match=message):
        explain_metrics(prediction_file(), **given)


def test_a_run_on_other_data_is_refused(monkeypatch, prediction_file, tmp_path):
    path = prediction_file()
    record = {
        "key": "k" * 16,
        "identity": {
            "harness": 2,
            "dataset": {"id": "tiny", "fingerprint": "other"},
            "protocol": "full",
            "method": {"name": "an"},
        },
        "predictions": {"test": {"file": "p.safetensors", "sha256": None}},
    }
    monkeypatch.setattr(lens_module, "find_run", lambda *given: record)
    monkeypatch.setattr(lens_module, "scores_file", lambda *given: path)
    with pytest.raises(DataError, match="fingerprints differ"):
        lens_module.load_subject("kkk", dataset="any.toml")
    assert path


def test_two_printed_numbers_under_one_address_are_told(monkeypatch):
    row = load_published("vac").query("row == 'R50' and metric == 'mAP' and table == 'Table 1'")
    twice = pd.concat([row, row.assign(backbone="vgg16")])
    monkeypatch.setattr(lens_module, "load_published", lambda paper: twice)
    with pytest.raises(UsageError, match=r"has 2 \(R50, wbce, resnet50; R50, wbce, vgg16\) of mAP"):
        printed_number("vac/Table 1/R50", "mAP", "wider")


def test_a_top_k_other_than_three_has_no_published_number():
    with pytest.raises(UsageError, match="counts top5"):
        printed_number("vac/Table 6/WARP [17]", "top5/F1-C", "coco2014-all", k=5)


def test_the_command_scores_a_run_as_its_record_does(train, mlbench, monkeypatch, tmp_path):
    record = train("an")
    monkeypatch.setattr(lens_module, "load_dataset", lambda *given: tiny_dataset())
    given = ("explain", "metrics", record["key"][:12], "--store", tmp_path / "runs", "--dataset", "any.toml")
    code, out, err = mlbench(*given, "--value", "60", "--metric", "mAP")
    assert code == 0, err
    header, _, ours, *_ = (line.split("|") for line in out.splitlines() if line.startswith("|"))
    cells = dict(zip((name.strip() for name in header), (value.strip() for value in ours), strict=True))
    assert cells["mAP"] == f"{record['results']['test']['mAP']:.2f}"
    assert cells["F1-C"] == f"{record['results']['test']['F1-C_mean']:.2f}"
    assert out.splitlines()[-1].startswith("published 60.00, ours ")
    code, _, err = mlbench(*given, "--value", "60")
    assert code == 2
    assert "--metric goes with" in err
