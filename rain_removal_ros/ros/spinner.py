"""Spins an executor in a thread, for the node and for its clients."""

from __future__ import annotations

import threading
from collections.abc import Callable

from rclpy.executors import SingleThreadedExecutor

OnError = Callable[[Exception, int], bool]
"""Told what was raised and how many turns in a row have raised by now; gives whether to go on."""


class Spinner:
    """Spins an executor in a thread of its own, from `start` to `stop`, or until `on_error` says so.

    rclpy's own `spin` may wait for ever when `shutdown` comes from another thread, and its
    `spin_until_future_complete` keeps something for every callback that it runs.
    """

    def __init__(self, executor: SingleThreadedExecutor, on_error: OnError, name: str = "executor"):
        self._executor, self._on_error = executor, on_error
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._spin, name=name)

    def start(self) -> None:
        """Call callbacks from now on."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread, if it was started, and the executor."""
        self._stopped.set()
        self._executor.create_task(lambda: None)  # something to do, so that it comes back
        if self._thread.ident is not None:
            self._thread.join()
        self._executor.shutdown()

    def _spin(self) -> None:
        failures = 0
        while not self._stopped.is_set():
            try:
                self._executor.spin_once()
                failures = 0
            except Exception as error:
                failures += 1
                if not self._on_error(error, failures):
                    return
