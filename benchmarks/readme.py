"""The first table of README.md and its picture, docs/board.svg, from the published records; `make readme` calls this.

What stands in them is chosen here (`METHODS`, `COLUMNS`), nowhere else, and a test compares both with the records.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape
from pathlib import Path

import click
import pandas as pd

from mlbench.report.board import table

ROOT = Path(__file__).parents[1]
RUNS = ROOT / "results" / "runs"
README, PICTURE = ROOT / "README.md", ROOT / "docs" / "board.svg"
BEGIN, END = "<!-- made by `make readme`: begin -->\n", "<!-- made by `make readme`: end -->\n"
PROTOCOL = "single_positive"


@dataclass(frozen=True)
class Column:
    """A column of the table: its title, and which runs are its own (`conditions` as of ``mlbench table --where``)."""

    title: str
    dataset: str
    track: str
    conditions: tuple[str, ...] = ()


COLUMNS = (
    Column("scenes-2, trained end to end", "scenes-2", "full", ("head.name=none",)),  # the linear head
    Column("corel5k-199, frozen ResNet-50 features", "corel5k-199", "head", ("backbone.name=resnet50-keras",)),
    Column("ccp, frozen ResNet-50 features", "ccp", "head"),
)
#: Rows, with what is to be said of a method beside its name.
METHODS = {
    "full": "all labels shown",
    "an": "unknown is negative",
    "an_boostlu_inference": "",
    "ls": "",
    "asl": "",
    "wan": "",
    "role": "told the mean number of labels",
    "em": "",
    "em_apl": "",
    "llr": "",
    "llct": "",
    "llcp": "",
    "llr_boostlu": "",
    "llct_boostlu": "",
    "llcp_boostlu": "",
    "hill": "",
    "splc": "",
    "gr": "",
    "pu_mlc_loss": "",
    "twoway": "",
    "spa": "",
    "prior": "never looks at the image",
}


def cells() -> pd.DataFrame:
    """A row a cell, with `column` numbered as in `COLUMNS`; methods without a run there are left out."""
    frames = []
    for number, column in enumerate(COLUMNS):
        found = table(
            RUNS,
            protocol=PROTOCOL,
            datasets=column.dataset,
            track=column.track,
            conditions=column.conditions,
            published=False,
        ).cells
        frames.append(found[found["method"].isin(METHODS) & (found["n"] > 0)].assign(column=number))
    return pd.concat(frames)


def markdown(found: pd.DataFrame) -> str:
    """The table, as `mlbench table` rounds it and with what it holds to be the best in bold."""
    lines = [
        f"| method | {' | '.join(column.title for column in COLUMNS)} |",
        "|---|" + "---:|" * len(COLUMNS),
    ]
    for method, remark in METHODS.items():
        shown = [_cell(found, method, number) for number in range(len(COLUMNS))]
        name = f"`{method}`" + (f" ({remark})" if remark else "")
        lines.append(f"| {name} | {' | '.join(shown)} |")
    return "\n".join(lines) + "\n"


def _cell(found: pd.DataFrame, method: str, column: int) -> str:
    rows = found[(found["method"] == method) & (found["column"] == column)]
    if rows.empty:
        return ""
    row = rows.iloc[0]
    value = f"{row['mean']:.1f}" + (f" ± {row['sd']:.1f}" if row["n"] > 1 else "")
    return (f"**{value}**" if row["best"] else value) + f" ({row['n']})"


def picture(found: pd.DataFrame) -> str:
    """SVG: a panel a column, a method a line with its mean and deviation; filled where it may be the best."""
    row, top, name, panel, gap = 20, 46, 150, 270, 24
    height, width = top + row * len(METHODS) + 12, name + len(COLUMNS) * (panel + gap)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'font-family="sans-serif" font-size="12">',
        "<title>Test mAP of methods trained on single positive labels, mean and deviation over runs</title>",
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    for i, method in enumerate(METHODS):
        parts.append(f'<text x="{name - 8}" y="{top + row * i + 4}" text-anchor="end">{escape(method)}</text>')
    for number, column in enumerate(COLUMNS):
        mine = found[found["column"] == number].set_index("method")
        spread = mine["sd"].fillna(0.0)
        # What is no better than never to look at the image is far away from all others: the axis begins below the rest.
        near = mine[mine["mean"] > mine["mean"].get("prior", -math.inf)]
        low = float((near["mean"] - spread[near.index]).min()) - 1.0
        high = float((mine["mean"] + spread).max()) + 1.0
        left = name + number * (panel + gap)

        def x(value: float, low: float = low, high: float = high, left: int = left) -> float:
            return left + panel * min(1.0, max(0.0, (value - low) / (high - low)))

        parts.append(f'<text x="{left}" y="16" font-weight="bold">{escape(column.title)}</text>')
        step = 5 if high - low > 12 else 2
        for tick in range(int(low // step + 1) * step, int(high) + 1, step):
            parts.append(f'<path d="M{x(tick):.1f} {top - 12}V{height - 8}" stroke="#ddd"/>')
            parts.append(f'<text x="{x(tick):.1f}" y="{top - 16}" text-anchor="middle" fill="#666">{tick}</text>')
        for i, method in enumerate(METHODS):
            if method not in mine.index:
                continue
            mean, y = float(mine.loc[method, "mean"]), top + row * i
            if mean < low:
                parts.append(f'<text x="{left}" y="{y + 4}" fill="#666">◂ {mean:.1f}</text>')
                continue
            first, last = x(mean - spread[method]), x(mean + spread[method])
            fill = "#2f5d9b" if mine.loc[method, "best"] else "white"
            parts.append(f'<path d="M{first:.1f} {y}H{last:.1f}" stroke="#2f5d9b" stroke-width="2"/>')
            parts.append(f'<circle cx="{x(mean):.1f}" cy="{y}" r="4" fill="{fill}" stroke="#2f5d9b" stroke-width="2"/>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def replaced(readme: str, made: str) -> str:
    """`readme` with `made` between the two marks."""
    before, _, rest = readme.partition(BEGIN)
    _, mark, after = rest.partition(END)
    if not mark:
        raise click.ClickException(f"{README.name}: expected the lines {BEGIN.strip()} and {END.strip()}")
    return f"{before}{BEGIN}{made}{END}{after}"


@click.command(help=__doc__)
def main() -> None:
    found = cells()
    README.write_text(replaced(README.read_text(encoding="utf-8"), markdown(found)), encoding="utf-8")
    PICTURE.write_text(picture(found), encoding="utf-8")


if __name__ == "__main__":
    main()
