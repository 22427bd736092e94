"""One view, what the look-alikes ask about it, and how they work with light and lines."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import cv2
import numpy as np

from rain_removal_ros.cityscapes import UNLABELLED, TrainId
from rain_removal_ros.errors import ImageError

GROUND = (TrainId.ROAD, TrainId.SIDEWALK)


class Scene:
    """One view and what the look-alikes ask about it, each answered once."""

    def __init__(
        self, image: np.ndarray, inverse_depth: np.ndarray, labels: np.ndarray, generator: np.random.Generator
    ):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise ImageError(f"image of {image.dtype} {image.shape}; a look-alike needs uint8 (H, W, 3)")
        if inverse_depth.shape != image.shape[:2] or labels.shape != image.shape[:2]:
            raise ImageError(
                f"image {image.shape[:2]}, inverse depth {inverse_depth.shape} and labels {labels.shape} "
                "differ in size; they must be of one view"
            )
        self.image, self.labels, self.generator = image, labels, generator
        self.inverse_depth = inverse_depth
        self.height, self.width = image.shape[:2]

    def uniform(self, low: float, high: float) -> float:
        return float(self.generator.uniform(low, high))

    def chance(self, probability: float) -> bool:
        return bool(self.generator.random() < probability)

    @cached_property
    def linear(self) -> np.ndarray:
        """Float32 (H, W, 3) linear light in [0, 1]."""
        return _TO_LINEAR[self.image]

    @cached_property
    def sky(self) -> np.ndarray:
        """Bool (H, W)."""
        return (self.labels == TrainId.SKY) | ((self.labels == UNLABELLED) & (self.inverse_depth == 0))

    @cached_property
    def soft_sky(self) -> np.ndarray:
        """Float32 (H, W, 1) in [0, 1]: the sky as its colour shows it, not as coarse labels cut it. What is
        as bright as the sky around it, in the sky, beside it, or unlabelled above the horizon.
        """
        known = self.sky.astype(np.float32)
        if not known.any():
            return known[..., None]
        grey = cv2.cvtColor(self.image, cv2.COLOR_RGB2GRAY).astype(np.float32)
        blue = self.image[..., 2].astype(np.float32) - self.image[..., 0]
        around = wide_blur(np.stack([known, known * grey, known * blue], axis=-1), 0.1 * self.height)
        share = np.maximum(around[..., 0], np.float32(1e-3))
        dark = grey - around[..., 1] / share
        hue = np.abs(blue - around[..., 2] / share)
        unlabelled = (self.labels == UNLABELLED) & (np.arange(self.height) < self.horizon)[:, None]
        reach = 2 * max(2, self.height // 40) + 1
        candidate = cv2.dilate(known, np.ones((reach, reach), np.uint8)) + unlabelled * (
            around[..., 0] > 0.002
        )
        like = np.clip(np.float32(2) - (np.abs(dark) + hue) / np.float32(32), 0, 1) * np.minimum(candidate, 1)
        # a cloud or the sun may be brighter than the sky around, a twig is darker
        bright = known * np.clip(np.float32(2) + dark / np.float32(25), 0, 1)
        return np.maximum(like, bright)[..., None]

    @cached_property
    def horizon(self) -> int:
        """The row of the horizon: the lowest row that still sees far, else a guess."""
        coarse = self.inverse_depth[::4, ::4]
        far = ((coarse < 0.02) & ~np.isnan(coarse)).mean(axis=1) > 0.03
        rows = np.flatnonzero(far[: max(1, int(0.75 * len(far)))])
        return int(4 * rows[-1]) if rows.size else int(self.uniform(0.25, 0.5) * self.height)

    @cached_property
    def vanishing_point(self) -> tuple[float, float]:
        """Column and row."""
        return self.uniform(0.35, 0.65) * self.width, float(self.horizon)

    @cached_property
    def ground(self) -> np.ndarray:
        """Bool (H, W): labelled road and sidewalk; where nothing is labelled, what is as far as the farthest
        thing of its row below the horizon.
        """
        if (self.labels != UNLABELLED).any():
            return np.isin(self.labels, GROUND)
        depth = np.nan_to_num(self.inverse_depth)
        profile = np.quantile(depth[:, ::4], 0.2, axis=1).astype(np.float32)[:, None]
        below = np.arange(self.height)[:, None] > self.horizon
        return below & (profile > 0.01) & (np.abs(depth - profile) < 0.12 * profile)

    def noise(self, cells: int, stretch: float = 1.0) -> np.ndarray:
        """Float32 (H, W) in about [0, 1], smooth: `cells` bumps a height, `stretch` times more down it."""
        rows = max(2, round(cells * stretch))
        columns = max(2, round(cells * self.width / self.height))
        grid = self.generator.random((rows, columns), dtype=np.float32)
        return cv2.resize(grid, (self.width, self.height), interpolation=cv2.INTER_CUBIC)

    def blocks(self, cells: int) -> np.ndarray:
        """Float32 (H, W) in [0, 1): one number for every rectangle of a grid."""
        grid = self.generator.random(
            (cells, max(1, round(cells * self.width / self.height))), dtype=np.float32
        )
        return cv2.resize(grid, (self.width, self.height), interpolation=cv2.INTER_NEAREST)

    def grain(self) -> np.ndarray:
        """Float32 (H, W), standard normal."""
        return self.generator.standard_normal((self.height, self.width), dtype=np.float32)

    def depth_filled(self, unknown: float = 0.05) -> np.ndarray:
        return np.nan_to_num(self.inverse_depth, nan=unknown)


_TO_LINEAR = ((np.arange(256, dtype=np.float32) / 255) ** 2).astype(np.float32)


def encode(linear: np.ndarray) -> np.ndarray:
    """Linear light -> uint8 image; what is brighter than 1 is clipped, as a sensor clips it."""
    return (np.sqrt(np.clip(linear, 0, 1)) * 255 + np.float32(0.5)).astype(np.uint8)


def wide_blur(values: np.ndarray, sigma: float) -> np.ndarray:
    """A Gaussian blur of `sigma` pixels, computed on a smaller copy."""
    height, width = values.shape[:2]
    factor = max(1, min(int(sigma / 2), height // 4, width // 4))
    small = cv2.resize(
        values, (max(1, width // factor), max(1, height // factor)), interpolation=cv2.INTER_AREA
    )
    small = cv2.GaussianBlur(small, (0, 0), max(sigma / factor, 0.5))
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)


def bloom(linear: np.ndarray, sigma: float, strength: float, threshold: float = 0.7) -> np.ndarray:
    """`linear` with light that spills from what is brighter than `threshold`, as lenses spill it."""
    return linear + np.float32(strength) * wide_blur(np.maximum(linear - np.float32(threshold), 0), sigma)


def luminance_of(linear: np.ndarray) -> np.ndarray:
    """(H, W, 3) -> (H, W, 1), the luminance."""
    return (linear @ np.array([0.25, 0.6, 0.15], np.float32))[..., None]


def random_tint(scene: Scene, most: float) -> np.ndarray:
    """Float32 (3,): about 1, a colour cast of up to `most`."""
    return np.float32(1) + scene.generator.uniform(-most, most, 3).astype(np.float32)


def polyline(image: np.ndarray, points: np.ndarray, colour: Sequence[float], thickness: int) -> None:
    """Draws (N, 2) columns and rows with a smooth edge, at eighths of a pixel."""
    fixed = np.round(points * 8).astype(np.int32).reshape(-1, 1, 2)
    cv2.polylines(image, [fixed], False, colour, thickness, cv2.LINE_AA, shift=3)
