"""Real weather, where nobody knows what lies behind it: labels by hand say whether an image became better or
worse for a segmentation network, and an overcast sky is to stay what it is.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from rain_removal_ros.cityscapes import TrainId
from rain_removal_ros.errors import DatasetError
from rain_removal_ros.lab.data.datasets import FolderDataset
from rain_removal_ros.lab.evaluation import metrics
from rain_removal_ros.lab.evaluation.summary import Figures
from rain_removal_ros.lab.evaluation.testbed import Testbed


@dataclass(frozen=True)
class WeatherView:
    """One image, and what the networks made of it."""

    weather: str
    name: str
    image: np.ndarray
    restored: dict[str, np.ndarray]  # by network
    shifts: dict[str, metrics.LightShift]  # by network; empty where the image has no sky
    opinions: dict[str, dict[str, float]]  # the networks' own, of rain and fog
    before: dict[str, np.ndarray]  # confusion by judge
    after: dict[str, dict[str, np.ndarray]]  # by network, by judge


def open_weather(root: Path) -> dict[str, FolderDataset]:
    """WEATHER/{image,labels} under a folder, by weather. Raises DatasetError where there is none."""
    folders = sorted(path.parent for path in Path(root).glob("*/image") if path.is_dir())
    if not folders:
        raise DatasetError(
            f"{root} holds no WEATHER/image folder; expected such as {Path(root) / 'fog' / 'image'}"
        )
    datasets = {folder.name: FolderDataset(folder) for folder in folders}
    unlabelled = [name for name, dataset in datasets.items() if not dataset.has_labels]
    if unlabelled:
        raise DatasetError(
            f"{Path(root) / unlabelled[0]} has no labels/ to judge by; add them or remove the folder"
        )
    return datasets


def measure_weather(
    datasets: dict[str, FolderDataset], testbed: Testbed
) -> tuple[dict[str, Figures], list[WeatherView]]:
    """{network: {weather: figures}} and the views behind them.

    Figures: `miou_before/JUDGE`, `miou/JUDGE`, and `right_before/JUDGE`, `right/JUDGE`, the share of labelled
    pixels that get their label, which a rare class of a few pixels does not sway; `sky_brightness`,
    `sky_blueness`, `sky_structure`, how the sky moved, each the mean over images, and `_worst`, the farthest
    of any image; `rain` and `rain_worst`, the mean and the highest of the network's own opinion of rain,
    `foggy`, the share in which it sees fog; `images`.
    """
    items = [(weather, index) for weather, dataset in datasets.items() for index in range(len(dataset))]

    def look(item: tuple[str, int]) -> WeatherView:
        weather, index = item
        example = datasets[weather][index]
        image, labels = example.clean, example.labels
        if image is None or labels is None:
            raise DatasetError(f"{weather}/{example.name} has no image or no labels to judge by")
        truth, sky = testbed.fold(labels), labels == TrainId.SKY

        def confusions(labels: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            return {judge: metrics.confusion(truth, seen) for judge, seen in labels.items()}

        view = WeatherView(
            weather,
            example.name,
            image,
            {},
            {},
            {},
            confusions(testbed.judged_before(image)),
            {},
        )
        for name in testbed.networks:
            restored = testbed.restore(name, image, example.focal_px)
            view.restored[name] = restored.image
            view.after[name] = confusions(testbed.judged_after(restored))
            view.opinions[name] = restored.opinion
            if sky.any():
                view.shifts[name] = metrics.light_shift(restored.image, image, sky)
        return view

    views = testbed.in_workers(look, items, "real weather")
    summary = {
        name: {weather: _figures(name, [v for v in views if v.weather == weather]) for weather in datasets}
        for name in testbed.networks
    }
    return summary, views


def _figures(network: str, views: list[WeatherView]) -> dict[str, float | int]:
    figures: dict[str, float | int] = {"images": len(views)}
    for judge in views[0].before:
        matrices = {"_before": [view.before[judge] for view in views]}
        if judge in views[0].after[network]:
            matrices[""] = [view.after[network][judge] for view in views]
        for when, of_views in matrices.items():
            matrix = np.sum(of_views, axis=0)
            if matrix.any():  # nothing is labelled otherwise
                figures[f"miou{when}/{judge}"] = metrics.mean_iou(matrix)
                figures[f"right{when}/{judge}"] = float(np.trace(matrix) / matrix.sum())
    shifts = [asdict(view.shifts[network]) for view in views if network in view.shifts]
    for quantity in shifts[0] if shifts else ():
        values = [shift[quantity] for shift in shifts]
        figures[f"sky_{quantity}"] = float(np.mean(values))
        figures[f"sky_{quantity}_worst"] = float(max(values, key=abs))
    opinions = [view.opinions[network] for view in views]
    figures |= {name: float(np.mean([each[name] for each in opinions])) for name in opinions[0]}
    return figures | ({"rain_worst": max(each["rain"] for each in opinions)} if "rain" in figures else {})
