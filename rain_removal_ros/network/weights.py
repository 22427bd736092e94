"""Weights files: safetensors whose metadata names the preset and the training, so that a file is enough to
rebuild its network.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from rain_removal_ros.digests import sha256_of
from rain_removal_ros.errors import PresetError, WeightsError
from rain_removal_ros.network.fast import FastDerainNetwork
from rain_removal_ros.network.presets import (
    BaselinePreset,
    DerainPreset,
    Preset,
    SegmentationPreset,
    get_preset,
)
from rain_removal_ros.network.quantisation import check_ranges, ranges_of
from rain_removal_ros.network.segmentation import SegmentationNetwork
from rain_removal_ros.output import write_bytes

__all__ = [
    "FAMILIES",
    "build_network",
    "load_network",
    "preset_of",
    "read_weights",
    "register_family",
    "require_layers",
    "save_network",
    "sha256_of",
]

FAMILIES: dict[str, Callable[[Any], nn.Module]] = {
    "fast": FastDerainNetwork,
    "segmentation": SegmentationNetwork,
}
"""What builds the network of a preset of the family's kind, by the family. Others add theirs with
`register_family`.
"""

_PRESET_KINDS = {"fast": DerainPreset, "segmentation": SegmentationPreset}


def register_family(name: str, build: Callable[[BaselinePreset], nn.Module]) -> None:
    """Let presets of the family `name` be built, and weights files of it be loaded."""
    FAMILIES[name] = build


def build_network(preset: Preset | str) -> nn.Module:
    """The network of a preset (or of the preset of that name), with fresh weights, in training mode.

    Raises PresetError for an unknown name, and for a family that nobody registered.
    """
    preset = get_preset(preset) if isinstance(preset, str) else preset
    if preset.family not in FAMILIES:
        raise PresetError(
            f"preset {preset.name} is of the family {preset.family}, which is not loaded here; what runs on "
            f"a vehicle is of {', '.join(FAMILIES)}"
        )
    return FAMILIES[preset.family](preset)


def preset_of(network: nn.Module) -> Preset:
    """The preset that a network of ours was built from."""
    return cast(Preset, network.preset)


def save_network(network: nn.Module, path: Path, training: Mapping[str, Any]) -> None:
    """Write weights with their preset, a JSON-able description of their training and, of a calibrated
    network, the ranges for 8-bit integers; atomic, readable by whom the umask allows. Raises OutputError.

    Convolution weights are kept in float16, which halves the file and moves no pixel by a grey level; the
    rest in float32.
    """
    metadata = {
        "preset": json.dumps(dataclasses.asdict(preset_of(network))),
        "training": json.dumps(training, default=str),
    }
    if ranges := ranges_of(network):
        metadata["ranges"] = json.dumps(ranges)
    tensors = {
        name: (tensor.half() if tensor.ndim == 4 else tensor).detach().cpu().contiguous()
        for name, tensor in network.state_dict().items()
    }
    write_bytes(path, save(tensors, metadata))


def read_weights(path: Path) -> bytes:
    """The content of a weights file. Raises WeightsError where it is missing or may not be read."""
    path = Path(path)
    if not path.is_file():
        raise WeightsError(
            f"weights file {path} does not exist; give a .safetensors file, or none for the packaged one"
        )
    try:
        return path.read_bytes()
    except PermissionError as error:
        raise WeightsError(
            f"weights file {path} cannot be read by this user; let its owner allow it (chmod a+r)"
        ) from error
    except OSError as error:
        raise WeightsError(f"weights file {path} is damaged ({error}); fetch or train it again") from error


def load_network(path: Path, content: bytes | None = None) -> tuple[nn.Module, dict[str, Any]]:
    """The network that a weights file describes, in evaluation mode, and the description of its training.

    content: of the file, where it was read already. Raises WeightsError where the file is missing, damaged,
    or not one of ours.
    """
    content = read_weights(path) if content is None else content
    try:
        tensors = load(content)
        metadata = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")]).get("__metadata__", {})
    except (SafetensorError, ValueError) as error:
        raise WeightsError(f"weights file {path} is damaged ({error}); fetch or train it again") from error
    try:
        fields = json.loads(metadata["preset"])
        training = json.loads(metadata.get("training", "{}"))
        _check_plausible(fields, tensors)
        kind = _PRESET_KINDS.get(fields["family"], BaselinePreset)
        preset = kind(
            **{name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}
        )
        _check_shapes(preset, tensors)
        network = build_network(preset)
        network.load_state_dict(tensors)
        if "ranges" in metadata:
            network.__dict__["input_ranges"] = check_ranges(network, json.loads(metadata["ranges"]))
    except (KeyError, TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise WeightsError(
            f"weights file {path} does not describe a network of this package ({error})"
        ) from error
    return network.eval(), training


def _check_plausible(fields: Mapping[str, object], tensors: Mapping[str, Tensor]) -> None:
    """Raise ValueError for a preset of more layers, or larger numbers, than the file can have weights for."""
    if not isinstance(fields, dict):
        raise ValueError(f"its preset is {str(fields)[:80]!r}, and not a description")
    largest = max((side for tensor in tensors.values() for side in tensor.shape), default=0)
    for name, value in fields.items():
        numbers = [n for n in (value if isinstance(value, list) else [value]) if isinstance(n, int)]
        if any(not 0 <= n <= max(largest, 64) for n in numbers) or (
            name.endswith("depths") and sum(numbers) > len(tensors)
        ):
            raise ValueError(f"its preset has {name} of {numbers[:8]}, for which the file holds no weights")


def _check_shapes(preset: Preset, tensors: Mapping[str, Tensor]) -> None:
    """Raise ValueError where the network has not the file's tensors, before memory is taken for it."""
    with torch.device("meta"):
        wanted = {name: tensor.shape for name, tensor in build_network(preset).state_dict().items()}
    given = {name: tensor.shape for name, tensor in tensors.items()}
    wrong = sorted(name for name in wanted.keys() | given.keys() if wanted.get(name) != given.get(name))
    if wrong:
        raise ValueError(f"{len(wrong)} tensors are not those of its preset, {wrong[0][:80]} among them")


def require_layers(network: nn.Module, layers: Iterable[str]) -> None:
    """Raises PresetError for a layer, named as `network.named_modules()` does, that the network has not."""
    modules = dict(network.named_modules())
    for layer in layers:
        if not layer or layer not in modules:
            raise PresetError(
                f"preset {preset_of(network).name} has no layer {layer!r}; its parts are "
                f"{', '.join(name for name, _ in network.named_children())}, and what they hold"
            )
