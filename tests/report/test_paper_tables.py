"""The papers' own tables: nothing printed is lost, and ours stand beside it under the same definition."""

from __future__ import annotations

import io
import re
import shutil
import subprocess
from html.parser import HTMLParser
from importlib.metadata import entry_points

import pandas as pd
import pytest

from mlbench.datasets import list_datasets
from mlbench.errors import UsageError
from mlbench.protocol import load_protocol
from mlbench.report import paper_tables as module
from mlbench.report.board import render
from mlbench.report.paper_tables import load_layouts, our_metric, paper_tables
from mlbench.report.render import Table
from mlbench.store.papers import load_published


@pytest.fixture(scope="module")
def every() -> list[Table]:
    return paper_tables([], "all")


@pytest.fixture(name="run")
def single_positive_run(make_record):
    """Return a function: a record on VOC in BoostLU's setting."""

    def make(method: str, value: float | None, repetition: int = 0, data: str = "voc2012", **changes):
        changes = {"identity__dataset__id": data, "identity__backbone__name": "resnet50"} | changes
        return make_record(method, value, repetition, **changes)

    return make


def lines_of(table, row: int) -> tuple[list[str], list[str]]:
    """What is printed and what is ours in a row (from 0), the columns of values only."""
    shown = [[" / ".join(p.text for p in cell) for cell in line[table.stubs :]] for line in table.body]
    return shown[2 * row], shown[2 * row + 1]


def one(records, paper: str = "boostlu", table: str = "single_positive", **given):
    (found,) = paper_tables(records, paper, table, **given)
    return found


def row_of(table, method: str) -> int:
    keys = [line[table.stubs - 1][0].text for line in table.body[::2]]
    return keys.index(method)


def test_every_printed_number_stands_once_in_its_table_as_printed(every):
    published = load_published()
    assert {(x.paper, x.printed) for x in load_layouts()} == set(
        zip(published["paper"], published["table"], strict=True)
    )
    for layout, table in zip(load_layouts(), every, strict=True):
        printed = published[(published["paper"] == layout.paper) & (published["table"] == layout.printed)]
        values = [p for line in table.body[::2] for cell in line[table.stubs :] for p in cell if p.text != "-"]
        assert [p.text for p in values] == list(printed["printed"])  # rows and columns in the order of the file
        assert [("bold" if p.bold else "underlined" if p.underlined else "") for p in values] == list(printed["bold"])


def test_every_printed_row_is_there_with_its_method_and_a_line_for_our_runs(every):
    published = load_published()
    for layout, table in zip(load_layouts(), every, strict=True):
        printed = published[(published["paper"] == layout.paper) & (published["table"] == layout.printed)]
        rows = printed[["row", "method", "backbone"]].drop_duplicates()
        assert [line[table.stubs - 1][0].text for line in table.body[::2]] == list(rows["method"])
        assert {line[0][0].text for line in table.body[1::2]} == {"– reproduced"}
        assert {p.text for line in table.body[1::2] for cell in line[table.stubs :] for p in cell} == {"-"}
        stubs = ["".join(p.text for cell in line[: table.stubs - 1] for p in cell) for line in table.body[::2]]
        if not layout.printed.startswith("scenario"):
            assert all(label.endswith(name) for label, name in zip(stubs, rows["row"], strict=True))


def test_layouts_name_our_data_sets_protocols_and_metrics():
    for layout in load_layouts():
        assert {column.data for column in layout.columns} <= set(list_datasets())
        assert all(column.data in load_protocol(column.protocol).table.datasets for column in layout.columns)
        assert max(layout.rules, default=0) <= len(layout.rows or range(99))
        versions = set(load_published(layout.paper)["dataset_version"])
        assert all(set(column.images) <= versions for column in layout.columns)


def test_a_cell_of_ours_has_mean_deviation_runs_and_difference(run):
    table = one([run("llr", v, i) for i, v in enumerate((88.0, 88.5, 89.0))])
    printed, ours = lines_of(table, row_of(table, "llr"))
    assert printed == ["88.27", "70.70", "48.76", "19.56"]
    assert ours == ["88.50 ± 0.50 (3), Δ +0.23", "-", "-", "-"]
    cell = table.cells[(table.cells["method"] == "llr") & (table.cells["dataset"] == "voc2012")].iloc[0]
    assert cell["difference"] == pytest.approx(0.23)
    assert (cell["published"], cell["published_definition"]) == ("88.27", "step")


def test_seeds_by_masks_are_told_and_their_deviations_stand_apart_in_the_csv(run):
    records = [
        run("an", 80.0 + seed + 10 * mask, seed, identity__mask_seed=mask, identity__mask__seed=mask)
        for seed in (0, 2)
        for mask in (0, 1)
    ]
    table = one(records)
    _, ours = lines_of(table, row_of(table, "an"))
    assert ours[0].startswith("86.00 ± 5.89 (2×2), Δ +0.11")
    cells = pd.read_csv(io.StringIO(render([table], "csv")))
    cell = cells[(cells["method"] == "an") & (cells["dataset"] == "voc2012")].iloc[0]
    assert (cell["over_seeds"], cell["over_masks"]) == pytest.approx((2**0.5, 50**0.5))


def test_one_run_shows_no_deviation_and_an_undefined_value_is_not_hidden(run):
    table = one([run("an", 85.0), run("llr", None)])
    assert lines_of(table, row_of(table, "an"))[1][0] == "85.00 (1), Δ −0.89"
    assert lines_of(table, row_of(table, "llr"))[1][0] == "undefined"
    assert "undefined in 1 of 1 runs" in table.to_markdown()


def test_other_images_than_the_printed_ones_have_no_difference(run):
    table = one([run(m, 45.0, data="nuswide-spml") for m in ("an", "llr")])
    assert lines_of(table, row_of(table, "an"))[1][2] == "45.00 (1)"  # printed on the official version
    assert lines_of(table, row_of(table, "llr"))[1][2] == "45.00 (1), Δ −3.76"
    assert "images or definition known to differ" in table.to_markdown()


@pytest.mark.parametrize(
    ("definition", "column", "expected"),
    [
        ("step", "mAP", ("mAP", True)),
        ("envelope", "mAP", ("mAP_envelope", True)),
        ("undecidable", "mAP", ("mAP", True)),
        ("undecidable", "mAP_G1", ("mAP_G1", True)),
        ("hm", "F1-C_mean", ("F1-C_hm", True)),
        ("hm+top3_strict", "top3_thresholded/F1-C_mean", ("top3_strict/F1-C_hm", True)),
        ("undecidable+top3_undecidable", "top3_thresholded/F1-C_mean", ("top3_thresholded/F1-C_mean", True)),
        ("hm+top3_path", "top3_thresholded/F1-C_mean", ("top3_thresholded/F1-C_hm", False)),
        ("hm_image+top3_strict", "top3_thresholded/F1-O", ("top3_strict/F1-O", False)),
    ],
)
def test_ours_is_scored_by_the_printed_definition(definition, column, expected):
    assert our_metric(definition, module.Column("", "", column)) == expected


def test_every_metric_of_ours_is_one_that_records_have(make_record):
    import json
    from pathlib import Path

    record = next((Path(__file__).parents[2] / "results" / "runs").glob("*.json"))
    known = {*json.loads(record.read_text())["results"]["test"], *(f"mAP_G{i}" for i in range(1, 6))}
    published = load_published()
    for layout in load_layouts():
        printed = published[(published["paper"] == layout.paper) & (published["table"] == layout.printed)]
        for column in layout.columns:
            definitions = printed[(printed["metric"] == column.metric) & (printed["group"] == column.group)][
                "definition"
            ]
            assert len(definitions)
            assert {our_metric(definition, column)[0] for definition in definitions} <= known


def test_bold_is_the_whole_first_tie_group_and_underlined_the_second(run):
    noise = [0.0, 0.5, -0.5, 0.2]
    records = [run("llr", 88.0 + n, i) for i, n in enumerate(noise)]
    records += [run("llct", 88.1 - n, i) for i, n in enumerate(noise)]  # not told apart from llr
    records += [run("an", 70.0 + n, i) for i, n in enumerate(noise)]
    records += [run("full", 99.0 + n, i) for i, n in enumerate(noise)]  # other supervision: never ranked with them
    table = one(records)

    def style(method: str) -> tuple[bool, bool]:
        (part,) = table.body[2 * row_of(table, method) + 1][table.stubs]
        return part.bold, part.underlined

    assert style("llr") == style("llct") == (True, False)
    assert style("an") == (False, True)
    assert style("full") == (False, False)


def test_single_runs_and_runs_of_other_backbones_or_definitions_are_not_ranked_together(run):
    single = one([run("llr", 88.0), run("an", 80.0)])
    assert not any(part.bold for line in single.body[1::2] for cell in line for part in cell)
    noise = [0.0, 0.5, -0.5]
    records = [run("llr", 88.0 + n, i) for i, n in enumerate(noise)]
    records += [run("an", 70.0 + n, i, identity__backbone__name="resnet101") for i, n in enumerate(noise)]
    apart = one(records)
    assert not any(part.bold or part.underlined for line in apart.body[1::2] for cell in line for part in cell)
    changed = {"definitions__ap": "envelope"}
    records = records[:3] + [run("an", 70.0 + n, i, **changed) for i, n in enumerate(noise)]
    assert one(records).cells.get("tie_group", pd.Series(dtype=float)).isna().all()


def test_a_definition_that_older_records_do_not_have_is_the_same_as_null(run):
    noise = [0.0, 0.5, -0.5]
    records = [run("llr", 88.0 + n, i, definitions__groups=None) for i, n in enumerate(noise)]
    records += [run("an", 70.0 + n, i) for i, n in enumerate(noise)]
    cells = one(records).cells
    assert cells[cells["n"] > 0].set_index("method")["tie_group"].to_dict() == {"llr": 1, "an": 2}


def test_a_row_takes_runs_of_its_own_backbone_where_a_method_stands_twice(make_record):
    wider = {
        "identity__protocol": "wider_attribute",
        "identity__dataset__id": "wider",
        "results__test__mAP_envelope": 90.0,
    }
    records = [
        make_record("wbce", 80.0, identity__backbone__name="resnet50", **wider),
        make_record("wbce", 81.0, identity__backbone__name="resnet101", **wider),
    ]
    table = one(records, "vac", "Table 1")
    means = table.cells[(table.cells["method"] == "wbce") & (table.cells["published_metric"] == "mAP")]
    assert list(means["mean"]) == [80.0, 81.0]
    assert lines_of(table, 0)[1][0] == "80.0 (1), Δ −3.4"


def test_runs_on_a_network_of_no_row_stand_on_other_data_in_the_first(make_record):
    def on(backbone: str, data: str, mean: float):
        return make_record(
            "wbce",
            mean,
            identity__protocol="full" if data == "scenes" else "wider_attribute",
            identity__dataset__id=data,
            identity__backbone__name=backbone,
        )

    records = [on("scenes", "scenes", 60.0), on("scenes", "wider", 61.0)]
    table = one(records, "vac", "Table 1", datasets=["scenes"])
    cells = table.cells[(table.cells["method"] == "wbce") & (table.cells["n"] > 0)]
    assert set(cells["dataset"]) == {"scenes"}
    assert list(cells[cells["metric"] == "mAP"]["row"]) == ["R50"]
    on_the_other = one([on("resnet101", "scenes", 62.0)], "vac", "Table 1", datasets=["scenes"])
    cells = on_the_other.cells[(on_the_other.cells["metric"] == "mAP") & (on_the_other.cells["n"] > 0)]
    assert list(cells["row"]) == ["R101"]


def test_runs_of_two_kinds_in_one_cell_are_refused_and_can_be_chosen_from(run):
    records = [run("an", 85.0, 0), run("an", 86.0, 1, identity__track="head")]
    with pytest.raises(UsageError, match="mixes runs that differ in track"):
        one(records)
    assert lines_of(one(records, where={"track": "head"}), 1)[1][0] == "86.00 (1), Δ +0.11"


def test_further_data_sets_stand_to_the_right_without_difference(run):
    table = one([run("an", 33.0, data="corel5k-199")], datasets=["corel5k-199"])
    assert table.over[-1] == ("corel5k-199 (not in the paper)", 1)
    assert lines_of(table, row_of(table, "an"))[1] == ["-", "-", "-", "-", "33.0 (1)"]
    both = [run("an", 33.0, data="corel5k-199"), run("an", 35.0, data="corel5k-199", identity__track="head")]
    table = one(both, datasets=["corel5k-199"])
    assert [title.partition(", ")[2].partition(",")[0] for title, _ in table.over[-2:]] == ["full", "head"]
    assert lines_of(table, row_of(table, "an"))[1][-2:] == ["33.0 (1)", "35.0 (1)"]
    with pytest.raises(UsageError, match="unknown data set 'corel5k-19'"):
        one([run("an", 33.0, data="corel5k-199")], datasets=["corel5k-19"])


def test_further_data_sets_have_runs_of_the_protocol_that_the_layout_names_for_them(run):
    """WIDER's protocol has a recipe for WIDER alone: our runs on other full labels are of protocol `full`."""
    records = [run("vac_f", 80.0, data="scenes", identity__protocol=name) for name in ("full", "wider_attribute")]
    table = paper_tables(records, "vac", "wider_ablation", datasets=["scenes"])[0]
    ours = lines_of(table, row_of(table, "vac_f"))[1]
    assert ours[8] == "80.0 (1)"
    assert "under protocol full" in " ".join(table.footer)


def test_runs_of_another_protocol_do_not_count(run):
    table = one([run("an", 85.0, identity__protocol="partial")])
    assert (table.cells["n"] == 0).all()


def test_runs_with_labels_hidden_otherwise_than_their_protocol_is_written_are_left_out_and_counted(run):
    own = {"identity__protocol_sha256": load_protocol("single_positive").sha256, "identity__mask__params": {}}
    table = one([run("an", 85.0, **own), run("ls", 99.0, **own, identity__mask__process="full")])
    assert table.cells["n"].sum() == 1
    assert "Left out: 1 runs whose labels were hidden otherwise than their protocol is written." in table.footer
    assert not any("Left out" in line for line in one([run("an", 85.0, **own)]).footer)


def test_runs_of_two_precisions_are_chosen_from_and_never_ranked_together(run):
    single = [run(m, v + r, r) for m, v in (("an", 60.0), ("llr", 80.0)) for r in (0, 1)]
    half = [run("ls", 90.0 + r / 10, r, identity__precision="bf16") for r in (0, 1)]
    ranked = one([*single, *half]).cells.dropna(subset="tie_group").set_index("method")["tie_group"].to_dict()
    assert "ls" not in ranked
    assert ranked["llr"] == 1
    chosen = one([*single, *half], where={"precision": "bf16"})
    assert chosen.cells.loc[chosen.cells["n"] > 0, "method"].tolist() == ["ls"]


def test_the_level_a_method_declares_is_shown(monkeypatch):
    registered = {point.name for point in entry_points(group="mlbench.methods")}
    assert "an" in registered
    from mlbench.registry import load_method

    monkeypatch.setattr(load_method("vac_t"), "level", "B")
    monkeypatch.setattr(load_method("llr"), "level", "A")
    assert module.level_of("vac_t") == "B, reimplemented"
    assert module.level_of("llr") == "A"
    assert module.level_of("no_such_method") == "not registered"
    table = one([], "vac", "wider_ablation")
    texts = [line[table.stubs - 1][0].text for line in table.body]
    assert texts[texts.index("vac_t") + 1] == "B, reimplemented"


def test_unknown_names_are_told():
    with pytest.raises(UsageError, match=r"unknown paper 'bostlu'\. Did you mean 'boostlu'"):
        paper_tables([], "bostlu")
    with pytest.raises(UsageError, match="unknown table 'Table 2'"):
        paper_tables([], "vac", "Table 2")


def test_the_missing_cells_are_listed_by_data_set(run):
    table = one([run("an", 85.0)])
    first, *rest = table.missing()
    assert first.endswith("55 of 56 cells have no run")
    assert "  on coco2014, nuswide-spml, cub: an" in rest
    assert any(line.startswith("  on voc2012, coco2014, nuswide-spml, cub: full, ls") for line in rest)


def test_latex_has_groups_rules_and_underlines():
    text = one([], "kd_wsd", "coco").to_latex()
    assert r"\multicolumn{2}{c}{} & \multicolumn{3}{c}{All} & \multicolumn{2}{c}{Top-3} \\" in text
    assert r"\cmidrule(lr){3-5} \cmidrule(lr){6-7}" in text
    assert text.count(r"\underline{") == 5
    assert [text.count(rule) for rule in (r"\toprule", r"\midrule", r"\bottomrule")] == [1, 2, 1]
    rows = [line for line in text.splitlines() if line.endswith(r"\\") and "multicolumn" not in line]
    assert len(rows) == 1 + 2 * 13
    assert {len(re.split(r"(?<!\\)&", line)) for line in rows} == {7}
    assert r"\ensuremath{\surd}" in one([], "boostlu", "scenario_training").to_latex()


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_all_tables_compile_to_one_document(tmp_path, run):
    records = [run("llr", 88.0 + i, i) for i in range(3)] + [run("an", 80.0 + i, i) for i in range(3)]
    text = render(paper_tables(records, "all", datasets=["scenes"]), "latex", document=True)
    (tmp_path / "all.tex").write_text(text, encoding="ascii")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", "all.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=120, check=False)
    log = done.stdout.decode("latin-1")
    assert done.returncode == 0, log[-2000:]
    assert "Overfull" not in log
    assert "Missing character" not in log
    assert f"({len(load_layouts())} pages" in log


class _Structure(HTMLParser):
    """Checks that tags nest, and keeps every tag, attribute and text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def parsed(text: str) -> _Structure:
    parser = _Structure()
    parser.feed(text)
    parser.close()
    assert parser.open == []
    return parser


def test_html_is_whole_and_loads_nothing(every):
    text = render(every, "html", document=True)
    found = parsed(text)
    assert text.startswith("<!doctype html>")
    assert [tag for tag, _ in found.seen].count("table") == len(every)
    assert not {"script", "link", "img", "iframe"} & {tag for tag, _ in found.seen}
    assert not any(name in ("src", "href") or name.startswith("on") for _, attrs in found.seen for name in attrs)
    assert "R*CNN [16]" in found.text
    spans = [int(attrs["colspan"]) for tag, attrs in parsed(every[6].to_html()).seen if "colspan" in attrs]
    assert sum(spans) == len(every[6].header)


def test_names_of_others_reach_no_format_unescaped(make_record):
    from mlbench.report.tables import build_table

    evil = "<script>alert(1)</script>&\"'"
    table = build_table([make_record(evil, 60.0, identity__dataset__id="<img src=x onerror=y>")])
    found = parsed(table.to_html(document=True))
    assert {"script", "img"}.isdisjoint(tag for tag, _ in found.seen)
    assert evil in found.text
    assert r"| \<script\>alert" in table.to_markdown()


def test_the_command_prints_a_paper_and_lists_what_is_missing(mlbench, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # no store here
    code, out, err = mlbench("table", "--paper", "kd_wsd", "--table", "coco", "--format", "csv")
    assert code == 0, err
    assert len(pd.read_csv(io.StringIO(out))) == 13 * 5
    assert "65 of 65 cells have no run" in err
    code, out, _ = mlbench("table", "--paper", "all", "--format", "html", "--document")
    assert code == 0
    assert out.count("<table>") == 12
    for wrong, message in (
        (("--paper", "vac", "--metric", "mAP"), "--metric: does not go with --paper"),
        (("--table", "coco"), "name the paper with --paper"),
        (("--paper", "vac", "--diagram", "x.svg"), "--diagram: does not go with --paper"),
        (("--paper", "vac", "--store", tmp_path / "none"), "none"),
    ):
        code, _, err = mlbench("table", *wrong)
        assert code != 0
        assert message in err
