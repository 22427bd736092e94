"""What an image file holds beside the picture that is restored, as its outer structure says it: metadata and
further pictures. Knows neither OpenCV nor what becomes of it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from rain_removal_ros.image_header import PNG_SIGNATURE

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
_WEBP_CHUNKS = {b"EXIF": EXIF, b"ICCP": PROFILE, b"XMP ": XMP}
_MOST = 4096
"""Directories of a TIFF that are looked at; damaged ones may go in circles."""


def held_in(data: bytes) -> list[str]:
    """Which of EXIF, PROFILE, XMP and PICTURES a PNG, JPEG, WebP or TIFF holds, each once.

    Of other formats, and behind what is damaged, nothing is told.
    """
    if data[:8] == PNG_SIGNATURE:
        found = _in_png(data)
    elif data[:3] == b"\xff\xd8\xff":
        found = _in_jpeg(data)
    elif data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        found = _in_webp(data)
    elif data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        found = _in_tiff(data)
    else:
        return []
    told: dict[str, None] = {}
    try:
        for what in found:
            told[what] = None
    except (struct.error, IndexError, OverflowError):  # it ends early
        pass
    return list(told)


def _in_png(data: bytes) -> Iterator[str]:
    place = len(PNG_SIGNATURE)
    while place < len(data):
        length, kind = struct.unpack_from(">I4s", data, place)
        if kind in _PNG_CHUNKS:
            yield _PNG_CHUNKS[kind]
        elif kind == b"iTXt" and data.startswith(b"XML:com.adobe.xmp\0", place + 8):
            yield XMP
        elif kind == b"acTL" and struct.unpack_from(">I", data, place + 8)[0] > 1:
            yield PICTURES
        place += 12 + length


def _in_jpeg(data: bytes) -> Iterator[str]:
    place = 2
    while data[place] == 0xFF:
        marker = data[place + 1]
        if marker == 0xFF:  # markers may be padded
            place += 1
            continue
        if marker == 0x01 or 0xD0 <= marker <= 0xD8:  # without content
            place += 2
            continue
        if marker in (0xD9, 0xDA):
            return
        for kind, begin, what in _JPEG_SEGMENTS:
            if marker == kind and data.startswith(begin, place + 4):
                yield what
        (length,) = struct.unpack_from(">H", data, place + 2)
        place += 2 + length


def _in_webp(data: bytes) -> Iterator[str]:
    place, frames = 12, 0
    while place < len(data):
        kind, length = struct.unpack_from("<4sI", data, place)
        if kind in _WEBP_CHUNKS:
            yield _WEBP_CHUNKS[kind]
        frames += kind == b"ANMF"
        if frames > 1:
            yield PICTURES
        place += 8 + length + length % 2


def _in_tiff(data: bytes) -> Iterator[str]:
    order = "<" if data[:2] == b"II" else ">"
    big = struct.unpack_from(order + "H", data, 2)[0] == 43
    offset, count_form, entry_size, at = ("Q", "Q", 20, 8) if big else ("I", "H", 12, 4)
    (place,) = struct.unpack_from(order + offset, data, at)
    for number in range(_MOST):
        if not place:
            return
        (count,) = struct.unpack_from(order + count_form, data, place)
        place += struct.calcsize(order + count_form)
        reduced = False
        for entry in range(place, place + min(count, _MOST) * entry_size, entry_size):
            (tag,) = struct.unpack_from(order + "H", data, entry)
            if number == 0 and tag in _TIFF_TAGS:
                yield _TIFF_TAGS[tag]
            if tag == _NEW_SUBFILE_TYPE:
                (kind,) = struct.unpack_from(order + "I", data, entry + (12 if big else 8))
                reduced = bool(kind & _REDUCED)
        if number and not reduced:  # a smaller copy is no picture of its own
            yield PICTURES
        (place,) = struct.unpack_from(order + offset, data, place + count * entry_size)
