"""Annotation processes: the legacy draw against its own code's output, our own draws against counting."""

from __future__ import annotations

import csv
import hashlib
import itertools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlbench.annotation import (
    PROCESSES,
    State,
    check_process,
    describe,
    draw_mask,
    hash_ids,
    hidden_per_image,
    load_mask,
    map_unspecified,
    save_mask,
)
from mlbench.errors import DataError, UsageError

PARAMS = {
    "partial": {"keep": 0.3},
    "partial_exact": {"keep": 0.3},
    "partial_per_class": {"n": 5},
    "partial_fraction": {"keep": 0.3},
    "single_positive_size": {"bias": 2},
    "single_positive_frequency": {"bias": -1},
    "single_positive_cooccurrence": {"bias": 2},
    "per_class_missing": {"mean": 0.5},
    "label_noise": {"false_negative": 0.3, "false_positive": 0.1},
    "annotator_budget": {"budget": 0.4},
}
#: Processes that draw; ``listed`` reads a published file instead (tests/datasets/test_listed.py).
DRAWN = PROCESSES.keys() - {"listed"}
#: Processes in which the other rows of a part decide about a row: one generator, or numbers counted over rows.
WHOLE = {"single_positive_spml", "partial_per_class", "partial_fraction", "annotator_budget"}


def names(n: int) -> list[str]:
    return [f"image{i}.jpg" for i in range(n)]


def random_labels(n: int = 60, c: int = 9, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.choice(np.array([1, -1, -1, 2], dtype=np.int8), size=(n, c))


def some_boxes(n: int = 60, c: int = 9) -> np.ndarray:
    """A box of its own size for each class in each of `n` images."""
    cells = np.array([(row, k) for row in range(n) for k in range(c)], dtype=np.float32).reshape(-1, 2)
    side = 1 + (7 * cells[:, :1] + 3 * cells[:, 1:]) % 11
    return np.concatenate([cells, np.zeros_like(cells), side, side], axis=1)


def pattern() -> np.ndarray:
    """40 x 7 labels made by arithmetic; row 11 has no positive."""
    k = np.arange(40 * 7).reshape(40, 7)
    labels = np.where((k * k + 3 * k) % 5 < 2, 1, -1).astype(np.int8)
    labels[11] = -1
    return labels


# --- the legacy single-positive draw ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("num_pos", "num_neg", "expected"),
    [
        (1, 0, "dcdceb9ccfe1ff6bf4bbd511906972b10a397577b32f02a6c1a672ae2d73c0ac"),
        (2, 1, "d562b1a22f2b72d05e463b1a0b64910c6ef1f0c186c02e3813bd4d502daa54ea"),
        (-1, 2, "41103b739ac907da10fb020861ab45e72bcb1c67abe631bd0964421bbd81cdaf"),
    ],
)
def test_spml_draw_equals_what_the_papers_code_gives(num_pos: int, num_neg: int, expected: str) -> None:
    # Hashes of the official function's output on the same matrix, computed apart from this repository.
    params = {"num_pos": num_pos, "num_neg": num_neg}
    mask = draw_mask(pattern(), "single_positive_spml", params, ids=names(40))
    assert mask.seed == 1200
    assert hashlib.sha256(mask.observed.tobytes()).hexdigest() == expected


def test_spml_draw_of_the_first_rows_is_the_hand_read_one() -> None:
    observed = draw_mask(pattern(), "single_positive_spml", ids=names(40)).observed
    assert observed[:11].argmax(axis=1).tolist() == [0, 5, 1, 1, 4, 0, 5, 6, 1, 4, 0]
    assert not observed[11].any()


def test_spml_draw_shuffles_the_negatives_too() -> None:
    labels = pattern()
    generator = np.random.RandomState(1200)
    without = np.zeros_like(labels)
    for row, line in enumerate(labels):
        positives = list(np.flatnonzero(line == 1))
        generator.shuffle(positives)
        without[row, positives[:1]] = 1
    assert (without != draw_mask(labels, "single_positive_spml", ids=names(40)).observed).any()


def test_spml_draw_is_the_same_whether_difficult_is_mapped_before_or_not() -> None:
    labels = random_labels()
    mapped = draw_mask(map_unspecified(labels, "negative"), "single_positive_spml", ids=names(60)).observed
    raw = draw_mask(labels, "single_positive_spml", ids=names(60)).observed
    assert ((mapped == 1) == (raw == 1)).all()
    assert (raw[labels == 2] == 2).all()


@pytest.mark.data
def test_spml_draw_on_the_voc2007_labels_equals_the_papers_code() -> None:
    root = os.environ.get("MLBENCH_DATA")
    if not root or not (Path(root) / "annotations" / "voc2007_labels.csv").is_file():
        pytest.skip("MLBENCH_DATA is not set, or holds no annotations/voc2007_labels.csv")
    with (Path(root) / "annotations" / "voc2007_labels.csv").open(newline="") as file:
        rows = list(csv.reader(file))[1:]
    rows = [row for row in rows if row[1] != "test"]
    raw = np.array([[{"1": 1, "-1": -1, "0": 2}[value] for value in row[2:]] for row in rows], dtype=np.int8)
    mask = draw_mask(map_unspecified(raw, "negative"), "single_positive_spml", ids=[row[0] for row in rows])
    expected = "0cc2491582d14ec9435da337e5be0ba17b37988621d1248e7a1a5242003e3f67"
    assert hashlib.sha256(mask.observed.tobytes()).hexdigest() == expected
    assert mask.counts == {"positives": 5011, "negatives": 0, "unknown": 5011 * 19, "unspecified": 0}


# --- our own draws ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("process", sorted(name for name in DRAWN if not PROCESSES[name].noisy))
def test_a_mask_shows_true_labels_or_unknown_and_never_hides_unspecified(process: str) -> None:
    labels = random_labels()
    observed = draw_mask(labels, process, PARAMS.get(process), ids=names(60), boxes=some_boxes()).observed
    assert observed.dtype == np.int8
    assert ((observed == labels) | ((observed == State.UNKNOWN) & (labels != State.UNSPECIFIED))).all()
    assert ((observed == State.UNSPECIFIED) == (labels == State.UNSPECIFIED)).all()


@pytest.mark.parametrize("process", sorted(DRAWN - WHOLE))
def test_a_row_keeps_its_draw_in_any_subset_and_order(process: str) -> None:
    labels, boxes = random_labels(), some_boxes()
    ids = names(60)
    rows = np.array([41, 3, 17, 59])
    own = np.concatenate([boxes[boxes[:, 0] == row] for row in rows])
    own[:, 0] = np.repeat(np.arange(4), 9)
    params = PARAMS.get(process)
    whole = draw_mask(labels, process, params, 7, ids=ids, boxes=boxes).observed
    chosen = [ids[r] for r in rows]
    part = draw_mask(labels[rows], process, params, 7, ids=chosen, boxes=own, train_labels=labels).observed
    assert (part == whole[rows]).all()


@pytest.mark.parametrize("process", sorted(DRAWN - {"single_positive_spml"}))
def test_the_order_of_the_rows_changes_nothing(process: str) -> None:
    labels, boxes, ids = random_labels(), some_boxes(), names(60)
    order = np.random.default_rng(1).permutation(60)
    moved = boxes.copy()
    moved[:, 0] = np.argsort(order)[boxes[:, 0].astype(int)]
    first = draw_mask(labels, process, PARAMS.get(process), 7, ids=ids, boxes=boxes).observed
    other = draw_mask(labels[order], process, PARAMS.get(process), 7, ids=[ids[r] for r in order], boxes=moved).observed
    assert (other == first[order]).all()


@pytest.mark.parametrize("process", sorted(DRAWN - {"full"}))
def test_another_seed_gives_another_draw_and_the_same_seed_the_same(process: str) -> None:
    labels, boxes = pattern(), some_boxes(40, 7)
    params = PARAMS.get(process)
    first, again, other = (draw_mask(labels, process, params, s, ids=names(40), boxes=boxes) for s in (1, 1, 2))
    assert first.sha256 == again.sha256
    assert (first.observed != other.observed).any()


def test_own_draws_stay_what_they_are_for_ever() -> None:
    # The first 64-bit word of SHAKE-256("partial\0" "0\0" "a") decides the entry; worked without the package.
    word = int.from_bytes(hashlib.shake_256(b"partial\x000\x00a").digest(8), "little")
    edge = (word >> 11) / 2**53
    labels = np.array([[1]], dtype=np.int8)
    assert draw_mask(labels, "partial", {"keep": edge}, ids=["a"]).observed[0, 0] == State.UNKNOWN
    assert draw_mask(labels, "partial", {"keep": np.nextafter(edge, 1)}, ids=["a"]).observed[0, 0] == State.POSITIVE


def test_partial_keeps_about_the_asked_share_of_positives_and_negatives() -> None:
    labels = np.where(np.random.default_rng(3).random((2000, 50)) < 0.1, 1, -1).astype(np.int8)
    observed = draw_mask(labels, "partial", {"keep": 0.3}, ids=names(2000)).observed
    for sign in (1, -1):
        n = (labels == sign).sum()
        share = (observed == sign).sum() / n
        assert abs(share - 0.3) < 5 * np.sqrt(0.3 * 0.7 / n)


@pytest.mark.parametrize("process", ["partial", "partial_exact"])
def test_masks_of_one_seed_are_nested_and_end_at_nothing_and_everything(process: str) -> None:
    labels = pattern()
    known = [
        draw_mask(labels, process, {"keep": keep}, ids=names(40)).observed != 0 for keep in (0, 0.1, 0.3, 0.5, 0.9, 1)
    ]
    assert not known[0].any()
    assert known[-1].all()
    assert all((less <= more).all() for less, more in itertools.pairwise(known))


def test_partial_exact_hides_the_same_number_in_each_image() -> None:
    labels = pattern()
    for percent in (10, 30, 50, 70, 90):
        observed = draw_mask(labels, "partial_exact", {"keep": percent / 100}, ids=names(40)).observed
        assert ((observed == 0).sum(axis=1) == int((100 - percent) * 7 / 100)).all()


@settings(deadline=None)
@given(percent=st.integers(0, 100), n_classes=st.integers(1, 5000))
def test_the_number_hidden_is_the_integer_rule_on_percent(percent: int, n_classes: int) -> None:
    assert hidden_per_image(n_classes, percent / 100) == (100 - percent) * n_classes // 100


def test_the_number_hidden_does_not_fall_into_the_float_trap() -> None:
    assert int((1 - 0.9) * 10) == 0
    assert hidden_per_image(10, 0.9) == 1


def test_single_positive_keeps_one_positive_where_there_is_one() -> None:
    labels = pattern()
    observed = draw_mask(labels, "single_positive", ids=names(40)).observed
    assert ((observed == 1).sum(axis=1) == (labels == 1).any(axis=1)).all()
    assert set(np.unique(observed)) == {0, 1}


def test_single_positive_is_uniform_over_the_positives() -> None:
    labels = np.tile(np.array([[1, -1, 1, 1]], dtype=np.int8), (9000, 1))
    drawn = (draw_mask(labels, "single_positive", ids=names(9000)).observed == 1).sum(axis=0)
    assert drawn[1] == 0
    assert (np.abs(drawn[[0, 2, 3]] - 3000) < 5 * np.sqrt(9000 * 2 / 9)).all()


def test_full_hides_nothing() -> None:
    labels = random_labels()
    assert (draw_mask(labels, "full", ids=names(60)).observed == labels).all()


def test_an_empty_part_gives_an_empty_mask() -> None:
    for process in DRAWN:
        mask = draw_mask(np.zeros((0, 3), dtype=np.int8), process, PARAMS.get(process), ids=[], boxes=some_boxes(0))
        assert mask.observed.shape == (0, 3)
        assert "0 samples" in describe(mask)


@pytest.mark.parametrize("process", sorted(DRAWN))
def test_a_mask_of_any_process_survives_the_file(process: str, tmp_path: Path) -> None:
    mask = draw_mask(random_labels(), process, PARAMS.get(process), ids=names(60), boxes=some_boxes())
    save_mask(mask, tmp_path / "mask.safetensors")
    back = load_mask(tmp_path / "mask.safetensors", ids=names(60))
    assert (back.sha256, back.params) == (mask.sha256, mask.params)
    assert ("may contradict" in describe(back)) == PROCESSES[process].noisy


# --- wrong input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("process", "params", "message"),
    [
        ("single_positiv", None, "Did you mean 'single_positive'"),
        ("partial", None, "'keep' is missing"),
        ("partial", {"kep": 0.1}, "Did you mean 'keep'"),
        ("partial", {"keep": 10}, "10 % is 0.1"),
        ("partial", {"keep": float("nan")}, "expected a fraction"),
        ("partial_exact", {"keep": True}, "expected a fraction"),
        ("single_positive_spml", {"num_pos": -2}, "expected a whole number"),
        ("single_positive_spml", {"num_neg": 0.5}, "expected a whole number"),
        ("full", {"keep": 1}, "unknown parameter 'keep'"),
        ("single_positive_size", {"bias": -0.1}, "'bias' is -0.1, expected a number from 0 up"),
        ("single_positive_size", {}, "'bias' is missing"),
        ("single_positive_frequency", {"bias": float("inf")}, "'bias' is inf, expected a number"),
        ("single_positive_frequency", {"bias": True}, "'bias' is True"),
        ("single_positive_frequency", {"bais": 1}, "Did you mean 'bias'"),
        ("per_class_missing", {"mean": 1.5}, "'mean' is 1.5, expected a fraction"),
        (
            "per_class_missing",
            {"mean": 0.5, "by": "rarest"},
            "expected one of beta, rare, frequent. Did you mean 'rare'",
        ),
        ("per_class_missing", {"mean": 0.5, "by": 3}, "'by' is 3, expected one of"),
        ("label_noise", {"false_negative": 0.1}, "'false_positive' is missing"),
        ("annotator_budget", {"budget": 5000}, "'budget' is 5000, expected a fraction"),
    ],
)
def test_a_wrong_process_or_parameter_is_refused(process: str, params: dict | None, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        check_process(process, params)


def test_labels_and_ids_that_do_not_fit_are_refused() -> None:
    labels = random_labels(4, 3)
    with pytest.raises(DataError, match="5 ids for 4 rows"):
        draw_mask(labels, "full", ids=names(5))
    with pytest.raises(DataError, match="not unique"):
        draw_mask(labels, "full", ids=["a", "b", "a", "c"])
    with pytest.raises(DataError, match="row 1, class 2 holds 3"):
        draw_mask(np.array([[0, 0, 0], [0, 0, 3]]), "full", ids=["a", "b"])
    with pytest.raises(DataError, match="expected a matrix"):
        draw_mask(np.zeros(3, dtype=np.int8), "full", ids=names(3))


def test_each_rule_for_unspecified_changes_those_entries_only() -> None:
    labels = np.array([[1, -1, 0, 2]], dtype=np.int8)
    results = {
        rule: map_unspecified(labels, rule).tolist()[0] for rule in ("negative", "positive", "unknown", "ignore")
    }
    assert results == {
        "negative": [1, -1, 0, -1],
        "positive": [1, -1, 0, 1],
        "unknown": [1, -1, 0, 0],
        "ignore": [1, -1, 0, 2],
    }
    with pytest.raises(UsageError, match="Did you mean 'ignore'"):
        map_unspecified(labels, "ignored")


# --- files ------------------------------------------------------------------------------------------------------------


def test_a_mask_survives_the_file_and_is_described(tmp_path: Path) -> None:
    mask = draw_mask(random_labels(), "partial", {"keep": 0.3}, 5, ids=names(60))
    save_mask(mask, tmp_path / "deep" / "mask.safetensors")
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["mask.safetensors"]
    back = load_mask(tmp_path / "deep" / "mask.safetensors", ids=names(60))
    assert (back.process, back.params, back.seed, back.sha256) == ("partial", {"keep": 0.3}, 5, mask.sha256)
    assert (back.observed == mask.observed).all()
    assert back.ids_sha256 == hash_ids(names(60))
    assert sum(back.counts.values()) == 60 * 9
    text = describe(back)
    assert "partial" in text
    assert "keep 0.3" in text
    assert mask.sha256 in text


def test_a_mask_cannot_be_changed() -> None:
    mask = draw_mask(pattern(), "full", ids=names(40))
    with pytest.raises(ValueError, match="read-only"):
        mask.observed[0, 0] = 0


def test_the_hash_tells_process_params_seed_and_shape_apart() -> None:
    labels = np.full((4, 6), -1, dtype=np.int8)
    masks = [
        draw_mask(labels, "full", ids=names(4)),
        draw_mask(labels, "full", seed=1, ids=names(4)),
        draw_mask(labels, "partial", {"keep": 1}, ids=names(4)),
        draw_mask(labels, "partial_exact", {"keep": 1.0}, ids=names(4)),
        draw_mask(labels.reshape(6, 4), "full", ids=names(6)),
    ]
    assert len({mask.sha256 for mask in masks}) == len(masks)


def test_a_mask_file_for_other_samples_or_with_a_flipped_byte_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mask.safetensors"
    save_mask(draw_mask(pattern(), "full", ids=names(40)), path)
    with pytest.raises(DataError, match="other samples"):
        load_mask(path, ids=names(40)[::-1])
    content = bytearray(path.read_bytes())
    content[-1] = 0
    path.write_bytes(content)
    with pytest.raises(DataError, match="content hash"):
        load_mask(path)
    path.write_bytes(content[:-20])
    with pytest.raises(DataError, match="broken mask file"):
        load_mask(path)
    path.write_bytes(b"")
    with pytest.raises(DataError, match="broken mask file"):
        load_mask(path)
    with pytest.raises(DataError, match="no such mask"):
        load_mask(tmp_path / "absent.safetensors")


def test_reading_and_writing_masks_needs_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys, numpy as np; from mlbench.annotation import *;"
        f"p = {str(tmp_path / 'm.safetensors')!r};"
        "save_mask(draw_mask(np.ones((2, 2), dtype=np.int8), 'full', ids=['a', 'b']), p); load_mask(p);"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
