"""Methods by name: entry points of anybody, refused in words where they cannot be used."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from types import SimpleNamespace

import pytest

from mlbench import registry
from mlbench.errors import MlbenchError, UsageError
from mlbench.methods import Method
from mlbench.registry import METHODS, available, load_method
from mlbench.store.papers import load_published

OURS = sorted(available())


class Plain(Method):
    """A method of somebody."""


class Curious(Method):
    """Asks for what does not exist."""

    supervision = ("box",)


class Named(Method):
    """Has its own name."""

    name = "another"


@pytest.fixture
def register(monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    """Return a function that replaces the installed methods: (name, target, package) each."""

    def register(*points: tuple[str, str, str]) -> None:
        made = []
        for name, value, package in points:
            point = EntryPoint(name, value, METHODS.group)
            vars(point).update(dist=SimpleNamespace(name=package, version="1.0"))
            made.append(point)
        monkeypatch.setattr(registry, "entry_points", lambda group: made)
        registry.forget()

    yield register
    registry.forget()


@pytest.mark.parametrize("name", OURS)
def test_every_registered_method_loads_under_its_name_and_names_its_source(name: str) -> None:
    method = load_method(name)
    assert issubclass(method, Method)
    assert method.name == name
    assert method.__doc__
    title = method.__doc__.strip().splitlines()[0]
    assert title
    assert "Source:" in method.__doc__ or title.startswith("Null control:")
    assert set(method.tracks) <= {"head", "full"}
    assert method.resolve({}).keys() == method.declared().keys()
    assert all(hyper.help for hyper in method.declared().values())


def test_the_methods_of_this_package_are_installed() -> None:
    assert {"an", "full", "llr", "llr_boostlu", "an_boostlu_inference", "prior", "random"} <= set(OURS)


def test_no_method_is_loaded_from_a_top_level_package_called_baselines() -> None:
    code = (
        "import sys; from mlbench.registry import METHODS, available, load_method\n"
        "classes = [load_method(name) for name in available()]\n"
        "assert len(classes) >= 7\n"
        "wrong = [n for n in sys.modules if n.split('.')[0] in ('baselines', 'protocols', 'results')]\n"
        "assert not wrong, wrong\n"
        "assert 'mlbench.baselines' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_an_unknown_method_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(UsageError, match=r"unknown method 'lllr'. Did you mean 'llr'\?.*Known: .*an, "):
        load_method("lllr")


def test_a_method_of_another_package_is_found(register) -> None:
    register(("theirs", f"{__name__}:Plain", "theirs-package"))
    assert list(available()) == ["theirs"]
    assert load_method("theirs").name == "theirs"
    with pytest.raises(UsageError, match=r"unknown method 'an'.*Known: theirs"):
        load_method("an")


def test_one_name_claimed_by_two_packages_names_both_and_blocks_no_other(register, mlbench) -> None:
    register(
        ("x", f"{__name__}:Plain", "first"), ("y", f"{__name__}:Plain", "third"), ("x", f"{__name__}:Named", "second")
    )
    assert list(available()) == ["y"]
    assert load_method("y").name == "y"
    with pytest.raises(
        UsageError, match=r"method 'x' is registered twice: .*:Plain \(first 1.0\) and .*:Named \(second 1.0\)"
    ):
        load_method("x")
    code, out, _ = mlbench("list", "methods")
    assert code == 0
    assert "y" in out


def test_the_same_entry_found_twice_is_one(register) -> None:
    register(("x", f"{__name__}:Plain", "first"), ("x", f"{__name__}:Plain", "first"))
    assert list(available()) == ["x"]


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("mlbench_no_such_package.x:Y", r"method 'x' \(mlbench_no_such_package.x:Y\) does not load: No module named"),
        (f"{__name__}:Missing", r"method 'x' .* does not load: .*Missing"),
        ("mlbench.methods.labels:Labels", r"method 'x' .* is not a subclass of mlbench.methods.Method"),
        ("mlbench.seeds:derive", r"method 'x' .* is not a subclass of mlbench.methods.Method"),
    ],
)
def test_an_entry_that_is_no_method_is_named(register, target: str, message: str) -> None:
    register(("x", target, "p"))
    with pytest.raises(MlbenchError, match=message):
        load_method("x")


def test_supervision_that_does_not_exist_is_refused(register) -> None:
    register(("x", f"{__name__}:Curious", "p"))
    with pytest.raises(UsageError, match=r"method 'x' .*: unknown supervision 'box'. Did you mean 'boxes'"):
        load_method("x")


def test_one_class_under_two_names_gives_each_its_own(register) -> None:
    register(("a", f"{__name__}:Named", "p"), ("b", f"{__name__}:Named", "p"))
    assert [load_method(name).name for name in ("a", "b")] == ["a", "b"]
    assert load_method("a").__doc__ == Named.__doc__
    assert Named.name == "another"
    register(("a", f"{__name__}:Plain", "p"), ("b", f"{__name__}:Plain", "p"))
    first, second = load_method("a"), load_method("b")
    assert (first.name, second.name) == ("a", "b")


def test_every_method_with_a_published_row_says_how_close_to_its_paper_it_is() -> None:
    printed = set(load_published()["method"])
    missing = [name for name in available() if name in printed and load_method(name).level not in ("A", "B", "C")]
    assert not missing


def test_a_contested_name_is_written_with_its_package_and_ours_keeps_its_name_in_records(register) -> None:
    register(("x", f"{__name__}:Plain", "Some_Package"), ("x", f"{__name__}:Named", registry.OWN_PACKAGE))
    assert list(METHODS) == ["Some_Package:x", "mlbench-multilabel:x"]
    assert len(METHODS) == 2
    theirs, ours = load_method("some-package:x"), load_method("mlbench-multilabel:x")
    assert (theirs.name, ours.name) == ("Some_Package:x", "x")
    assert issubclass(theirs, Plain)
    assert issubclass(ours, Named)
    assert str(METHODS.owner("some.package:x")) == "Some_Package 1.0"
    assert "x" not in METHODS
    with pytest.raises(UsageError, match=r"Write Some_Package:x or mlbench-multilabel:x, or uninstall one"):
        load_method("x")
    with pytest.raises(UsageError, match=r"unknown method 'some-package:y'.*Known: some-package:x"):
        load_method("some-package:y")


def test_a_name_may_have_its_package_where_it_needs_none(register) -> None:
    register(("x", f"{__name__}:Plain", "p"))
    assert load_method("p:x") is load_method("x")
    assert METHODS.canonical("p:x") == load_method("p:x").name == "x"
    with pytest.raises(UsageError, match="unknown method 'q:x'"):
        load_method("q:x")


class Many:
    """A family whose members are numbers."""

    def members(self) -> list[str]:
        return ["one", "two"]

    def member(self, name: str) -> int:
        if name not in self.members():
            raise UsageError(f"no member {name}")
        return self.members().index(name) + 1


MANY, ONE = Many(), 1


def _is_number(name: str, found: object) -> int:
    if not isinstance(found, int):
        raise MlbenchError("is not a number")
    return found


def test_an_entry_that_is_many_gives_its_members(register) -> None:
    register(("many", f"{__name__}:MANY", "p"), ("one", f"{__name__}:ONE", "p"))
    numbers = registry.Registry(METHODS.group, "number", _is_number)
    assert list(numbers) == ["many", "one"]
    assert numbers["many:two"] == numbers["p:many:two"] == 2
    assert numbers.canonical("p:many:two") == "many:two"
    assert "many:three" in numbers  # not looked into before it is asked for
    assert str(numbers.owner("many:two")) == "p 1.0"
    with pytest.raises(UsageError, match=r"number 'many' \(.*:MANY\) is many: write many:NAME"):
        numbers["many"]
    with pytest.raises(UsageError, match="no member three"):
        numbers["many:three"]
    with pytest.raises(UsageError, match="unknown number 'one:more'"):
        numbers["one:more"]


def test_a_module_that_ends_the_process_does_not_load(register, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mlbench_ending_plugin.py").write_text("raise SystemExit('bye')\n")
    monkeypatch.syspath_prepend(tmp_path)
    register(("x", "mlbench_ending_plugin:X", "p"))
    with pytest.raises(MlbenchError, match=r"method 'x' \(mlbench_ending_plugin:X\) does not load: bye"):
        load_method("x")


def test_without_an_entry_of_ours_the_installation_is_told_to_be_old(register) -> None:
    register()
    with pytest.raises(UsageError, match=r"registers no method at all .* install it again. Known: none"):
        load_method("an")
