"""Official settings kept as data: what is read for each data set, and that every table can be used."""

from __future__ import annotations

import tomllib
from importlib.resources import files

import pytest

from mlbench.protocol import list_protocols, load_protocol
from mlbench.registry import available, load_method
from mlbench.settings import TrainSettings

TABLES = {
    path.name: tomllib.loads(path.read_text(encoding="utf-8"))
    for path in files("mlbench.baselines").iterdir()
    if path.name.endswith(".toml")
}
ROWS = [(file, method, dataset) for file, table in TABLES.items() for method in table for dataset in table[method]]
PAPER_TABLES = {name: load_protocol(name).table.datasets for name in list_protocols()}
SETS = ("voc2012", "coco2014", "nuswide-spml", "cub")


def settings(
    method: str, dataset: str, track: str = "full", protocol: str = "single_positive"
) -> tuple[dict, TrainSettings]:
    """Hyperparameters and training settings of `method` as a run under `protocol` resolves them."""
    found = load_method(method).settings_for(dataset, track)
    train = {key.removeprefix("train."): value for key, value in found.items() if key.startswith("train.")}
    hyper = {key: value for key, value in found.items() if not key.startswith("train.")}
    return load_method(method).resolve(hyper), load_protocol(protocol).train_settings(dataset, track, train)


@pytest.mark.parametrize(("file", "method", "dataset"), ROWS)
def test_every_table_belongs_to_a_method_of_its_file_resolves_and_names_its_source(file, method, dataset):
    assert method in available()
    assert load_method(method).__module__ == f"mlbench.baselines.{file.removesuffix('.toml')}"
    table = TABLES[file][method][dataset]
    tracks = [table[track] for track in ("head", "full") if track in table]
    for part in (table, *tracks):
        assert "source" in part or not part.keys() - {"head", "full"}
    for protocol in ("single_positive", *(name for name, shown in PAPER_TABLES.items() if dataset in shown)):
        for track in load_method(method).tracks:
            settings(method, dataset, track, protocol)


@pytest.mark.parametrize(("file", "method", "dataset"), ROWS)
def test_a_recipe_for_the_whole_network_is_not_that_of_a_head_on_kept_features(file, method, dataset):
    """A rate made for a backbone leaves a new head untrained: such keys belong to one track or the other."""
    recipe = {f"train.{key}" for key in ("epochs", "batch_size", "lr", "lr_multipliers", "image_size")}
    if set(load_method(method).tracks) >= {"head", "full"}:
        assert not recipe & TABLES[file][method][dataset].keys()


@pytest.mark.parametrize(
    ("dataset", "epochs", "batch_size"),
    [("voc2012", 8, 8), ("coco2014", 8, 16), ("nuswide-spml", 10, 16), ("cub", 10, 8)],
)
def test_gr_and_gpr_have_the_recipe_of_their_configurations_on_the_full_track_alone(dataset, epochs, batch_size):
    for method in ("gr", "gpr"):
        hyper, train = settings(method, dataset)
        assert (train.epochs, train.batch_size, train.lr, train.lr_multipliers) == (
            epochs,
            batch_size,
            1e-5,
            {"head": 10},
        )
        head_hyper, head_train = settings(method, dataset, "head")
        assert head_hyper == hyper
        assert head_train == settings("an", dataset, "head")[1]


@pytest.mark.parametrize(
    ("method", "dataset", "track", "published"),
    [
        ("rmam", "coco2014-all", "full", ("adam", 1e-5, 0.0, 16, 45, 512)),
        ("rmam", "nuswide-random150k", "full", ("adam", 1e-5, 0.0, 16, 45, 512)),
        ("tag_neighbors", "nuswide-tagged", "head", ("rmsprop", 1e-4, 3e-5, 64, 10, None)),
    ],
)
def test_a_whole_published_recipe_is_the_same_under_every_protocol_of_a_paper_table(method, dataset, track, published):
    protocols = [name for name, shown in PAPER_TABLES.items() if dataset in shown]
    assert protocols or dataset == "nuswide-tagged"  # no table is of that version alone
    for protocol in {*protocols, "coco_vac", "coco_kdwsd", "nuswide_kdwsd", "single_positive"}:
        train = settings(method, dataset, track, protocol)[1]
        size = train.image_size if published[-1] else None
        found = (train.optimizer, train.lr, train.weight_decay, train.batch_size, train.epochs, size)
        assert found == published
        assert (train.schedule, train.lr_multipliers) == ("constant", {})


@pytest.mark.parametrize(
    ("dataset", "batch_size", "lr", "alpha", "theta", "warmup", "beta"),
    [
        ("voc2012", 8, 1e-5, 0.2, 0.9, 5, 0.02),
        ("coco2014", 16, 1e-5, 0.1, 0.9, 5, 0.9),
        ("nuswide-spml", 16, 1e-5, 0.1, 0.9, 4, 0.2),
        ("cub", 8, 1e-4, 0.01, 0.9, 3, 0.4),
    ],
)
def test_entropy_methods_have_the_settings_of_their_released_code(dataset, batch_size, lr, alpha, theta, warmup, beta):
    for method in ("em", "em_apl", "em_boostlu", "em_apl_boostlu"):
        hyper, train = settings(method, dataset)
        assert (train.epochs, train.batch_size, train.lr, train.optimizer) == (10, batch_size, lr, "adam")
        assert train.lr_multipliers == {}
        assert hyper["alpha"] == alpha
        if "apl" in method:
            assert (hyper["theta"], hyper["warmup"], hyper["beta"]) == (theta, warmup, beta)


def test_large_loss_methods_have_one_setting_for_all_data_sets():
    for dataset in SETS:
        for method, delta in (("llr", 0.5), ("llct", 0.2), ("llcp", 0.1)):
            for name in (method, f"{method}_boostlu"):
                hyper, train = settings(name, dataset)
                assert hyper["delta"] == delta
                assert (train.epochs, train.batch_size, train.lr, train.lr_multipliers) == (10, 16, 1e-5, {"head": 10})


@pytest.mark.parametrize(("dataset", "count"), list(zip(SETS, (1.5, 2.9, 1.9, 31.4), strict=True)))
def test_estimation_methods_have_the_published_counts_and_the_rate_of_the_estimates(dataset, count):
    assert settings("epr", dataset)[0]["expected_positives"] == count
    for method in ("role", "role_li"):
        hyper, train = settings(method, dataset)
        assert hyper["expected_positives"] == count
        assert train.lr_multipliers == {"estimates": 10}
    assert hyper["linear_batch_size"] == (8 if dataset == "cub" else 16)
    assert (hyper["linear_epochs"], hyper["linear_lr"]) == (25, 1e-3)


@pytest.mark.parametrize(
    ("method", "dataset"), [("p_asl", "coco2014"), ("curriculum", "voc2007"), ("em", "voc2012"), ("wbce", "coco2014")]
)
def test_where_the_source_has_one_rate_the_head_has_no_other(method, dataset):
    assert settings(method, dataset)[1].lr_multipliers == {}


@pytest.mark.parametrize(
    ("dataset", "least"),
    [("coco2014", 0), ("coco2014-all", 0), ("nuswide-official", 3), ("nuswide-random150k", 3)],
)
def test_label_sequences_have_their_settings_on_every_version_that_a_table_uses(dataset, least):
    hyper, train = settings("cnn_rnn", dataset)
    assert hyper["min_length"] == least
    # No momentum is published, which the harness would add.
    assert (train.optimizer, train.momentum) == ("rmsprop", 0.0)


@pytest.mark.parametrize(
    ("dataset", "alphas", "c", "threshold"),
    [("openimages-v3", (1.0, 0.5), 2.0, 1e-3), ("coco2014", (0.5, 0.25), 1.0, 1e-20), ("cub", (2.0, 0.5), 2.0, 1e-6)],
)
def test_interactive_learning_has_the_settings_of_its_scripts(dataset, alphas, c, threshold):
    hyper = settings("imcl", dataset)[0]
    assert (hyper["alpha_labels"], hyper["alpha_features"]) == alphas
    assert (hyper["c"], hyper["threshold"], hyper["atoms"]) == (c, threshold, 3)


def test_full_and_assume_negative_share_the_recipe_of_the_large_loss_methods():
    for dataset in SETS:
        shared = settings("llr", dataset)[1]
        assert all(settings(method, dataset)[1] == shared for method in ("full", "an", "ls", "asl"))
        assert settings("ls", dataset)[0]["smoothing"] == 0.1
        assert [settings("asl", dataset)[0][key] for key in ("gamma_neg", "gamma_pos", "margin")] == [4.0, 1.0, 0.05]


@pytest.mark.parametrize("method", ["asl", "ls", "role", "role_li"])
def test_what_is_not_published_is_marked(method):
    tables = next(table[method] for table in TABLES.values() if method in table)
    for dataset in SETS:
        sources = [tables[dataset]["source"], tables[dataset].get("full", {}).get("source", "")]
        assert any("unverified" in source for source in sources)
