"""`list` and `show`: what is installed here, and what the store holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mlbench.errors import DataError, MlbenchError, UsageError, unknown
from mlbench.grid import grid
from mlbench.paths import store_dir
from mlbench.registry import Registry

#: The package, with version, that registers a thing.
_FROM = "from"
_HEADERS = ("method", "data set", "protocol", "track", "seed", "mask")


def list_items(kind: str, store: Path | None = None, conditions: Sequence[str] = ()) -> str:
    """A printable list of "methods", "datasets", "backbones", "heads", "protocols", "metrics", with the packages they
    are from, or of "runs", these as `conditions` ("KEY=VALUE") choose."""
    kinds = {
        "methods": _methods,
        "protocols": _protocols,
        "datasets": _datasets,
        "backbones": lambda: _named("backbone"),
        "heads": lambda: _named("head"),
        "metrics": _metrics,
        "runs": lambda: _runs(store, conditions),
    }
    if kind not in kinds:
        raise unknown("kind", kind, kinds)
    return kinds[kind]()


def show(name: str, store: Path | None = None) -> str:
    """A method or a protocol by name, a protocol by path, or a run by the first characters of its key, in words.

    A method and a protocol of the same name are both shown.
    """
    from mlbench.protocol import PROTOCOLS
    from mlbench.registry import METHODS

    found = [_method(name, store or store_dir())] if name in METHODS else []
    if name.endswith(".toml") or name in PROTOCOLS:
        found.append(_protocol(name))
    return "\n\n".join(found) or _run(_record_beginning(name, store))


def _record_beginning(name: str, store: Path | None) -> dict[str, Any]:
    from mlbench.protocol import PROTOCOLS
    from mlbench.registry import METHODS
    from mlbench.store import find_records, summarise_records

    found, problems = find_records(store or store_dir(), key=name)
    if not found and problems:
        raise DataError(f"no run '{name}' can be read; {len(problems)} broken records there: {problems[0]}")
    if not found:
        keys = (summary["key"][:16] for summary in summarise_records(store or store_dir())[0])
        raise unknown("method, protocol or run", name, [*METHODS, *PROTOCOLS, *keys])
    if len(found) > 1:
        raise UsageError(f"'{name}' begins the keys of {len(found)} runs; give more characters")
    return found[0]


def _method(name: str, store: Path) -> str:
    from mlbench.report.method_card import method_card
    from mlbench.store import find_records

    spent: dict[str, list[float]] = {}
    for record in find_records(store, method=name)[0] if store.is_dir() else []:
        identity = record["identity"]
        where = f"{identity['dataset']['id']} under {identity['protocol']}, track {identity['track']}"
        spent.setdefault(where, []).append(record["provenance"]["seconds"])
    lines = [f"  on {where}: {len(s)}, {sum(s) / len(s):.0f} s each" for where, s in sorted(spent.items())]
    return "\n".join([method_card(name).text(name), *([f"runs in {store}:"] if lines else []), *lines])


def _methods() -> str:
    from mlbench.catalogue import declared
    from mlbench.registry import METHODS

    rows = []
    for name in METHODS:
        try:
            cls = declared(name)
            told = ("+".join(cls.tracks), ", ".join(cls.supervision), (cls.__doc__ or "").strip().splitlines()[0])
        except MlbenchError as error:
            told = ("", "", str(error))
        rows.append((name, *told, METHODS.owner(name)))
    return grid(rows, headers=["method", "tracks", "supervision", "what it is", _FROM], tablefmt="simple")


def _protocols() -> str:
    from mlbench.protocol import PROTOCOLS, list_protocols

    rows = [(name, title, PROTOCOLS.owner(name)) for name, title in list_protocols().items()]
    return grid(rows, headers=["protocol", "what it is", _FROM], tablefmt="simple")


def _datasets() -> str:
    from mlbench.datasets import DATASETS, list_datasets

    rows = [(name, about, DATASETS.owner(name)) for name, about in list_datasets().items()]
    return grid(rows, headers=["data set", "what it is", _FROM], tablefmt="simple")


def _metrics() -> str:
    from mlbench.metrics import METRICS

    rows = []
    for name in METRICS:
        try:
            told: tuple[str, ...] = (METRICS[name].better, METRICS[name].unit, METRICS[name].summary)
        except MlbenchError as error:
            told = ("", "", str(error))
        rows.append((name, *told, METRICS.owner(name)))
    return grid(rows, headers=["metric", "better", "unit", "what it is", _FROM], tablefmt="simple")


def _named(kind: str) -> str:
    """Names and packages alone: nothing is loaded."""
    registered: Registry[object] = Registry(f"mlbench.{kind}s", kind, lambda name, found: found)
    rows = [(name, registered.point(name).value, registered.owner(name)) for name in registered]
    return grid(rows, headers=[kind, "where it is", _FROM], tablefmt="simple")


def found_items(name: str, store: Path | None = None) -> list[dict[str, Any]]:
    """What `show` shows, as data: a method's card, a protocol's keys, or a run's record."""
    from mlbench.protocol import PROTOCOLS, load_protocol
    from mlbench.registry import METHODS
    from mlbench.report.method_card import method_card

    found: list[dict[str, Any]] = []
    if name in METHODS:
        found.append({"method": name, **vars(method_card(name))})
    if name.endswith(".toml") or name in PROTOCOLS:
        found.append({"protocol": name, **vars(load_protocol(name))})
    return found or [_record_beginning(name, store)]


def run_items(store: Path | None = None, conditions: Sequence[str] = ()) -> tuple[list[dict[str, Any]], list[str]]:
    """Summaries of the runs of a store that `conditions` choose, the oldest first; what is wrong with broken ones."""
    from mlbench.store import find_records, summarise_records

    runs, problems = summarise_records(store or store_dir())
    if conditions:
        from mlbench.significance.where import choose, parse_where

        chosen = choose(find_records(store or store_dir())[0], parse_where(conditions))
        keys = {record["key"] for record in chosen}
        runs = [run for run in runs if run["key"] in keys]
    return sorted(runs, key=lambda run: run["started"]), problems


def _runs(store: Path | None, conditions: Sequence[str]) -> str:
    runs, problems = run_items(store, conditions)
    metrics = {run["metric"] for run in runs}
    columns = ["method", "dataset", "protocol", "track", "repetition", "mask_seed", *(["metric"] * (len(metrics) > 1))]
    headers = ["run", *_HEADERS, *(["metric"] * (len(metrics) > 1)), *(metrics if len(metrics) == 1 else ["value"])]
    rows = [
        [run["key"][:16], *(str(run[name]) for name in columns), _percent(run["value"]), run["started"]] for run in runs
    ]
    right = ("right",) * 3 if len(metrics) == 1 else ("right", "right", "left", "right")
    sides = ("left",) * 5 + right + ("left",)
    text = grid(rows, [*headers, "started"], colalign=sides if rows else None)
    return "\n".join([text, *(f"broken: {problem}" for problem in problems)])


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _protocol(name: str) -> str:
    from mlbench.protocol import load_protocol

    protocol = load_protocol(name)
    lines = [f"{protocol.name}: {protocol.title}", protocol.description, f"source: {protocol.source}", ""]
    sections = {
        "annotation": protocol.annotation.table,
        **({"stress sweep": vars(protocol.stress)} if protocol.stress else {}),
        "split": vars(protocol.split),
        "selection": {"rule": protocol.selection},
        "unspecified labels count as": vars(protocol.unspecified),
        "metrics": vars(protocol.metrics),
        "table": vars(protocol.table),
        "training": protocol.train,
    }
    for title, table in sections.items():
        lines += [f"{title}:", *_entries(table, "  ")]
    for dataset, rules in protocol.datasets.items():
        lines += [f"on {dataset}:", *_entries({k: v for k, v in vars(rules).items() if v and k != "unverified"}, "  ")]
    unverified = [*protocol.unverified]
    unverified += [f"{dataset}: {line}" for dataset, rules in protocol.datasets.items() for line in rules.unverified]
    if unverified:
        lines += ["not verified:", *(f"  - {line}" for line in unverified)]
    return "\n".join(lines)


def _entries(table: Mapping[str, Any], indent: str) -> list[str]:
    lines = []
    for key, value in table.items():
        if value is None:
            continue
        if isinstance(value, Mapping):
            lines += [f"{indent}{key}:", *_entries(value, indent + "  ")]
        else:
            lines.append(f"{indent}{key} = {list(value) if isinstance(value, tuple) else value}")
    return lines


def _run(record: dict[str, Any]) -> str:
    from mlbench.store import is_submitted

    identity, provenance = record["identity"], record["provenance"]
    lines = [
        f"run {record['key']}",
        *(["submitted predictions: scored here, not reproduced"] if is_submitted(record) else []),
        f"{identity['method']['name']} on {identity['dataset']['id']} under {identity['protocol']}, "
        f"track {identity['track']}, seed {identity['repetition']}, mask seed {identity['mask_seed']}",
        f"selected: epoch {record['selected']['epoch']} of phase {record['selected']['phase']} "
        f"by {record['selected']['rule']}",
        "",
        "identity:",
        *_entries({k: v for k, v in identity.items() if k != "train"}, "  "),
        "training:",
        *_entries(identity["train"], "  "),
        "phases:",
        *(f"  {p['name']}: {p['epochs']} epochs, {p['seconds']:.1f} s" for p in record["phases"]),
        "labels consumed:",
        *_entries(record["supervision"], "  "),
        "test, percent:",
        *_entries({k: None if v is None else round(v, 4) for k, v in record["results"]["test"].items()}, "  "),
        "provenance:",
        *_entries(provenance, "  "),
    ]
    if record["notes"]:
        lines += ["notes:", *(f"  - {note}" for note in record["notes"])]
    if record.get("replications"):
        from mlbench.store.replications import spread_text

        lines.append(f"with its replications: {spread_text(record)}")
    if "migrated" in provenance:
        lines += ["brought over from an earlier harness, by what was proved:"]
        lines += [f"  - {what}: {how}" for what, how in provenance["migrated"]["proved"].items()]
    history = [
        (row["phase"], row["epoch"], row.get("loss"), row.get("val", {}).get("mAP"), row.get("seconds"))
        for row in record["epochs"]
    ]
    table = grid(history, headers=["phase", "epoch", "loss", "val mAP", "seconds"], floatfmt=".3f")
    return "\n".join([*lines, "", table])
