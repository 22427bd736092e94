"""The GPU table: TensorRT FP16 engines beside eager PyTorch and torch.compile, by device events.

Every configuration is checked against float32 PyTorch and runs in a process of its own, so that one that
fails leaves the rest standing.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rain_removal_ros.lab.benchmark.inputs import FRAME, street_like, weights_of
from rain_removal_ros.lab.benchmark.measuring import Failure, Quantiles, failure_lines, isolated
from rain_removal_ros.lab.evaluation.metrics import psnr
from rain_removal_ros.runtime import ASSUMED_FOCAL, RuntimeSettings
from rain_removal_ros.runtime.cache import EngineCache
from rain_removal_ros.runtime.device_frames import DeviceFrames
from rain_removal_ros.runtime.networks import Networks
from rain_removal_ros.runtime.pytorch import frame_graph, levels_graph
from rain_removal_ros.runtime.tensorrt import TensorRTRestorer, TorchTensorRTCompiler
from rain_removal_ros.tables import markdown

PRESETS = ("fast", "paper")
SIZES = ((512, 1024), (1080, 1920))
BATCHES = (1, 4)
MIN_PSNR = 50.0
"""Of an FP16 engine's image against float32 PyTorch, in dB."""

CELL_SECONDS = 150.0
FEWEST_CELL_SECONDS = 45.0
"""Left of the table's time, from which on nothing more is begun."""


@dataclass(frozen=True)
class GpuRow:
    """One way to run one network on one batch. Times are device events, for the whole batch."""

    preset: str
    weights: str
    runner: str
    size: str
    batch: int
    prepare_seconds: float
    copy_in: Quantiles
    engine: Quantiles
    copy_out: Quantiles
    total: Quantiles
    call: Quantiles  # host clock, NumPy array to NumPy arrays
    psnr_db: float  # against float32 PyTorch
    inverse_depth_error: float  # largest, 1/m, for a camera of ASSUMED_FOCAL


@dataclass(frozen=True)
class EngineReuse:
    """An engine built, kept, and found again by a new restorer."""

    preset: str
    size: str
    build_seconds: float
    load_seconds: float
    engine_bytes: int
    found_again: bool
    same_output: bool
    precision: str
    versions: dict[str, str]


def _batch(height: int, width: int, batch: int) -> np.ndarray:
    return np.stack([street_like(height, width, seed) for seed in range(batch)])


def _reference(networks: Networks, images: np.ndarray, device: torch.device) -> list[np.ndarray]:
    """The outputs of float32 PyTorch, TF32 off, as a FrameGraph gives them."""
    height, width = images.shape[1:3]
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    graph = frame_graph(networks, height, width, FRAME, "fp32", device)
    with torch.inference_mode():
        return [
            np.concatenate(part)
            for part in zip(
                *(
                    [output.cpu().numpy() for output in graph(torch.from_numpy(image[None]).to(device))]
                    for image in images
                ),
                strict=True,
            )
        ]


def _compiled(graph: torch.nn.Module) -> Callable[..., Any]:
    return torch.compile(graph, dynamic=False)


def _engine(networks: Networks, height: int, width: int, batch: int, device: int, cuda_graph: bool) -> Any:
    compiler = TorchTensorRTCompiler(device, cuda_graph)
    graph = levels_graph(networks, height, width, FRAME, "fp16")
    plan = compiler.build(graph, torch.zeros(batch, 3, height, width, dtype=torch.float16))
    return compiler.load(plan, graph, "benchmark", batch)


RUNNERS = ("eager", "eager + CUDA graph", "engine", "engine + CUDA graph", "torch.compile + CUDA graph")


def measure_row(
    runner: str, weights: Path, kind: str, height: int, width: int, batch: int, device_index: int, calls: int
) -> GpuRow:
    """Time one runner in FP16 and compare what it gives with float32 PyTorch."""
    device = torch.device("cuda", device_index)
    networks = Networks(RuntimeSettings(weights=weights))
    images = _batch(height, width, batch)
    expected_image, expected_depth, _ = _reference(networks, images, device)
    cuda_graph = runner.endswith("CUDA graph")
    start = time.perf_counter()
    if runner.startswith("engine"):
        frames = _engine(networks, height, width, batch, device_index, cuda_graph)
    else:
        graph = frame_graph(networks, height, width, FRAME, "fp16", device)
        function = _compiled(graph) if runner.startswith("torch.compile") else graph
        frames = DeviceFrames(function, height, width, device, runner, batch, cuda_graph)
    prepared = time.perf_counter() - start
    for _ in range(20):
        frames.run_batch(images)
    times, durations = [], []
    for _ in range(calls):
        start = time.perf_counter()
        image, depth, _ = frames.run_batch(images)
        durations.append(1e3 * (time.perf_counter() - start))
        times.append(frames.times())
    quality = psnr(image.reshape(-1, width, 3), expected_image.reshape(-1, width, 3))
    return GpuRow(
        preset=networks.preset,
        weights=kind,
        runner=runner,
        size=f"{width}x{height}",
        batch=batch,
        prepare_seconds=round(prepared, 2),
        **{
            stage: Quantiles.of([getattr(each, stage) for each in times])
            for stage in ("copy_in", "engine", "copy_out", "total")
        },
        call=Quantiles.of(durations),
        psnr_db=round(quality, 2),
        inverse_depth_error=float(np.abs(depth - expected_depth).max()) / (ASSUMED_FOCAL * width),
    )


def measure_reuse(weights: Path, height: int, width: int, device_index: int) -> EngineReuse:
    """Build an engine through the cache, then find it again as a new process would."""
    image = street_like(height, width)
    compiler = TorchTensorRTCompiler(device_index)
    results, seconds = [], []
    said: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(2):
            cache = EngineCache(Path(folder), 1 << 34, said.append)
            networks = Networks(RuntimeSettings(weights=weights))
            restorer = TensorRTRestorer(networks, cache, compiler, "benchmark", said.append)
            start = time.perf_counter()
            restorer.prepare(height, width, FRAME)
            seconds.append(round(time.perf_counter() - start, 2))
            results.append(restorer(image, FRAME))
            restorer.close()
        (entry,) = cache.entries()
    first, second = results
    assert first.image is not None and second.image is not None  # FRAME asks for it
    assert first.inverse_depth is not None and second.inverse_depth is not None
    return EngineReuse(
        preset=networks.preset,
        size=f"{width}x{height}",
        build_seconds=seconds[0],
        load_seconds=seconds[1],
        engine_bytes=entry.bytes,
        found_again=any("loaded from the cache" in line for line in said),
        same_output=bool(
            np.array_equal(first.image, second.image)
            and np.array_equal(first.inverse_depth, second.inverse_depth)
        ),
        precision=restorer.info.precision,
        versions=compiler.versions(),
    )


def benchmark_gpu(
    device_index: int,
    say: Callable[[str], None],
    keep: Callable[[list[Any]], None],
    presets: Sequence[str] = PRESETS,
    sizes: Sequence[tuple[int, int]] = SIZES,
    batches: Sequence[int] = BATCHES,
    calls: int = 100,
    budget_seconds: float = math.inf,
) -> list[GpuRow | EngineReuse | Failure]:
    """Every runner on every preset, size (height, width) and batch; `keep(rows)` is called after every one.

    torch.compile comes last and only while there is time, since it takes longest.
    """
    began = time.monotonic()
    rows: list[GpuRow | EngineReuse | Failure] = []
    with tempfile.TemporaryDirectory() as folder:
        files = {preset: weights_of(preset, Path(folder)) for preset in presets}
        cells = [(size, preset, batch) for batch in batches for size in sizes for preset in presets]
        tasks: list[tuple[Any, ...]] = [
            (f"engine reuse {preset} {width}x{height}", measure_reuse, files[preset][0], height, width)
            for (height, width), preset in ((sizes[0], preset) for preset in presets)
        ]
        for runners in (RUNNERS[:-1], RUNNERS[-1:]):
            tasks += [
                (f"{runner} {preset} {width}x{height} batch {batch}", measure_row, runner, *files[preset],
                 height, width, batch)
                for (height, width), preset, batch in cells
                for runner in runners
            ]  # fmt: skip
        for what, function, *arguments in tasks:
            left = budget_seconds - (time.monotonic() - began)
            if left < FEWEST_CELL_SECONDS:
                rows.append(
                    Failure(what, f"left out: the {budget_seconds:.0f} s for this table were used up")
                )
                continue
            say(what)
            more = (device_index,) if function is measure_reuse else (device_index, calls)
            rows.append(isolated(what, function, *arguments, *more, timeout=min(CELL_SECONDS, left)))
            keep(rows)
    keep(rows)
    return rows


def gpu_table(rows: Sequence[GpuRow | EngineReuse | Failure]) -> str:
    """The table of every runner, then the engines' reuse, then what could not be measured."""
    header = (
        "preset",
        "size",
        "batch",
        "runner",
        "engine ms",
        "copies ms",
        "total ms",
        "p99",
        "dB",
        "prepare s",
    )
    measured = [
        (
            row.preset, row.size, row.batch, row.runner, f"{row.engine.median:.2f}",
            f"{row.copy_in.median + row.copy_out.median:.2f}", f"{row.total.median:.2f}",
            f"{row.total.p99:.2f}", f"{row.psnr_db:.1f}", f"{row.prepare_seconds:.1f}",
        )
        for row in rows
        if isinstance(row, GpuRow)
    ]  # fmt: skip
    reuse = [
        f"engine {row.preset} {row.size}: built in {row.build_seconds:.1f} s, loaded again in "
        f"{row.load_seconds:.1f} s, {row.engine_bytes / 2**20:.1f} MiB, found again: {row.found_again}, "
        f"same output: {row.same_output}"
        for row in rows
        if isinstance(row, EngineReuse)
    ]
    return "\n".join([markdown(header, measured), *reuse, *failure_lines(rows)])


def too_far_from_float32(rows: Sequence[GpuRow | EngineReuse | Failure]) -> list[GpuRow]:
    """The engines whose image is further from float32 PyTorch than MIN_PSNR allows."""
    return [
        row
        for row in rows
        if isinstance(row, GpuRow) and row.runner.startswith("engine") and row.psnr_db < MIN_PSNR
    ]
