"""Compares the images of two bags frame by frame: a team pins with it what its drive becomes.

How alike two images are is measured by functions that the caller brings. Knows no network.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rain_removal_ros.bags.cameras import is_output
from rain_removal_ros.bags.messages import IMAGE, IMAGE_TYPES, parse, plane, read_picture, stamp_ns
from rain_removal_ros.bags.report import REPORT_FILE
from rain_removal_ros.bags.storage import Bag, Topic
from rain_removal_ros.errors import BagError, ImageError
from rain_removal_ros.output import write_text

Measure = Callable[[np.ndarray, np.ndarray], float]  # two uint8 (H, W, 3) images
Key = tuple[int, int]  # stamp in ns, and which of the images with this stamp it is


@dataclass(frozen=True)
class Tolerance:
    """How far bag B may be from bag A. None: it may be as it likes.

    min_psnr, min_ssim: of every colour image; max_depth_error: mean |a - b| / a of every depth map;
    max_mask_error: share of other labels in every mask; max_drops: images of A that B lacks;
    max_latency_ratio: median latency, B's over A's.
    """

    min_psnr: float | None = 40.0
    min_ssim: float | None = None
    max_depth_error: float | None = None
    max_mask_error: float | None = None
    max_drops: int | None = 0
    max_latency_ratio: float | None = None


@dataclass
class TopicComparison:
    """One topic of A beside one of B. Values of frames are by the frame's number in A."""

    topic: str
    other: str
    only_in_a: list[int] = field(default_factory=list)  # frames of A that B lacks
    only_in_b: int = 0
    unreadable: int = 0
    identical: int = 0
    first_difference: int | None = None
    first_failure: str | None = None  # the first frame past the tolerance, and how
    failures: int = 0
    stamps: dict[int, int] = field(default_factory=dict)
    values: dict[str, dict[int, float]] = field(default_factory=dict)  # psnr, ssim, depth error, mask error

    @property
    def compared(self) -> int:
        return max((len(frames) for frames in self.values.values()), default=0)

    def summary(self) -> str:
        """A line for the terminal."""
        name = self.topic if self.topic == self.other else f"{self.topic} | {self.other}"
        parts = [f"{self.compared} compared, {self.identical} identical"]
        for what, frames in self.values.items():
            worst = (min if what in HIGHER_IS_BETTER else max)(frames, key=lambda number: frames[number])
            mean = np.mean(list(frames.values()))
            parts.append(f"{what} {mean:.4g}, worst {frames[worst]:.4g} (frame {worst})")
        if self.only_in_a:
            parts.append(f"{len(self.only_in_a)} missing in B, the first is frame {self.only_in_a[0]}")
        if self.only_in_b:
            parts.append(f"{self.only_in_b} only in B")
        if self.unreadable:
            parts.append(f"{self.unreadable} cannot be compared")
        if self.first_difference is not None:
            stamp = self.stamps[self.first_difference]
            parts.append(f"first differing frame {self.first_difference} (stamp {stamp / 1e9:.9f})")
        return f"{name}: {'; '.join(parts)}"


HIGHER_IS_BETTER = ("psnr", "ssim")


@dataclass
class Comparison:
    """Two bags side by side. `failures`: why B is past the tolerance; empty: it is within."""

    a: str
    b: str
    topics: list[TopicComparison]
    latencies: dict[str, tuple[float, float]]  # median seconds in the network by camera topic, A's and B's
    damage: list[str]
    failures: list[str] = field(default_factory=list)

    def summary(self) -> list[str]:
        """Lines for the terminal."""
        lines = [topic.summary() for topic in self.topics]
        for camera, (ours, other) in self.latencies.items():
            lines.append(f"{camera}: median latency {ours * 1e3:.1f} ms in A, {other * 1e3:.1f} ms in B")
        return lines + [f"damage: {what}" for what in self.damage] + self.failures

    def write(self, path: Path) -> None:
        """Write all of it as JSON. Raises OutputError."""
        content: dict[str, Any] = {
            **vars(self),
            "topics": [{**vars(topic), "compared": topic.compared} for topic in self.topics],
        }
        write_text(path, json.dumps(content, indent=1) + "\n")


def compare(
    a: Path,
    b: Path,
    measures: Mapping[str, Measure],
    tolerance: Tolerance,
    pairs: Sequence[tuple[str, str]] = (),
) -> Comparison:
    """Bag B against bag A, frame by frame, by stamp.

    measures: of colour images, "psnr" and "ssim". pairs: (topic of A, topic of B), such as a derained topic
    and its truth; none: all outputs that A holds. Raises BagError where there is nothing to compare.
    """
    with Bag(a) as first, Bag(b) as second:
        found = _pairs(first, second, pairs)
        topics = [_compare(first, second, ours, other, measures, tolerance) for ours, other in found]
        damage = [f"{path}: {what}" for path, bag in ((a, first), (b, second)) for what in bag.damage]
    comparison = Comparison(str(a), str(b), topics, _latencies(a, b), damage)
    if not any(topic.compared for topic in topics):
        raise BagError(f"{a} and {b} have no image of the same stamp in {', '.join(t.topic for t in topics)}")
    comparison.failures = _failures(comparison, tolerance)
    return comparison


def _pairs(a: Bag, b: Bag, pairs: Sequence[tuple[str, str]]) -> list[tuple[Topic, Topic]]:
    if pairs:
        return [(_image_topic(a, ours), _image_topic(b, other)) for ours, other in pairs]
    ours = [topic for topic in a.topics if topic.type in IMAGE_TYPES and is_output(topic)]
    if not ours:
        images = ", ".join(t.name for t in a.topics if t.type in IMAGE_TYPES) or "none"
        raise BagError(f"{a.path} holds no outputs of derain; name topics of images with --pair: {images}")
    return [(topic, _image_topic(b, topic.name)) for topic in ours]


def _image_topic(bag: Bag, name: str) -> Topic:
    topic = bag.topic(name)
    if topic is None or topic.type not in IMAGE_TYPES:
        images = ", ".join(t.name for t in bag.topics if t.type in IMAGE_TYPES) or "none"
        raise BagError(f"{bag.path} holds no images {name}; its topics of images: {images}")
    return topic


def _keys(bag: Bag, topic: Topic) -> dict[Key, int]:
    """The number of every image by its stamp; images without stamps follow each other."""
    seen: Counter[int] = Counter()
    keys: dict[Key, int] = {}
    for number, (key, _) in enumerate(_keyed(bag, topic, seen)):
        keys[key] = number
    return keys


def _keyed(bag: Bag, topic: Topic, seen: Counter[int]) -> Iterator[tuple[Key, Any]]:
    """Every image with its key; None for one that cannot be read, whose key is of no stamp."""
    for record in bag.messages([topic]):
        try:
            message = parse(record.data, topic.type)
            stamp = stamp_ns(message)
        except ImageError:
            message, stamp = None, -1
        yield (stamp, seen[stamp]), message
        seen[stamp] += 1


def _compare(
    a: Bag, b: Bag, topic: Topic, other: Topic, measures: Mapping[str, Measure], tolerance: Tolerance
) -> TopicComparison:
    numbers, others = _keys(a, topic), _keys(b, other)
    result = TopicComparison(topic.name, other.name)
    result.only_in_a = [number for key, number in numbers.items() if key not in others]
    result.only_in_b = sum(key not in numbers for key in others)
    waiting: dict[Key, Any] = {}  # few: both bags hold the images in the same order, but for single ones
    second = (each for each in _keyed(b, other, Counter()) if each[0] in numbers)
    for key, ours in _keyed(a, topic, Counter()):
        if key not in others:
            continue
        while key not in waiting:
            found, message = next(second)
            waiting[found] = message
        _compare_frame(result, numbers[key], key[0], ours, waiting.pop(key), measures, tolerance)
    return result


def _compare_frame(
    result: TopicComparison,
    number: int,
    stamp: int,
    ours: Any,
    other: Any,
    measures: Mapping[str, Measure],
    tolerance: Tolerance,
) -> None:
    try:
        if ours is None or other is None:
            raise ImageError("the message is damaged")
        values, identical = _measure(result.topic, ours, other, measures)
    except ImageError as error:
        result.unreadable += 1
        result.failures += 1
        result.first_failure = result.first_failure or f"frame {number}: {error}"
        return
    result.stamps[number] = stamp
    result.identical += identical
    if not identical and result.first_difference is None:
        result.first_difference = number
    for what, value in values.items():
        result.values.setdefault(what, {})[number] = value
    past = _past(values, tolerance)
    result.failures += bool(past)
    if past and result.first_failure is None:
        result.first_failure = f"frame {number}: {', '.join(past)}"


def _measure(
    name: str, ours: Any, other: Any, measures: Mapping[str, Measure]
) -> tuple[dict[str, float], bool]:
    """(values, whether the two are the same). Raises ImageError for what cannot be compared."""
    if ours.__msgtype__ == other.__msgtype__ == IMAGE and ours.encoding == other.encoding == "32FC1":
        a, b = plane(ours, np.float32), plane(other, np.float32)
        _need_alike(a, b)
        error = float(np.mean(np.abs(a - b) / np.maximum(np.abs(a), 1e-6)))
        return {"depth error": error}, bool(np.array_equal(a, b))
    if name.endswith("segmentation/mask"):
        a, b = plane(ours, np.uint8), plane(other, np.uint8)
        _need_alike(a, b)
        return {"mask error": float(np.mean(a != b))}, bool(np.array_equal(a, b))
    a, b = read_picture(ours).rgb, read_picture(other).rgb
    _need_alike(a, b)
    try:
        return {what: measure(a, b) for what, measure in measures.items()}, bool(np.array_equal(a, b))
    except ValueError as error:  # too small to be measured
        raise ImageError(str(error)) from error


def _need_alike(a: np.ndarray, b: np.ndarray) -> None:
    if a.shape != b.shape:
        raise ImageError(f"{a.shape[1]}x{a.shape[0]} pixels in A, {b.shape[1]}x{b.shape[0]} in B")


def _past(values: Mapping[str, float], tolerance: Tolerance) -> list[str]:
    bounds = {
        "psnr": tolerance.min_psnr,
        "ssim": tolerance.min_ssim,
        "depth error": tolerance.max_depth_error,
        "mask error": tolerance.max_mask_error,
    }
    past = []
    for what, value in values.items():
        bound = bounds[what]
        if bound is not None and not (value >= bound if what in HIGHER_IS_BETTER else value <= bound):
            past.append(f"{what} {value:.4g}, {bound:g} is asked for")
    return past


def _latencies(a: Path, b: Path) -> dict[str, tuple[float, float]]:
    ours, others = _reported(a), _reported(b)
    return {camera: (ours[camera], others[camera]) for camera in ours if camera in others}


def _reported(bag: Path) -> dict[str, float]:
    """Median seconds in the network by camera topic, from the report beside a bag; none: it has no report."""
    try:
        report = json.loads(((bag if bag.is_dir() else bag.parent) / REPORT_FILE).read_text())
        return {
            camera["topic"]: float(np.median([frame["seconds"] for frame in camera["frames"]]))
            for camera in report["cameras"]
            if camera["frames"]
        }
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _failures(comparison: Comparison, tolerance: Tolerance) -> list[str]:
    failures = []
    for topic in comparison.topics:
        if topic.failures:
            failures.append(
                f"{topic.topic}: {topic.failures} frames past the tolerance, {topic.first_failure}"
            )
        if tolerance.max_drops is not None and len(topic.only_in_a) > tolerance.max_drops:
            failures.append(
                f"{topic.topic}: B lacks {len(topic.only_in_a)} images, {tolerance.max_drops} may be"
            )
    if tolerance.max_latency_ratio is not None:
        if not comparison.latencies:
            failures.append(f"latency cannot be compared: a bag has no {REPORT_FILE}")
        for camera, (ours, other) in comparison.latencies.items():
            if other > ours * tolerance.max_latency_ratio:
                ratio = other / ours
                failures.append(
                    f"{camera}: latency is {ratio:.2f} times A's, {tolerance.max_latency_ratio:g} may be"
                )
    return failures + [f"damaged: {what}" for what in comparison.damage]
