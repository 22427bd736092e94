"""The figures of merit, each with its equation. Knows arrays only, neither networks nor datasets."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from rain_removal_ros import cityscapes
from rain_removal_ros.lab.weather import MAX_DISTANCE

CLASSES = len(cityscapes.CLASSES)
"""Train ids 0-18; 255 is unlabelled and never counted."""

MAX_PSNR = 100.0
"""dB given to identical images, so that means stay finite."""

SSIM_DESCRIPTION = (
    "Gaussian window 11x11, sigma 1.5, K1 0.01, K2 0.03, range 255, mean over R, G, B, 5-pixel border left "
    "out"
)

_BORDER = 5


HARM = 10
"""Grey levels, the mean over R, G and B: a pixel that is left more than this farther from the truth than it
came is harmed.
"""


def psnr(image: np.ndarray, reference: np.ndarray, where: np.ndarray | None = None) -> float:
    """10 log10(255² / MSE) in dB over all channels of two uint8 images, at most MAX_PSNR.

    where: bool (H, W), the pixels that count, at least one; None: all.
    """
    _check_alike(image, reference)
    mask = None if where is None else where.astype(np.uint8)
    squared_error = cv2.norm(image, reference, cv2.NORM_L2SQR, mask)
    if squared_error == 0:
        return MAX_PSNR
    count = image.size if mask is None else 3 * cv2.countNonZero(mask)
    return min(MAX_PSNR, float(10 * np.log10(255**2 * count / squared_error)))


def ssim(image: np.ndarray, reference: np.ndarray) -> float:
    """The mean of `ssim_map`."""
    return float(ssim_map(image, reference).mean(dtype=np.float64))


def ssim_map(image: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Structural similarity of two uint8 (H, W, 3) images, at least 11 pixels a side (Wang et al., IEEE TIP
    2004), as float32 (H - 10, W - 10, 3): a border of five pixels is left out.

    Its mean equals skimage.metrics.structural_similarity(channel_axis=2, data_range=255,
    gaussian_weights=True, sigma=1.5, use_sample_covariance=False).
    """
    _check_alike(image, reference)
    return _similarity(image.astype(np.float32), reference.astype(np.float32))


def _similarity(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """`ssim_map` of float32 images of 0 to 255, (H, W) or (H, W, 3)."""
    if min(x.shape[:2]) <= 2 * _BORDER:
        raise ValueError(f"SSIM needs images of at least 11x11 pixels, not {x.shape[1]}x{x.shape[0]}")

    def mean(values: np.ndarray) -> np.ndarray:
        return cv2.GaussianBlur(values, (11, 11), 1.5)[_BORDER:-_BORDER, _BORDER:-_BORDER]

    mean_x, mean_y = mean(x), mean(y)
    product = mean_x * mean_y
    squares = mean_x * mean_x + mean_y * mean_y
    covariance = mean(x * y) - product
    variances = mean(x * x + y * y) - squares
    c1, c2 = np.float32((0.01 * 255) ** 2), np.float32((0.03 * 255) ** 2)
    return (2 * product + c1) * (2 * covariance + c2) / ((squares + c1) * (variances + c2))


_LUMA = np.array([[65.481, 128.553, 24.966]], np.float32) / np.float32(255)


def luma(image: np.ndarray) -> np.ndarray:
    """Y of BT.601, 16 to 235, not rounded: uint8 (H, W, 3) RGB -> float32 (H, W)."""
    return cv2.transform(image.astype(np.float32), _LUMA) + np.float32(16)


def luma_likeness(image: np.ndarray, reference: np.ndarray) -> tuple[float, float]:
    """PSNR in dB, at most MAX_PSNR, and SSIM of the `luma` of two uint8 (H, W, 3) images of at least 11
    pixels a side, for a range of 255: what papers on removing rain give. Raises ValueError for smaller ones.
    """
    _check_alike(image, reference)
    x, y = luma(image), luma(reference)
    mean_squared = float(np.square(x - y).mean(dtype=np.float64))
    psnr = min(MAX_PSNR, float(10 * np.log10(255**2 / mean_squared))) if mean_squared else MAX_PSNR
    return psnr, float(_similarity(x, y).mean(dtype=np.float64))


def inside_border(field: np.ndarray) -> np.ndarray:
    """The part of an (H, W) field that `ssim_map` speaks of."""
    return field[_BORDER:-_BORDER, _BORDER:-_BORDER]


def distance_from(image: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """float32 (H, W): grey levels between two uint8 (H, W, 3) images, the mean over R, G and B."""
    _check_alike(image, reference)
    return cv2.transform(cv2.absdiff(image, reference).astype(np.float32), np.full((1, 3), 1 / 3, np.float32))


def harmed(image: np.ndarray, observed: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """bool (H, W): where `image` is over HARM grey levels farther from `reference` than `observed` was."""
    return distance_from(image, reference) - distance_from(observed, reference) > HARM


BANDS = {
    "0-10 m": (0, 10),
    "10-20 m": (10, 20),
    "20-40 m": (20, 40),
    "40-80 m": (40, 80),
    "over 80 m": (80, np.inf),
}
"""Distances in metres of `errors_by_distance`: the nearest included, the farthest not."""

SKY = "sky"


def errors_by_distance(
    image: np.ndarray, reference: np.ndarray, inverse_depth: np.ndarray
) -> dict[str, float]:
    """Root of the mean squared error over R, G and B in grey levels, by the name of one of BANDS, and of the
    SKY. What has no pixel is left out.

    Two uint8 (H, W, 3) images; inverse depth (H, W) in 1/m, 0 the sky, NaN unknown.
    """
    _check_alike(image, reference)
    squared = np.square(image.astype(np.float32) - reference).mean(axis=2)
    with np.errstate(divide="ignore"):
        distance = np.where(inverse_depth > 0, 1 / inverse_depth, np.nan)
    places = {name: (distance >= near) & (distance < far) for name, (near, far) in BANDS.items()}
    places[SKY] = inverse_depth == 0
    return {name: float(np.sqrt(squared[place].mean())) for name, place in places.items() if place.any()}


@dataclass(frozen=True)
class LightShift:
    """How a part of an image differs from another one, in grey levels; positive: brighter, bluer, more
    structured.
    """

    brightness: float  # mean of R, G and B
    blueness: float  # B - R
    structure: float  # standard deviation of the brightness


def light_shift(image: np.ndarray, reference: np.ndarray, part: np.ndarray) -> LightShift:
    """What a part of an image has that the reference's has not, both uint8 (H, W, 3); part: bool (H, W), not
    empty.
    """
    _check_alike(image, reference)
    seen, truth = image[part].astype(np.float32), reference[part].astype(np.float32)
    difference = (seen - truth).mean(axis=0)
    return LightShift(
        brightness=float(difference.mean()),
        blueness=float(difference[2] - difference[0]),
        structure=float(seen.mean(axis=1).std() - truth.mean(axis=1).std()),
    )


def _check_alike(image: np.ndarray, reference: np.ndarray) -> None:
    if image.shape != reference.shape or image.dtype != np.uint8 or reference.dtype != np.uint8:
        raise ValueError(
            f"two uint8 images of one shape are compared, not {image.dtype} {image.shape} "
            f"and {reference.dtype} {reference.shape}"
        )


KITTI_RANGE = 80.0
"""Metres up to which KITTI's depth is usually scored (Eigen et al., NeurIPS 2014)."""


@dataclass(frozen=True)
class DepthErrors:
    """Errors of one predicted map, over the pixels whose true distance is known and below MAX_DISTANCE."""

    abs_rel: float  # mean |d - d*| / d*, d the distance in metres
    abs_rel_80: float  # the same over what is within KITTI_RANGE, where predictions end too; NaN: nothing is
    inverse_abs_rel: float  # mean |q - q*| / q*, q = 1/d
    delta: float  # share of pixels with max(d/d*, d*/d) < 1.25


def depth_errors(predicted: np.ndarray, truth: np.ndarray) -> DepthErrors | None:
    """Errors of a float (H, W) inverse depth in 1/m; predicted distances end at MAX_DISTANCE.

    None: no pixel to judge by.
    """
    judged = truth > 1 / MAX_DISTANCE
    if not judged.any():
        return None
    q, q_true = np.maximum(predicted[judged], 1 / MAX_DISTANCE), truth[judged]
    ratio = q / q_true
    near = q_true > 1 / KITTI_RANGE
    ratio_near = np.maximum(q[near], 1 / KITTI_RANGE) / q_true[near]
    return DepthErrors(
        abs_rel=float(np.mean(np.abs(1 / ratio - 1))),
        abs_rel_80=float(np.mean(np.abs(1 / ratio_near - 1))) if near.any() else float("nan"),
        inverse_abs_rel=float(np.mean(np.abs(ratio - 1))),
        delta=float(np.mean(np.maximum(ratio, 1 / ratio) < 1.25)),
    )


def confusion(truth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """int64 (19, 19): how many pixels of true class (row) were predicted as class (column); unlabelled truth
    is left out.

    Raises ValueError where something else than a train id was predicted there.
    """
    judged = truth < CLASSES
    labels = predicted[judged]
    if labels.size and labels.max() >= CLASSES:
        raise ValueError(f"train ids are 0 to {CLASSES - 1}; {labels.max()} was predicted")
    pairs = truth[judged].astype(np.int64) * CLASSES + labels
    return np.bincount(pairs, minlength=CLASSES**2).reshape(CLASSES, CLASSES)


def class_iou(matrix: np.ndarray) -> np.ndarray:
    """float (19,): intersection over union of every class, NaN for a class that the truth does not have."""
    intersection = np.diag(matrix).astype(float)
    union = matrix.sum(axis=0) + matrix.sum(axis=1) - intersection
    present = matrix.sum(axis=1) > 0
    return np.where(present, intersection / np.maximum(union, 1), np.nan)


def mean_iou(matrix: np.ndarray) -> float:
    """Mean over the classes that the truth has; NaN where it has none."""
    iou = class_iou(matrix)
    return float(np.nanmean(iou)) if np.isfinite(iou).any() else float("nan")


def agreement(labels: np.ndarray, reference: np.ndarray) -> float:
    """The share of pixels that two label maps (H, W) give the same label."""
    return float((labels == reference).mean())


def share_won_back(clean: float, rainy: float, derained: float) -> float:
    """(derained - rainy) / (clean - rainy): 1 when nothing of the rain's harm is left; NaN where rain did no
    harm.
    """
    return (derained - rainy) / (clean - rainy) if clean > rainy else float("nan")


class Flicker:
    """Temporal flicker of a static scene: sqrt of the mean over pixels of the variance over frames, in grey
    levels.

    The scene stands still, so the truth is one image and the variance of the error is that of the frames; no
    warping.
    """

    def __init__(self) -> None:
        self._count = 0
        self._mean, self._scatter = np.zeros(1), np.zeros(1)  # (H, W, 3) from the first frame on

    def add(self, frame: np.ndarray) -> None:
        """Count one uint8 frame in (Welford's update)."""
        self._count += 1
        deviation = frame.astype(np.float64) - self._mean
        self._mean = self._mean + deviation / self._count
        self._scatter = self._scatter + deviation * (frame - self._mean)

    @property
    def value(self) -> float:
        return float(np.sqrt(np.mean(self._scatter / self._count)))
