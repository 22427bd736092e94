"""A restorer and a handler that are quick, say what they were asked, and wait where a test tells them to."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

import numpy as np

from rain_removal_ros.errors import ImageError, NotPreparedError
from rain_removal_ros.pipeline import Build, Outputs, Problem
from rain_removal_ros.rain_monitor import FULL_STREAK_LIGHT
from rain_removal_ros.runtime import Output, Progress, Restored, Restorer, RuntimeInfo

PATIENCE = 20.0
"""Seconds after which something that should have happened has not."""


def streak_light_of(rain: float) -> float:
    """The mean light of streaks that the rain monitor calls rain of this strength."""
    return -FULL_STREAK_LIGHT * math.log(1 - rain)


class FakeRestorer:
    """Adds 10 to every pixel; the inverse depth is 0.25, every label 8.

    gate: where set, every frame waits until it is opened; build_gate: the same for every build.
    """

    def __init__(self, backend: str = "openvino"):
        self.backend = backend
        self.calls: list[tuple[tuple[int, int], frozenset[Output]]] = []
        self.builds: list[tuple[tuple[int, int], frozenset[Output]]] = []
        self.sizes: list[tuple[int, int]] = []  # built
        self.gate, self.build_gate = threading.Event(), threading.Event()
        self.gate.set()
        self.build_gate.set()
        self.working = threading.Semaphore(0)  # released as a frame comes in
        self.building = threading.Semaphore(0)  # released as a build begins
        self.fail_frames: Exception | None = None
        self.fail_builds: Exception | None = None
        self.closed = self.cancelled = False
        self.made: set[tuple[tuple[int, int], frozenset[Output]]] = set()
        self.streak_light: float | None = None
        self.extinction: float | None = None
        self.focal_lengths: list[float | None] = []
        self.wrong: dict[str, object] = {}  # what to give instead of what is right

    @property
    def info(self) -> RuntimeInfo:
        return RuntimeInfo(
            self.backend,
            "a fake",
            "fp32",
            "a test wants it",
            "fast",
            "fake.safetensors",
            "0123456789ab",
            tuple(dict.fromkeys(self.sizes)),
        )

    def prepare(
        self, height: int, width: int, outputs: Collection[Output], on_progress: Progress | None = None
    ) -> None:
        self.builds.append(((height, width), frozenset(outputs)))
        if on_progress is not None:
            on_progress("tuning kernels")
        self.building.release()
        assert self.build_gate.wait(PATIENCE)
        if height < 64:
            raise ImageError(f"image of {width}x{height} pixels; images from 64x64 are taken")
        if self.fail_builds is not None:
            raise self.fail_builds
        self.sizes.append((height, width))
        self.made.add(((height, width), frozenset(outputs)))

    def prepared(self, height: int, width: int) -> set[frozenset[Output]]:
        return {outputs for size, outputs in self.made.copy() if size == (height, width)}

    def cancel_builds(self) -> None:
        self.cancelled = True

    def __call__(
        self,
        image: np.ndarray,
        outputs: Collection[Output],
        focal_px: float | None = None,
        *,
        prepared_only: bool = False,
    ) -> Restored:
        if prepared_only and frozenset(outputs) not in self.prepared(*image.shape[:2]):
            raise NotPreparedError(f"{outputs} were not prepared")
        self.focal_lengths.append(focal_px)
        assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3
        self.calls.append((image.shape[:2], frozenset(outputs)))
        self.working.release()
        assert self.gate.wait(PATIENCE)
        if self.fail_frames is not None:
            raise self.fail_frames
        right = Restored(
            image=np.where(image > 245, 255, image + 10).astype(np.uint8)
            if Output.IMAGE in outputs
            else None,
            inverse_depth=np.full(image.shape[:2], 0.25, np.float32)
            if Output.INVERSE_DEPTH in outputs
            else None,
            labels=np.full(image.shape[:2], 8, np.uint8) if Output.LABELS in outputs else None,
            streak_light=self.streak_light,
            extinction=self.extinction,
        )
        return replace(right, **self.wrong)

    def close(self) -> None:
        self.closed = True


@dataclass(frozen=True)
class FakePicture:
    rgb: np.ndarray


class FakeHandler:
    """Handlers of any camera and the listener of all.

    Messages are (number, height, width), or an exception to be raised when they are read.
    """

    def __init__(self) -> None:
        self.outputs: Outputs = frozenset({Output.IMAGE})
        self.published: list[tuple[str, int, frozenset[Output]]] = []
        self.problems: list[tuple[str | None, Problem, str]] = []
        self.built: list[Build] = []
        self.recovered: list[str] = []
        self.images: list[np.ndarray | None] = []
        self.changed = threading.Condition()

    def of(self, camera: str) -> FakeCamera:
        """The handler of this camera."""
        return FakeCamera(camera, self)

    def on_built(self, build: Build) -> None:
        with self.changed:
            self.built.append(build)
            self.changed.notify_all()

    def on_recovered(self, restorer: Restorer, failure: str) -> None:
        with self.changed:
            self.recovered.append(failure)
            self.changed.notify_all()

    def on_problem(self, camera: str | None, problem: Problem, error: BaseException) -> None:
        with self.changed:
            self.problems.append((camera, problem, str(error)))
            self.changed.notify_all()

    def wait_for(self, condition: Callable[[], bool]) -> None:
        """Wait until something was published, built or reported that makes the condition true."""
        with self.changed:
            assert self.changed.wait_for(condition, PATIENCE), (self.published, self.problems, self.built)


@dataclass(frozen=True)
class FakeCamera:
    """Tells the handler of all what is published."""

    name: str
    all: FakeHandler

    def wanted(self) -> Outputs:
        return self.all.outputs

    def read(self, message) -> FakePicture:
        if isinstance(message, Exception):
            raise message
        return FakePicture(np.zeros((*message[1:], 3), np.uint8))

    def focal_px(self, message, size: tuple[int, int]) -> float | None:
        return None

    def write(self, message, picture: FakePicture, restored: Restored) -> frozenset[Output]:
        self.all.images.append(restored.image)
        return frozenset(output for output in Output if getattr(restored, output.value) is not None)

    def publish(self, message, written: frozenset[Output]) -> float:
        with self.all.changed:
            self.all.published.append((self.name, message[0], written))
            self.all.changed.notify_all()
        return 0.5
