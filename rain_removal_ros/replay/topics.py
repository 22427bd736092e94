"""Which topics of a bag are played to the node, under which names, and what the node is told of its cameras.

Knows names and types of topics; needs no rclpy.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rain_removal_ros.bags.cameras import Camera
from rain_removal_ros.bags.storage import Topic

EVERY_QUEUE = 16
"""What the node lets wait where every image is to come back: more than are ever under way then, so that it
drops none."""

LONGEST_NAME = 247
"""Characters of a topic's name in ROS."""

OWN_TOPICS = ("/clock", "/diagnostics", "/rosout", "/parameter_events")


@dataclass(frozen=True)
class PlayedCamera:
    """A camera of the bag as the node knows it."""

    name: str  # in the node's parameter `cameras`
    camera: Camera
    namespace: str = ""  # the node's, as /car; empty: none

    @property
    def topics(self) -> tuple[Topic, ...]:
        """Its images, and its camera_info where the bag holds one."""
        info = self.camera.info
        return (self.camera.topic,) if info is None else (self.camera.topic, info)

    @property
    def remappings(self) -> list[tuple[str, str]]:
        """What brings the bag's topics to the node's."""
        suffix = "/compressed" if self.camera.compressed else ""
        rules = [(f"{self.name}/image_raw{suffix}", absolute(self.camera.topic.name))]
        if self.camera.info is not None:
            rules.append((f"{self.name}/camera_info", absolute(self.camera.info.name)))
        return [(source, target) for source, target in rules if f"{self.namespace}/{source}" != target]

    def output(self, name: str) -> str:
        """The full name of a topic that the node publishes for this camera. name: as `derained/image`."""
        return f"{self.namespace}/{self.name}/{name}"


def played_cameras(
    cameras: Sequence[Camera], say: Callable[[str], None], namespace: str = ""
) -> list[PlayedCamera]:
    """The cameras as the node knows them; of one that the bag holds raw and compressed, the raw images.

    namespace: the node's, as /car. It moves what the node publishes, and never what the bag holds.
    """
    taken: dict[str, Camera] = {}
    for camera in sorted(cameras, key=lambda each: each.compressed):
        name = _camera_name(camera.base)
        if name in taken:
            say(f"{camera.topic.name} is not derained; {taken[name].topic.name} is the same camera's")
        else:
            taken[name] = camera
    played = {camera.topic: PlayedCamera(name, camera, namespace) for name, camera in taken.items()}
    return [played[camera.topic] for camera in cameras if camera.topic in played]


def node_parameters(cameras: Sequence[PlayedCamera], every: bool = False) -> dict[str, str]:
    """What the node has to be told about the bag. every: it is to process every image."""
    sizes = dict.fromkeys(f"{c.camera.width}x{c.camera.height}" for c in cameras)
    transports = ["compressed" if each.camera.compressed else "raw" for each in cameras]
    return {
        **({"queue_length": str(EVERY_QUEUE)} if every else {}),
        "use_sim_time": "true",
        "cameras": f"[{', '.join(camera.name for camera in cameras)}]",
        "image_transport": ",".join(transports if len(set(transports)) > 1 else transports[:1]),
        "image_sizes": ",".join(sizes),
    }


def why_not_played(topic: Topic, cameras: Sequence[PlayedCamera], is_installed: bool) -> str | None:
    """Why a topic of the bag is not played, in a sentence for the user; None: it is.

    is_installed: whether this process has the topic's message type.
    """
    of_cameras = {each for camera in cameras for each in camera.topics}
    mended = {absolute(each.name) for each in of_cameras if not is_taken_by_ros(each.name)}
    name = absolute(topic.name)
    if topic not in of_cameras and not is_taken_by_ros(topic.name):
        return f"{topic.name} is not played: ROS takes no such name"
    if topic not in of_cameras and name in mended:
        return f"{topic.name} is not played; a camera whose name ROS does not take has its name"
    if name in OWN_TOPICS:
        return f"{name} is not played; the replay has its own"
    outputs = ("derained/", "depth/", "segmentation/")
    if name.startswith(tuple(camera.output(part) for camera in cameras for part in outputs)):
        return f"{name} is not played; the node makes it anew"
    if topic.serialization != "cdr":
        return f"{name} is not played: its messages are {topic.serialization}, not CDR"
    if not is_installed:
        return f"{name} is not played: {topic.type or 'its type'} is not installed here"
    return None


def namespace_of(node_name: str) -> str:
    """That of a node's name with or without its namespace: /car of car/derain, and nothing of derain."""
    return "".join(f"/{part}" for part in node_name.split("/")[:-1] if part)


def message_class(type_name: str) -> type | None:
    """The class of a message type; None where it is not installed, or the name is that of no type."""
    named = re.fullmatch(r"(\w+)/(?:(msg|srv|action)/)?(\w+)", type_name)
    if named is None:
        return None
    try:
        return getattr(importlib.import_module(f"{named[1]}.{named[2] or 'msg'}"), named[3])
    except (ImportError, AttributeError, ValueError):
        return None


def absolute(topic: str) -> str:
    """A topic of a bag as a name that ROS takes and no namespace changes.

    Bags may hold other names; `/cam-1/0` becomes `/cam_1/_0`.
    """
    parts = [re.sub(r"[^A-Za-z0-9_]", "_", part) for part in topic.split("/") if part]
    return "/" + "/".join(f"_{part}" if part[0].isdigit() else part for part in parts)


def is_taken_by_ros(topic: str) -> bool:
    """Whether ROS takes a bag's name of a topic as it is."""
    return "/" + topic.lstrip("/") == absolute(topic) != "/" and len(absolute(topic)) <= LONGEST_NAME


def _camera_name(base: str) -> str:
    parts = [re.sub(r"[^A-Za-z0-9_]", "_", part) for part in base.strip("/").split("/")]
    parts = [part if part[:1].isalpha() else f"camera_{part}" for part in parts]
    return re.sub("__+", "_", "/".join(parts))
