"""Image files: which to read, where their results go, reading and writing. Knows no network."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from rain_removal_ros.decoding import check_decodable, decode
from rain_removal_ros.encodings import Picture, interleaved_picture
from rain_removal_ros.encodings import write_image as write_picture
from rain_removal_ros.errors import ImageError, ParameterError
from rain_removal_ros.files.embedded import held_in, jpeg_profile
from rain_removal_ros.image_header import format_of, upright_exif
from rain_removal_ros.output import write_bytes
from rain_removal_ros.paths import exists
from rain_removal_ros.runtime.sizes import check_size

JPEG_QUALITY = 95
LARGEST_FILE = 1 << 28
"""Bytes. An uncompressed 16-bit image of the largest size that is taken has a quarter of that."""


@dataclass(frozen=True)
class Format:
    """What an image format can hold."""

    sixteen_bits: bool
    alpha: bool
    metadata: bool


_JPEG = Format(sixteen_bits=False, alpha=False, metadata=True)
_TIFF = Format(sixteen_bits=True, alpha=True, metadata=False)
FORMATS = {
    ".jpg": _JPEG,
    ".jpeg": _JPEG,
    ".png": Format(sixteen_bits=True, alpha=True, metadata=True),
    ".bmp": Format(sixteen_bits=False, alpha=False, metadata=False),
    ".webp": Format(sixteen_bits=False, alpha=True, metadata=True),
    ".tif": _TIFF,
    ".tiff": _TIFF,
}
SUFFIXES = tuple(FORMATS)


@dataclass(frozen=True)
class Job:
    """One image file and where its result goes."""

    source: Path
    target: Path


def plan(inputs: Sequence[Path], output: Path, tell: Callable[[str], None] = print) -> list[Job]:
    """What `derain image IN... OUT` has to do. `tell` is given what of a folder is left out, in words.

    A single file goes to OUT itself where that has an image's suffix and is no folder; everything else goes
    into the folder OUT under its own name, the images of a folder (and its subfolders) under their path in
    it, but for hidden ones, whose names begin with a dot. Raises ParameterError where an input does not exist
    or a folder cannot be read, a folder holds no images, OUT looks like a file that cannot be written, two
    results would get one name, or a result would overwrite an input.
    """
    try:
        return _plan(inputs, output, tell)
    except OSError as error:
        raise ParameterError(
            f"{error.filename} cannot be read ({error.strerror}); mend that, or choose other files"
        ) from error


def _plan(inputs: Sequence[Path], output: Path, tell: Callable[[str], None]) -> list[Job]:
    missing = [path for path in inputs if not exists(path)]
    if missing:
        raise ParameterError(f"{missing[0]} does not exist; give image files or folders, and the output last")
    single = len(inputs) == 1 and inputs[0].is_file()
    if single and output.suffix.lower() in SUFFIXES and not output.is_dir():
        jobs = [Job(inputs[0], output)]
    else:
        suffix = output.suffix.lower()
        if not output.exists() and (suffix in SUFFIXES or (single and suffix)):
            wanted = f"a file ending in {', '.join(SUFFIXES)}" if single else "a folder for several results"
            raise ParameterError(
                f"{output} looks like a file that cannot be written; give {wanted} (a folder of such a "
                "name has to be there already)"
            )
        if output.is_file():
            raise ParameterError(f"{output} is a file; give a folder for the results of several images")
        jobs = [job for path in inputs for job in _jobs_of(path, output, tell)]
    sources = {job.source.resolve() for job in jobs}
    taken: dict[Path, Path] = {}
    for job in jobs:
        target = job.target.resolve()
        if target in sources:
            raise ParameterError(f"{job.target} is an input and would be overwritten; choose another output")
        if target in taken:
            raise ParameterError(
                f"{job.source} and {taken[target]} would both be written to {job.target}; restore them into "
                "two folders"
            )
        taken[target] = job.source
    return jobs


def _jobs_of(path: Path, output: Path, tell: Callable[[str], None]) -> list[Job]:
    if path.is_file():
        return [Job(path, output / path.name)]
    inside = output.resolve()
    found = [file for file in _files_in(path) if inside not in file.resolve().parents]
    files = sorted(file for file in found if file.suffix.lower() in SUFFIXES)
    if not files and path.resolve() != inside:
        raise ParameterError(f"no images in {path}; files ending in {', '.join(SUFFIXES)} are taken")
    if not files:
        raise ParameterError(f"{path} is input and output at once; choose another output")
    others = Counter(file.suffix.lower() for file in found if file.suffix.lower() not in SUFFIXES)
    if others:
        kinds = ", ".join(
            f"{count} {suffix or 'without a suffix'}" for suffix, count in sorted(others.items())
        )
        tell(f"{others.total()} files in {path} are left out ({kinds}); {', '.join(SUFFIXES)} are taken")
    return [Job(file, output / file.relative_to(path)) for file in files]


def _files_in(folder: Path) -> list[Path]:
    """All files in a folder and its subfolders but hidden ones. Raises OSError for a folder that cannot be
    read.
    """

    def fail(error: OSError) -> None:
        raise error

    files = []
    for place, folders, names in os.walk(folder, onerror=fail):
        folders[:] = [name for name in folders if not name.startswith(".")]
        files += [Path(place, name) for name in names if not name.startswith(".")]
    return [file for file in files if file.is_file()]


@dataclass(frozen=True)
class ImageFile:
    """What an image file brings: its pixels as a message would, upright, what else OpenCV hands over, and
    what it holds beside its pixels, whether OpenCV knows of it or not.
    """

    picture: Picture
    metadata: tuple[tuple[int, bytes], ...] = ()  # OpenCV's kind (EXIF, XMP, ICC profile, ...) and content
    holds: tuple[str, ...] = ()  # by the names of `embedded`


def read_image_file(path: Path) -> ImageFile:
    """An image that the networks take, turned upright as its EXIF data say; alpha and 16 bits are kept.

    Raises ImageError, naming the file, for what is missing, damaged, no image, or of a size not taken.
    """
    data = _content(path)
    pixels = _decoded(path, data, check_size)
    channels = pixels.shape[2] if pixels.ndim == 3 else 1
    kind, depth = {1: "mono", 3: "bgr", 4: "bgra"}[channels], pixels.dtype.itemsize
    return ImageFile(
        interleaved_picture(pixels.reshape(*pixels.shape[:2], channels), f"{kind}{8 * depth}"),
        _metadata(data, channels),
        tuple(held_in(data)),
    )


def read_image(path: Path, check: Callable[[int, int], None] = check_decodable) -> np.ndarray:
    """uint8 (H, W, 3) RGB, turned upright as its EXIF data say; transparency and lower bits are lost.

    `check` is given the declared height and width before the file is decoded. Raises ImageError, naming the
    file.
    """
    pixels = _decoded(path, _content(path), check)
    if pixels.dtype == np.uint16:
        pixels = (pixels >> 8).astype(np.uint8)
    code = cv2.COLOR_GRAY2RGB if pixels.ndim == 2 else cv2.COLOR_BGR2RGB
    return cv2.cvtColor(np.ascontiguousarray(pixels[..., :3] if pixels.ndim == 3 else pixels), code)


def read_map(path: Path, check: Callable[[int, int], None] = check_decodable) -> np.ndarray:
    """uint8 or uint16 (H, W): a single-channel file's numbers as they are. Raises ImageError, naming it."""
    pixels = _decoded(path, _content(path), check, upright=False)
    if pixels.ndim != 2:
        raise ImageError(f"{path} has {pixels.shape[2]} channels; a single one is expected")
    return pixels


def write_image_file(path: Path, image: ImageFile, restored: np.ndarray) -> list[str]:
    """Write what the network made of an image in the format of the suffix, with all that the image brought.

    restored: uint8 (H, W, 3) RGB. Gives what is not in the result, in words: what the format cannot hold, or
    this OpenCV does not carry over. Raises OutputError or ImageError, naming the file.
    """
    form = FORMATS.get(path.suffix.lower())
    if form is None:
        raise ImageError(f"{path} cannot be written: {path.suffix or 'no suffix'}; {', '.join(SUFFIXES)} can")
    pixels = write_picture(image.picture, restored)
    kind = image.picture.encoding.rstrip("0123456789")
    if kind.startswith("rgb"):
        raise ValueError(f"OpenCV writes BGR, not {kind}")
    lost = []
    if pixels.dtype == np.uint16 and not form.sixteen_bits:
        pixels = (pixels >> 8).astype(np.uint8)
        lost.append("the lower 8 of 16 bits")
    if pixels.shape[2] == 4 and not form.alpha:
        pixels = pixels[..., :3]
        lost.append("the transparency")
    metadata = image.metadata if form.metadata else ()
    encoded = _with_metadata(path, np.ascontiguousarray(pixels), metadata)
    write_bytes(path, encoded)
    kept = held_in(encoded)
    return lost + [what for what in image.holds if what not in kept]


def write_image(path: Path, image: np.ndarray) -> None:
    """Write uint8 (H, W, 3) RGB, or uint8 or uint16 (H, W), in the format of the suffix; atomic.

    Raises OutputError or ImageError, naming the file.
    """
    write_bytes(path, _encoded(path, image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2BGR)))


def _content(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            if size > LARGEST_FILE:
                raise ImageError(f"{path} has {size} bytes; image files of up to {LARGEST_FILE} are read")
            return file.read()
    except FileNotFoundError as error:
        raise ImageError(f"{path} is missing") from error
    except OSError as error:
        raise ImageError(f"{path} cannot be read ({error.strerror})") from error


def _decoded(path: Path, data: bytes, check: Callable[[int, int], None], upright: bool = True) -> np.ndarray:
    try:
        return decode(data, upright, check)[0]
    except ImageError as error:
        raise ImageError(f"{path}: {error}") from error


def _metadata(data: bytes, channels: int) -> tuple[tuple[int, bytes], ...]:
    if not hasattr(cv2, "imdecodeWithMetadata"):  # OpenCV before 4.12
        return ()
    buffer = np.frombuffer(data, np.uint8)
    _, kinds, contents = cv2.imdecodeWithMetadata(buffer, cv2.IMREAD_REDUCED_GRAYSCALE_8)
    found = {kind: np.asarray(content).tobytes() for kind, content in zip(kinds, contents, strict=True)}
    if cv2.IMAGE_METADATA_EXIF in found:
        exif = found[cv2.IMAGE_METADATA_EXIF].removeprefix(b"Exif\0\0")  # which some WebP have
        found[cv2.IMAGE_METADATA_EXIF] = upright_exif(exif)
    profile = found.pop(cv2.IMAGE_METADATA_ICCP, b"")
    if format_of(buffer.data) == "jpeg":  # OpenCV takes whatever stands in segments of a profile's kind
        profile = jpeg_profile(data)
    space = profile[16:20]  # of the numbers that a profile is about; pixels are decoded to grey or RGB
    if space == b"RGB " or (space == b"GRAY" and channels == 1):
        found[cv2.IMAGE_METADATA_ICCP] = profile
    return tuple((kind, content) for kind, content in found.items() if content)


def _with_metadata(path: Path, pixels: np.ndarray, metadata: tuple[tuple[int, bytes], ...]) -> bytes:
    """Encoded, with those blocks of the metadata that the format takes: one may be too large, or damaged."""
    try:
        return _encoded(path, pixels, metadata)
    except ImageError:
        if not metadata:
            raise
    taken: tuple[tuple[int, bytes], ...] = ()
    for block in metadata:
        with suppress(ImageError):
            _encoded(path, pixels, (*taken, block))
            taken = (*taken, block)
    return _encoded(path, pixels, taken)


def _encoded(path: Path, pixels: np.ndarray, metadata: tuple[tuple[int, bytes], ...] = ()) -> bytes:
    suffix = path.suffix.lower()
    options = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY] if suffix in (".jpg", ".jpeg") else []
    try:
        if metadata:
            kinds = [kind for kind, _ in metadata]
            contents = [np.frombuffer(content, np.uint8) for _, content in metadata]
            done, encoded = cv2.imencodeWithMetadata(suffix, pixels, kinds, contents, options)
        else:
            done, encoded = cv2.imencode(suffix, pixels, options)
    except cv2.error as error:
        raise ImageError(f"{path} cannot be written: {path.suffix} is no format of OpenCV's") from error
    if not done:
        raise ImageError(f"{path} cannot be written as {path.suffix}")
    return encoded.tobytes()
