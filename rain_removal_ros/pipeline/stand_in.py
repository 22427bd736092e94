"""What serves while a network is being compiled: made when it is first needed, given back when it is not any
more.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from rain_removal_ros.pipeline.failures import Failure
from rain_removal_ros.runtime import Restorer

KEPT_S = 30.0
"""A stand-in that no frame has needed for so long gives its memory back."""


class StandIn:
    """Guarded by the pipeline's lock, but for `make`, which loads weights and may take seconds."""

    def __init__(self, make: Callable[[], Restorer] | None):
        self.make = make
        self.restorer: Restorer | None = None
        self.failure: Failure | None = None  # to make it, or of what was made
        self.being_made = False
        self._needed = 0.0

    @property
    def may_be_made(self) -> bool:
        """Whether it is time to make it, if it is needed."""
        return (
            self.make is not None
            and self.restorer is None
            and not self.being_made
            and (self.failure is None or self.failure.may_be_tried_again)
        )

    def on_made(self, outcome: Restorer | Failure) -> None:
        """What came of making it; what cannot be made is not to be tried for every frame."""
        self.being_made = False
        if isinstance(outcome, Failure):
            self.failure = outcome.after(self.failure)
        else:
            self.restorer, self.failure = outcome, None
            self.on_needed()

    def on_needed(self) -> None:
        """A frame goes to it, or comes back."""
        self._needed = time.perf_counter()

    @property
    def given_back_at(self) -> float | None:
        """When (time.perf_counter()) it is to be given back unless a frame needs it; None without one."""
        return None if self.restorer is None else self._needed + KEPT_S

    def give_back(self) -> Restorer | None:
        """The restorer, which is to be closed and serves no more."""
        restorer, self.restorer = self.restorer, None
        return restorer

    def on_hanging(self, error: BaseException) -> None:
        """It is left to the thread that hangs in it."""
        self.restorer, self.failure = None, Failure(error)
