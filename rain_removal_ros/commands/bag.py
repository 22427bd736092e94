"""`derain bag IN OUT`: derains every camera image of a bag into a new one. Needs no ROS."""

from __future__ import annotations

import argparse
import sys
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from rain_removal_ros.commands.runtime_options import (
    add_runtime_arguments,
    add_weights_arguments,
    settings_from,
)
from rain_removal_ros.runtime import Output, create_restorer

if TYPE_CHECKING:
    from rain_removal_ros.bags.convert import Options, Step

OUTPUTS = {"image": Output.IMAGE, "depth": Output.INVERSE_DEPTH, "mask": Output.LABELS}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `derain bag`."""
    parser.add_argument("input", type=Path, metavar="IN", help="a bag: its folder, or its .mcap or .db3 file")
    parser.add_argument("output", type=Path, metavar="OUT", help="folder for the new bag; must not exist")
    add_conversion_arguments(parser)
    parser.add_argument("--profile", action="store_true", help="show where the time went")
    add_weights_arguments(parser)
    add_runtime_arguments(parser)


def add_conversion_arguments(parser: argparse.ArgumentParser) -> None:
    """What becomes of a bag; the same for an archive of them."""
    group = parser.add_argument_group("conversion")
    group.add_argument(
        "--cameras", nargs="+", default=[], metavar="NAME",
        help="image topics, or their names without the last part (all camera topics)",
    )  # fmt: skip
    group.add_argument(
        "--outputs",
        nargs="+",
        choices=OUTPUTS,
        default=["image", "depth"],
        help="what to add (image depth)",
    )
    group.add_argument(
        "--replace",
        action="store_true",
        help="replace the rainy image by the derained one, under the same topic",
    )
    group.add_argument("--again", action="store_true", help="recreate outputs that the bag already holds")
    group.add_argument(
        "--jpeg", type=int, metavar="QUALITY",
        help="write derained images as JPEG, 1 to 100 (like the rainy ones: raw, or JPEG of quality 95)",
    )  # fmt: skip
    group.add_argument("--storage", choices=("mcap", "sqlite3"), default="mcap", help="format (%(default)s)")
    group.add_argument(
        "--compression", choices=("none", "zstd"), default="none",
        help="compression of MCAP chunks or SQLite messages (%(default)s)",
    )  # fmt: skip
    group.add_argument(
        "--split-size", type=float, default=0.0, metavar="MB",
        help="start a new file after this many megabytes of messages, before compression (one file)",
    )  # fmt: skip
    group.add_argument(
        "--split-duration", type=float, default=0.0, metavar="S",
        help="start a new file after this many seconds of the bag (one file)",
    )  # fmt: skip
    group.add_argument(
        "--metadata", choices=("jazzy", "humble"), default="jazzy",
        help="oldest distribution whose ros2 bag can read it (%(default)s)",
    )  # fmt: skip


def options_from(arguments: argparse.Namespace) -> Options:
    """The conversion that the parsed options mean. Raises RainRemovalError."""
    from rain_removal_ros.bags.convert import Options

    return Options(
        cameras=tuple(arguments.cameras),
        outputs=frozenset(OUTPUTS[name] for name in arguments.outputs),
        replace=arguments.replace,
        again=arguments.again,
        jpeg_quality=arguments.jpeg,
        storage=arguments.storage,
        compression=arguments.compression,
        metadata=arguments.metadata,
        split_megabytes=arguments.split_size,
        split_seconds=arguments.split_duration,
    )


def run(arguments: argparse.Namespace) -> int:
    """Convert. Exit status 1 where images could not be read or the bag is damaged; the rest is written."""
    from rain_removal_ros.bags import convert

    options = options_from(arguments)
    with (
        convert.planned(arguments.input, arguments.output, options) as plan,
        closing(create_restorer(settings_from(arguments))) as restorer,
        tqdm(unit="frame", desc="derain", file=sys.stderr, smoothing=0.05) as bar,
    ):

        def show(step: Step) -> None:
            bar.total = max(step.total, step.frames)
            bar.update(step.frames - bar.n)

        say = partial(bar.write, file=sys.stderr)
        report = convert.carry_out(plan, restorer, show, say)
    print("\n".join(report.summary()))
    if arguments.profile:
        print("\n".join(report.profile()))
    print(f"written to {arguments.output}")
    return 1 if report.failed or report.damage else 0
