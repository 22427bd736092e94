"""The segmentation network: the node's mask, frozen in the semantic loss and, on another trunk and trained
apart, the judge of the evaluation.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from rain_removal_ros.network.blocks import upsample_bilinear
from rain_removal_ros.network.efficientnet_lite import EfficientNetLite
from rain_removal_ros.network.presets import STRIDE, SegmentationPreset

CLASSES = 19
"""Cityscapes train ids."""


class Decoder(nn.Module):
    """Sums every scale at 1/4 of the image and classifies there."""

    def __init__(self, channels: tuple[int, ...], width: int):
        super().__init__()
        self.lateral = nn.ModuleList(nn.Conv2d(inputs, width, 1) for inputs in channels)
        self.refine = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in channels)
        self.classify = nn.Conv2d(width, CLASSES, 1)

    def forward(self, features: list[Tensor]) -> Tensor:
        """Features, finest first -> logits (N, 19, H/4, W/4)."""
        x = None
        for level in reversed(range(len(features))):
            lateral = self.lateral[level](features[level])
            x = lateral if x is None else lateral + upsample_bilinear(x, 2)
            x = F.relu(self.refine[level](F.relu(x)))
        return self.classify(x)


class SegmentationNetwork(nn.Module):
    """EfficientNet-Lite's features at 1/4 to 1/32 of the image and a light decoder."""

    stride = STRIDE

    def __init__(self, preset: SegmentationPreset):
        super().__init__()
        self.preset = preset
        self.trunk = EfficientNetLite(preset.trunk)
        self.decoder = Decoder(self.trunk.channels[1:], preset.decoder_channels)

    def features_and_logits(self, image: Tensor) -> tuple[list[Tensor], Tensor]:
        """(N, 3, H, W) RGB in [0, 1] -> the trunk's features, at 1/2 first, and the logits (N, 19, H/4,
        W/4).
        """
        features = self.trunk(image)
        return features, self.decoder(features[1:])

    def forward(self, image: Tensor) -> Tensor:
        """(N, 3, H, W) RGB in [0, 1] -> logits (N, 19, H/4, W/4)."""
        return self.features_and_logits(image)[1]
