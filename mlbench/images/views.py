"""Views: a transform of the image together with the transform of the heat map that answers it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class View:
    """One view of an image in a batch.

    `size` is the side in pixels of the square image (None: the run's image size); the image is resized from the
    original, never from another view. `flip` mirrors left and right.
    """

    name: str
    flip: bool = False
    size: int | None = None

    def image(self, images: Tensor) -> Tensor:
        """Transform images [B, 3, H, W] (already at this view's size)."""
        return images.flip(-1) if self.flip else images

    def align(self, maps: Tensor) -> Tensor:
        """Bring heat maps [B, C, h, w] of this view back to the frame of the untransformed image.

        Mirroring reverses the width axis exactly (what `grid_sample` does only with corners aligned).
        """
        return maps.flip(-1) if self.flip else maps
