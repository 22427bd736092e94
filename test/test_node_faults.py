"""The node over real DDS with what ought not to be: wild messages, failing inference, wrong calibration."""

from __future__ import annotations

import gc
import sys
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager

import numpy as np
import pytest
import rclpy
from diagnostic_msgs.msg import DiagnosticStatus
from lifecycle_msgs.msg import Transition
from pipeline_fakes import FakeRestorer, streak_light_of
from rcl_interfaces.msg import Parameter, ParameterValue
from rcl_interfaces.srv import SetParameters, SetParametersAtomically
from rclpy.qos import DurabilityPolicy, QoSProfile
from ros_harness import (
    ACTIVATE,
    CONFIGURE,
    DEACTIVATE,
    RELIABLE,
    Peer,
    array_of,
    camera_info_of,
    derain_node,
    header_of,
    image_of,
    values_of,
)
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Float32
from waiting import PATIENCE

from rain_removal_ros import rain_monitor
from rain_removal_ros.pipeline import Health, Pipeline
from rain_removal_ros.ros.camera_topics import CameraTopics
from rain_removal_ros.ros.node import DerainNode
from rain_removal_ros.runtime import Output

GREY = np.full((72, 96, 3), 100, np.uint8)


@pytest.fixture
def restorers():
    """Those that the node has been given, the newest last."""
    return []


@pytest.fixture
def make_restorer(restorers):
    def make(settings, on_progress):
        restorers.append(FakeRestorer())
        return restorers[-1]

    return make


def round_trip(peer: Peer, publisher, message, outputs: list):
    before = len(outputs)
    publisher.publish(message)
    peer.wait_for(lambda: len(outputs) > before, "for an output")
    return outputs[-1]


def until(peer: Peer, condition: Callable[[], object], act: Callable[[], None]) -> None:
    """Do something again with every status until it has had its effect: DDS may not know everybody yet."""
    while not condition():
        act()
        peer.status("derain: camera", lambda s: True)


# -- messages that once ended the node ---------------------------------------------------------------


@pytest.mark.parametrize("kind", [200, 255])
def test_a_parameter_of_a_type_that_ros_does_not_know_is_refused_and_the_node_goes_on(make_restorer, kind):
    wild = Parameter(name="threads", value=ParameterValue(type=kind))
    with derain_node(make_restorer) as peer:
        result = peer.call("set_parameters", SetParameters.Request(parameters=[wild])).results[0]
        assert not result.successful and f"a value of type {kind}" in result.reason
        request = SetParametersAtomically.Request(parameters=[wild])
        assert not peer.call("set_parameters_atomically", request).result.successful
        assert peer.set_parameter("diagnostics.stale_after_s", 5.0).successful


def test_a_clock_before_1970_is_a_lost_message_and_the_node_goes_on(make_restorer):
    with derain_node(make_restorer, use_sim_time=True) as peer:
        outputs = peer.output(Output.IMAGE)
        camera = peer.camera()
        clock = peer.node.create_publisher(Clock, "/clock", 10)
        peer.wait_for(clock.get_subscription_count, "for the node's clock")
        wild = Clock()
        wild.clock.sec = -5
        lost = "a message was lost"
        until(peer, lambda: any(lost in log.msg for log in peer.logs), lambda: clock.publish(wild))
        assert round_trip(peer, camera, image_of(GREY, second=2), outputs).header == header_of(2)


@pytest.mark.parametrize(("sec", "nanosec"), [(-1, 0), (-(2**31), 2**32 - 1), (0, 0), (2**31 - 1, 2**32 - 1)])
def test_an_image_with_a_stamp_that_cannot_be_keeps_it_and_is_no_failure(make_restorer, sec, nanosec):
    with derain_node(make_restorer) as peer:
        outputs = peer.output(Output.IMAGE)
        camera = peer.camera()
        image = image_of(GREY)
        image.header.stamp.sec, image.header.stamp.nanosec = sec, nanosec
        assert round_trip(peer, camera, image, outputs).header == image.header
        status = peer.status("derain: camera", lambda s: values_of(s)["published"] == "1")
        assert values_of(status)["processing failed"] == "0"


def test_a_text_of_a_megabyte_is_told_short(make_restorer):
    with derain_node(make_restorer) as peer:
        peer.output(Output.IMAGE)
        camera = peer.camera()
        camera.publish(image_of(GREY, "\x1b[2J" + "x" * 1_000_000))
        status = peer.status("derain: camera", lambda s: values_of(s)["bad input"] == "1")
        assert all(len(text) < 5000 and text.isprintable() for text in values_of(status).values())
        assert all(len(log.msg) < 5000 for log in peer.told("is not known"))


# -- inference that fails ----------------------------------------------------------------------------


def test_a_runtime_is_made_anew_with_the_backend_that_ran_and_not_another_in_silence(restorers):
    asked, contents = [], []

    def make_restorer(settings, on_progress):
        asked.append((settings.backend, settings.precision))
        contents.append(settings.contents)
        restorers.append(FakeRestorer())
        return restorers[-1]

    with derain_node(make_restorer) as peer:
        outputs = peer.output(Output.IMAGE)
        camera = peer.camera()
        round_trip(peer, camera, image_of(GREY, second=1), outputs)
        restorers[0].fail_frames = RuntimeError("CUDA error 719")
        until(peer, lambda: len(restorers) > 1, lambda: camera.publish(image_of(GREY, second=2)))
        info = restorers[0].info
        assert asked == [("auto", "auto"), (info.backend, info.precision)]
        assert contents[0] and contents[1] == contents[0], "of the same weights, whatever the disk has now"


def test_a_hanging_inference_is_an_error_the_node_answers_and_recovers(make_restorer, restorers):
    with derain_node(make_restorer, inference_timeout_s=0.2) as peer:
        outputs = peer.output(Output.IMAGE)
        camera = peer.camera()
        round_trip(peer, camera, image_of(GREY, second=1), outputs)
        restorers[0].gate.clear()
        try:
            camera.publish(image_of(GREY, second=2))
            status = peer.status("derain: camera", lambda s: s.level == DiagnosticStatus.ERROR)
            assert "did not come back" in status.message
            assert peer.state() == "active"
            assert peer.told("runtime made anew")
            runtime = peer.status("derain: runtime", lambda s: s.level == DiagnosticStatus.OK)
            assert values_of(runtime)["made anew"] == "1"
            assert round_trip(peer, camera, image_of(GREY, second=3), outputs).header == header_of(3)
        finally:
            restorers[0].gate.set()
        assert [image.header.stamp.sec for image in outputs] == [1, 3]


def test_with_passthrough_images_go_on_while_the_runtime_is_broken_and_diagnostics_say_so(restorers):
    broken = threading.Event()

    def make_restorer(settings, on_progress):
        if broken.is_set():
            raise RuntimeError("no device")
        restorers.append(FakeRestorer())
        return restorers[-1]

    with derain_node(make_restorer, on_failure="passthrough") as peer:
        outputs = peer.output(Output.IMAGE)
        camera = peer.camera()
        assert array_of(round_trip(peer, camera, image_of(GREY, second=1), outputs), 3).max() == 110
        broken.set()
        restorers[0].fail_frames = RuntimeError("CUDA error 719")
        for second in range(2, 8):
            passed = round_trip(peer, camera, image_of(GREY, second=second), outputs)
            assert passed.header == header_of(second) and (array_of(passed, 3) == GREY).all()
        runtime = peer.status("derain: runtime", lambda s: "published as they came" in s.message)
        assert runtime.level == DiagnosticStatus.ERROR
        status = peer.status("derain: camera", lambda s: values_of(s)["published passed through"] == "6")
        assert status.level == DiagnosticStatus.ERROR and "passed through" in status.message
        assert peer.set_parameter("on_failure", "drop").successful


def test_depth_that_is_no_number_is_not_published(make_restorer, restorers):
    with derain_node(make_restorer) as peer:
        depths = peer.output(Output.INVERSE_DEPTH)
        camera = peer.camera()
        round_trip(peer, camera, image_of(GREY, second=1), depths)
        restorers[0].wrong = {"inverse_depth": np.full((72, 96), np.nan, np.float32)}
        camera.publish(image_of(GREY, second=2))
        status = peer.status("derain: camera", lambda s: s.level == DiagnosticStatus.ERROR)
        assert "inverse depth from nan" in status.message
        restorers[0].wrong = {}
        assert round_trip(peer, camera, image_of(GREY, second=3), depths).header == header_of(3)
        assert len(depths) == 2


# -- camera_info -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"width": 640, "height": 480}, "camera_info is of 640x480 pixels, the image of 96x72"),
        (
            {"frame_id": "rear"},
            "camera_info is of the frame 'rear', the image of 'front_camera",
        ),
    ],
)
def test_a_camera_info_of_something_else_is_withheld_and_told(make_restorer, change, why):
    info = camera_info_of(1)
    info.header.frame_id = change.pop("frame_id", info.header.frame_id)
    for name, value in change.items():
        setattr(info, name, value)
    with derain_node(make_restorer, diagnostics__max_latency_ms=60000.0) as peer:
        images = peer.output(Output.IMAGE)
        infos = peer.subscribe(CameraInfo, "camera/derained/camera_info")
        publisher = peer.node.create_publisher(CameraInfo, "camera/camera_info", RELIABLE)
        camera = peer.camera()
        seen: list[DiagnosticStatus] = []

        def act() -> None:
            publisher.publish(info)
            round_trip(peer, camera, image_of(GREY), images)
            seen.append(peer.status("derain: camera", lambda s: True))

        until(peer, lambda: seen and why in seen[-1].message, act)
        assert seen[-1].level == DiagnosticStatus.WARN and not infos


def test_a_camera_info_of_the_region_that_was_read_out_is_the_images(make_restorer):
    info = camera_info_of(1)
    info.width, info.height, info.binning_x, info.binning_y = 384, 288, 2, 2
    info.roi.width, info.roi.height = 192, 144
    with derain_node(make_restorer) as peer:
        images = peer.output(Output.IMAGE)
        infos = peer.subscribe(CameraInfo, "camera/derained/camera_info")
        publisher = peer.node.create_publisher(CameraInfo, "camera/camera_info", RELIABLE)
        camera = peer.camera()

        def act() -> None:
            publisher.publish(info)
            round_trip(peer, camera, image_of(GREY), images)

        until(peer, lambda: infos, act)
        assert infos[-1] == info


@pytest.fixture
def heard(monkeypatch):
    """The stamps' seconds of the camera_infos that the node has taken."""
    heard: list[int] = []
    original = CameraTopics._on_info

    def on_info(self, message: CameraInfo) -> None:
        original(self, message)
        heard.append(message.header.stamp.sec)

    monkeypatch.setattr(CameraTopics, "_on_info", on_info)
    return heard


def tell_info(peer: Peer, publisher, heard: list[int], second: int, fx: float) -> None:
    info = camera_info_of(second)
    info.k = [fx, *info.k[1:]]
    publisher.publish(info)
    peer.wait_for(lambda: second in heard, "for the node to take a camera_info")


@contextmanager
def depth_and_its_info(make_restorer):
    """The peer, its publishers of images and of camera_info, and what comes of depth and camera_info."""
    with derain_node(make_restorer) as peer:
        depths = peer.output(Output.INVERSE_DEPTH)
        infos = peer.subscribe(CameraInfo, "camera/derained/camera_info", RELIABLE)
        publisher = peer.node.create_publisher(CameraInfo, "camera/camera_info", RELIABLE)
        camera = peer.camera()
        peer.wait_for(lambda: publisher.get_subscription_count() and infos.publishers)
        yield peer, camera, publisher, depths, infos


def test_an_image_keeps_its_own_camera_info_however_long_it_waits_or_is_in_work(
    make_restorer, restorers, heard
):
    with depth_and_its_info(make_restorer) as (peer, camera, publisher, depths, infos):
        round_trip(peer, camera, image_of(GREY), depths)  # the network is compiled
        restorer = restorers[0]
        assert restorer.working.acquire(timeout=PATIENCE)
        restorer.focal_lengths.clear()
        restorer.gate.clear()
        tell_info(peer, publisher, heard, 2, 100.0)
        camera.publish(image_of(GREY, second=2))
        assert restorer.working.acquire(timeout=PATIENCE)
        camera.publish(image_of(GREY, second=3))  # before its camera_info, as image_transport sends them
        peer.status("derain: camera", lambda s: values_of(s)["received"] == "3")
        for second in range(3, 14):
            tell_info(peer, publisher, heard, second, 80.0 + 10 * second)
        restorer.gate.set()
        peer.wait_for(lambda: len(infos) == 2 and len(depths) == 3, "for both images")
        assert [(info.header, info.k[0]) for info in infos] == [(header_of(2), 100.0), (header_of(3), 110.0)]
        assert restorer.focal_lengths == [100.0, 110.0]


def test_a_camera_info_that_came_after_depth_was_scaled_without_it_is_not_published_with_it(
    make_restorer, restorers, heard
):
    with depth_and_its_info(make_restorer) as (peer, camera, publisher, depths, infos):
        restorer = restorers[0]
        restorer.gate.clear()
        camera.publish(image_of(GREY, second=2))
        assert restorer.working.acquire(timeout=PATIENCE)
        tell_info(peer, publisher, heard, 2, 100.0)
        restorer.gate.set()
        peer.wait_for(lambda: depths, "for the first image")
        tell_info(peer, publisher, heard, 3, 110.0)
        camera.publish(image_of(GREY, second=3))
        peer.wait_for(lambda: infos, "for the second image's camera_info")
        assert [(info.header, info.k[0]) for info in infos] == [(header_of(3), 110.0)]
        assert restorer.focal_lengths == [None, 110.0]


def test_a_camera_info_that_never_comes_is_told(make_restorer):
    with derain_node(make_restorer, diagnostics__max_latency_ms=60000.0) as peer:
        images = peer.output(Output.IMAGE)
        peer.subscribe(CameraInfo, "camera/derained/camera_info")
        camera = peer.camera()
        seen: list[DiagnosticStatus] = []

        def act() -> None:
            round_trip(peer, camera, image_of(GREY), images)
            seen.append(peer.status("derain: camera", lambda s: True))

        text = "no camera_info has come on /camera/camera_info"
        until(peer, lambda: seen and text in seen[-1].message, act)
        assert seen[-1].level == DiagnosticStatus.WARN
        assert values_of(seen[-1])["camera_info"] == "none has come on /camera/camera_info"


@pytest.mark.parametrize(
    ("rule", "topics"),
    [
        (
            "front/derained/image:=/front/image_raw",
            ("front/derained/image", "front/image_raw", "/front/image_raw"),
        ),
        (
            "front/derained/camera_info:=/rear/camera_info",
            ("front/derained/camera_info", "rear/camera_info", "/rear/camera_info"),
        ),
    ],
)
def test_an_output_that_is_remapped_onto_an_input_is_refused(make_restorer, restorers, rule, topics):
    with derain_node(make_restorer, cli_args=["--ros-args", "-r", rule], cameras=["front", "rear"]) as peer:
        status = peer.status("derain: runtime", lambda s: s.level == DiagnosticStatus.ERROR)
        output, input_, resolved = topics
        assert f"the output {output} and the input {input_} are both {resolved}" in status.message
        assert f"remap {input_} as well" in status.message
        assert peer.state() == "unconfigured" and all(restorer.closed for restorer in restorers)


def test_the_output_may_take_the_name_of_an_input_that_is_remapped_too(make_restorer):
    rules = ["camera/image_raw:=/camera/image_rainy", "camera/derained/image:=/camera/image_raw"]
    remapped = ["--ros-args", *(part for rule in rules for part in ("-r", rule))]
    with derain_node(make_restorer, cli_args=remapped) as peer:
        peer.status("derain: runtime", lambda s: s.level == DiagnosticStatus.OK)


def test_a_camera_info_that_was_latched_before_the_node_started_is_used(make_restorer, restorers):
    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    with derain_node(make_restorer, autostart=True) as peer:
        assert peer.state()  # autostart has begun
        peer.status("derain: runtime", lambda s: values_of(s)["state"] == "active")
        assert peer.change_state(DEACTIVATE)
        publisher = peer.node.create_publisher(CameraInfo, "camera/camera_info", latched)
        publisher.publish(camera_info_of(1))  # nobody hears it now
        assert peer.change_state(ACTIVATE)
        infos = peer.subscribe(CameraInfo, "camera/derained/camera_info")
        images = peer.output(Output.IMAGE)
        camera = peer.camera()
        until(peer, lambda: infos, lambda: round_trip(peer, camera, image_of(GREY, second=4), images))
        assert infos[-1].k[0] == 90.0 and infos[-1].header == header_of(4)
        assert restorers[0].focal_lengths[-1] == 90.0
        status = peer.status("derain: camera", lambda s: True)
        assert values_of(status)["focal length (px)"] == "90.0, of camera_info"


def test_camera_info_is_heard_as_latched_where_a_publisher_latches_it_alone(make_restorer, restorers):
    """Both ends would be warned of an incompatible QoS otherwise."""
    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)

    def durabilities() -> list[DurabilityPolicy]:
        found = peer.node.get_subscriptions_info_by_topic("/camera/camera_info")
        return [info.qos_profile.durability for info in found]

    with derain_node(make_restorer) as peer:
        infos = peer.subscribe(CameraInfo, "camera/derained/camera_info")
        images = peer.output(Output.IMAGE)
        camera = peer.camera()
        driver = peer.node.create_publisher(CameraInfo, "camera/camera_info", RELIABLE)
        wider = camera_info_of(2)
        wider.k = [80.0, *wider.k[1:]]

        def act() -> None:
            driver.publish(wider)
            round_trip(peer, camera, image_of(GREY), images)

        until(peer, lambda: infos and restorers[0].focal_lengths[-1] == 80.0, act)
        peer.status("derain: camera", lambda s: True)  # a second has passed
        assert durabilities() == [DurabilityPolicy.VOLATILE]
        assert not [log for log in peer.logs if "incompatible" in log.msg]
        peer.node.destroy_publisher(driver)
        latching = peer.node.create_publisher(CameraInfo, "camera/camera_info", latched)
        latching.publish(camera_info_of(1))
        until(peer, lambda: len(durabilities()) == 2, lambda: peer.status("derain: camera", lambda s: True))
        until(
            peer,
            lambda: restorers[0].focal_lengths[-1] == 90.0,
            lambda: round_trip(peer, camera, image_of(GREY), images),
        )


def test_the_durability_of_camera_info_can_be_overridden(make_restorer):
    override = {"qos_overrides./camera/camera_info.subscription.durability": "transient_local"}
    with derain_node(make_restorer, **override) as peer:
        peer.camera()
        found = peer.node.get_subscriptions_info_by_topic("/camera/camera_info")
        assert {info.qos_profile.durability for info in found} == {DurabilityPolicy.TRANSIENT_LOCAL}


# -- the rest ----------------------------------------------------------------------------------------


def test_a_failed_activate_leaves_no_subscription_so_that_an_image_never_arrives_twice(
    make_restorer, monkeypatch
):
    failures = [RuntimeError("no entity left")] * 3
    original = DerainNode.create_subscription

    def create_subscription(self, message_type, topic, *arguments, **named):
        if message_type is CameraInfo and failures:
            raise failures.pop()
        return original(self, message_type, topic, *arguments, **named)

    monkeypatch.setattr(DerainNode, "create_subscription", create_subscription)
    with derain_node(make_restorer) as peer:
        peer.status("derain: runtime", lambda s: "activate failed" in s.message)
        assert not peer.change_state(ACTIVATE) and not peer.change_state(ACTIVATE)
        assert peer.node.count_subscribers("/camera/image_raw") == 0
        assert peer.change_state(ACTIVATE)
        outputs = peer.output(Output.IMAGE)
        camera = peer.camera()
        round_trip(peer, camera, image_of(GREY), outputs)
        status = peer.status("derain: camera", lambda s: values_of(s)["published"] == "1")
        assert values_of(status)["received"] == "1"


def test_a_failed_configure_keeps_neither_the_network_nor_any_topic(make_restorer, restorers, monkeypatch):
    failures = [RuntimeError("no entity left")] * 3
    original = DerainNode.create_lifecycle_publisher

    def create_lifecycle_publisher(self, message_type, topic, *arguments, **named):
        if topic.startswith("rear/depth") and failures:
            raise failures.pop()
        return original(self, message_type, topic, *arguments, **named)

    monkeypatch.setattr(DerainNode, "create_lifecycle_publisher", create_lifecycle_publisher)
    with derain_node(make_restorer, cameras=["camera", "rear"]) as peer:
        peer.status("derain: runtime", lambda s: "configure failed" in s.message)
        assert not peer.change_state(CONFIGURE) and not peer.change_state(CONFIGURE)
        assert [restorer.closed for restorer in restorers] == [True, True, True]
        assert peer.change_state(CONFIGURE)
        assert not restorers[-1].closed
        images = peer.subscribe(Image, "camera/derained/image")
        peer.wait_for(lambda: images.publishers)
        assert len(peer.node.get_publishers_info_by_topic("/camera/derained/image")) == 1


def test_a_module_that_is_missing_is_told_with_the_python_that_lacks_it():
    def make_restorer(settings, on_progress):
        raise ModuleNotFoundError("No module named 'safetensors'", name="safetensors")

    with derain_node(make_restorer) as peer:
        status = peer.status("derain: runtime", lambda s: s.level == DiagnosticStatus.ERROR)
        assert f"configure needs safetensors, which is not installed for {sys.executable};" in status.message
        assert not [log for log in peer.logs if "Traceback" in log.msg]


def test_another_node_that_publishes_the_same_images_is_named(make_restorer):
    with derain_node(make_restorer, diagnostics__stale_after_s=60.0) as peer:
        peer.camera()
        peer.node.create_publisher(Image, "camera/derained/image", 10)
        status = peer.status("derain: camera", lambda s: "published by" in s.message)
        assert status.level == DiagnosticStatus.WARN and "/peer as well" in status.message


def test_a_node_that_takes_the_drivers_topic_over_does_not_take_the_driver_for_another(make_restorer):
    rules = ("camera/image_raw:=/camera/rainy", "camera/derained/image:=/camera/image_raw")
    remapped = ["--ros-args", *(word for rule in rules for word in ("-r", rule))]
    with derain_node(make_restorer, cli_args=remapped, diagnostics__stale_after_s=60.0) as peer:
        peer.node.create_publisher(Image, "/camera/rainy", 10)
        peer.node.create_subscription(Image, "/camera/image_raw", lambda _: None, 10)
        peer.status("derain: camera", lambda s: values_of(s)["outputs with subscribers"] == "image")
        status = peer.status("derain: camera", lambda s: s.level != DiagnosticStatus.STALE)
        assert "published by" not in status.message
        peer.node.create_publisher(Image, "/camera/image_raw", 10)
        peer.status("derain: camera", lambda s: "published by /peer as well" in s.message)


def test_a_failed_transition_is_told_until_another_succeeds(make_restorer):
    with derain_node(make_restorer, autostart=False, weights="/nowhere.safetensors") as peer:
        assert not peer.change_state(CONFIGURE)
        peer.status("derain: runtime", lambda s: s.level == DiagnosticStatus.ERROR)
        assert peer.change_state(Transition.TRANSITION_UNCONFIGURED_SHUTDOWN)
        peer.status("derain: runtime", lambda s: s.level != DiagnosticStatus.ERROR)


def test_a_node_whose_runtime_does_not_come_back_ends_where_it_may(make_restorer, monkeypatch):
    broken = Health("it hangs", remade=0, hanging=3, busy=None, rebuilt=0)
    monkeypatch.setattr(Pipeline, "health", broken)
    for may, ends in ((False, False), (True, True)):
        ended = threading.Event()
        with derain_node(make_restorer, on_broken=ended.set, exit_when_broken=may) as peer:
            peer.status("derain: runtime", lambda s: "restart the node" in s.message)
            assert ended.wait(PATIENCE if ends else 0.5) is ends


def test_a_misspelt_parameter_is_told_at_the_start_and_in_diagnostics_and_the_node_runs(
    make_restorer, tmp_path
):
    file = tmp_path / "derain.yaml"
    file.write_text(
        "/**: {ros__parameters: {on_failre: passthrough, frame_id: base_link, use_sim_time: false}}\n"
        "/derain: {ros__parameters: {qos_overrides: {/camera/image_raw: {subscription: {depth: 2}}}, lag: 1}}"
    )
    with derain_node(make_restorer, cli_args=["--ros-args", "--params-file", str(file)]) as peer:
        peer.told("parameter 'on_failre' is none of this node's and has no effect; did you mean on_failure?")
        peer.told("parameter 'lag' is none of this node's")
        status = peer.status("derain: runtime", lambda s: values_of(s)["state"] == "active")
        assert status.level == DiagnosticStatus.WARN
        assert "'on_failre'" in status.message and "'lag'" in status.message
        assert not any("frame_id" in text for text in (status.message, *(log.msg for log in peer.logs)))
        assert not any("qos_overrides" in log.msg or "use_sim_time" in log.msg for log in peer.logs)


def test_a_second_node_of_the_same_name_is_a_warning(make_restorer):
    with derain_node(make_restorer) as peer:
        namesake = rclpy.create_node("derain", context=peer.node.context)
        try:
            status = peer.status("derain: runtime", lambda s: "have this node's name" in s.message)
            assert status.level == DiagnosticStatus.WARN
        finally:
            namesake.destroy_node()


def test_a_closed_node_is_gone_for_others_while_something_still_holds_it(make_restorer):
    rclpy.init()
    peer = Peer()
    node = DerainNode(make_restorer)
    try:
        assert until_true(lambda: "derain" in peer.node.get_node_names())
        assert node.close()
        assert until_true(lambda: "derain" not in peer.node.get_node_names())
    finally:
        peer.close()
        rclpy.shutdown()
        del node
        gc.collect()  # as `derain_node`


def until_true(condition, seconds=10.0):
    """Whether it comes true in time; the graph of nodes tells nobody when it changes."""
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return condition()


def test_rain_fog_and_visibility_are_published_for_each_camera_and_dry_images_bypass_the_network(
    make_restorer, restorers, monkeypatch
):
    monkeypatch.setattr(rain_monitor, "LOOK_AGAIN_S", 0.0)
    dry_at_once = {"bypass_when_dry": True, "bypass__dry_after_s": 0.0}
    with derain_node(make_restorer, cameras=["camera", "rear"], **dry_at_once) as peer:
        images = peer.output(Output.IMAGE)
        topics = ("rain", "fog", "visibility")
        weather = {topic: peer.subscribe(Float32, f"camera/weather/{topic}") for topic in topics}
        peer.wait_for(lambda: all(received.publishers for received in weather.values()))
        restorers[0].streak_light, restorers[0].extinction = streak_light_of(0.5), 0.01
        camera = peer.camera()
        until(
            peer,
            lambda: all(weather.values()),
            lambda: round_trip(peer, camera, image_of(GREY, second=1), images),
        )
        assert [weather[topic][-1].data for topic in topics] == pytest.approx([0.5, 0.3935, 391.2], abs=0.01)
        assert array_of(images[-1], 3).max() == 110
        values = values_of(peer.status("derain: camera", lambda s: "visibility (m)" in values_of(s)))
        assert (values["rain (0 to 1)"], values["visibility (m)"], values["dry"]) == ("0.50", "391", "false")
        restorers[0].streak_light, restorers[0].extinction = streak_light_of(0.0), 0.0
        until(
            peer,
            lambda: array_of(images[-1], 3).max() == 100,
            lambda: round_trip(peer, camera, image_of(GREY, second=2), images),
        )
        peer.status("derain: camera", lambda s: values_of(s)["dry"] == "true")


def test_a_subscriber_of_the_weather_alone_has_the_network_look(make_restorer, restorers):
    with derain_node(make_restorer) as peer:
        rain = peer.subscribe(Float32, "camera/weather/rain")
        peer.wait_for(lambda: rain.publishers)
        peer.status("derain: camera", lambda s: "image" in values_of(s)["outputs with subscribers"])
        restorers[0].streak_light, restorers[0].extinction = streak_light_of(0.25), 0.0
        camera = peer.camera()
        until(peer, lambda: rain, lambda: camera.publish(image_of(GREY)))
        assert rain[-1].data == pytest.approx(0.25)


def test_what_is_dry_and_what_is_wet_can_be_set_while_running_but_not_the_wrong_way_round(make_restorer):
    with derain_node(make_restorer, bypass__dry_below=0.1) as peer:
        refused = peer.set_parameter("bypass.wet_above", 0.05)
        assert not refused.successful
        assert "bypass.dry_below is 0.1 and bypass.wet_above is 0.05" in refused.reason
        assert peer.set_parameter("bypass.dry_below", 0.02).successful
        assert peer.set_parameter("bypass.wet_above", 0.05).successful
