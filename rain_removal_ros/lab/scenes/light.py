"""Sun, sky and clouds from a seed. Knows light only, nothing of what it falls on. All radiance is linear
RGB."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from rain_removal_ros.lab.scenes.textures import fractal_noise


@dataclass(frozen=True)
class Sky:
    """The light of a moment."""

    sun_direction: np.ndarray  # float32 (3,), unit, towards the sun
    sun: np.ndarray  # float32 (3,), irradiance on a surface that faces it
    ambient: np.ndarray  # float32 (3,), irradiance of the open sky from above
    zenith: np.ndarray  # float32 (3,), radiance
    horizon: np.ndarray  # float32 (3,), radiance
    clouds: np.ndarray  # float32 (S, S, 2), periodic: cover 0-1, brightness

    @property
    def exposure(self) -> np.float32:
        """What a camera multiplies radiance by so that a street comes out neither dark nor washed out."""
        return np.float32(1.0 / (0.45 * self.ambient.mean() + 0.42 * self.sun_direction[1] * self.sun.mean()))

    def radiance(self, directions: np.ndarray) -> np.ndarray:
        """Float32 (N, 3) radiance from where unit `directions` (N, 3) point; below the horizon, the
        horizon's."""
        up = np.maximum(directions[:, 1], 0.0)
        blend = (1 - np.sqrt(up))[:, None] ** 1.3
        colour = self.zenith + (self.horizon - self.zenith) * blend
        size = self.clouds.shape[0]
        reach = np.float32(0.16 * size) / (up + np.float32(0.14))
        x = np.mod(directions[:, 0] * reach, size).astype(np.float32)
        y = np.mod(directions[:, 2] * reach, size).astype(np.float32)
        cloud = _lookup(self.clouds, x, y)
        cover = (cloud[:, 0] * np.clip(up / 0.10, 0, 1))[:, None]
        lit = (0.55 * self.ambient + 0.16 * self.sun) * cloud[:, 1:2]
        colour = colour * (1 - cover) + lit * cover
        toward = np.clip(directions @ self.sun_direction, 0, 1)[:, None]
        return (colour + self.sun * (0.10 * toward**12 + 0.5 * toward**250) * (1 - 0.6 * cover)).astype(
            np.float32
        )

    def mirrored(self, directions: np.ndarray) -> np.ndarray:
        """Float32 (N, 3): what glass or paint mirrors from unit `directions` (N, 3): sky
        above a skyline."""
        size = self.clouds.shape[0]
        azimuth = np.arctan2(directions[:, 0], directions[:, 2]) * np.float32(size / (2 * np.pi))
        across = np.mod(2 * azimuth, size).astype(np.float32)
        up = np.mod(0.4 * size * directions[:, 1], size).astype(np.float32)
        pattern = _lookup(self.clouds, across, up)
        skyline = np.float32(0.06) + np.float32(0.22) * pattern[:, 1]
        houses = (0.10 * self.ambient + 0.06 * self.sun) * (1.4 * pattern[:, 1:2] - 0.6)
        share = np.clip((directions[:, 1] - skyline) / 0.06, 0, 1)[:, None]
        return houses + (self.radiance(directions) - houses) * share


def _lookup(table: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Values of a periodic (S, S, C) table at x, y (N,), bilinear; remap wants pictures, so the list is
    folded."""
    count, width = len(x), 4096
    height = -(-count // width)
    folded = [np.resize(values, (height, width)) for values in (x, y)] if count else []
    if not count:
        return np.zeros((0, table.shape[2]), np.float32)
    result = cv2.remap(table, folded[0], folded[1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
    return result.reshape(-1, table.shape[2])[:count]


def make_sky(seed: int) -> Sky:
    """The hour and the weather that `seed` stands for: from a clear afternoon to thin overcast."""
    rng = np.random.default_rng([seed, 2])
    elevation = np.radians(rng.uniform(17, 58))
    azimuth = rng.uniform(0, 2 * np.pi)
    direction = np.array(
        [np.cos(elevation) * np.sin(azimuth), np.sin(elevation), np.cos(elevation) * np.cos(azimuth)],
        np.float32,
    )
    clear = rng.uniform(0.15, 1.0) ** 0.75
    warmth = np.clip((np.radians(50) - elevation) / np.radians(30), 0, 1)
    sun = (0.35 + 2.1 * clear) * np.array([1.0, 0.95 - 0.09 * warmth, 0.86 - 0.24 * warmth])
    grey, blue = np.array([0.80, 0.85, 0.92]), np.array([0.50, 0.68, 1.0])
    ambient = (0.95 - 0.48 * clear) * (grey + (blue - grey) * 0.55 * clear) + 0.10
    zenith = np.array([0.66, 0.70, 0.76]) * (1 - clear) + np.array([0.17, 0.34, 0.70]) * clear
    horizon = np.array([0.84, 0.86, 0.88]) * (1 - clear) + np.array([0.68, 0.80, 0.93]) * clear
    size = 512
    shape = fractal_noise(rng, size, 1.65) + 0.25 * fractal_noise(rng, size, 1.0)
    threshold = rng.uniform(-0.4, 1.3) - 1.1 * (1 - clear)
    cover = np.clip((shape - threshold) / 1.1, 0, 1)
    cover = cover * cover * (3 - 2 * cover) * 0.92
    brightness = np.clip(
        1.28 - 0.30 * np.clip(shape - threshold, 0, 2) + 0.05 * fractal_noise(rng, size, 1.3), 0.6, 1.5
    )
    return Sky(
        sun_direction=direction,
        sun=sun.astype(np.float32),
        ambient=ambient.astype(np.float32),
        zenith=zenith.astype(np.float32),
        horizon=horizon.astype(np.float32),
        clouds=np.stack([cover, brightness], axis=2).astype(np.float32),
    )
