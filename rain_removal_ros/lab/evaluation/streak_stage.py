"""The streak stage of a derain network alone: what it makes of a rainy image, all fog left."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

import rain_removal_ros.lab.baselines  # noqa: F401  weights of the networks to compare with can be loaded
from rain_removal_ros.lab.evaluation.judges import openvino_function, padded
from rain_removal_ros.network import load_network


class _WithoutStreaks(nn.Module):
    def __init__(self, network: Any):
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        return image - self.network.find_streaks(image).light


class StreakStageAlone:
    """uint8 (H, W, 3) RGB -> the same less the streaks that the network's stage finds, in float32."""

    def __init__(self, network: nn.Module):
        self._run = openvino_function(_WithoutStreaks(network).eval().requires_grad_(False))

    def __call__(self, image: np.ndarray) -> np.ndarray:
        larger, inside = padded(image)
        batch = np.ascontiguousarray(larger.transpose(2, 0, 1), np.float32)[None] / np.float32(255)
        cleared = self._run(batch)[0].transpose(1, 2, 0)[inside]
        return np.clip(255 * cleared + np.float32(0.5), 0, 255).astype(np.uint8)


def streak_stage_of(weights: Path) -> StreakStageAlone | None:
    """The streak stage of a weights file, None where its network has none. Raises WeightsError."""
    network, _ = load_network(weights)
    return StreakStageAlone(network) if hasattr(network, "find_streaks") else None
