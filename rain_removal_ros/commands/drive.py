"""`derain drive`: renders a procedural drive to a folder of images, inverse depth and labels. Knows files,
not scenes."""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from rain_removal_ros.errors import RainRemovalError
from rain_removal_ros.lab.scenes.drive import Drive, DriveFrame
from rain_removal_ros.lab.scenes.parallel import render_frames

LARGEST_INVERSE_DEPTH = 0.7  # 1/m, code 255


def encode_inverse_depth(inverse_depth: np.ndarray) -> np.ndarray:
    """Uint8 codes c with inverse depth = 0.7 (c / 255)^2 in 1/m, from float32 of any shape; 0 stays the
    sky's alone."""
    codes = np.rint(255 * np.sqrt(np.clip(inverse_depth / LARGEST_INVERSE_DEPTH, 0, 1)))
    return np.where(inverse_depth > 0, np.maximum(codes, 1), 0).astype(np.uint8)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("out", type=Path, help="folder to write image/, inverse_depth/ and labels/ into")
    parser.add_argument("--frames", type=int, default=100, help="number of frames (default %(default)s)")
    parser.add_argument("--width", type=int, default=640, help="pixels (default %(default)s)")
    parser.add_argument("--height", type=int, default=360, help="pixels (default %(default)s)")
    parser.add_argument("--rate", type=float, default=10.0, help="frames a second (default %(default)s)")
    parser.add_argument(
        "--speed", type=float, default=9.0, help="m/s; 0: everything stands still (default %(default)s)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="which street, hour and weather (default %(default)s)"
    )
    parser.add_argument("--processes", type=int, help="rendering processes (default: one a core)")


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
        try:
            (arguments.out / name).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RainRemovalError(
                f"cannot make the folder {arguments.out / name}: {error.strerror}"
            ) from error
    frames = render_frames(drive, processes=arguments.processes)
    for frame in tqdm(frames, total=len(drive), desc="rendering the drive", unit="frame"):
        write_frame(arguments.out, frame)
    print(f"wrote {len(drive)} frames of {arguments.width}x{arguments.height} to {arguments.out}")
    return 0


def write_frame(folder: Path, frame: DriveFrame) -> None:
    """Write one frame as folder/{image,inverse_depth,labels}/NNNNN.png; RainRemovalError if it cannot be
    written."""
    pictures = {
        "image": cv2.cvtColor(frame.image, cv2.COLOR_RGB2BGR),
        "inverse_depth": encode_inverse_depth(frame.inverse_depth),
        "labels": frame.labels,
    }
    for name, picture in pictures.items():
        path = folder / name / f"{frame.index:05d}.png"
        if not cv2.imwrite(str(path), picture):
            raise RainRemovalError(f"cannot write {path}; is the disk full or the folder read-only?")
