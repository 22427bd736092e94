"""What every backend shares: checking frames, keeping a compiled graph for each size, saying what runs.

Knows no framework; a backend adds how one graph is compiled and run.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Protocol

import cv2
import numpy as np

from rain_removal_ros.errors import BackendError, ImageError, NotPreparedError
from rain_removal_ros.runtime import (
    ASSUMED_FOCAL,
    Output,
    Progress,
    Restored,
    RuntimeInfo,
    RuntimeSettings,
)
from rain_removal_ros.runtime.build_process import SHARED, Cancellation
from rain_removal_ros.runtime.networks import Networks
from rain_removal_ros.runtime.sizes import check_size

Outputs = tuple[Output, ...]


class CompiledFrame(Protocol):
    """A graph compiled for one size and set of outputs."""

    engine_key: str

    def run(self, image: np.ndarray) -> tuple[np.ndarray, ...]:
        """uint8 (H, W, 3) -> what a FrameGraph gives for one frame, in arrays of the caller's own."""

    def close(self) -> None:
        """Give back the memory."""


def ordered(outputs: Collection[Output]) -> Outputs:
    """The outputs in the order of `Output`, once each. Raises ValueError for none or for an unknown one."""
    chosen = {Output(output) for output in outputs}
    if not chosen:
        raise ValueError("no outputs were asked for")
    return tuple(output for output in Output if output in chosen)


def describe(height: int, width: int, outputs: Outputs) -> str:
    """`1024x512 image+inverse_depth`"""
    return f"{width}x{height} {'+'.join(output.value for output in outputs)}"


def as_restored(
    made: Outputs,
    results: Sequence[np.ndarray],
    outputs: Outputs,
    size: tuple[int, int],
    focal_px: float,
) -> Restored:
    """What a graph of the outputs `made` gave for one frame of (height, width) -> those of `outputs`, metric
    for a camera of this focal length.

    Raises ImageError for a focal length that is none.
    """
    if not 0 < focal_px < float("inf"):
        raise ImageError(f"focal length of {focal_px} pixels; a number above 0 is needed")
    given = {output: result for output, result in zip(made, results, strict=False) if output in outputs}
    depth = given.get(Output.INVERSE_DEPTH)
    if depth is not None:  # at a quarter of the padded size: enlarged here, only for those who want it
        height, width = size
        depth = cv2.resize(depth * np.float32(1 / focal_px), None, fx=4, fy=4, interpolation=cv2.INTER_LINEAR)
        top, left = (depth.shape[0] - height) // 2, (depth.shape[1] - width) // 2
        depth = np.ascontiguousarray(depth[top : top + height, left : left + width])
    restored = Restored(image=given.get(Output.IMAGE), inverse_depth=depth, labels=given.get(Output.LABELS))
    if Output.IMAGE not in given or len(results) == len(made) or (results[-1] == -1).all():
        return restored
    rain, streak_light, extinction_px = (float(number) for number in results[-1])
    return replace(restored, rain=rain, streak_light=streak_light, extinction=extinction_px / focal_px)


class CompilingRestorer(ABC):
    """A `Restorer` that compiles a graph for every size and set of outputs that it is asked for.

    `prepare` compiles exactly what it is told to. A frame is served by the graph of exactly its outputs; else
    by one with more of them, whose rest is dropped, so that a new subscriber never stalls a stream; only when
    there is neither, a graph is compiled for it.
    """

    backend: str

    def __init__(
        self,
        networks: Networks,
        device: str,
        precision: str,
        reason: str,
        on_progress: Progress | None = None,
    ):
        self.networks = networks
        self.device_name, self.precision, self.reason = device, precision, reason
        self._on_progress = on_progress
        self.graphs_in_memory = RuntimeSettings.graphs_in_memory
        self._compiled: OrderedDict[tuple[int, int, Outputs], CompiledFrame] = OrderedDict()
        self._table = threading.Lock()  # held for moments
        self._building = threading.Lock()  # held while a graph is compiled
        self._running = threading.Lock()  # held while a frame is in work
        self._closed = False
        self._cancellation = Cancellation()

    @abstractmethod
    def _compile(
        self, height: int, width: int, outputs: Outputs, on_progress: Progress | None
    ) -> CompiledFrame:
        """Find in the cache or compile the graph of this size and these outputs."""

    @property
    def info(self) -> RuntimeInfo:
        with self._table:
            compiled = list(self._compiled.items())
        return RuntimeInfo(
            backend=self.backend,
            device=self.device_name,
            precision=self.precision,
            reason=self.reason,
            preset=self.networks.preset,
            weights=self.networks.weights.name,
            weights_sha256=self.networks.weights_sha256,
            input_sizes=tuple(dict.fromkeys((height, width) for (height, width, _), _ in compiled)),
            engine_keys=tuple(frame.engine_key for _, frame in compiled),
        )

    def prepare(
        self, height: int, width: int, outputs: Collection[Output], on_progress: Progress | None = None
    ) -> None:
        check_size(height, width)
        outputs = ordered(outputs)
        with self._building:
            if self._find(height, width, outputs, exact=True) is not None:
                return
            frame = self._compile(height, width, outputs, on_progress or self._on_progress)
            frame.run(np.zeros((height, width, 3), np.uint8))  # the first run allocates
            with self._table:
                self._compiled[height, width, outputs] = frame
                surplus = len(self._compiled) - self.graphs_in_memory
                retired = [self._compiled.popitem(last=False)[1] for _ in range(surplus)]
        with self._running:
            for old in retired:
                old.close()

    def prepared(self, height: int, width: int) -> Collection[frozenset[Output]]:
        with self._table:
            return {frozenset(made) for h, w, made in self._compiled if (h, w) == (height, width)}

    def __call__(
        self,
        image: np.ndarray,
        outputs: Collection[Output] = (Output.IMAGE, Output.INVERSE_DEPTH),
        focal_px: float | None = None,
        *,
        prepared_only: bool = False,
    ) -> Restored:
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise ImageError(
                f"image of dtype {image.dtype} and shape {image.shape}; uint8 (height, width, 3) RGB is taken"
            )
        height, width = image.shape[:2]
        check_size(height, width)
        outputs = ordered(outputs)
        while True:
            with self._running:
                found = self._find(height, width, outputs)
                if found is not None:
                    made, frame = found
                    results = frame.run(image)
                    break
            if prepared_only:
                raise NotPreparedError(f"no graph is in memory for {describe(height, width, outputs)}")
            self.prepare(height, width, outputs)
        focal_px = ASSUMED_FOCAL * width if focal_px is None else focal_px
        return as_restored(made, results, outputs, (height, width), focal_px)

    def cancel_builds(self) -> None:
        SHARED.cancel(self._cancellation)

    def close(self) -> None:
        self.cancel_builds()
        with self._building, self._running, self._table:
            self._closed = True
            for frame in self._compiled.values():
                frame.close()
            self._compiled.clear()

    def _find(
        self, height: int, width: int, outputs: Outputs, exact: bool = False
    ) -> tuple[Outputs, CompiledFrame] | None:
        with self._table:
            if self._closed:
                raise BackendError("this restorer was closed; create a new one")
            candidates = [
                made
                for (made_height, made_width, made) in self._compiled
                if (made_height, made_width) == (height, width)
                and (made == outputs if exact else set(made) >= set(outputs))
            ]
            if not candidates:
                return None
            made = min(candidates, key=len)
            self._compiled.move_to_end((height, width, made))
            return made, self._compiled[height, width, made]
