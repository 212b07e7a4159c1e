"""Proposals as cached arrays: packed, resumable, bound to their images, imported under a name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mlbench.conformance.testing import ArrayImages, tiny_dataset
from mlbench.errors import DataError, UsageError
from mlbench.proposals import arrays, import_proposals, load_proposals, split_proposals
from mlbench.proposals.arrays import compute_proposals, pack, proposals_identity, proposals_sha256
from mlbench.proposals.grid import window_grid


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLBENCH_CACHE", str(tmp_path))


def drawn(image: np.ndarray, key: int) -> np.ndarray:
    """Between 1 and 6 boxes, seeded by the key."""
    random = np.random.RandomState(key % 2**32)
    count = random.randint(1, 7)
    corners = np.sort(random.rand(count, 2, 2), axis=1).reshape(count, 4)
    return np.column_stack([corners, random.rand(count)])


ABOUT = ("drawn", 4, {"method": "drawn"})


def test_the_best_boxes_come_first_and_the_rest_is_zero() -> None:
    found = np.array([[0, 0, 0.5, 0.5, 0.1], [0.1, 0.2, 1, 1, 0.9], [0, 0, 1, 1, 0.1]])
    np.testing.assert_array_equal(pack(found, 2), found[[1, 0]].astype(np.float32))
    packed = pack(found, 5)
    np.testing.assert_array_equal(packed[:3], found[[1, 0, 2]].astype(np.float32))
    assert not packed[3:].any()
    boxes, scores, valid = split_proposals(torch.from_numpy(packed)[None])
    assert boxes.shape == (1, 5, 4)
    assert valid.tolist() == [[True, True, True, False, False]]
    assert scores[0, 0] == pytest.approx(0.9)


@pytest.mark.parametrize(
    "box", [[0.5, 0, 0.5, 1, 1], [0, 0.6, 1, 0.5, 1], [-0.1, 0, 1, 1, 1], [0, 0, 1.1, 1, 1], [0, 0, 1, 1, np.nan]]
)
def test_what_is_no_box_is_refused_by_its_number(box: list[float]) -> None:
    with pytest.raises(DataError, match=r"photo: 1 of 2 boxes .* number 2"):
        pack(np.array([[0, 0, 1, 1, 1], box]), 2, "photo")
    with pytest.raises(DataError, match="no box"):
        pack(np.zeros((0, 5)), 2)


def test_arrays_hold_each_image_and_are_mapped() -> None:
    split = tiny_dataset().splits["train"]
    array = compute_proposals(split, drawn, *ABOUT)
    assert (array.shape, array.dtype) == ((32, 4, 5), np.float32)
    keys = arrays.id_hashes(split.ids)
    for row, key in enumerate(keys):
        np.testing.assert_array_equal(array[row], pack(drawn(split.images.load(row), int(key)), 4))


def test_a_killed_computation_goes_on_at_its_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrays, "_ROWS_AT_ONCE", 8)
    split = tiny_dataset().splits["train"]
    whole = np.array(compute_proposals(split, drawn, "whole", *ABOUT[1:]))
    calls: list[int] = []

    def stopping(image: np.ndarray, key: int) -> np.ndarray:
        calls.append(key)
        if len(calls) == 20:
            raise KeyboardInterrupt
        return drawn(image, key)

    with pytest.raises(KeyboardInterrupt):
        compute_proposals(split, stopping, *ABOUT)
    first = len(calls)
    done: list[tuple[int, int]] = []
    resumed = compute_proposals(
        split, lambda *given: calls.append(0) or drawn(*given), *ABOUT, lambda *at: done.append(at)
    )
    assert len(calls) - first == 16
    assert done == [(24, 32), (32, 32)]
    np.testing.assert_array_equal(resumed, whole)


def test_damage_is_found() -> None:
    split = tiny_dataset().splits["train"]
    compute_proposals(split, drawn, *ABOUT)
    path = arrays._named_file(split, "drawn", 4)
    data = bytearray(path.read_bytes())
    data[-7] ^= 1
    path.write_bytes(data)
    for read in (lambda: load_proposals(split, "drawn", 4)[:], lambda: proposals_sha256(split, "drawn", 4)):
        with pytest.raises(DataError, match="damaged, rows 0 to 31 are not what was written"):
            read()
    path.write_bytes(data[:-20])
    with pytest.raises(DataError, match="damaged cache file"):
        load_proposals(split, "drawn", 4)


def test_boxes_of_another_model_do_not_pass_for_those_of_the_first() -> None:
    split = tiny_dataset().splits["test"]
    first, second = (lambda image, key, at=at: np.array([[at, at, at + 0.5, at + 0.5, 1]]) for at in (0, 0.5))
    compute_proposals(split, first, "edges", 4, {"model": "a"})
    with pytest.raises(UsageError, match=r"made by another rule \(.*'a'.*'b'.*\); choose another name"):
        compute_proposals(split, second, "edges", 4, {"model": "b"})
    with pytest.raises(UsageError, match="nothing says what they are computed by"):
        compute_proposals(split, second, "more", 4, {})
    with pytest.raises(UsageError, match="Choose another name"):
        compute_proposals(split, second, "grid", 4, {"model": "b"})
    other = compute_proposals(split, second, "other edges", 4, {"model": "b"})
    assert (load_proposals(split, "edges", 4)[0, 0, 0], other[0, 0, 0]) == (0, 0.5)


def test_a_killed_computation_is_not_resumed_with_another_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrays, "_ROWS_AT_ONCE", 4)
    split, calls = tiny_dataset().splits["test"], []

    def stopping(image: np.ndarray, key: int) -> np.ndarray:
        calls.append(key)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return np.array([[0, 0, 0.5, 0.5, 1]])

    with pytest.raises(KeyboardInterrupt):
        compute_proposals(split, stopping, "edges", 2, {"model": "a"})
    array = compute_proposals(split, lambda image, key: np.array([[0.5, 0.5, 1, 1, 1]]), "edges", 2, {"model": "b"})
    assert (array[:, 0, 0] == 0.5).all()


def test_proposals_belong_to_the_pictures_and_not_to_their_names() -> None:
    split = tiny_dataset().splits["test"]
    other = replace(split, images=ArrayImages(255 - split.images.array))
    assert split.images.describe(0) != other.images.describe(0)
    found = {sample: drawn(None, 1) for sample in split.ids}
    import_proposals(split, found, "mine", 3)
    with pytest.raises(UsageError, match="were imported under this name"):
        load_proposals(other, "mine", 3)
    assert load_proposals(split, "grid", 5).path != load_proposals(other, "grid", 5).path


def test_imports_are_found_by_name_and_count_and_cannot_change() -> None:
    split = tiny_dataset().splits["test"]
    found = {sample: drawn(None, at) for at, sample in enumerate((*split.ids, "another"))}
    array = import_proposals(split, found, "mine", 3)
    np.testing.assert_array_equal(array[2], pack(found[split.ids[2]], 3))
    np.testing.assert_array_equal(load_proposals(split, "mine", 3), array)
    import_proposals(split, found, "mine", 3)
    other = {**found, split.ids[0]: found[split.ids[1]]}
    with pytest.raises(UsageError, match="there already and differ"):
        import_proposals(split, other, "mine", 3)
    with pytest.raises(UsageError, match=r"with 4 an image \(imported of them: mine with 3\)\."):
        load_proposals(split, "mine", 4)
    with pytest.raises(UsageError, match=r"with 3 an image \(imported .*Did you mean 'mine'"):
        load_proposals(split, "mien", 3)
    with pytest.raises(UsageError, match="Did you mean 'grid'"):
        load_proposals(split, "grids", 3)
    with pytest.raises(UsageError, match="Choose another name"):
        import_proposals(split, found, "grid", 3)
    with pytest.raises(DataError, match=r"1 of 9 images have none: .*test/000"):
        import_proposals(split, {k: v for k, v in found.items() if k != "test/000"}, "few", 3)
    with pytest.raises(UsageError, match="at least 1"):
        load_proposals(split, "grid", 0)


def test_identity_is_the_rule_or_the_content() -> None:
    splits = tiny_dataset().splits
    assert proposals_identity(splits, "grid", 5) == {"source": "grid", "count": 5, "rule": arrays.GRID_RULE}
    found = {sample: drawn(None, 1) for split in splits.values() for sample in split.ids}
    import_proposals(splits["train"], found, "mine", 3)
    with pytest.raises(UsageError, match=r"images of part 'test' were imported .*\(imported of them: none\)"):
        proposals_identity(splits, "mine", 3)  # and not after an epoch of training
    for name in ("test", "val"):
        import_proposals(splits[name], found, "mine", 3)
    assert proposals_identity(splits, "mine", 3)["sha256"].keys() == {"test", "train", "val"}
    # Other pictures under the same ids have proposals of their own.
    others = replace(splits["test"], ids=splits["train"].ids[: len(splits["test"])])
    with pytest.raises(UsageError, match="imported under this name"):
        proposals_identity({"train": others}, "mine", 3)


def test_windows_cover_the_image_and_lie_inside() -> None:
    boxes = window_grid(np.zeros((5, 9, 3), np.uint8))
    np.testing.assert_array_equal(boxes[0], [0, 0, 1, 1, 1])
    assert len(boxes) == len(np.unique(boxes[:, :4], axis=0))
    assert pack(boxes, len(boxes)).shape == boxes.shape
    assert (np.diff(boxes[:, 4]) < 0).all()
    sides = (boxes[:, 2:4] - boxes[:, :2]).round(5)
    assert (sides[:, 0] == sides[:, 1]).all()


def test_fewer_proposals_are_the_best_of_those_that_are_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    split = tiny_dataset().splits["test"]
    calls: list[int] = []
    monkeypatch.setitem(arrays.SOURCES, "drawn", (lambda image, key: calls.append(key) or drawn(image, key), "a rule"))
    many, few = load_proposals(split, "drawn", 6), load_proposals(split, "drawn", 2)
    assert len(calls) == 9
    assert (many.shape, few.shape) == ((9, 6, 5), (9, 2, 5))
    np.testing.assert_array_equal(few, many[:, :2])
    np.testing.assert_array_equal(few[4], pack(drawn(None, int(arrays.id_hashes(split.ids)[4])), 2))
