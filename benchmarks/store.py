"""Ten processes write records to one store while one of them is killed every second: nothing lost, nothing torn."""

from __future__ import annotations

import copy
import multiprocessing
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import click
import numpy as np

from mlbench.evaluation.predictions import Predictions, write_predictions
from mlbench.files import atomic_write, sha256_file
from mlbench.store import find_records, read_record, run_dir, verify_run, write_record
from mlbench.store.schema import refit

TEMPLATE = next((Path(__file__).parents[1] / "results" / "runs").glob("an__scenes__*.json"))


def record_of(template: dict[str, Any], number: int) -> dict[str, Any]:
    """The record of run `number`, still without files."""
    record = copy.deepcopy(template)
    record["identity"]["repetition"] = number
    return refit(record)


def write_run(root: Path, record: dict[str, Any]) -> None:
    """Write a run as the runner does: predictions, weights, and last the record, over what may be there."""
    folder = run_dir(root, record["key"])
    draw = np.random.default_rng(record["identity"]["repetition"])
    for split, entry in record["predictions"].items():
        scores = draw.normal(size=(500, 10)).astype(np.float32)
        meta = {"key": record["key"], "dataset": "scenes", "split": split, "epoch": "1"}
        ids, classes = tuple(map(str, range(500))), tuple(map(str, range(10)))
        given = Predictions(scores, entry["kind"], ids, (), classes, meta=meta)
        entry["sha256"] = write_predictions(folder / entry["file"], given)
    atomic_write(folder / record["weights"]["file"], draw.bytes(200_000))
    record["weights"]["sha256"] = sha256_file(folder / record["weights"]["file"])
    write_record(root, refit(record), replace=True)


def work(root: Path, numbers: range, log: Path, stop: float) -> None:
    """Write the runs `numbers` that the log does not have, then all of them again and again until `stop`."""
    template = read_record(TEMPLATE)
    done = set(log.read_text().split()) if log.exists() else set()
    with open(log, "a", buffering=1) as promised:
        first = True
        while first or time.time() < stop:
            for number in numbers:
                record = record_of(template, number)
                if first and record["key"] in done:
                    continue
                write_run(root, record)
                promised.write(f"\n{record['key']}\n")
                if not first and time.time() > stop:
                    return
            first = False


@click.command()
@click.argument("root", type=click.Path(path_type=Path))
@click.option("--records", default=1000, show_default=True)
@click.option("--writers", default=10, show_default=True)
@click.option("--seconds", default=30.0, show_default=True, help="Go on writing and killing at least so long.")
def main(root: Path, records: int, writers: int, seconds: float) -> None:
    """Write RECORDS runs into the new store ROOT, kill a writer each second, then check every file of it."""
    if root.exists():
        raise click.UsageError(f"{root} exists: name a new folder")
    root.mkdir(parents=True)
    logs = [root.with_name(f"{root.name}.{number}.log") for number in range(writers)]
    context, draw, stop = multiprocessing.get_context("fork"), random.Random(0), time.time() + seconds

    def start(number: int) -> Any:
        process = context.Process(target=work, args=(root, range(number, records, writers), logs[number], stop))
        process.start()
        return process

    running = {number: start(number) for number in range(writers)}
    kills, began = 0, time.time()
    while running:
        time.sleep(max(0.0, began + kills + draw.uniform(0.5, 1.5) - time.time()))
        running = {number: process for number, process in running.items() if process.is_alive()}
        if running:
            victim = draw.choice(list(running))
            os.kill(running[victim].pid, signal.SIGKILL)
            running[victim].join()
            kills += 1
            there = list(root.glob("*/record.json"))
            for path in draw.sample(there, min(3, len(there))):
                read_record(path)
            running[victim] = start(victim)
    took = time.time() - began

    promised = [key for log in logs for key in log.read_text().split() if len(key) == 64]
    found, problems = find_records(root)
    keys = {record["key"] for record in found}
    for record in found:
        verify_run(root, record["key"])
    left = sum(1 for path in root.rglob("*.tmp"))
    lost, broken = len(set(promised) - keys), len(problems)
    click.echo(
        f"{writers} writers, {kills} killed in {took:.0f} s; {len(promised)} writes finished; "
        f"{len(found)} of {records} records there, {lost} lost, {broken} broken; {left} unfinished temporary files"
    )
    if lost or broken or len(found) != records:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
