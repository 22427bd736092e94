"""The classes of Cityscapes by train id, with the colours that the field draws them in. Plain data."""

from __future__ import annotations

from enum import IntEnum

import numpy as np


class TrainId(IntEnum):
    """Cityscapes train ids (the 19 evaluated classes)."""

    ROAD = 0
    SIDEWALK = 1
    BUILDING = 2
    WALL = 3
    FENCE = 4
    POLE = 5
    TRAFFIC_LIGHT = 6
    TRAFFIC_SIGN = 7
    VEGETATION = 8
    TERRAIN = 9
    SKY = 10
    PERSON = 11
    RIDER = 12
    CAR = 13
    TRUCK = 14
    BUS = 15
    TRAIN = 16
    MOTORCYCLE = 17
    BICYCLE = 18


COLOURS: dict[TrainId, tuple[int, int, int]] = {
    TrainId.ROAD: (128, 64, 128),
    TrainId.SIDEWALK: (244, 35, 232),
    TrainId.BUILDING: (70, 70, 70),
    TrainId.WALL: (102, 102, 156),
    TrainId.FENCE: (190, 153, 153),
    TrainId.POLE: (153, 153, 153),
    TrainId.TRAFFIC_LIGHT: (250, 170, 30),
    TrainId.TRAFFIC_SIGN: (220, 220, 0),
    TrainId.VEGETATION: (107, 142, 35),
    TrainId.TERRAIN: (152, 251, 152),
    TrainId.SKY: (70, 130, 180),
    TrainId.PERSON: (220, 20, 60),
    TrainId.RIDER: (255, 0, 0),
    TrainId.CAR: (0, 0, 142),
    TrainId.TRUCK: (0, 0, 70),
    TrainId.BUS: (0, 60, 100),
    TrainId.TRAIN: (0, 80, 100),
    TrainId.MOTORCYCLE: (0, 0, 230),
    TrainId.BICYCLE: (119, 11, 32),
}

CLASSES: tuple[tuple[str, tuple[int, int, int]], ...] = tuple(
    (train_id.name.lower().replace("_", " "), COLOURS[train_id]) for train_id in TrainId
)
"""Name and RGB colour; the index is the train id."""

UNLABELLED = 255


def palette() -> np.ndarray:
    """uint8 (256, 3): the RGB colour of every label; black for those that are no class."""
    colours = np.zeros((256, 3), np.uint8)
    colours[: len(CLASSES)] = [colour for _, colour in CLASSES]
    return colours
