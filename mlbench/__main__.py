"""``python -m mlbench``."""

from mlbench.cli import main

main()
