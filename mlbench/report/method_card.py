"""The card of a method: what its class and its settings file say of it, for `show` and the site."""

from __future__ import annotations

import textwrap
from collections.abc import Collection
from dataclasses import dataclass

from mlbench.catalogue import declared
from mlbench.errors import MlbenchError
from mlbench.registry import METHODS, available

#: What `level_of` means.
LEVELS = "A faithful; B faithful mechanism, some settings unpublished; C closest mechanism on public parts"

_WIDTH = 110
_ELSEWHERE = (
    "Other settings are those of the protocol, and of the method it builds on. What runs cost: `mlbench explain cost`."
)


@dataclass(frozen=True)
class MethodCard:
    """Paragraphs of the docstring and what the class declares.

    hyperparameters : as (name, default, meaning). settings : those kept for a data set, or for it on one track, as
    (where, what, source).
    """

    docstring: tuple[str, ...]
    level: str = ""
    tracks: tuple[str, ...] = ()
    supervision: tuple[str, ...] = ()
    version: int = 0
    hyperparameters: tuple[tuple[str, str, str], ...] = ()
    settings: tuple[tuple[str, str, str], ...] = ()

    def section(self, label: str) -> str:
        """What follows "`label`: " at the beginning of a paragraph; empty where there is none."""
        found = (text for text in self.docstring if text.startswith(f"{label}: "))
        return next(found, "").removeprefix(f"{label}: ")

    def text(self, method: str) -> str:
        """The card for a terminal."""
        title, *paragraphs = self.docstring
        lines = [f"{method}: {title}"]
        for paragraph in paragraphs:
            lines += ["", _filled(paragraph)]
        lines += [
            "",
            *([f"level: {self.level} ({LEVELS})"] if self.level else []),
            f"version {self.version}; tracks: {', '.join(self.tracks)}; sees: {', '.join(self.supervision)}",
        ]
        lines += ["hyperparameters:"] if self.hyperparameters else []
        lines += [f"  {name} = {default}  # {about}" for name, default, about in self.hyperparameters]
        lines += ["settings of its own:"] if self.settings else []
        for where, what, source in self.settings:
            lines += [f"  on {where}: {what}", textwrap.indent(_filled(f"source: {source}"), " " * 4)]
        return "\n".join([*lines, _ELSEWHERE])


def method_card(method: str) -> MethodCard:
    """The card of a registered method; of any other, why there is none."""
    if method not in METHODS:
        return MethodCard(("Not registered here.",))
    try:
        found = declared(method)
    except MlbenchError as error:
        return MethodCard((str(error),))
    return MethodCard(
        tuple(" ".join(paragraph.split()) for paragraph in (found.__doc__ or "").strip().split("\n\n")),
        level_of(method),
        tuple(found.tracks),
        tuple(found.supervision),
        found.version,
        tuple((name, _value(hyper.default), hyper.help) for name, hyper in found.hyperparameters.items()),
        tuple(
            (where, ", ".join(f"{name} = {_value(value)}" for name, value in values.items()), source)
            for where, values, source in found.kept_settings()
        ),
    )


def level_of(method: str, registered: Collection[str] | None = None) -> str:
    """How close the registered method is to its paper, in words; see `Method.level`.

    `registered` are the `available` methods, looked up where they are not given.
    """
    if method not in (available() if registered is None else registered):
        return "not registered"
    level = declared(method).level
    return {"": "", "A": "A", "B": "B, reimplemented", "C": "C, approximation"}.get(level, level)


def _filled(text: str) -> str:
    return textwrap.fill(text, _WIDTH, break_long_words=False, break_on_hyphens=False)


def _value(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
