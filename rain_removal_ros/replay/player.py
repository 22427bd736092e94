"""Plays a bag to the node: stored bytes as they are, at the bag's own pace, on simulated time.

Begins when the node is active and compiled for the bag's image sizes, so that a drive's first seconds are
seen too. Knows topics and time, not what a picture shows.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from builtin_interfaces.msg import Time as TimeMessage
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rosbags.interfaces import Qos, QosDurability, QosHistory, QosReliability
from rosgraph_msgs.msg import Clock

from rain_removal_ros.bags.lanes import Lane, guarded
from rain_removal_ros.bags.messages import IMAGE
from rain_removal_ros.bags.storage import Bag, Record, Topic
from rain_removal_ros.errors import BagError, RainRemovalError
from rain_removal_ros.replay.pace import Pace
from rain_removal_ros.replay.topics import (
    EVERY_QUEUE,
    PlayedCamera,
    absolute,
    is_taken_by_ros,
    message_class,
    why_not_played,
)
from rain_removal_ros.ros.client import NODE, READY_WITHIN_S, Fate, NodeClient, unknown
from rain_removal_ros.ros.status import Status

CLOCK_EVERY_S = 0.01
"""Of real time; a message's own time is published just before it."""

YEAR_NS = 365 * 86_400 * 10**9

LOOP_PAUSE_S = 0.5
"""Between a loop's end and the next, so that the last image is not overtaken by the first."""

EVERY_AHEAD = 4
"""Where every image is to come back, so many of a camera are under way at most."""

EVERY_PATIENCE_S = 10.0
"""An image that has not come back after this long will not: it was refused, or its inference failed."""

FATE_EVERY_S = 0.5
"""How often it is asked whether the node still runs."""

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
        if not 0 <= self.start < math.inf:
            raise RainRemovalError(f"start is {self.start:g} s; give 0 s or more")
        if self.duration is not None and not 0 < self.duration < math.inf:
            raise RainRemovalError(f"duration is {self.duration:g} s; give more than 0 s, or none for all")


class NodeEnded(RainRemovalError):
    """The node ended while the bag was played to it."""


@dataclass
class Played:
    """What went out and what came back."""

    sent: dict[str, int] = field(default_factory=dict)  # messages by topic
    derained: dict[str, int] = field(default_factory=dict)  # images by camera name


@dataclass
class _Item:
    record: Record
    weight: int


Watcher = Callable[[str, Record], None]  # told a topic and its message


class Player:
    """Plays one bag as a ROS node; made before the node to play to, closed after it.

    What a watcher raises in the executor's thread ends the replay: `wait_until_ready` and `play` raise it.
    """

    def __init__(
        self,
        bag: Bag,
        cameras: Sequence[PlayedCamera],
        options: ReplayOptions,
        say: Callable[[str], None] = lambda text: None,
        node_name: str = NODE,
    ):
        self._bag, self.cameras, self._options = bag, cameras, options
        self.played = Played(derained={camera.name: 0 for camera in cameras})
        self._client = NodeClient("derain_replay", node_name)
        self._stopped = threading.Event()
        self._fate: Fate = unknown
        self._asked = 0.0  # when it was last asked
        self.position = 0.0, 0.0  # seconds into the bag, and of how many
        self._came = False  # an output, since it was last asked
        self._by_topic = {camera.camera.topic: camera.name for camera in cameras}
        self._under_way = dict.fromkeys(self._by_topic.values(), 0)
        self._time = bag.bounds[0]  # simulated, ns
        self._clock = self._client.node.create_publisher(Clock, "/clock", CLOCK_QOS)
        self._publishers = dict(self._make_publishers(say))
        self._watchers: list[Watcher] = []
        self._by_output = {camera.output("derained/image"): camera.name for camera in cameras}
        for topic in self._by_output:
            self.watch(topic, IMAGE, self._on_derained)
        self._client.start()

    def __enter__(self) -> Player:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop playing and leave ROS."""
        self.stop()
        self._client.close()

    @property
    def now(self) -> int:
        """The bag's time, ns."""
        return self._time

    def stop(self) -> None:
        """End `play`; from any thread."""
        self._stopped.set()
        with self._client.changed:
            self._client.changed.notify_all()

    def watch(self, topic: str, type_name: str, watcher: Callable[[str, bytes], None]) -> None:
        """Have the watcher told of every message on a topic, as bytes, in the executor's thread."""
        message_type = message_class(type_name)
        assert message_type is not None

        def tell(data: Any) -> None:
            watcher(topic, data)

        self._client.node.create_subscription(message_type, topic, tell, OUTPUT_QOS, raw=True)

    # -- before it begins --------------------------------------------------------------------------

    def wait_until_ready(self, fate: Fate = unknown, timeout: float = READY_WITHIN_S) -> None:
        """Wait until the node is active, compiled for the bag's sizes, and connected.

        Raises RainRemovalError where it does not come about.
        """
        begin = self._span()[0] or self._bag.bounds[0]
        self._client.wait_until_ready(
            lambda: self._stopped.is_set() or self._ready(),
            fate,
            timeout,
            meanwhile=lambda: self._publish_time(begin),  # a clock that stands still is better than none
        )

    def _ready(self) -> bool:
        connected = all(self._publishers[c.camera.topic].get_subscription_count() for c in self.cameras)
        sizes = [f"{c.camera.width}x{c.camera.height}" for c in self.cameras]
        return connected and self._client.is_ready(sizes)

    # -- playing -----------------------------------------------------------------------------------

    def play(
        self,
        on_time: Callable[[float, float], None] = lambda seconds, total: None,
        fate: Fate = unknown,
    ) -> Played:
        """Play until the bag or `stop` ends it.

        on_time: told the seconds into the bag and their total, for every message.
        fate: what became of the node where it ended. Raises NodeEnded then, and what reading or a watcher
        raises.
        """
        self._fate = fate
        while not self._stopped.is_set():
            sent = sum(self.played.sent.values())
            self._play_once(on_time)
            if not self._options.loop:
                break
            if sum(self.played.sent.values()) == sent:
                raise BagError(f"{self._bag.path} holds nothing to play from {self._options.start:g} s on")
            self._stopped.wait(LOOP_PAUSE_S)
        self._client.check()
        return self.played

    def wait_for_outputs(self, timeout: float = 2.0) -> None:
        """Wait until no output has come for a moment, so that the last frame's are not missed.

        Where every image is to come back, wait for those under way first, however long one takes.
        """
        with self._client.changed:
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
            self._client.changed.wait(min(left, FATE_EVERY_S))
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
            pace = Pace(self._options.rate, time.monotonic())
            for item in lane:
                pace.advance(item.record.log_time)
                if not self._wait_until_due(pace):
                    return
                pace.stand_still(self._wait_for_room(item.record.topic))
                self._publish(item.record)
                self.position = pace.played, total
                on_time(*self.position)
        finally:
            lane.end()
            thread.join()

    def _read(self, lane: Lane[_Item], start: int | None, stop: int | None) -> None:
        for record in self._bag.messages(list(self._publishers), start, stop):
            if not lane.put(_Item(record, len(record.data))):
                return

    def _wait_until_due(self, pace: Pace) -> bool:
        """Let simulated time run up to the next message. False: playing was stopped."""
        while True:
            self._ask()
            now = time.monotonic()
            self._publish_time(pace.bag_time(now))
            if pace.left(now) <= 0:
                return not self._stopped.is_set()
            if self._stopped.wait(min(pace.left(now), CLOCK_EVERY_S)):
                return False

    def _wait_for_room(self, topic: Topic) -> float:
        """Where every image is to come back, wait until the node has done with those of this camera.

        Simulated time stands still meanwhile. Gives the seconds waited.
        """
        name = self._by_topic.get(topic)
        if name is None or not self._options.every:
            return 0.0
        began = time.monotonic()
        with self._client.changed:
            there_is_room = False
            while not there_is_room and (left := began + EVERY_PATIENCE_S - time.monotonic()) > 0:
                there_is_room = self._client.wait_for(
                    lambda: self._stopped.is_set() or self._under_way[name] < EVERY_AHEAD,
                    min(left, FATE_EVERY_S),
                )
                self._ask()
            self._under_way[name] = self._under_way[name] + 1 if there_is_room else 1
        return time.monotonic() - began

    def _ask(self) -> None:
        """Raise NodeEnded where the node does not run any more, and what a watcher raised."""
        self._client.check()
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
        stop = start + int(min(options.duration, left + 1.0) * 1e9)  # bags hold 64 bits
        return None if options.start == 0 else start, stop, min(left, options.duration)

    def _latched_before(self, start: int | None) -> Iterator[Record]:
        """What a late subscriber would get of topics that keep their last messages."""
        latched = [topic for topic in self._publishers if _is_latched(topic)]
        if start is not None and latched:
            yield from self._bag.messages(latched, stop=start)

    # -- topics ------------------------------------------------------------------------------------

    def _make_publishers(self, say: Callable[[str], None]) -> Iterator[tuple[Topic, Publisher]]:
        for topic in self._bag.topics:
            message_type = message_class(topic.type)
            reason = why_not_played(topic, self.cameras, message_type is not None)
            if reason is not None:
                say(reason)
                continue
            assert message_type is not None
            name = absolute(topic.name)
            if not is_taken_by_ros(topic.name):
                say(f"{topic.name} is played as {name}; ROS does not take its name")
            profile = _profile(topic)
            if self._options.every and topic in self._by_topic:
                profile = QoSProfile(depth=EVERY_QUEUE, reliability=ReliabilityPolicy.RELIABLE)
            yield topic, self._client.node.create_publisher(message_type, name, profile)

    # -- the executor's thread ---------------------------------------------------------------------

    def _on_derained(self, topic: str, _: bytes) -> None:
        name = self._by_output[topic]
        with self._client.changed:
            self.played.derained[name] += 1
            self._under_way[name] -= self._under_way[name] > 0
            self._came = True
            self._client.changed.notify_all()

    @property
    def statuses(self) -> dict[str, Status]:
        """The newest diagnostics by name."""
        return self._client.statuses


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
