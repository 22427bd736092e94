"""The layers that the networks share. All of them fold or fuse into what TensorRT and OpenVINO run whole:
batch norm, which vanishes into the convolution before it, plain and depthwise convolutions, PixelShuffle
and bilinear resizing.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ConvNorm(nn.Sequential):
    """Convolution and batch norm, which `fold` makes one convolution."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1):
        super().__init__(
            nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
            nn.BatchNorm2d(outputs),
        )

    def fold(self) -> nn.Conv2d:
        """The single convolution that computes the same in evaluation mode."""
        return torch.nn.utils.fuse_conv_bn_eval(self[0].eval(), self[1].eval())


class MetaFormerBlock(nn.Module):
    """x + MLP(mix(x)): a token mixer and a two-layer MLP on each token (Yu et al., MetaFormer, CVPR 2022).

    The mixer is a depthwise convolution, which learns what PoolFormer's average pooling fixes.
    """

    def __init__(self, channels: int, kernel: int = 7, mlp_ratio: int = 4):
        super().__init__()
        self.mixer = ConvNorm(channels, channels, kernel, groups=channels)
        self.expand = ConvNorm(channels, mlp_ratio * channels, 1)
        self.project = ConvNorm(mlp_ratio * channels, channels, 1)
        nn.init.zeros_(self.project[1].weight)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.project(F.relu(self.expand(self.mixer(x))))


class ResidualBlock(nn.Module):
    """x + conv(relu(conv(x))): where maps are fine, two dense 3x3 convolutions cost less time than depthwise
    ones.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.first = ConvNorm(channels, channels)
        self.second = ConvNorm(channels, channels)
        nn.init.zeros_(self.second[1].weight)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.relu(self.first(x)))


def mean_over_map(x: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, C, 1, 1), taken in float32: a half-precision sum over a large map overflows."""
    return x.float().mean(dim=(2, 3), keepdim=True).to(x.dtype)


class GlobalContext(nn.Module):
    """x + MLP(mean of x over the whole map): whether it rains, how thick the fog and how bright the light is.

    Starts as the identity.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.hidden = nn.Conv2d(channels, channels, 1)
        self.output = nn.Conv2d(channels, channels, 1)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.output(F.relu(self.hidden(mean_over_map(x))))


class GlobalEstimate(nn.Module):
    """One number for a whole map, MLP(mean of x), (N, C, H, W) -> (N, 1, 1, 1). Starts at `start`."""

    def __init__(self, channels: int, start: float, hidden: int = 64):
        super().__init__()
        self.hidden = nn.Conv2d(channels, hidden, 1)
        self.output = nn.Conv2d(hidden, 1, 1)
        nn.init.zeros_(self.output.weight)
        nn.init.constant_(self.output.bias, start)

    def forward(self, x: Tensor) -> Tensor:
        return self.output(F.relu(self.hidden(mean_over_map(x))))


class Upsample(nn.Module):
    """1x1 convolution and PixelShuffle: twice the size, with learned interpolation."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.project = ConvNorm(inputs, 4 * outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.pixel_shuffle(self.project(x), 2)


class DepthGuidedTransform(nn.Module):
    """Depth-Guided Spatial Feature Transform: F' = F (1 + gamma(z)) + beta(z), a gamma and a beta for every
    channel.

    z are depth features of F's size; gamma and beta start at zero, so guidance starts as the identity.
    """

    def __init__(self, depth_channels: int, channels: int):
        super().__init__()
        self.hidden = ConvNorm(depth_channels, depth_channels)
        self.modulation = nn.Conv2d(depth_channels, 2 * channels, 1)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, features: Tensor, depth_features: Tensor) -> Tensor:
        gamma, beta = self.modulation(F.relu(self.hidden(depth_features))).chunk(2, dim=1)
        return features * (1 + gamma) + beta


def upsample_bilinear(x: Tensor, factor: int) -> Tensor:
    """`factor` times the size, half-pixel centres."""
    return F.interpolate(x, scale_factor=float(factor), mode="bilinear", align_corners=False)


def fold_batch_norms(module: nn.Module) -> nn.Module:
    """Replace every ConvNorm in `module` by the one convolution it equals in evaluation mode; returns
    `module`.
    """
    for name, child in module.named_children():
        if isinstance(child, ConvNorm):
            setattr(module, name, child.fold())
        else:
            fold_batch_norms(child)
    return module
