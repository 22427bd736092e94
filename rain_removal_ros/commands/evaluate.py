"""`derain evaluate`: runs the evaluation, writes report.md, report.json and sheets of the worst cases."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

import rain_removal_ros.lab.baselines  # noqa: F401  weights of the networks to compare with can be loaded
from rain_removal_ros.commands.runtime_options import add_runtime_arguments, settings_from
from rain_removal_ros.commands.values import image_size, positive, whole_number
from rain_removal_ros.cpu import usable_cores
from rain_removal_ros.errors import ParameterError
from rain_removal_ros.files.images import write_image
from rain_removal_ros.lab.benchmark.machine import describe_machine, versions
from rain_removal_ros.lab.data.datasets import (
    DATASET_KINDS,
    SPLITS,
    USUAL_SPLIT,
    DriveDataset,
    open_dataset,
)
from rain_removal_ros.lab.data.examples import Dataset, outline_of
from rain_removal_ros.lab.evaluation import pictures, sheet
from rain_removal_ros.lab.evaluation.conditions import LEVELS, RAIN_DESCRIPTION
from rain_removal_ros.lab.evaluation.evaluate import Evaluation, EvaluationSettings
from rain_removal_ros.lab.evaluation.export import export_image, export_inputs
from rain_removal_ros.lab.evaluation.hard_dry import measure_hard_dry
from rain_removal_ros.lab.evaluation.judges import CLASS_SETS, Judge, JudgeSpecification, KeptJudge
from rain_removal_ros.lab.evaluation.probes import with_parts
from rain_removal_ros.lab.evaluation.protocols import PROTOCOLS
from rain_removal_ros.lab.evaluation.real_weather import measure_weather, open_weather
from rain_removal_ros.lab.evaluation.report import render_markdown
from rain_removal_ros.lab.evaluation.results import ResultFolder, open_results
from rain_removal_ros.lab.evaluation.streak_stage import streak_stage_of
from rain_removal_ros.lab.evaluation.summary import as_csv
from rain_removal_ros.lab.evaluation.testbed import MASK, Testbed
from rain_removal_ros.output import make_folder, write_text
from rain_removal_ros.runtime import Restorer, create_restorer
from rain_removal_ros.runtime.cache import default_folder
from rain_removal_ros.share import packaged_weights

HARD_DRY_IMAGES = 14
"""Of every kind of look-alike, where nobody says how many."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `derain evaluate`."""
    defaults = EvaluationSettings()
    data = parser.add_argument_group("data")
    data.add_argument("--data", type=Path, help="root of the dataset (the drive needs none)")
    data.add_argument("--dataset", choices=DATASET_KINDS, default="folder", help="its layout (%(default)s)")
    data.add_argument(
        "--split", choices=SPLITS, help="part of the dataset; for a folder, the subfolder of that name"
    )
    data.add_argument(
        "--select",
        nargs="+",
        default=[],
        metavar="PREFIX",
        help="only images whose names begin with one of these",
    )
    data.add_argument("--limit", type=whole_number(1), help="at most this many images, spread evenly")
    data.add_argument(
        "--limit-per-group",
        type=whole_number(1),
        metavar="N",
        help="at most this many per group, for a quick look",
    )
    data.add_argument("--levels", nargs="+", choices=LEVELS, default=list(LEVELS), help="rain (all of them)")
    data.add_argument("--protocol", choices=PROTOCOLS, default=defaults.protocol)
    data.add_argument(
        "--depth-scale", type=positive, help="1/m of code 255, for RainCityscapes' 8-bit depth images"
    )
    data.add_argument(
        "--weather",
        type=Path,
        metavar="DIR",
        help="WEATHER/{image,labels}: real weather, without ground truth",
    )
    data.add_argument(
        "--hard-dry",
        type=whole_number(1),
        nargs="?",
        const=HARD_DRY_IMAGES,
        metavar="N",
        help=f"look-alikes of rain and fog made from the dataset, or from the drive: N of every kind "
        f"({HARD_DRY_IMAGES})",
    )
    networks = parser.add_argument_group("networks")
    networks.add_argument("--weights", type=Path, nargs="+", default=[], help="files to compare side by side")
    networks.add_argument(
        "--preset", default="fast", help="whose packaged weights to use without --weights (%(default)s)"
    )
    networks.add_argument(
        "--results",
        action="append",
        default=[],
        metavar="NAME=DIR",
        help="another method's images of the same views, named as --export-inputs names them; may be given "
        "several times",
    )
    judges = parser.add_argument_group("downstream segmentation")
    judges.add_argument(
        "--judge",
        action="append",
        default=[],
        metavar="FILE[,scale=S][,normalise=imagenet][,name=N]",
        help="a segmentation network: ours (.safetensors), .onnx or TorchScript (.pt), from RGB (1, 3, H, W) "
        "in [0, 1] to logits (1, 19, h, w) of Cityscapes train ids; may be given several times",
    )
    judges.add_argument(
        "--classes",
        choices=CLASS_SETS,
        default="cityscapes19",
        help="camvid11 merges train ids as CamVid does",
    )
    add_runtime_arguments(parser)
    aim = parser.add_mutually_exclusive_group(required=True)
    aim.add_argument(
        "--output", type=Path, help="folder for report.md, report.json, images.csv and the sheets"
    )
    aim.add_argument(
        "--export-inputs",
        type=Path,
        metavar="DIR",
        help="measure nothing, write what another method is given: DIR/rainy, DIR/dry, and DIR/clean",
    )
    parser.add_argument(
        "--export",
        type=Path,
        metavar="DIR",
        help="also write every compared image as PNG: DIR/rainy, DIR/dry, DIR/clean, and DIR/NETWORK for "
        "each network",
    )
    for name, default, unit in (
        ("--robustness", defaults.robustness_images, "IMAGES"),
        ("--flicker", defaults.flicker_scenes, "SCENES"),
        ("--consistency", defaults.consistency_images, "IMAGES"),
    ):
        parser.add_argument(name, type=whole_number(0), default=default, metavar=unit, help="(%(default)s)")
    parser.add_argument(
        "--sheet",
        type=whole_number(0),
        default=14,
        metavar="ROWS",
        help="worst cases to show in each sheet (%(default)s)",
    )
    parser.add_argument(
        "--latency-size", type=image_size, default=defaults.latency_size, metavar="WxH", help="(1024x512)"
    )
    parser.add_argument(
        "--workers",
        type=whole_number(1),
        default=max(2, min(8, usable_cores())),
        help="threads",
    )


def run(arguments: argparse.Namespace) -> int:
    """Evaluate, write the report, print the comparison; or write the inputs alone."""
    if arguments.export_inputs is not None:
        return _export_inputs(arguments)
    weather = None if arguments.weather is None else open_weather(arguments.weather)
    dataset = _open_dataset(arguments)
    methods = open_results(arguments.results)
    judges = _open_judges(arguments.judge)
    networks, files = _open_networks(arguments)
    testbed = _testbed(arguments, networks, files, judges)
    make_folder(arguments.output)
    results: dict[str, Any] = {}
    written = ["report.json", "report.md"]
    conditions = _conditions(arguments, dataset, networks, methods, judges)
    evaluation = None
    if dataset is not None:
        show = {} if arguments.export is None else {"show": partial(export_image, arguments.export)}
        evaluation = Evaluation(dataset, testbed, _settings(arguments), methods=methods, **show)
    try:
        if evaluation is not None:
            results |= evaluation.run()
            write_text(arguments.output / "images.csv", as_csv(evaluation.records))
            written.append("images.csv")
            _write_report(arguments.output, conditions, results)
            for name in networks if arguments.sheet > 0 else ():
                rows = pictures.worst_rows(evaluation, name, arguments.sheet)
                written += _write_sheet(arguments.output / f"worst_{name}.jpg", rows)
        if weather is not None:
            results["real_weather"], views = measure_weather(weather, testbed)
            _write_report(arguments.output, conditions, results)
            for name in networks if arguments.sheet > 0 else ():
                rows = pictures.weather_rows(views, name)
                written += _write_sheet(arguments.output / f"weather_{name}.jpg", rows)
        if arguments.hard_dry:
            source = dataset or DriveDataset("val")
            results["hard_dry"], scores = measure_hard_dry(source, arguments.hard_dry, testbed)
            for name in networks if arguments.sheet > 0 else ():
                rows = pictures.hard_dry_rows(source, scores, name, testbed)
                written += _write_sheet(arguments.output / f"hard_dry_{name}.jpg", rows)
        if evaluation is not None:
            results = with_parts(results, [evaluation.latency()])
    finally:
        for restorer in networks.values():
            restorer.close()
    markdown = _write_report(arguments.output, conditions, results)
    print(markdown[markdown.index("\n## ") :])
    print(f"Written to {arguments.output}: " + ", ".join(sorted(written)))
    return 0


def _export_inputs(arguments: argparse.Namespace) -> int:
    for option in ("weights", "results", "judge", "weather", "hard_dry", "export"):
        if getattr(arguments, option):
            raise ParameterError(
                f"--export-inputs measures nothing; leave --{option.replace('_', '-')} out, or give --output "
                "instead"
            )
    dataset = _open_dataset(arguments)
    assert dataset is not None  # which only weather and look-alikes go without
    folder, settings = make_folder(arguments.export_inputs), _settings(arguments)
    views = export_inputs(
        dataset,
        folder,
        settings.levels,
        settings.protocol,
        settings.limit,
        settings.limit_per_group,
        arguments.workers,
        _track,
    )
    print(
        f"Written to {folder}: {views} views in rainy/, their truth in clean/, dry images in dry/. Run the "
        "method on rainy/, and on dry/ if it is to be judged there, into one folder, and give that as "
        "--results NAME=FOLDER"
    )
    return 0


def _write_report(folder: Path, conditions: dict[str, Any], results: dict[str, Any]) -> str:
    """Writes what has been measured so far, and gives it as Markdown."""
    report = {"conditions": conditions, "results": results}
    write_text(folder / "report.json", json.dumps(report, indent=1, allow_nan=False) + "\n")
    markdown = render_markdown(report)
    write_text(folder / "report.md", markdown)
    return markdown


def _open_dataset(arguments: argparse.Namespace) -> Dataset | None:
    """The dataset, None where only real weather or the hard dry set of the drive was asked for."""
    others = arguments.weather is not None or arguments.hard_dry
    if arguments.data is None and arguments.dataset != "drive" and others:
        for option in (
            "split",
            "select",
            "limit",
            "limit_per_group",
            "depth_scale",
            "results",
            "export",
        ):
            if getattr(arguments, option):
                raise ParameterError(
                    f"--{option.replace('_', '-')} is about a dataset, and none is given; give --data, or "
                    "leave it out"
                )
        if arguments.dataset != "folder":
            raise ParameterError(
                f"a dataset of kind {arguments.dataset} needs its root folder; give --data, or leave "
                "--dataset out"
            )
        return None
    return open_dataset(
        arguments.dataset, arguments.data, arguments.split, arguments.select, arguments.depth_scale
    )


def _settings(arguments: argparse.Namespace) -> EvaluationSettings:
    return EvaluationSettings(
        levels=tuple(level for level in LEVELS if level in arguments.levels),
        protocol=arguments.protocol,
        limit=arguments.limit,
        limit_per_group=arguments.limit_per_group,
        robustness_images=arguments.robustness,
        flicker_scenes=arguments.flicker,
        consistency_images=arguments.consistency,
        latency_size=arguments.latency_size,
    )


def _testbed(
    arguments: argparse.Namespace,
    networks: dict[str, Restorer],
    files: dict[str, Path],
    judges: dict[str, Judge],
) -> Testbed:
    kept = (arguments.cache_dir or default_folder()) / "judged"
    packaged = packaged_weights("segmentation")
    mask = Judge(JudgeSpecification(packaged, MASK)) if packaged.is_file() else None
    stages = {name: streak_stage_of(path) for name, path in files.items()}
    return Testbed(
        networks=networks,
        judges=judges,
        known_judges={name: KeptJudge(judge, kept) for name, judge in judges.items()},
        mask=None if mask is None else KeptJudge(mask, kept),
        streak_stages={name: stage for name, stage in stages.items() if stage is not None},
        class_set=arguments.classes,
        workers=arguments.workers,
        track=_track,
    )


def _track(items: Iterable[Any], total: int, what: str) -> Iterable[Any]:
    return tqdm(items, total=total, desc=what, file=sys.stderr, mininterval=1)


def _open_judges(texts: list[str]) -> dict[str, Judge]:
    judges: dict[str, Judge] = {}
    for text in texts:
        specification = JudgeSpecification.parse(text)
        if specification.name in judges:
            raise ParameterError(
                f"two judges are called {specification.name!r}; tell them apart with ,name=N"
            )
        judges[specification.name] = Judge(specification)
    return judges


def _open_networks(arguments: argparse.Namespace) -> tuple[dict[str, Restorer], dict[str, Path]]:
    """Restorers and weights files by the name that the tables give them."""
    if not arguments.weights:
        packaged = packaged_weights(arguments.preset)
        return {arguments.preset: create_restorer(settings_from(arguments))}, {arguments.preset: packaged}
    paths = arguments.weights
    # a training run's weights go by the name of the run's folder
    names = [path.resolve().parent.name if path.stem == "weights" else path.stem for path in paths]
    if len(set(names)) < len(names):
        names = [f"{path.resolve().parent.name}_{path.stem}" for path in paths]
    if len(set(names)) < len(names):
        raise ParameterError(
            "two of the weights files have one name and folder name; rename one, so the table tells them "
            "apart"
        )
    files = dict(zip(names, paths, strict=True))
    return {name: create_restorer(settings_from(arguments, path)) for name, path in files.items()}, files


def _conditions(
    arguments: argparse.Namespace,
    dataset: Dataset | None,
    networks: dict[str, Restorer],
    methods: dict[str, ResultFolder],
    judges: dict[str, Judge],
) -> dict[str, Any]:
    data = arguments.data
    described = {
        "kind": arguments.dataset,
        "name": "/".join(data.resolve().parts[-2:]) if data else arguments.dataset,
        "split": arguments.split or USUAL_SPLIT.get(arguments.dataset),
        "select": arguments.select,
        "examples": 0 if dataset is None else len(dataset),
        "images": 0 if dataset is None else len({outline_of(dataset, i).scene for i in range(len(dataset))}),
    }
    return {
        "command": arguments.command_line,
        "dataset": None if dataset is None else described,
        "protocol": arguments.protocol,
        "protocol_description": PROTOCOLS[arguments.protocol].description,
        "rain": RAIN_DESCRIPTION,
        "class_set": arguments.classes,
        "machine": describe_machine(arguments.device),
        "versions": versions(),
        "networks": {
            name: {
                key: getattr(restorer.info, key)
                for key in ("preset", "weights", "weights_sha256", "backend", "precision", "device")
            }
            for name, restorer in networks.items()
        },
        "methods": {name: "/".join(folder.folder.resolve().parts[-2:]) for name, folder in methods.items()},
        "judges": {name: judge.description for name, judge in judges.items()},
    }


def _write_sheet(path: Path, rows: list[sheet.SheetRow]) -> list[str]:
    """The name of the file, if there was something to draw."""
    if not rows:
        return []
    write_image(path, sheet.draw_sheet(rows))
    return [path.name]
