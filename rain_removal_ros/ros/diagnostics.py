"""Health and latency of the node as diagnostic_msgs. Judges snapshots; measures nothing itself."""

from __future__ import annotations

import time
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from diagnostic_msgs.msg import DiagnosticStatus, KeyValue

from rain_removal_ros.pipeline import CameraSnapshot, Distribution, Outputs, Problem, Stage
from rain_removal_ros.runtime import Output, RuntimeInfo

STEADY_FRAMES = 10
"""So many frames, all of them too slow, are more than a hiccup."""


@dataclass(frozen=True)
class Limits:
    """When to warn."""

    max_latency_s: float
    stale_after_s: float


@dataclass(frozen=True)
class CameraState:
    """What the node knows of a camera beside the pipeline's snapshot."""

    active: bool
    topic: str  # resolved name of the input
    publishers: int  # on that topic
    connected: int  # of these
    wanted: Outputs  # the outputs that somebody subscribes to
    active_for_s: float | None  # seconds since activation


def camera_status(
    name: str, snapshot: CameraSnapshot, state: CameraState, limits: Limits
) -> DiagnosticStatus:
    """Status of one camera: OK, WARN, ERROR, or STALE when images stop.

    `name` is the status' name, as `derain: camera`.
    """
    level, message = _judge_camera(snapshot, state, limits)
    problems = snapshot.problems
    values = [
        ("topic", state.topic),
        ("connected publishers", state.connected),
        ("outputs with subscribers", "+".join(o.value for o in Output if o in state.wanted) or "none"),
        ("rate in (Hz)", f"{snapshot.rate_in:.1f}"),
        ("rate out (Hz)", f"{snapshot.rate_out:.1f}"),
        ("received", snapshot.received),
        ("published", snapshot.published),
        ("dropped", snapshot.dropped),
        ("not computed, no subscribers", snapshot.idle),
        *((problem.value, problems[problem]) for problem in Problem),
        ("last problem", snapshot.last_problem or "none"),
        ("seconds since last image", _seconds(snapshot.seconds_since_received)),
        ("seconds since last output", _seconds(snapshot.seconds_since_published)),
    ]
    for label, distribution in (
        ("image age", snapshot.image_age),
        ("receive to start", snapshot.stages.get(Stage.WAITING)),
        ("conversion", snapshot.stages.get(Stage.CONVERSION)),
        ("inference", snapshot.stages.get(Stage.INFERENCE)),
        ("publish", snapshot.stages.get(Stage.PUBLISHING)),
        ("total", snapshot.stages.get(Stage.TOTAL)),
    ):
        if distribution is not None:
            values += _milliseconds(label, distribution)
    return _status(level, name, message, "", values)


def runtime_status(
    name: str,
    lifecycle_state: str,
    info: RuntimeInfo | None,
    building: str | None,
    failed_builds: Sequence[str],
    failure: str | None,
    seconds_since_output: float | None,
) -> DiagnosticStatus:
    """Status of what runs the network.

    info: None while none is loaded. failure: of the last lifecycle transition, None where it succeeded.
    """
    if failure is not None:
        level, message = DiagnosticStatus.ERROR, failure
    elif info is None:
        level, message = DiagnosticStatus.WARN, f"{lifecycle_state}: no network loaded"
    elif building is not None:
        level, message = DiagnosticStatus.WARN, building
    elif failed_builds:
        level, message = DiagnosticStatus.ERROR, f"build failed: {'; '.join(failed_builds)}"
    else:
        level, message = DiagnosticStatus.OK, f"{info.backend} {info.precision} on {info.device}"
    values: list[tuple[str, object]] = [("state", lifecycle_state)]
    if info is not None:
        values += [
            ("backend", info.backend),
            ("device", info.device),
            ("precision", info.precision),
            ("reason", info.reason),
            ("preset", info.preset),
            ("weights", info.weights),
            ("weights sha256", info.weights_sha256),
            ("image sizes", ", ".join(f"{width}x{height}" for height, width in info.input_sizes)),
            ("engine keys", ", ".join(info.engine_keys)),
            ("seconds since last output", _seconds(seconds_since_output)),
        ]
    return _status(level, name, message, info.device if info is not None else "", values)


class Throttle:
    """Lets one event of a kind through in `period` seconds, and tells how many it held back since."""

    def __init__(self, period: float = 1.0):
        self._period = period
        self._last: dict[Hashable, float] = {}
        self._held: dict[Hashable, int] = {}

    def pass_(self, kind: Hashable) -> int | None:
        """The number of events held back before this one; None where this one is held back too."""
        now = time.perf_counter()
        if now - self._last.get(kind, -self._period) < self._period:
            self._held[kind] = self._held.get(kind, 0) + 1
            return None
        self._last[kind] = now
        return self._held.pop(kind, 0)


def _judge_camera(snapshot: CameraSnapshot, state: CameraState, limits: Limits) -> tuple[bytes, str]:
    if not state.active:
        return DiagnosticStatus.OK, "not active"
    silent_for = snapshot.seconds_since_received
    silent_for = state.active_for_s if silent_for is None else min(silent_for, state.active_for_s)
    if silent_for > limits.stale_after_s:
        return DiagnosticStatus.STALE, f"no image for {silent_for:.1f} s; {_why_silent(state)}"
    recent = snapshot.recent_problems
    if recent[Problem.FAILED] or recent[Problem.BUILD]:
        return DiagnosticStatus.ERROR, snapshot.last_problem
    if recent[Problem.BAD_INPUT]:
        level = DiagnosticStatus.WARN if snapshot.rate_out else DiagnosticStatus.ERROR
        return level, snapshot.last_problem
    total = snapshot.stages.get(Stage.TOTAL)
    if total is not None and total.maximum > limits.max_latency_s:
        steady = total.minimum > limits.max_latency_s and total.count >= STEADY_FRAMES
        limit = f"the limit of {limits.max_latency_s * 1e3:.0f} ms"
        if steady:
            return DiagnosticStatus.ERROR, f"every frame passes {limit}: {total.median * 1e3:.1f} ms median"
        return DiagnosticStatus.WARN, f"latency of up to {total.maximum * 1e3:.1f} ms passed {limit}"
    if not state.wanted:
        return DiagnosticStatus.OK, "nobody subscribes, so nothing is computed"
    if not snapshot.rate_out and state.active_for_s > limits.stale_after_s:
        return DiagnosticStatus.WARN, "images come in, but none comes out; the runtime's status may say why"
    return DiagnosticStatus.OK, f"{snapshot.rate_out:.1f} Hz"


def _why_silent(state: CameraState) -> str:
    if state.connected:
        return f"{state.topic} is connected, so its publisher is silent or lacks the DDS profile"
    if state.publishers:
        return f"{state.topic} is published, but with an incompatible QoS or type"
    return f"nobody publishes {state.topic}"


def _status(level: bytes, name: str, message: str, hardware: str, values: list) -> DiagnosticStatus:
    pairs = [KeyValue(key=key, value=str(value)) for key, value in values]
    return DiagnosticStatus(level=level, name=name, message=message, hardware_id=hardware, values=pairs)


def _seconds(seconds: float | None) -> str:
    return "never" if seconds is None else f"{seconds:.2f}"


def _milliseconds(label: str, distribution: Distribution) -> list[tuple[str, str]]:
    parts = (
        ("median", distribution.median),
        ("p95", distribution.p95),
        ("p99", distribution.p99),
        ("max", distribution.maximum),
    )
    return [(f"{label} {part} (ms)", f"{value * 1e3:.2f}") for part, value in parts]
