"""What a sensor_msgs/CameraInfo says of an image. Knows the messages' fields, not their classes."""

from __future__ import annotations

import math
from typing import Any

from rain_removal_ros.errors import shown


def mismatch(info: Any, header: Any, size: tuple[int, int]) -> str | None:
    """Why a camera_info is not that of an image of this size (height, width); None where it may be.

    Its size may be that of the region of interest, divided by the binning (sensor_msgs/CameraInfo). Fields
    that were left empty say nothing.
    """
    frame, image_frame = info.header.frame_id, header.frame_id
    if frame and image_frame and frame != image_frame:
        return f"camera_info is of the frame {shown(frame)}, the image of {shown(image_frame)}"
    region = info.roi
    whole = (info.height, info.width)
    part = (region.height or info.height, region.width or info.width)
    binning = max(1, info.binning_y), max(1, info.binning_x)
    possible = [whole, *((side[0] // binning[0], side[1] // binning[1]) for side in (whole, part))]
    if 0 not in whole and tuple(size) not in possible:
        return f"camera_info is of {info.width}x{info.height} pixels, the image of {size[1]}x{size[0]}"
    return None


FOCAL_LENGTHS = 0.05, 100.0
"""Focal lengths of cameras, in widths of their images: from a fisheye's to a telescope's."""


def focal_length(info: Any, size: tuple[int, int]) -> float | None:
    """The focal length in pixels of an image of this size (height, width), binned if it is; None where it is
    not given or is no camera's.
    """
    binned = tuple(size) != (info.height, info.width)
    focal = float(info.k[0]) / (max(1, info.binning_x) if binned else 1)
    return focal if plausible(focal, size[1]) else None


def plausible(focal_px: float, width: int) -> bool:
    """Whether a camera whose images are so wide may have this focal length, in pixels."""
    shortest, longest = FOCAL_LENGTHS
    return math.isfinite(focal_px) and shortest * width <= focal_px <= longest * width
