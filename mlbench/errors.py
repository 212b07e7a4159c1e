"""Errors meant for people: one line, what was wrong, where, and the nearest right name."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable


class MlbenchError(Exception):
    """Something failed that the person can understand and mend (exit code 1)."""

    exit_code = 1


class UsageError(MlbenchError):
    """The person asked for something that does not exist or cannot be (exit code 2)."""

    exit_code = 2


class DataError(MlbenchError):
    """A data set, record or weight file is missing, broken or not what it claims to be (exit code 1)."""


class MethodError(MlbenchError):
    """A method's own code failed, or gave what its contract does not allow; the cause is attached (exit code 1)."""


def nearest(name: str, choices: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the choice closest to `name`, or an empty string."""
    found = difflib.get_close_matches(str(name), [str(c) for c in choices], n=1, cutoff=0.5)
    return f" Did you mean '{found[0]}'?" if found else ""


def unknown(kind: str, name: str, choices: Iterable[str], where: str = "") -> UsageError:
    """Build the error for a name that is not one of `choices`.

    `kind` says what was named ("method", "key"), `where` the file or option it stood in. Choices that hold a comma are
    shown in double quotes, as options take them.
    """
    known = sorted(str(c) for c in choices)
    place = f"{where}: " if where else ""
    shown = [f'"{name}"' if "," in name else name for name in known[:40]]
    listed = ", ".join(shown) + (", ..." if len(known) > 40 else "")
    return UsageError(f"{place}unknown {kind} '{name}'.{nearest(name, known)} Known: {listed or 'none'}")


#: What steers a terminal, turns the direction of writing around, ends a line unseen, or cannot be written at all (in
#: UTF-8, or in XML).
_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u206f\ud800-\udfff\ufeff\ufff9-\ufffb\ufffe\uffff]"
)


def visible(text: str) -> str:
    """`text` with control characters, bidi marks and lone surrogates written as escapes; tabs and line feeds stay.

    For all that is printed: names of files, classes and methods, and reasons of servers, come from anybody.
    """
    return _UNSEEN.sub(lambda found: ascii(found[0])[1:-1], text)
