"""Which topics of a bag are cameras, and what the topics of their outputs are called. Knows no network."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from rain_removal_ros.bags.messages import CAMERA_INFO, COMPRESSED_IMAGE, IMAGE_TYPES, parse, read_picture
from rain_removal_ros.bags.storage import Bag, Topic
from rain_removal_ros.encodings import SUPPORTED
from rain_removal_ros.errors import BagError, ImageError
from rain_removal_ros.image_header import PNG_SIGNATURE

OUTPUT_NAMES = (
    "derained/image",
    "derained/image/compressed",
    "depth/inverse_depth",
    "depth/image",
    "segmentation/mask",
    "segmentation/color_mask",
)
NO_CAMERA = ("depth", "disparity", "mask", "label", "segmentation", "semantic")
"""Words in the names of topics whose images are none of a camera's."""

LEAST_LOOKED_AT, MOST_LOOKED_AT, LOOKED_AT_S = 10, 1000, 60.0
"""A camera is given up after so many images that cannot be read, or so many seconds of them: a driver's first
ones may be empty or cut short. A few are enough where they say themselves that they are no camera's."""


@dataclass(frozen=True)
class Camera:
    """A topic of camera images.

    base: the name that the outputs' topics begin with, as `/front` for `/front/derained/image`.
    height, width: of its first image.
    is_16_bit_grey: whether that is grey with 16 bits, as images of depth are, too.
    """

    topic: Topic
    base: str
    info: Topic | None
    encoding: str
    height: int
    width: int
    is_16_bit_grey: bool = False

    @property
    def compressed(self) -> bool:
        return self.topic.type == COMPRESSED_IMAGE

    def __str__(self) -> str:
        return f"{self.topic.name} ({self.width}x{self.height} {self.encoding})"


def find_cameras(bag: Bag, names: Sequence[str] = ()) -> list[Camera]:
    """The cameras of these names, or all that there are; what was passed over goes to the bag's notices.

    names: topics, or what comes before their last part (`front` for `/front/image_raw`), with or without a
    leading slash. A raw image comes before its compressed twin. Raises BagError where a name is not there, or
    nothing is a camera.
    """
    images = [topic for topic in bag.topics if topic.type in IMAGE_TYPES]
    if names:
        cameras = []
        for topic in dict.fromkeys(topic for name in names for topic in _named(bag, images, name)):
            try:
                cameras.append(_look(bag, topic))
            except ImageError as error:
                raise BagError(f"{topic.name}: {error}") from error
    else:
        cameras, passed_over = [], []
        for topic in images:
            reason = _reason_against(topic, images)
            if reason is None:
                try:
                    camera = _look(bag, topic)
                except ImageError as error:
                    passed_over.append(f"{topic.name} is not taken ({error})")
                    continue
                if not camera.is_16_bit_grey:
                    cameras.append(camera)
                    continue
                reason = f"{camera.encoding} may be a depth image"
            passed_over.append(f"{topic.name} is not taken ({reason}); name it to take it all the same")
        bag.notices.extend(passed_over)
        if not cameras:
            what = "; ".join(passed_over) or _types_of(bag)
            raise BagError(f"{bag.path} holds no camera images: {what}")
    return _with_bases(cameras)


def _named(bag: Bag, images: list[Topic], name: str) -> list[Topic]:
    exact = bag.topic(name)
    if exact is not None and exact.type not in IMAGE_TYPES:
        raise BagError(f"{exact.name} is a {exact.type}; camera images are {' or '.join(IMAGE_TYPES)}")
    if exact is not None:
        return [exact]
    within = [t for t in images if t.name.lstrip("/").startswith(name.strip("/") + "/")]
    found = [t for t in within if _reason_against(t, within) is None]
    found = [t for t in found if t.count or not any(_are_twins(t, other) for other in found)]
    if not found:
        known = ", ".join(topic.name for topic in images) or "none"
        raise BagError(f"{bag.path} holds no camera {name}; its image topics: {known}")
    return found


def is_output(topic: Topic) -> bool:
    """Whether a topic is by its name one of derain's outputs of images."""
    name = topic.name.strip("/")
    return any(name == output or name.endswith(f"/{output}") for output in OUTPUT_NAMES)


def _reason_against(topic: Topic, images: list[Topic]) -> str | None:
    name = topic.name.strip("/")
    if is_output(topic):
        return "an output of an earlier run"
    word = next((word for word in NO_CAMERA if word in name.lower()), None)
    if word is not None:
        return f"its name says {word}"
    raw = [t for t in images if _are_twins(t, topic)]
    if any(t.count or not topic.count for t in raw):  # a raw topic may be listed without a message
        return "the bag holds the same images raw"
    return None


def _are_twins(raw: Topic, compressed: Topic) -> bool:
    """Whether the topics are by their names a camera's raw and its compressed images."""
    return f"{raw.name.strip('/')}/compressed" == compressed.name.strip("/")


def _look(bag: Bag, topic: Topic) -> Camera:
    """The camera by its first image that can be read. Raises ImageError where none of many can."""
    failure: ImageError | None = None
    others, began = 0, None
    for number, record in enumerate(bag.messages([topic]), start=1):
        began = record.log_time if began is None else began
        try:
            message = parse(record.data, topic.type)
            others += _is_none_of_a_camera(message)
            picture = read_picture(message)
            height, width = picture.rgb.shape[:2]
            encoding = message.format if topic.type == COMPRESSED_IMAGE else message.encoding
            return Camera(topic, "", _info_of(bag, topic), encoding, height, width, _is_16_bit_grey(message))
        except ImageError as error:
            failure = failure or error
        long = record.log_time - began > LOOKED_AT_S * 1e9
        if others == LEAST_LOOKED_AT or (long and number >= LEAST_LOOKED_AT) or number == MOST_LOOKED_AT:
            break
    raise failure or ImageError("it holds no message")


def _is_none_of_a_camera(message: Any) -> bool:
    """Whether an image says itself that it is no camera's, rather than being empty or cut short."""
    if message.__msgtype__ == COMPRESSED_IMAGE:
        return "compressedDepth" in message.format
    return message.encoding not in SUPPORTED and len(message.data) > 0


def _is_16_bit_grey(message: Any) -> bool:
    if message.__msgtype__ != COMPRESSED_IMAGE:
        return message.encoding == "mono16"
    data = bytes(message.data[:26])  # of a PNG: its signature, and the header with bits and kind of a pixel
    return data.startswith(PNG_SIGNATURE) and data[24:] == bytes([16, 0])


def _info_of(bag: Bag, topic: Topic) -> Topic | None:
    namespace = _stem(topic).rpartition("/")[0]
    info = bag.topic(f"{namespace}/camera_info")
    return info if info is not None and info.type == CAMERA_INFO else None


def _stem(topic: Topic) -> str:
    return topic.name.removesuffix("/compressed")


def _with_bases(cameras: list[Camera]) -> list[Camera]:
    namespaces = [_stem(camera.topic).rpartition("/")[0] for camera in cameras]
    count = Counter(namespaces)
    return [
        replace(
            camera,
            base=namespace
            if namespace
            and count[namespace] == 1
            and _stem(camera.topic).rpartition("/")[2].startswith("image")
            else _stem(camera.topic),
        )
        for camera, namespace in zip(cameras, namespaces, strict=True)
    ]


def _types_of(bag: Bag) -> str:
    shown = [f"{topic.name} ({topic.type})" for topic in bag.topics[:12]]
    more = len(bag.topics) - len(shown)
    return (
        f"its topics are {', '.join(shown)}{f' and {more} more' if more > 0 else ''}"
        if shown
        else "it is empty"
    )
