"""A frame on its way: the camera that it is of, what restores it, and what is published of it."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

from rain_removal_ros.frame_statistics import CameraStatistics, Problem, Way
from rain_removal_ros.pipeline.interfaces import FrameHandler, Key, Options, OutputSet, Size
from rain_removal_ros.rain_monitor import DryWatch
from rain_removal_ros.runtime import Restored, Restorer


@dataclass
class Frame:
    """A message, and when it was received (time.perf_counter())."""

    message: Any
    received: float
    picture: Any = None  # once it has been read
    reading_s: float = 0.0


@dataclass
class Camera:
    """State of one camera; guarded by the pipeline's lock, but for `watch`, which is the worker's."""

    name: str
    handler: FrameHandler
    statistics: CameraStatistics
    waiting: deque[Frame] = field(default_factory=deque)  # the oldest first
    blocked: bool = False  # the first of them can be served only after a build
    starved_since: float | None = None  # since when nothing could be served, whichever frame waits now
    desired: Key | None = None  # what it has no graph of its own for
    served: Key | None = None  # what its last restored frame needed
    ran: Key | None = None  # what of the restorer, and not of a stand-in, last restored one
    watch: DryWatch = field(default_factory=DryWatch)


@dataclass
class Job:
    """A frame in the worker's hands."""

    camera: Camera
    frame: Frame
    wanted: OutputSet = frozenset()
    focal_px: float | None = None
    starves: bool = False  # nothing serves it until a build is ready
    may_look_later: bool = False  # it may as well go out as it came


@dataclass(frozen=True)
class Plan:
    """What restores a frame: the restorer, of its graphs the one of this size and these outputs, and the
    options that hold for the frame.
    """

    restorer: Restorer
    size: Size
    outputs: OutputSet
    options: Options

    @property
    def key(self) -> Key:
        return self.size, self.outputs


@dataclass(frozen=True)
class Unserved:
    """Nothing can restore a frame, and nothing that could is being built."""

    problem: Problem
    error: BaseException


@dataclass(frozen=True)
class Result:
    """What is to be published of a frame."""

    restored: Restored
    way: Way
