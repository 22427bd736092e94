"""Which pixels a figure is taken over.

A protocol is applied to every part of an example before anything sees it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import cv2
import numpy as np

from rain_removal_ros.lab.data.examples import Example


@dataclass(frozen=True)
class Protocol:
    """`picture` maps uint8 (H, W, 3) images, `field` (H, W) depth and labels, which must not be blended;
    `columns` is the share of an image's columns that is kept.
    """

    name: str
    description: str
    picture: Callable[[np.ndarray], np.ndarray]
    field: Callable[[np.ndarray], np.ndarray]
    columns: float = 1.0

    def example(self, example: Example) -> Example:
        """The example with all its parts put through the protocol."""
        clean = None if example.clean is None else self.picture(example.clean)
        focal_px = example.focal_px
        if focal_px is not None and example.clean is not None and clean is not None:
            focal_px *= clean.shape[1] / (self.columns * example.clean.shape[1])
        return replace(
            example,
            clean=clean,
            rainy=None if example.rainy is None else self.picture(example.rainy),
            inverse_depth=None if example.inverse_depth is None else self.field(example.inverse_depth),
            labels=None if example.labels is None else self.field(example.labels),
            focal_px=focal_px,
        )


def _same(array: np.ndarray) -> np.ndarray:
    return array


def _paper_window(array: np.ndarray) -> np.ndarray:
    height, width = array.shape[:2]
    return array[int(0.04 * height) : int(0.82 * height), int(0.05 * width) : int(0.99 * width)]


def _paper_picture(array: np.ndarray) -> np.ndarray:
    return cv2.resize(_paper_window(array), (512, 256), interpolation=cv2.INTER_AREA)


def _paper_field(array: np.ndarray) -> np.ndarray:
    return cv2.resize(_paper_window(array), (512, 256), interpolation=cv2.INTER_NEAREST_EXACT)


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol("full", "RGB uint8 at full resolution, no crop, data range 255", _same, _same),
        Protocol(
            "paper-crop",
            "the publication's: rainy and clean image cut to rows .04-.82 and columns .05-.99, resized to "
            "256x512 (area), "
            "then restored and compared as RGB uint8; comparable with the publication alone",
            _paper_picture,
            _paper_field,
            columns=0.94,
        ),
    )
}
