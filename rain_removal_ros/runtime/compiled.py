"""What every backend shares: checking frames, keeping compiled graphs, trying batches, saying what runs.

Knows no framework; a backend adds how one graph is compiled and run.
"""

from __future__ import annotations

import statistics
import threading
import time
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Protocol

import cv2
import numpy as np

from rain_removal_ros.camera_info import FOCAL_LENGTHS, plausible
from rain_removal_ros.errors import BackendError, ImageError, NotPreparedError
from rain_removal_ros.runtime import (
    ASSUMED_FOCAL,
    BatchTrial,
    Output,
    Progress,
    Restored,
    RuntimeInfo,
    RuntimeSettings,
    describe,
)
from rain_removal_ros.runtime.build_process import SHARED, BuildCancelledError, Cancellation
from rain_removal_ros.runtime.networks import Networks
from rain_removal_ros.runtime.sizes import check_size

FEWEST_TURNS, MOST_TURNS = 3, 9
"""So often a batch is timed, in turn with as many frames one by one: until all agree whether it pays."""

RESTS = 3.0
"""A trial rests for so many times as long as it runs, and leaves that time to the frames."""

Outputs = tuple[Output, ...]
GraphKey = tuple[int, int, Outputs, int]  # height, width, outputs, frames


class CompiledFrame(Protocol):
    """A graph compiled for one size, set of outputs and number of frames a call."""

    engine_key: str

    def run(self, images: Sequence[np.ndarray]) -> list[tuple[np.ndarray, ...]]:
        """As many uint8 (H, W, 3) as it was compiled for -> what a FrameGraph gives, for each, in arrays of
        the caller's own.
        """

    def close(self) -> None:
        """Give back the memory."""


def ordered(outputs: Collection[Output]) -> Outputs:
    """The outputs in the order of `Output`, once each. Raises ValueError for none or for an unknown one."""
    chosen = {Output(output) for output in outputs}
    if not chosen:
        raise ValueError("no outputs were asked for")
    return tuple(output for output in Output if output in chosen)


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
    if not plausible(focal_px, size[1]):
        shortest, longest = (bound * size[1] for bound in FOCAL_LENGTHS)
        raise ImageError(
            f"focal length of {focal_px:g} pixels for an image {size[1]} wide; cameras have {shortest:g} to "
            f"{longest:g}"
        )
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
    rain_gate, streak_light, extinction_px = (float(number) for number in results[-1])
    extinction = extinction_px / focal_px
    return replace(restored, rain_gate=rain_gate, streak_light=streak_light, extinction=extinction)


class FairLock:
    """A lock that whoever has just released it gets again only after those who already wait for it."""

    def __init__(self) -> None:
        self._turn, self._lock = threading.Lock(), threading.Lock()

    def __enter__(self) -> None:
        with self._turn:  # whoever waits holds it, so that nobody else is quicker
            self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


class CompilingRestorer(ABC):
    """A `Restorer` that compiles a graph for every size and set of outputs that it is asked for.

    `prepare` compiles exactly what it is told to. A frame is served by the graph of exactly its outputs; else
    by one with more of them, whose rest is dropped, so that a new subscriber never stalls a stream; only when
    there is neither, a graph is compiled for it. Graphs of several frames are there only after a trial that
    showed that they pay.
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
        self._compiled: OrderedDict[GraphKey, CompiledFrame] = OrderedDict()
        self._table = threading.Lock()  # held for moments
        self._building = threading.RLock()  # held while a graph is compiled; what is cached loads meanwhile
        self._running = FairLock()  # held while a call is in work; a trial makes many, one after another
        self._loading_from: float | None = None
        self._closed = False
        self._cancellation = Cancellation()

    @abstractmethod
    def _compile(
        self, graph: GraphKey, on_progress: Progress | None, cancellation: Cancellation
    ) -> CompiledFrame:
        """Find in the cache or compile this graph."""

    def _compile_from_cache(self, graph: GraphKey, on_progress: Progress | None) -> CompiledFrame | None:
        """The same, where it is in the cache; None where it is not, or a backend keeps none."""
        return None

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
            input_sizes=tuple(dict.fromkeys((height, width) for (height, width, _, _), _ in compiled)),
            engine_keys=tuple(frame.engine_key for _, frame in compiled),
        )

    def prepare(
        self,
        height: int,
        width: int,
        outputs: Collection[Output],
        on_progress: Progress | None = None,
        meanwhile: Callable[[], None] | None = None,
    ) -> None:
        cancellation = Cancellation(self._cancellation, meanwhile=meanwhile)

        def get(graph: GraphKey, told: Progress | None) -> CompiledFrame:
            return self._compile(graph, told, cancellation)

        self._prepare(height, width, outputs, get, on_progress)

    def prepare_cached(
        self, height: int, width: int, outputs: Collection[Output], on_progress: Progress | None = None
    ) -> bool:
        return self._prepare(height, width, outputs, self._compile_from_cache, on_progress)

    def _prepare(
        self,
        height: int,
        width: int,
        outputs: Collection[Output],
        get: Callable[[GraphKey, Progress | None], CompiledFrame | None],
        on_progress: Progress | None,
    ) -> bool:
        """Have the graph that `get` gives in memory, and warm, unless it is; whether it is there."""
        check_size(height, width)
        outputs = ordered(outputs)
        with self._building:
            if self._find(height, width, outputs, exact=True) is not None:
                return True
            graph = height, width, outputs, 1
            frame = get(graph, on_progress or self._on_progress)
            if frame is None:
                return False
            try:
                with self._loading():
                    frame.run([np.zeros((height, width, 3), np.uint8)])  # the first run allocates
            except BaseException:
                self._drop(frame)
                raise
            with self._table:
                self._compiled[graph] = frame
                retired = self._retire()
        with self._running:
            for old in retired:
                old.close()
        return True

    @property
    def loading_since(self) -> float | None:
        return self._loading_from

    @contextmanager
    def _loading(self) -> Iterator[None]:
        """While the device is at work on a graph that does not serve yet; `_building` is held."""
        self._loading_from = time.perf_counter()
        try:
            yield
        finally:
            self._loading_from = None

    def _retire(self) -> list[CompiledFrame]:
        """Take out of the table what is too much: batches first, and then what was used longest ago."""
        surplus = max(0, len(self._compiled) - self.graphs_in_memory)
        batches = [key for key in self._compiled if key[-1] > 1]
        singles = [key for key in self._compiled if key[-1] == 1]
        return [self._compiled.pop(key) for key in [*batches, *singles][:surplus]]

    def prepared(self, height: int, width: int) -> Collection[frozenset[Output]]:
        with self._table:
            return {
                frozenset(made)
                for *size, made, frames in self._compiled
                if size == [height, width] and frames == 1
            }

    def prepare_batch(
        self,
        height: int,
        width: int,
        outputs: Collection[Output],
        frames: int,
        longest_s: float,
        on_progress: Progress | None = None,
        gives_way: Callable[[], bool] | None = None,
    ) -> BatchTrial:
        cancellation = Cancellation(self._cancellation, gives_way)
        try:
            with self._building:
                graph = height, width, ordered(outputs), frames
                return self._try(graph, longest_s, on_progress, cancellation)
        except BuildCancelledError as error:
            if self._cancellation.requested:
                raise
            raise NotPreparedError("given up for something more urgent") from error

    def _try(
        self, graph: GraphKey, longest_s: float, on_progress: Progress | None, cancellation: Cancellation
    ) -> BatchTrial:
        """The trial of `prepare_batch`, with nothing else being compiled."""
        height, width, outputs, frames = graph
        what = describe(*graph)
        found = self._find(height, width, outputs, exact=True)
        if found is None:
            raise NotPreparedError(f"no graph of one frame is in memory to compare {what} with")
        single = found[1]
        images = [np.zeros((height, width, 3), np.uint8)] * frames
        if frames * min(self._timed(single, images[:1], cancellation) for _ in range(2)) > longest_s:
            return BatchTrial(frames, float("inf"), float("inf"))
        made = self._find(height, width, outputs, exact=True, frames=frames)
        if made is None:
            if len(self._compiled) >= self.graphs_in_memory:
                raise NotPreparedError(f"no room for {what} is left beside the graphs in memory")
            told = on_progress or self._on_progress
            batch = self._compile(graph, told, cancellation)
        else:
            batch = made[1]
        try:
            if made is None:  # one that serves runs in turn with frames only
                with self._loading():
                    batch.run(images)  # the first run allocates
            trial = self._compare(single, batch, images, cancellation)
        except BaseException as error:
            if made is None or not isinstance(error, BuildCancelledError):
                self._drop(batch)
            raise
        if trial.pays:
            with self._table:
                self._compiled[graph] = batch
        else:
            self._drop(batch)
        return trial

    def _compare(
        self,
        single: CompiledFrame,
        batch: CompiledFrame,
        images: Sequence[np.ndarray],
        cancellation: Cancellation,
    ) -> BatchTrial:
        turns: list[BatchTrial] = []
        while len(turns) < FEWEST_TURNS or (
            len(turns) < MOST_TURNS and len({turn.pays for turn in turns}) > 1
        ):  # in turn, so that what else the machine does falls on both alike
            apart = sum(self._timed(single, [image], cancellation) for image in images)
            together = self._timed(batch, images, cancellation)
            turns.append(BatchTrial(len(images), together / apart, together))
            time.sleep(RESTS * (apart + together))
        ratio = statistics.median(turn.ratio for turn in turns)
        return BatchTrial(len(images), ratio, statistics.median(turn.call_s for turn in turns))

    def _timed(self, graph: CompiledFrame, images: Sequence[np.ndarray], cancellation: Cancellation) -> float:
        """Seconds of one call, which frames in work wait for."""
        cancellation.poll()  # before the lock is held: it asks others
        with self._running:
            if cancellation.requested:
                raise BuildCancelledError("the trial was cancelled")
            start = time.perf_counter()
            graph.run(images)
            return time.perf_counter() - start

    def _drop(self, graph: CompiledFrame) -> None:
        """Close a graph, which the table may hold."""
        with self._running:
            with self._table:
                for key in [key for key, held in self._compiled.items() if held is graph]:
                    del self._compiled[key]
            graph.close()

    def prepared_batches(self, height: int, width: int, outputs: Collection[Output]) -> Collection[int]:
        asked = [height, width, ordered(outputs)]
        with self._table:
            return {frames for *graph, frames in self._compiled if graph == asked and frames > 1}

    def __call__(
        self,
        image: np.ndarray,
        outputs: Collection[Output] = (Output.IMAGE, Output.INVERSE_DEPTH),
        focal_px: float | None = None,
        *,
        prepared_only: bool = False,
    ) -> Restored:
        height, width = _size_of(image)
        outputs = ordered(outputs)
        while True:
            with self._running:
                found = self._find(height, width, outputs)
                if found is not None:
                    made, frame = found
                    [results] = frame.run([image])
                    break
            if prepared_only:
                raise NotPreparedError(f"no graph is in memory for {describe(height, width, outputs)}")
            self.prepare(height, width, outputs)
        return as_restored(made, results, outputs, (height, width), _focal(focal_px, width))

    def restore_together(
        self, images: Sequence[np.ndarray], outputs: Collection[Output], focal_px: Sequence[float | None]
    ) -> list[Restored]:
        sizes = {_size_of(image) for image in images}
        if len(sizes) != 1:
            raise ImageError(f"images of {len(sizes)} sizes; one call takes images of one")
        [(height, width)] = sizes
        outputs = ordered(outputs)
        with self._running:
            found = self._find(height, width, outputs, exact=True, frames=len(images))
            if found is None:
                what = describe(height, width, outputs, len(images))
                raise NotPreparedError(f"no graph is in memory for {what}")
            self._find(height, width, outputs, exact=True)  # in use as well: it serves whoever comes alone
            results = found[1].run(images)
        return [
            as_restored(outputs, given, outputs, (height, width), _focal(focal, width))
            for given, focal in zip(results, focal_px, strict=True)
        ]

    def cancel_builds(self) -> None:
        SHARED.cancel(self._cancellation)

    def close(self) -> None:
        self.cancel_builds()
        with self._building, self._running:
            with self._table:  # not while graphs are closed, which takes long on a device that is ill
                self._closed = True
                graphs = [*self._compiled.values()]
                self._compiled.clear()
            for graph in graphs:
                graph.close()

    def _find(
        self, height: int, width: int, outputs: Outputs, exact: bool = False, frames: int = 1
    ) -> tuple[Outputs, CompiledFrame] | None:
        with self._table:
            if self._closed:
                raise BackendError("this restorer was closed; create a new one")
            candidates = [
                made
                for (made_height, made_width, made, made_frames) in self._compiled
                if (made_height, made_width, made_frames) == (height, width, frames)
                and (made == outputs if exact else set(made) >= set(outputs))
            ]
            if not candidates:
                return None
            made = min(candidates, key=len)
            self._compiled.move_to_end((height, width, made, frames))
            return made, self._compiled[height, width, made, frames]


def _size_of(image: np.ndarray) -> tuple[int, int]:
    """(height, width). Raises ImageError for an image that no network takes."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ImageError(
            f"image of dtype {image.dtype} and shape {image.shape}; uint8 (height, width, 3) RGB is taken"
        )
    height, width = image.shape[:2]
    check_size(height, width)
    return height, width


def _focal(focal_px: float | None, width: int) -> float:
    return ASSUMED_FOCAL * width if focal_px is None else focal_px
