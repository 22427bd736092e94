"""Spins an executor, whatever its callbacks raise."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable

from rclpy.executors import SingleThreadedExecutor
from rclpy.logging import get_logger

from rain_removal_ros.errors import bounded
from rain_removal_ros.ros.throttle import Throttle

MAX_FAILED_SPINS = 1000
"""So many callbacks that fail one after another are no bad messages but a broken executor."""


class Spinner:
    """Spins an executor in a thread of its own until it is stopped.

    rclpy's own `spin` may wait for ever when `shutdown` comes from another thread, and its
    `spin_until_future_complete` keeps something for every callback that it runs. A callback that raises, of
    rclpy's own too (a parameter of an unknown type, a clock before 1970), costs a message and not the node.
    """

    def __init__(self, executor: SingleThreadedExecutor, on_failure: Callable[[], None]):
        self._executor, self._on_failure = executor, on_failure
        self._stopped = threading.Event()
        self._throttle = Throttle()
        self._thread = threading.Thread(target=self._spin, name="executor")
        self._thread.start()

    def stop(self) -> None:
        """End the thread and the executor."""
        self._stopped.set()
        self._executor.create_task(lambda: None)  # something to do, so that it comes back
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
                context = self._executor.context
                if failures > MAX_FAILED_SPINS or not context.ok():
                    traceback.print_exc()
                    self._on_failure()
                    return
                self._report(error)

    def _report(self, error: Exception) -> None:
        held_back = self._throttle.admit(type(error).__name__)
        if held_back is not None:
            more = f" (and {held_back} like it)" if held_back else ""
            text = "".join(traceback.format_exception(error))
            get_logger("derain").error(
                f"a message was lost, because its callback failed{more}\n{bounded(text)}"
            )
