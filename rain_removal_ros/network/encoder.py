"""The four-stage encoder of MetaFormer blocks that restoration and segmentation share."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F

from rain_removal_ros.network.blocks import ConvNorm, MetaFormerBlock, ResidualBlock

STRIDE = 32
"""Width and height of what the networks take are multiples of this."""


def stage_block(channels: int, stage: int, mlp_ratio: int) -> nn.Module:
    """Dense residual blocks at 1/4 of the image (stage 0), MetaFormer blocks below it."""
    return ResidualBlock(channels) if stage == 0 else MetaFormerBlock(channels, mlp_ratio=mlp_ratio)


class Encoder(nn.Module):
    """Features at 1/4, 1/8, 1/16 and 1/32 of the image, from 4x4 pixels laid into channels (no full-size map
    is made).
    """

    def __init__(self, channels: tuple[int, ...], depths: tuple[int, ...], mlp_ratio: int):
        super().__init__()
        self.stem = ConvNorm(48, channels[0])
        self.down = nn.ModuleList(
            ConvNorm(inputs, outputs, 3, stride=2) for inputs, outputs in pairwise(channels)
        )
        self.stages = nn.ModuleList(
            nn.Sequential(*(stage_block(width, stage, mlp_ratio) for _ in range(depth)))
            for stage, (width, depth) in enumerate(zip(channels, depths, strict=True))
        )

    def forward(self, image: Tensor) -> list[Tensor]:
        """(N, 3, H, W) in [0, 1], H and W multiples of STRIDE -> features, finest first."""
        features = [self.stages[0](F.relu(self.stem(F.pixel_unshuffle(image, 4))))]
        for down, stage in zip(self.down, list(self.stages)[1:], strict=True):
            features.append(stage(down(features[-1])))
        return features
