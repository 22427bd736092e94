"""What serves while a network is being compiled: made when it is first needed, given back when it is not any
more.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from rain_removal_ros.pipeline.builds import KEPT
from rain_removal_ros.pipeline.failures import MAX_HANGING, Failure
from rain_removal_ros.pipeline.interfaces import Key, Options
from rain_removal_ros.runtime import Restorer

KEPT_S = 30.0
"""A stand-in that no frame has needed for so long gives its memory back."""

PATIENCE = 10
"""It is slow, and slowest with the first frame of a size: that may take so many times as long."""

PATIENCE_AFTERWARDS = 2

LONGEST_MAKING_S = 60.0
"""Loading weights takes seconds; what takes longer than this has met a driver, or a disk, that hangs."""

HANGS_AFTER_S = 120.0
"""What has been loading, or preparing itself, for so long is left behind."""


class StandIn:
    """Guarded by the pipeline's lock, but for `make`, which loads weights and may take seconds."""

    def __init__(self, make: Callable[[], Restorer] | None):
        self.make = make
        self.restorer: Restorer | None = None
        self.failure: Failure | None = None  # to make it, or of what was made, until it has served
        self.making_since: float | None = None
        self.attempt = 0  # to make it, or have it prepare something; what comes of an earlier one is not used
        self.threads: list[threading.Thread] = []  # that hang in it
        self._ready: set[Key] = set()  # what it has prepared
        self._unready: dict[Key, Failure] = {}  # what it could not prepare
        self._served: set[Key] = set()
        self._needed = 0.0

    def may_serve(self, options: Options) -> bool:
        """Whether it is to serve while the network is being compiled."""
        return self.make is not None and options.serve_while_building

    def serves(self, key: Key) -> bool:
        """Whether it has prepared this, or more."""
        return any(size == key[0] and outputs >= key[1] for size, outputs in self._ready)

    def failure_of(self, key: Key) -> Failure | None:
        """Why it cannot serve this, until it is tried again."""
        failures = self.failure, self._unready.get(key)
        return next((each for each in failures if each is not None and not each.may_be_tried_again), None)

    def may_be_made_ready(self, key: Key) -> bool:
        """Whether it is time to make it, or have it prepare this, if that is needed."""
        return (
            self.make is not None
            and self.making_since is None
            and self.failure_of(key) is None
            and self.hanging < MAX_HANGING
        )

    def on_being_made_ready(self) -> int:
        """A thread has begun to make it, or to have it prepare something; the number of this attempt."""
        self.making_since = time.perf_counter()
        self.attempt += 1
        return self.attempt

    def on_made(self, outcome: Restorer | Failure) -> None:
        """What came of making it; what cannot be made is not to be tried for every frame."""
        if isinstance(outcome, Failure):
            self.making_since, self.failure = None, outcome.after(self.failure)
            return
        self.restorer = outcome
        for what in (self._ready, self._unready, self._served):
            what.clear()

    def on_prepared(self, key: Key, failure: Failure | None) -> None:
        """It has prepared this, or cannot; that costs those alone that need it."""
        self.making_since = None
        if failure is None:
            self._unready.pop(key, None)
            self._ready.add(key)
        else:
            self._unready[key] = failure.after(self._unready.pop(key, None))
            while len(self._unready) > KEPT:
                del self._unready[next(iter(self._unready))]
        self.on_needed()

    def patience(self, key: Key) -> int:
        """How many times as long as the network itself it may take."""
        return PATIENCE_AFTERWARDS if key in self._served else PATIENCE

    def on_needed(self) -> None:
        """A frame goes to it."""
        self._needed = time.perf_counter()

    def on_served(self, key: Key) -> None:
        """A frame has come back from it."""
        self._served.add(key)
        self.failure = None
        self.on_needed()

    @property
    def given_back_at(self) -> float | None:
        """When (time.perf_counter()) it is to be given back unless a frame needs it; None without one, or
        while it prepares something.
        """
        return None if self.restorer is None or self.making_since is not None else self._needed + KEPT_S

    def give_back(self) -> Restorer | None:
        """The restorer, which is to be closed and serves no more."""
        restorer, self.restorer = self.restorer, None
        return restorer

    def on_hanging(self, error: BaseException, *threads: threading.Thread) -> None:
        """It is left to the threads that hang in it."""
        self.threads = [thread for thread in (*self.threads, *threads) if thread.is_alive()]
        self.attempt += 1  # one under way hangs as well
        self.making_since = None
        self.restorer, self.failure = None, Failure(error).after(self.failure)

    @property
    def hanging(self) -> int:
        """How many threads hang in it."""
        return sum(thread.is_alive() for thread in self.threads)

    @property
    def problem(self) -> str | None:
        """What somebody ought to know of it."""
        if self.hanging >= MAX_HANGING:
            return (
                f"what serves meanwhile hung {self.hanging} times and is not made any more; restart the node"
            )
        making_s = 0.0 if self.making_since is None else time.perf_counter() - self.making_since
        if making_s > LONGEST_MAKING_S:
            return f"what serves meanwhile has been loading for {making_s:.0f} s; a driver or disk may hang"
        return None
