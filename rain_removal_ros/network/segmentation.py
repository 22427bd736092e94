"""The segmentation network of the family: frozen in the semantic loss, a judge in the evaluation, and the
node's mask.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from rain_removal_ros.network.blocks import ConvNorm, upsample_bilinear
from rain_removal_ros.network.encoder import STRIDE, Encoder
from rain_removal_ros.network.presets import SegmentationPreset

CLASSES = 19
"""Cityscapes train ids."""


class Decoder(nn.Module):
    """Sums every scale at 1/4 of the image and classifies there."""

    def __init__(self, channels: tuple[int, ...], width: int):
        super().__init__()
        self.lateral = nn.ModuleList(ConvNorm(inputs, width, 1) for inputs in channels)
        self.refine = nn.ModuleList(ConvNorm(width, width) for _ in channels)
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
    """The family's encoder and a light decoder."""

    stride = STRIDE

    def __init__(self, preset: SegmentationPreset):
        super().__init__()
        self.preset = preset
        self.encoder = Encoder(preset.channels, preset.encoder_depths, preset.mlp_ratio)
        self.decoder = Decoder(preset.channels, preset.decoder_channels)

    def forward(self, image: Tensor) -> Tensor:
        """(N, 3, H, W) RGB in [0, 1] -> logits (N, 19, H/4, W/4)."""
        return self.decoder(self.encoder(image))
