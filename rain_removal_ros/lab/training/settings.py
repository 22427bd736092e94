"""All that a training run depends on besides its data."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from rain_removal_ros.lab.training.samples import SampleSettings
from rain_removal_ros.network.presets import Preset, SegmentationPreset


@dataclass(frozen=True)
class LossWeights:
    """What each term of the loss counts; 0 leaves it out (and, for depth, leaves the depth head untaught)."""

    image: float = 1.0
    fidelity: float = 0.08
    gradient: float = 0.5
    structural: float = 0.1
    harm: float = 1.0
    depth: float = 0.05
    distance: float = 0.025
    semantic: float = 0.0  # this and the next: where there is a frozen segmentation network
    perceptual: float = 0.0
    streaks: float = 1.0
    presence: float = 0.02
    extinction: float = 0.06
    airlight: float = 0.2


PARTS: dict[str, Callable[[str], bool]] = {
    "all": lambda layer: True,
    "streaks": lambda layer: layer.startswith("streaks."),
    "fog": lambda layer: not layer.startswith("streaks."),
    "depth": lambda layer: layer.startswith(("trunk.", "context.", "depth_head.")),
}
"""What of the network `fast` a run trains, by the names of its weights: all of it, where the whole
restoration teaches the streak stage too; the streak stage alone; all but the streak stage, on samples whose
streaks were taken off, all but a little, by rendering; on the same, what finds depth.
"""


@dataclass(frozen=True)
class TrainingSettings:
    """All that a run depends on besides its data; kept in its checkpoints and in the weights' metadata."""

    preset: Preset
    steps: int
    part: str = "all"  # one of PARTS
    batch: int = 8  # samples a step and process
    learning_rate: float = 1e-3  # AdamW, linear warm-up, then cosine to 0
    trunk_rate: float = 0.3  # of the learning rate, for what ImageNet taught
    warmup_share: float = 0.02
    weight_decay: float = 1e-4
    clip: float = 5.0  # norm of the gradient
    average_decay: float = 0.999  # exponential moving average of the weights
    precision: str = "bf16"  # bf16 | fp16 | no: accelerate's mixed precision
    seed: int = 0
    samples: SampleSettings = field(default_factory=SampleSettings)
    weights: LossWeights = field(default_factory=LossWeights)
    segmentation: str | None = None  # what is frozen in the loss: its file's name; in a recipe, the stage's
    class_balance: float = (
        0.5  # of a segmentation network's classes: 0 every pixel alike, 1 every class alike
    )
    frozen: tuple[str, ...] = ()  # layers that keep the weights they start with


def learning_rate_at(step: int, settings: TrainingSettings) -> float:
    """Linear warm-up, then half a cosine to zero."""
    warmup = max(1, round(settings.warmup_share * settings.steps))
    if step < warmup:
        return settings.learning_rate * (step + 1) / warmup
    progress = (step - warmup) / max(1, settings.steps - warmup)
    return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))


def restores(settings: TrainingSettings) -> bool:
    """Whether a run trains a derain network, and not a segmentation network."""
    return not isinstance(settings.preset, SegmentationPreset)


def plain_settings(settings: TrainingSettings) -> dict[str, Any]:
    """The settings as plain values: what a checkpoint and a weights file keep."""
    return dataclasses.asdict(settings)
