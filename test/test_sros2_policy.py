"""The SROS 2 policy allows what the node creates, no more and no less.

Enforcing it takes a DDS with security, which ROS' wheels have not; docs/reliability.md says what was
seen with one.
"""

from __future__ import annotations

import gc
from xml.etree import ElementTree

import pytest
import rclpy
from pipeline_fakes import FakeRestorer
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter
from ros_harness import PATIENCE

from rain_removal_ros.ros.node import DerainNode
from rain_removal_ros.share import share_file

TRANSPORTS = {"raw": "/camera/image_raw", "compressed": "/camera/image_raw/compressed"}


def allowed() -> dict[str, set[str]]:
    """The full names that the policy lets the node publish, subscribe and reply to."""
    [profile] = ElementTree.parse(share_file("config/sros2_policy.xml")).iter("profile")
    assert profile.attrib == {"ns": "/", "node": "derain"}
    return {
        permission: {"/" + (name.text or "").replace("~/", "derain/") for name in group}
        for group in profile
        for permission in group.attrib
    }


def created(transport: str) -> dict[str, set[str]]:
    """The full names of what an active node with every option publishes, subscribes and replies to."""
    values = {"segmentation": True, "image_transport": transport, "use_sim_time": True}
    rclpy.init()
    node = DerainNode(
        lambda settings, on_progress: FakeRestorer(),
        parameter_overrides=[Parameter(name, value=value) for name, value in values.items()],
    )
    try:
        for transition in (node.trigger_configure, node.trigger_activate):
            assert transition() == TransitionCallbackReturn.SUCCESS
        queries = {
            "publish": node.get_publisher_names_and_types_by_node,
            "subscribe": node.get_subscriber_names_and_types_by_node,
            "reply": node.get_service_names_and_types_by_node,
        }
        return {
            permission: {name for name, _ in query(node.get_name(), node.get_namespace())}
            for permission, query in queries.items()
        }
    finally:
        assert node.close(PATIENCE)
        rclpy.shutdown()


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_the_policy_allows_what_the_node_creates_and_nothing_else(transport):
    policy = allowed()
    policy["subscribe"] -= set(TRANSPORTS.values()) - {TRANSPORTS[transport]}
    found = created(transport)
    gc.collect()  # rclpy keeps a lifecycle node's services until then; the next test would meet them
    assert found == policy
