"""The builder's books: what is being compiled, what was asked for, and what became of it."""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from dataclasses import replace

from rain_removal_ros.frame_statistics import Problem
from rain_removal_ros.pipeline.failures import Failure
from rain_removal_ros.pipeline.interfaces import Build, Key

KEPT = 64
"""So many failures, and so many successes, are remembered."""

REBUILT_WITHIN_S = 60.0
"""A graph that is compiled again so soon gave way to another that is in use as well."""


class Builds:
    """Does nothing by itself; the pipeline's lock guards it.

    current: what is being compiled. asked: what somebody asked for without a frame, the first first.
    """

    def __init__(self) -> None:
        self.current: Build | None = None
        self.asked: deque[Key] = deque()
        self._failed: OrderedDict[Key, Failure] = OrderedDict()
        self._built_at: OrderedDict[Key, float] = OrderedDict()
        self._rebuilt: deque[float] = deque(maxlen=100)

    def failure_of(self, key: Key) -> Failure | None:
        """Why this cannot be had; None where it may be tried, for the first time or again."""
        failure = self._failed.get(key)
        return None if failure is None or failure.may_be_tried_again else failure

    @property
    def any_failed(self) -> bool:
        return bool(self._failed)

    def on_ended(self, key: Key, failure: Failure | None, known: bool) -> None:
        """A build ended; `known`: its graph had been in memory before it began."""
        now = time.perf_counter()
        was_asked = key in self.asked
        self.asked = deque(asked for asked in self.asked if asked != key)
        before = self._failed.pop(key, None)
        if failure is not None:
            asked = was_asked or (before is not None and before.asked)
            self._failed[key] = replace(failure.after(before), asked=asked)
        elif not known:
            if now - self._built_at.pop(key, -REBUILT_WITHIN_S) < REBUILT_WITHIN_S:
                self._rebuilt.append(now)
            self._built_at[key] = now
        for table in (self._failed, self._built_at):
            while len(table) > KEPT:
                table.popitem(last=False)

    def rebuilt(self) -> int:
        """Graphs compiled again lately although they had been in memory shortly before."""
        now = time.perf_counter()
        return sum(when > now - REBUILT_WITHIN_S for when in self._rebuilt)

    def failures(self) -> list[str]:
        """What could not be compiled, and why, until it is tried again with success.

        What a frame wants is tried again as soon as it may. Where that is long past, no frame wants it any
        more, and it is told of no longer. A size that no network takes is the images' fault: it is told until
        it may be tried again only.
        """
        return [
            f"{width}x{height}: {failure.error}"
            for ((height, width), _), failure in self._failed.items()
            if not failure.may_be_tried_again
            or (failure.problem is Problem.BUILD and not failure.is_unwanted)
        ]

    def forget(self) -> None:
        """Another runtime is in the place of the one that all this was about."""
        self._failed.clear()
        self._built_at.clear()
