"""The methods installed here, ours and anybody's: entry points of the group ``mlbench.methods``, loaded on demand."""

from __future__ import annotations

from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING

from mlbench.errors import MlbenchError, UsageError, unknown

if TYPE_CHECKING:
    from mlbench.methods import Method

GROUP = "mlbench.methods"


def available() -> dict[str, EntryPoint]:
    """Entry point by method name; two packages claiming one name is an error that names both."""
    found: dict[str, EntryPoint] = {}
    for point in entry_points(group=GROUP):
        other = found.get(point.name)
        if other is not None and other.value != point.value:
            raise UsageError(
                f"method '{point.name}' is registered twice: {other.value} ({_owner(other)}) and "
                f"{point.value} ({_owner(point)}). Uninstall one or rename it"
            )
        found[point.name] = point
    return dict(sorted(found.items()))


def _owner(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else "unknown package"


@cache
def load_method(name: str) -> type[Method]:
    """The class registered as `name`, checked to be a `Method`."""
    from mlbench.methods import SUPERVISION, Method

    points = available()
    if name not in points:
        raise unknown("method", name, points)
    try:
        cls = points[name].load()
    except Exception as error:
        raise MlbenchError(f"method '{name}' ({points[name].value}) does not load: {error}") from error
    if not (isinstance(cls, type) and issubclass(cls, Method)):
        raise MlbenchError(f"method '{name}' ({points[name].value}) is not a subclass of mlbench.methods.Method")
    for level in cls.supervision:
        if level not in SUPERVISION:
            raise unknown("supervision", level, SUPERVISION, f"method '{name}'")
    if vars(cls).get("name", name) != name:  # one class under two names: each name gets its own
        cls = type(cls.__name__, (cls,), {"__doc__": cls.__doc__, "__module__": cls.__module__})
    cls.name = name
    return cls
