"""Weights files for the runtime's tests: networks of every part that compute something without training."""

from __future__ import annotations

from pathlib import Path

from rain_removal_ros.lab.benchmark.benchmark import random_network, street_like
from rain_removal_ros.network import fold_batch_norms, save_network
from rain_removal_ros.network.presets import DerainPreset, Preset, SegmentationPreset

TINY = DerainPreset(
    "fast",
    "fast",
    (16, 24, 24, 32),
    (1, 1, 1, 1),
    (1, 1, 1),
    mlp_ratio=2,
    depth_channels=8,
    streak_channels=8,
)
TINY_SEGMENTATION = SegmentationPreset("segmentation", (16, 24, 24, 32), (1, 1, 1, 1), 16, mlp_ratio=2)

__all__ = ["TINY", "TINY_SEGMENTATION", "folded", "random_network", "street_like", "write_weights"]


def write_weights(path: Path, preset: Preset | str = TINY, seed: int = 0) -> Path:
    """A weights file of such a network."""
    save_network(random_network(preset, seed), path, {})
    return path


def folded(preset):
    """A folded random network. Everything lies at about one distance: where that is random, rounding decides
    what is farthest, and so what the far pattern is.
    """
    network = random_network(preset)
    if network.preset.family == "fast":
        network.depth_head.output.weight.data.mul_(0.001)
    return fold_batch_norms(network).requires_grad_(False)
