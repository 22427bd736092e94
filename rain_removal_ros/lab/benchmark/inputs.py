"""What is measured with: images, and networks with packaged weights or random ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn

import rain_removal_ros.lab.baselines  # noqa: F401  weights of the networks to compare with can be loaded
from rain_removal_ros.network import build_network, save_network
from rain_removal_ros.network.presets import Preset
from rain_removal_ros.runtime import Output
from rain_removal_ros.share import packaged_weights

FRAME = (Output.IMAGE, Output.INVERSE_DEPTH)
"""What is asked of every frame."""


def random_network(preset: Preset | str, seed: int = 0) -> nn.Module:
    """A network in evaluation mode with random weights in every layer, zero-initialised ones too.

    For latency, which does not depend on the weights, and for tests.
    """
    torch.manual_seed(seed)
    network = build_network(preset)
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and not module.weight.any():
            module.weight.data.normal_(0, 0.02)
    return network.eval()


def street_like(height: int, width: int, seed: int = 0) -> np.ndarray:
    """uint8 (H, W, 3): a bright sky over a dark road with smooth shading, texture and thin bright streaks."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[0 : 1 : 1j * height, 0 : 1 : 1j * width]
    shading = 220 - 170 * rows + 25 * np.sin(9 * columns + 4 * rows)
    image = shading[..., None] * np.array([0.9, 0.95, 1.0]) + random.normal(0, 6, (height, width, 3))
    image[:, random.random(width) < 0.05] += 60
    return np.clip(image, 0, 255).astype(np.uint8)


def weights_of(preset: str, folder: Path) -> tuple[Path, str]:
    """A weights file of a preset, and whether it is the packaged one or a random one written to `folder`."""
    packaged = packaged_weights(preset)
    if packaged.is_file():
        return packaged, "packaged"
    path = folder / f"{preset}.safetensors"
    save_network(random_network(preset), path, {"note": "random weights for a benchmark"})
    return path, "random"
