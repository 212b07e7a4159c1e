"""What `mlbench reproduce` says before it starts: runs with settings and cost, sources, what is missing, the scale."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from tabulate import tabulate

from mlbench.inputs.on_the_fly import LARGE
from mlbench.reproduce.frozen import Frozen
from mlbench.reproduce.plans import SETTINGS, Plan
from mlbench.reproduce.runs import Asked, Entry, protocol_of
from mlbench.reproduce.scale import Needs, counts_of, factor_of, gigabytes, hours, needs_of, network_of


def listing(frozen: Frozen) -> str:
    """All that is known before the first run, as Markdown."""
    parts = []
    for plan, entries in itertools.groupby(zip(frozen.entries, frozen.keys, frozen.reasons, strict=True), _plan_of):
        parts += _plan_text(frozen, plan, list(entries))
    done = sum(job.asked and job.key in frozen.records for job in frozen.jobs)
    asked = sum(job.asked for job in frozen.jobs)
    parts.append(f"{asked} runs: {done} there already, {len(frozen.to_do)} to do (with those that others build on).")
    parts.append(scale_text(frozen.entries))
    return "\n\n".join(parts) + "\n"


def planned(frozen: Frozen) -> list[dict[str, Any]]:
    """A row of each printed row and data set, as `listing` has it, for programs: settings, runs, what is missing."""
    found = []
    for entry, keys, reason in zip(frozen.entries, frozen.keys, frozen.reasons, strict=True):
        train = entry.train
        found.append(
            {
                "paper": entry.plan.paper,
                "table": entry.plan.table,
                "row": entry.printed.row,
                "method": entry.method,
                "head": entry.head,
                "dataset": entry.dataset,
                "in_place_of": entry.data if entry.data != entry.dataset else None,
                "protocol": entry.protocol,
                "track": entry.track,
                "backbone": entry.backbone,
                "image_size": train.image_size if train else None,
                "epochs": train.epochs if train else None,
                "batch_size": train.batch_size if train else None,
                "draws": entry.draws,
                "runs": list(keys),
                "done": sum(key in frozen.records for key in keys),
                "missing": reason or None,
            }
        )
    return found


def _plan_of(item: tuple[Entry, Any, Any]) -> Plan:
    return item[0].plan


def _plan_text(frozen: Frozen, plan: Plan, rows: Sequence[tuple[Entry, tuple[str, ...], str]]) -> list[str]:
    budget = plan.budget(frozen.asked.budget)
    said = f"Budget '{frozen.asked.budget}': {budget.why}" if frozen.asked.budget else "The published recipe."
    head = ["row", "method", "data set", "protocol", "track", "network", "px", "epochs x batch", "draws"]
    head += ["one run, A100", "state"]
    reasons = list(dict.fromkeys(reason for _, _, reason in rows if reason))
    body = [_line(frozen, *row, reasons) for row in rows]
    parts = [f"## {plan.paper}, {plan.layout.printed}: {plan.layout.title}", said]
    parts.append(tabulate(body, head, tablefmt="github", disable_numparse=True))
    if reasons:
        parts.append("\n".join(f"* missing {n}: {reason}" for n, reason in enumerate(reasons, start=1)))
    parts.append(settings_text(plan, [entry for entry, _, _ in rows], frozen.asked))
    return parts


def _line(frozen: Frozen, entry: Entry, keys: tuple[str, ...], reason: str, reasons: list[str]) -> list[str]:
    name = entry.method + (f", head {entry.head}" if entry.head else "")
    place = entry.dataset if entry.dataset == entry.data else f"{entry.dataset} in place of {entry.data}"
    where = [entry.printed.row, name, place, entry.protocol, entry.track, entry.backbone]
    train = entry.train
    shown = ["", "", ""]
    if train is not None:
        shown = [str(train.image_size), f"{train.epochs} x {train.batch_size}", str(entry.draws)]
    needs = on_paper(entry)
    done = sum(key in frozen.records for key in keys)
    state = (
        f"missing {reasons.index(reason) + 1}"
        if reason
        else f"{done} of {len(keys)} there"
        if done
        else f"{len(keys)} to do"
    )
    return [*where, *shown, hours(needs.seconds) if needs else "", state]


def on_paper(entry: Entry) -> Needs | None:
    """What one run of an entry takes, by published counts; None where these or the network's are not known."""
    network = network_of(entry.backbone)
    counts = counts_of(protocol_of(entry.protocol), entry.dataset)
    if entry.train is None or network is None or counts is None:
        return None
    factor = factor_of(entry.method) or 1.0
    return needs_of(counts, network, entry.train, track=entry.track, factor=factor, precision=entry.precision)


def settings_text(plan: Plan, entries: Sequence[Entry], asked: Asked) -> str:
    """`settings_rows` as Markdown."""
    rows = settings_rows(plan, entries, asked)
    return tabulate(rows, ["setting", "value", "level", "source"], tablefmt="github", disable_numparse=True)


def settings_rows(plan: Plan, entries: Sequence[Entry], asked: Asked) -> list[list[str]]:
    """Each setting of a plan with its value, level and source; what was asked for instead is marked as ours."""
    changed = _changed(plan, asked)
    rows = []
    for name in SETTINGS:
        setting = plan.settings[name]
        level = f"ours ({changed[name]}), in place of {setting.level}" if name in changed else setting.level
        rows.append([name, _value(plan, name, entries), level, setting.source])
    rows += [[f"row {name}", row.reason or _given(row), row.level, row.source] for name, row in plan.rows.items()]
    return rows


def _changed(plan: Plan, asked: Asked) -> dict[str, str]:
    """The settings that are not the plan's, and who asked for another value: a budget, an option, other data."""
    budget = plan.budget(asked.budget)
    found: dict[str, str] = {}
    by_image = ("data", "annotation", "image_size", "schedule", "batch_size")
    for data in {column.data for column in plan.layout.columns} & asked.data.keys():
        if asked.data[data].stands_in(data):
            found |= dict.fromkeys(by_image, f"{asked.data[data].id} in place of {data}")
    for name in ("track", "backbone", "draws"):
        if getattr(budget, name):
            found[name] = f"budget {asked.budget}"
        if getattr(asked, name) not in (None, plan.value(name)):
            found[name] = f"--{name}"
    if "track" in found:
        found |= dict.fromkeys(("schedule", "batch_size"), found["track"])
    for name, key in (("image_size", "train.image_size"), ("batch_size", "train.batch_size")):
        if key in budget.set:
            found[name] = f"budget {asked.budget}"
    if budget.epochs is not None:
        found["schedule"] = f"budget {asked.budget}"
    if asked.backbone:
        found["weights"] = "--backbone"
    return found


def _given(row: Any) -> str:
    parts = [f"{key} {getattr(row, key)}" for key in ("method", "backbone", "head") if getattr(row, key)]
    return ", ".join([*parts, *(f"{key} = {value}" for key, value in row.set.items())]) or "as its method has it"


def _value(plan: Plan, name: str, entries: Sequence[Entry]) -> str:
    """The value of a setting as the runs have it, in words."""
    protocol = protocol_of(plan.layout.protocol)
    trained = [entry for entry in entries if entry.train is not None]

    def of(get: Any) -> str:
        return ", ".join(dict.fromkeys(str(get(entry)) for entry in trained)) or "-"

    texts: Mapping[str, Any] = {
        "methods": lambda: ", ".join(dict.fromkeys(entry.method for entry in entries)),
        "data": lambda: ", ".join(dict.fromkeys(entry.dataset for entry in entries)),
        "annotation": lambda: f"{protocol.annotation.process} (protocol {plan.layout.protocol})",
        "track": lambda: of(lambda entry: entry.track),
        "backbone": lambda: of(lambda entry: entry.backbone),
        "weights": lambda: of(lambda entry: entry.weights.name if entry.weights else plan.value("weights")),
        "image_size": lambda: of(lambda entry: entry.train.image_size),
        "batch_size": lambda: of(lambda entry: entry.train.batch_size),
        "schedule": lambda: of(_schedule),
        "draws": lambda: of(lambda entry: entry.draws),
        "definitions": lambda: (
            f"AP {protocol.metrics.ap}, empty class {protocol.metrics.empty_class}, "
            f"decision {protocol.metrics.decision:g}, top {protocol.metrics.top_k}"
        ),
        "selection": lambda: protocol.selection,
    }
    return str(texts[name]())


def _schedule(entry: Entry) -> str:
    train = entry.train
    assert train is not None
    return f"{train.optimizer} {train.lr:g} {train.schedule}, {train.epochs} epochs"


def _once(entries: Sequence[Entry]) -> list[Entry]:
    """`entries`, of those that are the same runs for several tables the one with most draws."""
    found: dict[str, Entry] = {}
    for entry in entries:
        head = entry.head, sorted(entry.changes.items())
        runs = repr((entry.dataset, entry.protocol, entry.method, entry.track, entry.backbone, *head))
        if runs not in found or found[runs].draws < entry.draws:
            found[runs] = entry
    return list(found.values())


def scale_text(entries: Sequence[Entry]) -> str:
    """What the runs of `entries` take together, a row for each data set, size and network, by published counts."""
    head = ["data set", "protocol", "network", "images", "px", "decoded", "features (maps)", "predictions a run"]
    head += ["checkpoint", "runs", "one A100", "eight A100"]
    groups: dict[tuple[str, ...], list[tuple[Entry, Needs]]] = {}
    for entry in _once(entries):
        needs = on_paper(entry)
        if needs is not None and entry.train is not None:
            key = entry.dataset, entry.protocol, entry.backbone, str(entry.train.image_size)
            groups.setdefault(key, []).append((entry, needs))
    rows, large = [], []
    for (dataset, protocol, backbone, size), found in groups.items():
        needs = found[0][1]
        runs = sum(len(entry.requests()) for entry, _ in found)
        seconds = sum(len(entry.requests()) * one.seconds for entry, one in found)
        mark = "" if all(factor_of(entry.method) for entry, _ in found) else "from "
        features = f"{gigabytes(needs.pooled)} ({gigabytes(needs.maps)})"
        rows.append(
            [
                *(dataset, protocol, backbone, f"{needs.images:,}", size, gigabytes(needs.decoded), features),
                *(gigabytes(needs.predictions), gigabytes(needs.checkpoint), str(runs)),
                *(mark + hours(seconds), mark + hours(seconds / min(8, max(runs, 1)))),
            ]
        )
        if needs.decoded > LARGE:
            large.append(f"{dataset} at {size} px takes {gigabytes(needs.decoded)} decoded")
    text = tabulate(rows, head, tablefmt="github", disable_numparse=True)
    if not rows:
        text = "Nothing of this has published counts and a network of published size: `mlbench plan` measures it."
    lines = ["## What it takes, on paper", text]
    if any("from" in row[-1] for row in rows):
        lines.append("from: a row's method has no measured step, and is counted as a plain one.")
    if large:
        listed = "; ".join(dict.fromkeys(large))
        lines.append(
            f"Decoded images are kept once for all runs in $MLBENCH_CACHE: {listed}. MLBENCH_PIXELS=decode decodes "
            "them on the fly instead, the same pixels, which takes processors in place of disk."
        )
    return "\n\n".join(lines)
