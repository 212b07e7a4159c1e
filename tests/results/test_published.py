from __future__ import annotations

import shutil
from decimal import Decimal

import pytest

from mlbench.errors import DataError, UsageError
from mlbench.store import papers as published
from mlbench.store.papers import COLUMNS, PROTOCOLS, load_published

# Number of values and their sum, counted on the sources' text without knowledge of rows and columns.
CHECKSUMS = {
    ("boostlu", "single positive label setting"): (56, "3147.63"),
    ("boostlu", "Openimages v3"): (60, "4876.36"),
    ("boostlu", "scenario i: inference only"): (4, "304.26"),
    ("boostlu", "scenario ii: also in training"): (6, "466.35"),
    ("vac", "Table 1"): (128, "10195.0"),
    ("vac", "Table 4"): (67, "5368.2"),
    ("vac", "Table 6"): (90, "6423.2"),
    ("kd_wsd", "MS-COCO"): (43, "2883.1"),
    ("kd_wsd", "NUS-WIDE"): (41, "2379.4"),
    ("spml_2026", "family (a)"): (64, "3644.09"),
    ("spml_2026", "family (b)"): (11, "682.55"),
    ("spml_2026", "full labels"): (11, "882.52"),
}


@pytest.fixture(scope="module")
def frame():
    return load_published()


def harmonic(p: float, r: float) -> float:
    return 2 * p * r / (p + r)


def wide(frame, definition: str):
    """Blocks of a table that print P, R and F1 of one kind ("-C" or "-O"): (rows, P, R, F1)."""
    for _, block in frame.groupby(["paper", "table", "row", "backbone", "group"]):
        values = dict(zip(block["metric"], block["value"], strict=True))
        if f"P-{definition}" in values:
            yield block, values[f"P-{definition}"], values[f"R-{definition}"], values[f"F1-{definition}"]


def test_every_table_has_its_values_and_their_sum(frame):
    found = {
        table: (len(rows), str(sum(map(Decimal, rows["printed"])))) for table, rows in frame.groupby(["paper", "table"])
    }
    assert found == CHECKSUMS


def test_columns_and_types(frame):
    assert tuple(frame.columns) == (*COLUMNS, "evidence", "printed")
    assert frame["value"].dtype == float
    assert set(frame["protocol"]) == set(PROTOCOLS)
    assert not frame["printed"].str.contains("[<>_-]").any()


def test_one_paper_alone(frame):
    assert len(load_published("vac")) == (frame["paper"] == "vac").sum() == 285
    with pytest.raises(UsageError, match=r"unknown paper 'boost'.*'boostlu'"):
        load_published("boost")


@pytest.mark.parametrize(
    ("paper", "table", "method", "dataset", "group", "metric", "row", "printed"),
    [
        ("boostlu", "single positive label setting", "llcp", "nuswide", "all", "mAP", "LL-Cp [21]", "47.92"),
        ("boostlu", "single positive label setting", "role_li", "cub", "all", "mAP", "ROLE + LI [11]", "14.86"),
        ("boostlu", "Openimages v3", "llct_boostlu", "openimages_v3", "G3", "mAP", "+ BoostLU (Ours)", "83.41"),
        ("boostlu", "Openimages v3", "p_asl", "openimages_v3", "All", "mAP", "P-ASL [2]", "83.03"),
        ("vac", "Table 4", "srn", "wider_attribute", "all", "F1-O", "SRN [67]", "81.3"),
        ("vac", "Table 6", "vac_f", "coco2014", "top3", "P-C", "ResNet101-ACf", "81.9"),
        ("vac", "Table 6", "resnet_aug", "coco2014", "all", "R-O", "ResNet101* [67]", "68.0"),
        ("kd_wsd", "NUS-WIDE", "tag_neighbors", "nuswide", "top3", "F1-O", "Tag-Neighbors [15]", "62.5"),
        ("kd_wsd", "MS-COCO", "fitnets", "coco2014", "all", "F1-C", "FitNets [23]", "65.2"),
        ("kd_wsd", "MS-COCO", "rmam", "coco2014", "top3", "F1-O", "RMAM(512+10crop) [33]", "71.3"),
        ("spml_2026", "family (a)", "gr", "coco2014", "all", "mAP", "GR Loss", "73.17"),
        ("spml_2026", "family (a)", "vlpl", "cub", "all", "mAP", "VLPL", "24.02"),
        ("spml_2026", "family (a)", "gpr", "voc2012", "all", "mAP", "AEVLP", "90.46"),
        ("spml_2026", "family (b)", "splc", "nuswide", "all", "mAP", "SPLC", "55.2"),
    ],
)
def test_cells_read_off_the_sources_by_eye(frame, paper, table, method, dataset, group, metric, row, printed):
    columns = ["paper", "table", "method", "dataset", "group", "metric"]
    wanted = [paper, table, method, dataset, group, metric]
    found = frame.loc[(frame[columns] == wanted).all(axis=1), ["row", "printed"]]
    assert found.values.tolist() == [[row, printed]]


def test_bold_and_second_best_as_far_as_the_sources_show_them(frame):
    marked = frame[frame["bold"] != ""]
    bold = marked[marked["bold"] == "bold"]
    assert bold[["row", "metric", "printed"]].values.tolist() == [
        ["R50+ACf", "R-O", "79.8"],
        ["R101+ACfs", "R-O", "80.7"],
    ]
    assert marked[marked["bold"] == "underlined"].groupby("table").size().to_dict() == {"MS-COCO": 5, "NUS-WIDE": 5}


def test_rows_copied_from_the_em_apl_benchmark_are_told_from_those_run(frame):
    table = frame[frame["table"] == "single positive label setting"]
    copied = table["note"].str.contains("copied from the EM/APL benchmark")
    assert set(table.loc[~copied, "method"]) == {"llr", "llr_boostlu", "llct", "llct_boostlu", "llcp", "llcp_boostlu"}
    assert copied.sum() == 8 * 4
    nus = table[table["dataset"] == "nuswide"]
    assert nus.groupby(copied)["dataset_version"].nunique().tolist() == [1, 1]
    assert nus["dataset_version"].nunique() == 2
    assert nus["note"].str.contains("another NUS-WIDE version").all()


def test_overall_f1_that_is_no_harmonic_mean_is_marked_and_nothing_else_is(frame):
    marked = set()
    for block, p, r, f1 in wide(frame, "O"):
        low, high = harmonic(p - 0.05, r - 0.05) - 0.05, harmonic(p + 0.05, r + 0.05) + 0.05
        cell = block[block["metric"] == "F1-O"].iloc[0]
        assert ("inconsistent" in cell["note"]) == (not low <= f1 <= high), cell["row"]
        if not low <= f1 <= high:
            marked.add((cell["table"], cell["row"], cell["printed"]))
            assert f"{harmonic(p, r):.2f}" in cell["note"]
    assert marked == {("Table 1", "R50+f", "80.0"), ("Table 1", "R50+ACr", "80.2"), ("Table 6", "WARP [17]", "60.7")}


def test_class_f1_definitions_follow_from_the_printed_precision_and_recall(frame):
    coco = frame[frame["protocol"] == "coco_vac"]
    seen = set()
    for block, p, r, f1 in wide(coco, "C"):
        definition = block.loc[block["metric"] == "F1-C", "definition"].iloc[0].split("+")[0]
        assert definition == ("hm" if abs(f1 - harmonic(p, r)) < 0.06 else "mean")
        seen.add((block["method"].iloc[0], definition))
    assert {method for method, definition in seen if definition == "hm"} == {"warp", "cnn_rnn"}


def test_cells_printed_twice_agree_or_are_marked(frame):
    cell = ["method", "backbone", "dataset", "protocol", "group", "metric"]
    single = frame[frame["definition"] != ""]
    for name, rows in single.groupby(cell):
        if rows["value"].nunique() > 1:
            assert rows["note"].str.contains("inconsistent|prints|is printed as").all(), name
    conflicts = {n[0] for n, rows in single.groupby(cell) if rows["value"].nunique() > 1}
    assert conflicts == {"an", "llr_boostlu", "vac_f", "scpnet", "csra", "q2l"}


def test_openimages_all_is_the_mean_of_the_groups_but_where_marked(frame):
    table = frame[frame["protocol"] == "openimages_groups"]
    for method, rows in table.groupby("method"):
        total = rows[rows["group"] == "All"].iloc[0]
        off = abs(rows.loc[rows["group"] != "All", "value"].mean() - total["value"]) > 0.0101
        assert off == (method == "p_asl") == ("83.044" in total["note"])


def test_published_values_of_protocols_without_validation_are_tagged(frame):
    without = frame["protocol"].isin(["wider_attribute", "coco_vac", "coco_kdwsd", "nuswide_kdwsd"])
    assert (frame.loc[without, "selection"] == "test-selected").all()
    assert (frame.loc[frame["protocol"] == "single_positive", "selection"] == "clean_val").all()


def test_top3_modes_are_part_of_the_definition(frame):
    modes = (
        frame[frame["group"] == "top3"]
        .groupby(["dataset", "method"])["definition"]
        .agg(lambda d: {x.split("+")[1] for x in d})
    )
    assert modes["coco2014", "warp"] == {"top3_strict"}
    assert modes["coco2014", "vac_fs"] == {"top3_thresholded"}
    assert modes["nuswide", "tag_neighbors"] == modes["nuswide", "cnn_rnn"] == {"top3_strict"}
    assert modes["coco2014", "cnn_rnn"] == {"top3_path"}


def test_every_number_gathered_from_several_papers_says_where_it_was_read(frame):
    gathered = frame["paper"] == "spml_2026"
    assert set(frame.loc[gathered, "evidence"]) == set(published.EVIDENCE)
    assert set(frame.loc[~gathered, "evidence"]) == {""}
    read = frame[gathered].groupby("method")["evidence"].agg(set)
    assert (read["vlpl"], read["gpr"], read["gr"]) == ({"readme"}, {"paper"}, {"second_hand"})


def test_families_of_single_positive_numbers_stand_in_tables_and_protocols_of_their_own(frame):
    gathered = frame[frame["paper"] == "spml_2026"]
    found = {table: (set(rows["protocol"]), set(rows["selection"])) for table, rows in gathered.groupby("table")}
    assert found == {
        "family (a)": ({"single_positive"}, {"clean_val"}),
        "family (b)": ({"coco_splc", "nuswide_splc"}, {"test-selected"}),
        "full labels": ({"coco_splc_full"}, {"unstated"}),
    }


def test_boostlu_rows_among_their_successors_are_those_of_its_own_table(frame):
    cell = ["method", "dataset"]
    single = frame[frame["table"] == "single positive label setting"].set_index(cell)["printed"]
    again = frame[frame["table"] == "family (a)"].set_index(cell)["printed"]
    shared = single.index.intersection(again.index)
    assert len(shared) == 44
    assert (single[shared] == again[shared]).all()


@pytest.fixture
def broken(tmp_path, monkeypatch):
    """Return a function that changes the text of a copied file and makes the reader use the copy."""

    def change(old: str, new: str) -> None:
        folder = tmp_path / "papers"
        shutil.copytree(str(published._folder()), folder)
        text = (folder / "vac.csv").read_text()
        assert old in text
        (folder / "vac.csv").write_text(text.replace(old, new, 1))
        monkeypatch.setattr(published, "_folder", lambda: folder)

    return change


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (",83.4,", ",834,", r"vac\.csv, line 2: value '834'"),
        (",83.4,", ",nan,", "line 2: value 'nan'"),
        (",83.4,", ",,", "line 2: value ''"),
        ("step", "stp", "line 2: definition 'stp' of mAP: expected one of step"),
        ("all,mAP", "top3,mAP", "line 2: definition 'step': group top3"),
        ("all,mAP", "all,map", "line 2: metric 'map'"),
        ("all,mA,", "all,mAP,", "line 3: definition 'mean' of mAP"),
        ("paper,table", "papier,table", "columns are papier"),
        ("vac,Table 1,R50,wbce", "vac,Table 1,R50,", "line 2: method is empty"),
        ("vac,Table 1", "kd,Table 1", "line 2: paper 'kd'"),
        ("all,mA,mean,82.0", "all,mAP,step,82.0", "line 3: the same cell"),
    ],
)
def test_broken_files_are_refused_with_file_and_line(broken, old, new, message):
    broken(old, new)
    with pytest.raises(DataError, match=message):
        load_published("vac")


@pytest.mark.parametrize(
    ("line", "message"), [("vac,Table 9,R50", "line 2: method is empty"), ("vac" + "," * 20, r"vac\.csv")]
)
def test_rows_with_too_few_or_too_many_fields_are_refused(broken, line, message):
    broken("vac,Table 1,R50,wbce", f"{line}\nvac,Table 1,R50,wbce")
    with pytest.raises(DataError, match=message):
        load_published("vac")


def test_a_row_with_one_field_too_many_is_refused(broken):
    broken("test-selected,", "test-selected,,")
    with pytest.raises(DataError, match=r"vac\.csv"):
        load_published("vac")
