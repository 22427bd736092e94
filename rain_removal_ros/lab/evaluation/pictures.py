"""Rows of sheets: what a network did to the views that it did worst on. Knows what was measured, writes
nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rain_removal_ros.colours import colour_inverse_depth
from rain_removal_ros.lab.data.examples import Dataset
from rain_removal_ros.lab.evaluation import metrics
from rain_removal_ros.lab.evaluation.evaluate import Evaluation
from rain_removal_ros.lab.evaluation.hard_dry import HardDryScore, hard_dry_image
from rain_removal_ros.lab.evaluation.real_weather import WeatherView
from rain_removal_ros.lab.evaluation.sheet import SheetRow
from rain_removal_ros.lab.evaluation.summary import Record
from rain_removal_ros.lab.evaluation.testbed import Testbed


def worst_rows(evaluation: Evaluation, network: str, count: int) -> list[SheetRow]:
    """At most `count` views of which most was harmed, every group in turn: rainy, derained, clean, harmed
    pixels, inverse depth.
    """

    def row(record: Record) -> SheetRow:
        view, focal_px = evaluation.view_again(record)
        restored = evaluation.testbed.restore(network, view.rainy, focal_px)
        figures = record.figures
        caption = (
            f"{record.group}: {record.name}, {record.level}: {100 * figures['harmed']:.1f} % harmed, "
            f"{figures['psnr']:.1f} dB ({figures['psnr_gain']:+.1f})   "
            "[rainy | derained | clean | harmed | inverse depth]"
        )
        marked = _marked(restored.image, metrics.harmed(restored.image, view.rainy, view.clean))
        depth = colour_inverse_depth(restored.inverse_depth)
        return SheetRow(caption, (view.rainy, restored.image, view.clean, marked, depth))

    return evaluation.testbed.in_workers(row, evaluation.worst(network, count), "worst cases")


def weather_rows(views: Sequence[WeatherView], network: str) -> list[SheetRow]:
    """Views of real weather: as they came, derained, moved pixels."""
    rows = []
    for view in views:
        caption = f"{view.weather}: {view.name}"
        if network in view.shifts:
            shift = view.shifts[network]
            caption += f", sky {shift.brightness:+.0f}, bluer {shift.blueness:+.0f}, "
            caption += f"structure {shift.structure:+.1f}"
        restored = view.restored[network]
        moved = metrics.distance_from(restored, view.image) > metrics.HARM
        pictures = (view.image, restored, _marked(restored, moved))
        rows.append(SheetRow(f"{caption}   [as it came | derained | moved]", pictures))
    return rows


def hard_dry_rows(
    dataset: Dataset, scores: Sequence[HardDryScore], network: str, testbed: Testbed
) -> list[SheetRow]:
    """The worst image of every kind of look-alike, the worst kind first: as it came, derained, moved
    pixels.
    """
    worst: dict[str, HardDryScore] = {}
    for score in sorted((one for one in scores if one.network == network), key=lambda one: one.psnr):
        worst.setdefault(score.kind, score)

    def row(score: HardDryScore) -> SheetRow:
        example = dataset[score.index]
        image = hard_dry_image(example, score.kind)
        restored = testbed.restore(network, image, example.focal_px).image
        marked = _marked(restored, metrics.distance_from(restored, image) > metrics.HARM)
        caption = f"{score.kind}: {score.name}, {score.psnr:.1f} dB, {100 * score.changed:.1f} % moved"
        if score.rain is not None:
            caption += f", rain {score.rain:.3f}"
        return SheetRow(f"{caption}   [as it came | derained | moved]", (image, restored, marked))

    return testbed.in_workers(row, list(worst.values()), "worst look-alikes")


def _marked(image: np.ndarray, where: np.ndarray) -> np.ndarray:
    """The image darkened, with the pixels in question in red."""
    marked = image // 2
    marked[where] = (255, 40, 40)
    return marked
