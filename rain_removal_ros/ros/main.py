"""The node as a process: signals are taken before anything else, since importing the rest takes a while."""

from __future__ import annotations

import atexit
import os
import sys
from typing import NoReturn

from rain_removal_ros.extras import missing
from rain_removal_ros.ros.ending import Ending


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the node until SIGINT, SIGTERM or SIGHUP, and end the process.

    Status: 0; 1 where it could not start or an executor failed, or `build_only` failed or was interrupted.

    A second Ctrl-C, or one in the middle of the start or the shutdown, changes nothing.
    """
    ending = Ending()
    try:
        from rain_removal_ros.ros.run import run

        status = run(ending, arguments)
    except ModuleNotFoundError as error:
        print(f"derain node needs {missing(error) or error}", file=sys.stderr)
        status = 1
    ending.over()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # taking PyTorch and OpenVINO apart piece by piece can take seconds


if __name__ == "__main__":
    main()
