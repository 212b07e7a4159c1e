"""`mlbench doctor`, `env` and `cache`: what is on this machine, and what mlbench keeps on it."""

from __future__ import annotations

import time
from pathlib import Path

import click

from mlbench.cli.options import DATA, STORE
from mlbench.cli.output import JSON, answer, echo
from mlbench.errors import MlbenchError


@click.command("doctor")
@DATA
@STORE
@JSON
def doctor_command(data_root: Path | None, store: Path | None) -> None:
    """Look at this machine: versions, devices, disk, caches, data sets, weights, and what is missing for what."""
    from mlbench.cli.doctor import examine, findings_text, findings_wrong

    found = examine(data_root, store)
    answer(lambda: findings_text(found), found)
    if wrong := findings_wrong(found):
        raise MlbenchError(f"{len(wrong)} things that mlbench cannot do without are missing: {', '.join(wrong)}")


@click.command("env")
@JSON
def env_command() -> None:
    """Print versions and hardware for a bug report: no names of people, machines or folders."""
    from mlbench.cli.doctor import environment

    found = environment()
    width = max(map(len, found))
    rows = [{"what": what, "value": value} for what, value in found.items()]
    answer(lambda: "\n".join(f"{what:{width}}  {value}" for what, value in found.items()), rows)


@click.group("cache")
def cache_group() -> None:
    """List and clear what mlbench keeps to be quick: pixels, features, proposals, hashes, indexes."""


_KINDS = click.argument("kinds", nargs=-1)
_KEY = click.option("--key", default="", help="Only entries whose key begins so.")


@cache_group.command("list")
@_KINDS
@_KEY
@JSON
def list_command(kinds: tuple[str, ...], key: str) -> None:
    """List the entries of KINDS [all], with their sizes and ages, and which are being made now."""
    from mlbench.cache import KINDS, entries
    from mlbench.grid import grid
    from mlbench.paths import cache_dir

    found, now = entries(kinds, key), time.time()

    def text() -> str:
        rows = [
            (entry.kind, entry.key[:40], size_text(entry.bytes), age_text(now - entry.modified), "now" * entry.used)
            for entry in found
        ]
        table = grid(
            rows, ["kind", "key", "size", "age", "being made"], colalign=["left", "left", *["right"] * 2, "left"]
        )
        about = [f"{kind}: {KINDS[kind]}" for kind in dict.fromkeys(entry.kind for entry in found)]
        total = f"{size_text(sum(entry.bytes for entry in found))} in {len(found)} entries of {cache_dir()}"
        return "\n".join([*([table, "", *about] if found else []), total])

    rows = [
        {
            **{"kind": entry.kind, "key": entry.key, "bytes": entry.bytes, "seconds": now - entry.modified},
            **{"used": entry.used, "files": entry.files},
        }
        for entry in found
    ]
    answer(text, rows, folder=cache_dir())


@cache_group.command("clear")
@_KINDS
@_KEY
@click.option("--older", type=click.FloatRange(0), metavar="DAYS", help="Only what was not written for so many days.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def clear_command(kinds: tuple[str, ...], key: str, older: float | None, yes: bool) -> None:
    """Delete entries of KINDS [all that can be made again]; never what another process is making.

    What a person brought (packs, scores, vl_scores) goes only where that kind is named.
    """
    from mlbench.cache import GIVEN, clear, entries

    found = [entry for entry in entries(kinds, key) if kinds or entry.kind not in GIVEN]
    if older is not None:
        found = [entry for entry in found if time.time() - entry.modified >= older * 86400]
    if not found:
        echo("nothing to clear")
        return
    size = size_text(sum(entry.bytes for entry in found))
    if not yes:
        click.confirm(
            f"Delete {len(found)} entries, {size}, of {', '.join(dict.fromkeys(e.kind for e in found))}?", abort=True
        )
    gone, left = clear(found)
    echo(f"deleted {len(gone)} entries, {size_text(sum(entry.bytes for entry in gone))}")
    for entry in left:
        echo(f"left: {entry.kind} {entry.key}, which another process is making")


def size_text(size: float) -> str:
    """Bytes for people."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024 or unit == "GiB":
            return f"{size:.0f} {unit}" if unit == "B" or size >= 10 else f"{size:.1f} {unit}"
        size /= 1024
    raise AssertionError


def age_text(seconds: float) -> str:
    """Seconds for people, in the largest unit that has one."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"
