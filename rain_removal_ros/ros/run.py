"""The node under an executor, from its start to whatever ends it."""

from __future__ import annotations

import logging
import os
import sys

import rclpy
from rclpy._rclpy_pybind11 import RCLError, UnknownROSArgsError
from rclpy.exceptions import InvalidParameterTypeException, ParameterException
from rclpy.executors import SingleThreadedExecutor
from rclpy.impl.rcutils_logger import RcutilsLogger
from rclpy.signals import SignalHandlerOptions

from rain_removal_ros.errors import RainRemovalError, bounded
from rain_removal_ros.ros.configured import MakeRestorer
from rain_removal_ros.ros.ending import Ending
from rain_removal_ros.ros.lost_messages import LostMessages
from rain_removal_ros.ros.node import DerainNode
from rain_removal_ros.ros.spinner import Spinner
from rain_removal_ros.share import dds_profile_environment


class _RosLog(logging.Handler):
    """Brings what the packages without ROS log (a cache that cannot be written) to the node's log."""

    def __init__(self, logger: RcutilsLogger):
        super().__init__()
        self._logger = logger

    def emit(self, record: logging.LogRecord) -> None:
        text = self.format(record)
        if record.levelno >= logging.ERROR:
            self._logger.error(text)
        elif record.levelno >= logging.WARNING:
            self._logger.warning(text)
        else:
            self._logger.info(text)


def run(ending: Ending, arguments: list[str] | None, make_restorer: MakeRestorer | None = None) -> int:
    """Run the node until something ends it; see `main.main`. Fast DDS gets the profile for large images
    unless the user has set one.
    """
    try:
        os.environ.update(dds_profile_environment(os.environ))
        rclpy.init(args=arguments, signal_handler_options=SignalHandlerOptions.NO)
        node = DerainNode(make_restorer, sys.argv if arguments is None else arguments)
    except (
        RainRemovalError,
        ParameterException,
        InvalidParameterTypeException,
        RCLError,
        UnknownROSArgsError,
        ValueError,
        TypeError,
    ) as error:
        print(f"derain node: {bounded(error)}", file=sys.stderr)
        rclpy.try_shutdown()
        return 1
    log = logging.getLogger("rain_removal_ros")
    log.setLevel(logging.INFO)
    log.addHandler(_RosLog(node.get_logger()))
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    spinner = Spinner(executor, LostMessages(executor, node.get_logger(), on_broken=lambda: ending.ask(1)))
    spinner.start()
    node.start(lambda built: ending.ask(0 if built else 1), on_broken=lambda: ending.ask(1))
    status = ending.wait()
    if status is None:  # a signal; what `build_only` was to build is not there
        status = int(node.get_parameter("build_only").value)
    spinner.stop()
    if not node.close():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)  # what is still in work would keep the process
    rclpy.try_shutdown()
    return status
