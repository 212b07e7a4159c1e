"""Names that a shell completes: what is installed, and the keys of runs. None of them needs torch.

Parameters are found by what they are called, in every command, so that a new command completes what it asks for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import click
from click.shell_completion import CompletionItem

from mlbench.cli.brief import uncollected
from mlbench.errors import MlbenchError

#: Characters of a key that tell runs apart, and the most names that are offered.
_KEY, _MOST = 16, 200


class Name(click.ParamType):
    """Text that names something. A part before a comma stays as it is where `several`."""

    name = "text"

    def __init__(self, names: Callable[[click.Context], Mapping[str, str]], several: bool) -> None:
        self.names, self.several = names, several

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Names that begin as `incomplete`, with what they are; none where they cannot be read."""
        before, comma, begun = incomplete.rpartition(",") if self.several else ("", "", incomplete)
        try:
            with uncollected():
                found = self.names(ctx)
        except (MlbenchError, OSError):
            return []
        given = before.split(",")
        named = {name: text for name, text in found.items() if name.startswith(begun) and name not in given}
        items = [CompletionItem(f"{before}{comma}{name}", help=text or None) for name, text in named.items()][:_MOST]
        return items or [CompletionItem(incomplete, type="file")]  # as a protocol's or a data set's .toml


def add_completion(group: click.Group) -> None:
    """Let the text parameters of all commands in `group` complete the names that they are called after."""
    for place, parameter in _parameters(group, ""):
        names = _KINDS.get(parameter.name or "") or (_NAMES.get(place) if parameter.name == "name" else None)
        if names is not None and parameter.type is click.STRING:
            listed = isinstance(parameter, click.Option) and not parameter.multiple
            parameter.type = Name(names, several=listed and parameter.name in _LISTS)


def _parameters(group: click.Group, before: str) -> Iterator[tuple[str, click.Parameter]]:
    """The parameters of all commands, each with its command's words."""
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from _parameters(command, f"{before}{name} ")
        else:
            yield from ((f"{before}{name}", parameter) for parameter in command.params)


def _methods(context: click.Context) -> dict[str, str]:
    from mlbench.catalogue import title

    return {name: title(name) for name in _registered("methods")}


def _protocols(context: click.Context) -> dict[str, str]:
    from mlbench.protocol import list_protocols

    return list_protocols()


def _datasets(context: click.Context) -> dict[str, str]:
    from mlbench.datasets import list_datasets

    return list_datasets()


def _backbones(context: click.Context) -> dict[str, str]:
    return dict.fromkeys(_registered("backbones"), "")


def _heads(context: click.Context) -> dict[str, str]:
    return dict.fromkeys(_registered("heads"), "")


def _metrics(context: click.Context) -> dict[str, str]:
    from mlbench.protocol import list_protocols, load_protocol

    tables = [load_protocol(name).table.metrics for name in list_protocols()]
    shown = dict.fromkeys(metric for table in tables for metric in table)
    return dict.fromkeys(sorted({*shown, *_registered("metrics")}), "")


def _runs(context: click.Context) -> dict[str, str]:
    from mlbench.paths import store_dir
    from mlbench.store import summarise_records

    root = Path(context.params.get("store") or store_dir())
    runs = summarise_records(root)[0] if root.is_dir() else []
    return {run["key"][:_KEY]: f"{run['method']} on {run['dataset']}, seed {run['repetition']}" for run in runs}


def _shown(context: click.Context) -> dict[str, str]:
    return {**_methods(context), **_protocols(context), **_runs(context)}


def _checked(context: click.Context) -> Mapping[str, str]:
    names = _KINDS.get(str(context.params.get("kind")))
    return {} if names is None else names(context)


def _registered(kind: str) -> Iterable[str]:
    from importlib.metadata import entry_points  # slow to import, and few commands complete anything

    return sorted({point.name for point in entry_points(group=f"mlbench.{kind}")})


#: What a parameter of this name takes.
_KINDS: Mapping[str, Callable[[click.Context], Mapping[str, str]]] = {
    **dict.fromkeys(("method", "methods"), _methods),
    "protocol": _protocols,
    **dict.fromkeys(("dataset", "datasets"), _datasets),
    **dict.fromkeys(("metric", "metrics"), _metrics),
    "backbone": _backbones,
    "head": _heads,
    **dict.fromkeys(("run", "run2", "runs", "first", "second"), _runs),
}
#: What the argument ``NAME`` of a command is.
_NAMES: Mapping[str, Callable[[click.Context], Mapping[str, str]]] = {
    "show": _shown,
    "check": _checked,
    "check-method": _methods,
    **dict.fromkeys(("data prepare", "data verify", "data describe"), _datasets),
}
#: Options that take several, separated by commas.
_LISTS = ("method", "methods", "datasets", "metric", "metrics")
