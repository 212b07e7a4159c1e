"""All attacks by name: what they try, and how often the suite tries it (`benchmarks/attack.py` goes on for minutes)."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

from hostile import Attack
from on_archives import archives
from on_readers import readers
from on_records import records
from on_server import servers
from on_stores import stores
from on_submissions import cards, submissions


@dataclass(frozen=True)
class Kind:
    attack: Attack
    what: str
    tries: int


ATTACKS = {
    "archives": Kind(
        archives, "zip, tar, tar.gz: paths, links, devices, sizes, headers, bombs, depth; then any bytes changed", 150
    ),
    "downloads": Kind(
        servers,
        "a server that cuts, shortens, encodes, redirects, garbles; all, some or nothing of the file known",
        150,
    ),
    "submissions": Kind(
        submissions, "CSV, safetensors, Parquet: fields, headers and bytes changed; shapes, offsets, nesting forged", 60
    ),
    "cards": Kind(cards, "TOML: hostile texts, other types, nesting, dotted keys; any bytes changed", 300),
    "label files": Kind(
        readers, "descriptions, CSV, JSON lines, COCO, folders, adopt: names that lead out, texts, links, bytes", 100
    ),
    "records": Kind(
        records, "hostile text or another type in any place, or any bytes; list, show, table, merge, verify, site", 25
    ),
    "stores": Kind(stores, "names of all kinds, read-only places, files in the way, disks that fill up midway", 20),
}


def strike(name: str, seed: int, folder: Path) -> str:
    """Try number `seed` of an attack, in the empty `folder`."""
    return ATTACKS[name].attack(random.Random(f"{name} {seed}"), folder)
