"""`derain compare A B`: two bags frame by frame; fails past a tolerance, so that CI can pin a drive."""

from __future__ import annotations

import argparse
from pathlib import Path

from rain_removal_ros.commands.values import whole_number


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `derain compare`."""
    parser.add_argument("a", type=Path, metavar="A", help="reference bag")
    parser.add_argument("b", type=Path, metavar="B", help="bag to judge")
    parser.add_argument(
        "--pair", nargs=2, action="append", default=[], metavar=("TOPIC_OF_A", "TOPIC_OF_B"),
        help="topics to compare, such as a derained one and its truth (all of derain's outputs in A)",
    )  # fmt: skip
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every frame's figures to this file")
    group = parser.add_argument_group(
        "tolerance", "limits for every frame; if one is exceeded, the exit status is 1"
    )
    group.add_argument(
        "--min-psnr", type=float, default=40.0, metavar="DB", help="of colour images (%(default)s)"
    )
    group.add_argument("--min-ssim", type=float, metavar="X", help="of colour images, 0 to 1")
    group.add_argument("--max-depth-error", type=float, metavar="X", help="mean |a - b| / a of a depth map")
    group.add_argument("--max-mask-error", type=float, metavar="X", help="share of differing labels")
    group.add_argument(
        "--max-drops",
        type=whole_number(0),
        default=0,
        metavar="N",
        help="images of A that B may lack (%(default)s)",
    )
    group.add_argument("--max-latency-ratio", type=float, metavar="X", help="B's median latency over A's")


def run(arguments: argparse.Namespace) -> int:
    """Compare. Exit status 0: within the tolerance; 1: past it, or nothing to compare."""
    from rain_removal_ros.bags.compare import Tolerance, compare
    from rain_removal_ros.lab.evaluation.metrics import psnr, ssim

    tolerance = Tolerance(
        min_psnr=arguments.min_psnr,
        min_ssim=arguments.min_ssim,
        max_depth_error=arguments.max_depth_error,
        max_mask_error=arguments.max_mask_error,
        max_drops=arguments.max_drops,
        max_latency_ratio=arguments.max_latency_ratio,
    )
    pairs = [(ours, other) for ours, other in arguments.pair]
    comparison = compare(arguments.a, arguments.b, {"psnr": psnr, "ssim": ssim}, tolerance, pairs)
    print("\n".join(comparison.summary()))
    if arguments.json is not None:
        comparison.write(arguments.json)
    print("B is past the tolerance" if comparison.failures else "B is within the tolerance")
    return 1 if comparison.failures else 0
