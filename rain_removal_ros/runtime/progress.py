"""Tells what a long build is doing while it does it, so that a silent minute is not taken for a crash."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rain_removal_ros.runtime import Progress

INTERVAL_SECONDS = 3.0


class Stage:
    """What is being done at the moment; the builder sets it, the reporter reads it."""

    def __init__(self, text: str):
        self.text = text


@contextmanager
def reporting(
    what: str,
    on_progress: Progress | None,
    interval_seconds: float = INTERVAL_SECONDS,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Stage]:
    """Call `on_progress("<what>: <stage>, 12 s")` now, every `interval_seconds`, and when the block ends.

    The calls come from a thread of their own, so `on_progress` must be quick and thread-safe.
    """
    stage = Stage("starting")
    if on_progress is None:
        yield stage
        return
    start, finished = clock(), threading.Event()

    def report() -> None:
        while not finished.wait(interval_seconds):
            on_progress(f"{what}: {stage.text}, {clock() - start:.0f} s")

    on_progress(f"{what}: {stage.text}")
    reporter = threading.Thread(target=report, name="build-progress", daemon=True)
    reporter.start()
    try:
        yield stage
    except BaseException as error:
        stage.text = f"failed ({type(error).__name__})"
        raise
    finally:
        finished.set()
        reporter.join()
        on_progress(f"{what}: {stage.text}, {clock() - start:.1f} s in all")
