"""`derain drive`: renders a procedural drive to a folder of images, inverse depth and labels."""

from __future__ import annotations

import argparse
from pathlib import Path

from tqdm import tqdm

from rain_removal_ros.lab.data import drive_folder
from rain_removal_ros.lab.scenes.drive import Drive
from rain_removal_ros.lab.scenes.parallel import render_frames
from rain_removal_ros.output import make_folder


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "out", type=Path, help="folder to write image/, inverse_depth/, labels/ and index.csv into"
    )
    parser.add_argument("--frames", type=int, default=100, help="number of frames (default %(default)s)")
    parser.add_argument("--width", type=int, default=640, help="in pixels (default %(default)s)")
    parser.add_argument("--height", type=int, default=360, help="in pixels (default %(default)s)")
    parser.add_argument("--rate", type=float, default=10.0, help="frames per second (default %(default)s)")
    parser.add_argument(
        "--speed",
        type=float,
        default=9.0,
        help="speed in m/s; 0: everything stands still (default %(default)s)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="determines street, hour and weather (default %(default)s)"
    )
    parser.add_argument("--processes", type=int, help="rendering processes (default: one per core)")


def run(arguments: argparse.Namespace) -> int:
    drive = Drive(
        arguments.width,
        arguments.height,
        arguments.frames,
        arguments.rate,
        arguments.seed,
        speed=arguments.speed,
    )
    for name in drive_folder.PARTS:
        make_folder(arguments.out / name)
    drive_folder.write_index(arguments.out, drive)
    frames = render_frames(drive, processes=arguments.processes)
    for frame in tqdm(frames, total=len(drive), desc="rendering the drive", unit="frame"):
        drive_folder.write_frame(arguments.out, drive_folder.stem(drive, frame.index), frame)
    print(f"wrote {len(drive)} frames of {arguments.width}x{arguments.height} to {arguments.out}")
    return 0
