"""How often one thing is told, however often it happens."""

from __future__ import annotations

import time
from collections.abc import Hashable


class Throttle:
    """Lets one event of a kind through in `period` seconds, and tells how many it held back since."""

    def __init__(self, period: float = 1.0):
        self._period = period
        self._last: dict[Hashable, float] = {}
        self._held: dict[Hashable, int] = {}

    def admit(self, kind: Hashable) -> int | None:
        """The number of events held back before this one; None where this one is held back too."""
        now = time.perf_counter()
        if now - self._last.get(kind, -self._period) < self._period:
            self._held[kind] = self._held.get(kind, 0) + 1
            return None
        self._last[kind] = now
        return self._held.pop(kind, 0)
