"""Plays a bag to the node: stored bytes as they are, at the bag's own pace, on simulated time.

Begins when the node is active and compiled for the bag's image sizes, so that a drive's first seconds are
seen too. Knows topics and time, not what a picture shows.
"""

from __future__ import annotations

import importlib
import os
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from builtin_interfaces.msg import Time as TimeMessage
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.context import Context
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from rosbags.interfaces import Qos, QosDurability, QosHistory, QosReliability
from rosgraph_msgs.msg import Clock

from rain_removal_ros.bags.cameras import Camera
from rain_removal_ros.bags.lanes import Lane, guarded
from rain_removal_ros.bags.messages import CAMERA_INFO, IMAGE, parse, plane, read_picture, stamp_ns
from rain_removal_ros.bags.storage import Bag, Record, Topic
from rain_removal_ros.bags.viewer import Shown, Viewer
from rain_removal_ros.bags.writing import BagWriter
from rain_removal_ros.colours import colour_inverse_depth
from rain_removal_ros.errors import BagError, ImageError, RainRemovalError
from rain_removal_ros.share import dds_profile_environment

CLOCK_EVERY_S = 0.01
"""Of real time; a message's own time is published just before it."""

YEAR_NS = 365 * 86_400 * 10**9

LEAP_S = 60.0
"""A longer gap between two messages is a clock that was set, or a break; it is not waited for."""

LEVELS = {DiagnosticStatus.OK: "ok", DiagnosticStatus.WARN: "warn", DiagnosticStatus.ERROR: "error"}
STATUS_EVERY_S = 0.3
STAMPS_KEPT = 100

LOOP_PAUSE_S = 0.5
"""Between a loop's end and the next, so that the last image is not overtaken by the first."""

EVERY_AHEAD = 4
"""Where every image is to come back, so many of a camera are under way at most."""

EVERY_QUEUE = 16
"""What the node lets wait then: more than are ever under way, so that it drops none."""

EVERY_PATIENCE_S = 10.0
"""An image that has not come back after this long will not: it was refused, or its inference failed."""

FATE_EVERY_S = 0.5
"""How often it is asked whether the node still runs."""

LONGEST_NAME = 247
"""Characters of a topic's name in ROS."""

NODE = "derain"
CLOCK_QOS = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
DEFAULT_QOS = QoSProfile(depth=10)
OUTPUT_QOS = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)
MOST_LATCHED = 1000


@dataclass(frozen=True)
class ReplayOptions:
    """How a bag is played. start, duration: seconds of the bag; duration None: to its end.

    every: where the node is slower than the bag, the bag waits for it, so that every image comes back.
    """

    rate: float = 1.0
    loop: bool = False
    start: float = 0.0
    duration: float | None = None
    every: bool = False

    def __post_init__(self) -> None:
        if not 0.01 <= self.rate <= 100:
            raise RainRemovalError(f"rate is {self.rate:g}; it must be from 0.01 to 100")
        if self.start < 0 or (self.duration is not None and self.duration <= 0):
            raise RainRemovalError(
                f"start is {self.start:g} and duration {self.duration}; give more than 0 s"
            )


class NodeEnded(RainRemovalError):
    """The node ended while the bag was played to it."""


@dataclass(frozen=True)
class PlayedCamera:
    """A camera of the bag as the node knows it."""

    name: str  # in the node's parameter `cameras`
    camera: Camera

    @property
    def remappings(self) -> list[tuple[str, str]]:
        """What brings the bag's topics to the node's."""
        suffix = "/compressed" if self.camera.compressed else ""
        rules = [(f"{self.name}/image_raw{suffix}", absolute(self.camera.topic.name))]
        if self.camera.info is not None:
            rules.append((f"{self.name}/camera_info", absolute(self.camera.info.name)))
        return [(source, target) for source, target in rules if f"/{source}" != target]


def played_cameras(cameras: Sequence[Camera], say: Callable[[str], None]) -> list[PlayedCamera]:
    """The cameras as the node knows them; of one that the bag holds raw and compressed, the raw images."""
    taken: dict[str, Camera] = {}
    for camera in sorted(cameras, key=lambda each: each.compressed):
        name = _camera_name(camera.base)
        if name in taken:
            say(f"{camera.topic.name} is not derained; {taken[name].topic.name} is the same camera's")
        else:
            taken[name] = camera
    played = {camera.topic: PlayedCamera(name, camera) for name, camera in taken.items()}
    return [played[camera.topic] for camera in cameras if camera.topic in played]


def node_parameters(cameras: Sequence[PlayedCamera], every: bool = False) -> dict[str, str]:
    """What the node has to be told about the bag. every: it is to process every image."""
    sizes = dict.fromkeys(f"{c.camera.width}x{c.camera.height}" for c in cameras)
    transports = ["compressed" if each.camera.compressed else "raw" for each in cameras]
    return {
        **({"queue_length": str(EVERY_QUEUE)} if every else {}),
        "use_sim_time": "true",
        "cameras": f"[{', '.join(camera.name for camera in cameras)}]",
        "image_transport": ",".join(transports if len(set(transports)) > 1 else transports[:1]),
        "image_sizes": ",".join(sizes),
    }


def absolute(topic: str) -> str:
    """A topic of a bag as a name that ROS takes and no namespace changes.

    Bags may hold other names; `/cam-1/0` becomes `/cam_1/_0`.
    """
    parts = [re.sub(r"[^A-Za-z0-9_]", "_", part) for part in topic.split("/") if part]
    return "/" + "/".join(f"_{part}" if part[0].isdigit() else part for part in parts)


def _is_taken_by_ros(topic: str) -> bool:
    return "/" + topic.lstrip("/") == absolute(topic) != "/" and len(absolute(topic)) <= LONGEST_NAME


def _camera_name(base: str) -> str:
    parts = [re.sub(r"[^A-Za-z0-9_]", "_", part) for part in base.strip("/").split("/")]
    parts = [part if part[:1].isalpha() else f"camera_{part}" for part in parts]
    return re.sub("__+", "_", "/".join(parts))


@dataclass
class Played:
    """What went out and what came back."""

    sent: dict[str, int] = field(default_factory=dict)  # messages by topic
    derained: dict[str, int] = field(default_factory=dict)  # images by camera name
    loops: int = 0


@dataclass
class _Item:
    record: Record
    weight: int


Watcher = Callable[[str, Record], None]  # told a topic and its message
Fate = Callable[[], str | None]  # what became of the node where it ended


def _nothing() -> None:
    return None


class Player:
    """A ROS node that plays one bag; made before the node to play to, closed after it."""

    def __init__(
        self,
        bag: Bag,
        cameras: Sequence[PlayedCamera],
        options: ReplayOptions,
        say: Callable[[str], None] = lambda text: None,
        node_name: str = NODE,
    ):
        os.environ.update(dds_profile_environment(os.environ))
        self._bag, self.cameras, self._options, self._node_name = bag, cameras, options, node_name
        self.played = Played(derained={camera.name: 0 for camera in cameras})
        self._context = Context()
        rclpy.init(context=self._context, signal_handler_options=SignalHandlerOptions.NO)
        self._node = Node("derain_replay", context=self._context)
        self._changed = threading.Condition()
        self._statuses: dict[str, DiagnosticStatus] = {}
        self._stopped = threading.Event()
        self._fate: Fate = _nothing
        self._asked = 0.0  # when it was last asked
        self.position = 0.0, 0.0  # seconds into the bag, and of how many
        self._came = False  # an output, since it was last asked
        self._by_topic = {camera.camera.topic: camera.name for camera in cameras}
        self._under_way = dict.fromkeys(self._by_topic.values(), 0)
        self._time = bag.bounds[0]  # simulated, ns
        self._clock = self._node.create_publisher(Clock, "/clock", CLOCK_QOS)
        self._publishers = dict(self._make_publishers(say))
        self._watchers: list[Watcher] = []
        self._node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, OUTPUT_QOS)
        for camera in cameras:
            self.watch(f"/{camera.name}/derained/image", IMAGE, self._on_derained)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._spinner = threading.Thread(target=self._spin, name="replay")
        self._spinner.start()

    def __enter__(self) -> Player:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop playing and leave ROS."""
        self.stop()
        self._executor.shutdown()
        self._spinner.join()
        self._node.destroy_node()
        rclpy.shutdown(context=self._context)

    @property
    def now(self) -> int:
        """The bag's time, ns."""
        return self._time

    def stop(self) -> None:
        """End `play`; from any thread."""
        self._stopped.set()
        with self._changed:
            self._changed.notify_all()

    def watch(self, topic: str, type_name: str, watcher: Callable[[str, bytes], None]) -> None:
        """Have the watcher told of every message on a topic, as bytes, in the executor's thread."""
        message_type = message_class(type_name)
        assert message_type is not None

        def tell(data: Any) -> None:
            watcher(topic, data)

        self._node.create_subscription(message_type, topic, tell, OUTPUT_QOS, raw=True)

    # -- before it begins --------------------------------------------------------------------------

    def wait_until_ready(self, fate: Fate = _nothing, timeout: float = 600.0) -> None:
        """Wait until the node is active, compiled for the bag's sizes, and connected.

        fate: what became of the node where it ended. Raises RainRemovalError where it does not come about.
        """
        deadline = time.monotonic() + timeout
        begin = self._span()[0] or self._bag.bounds[0]
        with self._changed:
            while not self._changed.wait_for(lambda: self._stopped.is_set() or self._ready(), timeout=0.5):
                self._publish_time(begin)  # a clock that stands still is better than none
                status = self._runtime()
                ended = fate()
                if ended is not None:
                    raise RainRemovalError(f"the node {ended} before the replay could begin")
                if status is not None and status.level == DiagnosticStatus.ERROR:
                    raise RainRemovalError(f"the node says: {status.message}")
                if time.monotonic() > deadline:
                    said = f"it says: {status.message}" if status is not None else "it says nothing"
                    raise RainRemovalError(f"the node was not ready after {timeout:.0f} s; {said}")

    def _runtime(self) -> DiagnosticStatus | None:
        wanted = f"/{self._node_name.strip('/')}: runtime"
        return next((s for name, s in self._statuses.items() if f"/{name}".endswith(wanted)), None)

    def _ready(self) -> bool:
        status = self._runtime()
        if status is None or status.level == DiagnosticStatus.ERROR or "building" in status.message:
            return False
        values = {value.key: value.value for value in status.values}
        compiled = set(values.get("image sizes", "").split(", "))
        wanted = {f"{c.camera.width}x{c.camera.height}" for c in self.cameras}
        connected = all(self._publishers[c.camera.topic].get_subscription_count() for c in self.cameras)
        return values.get("state") == "active" and wanted <= compiled and connected

    # -- playing -----------------------------------------------------------------------------------

    def play(
        self,
        on_time: Callable[[float, float], None] = lambda seconds, total: None,
        fate: Fate = _nothing,
    ) -> Played:
        """Play until the bag or `stop` ends it.

        on_time: told the seconds into the bag and their total, for every message.
        fate: what became of the node where it ended. Raises NodeEnded then, and what reading raises.
        """
        self._fate = fate
        while not self._stopped.is_set():
            sent = sum(self.played.sent.values())
            self._play_once(on_time)
            self.played.loops += 1
            if not self._options.loop:
                break
            if sum(self.played.sent.values()) == sent:
                raise BagError(f"{self._bag.path} holds nothing to play from {self._options.start:g} s on")
            self._stopped.wait(LOOP_PAUSE_S)
        return self.played

    def wait_for_outputs(self, timeout: float = 2.0) -> None:
        """Wait until no output has come for a moment, so that the last frame's are not missed.

        Where every image is to come back, wait for those under way first, however long one takes.
        """
        with self._changed:
            while self._options.every and any(self._under_way.values()) and not self._stopped.is_set():
                if not self._comes(EVERY_PATIENCE_S):
                    break
            while not self._stopped.is_set():
                if not self._comes(timeout):
                    return

    def _comes(self, timeout: float) -> bool:
        """Whether an output comes within so many seconds. Raises NodeEnded where none can any more."""
        self._came, deadline = False, time.monotonic() + timeout
        while not (self._came or self._stopped.is_set()) and (left := deadline - time.monotonic()) > 0:
            self._changed.wait(min(left, FATE_EVERY_S))
            self._ask()
        return self._came or self._stopped.is_set()

    def _play_once(self, on_time: Callable[[float, float], None]) -> None:
        start, stop, total = self._span()
        for record in self._latched_before(start):
            self._publish(record)
        lane: Lane[_Item] = Lane()
        thread = threading.Thread(
            target=guarded, args=(lambda: self._read(lane, start, stop), lane), name="read"
        )
        thread.start()
        try:
            due, previous, played = time.monotonic(), None, 0.0
            for item in lane:
                log_time = item.record.log_time
                gap = 0.0 if previous is None else (log_time - previous) * 1e-9
                if 0 <= gap <= LEAP_S:
                    due += gap / self._options.rate
                    played += gap
                previous = log_time
                if not self._wait_until(due, log_time):
                    return
                due += self._wait_for_room(item.record.topic)
                self._publish(item.record)
                self.position = played, total
                on_time(played, total)
        finally:
            lane.end()
            thread.join()

    def _read(self, lane: Lane[_Item], start: int | None, stop: int | None) -> None:
        for record in self._bag.messages(list(self._publishers), start, stop):
            if not lane.put(_Item(record, len(record.data))):
                return

    def _wait_until(self, due: float, log_time: int) -> bool:
        """Let simulated time run up to the next message. False: playing was stopped."""
        while True:
            self._ask()
            left = due - time.monotonic()
            self._publish_time(log_time - int(max(0.0, left) * self._options.rate * 1e9))
            if left <= 0:
                return not self._stopped.is_set()
            if self._stopped.wait(min(left, CLOCK_EVERY_S)):
                return False

    def _wait_for_room(self, topic: Topic) -> float:
        """Where every image is to come back, wait until the node has done with those of this camera.

        Simulated time stands still meanwhile. Gives the seconds waited.
        """
        name = self._by_topic.get(topic)
        if name is None or not self._options.every:
            return 0.0
        began = time.monotonic()
        with self._changed:
            there_is_room = False
            while not there_is_room and (left := began + EVERY_PATIENCE_S - time.monotonic()) > 0:
                there_is_room = self._changed.wait_for(
                    lambda: self._stopped.is_set() or self._under_way[name] < EVERY_AHEAD,
                    min(left, FATE_EVERY_S),
                )
                self._ask()
            self._under_way[name] = self._under_way[name] + 1 if there_is_room else 1
        return time.monotonic() - began

    def _ask(self) -> None:
        """Raise NodeEnded where the node does not run any more."""
        now = time.monotonic()
        if now < self._asked + FATE_EVERY_S:
            return
        self._asked, ended = now, self._fate()
        if ended is not None:
            raise NodeEnded(f"the node {ended} during the replay; its log says why")

    def _publish_time(self, nanoseconds: int) -> None:
        self._time = max(0, nanoseconds)
        self._clock.publish(Clock(clock=TimeMessage(sec=self._time // 10**9, nanosec=self._time % 10**9)))

    def _publish(self, record: Record) -> None:
        self._publishers[record.topic].publish(record.data)
        name = absolute(record.topic.name)
        self.played.sent[name] = self.played.sent.get(name, 0) + 1
        for watcher in self._watchers:
            watcher(name, record)

    def watch_played(self, watcher: Callable[[str, Record], None]) -> None:
        """Have the watcher told of every message that is played, in the thread of `play`."""
        self._watchers.append(watcher)

    def _span(self) -> tuple[int | None, int | None, float]:
        """(start, stop, seconds between): ns of the part to play; None: the bag's own bounds."""
        options, (first, last) = self._options, self._bag.bounds
        if last - first > YEAR_NS:  # it began before the recorder's clock was set; seconds count from there
            later = self._bag.messages(start=last - YEAR_NS)
            first = next((record.log_time for record in later), last)
        length = (last - first) * 1e-9
        if options.start > length:
            raise BagError(f"start is {options.start:g} s, but {self._bag.path} lasts {length:.1f} s")
        start = first + int(options.start * 1e9)
        left = length - options.start
        if options.duration is None:
            return None if options.start == 0 else start, None, left
        stop = start + int(options.duration * 1e9)
        return None if options.start == 0 else start, stop, min(left, options.duration)

    def _latched_before(self, start: int | None) -> Iterator[Record]:
        """What a late subscriber would get of topics that keep their last messages."""
        latched = [topic for topic in self._publishers if _is_latched(topic)]
        if start is not None and latched:
            yield from self._bag.messages(latched, stop=start)

    # -- topics ------------------------------------------------------------------------------------

    def _make_publishers(self, say: Callable[[str], None]) -> Iterator[tuple[Topic, Publisher]]:
        names = [camera.name for camera in self.cameras]
        outputs = tuple(
            f"/{name}/{part}/" for name in names for part in ("derained", "depth", "segmentation")
        )
        of_cameras = {
            topic for each in self.cameras for topic in (each.camera.topic, each.camera.info) if topic
        }
        mended = {absolute(topic.name) for topic in of_cameras if not _is_taken_by_ros(topic.name)}
        for topic in self._bag.topics:
            name = absolute(topic.name)
            if not _is_taken_by_ros(topic.name) and topic not in of_cameras:
                say(f"{topic.name} is not played: ROS takes no such name")
                continue
            if name in mended and topic not in of_cameras:
                say(f"{topic.name} is not played; a camera whose name ROS does not take has its name")
                continue
            if name in mended:
                say(f"{topic.name} is played as {name}; ROS does not take its name")
            if name in ("/clock", "/diagnostics", "/rosout", "/parameter_events"):
                say(f"{name} is not played; the replay has its own")
                continue
            if name.startswith(outputs):
                say(f"{name} is not played; the node makes it anew")
                continue
            if topic.serialization != "cdr":
                say(f"{name} is not played: its messages are {topic.serialization}, not CDR")
                continue
            message_type = message_class(topic.type)
            if message_type is None:
                say(f"{name} is not played: {topic.type or 'its type'} is not installed here")
                continue
            profile = _profile(topic)
            if self._options.every and topic in self._by_topic:
                profile = QoSProfile(depth=EVERY_QUEUE, reliability=ReliabilityPolicy.RELIABLE)
            yield topic, self._node.create_publisher(message_type, name, profile)

    # -- the executor's thread ---------------------------------------------------------------------

    def _spin(self) -> None:
        try:
            self._executor.spin()
        except ExternalShutdownException:
            return

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        with self._changed:
            for status in message.status:
                self._statuses[status.name] = status
            self._changed.notify_all()

    def _on_derained(self, topic: str, _: bytes) -> None:
        name = topic.removeprefix("/").removesuffix("/derained/image")
        with self._changed:
            self.played.derained[name] += 1
            self._under_way[name] -= self._under_way[name] > 0
            self._came = True
            self._changed.notify_all()

    @property
    def statuses(self) -> dict[str, DiagnosticStatus]:
        """The newest diagnostics by name."""
        with self._changed:
            return dict(self._statuses)


@contextmanager
def recording(
    player: Player, cameras: Sequence[PlayedCamera], path: Path, segmentation: bool
) -> Iterator[None]:
    """Record the node's outputs and its diagnostics into the bag `path` while the block lasts.

    Times are the bag's own. Raises BagError.
    """
    outputs = {"derained/image": IMAGE, "derained/camera_info": CAMERA_INFO, "depth/inverse_depth": IMAGE}
    if segmentation:
        outputs["segmentation/mask"] = IMAGE
    topics = {
        f"/{camera.name}/{name}": Topic(f"/{camera.name}/{name}", type_name)
        for camera in cameras
        for name, type_name in outputs.items()
    }
    topics["/diagnostics"] = Topic("/diagnostics", "diagnostic_msgs/msg/DiagnosticArray")
    with BagWriter(path, topics.values()) as writer:
        lock, open_ = threading.Lock(), [True]
        failure: list[BagError] = []

        def write(name: str, data: bytes) -> None:
            with lock:
                if open_[0] and not failure:
                    try:
                        writer.write(topics[name], player.now, data)
                    except BagError as error:  # raised again where the recording ends
                        failure.append(error)
                        player.stop()

        for name, topic in topics.items():
            player.watch(name, topic.type, write)
        try:
            yield
        finally:
            with lock:
                open_[0] = False
        if failure:
            raise failure[0]


@contextmanager
def showing(player: Player, viewer: Viewer, segmentation: bool) -> Iterator[None]:
    """Show what is played and what comes back on the viewer's page while the block lasts.

    Depth and masks are subscribed to, and so computed, from the first look at the page on.
    """
    by_topic = {absolute(c.camera.topic.name): c for c in player.cameras}
    played_at: OrderedDict[tuple[str, int], float] = OrderedDict()
    stopped = threading.Event()

    def on_played(name: str, record: Record) -> None:
        camera = by_topic.get(name)
        if camera is None or not viewer.watched:
            return
        try:
            message = parse(record.data, camera.camera.topic.type)
        except ImageError:
            return
        stamp = stamp_ns(message)
        played_at[camera.name, stamp] = time.perf_counter()
        if len(played_at) > STAMPS_KEPT:
            played_at.popitem(last=False)
        viewer.show(camera.name, "before", Shown(stamp, lambda: read_picture(message).rgb))

    def on_output(name: str, data: bytes) -> None:
        if not viewer.watched:
            return
        camera, _, output = name.strip("/").rpartition("/")
        camera, _, kind = camera.rpartition("/")
        message = parse(data, IMAGE)
        stamp = stamp_ns(message)
        if (kind, output) == ("depth", "inverse_depth"):
            viewer.show(
                camera, "depth", Shown(stamp, lambda: colour_inverse_depth(plane(message, np.float32)))
            )
            return
        began = played_at.get((camera, stamp))
        latency = None if kind != "derained" or began is None else (time.perf_counter() - began) * 1e3
        panel = "after" if kind == "derained" else "mask"
        viewer.show(camera, panel, Shown(stamp, lambda: read_picture(message).rgb, latency))

    def tell() -> None:
        subscribed = False
        while not stopped.wait(STATUS_EVERY_S):
            if viewer.watched and not subscribed:
                for camera in player.cameras:
                    player.watch(f"/{camera.name}/depth/inverse_depth", IMAGE, on_output)
                    if segmentation:
                        player.watch(f"/{camera.name}/segmentation/color_mask", IMAGE, on_output)
                subscribed = True
            diagnostics = [
                {"name": s.name, "level": LEVELS.get(s.level, "stale"), "message": s.message}
                for s in player.statuses.values()
            ]
            seconds, total = player.position
            viewer.status({"diagnostics": diagnostics, "seconds": seconds, "total": total})

    player.watch_played(on_played)
    for camera in player.cameras:
        player.watch(f"/{camera.name}/derained/image", IMAGE, on_output)
    teller = threading.Thread(target=tell, name="viewer-status")
    teller.start()
    try:
        yield
    finally:
        stopped.set()
        teller.join()


def message_class(type_name: str) -> type | None:
    """The class of a message type; None where it is not installed, or the name is that of no type."""
    named = re.fullmatch(r"(\w+)/(?:(msg|srv|action)/)?(\w+)", type_name)
    if named is None:
        return None
    try:
        return getattr(importlib.import_module(f"{named[1]}.{named[2] or 'msg'}"), named[3])
    except (ImportError, AttributeError, ValueError):
        return None


def _is_latched(topic: Topic) -> bool:
    return any(qos.durability is QosDurability.TRANSIENT_LOCAL for qos in topic.qos)


def _profile(topic: Topic) -> QoSProfile:
    """The recorded quality of service; ROS' default where the recorded ones differ, or there is none."""
    if not topic.qos or any(_essence(qos) != _essence(topic.qos[0]) for qos in topic.qos):
        return DEFAULT_QOS
    qos = topic.qos[0]
    latched = _is_latched(topic)
    kept = max(1, qos.depth, min(topic.count, MOST_LATCHED) if latched else 1)
    return QoSProfile(
        depth=kept,  # several latched publishers, each with its last message, become one that keeps them all
        history=HistoryPolicy.KEEP_ALL if qos.history is QosHistory.KEEP_ALL else HistoryPolicy.KEEP_LAST,
        reliability=ReliabilityPolicy.BEST_EFFORT
        if qos.reliability is QosReliability.BEST_EFFORT
        else ReliabilityPolicy.RELIABLE,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
    )


def _essence(qos: Qos) -> tuple[QosReliability, QosDurability]:
    return qos.reliability, qos.durability
