"""What the ROS 2 node adds to inference, what rate it sustains, and what memory it takes, over real DDS.

The node runs in a process of its own, as a user would start it; figures are those of its own diagnostics and
of the operating system.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rain_removal_ros.domain import keep_apart
from rain_removal_ros.errors import RainRemovalError
from rain_removal_ros.lab.benchmark.benchmark import (
    Failure,
    failure_lines,
    resident_mib,
    street_like,
    weights_of,
)
from rain_removal_ros.runtime import RuntimeSettings

READY_WITHIN = 300.0
SATURATING_RATE = 60.0
"""Frames a second, above what the machine restores, to find what it sustains."""

STAGES = ("receive to start", "conversion", "inference", "publish", "total")


@dataclass(frozen=True)
class NodeRun:
    """One run of the node at one camera rate. Stage times are those of its last ten seconds."""

    size: str
    camera_rate: float  # Hz
    frames_sent: int
    frames_back: int
    rate_out: float  # Hz
    stage_median_ms: dict[str, float]
    stage_p95_ms: dict[str, float]
    overhead_median_ms: float  # receive to start, conversion and publish together
    age_first_half_ms: float  # publishing to receiving, median, first half of the run
    age_second_half_ms: float
    memory_start_mib: float
    memory_end_mib: float
    memory_peak_mib: float
    backend: str
    precision: str


class _MemoryWatch:
    """Samples a process's resident memory until stopped."""

    def __init__(self, process_id: int):
        self.course: list[float] = []
        self._process_id = str(process_id)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while True:
            self.course.append(resident_mib(self._process_id))
            if self._stop.wait(0.2):
                return


def benchmark_node(
    settings: RuntimeSettings, size: tuple[int, int], frames: int, rate: float, say: Callable[[str], None]
) -> list[NodeRun | Failure]:
    """The node at `rate`, for its overhead, and at more than it can do, for the rate it sustains.

    size: (height, width).
    """
    keep_apart()
    rows: list[NodeRun | Failure] = []
    for camera_rate in (rate, SATURATING_RATE):
        what = f"node {size[1]}x{size[0]} at {camera_rate:g} Hz"
        say(what)
        try:
            rows.append(_run(settings, size, frames, camera_rate))
        except (RainRemovalError, ModuleNotFoundError) as error:
            rows.append(Failure(what, str(error)))
    return rows


def _run(settings: RuntimeSettings, size: tuple[int, int], frames: int, rate: float) -> NodeRun:
    from rain_removal_ros.lab.demo.playback import CAMERA, CAMERA_STATUS, RUNTIME_STATUS, Player
    from rain_removal_ros.lab.scenes import CameraModel
    from rain_removal_ros.ros.process import running_node

    height, width = size
    image = street_like(height, width)
    images = [np.roll(image, 8 * number, axis=1) for number in range(16)]
    camera = CameraModel(width, height, 0.8 * width, 0.8 * width, width / 2 - 0.5, height / 2 - 0.5)
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "node.log"
        parameters = {
            "cameras": f"[{CAMERA}]",
            "image_sizes": f"{width}x{height}",
            "backend": settings.backend,
            "precision": settings.precision,
            "preset": settings.preset,
            "threads": str(settings.threads),
            "device": str(settings.device),
            "weights": str(settings.weights or weights_of(settings.preset, Path(folder))[0]),
        }
        if settings.cache_dir:
            parameters["cache_dir"] = str(settings.cache_dir)
        player = Player(keep_images=False)
        try:
            with running_node(parameters, log) as process:
                player.wait_until_ready(process, log, READY_WITHIN)
                memory = _MemoryWatch(process.pid)
                began, sent = time.perf_counter(), []
                player.play(
                    [images[n % len(images)] for n in range(frames)],
                    camera,
                    rate,
                    lambda _: sent.append(time.perf_counter()),
                )
                memory.stop()
        finally:
            player.close()
    recording = player.recording
    values, runtime = recording.diagnostics[CAMERA_STATUS], recording.diagnostics[RUNTIME_STATUS]
    medians = {stage: float(values[f"{stage} median (ms)"]) for stage in STAGES}
    ages = [1e3 * recording.latency[index] for index in sorted(recording.latency)]
    half = len(ages) // 2
    return NodeRun(
        size=f"{width}x{height}",
        camera_rate=rate,
        frames_sent=frames,
        frames_back=len(ages),
        rate_out=round(len(ages) / (sent[-1] - began + 1 / rate), 2),  # the player may be slower than `rate`
        stage_median_ms=medians,
        stage_p95_ms={stage: float(values[f"{stage} p95 (ms)"]) for stage in STAGES},
        overhead_median_ms=round(sum(medians[s] for s in STAGES if s not in ("inference", "total")), 3),
        age_first_half_ms=round(float(np.median(ages[:half])), 2),
        age_second_half_ms=round(float(np.median(ages[half:])), 2),
        memory_start_mib=round(memory.course[0], 1),
        memory_end_mib=round(memory.course[-1], 1),
        memory_peak_mib=round(max(memory.course), 1),
        backend=runtime["backend"],
        precision=runtime["precision"],
    )


def node_lines(rows: list[NodeRun | Failure]) -> list[str]:
    """The runs in sentences."""
    lines = []
    for row in rows:
        if isinstance(row, Failure):
            continue
        stages = ", ".join(f"{stage} {row.stage_median_ms[stage]:.1f}" for stage in STAGES)
        lines += [
            f"node {row.size} ({row.backend} {row.precision}) at {row.camera_rate:g} Hz: "
            f"{row.frames_back} of {row.frames_sent} frames came back, {row.rate_out:.1f} a second",
            f"  ms, median: {stages}; besides inference {row.overhead_median_ms:.1f}",
            f"  age of an output, median: first half {row.age_first_half_ms:.1f} ms, second half "
            f"{row.age_second_half_ms:.1f} ms",
            f"  memory of the node: {row.memory_start_mib:.0f} MiB at the start, "
            f"{row.memory_end_mib:.0f} MiB at the end, at most {row.memory_peak_mib:.0f} MiB",
        ]
    return lines + failure_lines(rows)
