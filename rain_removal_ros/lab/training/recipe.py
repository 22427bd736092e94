"""Recipes: how packaged weights are made of data and a seed, stage by stage, in one run that can be
resumed.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rain_removal_ros.errors import DatasetError, PresetError
from rain_removal_ros.lab.data.examples import Dataset
from rain_removal_ros.lab.training.samples import SampleSettings
from rain_removal_ros.lab.training.settings import LossWeights, TrainingSettings, restores
from rain_removal_ros.lab.training.trainer import finished_steps, load_checkpoint, require_same_run, train
from rain_removal_ros.lab.training.validation import Validation
from rain_removal_ros.network.presets import get_preset
from rain_removal_ros.share import packaged_weights

EARLY = ("trunk.stem", "trunk.blocks.0", "trunk.blocks.1", "trunk.blocks.2")
"""Layers that know edges and textures from ImageNet; leaving them so saves more than half of the time."""

BUT_THE_LAST_OF_DEPTH = ("trunk", "context", "depth_head.lateral", "depth_head.refine")
"""What finds depth, but for the layer that gives it, which nothing else needs."""


@dataclass(frozen=True)
class Stage:
    """One run of the trainer. Names of other stages stand for the weights that they gave, those of PACKAGED
    for packaged ones.
    """

    name: str
    settings: TrainingSettings
    start_from: str | None = None
    streaks_from: str | None = None
    teacher: str | None = None  # the stage whose segmentation network is frozen in the loss


_LABELLED = SampleSettings(size=192, scales=(0.5, 1.3))
_SEGMENTATION = TrainingSettings(
    get_preset("segmentation"), steps=1500, samples=_LABELLED, frozen=EARLY, class_balance=0.0
)
_FOG_SAMPLES = SampleSettings(
    dry_share=0.18, fog_only_share=0.2, streaks_only_share=0.07, lookalike_share=0.2, overcast_share=0.3
)
_FOG_WEIGHTS = LossWeights(depth=0.3, distance=0.0, presence=0.05)
_FOG = TrainingSettings(
    get_preset("fast"),
    steps=6000,
    part="fog",
    batch=6,
    seed=4,
    samples=_FOG_SAMPLES,
    weights=_FOG_WEIGHTS,
)

_DEPTH = replace(
    _FOG,
    steps=5000,
    part="depth",
    batch=4,
    seed=5,
    samples=replace(_FOG_SAMPLES, size=352, dry_share=0.3, measured_weight=4.0),
    weights=LossWeights(depth=0.5, distance=0.25),
)

_WIDE_SAMPLES = replace(
    _FOG_SAMPLES,
    size=256,
    width=512,
    scales=(0.4, 1.6),
    mirrored_share=0.5,
    dry_share=0.16,
    fog_only_share=0.12,
    streaks_only_share=0.14,
    overcast_share=0.5,
    lookalike_share=0.28,
)
"""As wide as images are: how thick and bright a fog is shows in whole images."""

_FOG_REFINED = replace(
    _FOG,
    batch=2,
    learning_rate=4e-4,
    seed=8,
    samples=_WIDE_SAMPLES,
    weights=replace(_FOG_WEIGHTS, fidelity=0.25, harm=1.5),
)

_TOGETHER = replace(
    _FOG,
    steps=14_000,
    part="all",
    batch=4,
    learning_rate=5e-4,
    seed=3,
    samples=_WIDE_SAMPLES,
    weights=replace(
        _FOG_WEIGHTS, fidelity=0.25, harm=2.0, semantic=0.08, perceptual=0.2, depth=0.4, distance=0.2
    ),
)

_READ_DEPTH = replace(_DEPTH, steps=1500, seed=9, frozen=BUT_THE_LAST_OF_DEPTH)

PACKAGED = ("packaged fast", "packaged segmentation")
"""Names that stand for the packaged weights, where a stage names others to begin with."""

RECIPES: dict[str, tuple[Stage, ...]] = {
    "fast": (
        Stage("segmentation", _SEGMENTATION),
        Stage(
            "segmentation-balanced",
            replace(_SEGMENTATION, steps=400, learning_rate=3e-4, seed=2, class_balance=0.5),
            start_from="segmentation",
        ),
        Stage(
            "streaks",
            TrainingSettings(
                get_preset("fast"), steps=5000, part="streaks", seed=6, samples=SampleSettings(size=192)
            ),
        ),
        Stage(
            "streaks-refined",
            TrainingSettings(
                get_preset("fast"),
                steps=2600,
                part="streaks",
                learning_rate=6e-4,
                seed=7,
                samples=SampleSettings(size=192, dry_share=0.16, fog_only_share=0.14, lookalike_share=0.2),
                weights=LossWeights(presence=0.08, semantic=0.08, perceptual=0.2),
            ),
            start_from="streaks",
            teacher="segmentation-balanced",
        ),
        Stage("depth", _DEPTH),
        Stage("fog", _FOG, start_from="depth"),
        Stage("fog-refined", _FOG_REFINED, start_from="fog"),
        Stage(
            "together",
            _TOGETHER,
            start_from="fog-refined",
            streaks_from="streaks-refined",
            teacher="segmentation-balanced",
        ),
        Stage("fast", _READ_DEPTH, start_from="together"),
    ),
    "fine-tune": (
        Stage(
            "tuned",
            replace(_TOGETHER, steps=4000, learning_rate=3e-4, seed=10),
            start_from="packaged fast",
            teacher="packaged segmentation",
        ),
        Stage("fine-tune", _READ_DEPTH, start_from="tuned"),
    ),
    "judge": (
        Stage(
            "judge",
            replace(_SEGMENTATION, preset=get_preset("judge"), steps=900, seed=1, class_balance=0.5),
        ),
    ),
}
"""The last stage of a recipe gives its weights. A recipe's stages may lean on each other's weights by
name.
"""


def scaled(stage: Stage, batch: int) -> Stage:
    """The same stage with larger batches, as a GPU takes them: as many samples, in fewer steps, each larger
    by the root of the ratio.
    """
    settings = stage.settings
    ratio = batch / settings.batch
    if ratio == 1:
        return stage
    return replace(
        stage,
        settings=replace(
            settings,
            batch=batch,
            steps=max(1, math.ceil(settings.steps / ratio)),
            learning_rate=settings.learning_rate * math.sqrt(ratio),
        ),
    )


def settings_of(
    stage: Stage, seed: int = 0, batch: int | None = None, precision: str | None = None
) -> TrainingSettings:
    """The settings that a stage runs with in each process; parameters as of `run_recipe`. Raises PresetError
    for a batch that the processes cannot share.
    """
    settings = (scaled(stage, batch) if batch else stage).settings
    return replace(
        settings,
        seed=settings.seed + seed,
        batch=_share(settings.batch, int(os.environ.get("WORLD_SIZE", 1))),
        precision=precision or settings.precision,
        segmentation=stage.teacher,
    )


def run_recipe(
    name: str,
    datasets: Sequence[Dataset],
    output: Path,
    seed: int = 0,
    batch: int | None = None,
    precision: str | None = None,
    workers: int = 2,
    checkpoint_every: int = 500,
    stop_after: float | None = None,
    validation: Validation | None = None,
) -> Path | None:
    """Run, or go on with, every stage of a recipe in folders of `output`; the weights of the last stage.

    batch: samples a step of all processes together, of which each of those that `torchrun` started takes its
    share. precision: instead of the stages' own. validation: what stages that restore are measured on.
    Datasets without depth teach the streak stage alone. None: the time was over first; call it again to go
    on. Raises PresetError for a recipe that there is not, or a batch that the processes cannot share, and
    what `train` raises.
    """
    if name not in RECIPES:
        raise PresetError(f"unknown recipe {name!r}; the recipes are {', '.join(RECIPES)}")
    began = time.monotonic()
    weights = {name: packaged_weights(name.removeprefix("packaged ")) for name in PACKAGED}
    for stage in RECIPES[name]:
        settings = settings_of(stage, seed, batch, precision)
        taught = [data for data in datasets if _can_teach(data, settings)]
        if not taught:
            what = "depth" if restores(settings) else "labels"
            raise DatasetError(f"stage {stage.name} needs images with {what}; none of the datasets has any")
        teacher = weights[stage.teacher] if stage.teacher else None
        folder = output / stage.name
        path = folder / "weights.safetensors"
        sources = {
            "start_from": weights[stage.start_from] if stage.start_from else None,
            "streaks_from": weights[stage.streaks_from] if stage.streaks_from else None,
            "segmentation_weights": teacher,
        }
        if finished_steps(folder) < settings.steps:
            left = None if stop_after is None else stop_after - (time.monotonic() - began)
            path = train(
                settings,
                taught,
                folder,
                workers=workers,
                checkpoint_every=checkpoint_every,
                stop_after=left,
                start_from=sources["start_from"],
                streaks_from=sources["streaks_from"],
                segmentation_weights=sources["segmentation_weights"],
                validation=validation,
            )
            if finished_steps(folder) < settings.steps:
                return None
        else:
            checkpoint = folder / "checkpoint.pt"
            require_same_run(checkpoint, load_checkpoint(checkpoint), settings, sources)
        weights[stage.name] = path
    return path


def _share(batch: int, processes: int) -> int:
    if batch % processes:
        raise PresetError(
            f"{processes} processes cannot share batches of {batch}; give a multiple as --batch"
        )
    return batch // processes


def _can_teach(dataset: Dataset, settings: TrainingSettings) -> bool:
    if not restores(settings):
        return dataset[0].labels is not None
    return settings.part == "streaks" or dataset[0].inverse_depth is not None
