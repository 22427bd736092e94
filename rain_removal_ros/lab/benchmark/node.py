"""What the ROS 2 node adds to inference, what rate it sustains, and what memory it takes, over real DDS.

The node runs in a process of its own, as a user would start it; figures are those of its own diagnostics and
of the operating system.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from rain_removal_ros.domain import keep_apart
from rain_removal_ros.errors import RainRemovalError
from rain_removal_ros.lab.benchmark.inputs import street_like, weights_of
from rain_removal_ros.lab.benchmark.measuring import Failure, failure_lines, rate_of
from rain_removal_ros.lab.benchmark.process_figures import sampled_memory
from rain_removal_ros.ros.status import BACKEND, PRECISION, PRESET, STAGES, latency
from rain_removal_ros.runtime import RuntimeSettings

SATURATION = 2.0
"""Times the rate that the node's own time for a frame allows, to find what it sustains."""

SATURATED = 0.98
"""Share of the frames: where no fewer come back, the node could follow, and might have followed more."""

MEMORY_EVERY_S = 0.2


@dataclass(frozen=True)
class NodeRun:
    """One run of the node at one camera rate. Stage times are those of its last ten seconds."""

    preset: str
    weights: str  # packaged | random | given
    size: str
    camera_rate: float  # Hz, that was asked for
    rate_in: float  # Hz, as the images were really published
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

    @property
    def followed(self) -> bool:
        """Whether as good as every image came back, so that the camera was the limit and not the node."""
        return self.frames_back >= SATURATED * self.frames_sent


def benchmark_node(
    settings: RuntimeSettings,
    preset: str,
    size: tuple[int, int],
    frames: int,
    rate: float,
    say: Callable[[str], None],
) -> list[NodeRun | Failure]:
    """The node at `rate`, for its overhead, and at more than it can do, for the rate it sustains.

    size: (height, width). The second run is left out where the first one fails.
    """
    keep_apart()
    rows: list[NodeRun | Failure] = []
    with tempfile.TemporaryDirectory() as folder:
        path, kind = (settings.weights, "given") if settings.weights else weights_of(preset, Path(folder))
        asked = replace(settings, preset=preset, weights=path)
        while len(rows) < 2:
            what = f"node {preset} {size[1]}x{size[0]} at {rate:.3g} Hz"
            say(what)
            try:
                row = _run(asked, kind, size, frames, rate)
            except (RainRemovalError, ModuleNotFoundError) as error:
                rows.append(Failure(what, str(error)))
                break
            rows.append(row)
            rate = saturating_rate(row)
    return rows


def saturating_rate(run: NodeRun) -> float:
    """Hz: more than a node can do that takes a run's median for a frame, and more than it was given there."""
    return max(SATURATION * 1e3 / run.stage_median_ms["total"], run.rate_in)


def _run(settings: RuntimeSettings, weights: str, size: tuple[int, int], frames: int, rate: float) -> NodeRun:
    from rain_removal_ros.lab.demo.playback import CAMERA, CAMERA_STATUS, RUNTIME_STATUS, Player
    from rain_removal_ros.lab.scenes import CameraModel
    from rain_removal_ros.ros.process import check_runs, node_parameters, running_node

    height, width = size
    image = street_like(height, width)
    images = [np.roll(image, 8 * number, axis=1) for number in range(16)]
    camera = CameraModel(width, height, 0.8 * width, 0.8 * width, width / 2 - 0.5, height / 2 - 0.5)
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "node.log"
        parameters = {
            "cameras": f"[{CAMERA}]",
            "image_sizes": f"{width}x{height}",
            **node_parameters(settings),
        }
        sent = []
        player = Player(keep_images=False)
        try:
            with running_node(parameters, log) as process:
                player.wait_until_ready(process, log)

                def progress(_: int) -> None:
                    check_runs(process, log)
                    sent.append(time.perf_counter())

                with sampled_memory(process.pid, MEMORY_EVERY_S) as memory:
                    player.play([images[n % len(images)] for n in range(frames)], camera, rate, progress)
                check_runs(process, log)
        finally:
            player.close()
    recording = player.recording
    values, runtime = (recording.diagnostics.get(name, {}) for name in (CAMERA_STATUS, RUNTIME_STATUS))
    medians = {stage: _milliseconds(values, latency(stage, "median")) for stage in STAGES}
    ages = [1e3 * recording.latency[index] for index in sorted(recording.latency)]
    if not ages:
        raise RainRemovalError(f"none of {frames} frames came back from the node")
    half = max(1, len(ages) // 2)
    return NodeRun(
        preset=runtime.get(PRESET, settings.preset),
        weights=weights,
        size=f"{width}x{height}",
        camera_rate=round(rate, 2),
        rate_in=round(rate_of(sent) or rate, 2),
        frames_sent=frames,
        frames_back=len(ages),
        rate_out=round(rate_of(sorted(recording.received.values())), 2),
        stage_median_ms=medians,
        stage_p95_ms={stage: _milliseconds(values, latency(stage, "p95")) for stage in STAGES},
        overhead_median_ms=round(sum(medians[s] for s in STAGES if s not in ("inference", "total")), 3),
        age_first_half_ms=round(float(np.median(ages[:half])), 2),
        age_second_half_ms=round(float(np.median(ages[-half:])), 2),
        memory_start_mib=round(memory[0], 1),
        memory_end_mib=round(memory[-1], 1),
        memory_peak_mib=round(max(memory), 1),
        backend=runtime.get(BACKEND, "unknown"),
        precision=runtime.get(PRECISION, "unknown"),
    )


def _milliseconds(values: Mapping[str, str], name: str) -> float:
    """A number of the node's diagnostics. Raises RainRemovalError where they do not have it."""
    try:
        return float(values[name])
    except (KeyError, ValueError) as error:
        raise RainRemovalError(
            f"the node's diagnostics say no {name}, as nothing was restored last"
        ) from error


def node_lines(rows: list[NodeRun | Failure]) -> list[str]:
    """The runs in sentences."""
    lines = []
    for number, row in enumerate(rows):
        if isinstance(row, Failure):
            continue
        stages = ", ".join(f"{stage} {row.stage_median_ms[stage]:.1f}" for stage in STAGES)
        lines += [
            f"node {row.preset} {row.size} ({row.backend} {row.precision}, {row.weights} weights) at "
            f"{row.rate_in:.1f} Hz: {row.frames_back} of {row.frames_sent} frames came back, "
            f"{row.rate_out:.1f} a second",
            f"  ms, median: {stages}; besides inference {row.overhead_median_ms:.1f}",
            f"  age of an output, median: first half {row.age_first_half_ms:.1f} ms, second half "
            f"{row.age_second_half_ms:.1f} ms",
            f"  memory of the node: {row.memory_start_mib:.0f} MiB at the start, "
            f"{row.memory_end_mib:.0f} MiB at the end, at most {row.memory_peak_mib:.0f} MiB",
        ]
        if number and row.followed:
            lines.append(
                f"  the camera was the limit: {row.rate_in:.1f} of {row.camera_rate:.1f} images a second "
                "were published, and the node may sustain more"
            )
    return lines + failure_lines(rows)
