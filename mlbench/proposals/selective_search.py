"""Selective search and edge boxes, both from OpenCV's contrib modules."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mlbench.errors import DataError
from mlbench.files import sha256_file

#: Longest side in pixels at which regions are grown, and the least side of a box, as a share of the image's.
LONGEST, LEAST = 300, 0.04

SEARCH_RULE = f"fast, longest side {LONGEST}, least side {LEAST}, order by area and draw, 1"
EDGE_RULE = "edge boxes on RGB / 255, at most 2000, 1"


def opencv() -> Any:
    """The module `cv2` with its contrib modules.

    Raises
    ------
    DataError : it is not installed, or without the contrib modules.
    """
    try:
        import cv2

        cv2.ximgproc.segmentation  # noqa: B018
    except (ImportError, AttributeError):
        raise DataError(
            "proposals need OpenCV with its contrib modules: pip install 'mlbench-multilabel[proposals]', and where "
            "FiftyOne's plain OpenCV then still lies over them: pip install --force-reinstall --no-deps "
            "opencv-contrib-python-headless (or take --set proposals.source=grid, which looks at no pixel)"
        ) from None
    return cv2


def selective_search(image: np.ndarray, key: int) -> np.ndarray:
    """Proposals of an image uint8 RGB [H, W, 3]: float32 [m, 5] in shares of width and height, best first.

    OpenCV's "fast" search on the image reduced to `LONGEST` pixels. Boxes narrower or lower than `LEAST` of the image
    are left out; where none is left, the whole image is the one proposal. OpenCV orders boxes by draws from the
    process's own generator, which no seed reaches; here they are ordered by their place in descending area times a
    draw seeded by `key`, in the spirit of the paper's place in the hierarchy times a draw. The score is the share of
    boxes that come later, in (0, 1].

    Source: Uijlings et al., IJCV 2013; order substituted.
    """
    scale = min(1.0, LONGEST / max(image.shape[:2]))
    size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
    small = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR)) if scale < 1 else image
    search = opencv().ximgproc.segmentation.createSelectiveSearchSegmentation()
    search.setBaseImage(np.ascontiguousarray(small[:, :, ::-1]))
    search.switchToSelectiveSearchFast()
    found = np.unique(np.asarray(search.process(), dtype=np.int64).reshape(-1, 4), axis=0)
    left, top, width, height = found[(found[:, 2] >= LEAST * size[0]) & (found[:, 3] >= LEAST * size[1])].T
    if not len(left):
        return np.array([[0, 0, 1, 1, 1]], dtype=np.float32)
    place = np.empty(len(left))
    place[np.argsort(-width * height, kind="stable")] = np.arange(1, len(left) + 1)
    order = np.argsort(place * np.random.RandomState(key % 2**32).rand(len(left)), kind="stable")
    scores = np.empty(len(left))
    scores[order] = 1.0 - np.arange(len(left)) / len(left)
    edges = np.column_stack([left / size[0], top / size[1], (left + width) / size[0], (top + height) / size[1]])
    return np.column_stack([edges, scores]).astype(np.float32)[order]


def edge_boxes(image: np.ndarray, model: Path, most: int = 2000) -> np.ndarray:
    """Proposals of an image uint8 RGB [H, W, 3] from its edges: float32 [m, 5] in shares, best first, at most `most`.

    `model` is the structured-forest file that OpenCV's edge detector reads (not part of OpenCV). The whole image is
    the one proposal where none is found.

    Raises
    ------
    DataError : no such file, or OpenCV without contrib modules.

    Source: Zitnick and Dollar, ECCV 2014, with OpenCV's default settings.
    """
    detector, boxes_of = _edge_detector(str(model)), opencv().ximgproc.createEdgeBoxes()
    boxes_of.setMaxBoxes(most)
    edges = detector.detectEdges(image.astype(np.float32) / 255)
    orientation = detector.computeOrientation(edges)
    boxes, scores = boxes_of.getBoundingBoxes(detector.edgesNms(edges, orientation), orientation)
    if not len(boxes):
        return np.array([[0, 0, 1, 1, 1]], dtype=np.float32)
    left, top, width, height = np.asarray(boxes, dtype=np.float64).reshape(-1, 4).T
    high, wide = image.shape[:2]
    edges_of = np.column_stack([left / wide, top / high, (left + width) / wide, (top + height) / high])
    return np.column_stack([np.clip(edges_of, 0, 1), np.ravel(scores)]).astype(np.float32)


def edge_rule(model: Path) -> dict[str, Any]:
    """All that decides what `edge_boxes` finds with `model`: the detector's file, its settings, OpenCV's version."""
    settings = opencv().ximgproc.createEdgeBoxes()
    names = {name.removeprefix("get") for name in dir(settings) if name.startswith("get")}
    values = {name: getattr(settings, f"get{name}")() for name in sorted(names - {"BoundingBoxes", "DefaultName"})}
    return {"method": EDGE_RULE, "model": sha256_file(model), "settings": values, "opencv": opencv().__version__}


@lru_cache(maxsize=1)
def _edge_detector(model: str) -> Any:
    cv2 = opencv()
    if not Path(model).is_file():
        raise DataError(f"{model}: no such file; edge boxes need the structured-forest model of OpenCV's extra data")
    try:
        return cv2.ximgproc.createStructuredEdgeDetection(model)
    except cv2.error as error:
        raise DataError(f"{model}: no structured-forest model ({str(error).strip().splitlines()[-1]})") from None
