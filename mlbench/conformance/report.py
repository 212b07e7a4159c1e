"""What was checked of a plugin, and how it went."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field


class Skipped(Exception):
    """A check that does not apply, with the reason."""


@dataclass
class Report:
    """Rows of (track, check, "passed" / "skipped" / "FAILED", remark); `track` is empty where there is none."""

    subject: str
    rows: list[tuple[str, str, str, str]] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        return all(outcome != "FAILED" for _, _, outcome, _ in self.rows)

    def attempt(self, track: str, check: str, action: Callable[[], str | None]) -> bool:
        """Do `action`, which raises where the check fails and may return a remark; whether it did not fail."""
        try:
            self.rows.append((track, check, "passed", action() or ""))
        except Skipped as skipped:
            self.rows.append((track, check, "skipped", str(skipped)))
        except Exception as error:
            first = (str(error).splitlines() or [""])[0]
            self.rows.append((track, check, "FAILED", f"{type(error).__name__}: {first}"))
            return False
        return True

    def as_rows(self) -> list[dict[str, str]]:
        """`rows` with names."""
        return [dict(zip(("track", "check", "outcome", "remark"), row, strict=True)) for row in self.rows]

    def text(self) -> str:
        width = 5 if any(track for track, *_ in self.rows) else 0
        space = " " if width else ""
        lines = [f"{self.subject}: {'conforms' if self.passed else 'does NOT conform'}"]
        lines += [
            f"  {track:{width}}{space}{check:38} {outcome}{': ' + why if why else ''}"
            for track, check, outcome, why in self.rows
        ]
        return "\n".join(lines)
