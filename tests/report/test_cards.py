"""Claims written down before their runs, and the verdicts on them."""

from __future__ import annotations

import dataclasses
import re
import tomllib
from pathlib import Path

import numpy as np
import pytest

from mlbench.errors import DataError, UsageError
from mlbench.registry import load_method
from mlbench.report.cards import Claim, cards_text, judge, load_card, order_agreement, published_gains, verdict_of
from mlbench.settings import to_plain
from mlbench.significance.crossed import Interval, interval
from mlbench.significance.power import draws_needed


@pytest.fixture
def card():
    """The shipped card, with two methods on `scenes` alone."""
    shipped = load_card("boostlu")
    claims = {"llr": Claim("an", "LL-R gains."), "em": Claim("an", "EM gains.", {"scenes": "of no use here"})}
    return dataclasses.replace(shipped, settings={"scenes": shipped.settings["scenes"]}, claims=claims)


@pytest.fixture
def runs(card, make_record):
    """Return a function: records of `method` for all pairs of seed and mask, with test mAP ``value(seed, mask)``."""
    from mlbench.protocol import load_protocol

    train = to_plain(load_protocol("single_positive").train_settings("scenes", "full", {}))

    def make(method: str, value) -> list[dict]:
        made = []
        for seed in card.seeds:
            for mask in card.masks:
                changes = {"identity.mask_seed": mask, "identity.train": train, "provenance": {"seconds": 10.0}}
                changes["identity.method.hyperparameters"] = load_method(method).resolve({})
                made.append(make_record(method, value(seed, mask), seed, **changes))
        return made

    return make


PAPERS = (
    "boostlu",
    "modern_losses",
    "modern_views",
    "modern_heads",
    "vision_language",
    "kd_wsd",
    "kd_wsd_systems",
    "vac",
)


@pytest.mark.parametrize("paper", PAPERS)
def test_every_claim_shipped_names_two_methods_and_a_published_gain_or_says_it_has_none(paper: str) -> None:
    card = load_card(paper)
    assert len({(method, claim.over) for method, claim in card.pairs}) == len(card.pairs)
    for method, claim in card.pairs:
        load_method(method), load_method(claim.over)
        gains = published_gains(card, method, claim.over)
        assert bool(gains) != ("ours: " in claim.statement or "not in the tables" in claim.statement), method


@pytest.mark.parametrize("paper", ["kd_wsd", "kd_wsd_systems", "vac"])
def test_the_gains_named_in_a_statement_are_the_published_ones(paper: str) -> None:
    card = load_card(paper)
    for method, claim in card.pairs:
        stated = sorted(float(number) for number in re.findall(r"[+-][0-9]+\.[0-9]", claim.statement))
        assert stated == pytest.approx(sorted(published_gains(card, method, claim.over).values())), method


@pytest.mark.parametrize("paper", PAPERS)
def test_claims_are_printed_without_any_record(paper: str, mlbench, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("MLBENCH_RUNS", str(tmp_path / "none"))  # without it the published records would be read
    code, out, _ = mlbench("cards", "--paper", paper)
    assert code == 0
    card = load_card(paper)
    assert out.startswith(f"# Claims of {card.paper}{f', {card.title}' if card.title else ''}: {card.table}")
    assert "no runs yet" in out


def test_what_was_printed_below_another_is_a_claim_that_the_other_gains() -> None:
    card = load_card("kd_wsd_systems")
    gains = {pair: published_gains(card, *pair) for pair in ((method, claim.over) for method, claim in card.pairs)}
    assert all(gain > 0 for found in gains.values() for gain in found.values())
    assert gains["bce", "rlsd"] == pytest.approx({"coco2014": 70.9 - 68.2, "nuswide": 55.6 - 54.1})
    assert gains["rmam", "bce"] == pytest.approx({"coco2014": 72.2 - 70.9})
    # Of these two the print does not tell the network.
    assert gains["bce", "mcg_cnn_lstm"] == pytest.approx({"coco2014": 70.9 - 64.4, "nuswide": 55.6 - 52.4})
    assert gains["bce", "kcca"] == pytest.approx({"nuswide": 55.6 - 52.2})
    for _, claim in card.pairs:
        assert "copied by the paper from another work, " in " ".join(claim.statement.split())
        assert "so a sign is weak evidence" in " ".join(claim.statement.split())


def test_gains_are_taken_within_one_backbone() -> None:
    card = load_card("vac")
    gains = published_gains(card, "vac_fs", "wbce")
    expected = {
        "wider_attribute resnet50": 86.8 - 83.4,
        "wider_attribute resnet101": 87.5 - 84.8,
        "coco2014": 77.5 - 74.9,
    }
    assert gains == pytest.approx(expected)
    assert published_gains(card, "vac_f", "wbce_f") == pytest.approx({"wider_attribute": 86.3 - 84.2})


def test_a_method_may_be_held_against_several_others(card, runs) -> None:
    claims = {"a": Claim("an", "LL-R gains.", method="llr"), "b": Claim("em", "LL-R gains.", method="llr")}
    card = dataclasses.replace(card, claims=claims)
    records = runs("an", lambda s, m: 60.0 + s) + runs("llr", lambda s, m: 62.0 + s) + runs("em", lambda s, m: 65.0 + s)
    assert [(o.method, o.over, o.verdict) for o in judge(card, records)] == [
        ("llr", "an", "reproduced"),
        ("llr", "em", "not reproduced"),
    ]
    text = cards_text(card, records, ["llr"])
    assert "## `llr` over `an`" in text
    assert "-3.00 [-3.00, -3.00]" in text


def test_published_gains_are_differences_within_one_table() -> None:
    card = load_card("boostlu")
    assert published_gains(card, "llr", "an")["coco2014"] == pytest.approx(70.70 - 64.92)
    assert published_gains(card, "an_boostlu_inference", "an")["voc2012"] == pytest.approx(87.31 - 86.10, abs=0.1)


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.1, 2.0, "reproduced"),
        (-0.1, 2.0, "underpowered"),
        (-1.0, 0.4, "not reproduced"),
        (0.1, 0.4, "not reproduced"),  # a gain, but less than is worth claiming
        (-3.0, -1.0, "not reproduced"),
        (float("nan"), float("nan"), "underpowered"),
    ],
)
def test_the_verdict_follows_the_interval(low: float, high: float, verdict: str) -> None:
    assert verdict_of(Interval((low + high) / 2, low, high, 1.0), threshold=0.5) == verdict


def test_gains_are_paired_by_seed_and_mask(card, runs) -> None:
    draw = np.random.default_rng(1)
    shared, noise = draw.normal(0, 3, (3, 3)), draw.normal(0, 0.1, (3, 3))
    records = runs("an", lambda s, m: 60 + shared[s, m]) + runs("llr", lambda s, m: 62 + shared[s, m] + noise[s, m])
    llr, em = judge(card, records)
    assert llr.interval is not None
    expected = interval({(s, m): 2 + float(noise[s, m]) for s in range(3) for m in range(3)})
    assert (llr.interval.low, llr.interval.high) == pytest.approx((expected.low, expected.high))
    assert llr.needed == draws_needed(card.threshold, expected.deviation)
    assert llr.verdict == "reproduced"
    assert em.verdict == "not testable here"


def test_a_claim_without_all_its_runs_has_no_verdict_yet(card, runs) -> None:
    records = runs("an", lambda s, m: 60.0) + runs("llr", lambda s, m: 65.0 + s)[:4]
    assert judge(card, records)[0].verdict == "incomplete: 4 of 9 pairs"
    assert judge(card, runs("an", lambda s, m: 60.0))[0].verdict == "no runs yet"


def test_a_card_of_draws_takes_their_runs_and_those_of_a_grid_where_it_names_one(card, runs) -> None:
    records = runs("an", lambda s, m: 60.0) + runs("llr", lambda s, m: 65.0 + s)
    drawn = dataclasses.replace(card, draws=3, seeds=(), masks=())
    assert drawn.plans == [[(0, 0), (1, 1), (2, 2)]]
    outcome = judge(drawn, records)[0]
    assert (outcome.pairs, outcome.verdict) == (3, "reproduced")
    assert dataclasses.replace(card, seeds=(), masks=()).plans == [[(i, i) for i in range(9)]]
    assert judge(dataclasses.replace(drawn, draws=9), records)[0].verdict == "incomplete: 3 of 9 pairs"
    either = dataclasses.replace(card, draws=9)
    outcome = judge(either, records)[0]
    assert (outcome.pairs, outcome.verdict) == (9, "reproduced")  # the grid is complete


def test_a_method_that_sees_no_mask_counts_once_a_seed(card, runs) -> None:
    claims = {"full": Claim("an", "All labels help."), "llr": Claim("full", "Never.")}
    full = runs("full", lambda s, m: 80.0 + s)
    for record in full:
        record["identity"]["method"]["supervision"] = ["full"]
    records = runs("an", lambda s, m: 60.0 + m) + full
    card = dataclasses.replace(card, claims=claims)
    assert judge(card, records)[0].pairs == 9
    once = [record for record in records if record not in full or record["identity"]["mask_seed"] == 0]
    assert judge(card, once)[0] == judge(card, records)[0]
    text = cards_text(card, records, ["full"])
    assert re.search(r"scenes +\| 81.00 +\| 1.00 +\| +\| 3 ", text)


def test_draws_of_a_method_that_sees_no_mask_may_all_be_of_the_first(card, runs) -> None:
    full = [record for record in runs("full", lambda s, m: 80.0 + s) if record["identity"]["mask_seed"] == 0]
    for record in full:
        record["identity"]["method"]["supervision"] = ["full"]
    claims = {"full": Claim("an", "All labels help.")}
    drawn = dataclasses.replace(card, draws=3, seeds=(), masks=(), claims=claims)
    outcome = judge(drawn, runs("an", lambda s, m: 60.0 + m) + full)[0]
    assert (outcome.pairs, outcome.verdict, outcome.value) == (3, "reproduced", 81.0)


def test_runs_with_other_settings_do_not_count(card, runs) -> None:
    records = runs("an", lambda s, m: 60.0)
    other = runs("llr", lambda s, m: 65.0)
    for record in other:
        record["identity"]["method"]["hyperparameters"] = {**load_method("llr").resolve({}), "delta": 5.0}
    assert judge(card, records + other)[0].verdict == "no runs yet"


def test_runs_are_those_with_what_the_setting_sets(card, runs) -> None:
    scenes = dataclasses.replace(card.settings["scenes"], set={"train.image_size": 99})
    made = [*runs("llr", lambda seed, mask: 80.0), *runs("an", lambda seed, mask: 70.0)]
    for record in made:
        record["identity"]["train"] = {**record["identity"]["train"], "image_size": 99}
    assert judge(dataclasses.replace(card, settings={"scenes": scenes}), made)[0].verdict == "reproduced"
    assert judge(card, made)[0].verdict == "no runs yet"


@pytest.fixture
def two_heads(card, runs):
    """A card that holds `an` with a head of width 64 against the linear one, with runs of both, 2 points apart."""
    linear = card.settings["scenes"]
    wide = dataclasses.replace(linear, head="ml_decoder", set={"head.width": 64})
    claims = {"an": Claim("an", "The head gains.", against="scenes")}
    card = dataclasses.replace(card, settings={"scenes": linear, "decoder": wide}, claims=claims)
    headed = runs("an", lambda s, m: 62.0 + s)
    for record in headed:
        record["identity"]["head"] = {"name": "ml_decoder", "version": 1, "hyperparameters": {"width": 64, "heads": 8}}
    return card, runs("an", lambda s, m: 60.0 + s), headed


def test_a_method_is_held_against_itself_with_another_head(two_heads) -> None:
    card, linear, headed = two_heads
    same, other = judge(card, linear + headed)
    assert (same.setting, same.verdict) == ("scenes", "not testable here")
    assert (other.setting, other.pairs, other.verdict) == ("decoder", 9, "reproduced")
    assert (other.over, other.against) == ("an", "scenes")
    assert other.interval.mean == pytest.approx(2.0)
    assert published_gains(card, "an", "an") == {}
    assert "## `an` over `an` of `scenes`" in cards_text(card, linear + headed)
    assert judge(card, headed)[1].verdict == "no runs yet"


def test_runs_of_a_head_are_those_with_what_the_setting_sets_of_it(two_heads) -> None:
    card, linear, headed = two_heads
    for record in headed:
        record["identity"]["head"]["hyperparameters"]["width"] = 768
    assert judge(card, linear + headed)[1].verdict == "no runs yet"


def test_a_claim_held_against_a_setting_that_the_card_does_not_have_is_named(tmp_path, monkeypatch) -> None:
    (tmp_path / "cards").mkdir()
    text = Path("results/cards/modern_heads.toml").read_text(encoding="utf-8")
    (tmp_path / "cards" / "mine.toml").write_text(text.replace('against = "linear"', 'against = "liner"'))
    monkeypatch.setattr("mlbench.report.cards.claims.files", lambda package: tmp_path)
    with pytest.raises(UsageError, match=r"claims.an_by_head\]: unknown setting 'liner'. Did you mean 'linear'"):
        load_card("mine")


def test_a_setting_made_by_a_plan_sets_what_the_plan_does() -> None:
    benchmarks = Path(__file__).parents[2] / "benchmarks"
    for paper in PAPERS:
        for name, setting in load_card(paper).settings.items():
            plan = re.search(r"benchmarks/(\S+\.toml)", setting.budget)
            if plan is None:
                assert not setting.set, f"{paper}: {name}"
            else:
                assert tomllib.loads((benchmarks / plan[1]).read_text(encoding="utf-8")).get("set", {}) == setting.set


def test_two_runs_of_one_cell_are_an_error(card, runs) -> None:
    records = runs("an", lambda s, m: 60.0)
    twin = {**records[0], "key": "0" * 64}
    with pytest.raises(DataError, match="'an' on 'scenes', seed 0, mask 0: two runs, "):
        judge(card, [*records, twin])


def test_agreement_counts_methods_in_both_orders(card, runs) -> None:
    records = runs("an", lambda s, m: 60.0) + runs("llr", lambda s, m: 65.0) + runs("em", lambda s, m: 50.0)
    found = {row["published column"]: row["tau"] for row in order_agreement(card, records)}
    assert found["voc2012"] == pytest.approx(-1 / 3)  # in print: an 85.89, llr 88.27, em 89.09


def test_the_text_gives_claim_numbers_and_verdict(card, runs) -> None:
    records = runs("an", lambda s, m: 60.0 + s) + runs("llr", lambda s, m: 62.0 + s)
    text = cards_text(card, records, ["llr"])
    assert "Published gain over `an`: " in text
    assert "+2.00 [+2.00, +2.00]" in text
    assert "reproduced" in text
    with pytest.raises(UsageError, match="the claims of 'boostlu'"):
        cards_text(card, records, ["llrr"])


def test_an_unknown_paper_names_those_there_are() -> None:
    with pytest.raises(UsageError, match="boostlu"):
        load_card("boostlo")


def test_the_command_prints_the_cards(train, mlbench, tmp_path) -> None:
    train("an")
    code, out, _ = mlbench("cards", "--store", tmp_path / "runs")
    assert code == 0
    assert out.startswith("# Claims of boostlu")


def test_the_definitional_part_is_what_the_two_definitions_in_print_would_add(card, runs) -> None:
    records = runs("srn", lambda s, m: 60.0 + s) + runs("vac_fs", lambda s, m: 62.0 + s)
    for record in records:
        value = record["results"]["test"]["mAP"]
        record["results"]["test"] |= {"mAP_step": value, "mAP_envelope": value + 0.3}
        record["provenance"] = {"seconds": 7.0}
    vac = dataclasses.replace(
        card,
        paper="vac",
        table="Table 4",
        printed_protocols=("wider_attribute",),
        claims={"vac_fs": Claim("srn", "VAC, by step AP in print, gains over SRN, by envelope AP.")},
    )
    (outcome,) = judge(vac, records)
    assert outcome.interval is not None
    assert (outcome.interval.mean, outcome.definitional) == pytest.approx((2.0, -0.3))
    assert (outcome.value, outcome.seconds) == pytest.approx((63.0, 7.0))
    undecidable = dataclasses.replace(vac, claims={"srn": Claim("rcnn", "The definition of one is not known.")})
    assert judge(undecidable, records + runs("rcnn", lambda s, m: 50.0))[0].definitional is None
