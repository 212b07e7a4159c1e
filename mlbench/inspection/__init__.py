"""Runs looked at image by image: numbers of each image, a gallery in one HTML file, and FiftyOne data sets."""

from __future__ import annotations
