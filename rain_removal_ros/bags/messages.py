"""The messages that a bag's conversion reads and writes, between their bytes (CDR) and Python, without ROS.

The definitions are those of ROS 2 Jazzy, which the types read and written here share with every other
distribution.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from rosbags.serde import SerdeError
from rosbags.typesys import Stores, TypesysError, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from rain_removal_ros import encodings
from rain_removal_ros.encodings import Picture, image_fields
from rain_removal_ros.errors import ImageError

IMAGE = "sensor_msgs/msg/Image"
COMPRESSED_IMAGE = "sensor_msgs/msg/CompressedImage"
CAMERA_INFO = "sensor_msgs/msg/CameraInfo"
IMAGE_TYPES: dict[str, Callable[[Any], Picture]] = {
    IMAGE: encodings.read_image,
    COMPRESSED_IMAGE: encodings.read_compressed,
}


@cache
def typestore(distribution: Stores = Stores.ROS2_JAZZY) -> Typestore:
    """The messages of a distribution of ROS 2."""
    return get_typestore(distribution)


def parse(data: bytes, type_name: str) -> Any:
    """The message in these bytes; arrays are views of them. Raises ImageError where they end early."""
    try:
        return typestore().deserialize_cdr(data, type_name)
    except SerdeError as error:
        raise ImageError(f"{len(data)} bytes are no {type_name} ({error})") from error


def serialize(message: Any) -> memoryview:
    """The bytes of a message."""
    return typestore().serialize_cdr(message, message.__msgtype__)


def read_picture(message: Any) -> Picture:
    """The picture in an Image or CompressedImage. Raises ImageError."""
    return IMAGE_TYPES[message.__msgtype__](message)


def plane(message: Any, dtype: type) -> np.ndarray:
    """An Image's single plane of numbers, (H, W), whatever its padding. Raises ImageError for any other."""
    if message.__msgtype__ != IMAGE:
        raise ImageError(f"{message.__msgtype__} is no plane of numbers")
    width = message.width * np.dtype(dtype).itemsize
    if len(message.data) != message.height * message.step or message.step < width:
        size = f"{message.width}x{message.height} {message.encoding}"
        raise ImageError(f"{len(message.data)} bytes are no image of {size}")
    rows = np.asarray(message.data).reshape(message.height, message.step)[:, :width]
    return np.ascontiguousarray(rows).view(dtype)


def image_message(pixels: np.ndarray, encoding: str, header: Any) -> Any:
    """An Image with these pixels, (H, W) or (H, W, C), in this machine's byte order."""
    pixels = np.ascontiguousarray(pixels)
    return typestore().types[IMAGE](
        header=header,
        **image_fields(pixels, encoding),
        data=pixels.reshape(-1).view(np.uint8),
    )


def jpeg_message(rgb: np.ndarray, encoding: str, quality: int, header: Any) -> Any:
    """A CompressedImage, JPEG, of a uint8 (H, W, 3) RGB image that came in this encoding."""
    named, data = encodings.write_jpeg(rgb, encoding, quality)
    return typestore().types[COMPRESSED_IMAGE](header=header, format=named, data=data)


def camera_info_message(info: Any, header: Any) -> Any:
    """The same calibration with the image's header."""
    fields = {name: getattr(info, name) for name in type(info).__dataclass_fields__ if name != "__msgtype__"}
    return type(info)(**{**fields, "header": header})


def stamp_ns(message: Any) -> int:
    """The stamp in the message's header, ns; 0 where the sender left it empty."""
    return message.header.stamp.sec * 10**9 + message.header.stamp.nanosec


def definition_of(type_name: str, distribution: Stores = Stores.ROS2_JAZZY) -> tuple[str, str]:
    """(definition, type hash) of a type of that distribution; two empty texts for one that is none of its."""
    store = typestore(distribution)
    if type_name not in store.types:
        return "", ""
    return store.generate_msgdef(type_name, ros_version=2)[0], store.hash_rihs01(type_name)


def hash_of(type_name: str, definition: str | None) -> str:
    """The type hash (REP 2011) of a ROS definition as bags hold it; empty where it cannot be told."""
    if not definition or definition.startswith("=" * 80 + "\nIDL: "):
        return definition_of(type_name)[1]
    store = get_typestore(Stores.EMPTY)
    try:
        store.register(get_types_from_msg(definition, type_name))
        return store.hash_rihs01(type_name)
    except (TypesysError, KeyError, ValueError):  # it leans on something that it does not hold
        return ""
