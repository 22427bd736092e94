"""Video files as streams of frames, through PyAV. Knows containers and codecs, and no network.

Frames are held one at a time, so a video may be of any length; each keeps its time, so the result has the
frame rate and the number of frames of its source, also where the rate varies.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType

import av
import av.error
import cv2
import numpy as np
from av.video.reformatter import ColorRange, Colorspace

from rain_removal_ros.errors import ImageError, ParameterError

CONTAINERS = (".mp4", ".mov", ".mkv")
QUALITY = "18"  # x264's constant rate factor: hardly to be told from the source
BT709 = 1  # of AVColorPrimaries, AVColorTransferCharacteristic and AVColorSpace alike
LIMITED_RANGE = 1  # of AVColorRange


@dataclass(frozen=True)
class TimedFrame:
    """uint8 (H, W, 3) RGB, upright, with its time in units of the video's time base."""

    image: np.ndarray
    time: int


class VideoSource:
    """The first video stream of a file.

    Iterate once; `damaged` counts the packets that could not be decoded.
    """

    def __init__(self, path: Path):
        """Raises ImageError, naming the file, where it is missing, damaged or without a video stream."""
        self.path, self.damaged = path, 0
        try:
            self._container = av.open(str(path))
        except (av.error.FFmpegError, OSError) as error:
            raise ImageError(f"{path} is missing or no video that can be read ({error.strerror})") from error
        if not self._container.streams.video:
            self._container.close()
            raise ImageError(f"{path} has no video stream")
        self._stream = self._container.streams.video[0]
        # threads by frame lose good frames next to a damaged one, and decoding is not what takes the time
        self._stream.thread_type = "SLICE"
        self.rate: Fraction = self._stream.average_rate or self._stream.guessed_rate or Fraction(30)
        self.time_base: Fraction = self._stream.time_base or 1 / self.rate
        self.has_audio = bool(self._container.streams.audio)

    @property
    def frame_count(self) -> int | None:
        """As the file states it, or by duration and rate; None where it states neither."""
        if self._stream.frames:
            return self._stream.frames
        if self._stream.duration:
            return round(self._stream.duration * self.time_base * self.rate)
        if self._container.duration:
            return round(self._container.duration / 1_000_000 * self.rate)
        return None

    def __iter__(self) -> Iterator[TimedFrame]:
        step = max(1, round(1 / (self.rate * self.time_base)))
        start = size = previous = None
        for packet in self._container.demux(self._stream):
            try:
                frames = packet.decode()
            except av.error.InvalidDataError:
                self.damaged += 1
                continue
            for frame in frames:
                time = frame.pts
                if time is not None:
                    start = time if start is None else start
                    time -= start
                if previous is not None and (time is None or time <= previous):
                    time = previous + step
                previous = time or 0
                image = _upright_rgb(frame)
                size = size or (image.shape[1], image.shape[0])
                if (image.shape[1], image.shape[0]) != size:  # a stream may change its size; a file has one
                    image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
                yield TimedFrame(image, previous)

    def __enter__(self) -> VideoSource:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._container.close()


def _upright_rgb(frame: av.VideoFrame) -> np.ndarray:
    image = frame.to_ndarray(format="rgb24")
    quarter_turns = round(frame.rotation / 90) % 4  # counter-clockwise, as the display matrix says
    return np.ascontiguousarray(np.rot90(image, quarter_turns)) if quarter_turns else image


class VideoSink:
    """An H.264 file that browsers play: 4:2:0, BT.709, its index at the front. Sound is not kept.

    4:2:0 needs even sides, so an odd one is lengthened by a pixel. What is written appears under its name
    when the block ends without an error, and not at all otherwise.
    """

    def __init__(self, path: Path, rate: Fraction, time_base: Fraction):
        """Raises ParameterError for a suffix that is not of CONTAINERS, ImageError where the file cannot be
        made.
        """
        if path.suffix.lower() not in CONTAINERS:
            raise ParameterError(
                f"{path} ends in {path.suffix or 'nothing'}; H.264 video is written to "
                f"{', '.join(CONTAINERS)}"
            )
        self.path = path
        self._partial = path.with_name(f".{path.stem}.partial{path.suffix}")
        self._rate, self._time_base = rate, time_base
        self._stream = None
        options = {} if path.suffix.lower() == ".mkv" else {"movflags": "+faststart"}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._container = av.open(str(self._partial), "w", options=options)
        except (av.error.FFmpegError, OSError) as error:
            raise ImageError(f"{path} cannot be written ({error.strerror})") from error

    def _open_stream(self, height: int, width: int) -> None:
        self._stream = self._container.add_stream(
            "libx264", rate=self._rate, options={"crf": QUALITY, "preset": "veryfast"}
        )
        context = self._stream.codec_context
        context.width, context.height, context.pix_fmt = width, height, "yuv420p"
        context.time_base = self._time_base
        context.color_primaries = context.color_trc = context.colorspace = BT709
        context.color_range = LIMITED_RANGE

    def write(self, image: np.ndarray, time: int) -> None:
        """Append uint8 (H, W, 3) RGB of the first one's size; `time` must grow."""
        bottom, right = image.shape[0] % 2, image.shape[1] % 2
        if bottom or right:
            image = cv2.copyMakeBorder(image, 0, bottom, 0, right, cv2.BORDER_REPLICATE)
        if self._stream is None:
            self._open_stream(*image.shape[:2])
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24").reformat(
            format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG
        )
        frame.pts, frame.time_base = time, self._time_base
        self._container.mux(self._stream.encode(frame))

    def __enter__(self) -> VideoSink:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None and self._stream is not None:
                self._container.mux(self._stream.encode())
            self._container.close()
            if kind is None and self._stream is not None:
                self._partial.replace(self.path)
        finally:
            self._partial.unlink(missing_ok=True)
