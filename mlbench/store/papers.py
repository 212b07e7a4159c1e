"""Published tables as data: every number of the papers' tables, with its definitions and provenance.

One row a number. Cells printed as a dash are not rows. Nothing is corrected: what is known to be inconsistent,
copied from elsewhere or not comparable is said in `note`.
"""

from __future__ import annotations

import io
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

import pandas as pd

from mlbench.errors import DataError, unknown

#: Columns of every file of ``results/papers/``.
#:
#: ``row`` is the label as printed, ``method`` the registered key that runs it. ``backbone`` is empty where it is not
#: stated. ``dataset_version`` gives training and test images. ``group`` is "all" or "top3" (blocks of metrics), or
#: "G1" ... "G5", "All" (class groups of OpenImages). ``value`` is a percentage as printed, ``bold`` the print
#: ("bold", "underlined", or empty where the source does not show it).
#: ``selection``: "test-selected" marks the protocols without a validation part, where the epoch was, or cannot be
#: shown not to have been, picked on the test images. Where a file gathers numbers of several papers a further column
#: says where each was read (`EVIDENCE`); in the others all are from the source's own tables.
COLUMNS = (
    *("paper", "table", "row", "method", "backbone", "dataset", "dataset_version", "protocol"),
    *("group", "metric", "definition", "value", "bold", "selection", "note"),
)
#: "paper": the paper's own table; "readme": its authors' README; "slides": its authors' slides; "second_hand": another
#: paper's table or repository.
EVIDENCE = ("paper", "readme", "slides", "second_hand")
PROTOCOLS = (
    *("single_positive", "openimages_groups", "wider_attribute"),
    *("coco_vac", "coco_kdwsd", "nuswide_kdwsd"),
    *("coco_splc", "coco_splc_full", "nuswide_splc"),
)
#: Our data sets by the name they have in these files, where that differs. One printed name may stand for several of
#: ours: ``dataset_version`` tells which images a printed number was made on.
PRINTED_AS = {
    "coco2014-all": "coco2014",
    "nuswide-random150k": "nuswide",
    "nuswide-splc": "nuswide",
    "nuswide-spml": "nuswide",
    "openimages-v3": "openimages_v3",
    "wider": "wider_attribute",
}
_CHOICES = {
    "protocol": PROTOCOLS,
    "group": ("all", "top3", "G1", "G2", "G3", "G4", "G5", "All"),
    "metric": ("mAP", "mA", "F1-C", "P-C", "R-C", "F1-O", "P-O", "R-O"),
    "bold": ("", "bold", "underlined"),
    "selection": ("clean_val", "observed_val", "test-selected", "unstated"),
}
#: First part of ``definition`` by metric: average precision by steps or under the envelope; class F1 as the mean of
#: class values or the harmonic mean of P-C and R-C; micro averages, or per-image ones. "undecidable": the sources
#: at hand do not tell.
_DEFINITIONS = {
    "mAP": ("step", "envelope", "undecidable"),
    "F1-C": ("mean", "hm", "undecidable"),
    "F1-O": ("micro", "hm_image"),
}
#: Second part, for group "top3": exactly three labels; three highest and p > 0.5; labels of a decoded path.
_TOP3 = ("top3_strict", "top3_thresholded", "top3_path", "top3_undecidable")
_REQUIRED = ("table", "row", "method", "dataset", "dataset_version")


def load_published(paper: str | None = None) -> pd.DataFrame:
    """Read the published tables of one paper ("boostlu", "vac", "kd_wsd", "spml_2026") or of all.

    Returns a frame with `COLUMNS` (all text but ``value``, a float in percent), ``evidence`` (empty for a source's own
    tables) and ``printed``, the value's text as it was printed. UsageError names an unknown paper, DataError the file
    and line of a broken row.
    """
    papers = {f.name.removesuffix(".csv"): f for f in _folder().iterdir() if f.name.endswith(".csv")}
    if paper is not None and paper not in papers:
        raise unknown("paper", paper, papers)
    chosen = [paper] if paper is not None else sorted(papers)
    if not chosen:
        raise DataError("results/papers: no published table found, expected one .csv file a paper")
    return pd.concat([_read(papers[name], name) for name in chosen], ignore_index=True)


def _folder() -> Traversable:
    try:
        return files("mlbench.results") / "papers"
    except ModuleNotFoundError:  # a checkout that is not installed: the folder stands beside mlbench/
        return Path(__file__).resolve().parents[2] / "results" / "papers"


def _read(file: Traversable, paper: str) -> pd.DataFrame:
    where = f"results/papers/{file.name}"
    try:
        return _parsed(file.read_text(encoding="utf-8"), where, paper)
    except OSError as error:
        raise DataError(f"{where}: cannot be read as CSV ({str(error).splitlines()[0]})") from error


@cache
def _parsed(text: str, where: str, paper: str) -> pd.DataFrame:
    """The checked table of a file's text, to be read only: checking takes its time, and tables ask again and again."""
    try:
        frame = pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False)
    except ValueError as error:
        raise DataError(f"{where}: cannot be read as CSV ({str(error).splitlines()[0]})") from error
    if tuple(frame.columns) not in (COLUMNS, (*COLUMNS, "evidence")):
        raise DataError(f"{where}: columns are {', '.join(frame.columns)}; expected {', '.join(COLUMNS)}")
    value = pd.to_numeric(frame["value"], errors="coerce")
    for line, row in enumerate(frame.to_dict("records"), start=2):
        problem = _problem({str(column): text for column, text in row.items()}, paper)
        if problem is None and not 0 <= value[line - 2] <= 100:  # false for NaN, too
            problem = f"value '{row['value']}': expected a percentage from 0 to 100"
        if problem:
            raise DataError(f"{where}, line {line}: {problem}")
    cell = ["table", "row", "method", "backbone", "dataset", "group", "metric"]
    twice = frame.index[frame.duplicated(cell)]
    if len(twice):
        raise DataError(f"{where}, line {twice[0] + 2}: the same cell of the same table was given before")
    return frame.assign(evidence=frame.get("evidence", ""), printed=frame["value"], value=value.astype(float))


def _problem(row: dict[str, str], paper: str) -> str | None:
    """What is wrong with one row of text, or None."""
    if row["paper"] != paper:
        return f"paper '{row['paper']}': expected '{paper}', the file's name"
    for column in _REQUIRED:
        if not row[column]:
            return f"{column} is empty"
    for column, choices in _CHOICES.items():
        if row[column] not in choices:
            return f"{column} '{row[column]}': expected one of {', '.join(c or '(empty)' for c in choices)}"
    if row.get("evidence", "paper") not in EVIDENCE:
        return f"evidence '{row['evidence']}': expected one of {', '.join(EVIDENCE)}"
    first, plus, top3 = row["definition"].partition("+")
    default = ("micro",) if row["metric"].endswith("-O") else ("mean",)
    allowed = _DEFINITIONS.get(row["metric"], default)
    if first not in allowed:
        return f"definition '{row['definition']}' of {row['metric']}: expected one of {', '.join(allowed)}"
    if (row["group"] == "top3") != bool(plus) or (plus and top3 not in _TOP3):
        return f"definition '{row['definition']}': group top3, and no other, adds '+' and one of {', '.join(_TOP3)}"
    return None
