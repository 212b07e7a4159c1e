"""mlbench: a benchmark for multi-label image classification with missing, wrong or weak labels."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlbench.python import Results, run, score, table

__version__ = "0.2.0"

#: Meaning of the harness: part of every run's identity. Raise it when the runner, the masks or the
#: splits change what the same settings produce.
HARNESS_VERSION = 2

__all__ = ["HARNESS_VERSION", "Results", "__version__", "run", "score", "table"]


def __getattr__(name: str) -> Any:
    """The verbs, imported when they are first asked for: ``import mlbench`` alone needs nothing."""
    if name in ("Results", "run", "score", "table"):
        return getattr(import_module("mlbench.python"), name)
    raise AttributeError(f"module 'mlbench' has no attribute '{name}'")
