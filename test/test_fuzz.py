"""Whatever a message holds, it is a picture or an ImageError: properties, searched for counterexamples.

A small share of the search runs with the tests, the whole of it with `make faults` (FUZZ_MESSAGES).
"""

from __future__ import annotations

import os

import numpy as np
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header
from test_image_header import ENCODED as KINDS

from rain_removal_ros.encodings import INTERLEAVED, SUPPORTED, Picture, read_compressed, write_image
from rain_removal_ros.errors import ImageError
from rain_removal_ros.ros.camera_topics import mismatch
from rain_removal_ros.ros.messages import image_message, read_image
from rain_removal_ros.runtime.sizes import is_taken

MESSAGES = int(os.environ.get("FUZZ_MESSAGES", "900"))
LONGEST_ERROR = 2500

searched = settings(
    max_examples=max(1, MESSAGES // 3),
    deadline=None,
    database=None,
    derandomize="FUZZ_MESSAGES" not in os.environ,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.generate, Phase.shrink),
)

uint32 = st.one_of(
    st.integers(0, 300),
    st.sampled_from([63, 64, 65, 4096, 4097, 100_000, 2**31, 2**32 - 1]),
    st.integers(0, 2**32 - 1),
)
side = st.one_of(st.integers(64, 200), uint32)
encodings = st.one_of(
    st.sampled_from([*SUPPORTED, "8UC3", "16UC1", "32FC1", "mono", "RGB8", "bayer_rggb12", "yuv444", ""]),
    st.text(max_size=30),
)
text = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=40)


@st.composite
def raw_messages(draw: st.DrawFn) -> Image:
    """Often nearly right, since what is plainly wrong is refused at the first look."""
    height, width, encoding = draw(side), draw(side), draw(encodings)
    layout = INTERLEAVED.get(encoding)
    per_pixel = layout.channels * layout.depth if layout else draw(st.sampled_from([1, 2, 3]))
    step = draw(st.one_of(st.just(width * per_pixel), st.just(width * per_pixel + 7), uint32)) & 0xFFFFFFFF
    rows = height * 3 // 2 if encoding.startswith("nv") else height
    length = draw(st.one_of(st.just(rows * step), st.just(rows * step - 1), st.integers(0, 5000)))
    seed = draw(st.integers(0, 255))
    message = Image(height=height, width=width, encoding=encoding, step=step)
    message.is_bigendian = draw(st.integers(0, 255))
    message.data.frombytes(bytes([seed]) * min(max(0, length), 1 << 20))
    return message


def check(picture: Picture) -> None:
    rgb = picture.rgb
    assert rgb.dtype == np.uint8 and rgb.ndim == 3 and rgb.shape[2] == 3 and rgb.flags.c_contiguous
    height, width = rgb.shape[:2]
    assert is_taken(height, width)
    written = write_image(picture, np.full_like(rgb, 7))
    layout = INTERLEAVED[picture.encoding]
    assert written.shape == (height, width, layout.channels) and written.dtype == layout.dtype
    message = image_message(written, picture.encoding, Header())
    assert len(message.data) == height * message.step


def check_error(error: ImageError) -> None:
    assert 10 < len(str(error)) < LONGEST_ERROR and str(error).isprintable()


@searched
@given(raw_messages())
def test_a_raw_message_is_a_picture_of_its_size_or_an_image_error(message):
    try:
        picture = read_image(message)
    except ImageError as error:
        check_error(error)
    else:
        assert picture.rgb.shape[:2] == (message.height, message.width)
        check(picture)


ENCODED = sorted({data for _, data in KINDS.values()})


@st.composite
def compressed_messages(draw: st.DrawFn) -> CompressedImage:
    """An image with some bytes changed, cut, or put in; or bytes at random."""
    data = bytearray(draw(st.sampled_from(ENCODED)))
    if draw(st.integers(0, 9)) == 0:
        data = bytearray(draw(st.binary(max_size=300)))
    for _ in range(draw(st.integers(0, 4))):
        place = draw(st.one_of(st.integers(0, 60), st.integers(0, len(data)))) % (len(data) + 1)
        patch = draw(st.binary(max_size=8))
        kind = draw(st.integers(0, 2))
        if kind == 0:
            data[place : place + len(patch)] = patch
        elif kind == 1:
            data[place:place] = patch
        else:
            del data[place : place + draw(st.integers(0, len(data)))]
    named = draw(st.one_of(encodings, st.just("bgr8")))
    ending = draw(
        st.sampled_from(["", "; jpeg compressed bgr8", "; png compressed rgb8", "; compressedDepth"])
    )
    message = CompressedImage(format=(named + ending).encode("utf-8", "replace").decode())
    message.data.frombytes(bytes(data))
    return message


@searched
@given(compressed_messages())
def test_a_compressed_message_is_a_picture_or_an_image_error(message):
    try:
        picture = read_compressed(message)
    except ImageError as error:
        check_error(error)
    else:
        check(picture)


@st.composite
def camera_infos(draw: st.DrawFn) -> CameraInfo:
    info = CameraInfo(height=draw(side), width=draw(side), binning_x=draw(uint32), binning_y=draw(uint32))
    info.roi.height, info.roi.width = draw(uint32), draw(uint32)
    info.header.frame_id = draw(text)
    return info


@searched
@given(camera_infos(), text, side, side)
def test_any_camera_info_fits_an_image_or_the_reason_can_be_printed(info, frame_id, height, width):
    reason = mismatch(info, Header(frame_id=frame_id), (height, width))
    assert reason is None or (reason.isprintable() and len(reason) < LONGEST_ERROR)
