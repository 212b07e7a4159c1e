"""Inspected images as a FiftyOne data set, and its app.

FiftyOne's own evaluator refuses fields with several labels, so every number of a sample is written by us.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mlbench.annotation import State
from mlbench.datasets.fiftyone_in import connect
from mlbench.errors import MlbenchError, UsageError
from mlbench.images.decode import image_size
from mlbench.inspection.look import FLAGS, Look, Sight
from mlbench.inspection.pictures import original_file, picture_file, relative_boxes, unit_map

#: Unknown, negative and predicted labels listed of an image, at most, the highest scores first.
LISTED = 10
#: Heat maps of an image and run, at most.
MAPS = 3
_BATCH = 64
#: Where a data set says that it is one of ours.
_MARK = "mlbench_inspect"


@dataclass(frozen=True)
class Written:
    """A FiftyOne data set that was written."""

    dataset: Any
    views: tuple[str, ...]
    pictures: Path | None
    look: Look

    def text(self) -> str:
        lines = [f"wrote FiftyOne data set '{self.dataset.name}': {len(self.dataset)} of {len(self.look)} images"]
        if self.pictures is not None:
            lines.append(f"pictures: {self.pictures}")
        lines += [f"saved view: {view}" for view in self.views]
        return "\n".join([*lines, *(f"note: {note}" for note in self.look.notes)])


def default_name(look: Look) -> str:
    """Data set, part and runs: ``scenes-train-an-3818c36f``."""
    runs = "-".join(f"{re.sub('_[0-9a-f]{8}$', '', sight.name)}-{sight.key[:8]}" for sight in look.runs)
    return f"{look.data.id}-{look.part}-{runs}"


def write_fiftyone(
    look: Look,
    name: str | None = None,
    overwrite: bool = False,
    pictures: Path | None = None,
    images: int | None = None,
) -> Written:
    """Write `look` to FiftyOne's database.

    Fields of a sample: ``name`` (the sample's id), ``truth`` (positive labels, each with its ``observed`` state),
    ``observed`` (labels observed as positive), ``observed_negative`` and ``unknown`` (the `LISTED` of the first run's
    highest scores, with ``unknown_count``), ``boxes``. Of each run: ``RUN`` (its `LISTED` highest scores and all it
    decides, with ``decided``, ``score`` and the probability as confidence), ``RUN_scores`` (all classes in the order
    of ``default_classes``), ``RUN_ap``, ``RUN_loss``, ``RUN_unknown_loss``, ``RUN_found``, ``RUN_top_loss`` and
    ``RUN_suspect`` (see `mlbench.inspection.look.Sight`), ``RUN_map_1`` to ``RUN_map_3`` (heat maps of the classes most
    worth a look, each scaled by its own largest magnitude). Of two runs: ``disagreement`` (classes they decide
    otherwise), ``difference`` and ``differ`` (these labels). What is undefined is left empty.

    Parameters
    ----------
    name : of the data set; `default_name` if None. An existing one is replaced only with `overwrite`, and only if
        `inspect` wrote it. The new one takes its place when it is whole.
    pictures : folder for PNGs of images that are no files of their own; ``./NAME-pictures`` if None.
    images : at most so many, the most telling first (`Look.rows_by_interest`); None: all, in row order.

    Raises
    ------
    UsageError : the name is taken.
    MlbenchError : FiftyOne or its database is missing.
    """
    if images is not None and images < 1:
        raise UsageError(f"--images {images}: expected at least 1")
    name = name or default_name(look)
    folder = pictures or Path(f"{name}-pictures")
    fiftyone = connect()
    _require_free(fiftyone, name, overwrite)
    rows = np.arange(len(look)) if images is None else look.rows_by_interest(images)
    dataset = fiftyone.Dataset()
    try:
        dataset.default_classes = list(look.data.classes)
        dataset.description = look.title
        dataset.info = {_MARK: {"runs": [sight.key for sight in look.runs], "part": look.part, "notes": [*look.notes]}}
        _declare(fiftyone, dataset, look)
        for start in range(0, len(rows), _BATCH):
            samples = list(_samples(fiftyone, look, rows[start : start + _BATCH], folder))
            # To find the fields of each sample anew would take four times as long as all the rest.
            dataset.add_samples(samples, expand_schema=False, progress=False)
        dataset.add_dynamic_sample_fields()
        _show_at_first(fiftyone, dataset, ["truth", "observed", *(f"{sight.name}_found" for sight in look.runs)])
        views = tuple(_save_views(fiftyone, dataset, look))
        if name in fiftyone.list_datasets():
            fiftyone.delete_dataset(name)
        dataset.name = name
        dataset.persistent = True
    except BaseException:
        dataset.delete()
        raise
    written = any(original_file(look.split.images, int(row)) is None for row in rows)
    return Written(dataset, views, folder if written else None, look)


def launch(dataset: Any, address: str | None = None, port: int | None = None) -> Any:
    """Start FiftyOne's app on `dataset`, in a browser where there is one; the session, whose `url` says where it is.

    MlbenchError if the app does not start.
    """
    import fiftyone

    # In a container FiftyOne would listen to every host if it were not told where.
    address = address or fiftyone.config.default_app_address
    try:
        return fiftyone.launch_app(dataset, address=address, port=port)
    except Exception as error:  # whatever its server, its port or its database gives
        told = (
            f"FiftyOne's app did not start ({error}); '{dataset.name}' is written: fiftyone app launch {dataset.name}"
        )
        raise MlbenchError(told) from None


def _require_free(fiftyone: Any, name: str, overwrite: bool) -> None:
    if name not in fiftyone.list_datasets():
        return
    if not overwrite:
        raise UsageError(f"FiftyOne data set '{name}' exists: --overwrite replaces it, --name gives another name")
    if _MARK not in fiftyone.load_dataset(name).info:
        raise UsageError(f"FiftyOne data set '{name}' was not written by `mlbench inspect` and is not replaced: --name")


def _declare(fiftyone: Any, dataset: Any, look: Look) -> None:
    """Declare the fields that `_samples` fills."""
    names = [sight.name for sight in look.runs]
    several = [*("truth", "observed", "observed_negative", "unknown"), *names]
    several += [f"{name}_{flag}" for name in names for flag in FLAGS]
    heats = [f"{name}_map_{number}" for name in names for number in range(1, MAPS + 1)]
    plain = {"name": fiftyone.StringField, "unknown_count": fiftyone.IntField}
    for name in names:
        plain[f"{name}_scores"] = fiftyone.VectorField
        plain |= {f"{name}_{number}": fiftyone.FloatField for number in ("ap", "loss", "unknown_loss")}
    if look.differ is not None:
        several.append("differ")
        plain |= {"disagreement": fiftyone.IntField, "difference": fiftyone.FloatField}
    for name, kind in plain.items():
        dataset.add_sample_field(name, kind)
    kinds = {fiftyone.Classifications: several, fiftyone.Detections: ["boxes"], fiftyone.Heatmap: heats}
    for kind, chosen in kinds.items():
        for name in chosen:
            dataset.add_sample_field(name, fiftyone.EmbeddedDocumentField, embedded_doc_type=kind)


def _show_at_first(fiftyone: Any, dataset: Any, fields: list[str]) -> None:
    """Have the app show these label fields at first; a FiftyOne that cannot be told shows all."""
    if hasattr(fiftyone.DatasetAppConfig, "default_active_fields"):
        active = fiftyone.DatasetAppConfig.default_active_fields(dataset)
        active.paths = fields
        dataset.app_config.active_fields = active
        dataset.save()


def _samples(fiftyone: Any, look: Look, rows: np.ndarray, folder: Path) -> Iterator[Any]:
    maps = [sight.maps(look.part, rows) for sight in look.runs]
    for at, row in enumerate(map(int, rows)):
        path = picture_file(look.split, row, folder, look.part)
        size = image_size(path)
        sample = fiftyone.Sample(filepath=str(path), tags=[look.part])
        sample["metadata"] = fiftyone.ImageMetadata(width=size[0], height=size[1])
        values = {"name": look.split.ids[row], **_labels(fiftyone, look, row)}
        values["boxes"] = fiftyone.Detections(
            detections=[
                fiftyone.Detection(label=look.data.classes[c], bounding_box=box)
                for c, box in relative_boxes(look.split, row, size)
            ]
        )
        for sight, found in zip(look.runs, maps, strict=True):
            values |= _of_run(fiftyone, look, sight, row)
            if found is None:
                continue
            for number, c in enumerate(look.classes_of(row, MAPS), start=1):
                values[f"{sight.name}_map_{number}"] = fiftyone.Heatmap(
                    map=unit_map(found[at, c]), range=[-1.0, 1.0], **_entry(look, sight, row, c)
                )
        for key, value in values.items():
            sample[key] = value
        yield sample


def _labels(fiftyone: Any, look: Look, row: int) -> dict[str, Any]:
    """Fields that hold for all runs."""
    first, observed = look.runs[0], look.observed[row]
    best = np.argsort(-first.scores.values[row], kind="stable")

    def listed(state: State, most: int | None = None) -> Any:
        return _classifications(
            fiftyone, [{"label": look.data.classes[c]} for c in best if observed[c] == state][:most]
        )

    truth = [
        {"label": look.data.classes[c], "observed": State(int(observed[c])).name.lower()}
        for c in np.flatnonzero(look.truth[row] == State.POSITIVE)
    ]
    values = {
        "truth": _classifications(fiftyone, truth),
        "observed": listed(State.POSITIVE),
        "observed_negative": listed(State.NEGATIVE, LISTED),
        "unknown": listed(State.UNKNOWN, LISTED),
        "unknown_count": int((observed == State.UNKNOWN).sum()),
    }
    if look.differ is not None:
        otherwise = np.flatnonzero(first.decided[row] != look.runs[1].decided[row])
        values["disagreement"] = int(look.differ[row])
        values["difference"] = _finite(look.difference, row)
        values["differ"] = _classifications(fiftyone, [_entry(look, first, row, c) for c in otherwise])
    return values


def _of_run(fiftyone: Any, look: Look, sight: Sight, row: int) -> dict[str, Any]:
    """Fields of one run."""
    best = np.argsort(-sight.scores.values[row], kind="stable")
    listed = [c for rank, c in enumerate(best) if rank < LISTED or sight.decided[row, c]]
    values = {
        "": _classifications(fiftyone, [_entry(look, sight, row, c) for c in listed]),
        "_scores": np.array(sight.scores.values[row]),
        "_ap": _finite(sight.ap, row),
        "_loss": _finite(sight.loss, row),
        "_unknown_loss": _finite(sight.unknown_loss, row),
    }
    for flag in FLAGS:
        marked = np.flatnonzero(getattr(sight, flag)[row])
        values[f"_{flag}"] = _classifications(fiftyone, [_entry(look, sight, row, c) for c in marked])
    return {f"{sight.name}{key}": value for key, value in values.items()}


def _entry(look: Look, sight: Sight, row: int, c: int | np.integer) -> dict[str, Any]:
    """What a label of class `c` says: confidence (a probability, or None), raw score, decision, truth, observation."""
    return {
        "label": look.data.classes[c],
        "confidence": None if sight.probability is None else float(sight.probability[row, c]),
        "score": float(sight.scores.values[row, c]),
        "decided": bool(sight.decided[row, c]),
        "truth": State(int(look.truth[row, c])).name.lower(),
        "observed": State(int(look.observed[row, c])).name.lower(),
    }


def _classifications(fiftyone: Any, labels: list[dict[str, Any]]) -> Any:
    return fiftyone.Classifications(classifications=[fiftyone.Classification(**label) for label in labels])


def _save_views(fiftyone: Any, dataset: Any, look: Look) -> Iterator[str]:
    """Save a view for each kind of entry that there is, the images in the order of `Sight.order`; their names."""
    place = {name: identity for identity, name in zip(*dataset.values(["id", "name"]), strict=True)}

    def save(name: str, description: str, rows: np.ndarray) -> Iterator[str]:
        kept = [place[look.split.ids[row]] for row in rows if look.split.ids[row] in place]
        if kept:
            dataset.save_view(name, dataset.select(kept, ordered=True), description=description)
            yield f"{name} ({len(kept)})"

    for sight in look.runs:
        for flag, text in FLAGS.items():
            yield from save(f"{sight.name}: {text}", f"see {sight.name}_{flag}", sight.order(flag))
    yield from save("runs disagree", "see differ", look.disagreeing())


def _finite(values: np.ndarray | None, row: int) -> float | None:
    return None if values is None or math.isnan(values[row]) else float(values[row])
