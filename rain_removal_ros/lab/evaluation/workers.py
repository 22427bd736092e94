"""A function of many items, by several threads. Knows neither items nor function."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import cv2

Item = TypeVar("Item")
Result = TypeVar("Result")

Track = Callable[[Iterable[Any], int, str], Iterable[Any]]
"""Wraps what takes long, for a progress bar: given the results, how many there will be, and what they are."""


def untracked(items: Iterable[Any], total: int, what: str) -> Iterable[Any]:
    """No progress bar."""
    return items


def in_workers(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    what: str,
    workers: int,
    track: Track = untracked,
) -> list[Result]:
    """function of every item, by so many threads, in order; OpenCV uses one thread for each meanwhile."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)  # the workers and the networks share the cores
    try:
        with ThreadPoolExecutor(workers) as pool:
            return list(track(pool.map(function, items), len(items), what))
    finally:
        cv2.setNumThreads(threads)
