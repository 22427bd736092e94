"""Encoded images, of files and of messages, to pixels. Knows OpenCV, neither ROS nor torch."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

import rain_removal_ros.quiet_opencv  # noqa: F401
from rain_removal_ros.errors import ImageError, shown
from rain_removal_ros.image_header import (
    Data,
    ImageHeader,
    as_stored,
    check_complete,
    format_of,
    read_header,
)
from rain_removal_ros.runtime.sizes import check_size

LARGEST_PICTURE = 1 << 26
"""Pixels, of images that no network is to be given whole."""


def check_decodable(height: int, width: int) -> None:
    """Raise ImageError for an image that is too large to be decoded at all."""
    if height * width > LARGEST_PICTURE:
        raise ImageError(f"image of {width}x{height} pixels; up to {LARGEST_PICTURE} pixels are decoded")


TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda image: image,
    2: lambda image: image[:, ::-1],
    3: lambda image: image[::-1, ::-1],
    4: lambda image: image[::-1],
    5: lambda image: image.swapaxes(0, 1),
    6: lambda image: image[::-1].swapaxes(0, 1),
    7: lambda image: image[::-1, ::-1].swapaxes(0, 1),
    8: lambda image: image[:, ::-1].swapaxes(0, 1),
}
"""EXIF's orientation -> what turns the stored pixels upright."""


def decode(
    data: Data, upright: bool = False, check: Callable[[int, int], None] = check_size
) -> tuple[np.ndarray, ImageHeader]:
    """The pixels as they are stored, and the header.

    uint8 or uint16, (H, W) grey, (H, W, 3) BGR or (H, W, 4) BGRA, turned as EXIF says where `upright`.
    `check` is given the declared height and width before anything is decoded and raises for what is too
    large.
    Raises ImageError for what is no image, ends early, is damaged, or holds other numbers.
    """
    header = read_header(data)
    check(header.height, header.width)
    check_complete(header, len(data))
    pixels = decoded(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED, f"{header.format} image")
    if pixels is None:
        raise ImageError(f"{header.format} image is damaged and cannot be decoded")
    if pixels.dtype not in (np.uint8, np.uint16) or (pixels.ndim == 3 and pixels.shape[2] not in (1, 3, 4)):
        raise ImageError(
            f"{header.format} image holds {pixels.dtype} of shape {pixels.shape}; 8 or 16 bits of grey, "
            "colour, or colour and alpha are taken"
        )
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[..., 0]
    if upright:
        pixels = np.ascontiguousarray(TURNS[header.orientation](pixels))
    return pixels, header


def decoded(data: np.ndarray, flags: int, what: str) -> np.ndarray | None:
    """What OpenCV makes of uint8 data whose header was read: the pixels as they are stored; None where it
    makes nothing. Raises ImageError, which names `what`, where it gives up.
    """
    if format_of(data.data) == "tiff":  # libtiff would turn it, not always well, and multiply it by its alpha
        data = np.frombuffer(as_stored(data.data), np.uint8)
    try:
        return cv2.imdecode(data, flags)
    except (cv2.error, MemoryError) as error:
        why = shown(getattr(error, "err", "there is no memory left"))
        raise ImageError(f"{what} cannot be decoded: {why}") from error
