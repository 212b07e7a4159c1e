from __future__ import annotations

import copy
import json
import re
import shutil
import statistics
import subprocess
from collections.abc import Iterator
from contextlib import nullcontext
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from click.testing import CliRunner

from mlbench.cli.main import cli
from mlbench.errors import DataError, UsageError
from mlbench.protocol import load_protocol
from mlbench.report.site import write_site
from mlbench.report.site.boards import make_boards
from mlbench.report.site.charts import Line, line_chart
from mlbench.report.site.rendering import method_link
from mlbench.store import published_name
from mlbench.store.schema import dump_record, parse_record, refit

HOSTILE = "\"><script>alert(1)</script><img src=x onerror=alert(1)>' --> {{7*7}} \\input{x} \u202e\x1b&amp;"
VOID = {"meta", "br", "img", "input", "hr", "link"}


class Page(HTMLParser):
    """What a page holds; fails on tags that are not closed in order."""

    def __init__(self, path: Path) -> None:
        super().__init__(convert_charrefs=True)
        self.path = path
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), (self.path, tag, names)
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, (self.path, tag)

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("style", "script"):
            self.text += data

    def all(self, name: str) -> list[dict[str, str]]:
        return [attrs for tag, attrs in self.tags if tag == name]

    def ids(self) -> list[str]:
        return [attrs["id"] for _, attrs in self.tags if "id" in attrs]


def check_site(folder: Path) -> dict[str, Page]:
    """Every page of a site is well formed, loads nothing, links to what is there, and can be read aloud."""
    pages = {path.relative_to(folder).as_posix(): Page(path) for path in folder.rglob("*.html")}
    for page in pages.values():
        ids = page.ids()
        assert len(ids) == len(set(ids)), page.path
        assert {tag for tag, _ in page.tags} & {"iframe", "object", "base", "form", "use"} == set()
        assert {link["rel"] for link in page.all("link")} <= {"alternate"}  # the feed: named, never loaded
        for image in page.all("img"):
            assert image["alt"]
            assert re.fullmatch(r"data:image/jpeg;base64,[A-Za-z0-9+/=]+", image.pop("src"))
        assert len(page.all("script")) == len(page.all("style")) == len(page.all("main")) == len(page.all("h1")) == 1
        for tag, attrs in page.tags:
            assert not [name for name in attrs if name.startswith("on") or name in ("src", "style", "srcdoc")], tag
            assert "://" not in attrs.get("href", "")
            for name in ("aria-labelledby", "data-copy", "data-table"):
                assert attrs.get(name, ids[0]) in ids
            if tag == "th":
                assert attrs["scope"] in ("col", "row", "colgroup", "rowgroup")
            if tag in ("a", "link"):
                file, _, fragment = attrs["href"].partition("#")
                target = (page.path.parent / unquote(file)).resolve() if file else page.path
                assert target.is_file(), (page.path, attrs["href"])
                if fragment:
                    assert fragment in pages[target.relative_to(folder.resolve()).as_posix()].ids()
        assert len(page.all("caption")) == len(page.all("table"))
        assert all(svg.get("aria-label") or svg.get("aria-hidden") for svg in page.all("svg"))
        raw = page.path.read_text(encoding="utf-8")
        assert not re.search(r"url\(|@import|https?://[^\s<]*\.(js|css|woff)", raw)
        policy = next(m["content"] for m in page.all("meta") if m.get("http-equiv") == "Content-Security-Policy")
        assert policy.startswith("default-src 'none'")
        assert "unsafe" not in policy
    return pages


def published_record(begin: str) -> dict[str, Any]:
    folder = files("mlbench.results") / "runs"
    name = min(f.name for f in folder.iterdir() if f.name.startswith(begin))
    return json.loads((folder / name).read_text(encoding="utf-8"))


def put(folder: Path, record: dict[str, Any]) -> dict[str, Any]:
    folder.mkdir(parents=True, exist_ok=True)
    record |= refit(record)
    (folder / published_name(record)).write_text(dump_record(record, "test"), encoding="ascii")
    return record


def variant(base: dict[str, Any], method: str, draw: int, value: float) -> dict[str, Any]:
    record = copy.deepcopy(base)
    identity = record["identity"]
    identity["method"] |= {"name": method}
    identity["repetition"] = identity["mask_seed"] = draw
    identity["mask"] |= {"seed": draw, "sha256": f"{draw:064x}"}
    record["results"]["test"]["mAP"] = value
    return record


def submission(base: dict[str, Any], version: int, value: float) -> dict[str, Any]:
    record = variant(base, "submitted/mine", 0, value)
    record["identity"]["method"]["version"] = version
    claims = {"title": HOSTILE, "authors": [HOSTILE], "source": "https://host.example/<script>"}
    record["provenance"] |= {
        "kind": "predictions",
        "submission": {**claims, "card_sha256": "0" * 64, "file_sha256": "1" * 64},
    }
    return record


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> tuple[Path, dict[str, Page]]:
    """A site of three methods on VOC, three runs each, and of a submission in two versions."""
    folder, output = tmp_path_factory.mktemp("results"), tmp_path_factory.mktemp("site")
    base = published_record("llr_boostlu__scenes__")
    base["identity"]["dataset"]["id"] = "voc2012"
    base["epochs"][0]["forensics"] = {"rejected": {"entries": 7, "precision": 50.0, "recall": None}}
    for draw in range(3):
        put(folder, variant(base, "an", draw, 60.0 + draw / 10))
        put(folder, variant(base, "llr", draw, 70.0 + draw / 10 + (draw == 2) / 50))
        put(folder, variant(base, "wan", draw, 70.0 + draw / 10 - (draw == 2) / 50))
    for version, value in ((1, 98.0), (2, 99.0)):
        put(folder, submission(base, version, value))
    site = write_site(output, folder)
    assert (site.runs, site.methods) == (10, 4)
    return output, check_site(output)


BOARD = "boards/single_positive-on-voc2012.html"


def rows_of(page: Page) -> dict[str, str]:
    """Text of the rows of a board's first table by method."""
    body = page.path.read_text(encoding="utf-8").partition("<tbody>")[2].partition("</table>")[0]
    rows = (" ".join(re.sub(r"<[^>]+>", " ", row).split()) for row in body.split("<tr")[1:] if 'class="set"' not in row)
    return {text.partition(">")[2].split()[0]: text for text in rows}


def test_a_board_shows_mean_deviation_number_of_runs_and_tie_groups(built) -> None:
    rows = rows_of(built[1][BOARD])
    values = [70.0, 70.1, 70.22]
    assert f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}" in rows["llr"]
    # llr and wan differ by 0, 0 and 0.04: no test tells them apart; an lies 10 below.
    groups = {name: re.search(r"> \S+ (\S+) ", text)[1] for name, text in rows.items() if name in ("llr", "wan", "an")}  # type: ignore[index]
    assert groups == {"llr": "1", "wan": "1", "an": "2"}
    assert re.search(r" 3 \d+ 20\d\d-.* reproduced ", rows["an"])


def test_a_board_shows_the_chance_of_being_best_and_the_mean_rank_of_rows_that_are_ranked_together(built) -> None:
    rows = rows_of(built[1][BOARD])
    chances = {name: re.search(r" (below 1|\d+) % (\d\.\d \(\d to \d\)) ", rows[name]) for name in ("llr", "wan", "an")}
    assert chances["an"] is not None
    assert chances["an"].groups() == ("below 1", "3.0 (3 to 3)")
    first = [int(found[1]) for name, found in chances.items() if name != "an" and found is not None]
    assert sum(first) == 100
    assert not re.search(r"\(\d to \d\)", rows["submitted/mine"])  # not ranked


def test_a_submission_is_marked_and_not_ranked_and_only_its_newest_version_shown(built) -> None:
    _, pages = built
    row = rows_of(pages[BOARD])["submitted/mine"]
    assert "– 99.0" in row
    assert re.search(r" 1 \d+ 20\d\d-.* submitted ", row)
    assert "98.0" not in row
    assert "a later version of the same name replaces: 1" in pages["index.html"].text
    assert "claimed by the submitter" in pages[method_link("submitted/mine")].text


def test_published_numbers_stand_on_the_board_as_printed(built) -> None:
    text = built[1][BOARD].text.partition("As printed in papers")[2]
    assert re.search(r"ROLE \[11\]\s*role\s*87\.77", text)
    assert "ROLE" not in rows_of(built[1][BOARD])  # in a table of their own
    lines = (built[0] / "data" / "single_positive-on-voc2012--printed.csv").read_text().splitlines()
    assert any(line.startswith("ROLE [11],role,mAP,87.77,resnet50,") for line in lines)


def test_a_method_page_has_its_source_level_verdicts_curves_classes_and_forensics(built) -> None:
    page = built[1]["methods/llr.html"]
    assert "Source: Kim et al., CVPR 2022" in page.text
    for text in (
        "Level: A",
        "Reproduction",
        "mAP by epoch",
        "Pseudo-labels: precision",
        "against an",
        "delta",
        "Builds on an",
    ):
        assert text in page.text, text
    assert any(svg.get("aria-label", "") == "Gain over an by class" for svg in page.all("svg"))
    assert len([a for a in page.all("a") if a["href"].startswith("../runs/")]) == 3


def test_a_run_page_has_provenance_settings_metrics_and_classes(built) -> None:
    _, pages = built
    page = next(page for name, page in pages.items() if name.startswith("runs/"))
    assert "No precision-recall curves: the predictions are not at hand" in page.text
    for text in (
        "hardware.cpu",
        "train.batch_size",
        "mAP_envelope",
        "predictions.test.sha256",
        "Test metrics by class",
    ):
        assert text in page.text, text


def test_paper_tables_come_with_their_latex(built) -> None:
    page = built[1]["papers.html"]
    assert len(page.all("table")) == len([b for b in page.all("button") if "data-copy" in b]) == 12
    assert page.text.count(r"\begin{tabular}") == 12


def test_every_column_of_a_board_is_sorted_by_a_button(built) -> None:
    raw = (built[0] / BOARD).read_text(encoding="utf-8").partition("</thead>")[0]
    heads = re.findall(r'<th scope="col"(.*?)</th>', raw)
    assert all('aria-sort="' in head and '<button type="button">' in head for head in heads)
    assert [head for head in heads if 'aria-sort="none"' not in head] == [
        ' aria-sort="descending" data-first="descending"><button type="button">mAP</button>'
    ]


def leaves(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, entry in items:
        if isinstance(entry, str):
            yield (*place, key)
        yield from leaves(entry, (*place, key))


def poisoned(record: dict[str, Any]) -> tuple[dict[str, Any], int]:
    """`record` with hostile text wherever its schema takes any text, and in how many places."""
    record["per_class"] = {HOSTILE: {HOSTILE: 1.0}, "AP": {HOSTILE: 50.0, "b": 40.0}}
    record["results"]["test"][HOSTILE] = 1.0
    record["results"][HOSTILE] = {HOSTILE: 2.0}
    record["identity"]["method"]["hyperparameters"] = {HOSTILE: HOSTILE}
    record["identity"][HOSTILE] = {HOSTILE: [HOSTILE]}
    record["notes"] = [HOSTILE]
    record["epochs"] = record["epochs"][:2]
    record["epochs"][0]["forensics"] = {HOSTILE: {"entries": 1, "precision": 1.0, "recall": 1.0}}
    record["provenance"]["hardware"][HOSTILE] = HOSTILE
    count = 0
    for *path, last in list(leaves(record)):
        place = record
        for key in path:
            place = place[key]
        before = place[last]
        place[last] = HOSTILE
        try:
            parse_record(json.dumps(refit(record)).encode(), "test")
            count += 1
        except DataError:
            place[last] = before
    return refit(record), count


def test_hostile_text_in_every_field_is_shown_and_never_run(tmp_path) -> None:
    record, count = poisoned(published_record("llr_boostlu__scenes__"))
    assert count > 30
    put(tmp_path / "results", record)
    put(tmp_path / "results", submission(published_record("llr_boostlu__scenes__"), 1, 50.0))
    write_site(tmp_path / "site", tmp_path / "results")
    pages = check_site(tmp_path / "site")
    assert len(pages) == 12
    for page in pages.values():
        raw = page.path.read_text(encoding="utf-8")
        assert "<script>alert" not in raw
        assert "\u202e" not in raw
        assert "\x1b" not in raw
    run = pages[f"runs/{record['key'][:16]}.html"]
    assert "<script>alert(1)</script>" in run.text
    assert "{{7*7}}" in run.text
    for name, page in pages.items():
        if name.startswith("boards/"):
            latex = page.path.read_text(encoding="utf-8").partition("<pre")[2].partition("</pre>")[0]
            assert latex
            assert r"\input" not in latex


def test_a_site_built_again_keeps_its_pages_to_the_byte_and_drops_those_of_gone_runs(tmp_path) -> None:
    results, site = tmp_path / "results", tmp_path / "site"
    gone = put(results, published_record("random__scenes__"))
    kept = put(results, published_record("prior__scenes__"))
    write_site(site, results)
    first = {path.name: path.read_bytes() for path in site.rglob("*") if path.is_file()}
    (results / published_name(gone)).unlink()
    write_site(site, results)
    second = {path.name: path.read_bytes() for path in site.rglob("*") if path.is_file()}
    names = {f"{name}.{form}" for name in ("random", gone["key"][:16]) for form in ("html", "csv", "json")}
    assert second.keys() == first.keys() - names
    for name in ("papers.html", "prior.html", f"{kept['key'][:16]}.html"):
        assert first[name] == second[name]


def test_a_folder_that_holds_other_files_is_left_alone(tmp_path) -> None:
    (tmp_path / "results").mkdir()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "index.html").write_text("my own page")
    with pytest.raises(UsageError, match="holds other files than a site"):
        write_site(tmp_path / "mine", tmp_path / "results")
    with pytest.raises(UsageError, match="is a file"):
        write_site(tmp_path / "mine" / "index.html", tmp_path / "results")
    assert (tmp_path / "mine" / "index.html").read_text() == "my own page"


def test_a_broken_record_is_refused_by_name_and_nothing_written(tmp_path) -> None:
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "broken.json").write_text("{")
    with pytest.raises(DataError, match=r"1 broken records .*broken\.json"):
        write_site(tmp_path / "site", tmp_path / "results")
    assert not (tmp_path / "site").exists()


def test_the_command_takes_a_store_and_says_what_it_wrote(tmp_path) -> None:
    (tmp_path / "store").mkdir()
    done = CliRunner().invoke(cli, ["site", "--output", str(tmp_path / "site"), "--store", str(tmp_path / "store")])
    assert done.exit_code == 0, done.output
    assert "6 pages, 0 runs of 0 methods" in done.output
    assert "No finished run yet" in (tmp_path / "site" / "index.html").read_text(encoding="utf-8")


def test_weights_without_pictures_are_refused(tmp_path) -> None:
    done = CliRunner().invoke(cli, ["site", "--output", str(tmp_path / "site"), "--weights", "w.pth"])
    assert done.exit_code == 2
    assert "goes with --pictures" in done.output


def test_names_of_methods_never_leave_the_folder_nor_meet() -> None:
    names = ["an", "AN", "a-n", "a n", "../an", "..", "submitted/an", "an\ud800", "x" * 300, "", "an_boostlu"]
    links = [method_link(name) for name in names]
    assert links[0] == "methods/an.html"
    assert len({link.lower() for link in links}) == len(names)
    assert all(re.fullmatch(r"methods/[a-z0-9_-]{1,60}\.html", link) for link in links)


def test_rows_of_other_tracks_or_supervision_are_ranked_apart(make_record) -> None:
    def full_record(method: str, value: float, draw: int, **changes: Any) -> dict[str, Any]:
        hardware = {"cpu": "c", "cores": 1, "memory_gib": 1, "accelerator": "none"}
        record = make_record(method, value, draw, **changes)
        return record | {"provenance": {"started": "2026-01-01T00:00:00Z", "seconds": 1.0, "hardware": hardware}}

    records = [
        full_record(method, value + draw / 10 + (draw == 1) / 100 * len(method), draw, identity__track=track)
        for track in ("head", "full")
        for method, value in (("full", 90.0), ("an", 60.0), ("llr", 70.0))
        for draw in range(3)
    ]
    (board,) = make_boards(records)
    assert {column.track for column in board.columns} == {"head", "full"}
    for column in board.columns:
        assert [[(row.method, row.tie) for row in ranked.rows] for ranked in column.sets] == [
            [("llr", "1"), ("an", "2")],
            [("full", "")],
        ]
        assert [ranked.supervision for ranked in column.sets] == ["observed", "full"]


def board_records(make_record, *entries: tuple[str, float, int, dict[str, Any]]) -> list[dict[str, Any]]:
    provenance = {"started": "2026-01-01T00:00:00Z", "seconds": 1.0, "hardware": {"cpu": "c", "accelerator": "none"}}
    return [make_record(m, value, draw, **changes) | {"provenance": provenance} for m, value, draw, changes in entries]


def test_shares_of_labels_have_boards_of_their_own_and_precisions_are_ranked_apart(make_record) -> None:
    partial = {"identity__protocol": "partial", "identity__mask__process": "partial"}
    tenth, most = ({**partial, "identity__mask__params": {"keep": keep}} for keep in (0.1, 0.9))
    half = {**tenth, "identity__precision": "bf16"}
    drawn = [(d, d / 10) for d in range(3)]
    records = board_records(
        make_record,
        *(("an", 60.0 + x, d, tenth) for d, x in drawn),
        *(("llr", 70.0 + x * x, d, tenth) for d, x in drawn),
        *(("an", 90.0 + x, d, half) for d, x in drawn),
        *(("iu", 95.0, d, most) for d, _ in drawn),
    )
    boards = make_boards(records)
    assert [board.title for board in boards] == [
        "partial on scenes, labels: partial, keep 0.1",
        "partial on scenes, labels: partial, keep 0.9",
    ]
    ranked = {(row.method, row.identity["precision"]): row.tie for row in boards[0].rows}
    assert ranked == {("an", "bf16"): "", ("llr", "fp32"): "1", ("an", "fp32"): "2"}
    assert [column.precision for column in boards[0].columns] == ["fp32", "bf16"]
    assert [(board.share, board.name) for board in boards] == [
        ("10 %", "partial on scenes, 10 % of labels"),
        ("90 %", "partial on scenes, 90 % of labels"),
    ]


def test_a_submission_stands_on_the_board_of_its_protocol_as_written(make_record) -> None:
    sha = load_protocol("partial").sha256
    own = {"identity__protocol": "partial", "identity__protocol_sha256": sha, "identity__mask__process": "partial"}
    claimed = {
        "identity__protocol": "partial",
        "identity__protocol_sha256": sha,
        "identity__mask": {"process": "unknown"},
    }
    records = board_records(
        make_record,
        *(("an", 60.0, 0, {**own, "identity__mask__params": {"keep": keep}}) for keep in (0.1, 0.9)),
        ("submitted/x", 99.0, 0, claimed),
    )
    boards = make_boards(records)
    assert [[row.method for row in board.rows] for board in boards] == [["submitted/x", "an"], ["an"]]
    assert [board.title for board in make_boards(records[1:])] == [
        "partial on scenes, labels: partial, keep 0.9",
        "partial on scenes, labels: unknown",
    ]


def test_rows_of_students_of_differently_trained_teachers_are_two_and_masks_unseen_count_once(make_record) -> None:
    teachers = board_records(make_record, *(("an", 60.0, r, {"identity__train__epochs": 12 + r}) for r in (0, 1)))
    students = board_records(
        make_record, *(("kd", 65.0, r, {"identity__uses": {"teacher": teachers[r]["key"]}}) for r in (0, 1))
    )
    full = board_records(
        make_record, *(("full", 80.0 + s, s, {"identity__mask_seed": m}) for s in (0, 1) for m in (0, 1, 2))
    )
    (board,) = make_boards([*teachers, *students, *full])
    assert [row.method for row in board.rows].count("kd") == 2
    (row,) = [row for row in board.rows if row.method == "full"]
    assert row.grid == "2 (no mask)"
    assert row.numbers["mAP"].sd == pytest.approx(0.5**0.5)
    assert row.notes == ["sees no mask: 6 runs count as one for each repetition"]


def test_a_chart_skips_missing_points_and_stands_one_point_and_equal_values() -> None:
    assert line_chart("t", [Line("a", [(1, None)])], "x", "y") == ""
    for points in ([(1, 5.0)], [(1, 5.0), (2, 5.0)], [(1, 0.0), (2, None), (3, 1e-9)], [(1, 1e9), (2, -1e9)]):
        chart = line_chart("<t>", [Line("<a>", points)], "x", "y")
        assert "nan" not in chart
        assert "<a>" not in chart
    drawn = line_chart("t", [Line("a", [(1, 1.0), (2, None), (3, 2.0), (4, 2.0)])], "x", "y")
    path = re.search(r'class="c0" d="([^"]+)"', drawn)
    assert path is not None
    assert re.sub(r"[\d. -]+", "", path[1]) == "MML"


@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed")
def test_a_browser_sorts_filters_and_logs_no_error(built, tmp_path) -> None:
    page = (built[0] / BOARD).read_text(encoding="utf-8")
    probe = """
    const rows = "#table-1 tbody:first-of-type tr:not([hidden]):not(.set) th";
    const order = () => Array.from(document.querySelectorAll(rows),
      (head) => head.innerText.split(" ")[0]);
    const [method, , value] = document.querySelectorAll("#table-1 thead button");
    method.click(); const byName = order();
    value.click(); const best = order(); value.click(); const worst = order();
    const search = document.querySelector(".tools input[type=search]"); search.value = "reproduced";
    search.dispatchEvent(new Event("input", { bubbles: true }));
    const left = order(), state = value.closest("th").getAttribute("aria-sort");
    document.body.innerHTML = "<pre id=found></pre>";
    document.getElementById("found").textContent = JSON.stringify({ byName, best, worst, state, left });
    """
    page = re.sub(r"<meta http-equiv[^>]*>", "", page).replace("</body>", f"<script>{probe}</script></body>")
    (tmp_path / "probe.html").write_text(page, encoding="utf-8")

    def browse(path: Path) -> tuple[str, str]:
        command = [
            "chromium",
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            f"--user-data-dir={tmp_path / 'profile'}",
        ]
        command += ["--enable-logging=stderr", "--dump-dom", path.as_uri()]
        done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=True)
        return done.stdout, done.stderr

    shown, log = browse(built[0] / BOARD)
    assert "CONSOLE" not in log
    assert re.search(r"\((today|\d+ days? ago)\)", shown), "the page's own script did not run"
    found = json.loads(re.search(r'<pre id="found">(.*?)</pre>', browse(tmp_path / "probe.html")[0])[1])  # type: ignore[index]
    assert found["byName"] == sorted(found["byName"], key=str.lower)
    assert set(found["best"][:2]) == {"llr", "wan"}  # a submission has a place of its own
    assert found["worst"][0] == "an"
    assert sorted(found["left"]) == ["an", "llr", "wan"]
    assert found["state"] == "ascending"


def test_a_site_whose_writer_was_killed_anywhere_is_written_over(tmp_path: Path) -> None:
    from mlbench import files as store_files
    from mlbench.report.site import pages

    class Killed(BaseException):
        pass

    text = '<meta name="generator" content="mlbench site">'
    written = {"index.html": text, "papers.html": text, "methods/an.html": text, "runs/0.html": text}
    replace, write = store_files.os.replace, Path.write_bytes
    for limit in range(7):
        left = [limit]

        def dying(real, left=left):
            def call(*given):
                left[0] -= 1
                if left[0] < 0:
                    raise Killed
                return real(*given)

            return call

        output = tmp_path / f"site{limit}"
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(store_files.os, "replace", dying(replace))
            patch.setattr(store_files.os, "unlink", lambda path: None)  # a killed process does not tidy up
            patch.setattr(Path, "write_bytes", dying(write))
            with pytest.raises(Killed) if limit < 5 else nullcontext():
                pages._write(output, written)
        pages._require_ours(output)
        pages._write(output, written)
        found = {path.relative_to(output).as_posix() for path in output.rglob("*") if path.is_file()}
        assert found == written.keys()
