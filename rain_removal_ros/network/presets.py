"""The networks by name, as plain data. A preset says how wide and deep a network is and where depth guides
it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from rain_removal_ros.errors import PresetError

STRIDE = 32
"""Width and height of what the networks take are multiples of this."""

MAX_PIXELS_PER_METRE = 1000.0
"""Focal length in pixels over distance, at the top of the depth head: a metre that fills the image. An image
shows no distance without its camera's focal length, only this ratio.
"""

LEAST_PIXELS_PER_METRE = 0.5
"""Added before logarithms are taken: twice as far is as much everywhere, but for what lies beyond a kilometre
or is sky.
"""

FARTHEST_PIXELS_PER_METRE = 2.0
"""Where distances end: some 300 m, for a camera of 700 pixels. What is less is a sky."""


@dataclass(frozen=True)
class DerainPreset:
    """The network of this project. Stages lie at 1/4, 1/8, 1/16 and 1/32 of the image, finest first."""

    name: str
    family: str = "fast"
    streak_channels: tuple[int, int] = (32, 64)  # at 1/2 and 1/4 of the image
    streak_depths: tuple[int, int, int] = (
        1,
        6,
        1,
    )  # residual blocks at 1/2 going down, at 1/4, at 1/2 going up
    trunk: str = "lite0"
    trunk_blocks: int = 11
    channels: tuple[int, ...] = (32, 48, 64, 96)
    depths: tuple[int, ...] = (2, 3, 3, 2)  # residual blocks of the decoder
    fine_channels: int = 24  # at 1/2 of the image
    fine_depth: int = 1
    depth_channels: int = 32
    depth_guided: bool = True


@dataclass(frozen=True)
class BaselinePreset:
    """A network to compare with: `paper` or `dgnl`."""

    name: str
    family: str
    channels: tuple[int, ...]
    encoder_depths: tuple[int, ...]
    mlp_ratio: int = 4
    depth_channels: int = 32


@dataclass(frozen=True)
class SegmentationPreset:
    """A segmentation network on a trunk that ImageNet taught first."""

    name: str
    family: str = "segmentation"
    trunk: str = "lite0"
    decoder_channels: int = 64


Preset = DerainPreset | BaselinePreset | SegmentationPreset

FAST = DerainPreset("fast")

PRESETS: dict[str, Preset] = {
    preset.name: preset
    for preset in (
        FAST,
        replace(FAST, name="fast-unguided", depth_guided=False),
        BaselinePreset("paper", "paper", (32, 64, 128, 256), (3, 4, 6, 3)),
        BaselinePreset("dgnl-fast", "dgnl", (32, 64, 128), (3, 3, 3)),
        SegmentationPreset("segmentation"),
        SegmentationPreset("judge", trunk="lite2"),
    )
}
"""`fast` is the default; `fast-unguided` is the plain network of the ablation; `paper` follows the
publication and `dgnl-fast` the design of DGNL-Net-fast (Hu et al., IEEE TIP 2021), both as yardsticks.
`segmentation` gives the node's mask and the semantic loss; `judge`, on another trunk, judges restorations
and teaches nothing.
"""


def get_preset(name: str) -> Preset:
    """The preset of that name. Raises PresetError, naming those that exist."""
    if name not in PRESETS:
        raise PresetError(f"unknown preset {name!r}; the presets are {', '.join(sorted(PRESETS))}")
    return PRESETS[name]
