"""For commands that read, print and end: what they make is not searched for garbage."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """Make many objects that are all kept: the collector does not look through them again and again.

    Of `list methods`, which reads the sources of all methods, that was a sixth of the time.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def end_soon() -> None:
    """Let the process end without a last search for garbage, unless there are libraries in it that count on that."""
    if "torch" not in sys.modules:
        gc.freeze()
