"""rclpy's sensor_msgs/Image and CompressedImage to and from NumPy arrays. Knows pixels, not topics.

What the pixels mean is `encodings`' to know; here are the message classes, and cv_bridge for what else it
reads.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header

from rain_removal_ros import encodings
from rain_removal_ros.encodings import SUPPORTED, Picture, counts_numbers, read_compressed, write_jpeg
from rain_removal_ros.errors import ImageError

try:
    from cv_bridge import CvBridge, CvBridgeError
except ImportError:  # outside a ROS installation, or built for another NumPy
    CvBridge = None


def read_image(message: Image) -> Picture:
    """The picture in an Image. Raises ImageError for an encoding, size or length that cannot be."""
    encoding = message.encoding
    if encoding in SUPPORTED or counts_numbers(encoding) or CvBridge is None:
        return encodings.read_image(message)
    if len(message.data) < message.step * message.height:
        raise ImageError(
            f"{len(message.data)} bytes are too few for {message.height} rows of {message.step} bytes"
        )
    try:
        rgb = CvBridge().imgmsg_to_cv2(message, "rgb8")
    except (CvBridgeError, TypeError, ValueError) as error:
        raise ImageError(
            f"encoding '{encoding}' is not known; known are {', '.join(SUPPORTED)} ({error})"
        ) from error
    return Picture(np.ascontiguousarray(rgb), "rgb8")


def image_message(pixels: np.ndarray, encoding: str, header: Header) -> Image:
    """An Image with these pixels, (H, W) or (H, W, C), without padding, in this machine's byte order."""
    pixels = np.ascontiguousarray(pixels)
    message = Image(header=header, **encodings.image_fields(pixels, encoding))
    message.data.frombytes(
        memoryview(pixels.data).cast("B")
    )  # assigning an array would copy it element by element
    return message


def jpeg_message(rgb: np.ndarray, encoding: str, quality: int, header: Header) -> CompressedImage:
    """A CompressedImage, JPEG, of a uint8 (H, W, 3) RGB image that came in this encoding."""
    named, data = write_jpeg(rgb, encoding, quality)
    message = CompressedImage(header=header, format=named)
    message.data.frombytes(memoryview(data.data).cast("B"))
    return message


def camera_info_message(info: CameraInfo, header: Header) -> CameraInfo:
    """The same calibration with the image's header; the message itself where it has that header already."""
    if info.header == header:
        return info
    names = (name for name in CameraInfo.get_fields_and_field_types() if name != "header")
    return CameraInfo(header=header, **{name: getattr(info, name) for name in names})


Reader = Callable[[Image | CompressedImage], Picture]
READERS: dict[str, tuple[type, Reader]] = {
    "raw": (Image, read_image),
    "compressed": (CompressedImage, read_compressed),
}
"""Message type and reader by image transport."""
