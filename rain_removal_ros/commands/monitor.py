"""`derain monitor`: renders rain and fog of known strength, and shows what the rain monitor says of them."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, replace
from pathlib import Path

from tqdm import tqdm

import rain_removal_ros.lab.baselines  # noqa: F401  weights of the networks to compare with can be loaded
from rain_removal_ros.commands.runtime_options import (
    add_runtime_arguments,
    add_weights_arguments,
    settings_from,
)
from rain_removal_ros.commands.values import image_size
from rain_removal_ros.errors import ParameterError
from rain_removal_ros.lab.data.datasets import DriveDataset, FolderDataset
from rain_removal_ros.lab.data.examples import Dataset
from rain_removal_ros.lab.evaluation import monitor
from rain_removal_ros.lab.scenes.drive import FOCAL_LENGTH
from rain_removal_ros.output import write_text
from rain_removal_ros.runtime import create_restorer


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `derain monitor`."""
    parser.add_argument(
        "--data",
        type=Path,
        help="folder with image/ and inverse_depth/ to use instead of the drive's validation streets",
    )
    parser.add_argument("--views", type=int, default=6, metavar="N", help="number of views (%(default)s)")
    parser.add_argument("--size", type=image_size, help="size of the drive's views (640x360)")
    parser.add_argument("--json", type=Path, help="also write every reading to this file")
    add_weights_arguments(parser)
    add_runtime_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print a table for every kind of weather."""
    dataset: Dataset
    focal_px = None
    if arguments.data is None:
        height, width = arguments.size or (360, 640)
        dataset, focal_px = DriveDataset("val", width, height), FOCAL_LENGTH * width
    elif arguments.size is None:
        dataset = FolderDataset(arguments.data)
    else:
        raise ParameterError("--size is that of the drive's views; images of --data keep their own")
    if not 1 <= arguments.views <= len(dataset):
        raise ParameterError(f"--views is {arguments.views}; there are 1 to {len(dataset)}")
    settings = replace(settings_from(arguments), graphs_in_memory=arguments.views)  # one a size
    restorer = create_restorer(settings)
    try:
        total = arguments.views * sum(len(sweep.strengths) for sweep in monitor.SWEEPS)
        with tqdm(total=total, unit="image", desc="monitor", file=sys.stderr) as bar:
            views = [dataset[number * len(dataset) // arguments.views] for number in range(arguments.views)]
            readings = monitor.measure(restorer, views, focal_px, on_reading=lambda _: bar.update())
        info = restorer.info
    finally:
        restorer.close()
    print(
        f"{info.weights} ({info.weights_sha256[:12]}), {info.backend} {info.precision}; {arguments.views} "
        "views; rain is 0 to 1, visibility ends at 10,000 m\n"
    )
    print(monitor.report(readings))
    if arguments.json is not None:
        content = {
            "command": arguments.command_line,
            "weights": info.weights,
            "weights_sha256": info.weights_sha256,
            "backend": info.backend,
            "precision": info.precision,
            "readings": [asdict(reading) for reading in readings],
        }
        write_text(arguments.json, json.dumps(content, indent=1) + "\n")
    return 0
