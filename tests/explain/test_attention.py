"""Attention under transforms: the error against hand arithmetic, and networks whose answer is known."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from mlbench.conformance.testing import tiny_dataset
from mlbench.errors import UsageError
from mlbench.explain import attention
from mlbench.explain.attention import (
    Agreement,
    Model,
    compared,
    consistency_rows,
    consistency_text,
    draw_attention,
    models_of,
    views_of,
)
from mlbench.explain.cam import CAPTION, GAP, TILE
from mlbench.inputs.tensors import normalise
from mlbench.methods import Batch, Prediction
from mlbench.models.heads import Classifier, Head
from mlbench.runner.plan import resolve
from mlbench.store import all_runs

ALL = ("flip", "scale", "rotate", "shift")


class LeftHalf(nn.Module):
    """Sees the left half of the image only: never the same of a mirrored one."""

    def forward(self, images: Tensor) -> Tensor:
        maps = nn.functional.avg_pool2d(images, 8)
        return torch.cat([maps[..., : maps.shape[-1] // 2], torch.zeros_like(maps[..., maps.shape[-1] // 2 :])], dim=-1)


def model_of(trunk: nn.Module, scores: str = "logit", decide: Any = None, bias: float = 0.0, name: str = "m") -> Model:
    """A model on the tiny data set: cells of 8 pixels, a linear head with fixed weights."""
    data = tiny_dataset()
    torch.manual_seed(0)
    network = Classifier(trunk, Head(3, len(data.classes), kind="cam")).eval()
    nn.init.constant_(network.head.bias, bias)  # type: ignore[arg-type]
    images = data.splits["test"].images.array  # type: ignore[attr-defined]

    def batch(name: str, rows: np.ndarray, epoch: None) -> Batch:
        raw = torch.from_numpy(images[rows])
        return Batch(normalise(raw, (0.5,) * 3, (0.25,) * 3), torch.from_numpy(rows))

    def predict(network: nn.Module, batch: Batch) -> Tensor | Prediction:
        logits = network(batch.inputs).logits
        return logits if decide is None else Prediction(logits, decide(logits))

    run = SimpleNamespace(
        dataset=data,
        backbone="scenes",
        train=SimpleNamespace(image_size=64),
        method=SimpleNamespace(name=name, scores=scores),
        protocol=SimpleNamespace(metrics=SimpleNamespace(decision=0.5)),
    )
    return Model(name, run, SimpleNamespace(predict=predict), network, SimpleNamespace(batch=batch))  # type: ignore[arg-type]


# --- the error --------------------------------------------------------------------------------------------------------


def test_the_error_is_the_squared_difference_over_both_variances() -> None:
    random = np.random.default_rng(0)
    a, b = random.normal(3, 2, (2, 5, 3, 4, 4))
    weight = random.integers(0, 3, (5, 1, 4, 4))
    sums = Agreement(3)
    for rows in (slice(0, 3), slice(3, 5)):  # a smaller last batch
        sums.add(*(torch.from_numpy(x[rows]) for x in (a, b, weight)))
    expected = []
    for c in range(3):
        first, second = (np.repeat(x[:, c].ravel(), weight.ravel()) for x in (a, b))
        expected.append(((first - second) ** 2).mean() / (first.var() + second.var()))
    np.testing.assert_allclose(sums.errors(), expected, rtol=1e-10)


def error_of(a: Tensor, b: Tensor) -> float:
    sums = Agreement(1)
    sums.add(a, b, torch.ones_like(a))
    return float(sums.errors()[0])


def test_equal_maps_have_no_error_unrelated_ones_1_and_opposite_ones_2() -> None:
    torch.manual_seed(0)
    a, b = torch.randn(2, 200, 1, 7, 7).unbind()
    assert error_of(a, a) == 0.0
    assert error_of(a, b) == pytest.approx(1.0, abs=0.05)
    assert error_of(a - a.mean(), a.mean() - a) == pytest.approx(2.0)


def test_neither_scale_nor_offset_of_the_maps_matters() -> None:
    torch.manual_seed(0)
    a, b = torch.randn(2, 20, 1, 7, 7).unbind()
    assert error_of(1e-3 * a - 100, 1e-3 * b - 100) == pytest.approx(error_of(a, b), rel=1e-2)
    assert error_of(1e3 * a, 1e3 * b) == pytest.approx(error_of(a, b), rel=1e-6)


@pytest.mark.parametrize("value", [0.0, 50.0, -0.1])
def test_maps_that_never_change_have_no_error_to_speak_of(value: float) -> None:
    maps = torch.full((4, 1, 3, 3), value)
    assert np.isnan(error_of(maps, maps))


def test_two_sizes_are_compared_on_their_least_common_multiple() -> None:
    torch.manual_seed(0)
    big, small = torch.randn(4, 2, 3, 3, dtype=torch.float64), torch.randn(4, 2, 2, 2, dtype=torch.float64)
    first, second, weight = compared(big, small, views_of(["scale"])[0])
    a, b = np.kron(big.numpy(), np.ones((2, 2))), np.kron(small.numpy(), np.ones((3, 3)))
    np.testing.assert_allclose((weight * (first - second) ** 2).sum((2, 3)), ((a - b) ** 2).sum((2, 3)))
    np.testing.assert_array_equal(weight.sum((1, 2, 3)), [36.0] * 4)


def test_cells_that_a_shift_brings_in_are_left_out() -> None:
    maps = torch.arange(9.0).reshape(1, 1, 3, 3)
    view = views_of(["shift"])[0]
    first, second, weight = compared(maps, view.image(maps), view)
    np.testing.assert_array_equal(weight[0, 0], [[1, 1, 0]] * 3)
    torch.testing.assert_close(first[weight > 0], second[weight > 0])


# --- networks whose answer is known -----------------------------------------------------------------------------------


def test_a_network_that_moves_with_the_image_has_no_error() -> None:
    views = views_of(["flip", "rotate", "shift", "flip+rotate"])
    model = model_of(nn.AvgPool2d(8))
    found = model.consistency(views)
    for each in found:
        np.testing.assert_allclose(each.error, 0.0, atol=1e-10)
    for each, view in zip(found, views, strict=True):
        if view.name != "shift":  # what leaves the image takes evidence along
            assert not each.changed.any()


def test_a_smaller_image_is_resized_from_the_original() -> None:
    found = model_of(nn.AvgPool2d(8)).consistency(views_of(["scale"]))[0]
    assert (found.error < 0.5).all()
    assert (found.error > 0).all()


def test_a_network_that_looks_left_errs_and_its_decisions_change_as_counted_by_hand(monkeypatch) -> None:
    model = model_of(LeftHalf())
    view = views_of(["flip"])
    whole = model.consistency(view)[0]
    plain, mirrored = model.batches(np.arange(9), view)
    with torch.inference_mode():
        before, after = (model.network(batch.inputs).logits > 0 for batch in (plain, mirrored))
    np.testing.assert_allclose(whole.changed, 100 * (before != after).float().mean(dim=0).numpy(), rtol=1e-6)
    assert whole.changed.any()
    assert (whole.error > 0.5).all()
    monkeypatch.setattr(attention, "BATCH", 4)
    in_parts = model.consistency(view)[0]
    np.testing.assert_allclose(in_parts.error, whole.error)
    np.testing.assert_array_equal(in_parts.changed, whole.changed)


def test_a_method_s_own_decisions_count_and_ranks_without_them_have_none() -> None:
    always = model_of(LeftHalf(), "rank", lambda logits: torch.ones_like(logits, dtype=torch.bool))
    assert not always.consistency(views_of(["flip"]))[0].changed.any()
    assert np.isnan(model_of(LeftHalf(), "rank").consistency(views_of(["flip"]))[0].changed).all()


def test_means_over_runs_of_a_method_and_over_classes() -> None:
    models = [model_of(LeftHalf()), model_of(LeftHalf(), bias=1.0)]
    views = views_of(["flip", "rotate"])
    rows = consistency_rows([*models, model_of(LeftHalf(), bias=2.0, name="another")], views)
    each = [model.consistency(views) for model in models]
    mean = next(row for row in rows if row["view"] == "rotate" and row["class"] == "(mean)")
    assert mean["runs"] == 2
    assert mean["changed"] == pytest.approx(np.mean([run[1].changed for run in each]))
    one = next(row for row in rows if row["view"] == "flip" and row["class"] == "class 2")
    assert one["error"] == pytest.approx(np.mean([run[0].error[2] for run in each]))
    assert "| class 1 |" in consistency_text(rows)


def test_a_class_named_alone_is_looked_for_before_anything_is_computed() -> None:
    views = views_of(["flip"])
    rows = consistency_rows([model_of(LeftHalf())], views, "class 2")
    assert [row["class"] for row in rows] == ["(mean)", "class 2"]
    every = consistency_rows([model_of(LeftHalf())], views)
    assert rows == [row for row in every if row["class"] in ("(mean)", "class 2")]
    text = consistency_text(rows)
    assert "| class 2 |" in text
    assert "class 1" not in text
    model = model_of(LeftHalf())
    model.ask = None  # type: ignore[method-assign, assignment]  # so that asking it anything fails
    with pytest.raises(UsageError, match="Did you mean 'class 2'"):
        consistency_rows([model], views, "clas 2")


# --- the picture ------------------------------------------------------------------------------------------------------


def test_rows_are_flipped_original_scaled_and_columns_methods(tmp_path: Path) -> None:
    models = [model_of(nn.AvgPool2d(8)), model_of(LeftHalf())]
    picture = draw_attention(models, "class 1", views_of(["flip", "scale"]), tmp_path / "new" / "a.png")
    with Image.open(picture) as image:
        drawn = np.asarray(image.convert("RGB"))
    assert drawn.shape == (CAPTION + 3 * (TILE + CAPTION) + GAP, 3 * (TILE + GAP) + GAP, 3)

    def tile(row: int, column: int, side: int = TILE) -> np.ndarray:
        top, left = 2 * CAPTION - 4 + row * (TILE + CAPTION), GAP + column * (TILE + GAP)
        return drawn[top : top + side, left : left + side].astype(int)

    for column in (0, 1):  # the photograph, and a network that moves with it
        assert np.abs(tile(0, column)[:, ::-1] - tile(1, column)).max() <= 2
    assert np.abs(tile(0, 2)[:, ::-1] - tile(1, 2)).max() > 20
    side = TILE * 56 // 64
    smaller = np.asarray(Image.fromarray(tile(1, 0).astype(np.uint8)).resize((side, side)), dtype=int)
    assert np.abs(smaller - tile(2, 0, side)).mean() < 10
    assert (tile(2, 0)[side + 1 :] == 255).all()


def test_the_image_can_be_chosen_also_without_the_class(tmp_path: Path) -> None:
    model = model_of(nn.AvgPool2d(8))
    draw_attention([model], "class 0", views_of(["flip"]), tmp_path / "a.png", "test/004")
    with pytest.raises(UsageError, match="unknown test image 'test/04'"):
        draw_attention([model], "class 0", views_of(["flip"]), tmp_path / "b.png", "test/04")
    with pytest.raises(UsageError, match="unknown class 'clas 0'"):
        draw_attention([model], "clas 0", views_of(["flip"]), tmp_path / "b.png")
    assert not (tmp_path / "b.png").exists()


# --- what is refused, and the command ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "message"),
    [(["flop"], "Did you mean 'flip'"), (["flip+scal"], "'scale'"), ([], "no view given"), (["flip"] * 2, "each once")],
)
def test_wrong_views_are_refused(names: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        views_of(names)


@pytest.fixture
def runs(train, tiny_request, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store with runs on the tiny data set, which is in no catalogue: two tracks, and a method without a network."""
    train("an")
    train("prior")
    train("an", track="head")

    def reload(record, *others):
        identity = record["identity"]
        return resolve(tiny_request(identity["method"]["name"], track=identity["track"]))

    monkeypatch.setattr(attention, "reload_run", reload)
    return tmp_path / "runs"


def test_the_command_draws_and_counts_and_says_which_runs_it_cannot_ask(runs: Path, mlbench, tmp_path: Path) -> None:
    given = ("explain", "attention", "--store", runs, "--views", "flip,scale,flip+rotate", "--device", "cpu")
    code, out, err = mlbench(*given, "--label", "class 0", "--picture", tmp_path / "a.png")
    assert (code, out.strip()) == (0, f"wrote {tmp_path / 'a.png'}"), err
    code, out, err = mlbench(*given, "--numbers")
    assert code == 0, err
    keys = {(r["identity"]["method"]["name"], r["identity"]["track"]): r["key"] for r in all_runs(runs)}
    assert f"| an ({keys['an', 'full'][:8]}) |      1 | flip+rotate |" in out
    assert "prior" not in out
    code, _, err = mlbench(*given)
    assert code == 2
    assert "--label" in err
    for run, message in (
        (keys["an", "head"], "track 'head' is fed cached features"),
        (keys["prior", "full"], "no class activation maps"),
    ):
        code, _, err = mlbench("explain", "attention", run, "--store", runs, "--numbers")
        assert code == 2
        assert message in err


def test_runs_are_loaded_one_after_the_other_and_counted(runs: Path, train) -> None:
    train("bce")
    told: list[tuple[int, int]] = []
    models = models_of([], runs, advance=lambda done, total: told.append((done, total)))
    before = len(told), next(models).run.method.name, len(told)
    after = [model.run.method.name for model in models]
    assert {before[1], *after} == {"an", "bce"}
    assert before[0] == 0
    assert before[2] < len(told)
    assert told == [(done, 4) for done in range(1, 5)]


def test_runs_whose_side_inputs_would_stay_behind_are_refused(runs: Path, monkeypatch) -> None:
    key = next(r["key"] for r in all_runs(runs) if r["identity"]["track"] == "full")
    real = attention.reload_run
    monkeypatch.setattr(attention, "reload_run", lambda *given: _with_boxes(real(*given)))
    monkeypatch.setattr(attention, "reload_network", lambda *given: (None, None, None))
    with pytest.raises(UsageError, match="takes boxes beside the image"):
        list(models_of([key], runs))


def _with_boxes(run: Any) -> Any:
    return SimpleNamespace(**{**vars(run), "method": SimpleNamespace(inputs=("boxes",), name="an"), "train": run.train})
