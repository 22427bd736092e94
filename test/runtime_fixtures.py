"""Weights files and frames for the runtime's tests: networks that compute something without training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn

from rain_removal_ros.network import PRESETS, build_network, save_network
from rain_removal_ros.network.presets import DerainPreset, Preset, SegmentationPreset

TINY = DerainPreset("fast", "fast", (16, 24, 24, 32), (1, 1, 1, 1), (1, 1, 1), mlp_ratio=2, depth_channels=8)
TINY_SEGMENTATION = SegmentationPreset("segmentation", (16, 24, 24, 32), (1, 1, 1, 1), 16, mlp_ratio=2)


def random_network(preset: Preset | str, seed: int = 0) -> nn.Module:
    """A network in evaluation mode whose zero layers got values, so that every layer reaches the output."""
    torch.manual_seed(seed)
    network = build_network(PRESETS[preset] if isinstance(preset, str) else preset)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1)
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
        elif isinstance(module, nn.Conv2d) and not module.weight.any():
            module.weight.data.normal_(0, 0.02)
    return network.eval()


def write_weights(path: Path, preset: Preset | str = TINY, seed: int = 0) -> Path:
    """A weights file of such a network."""
    save_network(random_network(preset, seed), path, {})
    return path


def street_like(height: int, width: int, seed: int = 0) -> np.ndarray:
    """uint8 (H, W, 3): a bright sky over a dark road with smooth shading, texture and thin bright streaks."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[0 : 1 : 1j * height, 0 : 1 : 1j * width]
    shading = 220 - 170 * rows + 25 * np.sin(9 * columns + 4 * rows)
    image = shading[..., None] * np.array([0.9, 0.95, 1.0]) + random.normal(0, 6, (height, width, 3))
    image[:, random.random(width) < 0.05] += 60
    return np.clip(image, 0, 255).astype(np.uint8)
