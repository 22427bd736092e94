"""The trained networks of a runtime, and what tells one training from another. Knows no backend."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from functools import cache
from pathlib import Path

from torch import nn

import rain_removal_ros
from rain_removal_ros.errors import WeightsError
from rain_removal_ros.network import fold_batch_norms, get_preset, load_network, sha256_of
from rain_removal_ros.runtime import Output, RuntimeSettings
from rain_removal_ros.share import share_folder


class Networks:
    """The derain network and, once labels are asked for, the segmentation network; float32, folded."""

    def __init__(self, settings: RuntimeSettings):
        """Load the derain network, and the segmentation network where a file of it is given.

        Raises PresetError or WeightsError.
        """
        get_preset(settings.preset)
        self.weights = settings.weights or share_folder() / "models" / f"{settings.preset}.safetensors"
        self.derain, self.weights_sha256 = _load(self.weights)
        if self.derain.preset.family == "segmentation":
            raise WeightsError(
                f"weights file {self.weights} holds a segmentation network; give it as segmentation_weights"
            )
        self.preset: str = self.derain.preset.name
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
            network, digest = _load(path)
            if network.preset.family != "segmentation":
                raise WeightsError(
                    f"weights file {path} holds {network.preset.name!r}, which is not a segmentation network"
                )
            self._segmentation = network, digest
        return self._segmentation[0]

    def identity(self, outputs: Collection[Output]) -> dict[str, str]:
        """What of the networks decides whether a compiled graph may be used again."""
        identity = {
            "preset": self.preset,
            "weights_sha256": self.weights_sha256,
            "rain_removal_ros": rain_removal_ros.__version__,
            "graph_code": graph_code(),
        }
        if self.segmentation(outputs) is not None:
            identity["segmentation_sha256"] = self._segmentation[1]
        return identity


def _load(path: Path) -> tuple[nn.Module, str]:
    network, _ = load_network(path)
    return fold_batch_norms(network).requires_grad_(False), sha256_of(path)


@cache
def graph_code() -> str:
    """Digest of the source that makes a graph of weights: a changed network never runs an old engine."""
    package = Path(__file__).resolve().parents[1]
    digest = hashlib.sha256()
    for path in (*sorted((package / "network").glob("*.py")), package / "runtime" / "graph.py"):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
