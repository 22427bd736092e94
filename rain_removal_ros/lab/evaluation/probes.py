"""What is measured of networks besides the figures of views: robustness, flicker, depth of crops, latency.

A probe tries every network of a testbed on some images, and gives its part of the results.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np

from rain_removal_ros.lab.data.examples import Example
from rain_removal_ros.lab.evaluation import metrics
from rain_removal_ros.lab.evaluation.conditions import ROBUSTNESS, ROBUSTNESS_LEVEL, Robustness, rain_on
from rain_removal_ros.lab.evaluation.summary import RAINY
from rain_removal_ros.lab.evaluation.testbed import OUTPUTS, Testbed
from rain_removal_ros.runtime import ASSUMED_FOCAL
from rain_removal_ros.runtime.sizes import MIN_SIDE

ExampleOf = Callable[[int], Example]
"""The example of an index, put through the protocol: rain is rendered onto it afterwards."""


@dataclass(frozen=True)
class Part:
    """What one probe measured, JSON-able: `figures` by network, to stand under `name`; `counts` of images."""

    name: str
    figures: dict[str, Any] = field(default_factory=dict)  # empty: there was nothing to measure on
    counts: dict[str, int] = field(default_factory=dict)


def with_parts(results: dict[str, Any], parts: Iterable[Part]) -> dict[str, Any]:
    """The results of an evaluation with those of probes: figures under each of `networks`, and `counts`."""
    networks = {network: dict(figures) for network, figures in results["networks"].items()}
    counts = dict(results["counts"])
    for part in parts:
        counts |= part.counts
        for network, figures in part.figures.items():
            networks[network][part.name] = figures
    return results | {"counts": counts, "networks": networks}


def robustness(testbed: Testbed, indices: Sequence[int], example_of: ExampleOf) -> Part:
    """PSNR of rainy and derained, and the gain, for each row of `conditions.ROBUSTNESS`."""

    def score(index: int) -> list[dict[str, tuple[float, float]]]:
        example = example_of(index)
        rows: list[dict[str, tuple[float, float]]] = []
        for row in ROBUSTNESS:
            seen = row.observe(example)
            before = metrics.psnr(seen.rainy, seen.reference)
            rows.append({})
            for network in testbed.networks:
                image = testbed.restore(network, seen.rainy, example.focal_px).image
                rows[-1][network] = before, metrics.psnr(image, seen.reference)
        return rows

    if not indices:
        return Part("robustness")
    scores = testbed.in_workers(score, indices, "robustness")
    figures = {
        network: [
            _robustness_row(row, np.array([of_image[number][network] for of_image in scores]))
            for number, row in enumerate(ROBUSTNESS)
        ]
        for network in testbed.networks
    }
    return Part("robustness", figures, {"robustness_images": len(indices)})


def _robustness_row(row: Robustness, pairs: np.ndarray) -> dict[str, Any]:
    """pairs: (images, 2), PSNR of rainy and derained."""
    rainy, derained = pairs.mean(axis=0)
    return {
        "name": row.name,
        "description": row.description,
        "psnr_rainy": float(rainy),
        "psnr": float(derained),
        "psnr_gain": float(derained - rainy),
        "psnr_gain_worst": float((pairs[:, 1] - pairs[:, 0]).min()),
    }


def flicker(
    testbed: Testbed, indices: Sequence[int], example_of: ExampleOf, frames: int, rate: float
) -> Part:
    """Grey levels by which a pixel of a static scene wavers under moving rain, before and after, over so many
    frames at a rate in Hz.
    """

    def score(index: int) -> dict[str, float]:
        example = example_of(index)
        flickers = {name: metrics.Flicker() for name in (RAINY, *testbed.networks)}
        for frame in range(frames):
            rainy = rain_on(example, ROBUSTNESS_LEVEL, frame / rate).rainy
            flickers[RAINY].add(rainy)
            for network in testbed.networks:
                flickers[network].add(testbed.restore(network, rainy, example.focal_px).image)
        return {name: flicker.value for name, flicker in flickers.items()}

    if not indices:
        return Part("flicker")
    scores = testbed.in_workers(score, indices, "flicker")
    figures = {
        network: {
            "rainy": float(np.mean([score[RAINY] for score in scores])),
            "derained": float(np.mean([score[network] for score in scores])),
            "unit": "grey levels",
        }
        for network in testbed.networks
    }
    return Part("flicker", figures, {"flicker_scenes": len(indices)})


def depth_consistency(testbed: Testbed, indices: Sequence[int], example_of: ExampleOf) -> Part:
    """How far the depth of a crop, as it is and enlarged, lies from that of the whole image."""

    def score(index: int) -> dict[str, tuple[float, float]]:
        example = example_of(index)
        if min(example.clean_image.shape[:2]) * 0.6 < MIN_SIDE:
            return {}
        rainy = rain_on(example, ROBUSTNESS_LEVEL).rainy
        of_networks = {
            network: _consistency(testbed, network, rainy, example.focal_px) for network in testbed.networks
        }
        return {network: pair for network, pair in of_networks.items() if pair is not None}

    scores = [one for one in testbed.in_workers(score, indices, "depth of crops") if one]
    if not scores:
        return Part("depth_consistency")
    figures = {}
    for network in testbed.networks:
        pairs = [score[network] for score in scores if network in score]
        if pairs:
            crop, zoom = np.mean(pairs, axis=0)
            figures[network] = {"crop": float(crop), "zoom": float(zoom)}
    return Part("depth_consistency", figures, {"consistency_images": len(scores)})


def _consistency(
    testbed: Testbed, network: str, image: np.ndarray, focal_px: float | None
) -> tuple[float, float] | None:
    """Median over pixels nearer than 100 m of |q' / q - 1|, q the inverse depth from the whole image, q' from
    its middle 60 %: as it is, and enlarged to the whole image's size. None: no pixel is as near.
    """
    height, width = image.shape[:2]
    top, left = height // 5, width // 5
    rows, columns = slice(top, height - top), slice(left, width - left)
    focal_px = focal_px or ASSUMED_FOCAL * width
    crop = np.ascontiguousarray(image[rows, columns])
    enlarged = cv2.resize(crop, (width, height), interpolation=cv2.INTER_CUBIC)
    whole = testbed.restore(network, image, focal_px).inverse_depth[rows, columns]
    of_crop = testbed.restore(network, crop, focal_px).inverse_depth
    of_zoom = testbed.restore(network, enlarged, focal_px * width / crop.shape[1]).inverse_depth
    of_zoom = cv2.resize(of_zoom, (crop.shape[1], crop.shape[0]), interpolation=cv2.INTER_AREA)
    judged = whole > 0.01
    if not judged.any():
        return None
    cropped, zoomed = (np.abs(other[judged] / whole[judged] - 1) for other in (of_crop, of_zoom))
    return float(np.median(cropped)), float(np.median(zoomed))


def latency(testbed: Testbed, image: np.ndarray, calls: int) -> Part:
    """Milliseconds of a call on one uint8 (H, W, 3) image, one at a time: to be done after all else, as
    nothing else may run meanwhile, and a runtime may leave the calling thread tied to one core.
    """
    height, width = image.shape[:2]
    outputs = OUTPUTS[:2]
    figures = {}
    for network, restorer in testbed.networks.items():
        restorer.prepare(height, width, outputs)
        durations = []
        for _ in testbed.track(range(calls), calls, f"latency {network}"):
            start = time.perf_counter()
            restorer(image, outputs)
            durations.append(1000 * (time.perf_counter() - start))
        median, p95 = np.percentile(durations, (50, 95))
        figures[network] = {
            "median_ms": float(median),
            "p95_ms": float(p95),
            "size": f"{width}x{height}",
            "calls": len(durations),
        }
    return Part("latency", figures)
