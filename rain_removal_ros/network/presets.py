"""The networks by name, as plain data. A preset says how wide and deep a network is and where depth guides
it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from rain_removal_ros.errors import PresetError

MAX_INVERSE_DEPTH = 0.7
"""Inverse depth in 1/m at the top of the depth head's sigmoid: nothing nearer than 1.43 m is told apart."""


@dataclass(frozen=True)
class DerainPreset:
    """A derain network. Stages lie at 1/4, 1/8, 1/16 and 1/32 of the image, finest first."""

    name: str
    family: str  # fast | paper | dgnl: which class builds it
    channels: tuple[int, ...]
    encoder_depths: tuple[int, ...]
    decoder_depths: tuple[int, ...] = ()
    mlp_ratio: int = 4
    depth_channels: int = 24
    depth_guided: bool = True
    streak_channels: int = 0  # of the stage that takes streaks off first; 0: none


@dataclass(frozen=True)
class SegmentationPreset:
    """A segmentation network: `segmentation` has the family's encoder, `efficientnet-lite0` judges
    independently.
    """

    name: str
    channels: tuple[int, ...]
    encoder_depths: tuple[int, ...]
    decoder_channels: int = 64
    mlp_ratio: int = 4
    family: str = "segmentation"


Preset = DerainPreset | SegmentationPreset

FAST = DerainPreset(
    "fast",
    "fast",
    (48, 96, 160, 256),
    (1, 3, 4, 4),
    (1, 3, 2),
    depth_channels=24,
    streak_channels=16,
)

PRESETS: dict[str, Preset] = {
    preset.name: preset
    for preset in (
        FAST,
        replace(FAST, name="fast-unguided", depth_guided=False),
        DerainPreset("paper", "paper", (32, 64, 128, 256), (3, 4, 6, 3), depth_channels=32),
        DerainPreset("dgnl-fast", "dgnl", (32, 64, 128), (3, 3, 3), depth_channels=32),
        SegmentationPreset("segmentation", (48, 96, 160, 256), (1, 2, 4, 4)),
        SegmentationPreset("judge", (24, 40, 112, 320), (), family="efficientnet-lite0"),
    )
}
"""`fast` is the default; `fast-unguided` is the plain network of the ablation; `paper` follows the
publication and `dgnl-fast` the design of DGNL-Net-fast (Hu et al., IEEE TIP 2021), both as yardsticks.
"""


def get_preset(name: str) -> Preset:
    """The preset of that name. Raises PresetError, naming those that exist."""
    if name not in PRESETS:
        raise PresetError(f"unknown preset {name!r}; the presets are {', '.join(sorted(PRESETS))}")
    return PRESETS[name]
