"""A ROS node beside the derain node, as cameras, recorders and viewers are: spins, and hears the diagnostics.

Knows nothing of images.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.context import Context
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

from rain_removal_ros.ros.status import RUNTIME, Status
from rain_removal_ros.share import dds_profile_environment

NODE = "derain"
LEVELS = {DiagnosticStatus.OK: "ok", DiagnosticStatus.WARN: "warn", DiagnosticStatus.ERROR: "error"}
DIAGNOSTICS_DEPTH = 10


class NodeClient:
    """A node with a context of its own, whose executor has a thread of its own from `start` on.

    node: make publishers and subscriptions with it. changed: notified at every diagnostics message, and by
    callbacks that change what somebody waits for. A callback that raises ends the thread; `check` and
    `wait_for` raise the same.
    """

    def __init__(self, name: str):
        os.environ.update(dds_profile_environment(os.environ))
        self._context = Context()
        rclpy.init(context=self._context, signal_handler_options=SignalHandlerOptions.NO)
        self.node = Node(name, context=self._context)
        self.changed = threading.Condition()
        self._statuses: dict[str, Status] = {}
        self._failure: Exception | None = None
        self._stopped = threading.Event()
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self._spinner = threading.Thread(target=self._spin, name=name)
        self.node.create_subscription(
            DiagnosticArray, "/diagnostics", self._on_diagnostics, DIAGNOSTICS_DEPTH
        )

    def start(self) -> None:
        """Call callbacks from now on."""
        self._spinner.start()

    def close(self) -> None:
        """End the thread and leave ROS."""
        self._stopped.set()
        self._executor.create_task(lambda: None)  # something to do, so that it comes back
        if self._spinner.ident is not None:
            self._spinner.join()
        self._executor.shutdown()
        self.node.destroy_node()
        rclpy.shutdown(context=self._context)

    def check(self) -> None:
        """Raise what a callback raised."""
        if self._failure is not None:
            raise self._failure

    def wait_for(self, condition: Callable[[], bool], timeout: float) -> bool:
        """Wait until the condition, asked at every change, is true; False where it is not in `timeout` s.

        Raises what a callback raised.
        """
        with self.changed:
            met = self.changed.wait_for(lambda: self._failure is not None or condition(), timeout)
        self.check()
        return met

    @property
    def statuses(self) -> dict[str, Status]:
        """The newest diagnostics by name."""
        with self.changed:
            return dict(self._statuses)

    def runtime(self, node_name: str = NODE) -> Status | None:
        """What the node last said of its runtime. node_name: with or without its namespace."""
        wanted = f"/{node_name.strip('/')}: {RUNTIME}"
        return next((s for name, s in self.statuses.items() if f"/{name}".endswith(wanted)), None)

    # -- the executor's thread ---------------------------------------------------------------------

    def _spin(self) -> None:
        while not self._stopped.is_set():
            try:  # rclpy's own `spin` may wait for ever when another thread shuts it down
                self._executor.spin_once()
            except ExternalShutdownException:
                return
            except Exception as error:
                with self.changed:
                    self._failure = error
                    self.changed.notify_all()
                return

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        with self.changed:
            for status in message.status:
                values = {pair.key: pair.value for pair in status.values}
                level = LEVELS.get(status.level, "stale")
                self._statuses[status.name] = Status(status.name, level, status.message, values)
            self.changed.notify_all()
