"""How much mAP trained runs keep when the test pictures are spoilt: tables by corruption and severity, and curves."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import torch
import torchvision
from matplotlib.figure import Figure
from tabulate import tabulate

from mlbench.errors import UsageError, unknown, visible
from mlbench.evaluation.scoring import ap_by_class
from mlbench.explain.corruptions import CORRUPTIONS, NAME, SEVERITIES, VERSION, corrupt
from mlbench.explain.deployed import Deployed
from mlbench.explain.sides import Side, pairs_of, require_same_test, sides_of
from mlbench.files import atomic_write
from mlbench.grid import grid
from mlbench.inputs.cache import Advance
from mlbench.metrics import mean_average_precision, scores_of_kind
from mlbench.runner.evaluate import evaluation_batch
from mlbench.significance.comparability import apart_notes

#: mAP in percent of one run: float64 [corruptions, severities + 1]; column 0 is the clean picture, in every row alike.
Values = np.ndarray

#: How far the clean mAP may lie from the record's, in percentage points, without a note.
_SAME = 0.02
_LINES = ("-", "--", "-.", ":")
_MARKERS = "osv^DPX*"


@dataclass(frozen=True)
class Robustness:
    """mAP of runs by key, the sides they belong to, the corruptions (rows of `Values`) and what is to be said."""

    sides: tuple[Side, ...]
    corruptions: tuple[str, ...]
    values: dict[str, Values]
    notes: tuple[str, ...]

    def of(self, side: Side) -> Values:
        """Mean over the runs of `side`."""
        return np.mean([self.values[record["key"]] for record in side.records], axis=0)

    def differences(self, first: Side, second: Side) -> np.ndarray:
        """`second` minus `first` for each pair of runs: float64 [pairs, corruptions, severities + 1]."""
        return np.stack([self.values[b["key"]] - self.values[a["key"]] for a, b in pairs_of(first, second)])

    def text(self) -> str:
        """Means over severities, every severity, and the differences from the first side, as Markdown."""
        first = []
        for side in self.sides:
            value = self.of(side)
            spoilt = value[:, 1:].mean()
            row = [side.name, len(side.records), value[0, 0], *value[:, 1:].mean(axis=1), spoilt]
            first.append([*row, 100 * spoilt / value[0, 0]])
        header = ["method", "runs", "clean", *self.corruptions, "mean", "kept (%)"]
        parts = [
            f"mAP in percent under corruption set {NAME} {VERSION}; a corruption's column is the mean over severities",
            grid(first, header, "github", floatfmt=".2f"),
            "By severity:",
            grid(self._by_severity(), ["method", "corruption", *map(str, SEVERITIES)], "github", floatfmt=".2f"),
        ]
        if len(self.sides) > 1:
            parts += [
                f"Minus {self.sides[0].name}, mean ± sample sd over pairs of runs with the same seed and mask:",
                tabulate(self._by_difference(), ["method", "pairs", *header[2:-1]], "github", disable_numparse=True),
            ]
        return "\n\n".join([*parts, "\n".join(f"- {note}" for note in self.notes)])

    def rows(self) -> list[dict[str, object]]:
        """Mean mAP in percent of each side, a corruption and severity a row; severity 0 is the clean picture."""
        return [
            {"method": side.name, "runs": len(side.records), "corruption": name, "severity": severity, "mAP": value}
            for side in self.sides
            for name, line in zip(self.corruptions, self.of(side).tolist(), strict=True)
            for severity, value in enumerate(line)
        ]

    def _by_severity(self) -> list[list[object]]:
        rows: list[list[object]] = []
        for side in self.sides:
            value = self.of(side)[:, 1:]
            rows += [[side.name, name, *line] for name, line in zip(self.corruptions, value, strict=True)]
            rows.append([side.name, "(mean)", *value.mean(axis=0)])
        return rows

    def _by_difference(self) -> list[list[object]]:
        rows: list[list[object]] = []
        for side in self.sides[1:]:
            try:
                found = self.differences(self.sides[0], side)
            except UsageError:
                rows.append([side.name, 0])
                continue
            spoilt = found[:, :, 1:].mean(axis=2)
            columns = [found[:, 0, 0], *spoilt.T, spoilt.mean(axis=1)]
            rows.append([side.name, len(found), *map(_with_deviation, columns)])
        return rows


def measure_robustness(
    runs: Sequence[str],
    store: Path | None = None,
    data_root: Path | None = None,
    dataset: str | None = None,
    weights: Path | None = None,
    corruptions: Sequence[str] = (),
    device: str = "cpu",
    advance: Callable[[str], Advance] | None = None,
) -> Robustness:
    """mAP of trained runs on clean and on corrupted test pictures, under the definitions of their protocol.

    Each of `runs` is the first characters of a key, or of several keys joined by commas (seeds of one method, which are
    averaged); without them, those of the whole store by method. Pictures are corrupted at each run's own image size. On
    track "head" features are computed anew. Region proposals stay those of the clean picture; see `CORRUPTIONS`.

    Parameters
    ----------
    corruptions : names of `CORRUPTIONS` [all]. advance : ``advance(title)`` gives what is told of progress.

    Raises
    ------
    UsageError
        An unknown corruption; runs of different data sets or protocols; a submission, which has no network.
    """
    for name in corruptions:
        if name not in CORRUPTIONS:
            raise unknown("corruption", name, CORRUPTIONS)
    chosen = tuple(name for name in CORRUPTIONS if not corruptions or name in corruptions)
    sides = sides_of(runs, store)
    records = [record for side in sides for record in side.records]
    require_same_test(records)
    models = [Deployed(record, store, data_root, weights, dataset, device) for record in records]
    counter = advance("corruptions") if advance else None
    values = [np.empty((len(chosen), len(SEVERITIES) + 1)) for _ in models]
    cells = [(name, severity) for name in chosen for severity in SEVERITIES]
    for value, clean in zip(values, _mean_ap(models, None), strict=True):
        value[:, 0] = clean
    for number, (name, severity) in enumerate(cells):
        for value, found in zip(values, _mean_ap(models, (name, severity)), strict=True):
            value[chosen.index(name), severity] = found
        if counter:
            counter(number + 1, len(cells))
    by_key = {model.record["key"]: value for model, value in zip(models, values, strict=True)}
    return Robustness(tuple(sides), chosen, by_key, (*_notes(models, by_key), *apart_notes(records)))


def _mean_ap(models: Sequence[Deployed], cell: tuple[str, int] | None) -> list[float]:
    """mAP in percent of each of `models` on the test pictures under one corruption and severity (None: clean)."""
    test = models[0].run.dataset.splits["test"]
    scores = [np.empty((len(test), len(model.run.dataset.classes)), np.float32) for model in models]
    sizes = {model.size: model.pixels() for model in models}
    step = evaluation_batch(max(sizes))
    for start in range(0, len(test), step):
        rows = np.arange(start, min(start + step, len(test)))
        shown = {
            size: spoil(pixels[rows], cell, [test.ids[row] for row in rows.tolist()]) for size, pixels in sizes.items()
        }
        for model, found in zip(models, scores, strict=True):
            found[rows] = model.scores(rows, shown[model.size]).numpy()
    values = []
    for model, found in zip(models, scores, strict=True):
        run = model.run
        rules, unspecified = run.protocol.metrics, run.protocol.unspecified_for(run.dataset.id)
        ap, known = ap_by_class(scores_of_kind(run.method.scores, found), test.labels, unspecified.ap, rules.ap)
        values.append(100.0 * mean_average_precision(ap, rules.empty_class, known))
    return values


def spoil(pixels: np.ndarray, cell: tuple[str, int] | None, ids: Sequence[str]) -> np.ndarray:
    """Pictures uint8 [B, H, W, 3] of samples `ids`, each under the same (corruption, severity); None: as they are."""
    if cell is None:
        return np.array(pixels)
    return np.stack([corrupt(picture, *cell, sample) for picture, sample in zip(pixels, ids, strict=True)])


def _notes(models: Sequence[Deployed], values: dict[str, Values]) -> tuple[str, ...]:
    notes = [
        "Pictures are corrupted one at a time at the size the network takes; draws depend on set, corruption, severity "
        f"and sample id alone. Made with torch {torch.__version__}, torchvision {torchvision.__version__}."
    ]
    sizes: dict[int, set[str]] = {}
    for model in models:
        sizes.setdefault(model.size, set()).add(model.name)
    if len(sizes) > 1:
        listed = "; ".join(f"{size} px: {', '.join(sorted(names))}" for size, names in sorted(sizes.items()))
        notes.append(f"The runs take pictures of different sizes, and each was corrupted at its own ({listed}).")
    for model in models:
        clean, stored = values[model.record["key"]][0, 0], model.record["results"]["test"]["mAP"]
        if stored is None or not abs(clean - stored) <= _SAME:
            notes.append(
                f"run {model.record['key'][:8]} ({model.name}): clean mAP is {clean:.2f} here, {stored} in its record."
            )
    beside = sorted({kind for model in models for kind in model.run.method.inputs if kind != "boxes"})
    if beside:
        notes.append(f"{', '.join(beside)}: those of the clean picture.")
    return tuple(notes)


def _with_deviation(values: np.ndarray) -> str:
    return f"{values.mean():+.2f}" + (f" ± {values.std(ddof=1):.2f}" if len(values) > 1 else "")


@matplotlib.rc_context({"text.parse_math": False})  # a dollar in a name is a dollar
def draw_robustness(found: Robustness, picture: Path) -> Path:
    """Write `picture` (PNG): a panel a corruption and one for their mean, mAP against severity (0: clean)."""
    panels = [*found.corruptions, "mean of all"]
    columns = min(4, len(panels))
    rows = -(-len(panels) // columns)
    strip = 0.35 + 0.25 * -(-len(found.sides) // 4)  # inches for the legend
    figure = Figure(figsize=(3.2 * columns, 2.8 * rows + strip))
    axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for number, side in enumerate(found.sides):
        value = found.of(side)
        for axis, curve in zip(axes, [*value, value.mean(axis=0)], strict=False):
            axis.plot(
                (0, *SEVERITIES),
                curve,
                label=visible(side.name),
                color=f"C{number % 10}",
                # Not by colour alone.
                linestyle=_LINES[number % len(_LINES)],
                marker=_MARKERS[number % len(_MARKERS)],
                markersize=4,
            )
    for axis, name in zip(axes, panels, strict=False):
        axis.set_title(visible(name), fontsize="medium")
        axis.grid(alpha=0.3)
        axis.set_xticks((0, *SEVERITIES), ["clean", *map(str, SEVERITIES)])
        axis.tick_params(labelbottom=True)  # also above a place that stays empty
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    for axis in axes[::columns]:
        axis.set_ylabel("mAP (%)")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=min(4, len(labels)), fontsize="small")
    figure.tight_layout(rect=(0, strip / figure.get_figheight(), 1, 1))
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    atomic_write(picture, buffer.getvalue())
    return picture
