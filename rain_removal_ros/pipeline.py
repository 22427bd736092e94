"""The way of a frame from its arrival to what is published: newest frame wins, one worker, every stage timed.

Knows neither ROS nor any network: messages are opaque, each camera's `FrameHandler` reads and publishes them,
a `Restorer` restores.

Two threads. The worker takes the cameras in turn and does everything to one frame before it takes the next,
so that outputs keep their order. The builder compiles the network for image sizes and outputs that are seen
for the first time, which may take minutes; meanwhile the worker goes on with whatever is compiled already.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, Protocol

import numpy as np

from rain_removal_ros.errors import ImageError
from rain_removal_ros.runtime import Output, Restored, Restorer

WINDOW_S = 10.0
"""Rates and latencies are those of the last ten seconds."""

RETRY_AFTER_S = 10.0
"""A network that could not be compiled, or a stand-in not be made, is tried again after this long."""

Outputs = frozenset[Output]
Size = tuple[int, int]  # height, width
Failure = tuple[float, Exception]  # time.perf_counter(), what was raised


class Stage(Enum):
    """The stages of a frame's way; their times, in seconds, add up to TOTAL."""

    WAITING = "waiting"  # from the message's arrival until the worker takes it
    CONVERSION = "conversion"  # message to RGB, and restored RGB to messages
    INFERENCE = "inference"
    PUBLISHING = "publishing"
    TOTAL = "total"  # message in to message out


class Problem(Enum):
    """Why a frame came to nothing."""

    BAD_INPUT = "bad input"  # the message is not what it claims to be
    FAILED = "processing failed"  # the network or the middleware raised
    BUILD = "build failed"


@dataclass(frozen=True)
class StageTimes:
    """The time that one frame spent in each stage, in seconds."""

    waiting: float
    conversion: float
    inference: float
    publishing: float

    @property
    def total(self) -> float:
        return self.waiting + self.conversion + self.inference + self.publishing


@dataclass(frozen=True)
class Distribution:
    """Of a quantity over the window, in the unit of the quantity."""

    count: int
    minimum: float
    median: float
    p95: float
    p99: float
    maximum: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Distribution | None:
        """None where there are no values."""
        if not values:
            return None
        quantiles = np.quantile(np.asarray(values), (0, 0.5, 0.95, 0.99, 1))
        return cls(len(values), *(float(value) for value in quantiles))


@dataclass(frozen=True)
class CameraSnapshot:
    """One camera's counts since the start, and rates and times over the window."""

    camera: str
    received: int
    published: int
    dropped: int  # overtaken by a newer frame before the worker came to them
    idle: int  # not computed, because nobody subscribes
    problems: dict[Problem, int]
    recent_problems: dict[Problem, int]  # within the window
    last_problem: str | None
    rate_in: float  # Hz
    rate_out: float  # Hz
    stages: dict[Stage, Distribution]  # seconds; empty before the first frame
    image_age: Distribution | None  # seconds from the image's stamp until it was published
    seconds_since_received: float | None
    seconds_since_published: float | None


@dataclass(frozen=True)
class Build:
    """A network being compiled: for what, since when, and what it last said."""

    size: Size
    outputs: Outputs
    started: float  # time.perf_counter()
    message: str = ""

    @property
    def elapsed(self) -> float:
        return time.perf_counter() - self.started

    def __str__(self) -> str:
        names = "+".join(output.value for output in Output if output in self.outputs)
        said = f" ({self.message})" if self.message else ""
        return f"engine for {self.size[1]}x{self.size[0]} {names}, {self.elapsed:.1f} s{said}"


class FrameHandler(Protocol):
    """Does what the messages of one camera need, on the worker's thread."""

    def wanted(self) -> Outputs:
        """The outputs that somebody wants now; none: the frame is not computed."""

    def read(self, message: Any) -> Any:
        """The picture in a message: anything with an `rgb`, uint8 (H, W, 3). Raises ImageError."""

    def write(self, message: Any, picture: Any, restored: Restored) -> Any:
        """The outputs as they are published; None in `restored` where one is not to be."""

    def publish(self, message: Any, written: Any) -> float | None:
        """Publish them. Gives the image's age in seconds, None where it is not known."""


class Listener(Protocol):
    """Is told what happens, from the pipeline's threads."""

    def on_built(self, build: Build) -> None:
        """The network has been compiled for one more size or set of outputs."""

    def on_problem(self, camera: str | None, problem: Problem, error: Exception) -> None:
        """A frame came to nothing (camera), or a build failed (None)."""


@dataclass
class _Frame:
    message: Any
    received: float


@dataclass
class _Camera:
    """State of one camera; guarded by the pipeline's lock."""

    name: str
    handler: FrameHandler
    waiting: _Frame | None = None
    blocked_by: tuple[Size, Outputs] | None = None
    received: int = 0
    published: int = 0
    dropped: int = 0
    idle: int = 0
    problems: dict[Problem, int] = field(default_factory=lambda: dict.fromkeys(Problem, 0))
    last_problem: str | None = None
    arrivals: deque[float] = field(default_factory=deque)
    departures: deque[tuple[float, StageTimes, float | None]] = field(default_factory=deque)
    problem_times: deque[tuple[float, Problem]] = field(default_factory=deque)
    last_received: float | None = None
    last_published: float | None = None
    first_received: float | None = None

    def forget_before(self, start: float) -> None:
        while self.arrivals and self.arrivals[0] < start:
            self.arrivals.popleft()
        for entries in (self.departures, self.problem_times):
            while entries and entries[0][0] < start:
                entries.popleft()

    def copy(self) -> _Camera:
        return replace(
            self,
            problems=dict(self.problems),
            arrivals=deque(self.arrivals),
            departures=deque(self.departures),
            problem_times=deque(self.problem_times),
        )

    def snapshot(self, now: float) -> CameraSnapshot:
        self.forget_before(now - WINDOW_S)
        span = min(WINDOW_S, max(1.0, now - (self.first_received or now)))
        times = [times for _, times, _ in self.departures]
        stages = {stage: Distribution.of([getattr(t, stage.value) for t in times]) for stage in Stage}
        recent = dict.fromkeys(Problem, 0)
        for _, problem in self.problem_times:
            recent[problem] += 1
        return CameraSnapshot(
            camera=self.name,
            received=self.received,
            published=self.published,
            dropped=self.dropped,
            idle=self.idle,
            problems=dict(self.problems),
            recent_problems=recent,
            last_problem=self.last_problem,
            rate_in=len(self.arrivals) / span,
            rate_out=len(self.departures) / span,
            stages={
                stage: distribution for stage, distribution in stages.items() if distribution is not None
            },
            image_age=Distribution.of([age for _, _, age in self.departures if age is not None]),
            seconds_since_received=None if self.last_received is None else now - self.last_received,
            seconds_since_published=None if self.last_published is None else now - self.last_published,
        )


class Pipeline:
    """Frames of several cameras through one restorer.

    handlers: of each camera, by name. restorer: what restores; the pipeline closes it.
    make_stand_in: makes the restorer that serves while a network is being compiled and
    `serve_while_building()` is true, which is asked anew for every frame; None where nothing would be
    gained by one.
    """

    def __init__(
        self,
        handlers: Mapping[str, FrameHandler],
        restorer: Restorer,
        listener: Listener,
        *,
        make_stand_in: Callable[[], Restorer] | None = None,
        serve_while_building: Callable[[], bool] = lambda: False,
    ):
        self.restorer = restorer
        self._serve_while_building = serve_while_building
        self._listener = listener
        self._make_stand_in = make_stand_in
        self._stand_in: Restorer | None = None
        self._stand_in_failure: Failure | None = None
        self._changed = threading.Condition()
        self._cameras = {name: _Camera(name, handler) for name, handler in handlers.items()}
        self._turns = deque(self._cameras.values())
        self._stopping = False
        self._busy = False
        self._ready: set[tuple[Size, Outputs]] = set()
        self._asked: deque[tuple[Size, Outputs]] = deque()
        self._build: Build | None = None
        self._failed: dict[tuple[Size, Outputs], Failure] = {}
        self._worker = threading.Thread(target=self._work, name="restore", daemon=True)
        self._builder = threading.Thread(target=self._build_all, name="build", daemon=True)
        self._worker.start()
        self._builder.start()

    # -- called from any thread --------------------------------------------------------------------

    def submit(self, camera: str, message: Any) -> None:
        """Store a message as its camera's newest; an older one still waiting is dropped and counted."""
        now = time.perf_counter()
        with self._changed:
            state = self._cameras[camera]
            state.received += 1
            state.dropped += state.waiting is not None
            state.waiting = _Frame(message, now)
            state.last_received = now
            state.first_received = now if state.first_received is None else state.first_received
            state.arrivals.append(now)
            state.forget_before(now - WINDOW_S)
            self._changed.notify_all()

    def clear(self) -> None:
        """Drop the frames that wait, and return when the worker has none in hand."""
        with self._changed:
            for camera in self._cameras.values():
                camera.dropped += camera.waiting is not None
                camera.waiting = None
            self._changed.wait_for(lambda: not self._busy)

    def build(self, size: Size, outputs: Outputs) -> None:
        """Have the network compiled for this size (height, width) and these outputs; returns at once."""
        with self._changed:
            self._ask(size, outputs)

    def wait_until_built(self, timeout: float | None = None) -> bool:
        """Wait until nothing is left to compile. False: the time was up, or a build failed."""
        with self._changed:
            done = self._changed.wait_for(lambda: not self._asked and self._build is None, timeout)
            return done and not self._failed

    @property
    def building(self) -> Build | None:
        """What is being compiled now."""
        with self._changed:
            return self._build

    @property
    def failed_builds(self) -> list[str]:
        """What could not be compiled, and why, until it is tried again.

        A size that no network takes is the images' fault: it is told for `RETRY_AFTER_S` only.
        """
        start = time.perf_counter() - RETRY_AFTER_S
        with self._changed:
            failures = [
                (size, error)
                for (size, _), (when, error) in self._failed.items()
                if when > start or _problem_of_build(error) is Problem.BUILD
            ]
        return [f"{size[1]}x{size[0]}: {error}" for size, error in failures]

    def snapshot(self) -> dict[str, CameraSnapshot]:
        """Counts, rates and times of every camera."""
        with self._changed:
            now = time.perf_counter()
            copies = [camera.copy() for camera in self._cameras.values()]
        return {camera.name: camera.snapshot(now) for camera in copies}

    def close(self, timeout: float | None = None) -> bool:
        """Stop both threads and close the restorers.

        False where a frame or a build was still under way after `timeout` seconds: a running compilation
        cannot be interrupted. Then the restorers stay open, and the threads end with the process.
        """
        with self._changed:
            self._stopping = True
            self._asked.clear()
            self._changed.notify_all()
        deadline = None if timeout is None else time.perf_counter() + timeout
        for thread in (self._worker, self._builder):
            thread.join(None if deadline is None else max(0.0, deadline - time.perf_counter()))
        if self._worker.is_alive() or self._builder.is_alive():
            return False
        for restorer in filter(None, (self.restorer, self._stand_in)):
            restorer.close()
        return True

    # -- the worker's thread -----------------------------------------------------------------------

    def _work(self) -> None:
        while True:
            with self._changed:
                self._busy = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._stopping or self._next_camera() is not None)
                if self._stopping:
                    return
                camera = self._next_camera()
                self._turns.remove(camera)
                self._turns.append(camera)  # its next turn comes after all others'
                frame, camera.waiting = camera.waiting, None
                self._busy = True
            try:
                self._process(camera, frame)
            except ImageError as error:
                self._count(camera, Problem.BAD_INPUT, error)
            except Exception as error:  # of whatever backend; the stream must go on
                self._count(camera, Problem.FAILED, error)

    def _next_camera(self) -> _Camera | None:
        stand_in_serves = self._stand_in_serves()
        return next((c for c in self._turns if c.waiting and (c.blocked_by is None or stand_in_serves)), None)

    def _stand_in_serves(self) -> bool:
        return self._make_stand_in is not None and self._serve_while_building()

    def _process(self, camera: _Camera, frame: _Frame) -> None:
        started = time.perf_counter()
        wanted = camera.handler.wanted()
        if not wanted:
            with self._changed:
                camera.idle += 1
            return
        picture = camera.handler.read(frame.message)
        read = time.perf_counter()
        chosen = self._choose(camera, frame, picture.rgb.shape[:2], wanted)
        if chosen is None:
            return
        restorer, outputs = chosen
        restored = restorer(picture.rgb, outputs)
        inferred = time.perf_counter()
        shown = {output.value: getattr(restored, output.value) for output in wanted & outputs}
        restored = Restored(**{output.value: shown.get(output.value) for output in Output})
        written = camera.handler.write(frame.message, picture, restored)
        converted = time.perf_counter()
        age = camera.handler.publish(frame.message, written)
        published = time.perf_counter()
        times = StageTimes(
            waiting=started - frame.received,
            conversion=(read - started) + (converted - inferred),
            inference=inferred - read,
            publishing=published - converted,
        )
        with self._changed:
            camera.published += 1
            camera.last_published = published
            camera.departures.append((published, times, age))
            camera.forget_before(published - WINDOW_S)

    def _choose(
        self, camera: _Camera, frame: _Frame, size: Size, wanted: Outputs
    ) -> tuple[Restorer, Outputs] | None:
        """What serves this frame now; None where it has to wait or cannot be served.

        What is compiled for other outputs of the same size serves while the exact one is being compiled, so
        that a new subscriber never makes a stream stop.
        """
        key = (size, wanted)
        with self._changed:
            if key in self._ready:
                return self.restorer, wanted
            failure = self._failed.get(key)
            if _may_be_tried(failure):
                self._ask(size, wanted)
                failure = None
            others = [outputs for other, outputs in self._ready if other == size and outputs & wanted]
            if others:
                return self.restorer, max(others, key=lambda outputs: (len(outputs & wanted), -len(outputs)))
            if failure is None and not self._stand_in_serves():
                camera.blocked_by = key
                if camera.waiting is None:
                    camera.waiting = frame
                else:
                    camera.dropped += 1
                return None
        if failure is not None:
            self._count(camera, _problem_of_build(failure[1]), failure[1])
            return None
        if self._stand_in is None and _may_be_tried(self._stand_in_failure):
            try:
                self._stand_in = self._make_stand_in()
            except Exception as error:  # of whatever backend; not every frame is to load it in vain
                self._stand_in_failure = time.perf_counter(), error
        if self._stand_in is None:
            self._count(camera, Problem.FAILED, self._stand_in_failure[1])
            return None
        return self._stand_in, wanted

    def _count(self, camera: _Camera, problem: Problem, error: Exception) -> None:
        with self._changed:
            camera.problems[problem] += 1
            camera.problem_times.append((time.perf_counter(), problem))
            camera.last_problem = f"{problem.value}: {error}"
        self._listener.on_problem(camera.name, problem, error)

    # -- the builder's thread ----------------------------------------------------------------------

    def _ask(self, size: Size, outputs: Outputs) -> None:
        key = (size, outputs)
        building = self._build is not None and (self._build.size, self._build.outputs) == key
        if key not in self._ready and key not in self._asked and not building:
            self._failed.pop(key, None)
            self._asked.append(key)
            self._changed.notify_all()

    def _build_all(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._stopping or self._asked)
                if self._stopping:
                    return
                key = self._asked.popleft()
                self._build = Build(*key, started=time.perf_counter())
            (height, width), outputs = key
            failure: Exception | None = None
            try:
                self.restorer.prepare(height, width, outputs, self._on_progress)
            except Exception as error:  # of whatever compiler; it is reported and tried again later
                failure = error
            with self._changed:
                build, self._build = self._build, None
                if failure is None:
                    self._ready.add(key)
                else:
                    self._failed[key] = (time.perf_counter(), failure)
                for camera in self._cameras.values():
                    if camera.blocked_by == key:
                        camera.blocked_by = None
                self._changed.notify_all()
            if failure is None:
                self._listener.on_built(build)
            else:
                self._listener.on_problem(None, _problem_of_build(failure), failure)

    def _on_progress(self, message: str) -> None:
        with self._changed:
            self._build = Build(self._build.size, self._build.outputs, self._build.started, message)


def _may_be_tried(failure: Failure | None) -> bool:
    return failure is None or time.perf_counter() - failure[0] > RETRY_AFTER_S


def _problem_of_build(error: Exception) -> Problem:
    """A size that no network takes is the image's fault, not the compiler's."""
    return Problem.BAD_INPUT if isinstance(error, ImageError) else Problem.BUILD
