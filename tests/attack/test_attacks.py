"""Every attack some dozens of times, always the same: refused in a line, or rightly taken, and never anything else."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from attacks import ATTACKS, strike


@pytest.mark.parametrize("name", ATTACKS)
def test_it_holds(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    outcomes: Counter[str] = Counter()
    for seed in range(ATTACKS[name].tries):
        (folder := tmp_path / str(seed)).mkdir()
        try:
            outcomes[strike(name, seed, folder)] += 1
        except BaseException as error:
            error.add_note(f"attack '{name}', try {seed}")
            raise
    assert min(outcomes["refused"], outcomes["taken"]) > 0, f"{outcomes}: one side is never met"
    assert not (tmp_path / "PWNED").exists()
