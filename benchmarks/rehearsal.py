"""Every table of the papers rehearsed end to end: miniatures of all data sets, `mlbench reproduce`, each cell counted.

A tiny network with random weights, two epochs at 32 px, one draw: its numbers mean nothing. What counts is that every
printed number stands beside one of ours or beside the reason why there is none; exit status 1 where one does not.
"""

from __future__ import annotations

import math
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import torch
from safetensors.torch import save_file
from timing import OUTPUT, about, markdown, write

from mlbench.miniature import make
from mlbench.models.backbones import build_backbone
from mlbench.reproduce.distance import distances
from mlbench.reproduce.execute import Reproduced, Settings, reproduce
from mlbench.reproduce.places import parse_data, parse_weights
from mlbench.reproduce.plans import Plan, load_plan, load_plans
from mlbench.reproduce.runs import Asked, data_of
from mlbench.sweep.drive import How

#: Files that serve several data sets of the tables are made once.
MADE = ("voc2012", "coco2014", "nuswide-spml", "nuswide-splc", "nuswide-random150k", "cub", "wider", "openimages-v3")


def random_weights(folder: Path) -> Path:
    """A weights file of the tiny network, which track head needs, with random numbers in it."""
    torch.manual_seed(0)
    state = {name: value.contiguous() for name, value in build_backbone("scenes").state_dict().items()}
    folder.mkdir(parents=True, exist_ok=True)
    save_file(state, folder / "scenes.safetensors")
    return folder


def rehearse(plan: Plan, folder: Path, images: int, workers: int) -> Reproduced:
    """Run one table on miniatures in `folder`; what is there already is not made again."""
    wanted = data_of([plan])
    made = [make(name, folder / name, images=images) for name in MADE if needed(name, wanted)]
    asked = Asked(
        [plan],
        data=parse_data([f"{path.name}={path}" for path in made], wanted),
        weights=parse_weights([random_weights(folder / "weights")]),
        budget="rehearsal",
    )
    settings = Settings(device="cpu", retries=0)
    return reproduce(
        asked, store=folder / "runs", how=How(workers=workers), settings=settings, steps=0, told=lambda text: None
    )


def needed(name: str, wanted: list[str]) -> bool:
    """Whether the miniature `name` serves one of the data sets that are wanted."""
    return name in wanted or (name == "coco2014" and "coco2014-all" in wanted)


def counted(plan: Plan, done: Reproduced) -> dict[str, Any]:
    """How many printed numbers of a table have one of ours beside them, a reason, or neither, and the reasons.

    Ours may be undefined, as a mean over classes that a few images do not have; that is a reason, too.
    """
    cells = distances(done.frozen, plan)
    bare = [one for one in cells if not one.draws or math.isnan(one.ours)]
    reasons = [one.why for one in bare if one.why != "no run yet"]
    return {
        "table": f"{plan.paper}, {plan.layout.printed}",
        "rows": len({one.printed for one in cells}),
        "printed": len(cells),
        "numbers": len(cells) - len(bare),
        "reasons": len(reasons),
        "neither": len(bare) - len(reasons),
        "runs": sum(job.asked for job in done.frozen.jobs),
        "failed": 0 if done.outcome is None else len(done.outcome.failed),
        "why": list(dict.fromkeys(reasons)),
    }


def compiles(report: Path) -> bool | None:
    """Whether pdflatex takes the report; None where it is not here."""
    if shutil.which("pdflatex") is None:
        return None
    with tempfile.TemporaryDirectory() as place:
        command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-output-directory", place, str(report)]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0


@click.command()
@click.option("--images", default=60, show_default=True, help="Of each miniature.")
@click.option("--tables", multiple=True, help="Only these, as kd_wsd.coco; may be repeated [all].")
@click.option("--workers", default=1, show_default=True, help="Runs at a time.")
@click.option("--folder", type=click.Path(path_type=Path), help="For miniatures, runs and reports [a temporary one].")
@OUTPUT
def main(images: int, tables: tuple[str, ...], workers: int, folder: Path | None, output: Path) -> None:
    """Rehearse all tables, and write what became of each printed number."""
    with tempfile.TemporaryDirectory() as place:
        root = folder or Path(place)
        found = []
        for plan in [load_plan(name) for name in tables] or load_plans("all"):
            begun = time.perf_counter()
            done = rehearse(plan, root, images, workers)
            row = counted(plan, done) | {"seconds": time.perf_counter() - begun}
            row["latex"] = compiles(next(path for path in done.files if path.suffix == ".tex"))
            click.echo(f"{row['table']}: {row['numbers']} numbers, {row['reasons']} reasons, {row['seconds']:.0f} s")
            found.append(row)
    head = ["table", "rows", "printed", "ours beside", "a reason", "neither", "runs", "failed", "seconds", "LaTeX"]
    latex = {True: "compiles", False: "FAILS", None: "not tried"}
    names = ("table", "rows", "printed", "numbers", "reasons", "neither", "runs", "failed")
    rows = [[*(row[name] for name in names), f"{row['seconds']:.0f}", latex[row["latex"]]] for row in found]
    total = f"{sum(row['seconds'] for row in found) / 60:.1f} minutes; {images} pictures a miniature."
    why = [f"* {row['table']}: {reason}" for row in found for reason in row["why"]]
    text = "\n".join([markdown(rows, head), "", total, "", "Reasons:", "", *why])
    write(output, "rehearsal", about(images=images, workers=workers), {"tables": found}, text)
    if any(row["neither"] or row["failed"] or row["latex"] is False for row in found):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
