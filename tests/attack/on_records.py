"""Records of strangers: hostile text in any place, or spoilt bytes; every command that shows them shows text."""

from __future__ import annotations

import copy
import json
import random
import re
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from hostile import TEXTS, spoilt, told
from on_submissions import submit, write

from mlbench.errors import visible
from mlbench.store import find_records, run_dir
from mlbench.store.schema import refit

_FORMATS = ("markdown", "latex", "csv", "html")


@cache
def _good() -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="attack-") as made:
        assert submit(*write(Path(made)), Path(made) / "store") == "taken"
        (record,), _ = find_records(Path(made) / "store")
    return record


def records(draw: random.Random, folder: Path) -> str:
    record, store = copy.deepcopy(_good()), folder / "store"
    for _ in range(draw.choice([1, 1, 3])):
        _replace(draw, record)
    try:
        record = refit(record)
        raw = json.dumps(record).encode()
    except Exception:
        raw = json.dumps(record).encode()
    if draw.random() < 0.3:
        raw = spoilt(draw, raw)
    (place := run_dir(store, str(_good()["key"]) if draw.random() < 0.1 else str(record["key"]))).mkdir(parents=True)
    (place / "record.json").write_bytes(raw)
    outcome = "taken" if find_records(store)[0] else "refused"
    told("list", "runs", "--store", store)
    told("show", str(record["key"])[:16], "--store", store)
    for form in _FORMATS:
        told("table", "--store", store, "--format", form, *draw.choice([(), ("--document",)]))
    told("results", "merge", folder / "results", store)
    if (folder / "results").is_dir():
        told("results", "verify", folder / "results")
    told("site", folder / "site", "--output", store)
    for page in (folder / "site").rglob("*.html") if (folder / "site").is_dir() else ():
        text = page.read_text(encoding="utf-8")
        assert visible(text) == text, "a page with marks that steer"
        assert not re.search(r"<script>alert|onload='|href=\"javascript:|<img src=x", text), "text that runs"
    assert not (Path.cwd() / "PWNED").exists()
    assert {path.name for path in folder.iterdir()} <= {"store", "results", "site"}
    return outcome


def _replace(draw: random.Random, record: dict[str, Any]) -> None:
    """One value or key anywhere becomes a hostile text, or a value of another kind."""
    place, key = draw.choice(list(_places(record)))
    if isinstance(place, dict) and draw.random() < 0.25:
        place[draw.choice(TEXTS)] = place.pop(key)
    elif isinstance(place[key], str) or draw.random() < 0.3:
        place[key] = draw.choice(TEXTS)
    else:
        place[key] = draw.choice([None, True, -1, 0, 10**30, 1e308, -0.0, [], {}, [[]], {"a": {}}, "1"])


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        if key not in ("schema", "content_sha256", "key"):
            yield value, key
        yield from _places(inner)
