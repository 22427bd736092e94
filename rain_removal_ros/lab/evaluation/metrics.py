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


def psnr(image: np.ndarray, reference: np.ndarray) -> float:
    """10 log10(255² / MSE) in dB over all pixels and channels of two uint8 images, at most MAX_PSNR."""
    _check_alike(image, reference)
    squared_error = cv2.norm(image, reference, cv2.NORM_L2SQR)
    if squared_error == 0:
        return MAX_PSNR
    return min(MAX_PSNR, float(10 * np.log10(255**2 * image.size / squared_error)))


def ssim(image: np.ndarray, reference: np.ndarray) -> float:
    """Structural similarity of two uint8 (H, W, 3) images, at least 11 pixels a side (Wang et al., IEEE TIP
    2004).

    Equals skimage.metrics.structural_similarity(channel_axis=2, data_range=255, gaussian_weights=True,
    sigma=1.5, use_sample_covariance=False).
    """
    _check_alike(image, reference)
    if min(image.shape[:2]) <= 2 * _BORDER:
        raise ValueError(f"SSIM needs images of at least 11x11 pixels, not {image.shape[1]}x{image.shape[0]}")
    x, y = image.astype(np.float32), reference.astype(np.float32)

    def mean(values: np.ndarray) -> np.ndarray:
        return cv2.GaussianBlur(values, (11, 11), 1.5)[_BORDER:-_BORDER, _BORDER:-_BORDER]

    mean_x, mean_y = mean(x), mean(y)
    product = mean_x * mean_y
    squares = mean_x * mean_x + mean_y * mean_y
    covariance = mean(x * y) - product
    variances = mean(x * x + y * y) - squares
    c1, c2 = np.float32((0.01 * 255) ** 2), np.float32((0.03 * 255) ** 2)
    similarity = (2 * product + c1) * (2 * covariance + c2) / ((squares + c1) * (variances + c2))
    return float(similarity.mean(dtype=np.float64))


def _check_alike(image: np.ndarray, reference: np.ndarray) -> None:
    if image.shape != reference.shape or image.dtype != np.uint8 or reference.dtype != np.uint8:
        raise ValueError(
            f"two uint8 images of one shape are compared, not {image.dtype} {image.shape} "
            f"and {reference.dtype} {reference.shape}"
        )


@dataclass(frozen=True)
class DepthErrors:
    """Errors of one predicted map, over the pixels whose true distance is known and below MAX_DISTANCE."""

    abs_rel: float  # mean |d - d*| / d*, d the distance in metres
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
    return DepthErrors(
        abs_rel=float(np.mean(np.abs(1 / ratio - 1))),
        inverse_abs_rel=float(np.mean(np.abs(ratio - 1))),
        delta=float(np.mean(np.maximum(ratio, 1 / ratio) < 1.25)),
    )


def confusion(truth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """int64 (19, 19): how many pixels of true class (row) were predicted as class (column); unlabelled truth
    is left out.
    """
    judged = truth < CLASSES
    pairs = truth[judged].astype(np.int64) * CLASSES + np.minimum(predicted[judged], CLASSES - 1)
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
        self._count, self._mean, self._scatter = 0, np.float64(0), np.float64(0)

    def add(self, frame: np.ndarray) -> None:
        """Count one uint8 frame in (Welford's update)."""
        self._count += 1
        deviation = frame.astype(np.float64) - self._mean
        self._mean = self._mean + deviation / self._count
        self._scatter = self._scatter + deviation * (frame - self._mean)

    @property
    def value(self) -> float:
        return float(np.sqrt(np.mean(self._scatter / self._count)))
