"""Latency and memory of the networks on this machine, each configuration in a process of its own.

Knows runtimes, not ROS; what needs the node or a GPU lies in files of their own beside this one.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from rain_removal_ros.lab.benchmark.inputs import FRAME, street_like, weights_of
from rain_removal_ros.lab.benchmark.measuring import WARM_UP, Failure, Quantiles, failure_lines, isolated
from rain_removal_ros.lab.benchmark.process_figures import peak_resident_mib, resident_mib
from rain_removal_ros.network import load_network
from rain_removal_ros.network.quantisation import ranges_of
from rain_removal_ros.runtime import OPENVINO, TORCH_CPU, RuntimeSettings, create_restorer
from rain_removal_ros.runtime.pytorch import CPU_PRECISIONS, CUDA_PRECISIONS
from rain_removal_ros.runtime.selection import choose
from rain_removal_ros.tables import markdown


@dataclass(frozen=True)
class Inference:
    """What one network takes for one image size, from uint8 image to uint8 image and inverse depth."""

    preset: str
    weights: str  # packaged | random | given
    backend: str
    precision: str
    device: str
    size: str  # width x height
    frames: int
    milliseconds: Quantiles
    peak_memory_mib: float  # of the whole process
    prepare_seconds: float  # compile, or load from the cache


@dataclass(frozen=True)
class MemoryCourse:
    """Resident memory of a process that restores frame after frame, in MiB."""

    preset: str
    size: str
    frames: int
    after_warm_up_mib: float
    at_the_end_mib: float
    largest_mib: float


def measure_inference(
    settings: RuntimeSettings, weights: str, height: int, width: int, frames: int
) -> Inference:
    """Restore one image `frames` times, one after another, and time every call."""
    restorer = create_restorer(settings)
    image = street_like(height, width)
    start = time.perf_counter()
    restorer.prepare(height, width, FRAME)
    prepared = time.perf_counter() - start
    for _ in range(WARM_UP):
        restorer(image, FRAME)
    durations = []
    for _ in range(frames):
        start = time.perf_counter()
        restorer(image, FRAME)
        durations.append(1e3 * (time.perf_counter() - start))
    info = restorer.info
    return Inference(
        preset=info.preset,
        weights=weights,
        backend=info.backend,
        precision=info.precision,
        device=info.device,
        size=f"{width}x{height}",
        frames=frames,
        milliseconds=Quantiles.of(durations),
        peak_memory_mib=round(peak_resident_mib(), 1),
        prepare_seconds=round(prepared, 2),
    )


def measure_memory(settings: RuntimeSettings, height: int, width: int, frames: int) -> MemoryCourse:
    """Restore `frames` different images and watch the resident memory; a leak shows as growth."""
    restorer = create_restorer(settings)
    image = street_like(height, width)
    for _ in range(50):
        restorer(image, FRAME)
    course = [resident_mib()]
    for number in range(frames):
        restorer(np.roll(image, number, axis=1), FRAME)
        course.append(resident_mib())
    return MemoryCourse(
        preset=restorer.info.preset,
        size=f"{width}x{height}",
        frames=frames,
        after_warm_up_mib=round(course[0], 1),
        at_the_end_mib=round(course[-1], 1),
        largest_mib=round(max(course), 1),
    )


def benchmark_inference(
    settings: RuntimeSettings,
    presets: Sequence[str],
    sizes: Sequence[tuple[int, int]],
    precisions: Sequence[str] | None,
    frames: int,
    say: Callable[[str], None],
) -> list[Inference | Failure]:
    """Every preset at every size (height, width) in every precision; None: in all that can be."""
    rows: list[Inference | Failure] = []
    with tempfile.TemporaryDirectory() as folder:
        for preset in presets:
            path, kind = (settings.weights, "given") if settings.weights else weights_of(preset, Path(folder))
            for precision in precisions or precisions_of(settings, path):
                for height, width in sizes:
                    what = f"{preset} {width}x{height} {settings.backend} {precision}"
                    say(what)
                    asked = replace(settings, preset=preset, weights=path, precision=precision)
                    rows.append(isolated(what, measure_inference, asked, kind, height, width, frames))
    return rows


def precisions_of(settings: RuntimeSettings, weights: Path) -> Sequence[str]:
    """What the backend that is chosen computes natively and the weights can do, the fastest first."""
    name = choose(settings)[0].name
    if name == OPENVINO:
        from rain_removal_ros.runtime.openvino import float_precisions, native_precisions

        return native_precisions() if ranges_of(load_network(weights)[0]) else float_precisions()
    return CPU_PRECISIONS if name == TORCH_CPU else CUDA_PRECISIONS


def benchmark_memory(
    settings: RuntimeSettings, preset: str, size: tuple[int, int], frames: int, say: Callable[[str], None]
) -> MemoryCourse | Failure:
    """The memory of one preset at one size (height, width)."""
    what = f"memory over {frames} frames of {size[1]}x{size[0]}"
    say(what)
    with tempfile.TemporaryDirectory() as folder:
        path = settings.weights or weights_of(preset, Path(folder))[0]
        return isolated(what, measure_memory, replace(settings, weights=path), *size, frames, timeout=1800)


def memory_line(row: MemoryCourse | Failure) -> str:
    """The course of the memory in a sentence."""
    if isinstance(row, Failure):
        return "\n".join(failure_lines([row]))
    return (
        f"memory over {row.frames} frames of {row.size}: {row.after_warm_up_mib:.0f} MiB after the warm-up, "
        f"{row.at_the_end_mib:.0f} MiB at the end, at most {row.largest_mib:.0f} MiB"
    )


def inference_table(rows: Sequence[Inference | Failure]) -> str:
    """The measured rows as a table, the failures below it."""
    header = ("preset", "size", "backend", "precision", "median ms", "p95", "p99", "peak MiB", "weights")
    measured = [
        (
            row.preset, row.size, row.backend, row.precision, f"{row.milliseconds.median:.1f}",
            f"{row.milliseconds.p95:.1f}", f"{row.milliseconds.p99:.1f}", f"{row.peak_memory_mib:.0f}",
            row.weights,
        )
        for row in rows
        if isinstance(row, Inference)
    ]  # fmt: skip
    return "\n".join([markdown(header, measured), *failure_lines(rows)])
