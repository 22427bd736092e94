"""Queues between threads, bounded in bytes, that hand failures on. Knows nothing of what goes through."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Generic, Protocol, TypeVar

AHEAD_BYTES = 128 << 20
"""What may wait between two stages: enough to even out their times, little enough for the memory."""


class Weighed(Protocol):
    """What can wait in a lane."""

    weight: int  # bytes


T = TypeVar("T", bound=Weighed)


class Lane(Generic[T]):
    """A queue between two threads that holds so many bytes, and that either of them can end."""

    def __init__(self) -> None:
        self._items: deque[T] = deque()
        self._bytes = 0
        self._changed = threading.Condition()
        self._ended = False
        self._failure: BaseException | None = None

    def put(self, item: T) -> bool:
        """Wait for room. False: the lane has ended, and nobody will take the item."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._ended or len(self._items) < 2 or self._bytes + item.weight <= AHEAD_BYTES
            )
            if self._ended:
                return False
            self._items.append(item)
            self._bytes += item.weight
            self._changed.notify_all()
            return True

    def end(self, failure: BaseException | None = None) -> None:
        """No item comes after these; `failure` is raised where the next one would be taken."""
        with self._changed:
            self._ended, self._failure = True, self._failure or failure
            self._changed.notify_all()

    def __iter__(self) -> Iterator[T]:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._ended or self._items)
                if self._failure is not None:
                    raise self._failure
                if not self._items:
                    return
                item = self._items.popleft()
                self._bytes -= item.weight
                self._changed.notify_all()
            yield item


def guarded(work: Callable[[], None], lane: Lane[Any]) -> None:
    """Do the work of the thread that fills a lane, and end the lane with it, whatever becomes of it."""
    try:
        work()
    except BaseException as error:  # raised again in the thread at the lane's other end
        lane.end(error)
    else:
        lane.end()
