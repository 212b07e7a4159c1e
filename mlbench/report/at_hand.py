"""What of a record's run is here: its predictions, in the store or fetched, and the test images they were made for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlbench.datasets import Dataset, list_datasets, load_dataset
from mlbench.datasets.recorded import is_data_of
from mlbench.errors import DataError, MlbenchError
from mlbench.evaluation.predictions import Predictions, read_predictions
from mlbench.store.published import fetching, find_scores

Record = Mapping[str, Any]


class AtHand:
    """Predictions and data sets of the runs in the store `root`; a data set is looked for once.

    Both methods raise DataError that says why something is not at hand.
    """

    def __init__(self, root: Path, data_root: Path | None = None) -> None:
        self.root, self.data_root = root, data_root
        self._datasets: dict[str, Dataset | str] = {}

    def predictions(self, record: Record) -> Predictions:
        """The test predictions of a run, checked against the record's hash."""
        path = find_scores(self.root, record)
        if path is None:  # in one line for all runs, so that it does not say whose
            raise DataError(f"the predictions are not at hand: {fetching(record)}")
        return read_predictions(path, record["predictions"]["test"]["sha256"])

    def dataset(self, record: Record) -> Dataset:
        """The data set a run was scored on, as it is found here."""
        name = str(record["identity"]["dataset"]["id"])
        if name not in self._datasets:
            self._datasets[name] = self._load(name)
        found = self._datasets[name]
        if isinstance(found, str):
            raise DataError(f"data set '{name}' is not at hand: {found}")
        if not is_data_of(found, record):
            raise DataError(f"data set '{name}' here is not the one the run was scored on (fingerprints differ)")
        return found

    def _load(self, name: str) -> Dataset | str:
        if name not in list_datasets():
            return "not in the catalogue"
        try:
            return load_dataset(name, self.data_root)
        except MlbenchError as error:
            return str(error)
