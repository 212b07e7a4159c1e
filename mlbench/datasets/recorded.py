"""Whether a data set here is the one a record's run was made on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlbench.datasets.base import Dataset


def is_data_of(data: Dataset, record: Mapping[str, Any]) -> bool:
    """Whether `data` has the fingerprint that `record` names; that of harness 1 has file names in place of content."""
    recorded = record["identity"]["dataset"]["fingerprint"]
    return bool(recorded == (legacy_fingerprint(data) if record["identity"]["harness"] == 1 else data.fingerprint))


def legacy_fingerprint(data: Dataset) -> str:
    """The fingerprint of `data` under harness 1."""
    return str(getattr(data, "legacy_fingerprint", data.fingerprint))
