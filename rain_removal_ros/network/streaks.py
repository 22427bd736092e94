"""The light of rain streaks, estimated at half and a quarter of the image's size before anything else is."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

from rain_removal_ros.network.blocks import (
    FOLD,
    GlobalEstimate,
    ResidualBlock,
    Upsample,
    as_weights,
    gate,
    start_at_zero,
)

DILATIONS = (1, 2, 4)
"""Of the residual blocks at a quarter of the size, in turn: together they see 80 pixels each way along a
streak.
"""


class Streaks(NamedTuple):
    """What a streak stage finds."""

    light: Tensor  # float32: what streaks add to the image in [0, 1], gated; folded where the image is
    rain_logit: (
        Tensor  # float32 (N, 1, 1, 1): whether it rains at all; its gate is what light is multiplied by
    )


class StreakStage(nn.Module):
    """Folded image (N, 12, H/2, W/2) in [0, 1] -> Streaks, their light folded likewise.

    In the imaging model O = I (1 - R - A) + R + A0 A streaks add R (1 - I) to what fog alone would show. A
    streak is a pixel or two wide, so none is averaged away before it is found; it is long,
    so dilated convolutions at a quarter of the size see along it. One gate for the whole image says whether
    it rains: thin bright things, markings, poles and wires, look like streaks, but rain is everywhere.
    Starts at zero.
    """

    def __init__(self, channels: tuple[int, int], depths: tuple[int, int, int]):
        super().__init__()
        fine, coarse = channels
        self.stem = nn.Conv2d(3 * FOLD**2, fine, 3, padding=1)
        self.before = nn.Sequential(*(ResidualBlock(fine) for _ in range(depths[0])))
        self.down = nn.Conv2d(fine, coarse, 2, stride=2)
        self.middle = nn.Sequential(
            *(ResidualBlock(coarse, DILATIONS[i % len(DILATIONS)]) for i in range(depths[1]))
        )
        self.rain = GlobalEstimate(coarse, start=(0.0,))
        self.up = Upsample(coarse, fine)
        self.after = nn.Sequential(*(ResidualBlock(fine) for _ in range(depths[2])))
        self.output = start_at_zero(nn.Conv2d(fine, 3 * FOLD**2, 3, padding=1))

    def forward(self, folded: Tensor) -> Streaks:
        fine = self.before(F.relu(self.stem(as_weights(self, folded))))
        coarse = self.middle(F.relu(self.down(fine)))
        rain_logit = self.rain(coarse)
        light = self.output(self.after(fine + self.up(coarse))).float()
        return Streaks(light * gate(rain_logit), rain_logit)
