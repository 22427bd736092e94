"""Small bags as recorders leave them, written with the `rosbags` library: a rainy drive of some frames."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rosbags.interfaces import Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

STORE = get_typestore(Stores.ROS2_JAZZY)
STORE.register(get_types_from_msg("uint8[] secret\nfloat64 answer\n", "acme_msgs/msg/Radar"))
TYPES = STORE.types
HEIGHT, WIDTH = 64, 96
SECOND = 10**9
START = 1_700_000_000 * SECOND

NO_TIME = QosTime(0, 0)


def qos(reliability: str = "reliable", durability: str = "volatile", depth: int = 1) -> Qos:
    return Qos(
        QosHistory.KEEP_LAST,
        depth,
        QosReliability[reliability.upper()],
        QosDurability[durability.upper()],
        NO_TIME,
        NO_TIME,
        QosLiveliness.AUTOMATIC,
        NO_TIME,
        False,
    )


SENSOR, LATCHED = qos("best_effort", depth=5), qos("reliable", "transient_local")


@dataclass
class Sent:
    """A message to be recorded."""

    topic: str
    type: str
    time: int  # ns
    message: Any
    qos: tuple[Qos, ...] = ()
    data: bytes = field(default=b"")

    def __post_init__(self) -> None:
        self.data = self.data or bytes(STORE.serialize_cdr(self.message, self.type))


def header(time: int, frame_id: str = "camera") -> Any:
    stamp = TYPES["builtin_interfaces/msg/Time"](sec=time // SECOND, nanosec=time % SECOND)
    return TYPES["std_msgs/msg/Header"](stamp=stamp, frame_id=frame_id)


def street(number: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """uint8 (H, W, 3) RGB: a smooth image that moves from frame to frame; no level passes 245."""
    rows, columns = np.mgrid[0:height, 0:width]
    channels = [rows + 5 * number, columns + 20, rows + columns - 3 * number]
    return np.stack([(channel % 240) for channel in channels], axis=-1).astype(np.uint8)


def image(
    number: int,
    encoding: str = "rgb8",
    *,
    time: int | None = None,
    pixels: np.ndarray | None = None,
    **size: int,
) -> Any:
    """An Image of the street, (H, W) or (H, W, C) `pixels` in its stead."""
    rgb = street(number, **size)
    if pixels is None:
        pixels = {"rgb8": rgb, "bgr8": rgb[..., ::-1], "mono8": cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)}[
            encoding
        ]
    pixels = np.ascontiguousarray(pixels)
    return TYPES["sensor_msgs/msg/Image"](
        header=header(START + number * SECOND // 10 if time is None else time),
        height=rgb.shape[0],
        width=rgb.shape[1],
        encoding=encoding,
        is_bigendian=0,
        step=pixels.strides[0],
        data=pixels.reshape(-1).view(np.uint8),
    )


def compressed(
    number: int, suffix: str = ".jpg", format_: str = "rgb8; jpeg compressed bgr8", **size: int
) -> Any:
    _, data = cv2.imencode(suffix, street(number, **size)[..., ::-1])
    return TYPES["sensor_msgs/msg/CompressedImage"](
        header=header(START + number * SECOND // 10), format=format_, data=data
    )


def camera_info(number: int, height: int = HEIGHT, width: int = WIDTH) -> Any:
    region = TYPES["sensor_msgs/msg/RegionOfInterest"](
        x_offset=0, y_offset=0, height=0, width=0, do_rectify=False
    )
    k = [90.0, 0, width / 2, 0, 90.0, height / 2, 0, 0, 1.0]
    return TYPES["sensor_msgs/msg/CameraInfo"](
        header=header(START + number * SECOND // 10),
        height=height,
        width=width,
        distortion_model="plumb_bob",
        d=np.zeros(5),
        k=np.array(k),
        r=np.eye(3).reshape(-1),
        p=np.array([*k[:3], 0, *k[3:6], 0, *k[6:], 0]),
        binning_x=0,
        binning_y=0,
        roi=region,
    )


def text(content: str) -> Any:
    return TYPES["std_msgs/msg/String"](data=content)


def radar(number: int) -> Any:
    return TYPES["acme_msgs/msg/Radar"](secret=np.arange(number, number + 9, dtype=np.uint8), answer=42.5)


def drive(frames: int = 5, begin: int = 0) -> list[Sent]:
    """One camera with its calibration, a radar of a maker's own type, and a latched text at the beginning."""
    sent = [Sent("/map", "std_msgs/msg/String", START, text("streets"), (LATCHED,))] if begin == 0 else []
    for number in range(begin, begin + frames):
        time = START + number * SECOND // 10
        sent += [
            Sent(
                "/front/camera_info", "sensor_msgs/msg/CameraInfo", time + 1, camera_info(number), (SENSOR,)
            ),
            Sent("/front/image_raw", "sensor_msgs/msg/Image", time + 2, image(number, "bgr8"), (SENSOR,)),
            Sent("/radar", "acme_msgs/msg/Radar", time + 3, radar(number), (qos(depth=7),)),
        ]
    return sent


def record(
    path: Path,
    sent: Iterable[Sent],
    storage: str = "mcap",
    *,
    prepare: Callable[[Writer], None] = lambda writer: None,
    version: int = 9,
    silent: Sequence[Sent] = (),
) -> Path:
    """Write a bag of these messages; topics of `silent` are in it without a message."""
    writer = Writer(path, version=version, storage_plugin=StoragePlugin[storage.upper()])
    prepare(writer)
    connections: dict[str, Any] = {}
    with writer:
        for each in (*silent, *sent):
            if each.topic not in connections:
                connections[each.topic] = writer.add_connection(
                    each.topic, each.type, typestore=STORE, offered_qos_profiles=each.qos
                )
        for each in sent:
            writer.write(connections[each.topic], each.time, each.data)
    return path
