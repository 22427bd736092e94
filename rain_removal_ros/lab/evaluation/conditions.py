"""What befalls a clean view before it is restored: rain of three strengths, curtains of dense rain, fog
alone, and what cameras and skies add.

Knows the rain model, not the networks. Image i of a whole split always meets the same rain, pattern i mod
12 and seed i, whatever is selected of the split.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import cv2
import numpy as np

from rain_removal_ros.errors import DatasetError
from rain_removal_ros.lab.data.examples import Example
from rain_removal_ros.lab.weather import (
    PAPER_LEVELS,
    PATTERNS,
    Rain,
    RainParameters,
    StreakLayer,
    compose,
    dense_parameters,
    distance_from_inverse_depth,
    fog,
    level_parameters,
    rain_transmission,
)

DENSE, FOG = "dense", "fog"
LEVELS = (*PAPER_LEVELS, DENSE, FOG)
"""RainCityscapes' three strengths; curtains of many faint streaks in little fog; the fog of medium rain
alone.
"""

RAIN_DESCRIPTION = (
    "RainCityscapes' imaging model, distances end at 300 m; image i of the whole split has pattern i mod 12 "
    "and seed i at every level; a dataset's own rainy images are taken as they are"
)

STREAKLESS = (FOG,)
ROBUSTNESS_LEVEL = "medium"


@dataclass(frozen=True)
class Observed:
    """What the camera saw, and what it would have seen without the rain. uint8 (H, W, 3) RGB both."""

    rainy: np.ndarray
    reference: np.ndarray


def parameters_of(level: str, number: int) -> RainParameters:
    """The rain of one of LEVELS over image `number` of a split."""
    if level == DENSE:
        return dense_parameters(number % PATTERNS)
    parameters = level_parameters(ROBUSTNESS_LEVEL if level == FOG else level, number % PATTERNS)
    return replace(parameters, layers=()) if level == FOG else parameters


def rain_on(example: Example, level: str, time: float = 0.0) -> Observed:
    """The example's rain of one of LEVELS on it, `time` seconds into the rain.

    Raises DatasetError where the example has no depth to render rain with.
    """
    return Observed(_render(example, parameters_of(level, example.number), time=time), example.clean_image)


def fog_of(example: Example, level: str) -> np.ndarray:
    """What a perfect removal of the streaks would leave of `rain_on`: uint8 (H, W, 3)."""
    return _render(example, replace(parameters_of(level, example.number), layers=()))


def _render(
    example: Example,
    parameters: RainParameters,
    clean: np.ndarray | None = None,
    bend: float = 0.0,
    time: float = 0.0,
) -> np.ndarray:
    if example.clean is None or example.inverse_depth is None:
        raise DatasetError(
            f"{example.name} has no {'clean image' if example.clean is None else 'inverse depth'}, so no "
            "rain can be "
            "rendered on it; give a dataset with clean images and inverse_depth/, or one with rainy images "
            "of its own"
        )
    clean = example.clean if clean is None else clean
    height, width = clean.shape[:2]
    rain = Rain(parameters, height, width, seed=example.number)
    if not bend:
        return rain.render(clean, example.inverse_depth, time)
    # wind that turns with the distance: every row of the pattern is shifted aside along a wave
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    shifted = columns + np.float32(bend * height) * np.sin(rows * np.float32(2 * np.pi / (0.25 * height)))
    pattern = cv2.remap(rain.pattern(time), shifted, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
    distance = distance_from_inverse_depth(example.inverse_depth)
    streaks = pattern * rain_transmission(distance, parameters.alpha, parameters.nearest)
    return compose(clean, streaks, fog(distance, parameters.beta), parameters.airlight)


@dataclass(frozen=True)
class Robustness:
    """A row of the robustness table: what is unlike the training, and how image and reference come about."""

    name: str
    description: str
    observe: Callable[[Example], Observed]


def _table(values: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def _toned(table: np.ndarray) -> Callable[[Example], Observed]:
    """The camera's tone curve turns rainy and clean image alike."""

    def observe(example: Example) -> Observed:
        seen = rain_on(example, ROBUSTNESS_LEVEL)
        return Observed(cv2.LUT(seen.rainy, table), cv2.LUT(seen.reference, table))

    return observe


def _damaged(
    damage: Callable[[np.ndarray, int], np.ndarray], reference_too: bool = False
) -> Callable[[Example], Observed]:
    """The camera damages the rainy image; the reference only where nobody asks the network to undo it."""

    def observe(example: Example) -> Observed:
        seen = rain_on(example, ROBUSTNESS_LEVEL)
        reference = damage(seen.reference, example.number) if reference_too else seen.reference
        return Observed(damage(seen.rainy, example.number), reference)

    return observe


def _jpeg(image: np.ndarray, number: int) -> np.ndarray:
    _, encoded = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 40])
    decoded = cv2.imdecode(encoded, cv2.IMREAD_COLOR)
    assert decoded is not None  # it has just been encoded
    return np.ascontiguousarray(decoded[..., ::-1])


def _noise(image: np.ndarray, number: int) -> np.ndarray:
    noise = np.random.default_rng([number, 104729]).standard_normal(image.shape, dtype=np.float32)
    return _table(image + 8 * noise)


def _blur(image: np.ndarray, number: int) -> np.ndarray:
    return cv2.GaussianBlur(image, (0, 0), 1.2)


def _night(example: Example) -> Observed:
    """A scene by night: a tenth of the light, bluish, and airlight as dark as the rest."""
    levels = (np.arange(256) / 255) ** 1.3
    table = np.stack([_table(255 * share * levels) for share in (0.28, 0.30, 0.36)], axis=-1).reshape(
        1, 256, 3
    )
    dark = cv2.LUT(example.clean_image, table)
    parameters = level_parameters(ROBUSTNESS_LEVEL, example.number % PATTERNS)
    parameters = replace(
        parameters,
        airlight=0.35 * parameters.airlight,
        layers=tuple(replace(layer, strength=0.6 * layer.strength) for layer in parameters.layers),
    )
    return Observed(_render(example, parameters, dark), dark)


def _streaks(
    change: Callable[[StreakLayer], StreakLayer], bend: float = 0.0
) -> Callable[[Example], Observed]:
    """Streaks of another shape in the fog of the level."""

    def observe(example: Example) -> Observed:
        parameters = level_parameters(ROBUSTNESS_LEVEL, example.number % PATTERNS)
        parameters = replace(parameters, layers=tuple(change(layer) for layer in parameters.layers))
        return Observed(_render(example, parameters, bend=bend), example.clean_image)

    return observe


_GREY = np.arange(256)

ROBUSTNESS = (
    Robustness(
        "rain alone",
        f"{ROBUSTNESS_LEVEL} rain, nothing added",
        lambda example: rain_on(example, ROBUSTNESS_LEVEL),
    ),
    Robustness("JPEG", "rainy image compressed at quality 40", _damaged(_jpeg)),
    Robustness("noise", "Gaussian noise of 8 grey levels on the rainy image", _damaged(_noise)),
    Robustness(
        "blur", "Gaussian blur of 1.2 pixels on rainy and clean image", _damaged(_blur, reference_too=True)
    ),
    Robustness("gamma 0.6", "both images brightened", _toned(_table(255 * (_GREY / 255) ** 0.6))),
    Robustness("gamma 1.6", "both images darkened", _toned(_table(255 * (_GREY / 255) ** 1.6))),
    Robustness("overexposed", "both images x 1.5, clipped", _toned(_table(1.5 * _GREY))),
    Robustness("underexposed", "both images x 0.45", _toned(_table(0.45 * _GREY))),
    Robustness("night", "dark, bluish scene with dark airlight and weaker streaks", _night),
    Robustness(
        "curved streaks",
        "streaks bent along a wave",
        _streaks(lambda s: replace(s, length=2 * s.length), bend=0.012),
    ),
    Robustness("thick streaks", "streaks 3 x as wide", _streaks(lambda s: replace(s, width=3 * s.width))),
    Robustness(
        "long streaks",
        "streaks 5 x as long",
        _streaks(lambda s: replace(s, length=5 * s.length, density=s.density / 3)),
    ),
    Robustness("dense streaks", "streaks 4 x as many", _streaks(lambda s: replace(s, density=4 * s.density))),
)
