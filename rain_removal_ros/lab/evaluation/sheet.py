"""Sheets of pictures to look at: a row a view, as many columns as it has pictures. Knows arrays only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

COLUMN_WIDTH = 400
CAPTION_HEIGHT = 24


@dataclass(frozen=True)
class SheetRow:
    """Pictures of one view: uint8 (H, W, 3) RGB, any size, under one caption."""

    caption: str
    pictures: Sequence[np.ndarray]


def draw_sheet(rows: Sequence[SheetRow]) -> np.ndarray:
    """uint8 (H, W, 3) RGB: the rows under each other, every picture COLUMN_WIDTH wide."""
    columns = max(len(row.pictures) for row in rows)
    bands = []
    for row in rows:
        height, width = row.pictures[0].shape[:2]
        size = (COLUMN_WIDTH, max(1, round(height * COLUMN_WIDTH / width)))
        band = np.full((size[1] + CAPTION_HEIGHT, columns * COLUMN_WIDTH, 3), 24, np.uint8)
        for number, picture in enumerate(row.pictures):
            shrunk = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
            band[CAPTION_HEIGHT:, number * COLUMN_WIDTH : (number + 1) * COLUMN_WIDTH] = shrunk
        origin = (6, CAPTION_HEIGHT - 7)
        cv2.putText(band, row.caption, origin, cv2.FONT_HERSHEY_SIMPLEX, 0.5, (235,) * 3, 1, cv2.LINE_AA)
        bands.append(band)
    return np.concatenate(bands)
