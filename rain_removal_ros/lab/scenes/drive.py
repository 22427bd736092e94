"""A drive along a procedural street as a sequence of frames with exact depth and labels.

Knows the camera and its motion. Rain, ROS and networks are unknown here; `weather/` adds rain to these
frames.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from rain_removal_ros.errors import RainRemovalError
from rain_removal_ros.lab.scenes.light import make_sky
from rain_removal_ros.lab.scenes.render import Renderer, View, to_camera
from rain_removal_ros.lab.scenes.street import EGO_LANE, build_street

CAMERA_HEIGHT = 1.5  # metres above the road
FOCAL_LENGTH = 0.82  # of the image width: a horizontal field of view of 63 degrees
SMALLEST, LARGEST = 64, 4096  # pixels a side
LONGEST = 4000.0  # metres of drive


@dataclass(frozen=True)
class CameraModel:
    """A pinhole camera that looks horizontally; enough for a CameraInfo. Pixel centres have whole
    coordinates."""

    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float
    frame_id: str = "camera_optical_frame"
    distortion: tuple[float, float, float, float, float] = (0.0, 0.0, 0.0, 0.0, 0.0)  # plumb_bob


@dataclass(frozen=True)
class DriveFrame:
    """One moment of a drive."""

    image: np.ndarray  # uint8 (H, W, 3) RGB
    inverse_depth: np.ndarray  # float32 (H, W), 1/m; depth is z, along the optical axis; 0 is the sky
    labels: np.ndarray  # uint8 (H, W), Cityscapes train ids
    stamp: float  # seconds since the drive began
    index: int


class Drive:
    """A sequence of frames. Each depends on the arguments and its index alone, so any can be rendered first.

    `speed` is the camera's in m/s; with 0 everything stands still, and frames differ by `noise` alone (its
    standard deviation in grey levels). `rate` is in frames a second. The street is as long as the drive
    needs, so its far end depends on `frame_count`, `rate` and `speed` too. A street is built when it is first
    drawn; a process keeps the last two.
    """

    def __init__(
        self,
        width: int = 640,
        height: int = 360,
        frame_count: int = 100,
        rate: float = 10.0,
        seed: int = 0,
        speed: float = 9.0,
        noise: float = 1.2,
    ) -> None:
        for name, value in (("width", width), ("height", height)):
            if not SMALLEST <= value <= LARGEST:
                raise RainRemovalError(f"drive {name} is {value}; give {SMALLEST} to {LARGEST} pixels")
        if frame_count < 1:
            raise RainRemovalError(f"drive frame count is {frame_count}; give 1 or more")
        if not 0 < rate <= 1000:
            raise RainRemovalError(f"drive rate is {rate}; give more than 0 and at most 1000 frames a second")
        if seed < 0:
            raise RainRemovalError(f"drive seed is {seed}; give a whole number from 0 up")
        if not 0 <= speed <= 40:
            raise RainRemovalError(f"drive speed is {speed}; give 0 to 40 m/s")
        if not 0 <= noise <= 50:
            raise RainRemovalError(f"drive noise is {noise}; give 0 to 50 grey levels")
        length = speed * frame_count / rate
        if length > LONGEST:
            raise RainRemovalError(
                f"drive of {frame_count} frames ({rate} a second, {speed} m/s) is {length:.0f} m long; "
                f"the street is built as a whole, give at most {LONGEST:.0f} m"
            )
        self.frame_count, self.rate, self.seed, self.speed, self.noise = frame_count, rate, seed, speed, noise
        focal = FOCAL_LENGTH * width
        self.camera = CameraModel(width, height, focal, focal, (width - 1) / 2, (height - 1) / 2)

    def __len__(self) -> int:
        return self.frame_count

    def __iter__(self) -> Iterator[DriveFrame]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> DriveFrame:
        """Render frame `index`; negative indices count from the end. IndexError outside the drive."""
        index = operator.index(index)
        if not -self.frame_count <= index < self.frame_count:
            raise IndexError(f"frame {index} of a drive of {self.frame_count} frames")
        index %= self.frame_count
        position, yaw = self.pose(index)
        camera, renderer = self.camera, self._renderer
        view = View(camera.width, camera.height, camera.fx, camera.fy, camera.cx, camera.cy, position, yaw)
        time = self.stamp(index) if self.speed > 0 else 0.0
        moving = renderer.street.moving(time, float(position[2]))
        exposed, inverse_depth, labels = renderer.draw(view, moving)
        image = to_camera(exposed, np.random.default_rng([self.seed, 3, index]), self.noise)
        return DriveFrame(image, inverse_depth, labels, self.stamp(index), index)

    def stamp(self, index: int) -> float:
        """Seconds from the start of the drive to frame `index`."""
        return index / self.rate

    def pose(self, index: int) -> tuple[np.ndarray, float]:
        """The camera's position, float32 (3,) in metres (x right, y up, z along the street), and its
        heading in radians from z towards x."""
        course = self._renderer.street.course
        z = self.speed * self.stamp(index)
        x = float(course.offset(z)) + EGO_LANE
        return np.array([x, CAMERA_HEIGHT, z], np.float32), float(np.arctan(course.slope(z)))

    @property
    def _renderer(self) -> Renderer:
        return build_renderer(self.seed, self.speed * self.frame_count / self.rate, self.speed)


@lru_cache(maxsize=2)  # a street takes seconds to build and some 400 MB to keep
def build_renderer(seed: int, length: float, speed: float) -> Renderer:
    """The street and the light of `seed` for a drive of `length` metres at `speed` m/s, ready to be drawn."""
    return Renderer(build_street(seed, length, speed), make_sky(seed))
