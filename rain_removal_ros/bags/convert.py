"""Derains a bag into a new one: every camera image, in order, with all other messages as they are.

One thread reads, a pool decodes ahead, one thread runs the network, the pool encodes, the caller's thread
writes. So the device waits for nobody, as long as the rest keeps up with it. Knows neither ROS nor any
network.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from rain_removal_ros import __version__
from rain_removal_ros.bags.cameras import OUTPUT_NAMES, Camera, find_cameras
from rain_removal_ros.bags.lanes import Lane, guarded
from rain_removal_ros.bags.messages import (
    CAMERA_INFO,
    COMPRESSED_IMAGE,
    IMAGE,
    camera_info_message,
    image_message,
    jpeg_message,
    parse,
    read_picture,
    serialize,
    stamp_ns,
)
from rain_removal_ros.bags.report import CameraReport, Frame, Report
from rain_removal_ros.bags.storage import Bag, Record, Topic
from rain_removal_ros.bags.writing import BagWriter, Split, check_free, check_storable
from rain_removal_ros.camera_info import focal_length, mismatch
from rain_removal_ros.encodings import Picture, write_image
from rain_removal_ros.errors import BagError, ImageError, InferenceError, ParameterError
from rain_removal_ros.rain_monitor import Weather
from rain_removal_ros.runtime import Output, Restored, Restorer
from rain_removal_ros.runtime.checks import check_restored

JPEG_QUALITY = 95


@dataclass(frozen=True)
class Options:
    """What becomes of a bag.

    cameras: names, see `find_cameras`; empty: all.
    jpeg_quality: of the derained images, 1 to 100; None: compressed ones become JPEG of quality 95, raw ones
    stay raw.
    replace: the derained image takes the place of the rainy one instead of a topic of its own.
    split_megabytes, split_seconds: the new bag goes on in another file after so many; 0: it is one file.
    again: outputs of an earlier run that the bag holds are left out; otherwise they are an error.
    Raises ParameterError where they contradict each other.
    """

    cameras: tuple[str, ...] = ()
    outputs: frozenset[Output] = frozenset({Output.IMAGE, Output.INVERSE_DEPTH})
    replace: bool = False
    again: bool = False
    jpeg_quality: int | None = None
    storage: str = "mcap"
    compression: str = "none"
    metadata: str = "jazzy"
    split_megabytes: float = 0.0
    split_seconds: float = 0.0

    def __post_init__(self) -> None:
        if self.jpeg_quality is not None and not 1 <= self.jpeg_quality <= 100:
            raise ParameterError(f"JPEG quality is {self.jpeg_quality}; it must be from 1 to 100")
        for name, value in (("size", self.split_megabytes), ("duration", self.split_seconds)):
            if not 0 <= value < float("inf"):
                raise ParameterError(
                    f"split {name} is {value:g}; give more than 0, or none for a single file"
                )
        if not self.outputs:
            raise ParameterError("no outputs are asked for; ask for the image at least")
        if self.replace and Output.IMAGE not in self.outputs:
            raise ParameterError("the rainy image can be replaced only where the derained image is asked for")


@dataclass(frozen=True)
class Step:
    """What is told after every frame."""

    frames: int
    total: int  # as far as the bag says


Listener = Callable[[Step], None]
Say = Callable[[str], None]


@dataclass(frozen=True)
class _Outputs:
    """The topics that a camera's outputs go to; None: not asked for."""

    image: Topic | None
    info: Topic | None
    depth: Topic | None
    mask: Topic | None

    @property
    def topics(self) -> list[Topic]:
        return [topic for topic in (self.image, self.info, self.depth, self.mask) if topic is not None]


@dataclass(frozen=True)
class _Decoded:
    message: Any
    picture: Picture
    info: Any | None
    focal_px: float | None


@dataclass(frozen=True)
class _Encoded:
    messages: list[tuple[Topic, bytes | memoryview]]
    frame: Frame


@dataclass
class _Input:
    record: Record
    weight: int  # bytes
    decoded: Future[_Decoded] | None = None  # of a camera's image


@dataclass
class _Done:
    """A message to be written as it is (unless its image takes its place), and what was made of it."""

    record: Record
    weight: int
    encoded: Future[_Encoded] | None = None
    failure: str | None = None


@dataclass
class _Clock:
    """Seconds that each stage was busy; stages overlap, so they add up to more than the time that passed."""

    seconds: dict[str, float] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        begin = time.perf_counter()
        try:
            yield
        finally:
            with self._lock:
                self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - begin


@dataclass(frozen=True)
class Plan:
    """What a bag is to become."""

    bag: Bag
    target: Path
    options: Options
    outputs: dict[Camera, _Outputs]
    copied: list[Topic]


@contextmanager
def planned(source: Path, target: Path, options: Options) -> Iterator[Plan]:
    """The bag `source`, open, and what it is to become; needs no network.

    Raises BagError where nothing can come of it.
    """
    check_free(target)
    with Bag(source) as bag:
        cameras = find_cameras(bag, options.cameras)
        outputs = {camera: _outputs_of(camera, options) for camera in cameras}
        yield Plan(bag, target, options, outputs, _copied(bag, cameras, outputs, options))


def convert(
    source: Path,
    target: Path,
    restorer: Restorer,
    options: Options,
    on_step: Listener = lambda step: None,
    say: Say = lambda text: None,
) -> Report:
    """`planned`, carried out."""
    with planned(source, target, options) as plan:
        return carry_out(plan, restorer, on_step, say)


def carry_out(
    plan: Plan,
    restorer: Restorer,
    on_step: Listener = lambda step: None,
    say: Say = lambda text: None,
) -> Report:
    """Derain the bag into the new bag, and put the report into its folder.

    on_step: told after every frame; say: told, also from other threads, what the user should know early.
    Raises BagError where nothing came of it: then the target does not exist. Images that cannot be read and
    damage to the bag are in the report.
    """
    bag, options = plan.bag, plan.options
    for text in (*bag.notices, *bag.damage):
        say(text)
    say(f"cameras: {', '.join(map(str, plan.outputs))}")
    topics = [*plan.copied, *(topic for each in plan.outputs.values() for topic in each.topics)]
    info = restorer.info
    about = f"{info.weights} {info.weights_sha256[:12]} {info.backend} {info.precision}"
    with BagWriter(
        plan.target,
        topics,
        storage=options.storage,
        compression=options.compression,
        metadata=options.metadata,
        split=Split(int(options.split_megabytes * 1e6), options.split_seconds),
        custom_data={**bag.custom_data, f"rain_removal_ros {__version__}": about},
    ) as writer:
        _copy_extras(bag, writer, options.storage, say)
        report = _Conversion(plan, writer, restorer, on_step, say).run()
        if not report.frames:
            reasons = [*report.damage, *filter(None, [report.first_failure])]
            raise BagError(f"{bag.path}: no image can be read: {'; '.join(reasons)}")
        report.write(writer.folder, say)
    return report


def _copy_extras(bag: Bag, writer: BagWriter, storage: str, say: Say) -> None:
    """Copy the attachments and notes of the bag's files, or tell which have no place in the new one."""
    lost = []
    for extra in bag.extras():
        if storage == "mcap":
            writer.attach(extra)
        else:
            lost.append(extra.name)
    if lost:
        bag.notices.append(f"not kept: {', '.join(lost)}; SQLite takes no attachments and notes, mcap does")
        say(bag.notices[-1])


class _Conversion:
    """One run over a bag."""

    def __init__(
        self,
        plan: Plan,
        writer: BagWriter,
        restorer: Restorer,
        on_step: Listener,
        say: Say,
    ):
        self._bag, self._writer, self._restorer, self._options = plan.bag, writer, restorer, plan.options
        self._outputs, self._copied, self._on_step, self._say = plan.outputs, set(plan.copied), on_step, say
        self._cameras = {camera.topic: camera for camera in plan.outputs}
        self._inputs: Lane[_Input] = Lane()
        self._done: Lane[_Done] = Lane()
        self._pool = ThreadPoolExecutor(2, thread_name_prefix="images")
        self._clock = _Clock()
        self._prepared: set[tuple[int, int]] = set()
        self._preparing = 0.0
        self._reports = {camera: CameraReport(camera.topic.name) for camera in plan.outputs}

    def run(self) -> Report:
        threads = [
            threading.Thread(target=guarded, args=(self._read, self._inputs), name="read"),
            threading.Thread(target=guarded, args=(self._restore_all, self._done), name="restore"),
        ]
        begin = time.perf_counter()
        try:
            for thread in threads:
                thread.start()
            self._write()
            ended = time.perf_counter()
        finally:  # whatever happened: nobody is to wait for anybody
            self._inputs.end()
            self._done.end()
            for thread in threads:
                if thread.ident is not None:
                    thread.join()
            self._pool.shutdown(cancel_futures=True)
        info = self._restorer.info
        return Report(
            source=str(self._bag.path.absolute()),
            backend=info.backend,
            device=info.device,
            precision=info.precision,
            weights=info.weights,
            weights_sha256=info.weights_sha256,
            seconds=ended - begin - self._preparing,
            preparing_seconds=self._preparing,
            stages=dict(self._clock.seconds),
            notices=list(self._bag.notices),
            damage=list(self._bag.damage),
            cameras=list(self._reports.values()),
        )

    # -- the reader's thread -----------------------------------------------------------------------

    def _read(self) -> None:
        infos = {camera.info: None for camera in self._cameras.values() if camera.info is not None}
        for topic in infos:  # the first one is good for the images before it, too
            infos[topic] = next((_info(record) for record in self._bag.messages([topic])), None)
        wanted = [topic for topic in self._bag.topics if topic in self._copied or topic in self._cameras]
        records = self._bag.messages(wanted)
        while True:
            with self._clock("reading"):
                record = next(records, None)
            if record is None:
                return
            if record.topic in infos:
                infos[record.topic] = _info(record) or infos[record.topic]
            camera = self._cameras.get(record.topic)
            weight, future = len(record.data), None
            if camera is not None:
                weight += camera.height * camera.width * 8  # RGB, and 32 bits of depth
                info = infos[camera.info] if camera.info is not None else None
                future = self._pool.submit(self._decode, record, info)
            if not self._inputs.put(_Input(record, weight, future)):
                return

    # -- the pool's threads ------------------------------------------------------------------------

    def _decode(self, record: Record, info: Any | None) -> _Decoded:
        with self._clock("decoding"):
            message = parse(record.data, record.topic.type)
            picture = read_picture(message)
            size = picture.rgb.shape[:2]
            fits = info is not None and mismatch(info, message.header, size) is None
            return _Decoded(message, picture, *((info, focal_length(info, size)) if fits else (None, None)))

    def _encode(
        self, camera: Camera, record: Record, decoded: _Decoded, restored: Restored, seconds: float
    ) -> _Encoded:
        with self._clock("encoding"):
            outputs, header = self._outputs[camera], decoded.message.header
            image, depth, labels = restored.image, restored.inverse_depth, restored.labels
            assert image is not None  # it is always asked for
            change = float(cv2.absdiff(image[::4, ::4], decoded.picture.rgb[::4, ::4]).mean())
            messages: list[tuple[Topic, bytes | memoryview]] = []
            if outputs.image is not None:
                messages.append((outputs.image, serialize(self._image(outputs.image, decoded, image))))
            if outputs.info is not None and decoded.info is not None:
                messages.append((outputs.info, serialize(camera_info_message(decoded.info, header))))
            if outputs.depth is not None and depth is not None:
                messages.append((outputs.depth, serialize(image_message(depth, "32FC1", header))))
            if outputs.mask is not None and labels is not None:
                messages.append((outputs.mask, serialize(image_message(labels, "mono8", header))))
            weather = Weather.of(restored.streak_light, restored.extinction)
            frame = Frame(record.log_time, stamp_ns(decoded.message), seconds, change, weather)
            return _Encoded(messages, frame)

    def _image(self, topic: Topic, decoded: _Decoded, restored: np.ndarray) -> Any:
        picture, header = decoded.picture, decoded.message.header
        if topic.type == COMPRESSED_IMAGE:
            return jpeg_message(
                restored, picture.encoding, self._options.jpeg_quality or JPEG_QUALITY, header
            )
        return image_message(write_image(picture, restored), picture.encoding, header)

    # -- the network's thread ----------------------------------------------------------------------

    def _restore_all(self) -> None:
        for item in self._inputs:
            if not self._done.put(self._restore(item)):
                return

    def _restore(self, item: _Input) -> _Done:
        if item.decoded is None:
            return _Done(item.record, item.weight)
        camera = self._cameras[item.record.topic]
        wanted = self._options.outputs | {Output.IMAGE}
        try:
            decoded = item.decoded.result()
            self._prepare(decoded.picture.rgb.shape[:2], wanted)
            begin = time.perf_counter()
            with self._clock("network"):
                restored = self._restorer(decoded.picture.rgb, wanted, decoded.focal_px)
            seconds = time.perf_counter() - begin
            check_restored(restored, decoded.picture.rgb.shape[:2], wanted)
        except (ImageError, InferenceError) as error:
            return _Done(item.record, item.weight, failure=str(error))
        encoded = self._pool.submit(self._encode, camera, item.record, decoded, restored, seconds)
        return _Done(item.record, item.weight, encoded)

    def _prepare(self, size: tuple[int, int], outputs: frozenset[Output]) -> None:
        if size not in self._prepared:
            begin = time.perf_counter()
            self._restorer.prepare(*size, outputs, self._say)
            self._preparing += time.perf_counter() - begin
            self._prepared.add(size)

    # -- the caller's thread -----------------------------------------------------------------------

    def _write(self) -> None:
        total = sum(camera.topic.count for camera in self._cameras.values())
        frames = 0
        for item in self._done:
            record = item.record
            encoded = item.encoded.result() if item.encoded is not None else None
            camera = self._cameras.get(record.topic)
            with self._clock("writing"):
                replaced = self._outputs[camera].image if camera is not None else None
                if record.topic in self._copied:
                    self._writer.write(record.topic, record.log_time, record.data)
                elif encoded is None and replaced is not None:  # it cannot be read, so it stays
                    self._writer.write(replaced, record.log_time, record.data)
                for topic, data in encoded.messages if encoded is not None else ():
                    self._writer.write(topic, record.log_time, data)
            if camera is not None:
                self._reports[camera].add(encoded.frame if encoded is not None else None, item.failure)
                frames += 1
                self._on_step(Step(frames, total))


def _info(record: Record) -> Any | None:
    try:
        return parse(record.data, CAMERA_INFO)
    except ImageError:  # it is copied all the same; the images go without
        return None


def _outputs_of(camera: Camera, options: Options) -> _Outputs:
    def topic(name: str, type_name: str) -> Topic:
        return Topic(f"{camera.base}/{name}", type_name, qos=camera.topic.qos)

    jpeg = camera.compressed or options.jpeg_quality is not None
    if Output.IMAGE not in options.outputs:
        image = None
    elif options.replace and camera.compressed == jpeg:
        image = replace(camera.topic, count=0)
    elif options.replace:
        raise BagError(f"{camera.topic.name} is raw and cannot be replaced by JPEG; choose one of the two")
    else:
        image = topic(
            "derained/image/compressed" if jpeg else "derained/image", COMPRESSED_IMAGE if jpeg else IMAGE
        )
    with_info = camera.info is not None and not options.replace and image is not None
    return _Outputs(
        image=image,
        info=topic("derained/camera_info", CAMERA_INFO) if with_info else None,
        depth=topic("depth/inverse_depth", IMAGE) if Output.INVERSE_DEPTH in options.outputs else None,
        mask=topic("segmentation/mask", IMAGE) if Output.LABELS in options.outputs else None,
    )


def _copied(
    bag: Bag, cameras: list[Camera], outputs: dict[Camera, _Outputs], options: Options
) -> list[Topic]:
    """The topics whose messages are copied.

    Raises BagError where an output's topic is there already, or two cameras would share one.
    """
    by_base: dict[str, Camera] = {}
    for camera in cameras:
        other = by_base.setdefault(camera.base, camera)
        if other is not camera:
            raise BagError(
                f"{other.topic.name} and {camera.topic.name} are one camera's, raw and compressed; "
                "name one of the two"
            )
    replaced = {camera.topic for camera in cameras} if options.replace else set()
    new = {topic.name for each in outputs.values() for topic in each.topics}
    old = {f"{camera.base}/{name}" for camera in cameras for name in (*OUTPUT_NAMES, "derained/camera_info")}
    there = [topic for topic in bag.topics if topic not in replaced and topic.name in new]
    if there and not options.again:
        raise BagError(
            f"{bag.path} holds {', '.join(topic.name for topic in there)} already; --again makes them anew"
        )
    left_out = replaced | ({topic for topic in bag.topics if topic.name in old} if options.again else set())
    copied = [topic for topic in bag.topics if topic not in left_out]
    check_storable(copied, options.storage)
    return copied
