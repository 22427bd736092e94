"""What a client beside the node hears of it, over real DDS, and what becomes of a callback that fails."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from pipeline_fakes import FakeRestorer
from rclpy.publisher import Publisher
from ros_harness import PATIENCE, RELIABLE, derain_node, image_of
from sensor_msgs.msg import Image

from rain_removal_ros.ros import status as keys
from rain_removal_ros.ros.client import NodeClient


def connected(publisher: Publisher) -> Publisher:
    """The publisher, once it has found its subscription, which rclpy has no event for here."""
    for _ in range(int(PATIENCE / 0.02)):
        if publisher.get_subscription_count():
            return publisher
        threading.Event().wait(0.02)
    raise AssertionError(f"nobody subscribes to {publisher.topic_name}")


@pytest.fixture
def client():
    client = NodeClient("client")
    try:
        client.start()
        yield client
    finally:
        client.close()


def test_a_client_finds_in_the_diagnostics_of_the_node_what_it_looks_for():
    fake, came = FakeRestorer(), []
    fake.build_gate.clear()
    client = NodeClient("client")
    client.node.create_subscription(Image, "camera/derained/image", came.append, RELIABLE)
    client.start()
    try:
        with derain_node(lambda settings, progress: fake, image_sizes="96x72") as peer:
            client.wait_for(lambda: client.runtime() is not None, PATIENCE)
            building = client.wait_for(lambda: client.runtime().message.startswith(keys.BUILDING), PATIENCE)
            assert building, "the message while it builds begins otherwise"
            fake.build_gate.set()
            camera = peer.camera()

            def answered() -> bool:
                camera.publish(image_of(np.zeros((72, 96, 3), np.uint8)))
                status = client.statuses.get("derain: camera")
                return bool(came) and status is not None and status.values[keys.PUBLISHED] != "0"

            assert client.wait_for(answered, PATIENCE)
            runtime, status = client.runtime(), client.statuses["derain: camera"]
    finally:
        client.close()
    assert runtime.values[keys.STATE] == keys.ACTIVE and runtime.values[keys.IMAGE_SIZES] == "96x72"
    assert {keys.PRESET, keys.BACKEND, keys.PRECISION, keys.BATCHING} <= set(runtime.values)
    times = {keys.latency(stage, part) for stage in keys.STAGES for part in ("median", "p95", "p99", "max")}
    assert times | {keys.PUBLISHED, keys.TOGETHER} <= set(status.values)


def test_levels_have_names_and_the_runtime_of_a_node_is_found_in_its_namespace(client):
    levels = {"ok": DiagnosticStatus.OK, "warn": DiagnosticStatus.WARN, "error": DiagnosticStatus.ERROR}
    publisher = connected(client.node.create_publisher(DiagnosticArray, "/diagnostics", 10))
    said = [DiagnosticStatus(name=name, level=level) for name, level in levels.items()]
    said.append(DiagnosticStatus(name="silent", level=DiagnosticStatus.STALE))
    said.append(DiagnosticStatus(name="car/dry: runtime", message="m", values=[KeyValue(key="a", value="b")]))
    publisher.publish(DiagnosticArray(status=said))
    assert client.wait_for(lambda: client.runtime("dry") is not None, PATIENCE)
    assert {name: client.statuses[name].level for name in levels} == {name: name for name in levels}
    assert client.statuses["silent"].level == "stale" and client.statuses["error"].is_error
    assert client.runtime("/car/dry") == client.runtime("dry") and client.runtime("derain") is None
    assert (client.runtime("dry").message, client.runtime("dry").values) == ("m", {"a": "b"})


def test_what_a_callback_raises_is_raised_to_who_waits(client):
    def fail(message: DiagnosticArray) -> None:
        raise ZeroDivisionError("in a callback")

    client.check()
    client.node.create_subscription(DiagnosticArray, "/other", fail, 10)
    connected(client.node.create_publisher(DiagnosticArray, "/other", 10)).publish(DiagnosticArray())
    with pytest.raises(ZeroDivisionError, match="in a callback"):
        client.wait_for(lambda: False, PATIENCE)
    with pytest.raises(ZeroDivisionError):
        client.check()
