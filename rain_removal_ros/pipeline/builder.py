"""The builder: has the network compiled for image sizes and outputs that are seen for the first time, which
may take minutes, and then tries what several frames in one call take. What is in the cache is loaded while
something else is compiled.
"""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial

from rain_removal_ros.errors import NotPreparedError
from rain_removal_ros.frame_statistics import Problem
from rain_removal_ros.pipeline.failures import Failure, problem_of_build, without_variables
from rain_removal_ros.pipeline.interfaces import Build, Key
from rain_removal_ros.pipeline.state import State
from rain_removal_ros.runtime import BatchTrial, Restorer


class Builder:
    """One thread. The watchdog leaves one behind that hangs, or whose restorer does, and starts another.

    left_behind: another has taken its place. The pipeline's lock guards it.
    """

    def __init__(self, state: State):
        self.left_behind = False
        self._state = state

    def start(self) -> None:
        """The lock is held."""
        self._state.threads.start("build", self._build_all)

    def _build_all(self) -> None:
        while (wanted := self._begin()) is not None:
            key, frames, restorer = wanted
            if frames > 1:
                self._try_batch(key, frames, restorer)
            else:
                self._build(key, restorer)
            with self._state.changed:
                left_behind = self.left_behind
            if left_behind:
                self._state.close_restorer(restorer)  # another has taken its place, or will
                return

    def _begin(self) -> tuple[Key, int, Restorer] | None:
        """What to compile next, for how many frames a call, and by what; None at the end."""
        state = self._state
        with state.changed:
            state.changed.wait_for(
                lambda: (
                    state.stopping
                    or self.left_behind
                    or (state.recovery.failure is None and state.next_build() is not None)
                )
            )
            if state.stopping or self.left_behind:
                return None
            wanted = state.next_build()
            assert wanted is not None  # it was waited for
            key, frames = wanted
            state.builds.current = Build(*key, started=time.perf_counter(), frames=frames)
            state.changed.notify_all()  # the watchdog looks after it
            return key, frames, state.restorer

    def _build(self, key: Key, restorer: Restorer) -> None:
        """Have the restorer compile this, and tell what came of it."""
        failure: BaseException | None = None
        (height, width), outputs = key
        known = outputs in restorer.prepared(height, width)
        looked_for = {key}
        try:
            restorer.prepare(
                height,
                width,
                outputs,
                partial(self._on_progress, key),
                lambda: self._load_another(restorer, looked_for),
            )
        except BaseException as error:  # of whatever compiler; it is reported and tried again later
            failure = without_variables(error)
        self._end(key, restorer, failure, known, next_one=None)

    def _load_another(self, restorer: Restorer, looked_for: set[Key]) -> None:
        """While something is compiled, load one more of what else is wanted, where it is in the cache. Each
        is looked for once: what is not there has its turn when the compiler is done.
        """
        state = self._state
        with state.changed:
            ends = self.left_behind or state.stopping or state.recovery.failure is not None
            wanted = (key for key in state.wanted_keys() if key not in looked_for)
            key = None if ends or restorer is not state.restorer else next(wanted, None)
            if key is None:
                return
            looked_for.add(key)
            compiled, state.builds.current = state.builds.current, Build(*key, started=time.perf_counter())
            state.changed.notify_all()  # the watchdog looks after it
        failure: BaseException | None = None
        (height, width), outputs = key
        loaded, known = False, outputs in restorer.prepared(height, width)
        try:
            loaded = restorer.prepare_cached(height, width, outputs, partial(self._on_progress, key))
        except BaseException as error:  # as of a compiler
            failure = without_variables(error)
        if loaded or failure is not None:
            self._end(key, restorer, failure, known, next_one=compiled)
            return
        with state.changed:
            if not self.left_behind:
                state.builds.current = compiled
                state.changed.notify_all()

    def _end(
        self,
        key: Key,
        restorer: Restorer,
        failure: BaseException | None,
        known: bool,
        next_one: Build | None,
    ) -> None:
        """Book and tell what came of a build; `next_one` is what this thread then goes on with."""
        state = self._state
        has_none = failure is not None and not restorer.info.input_sizes
        with state.changed:
            if self.left_behind or (state.stopping and failure is not None):
                return
            build, state.builds.current = state.builds.current, next_one
            given_up = state.recovery.failure is not None or restorer is not state.restorer
            if not given_up:
                self._on_ended(key, failure, known)
                why = state.recovery.on_failed_load(failure) if failure is not None and has_none else None
                if why is not None:
                    state.fail(why)
            state.unblock_all()  # what has been compiled may serve others too
        if failure is not None:
            if not given_up:
                state.listener.on_problem(None, problem_of_build(failure), failure)
        elif not known and build is not None:
            state.listener.on_built(build)

    def _try_batch(self, key: Key, frames: int, restorer: Restorer) -> None:
        """Have the restorer try so many frames in one call, for as long as nothing waits to be compiled."""
        state = self._state
        (height, width), outputs = key
        longest_s = state.options().longest_batch_s
        outcome: BatchTrial | Failure
        try:
            outcome = restorer.prepare_batch(
                height,
                width,
                outputs,
                frames,
                longest_s,
                partial(self._on_progress, key),
                self._builds_wait,
            )
        except BaseException as error:  # of whatever compiler; it is reported and tried again later
            outcome = Failure(without_variables(error))
        with state.changed:
            if self.left_behind or state.stopping:
                return
            build, state.builds.current = state.builds.current, None
            state.changed.notify_all()
            if state.batches.wanted == (key, frames):
                state.batches.wanted = None
            if state.recovery.failure is not None or restorer is not state.restorer:
                return
            failed_before = state.batches.on_tried((key, frames), outcome)
        if isinstance(outcome, BatchTrial):
            if outcome.pays and build is not None:
                said = f"{outcome.ratio:.2f} of the time that they take one by one"
                state.listener.on_built(replace(build, message=said))
        elif not failed_before and not isinstance(outcome.error, NotPreparedError):
            state.listener.on_problem(None, Problem.BUILD, outcome.error)

    def _builds_wait(self) -> bool:
        """Whether there is something to compile that is not only to be tried."""
        with self._state.changed:
            return self._state.next_key() is not None

    def _on_ended(self, key: Key, failure: BaseException | None, known: bool) -> None:
        for camera in self._state.cameras.values():
            if failure is None and camera.desired is not None and _serves(key, camera.desired):
                camera.starved_since = None  # its next frame will not wait
            if camera.desired == key:
                camera.desired = None
        self._state.builds.on_ended(key, None if failure is None else Failure(failure), known)

    def _on_progress(self, key: Key, message: str) -> None:
        builds = self._state.builds
        with self._state.changed:
            current = builds.current
            if not self.left_behind and current is not None and (current.size, current.outputs) == key:
                builds.current = replace(current, message=message)


def _serves(key: Key, wanted: Key) -> bool:
    """Whether the graph of one key has anything of what another wants, as the planner sees it."""
    return key[0] == wanted[0] and bool(key[1] & wanted[1])
