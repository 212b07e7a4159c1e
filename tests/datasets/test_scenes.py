"""The embedded data set: recorded bytes, honest labels and boxes, disjoint splits, and a cache that mends itself."""

from __future__ import annotations

import dataclasses
import itertools
import logging
import re
import subprocess
import sys

import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from mlbench.annotation import State
from mlbench.datasets import scenes

SMALL = {"train": 5, "val": 3, "test": 4}


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """The whole data set, built once for this module in a fresh cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLBENCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        return scenes.load_scenes()


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A few scenes in place of all, in a fresh cache; returns the path of the cache file."""
    sums = {name: scenes._digest(scenes.build_split(name, count)) for name, count in SMALL.items()}
    monkeypatch.setattr(scenes, "FIRST", dataclasses.replace(scenes.FIRST, counts=SMALL, sha256=sums))
    monkeypatch.setenv("MLBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "scenes-1" / "scenes.npz"


def pixels(dataset):
    return {name: split.images.array for name, split in dataset.splits.items()}


def test_built_data_set_has_the_recorded_bytes_and_shapes(full):
    # Another version would have told that the sums differ.
    assert (full.id, full.version, full.flippable) == ("scenes", "1", False)
    assert full.classes == tuple("0123456789")
    for name, count in {"train": 4000, "val": 1000, "test": 2000}.items():
        split = full.splits[name]
        assert len(split) == len(split.images) == count
        assert split.images.array.shape == (count, 64, 64, 3)
        assert split.images.array.dtype == np.uint8
        assert split.labels.shape == (count, 10)
        assert split.labels.dtype == np.int8
        assert split.boxes.dtype == np.float32
    assert full.splits["train"].ids[17] == "train/00017"


def test_second_edition_has_its_recorded_bytes_and_is_another_data_set(full, monkeypatch, tmp_path):
    monkeypatch.setenv("MLBENCH_CACHE", str(tmp_path))
    later = scenes.load_scenes(scenes.SECOND)
    # The recorded bytes, or the version would be another one.
    assert (later.id, later.version, later.notes, later.classes) == ("scenes-2", "2", (), full.classes)
    assert {name: len(split) for name, split in later.splits.items()} == {"train": 12000, "val": 1000, "test": 2000}
    shown = (later.splits["train"].labels == int(State.POSITIVE)).mean(axis=0)
    assert 0.14 < shown.min() < shown.max() < 0.28
    assert (tmp_path / "scenes-2" / "scenes.npz").is_file()
    assert later.fingerprint != full.fingerprint


def test_every_label_is_known_and_agrees_with_the_boxes(full):
    for split in full.splits.values():
        from_boxes = np.full(split.labels.shape, int(State.NEGATIVE))
        for row, number in split.boxes[:, :2].astype(int):
            from_boxes[row, number] = int(State.POSITIVE)
        np.testing.assert_array_equal(split.labels, from_boxes)
        counts = np.bincount(split.boxes[:, 0].astype(int), minlength=len(split))
        assert counts.min() >= 1
        assert counts.max() == 5
        assert (np.diff(split.boxes[:, 0]) >= 0).all()


def test_boxes_lie_in_the_picture_and_hide_at_most_a_third_of_each_other(full):
    split = full.splits["test"]
    boxes = split.boxes
    assert (boxes[:, 2:4] >= 0).all()
    assert (boxes[:, 4:6] <= 64).all()
    assert (boxes[:, 4:6] - boxes[:, 2:4] >= 4).all()
    for row in range(200):
        covers = []
        for _, _, x1, y1, x2, y2 in boxes[boxes[:, 0] == row].astype(int):
            cover = np.zeros((64, 64), dtype=bool)
            cover[y1:y2, x1:x2] = True
            covers.append(cover)
        for a, b in itertools.combinations(covers, 2):
            assert 3 * (a & b).sum() <= min(a.sum(), b.sum())


def test_box_of_a_lone_digit_encloses_its_bright_pixels_closely(full):
    # The background is darkened to at most half of 255 and a tint is at least 150, so brighter means ink.
    split = full.splits["val"]
    rows, counts = np.unique(split.boxes[:, 0].astype(int), return_counts=True)
    alone = rows[counts == 1]
    assert len(alone) > 100
    margins = []
    for row in alone:
        x1, y1, x2, y2 = split.boxes[split.boxes[:, 0] == row][0, 2:].astype(int)
        y, x = np.nonzero(split.images.array[row].max(axis=2) > 128)
        margins.append([x.min() - x1, y.min() - y1, x2 - 1 - x.max(), y2 - 1 - y.max()])
    assert np.min(margins) >= 0
    assert np.mean(margins) < 1


def test_classes_have_a_long_tail_and_co_occur_unevenly(full):
    present = (full.splits["train"].labels == State.POSITIVE).astype(np.int64)
    frequency = present.mean(axis=0)
    assert frequency.max() > 4 * frequency.min()
    lift = (present.T @ present / len(present)) / np.outer(frequency, frequency)
    off_diagonal = lift[~np.eye(10, dtype=bool)]
    assert off_diagonal.max() > 1.3
    assert off_diagonal.min() < 0.7


def test_no_picture_occurs_twice(full):
    every = [picture.tobytes() for array in pixels(full).values() for picture in array]
    assert len(set(every)) == 7000


def test_splits_share_no_digit_image():
    glyphs = {
        name: {glyph.tobytes() for part in scenes._glyphs(name) for glyph in part} for name in scenes.FIRST.counts
    }
    for a, b in itertools.combinations(glyphs.values(), 2):
        assert not a & b
    assert sum(map(len, glyphs.values())) == 1797


def test_splits_share_no_part_of_the_photographs():
    columns = np.zeros(80, dtype=int)
    for name, (left, right) in scenes._COLUMNS.items():
        columns[left:right] += 1
        assert all(part.shape == (53, right - left, 3) for part in scenes._photographs(name))
    assert (columns == 1).all()


def test_first_scenes_do_not_depend_on_how_many_are_made_or_on_numpys_global_state(full):
    np.random.seed(0)
    few = scenes.build_split("train", 7)
    np.testing.assert_array_equal(few["images"], full.splits["train"].images.array[:7])
    np.testing.assert_array_equal(few["labels"], full.splits["train"].labels[:7])


def test_fixed_point_sampling_agrees_with_bilinear_interpolation_in_floating_point():
    random = np.random.default_rng(0)
    source = random.integers(0, 256, size=(7, 9, 2))
    y, x = random.integers(-(2 << 16), 9 << 16, size=(2, 5, 40))
    found = scenes._sample(source, y, x)
    for channel in range(2):
        exact = map_coordinates(source[:, :, channel].astype(float), [y / 65536, x / 65536], order=1, mode="nearest")
        assert np.abs(found[:, :, channel] - exact).max() <= 0.5 + 1e-6


def test_image_source_hands_out_copies_and_names_without_a_path(full):
    images = full.splits["val"].images
    picture = images.load(3)
    np.testing.assert_array_equal(picture, images.array[3])
    picture[:] = 0
    assert images.array[3].any()
    assert images.describe(3).startswith("scenes-1/val/00003@")


def test_records_of_harness_1_state_this_fingerprint(full):
    assert full.legacy_fingerprint == "868170f70fceb081d8902f4d205e91367c14fff8b8c97af99073589959d4e754"


def test_second_call_reads_the_cache(small, monkeypatch):
    first = scenes.load_scenes()
    assert [path.name for path in small.parent.iterdir()] == ["scenes.npz"]
    monkeypatch.setattr(scenes, "build_split", lambda *_: pytest.fail("built again"))
    second = scenes.load_scenes()
    assert second.fingerprint == first.fingerprint
    for name in SMALL:
        np.testing.assert_array_equal(pixels(second)[name], pixels(first)[name])
        np.testing.assert_array_equal(second.splits[name].boxes, first.splits[name].boxes)


def damage_truncate(data):
    return data[: len(data) // 2]


def damage_one_pixel_in_valid_archive(_data):
    arrays = {f"{name}_{key}": part for name in SMALL for key, part in scenes.build_split(name, SMALL[name]).items()}
    arrays["val_images"][1, 2, 3, 0] ^= 1
    return arrays


@pytest.mark.parametrize(
    "damage",
    [damage_truncate, damage_one_pixel_in_valid_archive, lambda _: b"", lambda _: b"no archive", lambda _: {"a": [1]}],
)
def test_damaged_cache_is_noticed_and_built_again(small, caplog, damage):
    first = scenes.load_scenes()
    broken = damage(small.read_bytes())
    if isinstance(broken, bytes):
        small.write_bytes(broken)
    else:
        np.savez(small, **broken)
    with caplog.at_level(logging.WARNING):
        again = scenes.load_scenes()
    assert "built again" in caplog.text
    np.testing.assert_array_equal(pixels(again)["val"], pixels(first)["val"])
    caplog.clear()
    scenes.load_scenes()
    assert not caplog.records


def test_unwritable_cache_is_a_notice_and_no_error(small, tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("MLBENCH_CACHE", str(tmp_path / "file"))
    assert len(scenes.load_scenes().splits["val"]) == SMALL["val"]
    assert "cannot write the cache" in caplog.text


def test_failed_write_leaves_no_partial_file(small, monkeypatch, caplog):
    def fail(*_args):
        raise OSError("disk full")

    monkeypatch.setattr(scenes.os, "replace", fail)
    scenes.load_scenes()
    assert "disk full" in caplog.text
    assert list(small.parent.iterdir()) == []


def other_flower(monkeypatch):
    """A Pillow that decodes one photograph a little differently."""
    inputs = scenes._inputs()
    inputs["flower.jpg"] = inputs["flower.jpg"] ^ np.uint8(1)
    monkeypatch.setattr(scenes, "_inputs", lambda: inputs)


def test_other_bytes_are_another_version_that_says_what_differs(small, monkeypatch):
    recorded = scenes.load_scenes()
    assert recorded.notes == ()
    small.unlink()
    other_flower(monkeypatch)
    other = scenes.load_scenes()
    assert re.fullmatch("1-[0-9a-f]{8}", other.version)
    assert other.fingerprint != recorded.fingerprint
    assert other.splits["test"].images.describe(0).startswith(f"scenes-{other.version}/test/00000@")
    [note] = other.notes
    for told in (f"this is version {other.version}", "other inputs: flower.jpg;", f"NumPy {np.__version__}", "val has"):
        assert told in note


def test_other_bytes_are_kept_apart_and_read_again(small, monkeypatch):
    other_flower(monkeypatch)
    first = scenes.load_scenes()
    [kept] = small.parent.iterdir()
    assert kept != small
    assert np.__version__ in kept.name
    monkeypatch.setattr(scenes, "build_split", lambda *_: pytest.fail("built again"))
    again = scenes.load_scenes()
    assert (again.version, again.fingerprint, again.notes) == (first.version, first.fingerprint, first.notes)


def test_recorded_bytes_in_the_cache_are_version_1_whatever_is_installed(small, monkeypatch):
    scenes.load_scenes()
    other_flower(monkeypatch)
    assert scenes.load_scenes().version == "1"


def test_damaged_copy_of_other_bytes_is_built_again(small, monkeypatch, caplog):
    other_flower(monkeypatch)
    first = scenes.load_scenes()
    [kept] = small.parent.iterdir()
    with np.load(kept) as store:
        arrays = dict(store)
    arrays["val_images"][1, 2, 3, 0] ^= 1
    np.savez(kept, **arrays)
    assert scenes.load_scenes().version == first.version
    assert "built again" in caplog.text


def test_recorded_inputs_are_those_here():
    assert {name: scenes._input_digest(values) for name, values in scenes._inputs().items()} == scenes.INPUT_SHA256


def test_two_processes_can_build_at_once(small, tmp_path):
    program = (
        "import dataclasses\n"
        "from mlbench.datasets import scenes\n"
        f"changed = {{'counts': {SMALL!r}, 'sha256': {dict(scenes.FIRST.sha256)!r}}}\n"
        "scenes.FIRST = dataclasses.replace(scenes.FIRST, **changed)\n"
        "print(scenes.load_scenes().fingerprint)\n"
    )
    started = [
        subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    outputs = [process.communicate(timeout=120) for process in started]
    assert [process.returncode for process in started] == [0, 0], outputs
    assert outputs[0] == outputs[1] == (scenes.load_scenes().fingerprint + "\n", "")
    assert [path.name for path in small.parent.iterdir()] == ["scenes.npz"]
