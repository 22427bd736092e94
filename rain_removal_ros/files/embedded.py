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
PICTURES = "all pictures but the first"

_TIFF_TAGS = {34665: EXIF, 34853: EXIF, 34675: PROFILE, 700: XMP}  # EXIF, GPS, ICC (TIFF/EP, EXIF 2.3), XMP
_NEW_SUBFILE_TYPE, _REDUCED = 254, 1
_JPEG_SEGMENTS = (
    (0xE1, b"Exif\0\0", EXIF),
    (0xE1, b"http://ns.adobe.com/xap/1.0/\0", XMP),
    (0xE2, b"ICC_PROFILE\0", PROFILE),
)
_PNG_CHUNKS = {b"eXIf": EXIF, b"iCCP": PROFILE}
_PNG_XMP = b"XML:com.adobe.xmp\0"
_WEBP_CHUNKS = {b"EXIF": EXIF, b"ICCP": PROFILE, b"XMP ": XMP}


def held_in(data: bytes) -> list[str]:
    """Which of EXIF, PROFILE, XMP and PICTURES a PNG, JPEG, WebP or TIFF holds, each once.

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


def _in_png(view: memoryview) -> Iterator[str]:
    for kind, content in png_chunks(view):
        if kind in _PNG_CHUNKS:
            yield _PNG_CHUNKS[kind]
        elif kind == b"iTXt" and content[: len(_PNG_XMP)] == _PNG_XMP:
            yield XMP
        elif kind == b"acTL" and struct.unpack_from(">I", content)[0] > 1:
            yield PICTURES


def _in_jpeg(view: memoryview) -> Iterator[str]:
    for marker, content in jpeg_segments(view):
        for kind, begin, what in _JPEG_SEGMENTS:
            if marker == kind and content[: len(begin)] == begin:
                yield what


def _in_webp(view: memoryview) -> Iterator[str]:
    frames = 0
    for kind, _ in webp_chunks(view):
        if kind in _WEBP_CHUNKS:
            yield _WEBP_CHUNKS[kind]
        frames += kind == b"ANMF"
        if frames > 1:
            yield PICTURES


def _in_tiff(view: memoryview) -> Iterator[str]:
    for number, entries in enumerate(tiff_directories(view)):
        reduced = False
        for tag, _, place in entries:
            if number == 0 and tag in _TIFF_TAGS:
                yield _TIFF_TAGS[tag]
            if tag == _NEW_SUBFILE_TYPE:
                (kind,) = struct.unpack_from(tiff_order(view) + "I", view, place)
                reduced = bool(kind & _REDUCED)
        if number and not reduced:  # a smaller copy is no picture of its own
            yield PICTURES
