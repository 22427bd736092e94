"""When the messages of a bag are due, and what time it is in the bag meanwhile. Knows numbers, not ROS."""

from __future__ import annotations

LEAP_S = 60.0
"""A longer gap between two messages is a clock that was set, or a break; it is not waited for."""


class Pace:
    """The way through a bag, message by message, at `rate` times its own pace.

    Moments are seconds of a clock that only goes forward; `began` is that of the first message. Times of the
    bag are in ns.
    """

    def __init__(self, rate: float, began: float):
        self._rate = rate
        self._due = began
        self._time: int | None = None  # of the message that is due
        self.played = 0.0  # seconds of the bag, without what was leapt over

    def advance(self, log_time: int) -> None:
        """The next message is that of this time. Back in time, or far ahead, is not waited for."""
        gap = 0.0 if self._time is None else (log_time - self._time) * 1e-9
        if 0 <= gap <= LEAP_S:
            self._due += gap / self._rate
            self.played += gap
        self._time = log_time

    def left(self, now: float) -> float:
        """Seconds until the message is due; 0 and less: it is."""
        return self._due - now

    def bag_time(self, now: float) -> int:
        """The bag's time: the message's where that is due, else so much before it as there is to wait."""
        assert self._time is not None, "advance comes first"
        return self._time - int(max(0.0, self.left(now)) * self._rate * 1e9)

    def stand_still(self, seconds: float) -> None:
        """The bag waited so long; what follows is due so much later."""
        self._due += seconds
