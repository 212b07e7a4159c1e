"""What a method's page says of the method itself, from its registered class."""

from __future__ import annotations

from dataclasses import dataclass

from mlbench.errors import MlbenchError
from mlbench.report.paper_tables import level_of


@dataclass(frozen=True)
class MethodCard:
    """Paragraphs of the docstring and what the class declares; hyperparameters as (name, default, meaning)."""

    docstring: tuple[str, ...]
    level: str = ""
    tracks: tuple[str, ...] = ()
    supervision: tuple[str, ...] = ()
    version: int = 0
    hyperparameters: tuple[tuple[str, str, str], ...] = ()


def method_card(method: str) -> MethodCard:
    """The card of a registered method; of any other, why there is none."""
    from mlbench.registry import available, load_method

    if method not in available():
        return MethodCard(("Not registered here.",))
    try:
        found = load_method(method)
    except MlbenchError as error:
        return MethodCard((str(error),))
    return MethodCard(
        tuple(" ".join(paragraph.split()) for paragraph in (found.__doc__ or "").strip().split("\n\n")),
        level_of(method),
        tuple(found.tracks),
        tuple(found.supervision),
        found.version,
        tuple((name, str(hyper.default), hyper.help) for name, hyper in found.hyperparameters.items()),
    )
