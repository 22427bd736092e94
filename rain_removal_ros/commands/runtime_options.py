"""The command line's runtime options, the same in every subcommand that runs a network.

Knows the settings, not the backends.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from rain_removal_ros.commands.values import whole_number
from rain_removal_ros.runtime import BACKENDS, PRECISIONS, RuntimeSettings


def add_runtime_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what runs a network and how: --backend, --precision, --threads, --device, --cache-dir."""
    defaults = RuntimeSettings()
    group = parser.add_argument_group("runtime")
    group.add_argument(
        "--backend", choices=BACKENDS, default=defaults.backend, help="what runs the network (%(default)s)"
    )
    group.add_argument(
        "--precision",
        choices=PRECISIONS,
        default=defaults.precision,
        help="arithmetic of the network (%(default)s)",
    )
    group.add_argument(
        "--threads",
        type=whole_number(0),
        default=defaults.threads,
        help="CPU threads; 0: the runtime chooses (%(default)s)",
    )
    group.add_argument(
        "--device", type=whole_number(0), default=defaults.device, help="CUDA device index (%(default)s)"
    )
    group.add_argument("--cache-dir", type=Path, help="folder for compiled networks")


def add_weights_arguments(parser: argparse.ArgumentParser) -> None:
    """Add which network: --preset and --weights."""
    group = parser.add_argument_group("network")
    group.add_argument(
        "--preset",
        default=RuntimeSettings().preset,
        help="network whose packaged weights to use (%(default)s)",
    )
    group.add_argument(
        "--weights", type=Path, help="a .safetensors file instead of the preset's packaged weights"
    )


def settings_from(arguments: argparse.Namespace, weights: Path | None = None) -> RuntimeSettings:
    """The settings that the parsed options mean.

    `weights`: for a command that takes several files, the one in question.
    """
    return RuntimeSettings(
        backend=arguments.backend,
        precision=arguments.precision,
        preset=arguments.preset,
        weights=weights or getattr(arguments, "weights", None),
        cache_dir=arguments.cache_dir,
        threads=arguments.threads,
        device=arguments.device,
    )
