"""Weights files for the runtime's tests: networks of every part that compute something without training."""

from __future__ import annotations

from pathlib import Path

from rain_removal_ros.lab.benchmark.inputs import random_network, street_like
from rain_removal_ros.network import save_network
from rain_removal_ros.network.presets import DerainPreset, Preset, SegmentationPreset

TINY = DerainPreset(
    "fast",
    streak_channels=(8, 8),
    streak_depths=(1, 1, 1),
    trunk_blocks=6,
    channels=(16, 16, 16, 16),
    depths=(1, 1, 1, 1),
    fine_channels=8,
    depth_channels=8,
)
TINY_SEGMENTATION = SegmentationPreset("segmentation", decoder_channels=16)

__all__ = ["TINY", "TINY_SEGMENTATION", "frozen", "random_network", "street_like", "write_weights"]


def write_weights(path: Path, preset: Preset | str = TINY, seed: int = 0) -> Path:
    """A weights file of such a network."""
    save_network(random_network(preset, seed), path, {})
    return path


def frozen(preset):
    """A random network that nothing teaches."""
    return random_network(preset).requires_grad_(False)
