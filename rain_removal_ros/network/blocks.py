"""The layers that the networks share: dense and depthwise convolutions without norms, transposed ones and
bilinear resizing, all of which TensorRT and OpenVINO fuse and run whole. Residual branches start at zero
instead of a norm.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rain_removal_ros.network.presets import MAX_PIXELS_PER_METRE


class WeatherEstimate(NamedTuple):
    """What a network makes of the weather before the camera, (N,) each."""

    rain_gate: Tensor  # 0 it does not rain .. 1 it does: what the streaks' light is multiplied by
    streak_light: Tensor  # mean light of the streaks, share of white
    extinction_px: Tensor  # of the fog, times the focal length in pixels; 0 where it is clear


class Estimate(NamedTuple):
    """What a derain network gives."""

    correction: Tensor  # float32 (N, 3, H, W), to be added to the image in [0, 1]
    pixels_per_metre: Tensor  # (N, 1, H/4, W/4): focal length in pixels over distance in metres
    weather: WeatherEstimate | None = None  # None: the network does not say


class ResidualBlock(nn.Module):
    """x + conv(relu(conv(x))), two dense 3x3 convolutions; starts as the identity."""

    def __init__(self, channels: int, dilation: int = 1):
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=dilation, dilation=dilation)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        start_at_zero(self.second)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.relu(self.first(x)))


class GlobalContext(nn.Module):
    """x + MLP(mean of x over the whole map): whether it rains, how thick the fog and how bright the light is.

    Starts as the identity.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.hidden = nn.Conv2d(channels, channels, 1)
        self.output = start_at_zero(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.output(F.relu(self.hidden(mean_over_map(x))))


class GlobalEstimate(nn.Module):
    """Numbers for a whole map: an MLP of means over it of evidence, (N, C, H, W) -> float32 (N, count, 1, 1).

    The evidence, relu of a 1x1 convolution, is found place by place: a mean, unlike a maximum, does not grow
    with the size of the image. One mean is of all places alike; `looks` more weigh them by a softmax of the
    evidence itself, for what some places alone show: a sky, the far end of a street. Starts at `start`.
    """

    def __init__(self, channels: int, start: tuple[float, ...], hidden: int = 64, looks: int = 0):
        super().__init__()
        self.evidence = nn.Conv2d(channels, hidden, 1)
        self.attention = nn.Conv2d(hidden, looks, 1) if looks else None
        self.hidden = nn.Conv2d((1 + looks) * hidden, hidden, 1)
        self.output = start_at_zero(nn.Conv2d(hidden, len(start), 1))
        self.output.bias = nn.Parameter(torch.tensor(start))

    def forward(self, x: Tensor) -> Tensor:
        evidence = self.find(x)
        return self.read(self.summary(evidence, self.places(evidence)))

    def find(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> the evidence of every place, (N, hidden, H, W)."""
        return F.relu(self.evidence(x))

    def places(self, evidence: Tensor) -> Tensor | None:
        """What every place weighs in each look, float32 (N, looks, H W), which sums to 1; None without
        looks.
        """
        if self.attention is None:
            return None
        return (SHARPNESS * self.attention(evidence).float()).flatten(2).softmax(dim=2)

    def summary(self, evidence: Tensor, places: Tensor | None) -> Tensor:
        """(N, hidden, 1, 1): what is known of the whole map."""
        means = mean_over_map(evidence)
        if places is not None:
            looks = torch.einsum("nkp,ncp->nkc", places.to(evidence.dtype), evidence.flatten(2))
            means = torch.cat([means, looks.flatten(1)[:, :, None, None].to(evidence.dtype)], dim=1)
        return F.relu(self.hidden(means))

    def read(self, summary: Tensor) -> Tensor:
        """The numbers, of a summary."""
        return self.output(summary).float()


SHARPNESS = 4.0
"""Of a look: what its logits are multiplied by, so that it learns within some hundred steps to single a place
out.
"""


def gate(logit: Tensor) -> Tensor:
    """clamp(3 sigmoid(x) - 1, 0, 1): shut below a third, fully open above two thirds."""
    return (3 * torch.sigmoid(logit) - 1).clamp(0, 1)


def pixels_per_metre(logit: Tensor) -> Tensor:
    """MAX_PIXELS_PER_METRE sigmoid(x)^4, float32: nearly logarithmic where roads are, and 0 for a sky."""
    return MAX_PIXELS_PER_METRE * torch.sigmoid(logit.float()).square().square()


class Upsample(nn.ConvTranspose2d):
    """Twice the size, with learned interpolation: a pixel gives 2x2, and none overlap."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__(inputs, outputs, 2, stride=2)

    def reset_parameters(self) -> None:
        """As a 1x1 convolution to the four pixels: PyTorch's own takes outputs for what each is made of."""
        bound = self.in_channels**-0.5
        nn.init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            nn.init.uniform_(self.bias, -bound, bound)


class DepthGuidedTransform(nn.Module):
    """Depth-Guided Spatial Feature Transform: F' = F (1 + gamma(z)) + beta(z), a gamma and a beta for every
    channel.

    z are depth features of F's size and features of the whole image: how much there is to correct at a depth
    depends on how thick the fog is, which all of the image shows. gamma and beta start at zero, so guidance
    starts as the identity; what the whole image shows starts at zero, too.
    """

    def __init__(self, depth_channels: int, channels: int, whole_channels: int):
        super().__init__()
        self.hidden = nn.Conv2d(depth_channels, depth_channels, 3, padding=1)
        self.whole = start_at_zero(nn.Conv2d(whole_channels, depth_channels, 1, bias=False))
        self.modulation = start_at_zero(nn.Conv2d(depth_channels, 2 * channels, 1))

    def forward(self, features: Tensor, depth_features: Tensor, whole: Tensor) -> Tensor:
        """F (N, C, H, W), depth features (N, D, H, W), features of the whole image (N, E, 1, 1) -> F'."""
        z = F.relu(self.hidden(depth_features) + self.whole(whole))
        gamma, beta = self.modulation(z).chunk(2, dim=1)
        return features * (1 + gamma) + beta


def start_at_zero(convolution: nn.Conv2d) -> nn.Conv2d:
    """The convolution itself, with weights and bias of zero."""
    for parameter in convolution.parameters():
        nn.init.zeros_(parameter)
    return convolution


def mean_over_map(x: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, C, 1, 1), taken in float32: a half-precision sum over a large map overflows."""
    return x.float().mean(dim=(2, 3), keepdim=True).to(x.dtype)


def as_weights(module: nn.Module, x: Tensor) -> Tensor:
    """x in the type of the module's weights."""
    return x.to(next(module.parameters()).dtype)


FOLD = 2
"""Pixels a side that a folded image lays into channels."""


def fold(image: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, 4 C, H/2, W/2), of each channel its 2x2 pixels: nothing is lost, and what comes
    after computes at half the size.
    """
    return F.pixel_unshuffle(image, FOLD)


def unfold(folded: Tensor) -> Tensor:
    """The inverse of `fold`."""
    return F.pixel_shuffle(folded, FOLD)


def upsample_bilinear(x: Tensor, factor: int) -> Tensor:
    """`factor` times the size, half-pixel centres."""
    return F.interpolate(x, scale_factor=float(factor), mode="bilinear", align_corners=False)
