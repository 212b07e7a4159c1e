"""Whether which labels were hidden can move a run's numbers."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any


def mask_matters(
    process: str, params: Mapping[str, Any], supervision: Collection[str], selection: str, builds_on_others: bool
) -> bool:
    """Whether the draw of the mask can move a number.

    It cannot where all labels are shown, nor for a method that is given all of them, or none (scores of a model that
    never saw the data set, say), unless the epoch is selected by the labels a mask left, or the method builds on other
    runs.
    """
    if process == "full" or (process.startswith("partial") and params.get("keep") == 1):
        return False
    indifferent = "full" in supervision or not {"observed", "oracle_negatives"} & set(supervision)
    return not indifferent or selection == "observed_val" or builds_on_others
