"""The card of a method: its paper, what is faithful, what is substituted, settings with sources, scores and cost."""

from __future__ import annotations

import json
import re
import statistics
from pathlib import Path

import pytest

from mlbench.baselines.encoders import ENCODER
from mlbench.registry import load_method
from mlbench.report.method_card import method_card
from mlbench.runner.side import PROPOSAL_HYPERPARAMETERS

RUNS = Path(__file__).parents[2] / "results" / "runs"
SEQUENCES = ("cnn_rnn", "srel_rnn", "pla", "mcg_cnn_lstm", "rlsd")
SYSTEMS = (
    *("warp", "lsep", *SEQUENCES, "rmam", "rarlf"),
    *("miml_fcn", "miml_fcn_bb", "tag_neighbors", "kcca"),
)
#: Words by which a setting says where its value comes from.
ORIGIN = re.compile(r"\b(ours|ports?|code|published|recalled)\b")


@pytest.mark.parametrize("method", SYSTEMS)
def test_a_card_says_what_the_paper_is_what_is_faithful_substituted_and_what_an_image_costs(method: str) -> None:
    card = method_card(method)
    for label in ("Faithful", "Substituted", "Cost", "Source"):
        assert card.section(label).endswith("."), label
    assert " et al." in card.section("Source") or " and " in card.section("Source")
    assert "an image takes" in card.section("Cost")
    assert load_method(method).__doc__.splitlines()[0] == card.docstring[0]  # a title of one line, as lists show it


@pytest.mark.parametrize("method", SYSTEMS)
def test_a_card_says_what_map_ranks_where_that_is_not_the_logits_of_a_classifier(method: str) -> None:
    natural = load_method(method).scores == "logit" and method not in SEQUENCES
    assert bool(method_card(method).section("Scores")) != natural


@pytest.mark.parametrize("method", SYSTEMS)
def test_an_approximation_is_called_one_in_its_title(method: str) -> None:
    card = method_card(method)
    assert ("approximation" in card.docstring[0]) == (load_method(method).level == "C")


@pytest.mark.parametrize("method", SYSTEMS)
def test_every_setting_of_a_card_says_where_it_comes_from(method: str) -> None:
    card = method_card(method)
    shared = ENCODER.keys() | PROPOSAL_HYPERPARAMETERS.keys()
    unsaid = [name for name, _, about in card.hyperparameters if name not in shared and not ORIGIN.search(about)]
    assert not unsaid
    assert all(source for _, _, source in card.settings)


def test_show_prints_the_card_of_a_method(mlbench) -> None:
    code, out, _ = mlbench("show", "rmam")
    assert code == 0
    assert out.startswith("rmam: Recurrently attended regions")
    for part in (
        "\n\nFaithful: ",
        "\n\nSubstituted: ",
        "\n\nScores: ",
        "\n\nCost: ",
        "\n\nSource: Wang et al., ICCV 2017",
    ):
        assert part in out
    assert "level: B, reimplemented (A faithful;" in out
    assert "  hidden = 256  # width of the layers and units of the LSTM (port: 4096)" in out
    assert "  on scenes, track full: encoder = bce\n    source: ours: " in out
    assert "frozen_cnn = true, train.image_size = 512" in out


def test_show_tells_what_runs_of_a_method_took(mlbench) -> None:
    took = ""
    for dataset in ("scenes", "scenes-2"):
        records = [json.loads(path.read_bytes()) for path in RUNS.glob(f"role_li__{dataset}__*.json")]
        mean = statistics.mean(record["provenance"]["seconds"] for record in records)
        took += f"  on {dataset} under single_positive, track full: {len(records)}, {mean:.0f} s each\n"
    out = mlbench("show", "role_li", "--store", RUNS)[1]
    assert out.endswith(f"runs in {RUNS}:\n{took}")


def test_a_method_and_a_protocol_of_one_name_are_both_shown(mlbench) -> None:
    code, out, _ = mlbench("show", "full")
    assert code == 0
    assert out.startswith("full: Binary cross-entropy on the full labels")
    assert "\nfull: Full labels\n" in out


def test_the_settings_of_a_card_are_those_that_a_run_gets() -> None:
    (where, what, _) = method_card("kcca").settings[0]
    assert (where, what) == ("scenes, track full", "encoder = bce")
    assert load_method("kcca").settings_for("scenes", "full") == {"encoder": "bce"}
    assert load_method("kcca").settings_for("scenes", "head") == {}
    assert load_method("prior").kept_settings() == []


def test_what_is_not_registered_has_no_card() -> None:
    assert method_card("my_method").docstring == ("Not registered here.",)
