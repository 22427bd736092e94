"""The classes of Cityscapes by train id, with the colours that the field draws them in. Plain data."""

from __future__ import annotations

import numpy as np

CLASSES: tuple[tuple[str, tuple[int, int, int]], ...] = (
    ("road", (128, 64, 128)),
    ("sidewalk", (244, 35, 232)),
    ("building", (70, 70, 70)),
    ("wall", (102, 102, 156)),
    ("fence", (190, 153, 153)),
    ("pole", (153, 153, 153)),
    ("traffic light", (250, 170, 30)),
    ("traffic sign", (220, 220, 0)),
    ("vegetation", (107, 142, 35)),
    ("terrain", (152, 251, 152)),
    ("sky", (70, 130, 180)),
    ("person", (220, 20, 60)),
    ("rider", (255, 0, 0)),
    ("car", (0, 0, 142)),
    ("truck", (0, 0, 70)),
    ("bus", (0, 60, 100)),
    ("train", (0, 80, 100)),
    ("motorcycle", (0, 0, 230)),
    ("bicycle", (119, 11, 32)),
)
"""Name and RGB colour; the index is the train id."""

UNLABELLED = 255


def palette() -> np.ndarray:
    """uint8 (256, 3): the RGB colour of every label; black for those that are no class."""
    colours = np.zeros((256, 3), np.uint8)
    colours[: len(CLASSES)] = [colour for _, colour in CLASSES]
    return colours
