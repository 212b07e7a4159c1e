"""Every command block of README and the guide can be typed: its commands, options, names and files are there.

Here all of them are parsed by the command line itself; tests/test_commands_are_run.py runs what it can.
"""

from __future__ import annotations

import re
from functools import cache
from itertools import pairwise

import click
import pytest
from command_blocks import ROOT, Block, blocks, commands, ours

from mlbench.cli.main import cli

#: Programs that are not ours: what they are given is their matter.
FOREIGN = {
    *("accelerate", "cat", "cd", "cp", "curl", "done", "echo", "eval", "export", "find", "for", "git", "grep"),
    *("head", "jq", "kill", "lint-imports", "ls", "mkdir", "mv", "mypy", "nvidia-smi", "pip", "pre-commit"),
    *("pytest", "ray", "rm", "ruff", "sbatch", "sed", "sort", "srun", "tar", "tee", "torchrun", "touch"),
    *("true", "unset", "unzip", "uv", "wc", "wget"),
}


def parse(command: click.Command, name: str, arguments: list[str]) -> None:
    """What click does before it calls the command."""
    with command.make_context(name, list(arguments)) as context:
        if isinstance(command, click.Group):
            rest = [*context._protected_args, *context.args]
            assert rest, f"{name}: no command"
            word, found, rest = command.resolve_command(context, rest)
            assert found is not None
            parse(found, str(word), rest)


@cache
def known_names() -> dict[str, set[str]]:
    """What may stand behind an option."""
    from mlbench.datasets import list_datasets
    from mlbench.protocol import list_protocols
    from mlbench.registry import METHODS

    return {"--method": set(METHODS), "--protocol": set(list_protocols()), "--dataset": set(list_datasets())}


def check_names(arguments: list[str], page: str) -> None:
    """Methods, protocols, data sets and grids that are named are there, unless a page of its own adds them."""
    known = known_names()
    for option, value in pairwise(arguments):
        names = value.split(",") if option == "--method" else [value]
        for name in names if option in known else ():
            own = name.startswith(("my_", "your_", "example_", "$", "mine")) or name.endswith(".toml") or name.isupper()
            assert own or name in known[option], f"{page}: {option} {name}"
    for word in arguments:
        if word.startswith(("benchmarks/", "results/", "docs/")) and "$" not in word:
            assert (ROOT / word).exists(), f"{page}: {word}"


BLOCKS = list(blocks())


def test_blocks_are_found() -> None:
    assert len(BLOCKS) > 35
    assert sum(ours(words) is not None for block in BLOCKS for words in commands(block.text)) > 80


@pytest.mark.parametrize("block", BLOCKS, ids=[block.place for block in BLOCKS])
def test_a_block_can_be_typed(block: Block, capsys: pytest.CaptureFixture[str]) -> None:
    place = block.place
    targets = set(re.findall(r"(?m)^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8")))
    for words in commands(block.text):
        program = words[0].removeprefix(".venv/bin/")
        arguments = ours(words)
        if arguments is not None:
            if arguments and arguments[0] not in ("--help", "--version"):
                parse(cli, "mlbench", arguments)
                check_names(arguments, place)
        elif program == "make":
            assert set(words[1:]) <= targets, f"{place}: {words}"
        elif program.startswith("python"):
            for word in words[1:]:
                if word.endswith(".py") and "/" in word:
                    assert (ROOT / word).exists(), f"{place}: {word}"
        else:
            assert program in FOREIGN or program.startswith(("./", ".ci/", "$", "_MLBENCH")), f"{place}: {program}"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("mlbench table --store a | tee b.md  # as text", [["mlbench", "table", "--store", "a"], ["tee", "b.md"]]),
        ("A=1 mlbench list \\\n  runs > out.txt 2>&1", [["mlbench", "list", "runs"]]),
        ("for x in a b; do mlbench show $x; done", [["for", "x", "in", "a", "b"], ["mlbench", "show", "$x"], ["done"]]),
    ],
)
def test_commands_are_told_apart(text: str, found: list[list[str]]) -> None:
    assert list(commands(text)) == found


def test_a_wrong_option_is_found() -> None:
    with pytest.raises(click.NoSuchOption):
        parse(cli, "mlbench", ["run", "--protocol", "full", "--method", "an", "--sed", "1"])
    with pytest.raises(click.UsageError):
        parse(cli, "mlbench", ["data", "lst"])
