"""The preset `fast`: takes streaks off first, finds depth and fog in the features of a trunk that ImageNet
taught, and corrects the image affinely, guided by depth at every scale.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rain_removal_ros.network.blocks import (
    FOLD,
    DepthGuidedTransform,
    Estimate,
    GlobalContext,
    GlobalEstimate,
    ResidualBlock,
    Upsample,
    Weather,
    as_weights,
    fold,
    gate,
    mean_over_map,
    pixels_per_metre,
    start_at_zero,
    unfold,
    upsample_bilinear,
)
from rain_removal_ros.network.efficientnet_lite import EfficientNetLite
from rain_removal_ros.network.presets import STRIDE, DerainPreset
from rain_removal_ros.network.streaks import Streaks, StreakStage


class DepthHead(nn.Module):
    """Pixels per metre at 1/4 of the image from the trunk's features, and the depth features of every scale
    on the way.
    """

    def __init__(self, trunk_channels: tuple[int, ...], channels: int):
        super().__init__()
        self.lateral = nn.ModuleList(nn.Conv2d(width, channels, 1) for width in trunk_channels)
        self.refine = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in trunk_channels)
        self.output = nn.Conv2d(channels, 1, 3, padding=1)

    def forward(self, features: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Trunk features, finest (1/4) first -> pixels per metre (N, 1, H/4, W/4), depth features finest
        first.
        """
        depth_features: list[Tensor] = []
        for level in reversed(range(len(features))):
            z = self.lateral[level](features[level])
            if depth_features:
                z = z + upsample_bilinear(depth_features[0], 2)
            depth_features.insert(0, F.relu(self.refine[level](F.relu(z))))
        return pixels_per_metre(self.output(depth_features[0])), depth_features


class Fog(NamedTuple):
    """The fog of a whole image, float32 (N, 1, 1, 1) each."""

    logit: Tensor  # of whether there is any
    airlight: Tensor  # A0 in [0, 1]
    root: Tensor  # the cube root of extinction times focal length in pixels


class Atmosphere(nn.Module):
    """The fog of a whole image, from the trunk's coarsest features."""

    def __init__(self, channels: int):
        super().__init__()
        self.estimate = GlobalEstimate(channels, start=(0.0, 1.73, 1.0))  # airlight 0.85

    def forward(self, x: Tensor) -> Fog:
        """Features (N, C, H, W) -> Fog."""
        logit, airlight, root = self.estimate(x).split(1, dim=1)
        return Fog(logit, torch.sigmoid(airlight), root)


class FastDerainNetwork(nn.Module):
    """A streak stage, then a trunk on the streak-free image at half its size, a depth head, and an image head
    whose features depth transforms at 1/16, 1/8 and 1/4.

    The imaging model O = I (1 - R - A) + R + A0 A makes the clean image affine in the rainy one. Without
    streaks, I - O = (1 / t - 1) (O - A0), where t = 1 - A is the fog's transmission. So the network estimates
    the airlight A0, one number for the image, and the head gives a gain, which brings back the contrast about
    the airlight that fog took, full detail and all, and an offset, the same for R, G and B: fog is grey, and
    what has no colour paints none. A gate for the whole image says whether
    there is fog at all. Where fog left nothing, nothing is painted: training asks for a calm guess there.
    """

    stride = STRIDE
    averaged: Tensor  # (3, 12): takes a folded image to the mean of its pixels

    def __init__(self, preset: DerainPreset):
        super().__init__()
        self.preset = preset
        channels = preset.channels
        self.streaks = StreakStage(preset.streak_channels, preset.streak_depths)
        self.trunk = EfficientNetLite(preset.trunk, preset.trunk_blocks)
        trunk_channels = self.trunk.channels
        self.context = GlobalContext(trunk_channels[-1])
        self.depth_head = DepthHead(trunk_channels, preset.depth_channels)
        self.atmosphere = Atmosphere(trunk_channels[-1])
        self.lateral = nn.ModuleList(
            nn.Conv2d(inputs, width, 1) for inputs, width in zip(trunk_channels, channels, strict=True)
        )
        self.up = nn.ModuleList(Upsample(channels[i + 1], channels[i]) for i in range(3))
        self.guide = nn.ModuleList(
            DepthGuidedTransform(preset.depth_channels, channels[i], trunk_channels[-1])
            if preset.depth_guided
            else nn.Identity()
            for i in range(3)
        )
        self.stages = nn.ModuleList(
            nn.Sequential(*(ResidualBlock(width) for _ in range(depth)))
            for width, depth in zip(channels, preset.depths, strict=True)
        )
        fine = preset.fine_channels
        self.up_fine = Upsample(channels[0], fine)
        self.detail = nn.Conv2d(3 * FOLD**2, fine, 3, padding=1)
        self.fine = nn.Sequential(*(ResidualBlock(fine) for _ in range(preset.fine_depth)))
        self.output = start_at_zero(nn.Conv2d(fine, 2 * FOLD**2, 3, padding=1))  # gains, then offsets
        averaged = torch.eye(3).repeat_interleave(FOLD**2, dim=1) / FOLD**2
        self.register_buffer("averaged", averaged, persistent=False)

    def forward(self, image: Tensor) -> Estimate:
        """(N, 3, H, W) RGB in [0, 1], best in float32 -> Estimate."""
        estimate = self.forward_folded(fold(image))
        return estimate._replace(correction=unfold(estimate.correction))

    def depth(self, image: Tensor) -> Tensor:
        """Pixels per metre alone, without what only the image needs."""
        return self.depth_folded(fold(image))

    def find_streaks(self, image: Tensor) -> Streaks:
        """The streaks of an image (N, 3, H, W)."""
        streaks = self.streaks(fold(image.float()))
        return streaks._replace(light=unfold(streaks.light))

    def find_depth(self, image: Tensor) -> Tensor:
        """Streak-free image (N, 3, H, W) -> pixels per metre (N, 1, H/4, W/4)."""
        return self._depth_of_cleared(fold(image.float()))

    def clear_fog(self, image: Tensor) -> tuple[Tensor, Tensor, Fog]:
        """Streak-free image (N, 3, H, W) -> correction float32 (N, 3, H, W), pixels per metre (N, 1, H/4,
        W/4), and the fog.
        """
        correction, depth, fog = self._clear_fog(fold(image.float()))
        return unfold(correction), depth, fog

    def forward_folded(self, folded: Tensor) -> Estimate:
        """As `forward`, of a folded image, which is what the network computes with from end to end: the
        correction is folded, too.
        """
        folded = folded.float()
        streaks = self.streaks(folded)
        correction, depth, fog = self._clear_fog(folded - streaks.light)
        weather = Weather(
            rain=gate(streaks.rain_logit).flatten(),
            streaks=streaks.light.mean(dim=(1, 2, 3)),
            fog=gate(fog.logit).flatten(),
            extinction=extinction_of_root(fog.root).flatten() * gate(fog.logit).flatten(),
        )
        return Estimate(correction - streaks.light, depth, weather)

    def depth_folded(self, folded: Tensor) -> Tensor:
        """As `depth`, of a folded image."""
        folded = folded.float()
        return self._depth_of_cleared(folded - self.streaks(folded).light)

    def _depth_of_cleared(self, cleared: Tensor) -> Tensor:
        return self.depth_head(self._features(as_weights(self, cleared)))[0]

    def _features(self, cleared: Tensor) -> list[Tensor]:
        """Of the image at half its size, each pixel the mean of 2x2."""
        *finer, coarsest = self.trunk(F.conv2d(cleared, self.averaged[:, :, None, None]))
        return [*finer, self.context(coarsest)]

    def _clear_fog(self, cleared: Tensor) -> tuple[Tensor, Tensor, Fog]:
        """As `clear_fog`, of a folded image in float32, correction folded."""
        as_taken = as_weights(self, cleared)
        features = self._features(as_taken)
        depth, depth_features = self.depth_head(features)
        fog = self.atmosphere(features[3])
        whole = mean_over_map(features[3])
        x = self.stages[3](self.lateral[3](features[3]))
        for level in (2, 1, 0):
            x = self.up[level](x) + self.lateral[level](features[level])
            if self.preset.depth_guided:
                x = self.guide[level](x, depth_features[level], whole)
            x = self.stages[level](x)
        x = self.fine(self.up_fine(x) + self.detail(as_taken))
        gain, offset = self._affine(x).float().chunk(2, dim=1)
        # the gate learns from whether there is fog alone: the image's loss would half shut it at first
        correction = gate(fog.logit.detach()) * ((cleared - fog.airlight) * gain + offset)
        return correction, depth, fog

    def _affine(self, x: Tensor) -> Tensor:
        """Gain and offset of every pixel, (N, 24, H/2, W/2): the same for R, G and B, so the output layer's
        weights stand for all three.
        """

        def for_each_colour(parameter: Tensor) -> Tensor:
            of_pixels = parameter.unflatten(0, (2, 1, FOLD**2))
            return of_pixels.expand(2, 3, *of_pixels.shape[2:]).flatten(0, 2)

        weight, bias = (for_each_colour(parameter) for parameter in (self.output.weight, self.output.bias))
        return F.conv2d(x, weight, bias, padding=1)


def extinction_of_root(root: Tensor) -> Tensor:
    """Extinction times focal length in pixels, from its cube root, which the network estimates."""
    return root.clamp(min=0) ** 3
