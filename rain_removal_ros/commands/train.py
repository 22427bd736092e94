"""`derain train`: a run from the command line."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from dataclasses import replace
from pathlib import Path

import torch

from rain_removal_ros.commands.values import positive, whole_number
from rain_removal_ros.cpu import cpu_flags
from rain_removal_ros.errors import ParameterError
from rain_removal_ros.lab.data.datasets import SPLITS, open_dataset
from rain_removal_ros.lab.training.recipe import RECIPES, run_recipe, settings_of
from rain_removal_ros.lab.training.settings import PARTS, LossWeights, TrainingSettings, restores
from rain_removal_ros.lab.training.settings_text import (
    PRESET,
    PRESET_NAME,
    Given,
    from_assignment,
    from_file,
    resolve,
    to_toml,
)
from rain_removal_ros.lab.training.trainer import train
from rain_removal_ros.lab.training.validation import Validation
from rain_removal_ros.network import PRESETS, get_preset

OF_MEANING = {"semantic": 0.04, "perceptual": 0.1}
"""Weights of the terms that need a segmentation network, where one is given."""

SETTINGS = {
    "preset": "preset",
    "steps": "steps",
    "batch": "batch",
    "crop": "samples.size",
    "scales": "samples.scales",
    "learning_rate": "learning_rate",
    "weight_decay": "weight_decay",
    "average_decay": "average_decay",
    "part": "part",
    "precision": "precision",
    "seed": "seed",
    "freeze": "frozen",
    **{f"{term.name}_weight": f"weights.{term.name}" for term in dataclasses.fields(LossWeights)},
}
"""Options that are settings, with their keys."""

OF_STAGES = {*SETTINGS, "segmentation", "start_from", "streaks_from"} - {"batch", "precision", "seed"}
"""Options that a recipe's stages settle."""

USUAL = TrainingSettings(get_preset("fast"), steps=20_000)
"""What counts where nothing else is given."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `derain train`."""
    parser.add_argument(
        "--data", type=Path, nargs="+", help="roots of datasets of one kind, trained on together"
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
    parser.add_argument("--output", type=Path, help="folder of the run; a run found there is resumed")
    parser.add_argument(
        "--recipe",
        choices=sorted(RECIPES),
        help="train weights of this name through all their stages, in one run; of the settings below, only "
        "--batch, --precision and --seed can be added",
    )
    parser.add_argument(
        "--stage", help="with --recipe and --print-settings: the stage whose settings to print"
    )
    parser.add_argument(
        "--settings",
        type=Path,
        metavar="FILE",
        help="settings of the run, as --print-settings prints them (TOML); options below win over them",
    )
    parser.add_argument(
        "--set",
        nargs="+",
        action="extend",
        metavar="KEY=VALUE",
        help="any settings by their keys, such as samples.dry_share=0.3 weights.harm=2",
    )
    parser.add_argument(
        "--print-settings",
        action="store_true",
        help="print all settings that the other options come to, and train nothing",
    )
    _add_settings(parser)
    parser.add_argument(
        "--segmentation", type=Path, help="frozen network for the semantic loss (.safetensors)"
    )
    parser.add_argument("--start-from", type=Path, help="weights to start from (.safetensors)")
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
        "--validate",
        type=Path,
        metavar="DATA",
        help="a dataset of the same kind, but another split, on which every checkpoint's averaged weights "
        "are measured; changes nothing of the training",
    )
    parser.add_argument(
        "--validate-images",
        type=whole_number(1),
        metavar="N",
        help=f"measure on so many of its images, spread over its groups ({Validation.images})",
    )
    parser.add_argument(
        "--minutes", type=positive, help="checkpoint and stop after this time; can be resumed"
    )


def _add_settings(parser: argparse.ArgumentParser) -> None:
    """Options that are settings; None: not given."""
    parser.add_argument("--preset", choices=sorted(PRESETS), help=f"network to train ({USUAL.preset.name})")
    parser.add_argument("--steps", type=whole_number(1), help=f"steps of the optimiser ({USUAL.steps})")
    parser.add_argument(
        "--batch",
        type=whole_number(1),
        help=f"samples per step and process ({USUAL.batch}); with --recipe, of all processes together",
    )
    parser.add_argument(
        "--crop", type=int, help=f"side of a sample in pixels, a multiple of 32 ({USUAL.samples.size})"
    )
    parser.add_argument(
        "--scales",
        type=float,
        nargs=2,
        metavar=("LEAST", "MOST"),
        help="range of the factor by which an image is resized before a sample is cut "
        f"({' '.join(map(str, USUAL.samples.scales))})",
    )
    parser.add_argument(
        "--learning-rate",
        type=positive,
        help=f"peak, after a warm-up and before a cosine decay to 0 ({USUAL.learning_rate})",
    )
    parser.add_argument("--weight-decay", type=float, help=f"AdamW's ({USUAL.weight_decay})")
    parser.add_argument(
        "--average-decay",
        type=float,
        help=f"decay of the moving average that is saved ({USUAL.average_decay})",
    )
    parser.add_argument(
        "--part",
        choices=PARTS,
        help="part of the network to train: all, the streak stage alone, or, on samples without streaks, "
        f"the fog or the depth part alone ({USUAL.part})",
    )
    parser.add_argument(
        "--precision",
        choices=("bf16", "fp16", "no"),
        help=f"mixed precision ({USUAL.precision}); no: float32, for a CPU without bfloat16",
    )
    parser.add_argument("--seed", type=whole_number(0), help=f"seed of samples and weights ({USUAL.seed})")
    parser.add_argument(
        "--freeze",
        nargs="+",
        metavar="LAYER",
        help="layers that keep their initial weights, such as trunk.stem or trunk.blocks.0",
    )
    for term in dataclasses.fields(LossWeights):
        usual = f"{OF_MEANING[term.name]} with --segmentation" if term.name in OF_MEANING else term.default
        parser.add_argument(
            f"--{term.name.replace('_', '-')}-weight", type=float, help=f"weight of this loss term ({usual})"
        )


def run(arguments: argparse.Namespace) -> int:
    """Train; prints where the weights are, or the settings alone."""
    if arguments.recipe:
        _check_recipe(arguments)
    if arguments.stage and not (arguments.recipe and arguments.print_settings):
        raise ParameterError("--stage names a stage to print: give --recipe and --print-settings with it")
    if arguments.print_settings:
        print(_printed_stage(arguments) if arguments.recipe else to_toml(_settings(arguments)), end="")
        return 0
    for name in ("data", "output"):
        if getattr(arguments, name) is None:
            raise ParameterError(f"nothing is trained without --{name}; give it, or --print-settings")
    settings = None if arguments.recipe else _settings(arguments)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    precision = settings.precision if settings else arguments.precision or USUAL.precision
    if precision == "bf16" and not _computes_bfloat16():
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
    validation = _validation(arguments)
    stop_after = 60 * arguments.minutes if arguments.minutes else None
    if settings is None:
        path = run_recipe(
            arguments.recipe,
            datasets,
            arguments.output,
            seed=arguments.seed or 0,
            batch=arguments.batch,
            precision=arguments.precision,
            workers=arguments.workers,
            checkpoint_every=arguments.checkpoint_every,
            stop_after=stop_after,
            validation=validation,
        )
        print(f"weights: {path}" if path else "the time is over; the same command goes on")
        return 0
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
        validation=validation,
    )
    print(f"weights: {path}")
    return 0


def _validation(arguments: argparse.Namespace) -> Validation | None:
    """What the run is measured on. Raises ParameterError, and DatasetError."""
    if arguments.validate is None:
        if arguments.validate_images is not None:
            raise ParameterError("--validate-images counts images of --validate, which is not given")
        return None
    whole = arguments.dataset != "raincityscapes"  # which has splits of its own in one folder
    if whole and any(arguments.validate.resolve() == root.resolve() for root in arguments.data):
        raise ParameterError(f"--validate {arguments.validate} is trained on; give images of another split")
    dataset = open_dataset(arguments.dataset, arguments.validate, depth_scale=arguments.depth_scale)
    return Validation(dataset, arguments.validate_images or Validation.images)


def _settings(arguments: argparse.Namespace) -> TrainingSettings:
    """What the usual settings become by a file, then by options and --set, of which only one may give a key.

    Raises ParameterError and PresetError.
    """
    of_file = from_file(arguments.settings) if arguments.settings else []
    of_line = [from_assignment(text) for text in arguments.set or ()]
    for option, key in SETTINGS.items():
        value = getattr(arguments, option)
        if value is not None:
            text = " ".join(map(str, value)) if isinstance(value, list) else value
            of_line.append(Given(key, value, f"--{option.replace('_', '-')} {text}"))
    keys = {PRESET_NAME: PRESET}  # of one meaning
    seen: dict[str, str] = {}
    for given in of_line:
        key = keys.get(given.key, given.key)
        if key in seen:
            raise ParameterError(
                f"{key} is given twice: {seen[key]} and {given.written}; leave one of them out"
            )
        seen[key] = given.written
    usual = USUAL
    if arguments.segmentation:
        usual = replace(
            usual,
            weights=replace(usual.weights, **OF_MEANING),
            segmentation=arguments.segmentation.name,
        )
    return resolve(resolve(usual, of_file), of_line)


def _printed_stage(arguments: argparse.Namespace) -> str:
    """The settings of a recipe's stage as TOML, and what it begins with. Raises ParameterError."""
    stages = {stage.name: stage for stage in RECIPES[arguments.recipe]}
    if arguments.stage not in stages:
        said = f"there is no stage {arguments.stage!r} of" if arguments.stage else "--stage says which of"
        raise ParameterError(f"{said} recipe {arguments.recipe}; its stages are {', '.join(stages)}")
    stage = stages[arguments.stage]
    settings = settings_of(stage, arguments.seed or 0, arguments.batch, arguments.precision)
    leans_on = {
        "start-from": stage.start_from,
        "streaks-from": stage.streaks_from,
        "segmentation": stage.teacher,
    }
    heading = [f"stage {stage.name} of recipe {arguments.recipe}"]
    heading += [f"--{option}: the weights of {other}" for option, other in leans_on.items() if other]
    return to_toml(settings, heading)


def _computes_bfloat16() -> bool:
    """Whether what trains has instructions for it; True where nobody says."""
    flags = cpu_flags()
    return torch.cuda.is_available() or not flags or "bf16" in flags


def _check_recipe(arguments: argparse.Namespace) -> None:
    """Raise ParameterError for an option that a recipe would ignore."""
    for name, given in vars(arguments).items():
        if name in ("settings", "set") and given is not None:
            raise ParameterError(
                f"--{name} does not go with --recipe {arguments.recipe}, which settles all settings; to "
                f"change those of one stage, print them with --recipe {arguments.recipe} --stage STAGE "
                "--print-settings, and give the file as --settings without --recipe"
            )
        if name in OF_STAGES and given is not None:
            raise ParameterError(
                f"--{name.replace('_', '-')} is settled by --recipe {arguments.recipe}; leave one of them out"
            )
