"""The imaging model of RainCityscapes (Hu et al., "Depth-attentional Features for Single-image Rain Removal",
CVPR 2019):

O = I (1 - R - A) + R + A0 A,   R = pattern t_r,   t_r = exp(-alpha max(d1, d)),   A = 1 - exp(-beta d).
"""

from __future__ import annotations

import numpy as np

from rain_removal_ros.errors import ImageError

MAX_DISTANCE = 300.0
"""Metres at which distances end, sky included, so that fog never swallows the sky whole."""


def distance_from_inverse_depth(inverse_depth: np.ndarray) -> np.ndarray:
    """Inverse depth in 1/m (0 = infinitely far) -> float32 distance in metres, at most MAX_DISTANCE."""
    return np.reciprocal(np.maximum(inverse_depth, np.float32(1 / MAX_DISTANCE)), dtype=np.float32)


def rain_transmission(distance: np.ndarray, alpha: float, nearest: float) -> np.ndarray:
    """t_r = exp(-alpha max(d1, d)): how much of a streak is seen before what is `distance` metres away."""
    return np.exp(np.maximum(distance, np.float32(nearest)) * np.float32(-alpha))


def fog(distance: np.ndarray, beta: float) -> np.ndarray:
    """A = 1 - exp(-beta d): the share of what is seen that is airlight."""
    return 1 - np.exp(distance * np.float32(-beta))


GAMMA = np.float32(2.2)
"""Light is about the grey level to this power."""


def fog_in_linear_light(scene: np.ndarray, fog_share: np.ndarray, airlight: np.ndarray) -> np.ndarray:
    """(I^g (1 - A) + A0^g A)^(1/g), g = GAMMA: fog where light really adds up, so that what is dark pales
    sooner than by the model above, which adds grey levels. Float32 in [0, 1], of shapes that broadcast.
    """
    light = scene**GAMMA * (1 - fog_share) + airlight**GAMMA * fog_share
    return light ** (1 / GAMMA)


def compose(clean: np.ndarray, rain: np.ndarray, fog_share: np.ndarray, airlight: float) -> np.ndarray:
    """O = I (1 - R - A) + R + A0 A.

    clean: uint8 (H, W, 3); rain and fog_share: float32 (H, W) in [0, 1]; airlight in [0, 1]. Returns uint8
    (H, W, 3). Raises ImageError where the sizes differ.
    """
    if clean.shape[:2] != rain.shape or rain.shape != fog_share.shape:
        raise ImageError(
            f"image {clean.shape[:2]}, rain {rain.shape} and fog {fog_share.shape} differ in size; "
            "render them alike"
        )
    added = 255 * (rain + np.float32(airlight) * fog_share)
    observed = clean * (1 - rain - fog_share)[..., None]
    observed += (added + np.float32(0.5))[..., None]
    return np.clip(observed, 0, 255, out=observed).astype(np.uint8)
