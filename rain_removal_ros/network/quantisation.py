"""8-bit integers in the streak stage and the decoder, where most of the work is and nothing is lost by them.

Quantised is what convolutions take: their input to 256 levels of a range that was calibrated on images, and
their weights to 255 levels of each output channel's own. What they give, and what residual branches are
added to, stays as it is.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rain_removal_ros.network.presets import DerainPreset

QUANTISED = ("streaks.", "detail", "stages.", "fine.")
"""Where the convolutions are that run in 8-bit integers. What depth and the weather are found with stays in
floats, and so do transposed convolutions, which OpenVINO 2026.4 runs in floats all
the same.
"""

FLOATS = ("streaks.rain.",)
"""What among them stays in floats all the same: one number decides about the whole image."""

LEVELS = 255
"""Steps from one end of an input's range to the other."""

Ranges = Mapping[str, tuple[float, float]]
"""Layer, as `network.named_modules()` names it -> least and greatest value of its input. A network that was
calibrated has its own as `input_ranges`, and keeps them in its weights file.
"""


class QuantisedConv2d(nn.Module):
    """A convolution whose input and weights are rounded to what 8-bit integers hold.

    Runtimes that know quantisation run it in integers; elsewhere it computes the same in floats.
    """

    weight_scales: Tensor
    weight_zeros: Tensor

    def __init__(self, convolution: nn.Conv2d, least: float, greatest: float):
        super().__init__()
        self.convolution = convolution
        least, greatest = min(least, 0.0), max(greatest, 0.0)
        self.scale = max(greatest - least, 1e-6) / LEVELS
        self.zero_point = round(-least / self.scale)
        weight = convolution.weight.detach().float()
        scales = weight.abs().amax(dim=(1, 2, 3)).clamp(min=1e-8) / 127
        self.register_buffer("weight_scales", scales)
        self.register_buffer("weight_zeros", torch.zeros_like(scales, dtype=torch.int32))

    def forward(self, x: Tensor) -> Tensor:
        """As the convolution's."""
        layer = self.convolution
        x = torch.fake_quantize_per_tensor_affine(x, self.scale, self.zero_point, 0, LEVELS)
        weight = torch.fake_quantize_per_channel_affine(
            layer.weight, self.weight_scales, self.weight_zeros, 0, -127, 127
        )
        return F.conv2d(x, weight, layer.bias, layer.stride, layer.padding, layer.dilation, layer.groups)


def convolutions(network: nn.Module) -> dict[str, nn.Conv2d]:
    """The convolutions of the preset `fast` that are quantised, by their names; none of another network."""
    if not isinstance(getattr(network, "preset", None), DerainPreset):
        return {}
    return {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, nn.Conv2d) and name.startswith(QUANTISED) and not name.startswith(FLOATS)
    }


@torch.no_grad()
def calibrate(network: nn.Module, images: Iterable[Tensor]) -> dict[str, tuple[float, float]]:
    """The ranges of what every quantised convolution takes: the mean over images (N, 3, H, W) in [0, 1] of
    its least and greatest value.
    """
    seen: dict[str, list[tuple[float, float]]] = {name: [] for name in convolutions(network)}

    def watch(name: str) -> Callable[[nn.Module, tuple[Tensor]], None]:
        def note(module: nn.Module, inputs: tuple[Tensor]) -> None:
            least, greatest = inputs[0].aminmax()
            seen[name].append((float(least), float(greatest)))

        return note

    hooks = [layer.register_forward_pre_hook(watch(name)) for name, layer in convolutions(network).items()]
    try:
        for image in images:
            network(image)
    finally:
        for hook in hooks:
            hook.remove()
    return {
        name: (sum(low for low, _ in pairs) / len(pairs), sum(high for _, high in pairs) / len(pairs))
        for name, pairs in seen.items()
        if pairs
    }


def ranges_of(network: nn.Module) -> Ranges:
    """What the network was calibrated to; empty where it was not."""
    return getattr(network, "input_ranges", None) or {}


def check_ranges(network: nn.Module, ranges: object) -> dict[str, tuple[float, float]]:
    """What a weights file says of ranges, as ranges. Raises ValueError unless it says of every convolution
    that is quantised, and of nothing else, two finite numbers in order.
    """
    wanted = convolutions(network).keys()
    if not isinstance(ranges, dict) or ranges.keys() != wanted:
        raise ValueError("its ranges for 8-bit integers are not those of the layers that it has")
    checked = {}
    for name, pair in ranges.items():
        least, greatest = map(float, pair)
        if not (math.isfinite(least) and math.isfinite(greatest) and least <= greatest):
            raise ValueError(f"{name} has the range {least} to {greatest} for 8-bit integers")
        checked[name] = (least, greatest)
    return checked


def quantised(network: nn.Module) -> nn.Module:
    """A copy of a calibrated network that computes as in 8-bit integers where it is to.

    Raises ValueError for one that was not calibrated.
    """
    ranges = check_ranges(network, ranges_of(network))
    network = copy.deepcopy(network)
    for name, layer in convolutions(network).items():
        parent, _, child = name.rpartition(".")
        setattr(network.get_submodule(parent), child, QuantisedConv2d(layer, *ranges[name]))
    return network
