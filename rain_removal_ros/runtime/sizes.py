"""The image sizes that the networks take. Knows no framework: a size can be refused before one is loaded."""

from __future__ import annotations

import re

from rain_removal_ros.errors import ImageError, ParameterError

MIN_SIDE, MAX_SHORT_SIDE, MAX_LONG_SIDE = 64, 3072, 4096
SIZES_TAKEN = (
    f"from {MIN_SIDE}x{MIN_SIDE} to {MAX_LONG_SIDE}x{MAX_SHORT_SIDE} (or {MAX_SHORT_SIDE}x{MAX_LONG_SIDE})"
)

_SIZE = re.compile(r"([0-9]{1,9})x([0-9]{1,9})")


def is_taken(height: int, width: int) -> bool:
    """Whether the networks are made for images of this size, lying or upright."""
    short, long = sorted((height, width))
    return MIN_SIDE <= short <= MAX_SHORT_SIDE and long <= MAX_LONG_SIDE


def check_size(height: int, width: int) -> None:
    """Raise ImageError for an image that the networks are not made for."""
    if not is_taken(height, width):
        raise ImageError(
            f"image of {width}x{height} pixels; images {SIZES_TAKEN} are taken, so scale it first"
        )


def parse_size(text: str) -> tuple[int, int]:
    """`1280x720` -> (720, 1280), height before width. Raises ParameterError, also for a size not taken."""
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ParameterError(f"'{text}' is no size; sizes are written WIDTHxHEIGHT, as 1280x720")
    width, height = int(match[1]), int(match[2])
    if not is_taken(height, width):
        raise ParameterError(f"'{text}' is too small or too large; sizes {SIZES_TAKEN} are taken")
    return height, width
