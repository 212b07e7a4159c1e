"""Plans as data: each agrees with its protocol, the registry, the printed table and the layout, and repeats nothing."""

from __future__ import annotations

import tomllib
from importlib.resources import files
from pathlib import Path

import pytest

from mlbench.errors import UsageError
from mlbench.models.backbones import BACKBONES
from mlbench.models.head_choice import HEADS
from mlbench.protocol import load_protocol
from mlbench.registry import METHODS, load_method
from mlbench.report.layouts import load_layouts
from mlbench.reproduce import plans as module
from mlbench.reproduce.plans import LEVELS, SETTINGS, VALUED, load_plan, load_plans, plan_names
from mlbench.reproduce.runs import Asked, entries_of
from mlbench.settings import OF_IMAGES

NAMES = plan_names()


def test_every_table_has_a_plan_and_every_plan_a_table() -> None:
    assert sorted(f"{layout.paper}.{layout.name}" for layout in load_layouts()) == NAMES
    assert len(load_plans("boostlu")) == 4
    assert len(load_plans("vac")) == 3
    assert len(load_plans("kd_wsd")) == 2
    assert len(load_plans("spml_2026")) == 3


@pytest.mark.parametrize("name", NAMES)
def test_each_setting_has_a_source_and_a_level(name: str) -> None:
    plan = load_plan(name)
    assert set(plan.settings) == set(SETTINGS)
    for one in (*plan.settings.values(), *plan.rows.values()):
        assert one.level in LEVELS
        assert len(one.source) > 10
    assert {"small", "rehearsal"} <= set(plan.budgets)
    assert all(len(budget.why) > 40 for budget in plan.budgets.values())


@pytest.mark.parametrize("name", NAMES)
def test_a_plan_repeats_nothing_that_its_protocol_says(name: str) -> None:
    """Values stand in it for what a protocol has no place for; of a row where it is another than the protocol's."""
    plan = load_plan(name)
    assert {key for key, setting in plan.settings.items() if setting.value is not None} == set(VALUED)
    for row in plan.rows.values():
        for column in plan.layout.columns:
            own = load_protocol(column.protocol).train_settings(column.data, str(plan.value("track")), {})
            for key, value in row.set.items():
                assert getattr(own, key.removeprefix("train.")) != value, key


@pytest.mark.parametrize("name", NAMES)
def test_every_printed_number_is_covered_by_a_run_or_a_reason(name: str) -> None:
    plan = load_plan(name)
    found = entries_of(Asked([plan]))
    covered = {(entry.printed, entry.data) for entry in found}
    printed = module.load_published(plan.paper)
    printed = printed[printed["table"] == plan.layout.printed]
    rows = {row.row: row for row in plan.printed if plan.printed.count(row) == 1}
    for number in printed.to_dict("records"):
        which = module.Printed(str(number["row"]), str(number["method"]), str(number["backbone"]))
        assert any(row == which for row in plan.printed)
        datas = {c.data for c in plan.layout.columns if c.dataset == number["dataset"]}
        assert all((which, data) in covered for data in datas)
    assert rows
    for entry in found:
        own = plan.own(entry.printed)
        if own is not None and own.reason:
            assert entry.reason == own.reason
            continue
        assert entry.method in METHODS, "a row whose method is not in mlbench needs a reason"
        assert entry.backbone in BACKBONES
        assert entry.head is None or entry.head in HEADS
        method = load_method(entry.method)
        assert entry.track in method.tracks
        assert entry.train is not None
        assert entry.protocol in {column.protocol for column in plan.layout.columns}
        known = set(method.resolve({}))
        for key in entry.changes:
            assert key.startswith("train.") or key in known
        if entry.track == "head":
            assert not {key.removeprefix("train.") for key in entry.changes} & set(OF_IMAGES)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("budget", ["small", "rehearsal"])
def test_a_budget_only_reduces(name: str, budget: str) -> None:
    plan = load_plan(name)
    whole, less = (entries_of(Asked([plan], budget=chosen)) for chosen in (None, budget))
    spent = []
    for full, reduced in zip(whole, less, strict=True):
        if full.train is None or reduced.train is None:
            continue
        assert reduced.draws <= full.draws
        assert reduced.train.epochs <= full.train.epochs
        assert reduced.train.image_size <= full.train.image_size
        work = [e.draws * e.train.epochs * e.train.image_size**2 for e in (full, reduced) if e.train is not None]
        spent.append(work[1] / work[0])
    assert max(spent) < 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("[settings.colour]\nlevel = 'ours'\nsource = 'x'", "unknown setting 'colour'"),
        ("[settings.draws]\nvalue = 'nine'\nlevel = 'ours'\nsource = 'x'", "expected a int"),
        ("[settings.image_size]\nvalue = 448\nlevel = 'ours'\nsource = 'x'", "expected none, the protocol has it"),
        ("[settings.track]\nvalue = 'full'\nlevel = 'certain'\nsource = 'x'", "level"),
        ("[rows.llrr]\nlevel = 'ours'\nsource = 'x'", "Did you mean 'llr'?"),
        ("[budgets.small]\nwhy = 'x'\nepoch = 2", "Did you mean 'epochs'?"),
    ],
)
def test_what_is_wrong_in_a_plan_is_told_with_its_place(
    change: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = module._read
    monkeypatch.setattr(module, "_read", lambda name: module._over(read(name), tomllib.loads(change)))
    with pytest.raises(UsageError, match=r"^boostlu\.single_positive\.toml: ") as error:
        load_plan.__wrapped__("boostlu.single_positive")
    assert said in str(error.value)


def test_names_of_papers_tables_rows_and_budgets_are_checked() -> None:
    with pytest.raises(UsageError, match="Did you mean 'boostlu'"):
        load_plans("bostlu")
    with pytest.raises(UsageError, match="Did you mean 'openimages'"):
        load_plans("boostlu", "openimage")
    (plan,) = load_plans("vac", "Table 4")
    assert plan.table == "wider"
    with pytest.raises(UsageError, match="Known: rehearsal, small"):
        plan.budget("tiny")
    with pytest.raises(UsageError, match="--rows: unknown row 'vac_z'"):
        Asked([plan], rows=["vac_z"])


def test_the_files_of_plans_end_in_toml_and_lie_in_the_package() -> None:
    folder = Path(str(files("mlbench.reproduce") / "plans"))
    assert {path.suffix for path in folder.iterdir()} == {".toml"}
