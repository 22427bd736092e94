"""The preset `paper`: the network of the publication (Huang & Li, Expert Systems with Applications 2025),
kept as a yardstick.

It follows the publication's figures and drawings: PoolFormer encoder, two decoders, one transform by depth at
full resolution with a single gamma and beta channel, output without a residual.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rain_removal_ros.network.blocks import Estimate, as_weights, upsample_bilinear
from rain_removal_ros.network.presets import MAX_PIXELS_PER_METRE, STRIDE, BaselinePreset


class LayerNormAll(nn.Module):
    """GroupNorm with one group, statistics in float32: a half-precision sum over a whole map overflows."""

    def __init__(self, channels: int, epsilon: float = 1e-5):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1, channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.epsilon = epsilon

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        centred = wide - wide.mean(dim=(1, 2, 3), keepdim=True)
        variance = centred.square().mean(dim=(1, 2, 3), keepdim=True)
        return (centred * torch.rsqrt(variance + self.epsilon)).to(x.dtype) * self.weight + self.bias


def separable(inputs: int, outputs: int) -> nn.Sequential:
    """Depthwise 3x3 and pointwise convolution."""
    return nn.Sequential(
        nn.Conv2d(inputs, inputs, 3, padding=1, groups=inputs), nn.Conv2d(inputs, outputs, 1)
    )


class PoolFormerBlock(nn.Module):
    """x + s1 (pool(norm(x)) - norm(x)), then x + s2 MLP(norm(x)), the MLP with a separable convolution
    inside.
    """

    def __init__(self, channels: int, mlp_ratio: int):
        super().__init__()
        hidden = mlp_ratio * channels
        self.norm_mixer = LayerNormAll(channels)
        self.pool = nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)
        self.norm_mlp = LayerNormAll(channels)
        self.mlp = nn.Sequential(
            nn.Conv2d(channels, hidden, 1),
            separable(hidden, hidden),
            nn.GELU(),
            nn.Conv2d(hidden, channels, 1),
        )
        self.scale_mixer = nn.Parameter(torch.full((1, channels, 1, 1), 1e-5))
        self.scale_mlp = nn.Parameter(torch.full((1, channels, 1, 1), 1e-5))

    def forward(self, x: Tensor) -> Tensor:
        normed = self.norm_mixer(x)
        x = x + self.scale_mixer * (self.pool(normed) - normed)
        return x + self.scale_mlp * self.mlp(self.norm_mlp(x))


class PaperEncoder(nn.Module):
    """Features at 1/4, 1/8, 1/16 and 1/32 of the image, finest first."""

    def __init__(self, channels: tuple[int, ...], depths: tuple[int, ...], mlp_ratio: int):
        super().__init__()
        self.embed = nn.ModuleList(
            nn.Conv2d(inputs, outputs, 7 if stage == 0 else 3, 4 if stage == 0 else 2, 3 if stage == 0 else 1)
            for stage, (inputs, outputs) in enumerate(zip((3, *channels[:-1]), channels, strict=True))
        )
        self.stages = nn.ModuleList(
            nn.Sequential(*(PoolFormerBlock(width, mlp_ratio) for _ in range(depth)))
            for width, depth in zip(channels, depths, strict=True)
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        features = []
        for embed, stage in zip(self.embed, self.stages, strict=True):
            x = stage(embed(x))
            features.append(x)
        return features


class PaperDecoder(nn.Module):
    """Every stage projected, brought to 1/4, concatenated and merged (128 -> 64 -> 32), then 4x to full
    resolution.
    """

    def __init__(self, encoder_channels: tuple[int, ...], channels: int):
        super().__init__()
        self.project = nn.ModuleList(nn.Conv2d(width, channels, 1) for width in encoder_channels)
        merged = channels * len(encoder_channels)
        self.merge = nn.Sequential(
            separable(merged, 2 * channels), LayerNormAll(2 * channels), nn.GELU(),
            separable(2 * channels, channels), LayerNormAll(channels), nn.GELU(),
        )  # fmt: skip

    def forward(self, features: list[Tensor]) -> Tensor:
        maps = [
            project(feature) if level == 0 else upsample_bilinear(project(feature), 2**level)
            for level, (project, feature) in enumerate(zip(self.project, features, strict=True))
        ]
        return upsample_bilinear(self.merge(torch.cat(maps, dim=1)), 4)


class SingleChannelTransform(nn.Module):
    """The publication's DG-SFT: F gamma(z) + beta(z) at full resolution, gamma and beta one channel each."""

    def __init__(self, hidden: int):
        super().__init__()
        self.gamma, self.beta = (
            nn.Sequential(
                separable(1, hidden), LayerNormAll(hidden), nn.GELU(), separable(hidden, 1), nn.GELU()
            )
            for _ in range(2)
        )

    def forward(self, features: Tensor, inverse_depth: Tensor) -> Tensor:
        return features * self.gamma(inverse_depth) + self.beta(inverse_depth)


def scaled(depth: Tensor) -> Tensor:
    """The decoder's depth in [0, 1] at full resolution -> pixels per metre at 1/4, float32; the fourth power
    spreads the distances of a road over the sigmoid's range.
    """
    return MAX_PIXELS_PER_METRE * F.avg_pool2d(depth, 4).float().square().square()


class PaperNetwork(nn.Module):
    """The publication's network behind the interface of the family."""

    stride = STRIDE

    def __init__(self, preset: BaselinePreset):
        super().__init__()
        self.preset = preset
        width = preset.depth_channels
        self.encoder = PaperEncoder(preset.channels, preset.encoder_depths, preset.mlp_ratio)
        self.depth_decoder = PaperDecoder(preset.channels, width)
        self.depth_output = separable(width, 1)
        self.image_decoder = PaperDecoder(preset.channels, width)
        self.transform = SingleChannelTransform(width)
        self.project_rainy = nn.Conv2d(3, width, 1)
        self.output = nn.Sequential(separable(2 * width, 16), nn.GELU(), separable(16, 3))

    def _depth(self, features: list[Tensor]) -> Tensor:
        return torch.sigmoid(self.depth_output(self.depth_decoder(features)))

    def depth(self, image: Tensor) -> Tensor:
        """Pixels per metre alone, (N, 1, H/4, W/4)."""
        return scaled(self._depth(self.encoder(2 * as_weights(self, image) - 1)))

    def forward(self, image: Tensor) -> Estimate:
        """(N, 3, H, W) RGB in [0, 1] -> Estimate, without the weather."""
        rainy = 2 * as_weights(self, image) - 1
        features = self.encoder(rainy)
        depth = self._depth(features)
        guided = self.transform(self.image_decoder(features), depth)
        clean = torch.tanh(self.output(torch.cat((guided, self.project_rainy(rainy)), dim=1)))
        return Estimate((clean - rainy) / 2, scaled(depth))
