"""Which topics of a bag are played, decided from their names and types; no ROS runs."""

from __future__ import annotations

import pytest

from rain_removal_ros.bags.cameras import Camera
from rain_removal_ros.bags.storage import Topic
from rain_removal_ros.replay.topics import PlayedCamera, namespace_of, why_not_played

IMAGE, INFO = "sensor_msgs/msg/Image", "sensor_msgs/msg/CameraInfo"
FRONT = PlayedCamera(
    "front",
    Camera(Topic("/front/image_raw", IMAGE), "/front", Topic("/front/camera_info", INFO), "rgb8", 64, 96),
)
ODD = PlayedCamera("cam_1", Camera(Topic("/cam-1/image_raw", IMAGE), "/cam-1", None, "rgb8", 64, 96))


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("/tf", None),
        ("tf", None),
        ("/front/image_raw/compressed", None),
        ("/frontal/derained/image", None),
        ("/odd name", "/odd name is not played: ROS takes no such name"),
        ("/2d/points", "/2d/points is not played: ROS takes no such name"),
        ("/" + "a" * 250, "ROS takes no such name"),
        ("/cam_1/image_raw", "a camera whose name ROS does not take has its name"),
        ("/clock", "/clock is not played; the replay has its own"),
        ("/diagnostics", "the replay has its own"),
        ("/front/derained/image", "the node makes it anew"),
        ("/cam_1/depth/inverse_depth", "the node makes it anew"),
        ("/front/segmentation/mask", "the node makes it anew"),
    ],
)
def test_what_ros_or_the_node_has_no_room_for_is_not_played(name, reason):
    why = why_not_played(Topic(name, "std_msgs/msg/String"), [FRONT, ODD], is_installed=True)
    assert why is None if reason is None else reason in why


def test_the_topics_of_cameras_are_played_whatever_their_names():
    topics = [*FRONT.topics, *ODD.topics]
    assert [topic.name for topic in topics] == ["/front/image_raw", "/front/camera_info", "/cam-1/image_raw"]
    assert [why_not_played(topic, [FRONT, ODD], is_installed=True) for topic in topics] == [None] * 3


def test_messages_that_cannot_be_published_here_are_not_played():
    text = Topic("/text", "std_msgs/msg/String", serialization="json")
    assert why_not_played(text, [FRONT], is_installed=True) == (
        "/text is not played: its messages are json, not CDR"
    )
    radar, untyped = Topic("/radar", "acme_msgs/msg/Radar"), Topic("/untyped", "")
    assert why_not_played(radar, [FRONT], is_installed=False) == (
        "/radar is not played: acme_msgs/msg/Radar is not installed here"
    )
    assert why_not_played(untyped, [FRONT], is_installed=False) == (
        "/untyped is not played: its type is not installed here"
    )


@pytest.mark.parametrize(
    ("node", "namespace"),
    [("derain", ""), ("/derain", ""), ("car/derain", "/car"), ("/fleet/car/derain", "/fleet/car")],
)
def test_a_nodes_name_says_its_namespace(node, namespace):
    assert namespace_of(node) == namespace
