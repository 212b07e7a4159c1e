"""What a command on a folder of records has done."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Report:
    """What was done, counted, a line for each thing worth knowing, and one for each problem."""

    counts: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def count(self, what: str) -> None:
        self.counts[what] = self.counts.get(what, 0) + 1

    def rows(self) -> list[dict[str, str]]:
        """What is worth knowing, a line a row; `kind` is "note" or "problem"."""
        told = [("note", line) for line in self.notes] + [("problem", line) for line in self.problems]
        return [{"kind": kind, "line": line} for kind, line in told]

    def text(self) -> str:
        done = [f"{number} {what}" for what, number in self.counts.items()] or ["no records"]
        notes, problems = (f"note: {line}" for line in self.notes), (f"problem: {line}" for line in self.problems)
        return "\n".join([", ".join(done), *notes, *problems])
