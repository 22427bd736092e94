"""What happens at the camera: drops, dirt and reflections on the windscreen, motion, its sensor and its
rendering.
"""

from __future__ import annotations

import cv2
import numpy as np

from rain_removal_ros.lab.weather.lookalikes.scene import Scene, encode, luminance_of, polyline, random_tint


def render_windscreen_drops(scene: Scene) -> np.ndarray:
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


def render_motion_blur(scene: Scene) -> np.ndarray:
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
        return encode(blurred / steps)
    length = max(3, int(scene.uniform(0.01, 0.06) * scene.height) | 1)
    kernel = np.zeros((length, length), np.float32)
    angle = scene.uniform(-20, 20) if scene.chance(0.6) else scene.uniform(0, 180)
    half = (length - 1) / 2
    reach = half * np.array([np.cos(np.radians(angle)), np.sin(np.radians(angle))])
    polyline(kernel, np.stack([half - reach, half + reach]), (1.0,), 1)
    return encode(cv2.filter2D(scene.linear, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REFLECT))


def render_window_reflection(scene: Scene) -> np.ndarray:
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
    return encode(linear)


def render_stray_light(scene: Scene) -> np.ndarray:
    """Light that a dusty or old lens, or a windscreen, spreads over the whole view: black turns grey, near
    things as much as far ones, which fog would leave alone.
    """
    strength, even = scene.uniform(0.02, 0.18), scene.uniform(0.3, 1)
    field = np.float32(even) + np.float32(1 - even) * np.clip(scene.noise(2), 0, 1)
    tint = random_tint(scene, 0.08)
    source = scene.linear.mean() + np.float32(0.3)  # the brighter the view, the more there is to spread
    return encode(scene.linear + np.float32(strength) * source * field[..., None] * tint)


def render_tone(scene: Scene) -> np.ndarray:
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
    luminance = luminance_of(toned)
    saturation = np.float32(0 if scene.chance(0.12) else scene.uniform(0.3, 1.2))
    toned = (luminance + saturation * (toned - luminance)) * random_tint(scene, 0.04)
    return (np.clip(toned, 0, 1) * 255 + np.float32(0.5)).astype(np.uint8)


def render_sensor_noise(scene: Scene) -> np.ndarray:
    """Too little light and much gain: noise, more of it in the dark, grey or coloured, fine, or coarser where
    the camera has smoothed it.
    """
    image = scene.image.astype(np.float32)
    channels = 1 if scene.chance(0.3) else 3
    noise: np.ndarray = np.stack([scene.grain() for _ in range(channels)], axis=-1)
    if scene.chance(0.5):
        noise = cv2.GaussianBlur(noise, (0, 0), scene.uniform(0.5, 1.2)).reshape(noise.shape)
        noise = noise / noise.std()
    in_the_dark = np.float32(scene.uniform(0, 0.6)) * (1 - luminance_of(image) / 255)
    noise *= np.float32(scene.uniform(3, 12)) * (np.float32(0.7) + in_the_dark)
    seen = image * np.float32(scene.uniform(0.5, 1)) + noise
    return np.clip(seen + np.float32(0.5), 0, 255).astype(np.uint8)


def render_hot_pixels(scene: Scene) -> np.ndarray:
    """A sensor's pixels that are always bright, single or in pairs, as sparse as thin rain."""
    bright = scene.generator.random((scene.height, scene.width)) < scene.uniform(0.0003, 0.004)
    if scene.chance(0.5):
        bright |= np.roll(bright, 1, axis=0) & (scene.generator.random(bright.shape) < 0.5)
    image = scene.image.astype(np.float32)
    image[bright] += np.float32(scene.uniform(40, 160)) * scene.generator.random(
        (bright.sum(), 1), np.float32
    )
    return np.clip(image + np.float32(0.5), 0, 255).astype(np.uint8)


def render_scratches(scene: Scene) -> np.ndarray:
    """Fine scratches that wipers drew on a windscreen, in a low sun: arcs, faint and nearly parallel."""
    drawn = np.zeros_like(scene.image)
    centre = np.array([scene.uniform(0.2, 0.8) * scene.width, scene.uniform(1.2, 2) * scene.height])
    for _ in range(int(scene.uniform(8, 60))):
        radius, start = scene.uniform(0.3, 2) * scene.height, scene.uniform(-1.2, 1.2)
        angles = start + np.linspace(0, scene.uniform(0.02, 0.5), 16)
        points = centre + radius * np.stack([np.sin(angles), -np.cos(angles)], axis=1)
        polyline(drawn, points, (scene.uniform(60, 255),) * 3, 1)
    share = np.float32(scene.uniform(0.15, 0.6)) * drawn.astype(np.float32) / 255
    return (scene.image + share * (255 - scene.image.astype(np.float32)) + np.float32(0.5)).astype(np.uint8)


def render_interlaced(scene: Scene) -> np.ndarray:
    """Of a camera that reads odd rows later, while the vehicle turns: edges like combs."""
    shift = int(scene.uniform(2, max(4, 0.015 * scene.width))) * (1 if scene.chance(0.5) else -1)
    image = scene.image.copy()
    image[1::2] = np.roll(scene.image[1::2], shift, axis=1)
    return image
