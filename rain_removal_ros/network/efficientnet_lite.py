"""EfficientNet-Lite (Tan & Le, ICML 2019; ReLU6, no squeeze-and-excite) as a trunk of features: no
classifier, and no batch norms, which are folded into the convolutions when ImageNet weights are loaded.

Where those weights come from is not known here (see `lab.training.imagenet`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

STAGES = (  # repeats, channels, stride, kernel, expansion
    (1, 16, 1, 3, 1),
    (2, 24, 2, 3, 6),
    (2, 40, 2, 5, 6),
    (3, 80, 2, 3, 6),
    (3, 112, 1, 5, 6),
    (4, 192, 2, 5, 6),
    (1, 320, 1, 3, 6),
)
VARIANTS = {"lite0": (1.0, 1.0), "lite2": (1.1, 1.2)}
"""Factors of width and depth. The stem, and the repeats of the first and last stage, are the same in both."""

_NORM_EPSILON = 1e-3


def _rounded(channels: float) -> int:
    """The multiple of 8 nearest to it, as the publication rounds."""
    return max(8, int(channels + 4) // 8 * 8)


class Convolution(nn.Conv2d):
    """A convolution padded as TensorFlow's SAME: of an uneven padding, the odd pixel is at right and
    bottom.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1):
        padding = 0 if stride == 2 else kernel // 2
        super().__init__(inputs, outputs, kernel, stride, padding, groups=groups)
        self.before = (kernel - 2) // 2, kernel - 2 - (kernel - 2) // 2

    def forward(self, x: Tensor) -> Tensor:
        if self.stride[0] == 2:
            x = F.pad(x, (*self.before, *self.before))
        if self.groups > 1 and x.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
            # on its way back PyTorch takes five to fifteen times as long in bfloat16
            with torch.autocast("cpu", enabled=False):
                return super().forward(x.float()).to(x.dtype)
        return super().forward(x)


class Block(nn.Module):
    """Inverted residual: expand by 1x1, filter each channel, project by 1x1."""

    def __init__(self, inputs: int, outputs: int, stride: int, kernel: int, expansion: int):
        super().__init__()
        hidden = expansion * inputs
        self.expand = Convolution(inputs, hidden, 1) if expansion != 1 else None
        self.depthwise = Convolution(hidden, hidden, kernel, stride, groups=hidden)
        self.project = Convolution(hidden, outputs, 1)
        self.stride = stride
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y = x if self.expand is None else F.relu6(self.expand(x))
        y = self.project(F.relu6(self.depthwise(y)))
        return x + y if self.residual else y


class EfficientNetLite(nn.Module):
    """The features of an image at 1/2, 1/4, 1/8, 1/16 and, with all blocks, 1/32 of its size."""

    def __init__(self, variant: str, blocks: int | None = None):
        """`blocks`: how many of the variant's blocks, all by default; `channels` then says what `forward`
        gives.
        """
        super().__init__()
        width, depth = VARIANTS[variant]
        self.stem = Convolution(3, 32, 3, stride=2)
        made: list[Block] = []
        inputs = 32
        for index, (repeats, channels, stride, kernel, expansion) in enumerate(STAGES):
            inner = 0 < index < len(STAGES) - 1
            outputs = _rounded(width * channels)
            for repeat in range(-(-round(repeats * depth * 100) // 100) if inner else repeats):
                made.append(Block(inputs, outputs, stride if repeat == 0 else 1, kernel, expansion))
                inputs = outputs
        self.blocks = nn.ModuleList(made[:blocks])
        self.channels = self._channels()

    def _in_order(self) -> list[Block]:
        return cast(list[Block], list(self.blocks))

    def _channels(self) -> tuple[int, ...]:
        channels: list[int] = [32]
        for block in self._in_order():
            if block.stride == 2:
                channels.append(0)
            channels[-1] = block.project.out_channels
        return tuple(channels)

    def forward(self, image: Tensor) -> list[Tensor]:
        """(N, 3, H, W) RGB in [0, 1] -> the last map of every size, finest (1/2) first."""
        x = F.relu6(self.stem((image - 127 / 255) * (255 / 128)))
        maps = [x]
        for block in self._in_order():
            x = block(x)
            if block.stride == 2:
                maps.append(x)
            else:
                maps[-1] = x
        return maps

    def load_folded(self, state: Mapping[str, Tensor]) -> None:
        """Take weights named as in lukemelas' EfficientNet-PyTorch, with every batch norm folded in.

        Raises KeyError or RuntimeError where they do not fit.
        """
        with torch.no_grad():
            _fold(self.stem, state, "_conv_stem", "_bn0")
            for index, block in enumerate(self._in_order()):
                prefix = f"_blocks.{index}."
                if block.expand is not None:
                    _fold(block.expand, state, prefix + "_expand_conv", prefix + "_bn0")
                _fold(block.depthwise, state, prefix + "_depthwise_conv", prefix + "_bn1")
                _fold(block.project, state, prefix + "_project_conv", prefix + "_bn2")


def _fold(convolution: Convolution, state: Mapping[str, Tensor], name: str, norm: str) -> None:
    scale = state[f"{norm}.weight"] / torch.sqrt(state[f"{norm}.running_var"] + _NORM_EPSILON)
    convolution.weight.copy_(state[f"{name}.weight"] * scale[:, None, None, None])
    cast(Tensor, convolution.bias).copy_(state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * scale)
