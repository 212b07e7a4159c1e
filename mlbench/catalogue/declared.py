"""What a method declares, and the settings that follow from it: all that needs no network, and so no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from mlbench.catalogue.kept import kept_tables
from mlbench.errors import UsageError, nearest
from mlbench.settings import Hyper

#: Every method has these: BoostLU composes with any of them.
HEAD_HYPERPARAMETERS = {
    "head.alpha_train": Hyper(1.0, "BoostLU factor in training; 1 is off", low=1.0, high=1e6),
    "head.alpha_infer": Hyper(1.0, "BoostLU factor in inference; 1 is off", low=1.0, high=1e6),
}


def is_of_head(key: str) -> bool:
    """Whether the setting `key` is a hyperparameter of the classification head: those of BoostLU are the method's."""
    return key.startswith("head.") and key not in (*HEAD_HYPERPARAMETERS, "head.alpha")


class Declared:
    """The part of `mlbench.methods.Method` that lists and cards ask for, where what it declares is explained."""

    name: ClassVar[str]
    version: ClassVar[int]
    tracks: ClassVar[tuple[str, ...]]
    supervision: ClassVar[tuple[str, ...]]
    level: ClassVar[str]
    hyperparameters: ClassVar[Mapping[str, Hyper]]
    head: ClassVar[Mapping[str, float]]
    settings_file: ClassVar[str]
    settings_from: ClassVar[Mapping[str, Mapping[str, str]]]
    preset: ClassVar[str]

    @classmethod
    def declared(cls) -> dict[str, Hyper]:
        """All hyperparameters of this method, the head's included; one of the head that it declares itself wins."""
        head = dict(HEAD_HYPERPARAMETERS)
        for key, value in cls.head.items():
            name = f"head.{key}"
            head[name] = Hyper(**{**vars(head[name]), "default": float(value)})
        return {**cls.hyperparameters, **head, **cls.hyperparameters}

    @classmethod
    def settings_for(cls, dataset: str, track: str) -> dict[str, Any]:
        """Published or tuned settings kept as data: `settings_file` beside the method's module.

        Tables ``[name.dataset]`` and ``[name.dataset.track]``; keys are hyperparameters or ``train.KEY``; a
        ``source`` key says where they come from. What `settings_from` and `preset` name comes before.
        """
        from mlbench.catalogue import resolving

        found: dict[str, Any] = {}
        for method, keys in cls.settings_from.items():
            theirs = resolving(method).settings_for(dataset, track)
            for old, new in keys.items():
                found |= {new + key.removeprefix(old): v for key, v in theirs.items() if key.startswith(old)}
        for name in dict.fromkeys((cls.name.removesuffix(cls.preset), cls.name)):
            table = cls._kept(name).get(dataset, {})
            found |= _settings_in(table) | _settings_in(table.get(track, {}))
        return found

    @classmethod
    def kept_settings(cls) -> list[tuple[str, dict[str, Any], str]]:
        """All of the method's own tables there: data set (and track), settings, where they come from."""
        found = []
        for dataset, table in cls._kept(cls.name).items():
            parts = {dataset: table}
            parts |= {f"{dataset}, track {track}": table[track] for track in ("head", "full") if track in table}
            found += [(where, _settings_in(part), part.get("source", "")) for where, part in parts.items()]
        return [row for row in found if row[1]]

    @classmethod
    def _kept(cls, name: str) -> dict[str, Any]:
        """The tables of `settings_for` by data set, of the method `name` of this module."""
        tables: dict[str, Any] = kept_tables(cls).get(name.rpartition(":")[2], {})
        return tables

    @classmethod
    def resolve(cls, changes: Mapping[str, Any]) -> dict[str, Any]:
        """Defaults with `changes` applied and checked; ``head.alpha`` sets both alphas."""
        declared = cls.declared()
        changes = dict(changes)
        if "head.alpha" in changes:
            alpha = changes.pop("head.alpha")
            changes = {"head.alpha_train": alpha, "head.alpha_infer": alpha} | changes
        values = {name: hyper.default for name, hyper in declared.items()}
        for name, value in changes.items():
            if name not in declared:
                known = [*declared, "head.alpha", "train.epochs", "train.lr"]
                raise UsageError(
                    f"method '{cls.name}' has no hyperparameter '{name}'.{nearest(name, known)} "
                    f"Declared: {', '.join(declared)}; training settings are train.KEY"
                )
            values[name] = declared[name].check(name, value)
        cls.check_together(values)
        return values

    @classmethod
    def check_together(cls, values: Mapping[str, Any]) -> None:
        """UsageError where `values` that are allowed each for itself do not go together; nothing by default."""


def _settings_in(table: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in table.items() if name not in ("head", "full", "source")}
