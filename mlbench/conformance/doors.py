"""`mlbench check KIND NAME` for what is no method: one suite for each door."""

from __future__ import annotations

from pathlib import Path

from mlbench.conformance.report import Report
from mlbench.errors import UsageError, unknown

#: Kinds that `check` takes, besides methods.
KINDS = ("dataset", "backbone", "head", "protocol", "metric")


def check(kind: str, name: str, data_root: Path | None = None) -> Report:
    """Check what is registered as `name`; data sets and protocols may also be the path of a ``.toml`` file.

    Parameters
    ----------
    kind : of `KINDS`.
    data_root : the folder of a data set's files.

    UsageError for an unknown kind or name, MlbenchError for what does not load.
    """
    if kind not in KINDS:
        raise unknown("kind", kind, KINDS)
    if data_root is not None and kind != "dataset":
        raise UsageError(f"--data-root: only a data set has files, not a {kind}")
    if kind == "dataset":
        from mlbench.conformance.datasets import check_dataset

        return check_dataset(name, data_root)
    if kind == "protocol":
        from mlbench.conformance.protocols import check_protocol

        return check_protocol(name)
    if kind == "metric":
        from mlbench.conformance.metrics import check_metric

        return check_metric(name)
    from mlbench.conformance.models import check_backbone, check_head

    return check_backbone(name) if kind == "backbone" else check_head(name)
