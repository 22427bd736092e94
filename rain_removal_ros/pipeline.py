"""The way of a frame from its arrival to what is published: newest frame wins, one worker, every stage timed.

Knows neither ROS nor any network: messages are opaque, each camera's `FrameHandler` reads and publishes them,
a `Restorer` restores.

Three threads. The worker takes the cameras in turn and does everything to one frame before it takes the next,
so that outputs keep their order. The builder has the network compiled for image sizes and outputs that are
seen for the first time, which may take minutes; meanwhile the worker goes on with whatever is compiled
already. The watchdog looks for an inference that does not come back: it leaves the two where they hang,
starts others in their place, and has the restorer made anew, as it does where inference fails again and
again.
"""

from __future__ import annotations

import threading
import time
import traceback
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Protocol

import numpy as np

from rain_removal_ros.errors import ImageError, InferenceError, NotPreparedError
from rain_removal_ros.frame_statistics import (
    CameraSnapshot,
    CameraStatistics,
    Distribution,
    Problem,
    Stage,
    StageTimes,
    Way,
)
from rain_removal_ros.rain_monitor import DryThresholds, DryWatch, Weather
from rain_removal_ros.runtime import Output, Restored, Restorer
from rain_removal_ros.runtime.checks import check_restored
from rain_removal_ros.runtime.sizes import check_size

__all__ = [
    "Build",
    "CameraSnapshot",
    "Distribution",
    "FrameHandler",
    "Health",
    "Listener",
    "OnFailure",
    "Options",
    "Outputs",
    "Pipeline",
    "Problem",
    "Stage",
    "StageTimes",
    "Way",
]

RETRY_AFTER_S = 10.0
"""What could not be compiled or made (a graph, a stand-in, a runtime) is tried again after this long."""

FAILURES_IN_A_ROW = 3
"""So many failed inferences, one after another, are the runtime's fault and not a frame's."""

MAX_STUCK = 3
"""With so many inferences that never came back, making another runtime would only lose more memory."""

STAND_IN_PATIENCE = 10
"""A stand-in is slow, and prepares itself with its first frame: it may take so many times as long."""

FAILED_BUILDS_KEPT = 64
REBUILT_WITHIN_S = 60.0
"""A graph that is compiled again so soon gave way to another that is in use as well."""

Outputs = frozenset[Output]
Size = tuple[int, int]  # height, width
Key = tuple[Size, Outputs]
Failure = tuple[float, BaseException]  # time.perf_counter(), what was raised

IMAGE_ONLY: Outputs = frozenset({Output.IMAGE})


class OnFailure(StrEnum):
    """What becomes of a frame that cannot be restored, although it is good."""

    DROP = "drop"
    PASSTHROUGH = "passthrough"  # it is published as it came, and diagnostics say so


@dataclass(frozen=True)
class Options:
    """What may change from frame to frame.

    serve_while_building: whether a stand-in serves while the network is being compiled.
    inference_timeout_s: an inference that takes longer hangs.
    queue_length: frames of a camera that may wait; 1: the newest wins.
    bypass_when_dry: publish frames as they came while it is dry, which dry_thresholds say.
    """

    serve_while_building: bool = False
    on_failure: OnFailure = OnFailure.DROP
    inference_timeout_s: float = 5.0
    queue_length: int = 1
    bypass_when_dry: bool = False
    dry_thresholds: DryThresholds = field(default_factory=DryThresholds)


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


@dataclass(frozen=True)
class Health:
    """How the runtime is.

    failure: why it is taken to have failed, None where it works. remade: how often it has been made anew.
    stuck: inferences that never came back. busy: the stage that the worker has been in, and for how long.
    rebuilt: graphs compiled again within the last minute although they had been in memory shortly before.
    """

    failure: str | None
    remade: int
    stuck: int
    busy: tuple[str, float] | None
    rebuilt: int


class FrameHandler(Protocol):
    """Does what the messages of one camera need, on the worker's thread."""

    def wanted(self) -> Outputs:
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
        """The network has been compiled for one more size or set of outputs."""

    def on_problem(self, camera: str | None, problem: Problem, error: BaseException) -> None:
        """A frame came to nothing (camera), or a build or the runtime failed (None)."""

    def on_recovered(self, restorer: Restorer, failure: str) -> None:
        """The runtime has been made anew after this failure."""


@dataclass
class _Frame:
    message: Any
    received: float
    picture: Any = None  # once it has been read
    reading_s: float = 0.0


@dataclass
class _Camera:
    """State of one camera; guarded by the pipeline's lock, but for `watch`, which is the worker's."""

    name: str
    handler: FrameHandler
    statistics: CameraStatistics
    waiting: deque[_Frame] = field(default_factory=deque)  # the oldest first
    blocked_since: float | None = None  # the first of them can be served only after a build
    desired: Key | None = None  # what it has no graph of its own for
    served: Key | None = None  # what its last restored frame needed
    watch: DryWatch = field(default_factory=DryWatch)


@dataclass(frozen=True)
class _Result:
    restored: Restored
    way: Way
    inference_s: float = 0.0


@dataclass(frozen=True)
class _Unserved:
    """Nothing can restore a frame, and nothing that could is being built."""

    problem: Problem
    error: BaseException


class _LeftBehindError(BaseException):
    """This thread came back from an inference after others had taken its place; it must touch nothing."""


class Pipeline:
    """Frames of several cameras through one restorer.

    handlers: of each camera, by name. restorer: what restores; the pipeline closes it.
    options: asked anew for every frame.
    make_restorer: makes the restorer anew after it has failed; None: it goes on with the one it has.
    make_stand_in: makes the restorer that serves while a network is being compiled and options say so; None
    where nothing would be gained by one.
    """

    def __init__(
        self,
        handlers: Mapping[str, FrameHandler],
        restorer: Restorer,
        listener: Listener,
        *,
        options: Callable[[], Options] = Options,
        make_restorer: Callable[[], Restorer] | None = None,
        make_stand_in: Callable[[], Restorer] | None = None,
    ):
        self.restorer = restorer
        self._successor: Restorer | None = None  # made anew, not yet in the restorer's place
        self._options = options
        self._listener = listener
        self._make_restorer = make_restorer
        self._make_stand_in = make_stand_in
        self._stand_in: Restorer | None = None
        self._stand_in_failure: Failure | None = None
        self._changed = threading.Condition()
        self._cameras = {
            name: _Camera(name, handler, CameraStatistics(name)) for name, handler in handlers.items()
        }
        self._turns = deque(self._cameras.values())
        self._stopping = False
        self._crew = 0  # worker and builder of another number have been left behind
        self._threads: list[threading.Thread] = []
        self._busy: _Camera | None = None
        self._stage: tuple[str, float] | None = None  # what the worker does, since when
        self._inferring: Restorer | None = None
        self._deadline: float | None = None  # of the inference under way
        self._asked: deque[Key] = deque()
        self._build: Build | None = None
        self._failed: OrderedDict[Key, Failure] = OrderedDict()
        self._built_at: OrderedDict[Key, float] = OrderedDict()
        self._rebuilt: deque[float] = deque(maxlen=100)
        self._failure: str | None = None
        self._failures_in_a_row = 0
        self._hangs = False
        self._recovering = False
        self._recovery_due = 0.0
        self._remade = 0
        self._stuck: list[threading.Thread] = []
        with self._changed:
            self._start_crew()
            self._start_thread("watchdog", self._watch)

    # -- called from any thread --------------------------------------------------------------------

    def submit(self, camera: str, message: Any) -> None:
        """Store a message as its camera's newest; where more wait than may, the oldest is dropped and
        counted.
        """
        now = time.perf_counter()
        with self._changed:
            state = self._cameras[camera]
            state.statistics.on_received(now)
            before = state.waiting[0] if state.waiting else None
            state.waiting.append(_Frame(message, now))
            while len(state.waiting) > self._options().queue_length:
                state.waiting.popleft()
                state.statistics.dropped += 1
            if state.waiting[0] is not before:
                state.blocked_since = None  # it may be of another size
            self._changed.notify_all()

    def clear(self) -> None:
        """Drop the frames that wait, and return when the worker has none in hand."""
        with self._changed:
            self._drop_waiting()
            self._changed.wait_for(lambda: self._busy is None)
            self._drop_waiting()  # the one in hand may have been put back, to wait for a build

    def _drop_waiting(self) -> None:
        for camera in self._cameras.values():
            camera.statistics.dropped += len(camera.waiting)
            camera.waiting.clear()
            camera.blocked_since = camera.desired = None

    def build(self, size: Size, outputs: Outputs) -> None:
        """Have the network compiled for this size (height, width) and these outputs; returns at once."""
        with self._changed:
            self._asked.append((size, outputs))
            self._changed.notify_all()

    def wait_until_built(self, timeout: float | None = None) -> bool:
        """Wait until nothing is left to compile. False: the time was up, or a build failed."""
        with self._changed:
            done = self._changed.wait_for(
                lambda: self._stopping or (self._build is None and self._next_key() is None), timeout
            )
            return done and not self._failed and not self._stopping

    @property
    def building(self) -> Build | None:
        """What is being compiled now."""
        with self._changed:
            return self._build

    @property
    def failed_builds(self) -> list[str]:
        """What could not be compiled, and why, until it is tried again with success.

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

    @property
    def health(self) -> Health:
        """How the runtime is now."""
        now = time.perf_counter()
        with self._changed:
            stage = self._stage
            return Health(
                failure=self._failure,
                remade=self._remade,
                stuck=len(self._still_stuck()),
                busy=None if stage is None else (stage[0], now - stage[1]),
                rebuilt=sum(when > now - REBUILT_WITHIN_S for when in self._rebuilt),
            )

    def snapshot(self) -> dict[str, CameraSnapshot]:
        """Counts, rates and times of every camera."""
        with self._changed:
            now = time.perf_counter()
            copies = [(camera.statistics.copy(), camera.watch.dry) for camera in self._cameras.values()]
        return {statistics.camera: statistics.snapshot(now, dry) for statistics, dry in copies}

    def close(self, timeout: float | None = None) -> bool:
        """Stop the threads, a build under way too, and close the restorers.

        False where a frame was still in work after `timeout` seconds, or a build that cannot be given up.
        Then the restorers are closed as soon as it has ended, if the process lives that long.
        """
        with self._changed:
            self._stopping = True
            self._asked.clear()
            self._changed.notify_all()
            threads = [*self._threads, *self._stuck]
            building = [self.restorer, *filter(None, (self._successor,))]
        for restorer in building:
            restorer.cancel_builds()
        closing = threading.Thread(
            target=self._close_restorers_after, args=(threads,), name="close", daemon=True
        )
        closing.start()
        closing.join(timeout)
        return not closing.is_alive()

    def _close_restorers_after(self, threads: Sequence[threading.Thread]) -> None:
        for thread in threads:
            thread.join()
        for restorer in filter(None, (self.restorer, self._stand_in)):
            self._close_restorer(restorer)

    # -- the worker's thread -----------------------------------------------------------------------

    def _work(self, crew: int) -> None:
        while (job := self._next_job(crew)) is not None:
            camera, frame = job
            try:
                self._process(camera, frame, crew)
            except _LeftBehindError:
                return
            except ImageError as error:
                self._count(camera, Problem.BAD_INPUT, error)
            except BaseException as error:  # of whatever backend; the stream must go on
                self._count(camera, Problem.FAILED, error)

    def _next_job(self, crew: int) -> tuple[_Camera, _Frame] | None:
        with self._changed:
            if crew == self._crew:
                self._busy = self._stage = None
                self._changed.notify_all()
            self._changed.wait_for(
                lambda: self._stopping or crew != self._crew or self._next_camera() is not None
            )
            if self._stopping or crew != self._crew:
                return None
            camera = self._next_camera()
            assert camera is not None and camera.waiting  # it was waited for
            self._turns.remove(camera)
            self._turns.append(camera)  # its next turn comes after all others'
            frame = camera.waiting.popleft()
            if camera.waiting:
                camera.blocked_since = None  # the next may be of another size
            self._busy = camera
            self._stage = "conversion", time.perf_counter()
            return camera, frame

    def _next_camera(self) -> _Camera | None:
        serves = self._stand_in_serves(self._options()) if any(c.waiting for c in self._turns) else False
        return next((c for c in self._turns if c.waiting and (c.blocked_since is None or serves)), None)

    def _stand_in_serves(self, options: Options) -> bool:
        return self._make_stand_in is not None and options.serve_while_building

    def _process(self, camera: _Camera, frame: _Frame, crew: int) -> None:
        started = time.perf_counter()
        options = self._options()
        wanted = camera.handler.wanted()
        if not wanted:
            with self._changed:
                camera.statistics.idle += 1
            return
        if frame.picture is None:
            frame.picture = camera.handler.read(frame.message)
            frame.reading_s = time.perf_counter() - started
        chosen = time.perf_counter()
        result = self._restore(camera, frame, wanted, options, crew)
        if result is None:
            return
        restored = time.perf_counter()
        written = camera.handler.write(frame.message, frame.picture, result.restored)
        converted = time.perf_counter()
        with self._changed:
            self._stage = "publishing", converted
        age = camera.handler.publish(frame.message, written)
        published = time.perf_counter()
        times = StageTimes(
            waiting=max(0.0, chosen - frame.reading_s - frame.received),
            conversion=frame.reading_s + (restored - chosen - result.inference_s) + (converted - restored),
            inference=result.inference_s,
            publishing=published - converted,
        )
        with self._changed:
            camera.statistics.on_published(published, result.way, times, age)

    def _restore(
        self, camera: _Camera, frame: _Frame, wanted: Outputs, options: Options, crew: int
    ) -> _Result | None:
        """What to publish of this frame; None where it has to wait, or is lost and counted."""
        rgb = frame.picture.rgb
        size = rgb.shape[:2]
        now = time.perf_counter()
        bypassing = options.bypass_when_dry and camera.watch.dry
        if bypassing and wanted == IMAGE_ONLY and not camera.watch.must_look(now):
            return _Result(_input_of(rgb), Way.BYPASSED)
        with self._changed:
            failure = self._failure
        if failure is not None:
            return self._lost(camera, rgb, wanted, options, Problem.FAILED, InferenceError(failure))
        check_size(*size)
        chosen = self._choose(camera, frame, size, wanted, options)
        if chosen is None:
            return None
        if isinstance(chosen, _Unserved):
            return self._lost(camera, rgb, wanted, options, chosen.problem, chosen.error)
        restorer, outputs = chosen
        try:
            began = time.perf_counter()
            restored, focal_px = self._infer(camera, frame, restorer, outputs, options, crew)
            inference_s = time.perf_counter() - began
        except NotPreparedError:  # it has just given way to another size
            with self._changed:
                camera.desired = (size, wanted)
                self._block(camera, frame)
            return None
        except ImageError:
            raise
        except _LeftBehindError:
            raise
        except BaseException as error:  # of whatever backend
            self._on_failed_inference(restorer, error)
            return self._lost(camera, rgb, wanted, options, Problem.FAILED, error)
        weather = Weather.of(restored.streak_light, restored.extinction)
        camera.watch.update(weather, time.perf_counter(), options.dry_thresholds)
        with self._changed:
            self._failures_in_a_row = 0
            camera.statistics.weather, camera.statistics.focal_px = weather, focal_px
            camera.served = size, wanted
        shown = {
            output.value: getattr(restored, output.value) if output in wanted & outputs else None
            for output in (Output.IMAGE, Output.INVERSE_DEPTH, Output.LABELS)
        }
        way = Way.RESTORED
        if options.bypass_when_dry and camera.watch.dry and shown["image"] is not None:
            shown["image"], way = rgb, Way.BYPASSED
        return _Result(replace(restored, **shown), way, inference_s)

    def _infer(
        self,
        camera: _Camera,
        frame: _Frame,
        restorer: Restorer,
        outputs: Outputs,
        options: Options,
        crew: int,
    ) -> tuple[Restored, float | None]:
        """The checked result, and the focal length it was computed for."""
        rgb = frame.picture.rgb
        size = rgb.shape[:2]
        focal_px = camera.handler.focal_px(frame.message, size)
        stands_in = restorer is self._stand_in
        patience = options.inference_timeout_s * (STAND_IN_PATIENCE if stands_in else 1)
        with self._changed:
            now = time.perf_counter()
            self._stage, self._deadline = ("inference", now), now + patience
            self._inferring = restorer
            self._changed.notify_all()
        try:
            restored = restorer(rgb, outputs, focal_px, prepared_only=not stands_in)
        finally:
            with self._changed:
                if crew == self._crew:
                    self._stage, self._deadline = ("conversion", time.perf_counter()), None
            if crew != self._crew:
                self._leave(restorer)
        check_restored(restored, size, outputs)
        return restored, focal_px

    def _leave(self, restorer: Restorer) -> None:
        """End the thread that came back too late, and give back what its restorer holds."""
        self._close_restorer(restorer)
        raise _LeftBehindError

    def _close_restorer(self, restorer: Restorer) -> None:
        """Give back what a restorer holds; one of a device that has failed may not even manage that."""
        try:
            restorer.close()
        except BaseException as error:  # of whatever backend
            self._listener.on_problem(None, Problem.FAILED, error)

    def _lost(
        self,
        camera: _Camera,
        rgb: np.ndarray,
        wanted: Outputs,
        options: Options,
        problem: Problem,
        error: BaseException,
    ) -> _Result | None:
        """What becomes of a good frame that cannot be restored."""
        self._count(camera, problem, error)
        if options.on_failure is OnFailure.PASSTHROUGH and Output.IMAGE in wanted:
            return _Result(_input_of(rgb), Way.PASSED_THROUGH)
        return None

    def _choose(
        self, camera: _Camera, frame: _Frame, size: Size, wanted: Outputs, options: Options
    ) -> tuple[Restorer, Outputs] | _Unserved | None:
        """What serves this frame now; None where it has to wait.

        What is compiled for other outputs of the same size serves while the exact one is being compiled, so
        that a new subscriber never makes a stream stop.
        """
        key = (size, wanted)
        restorer = self.restorer
        prepared = restorer.prepared(*size)
        with self._changed:
            if wanted in prepared:
                camera.desired = None
                return restorer, wanted
            failure = self._failed.get(key)
            if _may_be_tried(failure):
                failure, camera.desired = None, key
                self._changed.notify_all()
            others = [outputs for outputs in prepared if outputs & wanted]
            if others:
                return restorer, max(others, key=lambda outputs: (len(outputs & wanted), -len(outputs)))
            if failure is None and not self._stand_in_serves(options):
                self._block(camera, frame)
                return None
        if failure is not None:
            return _Unserved(_problem_of_build(failure[1]), failure[1])
        if self._stand_in is None and _may_be_tried(self._stand_in_failure):
            assert self._make_stand_in is not None  # it serves
            try:
                self._stand_in = self._make_stand_in()
            except BaseException as error:  # of whatever backend; not every frame is to load it in vain
                self._stand_in_failure = time.perf_counter(), _without_variables(error)
        if self._stand_in is None:
            assert self._stand_in_failure is not None
            return _Unserved(Problem.FAILED, self._stand_in_failure[1])
        return self._stand_in, wanted

    def _block(self, camera: _Camera, frame: _Frame) -> None:
        """Have a frame wait for the next build, unless a newer one has come."""
        if len(camera.waiting) < self._options().queue_length:
            camera.waiting.appendleft(frame)
            camera.blocked_since = time.perf_counter()
        else:
            camera.statistics.dropped += 1
        self._changed.notify_all()

    def _unblock_all(self) -> None:
        for camera in self._cameras.values():
            camera.blocked_since = None
        self._changed.notify_all()

    def _count(self, camera: _Camera, problem: Problem, error: BaseException) -> None:
        with self._changed:
            camera.statistics.on_problem(time.perf_counter(), problem, error)
        self._listener.on_problem(camera.name, problem, error)

    # -- the builder's thread ----------------------------------------------------------------------

    def _next_key(self) -> Key | None:
        """What to compile next: for frames that wait, the longest first; then what was asked for; then what
        would serve better than what serves now.
        """
        cameras = sorted(
            self._cameras.values(), key=lambda c: (c.blocked_since is None, c.blocked_since or 0)
        )
        waiting = [c.desired for c in cameras if c.desired and c.blocked_since is not None]
        others = [c.desired for c in cameras if c.desired and c.blocked_since is None]
        return next(iter([*waiting, *self._asked, *others]), None)

    def _build_all(self, crew: int) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(
                    lambda: (
                        self._stopping
                        or crew != self._crew
                        or (self._failure is None and self._next_key() is not None)
                    )
                )
                if self._stopping or crew != self._crew:
                    return
                key = self._next_key()
                assert key is not None  # it was waited for
                self._build = Build(*key, started=time.perf_counter())
                restorer = self.restorer
            failure: BaseException | None = None
            (height, width), outputs = key
            known = outputs in restorer.prepared(height, width)
            try:
                restorer.prepare(height, width, outputs, lambda text: self._on_progress(crew, text))
            except BaseException as error:  # of whatever compiler; it is reported and tried again later
                failure = _without_variables(error)
            with self._changed:
                if crew != self._crew or (self._stopping and failure is not None):
                    return
                build, self._build = self._build, None
                if restorer is self.restorer and self._failure is None:
                    self._on_build_ended(key, failure, known)
                self._unblock_all()  # what has been compiled may serve others too
                given_up = self._failure is not None or restorer is not self.restorer
            if failure is not None and given_up:
                continue
            if failure is not None:
                self._listener.on_problem(None, _problem_of_build(failure), failure)
            elif not known:
                self._listener.on_built(build)

    def _on_build_ended(self, key: Key, failure: BaseException | None, known: bool) -> None:
        now = time.perf_counter()
        self._asked = deque(asked for asked in self._asked if asked != key)
        for camera in self._cameras.values():
            if camera.desired == key:
                camera.desired = None
        self._failed.pop(key, None)
        if failure is not None:
            self._failed[key] = now, failure
        elif not known:
            if now - self._built_at.pop(key, -REBUILT_WITHIN_S) < REBUILT_WITHIN_S:
                self._rebuilt.append(now)
            self._built_at[key] = now
        for table in (self._failed, self._built_at):
            while len(table) > FAILED_BUILDS_KEPT:
                table.popitem(last=False)

    def _on_progress(self, crew: int, message: str) -> None:
        with self._changed:
            if crew == self._crew and self._build is not None:
                self._build = Build(self._build.size, self._build.outputs, self._build.started, message)

    # -- failures of the runtime -------------------------------------------------------------------

    def _on_failed_inference(self, restorer: Restorer, error: BaseException) -> None:
        with self._changed:
            if restorer is not self.restorer or self._make_restorer is None:
                return
            self._failures_in_a_row += 1
            if self._failures_in_a_row >= FAILURES_IN_A_ROW:
                self._fail(f"{FAILURES_IN_A_ROW} inferences in a row failed: {error or type(error).__name__}")

    def _fail(self, why: str) -> None:
        self._failure = why
        self._failures_in_a_row = 0
        self._unblock_all()

    def _watch(self) -> None:
        """The watchdog's thread: leaves behind what hangs, and starts what makes the runtime anew."""
        with self._changed:
            while not self._stopping:
                now = time.perf_counter()
                times = []
                if self._deadline is not None:
                    if now >= self._deadline:
                        self._leave_behind()
                        continue
                    times.append(self._deadline)
                if self._failure is not None and self._make_restorer is not None and not self._recovering:
                    if now < self._recovery_due:
                        times.append(self._recovery_due)
                    elif len(self._still_stuck()) >= MAX_STUCK:
                        times.append(now + 1.0)
                    else:
                        self._recovering = True
                        self._start_thread("recovery", self._recover, self.restorer, self._hangs)
                self._changed.wait(min(times) - now if times else None)

    def _leave_behind(self) -> None:
        """Replace worker and builder, which may wait for the hanging one; the restorer has failed."""
        assert self._stage is not None  # something hangs
        camera, (_, since) = self._busy, self._stage
        error = InferenceError(
            f"inference did not come back within {time.perf_counter() - since:.1f} s; "
            "the device or its driver hangs"
        )
        self._stuck = self._still_stuck()
        self._stuck += [t for t in self._threads if t.name.startswith(("restore", "build")) and t.is_alive()]
        self._threads = [t for t in self._threads if t not in self._stuck]
        self._deadline = self._stage = self._busy = self._build = None
        if self._inferring is self._stand_in:
            self._stand_in, self._stand_in_failure = None, (time.perf_counter(), error)
            self._unblock_all()
        else:
            self._hangs = True
            self._fail(str(error))
        self._start_crew()
        if camera is not None:
            camera.statistics.on_problem(time.perf_counter(), Problem.FAILED, error)
        report = self._inferring, camera, error
        threading.Thread(target=self._report_hanging, args=report, daemon=True).start()

    def _report_hanging(self, hanging: Restorer, camera: _Camera | None, error: InferenceError) -> None:
        hanging.cancel_builds()
        self._listener.on_problem(None if camera is None else camera.name, Problem.FAILED, error)

    def _still_stuck(self) -> list[threading.Thread]:
        return [thread for thread in self._stuck if thread.is_alive() and thread.name.startswith("restore")]

    def _recover(self, failed: Restorer, hangs: bool) -> None:
        """Make the runtime anew and compile what is in use, in a thread of its own: it may hang as well."""
        with self._changed:
            keys = list(dict.fromkeys(c.served for c in self._cameras.values() if c.served is not None))
        if not hangs:  # its memory first; one that hangs is closed by the thread that hangs in it
            self._close_restorer(failed)
        restorer: Restorer | None = None
        try:
            assert self._make_restorer is not None  # nothing is recovered without
            restorer = self._make_restorer()
            with self._changed:
                self._successor = restorer
            for (height, width), outputs in keys:
                if self._stopping:  # `close` may have come before there was a successor to be told
                    restorer.cancel_builds()
                restorer.prepare(height, width, outputs)
        except BaseException as error:  # of whatever backend
            if restorer is not None:
                self._close_restorer(restorer)
            with self._changed:
                self._successor, self._recovering = None, False
                self._recovery_due = time.perf_counter() + RETRY_AFTER_S
                stopping = self._stopping
                self._changed.notify_all()
            if not stopping:
                self._listener.on_problem(None, Problem.FAILED, error)
            return
        with self._changed:
            failure, self._failure = self._failure, None
            self.restorer, self._successor = restorer, None
            self._hangs = self._recovering = False
            self._recovery_due = time.perf_counter() + RETRY_AFTER_S
            self._remade += 1
            self._failed.clear()
            self._built_at.clear()
            self._unblock_all()
            if self._stopping:
                return
        self._listener.on_recovered(restorer, failure or "")

    def _start_crew(self) -> None:
        self._crew += 1
        self._start_thread("restore", self._work, self._crew)
        self._start_thread("build", self._build_all, self._crew)

    def _start_thread(self, name: str, target: Callable[..., None], *arguments: Any) -> None:
        thread = threading.Thread(target=target, args=arguments, name=name, daemon=True)
        self._threads = [t for t in self._threads if t.is_alive()]
        self._threads.append(thread)
        thread.start()


def _without_variables(error: BaseException) -> BaseException:
    """The error, which is kept, without the variables of the calls that it came through: they may hold what
    was compiled so far, on a device without room for it.
    """
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        traceback.clear_frames(link.__traceback__)
        link = link.__cause__ or link.__context__
    return error


def _input_of(rgb: np.ndarray) -> Restored:
    return Restored(image=rgb, inverse_depth=None, labels=None)


def _may_be_tried(failure: Failure | None) -> bool:
    return failure is None or time.perf_counter() - failure[0] > RETRY_AFTER_S


def _problem_of_build(error: BaseException) -> Problem:
    """A size that no network takes is the image's fault, not the compiler's."""
    return Problem.BAD_INPUT if isinstance(error, ImageError) else Problem.BUILD
