"""FiftyOne data sets read from a real database, where one can be had, and how its absence is told."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mlbench.datasets import fiftyone_in, load_dataset
from mlbench.datasets.fiftyone_in import from_fiftyone
from mlbench.errors import DataError, MlbenchError, UsageError


@pytest.fixture
def make(database: Any, tmp_path: Path) -> Callable[..., Any]:
    """Return a function that makes a data set of eight 40x30 pictures, six tagged train and two test."""

    def make(name: str = "street", **changes: Any) -> Any:
        dataset = database.Dataset(name, overwrite=True)
        samples = []
        for i in range(8):
            path = tmp_path / "photos" / ("a" if i % 2 else "b") / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((30, 40, 3), i, dtype=np.uint8)).save(path)
            sample = database.Sample(filepath=str(path), tags=["sunny", "train" if i < 6 else "test"])
            sample["part"] = "fit" if i < 4 else "judge"
            sample["tags_seen"] = database.Classifications(
                classifications=[database.Classification(label=label) for label in ["city", "city", "night"][: i % 4]]
            )
            boxes = [("car", [0.25, 0.1, 0.5, 0.5]), ("dog", [0.5, 0.5, 0.25, 0.5])][: i % 3]
            sample["objects"] = database.Detections(
                detections=[database.Detection(label=label, bounding_box=box) for label, box in boxes]
            )
            sample["weather"] = database.Classification(label="rain" if i % 2 else "sun")
            sample["count"] = i
            for key, change in changes.items():
                change(sample, i) if callable(change) else sample.__setattr__(key, change)
            samples.append(sample)
        dataset.add_samples(samples, progress=False)
        return dataset

    return make


def labels_of(dataset: Any, part: str) -> dict[str, set[str]]:
    split = dataset.splits[part]
    return {
        name: {dataset.classes[c] for c in np.flatnonzero(row == 1)}
        for name, row in zip(split.ids, split.labels, strict=True)
    }


def test_detections_give_labels_and_boxes_in_pixels(make: Callable[..., Any], tmp_path: Path) -> None:
    make()
    told = from_fiftyone("street", ["objects"], output=tmp_path / "out")
    dataset = load_dataset(str(tmp_path / "out" / "street.toml"))
    assert "2 classes, train 6, test 2, boxes 7" in told
    assert dataset.classes == ("car", "dog")
    assert labels_of(dataset, "train") == {
        **{"b/0.png": set(), "a/1.png": {"car"}, "b/2.png": {"car", "dog"}},
        **{"a/3.png": set(), "b/4.png": {"car"}, "a/5.png": {"car", "dog"}},
    }
    boxes = dataset.splits["train"].boxes
    assert boxes is not None
    assert boxes[:3].tolist() == [[1, 0, 10, 3, 30, 18], [2, 0, 10, 3, 30, 18], [2, 1, 20, 15, 30, 30]]
    assert dataset.splits["train"].images.load(1)[0, 0].tolist() == [1, 1, 1]


def test_several_fields_are_taken_together_and_a_field_can_tell_the_part(
    make: Callable[..., Any], tmp_path: Path, mlbench: Callable[..., Any]
) -> None:
    make("my street")
    code, out, err = mlbench(
        *("data", "from-fiftyone", "my street", "--field", "tags_seen", "--field", "weather", "--split-field", "part"),
        *("--part", "train=fit", "--part", "test=judge", "--output", tmp_path / "out"),
    )
    assert code == 0, err
    assert "my-street.toml: 4 classes, train 4, test 4, boxes 0" in out
    dataset = load_dataset(str(tmp_path / "out" / "my-street.toml"))
    assert dataset.classes == ("city", "night", "rain", "sun")
    assert labels_of(dataset, "train")["a/3.png"] == {"city", "night", "rain"}
    assert dataset.splits["train"].boxes is None


def test_the_files_are_read_without_fiftyone_and_again_the_same(make: Callable[..., Any], tmp_path: Path) -> None:
    made = make()
    from_fiftyone("street", ["objects"], output=tmp_path / "out")
    before = load_dataset(str(tmp_path / "out" / "street.toml")).fingerprint
    made.delete()
    path = str(tmp_path / "out" / "street.toml")
    code = f"import sys; from mlbench.datasets import load_dataset; d = load_dataset({path!r})"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; print(d.fingerprint, 'fiftyone' in sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == [before, "False"]


def test_declared_classes_keep_their_order(make: Callable[..., Any], tmp_path: Path) -> None:
    made = make()
    made.default_classes = ["dog", "tram", "car"]
    made.save()
    from_fiftyone("street", ["objects"], output=tmp_path / "out")
    assert load_dataset(str(tmp_path / "out" / "street.toml")).classes == ("dog", "tram", "car")


def test_samples_that_nobody_annotated_are_left_out_and_counted(make: Callable[..., Any], tmp_path: Path) -> None:
    make(change=lambda sample, i: sample.__setattr__("objects", None) if i == 2 else None)
    told = from_fiftyone("street", ["objects"], output=tmp_path / "out")
    assert "left out: 1 samples without a value in objects" in told
    assert "b/2.png" not in load_dataset(str(tmp_path / "out" / "street.toml")).splits["train"].ids


def test_boxes_without_area_are_left_out_and_counted(make: Callable[..., Any], database: Any, tmp_path: Path) -> None:
    empty = database.Detection(label="car", bounding_box=[0.1, 0.1, 0.0, 0.5])
    make(change=lambda sample, i: sample["objects"].detections.append(empty.copy()) if i == 0 else None)
    assert "left out: 1 boxes without area" in from_fiftyone("street", ["objects"], output=tmp_path / "out")


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"name": "stret"}, UsageError, "unknown FiftyOne data set 'stret'. Did you mean 'street'"),
        ({}, UsageError, r"which label field\? --field one of: tags_seen \(Classifications\), objects"),
        ({"fields": ["object"]}, UsageError, "unknown FiftyOne label field 'object'. Did you mean 'objects'"),
        ({"fields": ["count"]}, UsageError, "'count' of 'street' holds no labels of a kind in"),
        (
            {"fields": ["objects"], "split_field": "prt"},
            UsageError,
            "unknown FiftyOne field 'prt'. Did you mean 'part'",
        ),
        (
            {"fields": ["objects"], "split_field": "part"},
            DataError,
            r"8 of 8 samples belong to no part: b/0\.png \(fit\)",
        ),
        ({"fields": ["objects"], "parts": ["exam=test"]}, UsageError, "--part exam=test: expected PART=VALUE"),
        ({"fields": ["objects"], "parts": ["val=x", "test=x"]}, UsageError, "'x' means val already"),
        ({"fields": ["objects"], "parts": ["val=test"]}, DataError, "no sample in its test part"),
        (
            {"fields": ["objects"], "parts": ["test=sunny"]},
            DataError,
            "belongs to test and train; a sample has one part",
        ),
    ],
)
def test_wrong_use_is_told(
    make: Callable[..., Any], tmp_path: Path, given: dict[str, Any], error: type[MlbenchError], message: str
) -> None:
    make()
    with pytest.raises(error, match=message):
        from_fiftyone(**{"name": "street", "output": tmp_path / "out", **given})


def test_a_missing_picture_is_named(make: Callable[..., Any], tmp_path: Path) -> None:
    make()
    (tmp_path / "photos" / "a" / "3.png").unlink()
    with pytest.raises(DataError, match=r"1 of 8 pictures missing: .*3\.png"):
        from_fiftyone("street", ["objects"], output=tmp_path / "out")


class StandIn:
    """As much of a FiftyOne data set as is read of one, for places without a database."""

    name, media_type, classes, default_classes = "street", "image", {}, []

    def __init__(self, folder: Path) -> None:
        self.columns: dict[str, list[Any]] = {"filepath": [], "tags": []}
        self.columns |= {"objects.detections.label": [], "objects.detections.bounding_box": [], "weather.label": []}
        boxes = [("car", [0.25, 0.1, 0.5, 0.5]), ("dog", [0.5, 0.5, 0.25, 0.5]), ("car", [0.1, 0.1, 0.0, 0.5])]
        for i in range(6):
            path = folder / f"{i}.png"
            Image.fromarray(np.full((30, 40, 3), i, dtype=np.uint8)).save(path)
            found = None if i == 4 else boxes[: i % 4]
            row = [str(path), ["train" if i < 5 else "test"], None, None, "rain" if i % 2 else None]
            if found is not None:
                row[2:4] = [label for label, _ in found], [box for _, box in found]
            for column, value in zip(self.columns.values(), row, strict=True):
                column.append(value)

    def get_field_schema(self) -> dict[str, Any]:
        kinds = {"objects": "Detections", "weather": "Classification"}
        fields = {key: SimpleNamespace(document_type=type(kind, (), {})) for key, kind in kinds.items()}
        return {"filepath": SimpleNamespace(), "tags": SimpleNamespace(), **fields}

    def values(self, key: str) -> list[Any]:
        return self.columns[key]


def test_a_stand_in_for_a_data_set_is_read_where_there_is_no_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fiftyone_in, "_open", lambda name: StandIn(tmp_path))
    told = from_fiftyone("street", ["objects"], output=tmp_path / "out")
    assert "left out: 1 samples without a value in objects (not annotated)" in told
    assert "left out: 1 boxes without area" in told
    dataset = load_dataset(str(tmp_path / "out" / "street.toml"))
    assert (dataset.classes, dataset.splits["train"].ids) == (("car", "dog"), ("0.png", "1.png", "2.png", "3.png"))
    assert labels_of(dataset, "train")["3.png"] == {"car", "dog"}
    assert dataset.splits["train"].boxes is not None
    assert dataset.splits["train"].boxes[:2].tolist() == [[1, 0, 10, 3, 30, 18], [2, 0, 10, 3, 30, 18]]

    from_fiftyone("street", ["objects", "weather"], output=tmp_path / "both")
    both = load_dataset(str(tmp_path / "both" / "street.toml"))
    assert both.classes == ("car", "dog", "rain")
    assert labels_of(both, "test") == {"5.png": {"car", "rain"}}
    with pytest.raises(UsageError, match=r"which label field\? --field one of: objects \(Detections\), weather"):
        from_fiftyone("street", output=tmp_path / "none")
    with pytest.raises(DataError, match="no sample in its test part"):
        from_fiftyone("street", ["objects"], parts=["val=test"], output=tmp_path / "none")


def test_without_fiftyone_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "fiftyone", None)
    with pytest.raises(MlbenchError, match=r"FiftyOne is not installed here .*pip install fiftyone"):
        from_fiftyone("street", output=tmp_path)


def test_a_wrong_part_is_told_before_fiftyone_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fiftyone", None)
    with pytest.raises(UsageError, match="--part train: expected"):
        from_fiftyone("street", parts=["train"])


def test_fields_of_negatives_are_absent_and_the_rest_is_unknown(
    database: Any, make: Callable[..., Any], tmp_path: Path
) -> None:
    def named(*labels: str) -> Any:
        return database.Classifications(classifications=[database.Classification(label=label) for label in labels])

    def positives(sample: Any, i: int) -> None:
        sample["positive_labels"] = named("cat", "dog") if i % 2 else named("cat")

    def negatives(sample: Any, i: int) -> None:
        sample["negative_labels"] = named("dog", "emu") if i == 1 else named("emu")

    make("verified", positive_labels=positives, negative_labels=negatives)
    fields = ["positive_labels", "negative_labels"]
    told = from_fiftyone("verified", fields, output=tmp_path / "out")
    assert "left out: 1 labels that are present and absent at once, taken as unknown" in told
    dataset = load_dataset(str(tmp_path / "out" / "verified.toml"))
    assert dataset.classes == ("cat", "dog", "emu")
    rows = dict(zip(dataset.splits["train"].ids, dataset.splits["train"].labels.tolist(), strict=True))
    assert rows["b/0.png"] == [1, 0, -1]
    assert rows["a/1.png"] == [1, 0, -1]  # dog is said to be there and not to be
    assert rows["a/3.png"] == [1, 1, -1]
    from_fiftyone("verified", ["positive_labels"], output=tmp_path / "more", negatives=["negative_labels"])
    again = load_dataset(str(tmp_path / "more" / "verified.toml"))
    assert again.splits["train"].labels.tolist() == dataset.splits["train"].labels.tolist()


def test_boxes_outside_or_too_thin_are_left_out_and_counted(
    database: Any, make: Callable[..., Any], tmp_path: Path
) -> None:
    boxes = [
        [1.2, 0.1, 0.5, 0.5],
        [0.1, -0.6, 0.5, 0.5],
        [0.5, 0.5, 1e-6, 0.5],
        [0.5, 0.5, 0.5, 0],
        [-0.1, 0, 0.5, 0.5],
    ]

    def objects(sample: Any, i: int) -> None:
        sample["objects"] = database.Detections(
            detections=[database.Detection(label="car", bounding_box=box) for box in boxes]
        )

    make("thin", objects=objects)
    told = from_fiftyone("thin", ["objects"], output=tmp_path / "out")
    assert "left out: 32 boxes without area inside their picture" in told
    dataset = load_dataset(str(tmp_path / "out" / "thin.toml"))
    np.testing.assert_allclose(dataset.splits["test"].boxes, [[0, 0, 0, 0, 16, 15], [1, 0, 0, 0, 16, 15]], rtol=1e-6)
