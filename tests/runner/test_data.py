"""Parts, masks and inputs: what a run is fed does not depend on company, order, method or number of processes."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mlbench.annotation import Mask, State, draw_mask
from mlbench.conformance.testing import ArrayImages, tiny_dataset
from mlbench.datasets.base import Dataset, Split
from mlbench.errors import DataError
from mlbench.inputs.features import Features
from mlbench.protocol import Annotation, Protocol, SplitRule, Unspecified
from mlbench.runner.data import FeatureInputs, ImageInputs, make_parts, training_labels
from mlbench.runner.loop import epoch_order
from mlbench.runner.plan import resolve
from mlbench.runner.side import boxes_of
from mlbench.seeds import id_hashes

P, N, U, X = (int(s) for s in (State.POSITIVE, State.NEGATIVE, State.UNKNOWN, State.UNSPECIFIED))


def protocol(validation: str = "official_else_holdout", **others: object) -> Protocol:
    values = {"annotation": Annotation("single_positive"), "split": SplitRule(validation), "selection": "last"}
    return Protocol("p", "title", "source", train={}, **{**values, **others})


def without_val(dataset: Dataset) -> Dataset:
    return replace(dataset, splits={name: dataset.splits[name] for name in ("train", "test")}, _cached={})


def labelled(rows: list[list[int]], part: str = "train") -> Split:
    ids = tuple(f"{part}{i}" for i in range(len(rows)))
    return Split(ids, np.array(rows, dtype=np.int8), ArrayImages(np.zeros((len(rows), 8, 8, 3), np.uint8)))


# --- parts ------------------------------------------------------------------------------------------------------------


def test_the_official_validation_part_leaves_training_whole() -> None:
    dataset = tiny_dataset()
    parts, _ = make_parts(dataset, protocol(), 0, None)
    assert {name: len(part) for name, part in parts.items()} == {"train": 32, "val": 8, "test": 9}
    assert parts["val"].split.ids == dataset.splits["val"].ids
    assert (parts["train"].rows == np.arange(32)).all()


def test_a_holdout_parts_the_training_rows_and_keeps_the_draw_of_each_label() -> None:
    dataset = without_val(tiny_dataset())
    parts, mask = make_parts(dataset, protocol(), 3, None)
    rows = {name: parts[name].rows for name in ("train", "val")}
    assert len(rows["val"]) == round(0.2 * 32)
    assert sorted(np.concatenate(list(rows.values())).tolist()) == list(range(32))
    for name in rows:  # the mask was drawn before the rows were parted
        assert (parts[name].observed == mask.observed[rows[name]]).all()
        assert parts[name].split.ids == tuple(dataset.splits["train"].ids[r] for r in rows[name])
    train = dataset.splits["train"]
    assert (mask.observed == draw_mask(train.labels, "single_positive", {}, 3, ids=train.ids).observed).all()


def test_without_validation_every_row_is_trained_on() -> None:
    parts, _ = make_parts(without_val(tiny_dataset()), protocol("none"), 0, None)
    assert set(parts) == {"train", "test"}
    assert len(parts["train"]) == 32


def test_a_holdout_may_be_asked_for_although_there_is_an_official_part() -> None:
    parts, _ = make_parts(tiny_dataset(), protocol("holdout"), 0, None)
    assert parts["val"].source == "train"
    assert len(parts["train"]) + len(parts["val"]) == 32


def test_a_protocol_that_needs_the_official_part_says_so_where_there_is_none() -> None:
    with pytest.raises(DataError, match="'p' needs the official validation part; 'tiny' has none"):
        make_parts(without_val(tiny_dataset()), protocol("official"), 0, None)


def test_no_test_label_is_ever_observed() -> None:
    parts, _ = make_parts(tiny_dataset(), protocol(annotation=Annotation("full")), 0, None)
    assert (parts["test"].observed == U).all()


def test_a_data_set_without_test_images_is_refused() -> None:
    dataset = tiny_dataset()
    empty = dataset.splits["test"].take([])
    with pytest.raises(DataError, match="no images in its test part"):
        make_parts(replace(dataset, splits={**dataset.splits, "test": empty}, _cached={}), protocol(), 0, None)


def test_a_published_draw_does_not_move_with_the_mask_seed() -> None:
    fixed = protocol(annotation=Annotation("single_positive", seed=1200))
    masks = [make_parts(tiny_dataset(), fixed, seed, None)[1] for seed in (0, 1)]
    assert masks[0].sha256 == masks[1].sha256
    assert masks[0].seed == 1200
    free = [make_parts(tiny_dataset(), protocol(), seed, None)[1] for seed in (0, 1)]
    assert free[0].sha256 != free[1].sha256


def test_a_mask_of_ones_own_is_checked_against_samples_and_labels() -> None:
    dataset = tiny_dataset()
    _, drawn = make_parts(dataset, protocol(), 0, None)
    parts, used = make_parts(dataset, protocol(), 99, None, drawn)
    assert used is drawn
    assert (parts["train"].observed == drawn.observed).all()
    other = Mask(drawn.process, drawn.params, 0, drawn.observed, "0" * 64)
    with pytest.raises(DataError, match="drawn for other samples"):
        make_parts(dataset, protocol(), 0, None, other)
    false = drawn.observed.copy()
    row, c = np.argwhere(dataset.splits["train"].labels == N)[0]
    false[row, c] = P
    with pytest.raises(DataError, match=f"contradicts the data set in 1 labels, the first at sample 'train/{row:03d}'"):
        make_parts(dataset, protocol(), 0, None, Mask("full", {}, 0, false, drawn.ids_sha256))


def test_unspecified_labels_are_mapped_for_training_only() -> None:
    splits = {"train": labelled([[P, X, N], [X, P, P]]), "test": labelled([[P, X, N]], "test")}
    dataset = Dataset("d", "1", ("a", "b", "c"), splits)
    rules = protocol("none", annotation=Annotation("full"), unspecified=Unspecified(train="negative"))
    parts, _ = make_parts(dataset, rules, 0, None)
    assert parts["train"].observed.tolist() == [[P, N, N], [N, P, P]]
    assert parts["train"].labels.tolist() == [[P, X, N], [X, P, P]]  # raw, for the scorer
    assert parts["test"].labels.tolist() == [[P, X, N]]


@pytest.mark.parametrize(
    ("supervision", "expected"),
    [
        (("observed",), [[P, U, U, X]]),
        (("observed", "label_count"), [[P, U, U, X]]),
        (("full",), [[P, P, N, X]]),
        (("oracle_negatives",), [[P, U, N, X]]),
    ],
)
def test_a_method_is_given_exactly_what_it_declares(supervision: tuple[str, ...], expected: list[list[int]]) -> None:
    dataset = Dataset("d", "1", tuple("abcd"), {"train": labelled([[P, P, N, X]]), "test": labelled([[P, P, N, X]])})
    parts, _ = make_parts(dataset, protocol("none"), 0, None)
    shown = np.array([[P, U, U, X]], dtype=np.int8)
    assert training_labels(replace(parts["train"], observed=shown), supervision, "ignore").tolist() == expected


# --- images and their augmentation ------------------------------------------------------------------------------------

IDS = tuple(f"sample {i}" for i in range(40))


def pictures() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)


def inputs(rows: np.ndarray | None = None, seed: int = 0, augment: tuple[str, ...] = ("flip",)) -> ImageInputs:
    rows = np.arange(40) if rows is None else rows
    sample = tuple(IDS[r] for r in rows)
    return ImageInputs({8: pictures()}, rows, sample, (0.0,) * 3, (1.0,) * 3, augment, ("data", seed))


def flipped(source: ImageInputs, index: list[int], epoch: int) -> dict[str, bool]:
    """By sample id, whether its picture comes mirrored in `epoch`."""
    index_array = np.array(index)
    shown = source.load(index_array, 8, torch.device("cpu"), epoch)
    plain = source.load(index_array, 8, torch.device("cpu"), None)
    found = {}
    for position, row in enumerate(index):
        mirrored = torch.equal(shown[position], plain[position].flip(-1))
        assert mirrored or torch.equal(shown[position], plain[position])
        found[IDS[source.rows[row]]] = mirrored
    return found


def test_pixels_become_the_values_worked_by_hand() -> None:
    source = ImageInputs({8: pictures()}, np.arange(40), IDS, (0.1, 0.2, 0.3), (0.5, 0.25, 2.0), (), ("data", 0))
    got = source.load(np.array([5, 2]), 8, torch.device("cpu"), None)
    raw = pictures()[[5, 2]].astype(np.float64) / 255
    expected = ((raw - [0.1, 0.2, 0.3]) / [0.5, 0.25, 2.0]).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(got.numpy(), expected, atol=1e-6)


def test_a_sample_is_mirrored_alike_in_any_batch_order_or_share() -> None:
    whole = flipped(inputs(), list(range(40)), 1)
    shuffled = flipped(inputs(), np.random.default_rng(1).permutation(40).tolist(), 1)
    one_by_one = {k: v for row in range(40) for k, v in flipped(inputs(), [row], 1).items()}
    shares = {k: v for rank in range(3) for k, v in flipped(inputs(), list(range(rank, 40, 3)), 1).items()}
    subset = flipped(inputs(np.arange(7, 29)), list(range(22)), 1)  # part of the rows, as after a holdout
    assert whole == shuffled == one_by_one == shares
    assert subset == {name: whole[name] for name in subset}
    assert 8 <= sum(whole.values()) <= 32  # about half


def test_mirroring_is_drawn_anew_for_each_epoch_and_repetition() -> None:
    draws = [flipped(inputs(seed=seed), list(range(40)), epoch) for seed in (0, 1) for epoch in (1, 2)]
    assert len({tuple(draw.values()) for draw in draws}) == 4


def test_nothing_is_mirrored_in_inference_or_where_it_was_not_asked_for() -> None:
    plain = inputs(augment=()).load(np.arange(40), 8, torch.device("cpu"), 1)
    assert torch.equal(plain, inputs().load(np.arange(40), 8, torch.device("cpu"), None))


def test_methods_of_one_repetition_share_mask_order_and_mirroring(tiny_request) -> None:
    runs = [resolve(tiny_request(name)) for name in ("an", "llr", "full")]
    assert len({run.mask.sha256 for run in runs}) == 1
    assert len({run.key for run in runs}) == 3
    for epoch in (1, 2):
        orders = [
            epoch_order(id_hashes(run.parts["train"].split.ids), (run.dataset.id, run.seed, epoch)) for run in runs
        ]
        assert all((order == orders[0]).all() for order in orders)


# --- features and boxes -----------------------------------------------------------------------------------------------


def test_pooled_features_are_the_mean_of_the_maps_row_for_row() -> None:
    maps = np.random.default_rng(0).normal(size=(6, 5, 2, 3)).astype(np.float16)
    pooled = maps.astype(np.float32).mean(axis=(2, 3))
    source = FeatureInputs(Features(maps, pooled), np.array([4, 0, 3]))
    index = np.array([2, 0])
    got = source.load(index, 64, torch.device("cpu"), 1)
    assert got.dtype == torch.float32
    assert (got.numpy() == maps[[3, 4]].astype(np.float32)).all()
    source.pooled = True
    assert (source.load(index, 64, torch.device("cpu"), 1).numpy()[:, :, 0, 0] == pooled[[3, 4]]).all()


def test_boxes_follow_their_row_into_a_part() -> None:
    dataset, run = without_val(tiny_dataset()), SimpleNamespace()  # boxes depend on the part alone
    parts, _ = make_parts(dataset, protocol(), 0, None)
    all_boxes = dataset.splits["train"].boxes
    assert all_boxes is not None
    for part in (parts["train"], parts["val"]):
        load = boxes_of(run, part)
        for position, row in enumerate(part.rows):
            (found,) = load(np.array([position]))
            height, width = part.split.images.load(position).shape[:2]
            expected = all_boxes[all_boxes[:, 0] == row, 1:] / np.array([1, width, height, width, height], np.float32)
            assert (found.numpy() == expected).all()
    nothing = replace(parts["test"], split=replace(parts["test"].split, boxes=None))
    assert boxes_of(run, nothing)(np.array([0, 1]))[1].shape == (0, 5)
