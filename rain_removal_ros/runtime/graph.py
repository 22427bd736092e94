"""The whole way from a uint8 frame to uint8 outputs as one module, which every backend compiles as one graph.

Normalisation, padding to the network's stride, clamping and rounding are inside. The frame stays in grey
levels, whose whole numbers up to 256 float16 holds exactly, too, where a compiler takes no bytes; the
correction is added to it in float32, so that low precision never bands a sky.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rain_removal_ros.network import WeatherEstimate
from rain_removal_ros.network.blocks import as_weights, fold, unfold
from rain_removal_ros.runtime import Output
from rain_removal_ros.runtime.sizes import check_size


class LevelsGraph(nn.Module):
    """Grey levels 0..255 (N, 3, H, W) -> the outputs asked for, in the order image, inverse_depth, labels,
    and after an image the weather.

    image: whole grey levels (N, 3, H, W) of the type that came in; inverse depth: float32 (N, h/4, w/4) in
    pixels per metre, of the padded size h x w, to be divided by the focal length and enlarged by who wants
    it; labels: int32 (N, H, W), of the restored image, computed at 1/4 and enlarged bilinearly; weather:
    float32 (N, 3), the numbers of a WeatherEstimate, all -1 from a network that does not say. TensorRT
    compiles this part, on halves: it knows no uint8 inside a network. A network that computes with folded
    images gets them folded before they become float32, and what it gives is unfolded after it is of the type
    that came in again: smaller numbers are moved about faster.
    """

    def __init__(
        self,
        network: nn.Module,
        segmentation: nn.Module | None,
        height: int,
        width: int,
        outputs: Collection[Output],
    ):
        super().__init__()
        check_size(height, width)
        self.outputs = tuple(output for output in Output if output in outputs)
        if not self.outputs or len(self.outputs) != len(set(outputs)):
            raise ValueError(f"outputs {outputs!r} are not a selection of {[o.value for o in Output]}")
        if Output.LABELS in self.outputs and segmentation is None:
            raise ValueError("labels were asked for without a segmentation network")
        self.network: Any = network  # nn.Module alone does not tell what the family's networks have
        self.segmentation = segmentation if Output.LABELS in self.outputs else None
        self.height, self.width = height, width
        self.folds = hasattr(network, "forward_folded")
        stride = cast(int, network.stride)
        bottom, right = -height % stride, -width % stride
        self.padding = (right // 2, right - right // 2, bottom // 2, bottom - bottom // 2)

    def crop(self, x: Tensor) -> Tensor:
        """Without the padding; counted from the far sides, so that a trace serves every size padded alike."""
        left, right, top, bottom = self.padding
        return x[..., top : -bottom or None, left : -right or None]

    def pad(self, x: Tensor) -> Tensor:
        """(N, C, H, W) of any dtype, mirrored at its edges to the network's stride: repeated edges would look
        like streaks. Counted from both sides, as in `crop`.
        """
        left, right, top, bottom = self.padding
        if top or bottom:
            sides = (x[:, :, 1 : 1 + top].flip(2), x, x[:, :, -1 - bottom : -1].flip(2))
            x = torch.cat([side for side, rows in zip(sides, (top, 1, bottom), strict=True) if rows], dim=2)
        if left or right:
            sides = (x[..., 1 : 1 + left].flip(3), x, x[..., -1 - right : -1].flip(3))
            x = torch.cat([side for side, columns in zip(sides, (left, 1, right), strict=True) if columns], 3)
        return x

    def _to_layout(self, x: Tensor) -> Tensor:
        return fold(x) if self.folds else x

    def _from_layout(self, x: Tensor) -> Tensor:
        return unfold(x) if self.folds else x

    def forward(self, levels: Tensor) -> tuple[Tensor, ...]:
        network = self.network
        grey_levels = self._to_layout(self.pad(levels)).float()
        image = grey_levels * (1 / 255)
        if self.outputs == (Output.INVERSE_DEPTH,):
            depth = network.depth_folded(image) if self.folds else network.depth(image)
            return (depth.float().squeeze(1),)
        estimate = network.forward_folded(image) if self.folds else network(image)
        restored = (grey_levels + 255 * estimate.correction.float()).clamp(0, 255)
        results = []
        if Output.IMAGE in self.outputs:
            results.append(self.crop(self._from_layout(torch.round(restored).to(levels.dtype))))
        if Output.INVERSE_DEPTH in self.outputs:
            results.append(estimate.pixels_per_metre.float().squeeze(1))
        if self.segmentation is not None:
            seen = as_weights(self.segmentation, restored * (1 / 255))
            logits = self.segmentation(self._from_layout(seen))
            full_size = F.interpolate(logits, scale_factor=4.0, mode="bilinear", align_corners=False)
            results.append(self.crop(full_size).argmax(dim=1).to(torch.int32))
        if Output.IMAGE in self.outputs:
            results.append(_as_row(estimate.weather, levels))
        return tuple(results)


def _as_row(weather: WeatherEstimate | None, levels: Tensor) -> Tensor:
    if weather is None:
        return torch.full((levels.shape[0], 3), -1.0, device=levels.device)
    return torch.stack((weather.rain_gate, weather.streak_light, weather.extinction_px), dim=1).float()


def to_bytes(outputs: Collection[Output], results: Collection[Tensor]) -> tuple[Tensor, ...]:
    """What a LevelsGraph gives -> what a FrameGraph gives, on the device."""
    converted: dict[Output, Callable[[Tensor], Tensor]] = {
        Output.IMAGE: lambda levels: levels.permute(0, 2, 3, 1).to(torch.uint8).contiguous(),
        Output.INVERSE_DEPTH: lambda inverse_depth: inverse_depth,
        Output.LABELS: lambda labels: labels.to(torch.uint8),
    }
    named = tuple(converted[output](result) for output, result in zip(outputs, results, strict=False))
    return (*named, *tuple(results)[len(named) :])


class FrameGraph(LevelsGraph):
    """uint8 (N, H, W, 3) RGB -> what a LevelsGraph gives, but image: uint8 (N, H, W, 3); labels: uint8 (N,
    H, W).
    """

    def forward(self, frame: Tensor) -> tuple[Tensor, ...]:
        return to_bytes(self.outputs, super().forward(frame.permute(0, 3, 1, 2)))
