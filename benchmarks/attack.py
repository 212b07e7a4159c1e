"""The attacks of tests/attack for as long as you like: what was tried, how often, what held.

    python benchmarks/attack.py --minutes 5 --seed 1

Prints a table for docs/security.md. Whatever does not hold is printed with its number (`--only NAME --from N --tries 1`
does it again) and ends in exit status 1. Everything happens in a temporary folder.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "attack"))


def attack(
    names: list[str], first: int, tries: int | None, seconds: float
) -> tuple[dict[str, Counter[str]], list[str]]:
    """Each of `names` in turn until the time is over, or `tries` times; outcomes of each, and what did not hold."""
    from attacks import strike

    began, outcomes = time.monotonic(), {name: Counter[str]() for name in names}
    broken: dict[str, str] = {}  # by what was told, so that each is told once
    spent, number = dict.fromkeys(names, 0.0), dict.fromkeys(names, first)
    while time.monotonic() - began < seconds and (tries is None or min(number.values()) < first + tries):
        name = min(names, key=lambda name: spent[name])  # the same time for each
        folder, start = Path(tempfile.mkdtemp()), time.monotonic()
        try:
            outcomes[name][strike(name, number[name], folder)] += 1
        except Exception:
            outcomes[name]["not held"] += 1
            told = traceback.format_exc(limit=-3)
            broken.setdefault(told, f"{name}, try {number[name]}, and maybe others:")
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        number[name] += 1
        spent[name] += time.monotonic() - start
    return outcomes, broken


def main() -> None:
    from attacks import ATTACKS

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=1, help="the tries are numbered from a million times this")
    parser.add_argument("--from", type=int, dest="first", help="number of the first try, instead of --seed")
    parser.add_argument("--tries", type=int, help="of each attack, at most")
    parser.add_argument("--only", choices=ATTACKS, action="append")
    given = parser.parse_args()
    home = tempfile.mkdtemp(prefix="attack-")
    os.environ |= {"MLBENCH_CACHE": f"{home}/cache", "TMPDIR": home}
    tempfile.tempdir = home
    os.chdir(home)
    try:
        names = given.only or list(ATTACKS)
        first = 1_000_000 * given.seed if given.first is None else given.first
        outcomes, broken = attack(names, first, given.tries, 60 * given.minutes)
        escaped = os.path.exists("PWNED")
    finally:
        os.chdir("/")
        shutil.rmtree(home, ignore_errors=True)
    print("| against | what is tried | tries | refused | rightly taken | not held |")
    print("|---|---|--:|--:|--:|--:|")
    for name, found in outcomes.items():
        counts = (found["refused"], found["taken"], found["not held"])
        print(f"| {name} | {ATTACKS[name].what} | {' | '.join(f'{n:,}' for n in (sum(counts), *counts))} |")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"\nPeak memory of the process: {peak:,.0f} MiB.")
    for told, where in broken.items():
        print(f"\n{where}\n{told}")
    if broken or escaped:
        sys.exit("something did not hold")


if __name__ == "__main__":
    main()
