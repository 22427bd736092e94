"""The node under load: cameras by rate by size, and hours' worth of frames, over real DDS.

The node runs in a process of its own, as a user would start it; cameras and subscribers are in this one.
Figures are those of what came back, of the node's diagnostics and of /proc.
"""

from __future__ import annotations

import functools
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from rain_removal_ros.domain import keep_apart
from rain_removal_ros.errors import RainRemovalError
from rain_removal_ros.lab.benchmark.inputs import street_like, weights_of
from rain_removal_ros.lab.benchmark.measuring import Failure, failure_lines, rate_of
from rain_removal_ros.lab.benchmark.process_figures import ProcessFigures, sampled_memory
from rain_removal_ros.ros.status import (
    BACKEND,
    BATCHING,
    PRECISION,
    PRESET,
    PUBLISHED,
    TOGETHER,
)
from rain_removal_ros.runtime import RuntimeSettings
from rain_removal_ros.tables import markdown

DRAIN_S = 3.0
"""So long is waited for the last frames to come back."""

SETTLE_S = 12.0
"""What keeps a window of ten seconds has filled it before anything is measured."""

LOST_AFTER_S = 30.0
"""An image that has not come back by then was dropped by the node, as newer ones came."""

MEMORY_SAMPLES = 12


@dataclass(frozen=True)
class LoadRow:
    """One run. Latencies are from publishing an image to receiving the derained one, over all cameras."""

    preset: str
    weights: str  # packaged | random | given
    cameras: int
    size: str
    rate_in_hz: float  # of each camera, as it was really published
    seconds: float
    sent: int
    back: int
    rates_out_hz: tuple[float, ...]  # of each camera: none may starve
    latency_median_ms: float
    latency_p99_ms: float
    first_third_p99_ms: float
    last_third_p99_ms: float
    cpu_cores: float  # the node's processor time over the run's
    memory_mib: tuple[float, ...]  # the node's, resident, at even times from start to end
    handles_start: int
    handles_end: int
    threads_start: int
    threads_end: int
    shared_memory_files_start: int
    shared_memory_files_end: int
    backend: str
    precision: str
    together: float  # share of the published images that were restored in one call with other cameras'
    batching: str  # what the node's diagnostics say of several frames in one call


def sweep(
    settings: RuntimeSettings,
    cameras: Sequence[int],
    rates: Sequence[float],
    sizes: Sequence[tuple[int, int]],
    seconds: float,
    say: Callable[[str], None],
    keep: Callable[[list[LoadRow | Failure]], None],
    batching: bool = True,
) -> list[LoadRow | Failure]:
    """Every combination for so many seconds, and at least one image; `keep(rows)` is called after every one.

    sizes: (height, width); batching: the node's parameter.
    """
    rows: list[LoadRow | Failure] = []
    for size in sizes:
        for count in cameras:
            for rate in rates:
                what = f"{count} cameras of {size[1]}x{size[0]} at {rate:g} Hz"
                say(what)
                frames = max(1, round(seconds * rate))
                rows.append(measured(what, run_load, settings, count, size, rate, frames, batching))
                keep(rows)
    return rows


def measured(what: str, function: Callable[..., LoadRow], *arguments: Any) -> LoadRow | Failure:
    """`function(*arguments)`, or why it could not be measured."""
    try:
        return function(*arguments)
    except RainRemovalError as error:
        return Failure(what, str(error))


def run_load(
    settings: RuntimeSettings,
    cameras: int,
    size: tuple[int, int],
    rate: float,
    frames: int,
    batching: bool = True,
) -> LoadRow:
    """`frames` of every camera at `rate` a second.

    Raises RainRemovalError where the node does not become ready, ends, or gives nothing back.
    """
    keep_apart()
    from rain_removal_ros.ros.process import check_runs, end_of, node_parameters, running_node

    height, width = size
    names = [f"camera{number}" for number in range(cameras)]
    with tempfile.TemporaryDirectory() as folder:
        preset, log = settings.preset, Path(folder) / "node.log"
        path, kind = (settings.weights, "given") if settings.weights else weights_of(preset, Path(folder))
        parameters = {
            "cameras": f"[{', '.join(names)}]",
            "image_sizes": f"{width}x{height}",
            **node_parameters(replace(settings, weights=path)),
            "batching": str(batching).lower(),
        }
        with running_node(parameters, log) as process, _cameras(names) as player:
            player.wait_until_ready(process, log)
            alive = functools.partial(check_runs, process, log)
            images = [np.roll(street_like(height, width), 8 * n, axis=1) for n in range(4)]
            player.play(images, rate, max(10, int(SETTLE_S * rate)), alive)
            before, began = ProcessFigures.of(process.pid), time.perf_counter()
            with sampled_memory(process.pid, frames / rate / MEMORY_SAMPLES) as samples:
                player.play(images, rate, frames, alive)
            seconds = time.perf_counter() - began
            after = ProcessFigures.of(process.pid)
            player.drain()
            alive()
            runtime, latencies = player.runtime, player.ledger.latencies
            if not latencies:
                raise RainRemovalError(f"none of {frames * cameras} images came back; {end_of(log)}")
    third = max(1, len(latencies) // 3)
    last_turn = 1 / (cameras * rate)  # seconds of the last image, for which nobody waited
    return LoadRow(
        preset=runtime.get(PRESET, preset),
        weights=kind,
        cameras=cameras,
        size=f"{width}x{height}",
        rate_in_hz=round(frames / (seconds + last_turn), 2),
        seconds=round(seconds, 1),
        sent=frames * cameras,
        back=len(latencies),
        rates_out_hz=tuple(round(rate_of(player.ledger.back[name]), 2) for name in names),
        latency_median_ms=_ms(np.median(latencies)),
        latency_p99_ms=_ms(np.quantile(latencies, 0.99)),
        first_third_p99_ms=_ms(np.quantile(latencies[:third], 0.99)),
        last_third_p99_ms=_ms(np.quantile(latencies[-third:], 0.99)),
        cpu_cores=round((after.cpu_s - before.cpu_s) / seconds, 2),
        memory_mib=tuple(round(mib, 1) for mib in (*samples, after.memory_mib)),
        handles_start=before.handles,
        handles_end=after.handles,
        threads_start=before.threads,
        threads_end=after.threads,
        shared_memory_files_start=before.shared_memory_files,
        shared_memory_files_end=after.shared_memory_files,
        backend=runtime.get(BACKEND, "unknown"),
        precision=runtime.get(PRECISION, "unknown"),
        together=round(player.together, 3),
        batching=runtime.get(BATCHING, "unknown"),
    )


def _ms(seconds: float) -> float:
    return round(1e3 * float(seconds), 2)


@contextmanager
def _cameras(names: Sequence[str]) -> Iterator[_Cameras]:
    player = _Cameras(names)
    try:
        yield player
    finally:
        player.close()


class Ledger:
    """What was sent, and what came back of it. Moments are in seconds, of one clock."""

    def __init__(self, names: Sequence[str]):
        self.latencies: list[float] = []  # seconds, in the order of coming back
        self.back: dict[str, list[float]] = {name: [] for name in names}  # moments, by camera
        self.outstanding: dict[tuple[str, int], float] = {}  # moment of sending, by camera and serial number

    def send(self, name: str, serial: int, now: float) -> None:
        """Enter an image; what was sent longer than LOST_AFTER_S ago is given up."""
        while self.outstanding and now - next(iter(self.outstanding.values())) > LOST_AFTER_S:
            self.outstanding.pop(next(iter(self.outstanding)))
        self.outstanding[name, serial] = now

    def receive(self, name: str, serial: int, now: float) -> None:
        """Enter an answer; one to what was not sent, or was given up, counts for nothing."""
        sent = self.outstanding.pop((name, serial), None)
        if sent is not None:
            self.latencies.append(now - sent)
            self.back[name].append(now)


class _Cameras:
    """Cameras and subscribers of all of them, in one node of this process."""

    def __init__(self, names: Sequence[str]):
        from rclpy.qos import QoSProfile, ReliabilityPolicy
        from sensor_msgs.msg import Image

        from rain_removal_ros.ros.client import NodeClient

        self.ledger = Ledger(names)
        self._serial = 0
        self._client = NodeClient("derain_load")
        node, qos = self._client.node, QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
        self._publishers = {name: node.create_publisher(Image, f"{name}/image_raw", qos) for name in names}
        for name in names:
            callback = functools.partial(self._on_image, name)
            node.create_subscription(Image, f"{name}/derained/image", callback, 10)
        self._client.start()

    def close(self) -> None:
        self._client.close()

    def wait_until_ready(self, process: subprocess.Popen[bytes], log: Path) -> None:
        """Raises RainRemovalError, with the end of the node's log, where that does not come about."""
        from rain_removal_ros.ros.process import fate_of, showing_end_of

        def ready() -> bool:
            found = all(publisher.get_subscription_count() for publisher in self._publishers.values())
            return found and self._client.is_ready()

        with showing_end_of(log):
            self._client.wait_until_ready(ready, functools.partial(fate_of, process))

    def play(self, images: Sequence[np.ndarray], rate: float, frames: int, alive: Callable[[], None]) -> None:
        """Every camera's images at `rate` a second, the cameras one after another within a period.

        alive: called before every image; what it raises ends the play.
        """
        from std_msgs.msg import Header

        from rain_removal_ros.ros.messages import image_message

        messages = [image_message(image, "rgb8", Header(frame_id="lens")) for image in images]
        with self._client.changed:
            self.ledger = Ledger(list(self._publishers))
        began = time.perf_counter()
        for number in range(frames):
            alive()
            self._client.check()
            self._serial += 1
            message = messages[number % len(messages)]
            message.header.stamp.sec = self._serial
            for place, (name, publisher) in enumerate(self._publishers.items()):
                due = began + (number + place / len(self._publishers)) / rate
                time.sleep(max(0.0, due - time.perf_counter()))  # the camera's clock
                with self._client.changed:
                    self.ledger.send(name, self._serial, time.perf_counter())
                publisher.publish(message)

    @property
    def runtime(self) -> Mapping[str, str]:
        """What the node's diagnostics last said of its runtime."""
        status = self._client.runtime
        return {} if status is None else status.values

    @property
    def together(self) -> float:
        """The share of the node's images so far that were restored in one call with other cameras'."""
        cameras = [s.values for s in self._client.statuses.values() if PUBLISHED in s.values]
        published = sum(int(values[PUBLISHED]) for values in cameras)
        return sum(int(values[TOGETHER]) for values in cameras) / max(1, published)

    def drain(self) -> None:
        """Wait for the frames under way."""
        self._client.wait_for(lambda: not self.ledger.outstanding, DRAIN_S)

    def _on_image(self, name: str, message: Any) -> None:
        now = time.perf_counter()
        with self._client.changed:
            self.ledger.receive(name, message.header.stamp.sec, now)
            self._client.changed.notify_all()


def load_table(rows: Sequence[LoadRow | Failure]) -> str:
    """The rows as a Markdown table, the failures below it."""
    cells = [
        (
            row.cameras, row.size, row.rate_in_hz,
            f"{min(row.rates_out_hz):.1f} to {max(row.rates_out_hz):.1f}", row.latency_median_ms,
            row.latency_p99_ms, row.cpu_cores, f"{100 * row.together:.0f}",
        )
        for row in rows
        if isinstance(row, LoadRow)
    ]  # fmt: skip
    header = ("cameras", "size", "Hz in", "Hz out", "median ms", "p99 ms", "CPU cores", "% together")
    return "\n".join([markdown(header, cells), *failure_lines(rows)])


def soak_lines(row: LoadRow | Failure) -> str:
    """What must not grow, in sentences."""
    if isinstance(row, Failure):
        return "\n".join(failure_lines([row]))
    quarter = max(1, len(row.memory_mib) // 4)
    first, last = np.mean(row.memory_mib[:quarter]), np.mean(row.memory_mib[-quarter:])
    growth = 100 * (last / first - 1)
    return (
        f"{row.back} of {row.sent} frames came back in {row.seconds:.0f} s; "
        f"memory {first:.1f} MiB in the first quarter, {last:.1f} in the last ({growth:+.2f} %), "
        f"from {min(row.memory_mib):.1f} to {max(row.memory_mib):.1f}; "
        f"handles {row.handles_start} to {row.handles_end}, "
        f"threads {row.threads_start} to {row.threads_end}, files in "
        f"/dev/shm {row.shared_memory_files_start} to {row.shared_memory_files_end}; "
        f"p99 {row.first_third_p99_ms} ms in the first third, {row.last_third_p99_ms} ms in the last"
    )
