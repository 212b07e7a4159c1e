"""Miniatures: small made-up copies of data sets in their official layout, to rehearse on before 20 GB are fetched."""

from mlbench.miniature.make import IMAGES, list_miniatures, make

__all__ = ["IMAGES", "list_miniatures", "make"]
