"""What the sky does to an image: too much light, a low sun, a dull day, clouds."""

from __future__ import annotations

import cv2
import numpy as np

from rain_removal_ros.lab.weather.lookalikes.scene import Scene, bloom, encode, luminance_of, random_tint


def render_overexposed(scene: Scene) -> np.ndarray:
    """Too long an exposure: sky and white facades clip and spill light over what is beside them."""
    linear: np.ndarray = scene.linear * np.float32(scene.uniform(1.3, 3.5))
    linear = linear + scene.soft_sky * np.float32(scene.uniform(0.3, 1.5))
    linear = bloom(linear, scene.uniform(0.02, 0.1) * scene.height, scene.uniform(0.1, 0.5))
    return encode(linear + np.float32(scene.uniform(0, 0.04)))


def render_backlight(scene: Scene) -> np.ndarray:
    """A low sun in the view or just outside it: glare, a veil that fades away from it, shadows before it."""
    rows, columns = np.nonzero(scene.sky[::8, ::8])
    if rows.size and scene.chance(0.7):
        chosen = scene.generator.integers(rows.size)
        column, row = 8.0 * columns[chosen], 8.0 * rows[chosen]
    else:
        column, row = scene.uniform(-0.2, 1.2) * scene.width, scene.uniform(-0.4, -0.02) * scene.height
    across = (np.arange(scene.width, dtype=np.float32) - np.float32(column))[None]
    down = (np.arange(scene.height, dtype=np.float32) - np.float32(row))[:, None]
    distance = np.sqrt(across**2 + down**2) / np.float32(scene.height)
    colour = np.array([1, scene.uniform(0.75, 0.98), scene.uniform(0.5, 0.92)], np.float32)
    veil = np.float32(scene.uniform(0.15, 0.7)) * np.exp(-distance * np.float32(scene.uniform(1.5, 5)))
    disc = np.float32(scene.uniform(0.5, 3)) * np.exp(
        -((distance / np.float32(scene.uniform(0.03, 0.12))) ** 2)
    )
    rays = np.cos(np.arctan2(down, across) * 2 * int(scene.uniform(3, 9)) + np.float32(scene.uniform(0, 6)))
    veil = veil * (1 + np.float32(scene.uniform(0, 0.15)) * rays)
    shaded = 1 - (1 - scene.soft_sky) * np.float32(scene.uniform(0.2, 0.75))
    linear = scene.linear * shaded * (1 - np.minimum(veil, 0.9) * np.float32(0.6))[..., None]
    linear = linear + (veil + disc)[..., None] * colour
    return encode(_with_flare(scene, linear, column, row))


def _with_flare(scene: Scene, linear: np.ndarray, column: float, row: float) -> np.ndarray:
    """Ghosts of the aperture on the line from the sun through the image's centre."""
    if not scene.chance(0.4):
        return linear
    ghosts = np.zeros_like(linear)
    for along in scene.generator.uniform(0.6, 1.9, 4):
        at = (
            round(column + along * (scene.width / 2 - column)),
            round(row + along * (scene.height / 2 - row)),
        )
        colour = scene.generator.uniform(0.02, 0.12, 3)
        cv2.circle(ghosts, at, int(scene.uniform(0.01, 0.08) * scene.height) + 1, colour.tolist(), -1)
    return linear + cv2.blur(ghosts, (5, 5))


def render_overcast(scene: Scene) -> np.ndarray:
    """A dull day or a late hour, with air as clear as before: a grey sky, little contrast, no shadows."""
    grey = luminance_of(scene.linear)
    linear = grey + (scene.linear - grey) * np.float32(scene.uniform(0.15, 0.8))
    mean = grey.mean()
    linear = mean + (linear - mean) * np.float32(scene.uniform(0.7, 0.95))
    linear = linear * np.float32(scene.uniform(0.25, 1.2))
    tint = np.array(
        [scene.uniform(0.88, 1.03), scene.uniform(0.94, 1), scene.uniform(0.95, 1.12)], np.float32
    )
    level = np.float32(scene.uniform(0.15, 0.95))
    gradient = 1 - np.float32(scene.uniform(-0.1, 0.3)) * np.linspace(1, 0, scene.height, dtype=np.float32)
    clouds = 1 + np.float32(scene.uniform(0, 0.12)) * (scene.noise(4, 2) - np.float32(0.5))
    sky = level * (gradient[:, None] * clouds)[..., None]
    linear = linear + scene.soft_sky * (sky - linear) * np.float32(0.95)
    return encode(linear * tint)


def render_clouds(scene: Scene) -> np.ndarray:
    """A sky full of bright, structured clouds, broken or closed, before air as clear as ever."""
    cells = scene.uniform(2, 5)
    relief: np.ndarray = np.zeros((scene.height, scene.width), np.float32)
    for octave in range(5):
        relief += 0.55**octave * scene.noise(round(cells * 2**octave), 1.5)
    relief = (relief - relief.min()) / max(float(np.ptp(relief)), 1e-3)
    cover = np.clip((relief - np.float32(scene.uniform(0.1, 0.6))) * np.float32(scene.uniform(2, 8)), 0, 1)
    height = np.linspace(1, 0, scene.height, dtype=np.float32)[:, None]
    level = np.float32(scene.uniform(0.5, 1.1))
    shade = level * (1 - np.float32(scene.uniform(0.1, 0.7)) * np.clip(relief - height * 0.3, 0, 1))
    red = scene.uniform(0.08, 0.4)
    colour = np.array([red, red + scene.uniform(0.12, 0.25), 0.75], np.float32)
    pale = np.float32(scene.uniform(0.2, 0.9)) * (1 - height)
    between = level * (colour + pale[..., None] * (np.float32(0.85) - colour))
    sky = between + cover[..., None] * (shade[..., None] * random_tint(scene, 0.04) - between)
    return encode(scene.linear + scene.soft_sky * (sky - scene.linear))
