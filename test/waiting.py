"""How tests wait for what they cannot be told of, and for how long."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

PATIENCE = 30.0
"""Seconds after which something that should have happened has not."""

T = TypeVar("T")


def eventually(found: Callable[[], T], what: str = "it") -> T:
    """What `found` gives, as soon as it gives anything."""
    deadline = time.monotonic() + PATIENCE
    while not (value := found()):
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.01)
    return value
