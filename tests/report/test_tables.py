from __future__ import annotations

import csv
import io
import re
import statistics

import pytest

from mlbench.errors import DataError, UsageError
from mlbench.protocol import load_protocol
from mlbench.report.tables import METHOD_ORDER, build_table
from mlbench.store.papers import load_published

COCO = {"identity__dataset__id": "coco2014"}


def grid(table) -> dict[str, list[str]]:
    """Markdown rows as text by method."""
    lines = [line for line in table.to_markdown().splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    return {row[0]: row[1:] for row in rows[:1] + rows[2:]}


def test_a_cell_is_mean_and_sample_deviation_with_the_number_of_runs(make_record):
    values = [60.0, 61.0, 63.5]
    table = build_table([make_record("an", v, i) for i, v in enumerate(values)])
    mean, deviation = statistics.mean(values), statistics.stdev(values)
    assert grid(table)["an"][0] == f"**{mean:.1f} ± {deviation:.1f} (3)**"
    assert table.cells["sd"].iloc[0] == pytest.approx(deviation)


def test_one_run_shows_no_deviation(make_record):
    assert grid(build_table([make_record("an", 60.04)]))["an"] == ["**60.0 (1)**"]


def test_digits_change_our_numbers_only(make_record):
    table = build_table([make_record("an", 60.0, **COCO)], digits=3)
    ours, published = grid(table)["an"]
    assert ours == "**60.000 (1)**"
    assert published.startswith("64.92")


def test_missing_cells_are_dashes(make_record):
    records = [make_record("an", 60.0), make_record("llr", 61.0, identity__dataset__id="corel5k-199")]
    rows = grid(build_table(records))
    assert rows["an"][0] == "—"
    assert rows["llr"][1] == "—"
    assert rows["an"][1].startswith("**60.0")


def test_an_undefined_value_is_neither_averaged_nor_hidden(make_record):
    table = build_table([make_record("an", 60.0, 0), make_record("an", None, 1), make_record("ls", 50.0)])
    assert grid(table)["an"][0].startswith("undefined")
    assert "undefined in 1 of 2 runs" in table.to_markdown()
    assert grid(table)["ls"][0].startswith("**50.0")


def test_methods_stand_in_the_papers_order_or_as_asked(make_record):
    records = [make_record(m) for m in ("zebra", "llr", "full", "an", "aardvark")]
    assert list(grid(build_table(records)))[1:] == ["full", "an", "llr", "aardvark", "zebra"]
    asked = build_table(records, methods=["llr", "full", "role"])
    assert list(grid(asked))[1:] == ["llr", "full", "role"]
    assert grid(asked)["role"] == ["—"]


def test_every_published_method_has_a_place_in_the_order():
    assert set(load_published()["method"]) <= set(METHOD_ORDER)
    assert len(set(METHOD_ORDER)) == len(METHOD_ORDER)


def test_the_best_of_the_observed_methods_is_bold_and_the_full_reference_never(make_record):
    table = build_table([make_record("full", 90.0), make_record("an", 60.04), make_record("ls", 60.01)])
    rows = grid(table)
    assert rows["full"][0] == "90.0 (1)<sup>b</sup>"
    assert "<sup>b</sup> supervision: full" in table.to_markdown()
    assert rows["an"][0] == "**60.0 (1)**" == rows["ls"][0]  # the same as shown
    assert r"\textbf{60.0 (1)}" in table.to_latex()
    assert r"\textbf{90.0" not in table.to_latex()


def test_a_hundred_beats_ninety_nine(make_record):
    rows = grid(build_table([make_record("an", 99.0), make_record("ls", 100.0)]))
    assert rows["ls"][0].startswith("**")
    assert not rows["an"][0].startswith("**")


def test_published_values_stand_beside_ours_as_printed_with_their_source(make_record):
    table = build_table([make_record("an", 60.0, **COCO), make_record("llr_boostlu", 61.0, **COCO)])
    rows, text = grid(table), table.to_markdown()
    assert rows["method"] == ["coco2014<sup>a</sup>", "coco2014 published"]
    plain = {m: re.sub(r"<sup>\w+</sup>", "", r[1]) for m, r in rows.items()}
    assert plain["an"] == "64.92 / 64.58"
    assert plain["llr_boostlu"] == "72.89 / 72.82"
    assert "copied from the EM/APL benchmark" in text
    assert "published in boostlu, single positive label setting: mAP step, resnet50" in text


def test_published_values_need_the_same_protocol_and_metric(make_record):
    other = {**COCO, "identity__protocol": "partial"}
    assert grid(build_table([make_record("an", 60.0, **other)]))["method"] == ["coco2014<sup>a</sup>"]
    assert len(grid(build_table([make_record("an", 60.0, **COCO)], metric="F1-C_mean"))["method"]) == 1
    assert len(grid(build_table([make_record("an", 60.0, **COCO)], published=False))["method"]) == 1


def test_top3_metrics_meet_the_published_top3_block_and_a_repeated_number_stands_once(make_record):
    vac = {**COCO, "identity__protocol": "coco_vac"}
    table = build_table([make_record("warp", 60.0, **vac)], metric="top3_thresholded/F1-O")
    assert grid(table)["warp"][1].startswith("60.7")
    assert "micro+top3\\_strict" in table.to_markdown() or "micro+top3_strict" in table.to_markdown()
    wider = {"identity__dataset__id": "wider_attribute", "identity__protocol": "wider_attribute"}
    published = grid(build_table([make_record("vac_f", 60.0, **wider)]))["vac_f"][1]
    assert re.sub(r"<sup>\w+</sup>", "", published) == "86.3 / 87.1"
    conflict = build_table([make_record("vac_f", 60.0, **wider)], metric="F1-C_mean")
    assert re.sub(r"<sup>\w+</sup>", "", grid(conflict)["vac_f"][1]) == "76.4 / 77.4 / 77.3"


@pytest.mark.parametrize(
    ("field", "column", "value"),
    [
        ("identity__dataset__version", "dataset.version", "2"),
        ("identity__dataset__fingerprint", "dataset.fingerprint", "e" * 64),
        ("identity__protocol", "protocol", "other"),
        ("identity__protocol_sha256", "protocol_sha256", "b" * 64),
        ("identity__backbone__weights", "backbone.weights", "c" * 64),
        ("identity__harness", "harness", 2),
        ("identity__precision", "precision", "bf16"),
        ("identity__selection", "selection", "last"),
        ("identity__mask__process", "mask.process", "partial"),
        ("identity__mask__params__keep", "mask.params.keep", 0.1),
        ("identity__split__validation", "split.validation", "official"),
        ("identity__something_new", "something_new", "x"),
        ("definitions__ap", "definitions.ap", "envelope"),
        ("definitions__unspecified__ap", "definitions.unspecified.ap", "negative"),
    ],
)
def test_a_column_of_runs_that_cannot_be_compared_is_refused(make_record, field, column, value):
    records = [make_record("an"), make_record("ls", **{field: value})]
    with pytest.raises(UsageError) as error:
        build_table(records)
    text = str(error.value)
    assert "column 'scenes'" in text
    assert f"{column}:" in text
    assert str(value) in text
    assert records[0]["key"][:16] in text
    assert records[1]["key"][:16] in text
    assert "\n" not in text
    assert build_table(records, where={column: value}).cells["method"].tolist() == ["ls"]


def test_the_option_named_by_a_refusal_separates_the_runs(make_record):
    records = [make_record("an"), make_record("ls", identity__protocol="other")]
    with pytest.raises(UsageError, match=r"Keep one kind with --where protocol=single_positive$"):
        build_table(records)
    assert build_table(records, where={"protocol": "other"}).cells["method"].tolist() == ["ls"]


@pytest.mark.parametrize(
    ("field", "value", "other"),
    [
        ("identity__track", "head", "scenes, head, {backbone}"),
        ("identity__backbone__name", "resnet50", "scenes, full, resnet50"),
    ],
)
def test_runs_of_two_tracks_or_backbones_stand_in_columns_of_their_own(make_record, field, value, other):
    records = [
        make_record("an", 80.0),
        make_record("an", 90.0, repetition=1, **{field: value}),
        make_record("ls", 70.0),
    ]
    table = build_table(records, published=False)
    backbone = records[0]["identity"]["backbone"]["name"]
    titles = [cell[0].text for cell in table.header[1:]]
    assert sorted(titles) == sorted([f"scenes, full, {backbone}", other.format(backbone=backbone)])
    means = {
        title: {row[0][0].text: row[i][0].text for row in table.body if row[i]}
        for i, title in enumerate(titles, start=1)
    }
    assert means[other.format(backbone=backbone)] == {"an": "90.0 (1)"}
    assert means[f"scenes, full, {backbone}"] == {"an": "80.0 (1)", "ls": "70.0 (1)"}
    chosen = build_table(records, published=False, where={field.removeprefix("identity__").replace("__", "."): value})
    assert [cell[0].text for cell in chosen.header[1:]] == ["scenes"]


CSRA = {"name": "csra", "version": 1, "hyperparameters": {"blocks": 1}}


def test_a_head_that_was_chosen_makes_a_column_and_one_that_a_method_brings_does_not(make_record):
    records = [make_record("an", 80.0), make_record("an", 90.0, identity__head=CSRA)]
    table = build_table(records, published=False)
    assert sorted(cell[0].text for cell in table.header[1:]) == ["scenes, full, scenes", "scenes, full, scenes, csra"]
    chosen = build_table(records, published=False, where={"head.name": "csra"})
    assert [row[1][0].text for row in chosen.body] == ["90.0 (1)"]
    own = make_record("lac", 70.0, identity__head=CSRA, identity__method__head="csra")
    beside = build_table([records[0], own], published=False)
    assert [cell[0].text for cell in beside.header[1:]] == ["scenes"]
    assert {row[0][0].text: row[1][0].text for row in beside.body} == {"an": "80.0 (1)", "lac": "70.0 (1)"}


def test_two_settings_of_a_head_are_no_one_column(make_record):
    other = {**CSRA, "hyperparameters": {"blocks": 2}}
    records = [make_record("an", 80.0, identity__head=CSRA), make_record("ls", 90.0, identity__head=other)]
    with pytest.raises(UsageError, match=r"head\.hyperparameters\.blocks"):
        build_table(records, published=False)


def test_two_data_sets_may_differ_in_track_and_say_so(make_record):
    records = [make_record("an"), make_record("an", identity__dataset__id="ccp", identity__track="head")]
    text = build_table(records).to_markdown()
    assert "track full" in text
    assert "track head" in text


@pytest.mark.parametrize(
    ("field", "column", "value"),
    [
        ("identity__method__hyperparameters__delta", "method.hyperparameters.delta", 0.2),
        ("identity__method__version", "method.version", 2),
        ("identity__train__epochs", "train.epochs", 20),
        ("identity__inputs__proposals__count", "inputs.proposals.count", 32),
    ],
)
def test_a_cell_of_other_than_repetitions_is_refused(make_record, field, column, value):
    records = [make_record("llr", repetition=0), make_record("llr", repetition=1, **{field: value})]
    with pytest.raises(UsageError, match=f"method 'llr' on 'scenes'.*{re.escape(column)}"):
        build_table(records)


def test_selecting_one_hyperparameter_keeps_the_methods_that_have_none(make_record):
    delta = "identity__method__hyperparameters__delta"
    records = [make_record("llr", **{delta: 0.2}), make_record("llr", repetition=1, **{delta: 0.5}), make_record("an")]
    table = build_table(records, where={"method.hyperparameters.delta": 0.5})
    assert table.cells[["method", "repetitions"]].values.tolist() == [["an", "0"], ["llr", "1"]]


def test_shares_of_labels_are_tabulated_one_at_a_time_and_the_column_says_which(make_record):
    keep = "identity__mask__params__keep"
    partial = {"identity__protocol": "partial", "identity__mask__process": "partial"}
    # Other repetitions, and oracle negatives: nothing but the share itself keeps these runs apart.
    oracle = {"identity__method__supervision": ["oracle_negatives"]}
    records = [make_record("an", 60.0, r, **partial, **{keep: 0.1}) for r in (0, 1)]
    for method, change in (("iu", {}), ("iun", oracle)):
        mixed = [*records, make_record(method, 80.0, 2, **partial, **change, **{keep: 0.9})]
        with pytest.raises(
            UsageError, match=r"column 'scenes' mixes .*keep: 0\.1 .*0\.9.*--where mask\.params\.keep=0\.1$"
        ):
            build_table(mixed)
        text = build_table(mixed, where={"mask.params.keep": 0.9}).to_markdown()
        assert "annotation partial, keep 0.9" in text
        assert "fp32" in text


def test_a_mask_of_another_process_never_stands_under_the_protocol_unsaid(make_record):
    own = {**COCO, "identity__protocol_sha256": load_protocol("single_positive").sha256, "identity__mask__params": {}}
    shown = {**own, "identity__mask__process": "full"}
    with pytest.raises(UsageError, match=r"mask\.process: single_positive .*full.*--where mask\.process="):
        build_table([make_record("an", **own), make_record("llr", repetition=1, **shown)])
    table = build_table([make_record("an", **shown)])
    assert "annotation full (not as the protocol is written)" in table.to_markdown()
    assert grid(table)["method"] == ["coco2014<sup>a</sup>"]  # no published number beside it
    assert grid(build_table([make_record("an", **own)]))["method"][1] == "coco2014 published"


def test_a_method_that_sees_no_mask_counts_one_run_a_seed(make_record):
    records = [
        make_record("full", 80.0 + s, s, identity__mask_seed=m, identity__mask__seed=m)
        for s in (0, 1)
        for m in (0, 1, 2)
    ]
    table = build_table([*records, *(make_record("an", 60.0 + s, s) for s in (0, 1))])
    assert grid(table)["full"][0].startswith("80.5 ± 0.7 (2)")
    text = table.to_markdown()
    assert "sees no mask: its 6 runs count as one for each repetition" in text
    assert "Runs: 4; repetitions 0 1 that see no mask; repetitions 0 1 with mask seeds 0 1" in text
    assert table.cells.set_index("method")["mask_seeds"].to_dict() == {"full": "", "an": "0 1"}


def test_one_mask_given_under_two_seeds_is_no_two_draws(make_record):
    records = [make_record("an", repetition=r, identity__mask__sha256="d" * 64) for r in (0, 1)]
    with pytest.raises(UsageError, match="column 'scenes': mask seeds 0 and 1 are one and the same mask"):
        build_table(records)


def test_methods_may_differ_in_epochs_from_each_other(make_record):
    table = build_table([make_record("an"), make_record("ls", identity__train__epochs=20)])
    assert len(table.cells) == 2


def test_several_runs_of_one_repetition_and_mask_seed_are_refused(make_record):
    records = [make_record("an"), make_record("an", identity__mask__sha256="d" * 64)]
    with pytest.raises(UsageError, match=r"mask\.sha256|several runs"):
        build_table(records)
    with pytest.raises(UsageError, match="given twice"):
        build_table([make_record("an"), make_record("an")])


def test_methods_that_saw_other_masks_under_one_seed_are_refused_but_full_labels_are_not(make_record):
    with pytest.raises(UsageError, match=r"mask seed 0 mixes.*mask\.sha256"):
        build_table([make_record("an"), make_record("ls", identity__mask__sha256="d" * 64)])
    build_table([make_record("an"), make_record("full", identity__mask__sha256="d" * 64)])


def test_runs_that_build_on_differently_trained_runs_are_refused(make_record):
    base = [make_record("an", repetition=r, identity__train__epochs=12 + r) for r in (0, 1)]
    built = [
        make_record("an_boostlu_inference", repetition=r, identity__uses={"trained": base[r]["key"]}) for r in (0, 1)
    ]
    with pytest.raises(UsageError, match=r"'an_boostlu_inference' on 'scenes'.*different settings"):
        build_table([*base, *built], methods=["an_boostlu_inference"])
    same = [make_record("an", repetition=r) for r in (0, 1)]
    built = [
        make_record("an_boostlu_inference", repetition=r, identity__uses={"trained": same[r]["key"]}) for r in (0, 1)
    ]
    assert build_table([*same, *built]).cells["n"].tolist() == [2, 2]
    assert "not among the records" in build_table(built).to_markdown()


def test_wrong_names_are_named_with_the_nearest_right_one(make_record):
    records = [make_record("an")]
    with pytest.raises(UsageError, match=r"unknown metric 'mAPP'.*Did you mean 'mAP'"):
        build_table(records, metric="mAPP")
    with pytest.raises(UsageError, match=r"unknown method 'llrr'.*'llr'"):
        build_table(records, methods=["llrr"])
    with pytest.raises(UsageError, match=r"unknown data set 'scens'.*'scenes'"):
        build_table(records, datasets=["scens"])
    with pytest.raises(UsageError, match=r"unknown key 'trak'.*'track'"):
        build_table(records, where={"trak": "head"})
    with pytest.raises(UsageError, match=r"--where track=head: no run has it\. Values of 'track' here: full"):
        build_table(records, where={"track": "head"})
    with pytest.raises(UsageError, match="no run record"):
        build_table([])
    with pytest.raises(UsageError, match="no run record of"):
        build_table(records, methods=["llr"])


def test_a_record_without_a_part_is_named(make_record):
    record = make_record("an")
    del record["identity"]["track"]
    with pytest.raises(DataError, match=record["key"][:16] + ".*identity.track"):
        build_table([record])
    with pytest.raises(DataError, match=r"number 1.*'key'"):
        build_table([{}])


def test_csv_holds_unrounded_numbers_and_what_they_were_measured_on(make_record):
    records = [make_record("an", 60.123456, **COCO), make_record("an", 61.0, 1, **COCO)]
    (row,) = csv.DictReader(io.StringIO(build_table(records).to_csv()))
    assert float(row["mean"]) == pytest.approx((60.123456 + 61.0) / 2, abs=1e-12)
    assert (row["n"], row["track"], row["dataset_version"]) == ("2", "full", "1")
    assert row["dataset_fingerprint"] == "f" * 64
    assert row["published"] == "64.92 / 64.58"
    assert row["repetitions"] == "0 1"


def test_the_footer_tells_runs_seeds_and_unequal_cells(make_record):
    text = build_table([make_record("an", 60.0, r) for r in (0, 1)]).to_markdown()
    assert "Runs: 2; repetitions 0 1 with mask seeds 0 1." in text
    assert "ddof 1" in text
    text = build_table([make_record("an", 60.0, 0), make_record("an", 60.0, 1), make_record("ls")]).to_markdown()
    assert "not the same in all cells" in text


def test_markdown_survives_nasty_names(make_record):
    table = build_table([make_record("a|b*c`d_e_<x>&lt;", 60.0)])
    line = next(line for line in table.to_markdown().splitlines() if "60.0" in line)
    assert len(re.split(r"(?<!\\)\|", line)) == 4
    assert r"a\|b\*c\`d_e\_\<x\>\&lt;" in line
