"""Image files: which to read, where their results go, reading and writing. Knows no network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from rain_removal_ros.errors import ImageError, ParameterError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
JPEG_QUALITY = 95


@dataclass(frozen=True)
class Job:
    """One image file and where its result goes."""

    source: Path
    target: Path


def plan(inputs: Sequence[Path], output: Path) -> list[Job]:
    """What `derain image IN... OUT` has to do.

    A single file goes to OUT itself where that has an image's suffix and is no folder; everything else goes
    into the folder OUT under its own name, the images of a folder (and its subfolders) under their path in
    it. Raises ParameterError where an input does not exist, a folder holds no images, two results would get
    one name, or a result would overwrite an input.
    """
    missing = [path for path in inputs if not path.exists()]
    if missing:
        raise ParameterError(f"{missing[0]} does not exist; give image files or folders, and the output last")
    if len(inputs) == 1 and inputs[0].is_file() and output.suffix.lower() in SUFFIXES and not output.is_dir():
        jobs = [Job(inputs[0], output)]
    else:
        if output.is_file():
            raise ParameterError(f"{output} is a file; give a folder for the results of several images")
        jobs = [job for path in inputs for job in _jobs_of(path, output)]
    sources = {job.source.resolve() for job in jobs}
    taken: dict[Path, Path] = {}
    for job in jobs:
        target = job.target.resolve()
        if target in sources:
            raise ParameterError(f"{job.target} is an input and would be overwritten; choose another output")
        if target in taken:
            raise ParameterError(
                f"{job.source} and {taken[target]} would both be written to {job.target}; restore them into "
                "two folders"
            )
        taken[target] = job.source
    return jobs


def _jobs_of(path: Path, output: Path) -> list[Job]:
    if path.is_file():
        return [Job(path, output / path.name)]
    inside = output.resolve()
    files = sorted(
        file
        for file in path.rglob("*")
        if file.suffix.lower() in SUFFIXES and file.is_file() and inside not in file.resolve().parents
    )
    if not files and path.resolve() != inside:
        raise ParameterError(f"no images in {path}; files ending in {', '.join(SUFFIXES)} are taken")
    if not files:
        raise ParameterError(f"{path} is input and output at once; choose another output")
    return [Job(file, output / file.relative_to(path)) for file in files]


def read_image(path: Path) -> np.ndarray:
    """uint8 (H, W, 3) RGB, turned upright as its EXIF data says; transparency is lost.

    Raises ImageError, naming the file.
    """
    try:
        encoded = np.fromfile(path, np.uint8)
    except OSError as error:
        raise ImageError(f"{path} cannot be read ({error.strerror})") from error
    image = cv2.imdecode(encoded, cv2.IMREAD_COLOR) if encoded.size else None
    if image is None:
        raise ImageError(f"{path} is damaged or no image (its suffix is {path.suffix or 'missing'})")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def write_image(path: Path, image: np.ndarray) -> None:
    """Write uint8 (H, W, 3) RGB in the format of the suffix; atomic. Raises ImageError, naming the file."""
    suffix = path.suffix.lower()
    options = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY] if suffix in (".jpg", ".jpeg") else []
    try:
        done, encoded = cv2.imencode(suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)
    except cv2.error as error:
        raise ImageError(f"{path} cannot be written: {path.suffix} is no format of OpenCV's") from error
    if not done:
        raise ImageError(f"{path} cannot be written as {path.suffix}")
    temporary = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(encoded.tobytes())
        temporary.replace(path)
    except OSError as error:
        raise ImageError(f"{path} cannot be written ({error.strerror})") from error
