"""Another method's restored images, a folder of files named as the views are. Knows files, not what is
measured of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rain_removal_ros.errors import DatasetError, ImageError, ParameterError
from rain_removal_ros.files.images import SUFFIXES, read_image

REMEDY = "write the inputs with `derain evaluate --export-inputs DIR` and run the method on DIR/rainy"


class ResultFolder:
    """The images of one method, by their names without ending; files that are no images are let be."""

    def __init__(self, folder: Path):
        """Raises DatasetError where there is no image, or where two have one name."""
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise DatasetError(f"{self.folder} is not a folder of restored images; {REMEDY}")
        self._files: dict[str, Path] = {}
        for path in sorted(self.folder.iterdir()):
            if path.suffix.lower() in SUFFIXES and not path.name.startswith("."):
                if path.stem in self._files:
                    raise DatasetError(
                        f"{self._files[path.stem]} and {path} are results for one view; take one away"
                    )
                self._files[path.stem] = path
        if not self._files:
            raise DatasetError(f"no images in {self.folder}; {REMEDY}")
        self.has_dry = False

    def check_names(self, views: Sequence[str], dry: Sequence[str]) -> None:
        """Hold the files against the names of what is measured: all of the views, and all or none of the dry
        images, are needed; sets `has_dry`. Raises DatasetError naming a file that is missing or too much.
        """
        self.has_dry = any(name in self._files for name in dry)
        wanted = [*views, *(dry if self.has_dry else ())]
        missing = [name for name in wanted if name not in self._files]
        if missing:
            remedy = REMEDY
            if missing[0] in dry:
                remedy += " and DIR/dry, or give no dry image at all"
            raise DatasetError(f"{self.folder / missing[0]}.png is missing{_others(missing)}; {remedy}")
        known = set(wanted)
        extra = [path for name, path in self._files.items() if name not in known]
        if extra:
            raise DatasetError(
                f"{extra[0]} is the result of no view that is measured{_others(extra)}; take it away, or "
                "measure the data, split, levels and selection that the inputs were written with"
            )

    def read(self, name: str, size: tuple[int, int]) -> np.ndarray:
        """The image of that name, uint8 (*size, 3) RGB. Raises DatasetError, naming the file, where it is
        damaged or of another (height, width).
        """
        path = self._files[name]
        try:
            image = read_image(path)
        except ImageError as error:
            raise DatasetError(str(error)) from error
        if image.shape[:2] != size:
            raise DatasetError(
                f"{path} has {image.shape[1]}x{image.shape[0]} pixels, its view {size[1]}x{size[0]}; results "
                "are compared at the size of their input, so that no resizing is measured with them"
            )
        return image


def open_results(texts: Sequence[str]) -> dict[str, ResultFolder]:
    """Folders by name, of texts NAME=DIR. Raises ParameterError for another text or a name given twice,
    DatasetError for a folder without images.
    """
    folders: dict[str, ResultFolder] = {}
    for text in texts:
        name, separator, folder = text.partition("=")
        if not (separator and name.strip() and folder):
            raise ParameterError(f"--results {text!r} is not NAME=DIR, such as other=results/other")
        if name in folders:
            raise ParameterError(f"two results are called {name!r}; give each a name of its own")
        folders[name] = ResultFolder(Path(folder))
    return folders


def _others(names: Sequence[object]) -> str:
    return f" (and {len(names) - 1} others)" if len(names) > 1 else ""
