"""The figures of one image, held against the truth of its view. Knows images, truths and labels, not who made
them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from rain_removal_ros.cityscapes import UNLABELLED
from rain_removal_ros.lab.data.examples import Example
from rain_removal_ros.lab.evaluation import metrics
from rain_removal_ros.lab.evaluation.testbed import Answer, Testbed
from rain_removal_ros.lab.evaluation.views import sky_of

Labels: TypeAlias = dict[str, np.ndarray]
"""What every judge sees in one image, by judge."""

LEAST_SKY = 0.005
"""Share of an image from which on its sky is judged."""

_GAINING = ("psnr", "ssim", "psnr_below", "ssim_below")


@dataclass(frozen=True)
class Truth:
    """What the images of one example are held against."""

    clean: np.ndarray
    below: np.ndarray | None  # bool (H, W): what is not sky; None: unknown, or nothing
    sky: np.ndarray | None  # bool (H, W); None: unknown, or too little of it
    labels: np.ndarray | None  # folded train ids by a person's hand; None: nobody's
    seen: Labels  # in the clean image
    inverse_depth: np.ndarray | None  # float32 (H, W), 1/m

    @classmethod
    def of(cls, example: Example, testbed: Testbed) -> Truth:
        """The truth of an example that has been put through the protocol. Raises DatasetError where it has no
        clean image.
        """
        sky = sky_of(example)
        below = None if sky is None or sky.all() else ~sky
        if sky is not None and sky.mean() < LEAST_SKY:
            sky = None
        labels = None
        if example.labels is not None and example.label_kind != "pseudo":
            folded = testbed.fold(example.labels)
            labels = folded if (folded != UNLABELLED).any() else None
        clean = example.clean_image
        return cls(clean, below, sky, labels, testbed.judged_before(clean), example.inverse_depth)


def compared(
    image: np.ndarray,
    observed: np.ndarray,
    before: dict[str, float],
    labels: Labels,
    truth: Truth,
    whole: bool = True,
) -> dict[str, float]:
    """All that an image made of a rainy one says by itself: likeness, gains, harm, agreement, and
    `psnr_gain_sky_calm`, its gain if its sky had the truth's mean grey level.

    observed: the rainy one, uint8 (H, W, 3) RGB as `image`; before: its `likeness`. Without `whole`, what
    takes long is left out.
    """
    figures = likeness(image, truth, whole)
    gains = {f"{name}_gain": value - before[name] for name, value in figures.items() if name in _GAINING}
    if whole and truth.sky is not None:
        calm = image.copy()
        calm[truth.sky] = np.uint8(truth.clean[truth.sky].mean() + 0.5)
        gains["psnr_gain_sky_calm"] = metrics.psnr(calm, truth.clean) - before["psnr"]
    return figures | gains | harm(image, observed, truth) | agreements(labels, truth)


def likeness(image: np.ndarray, truth: Truth, whole: bool = True) -> dict[str, float]:
    """How like the truth an image is: everywhere, below the sky, in the sky, and by distance; without what
    takes long where the image is but half a result.
    """
    figures = {"psnr": metrics.psnr(image, truth.clean)}
    if truth.inverse_depth is not None:
        errors = metrics.errors_by_distance(image, truth.clean, truth.inverse_depth)
        figures |= {f"error/{band}": error for band, error in errors.items()}
    if truth.below is not None:
        figures["psnr_below"] = metrics.psnr(image, truth.clean, truth.below)
        figures["light_below"] = metrics.light_shift(image, truth.clean, truth.below).brightness
    if not whole:
        return figures
    similarity = metrics.ssim_map(image, truth.clean)
    figures["ssim"] = float(similarity.mean(dtype=np.float64))
    figures["psnr_y"], figures["ssim_y"] = metrics.luma_likeness(image, truth.clean)
    if truth.below is not None:
        inside = metrics.inside_border(truth.below)
        if inside.any():
            figures["ssim_below"] = float(similarity[inside].mean(dtype=np.float64))
    if truth.sky is not None:
        shift = metrics.light_shift(image, truth.clean, truth.sky)
        figures |= {"sky_brightness": abs(shift.brightness), "sky_hue": abs(shift.blueness)}
        figures["sky_structure"] = shift.structure
    return figures


def harm(image: np.ndarray, observed: np.ndarray, truth: Truth) -> dict[str, float]:
    """Shares of pixels that are left farther from the truth than they came, everywhere and below the sky."""
    harmed = metrics.harmed(image, observed, truth.clean)
    figures = {"harmed": float(harmed.mean())}
    if truth.below is not None:
        figures["harmed_below"] = float(harmed[truth.below].mean())
    return figures


def agreements(labels: Labels, truth: Truth) -> dict[str, float]:
    """Shares of pixels in which judges see what they saw in the clean image."""
    return {
        f"agreement/{judge}": metrics.agreement(seen, truth.seen[judge])
        for judge, seen in labels.items()
        if judge in truth.seen
    }


def measured_depth(restored: Answer, example: Example) -> dict[str, float]:
    """Errors of a depth where the truth is no derived one; rendered fog shows it, a dry image does not."""
    if example.inverse_depth is None or not example.depth_measured:
        return {}
    errors = metrics.depth_errors(restored.inverse_depth, example.inverse_depth)
    if errors is None:
        return {}
    figures = {
        "abs_rel": errors.abs_rel,
        "abs_rel_80": errors.abs_rel_80,
        "inverse_abs_rel": errors.inverse_abs_rel,
        "delta_1.25": errors.delta,
    }
    if np.isnan(errors.abs_rel_80):  # nothing is as near
        del figures["abs_rel_80"]
    return figures
