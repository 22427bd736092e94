"""A trained network as a plain function on uint8 images, whatever runs it. Knows networks, not ROS.

`create_restorer` picks a backend and gives a `Restorer`; the backends live one to a file beside this one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Protocol

import numpy as np


class Output(StrEnum):
    """What a caller may ask a `Restorer` for. Nothing is computed for what is not asked for."""

    IMAGE = "image"
    INVERSE_DEPTH = "inverse_depth"
    LABELS = "labels"


def describe(height: int, width: int, outputs: Collection[Output], frames: int = 1) -> str:
    """What a graph is for: `1024x512 image+inverse_depth`, `4 x 1024x512 image+inverse_depth`"""
    several = f"{frames} x " if frames > 1 else ""
    return f"{several}{width}x{height} {'+'.join(output.value for output in Output if output in outputs)}"


@dataclass(frozen=True)
class Restored:
    """The restored frame; what was not asked for is None. What the weather is like comes with the image."""

    image: np.ndarray | None  # uint8 (H, W, 3) RGB
    inverse_depth: np.ndarray | None  # float32 (H, W), 1/m
    labels: np.ndarray | None  # uint8 (H, W), Cityscapes train ids, 255 = unlabelled
    rain_gate: float | None = None  # 0 it does not rain .. 1 it does; None: the network does not say
    streak_light: float | None = None  # mean light that streaks add to the image, share of white
    extinction: float | None = None  # of the fog, 1/m (its beta); 3.912 / beta is the visibility in metres


ASSUMED_FOCAL = 0.8
"""Focal length over image width where nobody says what it is: a horizontal field of view of 64 degrees."""


TENSORRT, TORCH_CUDA, OPENVINO, TORCH_CPU = "tensorrt", "torch-cuda", "openvino", "torch-cpu"


@dataclass(frozen=True)
class BackendKind:
    """What others than the runtime know of a backend without loading it.

    on_gpu: whether it runs on a CUDA device. builds_ahead: whether its compiled networks are kept on disk.
    stand_in: the backend that may serve while its networks are being compiled. source: the file in `runtime/`
    that makes its networks, on which those on disk depend.
    """

    on_gpu: bool
    builds_ahead: bool
    stand_in: str | None
    source: str


KINDS: Mapping[str, BackendKind] = {
    TENSORRT: BackendKind(on_gpu=True, builds_ahead=True, stand_in=TORCH_CUDA, source="tensorrt.py"),
    TORCH_CUDA: BackendKind(on_gpu=True, builds_ahead=False, stand_in=None, source="pytorch.py"),
    OPENVINO: BackendKind(on_gpu=False, builds_ahead=True, stand_in=TORCH_CPU, source="openvino.py"),
    TORCH_CPU: BackendKind(on_gpu=False, builds_ahead=False, stand_in=None, source="pytorch.py"),
}
"""In the order in which `auto` tries them."""

BACKENDS = ("auto", *KINDS)
PRECISIONS = ("auto", "fp32", "fp16", "bf16", "int8")
"""int8 is that of most of the work; the rest runs in the fastest kind of floats."""


@dataclass(frozen=True)
class RuntimeSettings:
    """What the user chose. `auto` lets the machine decide; `RuntimeInfo.reason` says what and why."""

    backend: str = "auto"  # one of BACKENDS
    precision: str = "auto"  # one of PRECISIONS
    preset: str = "fast"  # used to find the packaged weights when `weights` is None
    weights: Path | None = None  # safetensors of the derain network; None: the packaged weights of the preset
    segmentation_weights: Path | None = None  # None: the packaged segmentation network
    cache_dir: Path | None = None  # None: $XDG_CACHE_HOME/rain_removal_ros
    cache_limit_bytes: int = 4 << 30
    threads: int = 0  # CPU threads, 0 = the runtime's own choice
    device: int = 0  # CUDA device index
    graphs_in_memory: int = 8  # compiled graphs kept ready; the one used longest ago gives way
    # of the weights files `derain` and `segmentation`, where they were read already: files may be replaced
    contents: Mapping[str, bytes] = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True)
class RuntimeInfo:
    """What runs, and why."""

    backend: str  # one of BACKENDS, never auto
    device: str  # human-readable device name
    precision: str  # one of PRECISIONS, never auto: what really runs
    reason: str  # why this backend, and why not the better ones
    preset: str
    weights: str  # file name
    weights_sha256: str
    input_sizes: tuple[tuple[int, int], ...] = ()  # (height, width) of the sizes compiled so far
    engine_keys: tuple[str, ...] = field(default=())  # one a compiled size and set of outputs


Progress = Callable[[str], None]  # told, every few seconds, what a long build is doing


@dataclass(frozen=True)
class BatchTrial:
    """How so many frames in one call compared with as many calls of one, on this machine.

    ratio: of the two times; infinite where a call would have taken too long to be tried. call_s: the call's.
    """

    frames: int
    ratio: float
    call_s: float

    @property
    def pays(self) -> bool:
        """Whether none comes out later than it would alone, on average: one by one n frames are there after
        1, 2 .. n calls, which is (n + 1) / 2.
        """
        return self.pays_after(0.0)

    def pays_after(self, reading_s: float) -> bool:
        """The same where each frame is read first, in so many seconds: of frames that go together every one
        waits until all have been read.
        """
        if not math.isfinite(self.ratio):
            return False
        alone_s = self.call_s / (self.ratio * self.frames)
        together_s = self.frames * reading_s + self.call_s
        return together_s <= (self.frames + 1) / 2 * (reading_s + alone_s)


class Restorer(Protocol):
    """Restores images from 64x64 to 4096x3072, also upright; a size seen for the first time is compiled."""

    @property
    def info(self) -> RuntimeInfo: ...

    def prepare(
        self,
        height: int,
        width: int,
        outputs: Collection[Output],
        on_progress: Progress | None = None,
        meanwhile: Callable[[], None] | None = None,
    ) -> None:
        """Compile (or find in the cache) and warm the network for this image size and these outputs.

        `meanwhile` is called again and again, in this thread, while this waits for a compiler in another
        process; it may call `prepare_cached`.
        """

    def prepare_cached(
        self, height: int, width: int, outputs: Collection[Output], on_progress: Progress | None = None
    ) -> bool:
        """The same where nothing has to be compiled for it, as it is in the cache or in memory already; False
        otherwise, or where another process is building it, and then nothing is done.
        """

    @property
    def loading_since(self) -> float | None:
        """Since when (time.perf_counter()) a graph has been loaded or run for the first time, in this process
        and on its device; None: none is. Compiling, which may take long, is not meant.
        """

    def prepared(self, height: int, width: int) -> Collection[frozenset[Output]]:
        """The sets of outputs whose graphs are in memory for this image size."""

    def __call__(
        self,
        image: np.ndarray,
        outputs: Collection[Output] = (Output.IMAGE, Output.INVERSE_DEPTH),
        focal_px: float | None = None,
        *,
        prepared_only: bool = False,
    ) -> Restored:
        """Restore a uint8 (H, W, 3) RGB image. Raises ImageError for another dtype, shape or size.

        `focal_px` is the camera's focal length in pixels, which inverse depth and extinction are in 1/m by;
        None assumes ASSUMED_FOCAL times the width.

        Outputs that were not prepared are served by a prepared graph of that size with more outputs; only if
        there is none, a graph is compiled for them first, or with `prepared_only` NotPreparedError is raised.
        The arrays are the caller's to keep.
        """

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
        """Compile the network for so many frames a call and time it against as many calls of one frame; it
        stays in memory where it pays. Frames that are restored meanwhile wait for one call at a time.

        Nothing is compiled where a call would take longer than `longest_s`. Raises NotPreparedError where no
        graph of one frame and exactly these outputs is in memory, or no room for another is left (batches
        never push anything out, and are the first to give way), or as soon as `gives_way`, which is asked
        again and again, says that something is more urgent.
        """

    def prepared_batches(self, height: int, width: int, outputs: Collection[Output]) -> Collection[int]:
        """How many frames may go together, of this size and with exactly these outputs."""

    def restore_together(
        self, images: Sequence[np.ndarray], outputs: Collection[Output], focal_px: Sequence[float | None]
    ) -> list[Restored]:
        """Restore several images of one size in one call, each for a focal length of its own.

        Raises NotPreparedError where no graph of so many frames is in memory, ImageError as a single call.
        """

    def cancel_builds(self) -> None:
        """Give up a build that waits or runs, and refuse later ones; `prepare` then raises BackendError."""

    def close(self) -> None:
        """Give back the device's memory. The restorer cannot be used afterwards."""


def create_restorer(settings: RuntimeSettings, on_progress: Progress | None = None) -> Restorer:
    """The restorer that these settings ask for, with its networks loaded and nothing compiled yet.

    `on_progress` is told about builds that no `prepare` call with a listener of its own asked for, and about
    cached engines that could not be used. It is called from other threads.
    Raises BackendError, PresetError or WeightsError.
    """
    from rain_removal_ros.runtime import selection  # PyTorch is loaded only from here on

    return selection.create_restorer(settings, on_progress)
