"""Every method registered here passes the suite that anybody's method must pass."""

from __future__ import annotations

import pytest

from mlbench.conformance.suite import check_method
from mlbench.registry import available

OURS = [name for name, point in available().items() if point.value.startswith("mlbench.baselines.")]


def test_the_methods_of_the_first_table_are_registered() -> None:
    assert {"full", "an", "an_boostlu_inference", "llr", "llr_boostlu"} <= set(OURS)


@pytest.mark.parametrize("name", OURS)
def test_registered_method_conforms(name: str) -> None:
    # Few methods are enough to start two processes for: what they share is the runner. In float32 rounding would tip
    # a ReLU of vac_s here.
    report = check_method(name, processes=name in ("llr_boostlu", "pla", "vac_s", "kd_wsd"))
    assert report.passed, report.text()
