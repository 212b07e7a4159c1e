"""A finished run brought back: its record, its data, and its network with the selected weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from mlbench.datasets.recorded import dataset_of
from mlbench.errors import DataError
from mlbench.methods import Method, Phase
from mlbench.paths import store_dir
from mlbench.protocol import protocol_of
from mlbench.registry import load_method
from mlbench.runner.checkpoint import load_tensors, phase_file
from mlbench.runner.feed import Feed
from mlbench.runner.plan import Request, Run, resolve
from mlbench.runner.task import RunTask
from mlbench.runner.vl_scores import kept_vl_scores
from mlbench.runner.world import World
from mlbench.store import run_dir, verify_run


def request_of(
    record: dict[str, Any], data_root: Path | None, weights: Path | None = None, dataset: str | None = None
) -> Request:
    """The request that leads to `record` again; see `dataset_of` for `dataset`, and `find_weights` for `weights`."""
    identity = record["identity"]
    changes = {f"train.{name}": value for name, value in identity["train"].items()}
    changes |= identity["method"]["hyperparameters"]
    head = identity.get("head", {})
    changes |= {f"head.{name}": value for name, value in head.get("hyperparameters", {}).items()}
    changes |= {f"annotation.{name}": value for name, value in identity["mask"].get("params", {}).items()}
    return Request(
        protocol=protocol_of(record),
        method=identity["method"]["name"],
        dataset=dataset_of(record, dataset),
        data_root=data_root,
        backbone=identity["backbone"]["name"],
        weights=weights,
        head=head.get("name", "linear"),
        track=identity["track"],
        seed=identity["repetition"],
        mask_seed=identity["mask_seed"],
        changes=changes,
        precision=identity["precision"],
        side=_side_of(record),
        pretraining=identity.get("pretraining") if weights is not None else None,
    )


def _side_of(record: dict[str, Any]) -> dict[str, Path]:
    """The files of side inputs that a person gave, as the cache kept them."""
    scores = record["identity"].get("inputs", {}).get("vl_scores")
    if scores is None:
        return {}
    kept = kept_vl_scores(scores["sha256"])
    if kept is None:
        raise DataError(
            f"run {record['key'][:16]}: its vl_scores ({scores['sha256'][:16]}, of {scores['model']}) are not in the "
            "cache here: any `mlbench run` with --side vl_scores=FILE of that file brings them there"
        )
    return {"vl_scores": kept}


def reload_run(
    record: dict[str, Any], data_root: Path | None, weights: Path | None = None, dataset: str | None = None
) -> Run:
    """Resolve a record's run on the data here; DataError if the data or settings are no longer the same."""
    run = resolve(request_of(record, data_root, weights, dataset), record["identity"].get("uses", {}))
    if run.key != record["key"]:
        ours, theirs = run.identity, record["identity"]
        differing = sorted(k for k in ours.keys() | theirs.keys() if ours.get(k) != theirs.get(k))
        older = theirs["harness"] < ours["harness"]
        hint = "; `mlbench results migrate` brings records of an earlier harness to this one" if older else ""
        raise DataError(
            f"run {record['key'][:16]} cannot be brought back here: {', '.join(differing)} differ from what it "
            f"recorded{hint}"
        )
    return run


def reload_network(run: Run, store: Path | None = None, device: str = "cpu") -> tuple[Method, nn.Module, Feed]:
    """The trained network of a finished run, with its method and the feed of its data."""
    root = store or store_dir()
    record = verify_run(root, run.key)
    world = World(device, run.request.precision)
    feed = Feed(run, world.device)
    task = RunTask(run, world, feed)
    for name, key in run.uses.items():
        verify_run(root, key)
        task.artefacts[name] = load_tensors(run_dir(root, key) / "weights.safetensors")
    method = load_method(run.method.name)(task)
    task.bind(method)
    phases = list(method.phases())
    for phase in phases[:-1]:
        task.artefacts[phase.name] = load_tensors(run_dir(root, run.key) / phase_file(phase))
    if phases:
        task.begin(phases[-1])
    network = method.network(phases[-1] if phases else Phase("evaluate"))
    network.load_state_dict(load_tensors(run_dir(root, run.key) / record["weights"]["file"]))
    return method, network.to(world.device).eval(), feed
