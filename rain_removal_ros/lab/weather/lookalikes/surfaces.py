"""What covers walls and ground: white plaster, water, snow that lies, paint."""

from __future__ import annotations

import cv2
import numpy as np

from rain_removal_ros.cityscapes import TrainId
from rain_removal_ros.lab.weather.lookalikes.scene import (
    GROUND,
    Scene,
    bloom,
    encode,
    luminance_of,
    random_tint,
    wide_blur,
)


def render_white_walls(scene: Scene) -> np.ndarray:
    """Buildings and walls of white plaster in bright light, and a sky as bright as they are."""
    walls = np.isin(scene.labels, [TrainId.BUILDING, TrainId.WALL, TrainId.FENCE, TrainId.TRUCK, TrainId.BUS])
    if not walls.any():
        depth = scene.depth_filled()
        walls = (depth > 0.01) & ~scene.ground & (scene.blocks(6) > 0.6)
    walls = walls & (scene.blocks(4) > scene.uniform(0, 0.6))
    soft = cv2.blur(walls.astype(np.float32), (3, 3))[..., None]
    grey = luminance_of(scene.linear)
    tint = random_tint(scene, 0.06)
    level = np.float32(scene.uniform(0.55, 0.95))
    # plaster keeps windows and shadows: its light is what was there, lifted, not a flat white
    plaster = (
        level + (grey / (grey.mean() + np.float32(0.05)) - 1) * np.float32(scene.uniform(0.1, 0.3))
    ) * tint
    linear = scene.linear + soft * (plaster - scene.linear)
    if scene.chance(0.6):
        linear = linear + scene.soft_sky * (np.float32(scene.uniform(0.6, 1.05)) - linear) * np.float32(0.9)
    return encode(bloom(linear, 0.04 * scene.height, scene.uniform(0, 0.5)))


def render_wet_road(scene: Scene) -> np.ndarray:
    """Darker asphalt that mirrors, about the line where it touches the ground, what stands on it."""
    ground, rows = scene.ground, np.arange(scene.height, dtype=np.float32)[:, None]
    contact = np.maximum.accumulate(np.where(ground, np.float32(-1), rows), axis=0)
    contact = np.where(contact < 0, np.float32(scene.horizon), contact)
    contact = cv2.blur(contact, (max(3, scene.width // 24), 1))
    ripple = (scene.noise(10, 4) - np.float32(0.5)) * np.float32(scene.uniform(0, 0.02) * scene.height)
    source_row = np.clip(2 * contact - rows + 3 * ripple, 0, scene.height - 1)
    columns = np.arange(scene.width, dtype=np.float32)[None] + ripple
    mirrored = cv2.remap(
        scene.linear, columns, source_row.astype(np.float32), cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT
    )
    smear = int(scene.uniform(0.01, 0.12) * scene.height) | 1
    mirrored = cv2.blur(mirrored, (max(1, smear // 8) | 1, smear))
    below = np.clip((rows - scene.horizon) / max(1, scene.height - scene.horizon), 0, 1)
    fresnel = np.float32(scene.uniform(0.5, 0.95)) * np.exp(-below * np.float32(scene.uniform(0.6, 3)))
    puddles = np.clip((scene.noise(5, 3) - np.float32(scene.uniform(0.1, 0.6))) * 4, 0.15, 1)
    soft = cv2.blur(ground.astype(np.float32), (3, 3))
    weight = (soft * fresnel * puddles)[..., None]
    asphalt = scene.linear * (1 - soft[..., None] * np.float32(1 - scene.uniform(0.3, 0.75)))
    return encode(asphalt * (1 - weight) + mirrored * weight)


def render_snow(scene: Scene) -> np.ndarray:
    """Snow that lies: on the ground, less in the tracks, on what faces up, in trees; under a white sky."""
    flat = np.isin(scene.labels, [*GROUND, TrainId.TERRAIN]) | scene.ground
    cover = flat.astype(np.float32) * np.clip(
        scene.noise(10, 3) * 2 - np.float32(scene.uniform(-1, 0.5)), 0, 1
    )
    if scene.chance(0.6):
        cover *= _tracks(scene)
    depth = scene.depth_filled(0)
    # what faces up: below an edge behind which it is farther
    rim = max(1, int(scene.uniform(0.006, 0.03) * scene.height))
    behind = np.zeros_like(depth)
    behind[rim:] = depth[:-rim]
    standing = ~flat & ~scene.sky & (depth > 0.005)
    top = (behind < 0.75 * depth) & standing
    top[:rim] = False
    cover = np.maximum(cover, top * np.float32(scene.uniform(0.4, 1)))
    leaves = np.isin(scene.labels, [TrainId.VEGETATION, TrainId.TERRAIN])
    luminance = luminance_of(scene.linear)[..., 0]
    laden = np.clip(luminance * np.float32(scene.uniform(2, 8)) * scene.noise(12), 0, 1)
    cover = np.maximum(cover, leaves * laden * np.float32(scene.uniform(0.2, 0.9)))
    cover = cv2.blur(cover.astype(np.float32), (3, 3))
    shade = 1 + np.float32(0.35) * (luminance / (wide_blur(luminance, 8) + np.float32(0.02)) - 1)
    white = np.float32(scene.uniform(0.5, 0.95)) * np.clip(shade + np.float32(0.03) * scene.grain(), 0.4, 1.3)
    tint = np.array([scene.uniform(0.88, 1), scene.uniform(0.94, 1), 1], np.float32)
    linear = scene.linear + cover[..., None] * (white[..., None] * tint - scene.linear)
    if scene.chance(0.7):
        linear = linear + scene.soft_sky * (np.float32(scene.uniform(0.5, 1)) - linear) * np.float32(0.85)
    return encode(linear)


def _tracks(scene: Scene) -> np.ndarray:
    """Float32 (H, W): how much snow wheels left, in lines that meet at the vanishing point."""
    column, row = scene.vanishing_point
    down = np.maximum(np.arange(scene.height, dtype=np.float32) - np.float32(row), 1)[:, None]
    lateral = (np.arange(scene.width, dtype=np.float32) - np.float32(column))[None] / down
    period, width = scene.uniform(1.2, 3.5), scene.uniform(0.04, 0.15)
    aside = np.abs((lateral / np.float32(period) + np.float32(scene.uniform(0, 1))) % 1 - np.float32(0.5))
    return np.clip((aside - np.float32(width)) * 8 + scene.noise(16, 4) - np.float32(0.5), 0.1, 1)


def render_markings(scene: Scene) -> np.ndarray:
    """Crossings, lane lines and hatchings on the ground, in perspective."""
    column, row = scene.vanishing_point
    scale = max(scene.height - row, 0.2 * scene.height)
    layer: np.ndarray = np.zeros((scene.height, scene.width), np.float32)

    def strip(left: float, right: float, near: float, far: float, skew: float = 0.0) -> None:
        # Positions in camera heights: aside, and ahead at the two ends; a ground point falls towards the
        # vanishing point as one over its distance.
        corners = [(left, near), (right, near), (right + skew, far), (left + skew, far)]
        points = [(column + scale * aside / ahead, row + scale / ahead) for aside, ahead in corners]
        fixed = np.round(np.clip(points, -1e5, 1e5) * np.float32(8)).astype(np.int32)
        cv2.fillPoly(layer, [fixed], 1.0, cv2.LINE_8, shift=3)

    kind = scene.generator.integers(3)
    if kind == 0:  # crossing
        near, width, period = scene.uniform(1, 4), scene.uniform(0.2, 0.4), scene.uniform(0.5, 0.9)
        far = near + scene.uniform(0.8, 2.5)
        for left in np.arange(-8, 8, period) + scene.uniform(0, 1):
            strip(left, left + width, near, far)
    elif kind == 1:  # lane lines
        for left in np.arange(-4, 4, scene.uniform(1.5, 2.5)) + scene.uniform(-1, 1):
            period = scene.uniform(2, 8)
            for near in np.arange(0.6, 40, period):
                strip(left, left + scene.uniform(0.06, 0.12), near, near + period * scene.uniform(0.3, 1))
    else:  # hatching
        near, skew = scene.uniform(0.8, 2), scene.uniform(-2, 2)
        for left in np.arange(-6, 6, scene.uniform(0.4, 1)):
            strip(left, left + 0.12, near, near + scene.uniform(1, 3), skew)
    layer = cv2.blur(layer, (3, 3))
    below = (np.arange(scene.height) > row)[:, None]
    ground = scene.ground if scene.ground.any() else below
    worn = np.clip(scene.noise(40, 2) + np.float32(scene.uniform(0, 1)), 0, 1)
    share = (layer * (ground & below) * worn * np.float32(scene.uniform(0.6, 1)))[..., None]
    luminance = luminance_of(scene.linear)
    shade = np.clip(luminance / (luminance.mean() + np.float32(0.02)), 0.4, 1.3)
    paint = np.array([1, 1, 1] if scene.chance(0.8) else [1, 0.8, 0.3], np.float32) * np.float32(
        scene.uniform(0.4, 0.9)
    )
    return encode(scene.linear + share * (paint * shade - scene.linear))
