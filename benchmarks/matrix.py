"""The quick tests on each Python with the newest dependencies, and on the oldest with the lowest declared ones.

One environment at a time, made by uv in a folder of its own and deleted afterwards; its files are those of uv's cache,
which keeps what was fetched (some 5 GB of an environment; `uv cache prune` gives up what is no longer asked for). A
table at the end says what passed; of environments that were left out it keeps what was found before. `make matrix`
calls this; needs a network.
"""

from __future__ import annotations

import datetime
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
from timing import OUTPUT, about, markdown, write

ROOT = Path(__file__).parents[1]
#: A few seconds of some rooms: `--smoke`.
SMOKE = (
    "tests/test_registry.py",
    "tests/test_protocol.py",
    "tests/metrics/test_average_precision.py",
    "tests/test_python.py",
    "tests/datasets/test_fingerprint.py",
    "tests/runner/test_identity.py",
    "tests/cli/test_store_option.py",
)


@dataclass(frozen=True)
class Environment:
    """A Python, and which versions of the dependencies: uv's "highest" or "lowest-direct"."""

    python: str
    resolution: str = "highest"

    @property
    def name(self) -> str:
        return f"{self.python} {'newest' if self.resolution == 'highest' else 'lowest'}"


ENVIRONMENTS = (
    Environment("3.11", "lowest-direct"),
    Environment("3.11"),
    Environment("3.12"),
    Environment("3.13"),
)


def try_out(environment: Environment, folder: Path, tests: list[str]) -> tuple[str, str, str]:
    """(what came of it, the versions that matter, the last line of the tests)."""
    python = folder / "bin" / "python"
    steps = (
        ["uv", "venv", "--quiet", "--python", environment.python, str(folder)],
        ["uv", "pip", "install", "--quiet", "--python", str(python), "--resolution",
         environment.resolution, "-e", f"{ROOT}[dev]"],
        [str(python), "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", "2", "--dist", "loadfile", *tests],
    )  # fmt: skip
    for number, step in enumerate(steps):
        done = subprocess.run(step, cwd=ROOT, capture_output=True, text=True)
        if done.returncode:
            sys.stderr.write(done.stdout[-20_000:] + done.stderr[-5_000:])
            last = (done.stdout.strip() or done.stderr.strip() or "nothing said").splitlines()[-1]
            return ("not made", "not installed", "FAILED")[number], versions(python), last
    return "passed", versions(python), done.stdout.strip().splitlines()[-1]


def versions(python: Path) -> str:
    """Those of the libraries that decide numbers, as the environment has them."""
    asked = "import torch, numpy, sklearn, PIL; print(*(m.__version__ for m in (torch, numpy, sklearn, PIL)))"
    done = subprocess.run([str(python), "-c", asked], capture_output=True, text=True) if python.exists() else None
    return done.stdout.strip() if done is not None else ""


@click.command(help=__doc__)
@click.option("--only", multiple=True, help="Environments whose name begins so: 3.13, '3.11 lowest'.")
@click.option("--smoke", is_flag=True, help="A few tests of every room instead of all quick ones.")
@OUTPUT
def main(only: tuple[str, ...], smoke: bool, output: Path) -> None:
    chosen = [each for each in ENVIRONMENTS if not only or any(each.name.startswith(name) for name in only)]
    if not chosen:
        names = ", ".join(f"'{each.name}'" for each in ENVIRONMENTS)
        raise click.UsageError(f"--only {' '.join(only)}: expected the beginning of one of {names}")
    found = earlier(output / "matrix.json")
    for environment in chosen:
        folder, begun = Path(tempfile.mkdtemp(prefix="mlbench-matrix-")), time.monotonic()
        try:
            state, seen, last = try_out(environment, folder / "venv", [*SMOKE] if smoke else ["--quick"])
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        found[environment.name] = {
            **{"state": state, "versions": seen, "tests": "smoke" if smoke else "quick"},
            **{"said": re.sub(r"^=+ | =+$| in [\d.]+s.*$", "", last), "seconds": round(time.monotonic() - begun)},
            "date": datetime.date.today().isoformat(),
        }
        print(f"{environment.name}: {state}", file=sys.stderr, flush=True)
        packages = {"uv": version("uv")}
        write(output, "matrix", about() | {"packages": packages}, found, table(found))
    if any(found[each.name]["state"] != "passed" for each in chosen):
        raise click.exceptions.Exit(1)


def earlier(path: Path) -> dict[str, dict[str, Any]]:
    """What was found before of the environments that there are, from ``matrix.json``."""
    figures = json.loads(path.read_text(encoding="utf-8"))["figures"] if path.is_file() else {}
    return {each.name: figures[each.name] for each in ENVIRONMENTS if each.name in figures}


def table(found: Mapping[str, Mapping[str, Any]]) -> str:
    """A row for each environment, in their order."""
    rows = [
        [name, *(found[name][key] for key in ("state", "versions", "tests", "said", "seconds", "date"))]
        for name in (each.name for each in ENVIRONMENTS)
        if name in found
    ]
    headers = ["Python", "", "torch, NumPy, scikit-learn, Pillow", "tests", "said", "s, with the installation", "date"]
    return markdown(rows, headers)


if __name__ == "__main__":
    main()
