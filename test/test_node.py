"""The node over real DDS, in one process with its peer, with a quick restorer in place of the network."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
import rclpy
from diagnostic_msgs.msg import DiagnosticStatus
from pipeline_fakes import FakeRestorer
from rcl_interfaces.msg import ParameterType
from rclpy.parameter import Parameter
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from ros_harness import (
    ACTIVATE,
    CLEANUP,
    CONFIGURE,
    DEACTIVATE,
    PATIENCE,
    RELIABLE,
    Peer,
    array_of,
    camera_info_of,
    compressed_of,
    derain_node,
    header_of,
    image_of,
    values_of,
)
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from waiting import eventually

from rain_removal_ros.encodings import INTERLEAVED, SUPPORTED, read_compressed
from rain_removal_ros.errors import BackendError, ParameterError, RainRemovalError, WeightsError
from rain_removal_ros.ros import camera_topics
from rain_removal_ros.ros import node as node_module
from rain_removal_ros.ros.configured import Configured
from rain_removal_ros.ros.messages import jpeg_message
from rain_removal_ros.ros.node import DerainNode
from rain_removal_ros.ros.parameters import PARAMETERS, Changes
from rain_removal_ros.runtime import Output

HEIGHT, WIDTH = 72, 96
GREY = np.full((HEIGHT, WIDTH, 3), 100, np.uint8)


@pytest.fixture
def restorer():
    return FakeRestorer()


@pytest.fixture
def make_restorer(restorer):
    return lambda settings, on_progress: restorer


def round_trip(peer: Peer, publisher, message, outputs: list):
    """Send one message and wait for one more output."""
    before = len(outputs)
    publisher.publish(message)
    peer.wait_for(lambda: len(outputs) > before, "for an output")
    return outputs[-1]


def raw_message(encoding: str, second: int = 1) -> Image:
    """Zeros in any supported encoding."""
    if encoding in INTERLEAVED:
        layout = INTERLEAVED[encoding]
        return image_of(np.zeros((HEIGHT, WIDTH, layout.channels), layout.dtype), encoding, second)
    if encoding in ("nv12", "nv21"):
        message = image_of(np.zeros((HEIGHT * 3 // 2, WIDTH, 1), np.uint8), encoding, second)
        message.height = HEIGHT
        return message
    channels = 1 if encoding.startswith("bayer") else 2
    dtype = np.uint16 if encoding.endswith("16") else np.uint8
    return image_of(np.zeros((HEIGHT, WIDTH, channels), dtype), encoding, second)


def test_every_encoding_goes_through_with_the_inputs_header_size_and_encoding(make_restorer):
    with derain_node(make_restorer) as peer:
        outputs = peer.output(Output.IMAGE)
        camera = peer.camera()
        for second, encoding in enumerate(SUPPORTED, start=1):
            derained = round_trip(peer, camera, raw_message(encoding, second), outputs)
            assert derained.header == header_of(second)
            assert (derained.width, derained.height) == (WIDTH, HEIGHT)
            if encoding in INTERLEAVED:
                assert derained.encoding == encoding
                layout = INTERLEAVED[encoding]
                first = array_of(derained, layout.channels, layout.dtype)[0, 0, 0]
                assert first == 10 * (1 if layout.depth == 1 else 256)
            else:
                assert derained.encoding == ("rgb16" if encoding.endswith("16") else "rgb8")


def test_a_compressed_stream_gives_raw_derained_images(make_restorer):
    jpeg = cv2.imencode(".jpg", GREY)[1].tobytes()
    with derain_node(make_restorer, image_transport="compressed") as peer:
        outputs = peer.output(Output.IMAGE)
        camera = peer.camera(transport="compressed")
        derained = round_trip(peer, camera, compressed_of(jpeg, 7), outputs)
        assert derained.header == header_of(7) and derained.encoding == "rgb8"
        np.testing.assert_array_equal(array_of(derained, 3), GREY + 10)


def test_raw_and_compressed_cameras_are_served_side_by_side(make_restorer):
    jpeg = cv2.imencode(".jpg", GREY)[1].tobytes()
    parameters = {"cameras": ["front", "rear"], "image_transport": "raw, compressed"}
    with derain_node(make_restorer, **parameters) as peer:
        front, rear = peer.output(Output.IMAGE, "front"), peer.output(Output.IMAGE, "rear")
        round_trip(peer, peer.camera("front"), image_of(GREY, second=7), front)
        round_trip(peer, peer.camera("rear", transport="compressed"), compressed_of(jpeg, 8), rear)
        assert (front[-1].header, rear[-1].header) == (header_of(7), header_of(8))


def test_images_of_several_cameras_that_wait_go_through_the_network_in_one_call(make_restorer, restorer):
    cameras = ["front", "rear", "left"]
    restorer.batch_ratios = {2: 0.7}

    def burst(second: int) -> None:
        """Images of rear and left that wait behind one of front."""
        while restorer.working.acquire(blocking=False):
            pass
        restorer.gate.clear()
        for name in cameras:
            publishers[name].publish(image_of(GREY, second=second))
            if name == "front":
                assert restorer.working.acquire(timeout=PATIENCE)
            else:
                peer.status(f"derain: {name}", lambda s: values_of(s)["received"] == str(second))
        restorer.gate.set()
        peer.wait_for(lambda: all(outputs[name][-1].header == header_of(second) for name in cameras))

    with derain_node(make_restorer, cameras=cameras) as peer:
        publishers = {name: peer.camera(name) for name in cameras}
        outputs = {name: peer.output(Output.IMAGE, name) for name in cameras}
        for name in cameras:
            round_trip(peer, publishers[name], image_of(GREY, second=1), outputs[name])
        assert not restorer.tried
        burst(2)
        known = "2 x 96x72 image: 0.70 of the time"
        peer.status("derain: runtime", lambda s: values_of(s).get("several frames in one call") == known)
        assert not restorer.together and peer.told("built engine for 2 x 96x72 image")
        burst(3)
        assert restorer.together == [2]
        told = {name: peer.status(f"derain: {name}", lambda s: True) for name in cameras}
        together = "restored together with other cameras"
        assert [values_of(told[name])[together] for name in cameras] == ["0", "1", "1"]
        for name in cameras:
            np.testing.assert_array_equal(array_of(outputs[name][-1], 3), GREY + 10)
        assert peer.set_parameter("batching", False).successful
        burst(4)
        assert restorer.together == [2]
        peer.status("derain: runtime", lambda s: values_of(s).get("several frames in one call") == "off")


@pytest.mark.parametrize("encoding", ["rgb8", "bgr8", "mono8", "rgb16", "rgba8"])
def test_a_subscriber_of_the_compressed_image_gets_a_jpeg_that_is_read_as_the_raw_one(
    make_restorer, encoding
):
    with derain_node(make_restorer, jpeg_quality=100) as peer:
        outputs = peer.subscribe(CompressedImage, "camera/derained/image/compressed")
        peer.wait_for(lambda: outputs.publishers)
        peer.status("derain: camera", lambda s: values_of(s)["outputs with subscribers"] == "image")
        layout = INTERLEAVED[encoding]
        pixels = np.full(
            (HEIGHT, WIDTH, layout.channels), 100 if layout.depth == 1 else 100 << 8, layout.dtype
        )
        derained = round_trip(peer, peer.camera(), image_of(pixels, encoding, second=7), outputs)
        assert derained.header == header_of(7) and "; jpeg compressed" in derained.format
        picture = read_compressed(derained)
        assert picture.encoding == (encoding if encoding in ("bgr8", "mono8") else "rgb8")
        assert picture.rgb.shape == (HEIGHT, WIDTH, 3)
        assert abs(picture.rgb.astype(int) - 110).max() <= 2


@pytest.mark.parametrize("extension", [".jpg", ".png"])
def test_an_image_that_passes_unchanged_goes_out_as_the_jpeg_that_it_came_as(
    make_restorer, restorer, monkeypatch, extension
):
    restorer.fail_frames = RuntimeError("no device")
    _, encoded = cv2.imencode(extension, GREY)
    parameters = {"image_transport": "compressed", "on_failure": "passthrough"}
    made = []
    monkeypatch.setattr(
        camera_topics, "jpeg_message", lambda *given: made.append(given) or jpeg_message(*given)
    )
    with derain_node(make_restorer, **parameters) as peer:
        outputs = peer.subscribe(CompressedImage, "camera/derained/image/compressed")
        peer.wait_for(lambda: outputs.publishers)
        peer.status("derain: camera", lambda s: values_of(s)["outputs with subscribers"] == "image")
        message = compressed_of(encoded.tobytes(), second=7)
        passed = round_trip(peer, peer.camera(transport="compressed"), message, outputs)
        if extension == ".jpg":
            assert passed == message and not made
        else:
            assert passed.header == message.header and len(made) == 1


def test_the_image_does_not_wait_for_a_recorders_jpeg(make_restorer, monkeypatch):
    there = threading.Event()

    def make(*given):
        assert there.wait(PATIENCE), "the image comes first"
        return jpeg_message(*given)

    monkeypatch.setattr(camera_topics, "jpeg_message", make)
    with derain_node(make_restorer) as peer:
        jpegs = peer.subscribe(CompressedImage, "camera/derained/image/compressed")
        images = peer.output(Output.IMAGE)
        peer.wait_for(lambda: jpegs.publishers)
        camera = peer.camera()
        peer.wait_for(lambda: images or camera.publish(image_of(GREY, second=7)))
        assert not jpegs
        there.set()
        peer.wait_for(lambda: jpegs)


def test_no_jpeg_is_made_for_nobody(make_restorer, monkeypatch):
    made = []
    monkeypatch.setattr("rain_removal_ros.ros.camera_topics.jpeg_message", lambda *_: made.append(_))
    with derain_node(make_restorer) as peer:
        images = peer.output(Output.IMAGE)
        round_trip(peer, peer.camera(), image_of(GREY, second=7), images)
        assert made == []


def test_transports_that_do_not_fit_the_cameras_are_refused(make_restorer):
    with derain_node(make_restorer, cameras=["front", "rear"], autostart=False) as peer:
        refused = peer.set_parameter("image_transport", "raw,raw,raw")
        assert not refused.successful and "3 transports for 2 cameras" in refused.reason


def test_with_a_queue_every_image_of_a_burst_comes_back_in_order(make_restorer):
    with derain_node(make_restorer, queue_length=50) as peer:
        images = peer.subscribe(Image, "camera/derained/image", QoSProfile(depth=50))
        peer.wait_for(lambda: images.publishers)
        peer.status("derain: camera", lambda s: values_of(s)["outputs with subscribers"] == "image")
        camera = peer.camera(qos=QoSProfile(depth=50))
        for second in range(1, 41):
            camera.publish(image_of(GREY, second=second))
        peer.wait_for(lambda: len(images) == 40, "for every image")
        assert [message.header.stamp.sec for message in images] == list(range(1, 41))


def test_every_output_of_every_camera_has_the_image_header(make_restorer, restorer):
    parameters = {"cameras": ["front", "rear/left"], "segmentation": True, "segmentation_weights": __file__}
    with derain_node(make_restorer, **parameters) as peer:
        for second, name in enumerate(("front", "rear/left"), start=3):
            topics = {
                topic: peer.subscribe(message_type, f"{name}/{topic}")
                for topic, message_type in {
                    "derained/image": Image,
                    "derained/camera_info": CameraInfo,
                    "depth/inverse_depth": Image,
                    "depth/image": Image,
                    "depth/camera_info": CameraInfo,
                    "segmentation/mask": Image,
                    "segmentation/color_mask": Image,
                    "segmentation/camera_info": CameraInfo,
                }.items()
            }
            infos = peer.node.create_publisher(CameraInfo, f"{name}/camera_info", RELIABLE)
            images = peer.camera(name)
            peer.wait_for(lambda topics=topics: all(received.publishers for received in topics.values()))
            while not all(topics.values()):  # the node may not have found every subscriber yet
                infos.publish(camera_info_of(second))
                images.publish(image_of(GREY, second=second))
                peer.status(f"derain: {name}", lambda s: True)
            assert all(received[-1].header == header_of(second) for received in topics.values())
            for of in ("derained", "depth", "segmentation"):
                assert topics[f"{of}/camera_info"][-1] == camera_info_of(second)
            metres = topics["depth/image"][-1]
            assert metres.encoding == "32FC1" and (array_of(metres, 1, np.float32) == 4).all()
            depth, mask = topics["depth/inverse_depth"][-1], topics["segmentation/mask"][-1]
            assert depth.encoding == "32FC1" and (array_of(depth, 1, np.float32) == 0.25).all()
            assert mask.encoding == "mono8" and (array_of(mask, 1) == 8).all()
            colours = topics["segmentation/color_mask"][-1]
            assert colours.encoding == "rgb8" and (array_of(colours, 3) == (107, 142, 35)).all()
        assert restorer.calls[-1][1] == frozenset(Output)


def test_a_camera_info_with_another_stamp_is_published_with_the_images(make_restorer):
    with derain_node(make_restorer) as peer:
        outputs = peer.subscribe(CameraInfo, "camera/derained/camera_info")
        infos = peer.node.create_publisher(CameraInfo, "camera/camera_info", RELIABLE)
        images = peer.output(Output.IMAGE)
        camera = peer.camera()
        while not outputs:
            infos.publish(camera_info_of(1))
            round_trip(peer, camera, image_of(GREY, second=2), images)
            peer.status("derain: camera", lambda s: True)
        expected = camera_info_of(1)
        expected.header = header_of(2)
        assert outputs[-1] == expected


def test_nothing_is_computed_before_somebody_subscribes_and_then_only_what_they_want(make_restorer, restorer):
    with derain_node(make_restorer) as peer:
        camera = peer.camera()
        camera.publish(image_of(GREY))
        status = peer.status("derain: camera", lambda s: values_of(s)["not computed, no subscribers"] == "1")
        assert status.level == DiagnosticStatus.OK and "nobody subscribes" in status.message
        assert not restorer.calls and not restorer.builds
        depths = peer.output(Output.INVERSE_DEPTH)
        round_trip(peer, camera, image_of(GREY), depths)
        assert restorer.calls == [((HEIGHT, WIDTH), frozenset({Output.INVERSE_DEPTH}))]


def test_the_outputs_connect_with_reliable_and_with_best_effort_subscribers(make_restorer):
    with derain_node(make_restorer) as peer:
        peer.camera()
        [info] = peer.node.get_publishers_info_by_topic("/camera/derained/image")
        assert info.qos_profile.reliability == ReliabilityPolicy.RELIABLE
        [info] = peer.node.get_subscriptions_info_by_topic("/camera/image_raw")
        assert info.qos_profile.reliability == ReliabilityPolicy.BEST_EFFORT


def test_qos_can_be_overridden_with_parameters(make_restorer):
    overrides = {
        "qos_overrides./camera/image_raw.subscription.reliability": "reliable",
        "qos_overrides./camera/derained/image.publisher.reliability": "best_effort",
        "qos_overrides./camera/derained/image.publisher.depth": 4,
    }
    with derain_node(make_restorer, **overrides) as peer:
        peer.camera()
        [info] = peer.node.get_subscriptions_info_by_topic("/camera/image_raw")
        assert info.qos_profile.reliability == ReliabilityPolicy.RELIABLE
        [info] = peer.node.get_publishers_info_by_topic("/camera/derained/image")
        assert info.qos_profile.reliability == ReliabilityPolicy.BEST_EFFORT
        assert info.qos_profile.history in (HistoryPolicy.KEEP_LAST, HistoryPolicy.UNKNOWN)
    # rclpy writes an override into the profile that it is given: other cameras must not be given the same one
    assert camera_topics.INPUT_QOS.reliability == ReliabilityPolicy.BEST_EFFORT
    assert camera_topics.OUTPUT_QOS.reliability == ReliabilityPolicy.RELIABLE
    assert camera_topics.OUTPUT_QOS.depth == 1


def test_a_qos_override_that_cannot_be_fails_activate_with_the_reason(make_restorer):
    overrides = {"qos_overrides./camera/image_raw.subscription.reliability": "sometimes"}
    with derain_node(make_restorer, **overrides) as peer:
        status = peer.status("derain: runtime", lambda s: s.level == DiagnosticStatus.ERROR)
        assert status.message.startswith("activate failed: ") and "sometimes" in status.message
        eventually(lambda: peer.state() == "inactive")  # it is reported just before the transition ends


def test_a_configure_that_fails_half_way_leaves_neither_network_nor_topics(make_restorer, restorer):
    overrides = {"qos_overrides./rear/derained/image.publisher.reliability": "sometimes"}
    with derain_node(make_restorer, cameras=["front", "rear"], **overrides) as peer:
        status = peer.status("derain: runtime", lambda s: s.level == DiagnosticStatus.ERROR)
        assert status.message.startswith("configure failed: ") and "sometimes" in status.message
        eventually(lambda: peer.state() == "unconfigured")
        assert restorer.closed
        topic = "/front/derained/image"
        peer.status("derain: runtime", lambda s: peer.node.count_publishers(topic) == 0)


# -- lifecycle ------------------------------------------------------------------------------------


def test_without_autostart_the_node_waits_for_its_lifecycle_manager(make_restorer):
    with derain_node(make_restorer, autostart=False) as peer:
        assert peer.state() == "unconfigured"
        assert peer.change_state(CONFIGURE) and peer.state() == "inactive"
        assert peer.node.count_subscribers("/camera/image_raw") == 0
        assert peer.change_state(ACTIVATE) and peer.state() == "active"
        outputs = peer.output(Output.IMAGE)
        camera = peer.camera()
        round_trip(peer, camera, image_of(GREY), outputs)


def test_a_deactivated_node_is_silent_and_goes_on_when_activated_again(make_restorer, restorer):
    with derain_node(make_restorer) as peer:
        outputs = peer.output(Output.IMAGE)
        camera = peer.camera()
        round_trip(peer, camera, image_of(GREY, second=1), outputs)
        assert peer.change_state(DEACTIVATE)
        peer.status("derain: camera", lambda s: s.message == "not active")
        assert peer.change_state(ACTIVATE)
        peer.connected()
        assert round_trip(peer, camera, image_of(GREY, second=2), outputs).header == header_of(2)
        assert peer.change_state(DEACTIVATE) and peer.change_state(CLEANUP)
        assert restorer.closed and peer.state() == "unconfigured"
        assert peer.change_state(CONFIGURE) and peer.change_state(ACTIVATE)
        peer.connected()
        assert round_trip(peer, camera, image_of(GREY, second=3), outputs).header == header_of(3)


def test_an_image_whose_callback_was_under_way_at_deactivation_is_not_published_later(
    make_restorer, restorer, monkeypatch
):
    restorer.build_gate.clear()
    close = Configured.close

    def close_and_deliver(configured):
        close(configured)
        configured._on_image("camera", image_of(GREY, second=1))

    monkeypatch.setattr(Configured, "close", close_and_deliver)
    with derain_node(make_restorer) as peer:
        outputs = peer.output(Output.IMAGE)
        camera = peer.camera()
        assert peer.change_state(DEACTIVATE) and peer.change_state(ACTIVATE)
        peer.connected()
        restorer.build_gate.set()
        round_trip(peer, camera, image_of(GREY, second=2), outputs)
        assert [output.header for output in outputs] == [header_of(2)]
        status = peer.status("derain: camera", lambda s: True)
        assert values_of(status)["received"] == "1"


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (WeightsError, "weights file /x does not exist"),
        (BackendError, "no CUDA device"),
        (RuntimeError, "?!"),
    ],
)
def test_a_failed_configure_says_why_and_can_be_repeated(restorer, kind, reason):
    failures = [reason]

    def make_restorer(settings, on_progress):
        if failures:
            raise kind(failures.pop())
        return restorer

    with derain_node(make_restorer) as peer:
        status = peer.status("derain: runtime", lambda s: s.level == DiagnosticStatus.ERROR)
        assert status.message.startswith("configure failed: ") and reason in status.message
        assert peer.told(reason)
        assert peer.state() == "unconfigured"
        assert peer.change_state(CONFIGURE) and peer.change_state(ACTIVATE)
        status = peer.status("derain: runtime", lambda s: s.level == DiagnosticStatus.OK)
        assert values_of(status)["state"] == "active"


@pytest.mark.parametrize("failing", ["configure", "activate"])
def test_an_autostart_that_fails_is_tried_again(make_restorer, monkeypatch, failing):
    ready = threading.Event()
    step = getattr(DerainNode, f"on_{failing}")

    def fail_at_first(node, state):
        if ready.is_set():
            return step(node, state)
        return node._report_failure(failing, RainRemovalError("no device yet"))

    monkeypatch.setattr(DerainNode, f"on_{failing}", fail_at_first)
    monkeypatch.setattr(node_module, "AUTOSTART_AGAIN_AFTER_S", 0.2)
    with derain_node(make_restorer) as peer:
        peer.wait_for(lambda: len([log for log in peer.logs if "is tried again in 0.2 s" in log.msg]) > 1)
        status = peer.status("derain: runtime", lambda s: s.level == DiagnosticStatus.ERROR)
        assert status.message == f"{failing} failed: no device yet"
        ready.set()
        status = peer.status("derain: runtime", lambda s: values_of(s)["state"] == "active")
        assert status.level == DiagnosticStatus.OK
        round_trip(peer, peer.camera(), image_of(GREY), peer.output(Output.IMAGE))


def test_an_autostart_that_fails_ends_a_node_that_a_supervisor_starts_again(make_restorer):
    ended = threading.Event()
    parameters = {"weights": "/nowhere.safetensors", "exit_when_broken": True}
    with derain_node(make_restorer, on_broken=ended.set, **parameters) as peer:
        assert ended.wait(PATIENCE)
        assert peer.told("autostart failed, so the node ends: configure failed: weights file /nowhere")


def test_an_autostart_that_fails_is_left_to_whoever_calls_a_transition(make_restorer, monkeypatch):
    monkeypatch.setattr(node_module, "AUTOSTART_AGAIN_AFTER_S", 3600.0)
    with derain_node(make_restorer, weights="/nowhere.safetensors") as peer:
        peer.told("autostart failed and is tried again")
        assert not peer.change_state(CONFIGURE)
        assert peer.set_parameter("weights", "").successful
        assert peer.change_state(CONFIGURE) and peer.state() == "inactive"


def test_a_transition_that_is_called_while_autostart_fails_ends_its_trying(restorer, monkeypatch):
    monkeypatch.setattr(node_module, "AUTOSTART_AGAIN_AFTER_S", 0.2)
    loading, called, made = threading.Event(), threading.Event(), []

    def make_restorer(settings, on_progress):
        made.append(settings)
        if len(made) == 1:
            loading.set()
            assert called.wait(PATIENCE)
            raise BackendError("no device yet")
        return restorer

    submit = ThreadPoolExecutor.submit

    def submit_and_tell(pool, *work):
        future = submit(pool, *work)
        if loading.is_set():
            called.set()
        return future

    with derain_node(make_restorer) as peer:
        assert loading.wait(PATIENCE)
        monkeypatch.setattr(ThreadPoolExecutor, "submit", submit_and_tell)
        assert peer.change_state(CONFIGURE) and len(made) == 2
        assert peer.told("autostart failed; a transition was called")
        for _ in range(3):  # seconds, of which each would be one in which to try again
            stamp = peer.status("derain: runtime", lambda s: True)
            assert values_of(stamp)["state"] == "inactive"
        assert peer.state() == "inactive"


@pytest.mark.parametrize("asked", ["autostart", "build_only"])
def test_a_start_that_raises_is_logged_with_its_traceback_and_has_built_nothing(
    make_restorer, monkeypatch, asked
):
    def fail(node):
        raise KeyError("a defect")

    outcomes = []
    monkeypatch.setattr(DerainNode, "trigger_configure", fail)
    with derain_node(
        make_restorer, outcomes.append, image_sizes="96x72", build_only=asked == "build_only"
    ) as peer:
        [log] = peer.told(f"{asked} failed unexpectedly")
        assert "KeyError: 'a defect'" in log.msg and "Traceback" in log.msg
    assert outcomes == ([False] if asked == "build_only" else [])


def test_segmentation_without_its_weights_fails_configure(make_restorer):
    with derain_node(make_restorer, segmentation=True, segmentation_weights="/nowhere") as peer:
        status = peer.status("derain: runtime", lambda s: s.level == DiagnosticStatus.ERROR)
        assert "weights file /nowhere does not exist" in status.message


def test_while_the_network_loads_the_node_answers(restorer):
    gate, loading = threading.Event(), threading.Event()

    def make_restorer(settings, on_progress):
        on_progress("reading the weights")
        loading.set()
        assert gate.wait(PATIENCE)
        return restorer

    with derain_node(make_restorer) as peer:
        assert loading.wait(PATIENCE)
        assert peer.state() == "configuring"
        assert peer.set_parameter("diagnostics.max_latency_ms", 42.0).successful
        assert not peer.set_parameter("backend", "openvino").successful
        status = peer.status("derain: runtime", lambda s: True)
        assert status.message == "configuring: no network loaded"
        gate.set()
        peer.status("derain: runtime", lambda s: values_of(s)["state"] == "active")
        assert peer.told("reading the weights")


def test_a_configure_asked_for_by_service_leaves_the_node_answering_too(restorer):
    gate, loading = threading.Event(), threading.Event()

    def make_restorer(settings, on_progress):
        loading.set()
        assert gate.wait(PATIENCE)
        return restorer

    with derain_node(make_restorer, autostart=False) as peer:
        succeeded: list[bool] = []
        caller = threading.Thread(target=lambda: succeeded.append(peer.change_state(CONFIGURE)))
        caller.start()
        assert loading.wait(PATIENCE)
        assert peer.state() == "configuring"
        assert peer.set_parameter("while_building", "torch").successful
        gate.set()
        caller.join()
        assert succeeded == [True] and peer.state() == "inactive"


def test_a_transition_that_is_not_possible_fails_and_leaves_the_node_as_it_was(make_restorer):
    with derain_node(make_restorer, autostart=False) as peer:
        assert not peer.change_state(ACTIVATE)
        assert peer.state() == "unconfigured"
        assert peer.told("unconfigured")  # Kilted's rclpy says it itself
        assert peer.change_state(CONFIGURE)


# -- building -------------------------------------------------------------------------------------


def test_while_an_engine_is_built_diagnostics_say_so_and_frames_wait(make_restorer, restorer):
    restorer.build_gate.clear()
    with derain_node(make_restorer, image_sizes=f"{WIDTH}x{HEIGHT}") as peer:
        try:
            status = peer.status("derain: runtime", lambda s: "building engine for 96x72" in s.message)
            assert status.level == DiagnosticStatus.WARN and "tuning kernels" in status.message
            outputs = peer.output(Output.IMAGE)
            camera = peer.camera()
            camera.publish(image_of(GREY))
            peer.status("derain: camera", lambda s: values_of(s)["received"] == "1")
            assert not outputs and peer.state() == "active"
        finally:
            restorer.build_gate.set()
        peer.wait_for(lambda: outputs, "for the frame that waited")
        peer.wait_for(lambda: len(restorer.builds) == 2, "for the second build")
        both = frozenset({Output.IMAGE, Output.INVERSE_DEPTH})
        assert [outputs for _, outputs in restorer.builds] == [both, frozenset({Output.IMAGE})]


def test_while_an_engine_is_built_images_pass_unchanged_if_asked_to(make_restorer, restorer):
    restorer.build_gate.clear()
    with derain_node(make_restorer, while_building="passthrough") as peer:
        images = peer.output(Output.IMAGE)
        camera = peer.camera()
        for second in range(1, 4):
            image = round_trip(peer, camera, image_of(GREY, second=second), images)
            assert image.header == header_of(second) and (array_of(image, 3) == GREY).all()
        status = peer.status("derain: camera", lambda s: values_of(s)["published passed through"] == "3")
        assert status.level == DiagnosticStatus.WARN and "while the network is compiled" in status.message
        assert not restorer.calls
        restorer.build_gate.set()
        peer.told("built engine")
        image = round_trip(peer, camera, image_of(GREY, second=4), images)
        assert not (array_of(image, 3) == GREY).all() and len(restorer.calls) == 1


def test_while_an_engine_is_built_pytorch_serves_if_asked_to(restorer):
    stand_in = FakeRestorer("torch-cpu")
    asked_for: list[str] = []

    def make_restorer(settings, on_progress):
        asked_for.append(settings.backend)
        return stand_in if settings.backend == "torch-cpu" else restorer

    restorer.build_gate.clear()
    with derain_node(make_restorer, while_building="torch") as peer:
        try:
            outputs = peer.output(Output.IMAGE)
            camera = peer.camera()
            round_trip(peer, camera, image_of(GREY), outputs)
            assert asked_for == ["auto", "torch-cpu"] and not restorer.calls
        finally:
            restorer.build_gate.set()


# -- parameters -----------------------------------------------------------------------------------


def test_every_parameter_is_declared_as_the_table_says(make_restorer):
    types = {
        "bool": ParameterType.PARAMETER_BOOL,
        "int": ParameterType.PARAMETER_INTEGER,
        "double": ParameterType.PARAMETER_DOUBLE,
        "string": ParameterType.PARAMETER_STRING,
        "string[]": ParameterType.PARAMETER_STRING_ARRAY,
    }
    with derain_node(make_restorer, autostart=False) as peer:
        for parameter in PARAMETERS:
            descriptor = peer.describe_parameter(parameter.name)
            assert descriptor.type == types[parameter.type_name]
            assert descriptor.description == parameter.description
            assert descriptor.read_only == (parameter.changes is Changes.NEVER)
            ranges = [*descriptor.integer_range, *descriptor.floating_point_range]
            expected = [] if parameter.minimum is None else [(parameter.minimum, parameter.maximum)]
            assert [(r.from_value, r.to_value) for r in ranges] == expected


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("backend", "vulkan", "must be one of auto, tensorrt"),
        ("precision", "fp8", "must be one of auto, fp32"),
        ("image_transport", "theora", "must be one of raw, compressed"),
        ("while_building", "sleep", "must be one of wait, torch"),
        ("image_sizes", "720p", "WIDTHxHEIGHT"),
        ("diagnostics.max_latency_ms", -1.0, "range"),
        ("threads", -1, "range"),
        ("threads", "two", "type"),
        ("autostart", False, "read-only"),
        ("cameras", ["rear"], "read-only"),
    ],
)
def test_a_value_that_cannot_be_is_refused_with_the_reason(make_restorer, name, value, reason):
    with derain_node(make_restorer, autostart=False) as peer:
        result = peer.set_parameter(name, value)
        assert not result.successful and reason in result.reason


def test_a_value_that_is_set_already_is_accepted_at_any_time(make_restorer):
    with derain_node(make_restorer) as peer:
        peer.camera()
        assert peer.set_parameter("preset", "fast").successful
        assert not peer.set_parameter("preset", "paper").successful


def test_what_configures_the_network_can_change_only_while_unconfigured(make_restorer, tmp_path):
    (tmp_path / "other.safetensors").write_bytes(b"a fake reads nothing of it")
    with derain_node(make_restorer, autostart=False) as peer:
        assert peer.set_parameter("weights", str(tmp_path / "other.safetensors")).successful
        assert peer.change_state(CONFIGURE)
        result = peer.set_parameter("weights", "/another.safetensors")
        assert not result.successful and "only while unconfigured" in result.reason
        assert peer.set_parameter("diagnostics.stale_after_s", 5.0).successful
        assert peer.change_state(CLEANUP)
        assert peer.set_parameter("weights", "/another.safetensors").successful


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("image_transport", "raw,raw,compressed", "names 3 transports for 1 cameras; give one for all"),
        ("bypass.dry_below", 0.5, "bypass.dry_below is 0.5 and bypass.wet_above is 0.15"),
        ("backend", "vulkan", "must be one of"),
        ("cameras", ["front", "front"], "twice"),
        ("cameras", ["2nd"], "cannot name a topic"),
        ("image_sizes", "1280*720", "WIDTHxHEIGHT"),
    ],
)
def test_a_node_with_a_parameter_that_cannot_be_does_not_start(make_restorer, name, value, reason):
    rclpy.init()
    try:
        with pytest.raises(ParameterError, match=reason):
            DerainNode(make_restorer, parameter_overrides=[Parameter(name, value=value)])
    finally:
        rclpy.shutdown()


def test_the_settings_reach_the_runtime(restorer):
    seen = []

    def make_restorer(settings, on_progress):
        seen.append(settings)
        return restorer

    with derain_node(make_restorer, backend="openvino", threads=2, cache_limit_mb=7, cache_dir="/c") as peer:
        peer.camera()
    assert (seen[0].backend, seen[0].threads, seen[0].weights) == ("openvino", 2, None)
    assert seen[0].cache_limit_bytes == 7 << 20 and str(seen[0].cache_dir) == "/c"


# -- bad input ------------------------------------------------------------------------------------


def cut(message: Image) -> Image:
    message.data = message.data[:-1]
    return message


BAD_IMAGES = {
    "encoding 'purple8' is not known": lambda: image_of(GREY, "purple8"),
    "the message was cut on its way": lambda: cut(image_of(GREY)),
    "is empty": lambda: Image(encoding="rgb8"),
    "is too short for 96 rgba8 pixels": lambda: image_of(GREY, "rgba8"),
    "images from 64x64 to 4096x3072": lambda: image_of(GREY[:32, :32]),
}


@pytest.mark.parametrize("reason", BAD_IMAGES)
def test_a_bad_image_is_reported_and_counted_and_the_next_good_one_comes_out(make_restorer, reason):
    with derain_node(make_restorer) as peer:
        outputs = peer.output(Output.IMAGE)
        camera = peer.camera()
        round_trip(peer, camera, image_of(GREY, second=1), outputs)
        camera.publish(BAD_IMAGES[reason]())
        status = peer.status("derain: camera", lambda s: values_of(s)["bad input"] == "1")
        assert status.level == DiagnosticStatus.WARN and reason in status.message
        assert peer.told(reason)
        assert round_trip(peer, camera, image_of(GREY, second=2), outputs).header == header_of(2)


def test_a_damaged_jpeg_is_reported_and_counted_and_the_next_good_one_comes_out(make_restorer):
    jpeg = cv2.imencode(".jpg", GREY)[1].tobytes()
    with derain_node(make_restorer, image_transport="compressed") as peer:
        outputs = peer.output(Output.IMAGE)
        camera = peer.camera(transport="compressed")
        for damaged in (jpeg[: len(jpeg) // 2], b"\xff\xd8" + bytes(500), b""):
            camera.publish(compressed_of(damaged))
            count = str(1 + (damaged != jpeg[: len(jpeg) // 2]) + (damaged == b""))
            peer.status("derain: camera", lambda s, count=count: values_of(s)["bad input"] == count)
        assert round_trip(peer, camera, compressed_of(jpeg, 2), outputs).header == header_of(2)


def test_a_stream_of_bad_images_is_logged_once_a_second_and_counted_in_full(make_restorer):
    reliable = {
        "qos_overrides./camera/image_raw.subscription.reliability": "reliable",
        "qos_overrides./camera/image_raw.subscription.depth": 100,
    }
    with derain_node(make_restorer, **reliable) as peer:
        peer.output(Output.IMAGE)
        camera = peer.camera()
        for _ in range(30):
            camera.publish(image_of(GREY, "purple8"))

        def all_counted(status: DiagnosticStatus) -> bool:
            values = values_of(status)
            return int(values["bad input"]) + int(values["dropped"]) == int(values["received"]) == 30

        peer.status("derain: camera", all_counted)
        told = peer.told("purple8")
        seconds = 1 + told[-1].stamp.sec - told[0].stamp.sec
        assert 1 <= len(told) <= seconds + 1  # a stamp is taken a little after the throttle


def test_the_size_may_change_in_mid_stream(make_restorer):
    with derain_node(make_restorer) as peer:
        outputs = peer.output(Output.IMAGE)
        camera = peer.camera()
        for second, (height, width) in enumerate(((72, 96), (101, 133), (72, 96)), start=1):
            pixels = np.zeros((height, width, 3), np.uint8)
            derained = round_trip(peer, camera, image_of(pixels, second=second), outputs)
            assert (derained.height, derained.width) == (height, width)


# -- diagnostics ----------------------------------------------------------------------------------


def test_diagnostics_tell_rates_counts_and_the_latency_of_every_stage(make_restorer):
    with derain_node(make_restorer, diagnostics__max_latency_ms=60000.0) as peer:
        outputs = peer.output(Output.IMAGE)
        camera = peer.camera()
        for second in range(1, 6):
            round_trip(peer, camera, image_of(GREY, second=second), outputs)
        status = peer.status("derain: camera", lambda s: values_of(s)["published"] == "5")
        assert status.level == DiagnosticStatus.OK
        values = values_of(status)
        assert values["topic"] == "/camera/image_raw" and values["dropped"] == "0"
        for stage in ("receive to start", "conversion", "inference", "publish", "total", "image age"):
            quantiles = [float(values[f"{stage} {part} (ms)"]) for part in ("median", "p95", "p99", "max")]
            assert quantiles == sorted(quantiles) and quantiles[0] >= 0
        assert float(values["rate out (Hz)"]) > 0
        runtime = peer.status("derain: runtime", lambda s: True)
        values = values_of(runtime)
        assert runtime.level == DiagnosticStatus.OK
        assert (values["backend"], values["precision"], values["reason"]) == (
            "openvino",
            "fp32",
            "a test wants it",
        )
        assert float(values["seconds since last output"]) < PATIENCE


def test_a_camera_that_stops_is_stale_and_the_message_says_what_to_look_for(make_restorer):
    with derain_node(make_restorer, diagnostics__stale_after_s=0.2) as peer:
        status = peer.status("derain: camera", lambda s: s.level == DiagnosticStatus.STALE)
        assert "nobody publishes /camera/image_raw" in status.message
        peer.camera()
        peer.status("derain: camera", lambda s: s.level == DiagnosticStatus.STALE and "silent" in s.message)


def test_slow_frames_are_a_warning_and_nothing_but_slow_frames_says_so(make_restorer):
    with derain_node(make_restorer, diagnostics__max_latency_ms=0.1) as peer:
        outputs = peer.output(Output.IMAGE)
        camera = peer.camera()
        round_trip(peer, camera, image_of(GREY), outputs)
        peer.status("derain: camera", lambda s: s.level == DiagnosticStatus.WARN and "limit" in s.message)
        for second in range(12):
            round_trip(peer, camera, image_of(GREY, second=second), outputs)
        peer.status(
            "derain: camera", lambda s: s.level == DiagnosticStatus.WARN and "every frame" in s.message
        )
        assert peer.set_parameter("diagnostics.max_latency_ms", 60000.0).successful
        peer.status("derain: camera", lambda s: s.level == DiagnosticStatus.OK)


def test_a_failing_network_is_an_error(make_restorer, restorer):
    restorer.fail_frames = RuntimeError("CUDA out of memory")
    with derain_node(make_restorer) as peer:
        outputs = peer.output(Output.IMAGE)
        camera = peer.camera()
        camera.publish(image_of(GREY))
        status = peer.status("derain: camera", lambda s: s.level == DiagnosticStatus.ERROR)
        assert status.message == "processing failed: CUDA out of memory"
        restorer.fail_frames = None
        round_trip(peer, camera, image_of(GREY, second=2), outputs)
