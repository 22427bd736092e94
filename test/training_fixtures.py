"""What the tests of training share: a tiny street, and settings for runs of a few steps on it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import cv2
import numpy as np
from runtime_fixtures import TINY

from rain_removal_ros.lab.data.datasets import FolderDataset
from rain_removal_ros.lab.training.samples import SampleSettings
from rain_removal_ros.lab.training.settings import TrainingSettings

SMALL = SampleSettings(size=64, pictures=3)
PLAIN = dataclasses.replace(
    SMALL,
    lookalike_share=0,
    light_share=0,
    blur_share=0,
    noise_share=0,
    sharpened_share=0,
    jpeg_share=0,
    exposure_share=0,
    rendered_share=0,
)
"""As a camera without faults takes it, in the light that it came in."""


def write_street(root: Path) -> FolderDataset:
    """Three small views with depth and labels."""
    generator = np.random.default_rng(0)
    for folder in ("image", "inverse_depth", "labels"):
        (root / folder).mkdir()
    for index in range(3):
        image = cv2.resize(generator.integers(0, 256, (9, 12, 3), dtype=np.uint8), (128, 96))
        code = np.linspace(0, 255, 96, dtype=np.uint8)[:, None].repeat(128, axis=1)
        cv2.imwrite(str(root / "image" / f"view_{index}.png"), image)
        cv2.imwrite(str(root / "inverse_depth" / f"view_{index}.png"), code)
        cv2.imwrite(str(root / "labels" / f"view_{index}.png"), np.where(code > 128, 0, 10).astype(np.uint8))
    return FolderDataset(root)


def settings(**changes) -> TrainingSettings:
    """Those of a run of six steps, but for the changes."""
    base = TrainingSettings(TINY, steps=6, batch=2, precision="no", samples=SMALL)
    return dataclasses.replace(base, **changes)
