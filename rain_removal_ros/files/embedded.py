"""What an image file holds beside the picture that is restored, as its outer structure says it: metadata and
further pictures. Knows neither OpenCV nor what becomes of it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from rain_removal_ros.errors import ImageError
from rain_removal_ros.image_header import (
    BEYOND_THE_DATA,
    format_of,
    jpeg_segments,
    png_chunks,
    tiff_directories,
    tiff_order,
    webp_chunks,
)

EXIF, PROFILE, XMP = "the EXIF data", "the colour profile", "the XMP data"
MORE_XMP, IPTC, COMMENTS = "the extended XMP data", "the IPTC data", "the comments"
RESOLUTION, PRIMARIES = "the resolution", "the gamma or primaries of its colours"
PICTURES = "all pictures but the first"

_TIFF_TAGS = {
    **dict.fromkeys((34665, 34853), EXIF),  # GPS is a part of it
    34675: PROFILE,  # TIFF/EP
    700: XMP,
    33723: IPTC,
    **dict.fromkeys((270, 315, 33432), COMMENTS),  # description, artist, copyright
}
_NEW_SUBFILE_TYPE, _REDUCED = 254, 1
_X_RESOLUTION = 282
_NO_RESOLUTIONS = (1, 72)  # dots per inch that programs write who know of none
_JPEG_SEGMENTS = (
    (0xE1, b"Exif\0\0", EXIF),
    (0xE1, b"http://ns.adobe.com/xap/1.0/\0", XMP),
    (0xE1, b"http://ns.adobe.com/xmp/extension/\0", MORE_XMP),
    (0xE2, b"ICC_PROFILE\0", PROFILE),
    (0xFE, b"", COMMENTS),
)
_IPTC_RESOURCE = b"8BIM\x04\x04"  # of Photoshop's
_PNG_CHUNKS = {
    b"eXIf": EXIF,
    b"iCCP": PROFILE,
    **dict.fromkeys((b"tEXt", b"zTXt", b"iTXt"), COMMENTS),
    **dict.fromkeys((b"gAMA", b"cHRM", b"cICP"), PRIMARIES),
}
_PNG_OF_SRGB = (  # what says no more than that a picture is as pictures are
    (b"gAMA", struct.pack(">I", 45455)),
    (b"cHRM", struct.pack(">8I", 31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)),
    (b"cICP", bytes((1, 13, 0, 1))),
)
_PNG_XMP = b"XML:com.adobe.xmp\0"
_WEBP_CHUNKS = {b"EXIF": EXIF, b"ICCP": PROFILE, b"XMP ": XMP}


def held_in(data: bytes) -> list[str]:
    """Which of the above a PNG, JPEG, WebP or TIFF holds, each once.

    Of other formats, and behind what is damaged, nothing is told.
    """
    view = memoryview(data)
    readers = {"png": _in_png, "jpeg": _in_jpeg, "webp": _in_webp, "tiff": _in_tiff}
    reader = readers.get(format_of(view) or "")
    told: dict[str, None] = {}
    try:
        for what in reader(view) if reader is not None else ():
            told[what] = None
    except (ImageError, *BEYOND_THE_DATA):  # it ends early, or is damaged
        pass
    return list(told)


def jpeg_profile(data: bytes) -> bytes:
    """The colour profile of a JPEG, whose parts are joined; nothing where it has none that is whole."""
    parts: dict[int, bytes] = {}
    try:
        for marker, content in jpeg_segments(memoryview(data)):
            if marker == 0xE2 and bytes(content[:12]) == b"ICC_PROFILE\0":
                parts[content[12]] = bytes(content[14:])
    except (ImageError, *BEYOND_THE_DATA):
        return b""
    profile = b"".join(parts[number] for number in sorted(parts))
    whole = int.from_bytes(profile[:4], "big") == len(profile) and profile[36:40] == b"acsp"
    return profile if whole else b""


def _in_png(view: memoryview) -> Iterator[str]:
    for kind, content in png_chunks(view):
        if kind == b"iTXt" and content[: len(_PNG_XMP)] == _PNG_XMP:
            yield XMP
        elif kind in _PNG_CHUNKS and (kind, bytes(content)) not in _PNG_OF_SRGB:
            yield _PNG_CHUNKS[kind]
        elif kind == b"pHYs":
            across, _, unit = struct.unpack(">IIB", content)
            if unit == 1 and round(across * 0.0254) not in _NO_RESOLUTIONS:  # dots per metre
                yield RESOLUTION
        elif kind == b"acTL" and struct.unpack_from(">I", content)[0] > 1:
            yield PICTURES


def _in_jpeg(view: memoryview) -> Iterator[str]:
    for marker, content in jpeg_segments(view):
        for kind, begin, what in _JPEG_SEGMENTS:
            if marker == kind and content[: len(begin)] == begin:
                yield what
        if marker == 0xE0 and bytes(content[:5]) == b"JFIF\0":
            unit, across = struct.unpack_from(">BH", content, 7)
            if unit and round(across * (2.54 if unit == 2 else 1)) not in (*_NO_RESOLUTIONS, 71):
                yield RESOLUTION
        if marker == 0xED and _IPTC_RESOURCE in bytes(content):
            yield IPTC
        if marker == 0xE2 and bytes(content[:4]) == b"MPF\0" and _pictures(content[4:]) > 1:
            yield PICTURES


def _pictures(index: memoryview) -> int:
    """How many pictures a multi-picture JPEG has by its index (CIPA DC-007), which is built as a TIFF is.

    Previews are not counted.
    """
    order, count, list_at = tiff_order(index), 0, 0
    for tag, _, place in next(tiff_directories(index), ()):
        if tag == 0xB001:
            (count,) = struct.unpack_from(order + "I", index, place)
        if tag == 0xB002:
            list_at = place
    entries = index[list_at : list_at + 16 * count]
    kinds = (kind >> 16 & 0xFF for kind, _, _ in struct.iter_unpack(order + "IQI", entries))
    return sum(kind != 1 for kind in kinds)


def _in_webp(view: memoryview) -> Iterator[str]:
    frames = 0
    for kind, _ in webp_chunks(view):
        if kind in _WEBP_CHUNKS:
            yield _WEBP_CHUNKS[kind]
        frames += kind == b"ANMF"
        if frames > 1:
            yield PICTURES


def _in_tiff(view: memoryview) -> Iterator[str]:
    order = tiff_order(view)
    for number, entries in enumerate(tiff_directories(view)):
        reduced = False
        for tag, _, place in entries:
            if number == 0 and tag in _TIFF_TAGS:
                yield _TIFF_TAGS[tag]
            if number == 0 and tag == _X_RESOLUTION:
                dots, inches = struct.unpack_from(order + "II", view, place)
                if inches and dots / inches not in _NO_RESOLUTIONS:
                    yield RESOLUTION
            if tag == _NEW_SUBFILE_TYPE:
                (kind,) = struct.unpack_from(order + "I", view, place)
                reduced = bool(kind & _REDUCED)
        if number and not reduced:  # a smaller copy is no picture of its own
            yield PICTURES
