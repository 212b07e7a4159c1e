"""The command line from end to end, on a small folder of pictures with a description of one's own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import mlbench
from mlbench.store import find_records
from mlbench.store.schema import refit

HELP = """
import sys, time
started = time.perf_counter()
sys.argv = ["mlbench", *sys.argv[1:]]
from mlbench.cli.main import main
try:
    main()
finally:
    print("torch" in sys.modules, "pandas" in sys.modules, time.perf_counter() - started)
"""


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["run", "--help"], ["--version"]])
def test_help_is_quick_and_loads_no_torch(arguments: list[str]) -> None:
    command = [sys.executable, "-c", HELP, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    *_, torch, pandas, seconds = done.stdout.split()
    assert (torch, pandas) == ("False", "False")
    assert float(seconds) < 1.0


def test_the_installed_command_and_the_module_are_the_same() -> None:
    for command in ([str(Path(sys.executable).with_name("mlbench"))], [sys.executable, "-m", "mlbench"]):
        done = subprocess.run([*command, "--version"], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        assert mlbench.__version__ in done.stdout


def test_every_command_is_in_the_help(mlbench) -> None:
    code, out, _ = mlbench("--help")
    assert code == 0
    for name in ("run", "score", "table", "list", "show", "check-method", "explain"):
        assert f"  {name} " in out


# --- run, and what can be done with a finished run --------------------------------------------------------------------


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


def settings(photos: Path, store: Path) -> list[object]:
    """A short run on the pictures."""
    return [
        *("--protocol", "single_positive", "--dataset", photos / "mine.toml", "--data-root", photos),
        *("--backbone", "scenes", "--track", "full", "--store", store, "--device", "cpu"),
        *("--epochs", 2, "--set", "train.image_size=32", "--set", "train.batch_size=8", "--set", "train.lr=0.01"),
    ]


@pytest.fixture
def key(mlbench, photos: Path, store: Path) -> str:
    """The key of an `an` run in the store; only the first test that asks for it trains."""
    code, _, err = mlbench("run", "--method", "an", *settings(photos, store))
    assert code == 0, err
    (record,), _ = find_records(store, method="an")
    return str(record["key"])


def test_a_run_says_how_it_goes_and_where_its_record_is(mlbench, photos: Path, tmp_path: Path) -> None:
    code, out, err = mlbench("run", "--method", "llr", "--set", "delta=5", *settings(photos, tmp_path))
    assert (code, out) == (0, "")
    (record,), _ = find_records(tmp_path)
    assert record["identity"]["method"]["hyperparameters"]["delta"] == 5.0
    assert record["identity"]["train"]["image_size"] == 32
    assert record["identity"]["dataset"]["id"] == "mine"
    assert record["provenance"]["command"].startswith("mlbench run --method llr")
    assert str(photos) not in json.dumps(record)
    assert "llr on mine (single_positive, full, seed 0) train 2/2: loss" in err
    assert f"record {tmp_path / record['key'][:16] / 'record.json'}" in err


def test_quiet_is_quiet(mlbench, photos: Path, tmp_path: Path) -> None:
    assert mlbench("run", "--method", "prior", "--quiet", *settings(photos, tmp_path)) == (0, "", "")


def test_a_finished_run_is_reported_and_again_repeats_it(mlbench, photos: Path, store: Path, key: str) -> None:
    code, _, err = mlbench("run", "--method", "an", *settings(photos, store))
    assert code == 0
    assert "already in the store" in err
    (before,), _ = find_records(store, method="an")
    code, _, err = mlbench("run", "--method", "an", "--again", *settings(photos, store))
    assert code == 0
    assert "train 2/2" in err
    (after,), _ = find_records(store, method="an")
    assert after["predictions"] == before["predictions"]


def test_score_computes_the_numbers_again(mlbench, photos: Path, store: Path, key: str) -> None:
    given = ("--store", store, "--dataset", photos / "mine.toml")
    code, out, _ = mlbench("score", key[:12], *given)
    assert code == 0
    (record,), _ = find_records(store, method="an")
    assert f"an on mine (single_positive), run {key[:16]}, percent" in out
    shown = {line.split()[0]: line.split()[1] for line in out.splitlines()[1:]}
    assert shown["mAP"] == f"{record['results']['test']['mAP']:.4f}"
    assert shown.keys() == record["results"]["test"].keys()


def test_score_under_another_protocol_compares_nothing(mlbench, photos: Path, store: Path, key: str, tmp_path) -> None:
    (tmp_path / "eleven.toml").write_text(
        'extends = "single_positive"\nname = "eleven"\n[metrics]\nap = "eleven_point"\n'
    )
    given = ("--store", store, "--dataset", photos / "mine.toml", "--protocol", tmp_path / "eleven.toml")
    code, out, _ = mlbench("score", key[:12], *given)
    assert code == 0
    assert "(eleven)" in out
    shown = {line.split()[0]: line.split()[1] for line in out.splitlines()[1:]}
    assert shown["mAP"] == shown["mAP_11point"]


def test_a_data_set_outside_the_catalogue_must_be_named_again(mlbench, store: Path, key: str) -> None:
    for command in (("score", key[:12]), ("explain", "cam", key[:12])):
        code, _, err = mlbench(*command, "--store", store)
        assert code == 2
        assert "its data set 'mine' is not in the catalogue" in err
        assert "--dataset FILE.toml" in err


def test_a_record_that_was_edited_is_found_out(mlbench, photos: Path, store: Path, key: str, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(store, copy)
    path = copy / key[:16] / "record.json"
    record = json.loads(path.read_text())
    record["results"]["test"]["mAP"] += 1.0
    path.write_text(json.dumps(record))
    asked = "score", key[:12], "--store", copy, "--dataset", photos / "mine.toml"
    code, _, err = mlbench(*asked)
    assert (code, err.count("\n")) == (1, 1)
    assert "record.json: changed after it was written" in err
    path.write_text(json.dumps(refit(record)))  # by somebody who knows how
    code, out, err = mlbench(*asked)
    assert code == 1
    assert "record says" in out
    assert "error: 1 numbers differ from the record" in err
    (copy / key[:16] / "test.safetensors").write_bytes(b"x")
    code, _, err = mlbench("score", key[:12], "--store", copy, "--dataset", photos / "mine.toml")
    assert code == 1
    assert "test.safetensors: its SHA-256 is" in err


def test_other_pictures_under_the_same_name_are_refused(mlbench, photos: Path, store: Path, key: str, tmp_path) -> None:
    import shutil

    shutil.copytree(photos, tmp_path / "photos")
    labels = tmp_path / "photos" / "labels.csv"
    labels.write_text(labels.read_text().replace("33.png,test,", "33.png,test,red|green|blue|"))
    given = ("--store", store, "--dataset", tmp_path / "photos" / "mine.toml")
    code, _, err = mlbench("score", key[:12], *given)
    assert code == 1
    assert "is not the one the run was scored on" in err
    code, _, err = mlbench("explain", "cam", key[:12], *given)
    assert code == 1
    assert "cannot be brought back here: dataset" in err


def test_list_shows_runs_methods_protocols_and_data_sets(mlbench, store: Path, key: str) -> None:
    code, out, _ = mlbench("list", "runs", "--store", store)
    assert code == 0
    assert [line.split()[:3] for line in out.splitlines()[2:]] == [[key[:16], "an", "mine"]]
    names = [line.split()[0] for line in mlbench("list", "methods")[1].splitlines()[2:]]
    assert {"an", "full", "llr"} <= set(names)
    assert "single_positive" in mlbench("list", "protocols")[1]
    assert "corel5k-199" in mlbench("list", "datasets")[1]


def test_show_tells_of_a_run_and_of_a_protocol(mlbench, store: Path, key: str, tmp_path: Path) -> None:
    code, out, _ = mlbench("show", key[:8], "--store", store)
    assert code == 0
    assert out.startswith(f"run {key}\nan on mine under single_positive, track full, seed 0")
    for part in ("identity:", "training:", "  lr = 0.01", "test, percent:", "provenance:", "val mAP"):
        assert part in out
    code, out, _ = mlbench("show", "single_positive")
    assert code == 0
    assert "process = single_positive" in out
    assert "not verified:" in out
    (tmp_path / "own.toml").write_text('extends = "full"\nname = "own"\ntitle = "My own"\n')
    assert mlbench("show", tmp_path / "own.toml")[1].startswith("own: My own")


def test_table_prints_the_store_in_three_formats(mlbench, photos: Path, store: Path, key: str) -> None:
    (record,), _ = find_records(store, method="an")
    value = f"{record['results']['test']['mAP']:.1f}"
    code, out, _ = mlbench("table", "--store", store)
    assert code == 0
    assert "mine" in out.splitlines()[0]
    assert value in out
    code, latex, _ = mlbench("table", "--store", store, "--format", "latex", "--document")
    assert code == 0
    assert latex.count("\\begin{document}") == latex.count("\\end{document}") == 1
    assert value in latex
    code, csv, _ = mlbench("table", "--store", store, "--format", "csv", "--no-published", "--methods", "an")
    assert code == 0
    header, row, *_ = (line.split(",") for line in csv.splitlines())
    assert float(row[header.index("mean")]) == pytest.approx(record["results"]["test"]["mAP"])


def test_class_activation_maps_become_a_picture(mlbench, photos: Path, store: Path, key: str, tmp_path: Path) -> None:
    picture = tmp_path / "deep" / "cams.png"
    given = ("--store", store, "--dataset", photos / "mine.toml", "--picture", picture, "--images", 2)
    code, out, err = mlbench("explain", "cam", key[:12], *given)
    assert code == 0, err
    assert out.strip() == f"wrote {picture}"
    with Image.open(picture) as image:
        assert image.width == 2 * 168 + 8
        assert np.asarray(image).std() > 10
    code, _, err = mlbench("explain", "cam", key[:12], *given[:-1], 0)
    assert code == 2
    assert "--images 0: expected at least 1" in err


def test_maps_of_a_head_trained_on_a_weights_file_need_that_file_again(mlbench, photos: Path, tmp_path: Path) -> None:
    import torch

    from mlbench.models.backbones import build_backbone
    from mlbench.runner.checkpoint import save_tensors

    torch.manual_seed(0)
    save_tensors(tmp_path / "w.safetensors", build_backbone("scenes").state_dict(), {})
    given = settings(photos, tmp_path / "runs")
    given[given.index("full")] = "head"
    code, _, err = mlbench("run", "--method", "an", "--quiet", "--weights", tmp_path / "w.safetensors", *given)
    assert code == 0, err
    cams = ("explain", "cam", "--store", tmp_path / "runs", "--dataset", photos / "mine.toml")
    code, _, err = mlbench(*cams, "--picture", tmp_path / "c.png")
    assert code != 0
    assert err.startswith("error: ")
    code, _, err = mlbench(*cams, "--picture", tmp_path / "c.png", "--weights", tmp_path / "w.safetensors")
    assert code == 0, err


def test_check_method_reports_each_check(mlbench, monkeypatch) -> None:
    from mlbench.conformance import suite as conformance

    real = conformance.check_method
    monkeypatch.setattr(conformance, "check_method", lambda name: real(name, processes=False))
    code, out, _ = mlbench("check-method", "prior")
    assert code == 0
    assert out.startswith("prior: conforms")
    monkeypatch.setattr(
        conformance, "check_method", lambda name: conformance.Report(name, [("full", "something", "FAILED", "why")])
    )
    code, out, err = mlbench("check-method", "prior")
    assert code == 1
    assert "something" in out
    assert err == "error: method 'prior' does not conform\n"
