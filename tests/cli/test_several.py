"""`mlbench run` of several methods and seeds, what goes on after Ctrl-C, and how the command line behaves in a pipe."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest

from mlbench.cli.options import number_list
from mlbench.store import find_records

Call = Callable[..., tuple[int, str, str]]


def settings(photos: Path, store: Path, epochs: int = 1) -> list[str]:
    given = ["--protocol", "single_positive", "--dataset", photos / "mine.toml", "--backbone", "scenes"]
    given += ["--track", "full", "--epochs", epochs, "--set", "train.image_size=32", "--set", "train.batch_size=8"]
    return [str(word) for word in (*given, "--device", "cpu", "--store", store)]


def drawn(store: Path) -> set[tuple[str, int, int]]:
    identities = [record["identity"] for record in find_records(store)[0]]
    return {(made["method"]["name"], made["repetition"], made["mask_seed"]) for made in identities}


def test_several_methods_and_seeds_are_a_sweep_with_one_table(mlbench: Call, photos: Path, tmp_path: Path) -> None:
    command = ["run", "--method", "prior, random", "--seeds", "1,0", *settings(photos, tmp_path)]
    code, out, err = mlbench(*command)
    assert code == 0, err
    assert drawn(tmp_path) == {(method, i, i) for method in ("prior", "random") for i in (0, 1)}
    assert [line.split("|")[1].strip() for line in out.splitlines() if "(2)" in line] == ["prior", "random"]
    assert "4 runs, 0 done before" in err
    code, out, err = mlbench(*command, "--json")
    assert "4 runs, 4 done before" in err
    assert {row["method"]: row["n"] for row in json.loads(out)["rows"]} == {"prior": 2, "random": 2}
    # The table is of these runs, whatever else the store holds.
    code, out, _ = mlbench("run", "--method", "prior", "--seeds", "0", *settings(photos, tmp_path), "--json")
    assert [row["n"] for row in json.loads(out)["rows"]] == [1]


def test_a_named_mask_is_that_of_all_seeds(mlbench: Call, photos: Path, tmp_path: Path) -> None:
    command = ["run", "--method", "prior", "--seeds", "0-2", "--mask-seed", "4", *settings(photos, tmp_path), "--quiet"]
    assert mlbench(*command)[0] == 0
    assert drawn(tmp_path) == {("prior", seed, 4) for seed in range(3)}


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (("--seeds", "2-1"), "expected whole numbers from 0, as 0-8 or 0,3,5"),
        (("--seeds", "a"), "expected whole numbers from 0"),
        (("--seeds", "-1"), "expected whole numbers from 0"),
        (("--seeds", "0,0"), "one stands there twice"),
        (("--seeds", "0-99999"), "more than ten thousand runs"),
        (("--seeds", "0-1", "--seed", "3"), "--seed and --seeds: expected one of them"),
        (("--seeds", "0-1", "--again"), "--again: goes with a single run"),
        (("--seeds", "0-1", "--log-to", "tensorboard"), "--log-to: goes with a single run"),
    ],
)
def test_what_does_not_go_together_is_refused(
    mlbench: Call, photos: Path, tmp_path: Path, given: tuple[str, ...], told: str
) -> None:
    code, _, err = mlbench("run", "--method", "prior", *settings(photos, tmp_path), *given)
    assert code == 2
    assert told in err
    assert not list(tmp_path.iterdir())


def test_a_failed_run_is_told_and_the_others_are_shown(mlbench: Call, photos: Path, tmp_path: Path) -> None:
    command = ["run", "--method", "an,llr", "--set", "train.lr=1e30", *settings(photos, tmp_path), "--quiet"]
    code, _, err = mlbench(*command)
    assert code == 1
    assert "llr on mine" in err


def test_numbers_are_listed_in_the_order_given() -> None:
    assert number_list("3, 0-2,7", "--seeds") == (3, 0, 1, 2, 7)
    with pytest.raises(click.UsageError, match="--seeds"):
        number_list("", "--seeds")


def interrupt(command: list[str], until: Callable[[], bool]) -> str:
    """Start mlbench, press Ctrl-C as soon as `until` holds, and give what it wrote to stderr."""
    process = subprocess.Popen(
        [sys.executable, "-m", "mlbench", *command],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        # Where the tests run in the background of a shell, Ctrl-C is ignored by all that they start.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        for _ in range(6000):
            if until():
                break
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.05)
        told = None
        while told is None:  # Python ignores one that falls into a callback of its own: a person presses again
            process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                told = process.communicate(timeout=20)[1]
    finally:
        process.kill()
    assert process.returncode == 1, told
    return told


@pytest.mark.parametrize("several", [False, True], ids=["run", "sweep"])
def test_the_command_that_is_told_after_ctrl_c_goes_on(photos: Path, tmp_path: Path, several: bool) -> None:
    store = tmp_path / "a store"
    method = ["--seeds", "0-1", "--method", "prior,an"] if several else ["--method", "an"]
    command = ["run", *method, *settings(photos, store, epochs=20000)]  # never to be finished
    found = (lambda: any(find_records(store)[0])) if several else (lambda: any(store.glob("*/epochs*")))
    told = interrupt(command, lambda: store.is_dir() and found())
    words = shlex.split(re.search("stopped; go on with: (.*)", told)[1])  # type: ignore[index]
    assert words == ["mlbench", *command, "--resume"]
    assert "Traceback" not in told


def test_a_reader_that_leaves_early_ends_it_quietly(tmp_path: Path) -> None:
    for arguments in (["list", "methods"], ["list", "methods", "--json"], ["show", "llr"]):
        done = subprocess.run(
            f"{shlex.quote(sys.executable)} -m mlbench {shlex.join(arguments)} | true",
            shell=True, stderr=subprocess.PIPE, text=True, timeout=60, cwd=tmp_path,
        )  # fmt: skip
        assert done.stderr == ""


def test_no_colours_where_none_are_wanted(tmp_path: Path) -> None:
    """On a terminal with NO_COLOR, as https://no-color.org asks, a bar has no colours; with colours it has."""
    program = "from mlbench.progress import Reporter\nwith Reporter() as r: r.bar('t', 3)(2); r.say('line')"
    coloured = re.compile(rb"\x1b\[[0-9;]*(?:3[0-7]|9[0-7]|38;)[0-9;]*m")
    assert not coloured.search(on_a_terminal(program, {"NO_COLOR": "1"}))
    assert coloured.search(on_a_terminal(program, {}))


def on_a_terminal(program: str, more: dict[str, str]) -> bytes:
    """What `program` writes to a terminal."""
    pty = pytest.importorskip("pty")
    ours, theirs = pty.openpty()
    kept = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR")}
    environment: dict[str, Any] = {**kept, "TERM": "xterm-256color", "COLUMNS": "100", **more}
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=theirs, stderr=theirs, stdin=theirs, env=environment
    )
    os.close(theirs)
    found = b""
    try:
        while chunk := os.read(ours, 4096):
            found += chunk
    except OSError:  # Linux says so where the other end is closed
        pass
    os.close(ours)
    assert process.wait(60) == 0
    return found
