"""Headers of encoded images: sizes as OpenCV decodes them, bombs and halves are told before decoding."""

from __future__ import annotations

import struct
import zlib

import cv2
import numpy as np
import pytest

from rain_removal_ros.errors import ImageError
from rain_removal_ros.image_header import check_header, read_header

IMAGE = np.random.default_rng(0).integers(0, 256, (70, 93, 3), np.uint8)


def encoded(suffix: str, image: np.ndarray = IMAGE, *options: int) -> bytes:
    done, data = cv2.imencode(suffix, image, list(options))
    assert done
    return data.tobytes()


def exif(orientation: int, order: str) -> bytes:
    """EXIF data that say nothing but how the camera was held."""
    head = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(order + "I", 8)
    return head + struct.pack(order + "HHHIHHI", 1, 274, 3, 1, orientation, 0, 0)


def jpeg_with_exif(orientation: int, order: str = ">", padding: bytes = b"") -> bytes:
    data, content = encoded(".jpg"), b"Exif\0\0" + exif(orientation, order)
    return data[:2] + padding + b"\xff\xe1" + struct.pack(">H", 2 + len(content)) + content + data[2:]


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_that_declares(width: int, height: int) -> bytes:
    """A small file of black pixels that unpacks to this size."""
    rows = zlib.compressobj()
    row = bytes(1 + width)
    pixels = b"".join(rows.compress(row) for _ in range(height)) + rows.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", header)
        + png_chunk(b"IDAT", pixels)
        + png_chunk(b"IEND", b"")
    )


def big_tiff(place: int = 16) -> bytes:
    """IMAGE in a TIFF whose places have 64 bits, its directory said to be at `place`."""
    pixels = np.ascontiguousarray(IMAGE[..., ::-1]).tobytes()
    bits = struct.unpack("<Q", struct.pack("<HHHH", 8, 8, 8, 0))[0]
    tags = [(256, 16, 1, 93), (257, 16, 1, 70), (258, 3, 3, bits), (259, 3, 1, 1), (262, 3, 1, 2)]
    begin = 16 + 8 + 20 * (len(tags) + 4) + 8
    tags += [(273, 16, 1, begin), (277, 3, 1, 3), (278, 4, 1, 70), (279, 16, 1, len(pixels))]
    entries = b"".join(struct.pack("<HHQQ", *tag) for tag in tags)
    head = b"II+\0" + struct.pack("<HHQ", 8, 0, place)
    return head + struct.pack("<Q", len(tags)) + entries + bytes(8) + pixels


ENCODED = {
    "png": ("png", encoded(".png")),
    "gray png": ("png", encoded(".png", IMAGE[..., 0])),
    "png with alpha": ("png", encoded(".png", np.dstack([IMAGE, IMAGE[..., :1]]))),
    "png of 16 bits": ("png", encoded(".png", IMAGE.astype(np.uint16) * 257)),
    "jpeg": ("jpeg", encoded(".jpg")),
    "gray jpeg": ("jpeg", encoded(".jpg", IMAGE[..., 0])),
    "progressive jpeg": ("jpeg", encoded(".jpg", IMAGE, cv2.IMWRITE_JPEG_PROGRESSIVE, 1)),
    "jpeg with restarts": ("jpeg", encoded(".jpg", IMAGE, cv2.IMWRITE_JPEG_RST_INTERVAL, 2)),
    "jpeg with EXIF": ("jpeg", jpeg_with_exif(1)),
    "jpeg with padded markers": ("jpeg", jpeg_with_exif(1, padding=b"\xff\xff")),
    "bmp": ("bmp", encoded(".bmp")),
    "webp": ("webp", encoded(".webp", IMAGE, cv2.IMWRITE_WEBP_QUALITY, 80)),
    "lossless webp": ("webp", encoded(".webp", IMAGE, cv2.IMWRITE_WEBP_QUALITY, 101)),
    "webp with alpha": ("webp", encoded(".webp", np.dstack([IMAGE, IMAGE[..., :1]]))),
    "tiff": ("tiff", encoded(".tif")),
    "tiff of 16 bits": ("tiff", encoded(".tif", IMAGE.astype(np.uint16) * 257)),
    "tiff of 64-bit places": ("tiff", big_tiff()),
}


@pytest.mark.parametrize("name", ENCODED)
@pytest.mark.parametrize("kind", [bytes, memoryview, lambda data: memoryview(np.frombuffer(data, np.uint8))])
def test_a_header_says_what_decoding_gives(name, kind):
    file_format, data = ENCODED[name]
    header = read_header(kind(data))
    decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    assert (header.height, header.width) == decoded.shape[:2] == IMAGE.shape[:2]
    assert header.format == file_format
    assert header.orientation == 1
    assert header.complete
    assert check_header(kind(data)) == header


def big_endian_tiff() -> bytes:
    tags = [(256, 4, 93), (257, 4, 70), (258, 3, 8 << 16), (274, 3, 6 << 16)]
    entries = b"".join(struct.pack(">HHII", tag, kind, 1, value) for tag, kind, value in tags)
    return b"MM\0*" + struct.pack(">I", 8) + struct.pack(">H", len(tags)) + entries + bytes(4)


def test_tiffs_of_either_byte_order_are_read():
    header = read_header(big_endian_tiff())
    assert (header.width, header.height, header.orientation) == (93, 70, 6)


@pytest.mark.parametrize("place", [2**31, 2**63 - 1, 2**63, 2**64 - 1])
def test_a_directory_far_behind_the_end_is_an_image_that_ends_early(place):
    with pytest.raises(ImageError, match="ends within its header"):
        read_header(big_tiff(place))


def test_a_bitmap_from_top_to_bottom_and_one_of_the_oldest_kind_are_read():
    data = bytearray(encoded(".bmp"))
    data[22:26] = struct.pack("<i", -70)
    assert read_header(data).height == 70
    old = b"BM" + struct.pack("<IHHI", 26, 0, 0, 25) + struct.pack("<IHHHH", 12, 93, 70, 1, 24)
    assert (read_header(old).width, read_header(old).height) == (93, 70)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("order", ["<", ">"])
def test_the_orientation_of_a_camera_is_read(orientation, order):
    assert read_header(jpeg_with_exif(orientation, order)).orientation == orientation
    data = encoded(".png")
    with_exif = data[:33] + png_chunk(b"eXIf", exif(orientation, order)) + data[33:]
    assert read_header(with_exif).orientation == orientation


@pytest.mark.parametrize(
    "content", [exif(9, "<"), exif(0, ">"), b"II*\0", b"", b"II*\0" + b"\xff" * 30, b"II+\0" + b"\xff" * 30]
)
def test_senseless_exif_data_do_not_lose_a_picture(content):
    data, content = encoded(".jpg"), b"Exif\0\0" + content
    framed = data[:2] + b"\xff\xe1" + struct.pack(">H", 2 + len(content)) + content + data[2:]
    assert read_header(framed).orientation == 1


def test_a_bomb_is_refused_by_its_header_alone(monkeypatch):
    bomb = png_that_declares(20_000, 20_000)
    assert len(bomb) < 1_200_000
    monkeypatch.setattr(cv2, "imdecode", None)
    with pytest.raises(ImageError, match="image of 20000x20000 pixels"):
        check_header(bomb)


@pytest.mark.parametrize("name", ["png", "jpeg", "progressive jpeg", "webp"])
def test_half_an_image_is_told_from_a_whole_one(name):
    data = ENCODED[name][1]
    half = data[: len(data) * 2 // 3]
    assert not read_header(half).complete
    with pytest.raises(ImageError, match=f"{len(half)} bytes ends early"):
        check_header(half)


def test_a_picture_of_a_camera_with_bytes_after_its_end_is_whole():
    for name in ("jpeg", "png", "webp"):
        assert check_header(ENCODED[name][1] + b"trailing" * 9).complete


@pytest.mark.parametrize("name", ENCODED)
def test_however_a_header_is_cut_or_damaged_it_is_an_image_error_or_a_size(name):
    data = ENCODED[name][1]
    generator = np.random.default_rng(0)
    variants = [data[:length] for length in range(64)]
    for _ in range(300):
        changed = bytearray(data[:2048])
        for place in generator.integers(0, min(64, len(changed)), 3):
            changed[place] = generator.integers(256)
        variants.append(bytes(changed))
    for variant in variants:
        try:
            header = read_header(variant)
        except ImageError:
            continue
        assert header.width > 0 and header.height > 0


@pytest.mark.parametrize("data", [b"", b"P6 5 5 255", b"GIF89a" + bytes(50), bytes(100)])
def test_other_formats_are_refused_with_those_that_are_taken(data):
    with pytest.raises(ImageError, match="no data" if not data else "PNG, JPEG, BMP, WebP and TIFF"):
        read_header(data)


def jpeg_segment(marker: int, content: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", 2 + len(content)) + content


def jpeg_of_scans(scans: int) -> bytes:
    """A grey progressive JPEG whose every scan goes over the whole of 3840x2160 pixels, in twenty bytes."""
    frame = struct.pack(">BHHB", 8, 2160, 3840, 1) + b"\x01\x11\x00"
    scan = jpeg_segment(0xDA, b"\x01\x01\x00\x01\x3f\x00") + b"\x00" * 10
    return b"\xff\xd8" + jpeg_segment(0xC2, frame) + scans * scan + b"\xff\xd9"


def small_tiff_in_tiles(side: int, width: int = 64, height: int = 64) -> bytes:
    tags = [(256, 3, 1, width), (257, 3, 1, height), (322, 3, 1, side), (323, 3, 1, side)]
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + struct.pack("<I", 0)


@pytest.mark.parametrize(
    ("tags", "said"),
    [
        ({258: 16, 262: 0}, "16 bits whose 0 is white; save it with 0 as black"),
        ({258: 16, 262: 2, 277: 3, 284: 2}, "16 bits with a plane for each colour; save it"),
        ({258: 8, 262: 1, 277: 2, 338: 2}, "grey and alpha; save it without"),
        ({258: 8, 262: 0}, None),
        ({258: 8, 262: 2, 277: 3, 284: 2}, None),
        ({258: 16, 262: 1, 277: 1, 284: 2}, None),
    ],
)
def test_a_tiff_that_opencv_would_misread_is_refused_with_what_to_do(tags, said):
    values = {256: 64, 257: 64, **tags}
    entries = b"".join(struct.pack("<HHIHH", tag, 3, 1, value, 0) for tag, value in values.items())
    data = b"II*\0" + struct.pack("<IH", 8, len(values)) + entries + bytes(4)
    if said is None:
        assert read_header(data).width == 64
    else:
        with pytest.raises(ImageError, match=said):
            read_header(data)


TIRING = {
    "a JPEG of 8,000 scans": (jpeg_of_scans(8_000), "more than 100 scans"),
    "a JPEG of empty segments": (b"\xff\xd8" + b"\xff\xfe\0\2" * 600_000 + b"\xff\xd9", "no scan within"),
    "a JPEG of padding": (b"\xff\xd8" + b"\xff" * 3_000_000, "ends within its header"),
    "a PNG of empty texts": (
        encoded(".png")[:33] + 200_000 * png_chunk(b"tEXt", b"") + encoded(".png")[33:],
        "more than 1024 chunks, 1024 of them without pixels",
    ),
    "a PNG of empty pixels": (
        encoded(".png")[:33] + 600_000 * png_chunk(b"IDAT", b"") + encoded(".png")[33:],
        "more than 65536 chunks",
    ),
    "a TIFF in one tile of millions": (small_tiff_in_tiles(8192), "64x64 pixels in tiles of 8192x8192"),
}


@pytest.mark.parametrize("what", TIRING)
def test_a_small_message_that_would_keep_a_decoder_busy_for_long_is_refused(monkeypatch, what):
    monkeypatch.setattr(cv2, "imdecode", lambda *arguments: pytest.fail("it was decoded"))
    data, said = TIRING[what]
    with pytest.raises(ImageError, match=said):
        check_header(data)


def test_progressive_pictures_tiles_and_texts_as_they_are_used_are_taken():
    progressive = encoded(".jpg", IMAGE, cv2.IMWRITE_JPEG_PROGRESSIVE, 1)
    assert 2 < progressive.count(b"\xff\xda") < 20
    texts = encoded(".png")[:33] + 500 * png_chunk(b"tEXt", b"a\0b") + encoded(".png")[33:]
    for data in (progressive, texts):
        assert (check_header(data).width, check_header(data).height) == (93, 70)
    for side, width, height in ((256, 64, 64), (1248, 1242, 375), (2048, 1280, 720)):
        assert read_header(small_tiff_in_tiles(side, width, height)).width == width


@pytest.mark.parametrize(
    "options", [(), (cv2.IMWRITE_JPEG_PROGRESSIVE, 1), (cv2.IMWRITE_JPEG_RST_INTERVAL, 2)]
)
def test_what_a_camera_appends_to_a_picture_is_not_looked_at(options):
    data = encoded(".jpg", IMAGE, *options)
    film = 200 * b"\xff\xda" + np.random.default_rng(1).bytes(1 << 20)
    assert check_header(data + film).complete
    for cut in range(1, len(data) - 700, 97):
        with pytest.raises(ImageError, match="ends early"):
            check_header(data[: -1 - cut] + film[:0])
