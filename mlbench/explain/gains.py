"""Which classes gain: average precision of each class under one method minus that under another."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from tabulate import tabulate

from mlbench.errors import UsageError, visible
from mlbench.explain.sides import draw_of, pairs_of, require_same_test, sides_of
from mlbench.files import atomic_write
from mlbench.significance.comparability import apart_notes

#: Most classes a picture shows: of more, those at both ends.
SHOWN = 100


@dataclass(frozen=True)
class Gain:
    """One class: mean AP in percent on both sides, and the paired differences, one for each pair of runs."""

    name: str
    first: float
    second: float
    differences: tuple[float, ...]

    @property
    def mean(self) -> float:
        return float(np.mean(self.differences))

    @property
    def deviation(self) -> float:
        """Sample standard deviation over the pairs; NaN for one pair."""
        return float(np.std(self.differences, ddof=1)) if len(self.differences) > 1 else float("nan")


@dataclass(frozen=True)
class Gains:
    """The classes by gain, the largest first (ties: in the data set's order), and those without AP in some run."""

    title: str
    classes: tuple[Gain, ...]
    undefined: tuple[str, ...]
    notes: tuple[str, ...]

    def text(self) -> str:
        """The classes as Markdown."""
        several = len(self.classes[0].differences) > 1
        rows = [
            [gain.name, f"{gain.first:.1f}", f"{gain.second:.1f}", f"{gain.mean:+.1f}"]
            + ([f"{gain.deviation:.1f}", f"{sum(d > 0 for d in gain.differences)}"] if several else [])
            for gain in self.classes
        ]
        header = ["class", "first", "second", "gain"] + (["sd", "pairs up"] if several else [])
        aligned = ["left"] + ["right"] * (len(header) - 1)
        table = tabulate(rows, header, "github", disable_numparse=True, colalign=aligned)
        return "\n".join([self.title, "", table, "", *(f"- {note}" for note in self.notes)])


def class_gains(first: str, second: str, store: Path | None = None) -> Gains:
    """Average precision of each class under runs `second` minus that under `first`, from the records alone.

    Each is the first characters of a key, or of several keys joined by commas (seeds): differences are then taken
    between runs with the same seed and mask and averaged. AP is in percent, in the flavour of the runs' protocol.

    Raises
    ------
    UsageError
        The runs are of different data sets, protocols or definitions, or some run has no partner.
    """
    sides = sides_of([first, second], store)
    records = [record for side in sides for record in side.records]
    require_same_test(records)
    pairs = pairs_of(*sides)
    paired = [{draw_of(pair[side]) for pair in pairs} for side in (0, 1)]
    alone = [draw_of(r) for side, met in zip(sides, paired, strict=True) for r in side.records if draw_of(r) not in met]
    if alone:
        raise UsageError(f"runs without a partner: (seed, mask) {', '.join(map(str, alone))} stand on one side only")
    tables = [[record["per_class"]["AP"] for record in pair] for pair in pairs]
    names = list(tables[0][0])
    gains, undefined = [], []
    for name in names:
        values = [[table[name] for table in pair] for pair in tables]
        if any(value is None for pair in values for value in pair):
            undefined.append(name)
            continue
        a, b = np.array(values, dtype=np.float64).T
        gains.append(Gain(name, float(a.mean()), float(b.mean()), tuple(map(float, b - a))))
    if not gains:
        raise UsageError("no class has an average precision in all runs: its test part knows no positive")
    gains.sort(key=lambda gain: -gain.mean)
    notes = [
        f"AP in percent ({records[0]['definitions']['ap']}), mean over {len(pairs)} "
        + ("pairs of runs with the same seed and mask." if len(pairs) > 1 else "pair of runs."),
        f"{sum(g.mean > 0 for g in gains)} classes gain, {sum(g.mean < 0 for g in gains)} lose, "
        f"{sum(g.mean == 0 for g in gains)} stay; mean {np.mean([g.mean for g in gains]):+.2f}, "
        f"median {np.median([g.mean for g in gains]):+.2f}.",
    ]
    if undefined:
        notes.append(f"Left out, without AP (no known positive in the test part): {', '.join(undefined)}.")
    drawn = [draw_of(record) for record in pairs[0]]
    if drawn[0] != drawn[1]:
        notes.append(f"The runs differ in what was drawn, too: (seed, mask) {drawn[0]} and {drawn[1]}.")
    notes += apart_notes(records)
    data = records[0]["identity"]["dataset"]["id"]
    title = f"{sides[1].name} minus {sides[0].name} on {data}, protocol {records[0]['identity']['protocol']}"
    return Gains(title, tuple(gains), tuple(undefined), tuple(notes))


@matplotlib.rc_context({"text.parse_math": False})  # a dollar in a name is a dollar
def draw_gains(gains: Gains, picture: Path) -> Path:
    """Write `picture` (PNG): a bar a class, sorted, its length the gain; a whisker is one sd over pairs of runs.

    Of more than `SHOWN` classes the half with the largest and the half with the smallest gains is drawn.
    """
    classes, left_out = list(gains.classes), len(gains.classes) - SHOWN
    if left_out > 0:
        classes = classes[: SHOWN // 2] + classes[-(SHOWN // 2) :]
    figure = Figure(figsize=(8, 1.4 + 0.22 * len(classes)))
    axis = figure.subplots()
    place, means = np.arange(len(classes)), np.array([gain.mean for gain in classes])
    spread = np.array([gain.deviation for gain in classes])
    # Hatched where a class loses, so that print without colour tells the two apart.
    bars = axis.barh(place, means, color=["C0" if mean >= 0 else "C1" for mean in means], height=0.8)
    for bar, mean in zip(bars, means, strict=True):
        bar.set_hatch("" if mean >= 0 else "////")
    beside = axis.get_yaxis_transform()  # numbers stand right of the axes, clear of bars and whiskers
    for at, mean in enumerate(means):
        axis.text(1.07, at, f"{mean:+.1f}", transform=beside, ha="right", va="center", fontsize="small")
    told = "gain in average precision (percentage points)"
    if np.isfinite(spread).all():
        axis.errorbar(means, place, xerr=spread, fmt="none", ecolor="0.25", elinewidth=0.8, capsize=2)
        told += f"; whisker: one sd over {len(classes[0].differences)} pairs"
    axis.set_yticks(place, [visible(gain.name) for gain in classes], fontsize="small")
    axis.set_ylim(len(classes) - 0.4, -0.6)
    axis.axvline(0, color="black", linewidth=0.8)
    axis.grid(axis="x", alpha=0.3)
    axis.margins(x=0.1)
    axis.set_xlabel(told)
    title = gains.title
    if left_out > 0:
        axis.axhline(SHOWN // 2 - 0.5, color="black", linestyle=":")
        title += f"\n{left_out} classes in the middle left out"
    axis.set_title(visible(title), fontsize="medium")
    figure.tight_layout()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    atomic_write(picture, buffer.getvalue())
    return picture
