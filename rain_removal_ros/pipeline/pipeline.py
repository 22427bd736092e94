"""The pipeline's three threads.

The worker takes the cameras in turn and does everything to one frame before it takes the next, so that
outputs keep their order; frames of several cameras that wait already go through the network in one call where
that has been seen to be worth it, and no frame waits for others. The builder has the network compiled for
image sizes and outputs that are seen for the first time, which may take minutes, and then tries what several
frames in one call take; meanwhile the worker goes on with whatever is compiled already. The watchdog looks
for an inference that does not come back: it leaves the two where they hang, starts others in their place, and
has the restorer made anew, as it does where inference fails again and again.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np

from rain_removal_ros.errors import ImageError, InferenceError, NotPreparedError
from rain_removal_ros.frame_statistics import CameraSnapshot, CameraStatistics, Problem, StageTimes, Way
from rain_removal_ros.pipeline import failures, stand_in
from rain_removal_ros.pipeline.batches import Batches
from rain_removal_ros.pipeline.builds import Builds
from rain_removal_ros.pipeline.failures import MAX_HANGING, Failure, problem_of_build, without_variables
from rain_removal_ros.pipeline.interfaces import (
    BatchKey,
    Build,
    FrameHandler,
    Health,
    Key,
    Listener,
    OnFailure,
    Options,
    OutputSet,
    Size,
)
from rain_removal_ros.pipeline.stand_in import StandIn
from rain_removal_ros.rain_monitor import DryWatch, Weather
from rain_removal_ros.runtime import BatchTrial, Output, Restored, Restorer
from rain_removal_ros.runtime.checks import check_restored
from rain_removal_ros.runtime.sizes import check_size

LOOK_AGAIN_S = 5.0
"""So often the watchdog looks whether a build has come to the device."""

FAILURES_IN_A_ROW = 3
"""So many failed inferences, one after another, are the runtime's fault and not a frame's."""

_Given = TypeVar("_Given")

IMAGE_ONLY: OutputSet = frozenset({Output.IMAGE})


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
    blocked: bool = False  # the first of them can be served only after a build
    starved_since: float | None = None  # since when nothing could be served, whichever frame waits now
    desired: Key | None = None  # what it has no graph of its own for
    served: Key | None = None  # what its last restored frame needed
    ran: Key | None = None  # what of the restorer, and not of a stand-in, last restored one
    watch: DryWatch = field(default_factory=DryWatch)


@dataclass
class _Job:
    """A frame in the worker's hands."""

    camera: _Camera
    frame: _Frame
    wanted: OutputSet = frozenset()
    focal_px: float | None = None
    waits: bool = False  # for a build
    may_look_later: bool = False  # it may as well go out as it came


@dataclass(frozen=True)
class _Plan:
    """What restores a frame: the restorer, and of its graphs the one of this size and these outputs."""

    restorer: Restorer
    size: Size
    outputs: OutputSet

    @property
    def key(self) -> Key:
        return self.size, self.outputs


@dataclass(frozen=True)
class _Result:
    restored: Restored
    way: Way


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
        self._stand_in = StandIn(make_stand_in)
        self._changed = threading.Condition()
        self._cameras = {
            name: _Camera(name, handler, CameraStatistics(name)) for name, handler in handlers.items()
        }
        self._turns = deque(self._cameras.values())
        self._stopping = False
        self._worker = self._builder = 0  # those of another number have been left behind
        self._threads: list[threading.Thread] = []
        self._busy: list[_Camera] = []  # those whose frames the worker has in hand
        self._stage: tuple[str, float] | None = None  # what the worker does, since when
        self._inferring: tuple[Restorer, int] | None = None  # with how many frames
        self._deadline: float | None = None  # of the inference under way
        self._builds = Builds()
        self._batches = Batches()
        self._failure: str | None = None
        self._failures_in_a_row = 0
        self._hangs = False
        self._recovering = False
        self._recovering_since = self._recovery_due = 0.0
        self._remade = self._not_remade = 0
        self._stuck: list[threading.Thread] = []  # that were left behind
        self._hanging: list[threading.Thread] = []  # those of them that hang in the device themselves
        with self._changed:
            self._start_worker()
            self._start_builder()
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
                state.statistics.counts.dropped += 1
            if state.waiting[0] is not before:
                state.blocked = False  # it may be of another size
            self._changed.notify_all()

    def clear(self) -> None:
        """Drop the frames that wait, and return when the worker has none in hand."""
        with self._changed:
            self._drop_waiting()
            self._changed.wait_for(lambda: not self._busy)
            self._drop_waiting()  # the one in hand may have been put back, to wait for a build

    def _drop_waiting(self) -> None:
        for camera in self._cameras.values():
            camera.statistics.counts.dropped += len(camera.waiting)
            camera.waiting.clear()
            camera.blocked, camera.starved_since, camera.desired = False, None, None
        self._batches.wanted = None

    def build(self, size: Size, outputs: OutputSet) -> None:
        """Have the network compiled for this size (height, width) and these outputs; returns at once."""
        with self._changed:
            self._builds.asked.append((size, outputs))
            self._changed.notify_all()

    def wait_until_built(self, timeout: float | None = None) -> bool:
        """Wait until nothing is left to compile that frames wait for, or was asked for. False: the time was
        up, or a build failed.
        """

        def built() -> bool:
            return (
                self._builds.current is None or self._builds.current.frames > 1
            ) and self._next_key() is None

        with self._changed:
            done = self._changed.wait_for(lambda: self._stopping or built(), timeout)
            return done and not self._builds.any_failed and not self._stopping

    @property
    def building(self) -> Build | None:
        """What is being compiled now."""
        with self._changed:
            return self._builds.current

    @property
    def failed_builds(self) -> list[str]:
        """What could not be compiled, and why, until it is tried again with success."""
        with self._changed:
            return self._builds.failures()

    @property
    def batching(self) -> list[str]:
        """What trials said of restoring several frames in one call, and where that is done."""
        if not self._options().batching:
            return ["off"]
        with self._changed:
            keys, restorer = self._batches.tried(), self.restorer
        # without the lock: the restorer's own may be held by what closes graphs of a device that is ill
        in_memory = {key: restorer.prepared_batches(*key[0], key[1]) for key in keys}
        with self._changed:
            return self._batches.told(lambda key: in_memory.get(key, ()))

    @property
    def health(self) -> Health:
        """How the runtime is now."""
        now = time.perf_counter()
        with self._changed:
            stage = self._stage
            return Health(
                failure=self._failure,
                remade=self._remade,
                hanging=len(self._still_stuck()),
                busy=None if stage is None else (stage[0], now - stage[1]),
                rebuilt=self._builds.rebuilt(),
                not_remade=self._not_remade,
                remaking_s=now - self._recovering_since if self._recovering else None,
                patience_s=None if stage is None or self._deadline is None else self._deadline - stage[1],
                stand_in=self._stand_in.problem,
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
            self._builds.asked.clear()
            self._changed.notify_all()
            stuck = [*self._stuck, *self._stand_in.threads, *self._take_threads("stand-in")]
            threads = [*self._threads]
            building = [self.restorer, *filter(None, (self._successor,))]
        for restorer in building:
            restorer.cancel_builds()
        closing = threading.Thread(
            target=self._close_restorers_after, args=(threads, stuck), name="close", daemon=True
        )
        closing.start()
        closing.join(timeout)
        return not closing.is_alive()

    def _close_restorers_after(
        self, threads: Sequence[threading.Thread], stuck: Sequence[threading.Thread]
    ) -> None:
        for thread in threads:
            thread.join()
        if self._hangs:  # the restorer is what the stuck ones are in
            for thread in stuck:
                thread.join()
        for restorer in filter(None, (self.restorer, self._stand_in.restorer)):
            self._close_restorer(restorer)
        for thread in stuck:
            thread.join()

    # -- the worker's thread -----------------------------------------------------------------------

    def _work(self, crew: int) -> None:
        while (lead := self._next_job(crew)) is not None:
            try:
                self._process(lead, crew)
            except _LeftBehindError:
                return
            except BaseException as error:  # of whatever backend; the stream must go on
                for camera in self._busy.copy():
                    self._count(camera, Problem.FAILED, error)

    def _next_job(self, crew: int) -> _Job | None:
        with self._changed:
            if crew == self._worker:
                self._busy.clear()
                self._stage = None
                self._changed.notify_all()
            self._changed.wait_for(
                lambda: self._stopping or crew != self._worker or self._next_camera() is not None
            )
            if self._stopping or crew != self._worker:
                return None
            camera = self._next_camera()
            assert camera is not None and camera.waiting  # it was waited for
            self._stage = "conversion", time.perf_counter()
            return self._take(camera)

    def _next_camera(self) -> _Camera | None:
        waits = any(c.waiting for c in self._turns)
        serves = waits and self._stand_in.making_since is None and self._stand_in_serves(self._options())
        return next((c for c in self._turns if c.waiting and (serves or not c.blocked)), None)

    def _take(self, camera: _Camera) -> _Job:
        """A camera's oldest waiting frame, into the worker's hands."""
        self._turns.remove(camera)
        self._turns.append(camera)  # its next turn comes after all others'
        frame = camera.waiting.popleft()
        if camera.waiting:
            camera.blocked = False  # the next may be of another size
        self._busy.append(camera)
        return _Job(camera, frame)

    def _stand_in_serves(self, options: Options) -> bool:
        return self._stand_in.make is not None and options.serve_while_building

    def _process(self, lead: _Job, crew: int) -> None:
        """All that is done to the frame whose turn it is, and to those that go along with it."""
        options = self._options()
        plan = self._planned(lead, options)
        if plan is None:
            return
        together, apart = [lead], []
        for job in self._companions(lead, plan, options):
            its_plan = self._planned(job, options)
            if its_plan == plan:
                together.append(job)
            elif its_plan is not None:
                apart.append((job, its_plan))
        while together:
            frames = self._frames_a_call(plan, len(together), options)
            self._restore(together[:frames], plan, options, crew)
            del together[:frames]
        for job, its_plan in apart:
            self._restore([job], its_plan, options, crew)

    def _planned(self, job: _Job, options: Options) -> _Plan | None:
        """What is to restore this frame; None where its way has ended, as it was published or lost, or
        where it has to wait.
        """
        plan = self._guarded(job, self._plan, options)
        if not job.waits:
            with self._changed:
                job.camera.starved_since = None
        if isinstance(plan, _Result):
            self._guarded(job, self._publish, plan)
        if isinstance(plan, _Plan):
            return plan
        self._let_go(job)
        return None

    def _guarded(self, job: _Job, step: Callable[..., _Given], *arguments: Any) -> _Given | None:
        """What this step gives for a frame; None where it raised, which costs this frame alone."""
        try:
            return step(job, *arguments)
        except _LeftBehindError:
            raise
        except ImageError as error:
            self._count(job.camera, Problem.BAD_INPUT, error)
        except BaseException as error:  # of whatever backend; the stream must go on
            self._count(job.camera, Problem.FAILED, error)
        return None

    def _let_go(self, job: _Job) -> None:
        """A frame has left the worker's hands."""
        with self._changed:
            self._busy.remove(job.camera)
            self._changed.notify_all()

    def _plan(self, job: _Job, options: Options) -> _Plan | _Result | None:
        """Read a frame and find what restores it; or what to publish of it without, or None where that is
        nothing or it has to wait.
        """
        camera, frame = job.camera, job.frame
        started = time.perf_counter()
        job.wanted = camera.handler.wanted()
        if not job.wanted:
            with self._changed:
                camera.statistics.counts.idle += 1
            return None
        if frame.picture is None:
            frame.picture = camera.handler.read(frame.message)
            frame.reading_s = time.perf_counter() - started
        rgb = frame.picture.rgb
        size = rgb.shape[:2]
        now = time.perf_counter()
        bypassing = options.bypass_when_dry and camera.watch.dry and job.wanted == IMAGE_ONLY
        as_it_came = _Result(_input_of(rgb), Way.BYPASSED)
        if bypassing and not camera.watch.must_look(now):
            return as_it_came
        check_size(*size)
        job.may_look_later = bypassing and camera.watch.may_look_later(now)
        with self._changed:
            failure = self._failure
        chosen: _Plan | _Unserved | None
        if failure is not None:
            chosen = _Unserved(Problem.FAILED, InferenceError(failure))
        else:
            chosen = self._choose(camera, None if job.may_look_later else frame, size, job.wanted, options)
        if job.may_look_later and not isinstance(chosen, _Plan):
            return as_it_came
        if isinstance(chosen, _Unserved):
            return self._lost(job, options, chosen.problem, chosen.error)
        if chosen is None:
            job.waits = True
        else:
            job.focal_px = camera.handler.focal_px(frame.message, size)
        return chosen

    def _companions(self, lead: _Job, plan: _Plan, options: Options) -> list[_Job]:
        """Frames of other cameras that wait already and go along with this one: those that need the same
        graph, if they are like their cameras' last.
        """
        if plan.restorer is not self.restorer or plan.outputs != lead.wanted:
            return []

        def alike() -> list[_Camera]:
            return [
                camera
                for camera in self._turns
                if camera is not lead.camera
                and camera.waiting
                and not camera.blocked
                and camera.served == plan.key
            ]

        with self._changed:
            ready = 1 + len(alike())
        frames = self._frames_a_call(plan, ready, options, lead.frame.reading_s)
        with self._changed:
            return [self._take(camera) for camera in alike()[: frames - 1]]

    def _frames_a_call(self, plan: _Plan, ready: int, options: Options, reading_s: float = 0.0) -> int:
        """How many of so many frames to restore in one call, where reading one takes so long before. The
        builder is told of a number to be tried.
        """
        if ready == 1 or not options.batching:
            return 1
        in_memory = plan.restorer.prepared_batches(*plan.size, plan.outputs)
        with self._changed:
            frames = self._batches.frames_a_call(
                plan.key, ready, in_memory, options.longest_batch_s, reading_s
            )
            if self._batches.wanted is not None:
                self._changed.notify_all()
        return frames

    def _restore(self, jobs: Sequence[_Job], plan: _Plan, options: Options, crew: int) -> None:
        """Restore and publish frames: in one call, and where that fails, one by one."""
        together: Sequence[Restored | None] = [None] * len(jobs)
        began = time.perf_counter()
        if len(jobs) > 1:
            together = self._restored_together(jobs, plan, options, crew) or together
        inference_s = time.perf_counter() - began
        for job, restored in zip(jobs, together, strict=True):
            self._guarded(job, self._finish, plan, options, crew, restored, inference_s)
            self._let_go(job)

    def _restored_together(
        self, jobs: Sequence[_Job], plan: _Plan, options: Options, crew: int
    ) -> Sequence[Restored | None] | None:
        """What one call gives for these frames, None for one for which it gave what cannot be; or None where
        it failed. It then does not serve until it has been tried again.
        """
        try:
            restored = self._infer(jobs, plan, options, crew)
            if len(restored) != len(jobs):
                raise InferenceError(f"the network gave {len(restored)} results for {len(jobs)} images")
        except _LeftBehindError:
            raise
        except (NotPreparedError, ImageError):
            return None  # it has given way, or a frame is at fault, which will be told of that frame
        except BaseException as error:  # of whatever backend
            self._on_failed_batch(plan, len(jobs), error)
            return None
        checked: list[Restored | None] = []
        wrong: list[BaseException] = []
        for each in restored:
            try:
                check_restored(each, plan.size, plan.outputs)
                checked.append(each)
            except Exception as error:
                wrong.append(error)
                checked.append(None)
        if wrong:
            self._on_failed_batch(plan, len(jobs), wrong[0])
        return checked

    def _finish(
        self,
        job: _Job,
        plan: _Plan,
        options: Options,
        crew: int,
        restored: Restored | None,
        inference_s: float,
    ) -> None:
        """Publish a frame that was restored together with others; one that was not is restored first."""
        if restored is None:
            began = time.perf_counter()
            result = self._restored_alone(job, plan, options, crew)
            inference_s = time.perf_counter() - began
        else:
            with self._changed:
                job.camera.statistics.counts.together += 1
            result = self._result(job, plan, options, restored)
        if result is not None:
            self._publish(job, result, inference_s)

    def _restored_alone(self, job: _Job, plan: _Plan, options: Options, crew: int) -> _Result | None:
        """What to publish of this frame; None where it has to wait, or is lost and counted."""
        try:
            [restored] = self._infer([job], plan, options, crew)
            check_restored(restored, plan.size, plan.outputs)
        except NotPreparedError:  # it has just given way to another size
            with self._changed:
                job.camera.desired = (plan.size, job.wanted)
                self._block(job.camera, job.frame)
            return None
        except (ImageError, _LeftBehindError):
            raise
        except BaseException as error:  # of whatever backend
            self._on_failed_inference(plan.restorer, error)
            if job.may_look_later:  # what the camera saw last still holds
                self._count(job.camera, Problem.FAILED, error)
                return _Result(_input_of(job.frame.picture.rgb), Way.BYPASSED)
            return self._lost(job, options, Problem.FAILED, error)
        return self._result(job, plan, options, restored)

    def _result(self, job: _Job, plan: _Plan, options: Options, restored: Restored) -> _Result:
        """What to publish of a frame that was restored, and what it says of the weather."""
        camera = job.camera
        weather = Weather.of(restored.streak_light, restored.extinction)
        camera.watch.update(weather, time.perf_counter(), options.dry_thresholds)
        with self._changed:
            camera.statistics.weather, camera.statistics.focal_px = weather, job.focal_px
            camera.served = plan.size, job.wanted
            if plan.restorer is self.restorer:
                self._failures_in_a_row = 0
                camera.ran = plan.key
        shown = {
            output.value: getattr(restored, output.value) if output in job.wanted & plan.outputs else None
            for output in (Output.IMAGE, Output.INVERSE_DEPTH, Output.LABELS)
        }
        way = Way.RESTORED
        if options.bypass_when_dry and camera.watch.dry and shown["image"] is not None:
            shown["image"], way = job.frame.picture.rgb, Way.BYPASSED
        return _Result(replace(restored, **shown), way)

    def _publish(self, job: _Job, result: _Result, inference_s: float | None = None) -> None:
        camera, frame = job.camera, job.frame
        began = time.perf_counter()
        written = camera.handler.write(frame.message, frame.picture, result.restored)
        converted = time.perf_counter()
        with self._changed:
            self._stage = "publishing", converted
        age = camera.handler.publish(frame.message, written)
        published = time.perf_counter()
        conversion, publishing = frame.reading_s + (converted - began), published - converted
        spent = published - frame.received
        times = StageTimes(
            waiting=max(0.0, spent - conversion - (inference_s or 0.0) - publishing),
            conversion=conversion,
            inference=inference_s,
            publishing=publishing,
        )
        with self._changed:
            camera.statistics.on_published(published, result.way, times, age)
            self._stage = "conversion", published

    def _infer(self, jobs: Sequence[_Job], plan: _Plan, options: Options, crew: int) -> Sequence[Restored]:
        """What the restorer gives for these frames, unchecked."""
        restorer = plan.restorer
        stands_in = restorer is self._stand_in.restorer
        patience = options.inference_timeout_s * (self._stand_in.patience(plan.key) if stands_in else 1)
        images, focal_px = [job.frame.picture.rgb for job in jobs], [job.focal_px for job in jobs]
        with self._changed:
            now = time.perf_counter()
            self._stage, self._deadline = ("inference", now), now + patience
            self._inferring = restorer, len(jobs)
            self._changed.notify_all()
        try:
            if len(jobs) > 1:
                return restorer.restore_together(images, plan.outputs, focal_px)
            given = [restorer(images[0], plan.outputs, focal_px[0], prepared_only=not stands_in)]
            with self._changed:
                if stands_in and crew == self._worker:
                    self._stand_in.on_served(plan.key)
            return given
        finally:
            with self._changed:
                left_behind = crew != self._worker
                if not left_behind:
                    self._stage, self._deadline = ("conversion", time.perf_counter()), None
                    self._inferring = None
            if left_behind:
                self._leave(restorer)

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

    def _lost(self, job: _Job, options: Options, problem: Problem, error: BaseException) -> _Result | None:
        """What becomes of a good frame that cannot be restored."""
        self._count(job.camera, problem, error)
        if options.on_failure is OnFailure.PASSTHROUGH and Output.IMAGE in job.wanted:
            return _Result(_input_of(job.frame.picture.rgb), Way.PASSED_THROUGH)
        return None

    def _choose(
        self, camera: _Camera, frame: _Frame | None, size: Size, wanted: OutputSet, options: Options
    ) -> _Plan | _Unserved | None:
        """What serves this frame now; None where it has to wait. Where None is given for it, nothing waits.

        What is compiled for other outputs of the same size serves while the exact one is being compiled, so
        that a new subscriber never makes a stream stop.
        """
        key = (size, wanted)
        restorer = self.restorer
        prepared = restorer.prepared(*size)
        with self._changed:
            if wanted in prepared:
                camera.desired = None
                return _Plan(restorer, size, wanted)
            failure = self._builds.failure_of(key)
            if failure is None:
                camera.desired = key
                self._changed.notify_all()
            others = [outputs for outputs in prepared if outputs & wanted]
            if others:
                most = max(others, key=lambda outputs: (len(outputs & wanted), -len(outputs)))
                return _Plan(restorer, size, most)
            if failure is not None:
                return _Unserved(failure.problem, failure.error)
            if self._stand_in_serves(options):
                return self._choose_stand_in(camera, frame, key)
            if frame is not None:
                self._block(camera, frame)
            return None

    def _choose_stand_in(self, camera: _Camera, frame: _Frame | None, key: Key) -> _Plan | _Unserved | None:
        """As `_choose`, the lock held, of a frame for which nothing is compiled yet."""
        stand_in = self._stand_in
        if stand_in.restorer is not None and stand_in.serves(key):
            stand_in.on_needed()
            return _Plan(stand_in.restorer, *key)
        failure = stand_in.failure_of(key)
        if stand_in.may_be_made_ready(key) and not self._stopping:
            arguments = stand_in.restorer, key, stand_in.on_being_made_ready()
            self._start_thread("stand-in", self._make_stand_in_ready, *arguments)  # other cameras go on
            self._changed.notify_all()  # the watchdog looks after it
        elif failure is not None:
            return _Unserved(Problem.FAILED, failure.error)
        elif stand_in.hanging >= MAX_HANGING and stand_in.failure is not None:
            return _Unserved(Problem.FAILED, stand_in.failure.error)
        if frame is not None:
            self._block(camera, frame)
        return None

    def _make_stand_in_ready(self, restorer: Restorer | None, key: Key, attempt: int) -> None:
        """Make the stand-in, where there is none, and have it prepare what a frame needs."""
        if restorer is None:
            restorer = self._make_stand_in(attempt)
            if restorer is None:
                return
        failure = None
        (height, width), outputs = key
        try:
            restorer.prepare(height, width, outputs)
        except BaseException as error:  # of whatever backend
            failure = Failure(without_variables(error))
        with self._changed:
            left_behind = attempt != self._stand_in.attempt
            if not left_behind:
                self._stand_in.on_prepared(key, failure)
                self._unblock_all()
        if left_behind:
            self._close_restorer(restorer)

    def _make_stand_in(self, attempt: int) -> Restorer | None:
        """The stand-in, now in its place; None where it cannot be made, or nobody waits for it any more."""
        assert self._stand_in.make is not None  # it serves
        outcome: Restorer | Failure
        try:
            outcome = self._stand_in.make()
        except BaseException as error:  # of whatever backend
            outcome = Failure(without_variables(error))
        with self._changed:
            left_behind = attempt != self._stand_in.attempt
            if not left_behind:
                self._stand_in.on_made(outcome)
                self._unblock_all()
        if isinstance(outcome, Failure):
            return None
        if left_behind:
            self._close_restorer(outcome)
            return None
        return outcome

    def _block(self, camera: _Camera, frame: _Frame) -> None:
        """Have a frame wait for the next build, unless a newer one has come."""
        if camera.starved_since is None:
            camera.starved_since = time.perf_counter()
        if len(camera.waiting) < self._options().queue_length:
            camera.waiting.appendleft(frame)
            camera.blocked = True
        else:
            camera.statistics.counts.dropped += 1
        self._changed.notify_all()

    def _unblock_all(self) -> None:
        for camera in self._cameras.values():
            camera.blocked = False
        self._changed.notify_all()

    def _count(self, camera: _Camera, problem: Problem, error: BaseException) -> None:
        with self._changed:
            camera.statistics.on_problem(time.perf_counter(), problem, error)
        self._listener.on_problem(camera.name, problem, error)

    # -- the builder's thread ----------------------------------------------------------------------

    def _next_key(self) -> Key | None:
        """What to compile next: for cameras that nothing serves, the one that has waited longest first; then
        what was asked for; then what would serve better than what serves now.
        """
        wanting = [camera for camera in self._cameras.values() if camera.desired is not None]
        starved = [camera for camera in wanting if camera.starved_since is not None]
        starved.sort(key=lambda camera: camera.starved_since or 0)
        served = [camera for camera in wanting if camera.starved_since is None]
        keys = (
            [camera.desired for camera in starved],
            self._builds.asked,
            [camera.desired for camera in served],
        )
        return next((key for part in keys for key in part), None)

    def _next_build(self) -> BatchKey | None:
        """What to compile next, for how many frames a call: what is only to be tried comes last."""
        key = self._next_key()
        return self._batches.wanted if key is None else (key, 1)

    def _build_all(self, crew: int) -> None:
        while (wanted := self._begin_build(crew)) is not None:
            key, frames, restorer = wanted
            if frames > 1:
                self._try_batch(key, frames, restorer, crew)
            else:
                self._build(key, restorer, crew)
            with self._changed:
                left_behind = crew != self._builder
            if left_behind:
                self._close_restorer(restorer)  # another has taken its place, or will
                return

    def _begin_build(self, crew: int) -> tuple[Key, int, Restorer] | None:
        """What to compile next, for how many frames a call, and by what; None at the end."""
        with self._changed:
            self._changed.wait_for(
                lambda: (
                    self._stopping
                    or crew != self._builder
                    or (self._failure is None and self._next_build() is not None)
                )
            )
            if self._stopping or crew != self._builder:
                return None
            wanted = self._next_build()
            assert wanted is not None  # it was waited for
            key, frames = wanted
            self._builds.current = Build(*key, started=time.perf_counter(), frames=frames)
            self._changed.notify_all()  # the watchdog looks after it
            return key, frames, self.restorer

    def _build(self, key: Key, restorer: Restorer, crew: int) -> None:
        """Have the restorer compile this, and tell what came of it."""
        failure: BaseException | None = None
        (height, width), outputs = key
        known = outputs in restorer.prepared(height, width)
        try:
            restorer.prepare(height, width, outputs, lambda text: self._on_progress(crew, text))
        except BaseException as error:  # of whatever compiler; it is reported and tried again later
            failure = without_variables(error)
        with self._changed:
            if crew != self._builder or (self._stopping and failure is not None):
                return
            build, self._builds.current = self._builds.current, None
            given_up = self._failure is not None or restorer is not self.restorer
            if not given_up:
                self._on_build_ended(key, failure, known)
            self._unblock_all()  # what has been compiled may serve others too
        if failure is not None:
            if not given_up:
                self._listener.on_problem(None, problem_of_build(failure), failure)
        elif not known and build is not None:
            self._listener.on_built(build)

    def _builds_wait(self) -> bool:
        """Whether there is something to compile that is not only to be tried."""
        with self._changed:
            return self._next_key() is not None

    def _try_batch(self, key: Key, frames: int, restorer: Restorer, crew: int) -> None:
        """Have the restorer try so many frames in one call, for as long as nothing waits to be compiled."""
        (height, width), outputs = key
        longest_s = self._options().longest_batch_s
        outcome: BatchTrial | Failure
        try:
            outcome = restorer.prepare_batch(
                height,
                width,
                outputs,
                frames,
                longest_s,
                lambda text: self._on_progress(crew, text),
                self._builds_wait,
            )
        except BaseException as error:  # of whatever compiler; it is reported and tried again later
            outcome = Failure(without_variables(error))
        with self._changed:
            if crew != self._builder or self._stopping:
                return
            build, self._builds.current = self._builds.current, None
            self._changed.notify_all()
            if self._batches.wanted == (key, frames):
                self._batches.wanted = None
            if self._failure is not None or restorer is not self.restorer:
                return
            failed_before = self._batches.on_tried((key, frames), outcome)
        if isinstance(outcome, BatchTrial):
            if outcome.pays and build is not None:
                said = f"{outcome.ratio:.2f} of the time that they take one by one"
                self._listener.on_built(replace(build, message=said))
        elif not failed_before and not isinstance(outcome.error, NotPreparedError):
            self._listener.on_problem(None, Problem.BUILD, outcome.error)

    def _on_build_ended(self, key: Key, failure: BaseException | None, known: bool) -> None:
        for camera in self._cameras.values():
            if failure is None and camera.desired is not None and _serves(key, camera.desired):
                camera.starved_since = None  # its next frame will not wait
            if camera.desired == key:
                camera.desired = None
        self._builds.on_ended(key, None if failure is None else Failure(failure), known)

    def _on_progress(self, crew: int, message: str) -> None:
        with self._changed:
            if crew == self._builder and self._builds.current is not None:
                self._builds.current = replace(self._builds.current, message=message)

    # -- failures of the runtime -------------------------------------------------------------------

    def _on_failed_inference(self, restorer: Restorer, error: BaseException) -> None:
        with self._changed:
            if restorer is not self.restorer or self._make_restorer is None:
                return
            self._failures_in_a_row += 1
            if self._failures_in_a_row >= FAILURES_IN_A_ROW:
                self._fail(f"{FAILURES_IN_A_ROW} inferences in a row failed: {error or type(error).__name__}")

    def _on_failed_batch(self, plan: _Plan, frames: int, error: BaseException) -> None:
        with self._changed:
            if plan.restorer is not self.restorer:
                return
            failed_before = self._batches.on_tried((plan.key, frames), Failure(without_variables(error)))
        if not failed_before:
            self._listener.on_problem(None, Problem.FAILED, error)

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
                    elif len(self._still_stuck()) >= MAX_HANGING:
                        times.append(now + 1.0)
                    else:
                        if not self._hangs and self.restorer.loading_since is not None:
                            self._abandon_builder()  # whose load may hang, and would hold up closing it
                        self._recovering, self._recovering_since = True, now
                        self._start_thread("recovery", self._recover, self.restorer, self._hangs)
                loading_until = self._loading_until(now)
                if loading_until is not None and now >= loading_until:
                    self._leave_builder_behind()
                    continue
                times += [] if loading_until is None else [loading_until]
                times += self._watch_stand_in(now)
                times += self._give_stand_in_back(now)
                self._changed.wait(min(times) - now if times else None)

    def _watch_stand_in(self, now: float) -> list[float]:
        """Leave behind a stand-in that hangs as it is made, or prepares itself; when to look again."""
        since = self._stand_in.making_since
        if since is None:
            return []
        if now < since + stand_in.HANGS_AFTER_S:
            return [since + stand_in.HANGS_AFTER_S]
        error = InferenceError(
            f"what serves meanwhile was not ready within {now - since:.0f} s; the device or its driver hangs"
        )
        self._stand_in.on_hanging(error, *self._take_threads("stand-in"))
        self._unblock_all()
        return []

    def _give_stand_in_back(self, now: float) -> list[float]:
        """Close a stand-in that is not needed any more; when to look again."""
        due = self._stand_in.given_back_at
        infers, _ = self._inferring or (None, 0)
        if due is None or (self._deadline is not None and infers is self._stand_in.restorer):
            return []
        if now < due:
            return [due]
        self._start_thread("close", self._close_restorer, self._stand_in.give_back())
        return []

    def _loading_until(self, now: float) -> float | None:
        """When what the builder loads onto the device hangs, or, while it compiles, when to look again; None
        without a build.
        """
        if self._builds.current is None or self._failure is not None:
            return None
        since = self.restorer.loading_since
        return now + LOOK_AGAIN_S if since is None else since + failures.LONGEST_LOADING_S

    def _leave_builder_behind(self) -> None:
        """Replace the builder, which hangs in the device, and have the runtime made anew."""
        build = self._builds.current
        assert build is not None  # something hangs
        error = InferenceError(
            f"{build} was not loaded within {failures.LONGEST_LOADING_S:g} s; the device or its driver hangs"
        )
        self._abandon_builder()
        self._fail(str(error))
        report = self.restorer, [None], error
        threading.Thread(target=self._report_hanging, args=report, daemon=True).start()

    def _abandon_builder(self) -> None:
        """Start another builder in the place of the one that is in the device, which closes its restorer when
        it comes back.
        """
        build, self._builds.current = self._builds.current, None
        taken = self._take_threads("build")
        self._stuck = [thread for thread in (*self._stuck, *taken) if thread.is_alive()]
        self._hanging += taken
        self._batches.wanted = None
        self._batches.hung |= build is not None and build.frames > 1
        self._hangs = True
        self._start_builder()

    def _leave_behind(self) -> None:
        """Replace the worker, and the builder too where the restorer has failed: it may wait for it."""
        assert self._stage is not None and self._inferring is not None  # something hangs
        (restorer, frames), (_, since) = self._inferring, self._stage
        cameras, self._busy = self._busy, []
        error = InferenceError(
            f"inference did not come back within {time.perf_counter() - since:.1f} s; "
            "the device or its driver hangs"
        )
        self._deadline = self._stage = self._inferring = None
        if restorer is self._stand_in.restorer:
            self._stand_in.on_hanging(error, *self._take_threads("restore"))
            self._unblock_all()
        else:
            hanging = self._take_threads("restore")
            self._stuck = [thread for thread in (*self._stuck, *hanging) if thread.is_alive()]
            self._hanging += hanging
        if restorer is self.restorer:  # and not one that another has taken the place of
            self._stuck += self._take_threads("build")
            build, self._builds.current = self._builds.current, None
            self._batches.wanted = None
            self._batches.hung |= frames > 1 or (build is not None and build.frames > 1)
            self._hangs = True
            self._fail(str(error))
            self._start_builder()
        self._start_worker()
        for camera in cameras:
            camera.statistics.on_problem(time.perf_counter(), Problem.FAILED, error)
        report = restorer, [camera.name for camera in cameras], error
        threading.Thread(target=self._report_hanging, args=report, daemon=True).start()

    def _take_threads(self, *names: str) -> list[threading.Thread]:
        """Those of these names that live, which are left behind."""
        taken = [thread for thread in self._threads if thread.name in names and thread.is_alive()]
        self._threads = [thread for thread in self._threads if thread not in taken]
        return taken

    def _report_hanging(
        self, hanging: Restorer, cameras: Sequence[str | None], error: InferenceError
    ) -> None:
        hanging.cancel_builds()
        for camera in cameras:
            self._listener.on_problem(camera, Problem.FAILED, error)

    def _still_stuck(self) -> list[threading.Thread]:
        """Threads that hang in a restorer; who only waits for one of them is not meant."""
        return [thread for thread in self._hanging if thread.is_alive()]

    def _recover(self, failed: Restorer, hangs: bool) -> None:
        """Make the runtime anew and compile what ran, in a thread of its own: it may hang as well.

        What of it cannot be compiled any more is left to the builder, as long as something can.
        """
        with self._changed:
            keys = list(dict.fromkeys(c.ran for c in self._cameras.values() if c.ran is not None))
        if not hangs:  # its memory first; one that hangs is closed by the thread that hangs in it
            self._close_restorer(failed)
        restorer: Restorer | None = None
        try:
            assert self._make_restorer is not None  # nothing is recovered without
            restorer = self._make_restorer()
            with self._changed:
                self._successor = restorer
            problems: list[BaseException] = []
            for (height, width), outputs in keys:
                if self._stopping:  # `close` may have come before there was a successor to be told
                    restorer.cancel_builds()
                try:
                    restorer.prepare(height, width, outputs)
                except BaseException as error:  # of whatever compiler
                    problems.append(without_variables(error))
            if problems and len(problems) == len(keys):
                raise problems[0]
        except BaseException as error:  # of whatever backend
            if restorer is not None:
                self._close_restorer(restorer)
            with self._changed:
                self._successor, self._recovering = None, False
                self._not_remade += 1
                self._recovery_due = time.perf_counter() + failures.RETRY_AFTER_S
                stopping = self._stopping
                self._changed.notify_all()
            if not stopping:
                self._listener.on_problem(None, Problem.FAILED, error)
            return
        with self._changed:
            failure, self._failure = self._failure, None
            self.restorer, self._successor = restorer, None
            self._hangs = self._recovering = False
            self._recovery_due = time.perf_counter() + failures.RETRY_AFTER_S
            self._remade, self._not_remade = self._remade + 1, 0
            self._builds.forget()
            self._batches.forget()
            self._unblock_all()
            if self._stopping:
                return
        self._listener.on_recovered(restorer, failure or "")

    def _start_worker(self) -> None:
        self._worker += 1
        self._start_thread("restore", self._work, self._worker)

    def _start_builder(self) -> None:
        self._builder += 1
        self._start_thread("build", self._build_all, self._builder)

    def _start_thread(self, name: str, target: Callable[..., None], *arguments: Any) -> None:
        thread = threading.Thread(target=target, args=arguments, name=name, daemon=True)
        self._threads = [t for t in self._threads if t.is_alive()]
        self._threads.append(thread)
        thread.start()


def _serves(key: Key, wanted: Key) -> bool:
    """Whether the graph of one key has anything of what another wants, as `_choose` sees it."""
    return key[0] == wanted[0] and bool(key[1] & wanted[1])


def _input_of(rgb: np.ndarray) -> Restored:
    return Restored(image=rgb, inverse_depth=None, labels=None)
