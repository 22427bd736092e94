"""Latency and memory of the networks on this machine, each configuration in a process of its own.

Knows runtimes, not ROS; what needs the node or a GPU lies in files of their own beside this one.
"""

from __future__ import annotations

import multiprocessing
import resource
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import rain_removal_ros.lab.baselines  # noqa: F401  weights of the networks to compare with can be loaded
from rain_removal_ros.errors import RainRemovalError
from rain_removal_ros.network import build_network, load_network, save_network
from rain_removal_ros.network.presets import Preset
from rain_removal_ros.network.quantisation import ranges_of
from rain_removal_ros.runtime import OPENVINO, TORCH_CPU, Output, RuntimeSettings, create_restorer
from rain_removal_ros.runtime.pytorch import CPU_PRECISIONS, CUDA_PRECISIONS
from rain_removal_ros.runtime.selection import choose
from rain_removal_ros.share import packaged_weights
from rain_removal_ros.tables import markdown

FRAME = (Output.IMAGE, Output.INVERSE_DEPTH)
WARM_UP = 5


def random_network(preset: Preset | str, seed: int = 0) -> nn.Module:
    """A network in evaluation mode with random weights in every layer, zero-initialised ones too.

    For latency, which does not depend on the weights, and for tests.
    """
    torch.manual_seed(seed)
    network = build_network(preset)
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and not module.weight.any():
            module.weight.data.normal_(0, 0.02)
    return network.eval()


def street_like(height: int, width: int, seed: int = 0) -> np.ndarray:
    """uint8 (H, W, 3): a bright sky over a dark road with smooth shading, texture and thin bright streaks."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[0 : 1 : 1j * height, 0 : 1 : 1j * width]
    shading = 220 - 170 * rows + 25 * np.sin(9 * columns + 4 * rows)
    image = shading[..., None] * np.array([0.9, 0.95, 1.0]) + random.normal(0, 6, (height, width, 3))
    image[:, random.random(width) < 0.05] += 60
    return np.clip(image, 0, 255).astype(np.uint8)


def weights_of(preset: str, folder: Path) -> tuple[Path, str]:
    """A weights file of a preset, and whether it is the packaged one or a random one written to `folder`."""
    packaged = packaged_weights(preset)
    if packaged.is_file():
        return packaged, "packaged"
    path = folder / f"{preset}.safetensors"
    save_network(random_network(preset), path, {"note": "random weights for a benchmark"})
    return path, "random"


@dataclass(frozen=True)
class Quantiles:
    """Of a duration, in milliseconds."""

    median: float
    p95: float
    p99: float

    @classmethod
    def of(cls, milliseconds: Sequence[float]) -> Quantiles:
        return cls(*(round(float(value), 3) for value in np.percentile(milliseconds, (50, 95, 99))))


def rate_of(moments: Sequence[float]) -> float:
    """Events a second, of the moments of events in seconds, in order; 0 where there are fewer than two."""
    return (len(moments) - 1) / (moments[-1] - moments[0]) if len(moments) > 1 else 0.0


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


@dataclass(frozen=True)
class Failure:
    """A configuration that could not be measured, and why."""

    what: str
    error: str


def _serve(connection: Connection, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    try:
        connection.send((True, function(*arguments)))
    except RainRemovalError as error:
        connection.send((False, str(error)))
    except Exception:
        connection.send((False, traceback.format_exc()[-2000:]))


def isolated(what: str, function: Callable[..., Any], *arguments: Any, timeout: float = 600) -> Any:
    """`function(*arguments)` in a fresh process; a Failure where it raises, dies or takes too long."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_serve, args=(theirs, function, arguments), daemon=True)
    process.start()
    theirs.close()
    try:
        if not ours.poll(timeout):
            return Failure(what, f"took longer than {timeout:.0f} s")
        succeeded, result = ours.recv()
        return result if succeeded else Failure(what, result)
    except EOFError:
        process.join()
        return Failure(what, f"its process died with exit status {process.exitcode}")
    finally:
        process.kill()
        process.join()


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


def resident_mib(process: str = "self") -> float:
    """Resident memory of a process (its id) now, in MiB."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def peak_resident_mib() -> float:
    """The most resident memory that this process had since its program began, in MiB.

    getrusage's maximum is also that of the process that forked it.
    """
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024  # in kB


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


def failure_lines(rows: Sequence[object]) -> list[str]:
    """One line for each Failure among the rows."""
    return [f"not measured: {row.what}: {_gist(row.error)}" for row in rows if isinstance(row, Failure)]


def _gist(error: str) -> str:
    """The line that says what went wrong: a traceback's last, and the first of what else there is."""
    lines = error.strip().splitlines()
    traced = lines[0].startswith("Traceback") or any(line.startswith('  File "') for line in lines)
    return lines[-1 if traced else 0]


def as_data(value: Any) -> Any:
    """Rows as plain data for JSON."""
    return [{"kind": type(row).__name__, **asdict(row)} for row in value]


def say_on_stderr(what: str) -> None:
    """Progress, where it does not mix with the table."""
    print(f"measure {what} ...", file=sys.stderr, flush=True)
