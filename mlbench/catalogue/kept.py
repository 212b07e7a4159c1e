"""Settings kept as data beside a method's module: found in a checkout and in a wheel, or their absence is an error."""

from __future__ import annotations

import sys
import tomllib
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlbench.catalogue.source import module_file
from mlbench.errors import MlbenchError

if TYPE_CHECKING:
    from mlbench.catalogue.declared import Declared


def kept_tables(method: type[Declared]) -> dict[str, Any]:
    """The settings of all methods of the module of `method`, by their names.

    They are read from its `settings_file`, and without one from ``<module>.toml`` where that is there. MlbenchError
    where the declared file is missing, as from a wheel whose package data do not name it, or cannot be read.
    """
    path = settings_path(method)
    if path is None:
        return {}
    try:
        return _parsed(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise MlbenchError(
            f"method '{method.name}': its settings_file '{method.settings_file}' is not installed beside module "
            f"{_declaring(method).__module__}: make it package data of the package that holds the method"
        ) from None
    except (ValueError, RecursionError) as error:  # not UTF-8, a number of thousands of digits, nested deep
        raise MlbenchError(f"method '{method.name}': {path.name}: not valid TOML: {error}") from None


def settings_path(method: type[Declared]) -> Traversable | None:
    """Where the settings of `method` are kept; None where none are declared and none lie beside its module.

    Its module need not be imported.
    """
    name = _declaring(method).__module__
    module = sys.modules.get(name)
    package = getattr(getattr(module, "__spec__", None), "parent", None) or getattr(module, "__package__", "")
    own = getattr(module, "__file__", None) if module is not None else module_file(name)
    if not package and own is None:
        return None
    folder: Traversable = files(package) if package else Path(str(own)).parent
    if method.settings_file:
        return folder / method.settings_file
    beside = folder / f"{name.rpartition('.')[2]}.toml"
    return beside if beside.is_file() else None


@cache
def _parsed(text: str) -> dict[str, Any]:
    """The tables of a file's text, to be read only: a module's methods ask again and again."""
    return tomllib.loads(text)


def _declaring(method: type[Declared]) -> type:
    """The class that declares the `settings_file` of `method`, a base of it perhaps; without one, itself."""
    return next((cls for cls in method.__mro__ if vars(cls).get("settings_file")), method)
