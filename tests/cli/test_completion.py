"""What a shell is offered: names that are installed and keys of runs, in every command, without torch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete

from mlbench.cli.main import cli
from mlbench.store import summarise_records

RUNS = Path(__file__).parents[2] / "results" / "runs"


def offered(*words: str) -> list[str]:
    """What completes the last of `words`."""
    found = ShellComplete(cli, {}, "mlbench", "_MLBENCH_COMPLETE").get_completions(list(words[:-1]), words[-1])
    return [item.value for item in found]


@pytest.mark.parametrize(
    ("words", "some"),
    [
        (("run", "--method", "llr"), ["llr", "llr_boostlu"]),
        (("run", "--protocol", "single"), ["single_positive", "single_positive_spml"]),
        (("run", "--dataset", "corel5k"), ["corel5k-199", "corel5k-260"]),
        (("run", "--backbone", "resnet5"), ["resnet50", "resnet50-keras"]),
        (("search", "--method", "an", "--method", "ls"), ["ls", "ls_boostlu"]),
        (("table", "--methods", "an,ls_"), ["an,ls_boostlu"]),
        (("table", "--metric", "mAP,F1-C"), ["mAP,F1-C_hm", "mAP,F1-C_mean"]),
        (("cards", "em_apl"), ["em_apl", "em_apl_boostlu"]),
        (("check", "method", "curr"), ["curriculum"]),
        (("data", "describe", "sce"), ["scenes", "scenes-2"]),
        (("show", "stress_si"), ["stress_size"]),
    ],
)
def test_names_complete_by_what_a_parameter_is_called(words: tuple[str, ...], some: list[str]) -> None:
    found = offered(*words)
    assert [name for name in found if name in some] == some
    assert all(name.startswith(words[-1]) for name in found)


def test_a_name_that_a_list_has_is_not_offered_again() -> None:
    assert "an,an" not in offered("table", "--methods", "an,a")


def test_keys_of_the_store_that_is_named_complete_and_tell_what_they_are() -> None:
    key = summarise_records(RUNS)[0][0]["key"]
    for words in (
        ("compare", "--output", str(RUNS)),
        ("show", "--output", str(RUNS)),
        ("score", "--output", str(RUNS)),
    ):
        assert offered(*words, key[:10]) == [key[:16]]


def test_what_names_nothing_is_taken_for_a_file() -> None:
    found = ShellComplete(cli, {}, "mlbench", "_MLBENCH_COMPLETE").get_completions(["run", "--protocol"], "./my")
    assert [(item.value, item.type) for item in found] == [("./my", "file")]


def test_a_shell_is_answered_without_torch() -> None:
    code = (
        "import sys\nfrom mlbench.cli.main import cli\n"
        "try:\n    cli.main([], prog_name='mlbench')\n"
        "finally:\n    assert 'torch' not in sys.modules\n"
    )
    asked = {"_MLBENCH_COMPLETE": "bash_complete", "COMP_WORDS": "mlbench run --method llr_", "COMP_CWORD": "3"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | asked, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.splitlines() == ["plain,llr_boostlu"], done.stderr
