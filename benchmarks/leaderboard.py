"""A thousand synthetic runs: how long the site takes and how large its first page is."""

from __future__ import annotations

import json
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import numpy as np

from mlbench.canonical import canonical_json
from mlbench.report.site import write_site
from mlbench.store import published_name
from mlbench.store.schema import refit

RUNS = Path(__file__).parents[1] / "results" / "runs"
DRAWS = 3


def write_records(folder: Path, runs: int, classes: int) -> None:
    """Records as ours, of two data sets with `classes` classes: methods whose means differ by a tenth of a point."""
    rng = np.random.default_rng(0)
    template = json.loads(next(RUNS.glob("llr_boostlu__scenes__*.json")).read_text())
    identity = template["identity"]
    for number in range(runs):
        row, draw = divmod(number, DRAWS)
        identity["dataset"]["id"] = ("scenes", "voc2012")[row % 2]
        identity["method"]["name"] = f"method_{row // 2:03d}" if row > 1 else "an"
        identity["repetition"] = identity["mask_seed"] = draw
        identity["mask"] |= {"seed": draw, "sha256": f"{draw:064x}"}
        template["results"]["test"]["mAP"] = 50 + row / 20 + rng.normal(0, 0.3)
        template["per_class"]["AP"] = {f"class {c}": ap for c, ap in enumerate(rng.uniform(0, 100, classes))}
        template |= refit(template)
        (folder / published_name(template)).write_bytes(canonical_json(template))


@click.command()
@click.option("--runs", default=1000, show_default=True)
@click.option("--classes", default=80, show_default=True)
def main(runs: int, classes: int) -> None:
    """Write synthetic records to a temporary folder, build the site, and fail above 60 s or a first page of 1 MB."""
    with TemporaryDirectory() as temporary:
        records, output = Path(temporary, "records"), Path(temporary, "site")
        records.mkdir()
        write_records(records, runs, classes)
        started, worked = time.perf_counter(), time.process_time()
        site = write_site(output, records)
        seconds, work = time.perf_counter() - started, time.process_time() - worked
        size = (output / "index.html").stat().st_size
        times = f"{seconds:.1f} s, of which {work:.1f} s of one core"
        click.echo(f"{site.pages} pages of {site.runs} runs in {times}; first page {size / 1e6:.2f} MB")
        if seconds > 60 or size > 1e6:
            raise SystemExit(1)


if __name__ == "__main__":
    main()
