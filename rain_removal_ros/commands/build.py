"""`derain build`: compiles networks ahead of time, and lists, verifies or clears what is compiled."""

from __future__ import annotations

import argparse
import datetime
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from rain_removal_ros.commands.runtime_options import (
    add_runtime_arguments,
    add_weights_arguments,
    settings_from,
)
from rain_removal_ros.commands.values import image_size
from rain_removal_ros.errors import BackendError, RainRemovalError
from rain_removal_ros.runtime import KINDS, Output, create_restorer
from rain_removal_ros.runtime.cache import EngineCache


def outputs(text: str) -> tuple[Output, ...]:
    """`image+inverse_depth` -> the outputs."""
    try:
        return tuple(Output(name) for name in text.split("+"))
    except ValueError as error:
        names = ", ".join(output.value for output in Output)
        raise argparse.ArgumentTypeError(
            f"{text!r} are no outputs; join some of {names} with +, as image+inverse_depth"
        ) from error


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_runtime_arguments(parser)
    add_weights_arguments(parser)
    parser.add_argument(
        "sizes", nargs="*", type=image_size, metavar="WxH", help="image sizes to build for, such as 1280x720"
    )
    parser.add_argument(
        "--outputs", nargs="+", type=outputs, metavar="A+B",
        default=[(Output.IMAGE, Output.INVERSE_DEPTH), (Output.IMAGE,)],
        help="sets of outputs, one engine per set (image+inverse_depth and image)",
    )  # fmt: skip
    parser.add_argument(
        "--segmentation-weights",
        type=Path,
        help="a .safetensors file instead of the packaged segmentation network, for labels",
    )
    actions = parser.add_mutually_exclusive_group()
    actions.add_argument("--list", action="store_true", help="list the cached engines")
    actions.add_argument("--verify", action="store_true", help="check every engine's size and checksum")
    actions.add_argument("--clear", action="store_true", help="remove every engine")


def run(arguments: argparse.Namespace) -> int:
    """Exit status 1 where something cannot be built or an engine in the cache is damaged."""
    settings = replace(settings_from(arguments), segmentation_weights=arguments.segmentation_weights)
    cache = EngineCache(settings.cache_dir, settings.cache_limit_bytes, print)
    if arguments.list:
        return _list(cache)
    if arguments.verify:
        return _verify(cache)
    if arguments.clear:
        print(f"{cache.clear()} engines removed from {cache.folder}")
        return 0
    if not arguments.sizes:
        raise RainRemovalError("give the image sizes to build for, as: derain build 1280x720 1920x1080")
    with closing(create_restorer(settings, print)) as restorer:
        info = restorer.info
        print(f"backend {info.backend} {info.precision} on {info.device}: {info.reason}")
        if not KINDS[info.backend].builds_ahead:
            raise BackendError(f"backend {info.backend} has nothing to build ahead; {info.reason}")
        for height, width in arguments.sizes:
            for each in arguments.outputs:
                restorer.prepare(height, width, each, print)
    return 0


def _list(cache: EngineCache) -> int:
    entries = cache.entries()
    for entry in entries:
        used = datetime.datetime.fromtimestamp(entry.last_used).isoformat(" ", "minutes")
        what = " ".join(
            entry.fields.get(f, "?") for f in ("backend", "preset", "size", "outputs", "precision", "device")
        )
        if "frames" in entry.fields:
            what += f", {entry.fields['frames']} frames a call"
        print(f"{what}: {entry.bytes / 2**20:.1f} MiB, used {used}, {entry.blob.name}")
    print(f"{len(entries)} engines, {sum(e.bytes for e in entries) / 2**20:.1f} MiB in {cache.folder}")
    return 0


def _verify(cache: EngineCache) -> int:
    problems = cache.verify()
    for name, problem in problems.items():
        print(f"{name}: {problem or 'ok'}")
    damaged = sum(problem is not None for problem in problems.values())
    print(f"{len(problems)} engines, {damaged} damaged, in {cache.folder}")
    return int(damaged > 0)
