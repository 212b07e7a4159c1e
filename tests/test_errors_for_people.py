"""What a person gets wrong is one line and an exit code (2 asked, 1 failed), and nothing is left behind."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mlbench.errors import DataError, MlbenchError, UsageError, nearest, unknown


def test_the_nearest_name_is_suggested_where_there_is_one() -> None:
    assert nearest("single-positive", ["full", "single_positive"]) == " Did you mean 'single_positive'?"
    assert nearest("xyz", ["full", "partial"]) == ""
    assert nearest("x", []) == ""


def test_an_unknown_name_is_told_with_place_and_choices() -> None:
    error = unknown("key", "epoch", ["lr", "epochs"], "file.toml: [train]")
    assert str(error) == "file.toml: [train]: unknown key 'epoch'. Did you mean 'epochs'? Known: epochs, lr"
    assert str(unknown("key", "a", [])) == "unknown key 'a'. Known: none"
    error = unknown("class", "oak", ["oak, red", "ash"])
    assert str(error) == "unknown class 'oak'. Did you mean 'oak, red'? Known: ash, \"oak, red\""
    many = str(unknown("class", "z", [f"c{i:03d}" for i in range(100)]))
    assert many.endswith("c039, ...")


def test_exit_codes_tell_asking_from_failing() -> None:
    assert (MlbenchError.exit_code, UsageError.exit_code, DataError.exit_code) == (1, 2, 1)
    assert issubclass(UsageError, MlbenchError)
    assert issubclass(DataError, MlbenchError)


# --- the command line -------------------------------------------------------------------------------------------------


@pytest.fixture
def good(photos: Path, tmp_path: Path) -> dict[str, Any]:
    """Options of a run that works."""
    return {
        "--protocol": "single_positive",
        "--method": "llr",
        "--dataset": photos / "mine.toml",
        "--data-root": photos,
        "--backbone": "scenes",
        "--track": "full",
        "--store": tmp_path / "runs",
        "--device": "cpu",
        "--epochs": 1,
        "--set": "train.image_size=32",
    }


def words(options: dict[str, Any]) -> list[Any]:
    return [word for option in options.items() if option[1] is not None for word in option]


@pytest.fixture
def refused(mlbench, good, tmp_path: Path):
    """Return a function that runs with some options changed (None: left out); the one line of the error."""

    def refused(code: int, changes: dict[str, Any], *more: Any) -> str:
        found, out, err = mlbench("run", "--quiet", *words({**good, **changes}), *more)
        assert found == code, err
        assert out == ""
        assert err.startswith("error: ")
        assert err.count("\n") == 1
        assert "Traceback" not in err
        assert not list(tmp_path.rglob("record.json"))
        assert not list(tmp_path.rglob("*.tmp"))
        return err.removeprefix("error: ").strip()

    return refused


WRONG_NAMES = {
    "method": ({"--method": "lrr"}, "unknown method 'lrr'. Did you mean 'llr'?"),
    "protocol": ({"--protocol": "single-positive"}, "unknown protocol 'single-positive'. Did you mean 'single_pos"),
    "protocol file": ({"--protocol": "nothing.toml"}, "no protocol file 'nothing.toml'"),
    "data set": ({"--dataset": "corel5k199"}, "unknown data set 'corel5k199'. Did you mean 'corel5k-199'?"),
    "data root": ({"--dataset": "corel5k-199", "--data-root": None}, "pass --data-root FOLDER"),
    "backbone": ({"--backbone": "resnet5"}, "unknown backbone 'resnet5'. Did you mean 'resnet50'?"),
    "track": ({"--track": "heads"}, "--track: unknown track 'heads'. Did you mean 'head'?"),
    "device": ({"--device": "gpu"}, "--device gpu: expected auto, cpu or cuda"),
    "precision": ({"--precision": "fp16"}, "--precision fp16: expected fp32 or bf16"),
    "hyperparameter": ({"--set": "detla=1"}, "method 'llr' has no hyperparameter 'detla'. Did you mean 'delta'?"),
    "hyperparameter's type": ({"--set": "delta=much"}, "hyperparameter delta = 'much': expected"),
    "hyperparameter's range": ({"--set": "delta=101"}, "hyperparameter delta = 101.0: expected 0.0 to 100.0"),
    "bare training setting": ({"--set": "lr=1"}, "training settings are train.KEY"),
    "training setting": ({"--set": "train.lrr=1"}, "unknown key 'lrr'. Did you mean 'lr'?"),
    "training setting's type": ({"--set": "train.lr=fast"}, "lr = 'fast': expected a number"),
    "training setting's range": ({"--set": "train.batch_size=0"}, "batch_size = 0: expected at least 1"),
    "training setting's choice": ({"--set": "train.optimizer=adm"}, "Did you mean 'adam'?"),
    "assignment": ({"--set": "delta"}, "--set delta: expected key=value"),
    "share": ({"--set": "annotation.keep=0.5"}, "--set annotation.keep: protocol 'single_positive' does not hide"),
    "epochs": ({"--epochs": 0}, "epochs = 0: expected at least 1"),
    "seed": ({"--seed": -1}, "--seed -1"),
    "weights kind": ({"--weights": "weights.txt"}, "weights.txt: expected a weights file with the ending .safetensors"),
    "track without weights": ({"--track": "head"}, "track 'head' trains on features of a pretrained backbone"),
}


@pytest.mark.parametrize("case", WRONG_NAMES)
def test_what_does_not_exist_is_one_line_and_exit_code_2(refused, case: str, tmp_path: Path) -> None:
    changes, message = WRONG_NAMES[case]
    assert message in refused(2, changes)
    assert not (tmp_path / "runs").exists()


MISSING = {
    "data root": ({"--data-root": "no/such/folder"}, "no/such/folder"),
    "description": ({"--dataset": "no/such.toml"}, "no/such.toml: no such description"),
    "weights file": ({"--weights": "no/such.safetensors"}, "no/such.safetensors: no such weights file"),
}


@pytest.mark.parametrize("case", MISSING)
def test_what_is_not_there_is_one_line_and_exit_code_1(refused, case: str) -> None:
    changes, message = MISSING[case]
    assert message in refused(1, changes)


def test_a_share_out_of_range_is_named(refused) -> None:
    message = refused(2, {"--protocol": "partial", "--set": "annotation.keep=50"})
    assert "'keep' is 50, expected a fraction from 0 to 1" in message


def test_an_assignment_given_twice_is_refused(refused) -> None:
    assert "--set delta: given twice" in refused(2, {"--set": "delta=1"}, "--set", "delta=2")


def test_a_broken_weights_file_is_named(refused, tmp_path: Path) -> None:
    (tmp_path / "w.safetensors").write_bytes(b"not tensors")
    assert "w.safetensors: cannot be read as a weights file" in refused(1, {"--weights": tmp_path / "w.safetensors"})


def test_a_broken_picture_is_named(refused, photos: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("MLBENCH_CACHE", str(tmp_path / "cache"))
    shutil.copytree(photos, tmp_path / "photos")
    (tmp_path / "photos" / "pictures" / "07.png").write_bytes(b"no picture at all")
    message = refused(1, {"--dataset": tmp_path / "photos" / "mine.toml", "--data-root": tmp_path / "photos"})
    assert "07.png: not an image" in message


def test_a_protocol_that_expects_another_copy_says_what_it_found(refused, tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text(
        'extends = "single_positive"\nname = "own"\n[datasets.mine]\nexpect = { classes = 4, test = 10 }\n'
    )
    message = refused(1, {"--protocol": tmp_path / "own.toml"})
    assert "data set 'mine' is not what protocol 'own' was defined on (classes: expected 4, found 3)" in message


def test_a_slip_in_a_protocol_file_names_the_file_and_the_key(refused, tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text('extends = "full"\nname = "own"\n[train]\nbatchsize = 3\n')
    assert "own.toml: [train]: unknown key 'batchsize'. Did you mean 'batch_size'?" in refused(
        2, {"--protocol": tmp_path / "own.toml"}
    )


def test_options_that_click_checks_end_with_2_too(mlbench) -> None:
    for arguments in (["run"], ["run", "--epochs", "two"], ["runs"], ["list", "things"], ["run", "--colour", "red"]):
        code, _, err = mlbench(*arguments)
        assert code == 2
        assert "Error: " in err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["score", "abc"], 2, "no run 'abc' in"),
        (
            ["show", "single_positiv"],
            2,
            "unknown method, protocol or run 'single_positiv'. Did you mean 'single_positive'?",
        ),
        (["explain", "cam", "abc"], 2, "no run 'abc' in"),
        (["table"], 2, "no finished run in"),
        (["check-method", "anx"], 2, "unknown method 'anx'. Did you mean 'an'?"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else None,
)
def test_the_other_commands_answer_alike(
    mlbench, tmp_path: Path, arguments: list[str], code: int, message: str
) -> None:
    (tmp_path / "runs").mkdir()
    given = [] if arguments[0] == "check-method" else ["--store", tmp_path / "runs"]
    found, out, err = mlbench(*arguments, *given)
    assert (found, out) == (code, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err


def test_a_store_that_is_not_there_is_named(mlbench, tmp_path: Path) -> None:
    for arguments in (["list", "runs"], ["table"], ["score", "a"], ["show", "a"]):
        code, _, err = mlbench(*arguments, "--store", tmp_path / "nothing")
        assert code == 1
        assert err == f"error: {tmp_path / 'nothing'}: cannot list runs: No such file or directory\n"


# --- an output folder that cannot be written, a full disk -------------------------------------------------------------


def test_an_output_folder_under_a_file_is_refused(refused, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    assert refused(1, {"--store": tmp_path / "file" / "x"}) == f"cannot write in {tmp_path}/file/x: Not a directory"
    assert (tmp_path / "file").read_text() == "mine"


def test_a_read_only_output_folder_is_refused(refused, tmp_path: Path, monkeypatch) -> None:
    """As root no mode bit binds, so the system's answer is put in its place."""
    real = Path.mkdir

    def mkdir(self: Path, *given: Any, **more: Any) -> None:
        if str(self).startswith(str(tmp_path / "runs")):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(self))
        real(self, *given, **more)

    monkeypatch.setattr(Path, "mkdir", mkdir)
    assert refused(1, {}) == f"cannot write in {tmp_path}/runs: Read-only file system"


class Disk:
    """Stands for `os.fsync`: flushes `room` files, then there is no space left."""

    def __init__(self, room: int) -> None:
        self.room = room

    def __call__(self, handle: int) -> None:
        self.room -= 1
        if self.room < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_disk_that_fills_up_at_any_write_leaves_no_record_and_no_litter(train, tmp_path: Path, monkeypatch) -> None:
    writes = Disk(10**6)
    monkeypatch.setattr(os, "fsync", writes)
    whole = train(store=tmp_path / "whole", checkpoint_seconds=0.0)
    needed = 10**6 - writes.room
    assert needed > 20
    for room in [*range(0, needed - 1, 5), needed - 2]:  # the very last flush is that of the record's folder
        monkeypatch.setattr(os, "fsync", Disk(room))
        with pytest.raises(MlbenchError, match=r"cannot write .*: No space left on device$"):
            train(checkpoint_seconds=0.0)
        assert not list((tmp_path / "runs").rglob("record.json"))
        assert not list((tmp_path / "runs").rglob("*.tmp"))
    monkeypatch.undo()
    assert train(resume=True)["predictions"] == whole["predictions"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with 300 KiB, less than one run's files."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=300k", "none", str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        pytest.skip("no file system can be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True, timeout=10)


def test_a_really_full_disk_is_one_line_and_leaves_no_half_record(refused, small_disk: Path) -> None:
    message = refused(1, {"--store": small_disk})
    assert "No space left on device" in message
    assert str(small_disk) in message
    assert not list(small_disk.rglob("record.json"))
    assert not list(small_disk.rglob(".*.tmp"))


def test_a_system_error_nobody_foresaw_is_still_one_line(mlbench, monkeypatch) -> None:
    def fails(*given: Any) -> str:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), "somewhere/file")

    monkeypatch.setattr("mlbench.cli.listing.list_items", fails)
    assert mlbench("list", "methods") == (1, "", "error: somewhere/file: Permission denied\n")


def test_an_interrupt_ends_quietly(mlbench, monkeypatch) -> None:
    def interrupted(*given: Any) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr("mlbench.cli.listing.list_items", interrupted)
    assert mlbench("list", "methods") == (1, "", "\nstopped\n")  # click ends the line of the ^C


def test_a_closed_pipe_is_no_error_message() -> None:
    """As in ``mlbench list datasets | head -1``."""
    command = [sys.executable, "-m", "mlbench", "list", "datasets"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == ""
    assert process.wait(60) == 1


def test_a_fault_of_the_program_is_not_dressed_up(mlbench, monkeypatch) -> None:
    monkeypatch.setattr("mlbench.cli.listing.list_items", lambda *given: int("x"))
    with pytest.raises(ValueError, match="invalid literal"):
        mlbench("list", "methods")
