"""The image sizes that the networks take. Knows no framework: a size can be refused before one is loaded."""

from __future__ import annotations

from rain_removal_ros.errors import ImageError

MIN_SIDE, MAX_HEIGHT, MAX_WIDTH = 64, 2160, 3840
SIZES_TAKEN = f"from {MIN_SIDE}x{MIN_SIDE} to {MAX_WIDTH}x{MAX_HEIGHT}"


def is_taken(height: int, width: int) -> bool:
    """Whether the networks are made for images of this size."""
    return MIN_SIDE <= height <= MAX_HEIGHT and MIN_SIDE <= width <= MAX_WIDTH


def check_size(height: int, width: int) -> None:
    """Raise ImageError for an image that the networks are not made for."""
    if not is_taken(height, width):
        raise ImageError(f"image of {width}x{height} pixels; images {SIZES_TAKEN} are taken")
