"""How often the column test is wrong, covers, and finds: simulated columns in the crossed model of seeds and masks."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from tabulate import tabulate
from timing import OUTPUT

from mlbench.provenance import hardware
from mlbench.significance.crossed import Draw, gaps
from mlbench.significance.ties import adjusted

LEVEL = 0.05
#: Deviations by seed, by mask, and of the rest, of each method.
RATIOS = {
    "rest alone": (0.0, 0.0, 1.0),
    "little": (0.35, 0.35, 1.0),
    "mixed": (0.4, 0.4, 0.7),
    "seed and mask": (1.0, 1.0, 0.3),
    "seed": (1.0, 0.0, 0.3),
    "seed and rest": (1.0, 0.0, 1.0),
}
GRID = tuple((seed, mask) for seed in range(3) for mask in range(3))
DIAGONAL = tuple((i, i) for i in range(9))
SHAPES = {
    "3 x 3": GRID,
    "9 draws": DIAGONAL,
    "3 x 3 and 6 draws": (*GRID, *DIAGONAL[3:]),
    "3 seeds, 1 mask": tuple((seed, 0) for seed in range(3)),
    "3 seeds, 3 masks each": tuple((seed, 3 * seed + i) for seed in range(3) for i in range(3)),
    "5 x 5": tuple((seed, mask) for seed in range(5) for mask in range(5)),
}
#: What varies in the other shapes: one mask says nothing of others, so that it must not matter.
SINGLE = dict.fromkeys(SHAPES, "seed and mask") | {"3 seeds, 1 mask": "seed"}
NOISE = ("equal", "one method x 3", "log-normal 0.6")


@dataclass(frozen=True)
class Setting:
    """missing : 1 to so many runs of each method. gap : of the first to the others, in deviations of a paired gap."""

    methods: int
    shape: str
    ratio: str
    noise: str = "equal"
    missing: int = 0
    gap: float = 0.0


def column(setting: Setting, rng: np.random.Generator) -> list[dict[Draw, float]]:
    """Runs of methods of equal mean (but for the first, with a gap) that share their seeds' and masks' luck."""
    draws = SHAPES[setting.shape]
    by_seed, by_mask, rest = RATIOS[setting.ratio]
    size = max(map(max, draws)) + 1
    shared = rng.normal(size=(size, 1)) + rng.normal(size=(1, size))
    noise = np.ones(setting.methods)
    if setting.noise == NOISE[1]:
        noise[0] = 3.0
    if setting.noise == NOISE[2]:
        noise = np.exp(rng.normal(0, 0.6, setting.methods))
    made = []
    for i, scale in enumerate(noise):
        own = (
            by_seed * rng.normal(size=(size, 1))
            + by_mask * rng.normal(size=(1, size))
            + rest * rng.normal(size=(size, size))
        )
        deviation = math.sqrt(2 * (by_seed**2 + by_mask**2 + rest**2))
        values = 70 + shared + scale * own + (setting.gap * deviation if i == 0 else 0.0)
        runs: dict[Draw, float] = {draw: float(values[draw]) for draw in draws}
        for at in rng.choice(len(draws), rng.integers(min(setting.missing, 1), setting.missing + 1), replace=False):
            runs.pop(draws[at])
        made.append(runs)
    return made


def measure(setting: Setting, tables: int, seed: int = 0) -> dict[str, float]:
    """Shares over `tables` columns, each with its Monte-Carlo error under "NAME_error".

    coverage : of all pairs' intervals. coverage_first : of the first method's. false_tables : with a pair of equal
    means told apart. power : with the first method told from all others.
    """
    rng = np.random.default_rng([seed, *map(ord, str(setting))])
    found = []
    first, second = np.triu_indices(setting.methods, 1)
    null = (first > 0) | (setting.gap == 0)
    truth = np.where(first == 0, setting.gap * math.sqrt(2 * sum(part**2 for part in RATIOS[setting.ratio])), 0.0)
    for _ in range(tables):
        result = gaps(column(setting, rng))
        covered = (result.low[first, second] <= truth) & (truth <= result.high[first, second])
        told = (adjusted(result.p) < LEVEL)[first, second]
        found.append((covered.mean(), covered[first == 0].mean(), told[null].any(), told[first == 0].all()))
    values = np.array(found, dtype=float)
    mean, error = values.mean(axis=0), values.std(axis=0) / math.sqrt(tables)
    names = ("coverage", "coverage_first", "false_tables", "power")
    return dict(zip(names, mean, strict=True)) | {
        f"{name}_error": float(e) for name, e in zip(names, error, strict=True)
    }


def settings() -> list[Setting]:
    """What is simulated: twelve methods in every shape; two and four, whose column knows less; and gaps."""
    twelve = [
        Setting(12, shape, ratio, noise, missing)
        for shape, missing in (
            ("3 x 3", 0),
            ("3 x 3", 3),
            ("9 draws", 0),
            ("9 draws", 3),
            ("3 x 3 and 6 draws", 0),
            ("3 seeds, 1 mask", 0),
        )
        for ratio in (RATIOS if shape == "3 x 3" else (SINGLE[shape],))
        for noise in NOISE
        if not (missing and shape == "3 x 3" and ratio in ("rest alone", "little", "mixed"))
    ]
    few = [
        Setting(count, shape, ratio, "equal", missing)
        for count in (2, 4)
        for shape, missing in (("3 x 3", 0), ("3 x 3", 3), ("9 draws", 0))
        for ratio in (RATIOS if shape == "3 x 3" else ("seed and mask",))
    ]
    few += [
        Setting(2, shape, ratio)
        for shape in ("3 x 3 and 6 draws", "3 seeds, 3 masks each", "5 x 5")
        for ratio in ("rest alone", "seed and rest", "seed and mask")
    ]
    gap = [
        Setting(12, shape, ratio, gap=3.0)
        for shape, ratio in (
            ("9 draws", "seed and mask"),
            ("3 x 3", "mixed"),
            ("3 x 3", "rest alone"),
            ("3 x 3", "seed and mask"),
        )
    ]
    return [*twelve, *few, *gap]


def as_text(found: list[dict[str, Any]], about: Mapping[str, Any]) -> str:
    rows = []
    for entry in found:
        given, seen = entry["setting"], entry["measured"]
        missing = f", 1 to {given['missing']} missing" if given["missing"] else ""
        shares = (
            f"{100 * seen[name]:.1f} ± {100 * seen[name + '_error']:.1f}"
            for name in ("coverage", "coverage_first", "false_tables")
        )
        power = f"{100 * seen['power']:.1f}" if given["gap"] else ""
        about_column = (given["methods"], given["shape"] + missing, given["ratio"], given["noise"], f"{given['gap']:g}")
        rows.append([*about_column, *shares, power, entry["tables"]])
    heads = ["methods", "runs", "what varies", "noise", "gap", "coverage, %", "of the first's", "false tables, %"]
    parts = "; ".join(f"{name} {', '.join(map(str, deviations))}" for name, deviations in RATIOS.items())
    return (
        f"`python benchmarks/significance.py --tables {about['tables']} --seed {about['seed']}`: {about['cpu']}, "
        f"{about['seconds']:.0f} s of one core.\n\nIntervals of 95 %; a false table tells two methods of equal "
        f"mean apart (family-wise, at {LEVEL:g}); ± is the Monte-Carlo error. Found: tables in which the first is "
        "told from all others, its gap in deviations of the gap in one draw. The last column counts tables. Deviations "
        f"by seed, by mask, of the rest: {parts}.\n\n"
        + tabulate(rows, [*heads, "found, %", "tables"], tablefmt="github", disable_numparse=True)
        + "\n"
    )


@click.command()
@click.option("--tables", default=300, show_default=True, help="Columns of 12 methods; of fewer, four times as many.")
@click.option("--seed", default=0, show_default=True)
@OUTPUT
def main(tables: int, seed: int, output: Path) -> None:
    """Simulate every setting, and write significance.md and significance.json."""
    started, found = time.process_time(), []
    for setting in settings():
        count = tables * (1 if setting.methods == 12 else 4)
        found.append({"setting": asdict(setting), "tables": count, "measured": measure(setting, count, seed)})
        click.echo(f"{setting}: {found[-1]['measured']}")
    about = {"cpu": hardware()["cpu"], "tables": tables, "seed": seed, "seconds": time.process_time() - started}
    output.mkdir(parents=True, exist_ok=True)
    (output / "significance.json").write_text(json.dumps({**about, "found": found}, indent=1) + "\n", encoding="utf-8")
    (output / "significance.md").write_text(as_text(found, about), encoding="utf-8")


if __name__ == "__main__":
    main()
