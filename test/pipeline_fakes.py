"""A restorer and a handler that are quick, say what they were asked, and wait where a test tells them to."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
from waiting import PATIENCE

from rain_removal_ros.errors import ImageError, NotPreparedError
from rain_removal_ros.pipeline import Build, OutputSet, Pipeline, Problem
from rain_removal_ros.rain_monitor import FULL_STREAK_LIGHT
from rain_removal_ros.runtime import BatchTrial, Output, Progress, Restored, Restorer, RuntimeInfo


def wait_until_idle(pipeline: Pipeline, *, builder: bool = False) -> None:
    """Wait until the worker has looked at every frame that it can do something about; with `builder`, until
    there is nothing to compile or to try either.
    """
    state, watchdog = pipeline._state, pipeline._watchdog

    def idle() -> bool:
        builds = state.builds.current is not None or state.next_build() is not None
        return not watchdog.worker.busy and state.next_camera() is None and not (builder and builds)

    with state.changed:
        assert state.changed.wait_for(idle, PATIENCE)


def wait_until_watched(pipeline: Pipeline) -> None:
    """Have the watchdog look at everything, and return when it has."""
    changed, looked = pipeline._state.changed, threading.Event()
    wait = changed.wait

    def wait_after_a_look(timeout: float | None = None) -> bool:
        if threading.current_thread().name == "watchdog":
            looked.set()
        return wait(timeout)

    with changed:
        changed.wait = wait_after_a_look
        changed.notify_all()
    assert looked.wait(PATIENCE)
    changed.wait = wait


def streak_light_of(rain: float) -> float:
    """The mean light of streaks that the rain monitor calls rain of this strength."""
    return -FULL_STREAK_LIGHT * math.log(1 - rain)


class FakeRestorer:
    """Adds 10 to every pixel; the inverse depth is 0.25, every label 8.

    gate: where set, every frame waits until it is opened; build_gate: the same for every build; load_gate:
    for every load of what `cached` holds, while something else is compiled; batch_gate: for every trial of
    several frames in one call, which takes the share of the time that batch_ratios has for their number;
    together_gate: for every call with several.
    """

    def __init__(self, backend: str = "openvino"):
        self.backend = backend
        self.calls: list[tuple[tuple[int, int], frozenset[Output]]] = []
        self.builds: list[tuple[tuple[int, int], frozenset[Output]]] = []
        self.sizes: list[tuple[int, int]] = []  # built
        self.gate, self.build_gate = threading.Event(), threading.Event()
        self.batch_gate, self.together_gate = threading.Event(), threading.Event()
        self.load_gate = threading.Event()
        self.open_gates()
        self.working = threading.Semaphore(0)  # released as a frame comes in
        self.building = threading.Semaphore(0)  # released as a build begins
        self.fail_frames: Exception | None = None
        self.fail_builds: Exception | None = None
        self.cached: set[tuple[tuple[int, int], frozenset[Output]]] = set()
        self.looked_for: list[tuple[tuple[int, int], frozenset[Output]]] = []  # in the cache
        self.loading = threading.Semaphore(0)  # released as something is loaded from the cache
        self.fail_loads: Exception | None = None
        self.batch_ratios: dict[int, float] = {}  # 1.0 where a number of frames is not in it
        self.batches: set[tuple[tuple[int, int], frozenset[Output], int]] = set()  # in memory
        self.tried: list[tuple[tuple[int, int], frozenset[Output], int]] = []
        self.trying = threading.Semaphore(0)  # released as a trial begins
        self.together: list[int] = []  # frames of every call with several
        self.fail_batches: BaseException | None = None  # the trials
        self.fail_together: BaseException | None = None  # the calls
        self.wrong_together: dict[int, dict[str, object]] = {}  # by place in the call
        self.closed = self.cancelled = False
        self.loading_since: float | None = None
        self.made: set[tuple[tuple[int, int], frozenset[Output]]] = set()
        self.streak_light: float | None = None
        self.extinction: float | None = None
        self.focal_lengths: list[float | None] = []
        self.wrong: dict[str, object] = {}  # what to give instead of what is right

    def open_gates(self) -> None:
        for gate in (self.gate, self.build_gate, self.batch_gate, self.together_gate, self.load_gate):
            gate.set()

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
        self,
        height: int,
        width: int,
        outputs: Collection[Output],
        on_progress: Progress | None = None,
        meanwhile: Callable[[], None] | None = None,
    ) -> None:
        self.builds.append(((height, width), frozenset(outputs)))
        if on_progress is not None:
            on_progress("tuning kernels")
        self.building.release()
        deadline = time.monotonic() + PATIENCE
        while not self.build_gate.wait(0.01):
            assert time.monotonic() < deadline
            if meanwhile is not None:
                meanwhile()
        if height < 64:
            raise ImageError(f"image of {width}x{height} pixels; images from 64x64 are taken")
        if self.fail_builds is not None:
            raise self.fail_builds
        self.sizes.append((height, width))
        self.made.add(((height, width), frozenset(outputs)))

    def prepare_cached(
        self, height: int, width: int, outputs: Collection[Output], on_progress: Progress | None = None
    ) -> bool:
        key = (height, width), frozenset(outputs)
        self.looked_for.append(key)
        if key not in self.cached:
            return False
        self.loading.release()
        assert self.load_gate.wait(PATIENCE)
        if self.fail_loads is not None:
            raise self.fail_loads
        self.sizes.append((height, width))
        self.made.add(key)
        return True

    def prepared(self, height: int, width: int) -> set[frozenset[Output]]:
        return {outputs for size, outputs in self.made.copy() if size == (height, width)}

    def prepare_batch(
        self,
        height: int,
        width: int,
        outputs: Collection[Output],
        frames: int,
        longest_s: float,
        on_progress: Progress | None = None,
        gives_way: Callable[[], bool] | None = None,
    ) -> BatchTrial:
        batch = (height, width), frozenset(outputs), frames
        self.tried.append(batch)
        self.trying.release()
        began = time.monotonic()
        while not self.batch_gate.wait(0.01):
            if gives_way is not None and gives_way():
                raise NotPreparedError("given up for something more urgent")
            assert time.monotonic() < began + PATIENCE
        if self.fail_batches is not None:
            raise self.fail_batches
        trial = BatchTrial(frames, self.batch_ratios.get(frames, 1.0), call_s=0.4)
        if trial.pays:
            self.batches.add(batch)
        return trial

    def prepared_batches(self, height: int, width: int, outputs: Collection[Output]) -> set[int]:
        graph = (height, width), frozenset(outputs)
        return {frames for *made, frames in self.batches.copy() if tuple(made) == graph}

    def restore_together(
        self, images: Sequence[np.ndarray], outputs: Collection[Output], focal_px: Sequence[float | None]
    ) -> list[Restored]:
        if len(images) not in self.prepared_batches(*images[0].shape[:2], outputs):
            raise NotPreparedError(f"{len(images)} frames were not prepared")
        assert len({image.shape for image in images}) == 1
        self.together.append(len(images))
        self.focal_lengths += focal_px
        self.working.release()
        assert self.together_gate.wait(PATIENCE)
        if self.fail_together is not None:
            raise self.fail_together
        return [
            replace(self._restored(image, outputs), **self.wrong_together.get(place, {}))
            for place, image in enumerate(images)
        ]

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
        return replace(self._restored(image, outputs), **self.wrong)

    def _restored(self, image: np.ndarray, outputs: Collection[Output]) -> Restored:
        return Restored(
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
        self.outputs: OutputSet = frozenset({Output.IMAGE})
        self.outputs_of: dict[str, OutputSet] = {}  # of single cameras, where they want others
        self.on_publish: Callable[[str, int], None] = lambda camera, number: None
        self.published: list[tuple[str, int, frozenset[Output]]] = []
        self.problems: list[tuple[str | None, Problem, str]] = []
        self.built: list[Build] = []
        self.recovered: list[str] = []
        self.images: list[np.ndarray | None] = []
        self.changed = threading.Condition()
        self.reading_s = 0.0  # of a frame

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

    def wanted(self) -> OutputSet:
        return self.all.outputs_of.get(self.name, self.all.outputs)

    def read(self, message) -> FakePicture:
        if isinstance(message, Exception):
            raise message
        time.sleep(self.all.reading_s)
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
        self.all.on_publish(self.name, message[0])
        return 0.5
