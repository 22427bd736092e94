"""The PyTorch backends, which compile nothing: eager on the CPU, and in half precision on a CUDA device."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
import torch

from rain_removal_ros.errors import BackendError
from rain_removal_ros.runtime import Progress, describe
from rain_removal_ros.runtime.build_process import Cancellation
from rain_removal_ros.runtime.compiled import CompiledFrame, CompilingRestorer, GraphKey, Outputs
from rain_removal_ros.runtime.device_frames import DeviceFrames, give_cache_back
from rain_removal_ros.runtime.graph import FrameGraph, LevelsGraph
from rain_removal_ros.runtime.networks import Networks
from rain_removal_ros.runtime.progress import reporting

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
CPU_PRECISIONS = ("fp32", "bf16")
Graph = TypeVar("Graph", bound=LevelsGraph)

CUDA_PRECISIONS = ("fp16", "bf16", "fp32")


def _with_weights(
    kind: type[Graph],
    networks: Networks,
    height: int,
    width: int,
    outputs: Outputs,
    precision: str,
    device: torch.device | str,
) -> Graph:
    dtype = DTYPES[precision]
    segmentation = networks.segmentation(outputs)
    derain = copy.deepcopy(networks.derain).to(device, dtype)
    if segmentation is not None:
        segmentation = copy.deepcopy(segmentation).to(device, dtype)
    return kind(derain, segmentation, height, width, outputs).eval()


def levels_graph(
    networks: Networks,
    height: int,
    width: int,
    outputs: Outputs,
    precision: str,
    device: torch.device | str = "cpu",
) -> LevelsGraph:
    """The levels graph with weights of this precision on this device; `networks` stay as they are."""
    return _with_weights(LevelsGraph, networks, height, width, outputs, precision, device)


def frame_graph(
    networks: Networks,
    height: int,
    width: int,
    outputs: Outputs,
    precision: str,
    device: torch.device | str = "cpu",
) -> FrameGraph:
    """The frame graph with weights of this precision on this device, laid out channels last."""
    graph = _with_weights(FrameGraph, networks, height, width, outputs, precision, device)
    channels_last: Any = {"memory_format": torch.channels_last}  # of which torch's own types do not know
    return graph.to(**channels_last)


class CpuFrame:
    """An eager graph on the CPU and its input buffer."""

    def __init__(self, graph: FrameGraph, engine_key: str, frames: int = 1):
        self.engine_key = engine_key
        self._graph: Any = graph  # None once it is closed
        self._input = torch.empty(frames, graph.height, graph.width, 3, dtype=torch.uint8)
        self._input_view = self._input.numpy()

    def run(self, images: Sequence[np.ndarray]) -> list[tuple[np.ndarray, ...]]:
        """See `CompiledFrame.run`."""
        for slot, image in zip(self._input_view, images, strict=True):
            np.copyto(slot, image)
        with torch.inference_mode():
            outputs = self._graph(self._input)
            return [
                tuple(output[place].contiguous().numpy() for output in outputs)
                for place in range(len(images))
            ]

    def close(self) -> None:
        self._graph = None


def _choose(precision: str, precisions: tuple[str, ...], backend: str) -> str:
    if precision == "auto":
        return precisions[0]
    if precision not in precisions:
        raise BackendError(
            f"backend {backend} does not run in precision {precision}; "
            f"choose one of {', '.join(precisions)} or auto"
        )
    return precision


class TorchCpuRestorer(CompilingRestorer):
    """Restores on the CPU with eager PyTorch: slow, but it runs wherever PyTorch does."""

    backend = "torch-cpu"

    def __init__(
        self,
        networks: Networks,
        precision: str = "auto",
        threads: int = 0,
        reason: str = "",
        on_progress: Progress | None = None,
    ):
        """`threads` sets PyTorch's number of threads for the whole process. Raises BackendError."""
        chosen = _choose(precision, CPU_PRECISIONS, self.backend)
        if threads:
            torch.set_num_threads(threads)
        super().__init__(networks, f"CPU, {torch.get_num_threads()} threads", chosen, reason, on_progress)

    def _compile(
        self, graph: GraphKey, on_progress: Progress | None, cancellation: Cancellation
    ) -> CompiledFrame:
        height, width, outputs, frames = graph
        network = frame_graph(self.networks, height, width, outputs, self.precision)
        return CpuFrame(network, f"eager {describe(*graph)}", frames)


class TorchCudaRestorer(CompilingRestorer):
    """Restores on a CUDA device with eager PyTorch, its many launches recorded once as a CUDA graph."""

    backend = "torch-cuda"

    def __init__(
        self,
        networks: Networks,
        precision: str = "auto",
        device_index: int = 0,
        reason: str = "",
        on_progress: Progress | None = None,
    ):
        """Raises BackendError."""
        chosen = _choose(precision, CUDA_PRECISIONS, self.backend)
        self._device = torch.device("cuda", device_index)
        super().__init__(networks, torch.cuda.get_device_name(self._device), chosen, reason, on_progress)

    def _compile(
        self, graph: GraphKey, on_progress: Progress | None, cancellation: Cancellation
    ) -> CompiledFrame:
        height, width, outputs, frames = graph
        described = describe(*graph)
        what = f"preparing {described} for torch-cuda {self.precision}"
        with reporting(what, on_progress) as stage, self._loading():
            network = frame_graph(self.networks, height, width, outputs, self.precision, self._device)
            stage.text = "recording"
            compiled = DeviceFrames(
                network, height, width, self._device, f"eager {described}", frames, cuda_graph=True
            )
            stage.text = "ready"
        return compiled

    def close(self) -> None:
        super().close()
        give_cache_back(self._device)
