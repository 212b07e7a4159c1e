"""Which epoch's weights count: rules over stored validation numbers. Test numbers never come here."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

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
