"""The other side of the node: cameras, subscribers, service clients over real DDS. Waits for events."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest import mock

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.msg import Log
from rcl_interfaces.srv import DescribeParameters, SetParameters, SetParametersAtomically
from rclpy.event_handler import QoSSubscriptionMatchedInfo, SubscriptionEventCallbacks
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header

from rain_removal_ros.ros import node as node_module
from rain_removal_ros.ros.client import NodeClient
from rain_removal_ros.ros.configured import MakeRestorer
from rain_removal_ros.ros.lost_messages import LostMessages
from rain_removal_ros.ros.node import DerainNode
from rain_removal_ros.ros.spinner import Spinner
from rain_removal_ros.runtime import Output

PATIENCE = 30.0
"""Seconds after which something that should have happened has not."""

RELIABLE = QoSProfile(depth=50, reliability=ReliabilityPolicy.RELIABLE)
# Deep enough that a test is told every output, however quickly they come.
BEST_EFFORT = QoSProfile(depth=100, reliability=ReliabilityPolicy.BEST_EFFORT)
LATCHED = QoSProfile(depth=1000, durability=DurabilityPolicy.TRANSIENT_LOCAL)

CONFIGURE, ACTIVATE = Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE
DEACTIVATE, CLEANUP = Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_CLEANUP


def failed() -> None:
    raise AssertionError("an executor ended; its traceback is above")


class Received(list):
    """The messages of a subscription, and how many publishers it is connected with."""

    publishers = 0


class Peer:
    """A client of the node under test that keeps what it hears, and calls the node's services."""

    def __init__(self, under_test: str = "/derain"):
        self.client = NodeClient("peer", under_test)
        self.node = self.client.node
        self.logs = self.subscribe(Log, "/rosout", LATCHED)
        self.diagnostics = self.subscribe(DiagnosticArray, "/diagnostics", RELIABLE)
        # Made before the node starts: a reply to a client that DDS has only just announced may be lost.
        self._services = {
            name: self.node.create_client(service_type, f"{under_test}/{name}")
            for name, service_type in {
                "change_state": ChangeState,
                "get_state": GetState,
                "set_parameters": SetParameters,
                "set_parameters_atomically": SetParametersAtomically,
                "describe_parameters": DescribeParameters,
            }.items()
        }
        self.client.start()

    def close(self) -> None:
        self.client.close()

    def subscribe(self, message_type: type, topic: str, qos: QoSProfile = BEST_EFFORT) -> Received:
        """A list that grows with every message on the topic."""
        received = Received()

        def on_matched(event: QoSSubscriptionMatchedInfo) -> None:
            with self.client.changed:
                received.publishers = event.current_count
                self.client.changed.notify_all()

        def on_message(message: Any) -> None:
            with self.client.changed:
                received.append(message)
                self.client.changed.notify_all()

        events = SubscriptionEventCallbacks(matched=on_matched)
        self.node.create_subscription(message_type, topic, on_message, qos, event_callbacks=events)
        return received

    def output(self, output: Output, camera: str = "camera", qos: QoSProfile = BEST_EFFORT) -> Received:
        """The messages of one of the node's outputs; returns when node and peer have found each other."""
        topics = {
            Output.IMAGE: "derained/image",
            Output.INVERSE_DEPTH: "depth/inverse_depth",
            Output.LABELS: "segmentation/mask",
        }
        received = self.subscribe(Image, f"{camera}/{topics[output]}", qos)
        self.wait_for(lambda: received.publishers, f"for the publisher of {topics[output]}")
        wanted = "outputs with subscribers"
        self.status(f"derain: {camera}", lambda s: output.value in values_of(s).get(wanted, "").split("+"))
        return received

    def wait_for(self, condition: Callable[[], Any], what: str = "") -> Any:
        """Wait until a message makes the condition true (diagnostics keep coming), and give its value."""
        value = self.client.wait_for(condition, PATIENCE)
        assert value, f"waited in vain {what}; the node said: {[log.msg for log in self.logs]}"
        return value

    def camera(self, name: str = "camera", transport: str = "raw", qos: QoSProfile = RELIABLE) -> Publisher:
        """A publisher of the camera's images; returns when node and peer have found each other."""
        message_type, suffix = {"raw": (Image, ""), "compressed": (CompressedImage, "/compressed")}[transport]
        publisher = self.node.create_publisher(message_type, f"{name}/image_raw{suffix}", qos)
        self.wait_for(publisher.get_subscription_count, f"for the subscription of {name}")
        self.connected(name)
        return publisher

    def connected(self, name: str = "camera") -> None:
        """Wait until the node has found the camera's publisher."""
        self.status(f"derain: {name}", lambda s: int(values_of(s)["connected publishers"]) > 0)

    def call(self, name: str, request: Any) -> Any:
        """A service of the node under test."""
        assert self._services[name].wait_for_service(PATIENCE)
        self.wait_for(lambda: self.diagnostics, "for the node to connect")
        done = threading.Event()
        future = self._services[name].call_async(request)
        future.add_done_callback(lambda _: done.set())
        assert done.wait(PATIENCE), f"{name} did not answer"
        return future.result()

    def told(self, text: str) -> list[Log]:
        """The node's log messages with this text in them; waits for the first."""
        return self.wait_for(
            lambda: [log for log in self.logs if text in log.msg], f"for the log to say {text!r}"
        )

    def change_state(self, transition: int) -> bool:
        request = ChangeState.Request(transition=Transition(id=transition))
        return self.call("change_state", request).success

    def state(self) -> str:
        return self.call("get_state", GetState.Request()).current_state.label

    def set_parameter(self, name: str, value: Any):
        request = SetParameters.Request(parameters=[Parameter(name, value=value).to_parameter_msg()])
        return self.call("set_parameters", request).results[0]

    def describe_parameter(self, name: str):
        request = DescribeParameters.Request(names=[name])
        return self.call("describe_parameters", request).descriptors[0]

    def status(self, name: str, condition: Callable[[DiagnosticStatus], bool]) -> DiagnosticStatus:
        """The first diagnostic status of this name from now on for which the condition holds."""
        begin = len(self.diagnostics)

        def find() -> DiagnosticStatus | None:
            statuses = (status for message in self.diagnostics[begin:] for status in message.status)
            return next((s for s in statuses if s.name == name and condition(s)), None)

        seen = [(s.name, s.level, s.message) for m in self.diagnostics[-2:] for s in m.status]
        return self.wait_for(find, f"for the status {name}; last seen {seen}")


def values_of(status: DiagnosticStatus) -> dict[str, str]:
    return {value.key: value.value for value in status.values}


@contextmanager
def derain_node(
    make_restorer: MakeRestorer | None = None,
    on_built: Callable[[bool], None] = lambda _: None,
    on_broken: Callable[[], None] = lambda: None,
    cli_args: Sequence[str] = (),
    **parameters: Any,
) -> Iterator[Peer]:
    """The node under test, started as its parameters say, and a peer that talks to it.

    In parameter names `__` stands for a dot.
    """
    rclpy.init()
    overrides = [Parameter(name.replace("__", "."), value=value) for name, value in parameters.items()]
    peer = Peer()
    with mock.patch.object(node_module, "DIAGNOSTICS_EVERY_S", 0.1):
        node = DerainNode(make_restorer, parameter_overrides=overrides, cli_args=[*cli_args])
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    spinner = Spinner(executor, LostMessages(executor, node.get_logger(), on_broken=failed))
    spinner.start()
    try:
        node.start(on_built, on_broken)
        yield peer
    finally:
        spinner.stop()
        finished = node.close(PATIENCE)
        peer.close()
        rclpy.shutdown()
        del node, executor, spinner
        gc.collect()  # what rclpy holds of a node would take the next one's /rosout along
    assert finished


def image_of(pixels: np.ndarray, encoding: str = "rgb8", second: int = 1) -> Image:
    """An Image of uint8 or uint16 (H, W, C) pixels, stamped with this second."""
    message = Image(height=pixels.shape[0], width=pixels.shape[1], encoding=encoding, step=pixels[0].nbytes)
    message.header = header_of(second)
    message.data.frombytes(pixels.tobytes())
    return message


def header_of(second: int) -> Header:
    header = Header(frame_id="front_camera_optical_frame")
    header.stamp.sec, header.stamp.nanosec = second, 123_456_789
    return header


def camera_info_of(second: int, height: int = 72, width: int = 96) -> CameraInfo:
    info = CameraInfo(height=height, width=width, distortion_model="plumb_bob", d=[0.1, -0.2, 0.0, 0.0, 0.0])
    info.k = [90.0, 0.0, 48.0, 0.0, 90.0, 36.0, 0.0, 0.0, 1.0]
    info.header = header_of(second)
    return info


def compressed_of(data: bytes, second: int = 1) -> CompressedImage:
    message = CompressedImage(header=header_of(second), format="rgb8; jpeg compressed bgr8")
    message.data.frombytes(data)
    return message


def array_of(message: Image, channels: int, dtype: type = np.uint8) -> np.ndarray:
    """The pixels of an unpadded Image as (H, W, C)."""
    return np.frombuffer(message.data, dtype).reshape(message.height, message.width, channels)
