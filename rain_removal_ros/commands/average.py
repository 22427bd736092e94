"""`derain average`: the mean of two weights files, layer by layer."""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping
from pathlib import Path

from torch import nn

from rain_removal_ros.errors import ParameterError, WeightsError
from rain_removal_ros.network import load_network, require_layers, save_network, sha256_of


def average_into(trained: nn.Module, base: nn.Module, share: float, layers: Mapping[str, float]) -> None:
    """Make every weight of `trained` share * itself + (1 - share) * the same weight of `base`.

    `layers` gives layers, named as `named_modules()` names them, shares of their own; the longest name that
    fits a weight counts. Running statistics of batch norms are averaged like weights. Raises WeightsError
    where the networks differ in shape, PresetError for a layer that they have not.
    """
    if trained.preset != base.preset:
        raise WeightsError(
            f"the networks differ and have no mean: preset {trained.preset} and preset {base.preset}"
        )
    require_layers(trained, layers)
    others = base.state_dict()
    for name, tensor in trained.state_dict().items():
        if tensor.is_floating_point():
            fitting = [layer for layer in layers if name.startswith(layer + ".")]
            weight = layers[max(fitting, key=len)] if fitting else share
            tensor.copy_(weight * tensor + (1 - weight) * others[name])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `derain average`."""
    parser.add_argument("trained", type=Path, help="weights (.safetensors), whose training is named on")
    parser.add_argument("base", type=Path, help="weights of the same preset, such as those it started from")
    parser.add_argument("--output", type=Path, required=True, help="file to write (.safetensors)")
    parser.add_argument(
        "--share", default="0.5", help="what TRAINED counts, BASE having the rest (%(default)s)"
    )
    parser.add_argument(
        "--layers",
        nargs="+",
        default=(),
        metavar="LAYER=SHARE",
        help="shares of single layers, such as airlight=0.2 encoder.stages.3=0.4",
    )


def _share(text: str, option: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = math.nan
    if not 0 <= share <= 1:
        raise ParameterError(f"{option}: a share is a number from 0 to 1, not {text}")
    return share


def run(arguments: argparse.Namespace) -> int:
    """Write the mean; its metadata name both files and every share."""
    share = _share(arguments.share, "--share")
    layers = {}
    for text in arguments.layers:
        layer, _, value = text.partition("=")
        layers[layer] = _share(value, f"--layers {text}")
    trained, training = load_network(arguments.trained)
    base, _ = load_network(arguments.base)
    average_into(trained, base, share, layers)
    training["averaged"] = {
        "trained": {"file": arguments.trained.name, "sha256": sha256_of(arguments.trained)},
        "base": {"file": arguments.base.name, "sha256": sha256_of(arguments.base)},
        "share": share,
        "layers": layers,
    }
    save_network(trained, arguments.output, training)
    print(f"weights: {arguments.output}")
    return 0
