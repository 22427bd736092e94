"""Image messages become RGB arrays and come back in the encoding they had."""

from __future__ import annotations

import sys

import cv2
import numpy as np
import pytest
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header

from rain_removal_ros import decoding
from rain_removal_ros.encodings import INTERLEAVED, MOSAICS, read_compressed, write_image
from rain_removal_ros.errors import ImageError
from rain_removal_ros.ros import messages
from rain_removal_ros.ros.messages import camera_info_message, image_message, read_image

HEIGHT, WIDTH = 67, 91  # odd on purpose


def colours(height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """A smooth uint8 (H, W, 3) RGB image with three different channels."""
    rows, columns = np.mgrid[0:height, 0:width]
    return np.stack([rows * 2 + 20, columns + 60, 200 - rows - columns], axis=-1).astype(np.uint8)


def encode(rgb: np.ndarray, encoding: str) -> np.ndarray:
    """The image as (H, W, C) in an interleaved encoding; alpha varies, and 16 bits have lower bits too."""
    layout = INTERLEAVED[encoding]
    kinds = {"rgb": [0, 1, 2], "bgr": [2, 1, 0], "rgba": [0, 1, 2, 0], "bgra": [2, 1, 0, 0], "mono": [1]}
    channels = kinds[encoding.rstrip("0123456789")]
    image = rgb[..., channels].astype(layout.dtype)
    if layout.depth == 2:
        image = (image << 8) + np.arange(rgb.shape[1], dtype=np.uint16)[:, None]
    if layout.channels == 4:
        image[..., 3] = np.arange(rgb.shape[0])[:, None] * 3
    return image


def message_of(
    image: np.ndarray, encoding: str, padding: int = 0, big_endian: bool = False, height: int | None = None
) -> Image:
    """An Image of these pixels, (H, W, C), with `padding` bytes after each row."""
    ordered = image.astype(image.dtype.newbyteorder(">" if big_endian else "<"))
    rows = ordered.reshape(image.shape[0], -1).view(np.uint8)
    rows = np.pad(rows, ((0, 0), (0, padding)), constant_values=77)
    message = Image(
        height=image.shape[0] if height is None else height,
        width=image.shape[1],
        encoding=encoding,
        step=rows.shape[1],
        is_bigendian=int(big_endian),
    )
    message.data.frombytes(rows.tobytes())
    return message


def pixels_of(message: Image) -> np.ndarray:
    layout = INTERLEAVED[message.encoding]
    return np.frombuffer(message.data, layout.dtype).reshape(message.height, message.width, layout.channels)


@pytest.mark.parametrize("big_endian", [False, True])
@pytest.mark.parametrize("padding", [0, 13])
@pytest.mark.parametrize("encoding", INTERLEAVED)
def test_an_unchanged_image_comes_back_as_it_came(encoding, padding, big_endian):
    image = encode(colours(), encoding)
    padding += padding % INTERLEAVED[encoding].depth
    picture = read_image(message_of(image, encoding, padding, big_endian))
    expected = colours()[..., [1, 1, 1]] if encoding.startswith("mono") else colours()
    np.testing.assert_array_equal(picture.rgb, expected)
    assert picture.rgb.flags.c_contiguous and picture.rgb.dtype == np.uint8
    written = image_message(
        write_image(picture, picture.rgb.copy()), picture.encoding, Header(frame_id="lens")
    )
    np.testing.assert_array_equal(pixels_of(written), image)
    assert written.encoding == encoding
    assert (written.width, written.height) == (WIDTH, HEIGHT)
    assert written.step == WIDTH * INTERLEAVED[encoding].channels * INTERLEAVED[encoding].depth
    assert written.is_bigendian == (sys.byteorder == "big")
    assert written.header.frame_id == "lens"


@pytest.mark.parametrize("encoding", INTERLEAVED)
def test_what_the_network_changed_reaches_the_output(encoding):
    image = encode(colours(), encoding)
    picture = read_image(message_of(image, encoding))
    restored = picture.rgb - 10
    written = write_image(picture, restored)
    layout = INTERLEAVED[encoding]
    coloured = slice(0, 3) if layout.channels >= 3 else slice(0, 1)
    change = written[..., coloured].astype(int) - image[..., coloured]
    assert (change == -10 * (1 if layout.depth == 1 else 256)).all()
    if layout.channels == 4:
        np.testing.assert_array_equal(written[..., 3], image[..., 3])


def test_the_pixels_of_an_rgb_image_without_padding_are_viewed_not_copied():
    message = message_of(colours(), "rgb8")
    picture = read_image(message)
    message.data[0] = 99
    assert picture.rgb[0, 0, 0] == 99


def test_a_16_bit_image_is_clipped_where_the_change_passes_its_range():
    picture = read_image(message_of(np.full((64, 64, 1), 65_300, np.uint16), "mono16"))
    assert (write_image(picture, np.full((64, 64, 3), 255, np.uint8)) == 65_300).all()
    dark = read_image(message_of(np.full((64, 64, 1), 0x0580, np.uint16), "mono16"))
    assert (write_image(dark, np.zeros((64, 64, 3), np.uint8)) == 0x80).all()
    bright = read_image(message_of(np.full((64, 64, 1), 0x05FF, np.uint16), "mono16"))
    assert (write_image(bright, np.full((64, 64, 3), 255, np.uint8)) == 0xFFFF).all()


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("pattern", MOSAICS)
def test_a_bayer_mosaic_gives_its_colours(pattern, bits):
    colour = {"r": 200, "g": 120, "b": 40}
    mosaic = np.zeros((64, 96, 1), np.uint8 if bits == 8 else np.uint16)
    for index, letter in enumerate(pattern):
        mosaic[index // 2 :: 2, index % 2 :: 2] = colour[letter] * (1 if bits == 8 else 257)
    picture = read_image(message_of(mosaic, f"bayer_{pattern}{bits}", padding=6))
    assert (picture.rgb == (200, 120, 40)).all()
    assert picture.encoding == f"rgb{bits}"


@pytest.mark.parametrize(
    ("encoding", "order"), [("yuv422", "uyvy"), ("uyvy", "uyvy"), ("yuv422_yuy2", "yuyv"), ("yuyv", "yuyv")]
)
def test_packed_yuv_gives_its_colours(encoding, order):
    level = {"y": 145, "u": 54, "v": 34}  # green, BT.601 in video range
    packed = np.zeros((64, 96, 2), np.uint8)
    packed.reshape(64, -1)[:] = [level[letter] for letter in order] * 48
    picture = read_image(message_of(packed, encoding, padding=10))
    np.testing.assert_allclose(picture.rgb.reshape(-1, 3), [[0, 255, 0]] * (64 * 96), atol=3)
    assert picture.encoding == "rgb8"


@pytest.mark.parametrize(("encoding", "order"), [("nv12", (54, 34)), ("nv21", (34, 54))])
def test_planar_yuv_gives_its_colours(encoding, order):
    planes = np.full((96, 96, 1), 145, np.uint8)
    planes[64:].reshape(32, -1)[:] = order * 48
    picture = read_image(message_of(planes, encoding, padding=4, height=64))
    np.testing.assert_allclose(picture.rgb.reshape(-1, 3), [[0, 255, 0]] * (64 * 96), atol=3)
    assert picture.rgb.shape == (64, 96, 3)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"encoding": "purple8"}, "encoding 'purple8' is not known; known are rgb8"),
        ({"encoding": ""}, "encoding '' is not known"),
        ({"encoding": "8UC3"}, "does not say what its numbers mean"),
        ({"encoding": "bayer_rggb12"}, "is not known"),
        ({"height": 0}, "is empty"),
        ({"width": 0}, "is empty"),
        ({"step": WIDTH * 3 - 1}, "step of 272 bytes is too short"),
        ({"height": HEIGHT + 1}, "needs 18564"),
        ({"encoding": "bgra8"}, "too short"),
        ({"encoding": "uyvy"}, "pixels come in pairs"),
    ],
)
def test_an_image_that_is_not_what_it_claims_is_refused_with_the_reason(change, reason):
    message = message_of(colours(), "rgb8")
    for name, value in change.items():
        setattr(message, name, value)
    with pytest.raises(ImageError, match=reason):
        read_image(message)


def compressed(extension: str, format_: str, image: np.ndarray | None = None) -> CompressedImage:
    rgb = colours() if image is None else image
    stored = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR) if rgb.ndim == 3 else rgb
    data = cv2.imencode(extension, stored)[1].tobytes()
    message = CompressedImage(format=format_)
    message.data.frombytes(data)
    return message


@pytest.mark.parametrize(
    ("format_", "encoding"),
    [
        ("bgr8; jpeg compressed bgr8", "bgr8"),
        ("rgb8; jpeg compressed bgr8", "rgb8"),
        ("mono8; jpeg compressed mono8", "mono8"),
        ("jpeg", "rgb8"),
        ("bayer_rggb8; jpeg compressed bgr8", "rgb8"),
    ],
)
def test_a_compressed_image_is_published_in_the_encoding_that_its_format_names(format_, encoding):
    picture = read_compressed(compressed(".jpg", format_))
    assert picture.encoding == encoding
    np.testing.assert_allclose(picture.rgb.astype(int), colours(), atol=12)


def test_a_png_comes_through_without_loss():
    np.testing.assert_array_equal(read_compressed(compressed(".png", "rgb8; png compressed")).rgb, colours())


@pytest.mark.parametrize("extension", [".jpg", ".png"])
@pytest.mark.parametrize("kept", [0, 2, 0.5, 0.98])
def test_compressed_data_that_ends_early_is_refused(extension, kept):
    message = compressed(extension, "rgb8; compressed")
    length = kept if isinstance(kept, int) else int(kept * len(message.data))
    message.data = message.data[:length]
    with pytest.raises(ImageError, match=r"no data|ends early|cannot be decoded|no image of a known format"):
        read_compressed(message)


def test_opencv_writes_nothing_of_a_damaged_image(capfd):
    data = cv2.imencode(".bmp", np.zeros((64, 64, 3), np.uint8))[1]
    data[14] = 13  # no header is so long
    with pytest.raises(ImageError):
        decoding.decode(data.tobytes())
    assert capfd.readouterr() == ("", "")


def test_compressed_data_that_is_no_image_is_refused():
    message = CompressedImage(format="jpeg")
    message.data.frombytes(bytes(range(256)) * 20)
    with pytest.raises(ImageError, match="no image of a known format"):
        read_compressed(message)
    with pytest.raises(ImageError, match="depth image"):
        read_compressed(CompressedImage(format="16UC1; compressedDepth png"))


def test_an_image_message_takes_floats_and_views():
    depth = np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4)
    message = image_message(depth, "32FC1", Header())
    np.testing.assert_array_equal(np.frombuffer(message.data, np.float32).reshape(3, 4), depth)
    assert message.step == 16
    mirrored = image_message(depth[:, ::-1], "32FC1", Header())
    np.testing.assert_array_equal(np.frombuffer(mirrored.data, np.float32).reshape(3, 4), depth[:, ::-1])


def test_camera_info_gets_the_images_header_and_keeps_everything_else():
    info = CameraInfo(height=720, width=1280, distortion_model="plumb_bob", d=[0.1, 0.2], k=[1.0] * 9)
    header = Header(frame_id="lens")
    stamped = camera_info_message(info, header)
    assert stamped.header == header and info.header.frame_id == ""
    stamped.header = info.header
    assert stamped == info
    info.header = header
    assert camera_info_message(info, header) is info


@pytest.mark.parametrize("pattern", ["rggb", "bggr", "gbrg", "grbg"])
def test_a_16_bit_mosaic_reads_alike_in_either_byte_order(pattern):
    mosaic = np.random.default_rng(0).integers(0, 1 << 16, (72, 96), np.uint16)
    pictures = []
    for big in (False, True):
        message = Image(height=72, width=96, step=192, encoding=f"bayer_{pattern}16", is_bigendian=big)
        message.data.frombytes(mosaic.astype(">u2" if big else "<u2").tobytes())
        pictures.append(read_image(message))
    np.testing.assert_array_equal(pictures[0].rgb, pictures[1].rgb)
    np.testing.assert_array_equal(pictures[0].source, pictures[1].source)
    flat = Image(height=72, width=96, step=192, encoding=f"bayer_{pattern}16", is_bigendian=1)
    flat.data.frombytes(np.full((72, 96), 0x1200, ">u2").tobytes())
    assert (read_image(flat).rgb == 0x12).all() and (read_image(flat).source == 0x1200).all()


@pytest.mark.parametrize("pattern", ["rggb", "bggr", "gbrg", "grbg"])
def test_a_compressed_mosaic_is_a_colour_image_and_no_checkerboard(pattern):
    mosaic = np.zeros((72, 96), np.uint8)
    for place, colour in zip(((0, 0), (0, 1), (1, 0), (1, 1)), pattern, strict=True):
        mosaic[place[0] :: 2, place[1] :: 2] = {"r": 200, "g": 120, "b": 40}[colour]
    picture = read_compressed(compressed(".png", f"bayer_{pattern}8; png compressed ", mosaic))
    assert picture.encoding == "rgb8"
    assert (picture.rgb[2:-2, 2:-2] == (200, 120, 40)).all()


def test_a_mosaic_that_was_made_grey_before_compression_stays_grey():
    grey = np.ascontiguousarray(colours()[..., 0])
    picture = read_compressed(compressed(".png", "bayer_rggb8; jpeg compressed mono8", grey))
    np.testing.assert_array_equal(picture.rgb, np.repeat(grey[..., None], 3, axis=2))


class Bridge:
    """Stands in for cv_bridge: knows one encoding more, and trusts what a message says of its size."""

    def imgmsg_to_cv2(self, message, encoding):
        if message.encoding != "purple8":
            raise BridgeError("not known")
        return np.frombuffer(message.data, np.uint8).reshape(message.height, message.width, 3)


class BridgeError(TypeError):
    pass


def test_what_only_cv_bridge_reads_is_checked_too(monkeypatch):
    monkeypatch.setattr(messages, "CvBridge", Bridge)
    monkeypatch.setattr(messages, "CvBridgeError", BridgeError, raising=False)
    message = message_of(colours(), "rgb8")
    message.encoding = "purple8"
    np.testing.assert_array_equal(messages.read_image(message).rgb, colours())
    message.data = message.data[:-1]
    with pytest.raises(ImageError, match="bytes are too few"):
        messages.read_image(message)
    message = message_of(colours(), "rgb8")
    message.encoding, message.width = "purple8", message.width + 1
    with pytest.raises(ImageError, match="purple8"):
        messages.read_image(message)
    message.encoding = "blue8"
    with pytest.raises(ImageError, match="blue8"):
        messages.read_image(message)


def test_data_that_are_said_to_be_rgb_have_their_colours_in_their_places():
    swapped = np.ascontiguousarray(colours()[..., ::-1])
    picture = read_compressed(compressed(".png", "rgb8; png compressed rgb8", swapped))
    np.testing.assert_array_equal(picture.rgb, colours())


BOMBS = {"png": ".png", "jpeg": ".jpg", "bmp": ".bmp"}


@pytest.mark.parametrize("kind", BOMBS)
def test_a_small_file_that_declares_a_huge_image_is_refused_before_it_is_decoded(kind, monkeypatch):
    data = bytearray(cv2.imencode(BOMBS[kind], np.zeros((64, 64, 3), np.uint8))[1].tobytes())
    side = 30_000
    if kind == "png":
        data[16:24] = side.to_bytes(4, "big") * 2
    elif kind == "bmp":
        data[18:26] = side.to_bytes(4, "little") * 2
    else:
        frame = data.index(b"\xff\xc0") + 5
        data[frame : frame + 4] = side.to_bytes(2, "big") * 2
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("it was decoded"))
    message = CompressedImage(format="jpeg")
    message.data.frombytes(bytes(data))
    with pytest.raises(ImageError, match="30000x30000"):
        read_compressed(message)


def test_a_raw_image_larger_than_any_network_takes_is_refused_before_it_is_converted():
    message = Image(height=100_000, width=100_000, step=100_000, encoding="bayer_rggb8")
    with pytest.raises(ImageError, match=r"100000x100000 pixels; images .* are taken"):
        read_image(message)


def test_text_of_a_message_is_told_short_and_printable():
    wild = "\x1b[31m\0\n" + "purple" * 200_000
    for call in (
        lambda: read_image(Image(height=72, width=96, step=288, encoding=wild)),
        lambda: read_compressed(CompressedImage(format=wild)),
    ):
        with pytest.raises(ImageError) as caught:
            call()
        assert len(str(caught.value)) < 1500 and str(caught.value).isprintable()
