"""`derain train`: a run from the command line."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path

import torch

from rain_removal_ros.commands.values import positive, whole_number
from rain_removal_ros.cpu import cpu_flags
from rain_removal_ros.errors import ParameterError, RainRemovalError
from rain_removal_ros.lab.data.datasets import SPLITS, open_dataset
from rain_removal_ros.lab.training.recipe import RECIPES, run_recipe
from rain_removal_ros.lab.training.samples import SampleSettings
from rain_removal_ros.lab.training.settings import PARTS, LossWeights, TrainingSettings, restores
from rain_removal_ros.lab.training.trainer import train
from rain_removal_ros.network import PRESETS, get_preset

OF_RECIPES = (
    *("data", "dataset", "split", "depth_scale", "output", "recipe"),
    *("batch", "precision", "seed", "workers", "threads", "checkpoint_every", "minutes"),
)
"""Options that count for a recipe, whose stages settle all else."""

OF_MEANING = {"semantic": 0.04, "perceptual": 0.1}
"""Weights of the terms that need a segmentation network, where one is given."""


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
        help="their kind: folders with image/ (inverse_depth/, labels/), RainCityscapes, pairs (%(default)s)",
    )
    parser.add_argument("--split", choices=SPLITS, help="their split (folders: none, the root itself)")
    parser.add_argument(
        "--depth-scale", type=positive, help="1/m of code 255, for RainCityscapes' 8-bit depth images"
    )
    parser.add_argument(
        "--output", type=Path, required=True, help="folder of the run; a run found there is resumed"
    )
    parser.add_argument(
        "--recipe",
        choices=sorted(RECIPES),
        help="train weights of this name through all their stages, in one run; of the options below, only "
        "--batch, --precision, --seed, --workers, --threads, --checkpoint-every and --minutes can be added",
    )
    parser.add_argument(
        "--preset", default="fast", choices=sorted(PRESETS), help="network to train (%(default)s)"
    )
    parser.add_argument(
        "--steps", type=whole_number(1), default=20_000, help="steps of the optimiser (%(default)s)"
    )
    parser.add_argument(
        "--batch",
        type=whole_number(1),
        help=f"samples per step and process ({defaults.batch}); with --recipe, of all processes together",
    )
    parser.add_argument(
        "--crop", type=int, default=256, help="side of a sample in pixels, a multiple of 32 (%(default)s)"
    )
    parser.add_argument(
        "--scales",
        type=float,
        nargs=2,
        metavar=("LEAST", "MOST"),
        default=SampleSettings().scales,
        help="range of the factor by which an image is resized before a sample is cut (%(default)s)",
    )
    parser.add_argument(
        "--learning-rate",
        type=positive,
        default=defaults.learning_rate,
        help="peak, after a warm-up and before a cosine decay to 0 (%(default)s)",
    )
    parser.add_argument(
        "--weight-decay", type=float, default=defaults.weight_decay, help="AdamW's (%(default)s)"
    )
    parser.add_argument(
        "--average-decay",
        type=float,
        default=defaults.average_decay,
        help="decay of the moving average that is saved (%(default)s)",
    )
    parser.add_argument(
        "--part",
        choices=PARTS,
        default=defaults.part,
        help="part of the network to train: all, the streak stage alone, or, on samples without streaks, "
        "the fog or the depth part alone (%(default)s)",
    )
    parser.add_argument(
        "--precision",
        choices=("bf16", "fp16", "no"),
        default="bf16",
        help="mixed precision (%(default)s); no: float32, for a CPU without bfloat16",
    )
    parser.add_argument(
        "--seed", type=whole_number(0), default=0, help="seed of samples and weights (%(default)s)"
    )
    for term in dataclasses.fields(LossWeights):
        usual = f"{OF_MEANING[term.name]} with --segmentation" if term.name in OF_MEANING else term.default
        parser.add_argument(
            f"--{term.name.replace('_', '-')}-weight",
            type=float,
            default=None if term.name in OF_MEANING else term.default,
            help=f"weight of this loss term ({usual})",
        )
    parser.add_argument(
        "--segmentation", type=Path, help="frozen network for the semantic loss (.safetensors)"
    )
    parser.add_argument("--start-from", type=Path, help="weights to start from (.safetensors)")
    parser.add_argument(
        "--freeze",
        nargs="+",
        default=(),
        metavar="LAYER",
        help="layers that keep their initial weights, such as trunk.stem or trunk.blocks.0",
    )
    parser.add_argument(
        "--streaks-from", type=Path, help="weights to start the streak stage from (.safetensors)"
    )
    parser.add_argument(
        "--workers", type=whole_number(0), default=2, help="processes that make samples (%(default)s)"
    )
    parser.add_argument(
        "--threads", type=whole_number(1), help="CPU threads of the training process (PyTorch chooses)"
    )
    parser.add_argument(
        "--checkpoint-every",
        type=whole_number(1),
        default=500,
        help="steps between checkpoints (%(default)s)",
    )
    parser.add_argument(
        "--minutes", type=positive, help="checkpoint and stop after this time; can be resumed"
    )


def run(arguments: argparse.Namespace) -> int:
    """Train; prints where the weights are."""
    if arguments.recipe:
        _check_recipe(arguments)
    if arguments.crop % 32 or arguments.crop < 64:
        raise RainRemovalError(f"--crop {arguments.crop} is not a multiple of 32 of at least 64")
    if not 0 < arguments.scales[0] <= arguments.scales[1]:
        raise RainRemovalError(f"--scales {arguments.scales} must be positive, the lesser one first")
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    if arguments.precision == "bf16" and not _computes_bfloat16():
        print(
            "derain train: this CPU has no instructions for bfloat16, in which every step then takes many "
            "times as long; give --precision no",
            file=sys.stderr,
        )
    split = arguments.split or ("train" if arguments.dataset == "raincityscapes" else None)
    datasets = [
        open_dataset(arguments.dataset, root, split, depth_scale=arguments.depth_scale)
        for root in arguments.data
    ]
    stop_after = 60 * arguments.minutes if arguments.minutes else None
    if arguments.recipe:
        path = run_recipe(
            arguments.recipe,
            datasets,
            arguments.output,
            seed=arguments.seed,
            batch=arguments.batch,
            precision=arguments.precision,
            workers=arguments.workers,
            checkpoint_every=arguments.checkpoint_every,
            stop_after=stop_after,
        )
        print(f"weights: {path}" if path else "the time is over; the same command goes on")
        return 0
    weights = {
        term.name: getattr(arguments, f"{term.name}_weight") for term in dataclasses.fields(LossWeights)
    }
    for name, usual in OF_MEANING.items():
        if weights[name] is None:
            weights[name] = usual if arguments.segmentation else 0.0
    settings = TrainingSettings(
        preset=get_preset(arguments.preset),
        steps=arguments.steps,
        batch=arguments.batch or TrainingSettings.batch,
        learning_rate=arguments.learning_rate,
        weight_decay=arguments.weight_decay,
        average_decay=arguments.average_decay,
        part=arguments.part,
        precision=arguments.precision,
        seed=arguments.seed,
        frozen=tuple(arguments.freeze),
        samples=SampleSettings(size=arguments.crop, scales=tuple(arguments.scales)),
        weights=LossWeights(**weights),
        segmentation=arguments.segmentation.name if arguments.segmentation else None,
    )
    finds_depth = restores(settings) and settings.part != "streaks"
    if finds_depth and all(dataset[0].inverse_depth is None for dataset in datasets):
        print("derain train: no image comes with depth, so the depth head learns nothing", file=sys.stderr)
    path = train(
        settings,
        datasets,
        arguments.output,
        segmentation_weights=arguments.segmentation,
        workers=arguments.workers,
        checkpoint_every=arguments.checkpoint_every,
        stop_after=stop_after,
        start_from=arguments.start_from,
        streaks_from=arguments.streaks_from,
    )
    print(f"weights: {path}")
    return 0


def _computes_bfloat16() -> bool:
    """Whether what trains has instructions for it; True where nobody says."""
    flags = cpu_flags()
    return torch.cuda.is_available() or not flags or "bf16" in flags


def _check_recipe(arguments: argparse.Namespace) -> None:
    """Raise ParameterError for an option that a recipe would ignore."""
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    for name, usual in vars(parser.parse_args(["--data", "", "--output", ""])).items():
        given = getattr(arguments, name)
        if name not in OF_RECIPES and given not in (
            usual,
            list(usual) if isinstance(usual, tuple) else usual,
        ):
            raise ParameterError(
                f"--{name.replace('_', '-')} is settled by --recipe {arguments.recipe}; leave one of them out"
            )
