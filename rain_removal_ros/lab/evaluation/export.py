"""The images of an evaluation as PNG files, for other methods and other tools. Knows views and files, not
networks.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rain_removal_ros.errors import DatasetError
from rain_removal_ros.files.images import write_image
from rain_removal_ros.lab.data.examples import Dataset
from rain_removal_ros.lab.evaluation.protocols import PROTOCOLS
from rain_removal_ros.lab.evaluation.summary import CLEAN, DRY, RAINY
from rain_removal_ros.lab.evaluation.views import chosen, name_of_view, plan_of, views_of
from rain_removal_ros.lab.evaluation.workers import Track, in_workers, untracked
from rain_removal_ros.output import make_folder


def export_image(folder: Path, source: str, name: str, image: np.ndarray) -> None:
    """Write uint8 (H, W, 3) RGB as folder/SOURCE/NAME.png. Raises OutputError."""
    path = folder / source / f"{name}.png"
    make_folder(path.parent)
    write_image(path, image)


def export_inputs(
    dataset: Dataset,
    folder: Path,
    levels: Sequence[str],
    protocol: str,
    limit: int | None = None,
    limit_per_group: int | None = None,
    workers: int = 2,
    track: Track = untracked,
) -> int:
    """Write what a method is given and held against, and give the number of views: folder/rainy and
    folder/clean, NAME_LEVEL.png each, and folder/dry, NAME_dry.png, the clean images once each.

    Raises DatasetError where there is nothing to write, OutputError where it cannot be written.
    """
    indices = chosen(dataset, limit, limit_per_group)
    plan = plan_of(dataset, indices, levels)

    def export(index: int) -> int:
        if not plan.views[index]:
            return 0
        example = dataset[index]
        if index in plan.dry:
            clean = PROTOCOLS[protocol].picture(example.clean_image)
            export_image(folder, DRY, plan.dry[index], clean)
        count = 0
        for view in views_of(example, levels, protocol):
            name = name_of_view(example.name, view.level)
            export_image(folder, RAINY, name, view.rainy)
            export_image(folder, CLEAN, name, view.clean)
            count += 1
        return count

    views = sum(in_workers(export, indices, "views", workers, track))
    if not views:
        raise DatasetError(f"the dataset has no rainy image of the levels {', '.join(levels)}")
    return views
