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
    WeatherEstimate,
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
from rain_removal_ros.network.presets import (
    FARTHEST_PIXELS_PER_METRE,
    LEAST_PIXELS_PER_METRE,
    STRIDE,
    DerainPreset,
)
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
    root: Tensor  # the cube root of extinction times focal length in pixels
    airlight: Tensor  # A0, in [0, 1] but for errors


BLOCK = 4
"""Places a side, each the mean of as many pixels a side again, whose range a block's statistics tell."""


def darkness(folded: Tensor) -> Tensor:
    """Folded image (N, 12, H/2, W/2) in float32 -> (N, 12, H/32, W/32): of each block and colour the mean,
    the least and the greatest of 1 - I over means of 8x8 pixels, and the greatest over single pixels: the
    shadows of near things, which fog leaves dark and stray light does not.

    How bright the light of a fog is, to a grey level, decides what is behind it, and a trunk that was taught
    to know things whatever their light does not tell. In 1 - I half precision is fine where fog is.
    """
    places = 1 - F.avg_pool2d(folded, BLOCK).unflatten(1, (3, FOLD**2)).mean(dim=2)
    least = -F.max_pool2d(-places, BLOCK)
    darkest = F.max_pool2d(1 - folded, BLOCK**2).unflatten(1, (3, FOLD**2)).amax(dim=2)
    return torch.cat([F.avg_pool2d(places, BLOCK), least, F.max_pool2d(places, BLOCK), darkest], dim=1)


class Atmosphere(nn.Module):
    """The fog of a whole image, from the trunk's coarsest features, the light that blocks of pixels show, and
    how far away they are.

    The airlight is the light of places that are picked out, a sky or a street's far end, and a little more
    or less. How thick a fog looks does not change with the size of the image, but extinction times focal
    length does: what is estimated is how thick the fog is where things mostly are, and depth says where that
    is.
    """

    LOOKS, SUMMARY = 4, 96

    def __init__(self, channels: int):
        super().__init__()
        self.estimate = GlobalEstimate(
            channels + 13, start=(0.0, 1.0, 0.0), hidden=self.SUMMARY, looks=self.LOOKS
        )

    def forward(self, x: Tensor, dark: Tensor, depth: Tensor) -> tuple[Fog, Tensor]:
        """Features (N, C, H/32, W/32), `darkness` (N, 12, H/32, W/32), pixels per metre (N, 1, H/4, W/4),
        which this does not teach -> Fog, and what is known of the whole image (N, SUMMARY, 1, 1).
        """
        near = F.avg_pool2d(depth.detach().float(), 8)
        logarithm = torch.log(near + LEAST_PIXELS_PER_METRE)
        weight = near / (near + FARTHEST_PIXELS_PER_METRE)  # a sky is nowhere
        typical = mean_over_map(weight * logarithm) / mean_over_map(weight).clamp(min=1e-3)
        seen = torch.cat([x, (4 * dark).to(x.dtype), (logarithm - typical).to(x.dtype)], dim=1)
        evidence = self.estimate.find(seen)
        places = self.estimate.places(evidence)
        assert places is not None  # there are LOOKS
        summary = self.estimate.summary(evidence, places)
        logit, root, more = self.estimate.read(summary).split(1, dim=1)
        light = 1 - dark[:, :3].mean(dim=1, keepdim=True).flatten(2)  # (N, 1, H W) of H/32 x W/32 places
        picked = (places[:, :1] * light).sum(dim=2)[:, :, None, None]
        root = root * torch.exp(typical / 3)
        return Fog(logit, root, picked + 0.1 * more), summary


MOST_THICKNESS = 2.2
"""Of what the veil tells: a ninth of the light is left."""


class Veil(nn.Module):
    """What fog of the estimated thickness and light would make of what is seen at the estimated depth, as
    features beside others: a hint, for what is far is known too badly to go by it alone. Starts as nothing.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.hint = start_at_zero(nn.Conv2d(5, channels, 3, padding=1))

    def forward(self, cleared: Tensor, depth: Tensor, fog: Fog, dtype: torch.dtype) -> Tensor:
        """Folded image in float32, pixels per metre (N, 1, H/4, W/4) -> features (N, C, H/4, W/4). Depth and
        fog are taught by their own truth alone.
        """
        depth = depth.detach().float().clamp(min=FARTHEST_PIXELS_PER_METRE)
        thickness = extinction_of_root(fog.root.detach()) / depth
        left = torch.exp(-thickness.clamp(max=MOST_THICKNESS))
        gain = 1 / left - 1
        airlight = fog.airlight.detach()
        contrast = F.avg_pool2d(cleared, 2).mean(dim=1, keepdim=True) - airlight
        hints = [left, 0.25 * gain, 8 * contrast, gain * contrast, (8 * airlight - 6.4).expand_as(left)]
        return self.hint(torch.cat(hints, dim=1).to(dtype))


class FastDerainNetwork(nn.Module):
    """A streak stage, then a trunk on the streak-free image at half its size, a depth head, and an image head
    whose features depth transforms at 1/16, 1/8 and 1/4.

    The imaging model O = I (1 - R - A) + R + A0 A makes the clean image affine in the rainy one. Without
    streaks, I - O = (1 / t - 1) (O - A0), where t = 1 - A is the fog's transmission. So the head gives a
    gain, which brings back the contrast to the airlight that fog took, full detail and all, and an offset,
    the same for R, G and B: fog is grey, and what has no colour paints none. Airlight A0 and extinction, two
    numbers for the image, are estimated and taught; what fog of these would leave at each depth guides the
    head. A level of its own that nothing teaches, in the airlight's place, drifts with how much of a view an
    image shows, and whole images come out brighter than the crops of training. A gate for
    the whole image says whether there is fog at all. Where fog left nothing, nothing is painted: training
    asks for a calm guess there.
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
        self.veil = Veil(channels[0]) if preset.depth_guided else None
        self.lateral = nn.ModuleList(
            nn.Conv2d(inputs, width, 1) for inputs, width in zip(trunk_channels, channels, strict=True)
        )
        self.up = nn.ModuleList(Upsample(channels[i + 1], channels[i]) for i in range(3))
        self.guide = nn.ModuleList(
            DepthGuidedTransform(preset.depth_channels, channels[i], trunk_channels[-1] + Atmosphere.SUMMARY)
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
        weather = WeatherEstimate(
            rain_gate=gate(streaks.rain_logit).flatten(),
            streak_light=streaks.light.mean(dim=(1, 2, 3)),
            extinction_px=extinction_of_root(fog.root).flatten() * gate(fog.logit).flatten(),
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
        fog, summary = self.atmosphere(features[3], darkness(cleared), depth)
        whole = torch.cat([mean_over_map(features[3]), summary], dim=1)
        x = self.stages[3](self.lateral[3](features[3]))
        for level in (2, 1, 0):
            x = self.up[level](x) + self.lateral[level](features[level])
            if self.preset.depth_guided:
                x = self.guide[level](x, depth_features[level], whole)
            if level == 0 and self.veil is not None:
                x = x + self.veil(cleared, depth, fog, x.dtype)
            x = self.stages[level](x)
        x = self.fine(self.up_fine(x) + self.detail(as_taken))
        gain, offset = self._affine(x).float().chunk(2, dim=1)
        # the gate learns from whether there is fog alone: the image's loss would half shut it at first
        correction = gate(fog.logit.detach()) * ((cleared - fog.airlight.detach()) * gain + offset)
        return correction, depth, fog

    def _affine(self, x: Tensor) -> Tensor:
        """Gain and offset of every pixel, (N, 24, H/2, W/2): the same for R, G and B, so the output layer's
        weights stand for all three.
        """

        def for_each_colour(parameter: Tensor) -> Tensor:
            of_pixels = parameter.unflatten(0, (2, 1, FOLD**2))
            return of_pixels.expand(2, 3, *of_pixels.shape[2:]).flatten(0, 2)

        weight, bias = (for_each_colour(self.output.get_parameter(name)) for name in ("weight", "bias"))
        return F.conv2d(x, weight, bias, padding=1)


def extinction_of_root(root: Tensor) -> Tensor:
    """Extinction times focal length in pixels, from its cube root, which the network estimates."""
    return root.clamp(min=0) ** 3
