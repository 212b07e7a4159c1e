"""Whether a data set here is the one a record's run was made on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlbench.datasets import list_datasets
from mlbench.datasets.base import MINIATURE, Dataset
from mlbench.errors import UsageError


def is_data_of(data: Dataset, record: Mapping[str, Any]) -> bool:
    """Whether `data` has the fingerprint that `record` names; that of harness 1 has file names in place of content."""
    recorded = record["identity"]["dataset"]["fingerprint"]
    return bool(recorded == (legacy_fingerprint(data) if record["identity"]["harness"] == 1 else data.fingerprint))


def is_of_miniature(record: Mapping[str, Any]) -> bool:
    """Whether a run was made on a miniature, which bears the name of a data set that it is not."""
    return str(record["identity"]["dataset"]["version"]).endswith(MINIATURE)


def legacy_fingerprint(data: Dataset) -> str:
    """The fingerprint of `data` under harness 1."""
    return str(getattr(data, "legacy_fingerprint", data.fingerprint))


def dataset_of(record: dict[str, Any], dataset: str | None = None) -> str:
    """What the record's data set is loaded by: `dataset` (a name or a description's path) if given, else its id."""
    own = str(record["identity"]["dataset"]["id"])
    if dataset is None and own not in list_datasets() and not own.endswith("-partial"):
        raise UsageError(
            f"run {record['key'][:16]}: its data set '{own}' is not in the catalogue; "
            "give the description it was made with: --dataset FILE.toml"
        )
    return dataset or own
