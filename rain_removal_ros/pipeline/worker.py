"""The worker: reads, restores and publishes frames, one after another.

It takes the cameras in turn and does everything to one frame before it takes the next, so that outputs keep
their order. Frames of several cameras that wait already go through the network in one call where that has
been seen to be worth it, and no frame waits for others.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np

from rain_removal_ros.errors import ImageError, InferenceError, NotPreparedError
from rain_removal_ros.frame_statistics import Problem, StageTimes, Way
from rain_removal_ros.pipeline.failures import Failure, without_variables
from rain_removal_ros.pipeline.frames import Camera, Job, Plan, Result, Unserved
from rain_removal_ros.pipeline.interfaces import OnFailure, Options, OutputSet
from rain_removal_ros.pipeline.planning import Planner
from rain_removal_ros.pipeline.state import State
from rain_removal_ros.rain_monitor import Weather
from rain_removal_ros.runtime import Output, Restored, Restorer
from rain_removal_ros.runtime.checks import check_restored
from rain_removal_ros.runtime.sizes import check_size

IMAGE_ONLY: OutputSet = frozenset({Output.IMAGE})

_Given = TypeVar("_Given")


@dataclass(frozen=True)
class Inference:
    """A call of a restorer with so many frames: since when, and by when it has to come back
    (time.perf_counter()).
    """

    restorer: Restorer
    frames: int
    since: float
    deadline: float


class _LeftBehindError(BaseException):
    """This thread came back from an inference after another had taken its place; it must touch nothing."""


class Worker:
    """One thread. The watchdog leaves one that hangs behind, and starts another.

    left_behind: another has taken its place. busy: the cameras whose frames it has in hand. stage: what it
    does, since when; None while it waits. inference: the one under way. The pipeline's lock guards them.
    """

    def __init__(self, state: State):
        self.left_behind = False
        self.busy: list[Camera] = []
        self.stage: tuple[str, float] | None = None
        self.inference: Inference | None = None
        self._state = state
        self._planner = Planner(state)

    def start(self) -> None:
        """The lock is held."""
        self._state.threads.start("restore", self._work)

    def _work(self) -> None:
        while (lead := self._next_job()) is not None:
            try:
                self._process(lead)
            except _LeftBehindError:
                return
            except BaseException as error:  # of whatever backend; the stream must go on
                for camera in self.busy.copy():
                    self._state.count(camera, Problem.FAILED, error)

    def _next_job(self) -> Job | None:
        state = self._state
        with state.changed:
            self.busy.clear()
            self.stage = None
            state.changed.notify_all()
            state.changed.wait_for(
                lambda: state.stopping or self.left_behind or state.next_camera() is not None
            )
            if state.stopping or self.left_behind:
                return None
            camera = state.next_camera()
            assert camera is not None and camera.waiting  # it was waited for
            self.stage = "conversion", time.perf_counter()
            return self._take(camera)

    def _take(self, camera: Camera) -> Job:
        """A camera's oldest waiting frame, into the worker's hands."""
        self._state.turns.remove(camera)
        self._state.turns.append(camera)  # its next turn comes after all others'
        frame = camera.waiting.popleft()
        if camera.waiting:
            camera.blocked = False  # the next may be of another size
        self.busy.append(camera)
        return Job(camera, frame)

    def _let_go(self, job: Job) -> None:
        """A frame has left the worker's hands."""
        with self._state.changed:
            self.busy.remove(job.camera)
            self._state.changed.notify_all()

    def _process(self, lead: Job) -> None:
        """All that is done to the frame whose turn it is, and to those that go along with it."""
        options = self._state.options()
        plan = self._planned(lead, options)
        if plan is None:
            return
        together, apart = [lead], []
        for job in self._companions(lead, plan):
            its_plan = self._planned(job, options)
            if its_plan == plan:
                together.append(job)
            elif its_plan is not None:
                apart.append((job, its_plan))
        while together:
            frames = self._frames_a_call(plan, len(together))
            self._restore(together[:frames], plan)
            del together[:frames]
        for job, its_plan in apart:
            self._restore([job], its_plan)

    # -- what is to become of a frame --------------------------------------------------------------

    def _planned(self, job: Job, options: Options) -> Plan | None:
        """What is to restore this frame; None where its way has ended, as it was published or lost, or
        where it has to wait.
        """
        plan = self._guarded(job, self._plan, options)
        if not job.starves:
            with self._state.changed:
                job.camera.starved_since = None
        if isinstance(plan, Result):
            self._guarded(job, self._publish, plan)
        if isinstance(plan, Plan):
            return plan
        self._let_go(job)
        return None

    def _guarded(self, job: Job, step: Callable[..., _Given], *arguments: Any) -> _Given | None:
        """What this step gives for a frame; None where it raised, which costs this frame alone."""
        try:
            return step(job, *arguments)
        except _LeftBehindError:
            raise
        except ImageError as error:
            self._state.count(job.camera, Problem.BAD_INPUT, error)
        except BaseException as error:  # of whatever backend; the stream must go on
            self._state.count(job.camera, Problem.FAILED, error)
        return None

    def _plan(self, job: Job, options: Options) -> Plan | Result | None:
        """Read a frame and find what restores it; or what to publish of it without, or None where that is
        nothing or it has to wait.
        """
        camera, frame = job.camera, job.frame
        started = time.perf_counter()
        job.wanted = camera.handler.wanted()
        if not job.wanted:
            with self._state.changed:
                camera.statistics.on_idle()
            return None
        if frame.picture is None:
            frame.picture = camera.handler.read(frame.message)
            frame.reading_s = time.perf_counter() - started
        rgb = frame.picture.rgb
        size = rgb.shape[:2]
        now = time.perf_counter()
        bypassing = options.bypass_when_dry and camera.watch.dry and job.wanted == IMAGE_ONLY
        as_it_came = Result(_input_of(rgb), Way.BYPASSED)
        if bypassing and not camera.watch.must_look(now):
            return as_it_came
        check_size(*size)
        job.may_look_later = bypassing and camera.watch.may_look_later(now)
        passes = options.pass_while_building and Output.IMAGE in job.wanted
        with self._state.changed:
            failure = self._state.recovery.failure
        chosen: Plan | Unserved | None
        if failure is not None:
            chosen = Unserved(Problem.FAILED, InferenceError(failure))
        else:
            waiting = None if job.may_look_later or passes else frame
            chosen = self._planner.choose(camera, waiting, size, job.wanted, options)
        if job.may_look_later and not isinstance(chosen, Plan):
            return as_it_came
        if isinstance(chosen, Unserved):
            return self._lost(job, options, chosen.problem, chosen.error)
        if chosen is None:
            job.starves = True
            if passes:
                self._state.starve(camera)
                return Result(_input_of(rgb), Way.PASSED_THROUGH)
        else:
            job.focal_px = camera.handler.focal_px(frame.message, size)
        return chosen

    def _lost(self, job: Job, options: Options, problem: Problem, error: BaseException) -> Result | None:
        """What becomes of a good frame that cannot be restored."""
        self._state.count(job.camera, problem, error)
        if options.on_failure is OnFailure.PASSTHROUGH and Output.IMAGE in job.wanted:
            return Result(_input_of(job.frame.picture.rgb), Way.PASSED_THROUGH)
        return None

    def _companions(self, lead: Job, plan: Plan) -> list[Job]:
        """Frames of other cameras that wait already and go along with this one: those that need the same
        graph, if they are like their cameras' last.
        """
        state = self._state
        if plan.restorer is not state.restorer or plan.outputs != lead.wanted:
            return []

        def alike() -> list[Camera]:
            return [
                camera
                for camera in state.turns
                if camera is not lead.camera
                and camera.waiting
                and not camera.blocked
                and camera.served == plan.key
            ]

        with state.changed:
            ready = 1 + len(alike())
        frames = self._frames_a_call(plan, ready, lead.frame.reading_s)
        with state.changed:
            return [self._take(camera) for camera in alike()[: frames - 1]]

    def _frames_a_call(self, plan: Plan, ready: int, reading_s: float = 0.0) -> int:
        """How many of so many frames to restore in one call, where reading one takes so long before. The
        builder is told of a number to be tried.
        """
        state = self._state
        if ready == 1 or not plan.options.batching:
            return 1
        in_memory = plan.restorer.prepared_batches(*plan.size, plan.outputs)
        with state.changed:
            frames = state.batches.frames_a_call(
                plan.key, ready, in_memory, plan.options.longest_batch_s, reading_s
            )
            if state.batches.wanted is not None:
                state.changed.notify_all()
        return frames

    # -- restoring ---------------------------------------------------------------------------------

    def _restore(self, jobs: Sequence[Job], plan: Plan) -> None:
        """Restore and publish frames: in one call, and where that fails, one by one."""
        together: Sequence[Restored | None] = [None] * len(jobs)
        began = time.perf_counter()
        if len(jobs) > 1 and self._failure_of(plan) is None:
            together = self._restored_together(jobs, plan) or together
        inference_s = time.perf_counter() - began
        for job, restored in zip(jobs, together, strict=True):
            self._guarded(job, self._finish, plan, restored, inference_s)
            self._let_go(job)

    def _restored_together(self, jobs: Sequence[Job], plan: Plan) -> Sequence[Restored | None] | None:
        """What one call gives for these frames, None for one for which it gave what cannot be; or None where
        it failed. It then does not serve until it has been tried again.
        """
        try:
            restored = self._infer(jobs, plan)
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

    def _finish(self, job: Job, plan: Plan, restored: Restored | None, inference_s: float) -> None:
        """Publish a frame that was restored together with others; one that was not is restored first."""
        if restored is None:
            began = time.perf_counter()
            result = self._restored_alone(job, plan)
            inference_s = time.perf_counter() - began
        else:
            with self._state.changed:
                job.camera.statistics.counts.together += 1
            result = self._result(job, plan, restored)
        if result is not None:
            self._publish(job, result, inference_s)

    def _restored_alone(self, job: Job, plan: Plan) -> Result | None:
        """What to publish of this frame; None where it has to wait, or is lost and counted."""
        failure = self._failure_of(plan)
        if failure is not None:
            return self._not_restored(job, plan, InferenceError(failure))
        try:
            [restored] = self._infer([job], plan)
            check_restored(restored, plan.size, plan.outputs)
        except NotPreparedError:  # it has just given way to another size
            with self._state.changed:
                job.camera.desired = (plan.size, job.wanted)
                self._state.block(job.camera, job.frame)
            return None
        except (ImageError, _LeftBehindError):
            raise
        except BaseException as error:  # of whatever backend
            self._on_failed_inference(plan, error)
            return self._not_restored(job, plan, error)
        return self._result(job, plan, restored)

    def _failure_of(self, plan: Plan) -> str | None:
        """Why nothing more goes into what was to restore a frame: it has failed, and is being closed."""
        state = self._state
        with state.changed:
            if plan.restorer is state.restorer:
                return state.recovery.failure
            return None if plan.restorer is state.stand_in.restorer else "the runtime was made anew meanwhile"

    def _not_restored(self, job: Job, plan: Plan, error: BaseException) -> Result | None:
        """What to publish of a frame whose inference failed; None where it is lost."""
        if job.may_look_later:  # what the camera saw last still holds
            self._state.count(job.camera, Problem.FAILED, error)
            return Result(_input_of(job.frame.picture.rgb), Way.BYPASSED)
        return self._lost(job, plan.options, Problem.FAILED, error)

    def _infer(self, jobs: Sequence[Job], plan: Plan) -> Sequence[Restored]:
        """What the restorer gives for these frames, unchecked."""
        state, restorer = self._state, plan.restorer
        stands_in = restorer is state.stand_in.restorer
        patience = plan.options.inference_timeout_s * (state.stand_in.patience(plan.key) if stands_in else 1)
        images, focal_px = [job.frame.picture.rgb for job in jobs], [job.focal_px for job in jobs]
        with state.changed:
            now = time.perf_counter()
            self.stage = "inference", now
            self.inference = Inference(restorer, len(jobs), since=now, deadline=now + patience)
            state.changed.notify_all()  # the watchdog looks after it
        try:
            if len(jobs) > 1:
                return restorer.restore_together(images, plan.outputs, focal_px)
            given = [restorer(images[0], plan.outputs, focal_px[0], prepared_only=not stands_in)]
            with state.changed:
                if stands_in and restorer is state.stand_in.restorer:  # and was not left behind meanwhile
                    state.stand_in.on_served(plan.key)
            return given
        finally:
            with state.changed:
                left_behind = self.left_behind
                if not left_behind:
                    self.stage, self.inference = ("conversion", time.perf_counter()), None
            if left_behind:
                self._leave(restorer)

    def _leave(self, restorer: Restorer) -> None:
        """End the thread that came back too late, and give back what its restorer holds."""
        self._state.close_restorer(restorer)
        raise _LeftBehindError

    def _on_failed_inference(self, plan: Plan, error: BaseException) -> None:
        state = self._state
        with state.changed:
            if plan.restorer is state.restorer:
                why = state.recovery.on_failed_inference(error)
                if why is not None:
                    state.fail(why)

    def _on_failed_batch(self, plan: Plan, frames: int, error: BaseException) -> None:
        state, failure = self._state, Failure(without_variables(error))  # giving memory back may take long
        with state.changed:
            if plan.restorer is not state.restorer:
                return
            failed_before = state.batches.on_tried((plan.key, frames), failure)
        if not failed_before:
            state.listener.on_problem(None, Problem.FAILED, error)

    # -- publishing --------------------------------------------------------------------------------

    def _result(self, job: Job, plan: Plan, restored: Restored) -> Result:
        """What to publish of a frame that was restored, and what it says of the weather."""
        state, camera = self._state, job.camera
        weather = Weather.of(restored.streak_light, restored.extinction)
        camera.watch.update(weather, time.perf_counter(), plan.options.dry_thresholds)
        with state.changed:
            camera.statistics.weather, camera.statistics.focal_px = weather, job.focal_px
            camera.served = plan.size, job.wanted
            if plan.restorer is state.restorer:
                state.recovery.on_restored()
                camera.ran = plan.key
        shown = {
            output.value: getattr(restored, output.value) if output in job.wanted & plan.outputs else None
            for output in (Output.IMAGE, Output.INVERSE_DEPTH, Output.LABELS)
        }
        way = Way.RESTORED
        if plan.options.bypass_when_dry and camera.watch.dry and shown["image"] is not None:
            shown["image"], way = job.frame.picture.rgb, Way.BYPASSED
        return Result(replace(restored, **shown), way)

    def _publish(self, job: Job, result: Result, inference_s: float | None = None) -> None:
        state, camera, frame = self._state, job.camera, job.frame
        began = time.perf_counter()
        written = camera.handler.write(frame.message, frame.picture, result.restored)
        converted = time.perf_counter()
        with state.changed:
            self.stage = "publishing", converted
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
        with state.changed:
            camera.statistics.on_published(published, result.way, times, age)
            self.stage = "conversion", published


def _input_of(rgb: np.ndarray) -> Restored:
    return Restored(image=rgb, inverse_depth=None, labels=None)
