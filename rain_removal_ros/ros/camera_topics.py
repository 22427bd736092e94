"""One camera's topics: image and camera_info in; derained image, camera_info, inverse depth, masks out.

Knows topics and QoS; what happens to a frame between them is the pipeline's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from rclpy._rclpy_pybind11 import InvalidHandle
from rclpy.lifecycle import LifecycleNodeMixin
from rclpy.publisher import Publisher
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.time import Time
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from rain_removal_ros.cityscapes import palette
from rain_removal_ros.encodings import Picture, write_image
from rain_removal_ros.pipeline import Outputs
from rain_removal_ros.ros.messages import READERS, camera_info_message, image_message
from rain_removal_ros.runtime import Output, Restored

INPUT_QOS = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
INFO_QOS = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=8, reliability=ReliabilityPolicy.BEST_EFFORT)
OUTPUT_QOS = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=1, reliability=ReliabilityPolicy.RELIABLE)

INFOS_KEPT = 8
"""A camera_info may come before or after its image; so many are kept to find the one of the image's stamp."""

InputMessage = Image | CompressedImage


@dataclass(frozen=True)
class Outgoing:
    """What is to be published for one frame."""

    publisher: Publisher
    message: Image


class CameraTopics:
    """Publishers from construction on, subscriptions between `open` and `close`."""

    def __init__(
        self,
        node: LifecycleNodeMixin,
        name: str,
        image_transport: str,
        segmentation: bool,
        on_image: Callable[[str, InputMessage], None],
    ):
        self._node, self._name, self._on_image = node, name, on_image
        self._message_type, self._read = READERS[image_transport]
        suffix = "/compressed" if image_transport == "compressed" else ""
        self._image_topic = f"{name}/image_raw{suffix}"
        self._subscriptions: list = []
        self._infos: tuple[CameraInfo, ...] = ()
        self._palette = np.ascontiguousarray(palette()[:, None, :])
        self._image = self._publisher(Image, "derained/image")
        self._info = self._publisher(CameraInfo, "derained/camera_info")
        self._depth = self._publisher(Image, "depth/inverse_depth")
        self._mask = self._publisher(Image, "segmentation/mask") if segmentation else None
        self._color_mask = self._publisher(Image, "segmentation/color_mask") if segmentation else None

    @property
    def input_topic(self) -> str:
        """The resolved name of the topic that images come from."""
        return self._node.resolve_topic_name(self._image_topic)

    @property
    def connected_publishers(self) -> int:
        """How many publishers of images are connected; those of an incompatible QoS are not."""
        try:
            return sum(subscription.get_publisher_count() for subscription in self._subscriptions[:1])
        except InvalidHandle:  # closed meanwhile, in another thread
            return 0

    def open(self) -> None:
        """Subscribe to images and camera_info."""
        self._subscriptions = [
            self._node.create_subscription(
                self._message_type,
                self._image_topic,
                lambda message: self._on_image(self._name, message),
                INPUT_QOS,
                qos_overriding_options=QoSOverridingOptions.with_default_policies(),
            ),
            self._node.create_subscription(
                CameraInfo,
                f"{self._name}/camera_info",
                self._on_info,
                INFO_QOS,
                qos_overriding_options=QoSOverridingOptions.with_default_policies(),
            ),
        ]

    def close(self) -> None:
        """End the subscriptions."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._subscriptions, self._infos = [], ()

    def destroy(self) -> None:
        """End subscriptions and publishers."""
        self.close()
        for publisher in (self._image, self._info, self._depth, self._mask, self._color_mask):
            if publisher is not None:
                self._node.destroy_lifecycle_publisher(publisher)

    def wanted(self) -> Outputs:
        """The outputs that have subscribers now."""
        publishers = {
            Output.IMAGE: (self._image,),
            Output.INVERSE_DEPTH: (self._depth,),
            Output.LABELS: (self._mask, self._color_mask),
        }
        return frozenset(
            output for output, group in publishers.items() if any(_has_subscribers(p) for p in group)
        )

    def read(self, message: InputMessage) -> Picture:
        """The picture in a message. Raises ImageError."""
        return self._read(message)

    def write(self, message: InputMessage, picture: Picture, restored: Restored) -> list[Outgoing]:
        """The messages for what is in `restored`, with the input's header."""
        header = message.header
        outgoing = []
        if restored.image is not None:
            image = image_message(write_image(picture, restored.image), picture.encoding, header)
            outgoing.append(Outgoing(self._image, image))
        if restored.inverse_depth is not None:
            outgoing.append(Outgoing(self._depth, image_message(restored.inverse_depth, "32FC1", header)))
        if restored.labels is not None and _has_subscribers(self._mask):
            outgoing.append(Outgoing(self._mask, image_message(restored.labels, "mono8", header)))
        if restored.labels is not None and _has_subscribers(self._color_mask):
            colours = cv2.applyColorMap(restored.labels, self._palette)
            outgoing.append(Outgoing(self._color_mask, image_message(colours, "rgb8", header)))
        return outgoing

    def publish(self, message: InputMessage, outgoing: list[Outgoing]) -> float | None:
        """Publish, with the camera_info beside. Gives the image's age in seconds by the node's clock.

        The age is None for an image without a stamp.
        """
        header = message.header
        infos = self._infos
        if infos:
            info = next((info for info in infos if info.header == header), infos[-1])
            self._info.publish(camera_info_message(info, header))
        for out in outgoing:
            out.publisher.publish(out.message)
        stamp = Time.from_msg(header.stamp, clock_type=self._node.get_clock().clock_type)
        if stamp.nanoseconds == 0:
            return None
        return (self._node.get_clock().now() - stamp).nanoseconds * 1e-9

    def _on_info(self, message: CameraInfo) -> None:
        self._infos = (*self._infos[1 - INFOS_KEPT :], message)  # replaced whole: the worker reads it

    def _publisher(self, message_type: type, topic: str) -> Publisher:
        return self._node.create_lifecycle_publisher(
            message_type,
            f"{self._name}/{topic}",
            OUTPUT_QOS,
            qos_overriding_options=QoSOverridingOptions.with_default_policies(),
        )


def _has_subscribers(publisher: Publisher | None) -> bool:
    try:
        return publisher is not None and publisher.get_subscription_count() > 0
    except InvalidHandle:  # destroyed meanwhile, in another thread
        return False
