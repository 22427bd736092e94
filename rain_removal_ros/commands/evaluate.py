"""`derain evaluate`: runs the evaluation, writes report.md, report.json and sheets of the worst cases."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from tqdm import tqdm

from rain_removal_ros.colours import colour_inverse_depth
from rain_removal_ros.commands.runtime_options import add_runtime_arguments, image_size, settings_from
from rain_removal_ros.errors import ParameterError
from rain_removal_ros.files.images import write_image
from rain_removal_ros.lab.benchmark.machine import describe_machine, versions
from rain_removal_ros.lab.data.datasets import DATASET_KINDS, SPLITS, open_dataset
from rain_removal_ros.lab.evaluation import sheet
from rain_removal_ros.lab.evaluation.evaluate import Evaluation, EvaluationSettings
from rain_removal_ros.lab.evaluation.judges import CLASS_SETS, Judge, JudgeSpecification
from rain_removal_ros.lab.evaluation.protocols import PROTOCOLS
from rain_removal_ros.lab.evaluation.report import render_markdown
from rain_removal_ros.lab.weather import PAPER_LEVELS
from rain_removal_ros.runtime import Restorer, create_restorer

RAIN_DESCRIPTION = (
    "RainCityscapes' imaging model, distances end at 300 m; image i of the dataset has pattern i mod 12 and "
    "seed i "
    "at every level; a dataset's own rainy images are taken as they are"
)


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
        "--select", nargs="+", default=[], metavar="PREFIX", help="only images whose names begin so"
    )
    data.add_argument("--limit", type=int, help="at most so many images, spread evenly")
    data.add_argument("--levels", nargs="+", choices=PAPER_LEVELS, default=list(PAPER_LEVELS))
    data.add_argument("--protocol", choices=PROTOCOLS, default=defaults.protocol)
    data.add_argument(
        "--depth-scale", type=float, help="1/m of code 255, for RainCityscapes' 8-bit depth images"
    )
    networks = parser.add_argument_group("networks")
    networks.add_argument("--weights", type=Path, nargs="+", default=[], help="files to compare side by side")
    networks.add_argument(
        "--preset", default="fast", help="packaged weights, without --weights (%(default)s)"
    )
    judges = parser.add_argument_group("downstream segmentation")
    judges.add_argument(
        "--judge",
        action="append",
        default=[],
        metavar="FILE[,scale=S][,normalise=imagenet][,name=N]",
        help="a segmentation network: ours (.safetensors), .onnx or TorchScript (.pt) with RGB (1, 3, H, W) "
        "in [0, 1] in and logits (1, 19, h, w) of Cityscapes train ids out; may be given several times",
    )
    judges.add_argument(
        "--classes",
        choices=CLASS_SETS,
        default=defaults.class_set,
        help="camvid11 folds train ids as CamVid does",
    )
    add_runtime_arguments(parser)
    parser.add_argument(
        "--output", type=Path, required=True, help="folder for report.md, report.json and the sheets"
    )
    parser.add_argument(
        "--robustness", type=int, default=defaults.robustness_images, metavar="IMAGES", help="(%(default)s)"
    )
    parser.add_argument(
        "--flicker", type=int, default=defaults.flicker_scenes, metavar="SCENES", help="(%(default)s)"
    )
    parser.add_argument(
        "--sheet", type=int, default=12, metavar="ROWS", help="worst cases to picture (%(default)s)"
    )
    parser.add_argument(
        "--latency-size", type=image_size, default=defaults.latency_size, metavar="WxH", help="(1024x512)"
    )
    parser.add_argument(
        "--workers", type=int, default=max(2, min(8, len(os.sched_getaffinity(0)))), help="threads"
    )


def run(arguments: argparse.Namespace) -> int:
    """Evaluate, write the report, print the comparison."""
    if arguments.limit is not None and arguments.limit < 1:
        raise ParameterError(f"--limit {arguments.limit}: at least one image is needed")
    dataset = open_dataset(
        arguments.dataset, arguments.data, arguments.split, arguments.select, arguments.depth_scale
    )
    judges = _open_judges(arguments.judge)
    networks = _open_networks(arguments)
    settings = EvaluationSettings(
        levels=tuple(level for level in PAPER_LEVELS if level in arguments.levels),
        protocol=arguments.protocol,
        class_set=arguments.classes,
        limit=arguments.limit,
        robustness_images=arguments.robustness,
        flicker_scenes=arguments.flicker,
        latency_size=arguments.latency_size,
        workers=max(1, arguments.workers),
    )
    arguments.output.mkdir(parents=True, exist_ok=True)
    evaluation = Evaluation(dataset, networks, judges, settings, _track)
    try:
        results = evaluation.run()
        report = {
            "conditions": _conditions(arguments, len(dataset), networks, judges),
            "results": results,
        }
        (arguments.output / "report.json").write_text(json.dumps(report, indent=1, allow_nan=False) + "\n")
        markdown = render_markdown(report)
        (arguments.output / "report.md").write_text(markdown)
        for name in networks if arguments.sheet > 0 else ():
            write_image(
                arguments.output / f"worst_{name}.jpg", _worst_sheet(evaluation, name, arguments.sheet)
            )
    finally:
        for restorer in networks.values():
            restorer.close()
    print(markdown[markdown.index("## Side by side") : markdown.index("## Restoration")])
    print(f"Written to {arguments.output}: " + ", ".join(sorted(p.name for p in arguments.output.iterdir())))
    return 0


def _track(items: Iterable, total: int, what: str) -> Iterator:
    return iter(tqdm(items, total=total, desc=what, file=sys.stderr, mininterval=1))


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


def _open_networks(arguments: argparse.Namespace) -> dict[str, Restorer]:
    if not arguments.weights:
        return {arguments.preset: create_restorer(settings_from(arguments))}
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
    return {
        name: create_restorer(settings_from(arguments, path)) for name, path in zip(names, paths, strict=True)
    }


def _conditions(
    arguments: argparse.Namespace, examples: int, networks: dict[str, Restorer], judges: dict[str, Judge]
) -> dict:
    data = arguments.data
    return {
        "command": arguments.command_line,
        "dataset": {
            "kind": arguments.dataset,
            "name": "/".join(data.resolve().parts[-2:]) if data else arguments.dataset,
            "split": arguments.split,
            "select": arguments.select,
            "examples": examples,
        },
        "protocol": arguments.protocol,
        "protocol_description": PROTOCOLS[arguments.protocol].description,
        "rain": RAIN_DESCRIPTION,
        "class_set": arguments.classes,
        "machine": describe_machine(),
        "versions": versions(),
        "networks": {
            name: {
                key: getattr(restorer.info, key)
                for key in ("preset", "weights", "weights_sha256", "backend", "precision", "device")
            }
            for name, restorer in networks.items()
        },
        "judges": {
            name: {
                "file": judge.specification.path.name,
                "sha256": judge.sha256,
                "scale": judge.specification.scale,
                "normalise": judge.specification.normalise,
            }
            for name, judge in judges.items()
        },
    }


def _worst_sheet(evaluation: Evaluation, network: str, count: int):
    """uint8 (H, W, 3) RGB: rainy, derained, clean and inverse depth of the views with the least gain, the
    worst first.
    """
    rows = []
    for scores in evaluation.worst_views(network, count):
        view = evaluation.view_again(scores)
        restored = evaluation.restore(network, view.rainy)
        caption = (
            f"{scores.name}, {scores.level}: {scores.rainy[0]:.2f} dB -> {scores.derained[network][0]:.2f} "
            "dB "
            f"({scores.gain(network):+.2f}), SSIM {scores.rainy[1]:.3f} -> "
            f"{scores.derained[network][1]:.3f}   "
            "[rainy | derained | clean | inverse depth]"
        )
        depth = colour_inverse_depth(restored.inverse_depth)
        rows.append(sheet.SheetRow(caption, (view.rainy, restored.image, view.clean, depth)))
    return sheet.draw_sheet(rows)
