"""The pixels of sensor_msgs/Image and CompressedImage as NumPy arrays, by encoding.

Knows the messages' fields, not their classes: rclpy's messages and those of a bag's reader are the same here.
Pixels are viewed where the layout allows it (rgb8 without padding) and touched once where it does not.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import cv2
import numpy as np

import rain_removal_ros.quiet_opencv  # noqa: F401
from rain_removal_ros.decoding import decoded
from rain_removal_ros.errors import ImageError, shown
from rain_removal_ros.image_header import check_header
from rain_removal_ros.runtime.sizes import check_size


class Image(Protocol):
    """The fields of a sensor_msgs/Image; `data` is anything with the buffer protocol."""

    height: int
    width: int
    encoding: str
    is_bigendian: int
    step: int
    data: Any  # with the buffer protocol


class CompressedImage(Protocol):
    """The fields of a sensor_msgs/CompressedImage."""

    format: str
    data: Any  # with the buffer protocol


@dataclass(frozen=True)
class Pixels:
    """How an encoding lays out its pixels: numbers of `depth` bytes, `channels` of them a pixel in a row."""

    channels: int
    depth: int = 1

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(f"u{self.depth}")


INTERLEAVED = {
    "rgb8": Pixels(3),
    "bgr8": Pixels(3),
    "rgba8": Pixels(4),
    "bgra8": Pixels(4),
    "mono8": Pixels(1),
    "rgb16": Pixels(3, 2),
    "bgr16": Pixels(3, 2),
    "rgba16": Pixels(4, 2),
    "bgra16": Pixels(4, 2),
    "mono16": Pixels(1, 2),
}
"""Encodings that the output keeps."""

MOSAICS = {
    "rggb": cv2.COLOR_BayerBG2RGB,  # OpenCV names a pattern by its second row and column, ROS by its first
    "bggr": cv2.COLOR_BayerRG2RGB,
    "gbrg": cv2.COLOR_BayerGR2RGB,
    "grbg": cv2.COLOR_BayerGB2RGB,
}
"""bayer_<pattern>8 is published as rgb8, bayer_<pattern>16 as rgb16: a restored mosaic would mean nothing."""

PACKED_YUV = {
    "yuv422": cv2.COLOR_YUV2RGB_UYVY,
    "uyvy": cv2.COLOR_YUV2RGB_UYVY,
    "yuv422_yuy2": cv2.COLOR_YUV2RGB_YUY2,
    "yuyv": cv2.COLOR_YUV2RGB_YUY2,
}
"""4:2:2, published as rgb8."""

PLANAR_YUV = {"nv12": cv2.COLOR_YUV2RGB_NV12, "nv21": cv2.COLOR_YUV2RGB_NV21}
"""4:2:0, published as rgb8: height rows of luminance, then height / 2 rows of interleaved colour."""

TO_RGB = {
    "bgr": cv2.COLOR_BGR2RGB,
    "rgba": cv2.COLOR_RGBA2RGB,
    "bgra": cv2.COLOR_BGRA2RGB,
    "mono": cv2.COLOR_GRAY2RGB,
}
FROM_RGB = {
    "bgr": cv2.COLOR_RGB2BGR,
    "rgba": cv2.COLOR_RGB2RGBA,
    "bgra": cv2.COLOR_RGB2BGRA,
    "mono": cv2.COLOR_RGB2GRAY,
}

SUPPORTED = (
    *INTERLEAVED,
    *(f"bayer_{pattern}{bits}" for bits in (8, 16) for pattern in MOSAICS),
    *PACKED_YUV,
    *PLANAR_YUV,
)


@dataclass(frozen=True)
class Picture:
    """An image as it came.

    rgb: uint8 (H, W, 3), C-contiguous; a view of the message where its layout allows.
    encoding: what the restored image is written as.
    source: the pixels as they came, (H, W, C) in `encoding`, where the output needs more of them than `rgb`
    holds (an alpha channel, 16 bits); else None.
    """

    rgb: np.ndarray
    encoding: str
    source: np.ndarray | None = None


def counts_numbers(encoding: str) -> bool:
    """Whether an encoding counts its numbers and says nothing about colours, as 8UC3."""
    return encoding[:1].isdigit()


def read_image(message: Image) -> Picture:
    """The picture in an Image. Raises ImageError for an encoding, size or length that cannot be."""
    encoding = message.encoding
    if encoding not in SUPPORTED:
        problem = "does not say what its numbers mean" if counts_numbers(encoding) else "is not known"
        raise ImageError(f"encoding {shown(encoding)} {problem}; known are {', '.join(SUPPORTED)}")
    if encoding in INTERLEAVED:
        return interleaved_picture(_rows(message, INTERLEAVED[encoding]), encoding)
    if encoding.startswith("bayer_"):
        depth = int(encoding[10:]) // 8
        rows = _rows(message, Pixels(1, depth))[..., 0]
        _need_even(message, rows=True)
        mosaic = np.ascontiguousarray(rows, rows.dtype.newbyteorder("="))  # OpenCV ignores the byte order
        full = cv2.cvtColor(mosaic, MOSAICS[encoding[6:10]])
        return Picture(full, "rgb8") if depth == 1 else Picture(_eight_bits(full), "rgb16", full)
    if encoding in PACKED_YUV:
        packed = _rows(message, Pixels(2))
        _need_even(message, rows=False)
        return Picture(cv2.cvtColor(np.ascontiguousarray(packed), PACKED_YUV[encoding]), "rgb8")
    _need_even(message, rows=True)
    planes = _rows(message, Pixels(1), height=message.height * 3 // 2)[..., 0]
    return Picture(cv2.cvtColor(np.ascontiguousarray(planes), PLANAR_YUV[encoding]), "rgb8")


def read_compressed(message: CompressedImage) -> Picture:
    """The picture in a CompressedImage (JPEG, PNG, BMP, WebP, TIFF), in 8 bits.

    `format` is read as image_transport writes it ("bgr8; jpeg compressed bgr8"). The encoding that it names
    first is published where it is rgb8, bgr8 or mono8, and rgb8 otherwise. A Bayer mosaic that was compressed
    as it is, is a mosaic again; "compressed mono8" says that it was made grey before compression, "compressed
    rgb8" that red and blue were swapped.
    Raises ImageError for a size that no network takes, which the header tells before anything is decoded, and
    where the data end early or cannot be decoded.
    """
    what = f"compressed image (format {shown(message.format)})"
    if "compressedDepth" in message.format:
        raise ImageError(f"{what} is a depth image; give a camera's colour image")
    data = np.frombuffer(message.data, np.uint8)
    try:
        header = check_header(data.data)
    except ImageError as error:
        raise ImageError(f"{what}: {error}") from error
    pixels = decoded(data, cv2.IMREAD_ANYCOLOR | cv2.IMREAD_IGNORE_ORIENTATION, what)
    if pixels is None or pixels.dtype != np.uint8 or pixels.shape[:2] != (header.height, header.width):
        raise ImageError(f"{what} of {data.size} bytes cannot be decoded")
    named, _, compressed = (part.strip() for part in message.format.partition(";"))
    mosaic = named.startswith("bayer_") and named[6:10] in MOSAICS and "compressed mono" not in compressed
    if pixels.ndim == 2 and mosaic:
        if pixels.shape[0] % 2 or pixels.shape[1] % 2:
            raise ImageError(f"{what} of {header.width}x{header.height}: a mosaic's pixels come in pairs")
        return Picture(cv2.cvtColor(pixels, MOSAICS[named[6:10]]), "rgb8")
    encoding = named if named in ("rgb8", "bgr8", "mono8") else "rgb8"
    if pixels.ndim == 2:
        return Picture(cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB), encoding)
    if "compressed rgb" in compressed:
        return Picture(pixels, encoding)
    return Picture(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), encoding)


def write_image(picture: Picture, restored: np.ndarray) -> np.ndarray:
    """The restored uint8 (H, W, 3) RGB image in the picture's encoding: uint8 or uint16 (H, W, C).

    Alpha is kept. Of 16-bit images the network sees the upper 8 bits; what it changed is added to the 16
    bits, so that the lower ones stay.
    """
    kind, depth = picture.encoding.rstrip("0123456789"), INTERLEAVED[picture.encoding].depth
    if depth == 2:
        return _write_16_bits(picture, restored)
    written = restored if kind == "rgb" else cv2.cvtColor(restored, FROM_RGB[kind])
    if picture.source is not None:
        written[..., 3] = picture.source[..., 3]
    return written if written.ndim == 3 else written[..., None]


def image_fields(pixels: np.ndarray, encoding: str) -> dict[str, Any]:
    """What an Image says of these pixels, (H, W) or (H, W, C), C-contiguous, in this machine's byte order."""
    return {
        "height": pixels.shape[0],
        "width": pixels.shape[1],
        "encoding": encoding,
        "is_bigendian": int(sys.byteorder == "big"),
        "step": pixels.strides[0],
    }


def write_jpeg(rgb: np.ndarray, encoding: str, quality: int) -> tuple[str, np.ndarray]:
    """(format of a CompressedImage, uint8 data) of a uint8 (H, W, 3) RGB image as JPEG of quality 1 to 100.

    `encoding`: the picture's own; the format names it as image_transport does, if that has 8 bits. Raises
    ImageError.
    """
    grey = encoding.startswith("mono")
    pixels = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY if grey else cv2.COLOR_RGB2BGR)
    done, data = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise ImageError(f"image of {rgb.shape[1]}x{rgb.shape[0]} pixels cannot be written as JPEG")
    named = encoding if encoding in ("rgb8", "bgr8") else "mono8" if grey else "rgb8"
    return f"{named}; jpeg compressed {'mono8' if grey else 'bgr8'}", data


def interleaved_picture(source: np.ndarray, encoding: str) -> Picture:
    """The picture of pixels (H, W, C) in one of INTERLEAVED's encodings, in either byte order."""
    pixels = INTERLEAVED[encoding]
    kind = encoding.rstrip("0123456789")
    image = np.ascontiguousarray(source) if pixels.depth == 1 else _eight_bits(source)
    rgb = image if kind == "rgb" else cv2.cvtColor(image, TO_RGB[kind])
    keep_source = pixels.depth == 2 or pixels.channels == 4
    return Picture(rgb, encoding, source if keep_source else None)


def _rows(message: Image, pixels: Pixels, height: int | None = None) -> np.ndarray:
    """The message's data as a view (height, W, C), whatever its padding and byte order."""
    height = message.height if height is None else height
    width, step = message.width, message.step
    row_bytes = width * pixels.channels * pixels.depth
    if height == 0 or width == 0:
        raise ImageError(
            f"image of {width}x{message.height} pixels is empty; the camera driver sends no picture"
        )
    check_size(message.height, width)
    if step < row_bytes:
        raise ImageError(
            f"step of {step} bytes is too short for {width} {message.encoding} pixels ({row_bytes} bytes)"
        )
    if len(message.data) < height * step:
        raise ImageError(
            f"{len(message.data)} bytes of data, but {message.encoding} of {width}x{message.height} with a "
            f"step of {step} needs {height * step}; the message was cut on its way or its fields are wrong"
        )
    byte_order: Literal[">", "<"] = ">" if message.is_bigendian else "<"
    return np.ndarray(
        (height, width, pixels.channels),
        pixels.dtype.newbyteorder(byte_order),
        buffer=message.data,
        strides=(step, pixels.channels * pixels.depth, pixels.depth),
    )


def _need_even(message: Image, *, rows: bool) -> None:
    if message.width % 2 or (rows and message.height % 2):
        raise ImageError(f"{message.encoding} of {message.width}x{message.height}: its pixels come in pairs")


def _eight_bits(image: np.ndarray) -> np.ndarray:
    """The upper 8 of 16 bits, contiguous."""
    return np.right_shift(image, 8, dtype=image.dtype.newbyteorder("=")).astype(np.uint8, order="C")


def _write_16_bits(picture: Picture, restored: np.ndarray) -> np.ndarray:
    kind = picture.encoding.rstrip("0123456789")
    change = restored.astype(np.int32) - picture.rgb
    if kind == "mono":
        change = cv2.cvtColor(restored, cv2.COLOR_RGB2GRAY).astype(np.int32)[..., None] - picture.rgb[..., :1]
    elif kind.startswith("bgr"):
        change = change[..., ::-1]
    assert picture.source is not None  # of 16 bits the source is kept
    written = picture.source.astype(np.uint16)
    colours = written[..., : change.shape[-1]]
    colours[...] = np.clip(colours + (change << 8), 0, 65535)
    return written
