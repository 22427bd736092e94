"""When the runtime is taken to have failed, when it is to be made anew, and how often it has been."""

from __future__ import annotations

import time
from collections.abc import Callable

from rain_removal_ros.errors import RainRemovalError
from rain_removal_ros.pipeline import failures
from rain_removal_ros.runtime import Restorer

FAILURES_IN_A_ROW = 3
"""So many failed inferences, one after another, are the runtime's fault and not a frame's; so are as many
graphs that cannot be loaded, where none could.
"""


class Recovery:
    """Does nothing by itself; the pipeline's lock guards it.

    make: makes the runtime anew; None: it is never made anew. failure: why the runtime is taken to have
    failed, None where it works. hangs: threads hang in what has failed, and close it when they come back.
    since: since when (time.perf_counter()) it is being made anew, None where it is not. successor: what has
    been made, but has not yet taken the failed one's place. remade: how often it has been made anew.
    not_remade: how often that has failed since it last restored a frame; one that was made, and failed before
    it restored any, counts as well.
    """

    def __init__(self, make: Callable[[], Restorer] | None):
        self.make = make
        self.failure: str | None = None
        self.hangs = False
        self.since: float | None = None
        self.successor: Restorer | None = None
        self.remade = self.not_remade = 0
        self._failures_in_a_row = 0
        self._unproven = False  # it has been made anew, and has restored nothing yet
        self._due = 0.0

    def on_failed_inference(self, error: BaseException) -> str | None:
        """Why the runtime has failed, now that one more inference has; None where that says nothing yet."""
        return self._after_one_more("inferences in a row failed", error)

    def on_failed_load(self, error: BaseException) -> str | None:
        """The same of a graph that could not be had, where no other is there either. What was refused for a
        reason that is known says nothing of the runtime.
        """
        if isinstance(error, RainRemovalError):
            return None
        return self._after_one_more("attempts in a row to load a graph failed", error)

    def _after_one_more(self, what: str, error: BaseException) -> str | None:
        if self.make is None:
            return None
        self._failures_in_a_row += 1
        if self._failures_in_a_row < FAILURES_IN_A_ROW:
            return None
        return f"{FAILURES_IN_A_ROW} {what}: {str(error) or type(error).__name__}"

    def on_restored(self) -> None:
        """The runtime has restored a frame."""
        self._failures_in_a_row = self.not_remade = 0
        self._unproven = False

    def on_failed(self, why: str) -> None:
        """The runtime is taken to have failed."""
        self.failure = why
        self._failures_in_a_row = 0
        self.not_remade += self._unproven
        self._unproven = False

    @property
    def due(self) -> float | None:
        """When (time.perf_counter()) it is to be made anew; None where it works, cannot be or already is
        being made anew.
        """
        if self.failure is None or self.make is None or self.since is not None:
            return None
        return self._due

    def on_begun(self, now: float) -> None:
        """A thread has begun to make it anew."""
        self.since = now

    def on_not_remade(self) -> None:
        """It could not be made anew; that is tried again later."""
        self._on_ended()
        self.not_remade += 1

    def on_remade(self) -> str:
        """It has been made anew; the failure that this has ended."""
        failure, self.failure = self.failure, None
        self._on_ended()
        self.hangs = False
        self.remade, self._unproven = self.remade + 1, True
        return failure or ""

    def _on_ended(self) -> None:
        self.since = self.successor = None
        self._due = time.perf_counter() + failures.RETRY_AFTER_S
