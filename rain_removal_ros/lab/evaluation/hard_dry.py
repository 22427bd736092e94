"""The hard dry set: dry images that look like rain or fog, the same ones every time, to which a derainer
should do nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from zlib import crc32

import numpy as np

from rain_removal_ros.cityscapes import UNLABELLED
from rain_removal_ros.errors import DatasetError
from rain_removal_ros.lab.data.examples import Dataset, Example
from rain_removal_ros.lab.evaluation import metrics
from rain_removal_ros.lab.evaluation.summary import Figures
from rain_removal_ros.lab.evaluation.testbed import Testbed
from rain_removal_ros.lab.weather.lookalikes import HELD_OUT, LOOKALIKES

SEED = 7907
KINDS = LOOKALIKES | HELD_OUT
ALL, ALL_HELD_OUT = "all", "all that training has not"
"""Rows of the summary: what was trained on, other images of it, and what was not."""


@dataclass(frozen=True)
class HardDryScore:
    """What one network did to one image of the set."""

    kind: str
    index: int  # of the dataset
    name: str
    network: str
    psnr: float  # to the image as it came
    changed: float  # share of pixels that moved by more than metrics.HARM grey levels
    rain: float | None  # the network's own opinion of whether it rains


def hard_dry_image(example: Example, kind: str) -> np.ndarray:
    """An example made a look-alike of one kind: uint8 (H, W, 3), the same whatever part of its split is taken
    and whatever other kinds there are.
    """
    if example.clean is None:
        raise DatasetError(f"{example.name} has no clean image to make a look-alike of")
    shape = example.clean.shape[:2]
    depth = np.full(shape, np.nan, np.float32) if example.inverse_depth is None else example.inverse_depth
    labels = np.full(shape, UNLABELLED, np.uint8) if example.labels is None else example.labels
    generator = np.random.default_rng([SEED, crc32(kind.encode()), example.number])
    return KINDS[kind](example.clean, depth, labels, generator)


def measure_hard_dry(
    dataset: Dataset, images_per_kind: int, testbed: Testbed
) -> tuple[dict[str, Figures], list[HardDryScore]]:
    """{network: {kind, ALL or ALL_HELD_OUT: figures}}: `psnr`, `psnr_worst`, `changed`, `changed_worst`,
    `rain_worst` where the network says, `images`; and the scores behind them.
    """
    count = min(images_per_kind, len(dataset))
    step = len(dataset) / count
    # every kind meets other images, spread evenly over the dataset, whatever other kinds there are
    items = [
        (kind, int((turn + crc32(kind.encode()) / (1 << 32)) * step))
        for kind in KINDS
        for turn in range(count)
    ]

    def score(item: tuple[str, int]) -> list[HardDryScore]:
        kind, index = item
        example = dataset[index]
        image = hard_dry_image(example, kind)
        scores = []
        for network in testbed.networks:
            restored = testbed.restore(network, image, example.focal_px)
            moved = metrics.distance_from(restored.image, image) > metrics.HARM
            psnr = metrics.psnr(restored.image, image)
            changed = float(moved.mean())
            scores.append(HardDryScore(kind, index, example.name, network, psnr, changed, restored.rain_gate))
        return scores

    scores = [one for of_image in testbed.in_workers(score, items, "hard dry set") for one in of_image]
    summary = {}
    for network in testbed.networks:
        own = [one for one in scores if one.network == network]
        kinds = {kind: [one for one in own if one.kind == kind] for kind in KINDS}
        kinds[ALL] = [one for one in own if one.kind in LOOKALIKES]
        kinds[ALL_HELD_OUT] = [one for one in own if one.kind in HELD_OUT]
        summary[network] = {kind: _figures(of_kind) for kind, of_kind in kinds.items()}
    return summary, scores


def _figures(scores: list[HardDryScore]) -> dict[str, float | int]:
    rain = [score.rain for score in scores if score.rain is not None]
    return {
        "psnr": float(np.mean([score.psnr for score in scores])),
        "psnr_worst": min(score.psnr for score in scores),
        "changed": float(np.mean([score.changed for score in scores])),
        "changed_worst": max(score.changed for score in scores),
        "images": len(scores),
    } | ({"rain_worst": max(rain)} if rain else {})
