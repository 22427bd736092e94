"""What an encoded image (PNG, JPEG, BMP, WebP, TIFF) says of itself before it is decoded.

A file of a megabyte can declare a picture of gigabytes, and half a file can look like a whole picture; both
show in the header and the outer structure alone. Knows neither ROS nor OpenCV nor torch.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from rain_removal_ros.errors import ImageError
from rain_removal_ros.runtime.sizes import check_size

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
FORMATS = "PNG, JPEG, BMP, WebP and TIFF"

BEYOND_THE_DATA = (struct.error, IndexError, OverflowError)
"""What is raised where a header points behind its own end; OverflowError by a place of 64 bits."""

MOST = 4096
"""Directories of a TIFF, entries of one, and segments of a JPEG that are looked at; damaged ones may go in
circles.
"""

MOST_SCANS = 100
"""Of a JPEG: a progressive one has about ten. Each has a decoder go over the whole picture once more, and may
have no more than twenty bytes.
"""

MOST_CHUNKS, MOST_BESIDE = 1 << 16, 1024
"""Of a PNG, and those of them that hold no pixels: a decoder may write a line about each."""

MOST_TILE = 2048 * 2048
"""Pixels of a TIFF's tile, which is decoded whole, however small the picture is."""

Data = bytes | bytearray | memoryview


@dataclass(frozen=True)
class ImageHeader:
    """Of an encoded image, as its header declares it.

    format: png | jpeg | bmp | webp | tiff.
    orientation: EXIF's 1 to 8; width and height are those of the stored pixels, before they are turned.
    complete: False where the data end before the image does.
    """

    width: int
    height: int
    format: str
    orientation: int = 1
    complete: bool = True


def read_header(data: Data) -> ImageHeader:
    """The header of an encoded image. The whole file is needed: a TIFF may have its directory at the end.

    Raises ImageError for another format and for a header that is cut or says nothing.
    """
    view = memoryview(data).cast("B")
    form = format_of(view)
    if form is None and not len(view):
        raise ImageError("image holds no data")
    if form is None:
        raise ImageError(f"data of {len(view)} bytes are no image of a known format; {FORMATS} are taken")
    try:
        header = _READERS[form](view)
    except BEYOND_THE_DATA as error:
        raise ImageError(f"image of {len(view)} bytes ends within its header") from error
    if header.width <= 0 or header.height <= 0:
        raise ImageError(f"{header.format} image declares {header.width}x{header.height} pixels")
    return header


def format_of(view: memoryview) -> str | None:
    """png, jpeg, bmp, webp or tiff, by the first bytes, as decoders tell them apart; None: none of these."""
    begin = bytes(view[:12])
    if begin.startswith(PNG_SIGNATURE):
        return "png"
    if begin.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    if begin.startswith(b"BM"):
        return "bmp"
    if begin[:4] == b"RIFF" and begin[8:] == b"WEBP":
        return "webp"
    return "tiff" if begin[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+") else None


def check_header(data: Data) -> ImageHeader:
    """The header of an encoded image that the networks may be given.

    Raises ImageError for another format, for a size that the networks are not made for, before a pixel is
    decoded, and where the data end early.
    """
    header = read_header(data)
    check_size(header.height, header.width)
    check_complete(header, len(data))
    return header


def check_complete(header: ImageHeader, size: int) -> None:
    """Raise ImageError where an image of `size` bytes ends early: half a picture decodes to grey."""
    if not header.complete:
        raise ImageError(f"{header.format} image of {size} bytes ends early; it was cut on its way")


def _png(view: memoryview) -> ImageHeader:
    if bytes(view[12:16]) != b"IHDR":
        raise ImageError("PNG image does not begin with its header")
    width, height = struct.unpack_from(">II", view, 16)
    orientation, complete = 1, False
    for kind, content in png_chunks(view):
        if kind == b"eXIf":
            orientation = _exif_orientation(content)
        if kind == b"IEND":
            complete = True
            break
    return ImageHeader(width, height, "png", orientation, complete)


def png_chunks(view: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    """Kind and content of every whole chunk of a PNG. Raises ImageError for one of too many."""
    place = len(PNG_SIGNATURE)
    seen = beside = 0
    while place + 12 <= len(view):
        (length,) = struct.unpack_from(">I", view, place)
        if place + 12 + length > len(view):
            return
        kind = bytes(view[place + 4 : place + 8])
        seen, beside = seen + 1, beside + (kind not in (b"IDAT", b"fdAT"))
        if seen > MOST_CHUNKS or beside > MOST_BESIDE:
            raise ImageError(
                f"PNG image has more than {seen - 1} chunks, {beside - 1} of them without pixels"
            )
        yield kind, view[place + 8 : place + 8 + length]
        place += 12 + length


def jpeg_segments(view: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Marker and content of every segment of a JPEG before its first scan, whose header is the last. Raises
    ImageError for damage.
    """
    for marker, begin, end in _jpeg_places(view):
        yield marker, view[begin:end]


def _jpeg_places(view: memoryview) -> Iterator[tuple[int, int, int]]:
    """As `jpeg_segments`: markers, and where their content begins and ends."""
    place = 2
    for _ in range(MOST):
        if view[place] != 0xFF:
            raise ImageError(f"JPEG image is damaged: no marker at byte {place}")
        padded = place
        while view[place] == 0xFF and place - padded < MOST:  # markers may be padded
            place += 1
        marker = view[place]
        place += 1
        if marker == 0x01 or 0xD0 <= marker <= 0xD8:  # without content
            continue
        if marker == 0xD9:
            return
        (length,) = struct.unpack_from(">H", view, place)
        if length < 2:
            raise ImageError(f"JPEG image is damaged: a segment of {length} bytes")
        yield marker, place + 2, place + length
        if marker == 0xDA:
            return
        place += length
    raise ImageError(f"JPEG image has no scan within its first {MOST} segments")


_WITHIN_SCANS = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
"""A marker after a scan's begin: neither a byte of it that happens to be FF, nor where a decoder may start
anew.
"""


def _jpeg(view: memoryview) -> ImageHeader:
    size, orientation, place = None, 1, len(view)
    for marker, begin, end in _jpeg_places(view):
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # a frame, of whatever process
            height, width = struct.unpack_from(">HH", view[begin:end], 1)
            size = width, height
        elif marker == 0xE1 and bytes(view[begin : begin + 6]) == b"Exif\0\0":
            orientation = _exif_orientation(view[begin + 6 : end])
        elif marker == 0xDA:
            place = end
    if size is None:
        raise ImageError("JPEG image has no frame header")
    return ImageHeader(*size, "jpeg", orientation, _ends_after_scans(view, place))


def _ends_after_scans(view: memoryview, place: int) -> bool:
    """Whether a JPEG has its end, from its first scan on; what a camera appends to it is not looked at.

    Raises ImageError for one of too many scans, or of too many segments between them.
    """
    scans = 1
    for _ in range(MOST):
        found = _WITHIN_SCANS.search(view, place)
        if found is None:
            return False
        marker, place = view[found.start() + 1], found.end()
        if marker == 0xD9:
            return True
        if marker in (0x01, 0xD8):
            continue
        scans += marker == 0xDA
        if scans > MOST_SCANS:
            raise ImageError(f"JPEG image of more than {MOST_SCANS} scans; up to so many are decoded")
        if place + 2 > len(view):
            return False
        place += struct.unpack_from(">H", view, place)[0]
    raise ImageError(f"JPEG image has more than {MOST} segments between its scans")


def _bmp(view: memoryview) -> ImageHeader:
    (header_size,) = struct.unpack_from("<I", view, 14)
    if header_size == 12:
        width, height = struct.unpack_from("<HH", view, 18)
    else:
        width, height = struct.unpack_from("<ii", view, 18)
    (begin,) = struct.unpack_from("<I", view, 10)
    return ImageHeader(width, abs(height), "bmp", complete=begin < len(view))


def _webp(view: memoryview) -> ImageHeader:
    (riff_size,) = struct.unpack_from("<I", view, 4)
    complete = riff_size + 8 <= len(view)
    kind, orientation = bytes(view[12:16]), 1
    if kind == b"VP8 ":
        if bytes(view[23:26]) != b"\x9d\x01\x2a":
            raise ImageError("WebP image does not begin with a key frame")
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", view, 26))
    elif kind == b"VP8L":
        if view[20] != 0x2F:
            raise ImageError("WebP image is damaged: no lossless signature")
        (bits,) = struct.unpack_from("<I", view, 21)
        width, height = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    elif kind == b"VP8X":
        width, height = (1 + int.from_bytes(view[place : place + 3], "little") for place in (24, 27))
        if len(view) < 30:
            raise IndexError
        orientation = _webp_orientation(view)
    else:
        raise ImageError("WebP image is of no known kind")
    return ImageHeader(width, height, "webp", orientation, complete)


def _webp_orientation(view: memoryview) -> int:
    for kind, content in webp_chunks(view):
        if kind == b"EXIF":
            return _exif_orientation(content[6:] if bytes(content[:6]) == b"Exif\0\0" else content)
    return 1


def webp_chunks(view: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    """Kind and content of every chunk of a WebP; the last one's may end early."""
    place = 12
    for _ in range(MOST):
        if place + 8 > len(view):
            return
        (length,) = struct.unpack_from("<I", view, place + 4)
        yield bytes(view[place : place + 4]), view[place + 8 : place + 8 + length]
        place += 8 + length + length % 2


def _tiff(view: memoryview) -> ImageHeader:
    tags = _tiff_tags(view)
    if 256 not in tags or 257 not in tags:
        raise ImageError("TIFF image does not say how large it is")
    if tags.get(277) == 2:
        raise ImageError("TIFF image of grey and alpha; save it without the transparency, or as PNG")
    if tags.get(258, 1) > 8 and tags.get(262) == 0:
        raise ImageError(f"TIFF image of {tags[258]} bits whose 0 is white; save it with 0 as black")
    if tags.get(258, 1) > 8 and tags.get(277, 1) > 1 and tags.get(284) == 2:
        raise ImageError(
            f"TIFF image of {tags[258]} bits with a plane for each colour; save it with the colours of a "
            "pixel side by side (interleaved)"
        )
    orientation = tags.get(274, 1)
    tile = tags.get(322, 0), tags.get(323, 0)
    if tile[0] * tile[1] > max(4 * tags[256] * tags[257], MOST_TILE):
        raise ImageError(f"TIFF image of {tags[256]}x{tags[257]} pixels in tiles of {tile[0]}x{tile[1]}")
    return ImageHeader(tags[256], tags[257], "tiff", orientation if 1 <= orientation <= 8 else 1)


_TIFF_READ = (256, 257, 258, 262, 274, 277, 284, 322, 323, 338)
"""Width, height, bits of a number, what 0 means, orientation, numbers of a pixel, how they are arranged, the
sides of a tile, what alpha means.
"""

_TIFF_SIZES = {
    **dict.fromkeys((1, 2, 6, 7), 1),
    **dict.fromkeys((3, 8), 2),
    **dict.fromkeys((4, 9, 11, 13), 4),
    **dict.fromkeys((5, 10, 12, 16, 17, 18), 8),
}
"""Bytes of a value, by its type."""


def _tiff_tags(view: memoryview) -> dict[int, int]:
    """The first whole number of those of _TIFF_READ that the first directory has."""
    tags: dict[int, int] = {}
    for tag, form, place in _tiff_entries(view):
        if tag not in tags:
            (tags[tag],) = struct.unpack_from(form, view, place)
    return tags


def _tiff_entries(view: memoryview) -> Iterator[tuple[int, str, int]]:
    """Tag, number format and place of those of _TIFF_READ that the first directory has as whole numbers."""
    for tag, kind, place in next(tiff_directories(view), ()):
        letter = {1: "B", 3: "H", 4: "I", 16: "Q"}.get(kind)
        if tag in _TIFF_READ and letter is not None:
            yield tag, tiff_order(view) + letter, place


def tiff_order(view: memoryview) -> str:
    """The order of a TIFF's bytes, as `struct` writes it."""
    return "<" if bytes(view[:2]) == b"II" else ">"


def tiff_directories(view: memoryview) -> Iterator[Iterator[tuple[int, int, int]]]:
    """Tag, type and place of the values of the entries of every directory of a TIFF, one for a picture."""
    order = tiff_order(view)
    big = struct.unpack_from(order + "H", view, 2)[0] == 43
    place_form, count_form, entry_size, at = ("Q", "Q", 20, 8) if big else ("I", "H", 12, 4)
    (place,) = struct.unpack_from(order + place_form, view, at)
    for _ in range(MOST):
        if not place:
            return
        (count,) = struct.unpack_from(order + count_form, view, place)
        begin = place + struct.calcsize(order + count_form)
        entries = range(begin, begin + min(count, MOST) * entry_size, entry_size)
        yield (_tiff_entry(view, order + "HH" + place_form, entry) for entry in entries)
        (place,) = struct.unpack_from(order + place_form, view, begin + count * entry_size)


def _tiff_entry(view: memoryview, form: str, entry: int) -> tuple[int, int, int]:
    tag, kind, count = struct.unpack_from(form, view, entry)
    place_form, place = form[0] + form[-1], entry + struct.calcsize(form)
    if count * _TIFF_SIZES.get(kind, 1) > struct.calcsize(place_form):  # the values stand elsewhere
        (place,) = struct.unpack_from(place_form, view, place)
    return tag, kind, place


def _exif_orientation(content: memoryview) -> int:
    """1 where the EXIF data are damaged or silent; a picture is not lost for them."""
    try:
        orientation = _tiff_tags(content).get(274, 1)
    except BEYOND_THE_DATA:
        return 1
    return orientation if 1 <= orientation <= 8 else 1


def upright_exif(content: bytes) -> bytes:
    """EXIF data (a TIFF's bytes) that say of an image that was turned upright that it is."""
    try:
        return _with_tags(content, {274: 1})
    except BEYOND_THE_DATA:
        return b""


def as_stored(tiff: Data) -> bytes:
    """A TIFF whose numbers libtiff hands over as they are stored: neither turned nor multiplied by alpha."""
    return _with_tags(tiff, {274: 1, 338: 1})  # its alpha counts as multiplied already


def _with_tags(tiff: Data, values: dict[int, int]) -> bytes:
    """A TIFF's bytes, other values in place of those that its first directory has of these tags."""
    changed = bytearray(tiff)
    for tag, form, place in _tiff_entries(memoryview(tiff)):
        if tag in values:
            struct.pack_into(form, changed, place, values[tag])
    return bytes(changed)


_READERS = {"png": _png, "jpeg": _jpeg, "bmp": _bmp, "webp": _webp, "tiff": _tiff}
