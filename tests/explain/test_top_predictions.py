"""Top predictions under pictures: which are right, which pictures are chosen, and that marks do not need colour."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mlbench.annotation import State
from mlbench.conformance.testing import tiny_dataset
from mlbench.errors import UsageError
from mlbench.evaluation.predictions import read_predictions
from mlbench.explain import top as module
from mlbench.explain.top import MARKS, TILE, Top, differing_pictures, draw_top, top_predictions
from mlbench.store import run_dir

P, N, U = State.POSITIVE, State.NEGATIVE, State.UNKNOWN


def made(classes: list, states: list) -> Top:
    found = np.array(classes)
    data = tiny_dataset(test=found.shape[1])
    scores = np.full(found.shape, 0.5, dtype=np.float32)
    return Top(tuple("ab"[: len(found)]), data, found, scores, np.array(states, dtype=np.int8))


def test_right_ones_are_counted_and_runs_are_told_apart() -> None:
    top = made(
        [[[0, 1], [0, 1], [3, 2]], [[2, 3], [0, 2], [3, 2]]],
        [[P, P, N, N], [P, N, N, N], [U, N, P, U]],
    )
    np.testing.assert_array_equal(top.right(), [[2, 1, 1], [0, 1, 1]])
    assert top.text().splitlines() == [
        "a: 1.333 of the top 2 right on average over 3 test pictures",
        "b: 0.667 of the top 2 right on average over 3 test pictures",
        "b against a: more right on 0 pictures, fewer on 1",
    ]


def test_pictures_are_chosen_by_difference_then_by_contested_classes_then_by_order() -> None:
    states = [[P, P, N, N]] * 5
    first = [[0, 1], [0, 2], [0, 1], [0, 2], [0, 2]]
    second = [[0, 1], [0, 3], [2, 3], [1, 3], [0, 2]]
    # right: 2/2, 1/1 (2 contested), 2/0, 1/1 (4 contested), 1/1 (0 contested)
    top = made([first, second], states)
    assert differing_pictures(top, 5).tolist() == [2, 3, 1, 0, 4]
    assert differing_pictures(top, 2).tolist() == [2, 3]
    backwards = dataclasses.replace(top, classes=top.classes[::-1])
    assert differing_pictures(backwards, 5).tolist() == [2, 3, 1, 0, 4]


@pytest.fixture
def runs(train, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[dict]:
    monkeypatch.setattr(module, "load_dataset", lambda name, root: tiny_dataset())
    monkeypatch.setattr(module, "dataset_of", lambda record, dataset: "tiny")
    return [train("an"), train("random")]


def test_the_best_classes_come_from_stored_predictions_with_probabilities(runs, mlbench, tmp_path: Path) -> None:
    keys = [record["key"][:12] for record in runs]
    found = top_predictions(keys, 2, tmp_path / "runs")
    test = tiny_dataset().splits["test"]
    for number, record in enumerate(runs):
        stored = read_predictions(run_dir(tmp_path / "runs", record["key"]) / "test.safetensors")
        assert stored.ids == tuple(test.ids)
        for row in range(len(test)):
            by_score = sorted(range(4), key=lambda c: (-stored.scores[row, c], c))[:2]
            assert found.classes[number, row].tolist() == by_score
            values = stored.scores[row, by_score].astype(np.float64)
            shown = 1 / (1 + np.exp(-values)) if stored.kind == "logit" else values
            np.testing.assert_allclose(found.scores[number, row], shown, rtol=1e-5)
    np.testing.assert_array_equal(found.states, test.labels)

    picture = tmp_path / "new" / "top.png"
    given = ("explain", "top", *keys, "--k", 2, "--store", tmp_path / "runs", "--picture", picture)
    code, out, err = mlbench(*given, "--images", 3)
    assert code == 0, err
    assert out == f"{found.text()}\nwrote {picture}\n"
    with Image.open(picture) as image:
        three = image.size
    code, _, err = mlbench(*given, "--ids", "test/004")
    assert code == 0, err
    with Image.open(picture) as image:
        assert three == (3 * image.width, image.height)
    code, _, err = mlbench(*given, "--ids", "test/04")
    assert (code, "unknown test image 'test/04'" in err) == (2, True)
    for wrong in (0, 5):
        code, _, err = mlbench("explain", "top", *keys, "--k", wrong, "--store", tmp_path / "runs")
        assert (code, "expected a whole number from 1 to 4" in err) == (2, True)


def test_what_cannot_be_drawn_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no run given"):
        top_predictions([])
    with pytest.raises(UsageError, match="--images 0"):
        draw_top(made([[[0]]], [[P, N, N, N]]), tmp_path / "a.png", images=0)


def test_the_picture_stands_above_its_marks_and_marks_differ_without_colour(tmp_path: Path) -> None:
    def drawn(state: State) -> np.ndarray:
        states = [[state, N, N, N]]
        with Image.open(draw_top(made([[[0]]], states), tmp_path / "a.png")) as image:
            return np.asarray(image.convert("RGB")).astype(int)

    right, wrong, open_ = (drawn(state) for state in (P, N, U))
    shown = tiny_dataset(test=1).splits["test"].images.load(0)
    small = right[14 : 14 + TILE, 14 : 14 + TILE]
    centres = ((np.arange(64) + 0.5) * TILE / 64).astype(int)
    np.testing.assert_array_equal(small[np.ix_(centres, centres)], shown)
    lines = [np.asarray(image[-60:].min(axis=2) < 200) for image in (right, wrong, open_)]  # ink, whatever its colour
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert (lines[a] != lines[b]).any()
    assert len({sign for sign, _ in MARKS.values()}) == 3


def test_long_names_and_many_labels_stay_within_their_column() -> None:
    long = "a label with a name that is much longer than any column of a picture could ever be made"
    data = dataclasses.replace(tiny_dataset(test=1), classes=tuple(f"{long} {i}" for i in range(4)))
    top = dataclasses.replace(made([[[0, 1]], [[2, 3]]], [[P, P, P, P]]), data=data)
    block = np.asarray(module._block(top, 0)).astype(int)
    assert (block[TILE + 20 :, -10:] == 255).all()
    assert module._cut(long, 50).endswith("…")
    lines = module._wrapped(long * 3, 200)
    assert len(lines) == 3
    assert all(module._font().getlength(line) <= 200 for line in lines)
