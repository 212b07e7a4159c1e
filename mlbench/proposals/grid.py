"""Windows at fixed places: proposals that look at no pixel, a control for those that do."""

from __future__ import annotations

import numpy as np

GRID_RULE = "windows of 1, 3/4, 1/2, 3/8, 1/4 of each side, moved by half of theirs, the largest first"

_SHARES = (1.0, 0.75, 0.5, 0.375, 0.25)


def window_grid(image: np.ndarray, key: int = 0) -> np.ndarray:
    """Boxes float32 [m, 5] in shares of width and height; the score falls with the place in the list."""
    boxes = []
    for share in _SHARES:
        starts = np.linspace(0.0, 1.0 - share, int(np.ceil(2 * (1.0 - share) / share)) + 1)
        boxes += [(left, top, left + share, top + share) for top in starts for left in starts]
    scores = 1.0 - np.arange(len(boxes)) / len(boxes)
    return np.clip(np.column_stack([boxes, scores]), 0.0, 1.0).astype(np.float32)
