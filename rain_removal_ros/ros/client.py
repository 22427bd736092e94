"""A ROS node beside the derain node, as cameras, recorders and viewers are: spins, and hears the diagnostics.

Knows nothing of images.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable
from typing import TypeVar

import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.context import Context
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

from rain_removal_ros.errors import RainRemovalError
from rain_removal_ros.ros.spinner import Spinner
from rain_removal_ros.ros.status import RUNTIME, Status
from rain_removal_ros.share import dds_profile_environment

NODE = "derain"
LEVELS = {DiagnosticStatus.OK: "ok", DiagnosticStatus.WARN: "warn", DiagnosticStatus.ERROR: "error"}
DIAGNOSTICS_DEPTH = 10

READY_WITHIN_S = 900.0
"""Seconds in which the node must be ready, a TensorRT engine built included."""

Fate = Callable[[], str | None]
"""What became of the node where it ended, as `ended with status 1`; None while it runs, for all we know."""

T = TypeVar("T")


def unknown() -> None:
    """The fate of a node that somebody else started."""


class NodeClient:
    """A node with a context of its own, whose executor has a thread of its own from `start` on.

    node_name: that of the node whose runtime is watched, with or without its namespace. node: make publishers
    and subscriptions with it. changed: notified at every diagnostics message, and by callbacks that change
    what somebody waits for. A callback that raises ends the thread; `check` and `wait_for` raise the same.
    """

    def __init__(self, name: str, node_name: str = NODE):
        os.environ.update(dds_profile_environment(os.environ))
        self._context = Context()
        rclpy.init(context=self._context, signal_handler_options=SignalHandlerOptions.NO)
        self.node = Node(name, context=self._context)
        self.changed = threading.Condition()
        self._statuses: dict[str, Status] = {}
        self._failure: Exception | None = None
        self._runtime = f"/{node_name.strip('/')}: {RUNTIME}"
        executor = SingleThreadedExecutor(context=self._context)
        executor.add_node(self.node)
        self._spinner = Spinner(executor, self._on_error, name)
        self.node.create_subscription(
            DiagnosticArray, "/diagnostics", self._on_diagnostics, DIAGNOSTICS_DEPTH
        )

    def start(self) -> None:
        """Call callbacks from now on."""
        self._spinner.start()

    def close(self) -> None:
        """End the thread and leave ROS."""
        self._spinner.stop()
        self.node.destroy_node()
        rclpy.shutdown(context=self._context)

    def check(self) -> None:
        """Raise what a callback raised."""
        if self._failure is not None:
            raise self._failure

    def wait_for(self, condition: Callable[[], T], timeout: float) -> T:
        """Wait until the condition, asked at every change, is true, or `timeout` s have passed, and give what
        it gave last.

        Raises what a callback raised.
        """

        def asked() -> T:
            self.check()
            return condition()

        with self.changed:
            return self.changed.wait_for(asked, timeout)

    def is_ready(self, sizes: Iterable[str] = ()) -> bool:
        """Whether the node is active and has compiled its network, for images of `sizes` (`1280x720`) too."""
        status = self.runtime
        return status is not None and status.is_ready(sizes)

    def wait_until_ready(
        self,
        ready: Callable[[], bool],
        fate: Fate = unknown,
        timeout: float = READY_WITHIN_S,
        meanwhile: Callable[[], None] = lambda: None,
    ) -> None:
        """Wait until `ready()`, which is asked at every message, and twice a second.

        meanwhile: called twice a second.
        Raises RainRemovalError where the node ends, says of its runtime that it is an error, or takes longer
        than `timeout` s.
        """
        deadline = time.monotonic() + timeout
        while not self.wait_for(ready, 0.5):
            meanwhile()
            status, ended = self.runtime, fate()
            if ended is not None:
                raise RainRemovalError(f"the node {ended} before it was ready")
            if status is not None and status.is_error:
                raise RainRemovalError(f"the node says: {status.message}")
            if time.monotonic() > deadline:
                said = f"it says: {status.message}" if status is not None else "it says nothing"
                raise RainRemovalError(f"the node was not ready after {timeout:.0f} s; {said}")

    @property
    def statuses(self) -> dict[str, Status]:
        """The newest diagnostics by name."""
        with self.changed:
            return dict(self._statuses)

    @property
    def runtime(self) -> Status | None:
        """What the node last said of its runtime."""
        found = (s for name, s in self.statuses.items() if f"/{name}".endswith(self._runtime))
        return next(found, None)

    # -- the executor's thread ---------------------------------------------------------------------

    def _on_error(self, error: Exception, _: int) -> bool:
        if not isinstance(error, ExternalShutdownException):
            with self.changed:
                self._failure = error
                self.changed.notify_all()
        return False

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        with self.changed:
            for status in message.status:
                values = {pair.key: pair.value for pair in status.values}
                level = LEVELS.get(status.level, "stale")
                self._statuses[status.name] = Status(status.name, level, status.message, values)
            self.changed.notify_all()
