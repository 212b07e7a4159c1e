"""What is installed, ours and anybody's: entry points in six groups, found once in a process and loaded on demand.

==================== ============================================= ====================
group                what an entry is                              registry
==================== ============================================= ====================
mlbench.methods      a class (`mlbench.methods.Method`)            `METHODS`, here
mlbench.datasets     an object with ``load(root)``                 `mlbench.datasets`
mlbench.backbones    a `mlbench.models.backbones.Backbone`         `mlbench.models`
mlbench.heads        a head's description                          `mlbench.models`
mlbench.protocols    a TOML file in a package                      `mlbench.protocol`
mlbench.metrics      a `mlbench.metrics.Metric`                    `mlbench.metrics`
==================== ============================================= ====================

A name that two packages claim is written ``package:name``. An entry may be many at once (`Family`): ``entry:member``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar, runtime_checkable

from mlbench.errors import MlbenchError, UsageError, unknown

if TYPE_CHECKING:
    from mlbench.methods import Method

OWN_PACKAGE = "mlbench-multilabel"

T = TypeVar("T")


#: What was loaded, by kind, entry point and name.
_LOADED: dict[tuple[str, str, str], Any] = {}

#: Owner by id of the installed package, which is held too: each asking for its name or version parses its metadata.
_OWNERS: dict[int, tuple[Any, Owner]] = {}


class Owner(NamedTuple):
    """The package (distribution) that registers something, and its version; "unknown" where metadata do not say."""

    package: str
    version: str

    def __str__(self) -> str:
        return f"{self.package} {self.version}"


@runtime_checkable
class Family(Protocol):
    """Many things behind one entry point, made when they are asked for by ``entry:member``."""

    def members(self) -> Iterable[str]:
        """Names of all members."""

    def member(self, name: str) -> Any:
        """The member `name`; UsageError where there is none."""


class Registry(Mapping[str, T]):
    """The entry points of one group, as a mapping from name to what is registered.

    Iterating loads nothing. A name is an entry's own; ``package:entry`` where two packages claim it (and may be
    always); ``entry:member`` of a `Family`.

    Parameters
    ----------
    group : the entry points' group.
    kind : what an entry is, in words, for errors.
    accept : makes of a name and what was loaded the registered object, or raises an MlbenchError that says what is
        wrong with it (whose name and place the registry puts before).
    load : reads an entry point; by default it is imported.
    """

    def __init__(
        self,
        group: str,
        kind: str,
        accept: Callable[[str, Any], T],
        load: Callable[[EntryPoint], Any] = EntryPoint.load,
    ) -> None:
        self.group, self.kind = group, kind
        self._accept, self._load = accept, load

    def __iter__(self) -> Iterator[str]:
        names: list[str] = []
        for name, points in self.claims().items():
            names += [name] if len(points) == 1 else [f"{owner_of(point).package}:{name}" for point in points]
        return iter(sorted(names))

    def __len__(self) -> int:
        return sum(len(points) for points in self.claims().values())

    def __contains__(self, name: object) -> bool:
        """Whether `name` can be asked for; of a family's member only whether there is such a family."""
        try:
            self._find(str(name))
        except UsageError:
            return False
        return True

    def __getitem__(self, name: str) -> T:
        """What is registered as `name`, loaded once in a process.

        UsageError for an unknown name or one that two packages claim; MlbenchError for what does not load or is not
        what the group is for.
        """
        point, member = self._find(name)
        known = self.canonical(name)
        key = self.kind, point.value, known
        if key not in _LOADED:
            _LOADED[key] = self._made(point, member, known)
        found: T = _LOADED[key]
        return found

    def get(self, name: str, default: Any = None) -> Any:
        """What is registered as `name`, or `default` where nothing is, or where two packages claim it."""
        return self[name] if name in self else default  # noqa: SIM401  # it would call itself

    def claims(self) -> dict[str, tuple[EntryPoint, ...]]:
        """All that is registered under each name; the same entry found twice is one."""
        return _scan(self.group)

    def point(self, name: str) -> EntryPoint:
        """The entry point behind `name`, which is not loaded; errors as for ``registry[name]``."""
        return self._find(name)[0]

    def owner(self, name: str) -> Owner:
        """The package that registers `name`; nothing is loaded."""
        return owner_of(self.point(name))

    def owner_in_records(self, name: str) -> Owner | None:
        """The package behind a name that `canonical` gave; None where nothing is registered so."""
        for point in self.claims().get(name, ()):
            if _is_ours(point):  # keeps its name where others claim it, too
                return owner_of(point)
        return self.owner(name) if name in self else None

    def canonical(self, name: str) -> str:
        """The one name that records state, however `name` was written.

        What this package registers has its own name; so has what others register, unless several claim it.
        """
        point, member = self._find(name)
        contested = len(self.claims()[point.name]) > 1 and not _is_ours(point)
        entry = f"{owner_of(point).package}:{point.name}" if contested else point.name
        return entry if member is None else f"{entry}:{member}"

    def _find(self, name: str) -> tuple[EntryPoint, str | None]:
        """Entry point and, of ``entry:member``, the member."""
        claims = self.claims()
        first, colon, rest = name.partition(":")
        if colon:
            points = [point for points in claims.values() for point in points]
            owned = {point.name: point for point in points if _normal(owner_of(point).package) == _normal(first)}
            entry, more, member = rest.partition(":")
            if entry in owned:
                return owned[entry], member if more else None
            if owned and first not in claims:
                raise unknown(self.kind, name, [f"{first}:{own}" for own in owned])
        if first not in claims:
            raise self._unknown(name)
        if len(claims[first]) > 1:
            both = " and ".join(f"{point.value} ({owner_of(point)})" for point in claims[first])
            written = " or ".join(f"{owner_of(point).package}:{name}" for point in claims[first])
            raise UsageError(f"{self.kind} '{first}' is registered twice: {both}. Write {written}, or uninstall one")
        return claims[first][0], rest if colon else None

    def _unknown(self, name: str) -> UsageError:
        if not any(_is_ours(point) for points in self.claims().values() for point in points):
            return UsageError(
                f"unknown {self.kind} '{name}': the installed {OWN_PACKAGE} registers no {self.kind} at all (group "
                f"{self.group}), so it is older than this code: install it again. "
                f"Known: {', '.join(self) or 'none'}"
            )
        return unknown(self.kind, name, self)

    def _made(self, point: EntryPoint, member: str | None, name: str) -> T:
        what = f"{self.kind} '{name}' ({point.value})"
        try:
            found = self._load(point)
        except (Exception, SystemExit) as error:  # anybody's code, which may end the process that imports it
            raise MlbenchError(f"{what} does not load: {error}") from error
        if isinstance(found, Family) and not isinstance(found, type):
            if not member:
                raise UsageError(f"{what} is many: write {point.name}:NAME")
            found = found.member(member)
        elif member is not None:
            raise unknown(self.kind, name, self)
        try:
            return self._accept(name, found)
        except MlbenchError as error:
            raise type(error)(f"{what}: {error}") from error.__cause__


def forget() -> None:
    """Look anew for what is installed, in tests and after an installation within a process."""
    _scan.cache_clear()
    _OWNERS.clear()
    _LOADED.clear()


def owner_of(point: EntryPoint) -> Owner:
    """The package that an entry point is from."""
    package = point.dist
    if package is None:
        return Owner("unknown package", "unknown")
    if id(package) not in _OWNERS:
        _OWNERS[id(package)] = package, Owner(package.name, package.version or "unknown")
    return _OWNERS[id(package)][1]


def _is_ours(point: EntryPoint) -> bool:
    return _normal(owner_of(point).package) == OWN_PACKAGE


def _normal(package: str) -> str:
    """A package's name as package indexes compare them."""
    return re.sub(r"[-_.]+", "-", package).lower()


@cache
def _scan(group: str) -> dict[str, tuple[EntryPoint, ...]]:
    """The entry points of `group` by name; all packages' metadata are read for it, so once in a process."""
    found: dict[str, tuple[EntryPoint, ...]] = {}
    for point in entry_points(group=group):
        claims = found.get(point.name, ())
        if all(other.value != point.value for other in claims):
            found[point.name] = (*claims, point)
    return dict(sorted(found.items()))


def _method(name: str, found: Any) -> type[Method]:
    # What is registered checks itself: nothing of the contract is imported here, and a list of names needs no torch.
    if not (isinstance(found, type) and callable(getattr(found, "registered_as", None))):
        raise MlbenchError("is not a subclass of mlbench.methods.Method")
    method: type[Method] = found.registered_as(name)  # type: ignore[attr-defined]
    return method


METHODS: Registry[type[Method]] = Registry("mlbench.methods", "method", _method)


def available() -> dict[str, EntryPoint]:
    """Entry point by method name, without the names that two packages claim: `load_method` refuses those."""
    return {name: points[0] for name, points in METHODS.claims().items() if len(points) == 1}


def load_method(name: str) -> type[Method]:
    """The class registered as `name`, checked to be a `Method`."""
    return METHODS[name]
