"""Maps as pictures that people look at. Knows arrays only."""

from __future__ import annotations

import cv2
import numpy as np

BRIGHTEST = 0.35
"""Inverse depth in 1/m from which on everything is drawn alike: what is nearer than three metres."""


def colour_inverse_depth(inverse_depth: np.ndarray) -> np.ndarray:
    """float (H, W) in 1/m -> uint8 (H, W, 3) RGB on a fixed scale: near is bright yellow, far is dark blue.

    The square root spreads the distances that matter on a road (5 to 100 m) over most of the colours.
    """
    share = np.sqrt(np.clip(inverse_depth / np.float32(BRIGHTEST), 0, 1))
    coloured = cv2.applyColorMap((255 * share).astype(np.uint8), cv2.COLORMAP_CIVIDIS)
    return cv2.cvtColor(coloured, cv2.COLOR_BGR2RGB)
