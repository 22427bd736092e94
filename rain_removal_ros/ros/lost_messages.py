"""What the node does about a callback that raises."""

from __future__ import annotations

import traceback
from collections.abc import Callable

from rclpy.executors import SingleThreadedExecutor
from rclpy.impl.rcutils_logger import RcutilsLogger

from rain_removal_ros.errors import bounded
from rain_removal_ros.ros.throttle import Throttle

MOST_IN_A_ROW = 1000
"""So many callbacks that fail one after another are no bad messages but a broken executor."""


class LostMessages:
    """A spinner's `on_error`: a callback that raises, of rclpy's own too (a parameter of an unknown type, a
    clock before 1970), costs a message and not the node.

    log: the node's own, which is heard on /rosout. on_broken: called where the executor itself is broken, and
    so is not spun any more.
    """

    def __init__(self, executor: SingleThreadedExecutor, log: RcutilsLogger, on_broken: Callable[[], None]):
        self._executor, self._log, self._on_broken = executor, log, on_broken
        self._throttle = Throttle()

    def __call__(self, error: Exception, in_a_row: int) -> bool:
        if in_a_row > MOST_IN_A_ROW or not self._executor.context.ok():
            traceback.print_exception(error)
            self._on_broken()
            return False
        held_back = self._throttle.admit(type(error).__name__)
        if held_back is not None:
            more = f" (and {held_back} like it)" if held_back else ""
            text = "".join(traceback.format_exception(error))
            self._log.error(f"a message was lost, because its callback failed{more}\n{bounded(text)}")
        return True
