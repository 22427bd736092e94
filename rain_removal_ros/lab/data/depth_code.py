"""Inverse depth as the 8-bit codes of the folder datasets: inverse depth = 0.7 (c / 255)^2 in 1/m."""

from __future__ import annotations

import numpy as np

LARGEST = 0.7
"""Inverse depth in 1/m of code 255; what is nearer has it too."""


def encode(inverse_depth: np.ndarray) -> np.ndarray:
    """Uint8 codes from float32 inverse depth in 1/m, of any shape; 0 stays the sky's alone."""
    codes = np.rint(255 * np.sqrt(np.clip(inverse_depth / LARGEST, 0, 1)))
    return np.where(inverse_depth > 0, np.maximum(codes, 1), 0).astype(np.uint8)


def decode(code: np.ndarray) -> np.ndarray:
    """float32 inverse depth in 1/m from uint8 codes, of any shape. Raises ValueError for another dtype."""
    if code.dtype != np.uint8:
        raise ValueError(f"codes of dtype {code.dtype}; uint8 is expected")
    return np.float32(LARGEST) * (code.astype(np.float32) / 255) ** 2
