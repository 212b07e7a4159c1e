"""Sweeps: a list of runs frozen before the first one starts, launched here, on a Ray cluster or through Slurm."""
