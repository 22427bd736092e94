"""The networks: pure PyTorch that knows nothing of the project but its small files."""

from rain_removal_ros.network.blocks import Estimate, WeatherEstimate
from rain_removal_ros.network.presets import MAX_PIXELS_PER_METRE, PRESETS, STRIDE, get_preset
from rain_removal_ros.network.weights import (
    build_network,
    load_network,
    preset_of,
    register_family,
    require_layers,
    save_network,
    sha256_of,
)

__all__ = [
    "MAX_PIXELS_PER_METRE",
    "PRESETS",
    "STRIDE",
    "Estimate",
    "WeatherEstimate",
    "build_network",
    "get_preset",
    "load_network",
    "preset_of",
    "register_family",
    "require_layers",
    "save_network",
    "sha256_of",
]
