"""What the choice of the epoch is worth: selection rules compared from the stored epochs, without retraining."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from mlbench.errors import UsageError
from mlbench.evaluation.selection import RULES, select
from mlbench.grid import grid


def outcome_by_rule(record: dict[str, Any]) -> dict[str, tuple[int, float]]:
    """(epoch, test mAP in percent) that each selection rule of `RULES` leads to, of one run record.

    Rules whose validation numbers the run has not are left out, as are runs in which nothing was trained.
    """
    rows = [row for row in record["epochs"] if row["phase"] == record["selected"]["phase"]]
    found = {}
    for rule in RULES:
        try:
            row = rows[select([row["val"] for row in rows], rule)]
        except UsageError:
            continue
        found[rule] = (int(row["epoch"]), float(row["test_sealed"]["mAP"]))
    return found


def selection_table(records: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Methods by rules: mean test mAP and epoch over the runs, and what each rule loses against ``clean_val``.

    One row for each (data set, track, method). Test numbers are only reported here; no rule reads them.
    """
    groups: dict[tuple[str, str, str], list[dict[str, tuple[int, float]]]] = defaultdict(list)
    for record in records:
        identity = record["identity"]
        found = outcome_by_rule(record)
        if found:
            groups[identity["dataset"]["id"], identity["track"], identity["method"]["name"]].append(found)
    table = []
    for (dataset, track, method), runs in sorted(groups.items()):
        row: dict[str, Any] = {"dataset": dataset, "track": track, "method": method, "runs": len(runs)}
        for rule in RULES:
            if all(rule in run for run in runs):
                row[rule] = float(np.mean([run[rule][1] for run in runs]))
                row[f"{rule} epoch"] = float(np.mean([run[rule][0] for run in runs]))
                if rule != "clean_val" and "clean_val" in row:
                    row[f"{rule} - clean_val"] = row[rule] - row["clean_val"]
        table.append(row)
    return table


def selection_text(rows: Sequence[dict[str, Any]]) -> str:
    """The table as Markdown."""
    return grid(rows, headers="keys", floatfmt=".1f", tablefmt="github", missingval="")
