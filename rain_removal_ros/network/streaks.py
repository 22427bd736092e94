"""The light of rain streaks, estimated at half the image's size before anything else is."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from rain_removal_ros.network.blocks import ConvNorm, as_weights

DILATIONS = (1, 2, 2, 1)
"""Of the convolutions between the first and the last one: together they see 34 pixels."""


class StreakStage(nn.Module):
    """(N, 3, H, W) in [0, 1] -> the light that streaks add to it, float32 (N, 3, H, W).

    In the imaging model O = I (1 - R - A) + R + A0 A streaks add R (1 - I) to what fog alone would show. A
    streak is a pixel or two wide, so this stage keeps every pixel apart: 2x2 of them laid into channels, few
    channels, convolutions that see along a streak. Starts at zero.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.stem = ConvNorm(12, channels)
        self.mix = nn.ModuleList(ConvNorm(channels, channels, dilation=dilation) for dilation in DILATIONS)
        self.output = nn.Conv2d(channels, 12, 3, padding=1)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def forward(self, image: Tensor) -> Tensor:
        x = F.relu(self.stem(F.pixel_unshuffle(as_weights(self, image), 2)))
        for mix in self.mix:
            x = x + F.relu(mix(x))
        return F.pixel_shuffle(self.output(x), 2).float()
