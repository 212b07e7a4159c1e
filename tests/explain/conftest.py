"""What tests of trained runs share."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest


@pytest.fixture
def reloadable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let finished runs on the tiny data set, which is in no catalogue, be brought back by `Deployed`."""
    from mlbench.conformance.testing import tiny_dataset
    from mlbench.explain import deployed
    from mlbench.runner import trained
    from mlbench.runner.plan import resolve

    def reload(record, *others):
        head = record["identity"]["track"] == "head"
        request = trained.request_of(record, None, tmp_path / "scenes.safetensors" if head else None, "tiny")
        run = resolve(replace(request, dataset=tiny_dataset()), record["identity"]["uses"])
        assert run.key == record["key"]
        return run

    monkeypatch.setattr(deployed, "reload_run", reload)
