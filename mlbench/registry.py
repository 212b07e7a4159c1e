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
    """Entry point by method name, without the names that two packages claim: `load_method` refuses those."""
    return {name: points[0] for name, points in _claims().items() if len(points) == 1}


def _claims() -> dict[str, list[EntryPoint]]:
    """All that is registered under each name; the same entry found twice is one."""
    found: dict[str, list[EntryPoint]] = {}
    for point in entry_points(group=GROUP):
        claims = found.setdefault(point.name, [])
        if all(other.value != point.value for other in claims):
            claims.append(point)
    return dict(sorted(found.items()))


def _owner(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else "unknown package"


@cache
def load_method(name: str) -> type[Method]:
    """The class registered as `name`, checked to be a `Method`."""
    from mlbench.methods import SUPERVISION, Method

    claims = _claims()
    if name not in claims:
        raise unknown("method", name, claims)
    if len(claims[name]) > 1:
        registered = " and ".join(f"{point.value} ({_owner(point)})" for point in claims[name])
        raise UsageError(f"method '{name}' is registered twice: {registered}. Uninstall one or rename it")
    (point,) = claims[name]
    try:
        cls = point.load()
    except Exception as error:
        raise MlbenchError(f"method '{name}' ({point.value}) does not load: {error}") from error
    if not (isinstance(cls, type) and issubclass(cls, Method)):
        raise MlbenchError(f"method '{name}' ({point.value}) is not a subclass of mlbench.methods.Method")
    for level in cls.supervision:
        if level not in SUPERVISION:
            raise unknown("supervision", level, SUPERVISION, f"method '{name}'")
    if vars(cls).get("name", name) != name:  # one class under two names: each name gets its own
        cls = type(cls.__name__, (cls,), {"__doc__": cls.__doc__, "__module__": cls.__module__})
    cls.name = name
    return cls
