"""Places and hours without daylight, and the lamps that light them."""

from __future__ import annotations

import cv2
import numpy as np

from rain_removal_ros.lab.weather.lookalikes.scene import Scene, encode, wide_blur

_LAMPS = np.array(
    [
        [1, 0.95, 0.85],
        [1, 0.7, 0.35],
        [0.85, 0.95, 1],
        [1, 0.8, 0.5],
        [1, 0.98, 0.95],
        [1, 0.7, 0.35],
        [1, 0.15, 0.1],
        [0.3, 1, 0.6],
    ],
    np.float32,
)
"""White, sodium, cold white, warm white, head lamp, sodium again, tail lamp, green light."""


def render_tunnel(scene: Scene) -> np.ndarray:
    """A tunnel or a garage: darkness, rows of lamps, and often an exit that the exposure cannot hold."""
    column, row = scene.vanishing_point
    tint = _LAMPS[scene.generator.integers(4)]
    linear = scene.linear * np.float32(scene.uniform(0.03, 0.25)) * tint
    ceiling = np.float32(scene.uniform(0.005, 0.05)) * (1 + np.float32(0.3) * scene.noise(8)[..., None])
    linear = linear + scene.soft_sky * (ceiling * tint - linear)
    light = np.zeros_like(linear)
    if scene.chance(0.75):
        high = scene.uniform(0.04, 0.2) * scene.height
        mouth: np.ndarray = np.zeros((scene.height, scene.width), np.float32)
        wide = high * scene.uniform(0.7, 1.5)
        cv2.ellipse(mouth, (int(column), int(row)), (int(wide) + 1, int(high) + 1), 0, 180, 360, 1.0, -1)
        foot = (int(column + wide), int(row + 0.25 * high) + 1)
        cv2.rectangle(mouth, (int(column - wide), int(row)), foot, 1.0, -1)
        mouth = cv2.blur(mouth, (3, 3))[..., None]
        bright = scene.linear * np.float32(scene.uniform(1, 3)) + np.float32(scene.uniform(0.3, 1.2))
        linear = linear + mouth * (bright - linear)
        light += wide_blur(mouth[..., 0], high)[..., None] * np.float32(scene.uniform(0.05, 0.5))
    steps = 1 / np.linspace(0.08, 1.2, int(scene.uniform(4, 16)))
    aside, above = scene.uniform(0, 0.12), scene.uniform(0.05, 0.15)
    for side in (-1, 1) if aside > 0.03 else (0,):
        where = np.stack(
            [
                column + side * aside * scene.width * steps / steps[-1] * 0.6,
                row - above * scene.height * steps / steps[-1] * 0.6,
            ],
            axis=1,
        )
        _lamps(scene, light, where, (0.004, 0.012), tint)
    return _with_sensor_noise(scene, linear + light, scene.uniform(0.002, 0.015))


def render_night(scene: Scene) -> np.ndarray:
    """Night: a black sky, what the own head lamps reach, lamps with halos, noise."""
    linear = scene.linear * np.float32(scene.uniform(0.01, 0.12))
    hue = np.array([scene.uniform(0.5, 1.6), 1, scene.uniform(0.6, 1.8)], np.float32)
    dark = np.float32(scene.uniform(0.0, 0.02)) * (1 + scene.noise(3)[..., None]) * hue
    linear = linear + scene.soft_sky * (dark - linear)
    reach = np.clip(scene.depth_filled() * np.float32(scene.uniform(3, 10)), 0, 1) ** 2
    rows = np.clip(
        (np.arange(scene.height, dtype=np.float32) - scene.horizon) / (0.3 * scene.height), 0.05, 1
    )
    lit = (reach * rows[:, None])[..., None] * scene.linear * np.float32(scene.uniform(0.1, 0.7))
    linear = linear + lit * np.array([1, 0.93, 0.8], np.float32) * (1 - scene.soft_sky)
    light = np.zeros_like(linear)
    count = int(scene.uniform(2, 16))
    where = scene.generator.random((count, 2)) * (scene.width, 0.6 * scene.height) + (0, 0.05 * scene.height)
    _lamps(scene, light, where, (0.003, 0.012))
    if scene.chance(0.6):
        for _ in range(int(scene.uniform(1, 4))):  # oncoming cars: pairs at the height of the horizon
            column, apart = scene.uniform(0, 1) * scene.width, scene.uniform(0.01, 0.06) * scene.height
            row = scene.horizon + apart * scene.uniform(0.3, 1)
            radius = 0.2 * apart / scene.height
            pair = np.array([[column, row], [column + apart, row]])
            _lamps(scene, light, pair, (radius, radius), _LAMPS[scene.generator.choice([2, 4, 6])])
    light = light + np.float32(0.15) * wide_blur(np.minimum(light, 2), 0.06 * scene.height)
    # lamps light the ground below them
    linear = linear + scene.linear * wide_blur(light, 0.2 * scene.height) * np.float32(scene.uniform(0.5, 3))
    return _with_sensor_noise(scene, linear + light, scene.uniform(0.004, 0.025))


def _lamps(
    scene: Scene,
    light: np.ndarray,
    where: np.ndarray,
    sizes: tuple[float, float],
    colour_of_all: np.ndarray | None = None,
) -> None:
    """Draws lamps with halos into `light`, float32 (H, W, 3).

    where: (N, 2) columns and rows; sizes: the smallest and largest radius in image heights.
    """
    for column, row in where:
        radius = scene.uniform(*sizes) * scene.height
        colour = _LAMPS[scene.generator.integers(len(_LAMPS))] if colour_of_all is None else colour_of_all
        colour = colour * np.float32(scene.uniform(0.6, 2.5))
        reach = int(radius * 8) + 2
        left, top = max(0, int(column) - reach), max(0, int(row) - reach)
        right, bottom = min(scene.width, int(column) + reach), min(scene.height, int(row) + reach)
        if right <= left or bottom <= top:
            continue
        across = ((np.arange(left, right) - column) ** 2).astype(np.float32)[None]
        down = ((np.arange(top, bottom) - row) ** 2).astype(np.float32)[:, None]
        squared = (across + down) / np.float32(radius**2)
        halo = np.exp(-squared) + np.float32(0.12) / (1 + squared) - np.float32(0.12 / 65)
        light[top:bottom, left:right] += np.maximum(halo, 0)[..., None] * colour


def _with_sensor_noise(scene: Scene, linear: np.ndarray, sigma: float) -> np.ndarray:
    """The uint8 image that a sensor makes of little light."""
    grain = scene.grain()[..., None] * np.array([1, 0.7, 1.2], np.float32)
    return encode(linear + np.float32(sigma) * grain * np.sqrt(np.maximum(linear, 0.002) * 4))
