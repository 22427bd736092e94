"""What networks are trained and judged on, behind one interface: a dataset is a sequence of `Example`s."""

from __future__ import annotations

import csv
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np

from rain_removal_ros.errors import DatasetError, ParameterError
from rain_removal_ros.files.images import SUFFIXES
from rain_removal_ros.lab.data.examples import (
    Dataset,
    Example,
    check_sizes,
    read_depth_code,
    read_image,
    read_train_ids,
)
from rain_removal_ros.lab.data.raincityscapes import RainCityscapesDataset


class FolderDataset:
    """A folder with image/ and, where they exist, inverse_depth/ (8-bit codes) and labels/ (train ids).

    The stems of the files are the same. Rain is rendered onto the images. An index.csv in the folder or
    beside it (columns id, label_kind, depth_kind, group, focal_px) says how labels and depth came about;
    depth of which nobody says it was not measured.
    `select` keeps the names that begin with one of its prefixes. Raises DatasetError where there is no image,
    where a depth or label folder lacks an image's file, or where the index lacks an image.
    """

    def __init__(self, root: Path, select: Sequence[str] = ()):
        self.root = Path(root)
        folder = self.root / "image" if (self.root / "image").is_dir() else self.root
        self._numbers = _images_in(folder, select)
        self.images = list(self._numbers)
        self.has_depth = (self.root / "inverse_depth").is_dir()
        self.has_labels = (self.root / "labels").is_dir()
        self._index = _index_of(self.root, self.images)
        for part, there in (("inverse_depth", self.has_depth), ("labels", self.has_labels)):
            if there:
                _require([self.root / part / f"{path.stem}.png" for path in self.images])

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Example:
        path = self.images[index]
        depth = labels = None
        if self.has_depth:
            depth = read_depth_code(self.root / "inverse_depth" / f"{path.stem}.png")
        if self.has_labels:
            labels = read_train_ids(self.root / "labels" / f"{path.stem}.png")
        clean = read_image(path)
        return check_sizes(replace(self.outline(index), clean=clean, inverse_depth=depth, labels=labels))

    def outline(self, index: int) -> Example:
        """What is known of an example without reading its files."""
        path = self.images[index]
        row = self._index.get(path.stem, {})
        return Example(
            path.stem,
            None,
            label_kind=row.get("label_kind") or None,
            depth_kind=row.get("depth_kind") or None,
            group=row.get("group") or None,
            focal_px=_focal_length(row.get("focal_px"), path),
            number=self._numbers[path],
        )


def _images_in(folder: Path, select: Sequence[str] = ()) -> dict[Path, int]:
    """The image files of a folder by name, each with its place among all of them, selected or not.

    Raises DatasetError where there is none.
    """
    images = sorted(path for path in folder.glob("*") if path.suffix.lower() in SUFFIXES)
    if not images:
        raise DatasetError(f"no images in {folder}; expected files such as {folder / 'NAME.jpg'}")
    prefixes = tuple(select) or ""
    selected = {path: number for number, path in enumerate(images) if path.name.startswith(prefixes)}
    if not selected:
        raise DatasetError(f"none of the {len(images)} images in {folder} begins with {' or '.join(select)}")
    stems: dict[str, Path] = {}
    for path in selected:
        if path.stem in stems:
            raise DatasetError(
                f"{stems[path.stem]} and {path} have one stem; depth and labels would be shared"
            )
        stems[path.stem] = path
    return selected


def _require(files: list[Path]) -> None:
    """Raise DatasetError, naming the first and how many more there are, where files are missing."""
    missing = [path for path in files if not path.is_file()]
    if missing:
        raise DatasetError(
            f"{missing[0]} is missing (and {len(missing) - 1} others); add what is missing, or take the "
            "images or the folder away"
        )


def _focal_length(text: str | None, path: Path) -> float | None:
    """The index's focal length in pixels. Raises DatasetError, naming the image, for what is none."""
    if not text:
        return None
    try:
        focal = float(text)
    except ValueError:
        focal = float("nan")
    if not 0 < focal < float("inf"):
        raise DatasetError(f"the index gives {path} the focal length {text!r}; pixels above 0 are needed")
    return focal


def _index_of(root: Path, images: list[Path]) -> dict[str, dict[str, str]]:
    """Image stem -> its row of the index, if there is one."""
    index = next((path for path in (root / "index.csv", root.parent / "index.csv") if path.is_file()), None)
    if index is None:
        return {}
    with open(index, newline="", encoding="utf-8-sig") as file:  # spreadsheets write a byte order mark
        reader = csv.DictReader(file)
        if "id" not in (reader.fieldnames or ()):
            raise DatasetError(
                f"{index} has no column `id`; its columns are {', '.join(reader.fieldnames or ())}"
            )
        rows = {row["id"]: row for row in reader}
    missing = [path for path in images if path.stem not in rows]
    if missing:
        raise DatasetError(
            f"{index} has no row for {missing[0]} (and {len(missing) - 1} others); complete it or remove it"
        )
    return rows


PAIR_FOLDERS = (("rainy", "clean"), ("input", "target"), ("rain", "norain"), ("input", "gt"))


class PairedDataset:
    """Two folders of images with the same file stems, one rainy and one clean, without depth or labels.

    The folders are rainy/ and clean/, or go by another of the names in PAIR_FOLDERS. A leading `rain-` or
    `norain-` of a stem is ignored. Raises DatasetError where the folders are missing or an image has no
    partner.
    """

    def __init__(self, root: Path, select: Sequence[str] = ()):
        root = Path(root)
        pairs = [(root / rainy, root / clean) for rainy, clean in PAIR_FOLDERS]
        found = [pair for pair in pairs if pair[0].is_dir() and pair[1].is_dir()]
        if not found:
            names = ", ".join(f"{rainy}/ and {clean}/" for rainy, clean in PAIR_FOLDERS)
            raise DatasetError(f"{root} holds no pair of folders; expected {names}")
        rainy_folder, clean_folder = found[0]
        rainy = _by_pair_stem(rainy_folder, foreign="norain-")
        clean = _by_pair_stem(clean_folder, foreign="rain-")
        for images, others, folder in ((rainy, clean, clean_folder), (clean, rainy, rainy_folder)):
            alone = sorted(images.keys() - others.keys())
            if alone:
                raise DatasetError(
                    f"{images[alone[0]]} has no partner in {folder} ({len(alone) - 1} others have none "
                    "either)"
                )
        prefixes = tuple(select) or ""
        places = {stem: place for place, stem in enumerate(sorted(rainy)) if stem.startswith(prefixes)}
        self.pairs = [(rainy[stem], clean[stem]) for stem in places]
        self._numbers = list(places.values())
        if not self.pairs:
            raise DatasetError(f"none of the {len(rainy)} pairs in {root} begins with {' or '.join(select)}")

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Example:
        rainy, clean = self.pairs[index]
        clean_image, rainy_image = read_image(clean), read_image(rainy)
        if np.array_equal(clean_image, rainy_image):
            raise DatasetError(
                f"{rainy} and {clean} are the same picture; one of them is in the wrong folder"
            )
        return check_sizes(replace(self.outline(index), clean=clean_image, rainy=rainy_image))

    def outline(self, index: int) -> Example:
        """What is known of a pair without reading it."""
        return Example(_pair_stem(self.pairs[index][0]), None, number=self._numbers[index])


def _by_pair_stem(folder: Path, foreign: str) -> dict[str, Path]:
    """The images of one side by what they share with their partner.

    Raises DatasetError for a name that begins as those of the other side, and for two images of one pair.
    """
    found: dict[str, Path] = {}
    for path in _images_in(folder):
        if path.stem.startswith(foreign):
            raise DatasetError(f"{path} is named as an image of the other side; the folders are mixed up")
        stem = _pair_stem(path)
        if stem in found:
            raise DatasetError(f"{found[stem]} and {path} belong to one pair; take one of them away")
        found[stem] = path
    return found


def _pair_stem(path: Path) -> str:
    return path.stem.removeprefix("norain-").removeprefix("rain-")


class DriveDataset:
    """Views of the procedural drive, rendered as they are asked for, with exact depth and labels.

    Every split drives streets of its own; a view every two seconds, so that none resembles the last.
    """

    STREETS: ClassVar = {"train": range(100, 124), "val": range(1000, 1006), "test": range(2000, 2006)}
    VIEWS_PER_STREET = 8

    def __init__(self, split: str = "val", width: int = 640, height: int = 360):
        # The renderer needs packages that a trainer on real images does without.
        from rain_removal_ros.lab.scenes import Drive

        self._drives = [
            Drive(width, height, self.VIEWS_PER_STREET, rate=0.5, seed=seed) for seed in self.STREETS[split]
        ]
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._drives) * self.VIEWS_PER_STREET

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < len(self):
            raise IndexError(f"view {index} of {len(self)}")
        drive = self._drives[index // self.VIEWS_PER_STREET]
        with self._lock:
            frame = drive[index % self.VIEWS_PER_STREET]
        return replace(
            self.outline(index), clean=frame.image, inverse_depth=frame.inverse_depth, labels=frame.labels
        )

    def outline(self, index: int) -> Example:
        """What is known of a view without rendering it."""
        drive = self._drives[index // self.VIEWS_PER_STREET]
        return Example(
            f"drive_{drive.seed}_{index % self.VIEWS_PER_STREET}",
            None,
            label_kind="rendered",
            depth_kind="rendered",
            focal_px=drive.camera.fx,
            number=index,
        )


DATASET_KINDS = ("folder", "raincityscapes", "paired", "drive")
SPLITS = ("train", "val", "test")
USUAL_SPLIT = {"raincityscapes": "val", "drive": "val"}
"""The split of a kind where none is named; folders and pairs are taken whole."""


def open_dataset(
    kind: str,
    root: Path | None,
    split: str | None = None,
    select: Sequence[str] = (),
    depth_scale: float | None = None,
) -> Dataset:
    """A dataset of one of DATASET_KINDS.

    `split` is one of SPLITS; for folders and pairs the subfolder of that name, or None for the root itself;
    elsewhere None means USUAL_SPLIT. `select` keeps names that begin with one of its prefixes; `depth_scale`
    is RainCityscapes' alone. Raises DatasetError where the root or a file of it is missing, or where a root
    or prefixes are given for the drive, ParameterError for a `depth_scale` of another kind, ValueError for
    another kind.
    """
    if kind not in DATASET_KINDS:
        raise ValueError(f"unknown kind of dataset {kind!r}; the kinds are {', '.join(DATASET_KINDS)}")
    if depth_scale is not None and kind != "raincityscapes":
        raise ParameterError(
            f"--depth-scale is about RainCityscapes' depth images, not those of kind {kind}; leave it out"
        )
    if kind == "drive":
        if root is not None:
            raise DatasetError(
                f"the drive is rendered and reads nothing from {root}; leave --data out, or say with "
                "--dataset what lies there"
            )
        if select:
            raise DatasetError(
                f"the drive has no file names to select {' or '.join(select)} by; choose a split instead"
            )
        return DriveDataset(split or USUAL_SPLIT[kind])
    if root is None:
        raise DatasetError(f"a dataset of kind {kind} needs its root folder; give --data DIR")
    root = Path(root)
    if kind == "raincityscapes":
        return RainCityscapesDataset(root, split or USUAL_SPLIT[kind], select, depth_scale)
    folder = root / split if split else root
    if not folder.is_dir():
        raise DatasetError(
            f"{folder} is not a folder" + (f"; {root} has no split {split!r}" if split else "")
        )
    return FolderDataset(folder, select) if kind == "folder" else PairedDataset(folder, select)
