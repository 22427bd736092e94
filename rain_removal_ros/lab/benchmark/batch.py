"""Whether frames of several cameras are faster together, in one batch, than one after another, on a CPU."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from rain_removal_ros.lab.benchmark.inputs import FRAME, street_like, weights_of
from rain_removal_ros.lab.benchmark.measuring import WARM_UP, Failure, Quantiles, failure_lines, isolated
from rain_removal_ros.runtime import RuntimeSettings
from rain_removal_ros.runtime.networks import Networks
from rain_removal_ros.runtime.openvino import INT8, configure, convert
from rain_removal_ros.runtime.without_telemetry import openvino
from rain_removal_ros.tables import markdown


@dataclass(frozen=True)
class Batch:
    """What a frame takes among so many in one call."""

    preset: str
    precision: str
    size: str  # width x height
    frames: int  # in one call
    calls: int
    milliseconds_a_frame: Quantiles


def measure_batches(
    settings: RuntimeSettings, height: int, width: int, batches: Sequence[int], calls: int
) -> list[Batch]:
    """Time calls of every batch size in turn, so that what else the machine does falls on all alike."""
    networks = Networks(settings)
    precision, configuration = configure(networks, settings.precision, settings.threads)
    core = openvino.Core()
    requests, images = {}, {}
    for batch in batches:
        model = convert(networks, height, width, FRAME, precision == INT8, batch)
        requests[batch] = core.compile_model(model, "CPU", dict(configuration)).create_infer_request()
        images[batch] = np.stack([street_like(height, width)] * batch)
    taken: dict[int, list[float]] = {batch: [] for batch in batches}
    for call in range(-WARM_UP, calls):
        for batch in batches:
            start = time.perf_counter()
            requests[batch].infer([images[batch]], share_inputs=True)
            if call >= 0:
                taken[batch].append(1e3 * (time.perf_counter() - start) / batch)
    return [
        Batch(networks.preset, precision, f"{width}x{height}", batch, calls, Quantiles.of(taken[batch]))
        for batch in batches
    ]


def benchmark_batches(
    settings: RuntimeSettings,
    preset: str,
    sizes: Sequence[tuple[int, int]],
    batches: Sequence[int],
    calls: int,
    say: Callable[[str], None],
) -> list[Batch | Failure]:
    """One preset at every size (height, width), with so many frames a call."""
    rows: list[Batch | Failure] = []
    with TemporaryDirectory() as folder:
        path = settings.weights or weights_of(preset, Path(folder))[0]
        for height, width in sizes:
            what = f"batches of {preset} {width}x{height}"
            say(what)
            asked = replace(settings, preset=preset, weights=path)
            made = isolated(what, measure_batches, asked, height, width, batches, calls)
            rows += [made] if isinstance(made, Failure) else made
    return rows


def batch_table(rows: Sequence[Batch | Failure]) -> str:
    """The measured rows as a table, the failures below it."""
    header = ("preset", "size", "precision", "frames a call", "median ms a frame", "p95")
    measured = [
        (
            row.preset, row.size, row.precision, str(row.frames), f"{row.milliseconds_a_frame.median:.1f}",
            f"{row.milliseconds_a_frame.p95:.1f}",
        )
        for row in rows
        if isinstance(row, Batch)
    ]  # fmt: skip
    return "\n".join([markdown(header, measured), *failure_lines(rows)])
