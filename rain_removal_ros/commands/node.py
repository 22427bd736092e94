"""`derain node`: starts the ROS node where there is no `ros2 run`. Hands over the arguments, no more."""

from __future__ import annotations

import argparse

USAGE = """usage: derain node [--ros-args ...]

Runs the ROS 2 node. Everything after `node` goes to ROS, for example:
  derain node --ros-args -p cameras:="[front]" -r front/image_raw:=/sensors/front/image_raw
  derain node --ros-args --params-file derain.yaml --log-level debug
docs/node.md lists topics and parameters."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """None: ROS arguments are not argparse's to read."""


def run_with_ros_arguments(arguments: list[str]) -> int:
    """Run the node until it is interrupted; gives the exit status."""
    if arguments in (["-h"], ["--help"]):
        print(USAGE)
        return 0
    from rain_removal_ros.ros.main import main

    return main(["derain_node", *arguments])
