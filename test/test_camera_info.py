"""What a camera_info says of an image: whether it is its own, and the focal length of its pixels."""

from __future__ import annotations

import math

import pytest
from sensor_msgs.msg import CameraInfo, RegionOfInterest
from std_msgs.msg import Header

from rain_removal_ros.camera_info import focal_length, mismatch

SIZE = (96, 128)


def info_of(fx: float = 200.0, **fields) -> CameraInfo:
    info = CameraInfo(height=SIZE[0], width=SIZE[1], **fields)
    info.k = [fx, 0.0, 64.0, 0.0, fx, 48.0, 0.0, 0.0, 1.0]
    return info


@pytest.mark.parametrize("fx", [0.0, -200.0, math.nan, math.inf, 6.9e-310, 1e-40, 5.0, 1e9])
def test_what_no_camera_has_is_no_focal_length(fx):
    assert focal_length(info_of(fx), SIZE) is None


@pytest.mark.parametrize(
    ("binning", "size", "focal"),
    [(0, SIZE, 200), (1, SIZE, 200), (2, SIZE, 200), (2, (48, 64), 100), (2**32 - 1, SIZE, 200)],
)
def test_binning_divides_the_focal_length_where_the_image_is_binned(binning, size, focal):
    info = info_of(binning_x=binning, binning_y=binning)
    assert mismatch(info, Header(), size) is None
    assert focal_length(info, size) == focal


def test_a_region_of_interest_keeps_the_focal_length():
    info = info_of(roi=RegionOfInterest(width=100, height=80))
    assert mismatch(info, Header(), (80, 100)) is None
    assert focal_length(info, (80, 100)) == 200
    assert mismatch(info, Header(), (81, 100)) is not None
