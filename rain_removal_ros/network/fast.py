"""The preset `fast`: takes streaks off at 1/2 of the image, restores the rest at 1/4, guided by depth at
every scale, and corrects the image affinely.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rain_removal_ros.network.blocks import (
    ConvNorm,
    DepthGuidedTransform,
    FarPattern,
    GlobalContext,
    GlobalEstimate,
    Upsample,
    as_weights,
    far_light,
    restore_far_pattern,
)
from rain_removal_ros.network.encoder import STRIDE, Encoder, stage_block
from rain_removal_ros.network.presets import MAX_INVERSE_DEPTH, DerainPreset
from rain_removal_ros.network.streaks import StreakStage


class DepthHead(nn.Module):
    """Inverse depth at 1/4 of the image from the encoder's features, and the depth features of every scale on
    the way.
    """

    def __init__(self, encoder_channels: tuple[int, ...], channels: int):
        super().__init__()
        self.lateral = nn.ModuleList(ConvNorm(width, channels, 1) for width in encoder_channels)
        self.refine = nn.ModuleList(ConvNorm(channels, channels) for _ in encoder_channels)
        self.output = nn.Conv2d(channels, 1, 3, padding=1)

    def forward(self, features: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Encoder features, finest first -> inverse depth (N, 1, H/4, W/4) in 1/m, depth features finest
        first.
        """
        depth_features: list[Tensor] = []
        for level in reversed(range(len(features))):
            z = self.lateral[level](features[level])
            if depth_features:
                z = z + F.interpolate(
                    depth_features[0], scale_factor=2.0, mode="bilinear", align_corners=False
                )
            depth_features.insert(0, F.relu(self.refine[level](F.relu(z))))
        return MAX_INVERSE_DEPTH * torch.sigmoid(self.output(depth_features[0])), depth_features


class FastDerainNetwork(nn.Module):
    """A streak stage, then encoder, depth head, and an image head whose features depth transforms at 1/16,
    1/8 and 1/4 of the image.

    The imaging model O = I (1 - R - A) + R + A0 A makes the clean image affine in the rainy one. Without
    streaks, I - O = (1 / t - 1) (O - A0), where t = 1 - A is the fog's transmission. So the network estimates
    the airlight A0, one number for the image, and the head gives a gain, which brings back the contrast about
    the airlight that fog took, full detail and all, and an offset, which takes away what else is left of
    rain; sixteen pixels of each at once through PixelShuffle.

    Of a sky, fog of the stronger kinds leaves 5 % and 1 %, which no feature of the image shows. So where
    depth is farthest, what is left is measured in float32: the head's finest stage is given it at full
    strength (`FarPattern`), and it takes the place of what the head guesses (`restore_far_pattern`).
    """

    stride = STRIDE

    def __init__(self, preset: DerainPreset):
        super().__init__()
        self.preset = preset
        channels = preset.channels
        if preset.streak_channels:
            self.streaks = StreakStage(preset.streak_channels)
        self.encoder = Encoder(channels, preset.encoder_depths, preset.mlp_ratio)
        self.context = GlobalContext(channels[-1])
        self.depth_head = DepthHead(channels, preset.depth_channels)
        self.up = nn.ModuleList(Upsample(channels[i + 1], channels[i]) for i in range(3))
        self.guide = nn.ModuleList(
            DepthGuidedTransform(preset.depth_channels, channels[i]) if preset.depth_guided else nn.Identity()
            for i in range(3)
        )
        self.stages = nn.ModuleList(
            nn.Sequential(
                *(stage_block(channels[i], i, preset.mlp_ratio) for _ in range(preset.decoder_depths[i]))
            )
            for i in range(3)
        )
        self.airlight = GlobalEstimate(channels[-1], start=0.85)
        if preset.depth_guided:
            self.far_pattern = FarPattern(channels[0])
        self.output = nn.Conv2d(channels[0], 4 * 16, 3, padding=1)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def depth(self, image: Tensor) -> Tensor:
        """Inverse depth alone, without what only the image needs."""
        image = image.float()
        if self.preset.streak_channels:
            image = image - self.streaks(image)
        return self.depth_head(self._features(image))[0]

    def _features(self, image: Tensor) -> list[Tensor]:
        *finer, coarsest = self.encoder(as_weights(self, image))
        return [*finer, self.context(coarsest)]

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """(N, 3, H, W) RGB in [0, 1], best in float32 -> correction float32 (N, 3, H, W), to be added to the
        image; inverse depth (N, 1, H/4, W/4) in 1/m.
        """
        image = image.float()
        streaks = self.streaks(image) if self.preset.streak_channels else None
        return self.restore(image, streaks)

    def restore(self, image: Tensor, streaks: Tensor | None) -> tuple[Tensor, Tensor]:
        """What `forward` gives, where the light of the streaks (N, 3, H, W) is known, float32 both."""
        features = self._features(image if streaks is None else image - streaks)
        inverse_depth, depth_features = self.depth_head(features)
        if self.preset.depth_guided:
            far = far_light(F.avg_pool2d(image, 4), inverse_depth)
        x = features[3]
        for level in (2, 1, 0):
            x = self.up[level](x) + features[level]
            if self.preset.depth_guided:
                x = self.guide[level](x, depth_features[level])
                if level == 0:
                    x = x + self.far_pattern(far)
            x = self.stages[level](x)
        affine = F.pixel_shuffle(self.output(x), 4).float()
        gain, offset = affine[:, :1], affine[:, 1:]
        contrast = image - self.airlight(features[3]).float()
        if streaks is None:
            correction = contrast * gain + offset
        else:
            correction = (contrast - streaks) * gain + offset - streaks
        if self.preset.depth_guided:
            correction = restore_far_pattern(image, correction, inverse_depth, far)
        return correction, inverse_depth
