"""What the pipeline's threads share, under one lock."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping

from rain_removal_ros.frame_statistics import CameraStatistics, Problem
from rain_removal_ros.pipeline.batches import Batches
from rain_removal_ros.pipeline.builds import Builds
from rain_removal_ros.pipeline.frames import Camera, Frame
from rain_removal_ros.pipeline.interfaces import BatchKey, FrameHandler, Key, Listener, Options
from rain_removal_ros.pipeline.recovery import Recovery
from rain_removal_ros.pipeline.stand_in import StandIn
from rain_removal_ros.pipeline.threads import Threads
from rain_removal_ros.runtime import Restorer


class State:
    """Guarded by its lock, `changed`, by which every change is told to those who wait. The methods are called
    with it held, except for `count` and `close_restorer`: listeners and restorers may take their time.

    restorer: what restores, until another takes its place. turns: the cameras, the one whose turn it is next
    first. stopping: the pipeline is being closed.
    """

    def __init__(
        self,
        handlers: Mapping[str, FrameHandler],
        restorer: Restorer,
        listener: Listener,
        options: Callable[[], Options],
        make_restorer: Callable[[], Restorer] | None,
        make_stand_in: Callable[[], Restorer] | None,
    ):
        self.changed = threading.Condition()
        self.restorer = restorer
        self.listener = listener
        self.options = options
        self.cameras = {
            name: Camera(name, handler, CameraStatistics(name)) for name, handler in handlers.items()
        }
        self.turns = deque(self.cameras.values())
        self.stopping = False
        self.builds = Builds()
        self.batches = Batches()
        self.stand_in = StandIn(make_stand_in)
        self.recovery = Recovery(make_restorer)
        self.threads = Threads()

    # -- what comes next ---------------------------------------------------------------------------

    def next_camera(self) -> Camera | None:
        """The camera whose turn it is among those with a frame that something may be done about."""
        waits = any(camera.waiting for camera in self.turns)
        serves = waits and self.stand_in.making_since is None and self.stand_in.may_serve(self.options())
        return next((c for c in self.turns if c.waiting and (serves or not c.blocked)), None)

    def next_key(self) -> Key | None:
        """What to compile next; None: nothing."""
        return next(self.wanted_keys(), None)

    def wanted_keys(self) -> Iterator[Key]:
        """What is to be compiled, in that order: for cameras that nothing serves, the one that has waited
        longest first; then what was asked for; then what would serve better than what serves now.
        """
        wanting = [camera for camera in self.cameras.values() if camera.desired is not None]
        starved = [camera for camera in wanting if camera.starved_since is not None]
        starved.sort(key=lambda camera: camera.starved_since or 0)
        served = [camera for camera in wanting if camera.starved_since is None]
        yield from (camera.desired for camera in starved if camera.desired is not None)
        yield from self.builds.asked
        yield from (camera.desired for camera in served if camera.desired is not None)

    def next_build(self) -> BatchKey | None:
        """What to compile next, for how many frames a call: what is only to be tried comes last."""
        key = self.next_key()
        return self.batches.wanted if key is None else (key, 1)

    # -- frames that wait --------------------------------------------------------------------------

    def block(self, camera: Camera, frame: Frame) -> None:
        """Have a frame wait for the next build, unless a newer one has come."""
        self.starve(camera)
        if len(camera.waiting) < self.options().queue_length:
            camera.waiting.appendleft(frame)
            camera.blocked = True
        else:
            camera.statistics.counts.dropped += 1
        self.changed.notify_all()

    def starve(self, camera: Camera) -> None:
        """Have what a camera wants compiled before what cameras want that something serves."""
        with self.changed:
            if camera.starved_since is None:
                camera.starved_since = time.perf_counter()
            self.changed.notify_all()

    def unblock_all(self) -> None:
        """Have the worker look at all frames that wait: what serves them may have changed."""
        for camera in self.cameras.values():
            camera.blocked = False
        self.changed.notify_all()

    def drop_waiting(self) -> None:
        """Drop the frames that wait, and what is to be compiled or tried for them."""
        for camera in self.cameras.values():
            camera.statistics.counts.dropped += len(camera.waiting)
            camera.statistics.on_pause()
            camera.waiting.clear()
            camera.blocked, camera.starved_since, camera.desired = False, None, None
        self.batches.wanted = None

    # -- what goes wrong ---------------------------------------------------------------------------

    def fail(self, why: str) -> None:
        """Take the runtime to have failed; the watchdog has it made anew."""
        self.recovery.on_failed(why)
        self.unblock_all()

    def count(self, camera: Camera, problem: Problem, error: BaseException) -> None:
        """Count what became of a frame, and tell of it."""
        with self.changed:
            camera.statistics.on_problem(time.perf_counter(), problem, error)
        self.listener.on_problem(camera.name, problem, error)

    def close_restorer(self, restorer: Restorer) -> None:
        """Give back what a restorer holds; one of a device that has failed may not even manage that."""
        try:
            restorer.close()
        except BaseException as error:  # of whatever backend
            self.listener.on_problem(None, Problem.FAILED, error)
