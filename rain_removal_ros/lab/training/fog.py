"""Fog as training samples have it: its light, the sky that it makes, what can be asked for behind it.

Knows arrays, not samples. What is random draws from the generator that it is given, in a fixed order.
"""

from __future__ import annotations

import cv2
import numpy as np

CALM_BELOW = 0.25
"""Transmission to the sky below which fog hides its colour and clouds: the less of it there is, the more the
target is the sky's mean brightness, grey and even.
"""


def apparent_extinction(
    scene: np.ndarray, foggy: np.ndarray, airlight: np.ndarray, distance: np.ndarray
) -> float:
    """1/m, NaN where too little tells: the extinction of the even fog that, added to grey levels, would pale
    the scene as much. Fog that is added in linear light pales dark things more, and one that drifts is
    uneven.

    scene and foggy: float32 (H, W, 3) in [0, 1]; distance: (H, W), in metres.
    """
    contrast, kept = (np.mean(airlight - image, axis=2) for image in (scene, foggy))
    left = kept / np.maximum(contrast, 1e-3)
    tells = (contrast > 0.15) & (left > 0.05) & (left < 0.98)
    if tells.mean() < 0.01:
        return float("nan")
    return float(np.median(-np.log(left[tells]) / distance[tells]))


def random_airlight(clean: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Float32 (1, 1, 3) or (H, W, 3) in [0, 1]: the fog's light, faintly coloured, bright as RainCityscapes'
    is or darker, now and then as dark as the scene, or brighter on one side than on the other.
    """
    light = generator.uniform(0.72, 0.97) if generator.random() < 0.7 else generator.uniform(0.5, 0.8)
    if generator.random() < 0.3:
        light *= 0.3 + 0.7 * min(1.0, clean.mean() / 90)
    field = np.full((1, 1, 3), light * generator.normal(1, 0.012, 3), np.float32)
    if generator.random() < 0.3:
        rows, columns = (np.linspace(-0.5, 0.5, side, dtype=np.float32) for side in clean.shape[:2])
        down, across = generator.uniform(-0.15, 0.15, 2).astype(np.float32)
        field = field * (1 + down * rows[:, None, None] + across * columns[None, :, None])
    return np.clip(field, 0, 1)


def _sky_share(image: np.ndarray, sky: np.ndarray) -> np.ndarray | None:
    """Float32 (H, W, 1): how much of each pixel is sky and not a twig before it; None where there is no
    sky.
    """
    if sky.mean() < 0.005:
        return None
    luminance = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    level = float(np.median(luminance[sky]))
    bright = np.clip((luminance - 0.6 * level) / max(0.2 * level, 1), 0, 1)
    return cv2.GaussianBlur(bright * sky, (0, 0), 0.7)[..., None]


def with_the_fogs_sky(
    image: np.ndarray, sky: np.ndarray, airlight: np.ndarray, generator: np.random.Generator
) -> np.ndarray:
    """The same scene under a sky of the fog's own light, a little brighter or darker towards the zenith.

    image: uint8 (H, W, 3) RGB; sky: bool (H, W); airlight: (1, 1, 3) or (H, W, 3) in [0, 1].
    """
    share = _sky_share(image, sky)
    if share is None:
        return image
    slope = generator.uniform(-0.06, 0.06) * np.linspace(1, 0, sky.shape[0], dtype=np.float32)[:, None, None]
    light = 255 * airlight * (generator.uniform(0.95, 1.05) + slope)
    return (np.clip(image + share * (light - image), 0, 255) + 0.5).astype(np.uint8)


def calm(image: np.ndarray, sky: np.ndarray, transmission: float) -> np.ndarray:
    """What can be asked for behind fog: the image, its sky grey and even where next to nothing of it is left.

    `transmission` is that of the fog before the sky. From CALM_BELOW down the sky's own colour and clouds
    count in proportion to it, beside the mean brightness of the sky.
    """
    kept = min(1.0, transmission / CALM_BELOW)
    share = _sky_share(image, sky) if kept < 1 else None
    if share is None:
        return image
    mean = (share * image).sum() / max(3 * share.sum(), 1e-6)
    return (np.clip(image + share * (1 - kept) * (mean - image), 0, 255) + 0.5).astype(np.uint8)
