"""`site`: all pages, and the data beside them, written to a folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlbench.errors import DataError, UsageError
from mlbench.files import atomic_write
from mlbench.paths import store_dir
from mlbench.report.at_hand import AtHand
from mlbench.report.board import newest
from mlbench.report.method_card import LEVELS
from mlbench.report.site.ablations import Ablation, ablation_lines, ablations
from mlbench.report.site.board_pages import board_page, filters, gain_figure, overview, overview_data, share_figures
from mlbench.report.site.boards import Board, make_boards, slug_of
from mlbench.report.site.changes import change_lines, days, feed
from mlbench.report.site.data import board_lines, both, csv_of, json_of, printed_lines, run_lines
from mlbench.report.site.method_pages import Place, list_methods, method_lines, method_page, places
from mlbench.report.site.rendering import GENERATOR, board_data, board_link, method_link, render, run_link
from mlbench.report.site.rows import Record
from mlbench.report.site.run_pages import run_page
from mlbench.report.site.search import entries_of
from mlbench.report.site.side_by_side import attention_sheets
from mlbench.report.site.start import Answer, answer_lines, answers
from mlbench.report.site.verdicts import claim_lines, papers, verdicts
from mlbench.store import find_records

#: How the name of a first page begins that was not written to its end.
_HALF = ".index.html."
#: Rows of the picture on the first page.
_SHOWN = 10


@dataclass(frozen=True)
class Site:
    """What was written: numbers of pages, runs and methods, and what could not be shown."""

    output: Path
    pages: int
    runs: int
    methods: int
    notes: tuple[str, ...]

    def text(self) -> str:
        line = f"wrote {self.output / 'index.html'}: {self.pages} pages, {self.runs} runs of {self.methods} methods"
        return "\n".join([line, *(f"note: {note}" for note in self.notes)])


def write_site(
    output: Path,
    results: Path | None = None,
    data_root: Path | None = None,
    weights: Path | None = None,
    pictures: bool = False,
) -> Site:
    """Write the leaderboard of the run records in `results` (a store or ``results/runs``) to the folder `output`.

    Runs whose predictions are in the store, and whose data set is at hand (`data_root`), get precision-recall curves;
    with `pictures`, also the test images they rank best and worst with class activation maps, for which their networks
    are loaded (`weights`: the file they were started from), and a page with the maps of several methods side by side.
    Pictures are copied into the pages: mind their licence.

    Pages stand on their own: they need no server and load nothing, not even from beside them. The numbers of every
    table lie beside them as CSV and JSON under ``data`` (those of a run beside its page), and ``feed.xml`` tells what
    came when. Records in a folder ``ablations`` beside ``runs`` have a page of their own, and stand on no board. Files
    of an earlier site in `output` are replaced, those of runs that are gone removed. UsageError where `output` holds
    anything else; DataError for a broken record.
    """
    root = results or store_dir()
    records, problems = find_records(root)
    if problems:
        raise DataError(f"{len(problems)} broken records in {root}: {problems[0]}")
    _require_ours(output)
    shown = newest(records)
    claims, notes = verdicts(shown)
    if len(shown) < len(records):
        notes.append(f"submitted runs that a later version of the same name replaces: {len(records) - len(shown)}")
    varied, more = ablations(root, shown)
    notes += more
    boards = make_boards(shown)
    found = places(boards)
    here = AtHand(root, data_root)
    sheets = attention_sheets(boards, here, weights) if pictures else []
    site = Site(output, 0, len(shown), len(found), tuple(notes))
    pages = {
        **_first_pages(site, boards, found, bool(sheets), bool(varied)),
        **_paper_pages(shown),
        **_board_pages(boards),
        **_method_pages(found, claims, {ablation.method for ablation in varied}),
        **_ablation_pages(varied),
        **({"attention.html": render("attention.html", "", sheets=sheets)} if sheets else {}),
    }
    for record in shown:
        page = run_link(record)
        pages[page] = run_page(record, here, pictures, weights)
        pages[page.replace(".html", ".json")] = json_of(record)
    _write(output, pages)
    return Site(output, sum(name.endswith(".html") for name in pages), len(shown), len(found), tuple(notes))


def _first_pages(
    site: Site, boards: Sequence[Board], found: Mapping[str, Sequence[Place]], attention: bool, varied: bool
) -> dict[str, str]:
    """The pages of the menu, but for the papers' tables."""
    changed = days(boards)
    asked = list(answers(boards))

    def picture(answer: Answer) -> Any:
        return gain_figure(answer.board, answer.ranked, _SHOWN)

    def shares(answers: Sequence[Answer]) -> list[Any]:
        """Pictures by share of labels, each once."""
        return list(dict.fromkeys(figure for answer in answers for figure in share_figures(answer.board, boards)))

    lines = overview(boards)
    entries = entries_of(boards, found)
    return {
        "index.html": render(
            "index.html", "", "start", site=site, asked=asked, picture=picture, shares=shares, attention=attention
        ),
        "boards.html": render("boards.html", "", "boards", lines=lines, filters=filters(lines), site=site),
        "methods.html": render(
            "methods.html", "", "methods", methods=list_methods(found), levels=LEVELS, ablated=varied
        ),
        "changes.html": render("changes.html", "", "changes", days=changed),
        "search.html": render("search.html", "", "search", entries=entries),
        "feed.xml": feed(changed),
        **both("data/what-to-use", "What to use", answer_lines(asked)),
        **both("data/boards", "Leaderboards", overview_data(boards)),
        **both("data/changes", "What changed", change_lines(changed)),
        **both("data/methods", "Methods", [line for name in sorted(found) for line in method_lines(found[name])]),
    }


def _paper_pages(records: Sequence[Record]) -> dict[str, str]:
    tables = [{**entry, "data": f"data/paper--{slug_of(entry['name'])}"} for entry in papers(records)]
    pages = {"papers.html": render("papers.html", "", "papers", tables=tables)}
    for entry in tables:
        pages |= both(entry["data"], entry["title"], entry["lines"])
    return pages


def _board_pages(boards: Sequence[Board]) -> dict[str, str]:
    pages = {}
    for board in boards:
        pages[board_link(board)] = board_page(board, boards)
        if board.published:
            pages |= both(f"data/{board.slug}--printed", f"{board.title}: as printed", printed_lines(board))
        for column in board.columns:
            title = f"{board.title}: {column.name}"
            pages |= both(board_data(board, column), title, board_lines(board, column), about=board.about)
    return pages


def _method_pages(
    found: Mapping[str, Sequence[Place]], claims: Mapping[str, Sequence[Mapping[str, Any]]], ablated: set[str]
) -> dict[str, str]:
    pages = {}
    for method, where in found.items():
        link = method_link(method)
        pages[link] = method_page(method, where, claims.get(method, []), found.keys(), ablated)
        runs = [record for place in where for record in place.row.records]
        data = link.removesuffix(".html")
        pages[f"{data}.csv"] = csv_of(list(run_lines(runs)))
        lines = {
            "places": method_lines(where),
            "claims": claim_lines(claims.get(method, [])),
            "runs": list(run_lines(runs)),
        }
        pages[f"{data}.json"] = json_of({"method": method, **lines})
    return pages


def _ablation_pages(found: Sequence[Ablation]) -> dict[str, str]:
    if not found:
        return {}
    data = both("data/ablations", "Ablations", ablation_lines(found))
    return {"ablations.html": render("ablations.html", "", "methods", found=found), **data}


def _require_ours(output: Path) -> None:
    if output.exists() and not output.is_dir():
        raise UsageError(f"--output {output}: is a file, expected a folder")
    if not output.is_dir() or all(path.name.startswith(_HALF) for path in output.iterdir()):
        return
    index = output / "index.html"
    if not index.is_file() or f'content="{GENERATOR}"' not in index.read_text(encoding="utf-8", errors="replace"):
        raise UsageError(f"--output {output}: holds other files than a site; expected a new or empty folder")


def _write(output: Path, pages: Mapping[str, str]) -> None:
    index = output / "index.html"
    if not index.exists():  # first of all, so that a folder whose writer was killed is known as ours
        atomic_write(index, f'<!doctype html><meta name="generator" content="{GENERATOR}">being written\n'.encode())
    for half in output.glob(f"{_HALF}*"):
        half.unlink()
    for folder in ("boards", "data", "methods", "runs"):
        (output / folder).mkdir(parents=True, exist_ok=True)
        for old in (output / folder).iterdir():
            if old.suffix in (".html", ".csv", ".json") and f"{folder}/{old.name}" not in pages:
                old.unlink()
    for name in ("attention.html", "ablations.html"):
        if name not in pages:
            (output / name).unlink(missing_ok=True)
    for name, page in pages.items():
        if name != index.name:
            (output / name).write_bytes(page.encode())
    atomic_write(index, pages[index.name].encode())
