"""What the names of a module stand for, read from its source: the module is not run, nor what it imports.

Constants, tables and tuples of them, classes with such attributes, and what functions without loops or branches make
of these. All else is `Unread`: whoever asks has to import the module.
"""

from __future__ import annotations

import ast
import builtins
import importlib
import operator
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

#: Modules that are light, and whose names are what they are.
REAL = ("mlbench.catalogue.declared", "mlbench.settings")
_BUILT_IN = ("bool", "dict", "float", "frozenset", "int", "len", "list", "max", "min", "round", "set", "str", "tuple")
_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.BitOr: operator.or_,
}
_UNARY: dict[type[ast.unaryop], Callable[[Any], Any]] = {
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
    ast.Not: operator.not_,
}


#: Methods by which a value becomes another.
_CHANGING = (
    *("add", "append", "clear", "discard", "extend", "insert", "pop", "popitem", "remove", "reverse", "setdefault"),
    *("sort", "update"),
)


class Unread(Exception):
    """What only running the code would tell."""


class Unknown:
    """In place of a class's method, or of a value of it that cannot be read."""


class Source:
    """A module by its source."""

    def __init__(self, name: str, text: str, is_package: bool) -> None:
        self.name = name
        self.package = name if is_package else name.rpartition(".")[0]
        self._values: dict[str, Any] = {}
        body = ast.parse(text).body
        for node in body:
            if isinstance(node, ast.ClassDef):
                _forget_methods(node)
        self._bound = _bindings(body)

    def __getitem__(self, name: str) -> Any:
        """What `name` stands for at the end of the module; `Unread` where that cannot be told."""
        if name not in self._values:
            self._values[name] = self._read(name)
        return self._values[name]

    def __contains__(self, name: str) -> bool:
        return name in self._bound

    def _read(self, name: str) -> Any:
        node = self._bound.get(name)
        if isinstance(node, ast.expr):
            return _Reader(self, {}).value(node)
        if isinstance(node, ast.FunctionDef) and not node.decorator_list:
            return _Function(self, node)
        if isinstance(node, ast.ClassDef):
            return _class(self, node)
        if isinstance(node, ast.Import):
            found = next(alias for alias in node.names if (alias.asname or alias.name.partition(".")[0]) == name)
            return _module(found.name if found.asname else name)
        if isinstance(node, ast.ImportFrom):
            found = next(alias for alias in node.names if (alias.asname or alias.name) == name)
            return _attribute(_module(self._absolute(node)), found.name)
        raise Unread(f"{self.name}.{name}")

    def _absolute(self, node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        parts = self.package.split(".")
        base = ".".join(parts[: len(parts) - node.level + 1])
        return f"{base}.{node.module}" if node.module else base


def value_at(module: str, names: str) -> Any:
    """What the dotted `names` in `module` stand for, as an entry point has them; `Unread` where that cannot be told."""
    try:
        found = _module(module)
        for name in names.split("."):
            found = _attribute(found, name)
        return found
    except Unread:
        raise
    except Exception as error:  # whatever is wrong with the code, importing it says it better
        raise Unread(f"{module}:{names}: {type(error).__name__}: {error}") from error


class _Function:
    """A function of straight lines."""

    def __init__(self, source: Source, node: ast.FunctionDef) -> None:
        self.source, self.node = source, node

    def __call__(self, *given: Any, **named: Any) -> Any:
        rules = self.node.args
        names = [argument.arg for argument in (*rules.posonlyargs, *rules.args)]
        if rules.vararg or rules.kwarg or len(given) > len(names):
            raise Unread(f"{self.source.name}.{self.node.name}()")
        outside = _Reader(self.source, {})
        after = dict(zip(reversed(names), reversed(rules.defaults), strict=False))
        after |= {a.arg: d for a, d in zip(rules.kwonlyargs, rules.kw_defaults, strict=True) if d is not None}
        known = dict(zip(names, given, strict=False)) | named
        for name in (*names, *(argument.arg for argument in rules.kwonlyargs)):
            if name not in known:
                known[name] = outside.value(after[name])
        inside = _Reader(self.source, known)
        for line in self.node.body:
            if isinstance(line, ast.Return) and line.value is not None:
                return inside.value(line.value)
            match line:
                case ast.Assign(targets=[ast.Name(id=name)], value=value):
                    known[name] = inside.value(value)
                case ast.Expr(value=ast.Constant()):
                    pass
                case _:
                    break
        raise Unread(f"{self.source.name}.{self.node.name}()")


class _Reader:
    """Evaluates expressions where `local` names, then those of a module, are known."""

    def __init__(self, source: Source, local: Mapping[str, Any]) -> None:
        self.source, self.local = source, local

    def value(self, node: ast.expr) -> Any:
        match node:
            case ast.Constant(value=value):
                return value
            case ast.Name(id=name):
                return self._name(name)
            case ast.Attribute(value=owner, attr=name):
                return _attribute(self.value(owner), name)
            case ast.Tuple(elts=items):
                return tuple(self._items(items))
            case ast.List(elts=items):
                return list(self._items(items))
            case ast.Set(elts=items):
                return set(self._items(items))
            case ast.Dict(keys=keys, values=values):
                return self._table(keys, values)
            case ast.JoinedStr(values=parts):
                return "".join(self.value(part) for part in parts)
            case ast.FormattedValue(value=inner, conversion=-1, format_spec=spec):
                return format(_plain(self.value(inner)), "" if spec is None else self.value(spec))
            case ast.Subscript(value=owner, slice=index):
                return _plain(self.value(owner))[_plain(self.value(index))]
            case ast.Call(func=func, args=given, keywords=named):
                return self._call(func, self._items(given), named)
        return self._computed(node)

    def _computed(self, node: ast.expr) -> Any:
        match node:
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
                return _BINARY[type(op)](_plain(self.value(left)), _plain(self.value(right)))
            case ast.UnaryOp(op=op, operand=inner) if type(op) in _UNARY:
                return _UNARY[type(op)](_plain(self.value(inner)))
            case ast.BoolOp(op=op, values=values):
                return self._either(isinstance(op, ast.Or), values)
            case ast.IfExp(test=test, body=body, orelse=other):
                return self.value(body if _plain(self.value(test)) else other)
        raise Unread(ast.unparse(node))

    def _name(self, name: str) -> Any:
        if name in self.local:
            return self.local[name]
        if name not in self.source and name in (*_BUILT_IN, "type"):
            return getattr(builtins, name)
        return self.source[name]

    def _items(self, nodes: list[ast.expr]) -> list[Any]:
        found: list[Any] = []
        for node in nodes:
            if isinstance(node, ast.Starred):
                found += _plain(self.value(node.value))
            else:
                found.append(self.value(node))
        return found

    def _table(self, keys: list[ast.expr | None], values: list[ast.expr]) -> dict[Any, Any]:
        table: dict[Any, Any] = {}
        for key, value in zip(keys, values, strict=True):
            if key is None:
                table |= dict(_plain(self.value(value)))
            else:
                table[_plain(self.value(key))] = self.value(value)
        return table

    def _either(self, first_true: bool, nodes: list[ast.expr]) -> Any:
        found = None
        for node in nodes:
            found = _plain(self.value(node))
            if bool(found) is first_true:
                break
        return found

    def _call(self, func: ast.expr, given: list[Any], keywords: list[ast.keyword]) -> Any:
        named: dict[str, Any] = {}
        for keyword in keywords:
            if keyword.arg is None:
                raise Unread(f"** in {ast.unparse(func)}()")
            named[keyword.arg] = self.value(keyword.value)
        if isinstance(func, ast.Attribute):
            owner = self.value(func.value)
            if type(owner) in (str, dict, tuple):
                if func.attr in _CHANGING:
                    raise Unread(ast.unparse(func))
                return getattr(owner, func.attr)(*map(_plain, given), **named)
            called = _attribute(owner, func.attr)
        else:
            called = self.value(func)
        if called is type and len(given) == 3:
            name, bases, body = given
            return _made(name, bases, dict(body))
        if isinstance(called, _Function) or getattr(called, "__module__", None) in REAL:
            return called(*given, **named)
        if called in (getattr(builtins, name) for name in _BUILT_IN):
            return called(*map(_plain, given), **named)
        raise Unread(f"{ast.unparse(func)}()")


def _plain(value: Any) -> Any:
    """`value`, which is to be computed with: what was read is a value, and not code."""
    if isinstance(value, Unknown | _Function | Source):
        raise Unread("code")
    return value


def _class(source: Source, node: ast.ClassDef) -> type:
    """A class with the attributes and bases of the one in the source, and `Unknown` for its methods."""
    if node.keywords or node.decorator_list:
        raise Unread(f"class {source.name}.{node.name}")
    bases = tuple(_Reader(source, {}).value(base) for base in node.bases)
    body: dict[str, Any] = {
        **{"__module__": source.name, "__qualname__": node.name},
        "__doc__": ast.get_docstring(node, clean=False),
    }
    for name, inner in _bindings(node.body).items():
        try:
            body[name] = _Reader(source, body).value(inner) if isinstance(inner, ast.expr) else Unknown()
        except Unread:
            body[name] = Unknown()
    return _made(node.name, bases, body)


def _forget_methods(node: ast.ClassDef) -> None:
    """Leave out what the methods of a class do: nobody reads it, and it is most of a module's tree."""
    for inner in node.body:
        if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef):
            inner.body.clear()


def _made(name: str, bases: tuple[Any, ...], body: dict[str, Any]) -> type:
    if "__init_subclass__" in body or not all(isinstance(base, type) for base in bases):
        raise Unread(f"class {name}")
    return type(name, bases, {key: value for key, value in body.items() if key != "__slots__"})


def _attribute(owner: Any, name: str) -> Any:
    if isinstance(owner, Source):
        return owner[name] if name in owner else _module(f"{owner.name}.{name}")
    if isinstance(owner, ModuleType):
        return getattr(owner, name)
    if isinstance(owner, type):
        found = getattr(owner, name, Unknown())
        if isinstance(found, Unknown):
            raise Unread(f"{owner.__module__}.{owner.__qualname__}.{name}")
        return found
    raise Unread(f".{name}")


def _bindings(body: list[ast.stmt]) -> dict[str, ast.AST | None]:
    """The one node that gives each name its value; None where several do, or where other code names it."""
    found: dict[str, ast.AST | None] = {}
    changed: set[str] = set()

    def bind(name: str, node: ast.AST | None) -> None:
        found[name] = None if name in found else node
        if isinstance(node, ast.expr):
            changed.update(_changed(node))

    for line in body:
        match line:
            case (
                ast.Assign(targets=[ast.Name(id=name)], value=value)
                | ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value)
            ):
                bind(name, value)
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                bind(name, line)
            case ast.Import(names=aliases):
                for alias in aliases:
                    bind(alias.asname or alias.name.partition(".")[0], line)
            case ast.ImportFrom(names=aliases):
                for alias in aliases:
                    bind(alias.asname or alias.name, line)
            case ast.Expr(value=ast.Constant()) | ast.Pass() | ast.AnnAssign(value=None):
                pass
            case ast.If(test=ast.Name(id="TYPE_CHECKING") | ast.Attribute(attr="TYPE_CHECKING"), orelse=[]):
                pass
            case _:
                changed.update(_named(line))
    return found | dict.fromkeys(changed)


def _changed(node: ast.expr) -> Iterator[str]:
    """Names whose values an expression changes."""
    for inner in ast.walk(node):
        match inner:
            case ast.Call(func=ast.Attribute(value=ast.Name(id=name), attr=method)) if method in _CHANGING:
                yield name
            case ast.NamedExpr(target=ast.Name(id=name)):
                yield name


def _named(line: ast.stmt) -> Iterator[str]:
    """All names that stand in a statement, which may change what they stand for."""
    for node in ast.walk(line):
        match node:
            case ast.Name(id=name) | ast.alias(asname=str(name)) | ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                yield name
            case ast.alias(name=name):
                yield name.partition(".")[0]


@cache
def _module(name: str) -> Any:
    """The source of module `name`; the module itself where it is one of `REAL`."""
    if name in REAL:
        return importlib.import_module(name)
    spec = _spec(name)
    read = getattr(spec.loader, "get_source", None)
    text = None if read is None else read(name)
    if text is None:
        raise Unread(f"no source of {name}")
    return Source(name, text, spec.submodule_search_locations is not None)


def module_file(name: str) -> Path | None:
    """Where the module `name` lies, which need not be imported; None where that cannot be told."""
    loaded = getattr(sys.modules.get(name), "__file__", None)
    if loaded is not None:
        return Path(loaded)
    try:
        origin = _spec(name).origin
    except (Unread, ImportError):
        return None
    return None if origin is None else Path(origin)


def _spec(name: str) -> Any:
    """As `importlib.util.find_spec`, which however imports the packages that the module lies in."""
    parent = name.rpartition(".")[0]
    path = _spec(parent).submodule_search_locations if parent else None
    if parent and path is None:
        raise Unread(f"{parent} is no package")
    for finder in sys.meta_path:
        find = getattr(finder, "find_spec", None)
        spec = None if find is None else find(name, path)
        if spec is not None:
            return spec
    raise Unread(f"no module {name}")
