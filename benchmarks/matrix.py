"""The quick tests on each Python with the newest dependencies, and on the oldest with the lowest declared ones.

One environment at a time, made by uv in a folder of its own and deleted afterwards; each takes some 5 GB while it is
there. A table at the end says what passed. `make matrix` calls this; needs a network.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import click

from mlbench.grid import grid

ROOT = Path(__file__).parents[1]
#: A few seconds for every room: `--smoke`.
SMOKE = (
    *(
        "tests/test_registry.py",
        "tests/test_protocol.py",
        "tests/metrics/test_average_precision.py",
        "tests/test_python.py",
    ),
    *("tests/datasets/test_fingerprint.py"),
    *("tests/runner/test_identity.py", "tests/cli/test_store_option.py"),
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
        ["uv", "pip", "install", "--quiet", "--no-cache", "--python", str(python), "--resolution",
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
def main(only: tuple[str, ...], smoke: bool) -> None:
    tests = [*SMOKE] if smoke else ["--quick"]
    rows = []
    for environment in ENVIRONMENTS:
        if only and not any(environment.name.startswith(name) for name in only):
            continue
        folder, begun = Path(tempfile.mkdtemp(prefix="mlbench-matrix-")), time.monotonic()
        try:
            state, found, last = try_out(environment, folder / "venv", tests)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        rows.append((environment.name, state, found, re.sub(r"^=+ | =+$", "", last), time.monotonic() - begun))
        print(f"{environment.name}: {state}", file=sys.stderr, flush=True)
    print(grid(rows, ["python", "", "torch, NumPy, scikit-learn, Pillow", "tests", "seconds"], floatfmt=".0f"))
    if any(state != "passed" for _, state, *_ in rows):
        raise click.exceptions.Exit(1)


if __name__ == "__main__":
    main()
