"""Which epoch's weights count: rules over stored validation numbers. Test numbers never come here."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from mlbench.errors import UsageError, unknown

#: Rule: the validation number it reads ("last" reads none).
RULES = {"clean_val": "mAP", "observed_val": "mAP_observed", "last": ""}


def select(validation: Sequence[Mapping[str, float | None]], rule: str) -> int:
    """Position of the chosen epoch among `validation` (one dict of numbers an epoch); the first best is kept.

    clean_val : mAP on the full validation labels. observed_val : mAP on the labels the annotation process left,
    unknown counted as negative. last : the last epoch. A rule that reads test numbers does not exist.
    """
    if rule not in RULES:
        raise unknown("selection rule", rule, RULES)
    if not validation:
        raise UsageError("nothing to select from: no epoch was run")
    if rule == "last":
        return len(validation) - 1
    values = [number for row in validation if (number := row.get(RULES[rule])) is not None and not math.isnan(number)]
    if len(values) < len(validation):
        raise UsageError(f"selection rule '{rule}' needs '{RULES[rule]}' on validation in every epoch")
    return max(range(len(values)), key=lambda i: (values[i], -i))


def epochs_that_disagree(record: Mapping[str, Any]) -> list[str]:
    """Where a record's results are not what it says of the epoch selected, a line each: they are the same predictions,
    scored when they were made and again for the record."""
    chosen = record["selected"]
    wanted = chosen["phase"], chosen["epoch"]
    rows = [row for row in record["epochs"] if (row["phase"], row["epoch"]) == wanted]
    found = []
    for part, kept in (("val", "val"), ("test", "test_sealed")):
        for row in rows:
            said, counted = row.get(kept, {}).get("mAP"), record["results"].get(part, {}).get("mAP")
            both = said is not None and counted is not None
            if "mAP" in row.get(kept, {}) and not (
                said == counted or (both and math.isclose(said, counted, rel_tol=1e-9))
            ):
                found.append(f"{part} mAP is {counted}, and was {said} in epoch {chosen['epoch']}, which was selected")
    return found
