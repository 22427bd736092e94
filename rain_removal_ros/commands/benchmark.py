"""`derain benchmark`: latency and memory as a table and as JSON. Knows no backend by itself."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

from rain_removal_ros.commands.runtime_options import add_runtime_arguments, settings_from
from rain_removal_ros.commands.values import image_size, positive, whole_number
from rain_removal_ros.errors import ParameterError, RainRemovalError
from rain_removal_ros.output import write_text
from rain_removal_ros.runtime import OPENVINO, RuntimeSettings

YARDSTICKS = ("fast", "paper", "dgnl-fast")
SIZES = ((512, 1024),)
"""(height, width)"""

Keep: TypeAlias = Callable[[str, list[Any]], None]  # told a part of the results and its rows


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_runtime_arguments(parser)
    group = parser.add_argument_group("what is measured")
    group.add_argument(
        "--presets", nargs="+", metavar="PRESET",
        help="networks, with packaged weights if there are any, else with random ones "
        f"({' '.join(YARDSTICKS)}; with tensorrt: fast paper)",
    )  # fmt: skip
    group.add_argument("--weights", type=Path, help="a .safetensors file instead of the presets")
    group.add_argument(
        "--sizes", nargs="+", type=image_size, metavar="WxH",
        help="image sizes (1024x512; with tensorrt: 1024x512 1920x1080)",
    )  # fmt: skip
    group.add_argument(
        "--minutes", type=positive, metavar="M",
        help="with tensorrt: start nothing new when this time is nearly over (no limit)",
    )  # fmt: skip
    group.add_argument("--frames", type=whole_number(1), default=100, help="calls per row (%(default)s)")
    group.add_argument(
        "--every-precision", action="store_true",
        help="measure every precision that the device supports natively and the weights allow",
    )  # fmt: skip
    group.add_argument(
        "--batches", nargs="+", type=whole_number(1), metavar="N",
        help="measure instead the time per frame with N in one call, for the first preset (OpenVINO)",
    )  # fmt: skip
    group.add_argument(
        "--memory-frames",
        type=whole_number(0),
        default=0,
        metavar="N",
        help="also monitor memory over N frames",
    )
    group.add_argument(
        "--node", action="store_true",
        help="also measure the ROS 2 node: the latency it adds, its sustained rate, its memory",
    )  # fmt: skip
    group.add_argument(
        "--node-frames", type=whole_number(1), default=300, metavar="N", help="frames (%(default)s)"
    )
    group.add_argument(
        "--node-size", type=image_size, default=(720, 1280), metavar="WxH", help="image size (1280x720)"
    )
    group.add_argument(
        "--node-rate", type=positive, default=10.0, help="camera frames per second (%(default)s)"
    )
    load = parser.add_argument_group("the node under load, instead of the above")
    load.add_argument(
        "--load", nargs="+", type=whole_number(1), metavar="CAMERAS",
        help="this many cameras at once, at each of --load-rates and --sizes",
    )  # fmt: skip
    load.add_argument("--load-rates", nargs="+", type=positive, default=[5.0, 15.0], metavar="HZ")
    load.add_argument("--load-seconds", type=positive, default=10.0, help="duration of a row (%(default)s)")
    load.add_argument("--no-batching", action="store_true", help="with --load: process every image alone")
    load.add_argument(
        "--soak",
        type=whole_number(0),
        default=0,
        metavar="N",
        help="N frames through one camera: shows whether memory or anything else grows",
    )
    load.add_argument(
        "--soak-rate", type=positive, default=10.0, metavar="HZ", help="frames per second (%(default)s)"
    )
    parser.add_argument("--json", type=Path, help="also write the figures and their conditions to this file")


def run(arguments: argparse.Namespace) -> int:
    """Exit status 1 where something could not be measured or an engine is too far from float32."""
    if arguments.presets and arguments.weights:
        raise ParameterError("--presets and --weights both say what is measured; give one of them")
    if arguments.every_precision and arguments.precision != "auto":
        raise ParameterError("--precision and --every-precision both say what is measured; give one of them")
    if arguments.minutes and arguments.backend != "tensorrt":
        raise ParameterError("--minutes is about the table that --backend tensorrt makes; leave it out")
    _check_together(arguments)
    if arguments.node or arguments.load or arguments.soak:
        _import_ros()
    from rain_removal_ros.lab.benchmark import inference, measuring
    from rain_removal_ros.lab.benchmark.machine import describe_machine, versions

    say = measuring.say_on_stderr
    results: dict[str, Any] = {"machine": describe_machine(arguments.device), "versions": versions()}

    def keep(part: str, rows: list[Any]) -> None:
        results[part] = measuring.as_data(rows)
        if arguments.json:
            write_text(arguments.json, json.dumps(results, indent=2) + "\n")

    if arguments.backend == "tensorrt":
        return _run_gpu(arguments, say, keep)
    settings = _settings(arguments)
    if arguments.load or arguments.soak:
        return _run_load(arguments, settings, say, keep)
    presets = (arguments.presets or YARDSTICKS) if arguments.weights is None else [settings.preset]
    sizes = arguments.sizes or SIZES
    if arguments.batches:
        return _run_batches(arguments, settings, presets[0], say, keep)
    precisions = None if arguments.every_precision else [arguments.precision]
    latencies = inference.benchmark_inference(settings, presets, sizes, precisions, arguments.frames, say)
    keep("inference", latencies)
    print(inference.inference_table(latencies))
    rows: list[object] = [*latencies]
    if arguments.memory_frames:
        memory = inference.benchmark_memory(settings, presets[0], sizes[0], arguments.memory_frames, say)
        keep("memory", [memory])
        print(inference.memory_line(memory))
        rows.append(memory)
    if arguments.node:
        from rain_removal_ros.lab.benchmark.node import benchmark_node, node_lines

        node = benchmark_node(
            settings, presets[0], arguments.node_size, arguments.node_frames, arguments.node_rate, say
        )
        keep("node", node)
        print("\n".join(node_lines(node)))
        rows += node
    return int(any(isinstance(row, measuring.Failure) for row in rows))


def _check_together(arguments: argparse.Namespace) -> None:
    """Raises ParameterError for an option that what is measured instead of the usual would ignore."""
    if arguments.no_batching and not arguments.load:
        raise ParameterError("--no-batching is about several cameras; give --load as well, or leave it out")
    if arguments.backend == "tensorrt":
        what = "the table that --backend tensorrt makes"
        ignored = "--weights --every-precision --batches --memory-frames --node --load --soak"
        ignored += " --precision --threads --cache-dir"
    elif arguments.batches:
        what, ignored = "what --batches measures", "--every-precision --memory-frames --node --load --soak"
        ignored += " --device --cache-dir"
    elif arguments.load or arguments.soak:
        what, ignored = "the node under load", "--presets --every-precision --memory-frames --node"
    else:
        return
    for option in ignored.split():
        if getattr(arguments, option[2:].replace("-", "_")) not in (None, False, 0, "auto"):
            raise ParameterError(f"{option} is not part of {what}; leave one of them out")


def _run_batches(
    arguments: argparse.Namespace,
    settings: RuntimeSettings,
    preset: str,
    say: Callable[[str], None],
    keep: Keep,
) -> int:
    from rain_removal_ros.lab.benchmark.batch import batch_table, benchmark_batches
    from rain_removal_ros.lab.benchmark.measuring import Failure

    if settings.backend not in ("auto", OPENVINO):
        raise ParameterError(f"--batches measures OpenVINO, not {settings.backend}; leave --backend out")
    sizes = arguments.sizes or SIZES
    rows = benchmark_batches(settings, preset, sizes, arguments.batches, arguments.frames, say)
    keep("batches", rows)
    print(batch_table(rows))
    return int(any(isinstance(row, Failure) for row in rows))


def _run_load(
    arguments: argparse.Namespace,
    settings: RuntimeSettings,
    say: Callable[[str], None],
    keep: Keep,
) -> int:
    from rain_removal_ros.lab.benchmark import load
    from rain_removal_ros.lab.benchmark.measuring import Failure

    sizes = arguments.sizes or SIZES
    rows: list[Any] = []
    if arguments.load:
        rows += load.sweep(
            settings, arguments.load, arguments.load_rates, sizes, arguments.load_seconds, say,
            lambda rows: keep("load", rows), batching=not arguments.no_batching,
        )  # fmt: skip
        print(load.load_table(rows))
    if arguments.soak:
        what = f"soak: {arguments.soak} frames at {arguments.soak_rate:g} Hz"
        say(what)
        row = load.measured(what, load.run_load, settings, 1, sizes[0], arguments.soak_rate, arguments.soak)
        keep("soak", [row])
        print(load.soak_lines(row))
        rows.append(row)
    return int(any(isinstance(row, Failure) for row in rows))


def _import_ros() -> None:
    """First of all, since ROS' wheels start the interpreter once more when they are first imported."""
    import rclpy  # noqa: F401


def _settings(arguments: argparse.Namespace) -> RuntimeSettings:
    return settings_from(argparse.Namespace(**vars(arguments), preset="fast"))


def _run_gpu(arguments: argparse.Namespace, say: Callable[[str], None], keep: Keep) -> int:
    from rain_removal_ros.lab.benchmark import gpu as gpu_benchmark
    from rain_removal_ros.lab.benchmark.measuring import Failure
    from rain_removal_ros.runtime.selection import choose

    choose(replace(_settings(arguments), backend="torch-cuda"))  # PyTorch's rows need no TensorRT
    rows = gpu_benchmark.benchmark_gpu(
        arguments.device,
        say,
        lambda rows: keep("gpu", rows),
        arguments.presets or gpu_benchmark.PRESETS,
        arguments.sizes or gpu_benchmark.SIZES,
        calls=arguments.frames,
        budget_seconds=60 * arguments.minutes if arguments.minutes else math.inf,
    )
    print(gpu_benchmark.gpu_table(rows))
    if far := gpu_benchmark.too_far_from_float32(rows):
        raise RainRemovalError(
            f"{len(far)} engines are further than {gpu_benchmark.MIN_PSNR:g} dB from float32, first: {far[0]}"
        )
    return int(any(isinstance(row, Failure) for row in rows))
