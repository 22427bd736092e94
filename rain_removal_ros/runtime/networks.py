"""The trained networks of a runtime, and what tells one training, and one compiled graph, from another."""

from __future__ import annotations

import hashlib
import importlib
import re
import sys
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

import rain_removal_ros
from rain_removal_ros.errors import BackendError, WeightsError, shown
from rain_removal_ros.network import get_preset, load_network, preset_of, register_family
from rain_removal_ros.network.weights import FAMILIES, read_weights
from rain_removal_ros.runtime import KINDS, Output, RuntimeSettings
from rain_removal_ros.share import packaged_weights

_PRESET_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


class Networks:
    """The derain network and, once labels are asked for, the segmentation network; float32."""

    def __init__(self, settings: RuntimeSettings):
        """Load the derain network, and the segmentation network where a file of it is given.

        Raises PresetError or WeightsError.
        """
        get_preset(settings.preset)
        self.weights = settings.weights or packaged_weights(settings.preset)
        self._files = dict(settings.contents)
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
            path = self._segmentation_weights or packaged_weights("segmentation")
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
        return dict(self._files), {"families": families, "code": graph_code()}

    def _load(self, name: str, path: Path) -> tuple[nn.Module, str]:
        content = self._files.get(name)
        if content is None:
            content = self._files[name] = read_weights(path)
        network, _ = load_network(path, content)
        _check(network, path)
        return network.requires_grad_(False), hashlib.sha256(content).hexdigest()

    def identity(self, outputs: Collection[Output]) -> dict[str, str]:
        """What of the networks decides whether a compiled graph may be used again."""
        identity = {
            "preset": self.preset,
            "weights_sha256": self.weights_sha256,
            "rain_removal_ros": rain_removal_ros.__version__,
            "graph_code": graph_code() + _builder_digest(preset_of(self.derain).family),
        }
        if self.segmentation(outputs) is not None and self._segmentation is not None:
            identity["segmentation_sha256"] = self._segmentation[1]
        return identity


def with_contents(settings: RuntimeSettings, segmentation: bool) -> RuntimeSettings:
    """The same settings with the contents of the weights files as they are now, so that a runtime which is
    made later of them has the same networks. Raises PresetError or WeightsError.
    """
    get_preset(settings.preset)
    files = {"derain": settings.weights or packaged_weights(settings.preset)}
    if segmentation or settings.segmentation_weights is not None:
        files["segmentation"] = settings.segmentation_weights or packaged_weights("segmentation")
    return replace(settings, contents={name: read_weights(path) for name, path in files.items()})


def unpacked(files: Mapping[str, bytes], families: Mapping[str, str], code: str) -> Networks:
    """The networks of another process, of what its `packed` gave.

    Raises BackendError where the code that it runs is not the one on disk any more.
    """
    if code != graph_code():
        raise BackendError("the package has changed on disk since this process began; restart it")
    for name, where in families.items():
        module, builder = where.split(":")
        register_family(name, getattr(importlib.import_module(module), builder))
    given = Path("given by another process")
    settings = RuntimeSettings(
        weights=given, segmentation_weights=given if "segmentation" in files else None, contents=files
    )
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


_PACKAGE = Path(__file__).resolve().parents[1]


def _digest_of(paths: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def source_digest(package: Path) -> str:
    """Digest of the source that makes an engine of weights, in a folder of this package."""
    backends = sorted({"graph.py", *(kind.source for kind in KINDS.values())})
    networks = sorted((package / "network").glob("*.py"))
    return _digest_of([*networks, *(package / "runtime" / name for name in backends)])


_SOURCE_DIGEST = source_digest(_PACKAGE)  # now, of what is being imported; it may be replaced on disk later


def graph_code() -> str:
    """Digest of the source that is running: a changed network never runs an old engine."""
    return _SOURCE_DIGEST


@cache
def _builder_digest(family: str) -> str:
    """Digest of the folder of what builds a network that another package brought; empty for our own."""
    source = sys.modules[FAMILIES[family].__module__].__file__
    folder = Path(source or _PACKAGE / "network").resolve().parent
    return "" if folder == _PACKAGE / "network" else _digest_of(sorted(folder.glob("*.py")))
