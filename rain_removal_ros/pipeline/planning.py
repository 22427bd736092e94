"""What restores a frame: the network, what is compiled of it for other outputs, or a stand-in."""

from __future__ import annotations

from rain_removal_ros.frame_statistics import Problem
from rain_removal_ros.pipeline.failures import MAX_HANGING, Failure, without_variables
from rain_removal_ros.pipeline.frames import Camera, Frame, Plan, Unserved
from rain_removal_ros.pipeline.interfaces import Key, Options, OutputSet, Size
from rain_removal_ros.pipeline.state import State
from rain_removal_ros.runtime import Restorer


class Planner:
    """Chooses on the worker's thread; a stand-in is made ready on a thread of its own."""

    def __init__(self, state: State):
        self._state = state

    def choose(
        self, camera: Camera, frame: Frame | None, size: Size, wanted: OutputSet, options: Options
    ) -> Plan | Unserved | None:
        """What serves a frame of this camera now; None where nothing does yet, but something is being made
        ready for it. `frame` is then put back to wait for that; None for one that does not wait.

        What is compiled for other outputs of the same size serves while the exact one is being compiled, so
        that a new subscriber never makes a stream stop.
        """
        state = self._state
        key = (size, wanted)
        restorer = state.restorer
        prepared = restorer.prepared(*size)
        with state.changed:
            if wanted in prepared:
                camera.desired = None
                return Plan(restorer, size, wanted, options)
            failure = state.builds.failure_of(key)
            if failure is None:
                camera.desired = key
                state.changed.notify_all()
            others = [outputs for outputs in prepared if outputs & wanted]
            if others:
                most = max(others, key=lambda outputs: (len(outputs & wanted), -len(outputs)))
                return Plan(restorer, size, most, options)
            if failure is not None:
                return Unserved(failure.problem, failure.error)
            if state.stand_in.may_serve(options):
                chosen = self._choose_stand_in(key, options)
                if chosen is not None:
                    return chosen
            if frame is not None:
                state.block(camera, frame)
            return None

    def _choose_stand_in(self, key: Key, options: Options) -> Plan | Unserved | None:
        """As `choose`, the lock held, of a frame for which nothing is compiled yet."""
        state, stand_in = self._state, self._state.stand_in
        if stand_in.restorer is not None and stand_in.serves(key):
            stand_in.on_needed()
            return Plan(stand_in.restorer, *key, options)
        failure = stand_in.failure_of(key)
        if stand_in.may_be_made_ready(key) and not state.stopping:
            arguments = stand_in.restorer, key, stand_in.on_being_made_ready()
            state.threads.start("stand-in", self._make_stand_in_ready, *arguments)  # other cameras go on
            state.changed.notify_all()  # the watchdog looks after it
        elif failure is not None:
            return Unserved(Problem.FAILED, failure.error)
        elif stand_in.hanging >= MAX_HANGING and stand_in.failure is not None:
            return Unserved(Problem.FAILED, stand_in.failure.error)
        return None

    def _make_stand_in_ready(self, restorer: Restorer | None, key: Key, attempt: int) -> None:
        """Make the stand-in, where there is none, and have it prepare what a frame needs."""
        state, stand_in = self._state, self._state.stand_in
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
        with state.changed:
            left_behind = attempt != stand_in.attempt
            if not left_behind:
                stand_in.on_prepared(key, failure)
                state.unblock_all()
        if left_behind:
            state.close_restorer(restorer)

    def _make_stand_in(self, attempt: int) -> Restorer | None:
        """The stand-in, now in its place; None where it cannot be made, or nobody waits for it any more."""
        state, stand_in = self._state, self._state.stand_in
        assert stand_in.make is not None  # it serves
        outcome: Restorer | Failure
        try:
            outcome = stand_in.make()
        except BaseException as error:  # of whatever backend
            outcome = Failure(without_variables(error))
        with state.changed:
            left_behind = attempt != stand_in.attempt
            if not left_behind:
                stand_in.on_made(outcome)
                state.unblock_all()
        if isinstance(outcome, Failure):
            return None
        if left_behind:
            state.close_restorer(outcome)
            return None
        return outcome
