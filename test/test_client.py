"""What a client beside the node hears of it, over real DDS, and what becomes of a callback that fails."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from pipeline_fakes import FakeRestorer
from rclpy.publisher import Publisher
from ros_harness import PATIENCE, RELIABLE, derain_node, image_of
from sensor_msgs.msg import Image

from rain_removal_ros.errors import RainRemovalError
from rain_removal_ros.ros import status as keys
from rain_removal_ros.ros.client import NODE, NodeClient
from rain_removal_ros.ros.lost_messages import MOST_IN_A_ROW, LostMessages
from rain_removal_ros.ros.process import check_runs, fate_of, showing_end_of


def connected(publisher: Publisher) -> Publisher:
    """The publisher, once it has found its subscription, which rclpy has no event for here."""
    for _ in range(int(PATIENCE / 0.02)):
        if publisher.get_subscription_count():
            return publisher
        threading.Event().wait(0.02)
    raise AssertionError(f"nobody subscribes to {publisher.topic_name}")


@contextmanager
def client_of(node_name: str) -> Iterator[NodeClient]:
    client = NodeClient("client", node_name)
    try:
        client.start()
        yield client
    finally:
        client.close()


@pytest.fixture
def client():
    with client_of(NODE) as client:
        yield client


def say(client: NodeClient, *statuses: DiagnosticStatus) -> None:
    """Publish diagnostics that the client hears."""
    publisher = connected(client.node.create_publisher(DiagnosticArray, "/diagnostics", 10))
    publisher.publish(DiagnosticArray(status=statuses))


def test_a_client_finds_in_the_diagnostics_of_the_node_what_it_looks_for():
    fake, came = FakeRestorer(), []
    fake.build_gate.clear()
    client = NodeClient("client")
    client.node.create_subscription(Image, "camera/derained/image", came.append, RELIABLE)
    client.start()
    try:
        with derain_node(lambda settings, progress: fake, image_sizes="96x72") as peer:
            client.wait_for(lambda: client.runtime is not None, PATIENCE)
            building = client.wait_for(lambda: client.runtime.message.startswith(keys.BUILDING), PATIENCE)
            assert building, "the message while it builds begins otherwise"
            assert not client.is_ready()
            fake.build_gate.set()
            client.wait_until_ready(lambda: client.is_ready(["96x72"]), timeout=PATIENCE)
            assert not client.is_ready(["96x72", "64x64"])
            camera = peer.camera()

            def answered() -> bool:
                camera.publish(image_of(np.zeros((72, 96, 3), np.uint8)))
                status = client.statuses.get("derain: camera")
                return bool(came) and status is not None and status.values[keys.PUBLISHED] != "0"

            assert client.wait_for(answered, PATIENCE)
            runtime, status = client.runtime, client.statuses["derain: camera"]
    finally:
        client.close()
    assert runtime.values[keys.STATE] == keys.ACTIVE and runtime.values[keys.IMAGE_SIZES] == "96x72"
    assert {keys.PRESET, keys.BACKEND, keys.PRECISION, keys.BATCHING} <= set(runtime.values)
    times = {keys.latency(stage, part) for stage in keys.STAGES for part in ("median", "p95", "p99", "max")}
    assert times | {keys.PUBLISHED, keys.TOGETHER} <= set(status.values)


def test_levels_have_names(client):
    levels = {"ok": DiagnosticStatus.OK, "warn": DiagnosticStatus.WARN, "error": DiagnosticStatus.ERROR}
    said = [DiagnosticStatus(name=name, level=level) for name, level in levels.items()]
    said.append(DiagnosticStatus(name="silent", level=DiagnosticStatus.STALE))
    say(client, *said)
    assert client.wait_for(lambda: len(client.statuses) == len(said), PATIENCE)
    assert {name: client.statuses[name].level for name in levels} == {name: name for name in levels}
    assert client.statuses["silent"].level == "stale" and client.statuses["error"].is_error


@pytest.mark.parametrize(("node_name", "found"), [("dry", True), ("/car/dry", True), ("derain", False)])
def test_the_runtime_of_a_node_is_found_in_its_namespace(node_name, found):
    with client_of(node_name) as client:
        values = [KeyValue(key="a", value="b")]
        say(client, DiagnosticStatus(name="car/dry: runtime", message="m", values=values))
        assert client.wait_for(lambda: client.statuses, PATIENCE)
        assert (client.runtime is not None) is found
        if found:
            assert (client.runtime.message, client.runtime.values) == ("m", {"a": "b"})


def test_a_node_that_ends_or_reports_an_error_is_not_waited_for(client, tmp_path):
    log = tmp_path / "node.log"
    log.write_text("[ERROR] no camera")
    ended, runs = SimpleNamespace(poll=lambda: 3), SimpleNamespace(poll=lambda: None)
    check_runs(runs, log)
    with pytest.raises(RainRemovalError, match=r"ended with status 3; the end of its log .*\n.*no camera"):
        check_runs(ended, log)
    reason = r"ended with status 3 before it was ready; the end of its log .*\n.*no camera"
    with pytest.raises(RainRemovalError, match=reason), showing_end_of(log):
        client.wait_until_ready(client.is_ready, lambda: fate_of(ended))
    say(client, DiagnosticStatus(name="derain: runtime", level=DiagnosticStatus.ERROR, message="no network"))
    with pytest.raises(RainRemovalError, match="the node says: no network"):
        client.wait_until_ready(client.is_ready, lambda: fate_of(runs))


def test_a_client_that_was_never_started_can_be_closed():
    NodeClient("client").close()


def test_a_callback_that_fails_costs_a_message_and_a_broken_executor_ends_the_node():
    broken: list[bool] = []
    executor = SimpleNamespace(context=SimpleNamespace(ok=lambda: True))
    said: list[str] = []
    log = SimpleNamespace(error=said.append)  # the node's own: another is not heard on /rosout
    lost = LostMessages(executor, log, lambda: broken.append(True))
    assert all(lost(ValueError("bad message"), turn) for turn in range(1, 1 + MOST_IN_A_ROW)) and not broken
    assert len(said) == 1 and "a message was lost" in said[0] and "ValueError: bad message" in said[0]
    assert not lost(ValueError("bad message"), 1 + MOST_IN_A_ROW) and broken == [True]
    executor.context.ok = lambda: False
    assert not lost(ValueError("no context"), 1) and broken == [True, True]


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
