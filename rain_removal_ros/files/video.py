"""Video files as streams of frames, through PyAV. Knows containers and codecs, and no network.

Frames are held one at a time, so a video may be of any length; each keeps its time, so the result has the
frame rate and the number of frames of its source, also where the rate varies. What else a source brings
(sound, shape of the pixels, colours, bits) is its `Look` and its sound, and goes into the result.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import av
import av.error
import cv2
import numpy as np
from av.audio.stream import AudioStream
from av.container import InputContainer, OutputContainer
from av.packet import Packet
from av.stream import Disposition
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc
from av.video.stream import VideoStream

from rain_removal_ros.errors import ImageError, OutputError, ParameterError
from rain_removal_ros.output import appearing

if TYPE_CHECKING:
    from av.container.core import Chapter  # it stands in PyAV's types alone

CONTAINERS = (".mp4", ".mov", ".mkv")
QUALITY = "18"  # x264's constant rate factor: hardly to be told from the source
UNSPECIFIED = 2  # of the codes of colour primaries, transfer characteristics and matrices (ITU-T H.273) alike
MATRICES = {  # H.273's code of a matrix -> swscale's name of it
    1: Colorspace.ITU709,
    4: Colorspace.FCC,
    5: Colorspace.ITU601,
    6: Colorspace.ITU601,
    7: Colorspace.SMPTE240M,
    9: Colorspace.BT2020,
}
COPIED_SOUND = {  # what a container takes as it is; other sound is encoded anew
    ".mp4": ("aac", "mp3", "ac3", "eac3", "alac", "opus", "flac"),
    ".mov": (
        "aac",
        "mp3",
        "ac3",
        "eac3",
        "alac",
        "pcm_s16le",
        "pcm_s16be",
        "pcm_s24le",
        "pcm_s24be",
        "pcm_f32le",
    ),
}
LAYOUTS = {1: "mono", 2: "stereo", 6: "5.1", 8: "7.1"}
"""By number of channels; other numbers are mixed down to two."""
AAC_FRAME = 1024
"""Samples of a frame of AAC."""

AAC_RATES = tuple(av.Codec("aac", "w").audio_rates or ())
USUAL_RATE = 48_000
"""Hz, of sound whose own rate AAC has not."""

STATING_FORMATS = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "avi")
"""FFmpeg's names of the formats whose header says how long the video is; of others FFmpeg guesses it."""


@dataclass(frozen=True)
class Look:
    """How the numbers of a video are to be shown. The codes are H.273's.

    aspect: width of a pixel by its height. deep: more than 8 bits a number.
    """

    primaries: int = int(ColorPrimaries.BT709)
    transfer: int = int(ColorTrc.BT709)
    matrix: int = int(Colorspace.ITU709)
    full_range: bool = False
    aspect: Fraction = Fraction(1)
    deep: bool = False


@dataclass(frozen=True)
class TimedFrame:
    """uint8 (H, W, 3) RGB, or uint16 of a deep video, upright; its time in units of the video's time base."""

    image: np.ndarray
    time: int


class VideoSource:
    """The first video stream of a file that is no cover picture, and its sound.

    Iterate once; the file is read once, so it may be a pipe. `damaged` counts the packets that could not be
    decoded; afterwards `cut_off` says how many frames are missing at the end, and `left_behind` what is in
    neither the frames nor the sound.
    """

    def __init__(self, path: Path):
        """Raises ImageError, naming the file, where it is missing, damaged or without a video stream."""
        self.path, self.damaged, self.turned = path, 0, False
        self._of_frames: dict[str, None] = {}  # what they hold beside their pixels, in words
        self._ahead: list[TimedFrame | Packet[Any]] = []
        self._rest = self._read()
        self._ends: dict[int, Fraction] = {}  # of what has been read of every stream, in seconds
        try:
            self._container: InputContainer = av.open(_address(path))
        except (av.error.FFmpegError, OSError) as error:
            raise ImageError(f"{path} is missing or no video that can be read ({error.strerror})") from error
        films = [stream for stream in self._container.streams.video if not _is_cover(stream)]
        if not films:
            self._container.close()
            raise ImageError(f"{path} has no video stream")
        self._stream: VideoStream = films[0]
        if self._stream.codec_context is None:
            self._container.close()
            raise ImageError(
                f"{path} holds a video of a codec that FFmpeg does not know; convert it to H.264 first"
            )
        # threads by frame lose good frames next to a damaged one, and decoding is not what takes the time
        self._stream.thread_type = "SLICE"
        self.rate: Fraction = self._stream.average_rate or self._stream.guessed_rate or Fraction(30)
        self.time_base: Fraction = self._stream.time_base or 1 / self.rate
        self.sound: tuple[AudioStream, ...] = tuple(
            stream
            for stream in self._container.streams.audio
            if stream.codec_context is not None and stream.codec_context.sample_rate
        )
        self.metadata = {
            key: value
            for key, value in self._container.metadata.items()
            if key.lower() not in ("major_brand", "minor_version", "compatible_brands", "encoder")
        }

    @property
    def chapters(self) -> list[Chapter]:
        """With times that begin where the video begins, as those of its frames and its sound do."""
        began = (self._stream.start_time or 0) * self.time_base
        chapters: list[Chapter] = []
        for chapter in self._container.chapters():
            shift = round(began / chapter["time_base"]) if chapter["time_base"] else 0
            start, end = (max(0, moment - shift) for moment in (chapter["start"], chapter["end"]))
            chapters.append({**chapter, "start": start, "end": end})
        return chapters

    @property
    def cut_off(self) -> int:
        """How many frames are missing of what the header states, once all has been read.

        0 where that is no more than two frames or 2 %, and where the format states nothing.
        """
        if not self._ends or self._container.format.name not in STATING_FORMATS:
            return 0
        stream, container = self._stream, self._container
        # FFmpeg shortens the duration of an AVI to what is there; a frame is its unit of time
        duration = stream.frames if container.format.name == "avi" else stream.duration
        if duration:
            stated = ((stream.start_time or 0) + duration) * self.time_base
            ended = self._ends.get(stream.index, Fraction(0))
        elif self._tagged_duration:
            stated, ended = self._tagged_duration, self._ends.get(stream.index, Fraction(0))
        elif len(container.streams) > 1 + len(self.sound):  # they may last longer than what is read
            return 0
        else:
            stated = Fraction((container.start_time or 0) + (container.duration or 0), 1_000_000)
            ended = max(self._ends.values())
        missing = round((stated - ended) * self.rate)
        return missing if missing > max(2, 0.02 * (self.frame_count or 0)) else 0

    @property
    def _tagged_duration(self) -> Fraction | None:
        """In seconds: in Matroska it is a tag of the stream, whose name may end in a language."""
        tags = (text for key, text in self._stream.metadata.items() if key.startswith("DURATION"))
        found = re.fullmatch(r"(\d+):(\d+):(\d+(?:\.\d+)?)", next(tags, ""))
        return None if found is None else 3600 * int(found[1]) + 60 * int(found[2]) + Fraction(found[3])

    @property
    def frame_count(self) -> int | None:
        """As the file states it, or by duration and rate; None where it states neither."""
        if self._stream.frames:
            return self._stream.frames
        if self._stream.duration:
            return round(self._stream.duration * self.time_base * self.rate)
        if self._tagged_duration:
            return round(self._tagged_duration * self.rate)
        if self._container.duration:
            return round(self._container.duration / 1_000_000 * self.rate)
        return None

    @property
    def look(self) -> Look:
        """As the stream says it; what it does not say is what players assume of its height."""
        context = self._stream.codec_context
        usual = int(Colorspace.ITU709) if context.height >= 720 else 6
        aspect = self._stream.sample_aspect_ratio or context.sample_aspect_ratio or Fraction(1)
        bits = (
            max((component.bits for component in context.format.components), default=8)
            if context.format
            else 8
        )
        primaries, transfer, matrix = (
            usual if int(code) in (0, UNSPECIFIED) else int(code)
            for code in (context.color_primaries, context.color_trc, context.colorspace)
        )
        full = int(context.color_range) == ColorRange.JPEG or "yuvj" in (context.pix_fmt or "")
        return Look(primaries, transfer, matrix, full, Fraction(aspect), deep=bits > 8)

    @property
    def left_behind(self) -> list[str]:
        """What the file holds that a result does not, as far as it was read, in words."""
        streams = self._container.streams
        covers = sum(_is_cover(stream) for stream in streams.video)
        unknown = sum(stream.codec_context is None for stream in streams.audio)
        kinds = {
            "further video streams": len(streams.video) - covers - 1,
            "cover pictures": covers,
            "sounds of unknown codecs": unknown,
            "sounds that say nothing": len(streams.audio) - len(self.sound) - unknown,
            "subtitles": len(streams.subtitles),
            "data streams": len(streams.data) + len(streams.attachments),
            "transparent pixels": self._has_alpha,
        }
        return [kind for kind, count in kinds.items() if count > 0] + list(self._of_frames)

    @property
    def _has_alpha(self) -> bool:
        form = self._stream.codec_context.format
        stored = form is not None and any(component.is_alpha for component in form.components)
        return stored or self._stream.metadata.get("alpha_mode") == "1"  # WebM's, decoded apart

    def __iter__(self) -> Iterator[TimedFrame | Packet[Any]]:
        """Frames, and between them the packets of sound, with times that begin where the video begins.

        Raises ImageError, naming the file, where it cannot be read to its end.
        """
        while self._ahead:
            yield self._ahead.pop(0)
        yield from self._rest

    def read_first_frame(self) -> None:
        """Read ahead as far as the first frame, so that `turned` says whether it was stored lying and comes
        out standing. Raises ImageError as iterating does.
        """
        for item in self._rest:
            self._ahead.append(item)
            if isinstance(item, TimedFrame):
                return

    def _read(self) -> Iterator[TimedFrame | Packet[Any]]:
        look = self.look
        step = max(1, round(1 / (self.rate * self.time_base)))
        start = self._stream.start_time or 0
        size: tuple[int, int] | None = None
        previous: int | None = None
        for packet in self._packets():
            if packet.stream is not self._stream:
                if packet.dts is not None and packet.pts is not None:  # the last packet of a stream is empty
                    shift = round(start * self.time_base / packet.time_base)
                    packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
                    yield packet
                continue
            try:
                frames = packet.decode()
            except av.error.FFmpegError:  # damaged, or of a kind that FFmpeg cannot decode
                self.damaged += 1
                continue
            for frame in frames:
                assert isinstance(frame, av.VideoFrame)  # its packet's stream is the video
                time = None if frame.pts is None else max(0, frame.pts - start)
                if previous is not None and (time is None or time <= previous):
                    time = previous + step
                previous = time or 0
                image, turned = _upright(_rgb(frame, look), frame)
                self.turned = self.turned if size else turned
                self._of_frames.update(dict.fromkeys(_beside_pixels(frame)))
                size = size or (image.shape[1], image.shape[0])
                if (image.shape[1], image.shape[0]) != size:  # a stream may change its size; a file has one
                    image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
                yield TimedFrame(image, previous)

    def _packets(self) -> Iterator[Packet[Any]]:
        packets = self._container.demux(self._stream, *self.sound)
        while True:
            try:
                packet = next(packets, None)
            except av.error.FFmpegError as error:
                raise ImageError(f"{self.path} cannot be read to its end ({error.strerror})") from error
            if packet is None:
                return
            time = packet.dts if packet.pts is None else packet.pts
            if time is not None:
                index, end = packet.stream.index, (time + (packet.duration or 0)) * packet.time_base
                self._ends[index] = max(end, self._ends.get(index, end))
            yield packet

    def __enter__(self) -> VideoSource:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._container.close()


def _address(path: Path) -> str:
    """For FFmpeg, which takes what stands before a colon for a protocol."""
    return f"file:{path}"


def _is_cover(stream: VideoStream) -> bool:
    return bool(stream.disposition & Disposition.attached_pic)


def _rgb(frame: av.VideoFrame, look: Look) -> np.ndarray:
    rgb = frame.reformat(
        format="rgb48le" if look.deep else "rgb24",
        src_colorspace=MATRICES.get(look.matrix, Colorspace.ITU709),
        src_color_range=ColorRange.JPEG if look.full_range else ColorRange.MPEG,
        dst_color_range=ColorRange.JPEG,
    )
    return rgb.to_ndarray()


def _upright(image: np.ndarray, frame: av.VideoFrame) -> tuple[np.ndarray, bool]:
    """The image as the frame's display matrix turns and mirrors it, and whether height and width are swapped.

    Of turns that are no quarters, the nearest is made.
    """
    matrix: Any = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return image, False
    # a point (x, y) comes to (across x + ..., down y + ...), or to (across y + ..., down x + ...)
    across, turned_down, _, turned_across, down = struct.unpack_from("5i", bytes(matrix))
    turned = abs(turned_across) > abs(across)
    if turned:
        image, across, down = image.swapaxes(0, 1), turned_across, turned_down
    return np.ascontiguousarray(image[:: -1 if down < 0 else 1, :: -1 if across < 0 else 1]), turned


def _beside_pixels(frame: av.VideoFrame) -> Iterator[str]:
    if frame.interlaced_frame:
        yield "marks of interlaced frames"
    if any(frame.side_data.get(kind) for kind in ("MASTERING_DISPLAY_METADATA", "CONTENT_LIGHT_LEVEL")):
        yield "HDR10's light levels"


class VideoSink:
    """An H.264 file, 4:2:0, its index at the front, as browsers play it; 10 bits for a deep `Look`.

    4:2:0 needs even sides; a video with an odd one is 4:4:4 instead, which fewer players show (`says` tells).
    What is written appears under its name when the block ends without an error, and not at all otherwise.
    `damaged_sound` counts the packets of sound that could not be decoded to be encoded anew.
    """

    def __init__(
        self,
        path: Path,
        rate: Fraction,
        time_base: Fraction,
        look: Look | None = None,
        sound: tuple[AudioStream, ...] = (),
        metadata: dict[str, str] | None = None,
        chapters: list[Chapter] | None = None,
    ):
        """`sound`: streams of a source whose packets will be given to `write_sound`.

        Raises ParameterError for a suffix that is not of CONTAINERS.
        """
        if path.suffix.lower() not in CONTAINERS:
            raise ParameterError(
                f"{path} ends in {path.suffix or 'nothing'}; H.264 is written to {', '.join(CONTAINERS)}"
            )
        self.path, self.says, self.damaged_sound = path, list[str](), 0
        self._rate, self._time_base, self._look = rate, time_base, look or Look()
        self._inputs, self._metadata, self._chapters = sound, metadata or {}, chapters
        self._sound: dict[int, tuple[AudioStream, bool]] = {}  # output stream, and whether packets are copied
        self._resamplers: dict[int, av.AudioResampler] = {}  # of sound that is encoded anew
        self._early: list[
            Packet[Any]
        ] = []  # sound that comes before the first frame says how large the video is
        self._stream: VideoStream | None = None

    def __enter__(self) -> VideoSink:
        """Raises OutputError where the file cannot be made."""
        with ExitStack() as stack:
            partial = stack.enter_context(appearing(self.path))
            options = {} if self.path.suffix.lower() == ".mkv" else {"movflags": "+faststart"}
            if options and any(key.startswith("com.") for key in self._metadata):  # a phone's own tags
                options["movflags"] += "+use_metadata_tags"
            with self._system_errors():
                self._container: OutputContainer = av.open(_address(partial), "w", options=options)
            self._container.metadata.update(self._metadata)
            if self._chapters:
                self._container.set_chapters(self._chapters)
            self._exit = stack.pop_all()
        return self

    def write(self, image: np.ndarray, time: int) -> None:
        """Append uint8 or uint16 (H, W, 3) RGB of the first one's size; `time` must grow.

        Raises OutputError, naming the file, for a full disk and the like.
        """
        with self._system_errors():
            if self._stream is None:
                self._open_streams(*image.shape[:2])
            assert self._stream is not None
            look = self._look
            form = "rgb48le" if image.dtype == np.uint16 else "rgb24"
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format=form).reformat(
                format=self._stream.codec_context.pix_fmt,
                src_color_range=ColorRange.JPEG,
                dst_colorspace=MATRICES.get(look.matrix, Colorspace.ITU709),
                dst_color_range=ColorRange.JPEG if look.full_range else ColorRange.MPEG,
            )
            frame.pts, frame.time_base = time, self._time_base
            self._container.mux(self._stream.encode(frame))
            for packet in self._early:
                self._write_sound(packet)
            self._early.clear()

    def write_sound(self, packet: Packet[Any]) -> None:
        """Append a packet of one of the source's sound streams. Raises OutputError."""
        with self._system_errors():
            if self._stream is None:
                self._early.append(packet)
            else:
                self._write_sound(packet)

    def _open_streams(self, height: int, width: int) -> None:
        look = self._look
        odd = height % 2 or width % 2
        self._stream = self._container.add_stream(
            "libx264", rate=self._rate, options={"crf": QUALITY, "preset": "veryfast"}
        )
        context = self._stream.codec_context
        context.width, context.height = width, height
        context.pix_fmt = ("yuv444p" if odd else "yuv420p") + ("10le" if look.deep else "")
        context.time_base = self._time_base
        context.sample_aspect_ratio = look.aspect
        context.color_primaries, context.color_trc = look.primaries, look.transfer
        context.colorspace = look.matrix
        context.color_range = ColorRange.JPEG if look.full_range else ColorRange.MPEG
        if odd:
            self.says.append(
                f"{width}x{height} has an odd side, so the video is 4:4:4, which not every player shows"
            )
        for stream in self._inputs:
            name = stream.codec_context.codec.canonical_name
            output: AudioStream | None = None
            if name in COPIED_SOUND.get(self.path.suffix.lower(), (name,)):
                with suppress(ValueError):  # Matroska takes most, but not all
                    output = self._container.add_stream_from_template(stream)
            copied = output is not None
            if output is None:
                rate = stream.codec_context.sample_rate
                rate = rate if rate in AAC_RATES else USUAL_RATE
                output = self._container.add_stream("aac", rate=rate)
                channels = stream.codec_context.channels
                layout = LAYOUTS.get(channels, "stereo")
                output.layout = layout
                self._resamplers[stream.index] = av.AudioResampler("fltp", layout, rate, AAC_FRAME)
                mixed = "" if channels in LAYOUTS else f", its {channels} channels mixed down to two"
                self.says.append(
                    f"{self.path.suffix} takes no {name} sound, so it is AAC in the result{mixed}"
                )
            if stream.language:
                output.metadata["language"] = stream.language
            self._sound[stream.index] = output, copied

    def _write_sound(self, packet: Packet[Any]) -> None:
        output, copied = self._sound[packet.stream.index]
        if copied:
            packet.stream = output
            self._container.mux(packet)
            return
        try:
            frames = packet.decode()
        except av.error.FFmpegError:
            self.damaged_sound += 1
            return
        resampler = self._resamplers[packet.stream.index]
        for frame in frames:
            assert isinstance(frame, av.AudioFrame)
            if frame.pts is not None:  # a packet's units may be too coarse for pieces of another length
                sample = Fraction(1, frame.sample_rate)
                frame.pts = round(frame.pts * frame.time_base / sample)
                frame.time_base = sample
            for piece in resampler.resample(frame):
                self._container.mux(output.encode(piece))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            with self._system_errors():
                if kind is None and self._stream is not None:
                    self._container.mux(self._stream.encode())
                    for index, resampler in self._resamplers.items():
                        output, _ = self._sound[index]
                        for piece in resampler.resample(None):
                            self._container.mux(output.encode(piece))
                        self._container.mux(output.encode())
                self._container.close()
        except BaseException as problem:
            self._exit.__exit__(type(problem), problem, problem.__traceback__)
            raise
        if kind is None and self._stream is None:
            kind, error = ImageError, ImageError(f"no frame was written to {self.path}")
        self._exit.__exit__(kind, error, trace)

    @contextmanager
    def _system_errors(self) -> Iterator[None]:
        """Within its block FFmpeg's errors are those of the file that is written."""
        try:
            yield
        except av.error.FFmpegError as error:
            raise OutputError(f"{self.path} cannot be written ({error.strerror})") from error


def upright_look(source: VideoSource) -> Look:
    """The source's look for its upright frames: the pixels of a video that stood on its side are turned."""
    source.read_first_frame()
    return replace(source.look, aspect=1 / source.look.aspect) if source.turned else source.look
