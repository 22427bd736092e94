"""The node as a process: signals are taken before anything else, since importing the rest takes a while."""

from __future__ import annotations

import sys

from rain_removal_ros.ros.ending import Ending


def main(arguments: list[str] | None = None) -> int:
    """Run the node until SIGINT, SIGTERM or SIGHUP. Status: 0; 1 where it could not start or an executor
    failed, or `build_only` failed or was interrupted.

    A second Ctrl-C, or one in the middle of the start or the shutdown, changes nothing.
    """
    ending = Ending()
    try:
        from rain_removal_ros.ros.node import run

        return run(ending, arguments)
    except ModuleNotFoundError as error:
        print(
            f"derain node: {error}; source a ROS 2 installation, or without one: "
            'pip install "rain_removal_ros[ros]"',
            file=sys.stderr,
        )
        return 1
    finally:
        ending.over()


if __name__ == "__main__":
    sys.exit(main())
