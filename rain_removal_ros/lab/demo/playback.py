"""Plays a drive to the node over DDS at the camera's rate and records what comes out. Knows topics, not what
is in a picture.

The node runs in a process of its own, started as anybody would start it.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from builtin_interfaces.msg import Time
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header

from rain_removal_ros.lab.scenes import CameraModel
from rain_removal_ros.ros.client import NODE, NodeClient
from rain_removal_ros.ros.messages import image_message
from rain_removal_ros.ros.process import fate_of, showing_end_of
from rain_removal_ros.ros.status import RUNTIME

CAMERA = "camera"
RUNTIME_STATUS, CAMERA_STATUS = f"{NODE}: {RUNTIME}", f"{NODE}: {CAMERA}"
CAMERA_QOS = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
RECORDER_QOS = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=10, reliability=ReliabilityPolicy.RELIABLE)
STAMP_OFFSET = 1_000
"""Seconds added to a drive's stamps, since a stamp of zero means none."""


@dataclass
class Recording:
    """What came out of the node, by frame index, and the node's last word on itself."""

    derained: dict[int, np.ndarray] = field(default_factory=dict)  # uint8 (H, W, 3) RGB
    inverse_depth: dict[int, np.ndarray] = field(default_factory=dict)  # float32 (H, W), 1/m
    latency: dict[int, float] = field(default_factory=dict)  # seconds from publishing to receiving the image
    received: dict[int, float] = field(default_factory=dict)  # when an image came back, by time.perf_counter
    diagnostics: dict[str, dict[str, str]] = field(default_factory=dict)  # status name -> key -> value


class Player:
    """A camera driver and a recorder in one ROS node of this process.

    `keep_images=False` records empty arrays for what came back, for long runs of which times matter.
    """

    def __init__(self, keep_images: bool = True) -> None:
        self._keep_images = keep_images
        self.recording = Recording()
        self._index_of_stamp: dict[tuple[int, int], int] = {}
        self._published_at: dict[int, float] = {}
        self._client = NodeClient("derain_demo")
        node = self._client.node
        self._images = node.create_publisher(Image, f"{CAMERA}/image_raw", CAMERA_QOS)
        self._infos = node.create_publisher(CameraInfo, f"{CAMERA}/camera_info", CAMERA_QOS)
        node.create_subscription(Image, f"{CAMERA}/derained/image", self._on_image, RECORDER_QOS)
        node.create_subscription(Image, f"{CAMERA}/depth/inverse_depth", self._on_depth, RECORDER_QOS)
        self._client.start()

    def close(self) -> None:
        """Leave ROS."""
        self._client.close()

    def wait_until_ready(self, process: subprocess.Popen[bytes], log: Path) -> None:
        """Wait until the node is active, its network compiled, and its subscription found.

        Raises RainRemovalError, with the end of the node's log, where that does not come about.
        """
        with showing_end_of(log):
            self._client.wait_until_ready(
                lambda: self._client.is_ready() and self._found(), partial(fate_of, process)
            )

    def play(
        self,
        images: Sequence[np.ndarray],
        camera: CameraModel,
        rate: float,
        on_progress: Callable[[int], None],
    ) -> None:
        """Publish uint8 (H, W, 3) RGB images at `rate` a second and wait for the last ones to come back."""
        info = _camera_info(camera)
        began = time.perf_counter()
        for index, image in enumerate(images):
            self._client.check()
            header = Header(stamp=_stamp(index / rate), frame_id=camera.frame_id)
            message = image_message(image, "rgb8", header)
            info.header = header
            time.sleep(max(0.0, began + index / rate - time.perf_counter()))  # the camera's clock
            self._index_of_stamp[header.stamp.sec, header.stamp.nanosec] = index
            self._published_at[index] = time.perf_counter()
            self._infos.publish(info)
            self._images.publish(message)
            on_progress(index)
        last = len(images) - 1
        self._client.wait_for(
            lambda: last in self.recording.derained and last in self.recording.inverse_depth, timeout=5
        )
        seen = self._client.statuses
        self._client.wait_for(lambda: self._client.statuses != seen, timeout=3)
        self.recording.diagnostics = {name: dict(s.values) for name, s in self._client.statuses.items()}

    def _found(self) -> bool:
        return self._images.get_subscription_count() > 0 and self._infos.get_subscription_count() > 0

    def _index(self, header: Header) -> int:
        return self._index_of_stamp[header.stamp.sec, header.stamp.nanosec]

    def _on_image(self, message: Image) -> None:
        now = time.perf_counter()
        index = self._index(message.header)
        image = np.frombuffer(message.data, np.uint8).reshape(message.height, message.width, 3)
        with self._client.changed:
            self.recording.latency[index] = now - self._published_at[index]
            self.recording.received[index] = now
            self.recording.derained[index] = image if self._keep_images else np.empty((0, 0, 3), np.uint8)
            self._client.changed.notify_all()

    def _on_depth(self, message: Image) -> None:
        depth = np.frombuffer(message.data, np.float32).reshape(message.height, message.width)
        with self._client.changed:
            self.recording.inverse_depth[self._index(message.header)] = (
                depth if self._keep_images else np.empty((0, 0), np.float32)
            )
            self._client.changed.notify_all()


def _stamp(seconds: float) -> Time:
    nanoseconds = round((STAMP_OFFSET + seconds) * 1e9)
    return Time(sec=nanoseconds // 10**9, nanosec=nanoseconds % 10**9)


def _camera_info(camera: CameraModel) -> CameraInfo:
    """The CameraInfo of a pinhole camera (sensor_msgs/CameraInfo: K row by row, P = [K 0])."""
    fx, fy, cx, cy = camera.fx, camera.fy, camera.cx, camera.cy
    return CameraInfo(
        height=camera.height,
        width=camera.width,
        distortion_model="plumb_bob",
        d=list(camera.distortion),
        k=[fx, 0.0, cx, 0.0, fy, cy, 0.0, 0.0, 1.0],
        r=[1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0],
        p=[fx, 0.0, cx, 0.0, 0.0, fy, cy, 0.0, 0.0, 0.0, 1.0, 0.0],
    )
