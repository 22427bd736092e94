"""Health and latency of the node as diagnostic_msgs. Judges snapshots; measures nothing itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from diagnostic_msgs.msg import DiagnosticStatus, KeyValue

from rain_removal_ros.errors import bounded
from rain_removal_ros.pipeline import (
    CameraSnapshot,
    Distribution,
    Health,
    OnFailure,
    OutputSet,
    Problem,
    Stage,
    Way,
)
from rain_removal_ros.ros import status
from rain_removal_ros.runtime import ASSUMED_FOCAL, Output, RuntimeInfo

STEADY_FRAMES = 10
"""So many frames, all of them too slow, are more than a hiccup."""


@dataclass(frozen=True)
class Limits:
    """When to warn."""

    max_latency_s: float
    stale_after_s: float
    max_age_s: float = 0.0  # 0: age is not judged
    min_rate_in_hz: float = 0.0  # 0: the rate is not judged; likewise the next
    min_rate_out_hz: float = 0.0

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Limits:
        """Those that the node's parameters `diagnostics.*` give."""
        return cls(
            max_latency_s=values["diagnostics.max_latency_ms"] * 1e-3,
            stale_after_s=values["diagnostics.stale_after_s"],
            max_age_s=values["diagnostics.max_image_age_ms"] * 1e-3,
            min_rate_in_hz=values["diagnostics.min_rate_in_hz"],
            min_rate_out_hz=values["diagnostics.min_rate_out_hz"],
        )


@dataclass(frozen=True)
class CameraState:
    """What the node knows of a camera beside the pipeline's snapshot."""

    active: bool
    topic: str  # resolved name of the input
    publishers: int  # on that topic
    connected: int  # of these
    wanted: OutputSet  # the outputs that somebody subscribes to
    active_for_s: float | None  # seconds since activation
    info_topic: str = ""  # resolved name of the input's camera_info
    info_problem: str | None = None  # why camera_info is not published
    info_came: bool = False  # since activation
    info_wanted: bool = False  # somebody subscribes to it beside an output
    other_publishers: tuple[str, ...] = ()  # nodes that publish this camera's outputs as well


@dataclass(frozen=True)
class RuntimeState:
    """What the node knows of what runs the network."""

    lifecycle: str
    failed_transition: str | None = None  # why the last one failed; None where it succeeded
    info: RuntimeInfo | None = None  # None while none is loaded
    building: str | None = None
    failed_builds: tuple[str, ...] = ()
    health: Health | None = None
    batching: tuple[str, ...] = ()  # what is known of several frames in one call
    on_failure: OnFailure = OnFailure.DROP
    inference_timeout_s: float = 5.0
    namesakes: int = 0  # other nodes of this node's name
    unknown_parameters: tuple[str, ...] = ()  # what to say of those that were given and that it does not have
    seconds_since_output: float | None = None


def camera_status(
    name: str, snapshot: CameraSnapshot, state: CameraState, limits: Limits
) -> DiagnosticStatus:
    """Status of one camera: OK, WARN, ERROR, or STALE when images stop.

    `name` is the status' name, as `derain: camera`.
    """
    level, message = _judge_camera(snapshot, state, limits)
    counts = snapshot.counts
    values = [
        ("topic", state.topic),
        ("connected publishers", state.connected),
        ("outputs with subscribers", "+".join(o.value for o in Output if o in state.wanted) or "none"),
        ("rate in (Hz)", f"{snapshot.rate_in:.1f}"),
        ("rate out (Hz)", f"{snapshot.rate_out:.1f}"),
        ("received", counts.received),
        (status.PUBLISHED, counts.published),
        ("dropped", counts.dropped),
        ("not computed, no subscribers", counts.idle),
        *((problem.value, counts.problems[problem]) for problem in Problem),
        *((f"published {way.value}", counts.ways[way]) for way in Way),
        (status.TOGETHER, counts.together),
        ("last problem", next(reversed(snapshot.last_problems.values()), "none")),
        ("camera_info", _info(state)),
        ("focal length (px)", _focal(snapshot, state)),
        *_weather(snapshot),
        ("seconds since last image", _seconds(snapshot.seconds_since_received)),
        ("seconds since last output", _seconds(snapshot.seconds_since_published)),
    ]
    in_order = (Stage.WAITING, Stage.CONVERSION, Stage.INFERENCE, Stage.PUBLISHING, Stage.TOTAL)
    stages = zip(status.STAGES, (snapshot.stages.get(stage) for stage in in_order), strict=True)
    for label, distribution in (("image age", snapshot.image_age), *stages):
        if distribution is not None:
            values += _milliseconds(label, distribution)
    return _status(level, name, message, "", values)


def runtime_status(name: str, state: RuntimeState) -> DiagnosticStatus:
    """Status of what runs the network. `name` is the status' name, as `derain: runtime`."""
    level, message = _judge_runtime(state)
    info, health = state.info, state.health
    values: list[tuple[str, object]] = [(status.STATE, state.lifecycle)]
    if info is not None:
        values += [
            (status.BACKEND, info.backend),
            ("device", info.device),
            (status.PRECISION, info.precision),
            ("reason", info.reason),
            (status.PRESET, info.preset),
            ("weights", info.weights),
            ("weights sha256", info.weights_sha256),
            (status.IMAGE_SIZES, ", ".join(f"{width}x{height}" for height, width in info.input_sizes)),
            ("engine keys", ", ".join(info.engine_keys)),
            (status.BATCHING, "; ".join(state.batching) or "not tried"),
            ("seconds since last output", _seconds(state.seconds_since_output)),
        ]
    if health is not None:
        values += [
            ("failure", health.failure or "none"),
            ("on failure", state.on_failure.value),
            ("made anew", health.remade),
            ("could not be made anew", health.not_remade),
            ("inferences that never came back", health.hanging),
            ("graphs compiled again within a minute", health.rebuilt),
        ]
    values.append(("other nodes of this name", state.namesakes))
    values.append(("unknown parameters", "; ".join(state.unknown_parameters) or "none"))
    return _status(level, name, message, info.device if info is not None else "", values)


def _judge_runtime(state: RuntimeState) -> tuple[bytes, str]:
    info, health = state.info, state.health
    if state.failed_transition is not None:
        return DiagnosticStatus.ERROR, state.failed_transition
    if info is None:
        return DiagnosticStatus.WARN, f"{state.lifecycle}: no network loaded"
    if health is not None and health.failure is not None:
        fate = "dropped" if state.on_failure is OnFailure.DROP else "published as they came"
        remaking_s = health.remaking_s or 0.0
        remedy = f"; being made anew for {remaking_s:.0f} s" if remaking_s > 1 else ""
        remedy += "; restart the node" if health.broken else ""
        return DiagnosticStatus.ERROR, f"runtime failed, images are {fate}: {health.failure}{remedy}"
    if health is not None and health.busy is not None:
        stage, seconds = health.busy
        if seconds > max(state.inference_timeout_s, health.patience_s or 0.0):
            return DiagnosticStatus.ERROR, f"the worker has been in {stage} for {seconds:.1f} s"
    if health is not None and health.stand_in is not None:
        return DiagnosticStatus.ERROR, health.stand_in
    if state.failed_builds:
        return DiagnosticStatus.ERROR, f"build failed: {'; '.join(state.failed_builds)}"
    if state.namesakes:
        return (
            DiagnosticStatus.WARN,
            f"{state.namesakes} other nodes have this node's name; give each its own, "
            "or every image may be published more than once",
        )
    if state.building is not None:
        return DiagnosticStatus.WARN, state.building
    if health is not None and health.rebuilt:
        return (
            DiagnosticStatus.WARN,
            f"{health.rebuilt} graphs were compiled again within a minute: more image sizes and outputs "
            "are in use than graphs_in_memory holds; raise it",
        )
    if state.unknown_parameters:  # until the node is started again, so nothing that may pass is behind it
        return DiagnosticStatus.WARN, "; ".join(state.unknown_parameters)
    return DiagnosticStatus.OK, f"{info.backend} {info.precision} on {info.device}"


def _judge_camera(snapshot: CameraSnapshot, state: CameraState, limits: Limits) -> tuple[bytes, str]:
    if not state.active:
        return DiagnosticStatus.OK, "not active"
    active_for_s = state.active_for_s or 0.0
    silent_for = snapshot.seconds_since_received
    silent_for = active_for_s if silent_for is None else min(silent_for, active_for_s)
    if silent_for > limits.stale_after_s:
        return DiagnosticStatus.STALE, f"no image for {silent_for:.1f} s; {_why_silent(state)}"
    recent = snapshot.recent_problems
    last = [(problem, text) for problem, text in snapshot.last_problems.items() if recent[problem]]
    of_runtime = [text for problem, text in last if problem is not Problem.BAD_INPUT]
    if of_runtime:
        passed = snapshot.last_way is Way.PASSED_THROUGH
        return DiagnosticStatus.ERROR, f"{'passed through, ' if passed else ''}{of_runtime[-1]}"
    if recent[Problem.BAD_INPUT]:
        level = DiagnosticStatus.WARN if snapshot.rate_out else DiagnosticStatus.ERROR
        return level, snapshot.last_problems[Problem.BAD_INPUT]
    total = snapshot.stages.get(Stage.TOTAL)
    limit = f"the limit of {limits.max_latency_s * 1e3:.0f} ms"
    if total is not None and total.minimum > limits.max_latency_s and total.count >= STEADY_FRAMES:
        return DiagnosticStatus.WARN, f"every frame passes {limit}: {total.median * 1e3:.1f} ms median"
    if state.other_publishers:
        others = ", ".join(state.other_publishers)
        return DiagnosticStatus.WARN, f"its derained images are published by {others} as well"
    if total is not None and total.maximum > limits.max_latency_s:
        return DiagnosticStatus.WARN, f"latency of up to {total.maximum * 1e3:.1f} ms passed {limit}"
    age = snapshot.image_age
    if limits.max_age_s and age is not None and age.median > limits.max_age_s:
        return (
            DiagnosticStatus.WARN,
            f"images are {age.median * 1e3:.0f} ms old when they are published; the limit is "
            f"{limits.max_age_s * 1e3:.0f} ms",
        )
    steady = active_for_s > limits.stale_after_s
    if steady and snapshot.rate_in < limits.min_rate_in_hz:
        return DiagnosticStatus.WARN, _too_slow("come in", snapshot.rate_in, limits.min_rate_in_hz)
    if not state.wanted:
        return DiagnosticStatus.OK, "nobody subscribes, so nothing is computed"
    if state.info_problem is not None:  # of the last frame that was published
        return DiagnosticStatus.WARN, f"{state.info_problem}; it is not published"
    if not snapshot.rate_out and steady:
        return DiagnosticStatus.WARN, "images come in, but none comes out; the runtime's status may say why"
    if steady and snapshot.rate_out < limits.min_rate_out_hz:
        return DiagnosticStatus.WARN, _too_slow("come out", snapshot.rate_out, limits.min_rate_out_hz)
    if snapshot.last_way is Way.PASSED_THROUGH:
        return DiagnosticStatus.WARN, "passed through unchanged while the network is compiled"
    if steady and state.info_wanted and not state.info_came:
        return (
            DiagnosticStatus.WARN,
            f"no camera_info has come on {state.info_topic}, so none is published",
        )
    if snapshot.rate_out and snapshot.focal_px is None and Output.INVERSE_DEPTH in state.wanted:
        return (
            DiagnosticStatus.WARN,
            f"depth is scaled for a focal length of {ASSUMED_FOCAL:g} x width, which is assumed: "
            f"no camera_info with one comes on {state.info_topic}",
        )
    bypassed = ", dry: images are published as they came" if snapshot.last_way is Way.BYPASSED else ""
    return DiagnosticStatus.OK, f"{snapshot.rate_out:.1f} Hz{bypassed}"


def _too_slow(what: str, rate: float, limit: float) -> str:
    return f"images {what} at {rate:.1f} Hz, less than the limit of {limit:g} Hz"


def _why_silent(state: CameraState) -> str:
    if state.connected:
        return (
            f"{state.topic} is connected, so its publisher is silent, or lacks the DDS profile for large "
            "images, or shares no /dev/shm with this node (containers need --ipc=host, "
            "or the profile without shared memory)"
        )
    if state.publishers:
        return f"{state.topic} is published, but with an incompatible QoS or type"
    return f"nobody publishes {state.topic}"


def _info(state: CameraState) -> str:
    if state.active and not state.info_came:
        return f"none has come on {state.info_topic}"
    return state.info_problem or "no problem"


def _focal(snapshot: CameraSnapshot, state: CameraState) -> str:
    ways = snapshot.counts.ways
    if state.info_came and not ways[Way.RESTORED] + ways[Way.BYPASSED]:
        return "not known before an image is restored"
    if snapshot.focal_px is None:
        return f"assumed, {ASSUMED_FOCAL:g} x width: no camera_info with a camera's focal length"
    return f"{snapshot.focal_px:.1f}, of camera_info"


def _weather(snapshot: CameraSnapshot) -> list[tuple[str, object]]:
    weather = snapshot.weather
    if weather is None:
        return []
    return [
        ("rain (0 to 1)", f"{weather.rain:.2f}"),
        ("fog (0 to 1)", f"{weather.fog:.2f}"),
        ("visibility (m)", f"{weather.visibility_m:.0f}"),
        ("dry", str(snapshot.dry).lower()),
    ]


def _status(
    level: bytes, name: str, message: str, hardware: str, values: list[tuple[str, object]]
) -> DiagnosticStatus:
    pairs = [KeyValue(key=key, value=bounded(value)) for key, value in values]
    return DiagnosticStatus(
        level=level, name=name, message=bounded(message), hardware_id=hardware, values=pairs
    )


def _seconds(seconds: float | None) -> str:
    return "never" if seconds is None else f"{seconds:.2f}"


def _milliseconds(label: str, distribution: Distribution) -> list[tuple[str, str]]:
    parts = (
        ("median", distribution.median),
        ("p95", distribution.p95),
        ("p99", distribution.p99),
        ("max", distribution.maximum),
    )
    return [(status.latency(label, part), f"{value * 1e3:.2f}") for part, value in parts]
