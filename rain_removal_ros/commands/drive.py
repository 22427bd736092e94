"""`derain drive`: renders a procedural drive to a folder of images, inverse depth and labels. Knows files,
not scenes."""

from __future__ import annotations

import argparse
import csv
import io
from pathlib import Path

from tqdm import tqdm

from rain_removal_ros.files.images import write_image
from rain_removal_ros.lab.data import depth_code
from rain_removal_ros.lab.scenes.drive import Drive, DriveFrame
from rain_removal_ros.lab.scenes.parallel import render_frames
from rain_removal_ros.output import make_folder, write_text


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
    for name in ("image", "inverse_depth", "labels"):
        make_folder(arguments.out / name)
    write_index(arguments.out, drive)
    frames = render_frames(drive, processes=arguments.processes)
    for frame in tqdm(frames, total=len(drive), desc="rendering the drive", unit="frame"):
        write_frame(arguments.out, stem(drive, frame.index), frame)
    print(f"wrote {len(drive)} frames of {arguments.width}x{arguments.height} to {arguments.out}")
    return 0


def stem(drive: Drive, index: int) -> str:
    """The name of a frame's files, without their ending: before the underscore what training knows a drive
    by.
    """
    return f"drive{drive.seed}_{index:05d}"


def write_index(folder: Path, drive: Drive) -> None:
    """Write folder/index.csv, which tells a dataset the focal length and that depth and labels are exact.
    Raises OutputError.
    """
    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\n")
    table.writerow(("id", "label_kind", "depth_kind", "focal_px"))
    table.writerows(
        (stem(drive, index), "rendered", "rendered", drive.camera.fx) for index in range(len(drive))
    )
    write_text(folder / "index.csv", text.getvalue())


def write_frame(folder: Path, name: str, frame: DriveFrame) -> None:
    """Write one frame as folder/{image,inverse_depth,labels}/NAME.png. Raises OutputError."""
    pictures = {
        "image": frame.image,
        "inverse_depth": depth_code.encode(frame.inverse_depth),
        "labels": frame.labels,
    }
    for part, picture in pictures.items():
        write_image(folder / part / f"{name}.png", picture)
