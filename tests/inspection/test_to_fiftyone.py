"""Inspected images in FiftyOne's database, where one can be had, and what is refused."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mlbench.annotation import State
from mlbench.errors import MlbenchError, UsageError
from mlbench.inspection import to_fiftyone
from mlbench.inspection.look import FLAGS, Look, look
from mlbench.inspection.to_fiftyone import LISTED, MAPS, default_name, write_fiftyone


@pytest.fixture
def clean(database: Any) -> Iterator[Any]:
    yield database
    for name in database.list_datasets():
        database.delete_dataset(name)


def test_every_number_and_label_of_a_sample_is_written(clean: Any, made: Callable[..., Look], tmp_path: Path) -> None:
    seen = made()
    written = write_fiftyone(seen, "made", pictures=tmp_path / "png")
    dataset = clean.load_dataset("made")
    assert dataset.persistent
    assert dataset.default_classes == list(seen.data.classes)
    assert len(dataset) == len(seen)
    assert len(list((tmp_path / "png").glob("train-*.png"))) == len(seen)
    for row, sample in enumerate(dataset):
        assert sample.name == seen.split.ids[row]
        assert sample.tags == ["train"]
        assert (sample.metadata.width, sample.metadata.height) == (40, 40)
        positive = np.flatnonzero(seen.truth[row] == State.POSITIVE)
        assert [label.label for label in sample.truth.classifications] == [seen.data.classes[c] for c in positive]
        assert [label.observed for label in sample.truth.classifications] == [
            "positive" if seen.observed[row, c] == State.POSITIVE else "unknown" for c in positive
        ]
        for field, state in (("observed", 1), ("observed_negative", -1), ("unknown", 0)):
            labels = {label.label for label in sample[field].classifications}
            assert labels == {seen.data.classes[c] for c in np.flatnonzero(seen.observed[row] == state)}
        assert sample.unknown_count == (seen.observed[row] == State.UNKNOWN).sum()
        for sight in seen.runs:
            np.testing.assert_array_equal(sample[f"{sight.name}_scores"], sight.scores.values[row])
            assert sample[f"{sight.name}_ap"] == (None if np.isnan(sight.ap[row]) else sight.ap[row])
            assert sample[f"{sight.name}_loss"] == pytest.approx(sight.loss[row])
            said = {label.label: label for label in sample[sight.name].classifications}
            assert len(said) == min(LISTED, 4)
            for c, name in enumerate(seen.data.classes):
                assert said[name].confidence == pytest.approx(sight.probability[row, c])
                assert said[name].decided == sight.decided[row, c]
            for flag in FLAGS:
                marked = {label.label for label in sample[f"{sight.name}_{flag}"].classifications}
                assert marked == {seen.data.classes[c] for c in np.flatnonzero(getattr(sight, flag)[row])}
        assert sample.disagreement == seen.differ[row]
        assert sample.difference == pytest.approx(seen.difference[row])
    boxes = dataset.skip(1).first().boxes.detections
    assert [box.label for box in boxes] == [seen.data.classes[0], seen.data.classes[3]]
    np.testing.assert_allclose([box.bounding_box for box in boxes], [[0.1, 0.2, 0.4, 0.5], [0, 0, 1, 1]])
    assert dataset.app_config.active_fields.paths == ["truth", "observed", "run_0_found", "run_1_found"]
    schema = dataset.get_field_schema(flat=True)
    assert {
        "truth.classifications.observed",
        "run_1.classifications.decided",
        "run_0_found.classifications.score",
    } <= set(schema)
    assert f"wrote FiftyOne data set 'made': {len(seen)} of {len(seen)} images" in written.text()


def test_saved_views_hold_what_they_are_called(clean: Any, made: Callable[..., Look], tmp_path: Path) -> None:
    seen = made(30)
    write_fiftyone(seen, "made", pictures=tmp_path)
    dataset = clean.load_dataset("made")
    expected = {f"{s.name}: {text}": s.order(flag) for s in seen.runs for flag, text in FLAGS.items()}
    expected["runs disagree"] = seen.disagreeing()
    assert set(dataset.list_saved_views()) == {name for name, rows in expected.items() if len(rows)}
    for name in dataset.list_saved_views():
        assert dataset.load_saved_view(name).values("name") == [seen.split.ids[row] for row in expected[name]]


def test_a_real_run_has_its_own_files_and_heat_maps(
    clean: Any, two_runs: dict[str, Any], photos: Path, mlbench: Callable[..., Any], monkeypatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    given = ("--store", two_runs["store"], "--dataset", two_runs["dataset"], "--device", "cpu")
    code, out, err = mlbench("inspect", two_runs["keys"][0], *given, "--no-launch", "--images", 6)
    assert code == 0, err
    name = f"mine-train-an-{two_runs['keys'][0][:8]}"
    assert f"wrote FiftyOne data set '{name}': 6 of " in out
    assert "app:" not in out
    assert not list(tmp_path.iterdir())
    seen = look([two_runs["keys"][0]], store=two_runs["store"], dataset=two_runs["dataset"], device="cpu")
    assert default_name(seen) == name
    rows = seen.rows_by_interest(6)
    maps = seen.runs[0].maps("train", rows)
    assert maps is not None
    for at, (row, sample) in enumerate(zip(rows, clean.load_dataset(name), strict=True)):
        assert sample.filepath == str((photos / "pictures" / Path(sample.name).name).resolve())
        for number, c in enumerate(seen.classes_of(int(row), MAPS), start=1):
            heat = sample[f"an_map_{number}"]
            assert heat.label == seen.data.classes[c]
            np.testing.assert_allclose(heat.map * np.abs(maps[at, c]).max(), maps[at, c], rtol=1e-4, atol=1e-6)


def test_a_data_set_is_replaced_only_on_request_and_only_one_of_ours(
    clean: Any, made: Callable[..., Look], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_fiftyone(made(), "made", pictures=tmp_path)
    with pytest.raises(UsageError, match="'made' exists: --overwrite replaces it"):
        write_fiftyone(made(3), "made", pictures=tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(to_fiftyone, "_save_views", lambda *given: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            write_fiftyone(made(3), "made", overwrite=True, pictures=tmp_path)
    assert (clean.list_datasets(), len(clean.load_dataset("made"))) == (["made"], 12)
    write_fiftyone(made(3), "made", overwrite=True, pictures=tmp_path)
    assert len(clean.load_dataset("made")) == 3
    clean.Dataset("theirs", persistent=True)
    with pytest.raises(UsageError, match="'theirs' was not written by `mlbench inspect` and is not replaced"):
        write_fiftyone(made(3), "theirs", overwrite=True, pictures=tmp_path)


def test_the_app_is_launched_on_what_was_written_and_its_address_told(
    clean: Any, two_runs: dict[str, Any], mlbench: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []

    def launch_app(dataset: Any, **given: Any) -> Any:
        assert (dataset.name, given) == ("mine", {"address": clean.config.default_app_address, "port": 5999})
        return SimpleNamespace(url="somewhere:5999", wait=waited.append)

    monkeypatch.setattr(clean, "launch_app", launch_app)
    given = ("--store", two_runs["store"], "--dataset", two_runs["dataset"], "--device", "cpu", "--part", "test")
    code, out, err = mlbench("inspect", two_runs["keys"][0], *given, "--name", "mine", "--port", 5999)
    assert code == 0, err
    assert "app: somewhere:5999" in out
    assert waited == [-1]


def test_an_app_that_does_not_start_leaves_the_data_set(clean: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(dataset: Any, **given: Any) -> Any:
        raise RuntimeError("no port")

    monkeypatch.setattr(clean, "launch_app", refuse)
    with pytest.raises(
        MlbenchError, match=r"app did not start \(no port\); 'made' is written: fiftyone app launch made"
    ):
        to_fiftyone.launch(SimpleNamespace(name="made"))


def test_without_fiftyone_it_says_what_to_install_before_anything_is_computed(
    mlbench: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "fiftyone", None)
    code, _, err = mlbench("inspect", "abc", "--store", tmp_path)
    assert code == MlbenchError.exit_code
    assert "FiftyOne is not installed here" in err
    assert "--html" in err
