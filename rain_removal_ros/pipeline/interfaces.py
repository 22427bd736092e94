"""What the pipeline and those who use it say to each other: options, handlers, listeners, health."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

from rain_removal_ros.frame_statistics import Problem
from rain_removal_ros.pipeline.failures import LONGEST_REMAKING_S, MAX_HANGING, MAX_NOT_REMADE
from rain_removal_ros.rain_monitor import DryThresholds
from rain_removal_ros.runtime import Output, Restored, Restorer, describe

LONGEST_BATCH_S = 0.5
"""Every other frame waits while a call lasts, so one for several frames that takes longer is neither tried
nor used.
"""

OutputSet = frozenset[Output]
Size = tuple[int, int]  # height, width
Key = tuple[Size, OutputSet]
BatchKey = tuple[Key, int]  # of a frame, how many in a call


class OnFailure(StrEnum):
    """What becomes of a frame that cannot be restored, although it is good."""

    DROP = "drop"
    PASSTHROUGH = "passthrough"  # it is published as it came, and diagnostics say so


@dataclass(frozen=True)
class Options:
    """What may change from frame to frame.

    serve_while_building: whether a stand-in serves while the network is being compiled.
    pass_while_building: whether images are published as they came meanwhile.
    inference_timeout_s: an inference that takes longer hangs.
    queue_length: frames of a camera that may wait; 1: the newest wins.
    bypass_when_dry: publish frames as they came while it is dry, which dry_thresholds say.
    batching: restore frames of several cameras in one call where on average none comes out later for it.
    """

    serve_while_building: bool = False
    pass_while_building: bool = False
    on_failure: OnFailure = OnFailure.DROP
    inference_timeout_s: float = 5.0
    queue_length: int = 1
    bypass_when_dry: bool = False
    dry_thresholds: DryThresholds = field(default_factory=DryThresholds)
    batching: bool = True

    @property
    def longest_batch_s(self) -> float:
        """So long may one call for several frames take; far from what is taken for a hanging one."""
        return min(LONGEST_BATCH_S, self.inference_timeout_s / 4)


@dataclass(frozen=True)
class Build:
    """A network being compiled: for what, since when, what it last said, and for how many frames a call."""

    size: Size
    outputs: OutputSet
    started: float  # time.perf_counter()
    message: str = ""
    frames: int = 1

    @property
    def elapsed(self) -> float:
        return time.perf_counter() - self.started

    def __str__(self) -> str:
        said = f" ({self.message})" if self.message else ""
        return f"engine for {describe(*self.size, self.outputs, self.frames)}, {self.elapsed:.1f} s{said}"


@dataclass(frozen=True)
class Health:
    """How the runtime is.

    failure: why it is taken to have failed; None where it works.
    remade: how often it has been made anew. not_remade: how often that has failed since it last restored.
    remaking_s: for how long it is being made anew now; None where it is not.
    hanging: threads that are in the device and do not come back: an inference's, or a graph's being loaded.
    busy: the stage that the worker has been in, and for how long; None where it waits for frames.
    patience_s: how long the inference under way may take; None without one.
    rebuilt: graphs compiled again within the last minute although they had been in memory shortly before.
    stand_in: what is wrong with what serves while a network is compiled; None where nothing is.
    """

    failure: str | None
    remade: int
    hanging: int
    busy: tuple[str, float] | None
    rebuilt: int
    not_remade: int = 0
    remaking_s: float | None = None
    patience_s: float | None = None
    stand_in: str | None = None

    @property
    def broken(self) -> bool:
        """Whether the runtime has failed and does not come back by itself."""
        return self.failure is not None and (
            self.hanging >= MAX_HANGING
            or self.not_remade >= MAX_NOT_REMADE
            or (self.remaking_s or 0.0) > LONGEST_REMAKING_S
        )


class FrameHandler(Protocol):
    """Does what the messages of one camera need, on the worker's thread."""

    def wanted(self) -> OutputSet:
        """The outputs that somebody wants now; none: the frame is not computed."""

    def read(self, message: Any) -> Any:
        """The picture in a message: anything with an `rgb`, uint8 (H, W, 3). Raises ImageError."""

    def focal_px(self, message: Any, size: Size) -> float | None:
        """The camera's focal length in pixels of an image of this size; None where it is not known."""

    def write(self, message: Any, picture: Any, restored: Restored) -> Any:
        """The outputs as they are published; None in `restored` where one is not to be."""

    def publish(self, message: Any, written: Any) -> float | None:
        """Publish them. Gives the image's age in seconds, None where it is not known."""


class Listener(Protocol):
    """Is told what happens, from the pipeline's threads."""

    def on_built(self, build: Build) -> None:
        """The network has been compiled for one more size, set of outputs or number of frames a call."""

    def on_problem(self, camera: str | None, problem: Problem, error: BaseException) -> None:
        """A frame came to nothing (camera), or a build or the runtime failed (None)."""

    def on_recovered(self, restorer: Restorer, failure: str) -> None:
        """The runtime has been made anew after this failure."""
