"""Frames of several cameras through one restorer, and what may be asked of them from any thread.

Three threads do the work. The worker takes frames, restores and publishes them. The builder has the network
compiled for what is seen for the first time; meanwhile the worker goes on with whatever is compiled already.
The watchdog looks for what hangs, and has others take its place. What may hang or take long besides has a
thread of its own: a stand-in that is made ready, a runtime that is made anew, restorers that are closed.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rain_removal_ros.frame_statistics import CameraSnapshot
from rain_removal_ros.pipeline.frames import Frame
from rain_removal_ros.pipeline.interfaces import (
    Build,
    FrameHandler,
    Health,
    Listener,
    Options,
    OutputSet,
    Size,
)
from rain_removal_ros.pipeline.state import State
from rain_removal_ros.pipeline.watchdog import Watchdog
from rain_removal_ros.runtime import Restorer


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
        self._state = State(handlers, restorer, listener, options, make_restorer, make_stand_in)
        self._watchdog = Watchdog(self._state)
        with self._state.changed:
            self._watchdog.start()

    @property
    def restorer(self) -> Restorer:
        """What restores; another once the runtime has been made anew."""
        return self._state.restorer

    def submit(self, camera: str, message: Any) -> None:
        """Store a message as its camera's newest; where more wait than may, the oldest is dropped and
        counted.
        """
        state = self._state
        now = time.perf_counter()
        with state.changed:
            target = state.cameras[camera]
            target.statistics.on_received(now)
            before = target.waiting[0] if target.waiting else None
            target.waiting.append(Frame(message, now))
            while len(target.waiting) > state.options().queue_length:
                target.waiting.popleft()
                target.statistics.counts.dropped += 1
            if target.waiting[0] is not before:
                target.blocked = False  # it may be of another size
            state.changed.notify_all()

    def clear(self) -> None:
        """Drop the frames that wait, and return when the worker has none in hand."""
        state = self._state
        with state.changed:
            state.drop_waiting()
            state.changed.wait_for(lambda: not self._watchdog.worker.busy)
            state.drop_waiting()  # the one in hand may have been put back, to wait for a build

    def build(self, size: Size, outputs: OutputSet) -> None:
        """Have the network compiled for this size (height, width) and these outputs; returns at once."""
        with self._state.changed:
            self._state.builds.asked.append((size, outputs))
            self._state.changed.notify_all()

    def wait_until_built(self, timeout: float | None = None) -> bool:
        """Wait until nothing is left to compile that frames wait for, or was asked for. False: the time was
        up, or a build failed.
        """
        state = self._state

        def built() -> bool:
            current = state.builds.current
            return (current is None or current.frames > 1) and state.next_key() is None

        with state.changed:
            done = state.changed.wait_for(lambda: state.stopping or built(), timeout)
            return done and not state.builds.any_failed and not state.stopping

    @property
    def building(self) -> Build | None:
        """What is being compiled now."""
        with self._state.changed:
            return self._state.builds.current

    @property
    def failed_builds(self) -> list[str]:
        """What could not be compiled, and why, until it is tried again with success."""
        with self._state.changed:
            return self._state.builds.failures()

    @property
    def batching(self) -> list[str]:
        """What trials said of restoring several frames in one call, and where that is done."""
        state = self._state
        if not state.options().batching:
            return ["off"]
        with state.changed:
            keys, restorer = state.batches.tried(), state.restorer
        # without the lock: the restorer's own may be held by what closes graphs of a device that is ill
        in_memory = {key: restorer.prepared_batches(*key[0], key[1]) for key in keys}
        with state.changed:
            return state.batches.told(lambda key: in_memory.get(key, ()))

    @property
    def health(self) -> Health:
        """How the runtime is now."""
        state = self._state
        now = time.perf_counter()
        with state.changed:
            recovery, worker = state.recovery, self._watchdog.worker
            stage, inference = worker.stage, worker.inference
            return Health(
                failure=recovery.failure,
                remade=recovery.remade,
                hanging=state.threads.hanging,
                busy=None if stage is None else (stage[0], now - stage[1]),
                rebuilt=state.builds.rebuilt(),
                not_remade=recovery.not_remade,
                remaking_s=None if recovery.since is None else now - recovery.since,
                patience_s=None if inference is None else inference.deadline - inference.since,
                stand_in=state.stand_in.problem,
            )

    def snapshot(self) -> dict[str, CameraSnapshot]:
        """Counts, rates and times of every camera."""
        state = self._state
        with state.changed:
            now = time.perf_counter()
            copies = [(camera.statistics.copy(), camera.watch.dry) for camera in state.cameras.values()]
        return {statistics.camera: statistics.snapshot(now, dry) for statistics, dry in copies}

    def close(self, timeout: float | None = None) -> bool:
        """Stop the threads, a build under way too, and close the restorers.

        False where a frame was still in work after `timeout` seconds, or a build that cannot be given up.
        Then the restorers are closed as soon as it has ended, if the process lives that long.
        """
        state = self._state
        with state.changed:
            state.stopping = True
            state.builds.asked.clear()
            state.changed.notify_all()
            may_hang = [
                *state.threads.left_behind,
                *state.stand_in.threads,
                *state.threads.take("stand-in"),
            ]
            running = [*state.threads.running]
            building = [state.restorer, *filter(None, (state.recovery.successor,))]
        for restorer in building:
            restorer.cancel_builds()
        closing = threading.Thread(
            target=self._close_restorers_after, args=(running, may_hang), name="close", daemon=True
        )
        closing.start()
        closing.join(timeout)
        return not closing.is_alive()

    def _close_restorers_after(
        self, running: Sequence[threading.Thread], may_hang: Sequence[threading.Thread]
    ) -> None:
        for thread in running:
            thread.join()
        if self._state.recovery.hangs:  # the restorer is what those that were left behind are in
            for thread in may_hang:
                thread.join()
        for restorer in filter(None, (self._state.restorer, self._state.stand_in.restorer)):
            self._state.close_restorer(restorer)
        for thread in may_hang:
            thread.join()
