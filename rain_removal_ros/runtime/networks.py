"""The trained networks of a runtime, and what tells one training from another. Knows no backend."""

from __future__ import annotations

import hashlib
import importlib
import os
import re
from collections.abc import Collection, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

import rain_removal_ros
from rain_removal_ros.errors import WeightsError, shown
from rain_removal_ros.network import get_preset, load_network, preset_of, register_family
from rain_removal_ros.network.weights import FAMILIES
from rain_removal_ros.runtime import Output, RuntimeSettings
from rain_removal_ros.share import share_folder

_PRESET_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


class Networks:
    """The derain network and, once labels are asked for, the segmentation network; float32."""

    def __init__(self, settings: RuntimeSettings):
        """Load the derain network, and the segmentation network where a file of it is given.

        Raises PresetError or WeightsError.
        """
        get_preset(settings.preset)
        self.weights = settings.weights or share_folder() / "models" / f"{settings.preset}.safetensors"
        self._files: dict[str, bytes] = {}
        self.derain, self.weights_sha256 = self._load("derain", self.weights)
        preset = preset_of(self.derain)
        if preset.family == "segmentation":
            raise WeightsError(
                f"weights file {self.weights} holds a segmentation network; give it as segmentation_weights"
            )
        self.preset: str = preset.name
        self._segmentation_weights = settings.segmentation_weights
        self._segmentation: tuple[nn.Module, str] | None = None
        if settings.segmentation_weights is not None:  # a file that cannot be is told at once
            self.segmentation((Output.LABELS,))

    def segmentation(self, outputs: Collection[Output]) -> nn.Module | None:
        """The segmentation network if these outputs need it. Raises WeightsError."""
        if Output.LABELS not in outputs:
            return None
        if self._segmentation is None:
            path = self._segmentation_weights or share_folder() / "models" / "segmentation.safetensors"
            network, digest = self._load("segmentation", path)
            preset = preset_of(network)
            if preset.family != "segmentation":
                raise WeightsError(
                    f"weights file {path} holds {preset.name!r}, which is not a segmentation network"
                )
            self._segmentation = network, digest
        return self._segmentation[0]

    def packed(self, outputs: Collection[Output]) -> tuple[dict[str, bytes], dict[str, Any]]:
        """The weights files' contents as they were when they were read, and what `unpacked` needs beside."""
        self.segmentation(outputs)
        families = {name: f"{build.__module__}:{build.__qualname__}" for name, build in FAMILIES.items()}
        return dict(self._files), {"families": families}

    def _load(self, name: str, path: Path) -> tuple[nn.Module, str]:
        network, _ = load_network(path)
        content = path.read_bytes()
        _check(network, path)
        self._files[name] = content
        return network.requires_grad_(False), hashlib.sha256(content).hexdigest()

    def identity(self, outputs: Collection[Output]) -> dict[str, str]:
        """What of the networks decides whether a compiled graph may be used again."""
        identity = {
            "preset": self.preset,
            "weights_sha256": self.weights_sha256,
            "rain_removal_ros": rain_removal_ros.__version__,
            "graph_code": graph_code(),
        }
        if self.segmentation(outputs) is not None and self._segmentation is not None:
            identity["segmentation_sha256"] = self._segmentation[1]
        return identity


def unpacked(files: Mapping[str, bytes], families: Mapping[str, str]) -> Networks:
    """The networks of another process, of what its `packed` gave."""
    for name, where in families.items():
        module, builder = where.split(":")
        register_family(name, getattr(importlib.import_module(module), builder))
    paths = {}
    for name, content in files.items():
        file = os.memfd_create(name)
        with open(file, "wb", closefd=False) as stream:
            stream.write(content)
        paths[name] = Path(f"/proc/self/fd/{file}")
    settings = RuntimeSettings(weights=paths["derain"], segmentation_weights=paths.get("segmentation"))
    return Networks(settings)


def _check(network: nn.Module, path: Path) -> None:
    """Raise WeightsError for what a damaged training or a forged file may hold."""
    name = preset_of(network).name
    if not _PRESET_NAME.fullmatch(name):
        raise WeightsError(
            f"weights file {path} names its preset {shown(name)}; "
            "a name has up to 64 letters, digits, dots, dashes and underscores"
        )
    broken = [
        name
        for name, tensor in network.state_dict().items()
        if tensor.is_floating_point() and not torch.isfinite(tensor).all()
    ]
    if broken:
        raise WeightsError(
            f"weights file {path} holds numbers that are not finite, in {broken[0]} and {len(broken) - 1} "
            "others; its training failed or the file is damaged, so use another"
        )


@cache
def graph_code() -> str:
    """Digest of the source that makes a graph of weights: a changed network never runs an old engine."""
    package = Path(__file__).resolve().parents[1]
    digest = hashlib.sha256()
    for path in (*sorted((package / "network").glob("*.py")), package / "runtime" / "graph.py"):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
