"""How snapshots are judged, and how often a thing is told."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import yaml
from diagnostic_msgs.msg import DiagnosticStatus

from rain_removal_ros.pipeline import (
    CameraSnapshot,
    Counts,
    Distribution,
    Health,
    OnFailure,
    Problem,
    Stage,
    Way,
)
from rain_removal_ros.ros import throttle as throttle_module
from rain_removal_ros.ros.diagnostics import (
    CameraState,
    Limits,
    RuntimeState,
    camera_status,
    runtime_status,
)
from rain_removal_ros.ros.parameters import PARAMETERS
from rain_removal_ros.ros.throttle import Throttle
from rain_removal_ros.runtime import Output, RuntimeInfo
from rain_removal_ros.share import share_file

DEPTH = frozenset({Output.IMAGE, Output.INVERSE_DEPTH})
LIMITS = Limits(max_latency_s=0.1, stale_after_s=2.0, max_age_s=0.5)
INFO = RuntimeInfo("openvino", "a CPU", "bf16", "it is the best", "fast", "fast.safetensors", "ab" * 32)


def snapshot(*totals: float, since_received: float | None = 0.1, rate_out: float = 30.0, **problems: int):
    recent = {problem: problems.get(problem.name, 0) for problem in Problem}
    total = Distribution.of(totals)
    return CameraSnapshot(
        camera="front",
        counts=Counts(received=100, published=90, dropped=10, problems=recent),
        recent_problems=recent,
        last_problems={problem: f"{problem.value}: cut" for problem in Problem if recent[problem]},
        rate_in=30.0,
        rate_out=rate_out,
        stages={} if total is None else {Stage.TOTAL: total},
        image_age=None,
        seconds_since_received=since_received,
        seconds_since_published=None,
    )


def state(active: bool = True, publishers: int = 1, connected: int = 1, active_for: float = 9.0, wanted=True):
    outputs = frozenset({Output.IMAGE}) if wanted else frozenset()
    return CameraState(
        active, "/front/image_raw", publishers, connected, outputs, active_for if active else None
    )


@pytest.mark.parametrize(
    ("seen", "camera", "level", "message"),
    [
        (snapshot(0.05), state(), DiagnosticStatus.OK, "30.0 Hz"),
        (snapshot(0.05), state(wanted=False), DiagnosticStatus.OK, "nobody subscribes"),
        (snapshot(0.05), state(active=False), DiagnosticStatus.OK, "not active"),
        (snapshot(0.05, 0.2), state(), DiagnosticStatus.WARN, "up to 200.0 ms passed the limit of 100 ms"),
        (snapshot(*[0.2] * 9), state(), DiagnosticStatus.WARN, "passed the limit"),
        (snapshot(*[0.2] * 10), state(), DiagnosticStatus.WARN, "every frame passes the limit"),
        (snapshot(0.05, BAD_INPUT=1), state(), DiagnosticStatus.WARN, "bad input: cut"),
        (snapshot(0.05, BAD_INPUT=1, rate_out=0.0), state(), DiagnosticStatus.ERROR, "bad input: cut"),
        (snapshot(rate_out=0.0), state(), DiagnosticStatus.WARN, "images come in, but none comes out"),
        (snapshot(rate_out=0.0), state(wanted=False), DiagnosticStatus.OK, "nobody subscribes"),
        (snapshot(0.05, FAILED=1), state(), DiagnosticStatus.ERROR, "cut"),
        (snapshot(0.05, BUILD=1), state(), DiagnosticStatus.ERROR, "cut"),
        (
            replace(snapshot(0.05, FAILED=1), last_way=Way.PASSED_THROUGH),
            state(),
            DiagnosticStatus.ERROR,
            "passed through",
        ),
        (
            replace(snapshot(0.05), last_way=Way.PASSED_THROUGH),
            state(),
            DiagnosticStatus.WARN,
            "passed through unchanged while the network is compiled",
        ),
        (
            snapshot(0.05),
            replace(state(), wanted=DEPTH, info_topic="/front/camera_info"),
            DiagnosticStatus.WARN,
            "0.8 x width, which is assumed: no camera_info with one comes on /front/camera_info",
        ),
        (
            replace(snapshot(0.05), focal_px=700.0),
            replace(state(), wanted=DEPTH),
            DiagnosticStatus.OK,
            "30.0 Hz",
        ),
        (
            replace(snapshot(0.05), last_way=Way.BYPASSED),
            state(),
            DiagnosticStatus.OK,
            "dry: images are published as they came",
        ),
        (
            snapshot(0.05),
            replace(state(), info_problem="camera_info is of 640x480"),
            DiagnosticStatus.WARN,
            "camera_info is of 640x480",
        ),
        (
            snapshot(0.05),
            replace(state(), other_publishers=("/derain",)),
            DiagnosticStatus.WARN,
            "published by /derain as well",
        ),
        (
            snapshot(*[0.2] * 10),
            replace(state(), other_publishers=("/derain",)),
            DiagnosticStatus.WARN,
            "every frame passes the limit",
        ),
        (
            replace(
                snapshot(0.05, FAILED=1, BAD_INPUT=1),
                last_problems={Problem.FAILED: "processing failed: ill", Problem.BAD_INPUT: "bad input: cut"},
            ),
            state(),
            DiagnosticStatus.ERROR,
            "processing failed: ill",
        ),
        (
            snapshot(0.05),
            replace(state(wanted=False), info_problem="camera_info is of 640x480"),
            DiagnosticStatus.OK,
            "nobody subscribes",
        ),
        (
            replace(snapshot(0.05), image_age=Distribution.of([0.7] * 3)),
            state(),
            DiagnosticStatus.WARN,
            "700 ms old",
        ),
        (
            snapshot(since_received=2.1),
            state(),
            DiagnosticStatus.STALE,
            "2.1 s; /front/image_raw is connected",
        ),
        (snapshot(since_received=None), state(connected=0), DiagnosticStatus.STALE, "incompatible QoS"),
        (
            snapshot(since_received=None),
            state(publishers=0, connected=0),
            DiagnosticStatus.STALE,
            "nobody publishes",
        ),
        (snapshot(since_received=60.0, rate_out=0.0), state(active_for=1.0), DiagnosticStatus.OK, "0.0 Hz"),
    ],
)
def test_a_camera_is_judged_by_what_matters_most(seen, camera, level, message):
    status = camera_status("derain: front", seen, camera, LIMITS)
    assert status.level == level and message in status.message
    assert status.name == "derain: front"


@pytest.mark.parametrize(
    ("more", "level", "message"),
    [
        ({}, DiagnosticStatus.OK, "30.0 Hz"),
        ({"info_wanted": True}, DiagnosticStatus.WARN, "no camera_info has come on /front/camera_info"),
        ({"info_wanted": True, "active_for_s": 1.0}, DiagnosticStatus.OK, "30.0 Hz"),
        ({"info_wanted": True, "info_came": True}, DiagnosticStatus.OK, "30.0 Hz"),
        ({"info_wanted": True, "wanted": frozenset()}, DiagnosticStatus.OK, "nobody subscribes"),
    ],
)
def test_a_camera_info_that_never_came_is_told_where_somebody_wants_it(more, level, message):
    camera = replace(state(), info_topic="/front/camera_info", **more)
    status = camera_status("derain: front", snapshot(0.05), camera, LIMITS)
    assert status.level == level and message in status.message
    came = "no problem" if camera.info_came else "none has come on /front/camera_info"
    assert {value.key: value.value for value in status.values}["camera_info"] == came


@pytest.mark.parametrize(
    ("came", "restored", "text"),
    [
        (False, 0, "assumed, 0.8 x width: no camera_info with a camera's focal length"),
        (True, 0, "not known before an image is restored"),
        (True, 3, "assumed, 0.8 x width: no camera_info with a camera's focal length"),
    ],
)
def test_a_focal_length_is_said_to_be_assumed_only_of_images_that_were_restored(came, restored, text):
    seen = snapshot(0.05)
    seen.counts.ways[Way.RESTORED] = restored
    status = camera_status("derain: front", seen, replace(state(), info_came=came), LIMITS)
    assert {value.key: value.value for value in status.values}["focal length (px)"] == text


@pytest.mark.parametrize(
    ("limits", "camera", "level", "message"),
    [
        (
            {"min_rate_in_hz": 31.0},
            state(),
            DiagnosticStatus.WARN,
            "come in at 30.0 Hz, less than the limit of 31",
        ),
        ({"min_rate_in_hz": 31.0}, state(wanted=False), DiagnosticStatus.WARN, "come in at 30.0 Hz"),
        ({"min_rate_in_hz": 31.0}, state(active_for=1.0), DiagnosticStatus.OK, "12.0 Hz"),
        (
            {"min_rate_out_hz": 12.5},
            state(),
            DiagnosticStatus.WARN,
            "come out at 12.0 Hz, less than the limit of 12.5",
        ),
        ({"min_rate_out_hz": 12.5}, state(wanted=False), DiagnosticStatus.OK, "nobody subscribes"),
        ({"min_rate_in_hz": 30.0, "min_rate_out_hz": 12.0}, state(), DiagnosticStatus.OK, "12.0 Hz"),
    ],
)
def test_rates_are_judged_by_the_limits_that_a_user_sets(limits, camera, level, message):
    status = camera_status("derain: front", snapshot(0.05, rate_out=12.0), camera, replace(LIMITS, **limits))
    assert status.level == level and message in status.message


FINE = Health(failure=None, remade=0, hanging=0, busy=None, rebuilt=0)


@pytest.mark.parametrize(
    ("more", "level", "message"),
    [
        ({}, DiagnosticStatus.OK, "openvino bf16 on a CPU"),
        ({"info": None}, DiagnosticStatus.WARN, "active: no network loaded"),
        ({"building": "building engine"}, DiagnosticStatus.WARN, "building engine"),
        ({"failed_builds": ("96x72: no tactic",)}, DiagnosticStatus.ERROR, "build failed: 96x72: no tactic"),
        (
            {"info": None, "failed_transition": "configure failed: no weights"},
            DiagnosticStatus.ERROR,
            "configure failed: no weights",
        ),
        (
            {"health": replace(FINE, failure="it hangs", hanging=1)},
            DiagnosticStatus.ERROR,
            "runtime failed, images are dropped: it hangs",
        ),
        (
            {"health": replace(FINE, failure="it hangs"), "on_failure": OnFailure.PASSTHROUGH},
            DiagnosticStatus.ERROR,
            "runtime failed, images are published as they came: it hangs",
        ),
        (
            {"health": replace(FINE, failure="it hangs", hanging=3)},
            DiagnosticStatus.ERROR,
            "it hangs; restart the node",
        ),
        (
            {"health": replace(FINE, failure="it failed", not_remade=3)},
            DiagnosticStatus.ERROR,
            "it failed; restart the node",
        ),
        (
            {"health": replace(FINE, failure="it hangs", remaking_s=12.0)},
            DiagnosticStatus.ERROR,
            "it hangs; being made anew for 12 s",
        ),
        (
            {"health": replace(FINE, failure="it hangs", remaking_s=400.0)},
            DiagnosticStatus.ERROR,
            "being made anew for 400 s; restart the node",
        ),
        (
            {"health": replace(FINE, busy=("publishing", 7.0))},
            DiagnosticStatus.ERROR,
            "the worker has been in publishing for 7.0 s",
        ),
        (
            {"health": replace(FINE, busy=("inference", 7.0), patience_s=50.0)},
            DiagnosticStatus.OK,
            "openvino bf16 on a CPU",
        ),
        ({"health": replace(FINE, stand_in="it hung")}, DiagnosticStatus.ERROR, "it hung"),
        ({"health": replace(FINE, busy=("inference", 0.1))}, DiagnosticStatus.OK, "openvino bf16 on a CPU"),
        ({"health": replace(FINE, rebuilt=2)}, DiagnosticStatus.WARN, "graphs_in_memory"),
        ({"namesakes": 1}, DiagnosticStatus.WARN, "1 other nodes have this node's name"),
        ({"unknown_parameters": ("one", "two")}, DiagnosticStatus.WARN, "one; two"),
        ({"unknown_parameters": ("one",), "building": "building x"}, DiagnosticStatus.WARN, "building x"),
    ],
)
def test_the_runtime_is_judged_by_what_matters_most(more, level, message):
    status = runtime_status("derain: runtime", RuntimeState(**{"lifecycle": "active", "info": INFO} | more))
    assert status.level == level and message in status.message


def test_the_analyzers_tell_the_runtime_from_the_cameras():
    text = share_file("config/diagnostics_analyzers.yaml").read_text()
    analyzers = yaml.safe_load(text)["/**"]["ros__parameters"]["analyzers"]["ros__parameters"]["analyzers"]
    [cameras], [runtime] = (
        analyzers["rain_removal_cameras"]["regex"],
        analyzers["rain_removal_runtime"]["contains"],
    )
    for name, is_runtime in (
        ("derain: runtime", True),
        ("car/derain: runtime", True),
        ("derain: front", False),
    ):
        assert (re.fullmatch(cameras, name) is None) is is_runtime
        assert (runtime in name) is is_runtime


def test_texts_of_others_are_bounded_and_printable_in_every_status():
    wild = "\x1b[2J" + "x" * 1_000_000
    seen = replace(snapshot(0.05, BAD_INPUT=1), last_problems={Problem.BAD_INPUT: wild})
    camera = replace(state(), info_problem=wild)
    for status in (
        camera_status("derain: front", seen, camera, LIMITS),
        runtime_status("derain: runtime", RuntimeState("active", failed_transition=wild)),
    ):
        texts = [status.message, *(pair.value for pair in status.values)]
        assert all(len(text) < 5000 and text.isprintable() for text in texts)


def test_a_throttle_lets_one_event_of_a_kind_through_in_a_second_and_counts_the_others(monkeypatch):
    now = 100.0
    monkeypatch.setattr(throttle_module.time, "perf_counter", lambda: now)
    throttle = Throttle()
    assert throttle.admit("cut") == 0
    assert throttle.admit("cut") is None and throttle.admit("cut") is None
    assert throttle.admit("unknown") == 0
    now = 101.0
    assert throttle.admit("cut") == 2
    now = 103.0
    assert throttle.admit("cut") == 0


def test_the_limits_are_those_of_the_parameters():
    defaults = {parameter.name: parameter.default for parameter in PARAMETERS}
    assert Limits.of(defaults) == Limits(max_latency_s=0.1, stale_after_s=2.0)
    given = {"max_latency_ms": 50.0, "stale_after_s": 4.0, "max_image_age_ms": 200.0}
    given |= {"min_rate_in_hz": 20.0, "min_rate_out_hz": 10.0}
    limits = Limits.of({f"diagnostics.{name}": value for name, value in given.items()})
    assert limits == Limits(0.05, 4.0, 0.2, 20.0, 10.0)
