"""Records handed in by pull request: one archive of runs with their test scores, and the text that goes with it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from mlbench.errors import UsageError, visible
from mlbench.files import atomic_write
from mlbench.grid import grid
from mlbench.repository.archive import write_pack
from mlbench.significance.comparability import annotation_text
from mlbench.store import find_run, is_submitted, published_name, scores_file

Record = dict[str, Any]
_HEADERS = ("method", "version", "data", "annotation", "track", "seed, mask", "metric")


def hand_in(runs: Sequence[str], to: Path, store: Path) -> tuple[Path, Path]:
    """Write the archive and the text of a pull request for `runs` (first characters of keys) of `store` into `to`.

    Returns their files. The same runs give the same archive under the same name. UsageError for no run; DataError where
    a run's scores are not the ones that its record names.
    """
    records = [find_run(run, store) for run in runs]
    if not records:
        raise UsageError("no run given: expected the first characters of at least one key")
    records = list({record["key"]: record for record in records}.values())
    name = f"records-{min(record['key'] for record in records)[:12]}-{len(records)}.zip"
    about = write_pack(to / name, [(record, scores_file(store, record)) for record in records])
    text = (to / name).with_suffix(".md")
    atomic_write(text, request_text(records, about["archive"]).encode("utf-8"))
    return to / name, text


def request_text(records: Sequence[Record], archive: dict[str, Any]) -> str:
    """What a pull request says of `records`: numbers, card, environment, badge, hashes; Markdown."""
    ordered = sorted(records, key=published_name)
    lines = [
        "## Records",
        "",
        grid(map(_row, ordered), _HEADERS, "github"),
        "",
        f"Attach `{archive['file']}` here, so that its address stands in this text: it is fetched and checked.",
        "",
        "```sh",
        f"mlbench results merge results/runs {archive['file']}   # in a checkout; commit the records it adds",
        "```",
        "",
        *_cards(ordered),
        "## Environment",
        "",
        *_told(map(_environment, ordered)),
        "",
        "## Badge",
        "",
        *_told(map(_badge, ordered)),
        "",
        "## Hashes (SHA-256)",
        "",
        f"* `{archive['file']}`: `{archive['sha256']}` ({archive['bytes']:,} bytes)",
        *(f"* `{published_name(r)}`: content `{r.get('content_sha256', 'none (schema 1)')}`, "
          f"scores `{r['predictions']['test']['sha256']}`" for r in ordered),
    ]  # fmt: skip
    return visible("\n".join(lines)) + "\n"


def _row(record: Record) -> list[Any]:
    identity = record["identity"]
    headline = str(record["definitions"].get("headline", "mAP"))
    value = record["results"]["test"].get(headline)
    shown = "undefined" if value is None else f"{headline} {value:.2f}"
    drawn = f"{identity['repetition']}, {identity['mask_seed']}"
    method = identity["method"]
    place = [identity["dataset"]["id"], annotation_text(record), f"{identity['track']}, {identity['backbone']['name']}"]
    return [method["name"], str(method["version"]), *place, drawn, shown]


def _cards(records: Iterable[Record]) -> list[str]:
    """What submissions claim of themselves; texts of cards hold no markup."""
    claims = {}
    for record in filter(is_submitted, records):
        claims[record["identity"]["method"]["name"]] = record["provenance"]["submission"]
    lines = []
    for name, card in claims.items():
        lines += [f"* `{name}`: {card['title']}; {', '.join(card['authors'])}; {card['source']}"]
        lines += [f"  * license: {card['license']}"] if "license" in card else []
        lines += [f"  * reported: {', '.join(f'{k} {v:g}' for k, v in card['reported'].items())}"] * (
            "reported" in card
        )
        lines += [f"  * card `{card['card_sha256']}`"]
    return ["## Card", "", *lines, ""] if lines else []


def _environment(record: Record) -> str:
    found = record["provenance"]
    commit = found["git"]["commit"]
    git = f"commit {commit[:12]}{' with changes' if found['git']['dirty'] else ''}" if commit else "no commit known"
    packages = ", ".join(f"{name} {version}" for name, version in found["packages"].items())
    hardware = ", ".join(f"{name} {value}" for name, value in found["hardware"].items())
    ran = f"{found['processes']} processes of {found['threads']} threads"
    return f"mlbench {found['mlbench']}, {git}; Python {found['python']}; {packages}; {hardware}; {ran}"


def _badge(record: Record) -> str:
    if is_submitted(record):
        return "submitted predictions: scored, not reproduced"
    badge = record["provenance"].get("conformance")
    name = record["identity"]["method"]["name"]
    return (
        f"`{name}`: {'passed `mlbench check-method`' if badge else 'no badge (`mlbench check-method` before the run)'}"
    )


def _told(lines: Iterable[str]) -> list[str]:
    """Each line once, with how many runs it is of."""
    counts: dict[str, int] = {}
    for line in lines:
        counts[line] = counts.get(line, 0) + 1
    return [f"* {line}" + (f" ({number} runs)" if number > 1 else "") for line, number in counts.items()]
