"""One camera's topics: image and camera_info in; derained image, camera_info, depth, masks, weather out.

Knows topics and QoS; what happens to a frame between them is the pipeline's.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass
from typing import Any, TypeAlias
from weakref import WeakSet

import cv2
import numpy as np
from rclpy._rclpy_pybind11 import InvalidHandle
from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.lifecycle import LifecycleNodeMixin
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSPolicyKind, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.subscription import Subscription
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Float32

from rain_removal_ros.camera_info import focal_length, mismatch
from rain_removal_ros.cityscapes import palette
from rain_removal_ros.encodings import Picture, write_image
from rain_removal_ros.pipeline import OutputSet
from rain_removal_ros.rain_monitor import Weather
from rain_removal_ros.ros.messages import READERS, camera_info_message, image_message, jpeg_message
from rain_removal_ros.runtime import Output, Restored

INPUT_QOS = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
"""Where the newest image wins. Where images queue, reliable, and as deep as the queue."""
INFO_QOS = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=8, reliability=ReliabilityPolicy.BEST_EFFORT)
LATCHED_INFO_QOS = QoSProfile(
    history=HistoryPolicy.KEEP_LAST,
    depth=1,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
)
"""A camera_info that was published once, before the node started, reaches this subscription alone; without a
publisher that latches, both sides would be warned of an incompatible QoS, so it waits for one.
"""
OUTPUT_QOS = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=1, reliability=ReliabilityPolicy.RELIABLE)

JPEG_BEGINS = b"\xff\xd8\xff"

INFOS_KEPT = 8
"""A camera_info may come before its image; so many are kept to find the one of the image's stamp."""

INFO_POLICIES = (
    QoSPolicyKind.HISTORY,
    QoSPolicyKind.DEPTH,
    QoSPolicyKind.RELIABILITY,
    QoSPolicyKind.DURABILITY,
)

DEFAULT_OVERRIDES = QoSOverridingOptions.with_default_policies()

InputMessage: TypeAlias = Image | CompressedImage
OutputMessage: TypeAlias = Image | CompressedImage | CameraInfo | Float32


@dataclass(eq=False)
class Incoming:
    """An image for as long as it waits or is in work, and the camera_info that goes with it."""

    message: InputMessage
    own_info: CameraInfo | None = None  # that of its stamp, once it came
    scaled_with: CameraInfo | None = None  # whose focal length scaled its depth


@dataclass(frozen=True)
class Outgoing:
    """What is to be published for one frame. Messages are made one by one as they go out, so that the image
    does not wait for a recorder's JPEG or a viewer's colours.
    """

    publisher: Publisher
    make: Callable[[], OutputMessage]


@dataclass(frozen=True)
class TopicOptions:
    """Of one camera's topics: the node's parameters of the same names."""

    image_transport: str = "raw"
    segmentation: bool = False
    queue_length: int = 1
    jpeg_quality: int = 95


class CameraTopics:
    """Publishers from construction on, subscriptions between `open` and `close`; the pipeline's handler of a
    camera.
    """

    def __init__(
        self,
        node: LifecycleNodeMixin,
        name: str,
        options: TopicOptions,
        on_image: Callable[[str, Incoming], None],
    ):
        self._node: Any = node  # LifecycleNodeMixin alone does not say that it is a Node too
        self._name, self._on_image = name, on_image
        self._message_type, self._read = READERS[options.image_transport]
        self._queue_length, self._jpeg_quality = options.queue_length, options.jpeg_quality
        suffix = "/compressed" if options.image_transport == "compressed" else ""
        self._image_topic = f"{name}/image_raw{suffix}"
        self._info_topic = f"{name}/camera_info"
        self._subscriptions: list[Subscription] = []
        self._hears_latched_info = False
        self._opening = threading.RLock()  # transitions run in a thread of their own
        self._infos: tuple[CameraInfo, ...] = ()
        self._without_info: WeakSet[Incoming] = WeakSet()  # images whose own has not come yet
        self._info_problem: str | None = None
        self._palette = np.ascontiguousarray(palette()[:, None, :])
        self._publishers: list[Publisher] = []
        self.outputs: dict[str, str] = {}  # names of the topics that are published, by their resolved names
        try:
            self._image = self._publisher(Image, "derained/image")
            self._jpeg = self._publisher(CompressedImage, "derained/image/compressed")
            self._info = self._publisher(CameraInfo, "derained/camera_info")
            self._inverse_depth = self._publisher(Image, "depth/inverse_depth")
            self._depth = self._publisher(Image, "depth/image")
            self._depth_info = self._publisher(CameraInfo, "depth/camera_info")
            masks = options.segmentation
            self._mask = self._publisher(Image, "segmentation/mask") if masks else None
            self._color_mask = self._publisher(Image, "segmentation/color_mask") if masks else None
            self._mask_info = self._publisher(CameraInfo, "segmentation/camera_info") if masks else None
            self._rain = self._publisher(Float32, "weather/rain")
            self._fog = self._publisher(Float32, "weather/fog")
            self._visibility = self._publisher(Float32, "weather/visibility")
        except Exception:
            self.destroy()
            raise

    @property
    def input_topic(self) -> str:
        """The resolved name of the topic that images come from."""
        return self._node.resolve_topic_name(self._image_topic)

    @property
    def info_topic(self) -> str:
        """The resolved name of the topic that camera_info comes from."""
        return self._node.resolve_topic_name(self._info_topic)

    @property
    def inputs(self) -> dict[str, str]:
        """Names of the topics that are subscribed to, by their resolved names."""
        return {self.input_topic: self._image_topic, self.info_topic: self._info_topic}

    @property
    def connected_publishers(self) -> int:
        """How many publishers of images are connected; those of an incompatible QoS are not."""
        try:
            return sum(subscription.get_publisher_count() for subscription in self._subscriptions[:1])
        except InvalidHandle:  # closed meanwhile, in another thread
            return 0

    @property
    def info_problem(self) -> str | None:
        """Why the last camera_info was not published; None where it was, or none has come."""
        return self._info_problem

    @property
    def info_came(self) -> bool:
        """Whether any camera_info has come since activation."""
        return bool(self._infos)

    @property
    def info_wanted(self) -> bool:
        """Whether somebody subscribes to a camera_info of this camera's outputs."""
        return any(_has_subscribers(p) for p in (self._info, self._depth_info, self._mask_info))

    @property
    def other_publishers(self) -> list[str]:
        """Nodes that publish this camera's derained images as well, as `/other` (a second node of this one's
        own name is named too).
        """
        found = self._node.get_publishers_info_by_topic(f"{self._name}/derained/image")  # which it remaps
        names = [f"{info.node_namespace.rstrip('/')}/{info.node_name}" for info in found]
        own = self._node.get_fully_qualified_name()
        if own in names:
            names.remove(own)
        return sorted(names)

    def open(self) -> None:
        """Subscribe to images and camera_info; leaves nothing behind where it fails."""
        info_options = QoSOverridingOptions(policy_kinds=INFO_POLICIES)
        input_qos = copy(INPUT_QOS)
        if self._queue_length > 1:
            input_qos.depth, input_qos.reliability = self._queue_length, ReliabilityPolicy.RELIABLE
        matched = SubscriptionEventCallbacks(matched=lambda _: self.hear_latched_info())
        with self._opening:
            try:
                self._subscribe(
                    self._message_type,
                    self._image_topic,
                    self._on_input,
                    input_qos,
                    qos_overriding_options=DEFAULT_OVERRIDES,
                )
                self._subscribe(
                    CameraInfo,
                    self._info_topic,
                    self._on_info,
                    copy(INFO_QOS),
                    qos_overriding_options=info_options,
                    event_callbacks=matched,
                )
                self.hear_latched_info()
            except Exception:
                self.close()
                raise

    def _subscribe(
        self, message_type: type, topic: str, callback: Callable[[Any], None], qos: QoSProfile, **options: Any
    ) -> None:
        subscription = self._node.create_subscription(message_type, topic, callback, qos, **options)
        self._subscriptions.append(subscription)

    def hear_latched_info(self) -> None:
        """Subscribe to what a publisher of camera_info latched, once there is one; called now and again, as
        the graph may know of a publisher a little later than it is connected.
        """
        with self._opening:
            if self._hears_latched_info or not self._subscriptions:
                return
            found = self._node.get_publishers_info_by_topic(self._info_topic)  # which it remaps
            if any(info.qos_profile.durability is DurabilityPolicy.TRANSIENT_LOCAL for info in found):
                self._hears_latched_info = True
                self._subscribe(CameraInfo, self._info_topic, self._on_info, copy(LATCHED_INFO_QOS))

    def close(self) -> None:
        """End the subscriptions."""
        with self._opening:
            for subscription in self._subscriptions:
                self._node.destroy_subscription(subscription)
            self._subscriptions, self._infos, self._info_problem = [], (), None
            self._without_info = WeakSet()
            self._hears_latched_info = False

    def destroy(self) -> None:
        """End subscriptions and publishers."""
        self.close()
        for publisher in self._publishers:
            self._node.destroy_lifecycle_publisher(publisher)
        self._publishers = []

    def wanted(self) -> OutputSet:
        """The outputs that have subscribers now; weather comes with the image."""
        publishers = {
            Output.IMAGE: (self._image, self._jpeg, self._rain, self._fog, self._visibility),
            Output.INVERSE_DEPTH: (self._inverse_depth, self._depth),
            Output.LABELS: (self._mask, self._color_mask),
        }
        return frozenset(
            output for output, group in publishers.items() if any(_has_subscribers(p) for p in group)
        )

    def read(self, incoming: Incoming) -> Picture:
        """The picture in a message. Raises ImageError."""
        return self._read(incoming.message)

    def focal_px(self, incoming: Incoming, size: tuple[int, int]) -> float | None:
        """The focal length in pixels that the camera_info of an image of this size (height, width) gives."""
        info = incoming.scaled_with = incoming.own_info or self._newest_info()
        if info is None or mismatch(info, incoming.message.header, size) is not None:
            return None
        return focal_length(info, size)

    def write(self, incoming: Incoming, picture: Picture, restored: Restored) -> list[Outgoing]:
        """What to publish of what is in `restored`, with the input's header: first the image."""
        message, image, labels = incoming.message, restored.image, restored.labels
        header = message.header
        outgoing: list[Outgoing] = []

        def add(publisher: Publisher | None, make: Callable[[], OutputMessage]) -> None:
            if publisher is not None and _has_subscribers(publisher):
                outgoing.append(Outgoing(publisher, make))

        info = incoming.scaled_with
        if restored.inverse_depth is None:  # no depth has to agree with it
            info = incoming.own_info or info or self._newest_info()
        self._info_problem = None if info is None else mismatch(info, header, picture.rgb.shape[:2])
        if info is not None and self._info_problem is None:
            same = camera_info_message(info, header)
            add(self._info, lambda: same)
            if restored.inverse_depth is not None:
                add(self._depth_info, lambda: same)
            if labels is not None:
                add(self._mask_info, lambda: same)
        if image is not None:
            encoding = picture.encoding
            add(self._image, lambda: image_message(write_image(picture, image), encoding, header))
        weather = Weather.of(restored.streak_light, restored.extinction)
        if weather is not None:
            add(self._rain, lambda: Float32(data=weather.rain))
            add(self._fog, lambda: Float32(data=weather.fog))
            add(self._visibility, lambda: Float32(data=weather.visibility_m))
        inverse_depth = restored.inverse_depth
        if inverse_depth is not None:
            add(self._inverse_depth, lambda: image_message(inverse_depth, "32FC1", header))
            add(self._depth, lambda: image_message(metres(inverse_depth), "32FC1", header))
        if labels is not None:
            add(self._mask, lambda: image_message(labels, "mono8", header))
            add(self._color_mask, lambda: image_message(self._colours(labels), "rgb8", header))
        if image is not None:
            add(self._jpeg, lambda: self._jpeg_of(message, picture, image))
        return outgoing

    def _colours(self, labels: np.ndarray) -> np.ndarray:
        return cv2.applyColorMap(labels, self._palette)

    def _jpeg_of(self, message: InputMessage, picture: Picture, image: np.ndarray) -> CompressedImage:
        """A JPEG of the image: the one that came, where the image is unchanged and came as one."""
        unchanged = image is picture.rgb and isinstance(message, CompressedImage)
        if unchanged and bytes(message.data[: len(JPEG_BEGINS)]) == JPEG_BEGINS:
            return message
        return jpeg_message(image, picture.encoding, self._jpeg_quality, message.header)

    def publish(self, incoming: Incoming, outgoing: list[Outgoing]) -> float | None:
        """Publish, with the camera_info beside. Gives the image's age in seconds by the node's clock.

        The age is None for an image without a stamp.
        """
        for out in outgoing:
            out.publisher.publish(out.make())
        stamp = incoming.message.header.stamp
        nanoseconds = stamp.sec * 10**9 + stamp.nanosec
        if nanoseconds <= 0:  # a clock that was never set
            return None
        return (self._node.get_clock().now().nanoseconds - nanoseconds) * 1e-9

    def _on_input(self, message: InputMessage) -> None:
        own = (info for info in reversed(self._infos) if info.header == message.header)
        incoming = Incoming(message, next(own, None))
        if incoming.own_info is None:
            self._without_info.add(incoming)
        self._on_image(self._name, incoming)

    def _newest_info(self) -> CameraInfo | None:
        infos = self._infos
        return infos[-1] if infos else None

    def _on_info(self, message: CameraInfo) -> None:
        if message in self._infos[-1:]:  # a latched one comes through both subscriptions
            return
        self._infos = (*self._infos[1 - INFOS_KEPT :], message)  # replaced whole: the worker reads it
        for incoming in list(self._without_info):
            if incoming.message.header == message.header:
                incoming.own_info = message
                self._without_info.discard(incoming)

    def _publisher(self, message_type: type, topic: str) -> Publisher:
        qos = copy(OUTPUT_QOS)
        qos.depth = self._queue_length  # where every image counts, a slow subscriber's wait as well
        publisher = self._node.create_lifecycle_publisher(
            message_type, f"{self._name}/{topic}", qos, qos_overriding_options=DEFAULT_OVERRIDES
        )
        self._publishers.append(publisher)
        self.outputs[publisher.topic_name] = f"{self._name}/{topic}"
        return publisher


def metres(inverse_depth: np.ndarray) -> np.ndarray:
    """Distances in metres of inverse depth in 1/m, float32, infinite for 0, as REP 118 has a depth image."""
    with np.errstate(divide="ignore"):
        return np.reciprocal(inverse_depth)


def _has_subscribers(publisher: Publisher | None) -> bool:
    try:
        return publisher is not None and publisher.get_subscription_count() > 0
    except InvalidHandle:  # destroyed meanwhile, in another thread
        return False
