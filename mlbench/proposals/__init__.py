"""Region proposals: boxes that may hold an object, found without labels or read from files.

The array of a split is float32 [N, R, 5]: x1, y1, x2, y2 as shares (0 to 1) of the width and height of the decoded
image, so that they fit the image at every size, and a score, higher first. Images with fewer than R boxes are filled
up with zeros; a box without area is no proposal (`split_proposals`).
"""

from __future__ import annotations

from mlbench.proposals.arrays import Regions, import_proposals, load_proposals, split_proposals

__all__ = ["Regions", "import_proposals", "load_proposals", "split_proposals"]
