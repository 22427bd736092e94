"""Thin things before the scene, from wires to blinds: bright lines that might be streaks."""

from __future__ import annotations

import cv2
import numpy as np

from rain_removal_ros.lab.weather.lookalikes.scene import Scene, polyline


def render_thin_things(scene: Scene) -> np.ndarray:
    """Wires, poles, stems, railings, fences and blinds before the scene, often bright and near vertical."""
    image = scene.image.copy()
    kinds = (_wires, _poles, _stems, _railing, _mesh, _blinds)
    for index in scene.generator.choice(len(kinds), int(scene.uniform(1, 3.5)), replace=False):
        kinds[index](scene, image)
    return image


def _colour(scene: Scene, bright: float = 0.6) -> tuple[float, float, float]:
    """A colour of paint, metal or wood: with probability `bright` a light one."""
    level = scene.uniform(140, 250) if scene.chance(bright) else scene.uniform(15, 110)
    return tuple(np.clip(level * scene.generator.uniform(0.9, 1.08, 3), 0, 255).tolist())


def _wires(scene: Scene, image: np.ndarray) -> None:
    start, end = scene.uniform(-0.1, 0.5) * scene.height, scene.uniform(-0.1, 0.5) * scene.height
    along = np.linspace(0, 1, 24)
    for _ in range(int(scene.uniform(1, 7))):
        start, end = (value + scene.uniform(0.005, 0.06) * scene.height for value in (start, end))
        sag = scene.uniform(0, 0.12) * scene.height * 4 * along * (1 - along)
        points = np.stack([along * scene.width, start + (end - start) * along + sag], axis=1)
        polyline(image, points, _colour(scene, 0.4), 1)


def _poles(scene: Scene, image: np.ndarray) -> None:
    for _ in range(int(scene.uniform(1, 9))):
        column, lean = scene.uniform(0, 1) * scene.width, scene.uniform(-0.25, 0.25) ** 3 * 8
        foot, length = scene.uniform(0.4, 1.1) * scene.height, scene.uniform(0.2, 1) * scene.height
        points = np.array([[column, foot], [column + lean * length, foot - length]])
        thickness = 1 + int(scene.uniform(0, 0.14) ** 2 * scene.height)
        colour = _colour(scene)
        polyline(image, points, colour, thickness)
        if thickness > 2:  # lit from one side
            dark = tuple(0.6 * value for value in colour)
            polyline(image, points + np.array([thickness / 3, 0]), dark, max(1, thickness // 3))


def _stems(scene: Scene, image: np.ndarray) -> None:
    """Grass, reed, bare twigs: many thin curved lines that rise from below."""
    count = int(scene.uniform(10, 90))
    middle, spread = scene.uniform(0, 1) * scene.width, scene.uniform(0.1, 0.6) * scene.width
    feet = scene.uniform(0.5, 1.1) * scene.height
    bend = np.linspace(0, 1, 6)
    base = np.array(_colour(scene))
    for _ in range(count):
        column, foot = (
            middle + scene.uniform(-0.5, 0.5) * spread,
            feet + scene.uniform(-0.1, 0.1) * scene.height,
        )
        length, lean = scene.uniform(0.04, 0.4) * scene.height, scene.uniform(-0.35, 0.35)
        points = np.stack([column + lean * length * bend**2, foot - length * bend], axis=1)
        polyline(image, points, tuple((base * scene.uniform(0.6, 1.05)).clip(0, 255).tolist()), 1)


def _railing(scene: Scene, image: np.ndarray) -> None:
    """Bars between two rails, seen a little from aside."""
    left, wide = scene.uniform(-0.2, 0.6) * scene.width, scene.uniform(0.2, 1) * scene.width
    top, high = scene.uniform(0.2, 0.8) * scene.height, scene.uniform(0.08, 0.35) * scene.height
    slope, colour = scene.uniform(-0.3, 0.3), _colour(scene, 0.7)
    thickness = 1 + int(scene.chance(0.3))
    for across in np.linspace(0, 1, int(scene.uniform(8, 60))):
        column = left + across * wide
        upper = top + slope * across * wide
        size = high * (1 + slope * (across - 0.5))
        polyline(image, np.array([[column, upper], [column, upper + size]]), colour, thickness)
    for at in (0, high):
        rail = np.array([[left, top + at], [left + wide, top + at + slope * wide]])
        polyline(image, rail, colour, thickness + 1)


def _mesh(scene: Scene, image: np.ndarray) -> None:
    """A wire fence: two families of oblique lines within a quadrangle."""
    left, top = scene.uniform(-0.1, 0.6) * scene.width, scene.uniform(0.2, 0.7) * scene.height
    wide, high = scene.uniform(0.2, 0.7) * scene.width, scene.uniform(0.1, 0.45) * scene.height
    layer = np.zeros(image.shape[:2], np.uint8)
    step, angle = max(4.0, scene.uniform(0.012, 0.05) * scene.height), np.radians(scene.uniform(25, 65))
    for tangent in (np.tan(angle), -np.tan(angle)):
        for column in np.arange(left - high / abs(tangent), left + wide + high / abs(tangent), step):
            points = np.array([[column, top], [column + high / tangent, top + high]])
            fixed = np.round(points * 8).astype(np.int32).reshape(-1, 1, 2)
            cv2.polylines(layer, [fixed], False, 255, 1, cv2.LINE_AA, shift=3)
    layer[:, : max(0, int(left))] = 0
    layer[:, max(0, int(left + wide)) :] = 0
    share = layer[..., None].astype(np.float32) / 255 * np.float32(scene.uniform(0.5, 1))
    colour = _colour(scene)
    image[:] = (image + share * (np.array(colour, np.float32) - image)).astype(np.uint8)
    for column in np.linspace(left, left + wide, 4):
        polyline(image, np.array([[column, top], [column, top + 1.05 * high]]), colour, 2)


def _blinds(scene: Scene, image: np.ndarray) -> None:
    """Slats, cladding or shutters: parallel bright lines in a rectangle, upright, level or oblique."""
    left, top = scene.uniform(-0.1, 0.8) * scene.width, scene.uniform(-0.1, 0.6) * scene.height
    wide, high = scene.uniform(0.08, 0.4) * scene.width, scene.uniform(0.1, 0.5) * scene.height
    angle = np.radians(scene.generator.choice([0, 90, scene.uniform(60, 120), scene.uniform(0, 180)]))
    rows = (np.arange(max(0, int(top)), min(scene.height, int(top + high)), dtype=np.float32) - top)[:, None]
    columns = (np.arange(max(0, int(left)), min(scene.width, int(left + wide)), dtype=np.float32) - left)[
        None
    ]
    if rows.size == 0 or columns.size == 0:
        return
    period = max(3.0, scene.uniform(0.008, 0.04) * scene.height)
    wave = (rows * np.float32(np.sin(angle)) + columns * np.float32(np.cos(angle))) / np.float32(period) % 1
    duty = scene.uniform(0.15, 0.7)
    share = np.clip((duty / 2 - np.abs(wave - 0.5)) * period + 0.5, 0, 1)[..., None].astype(np.float32)
    part = image[int(max(0, top)) :, int(max(0, left)) :][: rows.shape[0], : columns.shape[1]]
    share *= np.float32(scene.uniform(0.4, 0.95))
    standing = ~(scene.sky | scene.ground)[int(max(0, top)) :, int(max(0, left)) :]
    share *= standing[: rows.shape[0], : columns.shape[1], None]
    part[:] = (part + share * (np.array(_colour(scene, 0.8), np.float32) - part)).astype(np.uint8)
