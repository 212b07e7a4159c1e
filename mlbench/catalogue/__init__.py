"""What methods declare, read from their sources, so that lists, cards and pages need not import them, nor torch."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

from mlbench.catalogue.declared import Declared
from mlbench.catalogue.source import Unknown, Unread, value_at
from mlbench.registry import METHODS, load_method

#: What has to be read of a class, and what it must have from `Declared` and not of its own.
_ASKED = (
    *("settings_file", "settings_from", "preset"),
    *("version", "tracks", "supervision", "level", "hyperparameters", "head"),
)
_SHARED = ("kept_settings", "_kept")
_RESOLVING = ("declared", "settings_for", "resolve")


def declared(name: str) -> type[Declared]:
    """The class of the method `name` for lists and cards: as its source has it, else imported.

    What is read has the docstring and the attributes of `Declared`, and nothing else. What is wrong with a method, and
    that there is none, is left to `load_method` to say.
    """
    found = _found(name)
    return load_method(name) if found is None else found


def resolving(name: str) -> type[Declared]:
    """As `declared`, where its settings are to be resolved: imported where a method does that by code of its own."""
    found = _found(name)
    return load_method(name) if found is None or not _has(found, _RESOLVING) else found


def title(name: str) -> str:
    """The first line of the docstring of the method `name`; empty where only importing it would tell."""
    found = _found(name)
    return "" if found is None else (found.__doc__ or "").strip().partition("\n")[0]


def _found(name: str) -> type[Declared] | None:
    if name not in METHODS:
        return None
    point = METHODS.point(name)
    return _read(METHODS.canonical(name), point.module, point.attr)


@cache
def _read(name: str, module: str, attributes: str) -> type[Declared] | None:
    try:
        found = value_at(module, attributes)
        known = value_at("mlbench.methods", "SUPERVISION")
    except Unread:
        return None
    if not (isinstance(found, type) and issubclass(found, Declared) and _has(found, (*_ASKED, *_SHARED))):
        return None
    if not set(found.supervision) <= set(known):
        return None
    body = {"__doc__": found.__doc__, "__module__": found.__module__, "name": name}
    # What a method refuses it refuses when it is run.
    return type(found.__name__, (found,), {**body, "check_together": Declared.check_together})


def _has(found: type[Declared], names: Iterable[str]) -> bool:
    """Whether a class that was read has known values for all of `names`."""
    return not any(isinstance(getattr(found, name, Unknown()), Unknown) for name in names)
