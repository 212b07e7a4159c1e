"""Masks as files: what a run would draw, written as a table and read back to the same hash, or refused by line."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from mlbench.annotation import Mask, State, draw_mask, hash_ids, load_mask, save_mask
from mlbench.annotation.sparse import SparseLabels
from mlbench.conformance.testing import tiny_dataset
from mlbench.datasets import load_dataset
from mlbench.datasets.base import Dataset
from mlbench.errors import DataError, UsageError
from mlbench.masks.files import export_mask, import_mask, make_mask, show_mask
from mlbench.masks.picture import mask_picture
from mlbench.protocol import list_protocols, load_protocol
from mlbench.runner.data import make_parts

STRESS = sorted(name for name in list_protocols() if name.startswith("stress_"))


@pytest.fixture
def tiny() -> Dataset:
    """The tiny data set with two labels that the source left unspecified, and class names a CSV must quote."""
    dataset = tiny_dataset()
    train = dataset.splits["train"]
    labels = train.labels.copy()
    labels[3, 1] = labels[5, 0] = State.UNSPECIFIED
    splits = {**dataset.splits, "train": replace(train, labels=labels)}
    return Dataset("tiny", "1", ("cat", "dog, black", 'the "third"', "Käfer"), splits)


@pytest.fixture
def table(tmp_path: Path):
    """Return a function that writes a CSV of labels and returns its path."""

    def write(text: str, encoding: str = "utf-8") -> Path:
        (tmp_path / "labels.csv").write_bytes(text.encode(encoding))
        return tmp_path / "labels.csv"

    return write


# --- make -------------------------------------------------------------------------------------------------------------


def test_the_mask_made_is_the_one_a_run_draws_and_is_stored(tiny: Dataset, tmp_path: Path) -> None:
    mask = make_mask(
        tiny, "partial", mask_seed=3, changes={"annotation.keep": 0.4}, output=tmp_path / "deep" / "m.safetensors"
    )
    assert mask.sha256 == make_parts(tiny, load_protocol("partial"), 3, {"keep": 0.4})[1].sha256
    assert load_mask(tmp_path / "deep" / "m.safetensors", tiny.splits["train"].ids).sha256 == mask.sha256


@pytest.mark.parametrize(
    ("protocol", "given", "message"),
    [
        ("partial", {"changes": {"annotation.kep": 0.4}}, "unknown parameter 'kep'. Did you mean 'keep'"),
        ("partial", {"changes": {"keep": 0.4}}, "--set keep: a mask has settings annotation.KEY only"),
        ("partial", {"changes": {"annotation.keep": 40}}, "'keep' is 40, expected a fraction"),
        ("partial", {"mask_seed": -1}, "--mask-seed -1"),
        ("single_positive_spml", {"mask_seed": 1}, "uses one published draw"),
        ("partiel", {}, "Did you mean 'partial'"),
    ],
)
def test_a_wrong_request_is_refused_and_nothing_written(
    tiny: Dataset, tmp_path: Path, protocol: str, given: dict, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        make_mask(tiny, protocol, output=tmp_path / "m.safetensors", **given)
    assert not list(tmp_path.iterdir())


# --- export and import ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", ["full", "partial", "single_positive", "single_positive_spml", *STRESS])
def test_a_mask_comes_back_from_its_table_with_the_same_hash(protocol: str, tiny: Dataset, tmp_path: Path) -> None:
    made = make_mask(tiny, protocol, output=tmp_path / "a.safetensors")
    written = export_mask(tmp_path / "a.safetensors", tiny, tmp_path / "a.csv")
    assert written == (made.observed != 0).sum()
    back = import_mask(tmp_path / "a.csv", tiny, protocol, output=tmp_path / "b.safetensors")
    assert back.sha256 == made.sha256 == load_mask(tmp_path / "b.safetensors").sha256
    assert (back.observed == made.observed).all()


def test_the_table_holds_names_and_words(tiny: Dataset, tmp_path: Path) -> None:
    made = make_mask(tiny, "single_positive", output=tmp_path / "a.safetensors")
    export_mask(made, tiny, tmp_path / "a.csv")
    with (tmp_path / "a.csv").open(newline="", encoding="utf-8") as file:
        header, about, *rows = csv.reader(file)
    assert header == ["sample", "class", "state"]
    assert made.sha256 in about[1]
    found = {(sample, name): state for sample, name, state in rows}
    train = tiny.splits["train"]
    words = {1: "positive", 2: "unspecified"}
    assert found == {
        (train.ids[row], tiny.classes[c]): words[made.observed[row, c]] for row, c in np.argwhere(made.observed)
    }


def test_spreadsheet_habits_do_not_matter(tiny: Dataset, tmp_path: Path) -> None:
    made = make_mask(tiny, "stress_false_positives", output=tmp_path / "a.safetensors")
    export_mask(made, tiny, tmp_path / "a.csv")
    text = (tmp_path / "a.csv").read_text(encoding="utf-8")
    (tmp_path / "a.csv").write_bytes(text.replace("\n", "\r\n").encode("utf-8-sig") + b"\r\n\r\n")
    assert import_mask(tmp_path / "a.csv", tiny, output=tmp_path / "b.safetensors").sha256 == made.sha256


def test_labels_of_ones_own_are_read_and_the_rest_is_unknown(tiny: Dataset, tmp_path: Path, table) -> None:
    truth = tiny.splits["train"].labels
    c = int(np.flatnonzero(truth[0] == 1)[0])
    d = int(np.flatnonzero(truth[1] == -1)[0])
    names = [tiny.classes[k].replace('"', '""') for k in (c, d)]
    path = table(
        f'note,state,class,sample\nx,Positive,"{names[0]}",train/000\n,-1,"{names[1]}",train/001\n,unknown,cat,train/002\n'
    )
    mask = import_mask(path, tiny, output=tmp_path / "m.safetensors")
    expected = np.zeros_like(truth)
    expected[0, c], expected[1, d], expected[3, 1], expected[5, 0] = 1, -1, 2, 2
    assert (mask.observed == expected).all()
    assert (mask.process, dict(mask.params), mask.seed) == ("imported", {}, 0)
    assert make_parts(tiny, load_protocol("single_positive"), 0, None, mask)[1] is mask


def test_contradictions_are_refused_or_counted(tiny: Dataset, tmp_path: Path, table) -> None:
    truth = tiny.splits["train"].labels
    positives, negatives = np.argwhere(truth == 1)[:2], np.argwhere(truth == -1)[:1]
    lines = [f'train/{row:03d},"{tiny.classes[c]}",negative' for row, c in positives]
    lines += [f'train/{row:03d},"{tiny.classes[c]}",positive' for row, c in negatives]
    path = table("sample,class,state\n" + "\n".join(lines).replace('the "third"', 'the ""third""') + "\n")
    with pytest.raises(DataError, match=r"labels\.csv: 3 labels contradict the data set, the first at sample 'train/0"):
        import_mask(path, tiny, output=tmp_path / "m.safetensors")
    assert not (tmp_path / "m.safetensors").exists()
    mask = import_mask(path, tiny, contradictions=True, output=tmp_path / "m.safetensors")
    assert mask.params == {"contradictions": 3}
    parts, used = make_parts(tiny, load_protocol("single_positive"), 0, None, load_mask(tmp_path / "m.safetensors"))
    assert used.sha256 == mask.sha256
    assert (parts["train"].labels == truth).all()  # the truth stays what it is
    assert "may contradict" in show_mask(mask, tiny)


HEAD = "sample,class,state\n"
WRONG_TABLES = {
    "sample": (
        HEAD + "train/000,cat,unknown\ntrain/00l,cat,positive\n",
        r"line 3: no sample 'train/00l' .*mean 'train/",
    ),
    "class": (HEAD + "train/000,kat,positive\n", r"line 2: no class 'kat' in the data set\. Did you mean 'cat'"),
    "state": (HEAD + "train/000,cat,positiv\n", r"line 2: 'positiv' is no state\. Did you mean 'positive'"),
    "state number": (HEAD + "train/000,cat,3\n", "line 2: '3' is no state"),
    "twice": (
        HEAD + "train/000,cat,unknown\ntrain/000,cat,unknown\n",
        "line 3: sample 'train/000', class 'cat' was given",
    ),
    "column": ("sample,class,sate\n", "no column 'state'. Did you mean 'sate'"),
    "fields": (HEAD + "train/000,cat\n", "line 2: 2 fields"),
    "empty": ("", "empty"),
    "test image": (HEAD + "test/000,cat,positive\n", "no sample 'test/000' in the training part"),
    "unspecified in the source": (HEAD + "train/005,cat,positive\n", "contradicts the data set in 1 labels"),
    "description": (HEAD + "# mlbench mask,{},\n", "line 2: the row that describes the mask is broken"),
    "description nested deep": (HEAD + f"# mlbench mask,{'[' * 50_000},\n", "line 2: the row that describes the mask"),
    "description no JSON": (HEAD + "# mlbench mask,{,\n", "line 2: the row that describes the mask is broken"),
}


@pytest.mark.parametrize("case", WRONG_TABLES)
def test_a_wrong_table_is_refused_by_line_and_nothing_written(tiny: Dataset, tmp_path: Path, table, case: str) -> None:
    text, message = WRONG_TABLES[case]
    with pytest.raises(DataError, match=message) as caught:
        import_mask(table(text), tiny, output=tmp_path / "m.safetensors")
    assert str(caught.value).startswith(str(tmp_path / "labels.csv"))
    assert not (tmp_path / "m.safetensors").exists()


def test_an_exported_table_that_was_changed_is_no_longer_that_mask(tiny: Dataset, tmp_path: Path) -> None:
    export_mask(make_mask(tiny, output=tmp_path / "a.safetensors"), tiny, tmp_path / "a.csv")
    lines = (tmp_path / "a.csv").read_text().splitlines(keepends=True)
    (tmp_path / "a.csv").write_text("".join(lines[:-1]))
    with pytest.raises(DataError, match="not what was exported"):
        import_mask(tmp_path / "a.csv", tiny, output=tmp_path / "b.safetensors")
    (tmp_path / "a.csv").write_text("".join([lines[0], *lines[2:-1]]))
    assert import_mask(tmp_path / "a.csv", tiny, output=tmp_path / "b.safetensors").process == "imported"


def test_a_mask_that_declares_noise_may_flip_labels_and_nothing_else(tiny: Dataset) -> None:
    train = tiny.splits["train"]
    rules = load_protocol("stress_false_negatives")
    mask = make_parts(tiny, rules, 0)[1]
    assert ((mask.observed == -train.labels) & (train.labels == 1)).any()
    parts, used = make_parts(tiny, rules, 0, None, mask)
    assert used is mask
    assert (parts["train"].labels == train.labels).all()
    invented = mask.observed.copy()
    invented[3, 1] = State.POSITIVE  # the source is silent there
    with pytest.raises(DataError, match="contradicts the data set in 1 labels"):
        make_parts(tiny, rules, 0, None, Mask(mask.process, mask.params, 0, invented, mask.ids_sha256))
    with pytest.raises(DataError, match="contradicts the data set"):  # the same labels without the declaration
        make_parts(tiny, rules, 0, None, Mask("full", {}, 0, mask.observed, mask.ids_sha256))


# --- show -------------------------------------------------------------------------------------------------------------


def cells(text: str, name: str) -> list[str]:
    """The numbers of the row that begins with `name`."""
    (line,) = (line for line in text.splitlines() if line.startswith(f"{name} "))
    return line.removeprefix(name).split()


def test_shown_are_true_and_shown_labels_of_each_class_and_what_is_missing(tiny: Dataset) -> None:
    train = tiny.splits["train"]
    mask = draw_mask(train.labels, "partial", {"keep": 0.5}, ids=train.ids)
    text = show_mask(mask, tiny)
    for c, name in enumerate(tiny.classes):
        expected = []
        for state in (1, -1):
            true = (train.labels[:, c] == state).sum()
            shown = ((train.labels[:, c] == state) & (mask.observed[:, c] == state)).sum()
            expected += [str(true), str(shown), f"{100 * (true - shown) / true:.1f}"]
        assert cells(text, name) == [*expected, "0"]
    assert cells(text, "all")[0] == str((train.labels == 1).sum())
    for n in range(5):
        true, shown = (((m == 1).sum(axis=1) == n).sum() for m in (train.labels, mask.observed))
        assert [int(v) for v in text.splitlines()[-5 + n].split()] == [n, true, shown]


def test_false_labels_are_counted_and_a_class_without_labels_has_no_rate(tiny: Dataset) -> None:
    train = tiny.splits["train"]
    labels = np.where(np.arange(4) == 2, np.int8(-1), train.labels)
    data = replace(tiny, splits={**tiny.splits, "train": replace(train, labels=labels)}, _cached={})
    params = {"false_negative": 1, "false_positive": 0}
    text = show_mask(draw_mask(labels, "label_noise", params, ids=train.ids), data)
    assert cells(text, "cat")[-1] == str((labels[:, 0] == 1).sum())
    assert cells(text, 'the "third"')[:3] == ["0", "0", "-"]


def test_a_mask_of_other_samples_or_classes_is_refused(tiny: Dataset, tmp_path: Path) -> None:
    train = tiny.splits["train"]
    for mask in (
        Mask("full", {}, 0, train.labels[:, :3], hash_ids(train.ids)),
        Mask("full", {}, 0, train.labels, hash_ids(train.ids[::-1])),
    ):
        with pytest.raises(DataError, match="other samples or classes"):
            show_mask(mask, tiny)
        with pytest.raises(DataError, match="other samples or classes"):
            export_mask(mask, tiny, tmp_path / "a.csv")
    save_mask(draw_mask(train.labels[:3], "full", ids=train.ids[:3]), tmp_path / "few.safetensors")
    with pytest.raises(
        DataError, match=r"few\.safetensors: of other samples .*\(3 samples x 4 classes, the data set's "
    ):
        show_mask(tmp_path / "few.safetensors", tiny)
    export_mask(draw_mask(train.labels, "full", ids=train.ids), tiny, tmp_path / "m.csv")
    with pytest.raises(DataError, match=r"m\.csv: broken mask file .* read by `mlbench data mask import`"):
        show_mask(tmp_path / "m.csv", tiny)
    with pytest.raises(DataError, match="no such mask"):
        show_mask(tmp_path / "absent.safetensors", tiny)
    with pytest.raises(UsageError, match=r"a name that ends in \.svg"):
        show_mask(mask, tiny, picture=tmp_path / "m.png")


def test_the_picture_has_a_bar_for_each_number_as_long_as_it(tiny: Dataset, tmp_path: Path) -> None:
    train = tiny.splits["train"]
    mask = draw_mask(train.labels, "partial", {"keep": 0.5}, ids=train.ids)
    show_mask(mask, tiny, picture=tmp_path / "m.svg")
    root = ElementTree.parse(tmp_path / "m.svg").getroot()
    space = "{http://www.w3.org/2000/svg}"
    bars = [float(bar.get("width", "")) for bar in root.findall(f"{space}rect")[1:]]
    true, shown = ((m == 1).sum(axis=0) for m in (train.labels, mask.observed))
    order = np.argsort(-true, kind="stable")
    assert np.allclose(bars[::2], 200 * true[order] / true.max(), atol=0.1)
    assert np.allclose(bars[1::2], 200 * shown[order] / true.max(), atol=0.1)
    written = {text.text for text in root.iter(f"{space}text")}
    assert set(tiny.classes) <= written
    assert f"{shown[0]} / {true[0]}" in written


@pytest.mark.parametrize(("n", "classes"), [(0, 3), (1, 1), (5, 400)])
def test_the_picture_of_few_images_or_many_classes_is_well_formed(n: int, classes: int) -> None:
    labels = np.ones((n, classes), dtype=bool)
    text = mask_picture([f"<{c}>" for c in range(classes)], labels, labels, "a & b")
    root = ElementTree.fromstring(text)
    assert float(root.get("height", "")) < 2000
    assert ("400 bars, the longest 5" in text) == (classes == 400), "bars without names have their scale in the title"


@pytest.mark.parametrize("positive", ["1", "1.0", "positive", "POSITIVE"])
def test_states_of_a_table_may_be_written_as_floats(photos: Path, tmp_path: Path, positive: str) -> None:
    table = tmp_path / "m.csv"
    table.write_text(f"sample,class,state\n00.png,red,{positive}\n")
    dataset = load_dataset(str(photos / "mine.toml"))
    row = dataset.splits["train"].labels[0]
    state = positive if row[dataset.classes.index("red")] == 1 else {"1": "-1", "1.0": "-1.0"}.get(positive, "negative")
    table.write_text(f"sample,class,state\n00.png,red,{state}\n")
    mask = import_mask(table, dataset, output=tmp_path / "m.safetensors")
    assert int((mask.observed != 0).sum()) == 1


def test_a_mask_over_sparse_labels_is_shown_and_written_as_over_a_matrix(tmp_path: Path) -> None:
    dense = tiny_dataset()
    train = replace(dense.splits["train"], labels=SparseLabels.from_dense(dense.splits["train"].labels))
    sparse = replace(dense, splits={**dense.splits, "train": train}, _cached={})
    found = []
    for number, data in enumerate((dense, sparse)):
        file, table = tmp_path / f"{number}.safetensors", tmp_path / f"{number}.csv"
        make_mask(data, "partial", changes={"annotation.keep": 0.4}, output=file)
        count = export_mask(file, data, table)
        again = import_mask(table, data, output=tmp_path / "again.safetensors")
        found.append((show_mask(file, data), count, table.read_text(), again.sha256))
    assert found[0] == found[1]
