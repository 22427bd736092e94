"""The layers that the networks share. All of them fold or fuse into what TensorRT and OpenVINO run whole:
batch norm, which vanishes into the convolution before it, plain and depthwise convolutions, PixelShuffle
and bilinear resizing.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ConvNorm(nn.Sequential):
    """Convolution and batch norm, which `fold` makes one convolution."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1, dilation: int = 1
    ):
        padding = dilation * (kernel // 2)
        super().__init__(
            nn.Conv2d(inputs, outputs, kernel, stride, padding, dilation, groups, bias=False),
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


FAR_REACH = 1000.0
"""Metres. What is nearer than a fraction of this hardly counts as far."""

FAINTEST_SPREAD = 0.15 / 255
"""Added to a spread: less than a sixth of a grey level is rounding, not sky."""


class FarLight(NamedTuple):
    """What lies farthest in an image, all float32."""

    mean: Tensor  # (N, 1, 1, 1)
    spread: Tensor  # mean deviation, (N, 1, 1, 1)
    pattern: Tensor  # (image - mean) / spread, (N, 3, h, w)


def far_light(image: Tensor, inverse_depth: Tensor) -> FarLight:
    """Mean, mean deviation and pattern of what lies farthest in an image (N, 3, h, w).

    The weight of a place is exp(-FAR_REACH (z - min z)), z the inverse depth (N, 1, h, w) in 1/m. Mean and
    deviation are taken again without what strays (twice; Huber, "Robust Estimation of a Location Parameter",
    1964): a few twigs before a sky outweigh all its clouds. They are one number an image, since fog is grey.
    No gradient flows into the depth.
    """
    inverse_depth, image = inverse_depth.detach().float(), image.float()
    nearer = inverse_depth - inverse_depth.amin(dim=(2, 3), keepdim=True)
    weight = torch.exp(-FAR_REACH * nearer)
    weight = weight / (3 * weight.sum(dim=(2, 3), keepdim=True))

    def mean(x: Tensor) -> Tensor:
        return (weight * x).sum(dim=(1, 2, 3), keepdim=True)

    light = mean(image)
    spread = mean((image - light).abs())
    for _ in range(2):
        limit = 2.5 * spread
        light = light + mean(torch.minimum(torch.maximum(image - light, -limit), limit))
        spread = mean(torch.minimum((image - light).abs(), limit))
    spread = spread + FAINTEST_SPREAD
    return FarLight(light, spread, (image - light) / spread)


class FarPattern(nn.Module):
    """Features of the pattern of what lies farthest, the sky's as a rule.

    Before fog the sky keeps its pattern, only fainter, exp(-beta d) times: a grey level or less in heavy fog,
    which the encoder cannot see. What remains of it, less its mean and over its own spread, is the same
    pattern whatever beta is; the spread is given beside it. Starts at zero.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.project = nn.Conv2d(4, channels, 3, padding=1)
        nn.init.zeros_(self.project.weight)
        nn.init.zeros_(self.project.bias)

    def forward(self, far: FarLight) -> Tensor:
        """What `far_light` measured at (h, w) -> (N, C, h, w)."""
        strength = (torch.log(255 * far.spread) / 3).expand_as(far.pattern[:, :1])
        seen = torch.cat((far.pattern.clamp(-3, 3), strength), dim=1)
        return self.project(as_weights(self, seen))


FAR_DEVIATION = 27 / 255
"""Mean deviation that the pattern of a sky is given: the median of those of real skies, 14 to 48 grey levels
by source in the street images that `fast` was trained on.
"""


def restore_far_pattern(image: Tensor, correction: Tensor, inverse_depth: Tensor, far: FarLight) -> Tensor:
    """The correction, with the pattern of what lies farthest as the image shows it, at FAR_DEVIATION.

    What a network makes of a sky behind fog is a guess; its mean brightness has to be one, its pattern need
    not, since what fog left of it can be measured (`far_light`). The more the pattern is one, and not noise,
    and the more the correction changes what lies farthest, the more it takes the guess's place: dry images
    and streaks without fog are left alone. Noise is told by its coherence, the correlation of neighbours. The
    pattern is grey: real fog has a faint colour, which would grow with the contrast.

    image, correction (N, 3, H, W) in float32, inverse depth (N, 1, H/4, W/4) in 1/m and what `far_light`
    measured at that size -> (N, 3, H, W). What is measured reaches the output without a convolution between,
    and so in float32 too where a backend lowers convolutions and all before them to bfloat16 (OpenVINO),
    whose steps are a grey level of a bright sky.
    """
    light, spread, pattern = far
    weight = torch.exp(-FAR_REACH * inverse_depth.detach().float())
    coherence = _coherence(pattern.mean(dim=1, keepdim=True).clamp(-2.5, 2.5), weight)
    weight = upsample_bilinear(weight, 4)
    share = weight / (weight.sum(dim=(2, 3), keepdim=True) + 1e-6)
    restored = image + correction
    mean = (share * restored).sum(dim=(2, 3), keepdim=True)
    change = 255 * (share * correction).sum(dim=(2, 3), keepdim=True).mean(dim=1, keepdim=True).abs()
    trust = (2 * coherence - 1).clamp(0, 1) * (change / 8 - 0.5).clamp(0, 1)  # from 4 grey levels to 12
    fine = ((image.mean(dim=1, keepdim=True) - light) / spread).clamp(-3, 3)
    return correction + trust.detach() * weight * (mean + FAR_DEVIATION * fine - restored)


def _coherence(x: Tensor, weight: Tensor) -> Tensor:
    """Weighted correlation of neighbours in maps (N, 1, h, w) of mean zero, (N, 1, 1, 1)."""
    both = power = 0
    for axis, size in ((2, x.shape[2]), (3, x.shape[3])):
        one, other = x.narrow(axis, 1, size - 1), x.narrow(axis, 0, size - 1)
        pair = weight.narrow(axis, 1, size - 1) * weight.narrow(axis, 0, size - 1)
        both = both + (pair * one * other).sum(dim=(2, 3), keepdim=True)
        power = power + (pair * (one * one + other * other)).sum(dim=(2, 3), keepdim=True) / 2
    return both / (power + 1e-6)


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


def as_weights(module: nn.Module, x: Tensor) -> Tensor:
    """x in the type of the module's weights."""
    return x.to(next(module.parameters()).dtype)


def upsample_bilinear(x: Tensor, factor: int) -> Tensor:
    """`factor` times the size, half-pixel centres."""
    return F.interpolate(x, scale_factor=float(factor), mode="bilinear", align_corners=False)


def fold_batch_norms(module: nn.Module) -> nn.Module:
    """Replace every ConvNorm in `module` by the one convolution it equals in evaluation mode, and let parts
    that have their own batch norms fold them (`fold_own_norms`); returns `module`.
    """
    if hasattr(module, "fold_own_norms"):
        module.fold_own_norms()
    for name, child in module.named_children():
        if isinstance(child, ConvNorm):
            setattr(module, name, child.fold())
        else:
            fold_batch_norms(child)
    return module
