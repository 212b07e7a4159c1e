"""The site's page of attention: one test image and its views, a row a view and a column a method (VAC's figure 5)."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from mlbench.annotation.sparse import SparseLabels
from mlbench.errors import DataError, MlbenchError
from mlbench.evaluation.scoring import targets_of
from mlbench.protocol import protocol_of
from mlbench.report.at_hand import AtHand
from mlbench.report.site.boards import Board, Record

if TYPE_CHECKING:
    from mlbench.explain.attention import Model

#: Methods on one picture; more go to a picture below.
COLUMNS = 8


@dataclass(frozen=True)
class Sheet:
    """A picture as data URI, the class and image on it, and `columns`: method and run of each."""

    title: str
    picture: str
    subject: str
    columns: tuple[tuple[str, Record], ...]


def attention_sheets(boards: Sequence[Board], here: AtHand, weights: Path | None = None) -> list[Sheet]:
    """Of each board the first run of every method whose network is at hand and has class activation maps.

    A board with one such method has no picture here: it is on the page of the run.
    """
    from mlbench.explain.attention import attention_sheet, views_of

    found = []
    for board in boards:
        models = [(row, model) for row in board.rows for model in _models(row.records[0], here, weights)]
        for start in range(0, len(models) if len(models) > 1 else 0, COLUMNS):
            some = models[start : start + COLUMNS]
            sample, label = subject_of(some[0][0].records[0], here)
            sheet = attention_sheet([model for _, model in some], label, views_of(["flip", "scale"]), sample)
            columns = tuple((row.method, row.records[0]) for row, _ in some)
            found.append(Sheet(board.title, data_uri(sheet), f"{label} in test image {sample}", columns))
    return found


def attention_of(record: Record, here: AtHand, weights: Path | None) -> tuple[str, str, str]:
    """One run's picture as data URI, what is on it, and why there is none."""
    from mlbench.explain.attention import attention_sheet, models_of, views_of

    try:
        sample, label = subject_of(record, here)
        models = list(models_of([record["key"]], here.root, here.data_root, weights=weights))
        sheet = attention_sheet(models, label, views_of(["flip", "scale"]), sample)
    except MlbenchError as error:
        return "", "", str(error)
    return data_uri(sheet), f"{label} in test image {sample}", ""


def subject_of(record: Record, here: AtHand) -> tuple[str, str]:
    """The first test image with a label, and its first class: the same for all runs of a data set, so that their
    pictures compare. DataError where there is none, or where labels are sparse."""
    data = here.dataset(record)
    test = data.splits["test"]
    if isinstance(test.labels, SparseLabels):
        raise DataError("no picture of sparse labels")
    targets, known = targets_of(test.labels, protocol_of(record).unspecified_for(data.id).ap)
    present: Any = targets & known
    if not present.any():
        raise DataError("no test image has a label")
    row = int(np.argmax(present.any(axis=1)))
    return str(test.ids[row]), data.classes[int(np.argmax(present[row]))]


def data_uri(picture: Image.Image) -> str:
    """`picture` as JPEG within a page."""
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _models(record: Record, here: AtHand, weights: Path | None) -> list[Model]:
    """The run's network as a list of one; none where it cannot be asked, which the run's own page tells why."""
    from mlbench.explain.attention import models_of

    try:
        subject_of(record, here)
        return list(models_of([record["key"]], here.root, here.data_root, weights=weights))
    except MlbenchError:
        return []
