"""mlbench: a benchmark for multi-label image classification with missing, wrong or weak labels."""

__version__ = "0.2.0"

#: Meaning of the harness: part of every run's identity. Raise it when the runner, the masks or the
#: splits change what the same settings produce.
HARNESS_VERSION = 2
