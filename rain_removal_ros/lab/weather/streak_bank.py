"""Pictures of rain streaks of every kind, drawn once, which training crops, scales and lays over each other.

Not `Rain`, which moves rain over a drive: here no two streaks need be of one shape, and nothing falls.
"""

from __future__ import annotations

import cv2
import numpy as np

from rain_removal_ros.lab.weather.rain import along_and_aside, drawn_around

SIDE = 512
"""Pixels of a picture, both ways."""

FINE = 0.25
"""Share of pictures of fine, even rain: faint streaks so many that they cover most of the picture, and none
that stands out.
"""

WIDE = 0.12
"""Share of pictures of wide, soft streaks: near drops out of focus, or rain that was rendered for a larger
image.
"""


def _log_uniform(generator: np.random.Generator, least: float, most: float) -> float:
    return float(np.exp(generator.uniform(np.log(least), np.log(most))))


def streak_kernel(length: float, width: float, angle: float, generator: np.random.Generator) -> np.ndarray:
    """Float32 kernel of one streak, its largest value 1.

    length and width (standard deviation across) in pixels, angle in degrees from the vertical. Along it, a
    streak is even, fades at both ends or at one, or is beaded as an oscillating drop is; some are slightly
    bent.
    """
    half = max(length / 2, 0.5)
    reach = int(np.ceil(half + 2.5 * width + 1))
    along, aside = along_and_aside(reach, angle)
    if generator.random() < 0.3:
        aside = aside + generator.normal(0, 0.06) * half * (along / half) ** 2
    beyond = np.maximum(np.abs(along) - half, 0)
    kernel = np.exp(-(aside**2 + beyond**2) / np.float32(2 * max(width, 0.35) ** 2))
    place = np.clip(along / half, -1, 1)
    shape = generator.integers(4)
    if shape == 1:
        kernel *= 1 - 0.9 * np.abs(place) ** generator.uniform(1, 3)
    elif shape == 2:
        kernel *= 1 - generator.uniform(0.4, 0.9) * (place + 1) / 2
    elif shape == 3 and length > 10:
        wave = np.cos(np.pi * place * generator.uniform(1, 4) + generator.uniform(0, 6))
        kernel *= 1 - generator.uniform(0.2, 0.7) * (wave + 1) / 2
    kernel[kernel < 0.02] = 0
    return (kernel / kernel.max()).astype(np.float32)


def draw_picture(generator: np.random.Generator) -> np.ndarray:
    """uint8 (SIDE, SIDE): rain of one to four kinds of streaks that fall about alike; 255 is a streak that
    hides everything. It joins itself at its edges.
    """
    picture: np.ndarray = np.zeros((SIDE, SIDE), np.float32)
    wind = float(np.clip(generator.normal(0, 16), -45, 45))
    kind = generator.random()
    for _ in range(generator.integers(1, 5)):
        if kind < FINE:
            length, width = _log_uniform(generator, 6, 80), _log_uniform(generator, 0.4, 1.2)
            density = _log_uniform(generator, 0.3, 2.5) / (2.5 * width * length)
            strength, spread = _log_uniform(generator, 0.03, 0.25), generator.uniform(0.5, 3)
            faintness = generator.uniform(0.7, 2)
        elif kind < FINE + WIDE:
            length, width = _log_uniform(generator, 30, 130), _log_uniform(generator, 2, 7)
            density = _log_uniform(generator, 0.05, 0.6) / (2.5 * width * length)
            strength, spread = generator.uniform(0.08, 0.6), generator.uniform(0.5, 4)
            faintness = generator.uniform(0.7, 2)
        else:
            length, width = _log_uniform(generator, 4, 90), _log_uniform(generator, 0.4, 3.2)
            density = _log_uniform(generator, 0.002, 0.08)
            density *= min(1.0, 12 / length) * min(1.0, 0.9 / width) ** 1.5
            strength, spread = generator.uniform(0.12, 1), generator.uniform(1, 6)
            faintness = generator.uniform(0.7, 3)
        layer = np.zeros_like(picture)
        variants = int(generator.integers(1, 4))
        for _ in range(variants):
            kernel = streak_kernel(
                length * generator.uniform(0.6, 1.4),
                width * generator.uniform(0.7, 1.3),
                wind + generator.normal(0, spread),
                generator,
            )
            drops = np.zeros_like(picture)
            count = generator.poisson(density * SIDE * SIDE / variants)
            places = generator.integers(0, SIDE, (2, count))
            drops[places[0], places[1]] = generator.random(count) ** faintness
            layer = np.maximum(layer, np.minimum(drawn_around(drops, kernel), 1))
        picture = 1 - (1 - picture) * (1 - strength * layer)
    if generator.random() < 0.15:
        picture = cv2.GaussianBlur(picture, (0, 0), generator.uniform(0.4, 1.2))
    return (255 * np.clip(picture, 0, 1) + 0.5).astype(np.uint8)


class StreakBank:
    """`count` pictures, drawn by `seed`; 320 of them take 84 MB and half a minute."""

    def __init__(self, count: int, seed: int):
        generator = np.random.default_rng([seed, 104729])
        self.pictures = [draw_picture(generator) for _ in range(count)]

    def pattern(self, height: int, width: int, generator: np.random.Generator) -> np.ndarray:
        """Float32 (height, width) in [0, 1]: one or two pictures, cut, flipped, scaled by 0.6 to 1.7,
        combined.
        """
        combined = np.zeros((height, width), np.float32)
        for _ in range(1 if generator.random() < 0.6 else 2):
            scale = _log_uniform(generator, 0.6, 1.7)
            rows, columns = (min(SIDE, round(side / scale)) for side in (height, width))
            picture = self.pictures[generator.integers(len(self.pictures))]
            top, left = generator.integers(0, SIDE - rows + 1), generator.integers(0, SIDE - columns + 1)
            part = picture[top : top + rows, left : left + columns]
            part = part[:, ::-1] if generator.random() < 0.5 else part
            part = cv2.resize(np.ascontiguousarray(part), (width, height), interpolation=cv2.INTER_LINEAR)
            strength = np.float32(generator.uniform(0.5, 1) / 255)
            combined = 1 - (1 - combined) * (1 - strength * part)
        return combined
