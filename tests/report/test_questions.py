"""Reports on the board's questions, on boards small enough to work out by hand."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from scipy import stats

from mlbench.annotation.states import State
from mlbench.cli.main import cli
from mlbench.datasets.base import Dataset, Split
from mlbench.errors import UsageError
from mlbench.report.questions import QUESTIONS, reports
from mlbench.report.questions import classes as by_class
from mlbench.report.questions.classes import gains_of, thirds, traits_of
from mlbench.report.questions.columns import columns_of
from mlbench.report.questions.definitions import halves, moved
from mlbench.report.questions.definitions import report as definitions_report
from mlbench.report.questions.seeds_and_masks import grid_of
from mlbench.report.questions.seeds_and_masks import report as seeds_report
from mlbench.report.questions.tracks import agreement, pairs_of
from mlbench.report.questions.tracks import report as tracks_report
from mlbench.report.questions.worth_of_labels import report as worth_report
from mlbench.report.questions.worth_of_labels import share_reached, worth

PUBLISHED = Path(__file__).parents[2] / "results" / "runs"


@pytest.fixture
def board(make_record):
    """Return a function: values by method, one a draw, to records of one column."""

    def make(values: dict[str, list[float]], **changes: Any) -> list[dict[str, Any]]:
        return [
            make_record(method, value, draw, **changes)
            for method, of in values.items()
            for draw, value in enumerate(of)
        ]

    return make


def test_columns_keep_runs_apart_that_no_table_mixes(board, make_record) -> None:
    records = board({"an": [1, 2], "llr": [3, 4], "random": [0]}) + board({"an": [5]}, identity__track="head")
    columns = columns_of(records)
    assert [(c.track, {name: len(runs) for name, runs in c.methods.items()}) for c in columns] == [
        ("full", {"an": 2, "llr": 2}),
        ("head", {"an": 1}),
    ]


def test_of_a_method_the_last_version_counts_and_of_that_the_setting_with_most_runs(board, make_record) -> None:
    old = board({"an": [1, 1, 1]})
    new = board({"an": [2, 2]}, identity__method__version=2)
    other = [make_record("an", 3.0, 0, identity__method__version=2, identity__method__hyperparameters__k=5)]
    (column,) = columns_of([*old, *new, *other])
    assert list(column.values("mAP")["an"].values()) == [2, 2]


def test_a_method_without_masks_stands_under_each_mask_of_its_seed(board) -> None:
    (column,) = columns_of(board({"an": [1, 2], "full": [8, 9]}))
    methods, draws, values = column.block("mAP")
    assert (methods, draws) == (["an", "full"], [(0, 0), (1, 1)])
    assert values.tolist() == [[[1, 8], [2, 9]]]


def test_named_methods_are_kept_where_they_share_a_draw(board, make_record) -> None:
    (column,) = columns_of([*board({"an": [1, 2, 3], "em": [4, 5, 6]}), make_record("llr", 9.0, 1)])
    assert column.block("mAP")[0] == ["an", "em"]
    assert column.block("mAP", of=["an", "llr"])[:2] == (["an", "llr"], [(1, 1)])


def test_of_two_metrics_a_block_has_both(board) -> None:
    records = board({"an": [1, 2], "em": [4, 5]})
    records[1]["results"]["test"]["F1-O"] = None
    for record in (records[0], *records[2:]):
        record["results"]["test"]["F1-O"] = 7.0
    (column,) = columns_of(records)
    methods, draws, values = column.block("mAP", "F1-O")
    assert (methods, draws) == (["an", "em"], [(0, 0)])
    assert values.tolist() == [[[1, 4]], [[7, 7]]]


def test_two_definitions_swap_one_of_ten_pairs(make_record) -> None:
    records = []
    for rank, method in enumerate(("an", "ls", "wan", "em", "llr")):
        other = {3: 4, 4: 3}.get(rank, rank)
        for draw in range(4):
            record = make_record(method, 10.0 * rank, draw)
            record["results"]["test"] |= {"mAP_step": 10.0 * rank + draw, "mAP_11point": 10.0 * other + draw}
            records.append(record)
    (column,) = columns_of(records)
    found = moved(column, ("mAP_step", "mAP_11point"))
    assert found is not None
    expected = stats.kendalltau([0, 1, 2, 3, 4], [0, 1, 2, 4, 3]).statistic
    assert found.tau.value == pytest.approx(expected)
    assert (found.tau.low, found.tau.high) == pytest.approx((expected, expected))  # all draws order alike
    assert (found.swapped, found.pairs, found.draws) == (1, 10, 4)
    assert found.best == ("llr", "em")
    assert found.farthest in {("em", 1), ("llr", -1)}
    assert halves(column, "mAP_step").value == 1  # type: ignore[union-attr]
    assert "| mAP_step | mAP_11point |" in " ".join(definitions_report([column]).split())
    assert moved(column, ("mAP_step", "missing")) is None


def test_too_few_methods_have_no_order(board) -> None:
    assert "Not answerable" in definitions_report(columns_of(board({"an": [1], "llr": [2]})))


def test_a_grid_is_what_has_each_seed_with_each_mask() -> None:
    values: dict[Any, float] = {(i, j): float(10 * i + j) for i in range(3) for j in range(3)} | {(3, 3): 99.0}
    found = grid_of(values)
    assert found is not None
    assert found.tolist() == [[0, 1, 2], [10, 11, 12], [20, 21, 22]]
    assert grid_of({(0, 0): 1, (1, 1): 2}) is None
    assert grid_of({(0, None): 1, (1, None): 2}) is None
    del values[2, 2]  # two masks are with all three seeds
    assert grid_of(values).tolist() == [[0, 1], [10, 11], [20, 21]]  # type: ignore[union-attr]


def test_masks_that_move_all_runs_are_said_to_matter_more(make_record) -> None:
    random = np.random.default_rng(1)
    records = []
    for method in ("an", "ls", "wan", "em", "llr"):
        own = random.normal(size=3)
        for i in range(3):
            for j in range(3):
                value = 50 + 5 * own[j] + 0.1 * random.normal()
                record = make_record(method, float(value), i, identity__mask_seed=j, identity__mask__seed=j)
                record["identity"]["mask"]["sha256"] = f"{j:064d}"
                record["key"] = f"{method}{i}{j}"
                records.append(record)
    text = seeds_report(columns_of(records))
    assert text.count("| masks ") >= 1
    assert " | seeds  " not in text.partition("##")[0]
    assert "3 x 3" in text


def test_draws_in_which_both_change_do_not_tell(board) -> None:
    text = seeds_report(columns_of(board({"an": [1, 2, 3], "llr": [2, 3, 4], "em": [1, 3, 2]})))
    assert "Not answerable with runs of draw i = (seed i, mask i) alone" in text


def test_tracks_are_correlated_as_scipy_does(board) -> None:
    head = {"an": [1.0, 3], "ls": [4.0, 4], "em": [6.0, 4], "llr": [9.0, 7], "wan": [3.0, 4]}
    full = {"an": [1.0], "ls": [5.0], "em": [3.0], "llr": [9.0], "role": [0.0], "wan": [2.0]}
    columns = columns_of(board(head, identity__track="head") + board(full))
    ((a, b),) = pairs_of(columns)
    found = agreement(a, b)
    assert found is not None
    means = [np.mean(head[name]) for name in found.methods]
    others = [full[name][0] for name in found.methods]
    assert set(found.methods) == {"an", "ls", "em", "llr", "wan"}
    assert found.tau.value == pytest.approx(stats.kendalltau(means, others).statistic)
    assert found.rho.value == pytest.approx(stats.spearmanr(means, others).statistic)
    assert found.draws == (2, 1)
    assert found.tau.low <= found.tau_draws.low <= found.tau.value <= found.tau.high
    assert "5 |" in tracks_report(columns)


def test_three_methods_on_both_tracks_are_too_few(board) -> None:
    three = {"an": [1.0], "ls": [5.0], "em": [3.0]}
    text = tracks_report(columns_of(board(three, identity__track="head") + board(three)))
    assert "Not answerable" in text
    assert "it needs 4 methods" in text


@pytest.mark.parametrize(
    ("value", "share"),
    [(20, 0.1), (25, 0.2), (30, 0.3), (35, 0.4), (40, 0.5), (19.9, -math.inf), (40.1, math.inf)],
)
def test_the_share_reached_lies_on_the_line(value: float, share: float) -> None:
    assert share_reached([0.1, 0.3, 0.5], [20, 30, 40], value) == pytest.approx(share)


def test_a_curve_that_falls_is_held_at_its_height() -> None:
    shares, values = [0.1, 0.3, 0.5, 0.7], [20, 30, 28, 40]
    expected = np.interp(35, [30, 40], [0.5, 0.7])  # from the end of the flat part
    assert share_reached(shares, values, 35) == pytest.approx(expected)
    assert share_reached(shares, values, 30) == pytest.approx(0.3)  # where it is first reached


def test_the_worth_of_a_method_over_draws() -> None:
    base: dict[float, dict[Any, float]] = {s: {(d, d): 100 * s + d for d in range(5)} for s in (0.1, 0.3, 0.5)}
    found, draws = worth(base, {(d, d): 20.0 + d for d in range(5)})  # as `an` at 20 %, in each draw
    assert draws == 5
    assert (found.value, found.low, found.high) == pytest.approx((0.2, 0.2, 0.2))
    alone, one = worth(base, {(0, 0): 20.0})
    assert one == 1
    assert math.isnan(alone.low)
    assert worth(base, {(9, 9): 20.0})[1] == 0


@pytest.mark.parametrize(("value", "end", "said"), [(-5.0, -math.inf, "<10"), (95.0, math.inf, ">50")])
def test_both_ends_of_a_worth_may_lie_beyond_the_curve(board, value: float, end: float, said: str) -> None:
    base: dict[float, dict[Any, float]] = {s: {(d, d): 100 * s + d for d in range(3)} for s in (0.1, 0.3, 0.5)}
    found, _ = worth(base, {(d, d): value for d in range(3)})
    assert (found.value, found.low, found.high) == (end, end, end)
    mask = {"identity__protocol": "partial", "identity__mask__process": "partial"}
    records = [
        record
        for share, an in ((0.1, 20.0), (0.3, 30.0), (0.5, 40.0))
        for record in board({"an": [an] * 3, "llr": [value] * 3}, **mask, identity__mask__params__keep=share)
    ]
    assert f"{said} % ({said} to {said})" in worth_report(columns_of(records))


def test_the_table_of_worths(board) -> None:
    def at(share: float, **values: list[float]) -> list[dict[str, Any]]:
        mask = {"identity__protocol": "partial", "identity__mask__process": "partial"}
        return board(values, **mask, identity__mask__params__keep=share)

    records = at(0.1, an=[20.0], llr=[25.0]) + at(0.3, an=[30.0], llr=[36.0]) + at(0.5, an=[40.0], llr=[45.0])
    text = " ".join(worth_report(columns_of(records)).split())
    assert "| llr | 20 % | 42 % | >50 % | 1 draw |" in text
    assert "Not answerable" in worth_report(columns_of(records[:2]))


def toy() -> Dataset:
    """Nine classes: class c is in c + 1 of ten pictures, the first ones; so the rarest keeps the most company."""
    labels = np.array(
        [[State.POSITIVE if row <= c else State.NEGATIVE for c in range(9)] for row in range(10)], np.int8
    )
    ids = tuple(map(str, range(10)))
    return Dataset(
        "toy", "1", tuple("abcdefghi"), {part: Split(ids, labels, _Blank()) for part in ("train", "val", "test")}
    )


class _Blank:
    def __len__(self) -> int:
        return 10

    def load(self, row: int) -> np.ndarray:
        return np.zeros((2, 2, 3), np.uint8)

    def describe(self, row: int) -> str:
        return str(row)


def test_traits_of_classes_by_hand() -> None:
    found = traits_of(toy())
    assert found.frequency.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9]
    assert found.company[0] == 8  # picture 0 has all nine
    assert found.company[1] == (8 + 7) / 2
    assert found.size is None


def test_gains_of_classes_by_hand(make_record) -> None:
    records = []
    for method, up in (("an", 0.0), ("llr", 1.0), ("em", -1.0), ("ls", 0.0)):
        for draw in range(2):
            record = make_record(method, 50.0, draw)
            record["per_class"] = {"AP": {name: 50 + up * c + draw for c, name in enumerate("abcdefghi")}}
            records.append(record)
    (column,) = columns_of(records)
    assert gains_of(column, "llr") == ({name: float(c) for c, name in enumerate("abcdefghi")}, 2)
    text = " ".join(by_class.report([column], lambda record: toy()).split())
    assert "| llr | +4.0 | +1.0 (+0.0 to +2.0) | +4.0 (+3.0 to +5.0) | +7.0 (+6.0 to +8.0) | +1.00" in text
    assert "| em | -4.0 |" in text
    assert "no boxes" in text

    def missing(record: Any) -> Dataset:
        raise UsageError("give --data-root")

    assert "Not answerable here" in by_class.report([column], missing)


def test_thirds_are_of_the_classes_by_frequency() -> None:
    means = [part.value for part in thirds(np.array([9.0, 1, 2, 8, 5, 5]), np.array([60, 1, 2, 50, 30, 40]))]
    assert means == [1.5, 5.0, 8.5]


def test_reports_of_the_published_board_are_written(tmp_path: Path) -> None:
    names = ["definitions", "seeds_and_masks", "tracks", "worth_of_labels"]
    folder = tmp_path / "some"
    folder.mkdir()
    for method in ("an", "llr", "em", "ls", "asl"):
        for path in PUBLISHED.glob(f"{method}__ccp__single_positive__*.json"):
            shutil.copy(path, folder)
    result = CliRunner().invoke(cli, ["report", *names, "--store", str(folder), "--to", str(tmp_path)])
    assert result.exit_code == 0, result.output
    for name in names:
        text = (tmp_path / f"{name}.md").read_text()
        assert text.startswith("# ")
        assert "nan" not in text
        assert f"Made by `mlbench report {name}` from" in text


def test_an_unknown_report_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"unknown report 'classe'. Did you mean 'classes'"):
        reports(["classe"], PUBLISHED)
    assert set(QUESTIONS) == {"definitions", "seeds_and_masks", "tracks", "worth_of_labels", "classes"}
    tmp_path.joinpath("empty").mkdir()
    with pytest.raises(UsageError, match="no finished run in"):
        reports((), tmp_path / "empty")
