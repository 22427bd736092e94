"""The `derain` command. A subcommand is a module with `add_arguments(parser)` and `run(arguments) -> exit
status`.

Modules are imported only when their subcommand is asked for, so that `derain image` needs no ROS and `derain
node` no trainer.
"""

from __future__ import annotations

import argparse
import errno
import importlib
import io
import shlex
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from rain_removal_ros import __version__
from rain_removal_ros.errors import RainRemovalError
from rain_removal_ros.extras import missing

SUBCOMMANDS = {
    "image": ("rain_removal_ros.commands.image", "derain image files or a folder of them"),
    "video": ("rain_removal_ros.commands.video", "derain a video file"),
    "bag": ("rain_removal_ros.commands.bag", "derain every camera image of a bag into a new bag"),
    "archive": (
        "rain_removal_ros.commands.archive",
        "derain many bags, on all cores and GPUs or on a Ray cluster",
    ),
    "compare": (
        "rain_removal_ros.commands.compare",
        "compare two bags frame by frame; fail if a tolerance is exceeded",
    ),
    "replay": ("rain_removal_ros.commands.replay", "play a bag through the live node"),
    "node": ("rain_removal_ros.commands.node", "run the ROS 2 node (everything after `node` goes to ROS)"),
    "demo": (
        "rain_removal_ros.commands.demo",
        "render a rainy drive, play it through the node, and measure what comes out",
    ),
    "drive": (
        "rain_removal_ros.commands.drive",
        "render a procedural drive with depth and labels into a folder",
    ),
    "build": ("rain_removal_ros.commands.build", "build, list, verify or clear the compiled networks"),
    "benchmark": (
        "rain_removal_ros.commands.benchmark",
        "measure latency and memory of networks and of the node",
    ),
    "train": ("rain_removal_ros.commands.train", "train a network"),
    "evaluate": (
        "rain_removal_ros.commands.evaluate",
        "measure restoration quality and its effect on segmentation",
    ),
    "monitor": (
        "rain_removal_ros.commands.monitor",
        "measure the rain monitor on rain and fog of known strength",
    ),
}

REMEDIES = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "free space there or choose another place"),
    **dict.fromkeys((errno.EACCES, errno.EPERM), "change the permissions or choose another place"),
    **dict.fromkeys((errno.EROFS, errno.EFBIG), "choose another place"),
    **dict.fromkeys((errno.EIO, errno.ESTALE), "try again, or look after the disk"),
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ELOOP: "mend the link",
}
"""What to do about an errno that is not the program's fault: a full disk, no permission."""

INTERRUPTIONS = [signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]  # not on Windows
"""Signals that end a subcommand as Ctrl-C does, so that it removes what it has not finished."""


class _Interruption(KeyboardInterrupt):
    """One of the signals."""

    def __init__(self, number: int):
        super().__init__(signal.strsignal(number))
        self.number = number


@contextmanager
def _interruptible() -> Iterator[None]:
    """Have the signals raise KeyboardInterrupt, but for those that somebody deals with already (nohup)."""
    in_main = threading.current_thread() is threading.main_thread()
    for number in INTERRUPTIONS:
        if in_main and signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, _interrupt)
    try:
        yield
    finally:
        for number in INTERRUPTIONS:
            if in_main and signal.getsignal(number) is _interrupt:
                signal.signal(number, signal.SIG_DFL)


def _interrupt(number: int, _: object) -> None:
    for each in INTERRUPTIONS:
        signal.signal(each, signal.SIG_IGN)  # what is not finished is removed now
    raise _Interruption(number)


def _missing(subcommand: str, error: ModuleNotFoundError) -> int:
    """Say what to install; a defect is raised."""
    told = missing(error)
    if told is None:
        raise error
    print(f"derain {subcommand} needs {told}", file=sys.stderr)
    return 1


def main(arguments: list[str] | None = None) -> int:
    """Run one subcommand. Exit status: 0 done, 1 it failed for a reason it printed, 2 wrong usage, 130
    interrupted, 143 terminated.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):  # a name need not be text; what it stands for was done
        sys.stdout.reconfigure(errors="backslashreplace")
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(
        prog="derain", description="Depth-guided rain removal for cameras on vehicles."
    )
    parser.add_argument("--version", action="version", version=f"rain_removal_ros {__version__}")
    subparsers = parser.add_subparsers(dest="subcommand", required=True, metavar="SUBCOMMAND")
    for name, (module_name, summary) in SUBCOMMANDS.items():
        subparser = subparsers.add_parser(
            name, help=summary, description=summary, add_help=name != "node", allow_abbrev=False
        )
        if name in arguments[:1]:
            try:
                importlib.import_module(module_name).add_arguments(subparser)
            except ModuleNotFoundError as error:
                return _missing(name, error)
    if arguments[:1] == ["node"]:  # ROS arguments are not ours to parse
        try:
            return importlib.import_module(SUBCOMMANDS["node"][0]).run_with_ros_arguments(arguments[1:])
        except ModuleNotFoundError as error:
            return _missing("node", error)
    parsed = parser.parse_args(arguments)
    parsed.command_line = shlex.join(["derain", *arguments])  # for reports that say how they were made
    try:
        with _interruptible():
            return importlib.import_module(SUBCOMMANDS[parsed.subcommand][0]).run(parsed)
    except RainRemovalError as error:
        print(f"derain {parsed.subcommand}: {error}", file=sys.stderr)
        return 1
    except ModuleNotFoundError as error:
        return _missing(parsed.subcommand, error)
    except OSError as error:
        if error.errno is None:  # no word of the system's
            raise
        remedy = REMEDIES.get(error.errno)
        print(f"derain {parsed.subcommand}: {error}{f'; {remedy}' if remedy else ''}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as error:
        return 128 + (error.number if isinstance(error, _Interruption) else signal.SIGINT)


if __name__ == "__main__":
    sys.exit(main())
