"""Dry images that look like rain or fog but are not: white skies and walls, wet roads, drops on the
windscreen, low sun, snow, tunnels, night, noise, thin bright things. A derainer should do nothing to any of
them.

Every function of LOOKALIKES takes an image uint8 (H, W, 3) RGB, its inverse depth float32 (H, W) in 1/m
(0 = sky, NaN = unknown), its labels uint8 (H, W) (Cityscapes train ids, 255 unlabelled) and a generator, and
returns another uint8 (H, W, 3) image; the same state of the generator gives the same image. Depth and labels
stay those of the scene: what is drawn in front of it (wires, drops, railings) has neither. Light is added in
linear light, taken as the square of the grey level.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import cv2
import numpy as np

from rain_removal_ros.cityscapes import CLASSES, UNLABELLED
from rain_removal_ros.errors import ImageError

_ID = {name: index for index, (name, _) in enumerate(CLASSES)}
_GROUND = [_ID["road"], _ID["sidewalk"]]


class _Scene:
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
        return (self.labels == _ID["sky"]) | ((self.labels == UNLABELLED) & (self.inverse_depth == 0))

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
        around = _wide_blur(np.stack([known, known * grey, known * blue], axis=-1), 0.1 * self.height)
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
            return np.isin(self.labels, _GROUND)
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


def _encode(linear: np.ndarray) -> np.ndarray:
    """Linear light -> uint8 image; what is brighter than 1 is clipped, as a sensor clips it."""
    return (np.sqrt(np.clip(linear, 0, 1)) * 255 + np.float32(0.5)).astype(np.uint8)


def _wide_blur(values: np.ndarray, sigma: float) -> np.ndarray:
    """A Gaussian blur of `sigma` pixels, computed on a smaller copy."""
    height, width = values.shape[:2]
    factor = max(1, min(int(sigma / 2), height // 4, width // 4))
    small = cv2.resize(
        values, (max(1, width // factor), max(1, height // factor)), interpolation=cv2.INTER_AREA
    )
    small = cv2.GaussianBlur(small, (0, 0), max(sigma / factor, 0.5))
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)


def _bloom(linear: np.ndarray, sigma: float, strength: float, threshold: float = 0.7) -> np.ndarray:
    """`linear` with light that spills from what is brighter than `threshold`, as lenses spill it."""
    return linear + np.float32(strength) * _wide_blur(np.maximum(linear - np.float32(threshold), 0), sigma)


def _grey(linear: np.ndarray) -> np.ndarray:
    """(H, W, 3) -> (H, W, 1), the luminance."""
    return (linear @ np.array([0.25, 0.6, 0.15], np.float32))[..., None]


def _tint(scene: _Scene, most: float) -> np.ndarray:
    """Float32 (3,): about 1, a colour cast of up to `most`."""
    return np.float32(1) + scene.generator.uniform(-most, most, 3).astype(np.float32)


def overexposed(scene: _Scene) -> np.ndarray:
    """Too long an exposure: sky and white facades clip and spill light over what is beside them."""
    linear = scene.linear * np.float32(scene.uniform(1.3, 3.5))
    linear = linear + scene.soft_sky * np.float32(scene.uniform(0.3, 1.5))
    linear = _bloom(linear, scene.uniform(0.02, 0.1) * scene.height, scene.uniform(0.1, 0.5))
    return _encode(linear + np.float32(scene.uniform(0, 0.04)))


def white_walls(scene: _Scene) -> np.ndarray:
    """Buildings and walls of white plaster in bright light, and a sky as bright as they are."""
    walls = np.isin(scene.labels, [_ID["building"], _ID["wall"], _ID["fence"], _ID["truck"], _ID["bus"]])
    if not walls.any():
        depth = scene.depth_filled()
        walls = (depth > 0.01) & ~scene.ground & (scene.blocks(6) > 0.6)
    walls = walls & (scene.blocks(4) > scene.uniform(0, 0.6))
    soft = cv2.blur(walls.astype(np.float32), (3, 3))[..., None]
    grey = _grey(scene.linear)
    tint = _tint(scene, 0.06)
    level = np.float32(scene.uniform(0.55, 0.95))
    # plaster keeps windows and shadows: its light is what was there, lifted, not a flat white
    plaster = (
        level + (grey / (grey.mean() + np.float32(0.05)) - 1) * np.float32(scene.uniform(0.1, 0.3))
    ) * tint
    linear = scene.linear + soft * (plaster - scene.linear)
    if scene.chance(0.6):
        linear = linear + scene.soft_sky * (np.float32(scene.uniform(0.6, 1.05)) - linear) * np.float32(0.9)
    return _encode(_bloom(linear, 0.04 * scene.height, scene.uniform(0, 0.5)))


def wet_road(scene: _Scene) -> np.ndarray:
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
    return _encode(asphalt * (1 - weight) + mirrored * weight)


def windscreen_drops(scene: _Scene) -> np.ndarray:
    """Drops that sit on the windscreen: each a small, blurred fisheye image of the view, upside down."""
    image, generator = scene.image.copy(), scene.generator
    factor = 4 if min(image.shape[:2]) >= 32 else 1
    small = cv2.resize(image, (scene.width // factor, scene.height // factor), interpolation=cv2.INTER_AREA)
    small = cv2.blur(small, (3, 3))
    fine = scene.chance(0.3)
    count = int(scene.uniform(60, 160) if fine else scene.uniform(6, 50))
    largest = scene.uniform(0.008, 0.016) if fine else scene.uniform(0.02, 0.07)
    centres = generator.random((count, 2)) * (scene.width, scene.height)
    radii = np.maximum(largest * scene.height * generator.uniform(0.25, 1, count), 1.5)
    opacity = scene.uniform(0.6, 1)
    for (column, row), radius in zip(centres, radii, strict=True):
        _draw_drop(image, small, factor, column, row, radius, opacity, generator)
    return image


def _draw_drop(
    image: np.ndarray,
    small: np.ndarray,
    factor: int,
    column: float,
    row: float,
    radius: float,
    opacity: float,
    generator: np.random.Generator,
) -> None:
    """One drop drawn into `image`; `small` is the view, `factor` times smaller."""
    taller, lobes, phase, tilt = generator.uniform((0.9, 0, 0, 0), (1.5, 0.15, 6.3, 6.3))
    reach = int(np.ceil(radius * 1.6)) + 1
    left, top = max(0, int(column) - reach), max(0, int(row) - reach)
    right, bottom = min(image.shape[1], int(column) + reach), min(image.shape[0], int(row) + reach)
    if right <= left or bottom <= top:
        return
    across = ((np.arange(left, right) - column) / radius).astype(np.float32)[None]
    down = ((np.arange(top, bottom) - row) / (radius * taller)).astype(np.float32)[:, None]
    angle = np.arctan2(down, across)
    outline = 1 + lobes * (np.cos(2 * angle + phase) + 0.6 * np.cos(3 * angle + tilt))
    distance = np.sqrt(across**2 + down**2) / outline.astype(np.float32)
    cover = np.clip((1 - distance) * np.float32(radius / 1.5), 0, 1) * np.float32(opacity)
    bend = np.float32(min(4.0, 1 + 0.12 * image.shape[0] / radius)) * (1 + distance**2)
    seen_column = (column - bend * radius * across) / factor
    seen_row = (row - bend * radius * down) / factor
    seen = cv2.remap(
        small,
        seen_column.astype(np.float32),
        seen_row.astype(np.float32),
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REFLECT,
    ).astype(np.float32)
    rim = np.clip((distance - 0.65) * 3, 0, 1)[..., None]
    seen *= 1 - rim * (np.float32(0.6) - np.float32(0.35) * down[..., None])  # dark above, less so below
    glint = np.exp(-(((across + 0.35) ** 2 + (down + 0.4) ** 2) * 25))[..., None]
    seen = seen + 130 * glint.astype(np.float32)
    part = image[top:bottom, left:right]
    mixed = part + (seen - part) * cover[..., None]
    image[top:bottom, left:right] = np.clip(mixed, 0, 255).astype(np.uint8)


def backlight(scene: _Scene) -> np.ndarray:
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
    return _encode(_with_flare(scene, linear, column, row))


def _with_flare(scene: _Scene, linear: np.ndarray, column: float, row: float) -> np.ndarray:
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


def snow(scene: _Scene) -> np.ndarray:
    """Snow that lies: on the ground, less in the tracks, on what faces up, in trees; under a white sky."""
    flat = np.isin(scene.labels, [*_GROUND, _ID["terrain"]]) | scene.ground
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
    leaves = np.isin(scene.labels, [_ID["vegetation"], _ID["terrain"]])
    luminance = _grey(scene.linear)[..., 0]
    laden = np.clip(luminance * np.float32(scene.uniform(2, 8)) * scene.noise(12), 0, 1)
    cover = np.maximum(cover, leaves * laden * np.float32(scene.uniform(0.2, 0.9)))
    cover = cv2.blur(cover.astype(np.float32), (3, 3))
    shade = 1 + np.float32(0.35) * (luminance / (_wide_blur(luminance, 8) + np.float32(0.02)) - 1)
    white = np.float32(scene.uniform(0.5, 0.95)) * np.clip(shade + np.float32(0.03) * scene.grain(), 0.4, 1.3)
    tint = np.array([scene.uniform(0.88, 1), scene.uniform(0.94, 1), 1], np.float32)
    linear = scene.linear + cover[..., None] * (white[..., None] * tint - scene.linear)
    if scene.chance(0.7):
        linear = linear + scene.soft_sky * (np.float32(scene.uniform(0.5, 1)) - linear) * np.float32(0.85)
    return _encode(linear)


def _tracks(scene: _Scene) -> np.ndarray:
    """Float32 (H, W): how much snow wheels left, in lines that meet at the vanishing point."""
    column, row = scene.vanishing_point
    down = np.maximum(np.arange(scene.height, dtype=np.float32) - np.float32(row), 1)[:, None]
    lateral = (np.arange(scene.width, dtype=np.float32) - np.float32(column))[None] / down
    period, width = scene.uniform(1.2, 3.5), scene.uniform(0.04, 0.15)
    aside = np.abs((lateral / np.float32(period) + np.float32(scene.uniform(0, 1))) % 1 - np.float32(0.5))
    return np.clip((aside - np.float32(width)) * 8 + scene.noise(16, 4) - np.float32(0.5), 0.1, 1)


def _lamps(
    scene: _Scene,
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


def tunnel(scene: _Scene) -> np.ndarray:
    """A tunnel or a garage: darkness, rows of lamps, and often an exit that the exposure cannot hold."""
    column, row = scene.vanishing_point
    tint = _LAMPS[scene.generator.integers(4)]
    linear = scene.linear * np.float32(scene.uniform(0.03, 0.25)) * tint
    ceiling = np.float32(scene.uniform(0.005, 0.05)) * (1 + np.float32(0.3) * scene.noise(8)[..., None])
    linear = linear + scene.soft_sky * (ceiling * tint - linear)
    light = np.zeros_like(linear)
    if scene.chance(0.75):
        high = scene.uniform(0.04, 0.2) * scene.height
        mouth = np.zeros((scene.height, scene.width), np.float32)
        wide = high * scene.uniform(0.7, 1.5)
        cv2.ellipse(mouth, (int(column), int(row)), (int(wide) + 1, int(high) + 1), 0, 180, 360, 1.0, -1)
        foot = (int(column + wide), int(row + 0.25 * high) + 1)
        cv2.rectangle(mouth, (int(column - wide), int(row)), foot, 1.0, -1)
        mouth = cv2.blur(mouth, (3, 3))[..., None]
        bright = scene.linear * np.float32(scene.uniform(1, 3)) + np.float32(scene.uniform(0.3, 1.2))
        linear = linear + mouth * (bright - linear)
        light += _wide_blur(mouth[..., 0], high)[..., None] * np.float32(scene.uniform(0.05, 0.5))
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


def _with_sensor_noise(scene: _Scene, linear: np.ndarray, sigma: float) -> np.ndarray:
    """The uint8 image that a sensor makes of little light."""
    grain = scene.grain()[..., None] * np.array([1, 0.7, 1.2], np.float32)
    return _encode(linear + np.float32(sigma) * grain * np.sqrt(np.maximum(linear, 0.002) * 4))


def night(scene: _Scene) -> np.ndarray:
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
    light = light + np.float32(0.15) * _wide_blur(np.minimum(light, 2), 0.06 * scene.height)
    # lamps light the ground below them
    linear = linear + scene.linear * _wide_blur(light, 0.2 * scene.height) * np.float32(scene.uniform(0.5, 3))
    return _with_sensor_noise(scene, linear + light, scene.uniform(0.004, 0.025))


def thin_things(scene: _Scene) -> np.ndarray:
    """Wires, poles, stems, railings, fences and blinds before the scene, often bright and near vertical."""
    image = scene.image.copy()
    kinds = (_wires, _poles, _stems, _railing, _mesh, _blinds)
    for index in scene.generator.choice(len(kinds), int(scene.uniform(1, 3.5)), replace=False):
        kinds[index](scene, image)
    return image


def _colour(scene: _Scene, bright: float = 0.6) -> tuple[float, float, float]:
    """A colour of paint, metal or wood: with probability `bright` a light one."""
    level = scene.uniform(140, 250) if scene.chance(bright) else scene.uniform(15, 110)
    return tuple(np.clip(level * scene.generator.uniform(0.9, 1.08, 3), 0, 255).tolist())


def _polyline(
    image: np.ndarray, points: np.ndarray, colour: tuple[float, float, float], thickness: int
) -> None:
    """Draws (N, 2) columns and rows with a smooth edge, at eighths of a pixel."""
    fixed = np.round(points * 8).astype(np.int32).reshape(-1, 1, 2)
    cv2.polylines(image, [fixed], False, colour, thickness, cv2.LINE_AA, shift=3)


def _wires(scene: _Scene, image: np.ndarray) -> None:
    start, end = scene.uniform(-0.1, 0.5) * scene.height, scene.uniform(-0.1, 0.5) * scene.height
    along = np.linspace(0, 1, 24)
    for _ in range(int(scene.uniform(1, 7))):
        start, end = (value + scene.uniform(0.005, 0.06) * scene.height for value in (start, end))
        sag = scene.uniform(0, 0.12) * scene.height * 4 * along * (1 - along)
        points = np.stack([along * scene.width, start + (end - start) * along + sag], axis=1)
        _polyline(image, points, _colour(scene, 0.4), 1)


def _poles(scene: _Scene, image: np.ndarray) -> None:
    for _ in range(int(scene.uniform(1, 9))):
        column, lean = scene.uniform(0, 1) * scene.width, scene.uniform(-0.25, 0.25) ** 3 * 8
        foot, length = scene.uniform(0.4, 1.1) * scene.height, scene.uniform(0.2, 1) * scene.height
        points = np.array([[column, foot], [column + lean * length, foot - length]])
        thickness = 1 + int(scene.uniform(0, 0.14) ** 2 * scene.height)
        colour = _colour(scene)
        _polyline(image, points, colour, thickness)
        if thickness > 2:  # lit from one side
            dark = tuple(0.6 * value for value in colour)
            _polyline(image, points + np.array([thickness / 3, 0]), dark, max(1, thickness // 3))


def _stems(scene: _Scene, image: np.ndarray) -> None:
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
        _polyline(image, points, tuple((base * scene.uniform(0.6, 1.05)).clip(0, 255).tolist()), 1)


def _railing(scene: _Scene, image: np.ndarray) -> None:
    """Bars between two rails, seen a little from aside."""
    left, wide = scene.uniform(-0.2, 0.6) * scene.width, scene.uniform(0.2, 1) * scene.width
    top, high = scene.uniform(0.2, 0.8) * scene.height, scene.uniform(0.08, 0.35) * scene.height
    slope, colour = scene.uniform(-0.3, 0.3), _colour(scene, 0.7)
    thickness = 1 + int(scene.chance(0.3))
    for across in np.linspace(0, 1, int(scene.uniform(8, 60))):
        column = left + across * wide
        upper = top + slope * across * wide
        size = high * (1 + slope * (across - 0.5))
        _polyline(image, np.array([[column, upper], [column, upper + size]]), colour, thickness)
    for at in (0, high):
        rail = np.array([[left, top + at], [left + wide, top + at + slope * wide]])
        _polyline(image, rail, colour, thickness + 1)


def _mesh(scene: _Scene, image: np.ndarray) -> None:
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
        _polyline(image, np.array([[column, top], [column, top + 1.05 * high]]), colour, 2)


def _blinds(scene: _Scene, image: np.ndarray) -> None:
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


def markings(scene: _Scene) -> np.ndarray:
    """Crossings, lane lines and hatchings on the ground, in perspective."""
    column, row = scene.vanishing_point
    scale = max(scene.height - row, 0.2 * scene.height)
    layer = np.zeros((scene.height, scene.width), np.float32)

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
    luminance = _grey(scene.linear)
    shade = np.clip(luminance / (luminance.mean() + np.float32(0.02)), 0.4, 1.3)
    paint = np.array([1, 1, 1] if scene.chance(0.8) else [1, 0.8, 0.3], np.float32) * np.float32(
        scene.uniform(0.4, 0.9)
    )
    return _encode(scene.linear + share * (paint * shade - scene.linear))


def overcast(scene: _Scene) -> np.ndarray:
    """A dull day or a late hour, with air as clear as before: a grey sky, little contrast, no shadows."""
    grey = _grey(scene.linear)
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
    return _encode(linear * tint)


def clouds(scene: _Scene) -> np.ndarray:
    """A sky full of bright, structured clouds, broken or closed, before air as clear as ever."""
    cells = scene.uniform(2, 5)
    relief = sum(0.55**octave * scene.noise(round(cells * 2**octave), 1.5) for octave in range(5))
    relief = (relief - relief.min()) / max(float(np.ptp(relief)), 1e-3)
    cover = np.clip((relief - np.float32(scene.uniform(0.1, 0.6))) * np.float32(scene.uniform(2, 8)), 0, 1)
    height = np.linspace(1, 0, scene.height, dtype=np.float32)[:, None]
    level = np.float32(scene.uniform(0.5, 1.1))
    shade = level * (1 - np.float32(scene.uniform(0.1, 0.7)) * np.clip(relief - height * 0.3, 0, 1))
    red = scene.uniform(0.08, 0.4)
    colour = np.array([red, red + scene.uniform(0.12, 0.25), 0.75], np.float32)
    pale = np.float32(scene.uniform(0.2, 0.9)) * (1 - height)
    between = level * (colour + pale[..., None] * (np.float32(0.85) - colour))
    sky = between + cover[..., None] * (shade[..., None] * _tint(scene, 0.04) - between)
    return _encode(scene.linear + scene.soft_sky * (sky - scene.linear))


def motion_blur(scene: _Scene) -> np.ndarray:
    """The camera turned, shook, or went fast while the shutter was open."""
    if scene.chance(0.35):  # forward: from the vanishing point outwards
        column, row = scene.vanishing_point
        total, steps = scene.uniform(0.01, 0.06), 6
        blurred = np.zeros_like(scene.linear)
        for step in range(steps):
            zoom = 1 + total * step / steps
            matrix = np.array([[zoom, 0, column * (1 - zoom)], [0, zoom, row * (1 - zoom)]], np.float32)
            blurred += cv2.warpAffine(
                scene.linear, matrix, (scene.width, scene.height), borderMode=cv2.BORDER_REFLECT
            )
        return _encode(blurred / steps)
    length = max(3, int(scene.uniform(0.01, 0.06) * scene.height) | 1)
    kernel = np.zeros((length, length), np.float32)
    angle = scene.uniform(-20, 20) if scene.chance(0.6) else scene.uniform(0, 180)
    half = (length - 1) / 2
    reach = half * np.array([np.cos(np.radians(angle)), np.sin(np.radians(angle))])
    _polyline(kernel, np.stack([half - reach, half + reach]), (1.0,), 1)
    return _encode(cv2.filter2D(scene.linear, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REFLECT))


def window_reflection(scene: _Scene) -> np.ndarray:
    """What lies on the dashboard, or a street behind, mirrored faintly in the windscreen."""
    zoom = scene.uniform(1.2, 3)
    matrix = np.array(
        [
            [-zoom, 0, scene.uniform(0.6, 1.8) * scene.width],
            [scene.uniform(-0.3, 0.3), zoom, -scene.uniform(0, zoom - 1) * scene.height],
        ],
        np.float32,
    )
    ghost = cv2.warpAffine(scene.linear, matrix, (scene.width, scene.height), borderMode=cv2.BORDER_REFLECT)
    ghost = cv2.blur(ghost, (int(scene.uniform(1, 9)) | 1,) * 2)
    where = np.clip(scene.noise(2) * 2 - np.float32(scene.uniform(0.2, 1)), 0, 1)
    share = (where * np.float32(scene.uniform(0.05, 0.3)))[..., None]
    linear = scene.linear + share * ghost
    if scene.chance(0.5):  # sheets of paper, vents: bright patches with straight edges
        layer = np.zeros((scene.height, scene.width), np.float32)
        for _ in range(int(scene.uniform(1, 5))):
            centre = scene.generator.random(2) * (scene.width, scene.height)
            size = scene.generator.uniform(0.02, 0.3, 2) * scene.height
            box = cv2.boxPoints((centre.tolist(), size.tolist(), scene.uniform(-60, 60)))
            cv2.fillPoly(layer, [np.round(box).astype(np.int32)], scene.uniform(0.02, 0.15))
        linear = linear + cv2.blur(layer, (int(scene.uniform(1, 15)) | 1,) * 2)[..., None]
    return _encode(linear)


def stray_light(scene: _Scene) -> np.ndarray:
    """Light that a dusty or old lens, or a windscreen, spreads over the whole view: black turns grey, near
    things as much as far ones, which fog would leave alone.
    """
    strength, even = scene.uniform(0.02, 0.18), scene.uniform(0.3, 1)
    field = np.float32(even) + np.float32(1 - even) * np.clip(scene.noise(2), 0, 1)
    tint = _tint(scene, 0.08)
    source = scene.linear.mean() + np.float32(0.3)  # the brighter the view, the more there is to spread
    return _encode(scene.linear + np.float32(strength) * source * field[..., None] * tint)


def tone(scene: _Scene) -> np.ndarray:
    """Another camera's rendering: lifted shadows, washed-out contrast and colour, local tone mapping; now and
    then one that sees grey alone.
    """
    image = scene.image
    if scene.chance(0.25):
        cells = int(scene.uniform(2, 9))
        mapping = cv2.createCLAHE(scene.uniform(1, 4), (cells, cells))
        lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB)
        lab[..., 0] = mapping.apply(lab[..., 0])
        image = cv2.cvtColor(lab, cv2.COLOR_LAB2RGB)
    black = scene.uniform(0, 0.25) if scene.chance(0.7) else 0.0
    white = scene.uniform(max(0.6, black + 0.4), 1) if scene.chance(0.5) else 1.0
    levels = (np.arange(256, dtype=np.float32) / 255) ** np.float32(scene.uniform(0.45, 1.2))
    toned = (np.float32(black) + np.float32(white - black) * levels)[image]
    luminance = _grey(toned)
    saturation = np.float32(0 if scene.chance(0.12) else scene.uniform(0.3, 1.2))
    toned = (luminance + saturation * (toned - luminance)) * _tint(scene, 0.04)
    return (np.clip(toned, 0, 1) * 255 + np.float32(0.5)).astype(np.uint8)


def sensor_noise(scene: _Scene) -> np.ndarray:
    """Too little light and much gain: noise, more of it in the dark, grey or coloured, fine, or coarser where
    the camera has smoothed it.
    """
    image = scene.image.astype(np.float32)
    channels = 1 if scene.chance(0.3) else 3
    noise = np.stack([scene.grain() for _ in range(channels)], axis=-1)
    if scene.chance(0.5):
        noise = cv2.GaussianBlur(noise, (0, 0), scene.uniform(0.5, 1.2)).reshape(noise.shape)
        noise /= noise.std()
    in_the_dark = np.float32(scene.uniform(0, 0.6)) * (1 - _grey(image) / 255)
    noise *= np.float32(scene.uniform(3, 12)) * (np.float32(0.7) + in_the_dark)
    seen = image * np.float32(scene.uniform(0.5, 1)) + noise
    return np.clip(seen + np.float32(0.5), 0, 255).astype(np.uint8)


def hot_pixels(scene: _Scene) -> np.ndarray:
    """A sensor's pixels that are always bright, single or in pairs, as sparse as thin rain."""
    bright = scene.generator.random((scene.height, scene.width)) < scene.uniform(0.0003, 0.004)
    if scene.chance(0.5):
        bright |= np.roll(bright, 1, axis=0) & (scene.generator.random(bright.shape) < 0.5)
    image = scene.image.astype(np.float32)
    image[bright] += np.float32(scene.uniform(40, 160)) * scene.generator.random(
        (bright.sum(), 1), np.float32
    )
    return np.clip(image + np.float32(0.5), 0, 255).astype(np.uint8)


def scratches(scene: _Scene) -> np.ndarray:
    """Fine scratches that wipers drew on a windscreen, in a low sun: arcs, faint and nearly parallel."""
    drawn = np.zeros_like(scene.image)
    centre = np.array([scene.uniform(0.2, 0.8) * scene.width, scene.uniform(1.2, 2) * scene.height])
    for _ in range(int(scene.uniform(8, 60))):
        radius, start = scene.uniform(0.3, 2) * scene.height, scene.uniform(-1.2, 1.2)
        angles = start + np.linspace(0, scene.uniform(0.02, 0.5), 16)
        points = centre + radius * np.stack([np.sin(angles), -np.cos(angles)], axis=1)
        _polyline(drawn, points, (scene.uniform(60, 255),) * 3, 1)
    share = np.float32(scene.uniform(0.15, 0.6)) * drawn.astype(np.float32) / 255
    return (scene.image + share * (255 - scene.image.astype(np.float32)) + np.float32(0.5)).astype(np.uint8)


def interlaced(scene: _Scene) -> np.ndarray:
    """Of a camera that reads odd rows later, while the vehicle turns: edges like combs."""
    shift = int(scene.uniform(2, max(4, 0.015 * scene.width))) * (1 if scene.chance(0.5) else -1)
    image = scene.image.copy()
    image[1::2] = np.roll(scene.image[1::2], shift, axis=1)
    return image


Lookalike = Callable[[np.ndarray, np.ndarray, np.ndarray, np.random.Generator], np.ndarray]


def _of_arrays(render: Callable[[_Scene], np.ndarray]) -> Lookalike:
    def lookalike(
        image: np.ndarray, inverse_depth: np.ndarray, labels: np.ndarray, generator: np.random.Generator
    ) -> np.ndarray:
        return render(_Scene(image, inverse_depth, labels, generator))

    lookalike.__doc__ = render.__doc__
    return lookalike


LOOKALIKES: dict[str, Lookalike] = {
    render.__name__: _of_arrays(render)
    for render in (
        overexposed,
        white_walls,
        wet_road,
        windscreen_drops,
        backlight,
        snow,
        tunnel,
        night,
        thin_things,
        markings,
        overcast,
        clouds,
        motion_blur,
        window_reflection,
        stray_light,
        tone,
        sensor_noise,
    )
}

HELD_OUT: dict[str, Lookalike] = {
    render.__name__: _of_arrays(render) for render in (hot_pixels, scratches, interlaced)
}
"""Kinds that nothing is trained on, so that an evaluation tells what of the others was learned by heart."""

_OVER_ANOTHER = ("windscreen_drops", "thin_things", "wet_road", "motion_blur", "window_reflection")


def random_lookalike(
    image: np.ndarray, inverse_depth: np.ndarray, labels: np.ndarray, generator: np.random.Generator
) -> np.ndarray:
    """One kind of LOOKALIKES, every kind as likely as another; a fifth of them with a second one over it."""
    names = list(LOOKALIKES)
    name = names[generator.integers(len(names))]
    result = LOOKALIKES[name](image, inverse_depth, labels, generator)
    if generator.random() < 0.2:
        second = _OVER_ANOTHER[generator.integers(len(_OVER_ANOTHER))]
        if second != name:
            result = LOOKALIKES[second](result, inverse_depth, labels, generator)
    return result
