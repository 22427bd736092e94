"""`derain image` and `derain video` from end to end with a small network, and what they say of files that are
no good.
"""

from __future__ import annotations

import errno
import os
import re
import resource
import signal
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from runtime_fixtures import street_like, write_weights

from rain_removal_ros.commands.main import main
from rain_removal_ros.decoding import TURNS
from rain_removal_ros.errors import BackendError, ImageError, OutputError, ParameterError
from rain_removal_ros.files.embedded import (
    COMMENTS,
    EXIF,
    IPTC,
    MORE_XMP,
    PICTURES,
    PRIMARIES,
    PROFILE,
    RESOLUTION,
    XMP,
    held_in,
)
from rain_removal_ros.files.images import plan, read_image, read_image_file, write_image, write_image_file
from rain_removal_ros.files.video import COPIED_SOUND, Look, TimedFrame, VideoSink, VideoSource
from rain_removal_ros.image_header import read_header
from rain_removal_ros.runtime import Output, RuntimeSettings, create_restorer
from rain_removal_ros.runtime.pytorch import TorchCpuRestorer

HEIGHT, WIDTH = 72, 96


@pytest.fixture(scope="module")
def options(tmp_path_factory) -> list[str]:
    folder = tmp_path_factory.mktemp("files")
    weights = write_weights(folder / "fast.safetensors")
    return ["--weights", str(weights), "--backend", "torch-cpu", "--cache-dir", str(folder / "cache")]


@pytest.fixture(scope="module")
def restore(options):
    """The network of `options` as a function, to compare what the commands write with."""
    settings = RuntimeSettings(backend="torch-cpu", weights=Path(options[1]), cache_dir=Path(options[5]))
    restorer = create_restorer(settings)
    yield lambda image: restorer(image, (Output.IMAGE,)).image
    restorer.close()


def run(*arguments) -> int:
    return main([str(argument) for argument in arguments])


def picture(path: Path, seed: int = 0) -> np.ndarray:
    """Write a PNG and give its pixels."""
    image = street_like(HEIGHT, WIDTH, seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_image(path, image)
    return image


def test_an_image_is_restored_by_the_network(tmp_path, options, restore, capsys):
    image = picture(tmp_path / "in.png")
    assert run("image", tmp_path / "in.png", tmp_path / "out" / "dry.png", *options) == 0
    result = read_image(tmp_path / "out" / "dry.png")
    assert (result != image).any()
    assert (result == restore(image)).all()
    assert "1 of 1 images restored" in capsys.readouterr().out


def test_several_files_and_folders_keep_their_names(tmp_path, options):
    picture(tmp_path / "a.png")
    picture(tmp_path / "drive" / "b.png")
    picture(tmp_path / "drive" / "left" / "c.jpg")
    (tmp_path / "drive" / "notes.txt").write_text("no image")
    assert run("image", tmp_path / "a.png", tmp_path / "drive", tmp_path / "out", *options) == 0
    found = sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.*"))
    assert found == ["a.png", "b.png", "left/c.jpg"]
    assert read_image(tmp_path / "out" / "left" / "c.jpg").shape == (HEIGHT, WIDTH, 3)


def test_a_file_that_fails_is_named_and_the_rest_goes_on(tmp_path, options, capsys):
    picture(tmp_path / "in" / "b.png")
    (tmp_path / "in" / "a.png").write_bytes(b"damaged")
    write_image(tmp_path / "in" / "c.png", np.zeros((20, 30, 3), np.uint8))
    (tmp_path / "in" / "d.jpg").touch()
    assert run("image", tmp_path / "in", tmp_path / "out", *options) == 1
    printed = capsys.readouterr()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["b.png"]
    assert "1 of 4 images restored" in printed.out
    for text in (
        "a.png: data of 7 bytes are no image",
        "c.png: image of 30x20",
        "d.jpg: image holds no data",
    ):
        assert text in printed.err


def test_an_output_may_lie_in_the_folder_of_its_inputs(tmp_path, options):
    picture(tmp_path / "a.png")
    for _ in range(2):  # the second time, the results of the first are no inputs
        assert run("image", tmp_path, tmp_path / "dry", *options) == 0
    assert [path.name for path in (tmp_path / "dry").rglob("*.*")] == ["a.png"]


def test_inputs_are_never_overwritten(tmp_path, options, capsys):
    image = picture(tmp_path / "a.png")
    (tmp_path / "link.png").symlink_to(tmp_path / "a.png")
    for arguments in (
        (tmp_path / "a.png", tmp_path),
        (tmp_path / "a.png", tmp_path / "a.png"),
        (tmp_path / "a.png", tmp_path / "link.png"),
        (tmp_path, tmp_path),
    ):
        assert run("image", *arguments, *options) == 1
        assert "choose another output" in capsys.readouterr().err
    assert (read_image(tmp_path / "a.png") == image).all()


def test_a_plan_that_cannot_be_is_refused(tmp_path):
    picture(tmp_path / "one" / "a.png")
    picture(tmp_path / "two" / "a.png")
    with pytest.raises(ParameterError, match="would both be written"):
        plan([tmp_path / "one" / "a.png", tmp_path / "two"], tmp_path / "out")
    with pytest.raises(ParameterError, match=r"none\.png does not exist"):
        plan([tmp_path / "none.png"], tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ParameterError, match="no images in"):
        plan([tmp_path / "empty"], tmp_path / "out")
    (tmp_path / "out.png").touch()
    with pytest.raises(ParameterError, match=r"out\.png is a file"):
        plan([tmp_path / "one"], tmp_path / "out.png")
    with pytest.raises(ParameterError, match=r"cannot be read \(File name too long\)"):
        plan([tmp_path / ("a" * 300 + ".png")], tmp_path / "out")


def test_what_of_a_folder_is_left_out_is_told_and_hidden_files_are_not_looked_at(tmp_path, options, capsys):
    picture(tmp_path / "in" / "a.png")
    for name in ("b.HEIC", "left/c.heic", "notes", "._a.png", ".thumbnails/a.png"):
        (tmp_path / "in" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "in" / name).touch()
    assert run("image", tmp_path / "in", tmp_path / "out", *options) == 0
    printed = capsys.readouterr()
    assert "1 of 1 images restored" in printed.out
    assert f"3 files in {tmp_path / 'in'} are left out (1 without a suffix, 2 .heic)" in printed.err


def test_a_folder_that_cannot_be_read_is_named_before_the_work(tmp_path, monkeypatch):
    picture(tmp_path / "a.png")
    (tmp_path / "closed").mkdir()
    scan = os.scandir

    def refuse(path):
        if Path(path).name == "closed":
            raise OSError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(ParameterError, match=r"closed cannot be read \(Permission denied\)"):
        plan([tmp_path], tmp_path / "out")


def test_images_are_turned_upright_and_grey_ones_get_colour(tmp_path):
    image = cv2.merge([np.full((40, 60), value, np.uint8) for value in (20, 120, 220)])
    jpeg = cv2.imencode(".jpg", image)[1].tobytes()
    # orientation 6: a quarter turn
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    (tmp_path / "turned.jpg").write_bytes(
        jpeg[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + jpeg[2:]
    )
    upright = read_image(tmp_path / "turned.jpg")
    assert upright.shape == (60, 40, 3)
    assert np.abs(upright[30, 20].astype(int) - [220, 120, 20]).max() < 4  # RGB
    cv2.imwrite(str(tmp_path / "grey.png"), np.full((40, 60), 7, np.uint8))
    assert read_image(tmp_path / "grey.png").shape == (40, 60, 3)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_turned_as_opencv_turns_it(tmp_path, orientation):
    jpeg = cv2.imencode(".jpg", street_like(70, 90))[1].tobytes()
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0" + bytes([orientation]) + bytes(6)
    turned = jpeg[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + jpeg[2:]
    (tmp_path / "turned.jpg").write_bytes(turned)
    image = read_image_file(tmp_path / "turned.jpg")
    expected = cv2.imread(str(tmp_path / "turned.jpg"))[..., ::-1]
    np.testing.assert_array_equal(image.picture.rgb, expected)
    write_image_file(tmp_path / "again.jpg", image, image.picture.rgb)
    again = read_header((tmp_path / "again.jpg").read_bytes())
    assert (again.orientation, again.height, again.width) == (1, *expected.shape[:2])


KINDS = {
    "grey": street_like(HEIGHT, WIDTH)[..., 0],
    "colour": street_like(HEIGHT, WIDTH),
    "transparent": np.dstack([street_like(HEIGHT, WIDTH), street_like(HEIGHT, WIDTH, 1)[..., 0]]),
}


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("kind", KINDS)
def test_an_image_keeps_its_channels_and_its_bits(tmp_path, options, suffix, bits, kind):
    pixels = KINDS[kind].astype(np.uint16) * 257 - 3 if bits == 16 else KINDS[kind]
    cv2.imwrite(str(tmp_path / f"in{suffix}"), pixels)
    assert run("image", tmp_path / f"in{suffix}", tmp_path / f"out{suffix}", *options) == 0
    result = cv2.imread(str(tmp_path / f"out{suffix}"), cv2.IMREAD_UNCHANGED)
    assert result.shape == pixels.shape and result.dtype == pixels.dtype
    assert (result != pixels).any()
    if kind == "transparent":
        np.testing.assert_array_equal(result[..., 3], pixels[..., 3])
    if bits == 16:  # what the network changed is in the upper 8 bits
        kept = (result.astype(int) - pixels) % 256 == 0
        assert kept[(result > 0) & (result < 65535)].all()


def test_what_a_format_cannot_hold_is_told(tmp_path, options, capsys):
    pixels = (
        np.dstack([street_like(HEIGHT, WIDTH), street_like(HEIGHT, WIDTH)[..., 0]]).astype(np.uint16) * 257
    )
    cv2.imwrite(str(tmp_path / "in.png"), pixels)
    assert run("image", tmp_path / "in.png", tmp_path / "out.jpg", *options) == 0
    told = capsys.readouterr().err
    assert "out.jpg is without the lower 8 of 16 bits, the transparency of" in told
    assert cv2.imread(str(tmp_path / "out.jpg"), cv2.IMREAD_UNCHANGED).shape == (HEIGHT, WIDTH, 3)


EXIF_DATA = b"MM\0*\0\0\0\x08\0\x01\x01\x0f\0\x02\0\0\0\x03ab\0\0\0\0\0\0"  # make: ab
XMP_DATA = b"<x:xmpmeta xmlns:x='adobe:ns:meta/'/>"


def profile_of(space: bytes, size: int = 600) -> bytes:
    """A colour profile for pixels of such a colour space, without a table."""
    head = struct.pack(">I4x4s4s4s4s12x4s", size, b"\2\x10\0\0", b"mntr", space, b"XYZ ", b"acsp")
    return head.ljust(132, b"\0") + bytes(number % 251 for number in range(size - 132))


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def jpeg_with(*segments: tuple[int, bytes]) -> bytes:
    """A JPEG that begins with these segments, by marker and content."""
    plain = cv2.imencode(".jpg", street_like(HEIGHT, WIDTH))[1].tobytes()
    said = (struct.pack(">BBH", 0xFF, kind, 2 + len(content)) + content for kind, content in segments)
    return plain[:2] + b"".join(said) + plain[2:]


def with_metadata(suffix: str, profile: bytes) -> bytes:
    """An image file that holds EXIF, a colour profile, and XMP."""
    image = street_like(HEIGHT, WIDTH)
    plain = cv2.imencode(suffix, image, [cv2.IMWRITE_WEBP_QUALITY, 90])[1].tobytes()

    if suffix == ".png":
        chunks = (b"eXIf", EXIF_DATA), (b"iCCP", b"name\0\0" + zlib.compress(profile))
        text = b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP_DATA
        return plain[:33] + b"".join(png_chunk(*chunk) for chunk in (*chunks, text)) + plain[33:]
    if suffix == ".jpg":
        return jpeg_with(
            (0xE1, b"Exif\0\0" + EXIF_DATA),
            (0xE1, b"http://ns.adobe.com/xap/1.0/\0" + XMP_DATA),
            (0xE2, b"ICC_PROFILE\0\x01\x01" + profile),
        )
    if suffix == ".webp":
        size = b"".join(struct.pack("<I", side - 1)[:3] for side in (WIDTH, HEIGHT))
        chunks = (b"VP8X", bytes([0b101100, 0, 0, 0]) + size), (b"ICCP", profile), None, (b"EXIF", EXIF_DATA)
        riff = b"WEBP"
        for chunk in (*chunks, (b"XMP ", XMP_DATA)):
            if chunk is None:
                riff += plain[12:]
            else:
                kind, content = chunk
                riff += kind + struct.pack("<I", len(content)) + content + bytes(len(content) % 2)
        return b"RIFF" + struct.pack("<I", len(riff)) + riff
    return tiff_of([image[..., ::-1]], {34665: (4, EXIF_DATA), 34675: (7, profile), 700: (1, XMP_DATA)})


def tiff_of(images: list[np.ndarray], tags: dict[int, tuple[int, bytes]], reduced: bool = False) -> bytes:
    """An uncompressed TIFF of uint8 (H, W, 3) RGB images; `tags` of the first, by number: type and content.

    reduced: all but the first are called smaller copies of it.
    """
    data = bytearray(b"II*\0")
    link = len(data)
    data += bytes(4)
    for number, image in enumerate(images):
        height, width = image.shape[:2]
        strip = len(data)
        data += image.tobytes()
        entries = {
            254: (4, 1, int(reduced and number > 0)), 256: (4, 1, width), 257: (4, 1, height),
            258: (3, 3, len(data)), 259: (3, 1, 1), 262: (3, 1, 2), 273: (4, 1, strip), 277: (3, 1, 3),
            278: (4, 1, height), 279: (4, 1, image.size), 284: (3, 1, 1),
        }  # fmt: skip
        data += struct.pack("<3H", 8, 8, 8)
        for tag, (kind, content) in tags.items() if number == 0 else ():
            entries[tag] = kind, 1 if kind in (4, 5) else len(content), len(data)
            data += content
        data += bytes(len(data) % 2)
        struct.pack_into("<I", data, link, len(data))
        data += struct.pack("<H", len(entries))
        data += b"".join(struct.pack("<HHII", tag, *entries[tag]) for tag in sorted(entries))
        link = len(data)
        data += bytes(4)
    return bytes(data)


@pytest.mark.parametrize("target", [".png", ".jpg", ".webp", ".tiff"])
@pytest.mark.parametrize("source", [".png", ".jpg", ".webp", ".tiff"])
def test_an_image_keeps_its_metadata_or_the_command_says_what_is_not_kept(
    tmp_path, options, capsys, source, target
):
    (tmp_path / f"in{source}").write_bytes(with_metadata(source, profile_of(b"RGB ")))
    assert run("image", tmp_path / f"in{source}", tmp_path / f"out{target}", *options) == 0
    told, result = capsys.readouterr().err, (tmp_path / f"out{target}").read_bytes()
    kept = held_in(result)
    for what in (EXIF, PROFILE, XMP):
        assert (what in told) == (what not in kept), what
    if hasattr(cv2, "imencodeWithMetadata") and ".tiff" not in (source, target):  # OpenCV from 4.12 on
        assert EXIF in kept and b"ab\0" in result
    if ".tiff" in (source, target):
        assert f"out{target} is without" in told and EXIF in told


def test_a_profile_of_inks_is_not_written_into_a_picture_of_lights(tmp_path, options, capsys):
    (tmp_path / "in.jpg").write_bytes(with_metadata(".jpg", profile_of(b"CMYK")))
    assert run("image", tmp_path / "in.jpg", tmp_path / "out.jpg", *options) == 0
    assert PROFILE not in held_in((tmp_path / "out.jpg").read_bytes())
    assert PROFILE in capsys.readouterr().err


def rewritten(source: Path, target: Path) -> tuple[list[str], bytes]:
    """What is lost of an image that is written as it was read, and the result."""
    image = read_image_file(source)
    return write_image_file(target, image, image.picture.rgb.copy()), target.read_bytes()


def index_of(*kinds: int) -> bytes:
    """What a multi-picture JPEG says of its pictures (CIPA DC-007)."""
    head = b"II*\0" + struct.pack("<IH", 8, 3)
    head += struct.pack("<HHI4s", 0xB000, 7, 4, b"0100") + struct.pack("<HHII", 0xB001, 4, 1, len(kinds))
    head += struct.pack("<HHIIi", 0xB002, 7, 16 * len(kinds), 50, 0)
    return b"MPF\0" + head + b"".join(struct.pack("<I12x", kind) for kind in kinds)


with_metadata_of_opencv = pytest.mark.skipif(
    not hasattr(cv2, "imencodeWithMetadata"), reason="OpenCV before 4.12 carries no metadata over"
)


@with_metadata_of_opencv
@pytest.mark.parametrize("target", [".jpg", ".png", ".webp"])
@pytest.mark.parametrize("order", ["iIM", "MIi", "M", "F"])
def test_a_phone_s_jpeg_keeps_its_profile_and_further_pictures_are_told(tmp_path, order, target):
    profile = profile_of(b"RGB ")
    segments = {
        "I": b"ICC_PROFILE\0\x01\x02" + profile[:300],
        "i": b"ICC_PROFILE\0\x02\x02" + profile[300:],
        "M": index_of(0x030000, 0),
        "F": b"FPXR\0" + bytes(60),
    }
    (tmp_path / "in.jpg").write_bytes(jpeg_with(*((0xE2, segments[letter]) for letter in order)))
    lost, result = rewritten(tmp_path / "in.jpg", tmp_path / f"out{target}")
    assert lost == ([PICTURES] if "M" in order else [])
    _, kinds, contents = cv2.imdecodeWithMetadata(np.frombuffer(result, np.uint8), 1)
    found = dict(zip(kinds, (bytes(content) for content in contents), strict=True))
    assert found.get(cv2.IMAGE_METADATA_ICCP, b"") == (profile if "I" in order else b"")


@with_metadata_of_opencv
def test_a_profile_that_is_not_whole_is_told_and_previews_are_no_pictures(tmp_path):
    half = b"ICC_PROFILE\0\x01\x02" + profile_of(b"RGB ")[:300]
    (tmp_path / "in.jpg").write_bytes(jpeg_with((0xE2, half), (0xE2, index_of(0x030000, 0x010001))))
    lost, result = rewritten(tmp_path / "in.jpg", tmp_path / "out.jpg")
    assert lost == [PROFILE] and held_in(result) == []


def test_metadata_too_large_for_a_format_do_not_lose_the_picture(tmp_path):
    plain = cv2.imencode(".png", street_like(HEIGHT, WIDTH))[1].tobytes()
    profile = png_chunk(b"iCCP", b"name\0\0" + zlib.compress(profile_of(b"RGB ", 80_000)))
    exif = png_chunk(b"eXIf", EXIF_DATA)
    (tmp_path / "in.png").write_bytes(plain[:33] + profile + exif + plain[33:])
    lost, result = rewritten(tmp_path / "in.png", tmp_path / "out.jpg")
    assert lost == [PROFILE] if hasattr(cv2, "imencodeWithMetadata") else lost == [PROFILE, EXIF]
    assert cv2.imdecode(np.frombuffer(result, np.uint8), 1).shape == (HEIGHT, WIDTH, 3)


def test_a_profile_of_grey_is_not_written_into_a_picture_of_colour(tmp_path):
    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, 8, 4, 0, 0, 0)
    rows = zlib.compress((b"\0" + bytes((100, 128)) * WIDTH) * HEIGHT)
    profile = b"name\0\0" + zlib.compress(profile_of(b"GRAY"))
    chunks = (b"IHDR", header), (b"iCCP", profile), (b"IDAT", rows), (b"IEND", b"")
    (tmp_path / "in.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*chunk) for chunk in chunks))
    assert rewritten(tmp_path / "in.png", tmp_path / "out.png")[0] == [
        PROFILE
    ]  # grey and alpha become colour


JPEG_TOLD = {
    COMMENTS: (0xFE, b"taken at noon"),
    IPTC: (0xED, b"Photoshop 3.0\x008BIM\x04\x04\0\0\0\0\0\x08\x1c\x02\x78\0\3abc"),
    MORE_XMP: (0xE1, b"http://ns.adobe.com/xmp/extension/\0" + bytes(40)),
    RESOLUTION: (0xE0, b"JFIF\0\1\1\1" + struct.pack(">HHBB", 300, 300, 0, 0)),
}
PNG_TOLD = {
    COMMENTS: (b"tEXt", b"Author\0me"),
    PRIMARIES: (b"gAMA", struct.pack(">I", 100_000)),
    RESOLUTION: (b"pHYs", struct.pack(">IIB", 11811, 11811, 1)),
}
PNG_USUAL = (
    (b"gAMA", struct.pack(">I", 45455)),
    (b"pHYs", struct.pack(">IIB", 2835, 2835, 1)),
    (b"tIME", bytes(7)),
)


def test_what_else_a_file_holds_is_told(tmp_path):
    plain = cv2.imencode(".png", street_like(HEIGHT, WIDTH))[1].tobytes()

    def lost_of(name: str, content: bytes) -> list[str]:
        (tmp_path / name).write_bytes(content)
        return rewritten(tmp_path / name, tmp_path / f"out{Path(name).suffix}")[0]

    for what, segment in JPEG_TOLD.items():
        assert lost_of("in.jpg", jpeg_with(segment)) == [what]
    for what, chunk in PNG_TOLD.items():
        assert lost_of("in.png", plain[:33] + png_chunk(*chunk) + plain[33:]) == [what]
    for chunk in PNG_USUAL:
        assert lost_of("in.png", plain[:33] + png_chunk(*chunk) + plain[33:]) == []
    assert lost_of("in.jpg", jpeg_with((0xED, b"Photoshop 3.0\0"))) == []
    tags = {282: (5, struct.pack("<II", 300, 1)), 315: (2, b"somebody\0"), 33723: (7, b"abcde")}
    said = lost_of("in.tiff", tiff_of([street_like(HEIGHT, WIDTH)], tags))
    assert said == [RESOLUTION, COMMENTS, IPTC]


def stored_tiff(numbers: np.ndarray, tags: dict[int, int]) -> bytes:
    """A TIFF of (H, W, 3 or 4) numbers in tiles of 64x64, with these tags, each one whole number."""
    height, width, channels = numbers.shape
    rows, columns = -(-height // 64), -(-width // 64)
    padded = np.zeros((64 * rows, 64 * columns, channels), numbers.dtype)
    padded[:height, :width] = numbers
    tiles = padded.reshape(rows, 64, columns, 64, channels).swapaxes(1, 2).tobytes()
    count, size = rows * columns, len(tiles) // (rows * columns)
    data = bytearray(b"II*\0" + bytes(4) + tiles)
    arrays = {}
    for tag, values in {
        258: struct.pack(f"<{channels}H", *channels * [8 * numbers.itemsize]),
        324: struct.pack(f"<{count}I", *range(8, 8 + len(tiles), size)),
        325: struct.pack(f"<{count}I", *count * [size]),
    }.items():
        arrays[tag] = len(data)
        data += values + bytes(len(values) % 4)
    struct.pack_into("<I", data, 4, len(data))
    entries = {
        256: (4, 1, width), 257: (4, 1, height), 258: (3, channels, arrays[258]), 259: (3, 1, 1),
        262: (3, 1, 2), 277: (3, 1, channels), 322: (4, 1, 64), 323: (4, 1, 64),
        324: (4, count, arrays[324]), 325: (4, count, arrays[325]),
        **{tag: (3, 1, value) for tag, value in tags.items()},
    }  # fmt: skip
    data += struct.pack("<H", len(entries))
    data += b"".join(struct.pack("<HHII", tag, *entries[tag]) for tag in sorted(entries))
    return bytes(data + bytes(4))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_tiff_in_tiles_is_turned_upright(tmp_path, orientation):
    image = street_like(150, 100)
    (tmp_path / "in.tiff").write_bytes(stored_tiff(image, {274: orientation}))
    upright = read_image_file(tmp_path / "in.tiff").picture.rgb
    np.testing.assert_array_equal(upright, TURNS[orientation](image))


def test_colours_of_a_tiff_are_not_multiplied_by_its_alpha(tmp_path):
    pixels = np.dstack([street_like(HEIGHT, WIDTH), street_like(HEIGHT, WIDTH, 1)[..., 0]])
    (tmp_path / "in.tiff").write_bytes(stored_tiff(pixels, {338: 2}))
    lost, _ = rewritten(tmp_path / "in.tiff", tmp_path / "out.png")
    result = cv2.imread(str(tmp_path / "out.png"), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(result, pixels[..., (2, 1, 0, 3)])
    assert lost == []


def test_further_pictures_of_a_file_are_told(tmp_path, options, capsys):
    images = [street_like(HEIGHT, WIDTH, seed) for seed in range(2)]
    (tmp_path / "pages.tiff").write_bytes(tiff_of(images, {}))
    (tmp_path / "preview.tiff").write_bytes(tiff_of(images, {}, reduced=True))
    assert run("image", tmp_path / "pages.tiff", tmp_path / "out.png", *options) == 0
    assert "out.png is without all pictures but the first of" in capsys.readouterr().err
    assert run("image", tmp_path / "preview.tiff", tmp_path / "out.png", *options) == 0
    assert "is without" not in capsys.readouterr().err
    frame = struct.pack("<4sI", b"ANMF", 4) + bytes(4)
    webp = b"WEBP" + struct.pack("<4sI", b"VP8X", 10) + bytes(10) + 2 * frame
    assert held_in(b"RIFF" + struct.pack("<I", len(webp)) + webp) == [PICTURES]
    plain = cv2.imencode(".png", images[0])[1].tobytes()
    animated = struct.pack(">I4sIII", 8, b"acTL", 2, 0, zlib.crc32(b"acTL" + struct.pack(">II", 2, 0)))
    assert held_in(plain[:33] + animated + plain[33:]) == [PICTURES] and held_in(plain) == []


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tiff"])
def test_what_a_damaged_file_holds_is_told_as_far_as_it_goes(suffix):
    whole = with_metadata(suffix, profile_of(b"RGB "))
    for end in range(len(whole)):
        assert set(held_in(whole[:end])) <= {EXIF, PROFILE, XMP, PICTURES}
    assert set(held_in(whole)) == {EXIF, PROFILE, XMP}


def test_a_size_that_cannot_be_compiled_does_not_end_a_batch(tmp_path, options, capsys, monkeypatch):
    picture(tmp_path / "in" / "b.png")
    write_image(tmp_path / "in" / "a.png", street_like(64, 64))
    prepare = TorchCpuRestorer.prepare

    def fail_for_small_ones(self, height, width, outputs, on_progress=None):
        if height == 64:
            raise BackendError("no memory for 64x64")
        prepare(self, height, width, outputs, on_progress)

    monkeypatch.setattr(TorchCpuRestorer, "prepare", fail_for_small_ones)
    assert run("image", tmp_path / "in", tmp_path / "out", *options) == 1
    printed = capsys.readouterr()
    assert "a.png: no memory for 64x64" in printed.err and "1 of 2 images restored" in printed.out


def test_an_output_that_looks_like_a_file_but_cannot_be_one_is_refused_before_any_work(
    tmp_path, options, capsys
):
    picture(tmp_path / "a.png")
    picture(tmp_path / "b.png")
    for arguments in (
        (tmp_path / "a.png", tmp_path / "out.gif"),
        (tmp_path / "a.png", tmp_path / "out.jpeg2000"),
        (tmp_path / "a.png", tmp_path / "b.png", tmp_path / "out.png"),
    ):
        assert run("image", *arguments, *options) == 1
        assert "looks like a file that cannot be written" in capsys.readouterr().err
        assert not arguments[-1].exists()
    (tmp_path / "out.v2").mkdir()
    assert run("image", tmp_path / "a.png", tmp_path / "out.v2", *options) == 0
    assert (tmp_path / "out.v2" / "a.png").is_file()


def test_a_picture_too_large_to_decode_does_not_end_a_batch(tmp_path, options, capsys):
    picture(tmp_path / "in" / "b.png")
    huge = cv2.imencode(".png", np.zeros((64, 64), np.uint8))[1].tobytes()
    header = huge[12:16] + (33_000).to_bytes(4, "big") * 2 + huge[24:29]
    huge = huge[:12] + header + zlib.crc32(header).to_bytes(4, "big") + huge[33:]
    (tmp_path / "in" / "a.png").write_bytes(huge)
    assert run("image", tmp_path / "in", tmp_path / "out", *options) == 1
    printed = capsys.readouterr()
    assert "a.png: image of 33000x33000 pixels" in printed.err
    assert "1 of 2 images restored" in printed.out


def test_an_upright_4k_image_is_taken(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((4096, 3072), np.uint8))
    assert read_image_file(tmp_path / "a.png").picture.rgb.shape == (4096, 3072, 3)


def test_numbers_that_are_no_picture_are_refused(tmp_path):
    cv2.imwrite(str(tmp_path / "depth.tiff"), np.zeros((70, 90), np.float32))
    with pytest.raises(ImageError, match=r"depth\.tiff: tiff image holds float32"):
        read_image_file(tmp_path / "depth.tiff")


def test_half_an_image_is_told_from_a_whole_one(tmp_path):
    for suffix in (".jpg", ".png"):
        whole = cv2.imencode(suffix, street_like(HEIGHT, WIDTH))[1].tobytes()
        (tmp_path / f"half{suffix}").write_bytes(whole[: len(whole) // 2])
        for read in (read_image, read_image_file):
            with pytest.raises(ImageError, match=rf"half\{suffix}: .* ends early"):
                read(tmp_path / f"half{suffix}")


def test_what_opencv_says_of_a_damaged_image_stands_on_one_line(tmp_path, monkeypatch):
    picture(tmp_path / "in.png")
    error = cv2.error()
    error.err = "first line\nand a second"

    def fail(*_):
        raise error

    monkeypatch.setattr(cv2, "imdecode", fail)
    with pytest.raises(ImageError, match="cannot be decoded") as raised:
        read_image_file(tmp_path / "in.png")
    assert "\n" not in str(raised.value) and "and a second" in str(raised.value)


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path, monkeypatch):
    def full(self, content):
        self.touch()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OutputError, match=r"a\.png cannot be written \(No space left on device\)"):
        write_image(tmp_path / "a.png", street_like(HEIGHT, WIDTH))
    assert not list(tmp_path.iterdir())


def test_a_folder_that_takes_no_files_is_told_before_the_work(tmp_path, options, capsys, monkeypatch):
    picture(tmp_path / "a.png")
    write_video(tmp_path / "in.mp4", [0, 40])

    def read_only(self, *arguments, **options):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(self))

    def no_work(*arguments, **options):
        raise AssertionError("work was begun")

    for command, name in (("image", "a.png"), ("video", "in.mp4")):
        with monkeypatch.context() as patch:
            patch.setattr(Path, "touch", read_only)
            patch.setattr(f"rain_removal_ros.commands.{command}.create_restorer", no_work)
            assert run(command, tmp_path / name, tmp_path / "out" / name, *options) == 1
        assert "cannot be written (Read-only file system)" in capsys.readouterr().err


def test_an_output_follows_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        write_image(tmp_path / "a.png", street_like(HEIGHT, WIDTH))
    finally:
        os.umask(before)
    assert (tmp_path / "a.png").stat().st_mode & 0o777 == 0o640


def test_an_image_that_cannot_be_written_is_named(tmp_path):
    image = street_like(HEIGHT, WIDTH)
    with pytest.raises(ImageError, match=r"a\.xyz"):
        write_image(tmp_path / "a.xyz", image)
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"a\.png cannot be written"):
        write_image(tmp_path / "file" / "a.png", image)
    assert not list(tmp_path.rglob("*.partial"))


def write_video(path: Path, times: list[int], height: int = HEIGHT, width: int = WIDTH) -> list[np.ndarray]:
    """A video whose frames are at `times` thousandths of a second. Gives the frames."""
    frames = [street_like(height, width, seed) for seed in range(len(times))]
    with VideoSink(path, Fraction(25), Fraction(1, 1000)) as sink:
        for frame, time in zip(frames, times, strict=True):
            sink.write(frame, time)
    return frames


def frames_of(path: Path) -> tuple[list[np.ndarray], list[float]]:
    with VideoSource(path) as source:
        frames = [item for item in source if isinstance(item, TimedFrame)]
        return [frame.image for frame in frames], [float(frame.time * source.time_base) for frame in frames]


def test_a_video_keeps_its_frames_and_its_rate(tmp_path, options, restore, capsys):
    times = [40 * i for i in range(12)]
    write_video(tmp_path / "in.mp4", times)
    assert run("video", tmp_path / "in.mp4", tmp_path / "out.mp4", *options) == 0
    rainy, _ = frames_of(tmp_path / "in.mp4")
    results, seconds = frames_of(tmp_path / "out.mp4")
    assert seconds == pytest.approx([time / 1000 for time in times])
    for image, result in zip(rainy, results, strict=True):
        smooth, expected = (cv2.blur(frame, (9, 9)).astype(int) for frame in (result, restore(image)))
        assert np.abs(smooth - expected).mean() < 2  # 4:2:0 loses fine colour
    with av.open(str(tmp_path / "out.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert stream.average_rate == 25 and stream.frames == 12
    assert "12 frames at 25 frames a second" in capsys.readouterr().out


def test_a_rate_that_varies_stays_as_it_is(tmp_path, options):
    times = [0, 30, 100, 180, 190, 400]
    write_video(tmp_path / "in.mkv", times)
    assert run("video", tmp_path / "in.mkv", tmp_path / "out.mov", *options) == 0
    assert frames_of(tmp_path / "out.mov")[1] == pytest.approx([time / 1000 for time in times])


def test_a_video_side_by_side_with_depth_has_three_panels(tmp_path, options):
    frames = write_video(tmp_path / "in.mp4", [0, 40])
    assert run("video", tmp_path / "in.mp4", tmp_path / "out.mp4", "--side-by-side", "--depth", *options) == 0
    results, _ = frames_of(tmp_path / "out.mp4")
    assert results[0].shape == (HEIGHT, 3 * WIDTH, 3)
    assert np.abs(results[1][:, :WIDTH].astype(int) - frames[1]).mean() < 6
    assert results[1][:, 2 * WIDTH :].std(axis=(0, 1)).max() < 80  # inverse depth, not the picture once more
    assert run("video", tmp_path / "in.mp4", tmp_path / "depth.mp4", "--depth", *options) == 0
    assert frames_of(tmp_path / "depth.mp4")[0][0].shape == (HEIGHT, 2 * WIDTH, 3)


def test_an_image_side_by_side_with_depth_has_three_panels(tmp_path, options, restore):
    rainy = street_like(80, 96, 1)
    cv2.imwrite(str(tmp_path / "in.png"), rainy[..., ::-1])
    asked = ("--side-by-side", "--depth", "--focal-px", "100")
    assert run("image", tmp_path / "in.png", tmp_path / "out.png", *asked, *options) == 0
    shown = cv2.imread(str(tmp_path / "out.png"))[..., ::-1]
    assert shown.shape == (80, 3 * 96, 3)
    assert np.array_equal(shown[:, :96], rainy)
    assert np.array_equal(shown[:, 96:192], restore(rainy))
    assert not np.array_equal(shown[:, 192:], rainy)
    assert run("image", tmp_path / "in.png", tmp_path / "depth.png", "--depth", *options) == 0
    assert cv2.imread(str(tmp_path / "depth.png")).shape == (80, 2 * 96, 3)


@pytest.mark.parametrize(("command", "suffix"), [("image", ".png"), ("video", ".mp4")])
def test_a_focal_length_without_depth_is_refused(tmp_path, options, capsys, command, suffix):
    source, target = tmp_path / f"in{suffix}", tmp_path / f"out{suffix}"
    assert run(command, source, target, "--focal-px", "100", *options) == 1
    assert "give --depth as well" in capsys.readouterr().err


def encode_video(path: Path, frames: list[np.ndarray], codec: str, pixels: str, rate=10, **context) -> None:
    """A video by PyAV itself, with what of the codec's context is to be set."""
    with av.open(f"file:{path}", "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = pixels
        for name, value in context.items():
            setattr(stream.codec_context, name, value)
        for frame in frames:
            form = "rgb48le" if frame.dtype == np.uint16 else "rgb24"
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format=form)))
        container.mux(stream.encode())


def test_a_video_of_odd_size_keeps_it(tmp_path, options, capsys):
    frames = [street_like(97, 131, seed) for seed in range(3)]
    encode_video(tmp_path / "in.mkv", frames, "ffv1", "bgr0", rate=Fraction(30000, 1001))
    assert run("video", tmp_path / "in.mkv", tmp_path / "out.mp4", *options) == 0
    results, seconds = frames_of(tmp_path / "out.mp4")
    assert [result.shape for result in results] == [(97, 131, 3)] * 3
    assert seconds == pytest.approx([0, 0.033, 0.067], abs=1e-3)
    assert "131x97 has an odd side, so the video is 4:4:4" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["a:b.mp4", "http:x.mkv", "100%.mov"])
def test_a_name_may_hold_whatever_a_file_system_takes(tmp_path, options, name):
    write_video(tmp_path / name, [0, 40])
    (tmp_path / "out").mkdir()
    assert run("video", tmp_path / name, tmp_path / "out" / name, *options) == 0
    assert len(frames_of(tmp_path / "out" / name)[0]) == 2


LOOKS = {
    "SD": ("yuv420p", 6, 6, 6, 1),
    "PAL, full range": ("yuv420p", 5, 6, 5, 2),
    "HD": ("yuv420p", 1, 1, 1, 1),
    "HDR10": ("yuv420p10le", 9, 16, 9, 1),
    "HLG": ("yuv420p10le", 9, 18, 9, 1),
}


@pytest.mark.parametrize("look", LOOKS)
def test_a_video_keeps_its_colours_its_bits_and_the_shape_of_its_pixels(tmp_path, options, restore, look):
    pixels, primaries, transfer, matrix, colour_range = LOOKS[look]
    frames = [street_like(HEIGHT, WIDTH, seed) for seed in range(2)]
    if "10" in pixels:
        frames = [frame.astype(np.uint16) * 257 for frame in frames]
    context = {
        "color_primaries": primaries,
        "color_trc": transfer,
        "colorspace": matrix,
        "color_range": colour_range,
        "sample_aspect_ratio": Fraction(64, 45),
    }
    encode_video(tmp_path / "in.mp4", frames, "libx264", pixels, **context)
    assert run("video", tmp_path / "in.mp4", tmp_path / "out.mp4", *options) == 0
    found = []
    for name in ("in.mp4", "out.mp4"):
        with av.open(str(tmp_path / name)) as container:
            stream = container.streams.video[0]
            of = stream.codec_context
            found.append(
                {
                    "pixels": of.pix_fmt.replace("yuvj", "yuv"),
                    "aspect": stream.sample_aspect_ratio,
                    **{name: int(getattr(of, name)) for name in list(context)[:4]},
                }
            )
    assert found[0] == found[1]
    assert found[1]["aspect"] == Fraction(64, 45)
    with VideoSource(tmp_path / "in.mp4") as before, VideoSource(tmp_path / "out.mp4") as after:
        assert before.look == after.look
        one, other = (next(item.image for item in source) for source in (before, after))
    scale = 257 if "10" in pixels else 1
    expected = restore((one // scale).astype(np.uint8)).astype(np.float32)
    assert np.abs(cv2.blur(expected, (9, 9)) - cv2.blur(other, (9, 9)) / scale).mean() < 4


@pytest.mark.parametrize(("height", "matrix"), [(HEIGHT, 6), (720, 1)])
def test_a_video_that_does_not_tell_its_matrix_is_taken_as_players_take_it(tmp_path, height, matrix):
    encode_video(tmp_path / "in.mp4", [street_like(height, WIDTH)], "libx264", "yuv420p")
    with VideoSource(tmp_path / "in.mp4") as source:
        assert source.look.matrix == source.look.transfer == source.look.primaries == matrix


def test_10_bits_survive_the_way_through_a_video(tmp_path):
    ramp = np.linspace(0, 65535, 96).astype(np.uint16)[None, :, None].repeat(80, 0).repeat(3, 2)
    look = Look(9, 16, 9, deep=True)
    with VideoSink(tmp_path / "ramp.mp4", Fraction(10), Fraction(1, 10), look) as sink:
        sink.write(ramp, 0)
    with VideoSource(tmp_path / "ramp.mp4") as source:
        seen = next(iter(source)).image
    assert (
        np.abs(seen[40].astype(int) - ramp[40]).mean() < 150
    )  # of 65535; 8 bits would be off by 64 at least
    assert len(np.unique(seen[40, :, 1])) > 90


def test_colours_survive_the_way_through_a_video(tmp_path):
    bars = np.zeros((80, 96, 3), np.uint8)
    bars[:, :32], bars[:, 32:64], bars[:, 64:] = (200, 30, 40), (30, 180, 60), (40, 50, 210)
    with VideoSink(tmp_path / "bars.mp4", Fraction(10), Fraction(1, 10)) as sink:
        sink.write(bars, 0)
    (seen,), _ = frames_of(tmp_path / "bars.mp4")
    assert np.abs(seen[40, [16, 48, 80]].astype(int) - bars[40, [16, 48, 80]]).max() <= 4


def video_with_sound(
    path: Path, codec: str, frames: int = 10, rate: int = 48000, layout: str = "mono"
) -> None:
    """A video of so many tenths of a second and a tone of 440 Hz, sampled `rate` times a second."""
    moments = np.arange(rate // 10 * frames)
    with av.open(str(path), "w") as container:
        video, audio = container.add_stream("libx264", rate=10), container.add_stream(codec, rate=rate)
        video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        audio.layout = layout
        tone = (8000 * np.sin(2 * np.pi * 440 * moments / rate)).astype(np.int16)[None]
        sound = av.AudioFrame.from_ndarray(tone, format="s16", layout="mono")
        sound.sample_rate, sound.pts = rate, 0
        resampler = av.AudioResampler(audio.format, layout, rate, audio.frame_size or None)
        for seed in range(frames):
            image = street_like(HEIGHT, WIDTH, seed)
            container.mux(video.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        for piece in [*resampler.resample(sound), *resampler.resample(None)]:
            container.mux(audio.encode(piece))
        container.mux([*audio.encode(), *video.encode()])


def remux(source: Path, target: Path, chapters=(), language: str | None = None, options=None) -> None:
    """The same streams in another file, with chapters and the language of the sound."""
    with av.open(str(source)) as plain, av.open(str(target), "w", options=options or {}) as container:
        streams = {each.index: container.add_stream_from_template(each) for each in plain.streams}
        if chapters:
            container.set_chapters(list(chapters))
        if language:
            container.streams.audio[0].metadata["language"] = language
        for packet in plain.demux():
            if packet.size:  # the last one of a stream is empty
                packet.stream = streams[packet.stream.index]
                container.mux(packet)


def sound_of(path: Path) -> tuple[str, float, np.ndarray]:
    """Codec, begin in seconds, samples."""
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        frames = list(container.decode(stream))
        samples = np.concatenate([frame.to_ndarray().reshape(-1).astype(float) for frame in frames])
        return stream.codec_context.name, float(frames[0].pts * frames[0].time_base), samples


@pytest.mark.parametrize(
    ("codec", "source", "target", "kept"),
    [
        ("aac", "in.mp4", "out.mp4", True),
        ("aac", "in.mkv", "out.mov", True),
        ("libopus", "in.mkv", "out.mp4", True),
        ("pcm_s16le", "in.mkv", "out.mkv", True),
        ("pcm_mulaw", "in.mov", "out.mkv", False),
        ("pcm_s16le", "in.mkv", "out.mp4", False),
        ("libmp3lame", "in.avi", "out.mp4", True),
        ("libmp3lame", "in.avi", "out.mov", True),
        ("mp2", "in.avi", "out.mp4", False),
    ],
)
def test_a_video_keeps_its_sound(tmp_path, options, capsys, codec, source, target, kept):
    video_with_sound(tmp_path / source, codec)
    assert run("video", tmp_path / source, tmp_path / target, *options) == 0
    before, after = sound_of(tmp_path / source), sound_of(tmp_path / target)
    assert after[0] == (before[0] if kept else "aac")
    assert after[1] == pytest.approx(before[1], abs=0.03)
    assert len(after[2]) == pytest.approx(len(before[2]), rel=0.1)
    spectrum = np.abs(np.fft.rfft(after[2]))
    assert np.argmax(spectrum) / len(after[2]) * 48000 == pytest.approx(440, abs=5)
    assert (f"takes no {codec} sound" in capsys.readouterr().err) != kept
    assert len(frames_of(tmp_path / target)[0]) == 10


def test_sound_whose_times_are_coarse_is_encoded_anew(tmp_path, options, monkeypatch):
    monkeypatch.setitem(COPIED_SOUND, ".mp4", ("aac",))
    video_with_sound(
        tmp_path / "in.avi", "libmp3lame"
    )  # AVI counts MP3 in frames of 1152 samples, AAC has 1024
    assert run("video", tmp_path / "in.avi", tmp_path / "out.mp4", *options) == 0
    codec, begin, samples = sound_of(tmp_path / "out.mp4")
    assert (codec, begin) == ("aac", 0) and len(samples) == pytest.approx(48_000, rel=0.1)


def test_sound_of_a_rate_that_aac_has_not_is_sampled_anew(tmp_path, options):
    video_with_sound(tmp_path / "in.mkv", "pcm_s16le", rate=192_000)
    assert run("video", tmp_path / "in.mkv", tmp_path / "out.mp4", *options) == 0
    codec, _, samples = sound_of(tmp_path / "out.mp4")
    assert codec == "aac" and len(samples) == pytest.approx(48_000, rel=0.1)


def test_a_damaged_packet_of_sound_that_is_encoded_anew_is_skipped_and_told(tmp_path, options, capsys):
    video_with_sound(tmp_path / "in.avi", "adpcm_ima_wav")
    with av.open(str(tmp_path / "in.avi")) as container:
        packets = [bytes(packet) for packet in container.demux(audio=0) if packet.size]
    content = (tmp_path / "in.avi").read_bytes()
    (tmp_path / "in.avi").write_bytes(content.replace(packets[9], b"\xff" * len(packets[9])))
    assert run("video", tmp_path / "in.avi", tmp_path / "out.mp4", *options) == 1
    assert "1 damaged packets of its sound were skipped" in capsys.readouterr().err
    assert len(frames_of(tmp_path / "out.mp4")[0]) == 10
    assert len(sound_of(tmp_path / "out.mp4")[2]) == pytest.approx(48_000, rel=0.1)


@pytest.mark.parametrize(("codec", "suffix"), [("aac", ".mp4"), ("pcm_s16le", ".mov"), ("mp2", ".mp4")])
def test_a_video_keeps_its_chapters_and_the_language_of_its_sound(tmp_path, options, codec, suffix):
    video_with_sound(tmp_path / "plain.mov", codec)
    chapters = [
        {
            "id": n,
            "start": 5 * n,
            "end": 5 * n + 5,
            "time_base": Fraction(1, 10),
            "metadata": {"title": f"part {n}"},
        }
        for n in range(2)
    ]
    remux(tmp_path / "plain.mov", tmp_path / "in.mkv", chapters, "fin")
    assert run("video", tmp_path / "in.mkv", tmp_path / f"out{suffix}", *options) == 0
    with av.open(str(tmp_path / f"out{suffix}")) as container:
        assert container.streams.audio[0].language == "fin"
        chapters = [
            (float(each["start"] * each["time_base"]), each["metadata"]["title"])
            for each in container.chapters()
        ]
    assert [title for _, title in chapters] == ["part 0", "part 1"]
    assert [begin for begin, _ in chapters] == pytest.approx([0, 0.4], abs=0.11)


def test_transparent_pixels_of_a_video_are_told(tmp_path, options, capsys):
    encode_video(tmp_path / "in.mkv", [street_like(HEIGHT, WIDTH)] * 2, "ffv1", "bgra")
    assert run("video", tmp_path / "in.mkv", tmp_path / "out.mp4", *options) == 0
    assert "transparent pixels of the input are not kept" in capsys.readouterr().err
    encode_video(tmp_path / "opaque.mkv", [street_like(HEIGHT, WIDTH)] * 2, "ffv1", "bgr0")
    assert run("video", tmp_path / "opaque.mkv", tmp_path / "out.mp4", *options) == 0
    assert "not kept" not in capsys.readouterr().err


def test_a_full_disk_is_told_and_leaves_no_half_video(tmp_path, options, capsys, monkeypatch):
    write_video(tmp_path / "in.mp4", [0, 40])
    (tmp_path / "out").mkdir()
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limit[1]))
    try:
        status = run("video", tmp_path / "in.mp4", tmp_path / "out" / "out.mp4", *options)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert status == 1
    assert "out.mp4 cannot be written" in capsys.readouterr().err
    assert not list((tmp_path / "out").iterdir())


def test_a_video_that_cannot_be_read_on_is_named_and_leaves_no_half_result(
    tmp_path, options, capsys, monkeypatch
):
    write_video(tmp_path / "in.mp4", [0, 40, 80])
    (tmp_path / "out").mkdir()

    class Container:
        def __init__(self, container):
            self.real = container

        def __getattr__(self, name):
            return getattr(self.real, name)

        def demux(self, *streams):
            yield next(iter(self.real.demux(*streams)))
            raise av.error.OSError(errno.EIO, "Input/output error", str(tmp_path / "in.mp4"))

    opened = VideoSource.__init__

    def open_one_that_breaks(self, path):
        opened(self, path)
        self._container = Container(self._container)

    monkeypatch.setattr(VideoSource, "__init__", open_one_that_breaks)
    assert run("video", tmp_path / "in.mp4", tmp_path / "out" / "out.mp4", *options) == 1
    assert "in.mp4 cannot be read to its end (Input/output error)" in capsys.readouterr().err
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("damaged", [0, 2])
def test_a_damaged_frame_is_skipped_and_told(tmp_path, options, capsys, damaged):
    with av.open(str(tmp_path / "in.avi"), "w") as container:
        stream = container.add_stream("mjpeg", rate=10)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuvj420p"
        for seed in range(5):
            container.mux(
                stream.encode(av.VideoFrame.from_ndarray(street_like(HEIGHT, WIDTH, seed), format="rgb24"))
            )
        container.mux(stream.encode())
    pieces = (tmp_path / "in.avi").read_bytes().split(b"\xff\xd8\xff")  # where a JPEG begins
    assert len(pieces) == 6
    piece = pieces[damaged + 1]
    pieces[damaged + 1] = b"\0" * (len(piece) - 8) + piece[-8:]  # the head of the next frame's chunk stays
    start = b"\xff\xd8\xff"
    content = start.join(pieces[: damaged + 1]) + b"\0\0\0" + start.join(pieces[damaged + 1 :])
    (tmp_path / "in.avi").write_bytes(content)
    assert run("video", tmp_path / "in.avi", tmp_path / "out.mp4", *options) == 1
    assert "1 damaged packets" in capsys.readouterr().err
    times = [0.1 * number for number in range(5) if number != damaged]
    assert frames_of(tmp_path / "out.mp4")[1] == pytest.approx([time - times[0] for time in times])


def with_matrix(video: bytes, *matrix: int) -> bytes:
    """An MP4 to be shown by this display matrix: where one step to the right and one down lead."""
    at = video.index(b"tkhd") + 44
    (a, b), (c, d) = matrix[:2], matrix[2:]
    numbers = (a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
    return video[:at] + struct.pack(">9i", *numbers) + video[at + 36 :]


MATRICES = {
    (-1, 0, 0, 1): lambda image: image[:, ::-1],
    (1, 0, 0, -1): lambda image: image[::-1],
    (-1, 0, 0, -1): lambda image: image[::-1, ::-1],
    (0, 1, -1, 0): lambda image: np.rot90(image, -1),
    (0, -1, 1, 0): lambda image: np.rot90(image),
    (0, 1, 1, 0): lambda image: image.swapaxes(0, 1),
}


@pytest.mark.parametrize("matrix", MATRICES)
def test_a_video_is_turned_and_mirrored_as_it_is_to_be_shown(tmp_path, matrix):
    write_video(tmp_path / "plain.mp4", [0, 40])
    (tmp_path / "in.mp4").write_bytes(with_matrix((tmp_path / "plain.mp4").read_bytes(), *matrix))
    for stored, shown in zip(
        *(frames_of(tmp_path / name)[0] for name in ("plain.mp4", "in.mp4")), strict=True
    ):
        np.testing.assert_array_equal(shown, MATRICES[matrix](stored))


def test_a_pipe_is_read_once(tmp_path, options):
    write_video(tmp_path / "in.mkv", [40 * number for number in range(10)])
    content = (tmp_path / "in.mkv").read_bytes()
    os.mkfifo(tmp_path / "pipe.mkv")
    with ThreadPoolExecutor(1) as pool:
        pool.submit((tmp_path / "pipe.mkv").write_bytes, content)
        assert run("video", tmp_path / "pipe.mkv", tmp_path / "out.mp4", *options) == 0
    assert len(frames_of(tmp_path / "out.mp4")[0]) == 10


def test_a_video_with_longer_subtitles_is_not_cut_off(tmp_path, options, capsys):
    write_video(tmp_path / "plain.mkv", [40 * number for number in range(10)])
    (tmp_path / "in.srt").write_text("1\n00:00:00,100 --> 00:00:09,000\nrain\n")
    with (
        av.open(str(tmp_path / "plain.mkv")) as plain,
        av.open(str(tmp_path / "in.srt")) as titles,
        av.open(str(tmp_path / "in.mkv"), "w") as container,
    ):
        streams = {
            source: container.add_stream_from_template(source.streams[0]) for source in (plain, titles)
        }
        for source, stream in streams.items():
            for packet in source.demux():
                if packet.size:
                    packet.stream = stream
                    container.mux(packet)
    assert run("video", tmp_path / "in.mkv", tmp_path / "out.mp4", *options) == 0
    told = capsys.readouterr().err
    assert "cut off" not in told and "subtitles of the input are not kept" in told


def test_a_sound_that_is_announced_and_never_comes_does_not_lose_the_video(tmp_path, options, capsys):
    video_with_sound(tmp_path / "sound.ts", "aac")
    content = (tmp_path / "sound.ts").read_bytes()
    packets = [content[at : at + 188] for at in range(0, len(content), 188)]
    with av.open(str(tmp_path / "sound.ts")) as container:
        number = container.streams.audio[0].id
    silent = [packet for packet in packets if (packet[1] & 0x1F) << 8 | packet[2] != number]
    (tmp_path / "in.ts").write_bytes(b"".join(silent))
    assert run("video", tmp_path / "in.ts", tmp_path / "out.mp4", *options) == 0
    assert "sounds that say nothing of the input are not kept" in capsys.readouterr().err
    assert len(frames_of(tmp_path / "out.mp4")[0]) == 10


def test_sound_of_channels_that_are_mixed_down_is_told(tmp_path, options, capsys):
    video_with_sound(tmp_path / "in.mkv", "pcm_s16le", layout="quad")
    assert run("video", tmp_path / "in.mkv", tmp_path / "out.mp4", *options) == 0
    assert "its 4 channels mixed down to two" in capsys.readouterr().err


def box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(content), kind) + content


def test_a_cover_picture_is_no_video(tmp_path, options, capsys):
    write_video(tmp_path / "plain.mov", [40 * number for number in range(10)])
    remux(tmp_path / "plain.mov", tmp_path / "plain.mp4")  # its index at the end: nothing behind it is moved
    cover = cv2.imencode(".jpg", street_like(HEIGHT, WIDTH))[1].tobytes()
    items = box(b"ilst", box(b"covr", box(b"data", struct.pack(">II", 13, 0) + cover)))
    handler = box(b"hdlr", bytes(8) + b"mdirappl" + bytes(9))
    head, index = (tmp_path / "plain.mp4").read_bytes().split(b"moov")
    (end,) = struct.unpack_from(">I", index)  # of its first box
    extra = box(b"udta", box(b"meta", bytes(4) + handler + items))
    (size,) = struct.unpack(">I", head[-4:])
    head = head[:-4] + struct.pack(">I", size + len(extra))
    (tmp_path / "in.mp4").write_bytes(head + b"moov" + index[:end] + extra + index[end:])
    with av.open(str(tmp_path / "in.mp4")) as container:
        assert [stream.codec_context.name for stream in container.streams] == ["mjpeg", "h264"]
    assert run("video", tmp_path / "in.mp4", tmp_path / "out.mp4", *options) == 0
    assert len(frames_of(tmp_path / "out.mp4")[0]) == 10
    assert "cover pictures of the input are not kept" in capsys.readouterr().err


SAID_BY_FRAMES = {
    "marks of interlaced frames": ("yuv420p", "tff=1"),
    "HDR10's light levels": ("yuv420p10le", "cll=1000,400"),
}


@pytest.mark.parametrize("what", SAID_BY_FRAMES)
def test_what_the_frames_of_a_video_say_and_the_result_does_not_is_told(tmp_path, options, capsys, what):
    pixels, said = SAID_BY_FRAMES[what]
    images = [street_like(96, 96)] * 2
    encode_video(tmp_path / "in.mp4", images, "libx264", pixels, options={"x264-params": said})
    assert run("video", tmp_path / "in.mp4", tmp_path / "out.mp4", *options) == 0
    assert f"{what} of the input are not kept" in capsys.readouterr().err


@pytest.mark.parametrize("suffix", [".mp4", ".mov"])
def test_a_phone_s_tags_are_kept(tmp_path, suffix):
    tags = {"com.apple.quicktime.make": "Apple", "title": "a drive"}
    with VideoSink(tmp_path / f"out{suffix}", Fraction(25), Fraction(1, 25), metadata=tags) as sink:
        sink.write(street_like(HEIGHT, WIDTH), 0)
    with VideoSource(tmp_path / f"out{suffix}") as source:
        assert source.metadata == tags


def test_a_codec_that_nobody_knows_is_named(tmp_path, options, capsys):
    video_with_sound(tmp_path / "in.mkv", "pcm_s16le")
    content = (tmp_path / "in.mkv").read_bytes()
    (tmp_path / "picture.mkv").write_bytes(content.replace(b"V_MPEG4/ISO/AVC", b"V_UNKNOWN/ISO/X"))
    assert run("video", tmp_path / "picture.mkv", tmp_path / "out.mp4", *options) == 1
    assert "picture.mkv holds a video of a codec that FFmpeg does not know" in capsys.readouterr().err
    assert not (tmp_path / "out.mp4").exists()
    (tmp_path / "sound.mkv").write_bytes(content.replace(b"A_PCM/INT/LIT", b"A_NOBODYS/LIT"))
    assert run("video", tmp_path / "sound.mkv", tmp_path / "out.mp4", *options) == 0
    assert "sounds of unknown codecs of the input are not kept" in capsys.readouterr().err


@pytest.mark.parametrize("suffix", [".mkv", ".mp4", ".mov", ".avi"])
def test_a_video_that_breaks_off_is_restored_up_to_there_and_told(tmp_path, options, capsys, suffix):
    video_with_sound(tmp_path / f"in{suffix}", "libmp3lame", 40)
    if suffix in (".mp4", ".mov"):  # with the index at the front, as cameras' and downloads are cut
        (tmp_path / f"in{suffix}").rename(tmp_path / f"plain{suffix}")
        remux(tmp_path / f"plain{suffix}", tmp_path / f"in{suffix}", options={"movflags": "+faststart"})
    assert run("video", tmp_path / f"in{suffix}", tmp_path / "out.mp4", *options) == 0
    assert len(frames_of(tmp_path / "out.mp4")[0]) == 40
    assert "cut off" not in capsys.readouterr().err
    whole = (tmp_path / f"in{suffix}").read_bytes()
    (tmp_path / f"cut{suffix}").write_bytes(whole[: len(whole) // 2])
    assert run("video", tmp_path / f"cut{suffix}", tmp_path / "out.mp4", *options) == 1
    left = len(frames_of(tmp_path / "out.mp4")[0])
    assert 10 < left < 30
    told = re.search(r"cut off: it ends (\d+) frames early", capsys.readouterr().err)
    assert told is not None and int(told[1]) == pytest.approx(40 - left, abs=3)


def test_what_is_no_video_is_named_and_leaves_nothing_behind(tmp_path, options, capsys):
    (tmp_path / "bad.mp4").write_bytes(b"no video at all" * 100)
    (tmp_path / "out").mkdir()
    for source, text in (("bad.mp4", "bad.mp4 is missing or no video"), ("none.mp4", "none.mp4 is missing")):
        assert run("video", tmp_path / source, tmp_path / "out" / "out.mp4", *options) == 1
        assert text in capsys.readouterr().err
    write_video(tmp_path / "small.mp4", [0, 40], height=32, width=32)
    assert run("video", tmp_path / "small.mp4", tmp_path / "out" / "out.mp4", *options) == 1
    assert "image of 32x32 pixels" in capsys.readouterr().err
    assert not list((tmp_path / "out").iterdir())


def test_a_video_is_not_written_over_its_input_or_into_an_unknown_container(tmp_path, options, capsys):
    write_video(tmp_path / "in.mp4", [0])
    assert run("video", tmp_path / "in.mp4", tmp_path / "in.mp4", *options) == 1
    assert "choose another output" in capsys.readouterr().err
    assert run("video", tmp_path / "in.mp4", tmp_path / "out.webm", *options) == 1
    assert ".mp4, .mov, .mkv" in capsys.readouterr().err


def test_files_of_like_names_may_be_written_at_the_same_time(tmp_path):
    names = [f"{'frankfurt_000000_000294_leftImg8bit_rain':s}_{number:02d}.png" for number in range(40)]

    def write(number: int) -> None:
        write_image(tmp_path / names[number], np.full((64, 64, 3), number, np.uint8))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(len(names))))
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert [int(cv2.imread(str(tmp_path / name)).max()) for name in names] == list(range(len(names)))
