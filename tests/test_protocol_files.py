"""The shipped protocols: their identity stays, their counts are the facts', and what is unverified is shown."""

from __future__ import annotations

from importlib.resources import files

import pytest

from mlbench.cli.listing import show
from mlbench.datasets import list_datasets, nuswide, nuswide_spml
from mlbench.protocol import PROTOCOLS as REGISTERED
from mlbench.protocol import list_protocols, load_protocol
from mlbench.store.papers import PROTOCOLS, load_published

#: A run's key holds its protocol's hash: a change here would orphan every record made under that protocol.
FROZEN = {
    "full": "6edd0b83433db5b3f30bc6078ed8a91c9c593f693cd086f073a973b5cec5d54a",
    "partial": "17f1c7afd1f6fe949d98f572bd7fae459351add2094adbb176907270955aec77",
    "partial_exact": "0559a17a1beb1bb6a597cf795f50e2c8125bf21b337068cbd1a5872ebb3e8710",
    "single_positive": "2c7ceab9d75ef2077e4f96ce8310082dcfadfdf0405a73846e5891b4c9681f92",
    "single_positive_spml": "ff2f4ab81b85352091e71fbbf7bdc107d2494fee5be019927c2946c6e3f960ce",
}

#: Images of the official training and test parts (partial-label facts 4.1; attention facts 5.1 to 5.3).
OFFICIAL = {
    ("single_positive", "voc2012"): (20, 5717, 5823),
    ("single_positive", "voc2007"): (20, 5011, 4952),
    ("single_positive", "coco2014"): (80, 82081, 40137),
    ("single_positive", "nuswide-spml"): (81, 150000, 60260),
    ("single_positive", "cub"): (312, 5994, 5794),
    ("wider_attribute", "wider"): (14, 28345, 57524 - 28345),
    ("coco_vac", "coco2014-all"): (80, 82783, 40504),
    ("coco_kdwsd", "coco2014-all"): (80, 82783, 40504),
    ("nuswide_kdwsd", "nuswide-random150k"): (81, 150000, 209347 - 150000),
}


def test_every_file_is_registered() -> None:
    there = {path.name for path in files("mlbench.protocols").iterdir() if path.name.endswith(".toml")}
    assert there == {f"{name}.toml" for name in REGISTERED}


@pytest.mark.parametrize("name", FROZEN)
def test_the_identity_of_the_first_protocols_stays(name: str) -> None:
    assert load_protocol(name).sha256 == FROZEN[name]


@pytest.mark.parametrize(
    ("dataset", "track", "expected"),
    [
        ("scenes", "full", (16, 32, 3e-3, 64)),
        ("corel5k-199", "head", (25, 64, 1e-3, 192)),
        ("voc2012", "full", (10, 16, 1e-5, 448)),
        ("coco2014", "full", (10, 16, 1e-5, 448)),
        ("nuswide-spml", "full", (10, 16, 1e-5, 448)),
        ("cub", "full", (10, 16, 1e-5, 448)),
    ],
)
@pytest.mark.parametrize("name", [*FROZEN, "partial_per_class", "partial_fraction"])
def test_settings_of_the_single_positive_family_are_boostlus_and_ours(name, dataset, track, expected) -> None:
    train = load_protocol(name).train_settings(dataset, track, {})
    assert (train.epochs, train.batch_size, train.lr, train.image_size) == expected
    if (dataset, track) != ("scenes", "full"):
        assert (train.optimizer, train.schedule, train.weight_decay) == ("adam", "constant", 0)


@pytest.mark.parametrize("name", list_protocols())
def test_every_protocol_carries_its_source_and_definitions(name: str) -> None:
    protocol = load_protocol(name)
    assert protocol.source
    assert protocol.description
    assert protocol.table.metrics
    assert set(protocol.table.datasets) <= set(protocol.datasets)
    assert all(rules.source for dataset, rules in protocol.datasets.items() if dataset in protocol.table.datasets) or (
        name == "groups"  # on our own data
    )


@pytest.mark.parametrize("name", list_protocols())
def test_what_is_unverified_is_shown(name: str) -> None:
    protocol, text = load_protocol(name), show(name)
    for line in protocol.unverified:
        assert f"  - {line}" in text
    for dataset, rules in protocol.datasets.items():
        for line in rules.unverified:
            assert f"  - {dataset}: {line}" in text
    if name in PROTOCOLS:
        assert "not verified:" in text


@pytest.mark.parametrize(("name", "dataset"), OFFICIAL)
def test_counts_add_up_to_the_official_parts(name: str, dataset: str) -> None:
    classes, train, test = OFFICIAL[name, dataset]
    protocol = load_protocol(name)
    expect = protocol.datasets[dataset].expect
    assert (expect["classes"], expect["test"]) == (classes, test)
    if protocol.split.validation == "none":
        assert (expect["train"], "val" in expect) == (train, False)
    else:
        held = round(0.2 * train)
        assert (expect["train"], expect["val"]) == (train - held, held)


def test_nuswide_counts_are_those_the_adapters_demand() -> None:
    expect = load_protocol("single_positive").datasets["nuswide-spml"].expect
    assert (expect["train"] + expect["val"], expect["test"]) == tuple(nuswide_spml.SIZES.values())
    expect = load_protocol("nuswide_kdwsd").datasets["nuswide-random150k"].expect
    assert {"train": expect["train"], "test": expect["test"]} == nuswide.SIZES["random150k"]


@pytest.mark.parametrize("name", list_protocols())
def test_every_data_set_of_a_protocol_is_in_the_catalogue(name: str) -> None:
    assert set(load_protocol(name).datasets) <= list_datasets().keys()


def test_every_published_table_has_its_protocol() -> None:
    assert set(PROTOCOLS) <= set(list_protocols())


@pytest.mark.parametrize("name", sorted(set(PROTOCOLS) - {"single_positive"}))
def test_a_protocols_layout_has_a_column_for_each_printed_metric(name: str) -> None:
    papers, shown = load_published(), load_protocol(name).table.metrics
    for group, metric in set(
        papers[papers["protocol"] == name][["group", "metric"]].itertuples(index=False, name=None)
    ):
        ours = {"all": metric, "All": metric, "top3": f"top3_thresholded/{metric}"}.get(group, f"{metric}_{group}")
        assert ours in shown or f"{ours}_mean" in shown, ours


def test_recipes_of_visual_attention_consistency_are_those_of_its_code() -> None:
    fields = ("epochs", "batch_size", "lr", "image_size", "optimizer", "momentum", "weight_decay", "step_every")
    shared = {"lr": 1e-3, "optimizer": "sgd", "momentum": 0.9, "weight_decay": 5e-4}
    for name, dataset, own in (
        ("wider_attribute", "wider", {"epochs": 12, "batch_size": 16, "image_size": 224, "step_every": 3}),
        ("coco_vac", "coco2014-all", {"epochs": 14, "batch_size": 24, "image_size": 288, "step_every": 6}),
    ):
        protocol = load_protocol(name)
        train = protocol.train_settings(dataset, "full", {})
        assert {field: getattr(train, field) for field in fields} == {**shared, **own}
        assert (train.schedule, train.step_factor) == ("step", 0.5 if name == "wider_attribute" else 0.1)
        assert (train.augment, dict(train.lr_multipliers), protocol.selection) == ((), {}, "last")
    rule = load_protocol("wider_attribute").unspecified_for("wider")
    assert (rule.train, rule.ap, rule.f1) == ("negative", "ignore", "negative")
    assert len(load_protocol("wider_attribute").table.metrics) == 8


def test_openimages_groups_have_the_settings_and_rules_of_the_facts() -> None:
    protocol = load_protocol("openimages_groups")
    train = protocol.train_settings("openimages-v3", "full", {})
    assert (train.image_size, train.batch_size, train.epochs, train.lr) == (224, 288, 20, 2e-5)
    rules = protocol.metrics
    assert (rules.groups, rules.groups_by, rules.empty_class) == (5, "train_annotations", "zero_if_known")
    assert (protocol.split.validation, protocol.annotation.process) == ("official", "full")
    assert any("224 px" in line for line in protocol.unverified)


def test_the_four_published_partial_definitions_have_four_names() -> None:
    names = {name for name in list_protocols() if name.startswith("partial")}
    assert names == {"partial", "partial_exact", "partial_per_class", "partial_fraction"}
    assert all(load_protocol(name).annotation.process == name for name in names)
