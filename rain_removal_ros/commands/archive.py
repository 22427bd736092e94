"""`derain archive IN... OUT`: derains many bags, on this machine or on a Ray cluster. Needs no ROS."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tqdm import tqdm

from rain_removal_ros.commands.bag import add_conversion_arguments, options_from
from rain_removal_ros.commands.runtime_options import (
    add_runtime_arguments,
    add_weights_arguments,
    settings_from,
)
from rain_removal_ros.commands.values import whole_number


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `derain archive`."""
    parser.add_argument(
        "inputs", type=Path, nargs="+", metavar="IN",
        help="bags, folders with bags anywhere below them, or .txt files with one bag per line",
    )  # fmt: skip
    parser.add_argument(
        "output", type=Path, metavar="OUT", help="folder for the new bags; finished ones are left alone"
    )
    parser.add_argument(
        "--processes",
        type=whole_number(0),
        default=0,
        metavar="N",
        help="bags at a time (one per GPU, or one per 4 cores)",
    )
    parser.add_argument(
        "--ray", metavar="ADDRESS",
        help="use a Ray cluster: auto for the one this machine belongs to, or its HOST:PORT",
    )  # fmt: skip
    parser.add_argument(
        "--cores",
        type=whole_number(1),
        default=2,
        metavar="N",
        help="cores per bag on a cluster without GPUs (%(default)s)",
    )
    add_conversion_arguments(parser)
    add_weights_arguments(parser)
    add_runtime_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Do all bags. Exit status 1 where one failed or lacks something; the table says which and what."""
    options = options_from(arguments)  # says what is missing, if it is
    from rain_removal_ros.bags import archive
    from rain_removal_ros.bags.jobs import find_jobs

    jobs = find_jobs(arguments.inputs, arguments.output)
    settings = settings_from(arguments)
    with tqdm(total=len(jobs), unit="bag", desc="derain", file=sys.stderr) as bar:

        def tell(outcome: archive.Outcome) -> None:
            note = f": {outcome.reason}" if outcome.reason else f", {outcome.frames} frames"
            bar.write(f"{outcome.job.source}: {outcome.state}{note}", file=sys.stderr)
            bar.update()

        if arguments.ray is not None:
            outcomes = archive.run_on_ray(
                jobs, options, settings, tell, address=arguments.ray, cores=arguments.cores
            )
        else:
            outcomes = archive.run_here(jobs, options, settings, tell, processes=arguments.processes)
    print("\n".join(archive.table(outcomes)))
    return 0 if all(outcome.is_whole for outcome in outcomes) else 1
