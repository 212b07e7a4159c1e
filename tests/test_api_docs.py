"""Every public name on the API pages says what it does, in which shapes, and which errors it raises."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import textwrap
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [*sorted((ROOT / "docs" / "api").glob("*.md")), ROOT / "docs" / "python.md", ROOT / "docs" / "metrics.md"]
TARGETS = sorted({name for page in PAGES for name in re.findall(r"(?m)^::: (\S+)", page.read_text(encoding="utf-8"))})
#: An array's shape as the pages write it: float32 [B, C], [N, 64], [], [...].
SHAPE = re.compile(r"\[(?:[A-Za-z0-9_,. +*]|\.\.\.)*\]")


def names(target: str) -> Iterator[tuple[str, Any, Any]]:
    """(dotted name, object, what it stands in) of a module's or class's public names that are its own."""
    try:
        found: Any = importlib.import_module(target)
    except ModuleNotFoundError:
        module, _, name = target.rpartition(".")
        parent = importlib.import_module(module)
        yield from with_members(target, getattr(parent, name), parent)
        return
    yield target, found, found
    for name, value in vars(found).items():
        if not name.startswith("_") and getattr(value, "__module__", "") == found.__name__:
            yield from with_members(f"{target}.{name}", value, found)


def with_members(name: str, value: Any, parent: ModuleType) -> Iterator[tuple[str, Any, Any]]:
    if inspect.isfunction(value) or inspect.isclass(value):
        yield name, value, parent
    for member, held in vars(value).items() if inspect.isclass(value) else ():
        function = inner(held)
        if not member.startswith("_") and inspect.isfunction(function):
            yield f"{name}.{member}", function, value


def inner(held: Any) -> Any:
    """The function of a method or property, however it is wrapped."""
    if isinstance(held, property):
        return held.fget
    if isinstance(held, classmethod | staticmethod):
        return held.__func__
    return held.func if isinstance(held, cached_property) else held


EVERY = [entry for target in TARGETS for entry in names(target)]


def test_names_are_found() -> None:
    assert len(EVERY) > 140
    assert {"mlbench.metrics.ranking.one_error", "mlbench.methods.contract.Method.loss"} <= {name for name, *_ in EVERY}


@pytest.mark.parametrize(("name", "value", "parent"), EVERY, ids=[name for name, *_ in EVERY])
def test_a_public_name_says_what_it_is(name: str, value: Any, parent: Any) -> None:
    assert value.__doc__, f"{name}: no docstring"
    if not inspect.isfunction(value):
        return
    told = f"{inspect.getdoc(value)} {inspect.getdoc(parent)}"
    takes = " ".join(map(str, value.__annotations__.values()))
    if re.search(r"ndarray|Tensor", takes):
        assert SHAPE.search(told), f"{name}: takes or gives arrays ({takes}), and no shape is told"
    raised = {
        call.func.id
        for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(value))))
        if isinstance(node, ast.Raise) and isinstance(call := node.exc, ast.Call) and isinstance(call.func, ast.Name)
    }
    for error in {"UsageError" if kind == "unknown" else kind for kind in raised} - {"AssertionError"}:
        assert error in told or not error[0].isupper(), f"{name}: raises {error}, which is not told"
