"""Masks as people handle them: drawn into files, looked at, exported and imported."""
