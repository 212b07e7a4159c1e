"""`mlbench data list`: what can be fetched, and what is there."""

from __future__ import annotations

from pathlib import Path

from mlbench.acquire.sources import Source, load_sources, missing_by_hand
from mlbench.datasets.miniature import MARKER
from mlbench.grid import grid


def list_sources(root: Path | None = None) -> str:
    """A printable table of all distributions; with `root`, whether they lie there or in its folder of their name."""
    headers = ["data set", "to download", "by hand", "licence", *([] if root is None else ["there"])]
    rows = []
    for name, source in load_sources().items():
        size = source.size
        told = "size not published" if size is None else f"{size / 1e9:.1f} GB"
        by_hand = "; ".join(item.what for item in source.by_hand)
        by_hand += " (given for a signed form)" if source.account else ""
        row = [name, told if source.files else "nothing", by_hand, source.licence]
        rows.append(row if root is None else [*row, presence(source, root)])
    return grid(rows, headers=headers, tablefmt="simple", maxcolwidths=[None, None, 40, 40])


def presence(source: Source, root: Path) -> str:
    """Whether the distribution is there: yes, no, or which part is missing."""
    for place in (root, root / source.name):
        if (place / MARKER).is_file():
            continue  # made up (`mlbench data miniature`): nothing of the data set is there
        missing = [file.name for file in source.files if not file.present(place)]
        missing += [item.file.name for item in missing_by_hand(source, place, pictures=True)]
        if not missing:
            return "yes"
        if len(missing) < len(source.files) + len(source.by_hand):
            return f"in part, without {', '.join(missing)}"
    return "no"
