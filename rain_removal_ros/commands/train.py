"""`derain train`: a run from the command line."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import torch

from rain_removal_ros.errors import RainRemovalError
from rain_removal_ros.lab.data.datasets import SPLITS, open_dataset
from rain_removal_ros.lab.training.crops import CropSettings
from rain_removal_ros.lab.training.trainer import LossWeights, TrainingSettings, train
from rain_removal_ros.network import PRESETS, get_preset


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `derain train`."""
    defaults = TrainingSettings(get_preset("fast"), steps=1)
    parser.add_argument(
        "--data",
        type=Path,
        nargs="+",
        required=True,
        help="roots of datasets of one kind, trained on together",
    )
    parser.add_argument(
        "--dataset",
        choices=("folder", "raincityscapes", "paired"),
        default="folder",
        help="their kind: folders of image/ (inverse_depth/, labels/), RainCityscapes, pairs (%(default)s)",
    )
    parser.add_argument("--split", choices=SPLITS, help="their split (folders: none, the root itself)")
    parser.add_argument(
        "--output", type=Path, required=True, help="the run's folder; a run that lies there is resumed"
    )
    parser.add_argument(
        "--preset", default="fast", choices=sorted(PRESETS), help="network to train (%(default)s)"
    )
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument(
        "--batch", type=int, default=defaults.batch, help="samples a step and process (%(default)s)"
    )
    parser.add_argument(
        "--crop", type=int, default=256, help="side of a sample in pixels, a multiple of 32 (%(default)s)"
    )
    parser.add_argument(
        "--scales",
        type=float,
        nargs=2,
        metavar=("LEAST", "MOST"),
        default=CropSettings().scales,
        help="how much an image is resized before a sample is cut from it (%(default)s)",
    )
    parser.add_argument("--learning-rate", type=float, default=defaults.learning_rate)
    parser.add_argument("--weight-decay", type=float, default=defaults.weight_decay)
    parser.add_argument("--average-decay", type=float, default=defaults.average_decay)
    parser.add_argument(
        "--freeze-norms-after",
        type=float,
        default=defaults.freeze_norms_after,
        help="share of the run after which batch norm keeps its statistics; 0 suits a run that starts from "
        "trained weights (%(default)s)",
    )
    parser.add_argument("--precision", choices=("bf16", "fp16", "no"), default="bf16", help="mixed precision")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--dry-share", type=float, default=CropSettings().dry_share, help="share of dry samples"
    )
    parser.add_argument(
        "--sky-share",
        type=float,
        default=CropSettings().sky_share,
        help="share of samples that get another sky where the camera overexposed it (%(default)s)",
    )
    for term in dataclasses.fields(LossWeights):
        option = f"--{term.name.replace('_', '-')}-weight"
        parser.add_argument(option, type=float, default=term.default, help="weight of this loss term")
    parser.add_argument(
        "--segmentation", type=Path, help="frozen network of the semantic loss (.safetensors)"
    )
    parser.add_argument("--start-from", type=Path, help="weights to start from (.safetensors)")
    parser.add_argument(
        "--streaks-alone",
        action="store_true",
        help="train the streak stage alone, by its own term: a fraction of the time of a whole step",
    )
    parser.add_argument(
        "--freeze",
        nargs="+",
        default=(),
        metavar="LAYER",
        help="layers that keep the weights of --start-from, such as airlight or encoder.stages.3",
    )
    parser.add_argument("--workers", type=int, default=2, help="processes that make samples (%(default)s)")
    parser.add_argument(
        "--threads", type=int, help="CPU threads of the training process (PyTorch's own choice)"
    )
    parser.add_argument("--checkpoint-every", type=int, default=500, help="steps (%(default)s)")
    parser.add_argument("--minutes", type=float, help="checkpoint and stop after this time, to be resumed")


def run(arguments: argparse.Namespace) -> int:
    """Train; prints where the weights are."""
    if arguments.crop % 32 or arguments.crop < 64:
        raise RainRemovalError(f"--crop {arguments.crop} is not a multiple of 32 of at least 64")
    if not 0 < arguments.scales[0] <= arguments.scales[1]:
        raise RainRemovalError(f"--scales {arguments.scales} must be positive, the lesser one first")
    if arguments.steps < 1 or arguments.batch < 1:
        raise RainRemovalError(f"--steps {arguments.steps} and --batch {arguments.batch} must be at least 1")
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    weights = LossWeights(
        **{t.name: getattr(arguments, f"{t.name}_weight") for t in dataclasses.fields(LossWeights)}
    )
    settings = TrainingSettings(
        preset=get_preset(arguments.preset),
        steps=arguments.steps,
        batch=arguments.batch,
        learning_rate=arguments.learning_rate,
        weight_decay=arguments.weight_decay,
        average_decay=arguments.average_decay,
        freeze_norms_after=arguments.freeze_norms_after,
        precision=arguments.precision,
        seed=arguments.seed,
        crops=CropSettings(
            size=arguments.crop,
            scales=tuple(arguments.scales),
            dry_share=arguments.dry_share,
            sky_share=arguments.sky_share,
        ),
        weights=weights,
        segmentation=arguments.segmentation.name if arguments.segmentation else None,
        streaks_alone=arguments.streaks_alone,
        frozen=tuple(arguments.freeze),
    )
    split = arguments.split or ("train" if arguments.dataset == "raincityscapes" else None)
    datasets = [open_dataset(arguments.dataset, root, split) for root in arguments.data]
    path = train(
        settings,
        datasets,
        arguments.output,
        segmentation_weights=arguments.segmentation,
        workers=arguments.workers,
        checkpoint_every=arguments.checkpoint_every,
        stop_after=60 * arguments.minutes if arguments.minutes else None,
        start_from=arguments.start_from,
    )
    print(f"weights: {path}")
    return 0
