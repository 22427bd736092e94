"""The networks: pure PyTorch that knows nothing else of the project."""

from rain_removal_ros.network.blocks import fold_batch_norms
from rain_removal_ros.network.presets import MAX_INVERSE_DEPTH, PRESETS, get_preset
from rain_removal_ros.network.weights import (
    build_network,
    load_network,
    register_family,
    require_layers,
    save_network,
    sha256_of,
)

__all__ = [
    "MAX_INVERSE_DEPTH",
    "PRESETS",
    "build_network",
    "fold_batch_norms",
    "get_preset",
    "load_network",
    "register_family",
    "require_layers",
    "save_network",
    "sha256_of",
]
