"""Reruns of one key: the same settings under other circumstances, whose numbers differ by rounding alone.

Threads, processors and libraries sum in other orders, and training makes a difference in the last bit grow. Such reruns
are evidence of that spread: a record lists them (`replications`), and stays what it was.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from mlbench.canonical import canonical_json
from mlbench.store import seal

Record = Mapping[str, Any]


def starts_of(record: Record) -> list[dict[str, Any]]:
    """All starts of the run; of schema 1 the one that is known."""
    provenance = record["provenance"]
    names = ("started", "processes", "threads", "hardware", "git")
    return list(provenance.get("starts") or [{name: provenance[name] for name in names}])


def predictions_of(record: Record) -> str:
    """SHA-256 of the test predictions; empty where there are none."""
    return str(record["predictions"].get("test", {}).get("sha256", ""))


def same_circumstances(a: Record, b: Record) -> bool:
    """Whether two runs had the same threads, processes, machines and libraries: then they give the same bits."""

    def told(record: Record) -> bytes:
        starts = [{name: start[name] for name in ("processes", "threads", "hardware")} for start in starts_of(record)]
        return canonical_json([starts, record["provenance"]["packages"]])

    return told(a) == told(b)


def replication(record: Record) -> dict[str, Any]:
    """What another record of the same key keeps of this one."""
    return {
        "key": record["key"],
        "predictions": predictions_of(record),
        "results": dict(record["results"]["test"]),
        "packages": dict(record["provenance"]["packages"]),
        "starts": starts_of(record),
    }


def with_replications(record: Record, others: Iterable[Record]) -> dict[str, Any]:
    """`record` with the runs `others`, and theirs, among its replications, one for each predictions; sealed."""
    found = list(record.get("replications", []))
    for other in others:
        found += [replication(other), *other.get("replications", [])]
    kept = {entry["predictions"]: entry for entry in found if entry["predictions"] != predictions_of(record)}
    ordered = sorted(kept.values(), key=lambda entry: (entry["starts"][0]["started"], entry["predictions"]))
    plain = {name: value for name, value in record.items() if name != "replications"}
    return seal(plain | ({"replications": ordered} if ordered else {}))


def spread(record: Record) -> tuple[str, list[float]]:
    """The headline metric, and its values in the run and its replications, in percent."""
    metric = str(record["definitions"].get("headline", "mAP"))
    values = [record["results"]["test"].get(metric)]
    values += [entry["results"].get(metric) for entry in record.get("replications", [])]
    return metric, [value for value in values if value is not None]


def spread_text(record: Record) -> str:
    """The run and its replications in one line: values, and how they were made."""
    metric, values = spread(record)
    made = [_made(starts_of(record)), *(_made(entry["starts"]) for entry in record.get("replications", []))]
    shown = ", ".join(f"{value:.2f} ({how})" for value, how in zip(values, made, strict=False))
    return f"{metric} {shown}; {max(values) - min(values):.2f} points apart" if values else f"{metric} undefined"


def _made(starts: Iterable[Mapping[str, Any]]) -> str:
    return ", then ".join(
        f"{start['threads']} threads" + (f", {start['processes']} processes" if start["processes"] > 1 else "")
        for start in starts
    )
