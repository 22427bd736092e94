"""The watchdog: looks for what does not come back from the device, and has the runtime made anew.

It leaves a thread that hangs where it is, and starts another in its place. Where the runtime has failed, as
it hangs or its inferences fail one after another, another runtime is made.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

from rain_removal_ros.errors import InferenceError
from rain_removal_ros.frame_statistics import Problem
from rain_removal_ros.pipeline import failures, stand_in
from rain_removal_ros.pipeline.builder import Builder
from rain_removal_ros.pipeline.failures import MAX_HANGING, without_variables
from rain_removal_ros.pipeline.interfaces import Key
from rain_removal_ros.pipeline.state import State
from rain_removal_ros.pipeline.worker import Worker
from rain_removal_ros.runtime import Restorer

LOOK_AGAIN_S = 5.0
"""So often the watchdog looks whether a build has come to the device."""


OVERSLEPT_S = 1.0
"""A watchdog that wakes so late was stopped with the whole process (a container that is paused, a debugger, a
machine that sleeps), and so was what it looks after.
"""


class Watchdog:
    """Starts the worker and the builder, and others in their place.

    worker, builder: the ones that no other has taken the place of. The pipeline's lock guards them.
    """

    def __init__(self, state: State):
        self.worker = Worker(state)
        self.builder = Builder(state)
        self._state = state
        self._resumed = 0.0  # when the process last went on after it had been stopped

    def start(self) -> None:
        """Start all three; the lock is held."""
        self.worker.start()
        self.builder.start()
        self._state.threads.start("watchdog", self._watch)

    def _watch(self) -> None:
        state = self._state
        first: float | None = None
        with state.changed:
            while not state.stopping:
                now = time.perf_counter()
                if first is not None and now > first + OVERSLEPT_S:
                    self._resumed = now
                looks_again_at = (
                    self._watch_inference(now),
                    self._watch_loading(now),
                    self._watch_failure(now),
                    self._watch_stand_in(now),
                    self._give_stand_in_back(now),
                )
                first = min((when for when in looks_again_at if when is not None), default=None)
                state.changed.wait(None if first is None else first - now)

    # -- what is looked after: each says when to look again, None where only a change makes that worth it ----

    def _watch_inference(self, now: float) -> float | None:
        """Leave behind a worker that hangs."""
        inference = self.worker.inference
        if inference is None:
            return None
        deadline = max(inference.deadline, self._resumed + inference.deadline - inference.since)
        if now < deadline:
            return deadline
        self._leave_worker_behind()
        return None

    def _watch_loading(self, now: float) -> float | None:
        """Leave behind a builder that hangs in the device; compiling, which may take long, is not meant."""
        state = self._state
        if state.builds.current is None or state.recovery.failure is not None:
            return None
        since = state.restorer.loading_since
        if since is None:
            return now + LOOK_AGAIN_S
        due = max(since, self._resumed) + failures.LONGEST_LOADING_S
        if now < due:
            return due
        self._leave_builder_behind()
        return None

    def _watch_failure(self, now: float) -> float | None:
        """Have the runtime made anew once it has failed."""
        state = self._state
        due = state.recovery.due
        if due is None:
            return None
        if now < due:
            return due
        if state.threads.hanging >= MAX_HANGING:
            return now + 1.0
        if not state.recovery.hangs and state.restorer.loading_since is not None:
            self._replace_builder(hanging=True)  # whose load may hang, and would hold up closing it
        state.recovery.on_begun(now)
        state.threads.start("recovery", self._recover, state.restorer, state.recovery.hangs)
        return None

    def _watch_stand_in(self, now: float) -> float | None:
        """Leave behind a stand-in that hangs as it is made, or prepares itself."""
        state = self._state
        since = state.stand_in.making_since
        if since is None:
            return None
        due = max(since, self._resumed) + stand_in.HANGS_AFTER_S
        if now < due:
            return due
        error = InferenceError(
            f"what serves meanwhile was not ready within {now - since:.0f} s; the device or its driver hangs"
        )
        state.stand_in.on_hanging(error, *state.threads.take("stand-in"))
        state.unblock_all()
        return None

    def _give_stand_in_back(self, now: float) -> float | None:
        """Close a stand-in that is not needed any more."""
        state, inference = self._state, self.worker.inference
        due = state.stand_in.given_back_at
        if due is None or (inference is not None and inference.restorer is state.stand_in.restorer):
            return None
        if now < due:
            return due
        state.threads.start("close", state.close_restorer, state.stand_in.give_back())
        return None

    # -- what hangs --------------------------------------------------------------------------------

    def _leave_worker_behind(self) -> None:
        """Replace the worker, and the builder too where the restorer has failed: it may wait for it."""
        state, hanging, inference = self._state, self.worker, self.worker.inference
        assert inference is not None  # something hangs
        error = InferenceError(
            f"inference did not come back within {time.perf_counter() - inference.since:.1f} s; "
            "the device or its driver hangs"
        )
        hanging.left_behind = True
        if inference.restorer is state.stand_in.restorer:
            state.stand_in.on_hanging(error, *state.threads.take("restore"))
            state.unblock_all()
        else:
            state.threads.leave_behind("restore", hanging=True)
        if inference.restorer is state.restorer:  # and not one that another has taken the place of
            state.batches.hung |= inference.frames > 1
            self._replace_builder(hanging=False)
            state.fail(str(error))
        self.worker = Worker(state)
        self.worker.start()
        for camera in hanging.busy:
            camera.statistics.on_problem(time.perf_counter(), Problem.FAILED, error)
        self._tell(inference.restorer, [camera.name for camera in hanging.busy], error)

    def _leave_builder_behind(self) -> None:
        """Replace the builder, which hangs in the device, and have the runtime made anew."""
        state, build = self._state, self._state.builds.current
        assert build is not None  # something hangs
        error = InferenceError(
            f"{build} was not loaded within {failures.LONGEST_LOADING_S:g} s; the device or its driver hangs"
        )
        self._replace_builder(hanging=True)
        state.fail(str(error))
        self._tell(state.restorer, [None], error)

    def _replace_builder(self, *, hanging: bool) -> None:
        """Start another builder in the place of one whose restorer hangs, which it closes when it comes back.
        hanging: it is the builder that hangs, and not the worker that it may wait for.
        """
        state = self._state
        build, state.builds.current = state.builds.current, None
        state.batches.wanted = None
        state.batches.hung |= build is not None and build.frames > 1
        state.recovery.hangs = True
        state.threads.leave_behind("build", hanging=hanging)
        self.builder.left_behind = True
        self.builder = Builder(state)
        self.builder.start()

    def _tell(self, hanging: Restorer, cameras: Sequence[str | None], error: InferenceError) -> None:
        """Give up the builds of what hangs and tell of it, on a thread that nobody waits for: even that may
        hang.
        """

        def tell() -> None:
            hanging.cancel_builds()
            for camera in cameras:
                self._state.listener.on_problem(camera, Problem.FAILED, error)

        threading.Thread(target=tell, daemon=True).start()

    # -- recovery ----------------------------------------------------------------------------------

    def _recover(self, failed: Restorer, hangs: bool) -> None:
        """Make the runtime anew, on a thread of its own: it may hang as well."""
        state = self._state
        with state.changed:
            keys = list(dict.fromkeys(c.ran for c in state.cameras.values() if c.ran is not None))
        if not hangs:  # its memory first; one that hangs is closed by the thread that hangs in it
            state.close_restorer(failed)
        try:
            restorer = self._make_anew(keys)
        except BaseException as error:  # of whatever backend
            with state.changed:
                state.recovery.on_not_remade()
                stopping = state.stopping
                state.changed.notify_all()
            if not stopping:
                state.listener.on_problem(None, Problem.FAILED, error)
            return
        with state.changed:
            state.restorer = restorer
            failure = state.recovery.on_remade()
            state.builds.forget()
            state.batches.forget()
            state.unblock_all()
            if state.stopping:
                return
        state.listener.on_recovered(restorer, failure)

    def _make_anew(self, keys: Sequence[Key]) -> Restorer:
        """Another runtime, with what ran compiled. What of it cannot be compiled any more is left to the
        builder, as long as something can; otherwise raises what the first of it did.
        """
        state = self._state
        assert state.recovery.make is not None  # nothing is recovered without
        restorer = state.recovery.make()
        with state.changed:
            state.recovery.successor = restorer
        problems: list[BaseException] = []
        try:
            for (height, width), outputs in keys:
                if state.stopping:  # `close` may have come before there was a successor to be told
                    restorer.cancel_builds()
                try:
                    restorer.prepare(height, width, outputs)
                except BaseException as error:  # of whatever compiler
                    problems.append(without_variables(error))
            if problems and len(problems) == len(keys):
                raise problems[0]
        except BaseException:
            state.close_restorer(restorer)
            raise
        return restorer
