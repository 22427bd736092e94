"""What became of a bag: frames, rate, latency, and the rain over time, as JSON and as a plot."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rain_removal_ros.frame_statistics import Distribution
from rain_removal_ros.rain_monitor import Weather

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_NAMED = 6
"""A plot of more cameras has no legend: it would hide the curves."""

REPORT_FILE, PLOT_FILE = "derain_report.json", "derain_report.png"


@dataclass(frozen=True)
class Frame:
    """One restored image."""

    log_time: int  # ns
    stamp: int  # ns; 0 where the camera gave none
    seconds: float  # in the network
    change: float  # mean absolute difference between restored and rainy image, of 255 levels
    weather: Weather | None = None  # as the network sees it; None: it does not say


@dataclass
class CameraReport:
    """One camera's frames, in the bag's order."""

    topic: str
    frames: list[Frame] = field(default_factory=list)
    failed: int = 0  # images that could not be read; they stay as they are
    first_failure: str | None = None

    def add(self, frame: Frame | None, failure: str | None) -> None:
        """Count an image: what was made of it, or why nothing was."""
        if frame is not None:
            self.frames.append(frame)
        else:
            self.failed += 1
            self.first_failure = self.first_failure or failure

    @property
    def latency(self) -> Distribution | None:
        """Seconds in the network."""
        return Distribution.of([frame.seconds for frame in self.frames])


@dataclass
class Report:
    """A whole bag. Seconds are of the run but for loading and compiling the network."""

    source: str
    backend: str
    device: str
    precision: str
    weights: str
    weights_sha256: str
    seconds: float
    preparing_seconds: float  # compiling, or loading what was compiled
    stages: dict[str, float]  # busy seconds of each stage; they overlap
    notices: list[str]
    damage: list[str]
    cameras: list[CameraReport]

    @property
    def frames(self) -> int:
        return sum(len(camera.frames) for camera in self.cameras)

    @property
    def failed(self) -> int:
        return sum(camera.failed for camera in self.cameras)

    @property
    def first_failure(self) -> str | None:
        return next((camera.first_failure for camera in self.cameras if camera.first_failure), None)

    @property
    def rate(self) -> float:
        """Frames a second."""
        return self.frames / self.seconds if self.seconds > 0 else 0.0

    @property
    def network_share(self) -> float:
        """The part of the run in which the network was at work, 0 to 1."""
        return self.stages.get("network", 0.0) / self.seconds if self.seconds > 0 else 0.0

    def summary(self) -> list[str]:
        """Lines for the terminal."""
        lines = [
            f"{self.frames} frames in {self.seconds:.1f} s, {self.rate:.2f} a second, on {self.device} "
            f"({self.backend} {self.precision}, {self.weights})"
        ]
        for camera in self.cameras:
            latency = camera.latency
            text = f"{camera.topic}: {len(camera.frames)} frames"
            if latency is not None:
                text += (
                    f", latency median {latency.median * 1e3:.1f} ms, 95 % {latency.p95 * 1e3:.1f}, "
                    f"99 % {latency.p99 * 1e3:.1f}, most {latency.maximum * 1e3:.1f}"
                )
            weather = [frame.weather for frame in camera.frames if frame.weather is not None]
            if weather:
                rain, fog = (np.mean([getattr(each, name) for each in weather]) for name in ("rain", "fog"))
                text += f"; rain {rain:.2f}, fog {fog:.2f} on average"
            if camera.failed:
                text += (
                    f"; {camera.failed} images could not be read and stay as they are: {camera.first_failure}"
                )
            lines.append(text)
        return lines + [f"damage: {what}" for what in self.damage]

    def profile(self) -> list[str]:
        """The stages' times as a table."""
        rows = [f"{'stage':10} {'busy, s':>9} {'of the run':>10}"]
        rows += [
            f"{name:10} {seconds:9.2f} {seconds / self.seconds:10.1%}"
            for name, seconds in sorted(self.stages.items(), key=lambda item: -item[1])
        ]
        return [
            *rows,
            f"{'run':10} {self.seconds:9.2f}; the network was at work {self.network_share:.1%} of it",
        ]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            **asdict(self),
            "frames": self.frames,
            "rate": self.rate,
            "network_share": self.network_share,
        }

    def write(self, folder: Path, say: Callable[[str], None] = lambda text: None) -> None:
        """Write the report, and its plot where matplotlib is there. Raises OSError.

        say: told where the plot fails; a bag that is done is worth more than its plot.
        """
        plot = folder / PLOT_FILE
        try:
            self._draw(plot)
        except ModuleNotFoundError:
            pass
        except Exception as error:  # matplotlib is broken, or the disk full, which the report will say
            plot.unlink(missing_ok=True)
            self.notices.append(
                f"{PLOT_FILE} is missing: it cannot be drawn ({type(error).__name__}: {error})"
            )
            say(self.notices[-1])
        (folder / REPORT_FILE).write_text(json.dumps(self.as_dict(), indent=1) + "\n")

    def _draw(self, path: Path) -> None:
        from matplotlib import rc_context

        with rc_context({"text.parse_math": False}):  # a `$` in a name is a `$`
            self._figure().savefig(path, dpi=100)

    def _figure(self) -> Figure:
        from matplotlib.figure import Figure

        figure = Figure(figsize=(10, 7), layout="constrained")
        weather, changes, latencies = figure.subplots(3, sharex=True)
        for camera in self.cameras:
            frames, seconds = camera.frames, drive_seconds(camera.frames)
            told = [(t, f.weather) for t, f in zip(seconds, frames, strict=True) if f.weather is not None]
            for what, style in (("rain", "-"), ("fog", "--")):
                values = [getattr(each, what) for _, each in told]
                weather.plot(
                    [t for t, _ in told], values, style, label=f"{camera.topic}: {what}", linewidth=1
                )
            changes.plot(seconds, [frame.change for frame in frames], label=camera.topic, linewidth=1)
            latencies.plot(seconds, [frame.seconds * 1e3 for frame in frames], linewidth=1)
        name = Path(self.source).name
        weather.set(ylabel="0 none, 1 full", ylim=(0, 1), title=f"{name}: weather, as the network sees it")
        changes.set(ylabel="change, of 255 levels", title="what was taken away")
        latencies.set(ylabel="latency, ms", xlabel="time in the drive, s", ylim=(0, None))
        if len(self.cameras) <= MOST_NAMED:
            weather.legend(loc="upper right")
            changes.legend(loc="upper right")
        return figure


def drive_seconds(frames: list[Frame]) -> np.ndarray:
    """Each frame's time since the first, in s; a leap of over a minute (the clock was set) counts as none."""
    times = np.array([frame.log_time for frame in frames], float) * 1e-9
    steps = np.diff(times, prepend=times[:1])
    return np.cumsum(np.where(np.abs(steps) > 60.0, 0.0, steps))
