"""Rain over a view: layers of streaks that fall from frame to frame, and the fog that goes with them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np

from rain_removal_ros.errors import ImageError
from rain_removal_ros.lab.weather.imaging import compose, distance_from_inverse_depth, fog, rain_transmission


@dataclass(frozen=True)
class StreakLayer:
    """Streaks of one distance. Lengths are in image heights, so that a scene keeps its rain at every
    resolution.
    """

    density: float  # streaks begun per pixel of an image 360 pixels high
    length: float  # image heights
    width: float  # image heights; the standard deviation of a streak's profile
    strength: float  # brightness of the brightest streak, 0-1
    angle: float = 0.0  # degrees from the vertical, positive leans to the right
    speed: float = 12.0  # image heights a second


@dataclass(frozen=True)
class RainParameters:
    """What `Rain` renders. alpha and beta in 1/m, airlight 0-1, nearest (d1) in metres."""

    alpha: float
    beta: float
    layers: tuple[StreakLayer, ...]
    airlight: float = 0.85
    nearest: float = 6.0


PAPER_LEVELS = {"light": (0.01, 0.005, 0.01), "medium": (0.02, 0.01, 0.005), "heavy": (0.03, 0.015, 0.002)}
"""RainCityscapes' three strengths: alpha, beta, drop size. Light rain has few large drops, heavy rain many
small ones.
"""

PATTERNS = 12
"""Rain patterns of RainCityscapes, per strength."""

_STREAKS_OF_LEVEL = {"light": (0.0016, 0.7), "medium": (0.0036, 0.6), "heavy": (0.0060, 0.5)}


def level_parameters(level: str, seed: int = 0) -> RainParameters:
    """One of RainCityscapes' three strengths with a pattern drawn by `seed` (the dataset has PATTERNS a
    strength).

    Raises ValueError for another level.
    """
    if level not in PAPER_LEVELS:
        raise ValueError(f"unknown rain level {level!r}; the levels are {', '.join(PAPER_LEVELS)}")
    alpha, beta, drop_size = PAPER_LEVELS[level]
    density, strength = _STREAKS_OF_LEVEL[level]
    generator = np.random.default_rng([seed, 7919])
    angle = generator.uniform(-20, 20)
    far = StreakLayer(
        density=density,
        length=generator.uniform(0.03, 0.06),
        width=0.0010 + 0.06 * drop_size,
        strength=strength,
        angle=angle,
    )
    near = replace(
        far, density=density / 6, length=2 * far.length, width=1.6 * far.width, angle=angle + 2, speed=18.0
    )
    return RainParameters(alpha, beta, (far, near), airlight=generator.uniform(0.75, 0.95), nearest=6.0)


def dense_parameters(seed: int = 0) -> RainParameters:
    """A downpour: curtains of many faint streaks at three depths that overlap to a veil, a few near and wide
    ones before them, and little fog; drawn by `seed`.
    """
    generator = np.random.default_rng([seed, 6007])
    angle = generator.uniform(-20, 20)

    def curtain(density: float, length: float, width: float, strength: float, speed: float) -> StreakLayer:
        return StreakLayer(
            density=density * generator.uniform(0.7, 1.4),
            length=length * generator.uniform(0.7, 1.4),
            width=width * generator.uniform(0.8, 1.25),
            strength=strength * generator.uniform(0.8, 1.2),
            angle=angle + generator.normal(0, 2),
            speed=speed,
        )

    layers = (
        curtain(0.022, 0.016, 0.0010, 0.25, 8.0),
        curtain(0.011, 0.035, 0.0014, 0.32, 12.0),
        curtain(0.0035, 0.075, 0.0022, 0.40, 16.0),
        curtain(0.0004, 0.15, 0.0050, 0.50, 24.0),
    )
    return RainParameters(0.006, 0.002, layers, airlight=generator.uniform(0.75, 0.95), nearest=6.0)


def along_and_aside(reach: int, angle: float) -> tuple[np.ndarray, np.ndarray]:
    """How far, in pixels, each pixel of a kernel of 2 reach + 1 a side lies along and beside a line through
    its middle; angle in degrees from the vertical.
    """
    grid = np.arange(-reach, reach + 1, dtype=np.float32)
    across, down = np.meshgrid(grid, grid)
    sine, cosine = np.sin(np.radians(angle)), np.cos(np.radians(angle))
    return across * sine + down * cosine, across * cosine - down * sine


def drawn_around(drops: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Float32 (H, W): every drop drawn as the square kernel says; what leaves at one edge comes in at the
    other.
    """
    height, width = drops.shape
    reach = min(kernel.shape[0] // 2, height, width)
    framed = cv2.copyMakeBorder(drops, reach, reach, reach, reach, cv2.BORDER_WRAP)
    return cv2.filter2D(framed, cv2.CV_32F, kernel)[reach : reach + height, reach : reach + width]


def line_kernel(length: float, width: float, angle: float) -> np.ndarray:
    """Float32 kernel of a line with a Gaussian profile: what a drop becomes while the shutter is open.

    length, width in pixels (width: the profile's standard deviation), angle in degrees from the vertical. The
    peak of a drop's streak stays the drop's strength: the kernel's largest value is 1.
    """
    half = max(length / 2, 0.5)
    reach = int(np.ceil(half + 2 * width))
    along, aside = along_and_aside(reach, angle)
    beyond = np.maximum(np.abs(along) - half, 0)
    kernel = np.exp(-(aside**2 + beyond**2) / np.float32(2 * max(width, 0.35) ** 2)).astype(np.float32)
    kernel[kernel < 0.02] = 0
    return kernel / kernel.max()


class Rain:
    """Rain before a camera of one image size; the same seed and time give the same rain.

    Every layer is a pattern that joins itself at its edges, a little larger than the image, and falls through
    it along its angle; a drift aside keeps a pattern from coming round again in the same place.
    """

    def __init__(
        self,
        parameters: RainParameters,
        height: int,
        width: int,
        seed: int = 0,
        reference_height: float | None = None,
    ):
        """`reference_height`: the height in pixels of the whole view, where this image is a crop of one."""
        if height < 1 or width < 1:
            raise ImageError(f"rain over an image of {width}x{height} pixels; both sides must be at least 1")
        self.parameters = parameters
        self.height, self.width = height, width
        self._reference_height = reference_height or height
        generator = np.random.default_rng(seed)
        self._patterns = [self._pattern_of(layer, generator) for layer in parameters.layers]
        self._drift = generator.uniform(-1, 1, len(parameters.layers))

    def _pattern_of(self, layer: StreakLayer, generator: np.random.Generator) -> np.ndarray:
        length, width = layer.length * self._reference_height, layer.width * self._reference_height
        kernel = line_kernel(length, width, layer.angle)
        reach = kernel.shape[0] // 2
        height, wide = self.height + reach, self.width + reach
        # a streak covers length x width pixels, so a density per pixel must fall with the square of the
        # resolution
        count = generator.poisson(layer.density * height * wide * (360 / self._reference_height) ** 2)
        drops = np.zeros((height, wide), np.float32)
        rows, columns = generator.integers(0, height, count), generator.integers(0, wide, count)
        drops[rows, columns] = generator.uniform(0.25, 1, count)
        return np.minimum(drawn_around(drops, kernel), 1) * np.float32(layer.strength)

    def pattern(self, time: float = 0.0) -> np.ndarray:
        """Float32 (H, W) in [0, 1]: the brightest streak at every pixel at `time` seconds."""
        combined = np.zeros((self.height, self.width), np.float32)
        for layer, pattern, drift in zip(self.parameters.layers, self._patterns, self._drift, strict=True):
            fallen = time * layer.speed * self._reference_height
            down = round(fallen * np.cos(np.radians(layer.angle)))
            aside = round(fallen * (np.sin(np.radians(layer.angle)) + 0.37 * drift))
            rows = np.arange(-down, self.height - down) % pattern.shape[0]
            columns = np.arange(-aside, self.width - aside) % pattern.shape[1]
            np.maximum(combined, pattern[rows][:, columns], out=combined)
        return combined

    def render(self, clean: np.ndarray, inverse_depth: np.ndarray, time: float = 0.0) -> np.ndarray:
        """Rain and fog on a clean uint8 (H, W, 3) image with float32 (H, W) inverse depth in 1/m. Returns
        uint8 (H, W, 3).
        """
        return self.render_with_streaks(clean, inverse_depth, time)[0]

    def render_with_streaks(
        self, clean: np.ndarray, inverse_depth: np.ndarray, time: float = 0.0
    ) -> tuple[np.ndarray, np.ndarray]:
        """What `render` gives, and R of the imaging model, float32 (H, W) in [0, 1]."""
        if clean.shape != (self.height, self.width, 3) or inverse_depth.shape != clean.shape[:2]:
            raise ImageError(
                f"image {clean.shape} and inverse depth {inverse_depth.shape} do not fit rain made for "
                f"{self.width}x{self.height} pixels; make a Rain of the image's size"
            )
        distance = distance_from_inverse_depth(inverse_depth)
        streaks = self.pattern(time) * rain_transmission(
            distance, self.parameters.alpha, self.parameters.nearest
        )
        observed = compose(clean, streaks, fog(distance, self.parameters.beta), self.parameters.airlight)
        return observed, streaks
