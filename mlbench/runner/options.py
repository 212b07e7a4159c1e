"""How a run is executed: where its files go, what it goes on from, and what it leaves behind."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

from mlbench.errors import UsageError, unknown
from mlbench.paths import store_dir
from mlbench.runner.feed import OpenedFeatures
from mlbench.runner.probe import Probe

KEEP = ("auto", "epochs", "selected")


@dataclasses.dataclass(frozen=True)
class Options:
    """How a run is executed; none of it may change its numbers.

    `keep` says of which epochs the predictions stay: "epochs" (all), "selected", or "auto", all where together they are
    small. `on_checkpoint` is called after each checkpoint. `opened` holds features that several runs share. `remark` is
    added to the record's notes. `probe` is what the run looks at its images through.
    """

    store: Path = dataclasses.field(default_factory=store_dir)
    resume: bool = False
    again: bool = False
    keep: str = "auto"
    device: str = "auto"
    checkpoint_seconds: float = 30.0
    quiet: bool = False
    command: Sequence[str] = ()
    on_checkpoint: Callable[[], None] | None = None
    opened: OpenedFeatures | None = None
    remark: str = ""
    probe: Probe = dataclasses.field(default_factory=Probe)

    def __post_init__(self) -> None:
        if self.keep not in KEEP:
            raise unknown("choice", self.keep, KEEP, "--keep")
        try:
            str(self.store).encode()
        except UnicodeEncodeError:  # libraries that write into it take no other names
            raise UsageError(f"{str(self.store)!r}: the name of the run store is not valid UTF-8") from None
