"""A rendered drive as a folder of images, inverse depth and labels, which `FolderDataset` reads. Knows files,
not scenes.
"""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import TYPE_CHECKING

from rain_removal_ros.files.images import write_image
from rain_removal_ros.lab.data import depth_code
from rain_removal_ros.output import write_text

if TYPE_CHECKING:
    from rain_removal_ros.lab.scenes import Drive, DriveFrame

PARTS = ("image", "inverse_depth", "labels")
"""The subfolders."""


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
