"""RainCityscapes in the two layouts in use. Knows file names and encodings; holds out cities for validation.

The images are Cityscapes' and come from its site only; nothing of them is shipped here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from rain_removal_ros.cityscapes import UNLABELLED, TrainId
from rain_removal_ros.errors import DatasetError
from rain_removal_ros.lab.data.examples import Example, check_sizes, read_image, read_map
from rain_removal_ros.lab.weather import PAPER_LEVELS

NAME = re.compile(
    r"(?P<scene>(?P<city>[^_]+)_.+?)(?:_leftImg8bit)?(?:_rain)?_alpha_(?P<alpha>[\d.]+)_beta_(?P<beta>[\d.]+)"
    r"_dropsize_(?P<drop>[\d.]+)_pattern_(?P<pattern>\d+)$"
)

TRAIN_IDS = {
    **{7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 19: 6, 20: 7, 21: 8, 22: 9, 23: 10, 24: 11, 25: 12, 26: 13},
    **{27: 14, 28: 15, 31: 16, 32: 17, 33: 18},
}
"""Cityscapes' label ids -> train ids; every other id is unlabelled."""
LARGEST_LABEL_ID = 33

FOCAL = 1.105
"""Focal length over width of Cityscapes' camera, for views without a camera file: 2262 of 2048 pixels."""


@dataclass(frozen=True)
class RainyView:
    """The files of one rainy view; None where the dataset has no such file folder."""

    rainy: Path
    clean: Path
    depth: Path | None
    camera: Path | None
    labels: Path | None
    city: str
    level: str


@dataclass(frozen=True)
class Camera:
    """What a camera file says of the stereo pair whose left image is the view."""

    focal_px: float
    baseline_m: float


class RainCityscapesDataset:
    """Rainy views with their clean images, depth and labels.

    Layouts, told apart by what lies in `root`:
    - data/{train,test}_{input,gt,depth}.txt, each line a file of {train,test}/, image/ and depth/
      (DGNL-Net's);
    - leftImg8bit_rain/{train,val}/CITY/ beside leftImg8bit/, disparity/, camera/ and gtFine/ (the Cityscapes
      site's; only the first two are needed).

    Split `test` is the publication's test cities (in the second layout the folder `val`). `train` and `val`
    share its training cities: the last fifth of them by name, at least one, is held out for choosing. Inverse
    depth is metric where there are disparities with camera files; the 8-bit images of depth/ have no
    documented scale, so they are used only if `depth_scale`, the inverse depth in 1/m of their code 255, is
    given. Where labels say sky and stereo found no match, inverse depth is 0. The focal length is the camera
    file's, or FOCAL times the width. Raises DatasetError naming what is missing.
    """

    def __init__(
        self, root: Path, split: str = "train", select: Sequence[str] = (), depth_scale: float | None = None
    ):
        self.root, self.depth_scale = Path(root), depth_scale
        stored = "test" if split == "test" else "train"
        if (self.root / "leftImg8bit_rain").is_dir():
            views = self._from_cityscapes("val" if stored == "test" else "train")
        elif (self.root / "data" / f"{stored}_input.txt").is_file():
            views = self._from_lists(stored)
        else:
            raise DatasetError(
                f"{self.root} has neither leftImg8bit_rain/ nor data/{stored}_input.txt, so it is not "
                "RainCityscapes in "
                "a layout that is known"
            )
        if stored == "train":
            cities = sorted({view.city for view in views})
            if len(cities) < 2:
                raise DatasetError(
                    f"{self.root} has the training city {cities[0]} alone; two are needed to hold one out"
                )
            held_out = set(cities[-max(1, len(cities) // 5) :])
            views = [view for view in views if (view.city in held_out) == (split == "val")]
        prefixes = tuple(select) or ""
        self._numbers = [i for i, view in enumerate(views) if view.rainy.name.startswith(prefixes)]
        self.views = [views[number] for number in self._numbers]
        if not self.views:
            raise DatasetError(
                f"no rainy image of {self.root}, split {split}, begins with {' or '.join(select)}"
            )

    def _from_lists(self, stored: str) -> list[RainyView]:
        names = {part: self._lines(stored, part) for part in ("input", "gt", "depth")}
        counts = {part: len(lines) for part, lines in names.items()}
        if len(set(counts.values())) > 1:
            listed = ", ".join(f"{stored}_{part}.txt {count}" for part, count in counts.items())
            raise DatasetError(f"the lists in {self.root / 'data'} differ in length ({listed} lines)")
        views = []
        for rainy, clean, depth in zip(*names.values(), strict=True):
            path = self.root / stored / rainy
            city, level = _describe(path)
            depth_path = self.root / "depth" / depth
            _require_scene(path, self.root / "data" / f"{stored}_gt.txt", clean)
            _require_scene(path, self.root / "data" / f"{stored}_depth.txt", depth)
            views.append(RainyView(path, self.root / "image" / clean, depth_path, None, None, city, level))
        return _complete(views)

    def _lines(self, stored: str, part: str) -> list[str]:
        path = self.root / "data" / f"{stored}_{part}.txt"
        if not path.is_file():
            raise DatasetError(f"{path} is missing; it lists the {part} files, one a line")
        lines = [line.strip() for line in path.read_text().splitlines() if line.strip()]
        if not lines:
            raise DatasetError(f"{path} is empty; it lists the {part} files, one a line")
        return lines

    def _from_cityscapes(self, stored: str) -> list[RainyView]:
        rainy = sorted((self.root / "leftImg8bit_rain" / stored).glob("*/*.png"))
        if not rainy:
            raise DatasetError(f"no images in {self.root / 'leftImg8bit_rain' / stored / 'CITY'}")

        def beside(folder: str, path: Path, ending: str) -> Path | None:
            match = NAME.match(path.stem)
            scene = match["scene"] if match else path.stem
            there = (self.root / folder).is_dir()
            return self.root / folder / stored / path.parent.name / f"{scene}_{ending}" if there else None

        views = []
        for path in rainy:
            city, level = _describe(path)
            clean = beside("leftImg8bit", path, "leftImg8bit.png")
            if clean is None:
                raise DatasetError(f"{self.root / 'leftImg8bit'} is missing; it holds the clean images")
            depth, camera = beside("disparity", path, "disparity.png"), beside("camera", path, "camera.json")
            if depth is not None and camera is None:
                raise DatasetError(
                    f"{self.root / 'camera'} is missing; without it the disparities have no metric scale. "
                    "Add it or "
                    "take disparity/ away"
                )
            labels = beside("gtFine", path, "gtFine_labelIds.png")
            views.append(RainyView(path, clean, depth, camera, labels, city, level))
        return _complete(views)

    def __len__(self) -> int:
        return len(self.views)

    def __getitem__(self, index: int) -> Example:
        view = self.views[index]
        labels = None if view.labels is None else _train_ids(view.labels)
        camera = None if view.camera is None else _read_camera(view.camera)
        clean = read_image(view.clean)
        example = check_sizes(
            replace(
                self.outline(index),
                clean=clean,
                rainy=read_image(view.rainy),
                inverse_depth=self._inverse_depth(view, camera),
                labels=labels,
                focal_px=FOCAL * clean.shape[1] if camera is None else camera.focal_px,
            )
        )
        if example.inverse_depth is None or labels is None:
            return example
        unmatched_sky = np.isnan(example.inverse_depth) & (labels == TrainId.SKY)
        return replace(example, inverse_depth=np.where(unmatched_sky, np.float32(0), example.inverse_depth))

    def outline(self, index: int) -> Example:
        """What is known of an example without reading its files."""
        view = self.views[index]
        metric = view.camera is not None or self.depth_scale is not None
        return Example(
            view.rainy.stem,
            None,
            level=view.level,
            label_kind=None if view.labels is None else "human",
            depth_kind="stereo" if view.depth is not None and metric else None,
            number=self._numbers[index],
            clean_name=view.clean.stem,
        )

    def _inverse_depth(self, view: RainyView, camera: Camera | None) -> np.ndarray | None:
        """float32 in 1/m. Where stereo found no match it is NaN: by itself that is unknown, not far."""
        if view.depth is None:
            return None
        if camera is not None:
            code = read_map(view.depth)
            if code.dtype != np.uint16:
                raise DatasetError(
                    f"{view.depth} holds {code.dtype}; Cityscapes' 16-bit disparities (256 a pixel) are "
                    "expected"
                )
            scale = np.float32(camera.baseline_m * camera.focal_px)
            disparity = (code.astype(np.float32) - 1) / 256  # pixels; code 0 is no match
            return np.where(code > 0, np.maximum(disparity, 0) / scale, np.float32(np.nan))
        if self.depth_scale is None:
            return None
        code = read_map(view.depth)
        if code.dtype != np.uint8:
            raise DatasetError(
                f"{view.depth} holds {code.dtype}; 8-bit codes of the inverse depth are expected"
            )
        return code.astype(np.float32) * np.float32(self.depth_scale / 255)


def _describe(path: Path) -> tuple[str, str]:
    """City and level of a rainy image by its name."""
    match = NAME.match(path.stem)
    levels = {triple: level for level, triple in PAPER_LEVELS.items()}
    triple = tuple(float(match[key]) for key in ("alpha", "beta", "drop")) if match else None
    if match is None or triple not in levels:
        raise DatasetError(
            f"{path} is not named as RainCityscapes names its images: "
            "CITY_..._rain_alpha_A_beta_B_dropsize_D_pattern_N.png with one of its three triples (A, B, D)"
        )
    return match["city"], levels[triple]


def _require_scene(rainy: Path, listed_in: Path, name: str) -> None:
    """Raise DatasetError where a list pairs a rainy image with another scene: its order is another."""
    scene = "_".join(rainy.name.split("_")[:3])  # CITY_SEQUENCE_FRAME
    if not Path(name).name.startswith(scene + "_"):
        raise DatasetError(
            f"{listed_in} pairs {rainy.name} with {name}, which is not of the scene {scene}; the lists must "
            "name the same scene in the same line"
        )


def _complete(views: list[RainyView]) -> list[RainyView]:
    """The views themselves.

    Raises DatasetError naming the first file that is missing, and how many more are.
    """
    wanted = {
        path: view
        for view in views
        for path in (view.rainy, view.clean, view.depth, view.camera, view.labels)
        if path is not None
    }
    missing = [path for path in wanted if not path.is_file()]
    if missing:
        raise DatasetError(
            f"{missing[0]} is missing, which belongs to {wanted[missing[0]].rainy.name}"
            + (f"; {len(missing) - 1} more files are missing" if len(missing) > 1 else "")
        )
    return views


def _read_camera(path: Path) -> Camera:
    try:
        camera = json.loads(path.read_text())
        return Camera(float(camera["intrinsic"]["fx"]), float(camera["extrinsic"]["baseline"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"{path} is not a Cityscapes camera file ({error!r})") from error


def _train_ids(path: Path) -> np.ndarray:
    """Raises DatasetError, naming the file, for what are no label ids."""
    label_ids = read_map(path)
    known = label_ids[label_ids != 255]  # the license plate's -1
    if label_ids.dtype != np.uint8 or (known.size and known.max() > LARGEST_LABEL_ID):
        raise DatasetError(
            f"{path} holds {label_ids.dtype} up to {label_ids.max()}; Cityscapes' label ids are expected, "
            f"8 bits, 0 to {LARGEST_LABEL_ID}"
        )
    table = np.full(256, UNLABELLED, np.uint8)
    for label_id, train_id in TRAIN_IDS.items():
        table[label_id] = train_id
    return table[label_ids]
