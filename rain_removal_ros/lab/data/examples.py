"""One view of a dataset, and how its files are read. Knows files, not the layouts of folders."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from rain_removal_ros.cityscapes import CLASSES, UNLABELLED
from rain_removal_ros.errors import DatasetError, ImageError
from rain_removal_ros.files import images as image_files
from rain_removal_ros.lab.data import depth_code

DERIVED_DEPTH = "geometry"
"""Kind of a depth that is plausible, but no measurement to judge by."""


@dataclass(frozen=True)
class Example:
    """One view. What a dataset does not have is None; what it has is of one size."""

    name: str
    clean: np.ndarray | None  # uint8 (H, W, 3) RGB
    rainy: np.ndarray | None = None  # uint8 (H, W, 3) RGB; None: rain is to be rendered
    inverse_depth: np.ndarray | None = None  # float32 (H, W), 1/m, 0 = infinitely far
    labels: np.ndarray | None = None  # uint8 (H, W), Cityscapes train ids, 255 = unlabelled
    level: str | None = None  # the rain's strength where the dataset names it
    label_kind: str | None = None  # human, rendered, pseudo (a network's, not to judge by); None: unsaid
    depth_kind: str | None = None  # how it came about: stereo, lidar, rendered, DERIVED_DEPTH; None: unsaid
    group: str | None = None  # the place or drive whose figures are taken together; None: unsaid
    focal_px: float | None = None  # the camera's focal length in pixels of this image; None: unsaid
    number: int = 0  # its place in the whole split, whatever was selected: it says which rain is rendered
    clean_name: str | None = None  # the clean image's, where several examples share it; None: this one's

    @property
    def scene(self) -> str:
        """What the clean image is called, by which it is known again."""
        return self.clean_name or self.name

    @property
    def clean_image(self) -> np.ndarray:
        """The clean image. Raises DatasetError where there is none."""
        if self.clean is None:
            raise DatasetError(f"{self.name} has no clean image to hold anything against")
        return self.clean

    @property
    def depth_measured(self) -> bool:
        """Whether its depth is true or from sensors, and not derived; of a depth that nobody says anything of
        that is not to be assumed.
        """
        return self.depth_kind not in (None, DERIVED_DEPTH)


class Dataset(Protocol):
    """A sequence of examples; every call of [] reads the files anew."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example: ...


@runtime_checkable
class Outlined(Protocol):
    """A dataset that tells of an example what it knows without reading it."""

    def outline(self, index: int) -> Example:
        """The example without its images and maps."""


def outline_of(dataset: Dataset, index: int) -> Example:
    """What is known of an example beside its images and maps, which are read where there is no other way."""
    if isinstance(dataset, Outlined):
        return dataset.outline(index)
    return replace(dataset[index], clean=None, rainy=None, inverse_depth=None, labels=None)


def read_image(path: Path) -> np.ndarray:
    """An image file as uint8 (H, W, 3) RGB.

    Raises DatasetError, naming the file, where it is missing, damaged or ends early.
    """
    try:
        return image_files.read_image(path)
    except ImageError as error:
        raise DatasetError(str(error)) from error


def read_map(path: Path) -> np.ndarray:
    """A single-channel 8- or 16-bit image file as it is. Raises DatasetError, naming the file."""
    try:
        return image_files.read_map(path)
    except ImageError as error:
        raise DatasetError(str(error)) from error


def read_train_ids(path: Path) -> np.ndarray:
    """uint8 (H, W) train ids, 255 unlabelled. Raises DatasetError, naming the file, for other numbers."""
    labels = read_map(path)
    known = labels[labels != UNLABELLED]
    if labels.dtype != np.uint8 or (known.size and known.max() >= len(CLASSES)):
        raise DatasetError(
            f"{path} holds {labels.dtype} up to {labels.max()}; Cityscapes train ids are expected, 8 bits, "
            f"0 to {len(CLASSES) - 1} and 255 for unlabelled. Label ids (0 to 33) have to be translated first"
        )
    return labels


def read_depth_code(path: Path) -> np.ndarray:
    """float32 (H, W) inverse depth in 1/m from an image of 8-bit codes (`depth_code`).

    Raises DatasetError, naming the file, for other numbers.
    """
    code = read_map(path)
    if code.dtype != np.uint8:
        raise DatasetError(
            f"{path} holds {code.dtype} up to {code.max()}; 8-bit codes c of the inverse depth, "
            "0.7 (c / 255)^2 in 1/m, are expected. Metric depth or disparity has to be translated first"
        )
    return depth_code.decode(code)


def check_sizes(example: Example) -> Example:
    """The example itself. Raises DatasetError, naming it, where its parts differ in size."""
    parts = {
        "clean": example.clean,
        "rainy": example.rainy,
        "inverse depth": example.inverse_depth,
        "labels": example.labels,
    }
    sizes = {part: array.shape[:2] for part, array in parts.items() if array is not None}
    if len(set(sizes.values())) > 1:
        listed = ", ".join(f"{part} {width}x{height}" for part, (height, width) in sizes.items())
        raise DatasetError(f"{example.name}: the parts differ in size ({listed})")
    return example
