"""Takes frames to a CUDA device, through a network and back on a stream of its own. Knows no compiler."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rain_removal_ros.errors import BackendError

FrameFunction = Callable[
    [Tensor], tuple[Tensor, ...]
]  # uint8 (N, H, W, 3) on the device -> outputs, see FrameGraph


@dataclass(frozen=True)
class DeviceTimes:
    """Milliseconds between device events of one call."""

    copy_in: float
    engine: float
    copy_out: float
    total: float


_RECORDING = threading.Lock()
"""CUDA graphs are recorded one at a time: the next one's beginning waits for the device, which breaks a
recording that is under way.
"""


def give_cache_back(device: torch.device) -> None:
    """Give the device what PyTorch keeps of graphs that were closed: nobody else gets any of it."""
    with _RECORDING, torch.cuda.device(device):
        torch.cuda.empty_cache()


STREAMS_OF_A_DEVICE = 32


class Streams:
    """PyTorch has 32 streams of a device and hands them out in turn; here none is handed out that is in use,
    since a graph that is recorded on one would swallow what another graph's owner does on it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._in_use: set[int] = set()

    def take(self, device: torch.device) -> torch.cuda.Stream:
        """A stream of the device that nobody else took. Raises BackendError where there is none."""
        with self._lock:
            for _ in range(STREAMS_OF_A_DEVICE):
                stream = torch.cuda.Stream(device)
                if stream.cuda_stream not in self._in_use:
                    self._in_use.add(stream.cuda_stream)
                    return stream
        raise BackendError("all of the device's streams are in use; lower graphs_in_memory")

    def give_back(self, stream: torch.cuda.Stream) -> None:
        """Others may have it now."""
        with self._lock:
            self._in_use.discard(stream.cuda_stream)


STREAMS = Streams()


class DeviceFrames:
    """Pinned host buffers, device buffers and a stream for one compiled graph; one call at a time."""

    def __init__(
        self,
        function: FrameFunction,
        height: int,
        width: int,
        device: torch.device,
        engine_key: str,
        frames: int = 1,
        cuda_graph: bool = False,
    ):
        """`cuda_graph`: record the function once and replay it, which spares the launches of its kernels."""
        self.engine_key = engine_key
        self._device = device
        self._function: Any = function  # None once it is closed, and so are the buffers
        self._host_input = torch.empty(frames, height, width, 3, dtype=torch.uint8, pin_memory=True)
        self._host_input_view = self._host_input.numpy()
        self._events = [torch.cuda.Event(enable_timing=True) for _ in range(4)]
        self._graph: torch.cuda.CUDAGraph | None = None
        self._stream: Any = None  # so too once it is closed
        try:
            outputs = self._prepare(function, (frames, height, width, 3), cuda_graph)
            self._host_outputs = tuple(
                torch.empty(output.shape, dtype=output.dtype, pin_memory=True) for output in outputs
            )
        except BaseException:
            self.close()
            raise

    def _prepare(
        self, function: FrameFunction, shape: tuple[int, ...], cuda_graph: bool
    ) -> tuple[Tensor, ...]:
        """Run the function until it allocates no more, and record it."""
        with _RECORDING, torch.cuda.device(self._device), torch.inference_mode():
            stream = self._stream = STREAMS.take(self._device)
            self._device_input: Any = torch.zeros(*shape, dtype=torch.uint8, device=self._device)
            stream.wait_stream(torch.cuda.current_stream(self._device))
            with torch.cuda.stream(stream):
                for _ in range(3):  # compilers choose and allocate in the first runs
                    outputs = function(self._device_input)
                stream.synchronize()
                if cuda_graph:
                    self._graph = torch.cuda.CUDAGraph()
                    with torch.cuda.graph(self._graph, stream=stream, capture_error_mode="thread_local"):
                        outputs = function(self._device_input)
            self._device_outputs: Any = tuple(outputs)
        return self._device_outputs

    def run_batch(self, images: Sequence[np.ndarray] | np.ndarray) -> tuple[np.ndarray, ...]:
        """N times uint8 (H, W, 3) -> every output with its batch axis, in views that the next call
        overwrites.
        """
        for slot, image in zip(self._host_input_view, images, strict=True):
            np.copyto(slot, image)
        start, arrived, computed, finished = self._events
        with torch.cuda.device(self._device), torch.inference_mode(), torch.cuda.stream(self._stream):
            start.record()
            self._device_input.copy_(self._host_input, non_blocking=True)
            arrived.record()
            if self._graph is not None:
                self._graph.replay()
                outputs = self._device_outputs
            else:
                outputs = self._function(self._device_input)
            computed.record()
            for host, output in zip(self._host_outputs, outputs, strict=True):
                host.copy_(output, non_blocking=True)
            finished.record()
            self._stream.synchronize()
        return tuple(host.numpy() for host in self._host_outputs)

    def run(self, images: Sequence[np.ndarray]) -> list[tuple[np.ndarray, ...]]:
        """See `CompiledFrame.run`."""
        outputs = self.run_batch(images)
        return [tuple(output[place].copy() for output in outputs) for place in range(len(images))]

    def times(self) -> DeviceTimes:
        """The device's times of the last call."""
        start, arrived, computed, finished = self._events
        return DeviceTimes(
            start.elapsed_time(arrived),
            arrived.elapsed_time(computed),
            computed.elapsed_time(finished),
            start.elapsed_time(finished),
        )

    def close(self) -> None:
        if self._stream is not None:
            STREAMS.give_back(self._stream)
        self._stream = self._graph = None
        self._function = None
        self._device_outputs = self._device_input = None
