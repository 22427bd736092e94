"""The design of DGNL-Net-fast (Hu et al., "Single-Image Real-Time Rain Removal Based on Depth-Guided Non-
Local Features", IEEE TIP 2021), written anew as a yardstick: a small depth network, dilated depthwise
blocks at 1/4, and one non-local step whose relations are weighed by how alike two depths are.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rain_removal_ros.network.blocks import Estimate, as_weights, upsample_bilinear
from rain_removal_ros.network.presets import MAX_PIXELS_PER_METRE, STRIDE, BaselinePreset

DILATIONS = (1, 2, 2, 4, 8, 4, 2, 2, 1)


def normalised(convolution: nn.Conv2d | nn.ConvTranspose2d) -> nn.Sequential:
    """Convolution, GroupNorm of 32 groups, SELU."""
    return nn.Sequential(convolution, nn.GroupNorm(32, convolution.out_channels), nn.SELU())


class DepthNetwork(nn.Module):
    """A U-shaped network from the image to inverse depth at 1/4, scaled to [0, 1]."""

    def __init__(self, channels: tuple[int, ...]):
        super().__init__()
        fine, middle, coarse = channels  # at 1/4, 1/8 and 1/16
        self.down4 = normalised(nn.Conv2d(3, fine, 8, stride=4, padding=2))
        self.down8 = normalised(nn.Conv2d(fine, middle, 4, stride=2, padding=1))
        self.down16 = normalised(nn.Conv2d(middle, coarse, 4, stride=2, padding=1))
        self.dilated = normalised(nn.Conv2d(coarse, coarse, 3, padding=2, dilation=2))
        self.up8 = normalised(nn.ConvTranspose2d(coarse, middle, 4, stride=2, padding=1))
        self.up4 = normalised(nn.ConvTranspose2d(middle, fine, 4, stride=2, padding=1))
        self.output = nn.Sequential(
            normalised(nn.Conv2d(fine, fine, 3, padding=1)), nn.Conv2d(fine, 1, 1), nn.Sigmoid()
        )

    def forward(self, x: Tensor) -> Tensor:
        at4 = self.down4(x)
        at8 = self.down8(at4)
        up8 = self.up8(self.dilated(self.down16(at8)))
        return self.output(self.up4(up8 + at8) + at4)


class DilatedBlock(nn.Module):
    """x + two rounds of depthwise dilated and pointwise convolutions, the first on twice the channels."""

    def __init__(self, channels: int, dilation: int):
        super().__init__()
        wide = 2 * channels
        self.body = nn.Sequential(
            nn.Conv2d(channels, wide, 1, bias=False),
            nn.ReLU6(),
            nn.Conv2d(wide, wide, 3, 1, dilation, dilation, groups=channels, bias=False),
            nn.ReLU6(),
            nn.Conv2d(wide, channels, 1, bias=False),
            nn.Conv2d(channels, channels, 3, 1, dilation, dilation, groups=channels, bias=False),
            nn.ReLU6(),
            nn.Conv2d(channels, channels, 1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class DepthGuidedNonLocal(nn.Module):
    """x + z(S g(x)), S = softmax(appearance * depth relation), between 1/16 and 1/32 of the image."""

    def __init__(self, channels: int):
        super().__init__()
        half = channels // 2
        self.down = nn.Conv2d(channels, channels, 4, stride=4, groups=channels, bias=False)
        nn.init.constant_(self.down.weight, 1 / 16)
        self.theta, self.phi, self.g = (nn.Conv2d(channels, half, 1) for _ in range(3))
        self.z = nn.Conv2d(half, channels, 1)

    def forward(self, x: Tensor, depth: Tensor) -> Tensor:
        small = self.down(x)
        height, width = small.shape[-2:]
        queries = self.theta(small).flatten(2).transpose(1, 2)
        keys = F.max_pool2d(self.phi(small), 2).flatten(2)
        values = F.max_pool2d(self.g(small), 2).flatten(2).transpose(1, 2)
        appearance = torch.softmax(queries @ keys, dim=2)
        depth_q = F.avg_pool2d(depth, 4).flatten(2).transpose(1, 2) + 1e-3
        depth_k = F.avg_pool2d(depth, 8).flatten(2) + 1e-3
        relation = torch.softmax(torch.minimum(depth_q / depth_k, depth_k / depth_q), dim=2)
        mixed = torch.softmax(appearance * relation, dim=2) @ values
        return x + upsample_bilinear(self.z(mixed.transpose(1, 2).unflatten(2, (height, width))), 4)


class DGNLFastNetwork(nn.Module):
    """DGNL-Net-fast's design behind the interface of the family."""

    stride = STRIDE

    def __init__(self, preset: BaselinePreset):
        super().__init__()
        self.preset = preset
        features = 64
        self.depth_network = DepthNetwork(preset.channels)
        self.head = nn.Sequential(
            nn.Conv2d(3, 32, 1, bias=False), nn.ReLU6(),
            nn.Conv2d(32, 32, 8, stride=4, padding=2, groups=32, bias=False), nn.ReLU6(),
            nn.Conv2d(32, features, 1, bias=False),
        )  # fmt: skip
        self.body = nn.Sequential(*(DilatedBlock(features, dilation) for dilation in DILATIONS))
        self.non_local = DepthGuidedNonLocal(features)
        self.tail = nn.Sequential(
            nn.ConvTranspose2d(features, 32, 8, stride=4, padding=2, groups=32, bias=False), nn.ReLU6(),
            nn.Conv2d(32, 3, 1, bias=False),
        )  # fmt: skip

    def depth(self, image: Tensor) -> Tensor:
        """Pixels per metre alone, (N, 1, H/4, W/4)."""
        return MAX_PIXELS_PER_METRE * self.depth_network(4 * as_weights(self, image) - 2).float() ** 4

    def forward(self, image: Tensor) -> Estimate:
        """(N, 3, H, W) RGB in [0, 1] -> Estimate, without the weather."""
        x = 4 * as_weights(self, image) - 2
        depth = self.depth_network(x)
        features = self.non_local(self.body(self.head(x)), depth.detach())
        return Estimate(self.tail(features) / 4, MAX_PIXELS_PER_METRE * depth.float() ** 4)
