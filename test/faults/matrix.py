"""The fault matrix: every case does what ought not to be to a node in a process of its own, over real DDS,
and then sees that the node says so and goes on. Prints a table; exit status 1 where a case failed.

python -m faults.matrix [--only TEXT] [--json FILE]   (in the folder test)
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import signal
import struct
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import conftest  # noqa: F401  a ROS domain of its own, before rclpy is imported
import cv2
import numpy as np
import rclpy
from lifecycle_msgs.msg import Transition
from rcl_interfaces.msg import Parameter, ParameterValue
from rcl_interfaces.srv import SetParameters
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.serialization import serialize_message
from ros_harness import camera_info_of, compressed_of, image_of, values_of
from rosgraph_msgs.msg import Clock
from runtime_fixtures import street_like, write_weights
from sensor_msgs.msg import CameraInfo, Image

from faults.bench import GREY, RELIABLE, Bench, ends_within, node_process
from faults.faulty_node import FAULTS, MARK
from rain_removal_ros.encodings import INTERLEAVED, PACKED_YUV, PLANAR_YUV, SUPPORTED

BAD = "bad input"
SHUTDOWN_WITHIN_S = 2.0
BURST = 500_000
"""The stamps of the images that come all at once."""


@dataclass(frozen=True)
class Case:
    group: str
    name: str
    run: Callable[[], None]


def expect(counted: dict[str, int], *kinds: str) -> None:
    """The one message was counted, and as one of these."""
    assert counted.get("received") == 1 and any(counted.get(kind) for kind in kinds), counted


# -- messages ----------------------------------------------------------------------------------------


def rows(encoding: str) -> tuple[int, int]:
    """Bytes of a row and rows of a 96x72 image."""
    if encoding in INTERLEAVED:
        layout = INTERLEAVED[encoding]
        return 96 * layout.channels * layout.depth, 72
    if encoding in PLANAR_YUV:
        return 96, 108
    return 96 * (2 if encoding in PACKED_YUV or encoding.endswith("16") else 1), 72


def raw(encoding: str, **changes: int) -> Image:
    step, height = rows(encoding)
    message = image_of(np.zeros((1, 1, 1), np.uint8), encoding)
    message.width, message.height, message.step = 96, 72, step
    length = changes.pop("length", step * height)
    for name, value in changes.items():
        setattr(message, name, value)
    message.data = type(message.data)("B", bytes(length))
    return message


def raw_messages() -> Iterator[tuple[str, Image, tuple[str, ...]]]:
    for encoding in SUPPORTED:
        step, height = rows(encoding)
        yield f"{encoding}, cut by a byte", raw(encoding, length=step * height - 1), (BAD,)
        yield f"{encoding}, step too short", raw(encoding, step=step - 1), (BAD,)
        yield f"{encoding}, 100,000x100,000 declared", raw(encoding, width=100_000, height=100_000), (BAD,)
    for encoding in (
        "",
        "purple8",
        "8UC3",
        "32FC1",
        "bayer_rggb12",
        "x" * 100_000,
        "\x1b[2J",
        "é" * 50,
        "RGB8",
    ):
        yield (
            f"encoding {encoding[:8]!r} of {len(encoding)} characters",
            raw("rgb8", length=0) and _named(encoding),
            (BAD,),
        )
    for width, height in (
        (0, 0),
        (0, 72),
        (96, 0),
        (1, 1),
        (63, 64),
        (64, 63),
        (4097, 64),
        (2**32 - 1, 2**32 - 1),
    ):
        message = raw("mono8", width=width, height=height, step=min(width, 2**31), length=5000)
        yield f"size {width}x{height}", message, (BAD,)
    for encoding in ("uyvy", "yuyv", "nv12", "nv21", "bayer_rggb8"):
        yield f"{encoding} of an odd width", raw(encoding, width=95), (BAD,)
    for step in (0, 2**31, 2**32 - 1):
        yield f"step {step}", raw("rgb8", step=step), (BAD,)
    yield "no data", raw("rgb8", length=0), (BAD,)
    yield "ten times the data", raw("rgb8", length=10 * 72 * 288), ("published",)
    yield "is_bigendian 255", raw("mono16", is_bigendian=255), ("published",)
    for sec, nanosec in ((0, 0), (-1, 0), (-(2**31), 0), (2**31 - 1, 2**32 - 1), (0, 2**32 - 1)):
        message = raw("rgb8")
        message.header.stamp.sec, message.header.stamp.nanosec = sec, nanosec
        yield f"stamp {sec}.{nanosec}", message, ("published",)
    for frame in ("", "x" * 100_000, "\x00\x01\x1b[2J", "🌧" * 100):
        message = raw("rgb8")
        message.header.frame_id = frame.replace("\x00", "")
        yield f"frame_id {frame[:4]!r} of {len(frame)} characters", message, ("published",)


def _named(encoding: str) -> Image:
    message = raw("rgb8")
    message.encoding = encoding
    return message


def compressed_messages() -> Iterator[tuple[str, bytes, str, tuple[str, ...]]]:
    image = street_like(72, 96)
    for extension in (".png", ".jpg", ".bmp", ".webp", ".tiff"):
        data = cv2.imencode(extension, image)[1].tobytes()
        yield f"{extension}, whole", data, "bgr8", ("published",)
        yield f"{extension}, half of it", data[: len(data) // 2], "bgr8", (BAD,)
        yield f"{extension}, its first 20 bytes", data[:20], "bgr8", (BAD,)
        yield (
            f"{extension}, zeros in its middle",
            data[:200] + bytes(200) + data[400:],
            "bgr8",
            (BAD, "published"),
        )
        yield f"{extension}, something behind it", data + b"\xff" * 1000, "bgr8", (BAD, "published")
    png = bytearray(cv2.imencode(".png", image)[1].tobytes())
    png[16:24] = struct.pack(">II", 30_000, 30_000)
    yield "a PNG that declares 30,000x30,000", bytes(png), "bgr8", (BAD,)
    png[16:24] = struct.pack(">II", 2**31 - 1, 2**31 - 1)
    yield "a PNG that declares 2^31 squared", bytes(png), "bgr8", (BAD,)
    for name, mode in (("baseline", []), ("progressive", [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])):
        jpeg = bytearray(cv2.imencode(".jpg", image, mode)[1].tobytes())
        frame = max(jpeg.find(b"\xff\xc0"), jpeg.find(b"\xff\xc2")) + 5
        jpeg[frame : frame + 4] = struct.pack(">HH", 30_000, 30_000)
        yield f"a {name} JPEG that declares 30,000x30,000", bytes(jpeg), "bgr8", (BAD,)
    bmp = bytearray(cv2.imencode(".bmp", image)[1].tobytes())
    bmp[18:26] = struct.pack("<ii", 30_000, 30_000)
    yield "a BMP that declares 30,000x30,000", bytes(bmp), "bgr8", (BAD,)
    yield "no data", b"", "bgr8", (BAD,)
    noise = random.Random(0)
    for size in (1, 2, 100, 100_000):
        yield f"{size} bytes of noise", noise.randbytes(size), "bgr8", (BAD,)
    good = cv2.imencode(".png", image)[1].tobytes()
    yield "a depth image's format", good, "16UC1; compressedDepth png", (BAD,)
    for named in ("", "x" * 100_000, "bayer_rggb8; png compressed ", "32FC1; png compressed", "\x1b[2J"):
        yield f"format {named[:8]!r} of {len(named)} characters", good, named, ("published",)


def serialized() -> Iterator[tuple[str, bytes]]:
    whole = bytes(serialize_message(image_of(GREY)))
    for length in (0, 1, 4, 8, 20, 40, len(whole) // 2, len(whole) - 1):
        yield f"the first {length} bytes of a message", whole[:length]
    noise = random.Random(1)
    for size in (1, 10, 1000, 100_000):
        yield f"{size} bytes of noise", b"\x00\x01\x00\x00" + noise.randbytes(size)
    for place in (12, 16, 40, 44, 60):
        broken = bytearray(whole)
        broken[place : place + 4] = b"\xff\xff\xff\x7f"
        yield f"a length of 2^31 at byte {place}", bytes(broken)
    yield "invalid UTF-8 in the encoding", whole.replace(b"rgb8", b"\xff\xfe\xfd8")


def message_cases(log: Path, close: list[Callable[[], None]]) -> Iterator[Case]:
    shared: list[Bench] = []

    def bench() -> Bench:
        if not shared:
            shared.append(Bench(log))
            close.append(shared[0].close)
        return shared[0]

    def raw_case(message: Image, kinds: tuple[str, ...]) -> None:
        expect(bench().send(message), *kinds)
        bench().good()

    for name, message, kinds in raw_messages():
        yield Case("raw images", name, lambda message=message, kinds=kinds: raw_case(message, kinds))

    def bytes_case(data: bytes) -> None:
        bench().camera.publish(data)
        bench().good()

    for name, data in serialized():
        yield Case("malformed CDR", name, lambda data=data: bytes_case(data))

    def info_case(info: CameraInfo) -> None:
        publisher = bench().peer.node.create_publisher(CameraInfo, "camera/camera_info", RELIABLE)
        try:
            bench().peer.wait_for(publisher.get_subscription_count)
            publisher.publish(info)
            bench().good()
        finally:
            bench().peer.node.destroy_publisher(publisher)

    for name, change in {
        "empty": {"height": 0, "width": 0, "d": [], "k": [0.0] * 9},
        "of another size": {"height": 480, "width": 640},
        "with a focal length of NaN": {"k": [float("nan")] * 9},
        "with a focal length of nearly nothing": {"k": [6.9e-310] * 9},
        "with an infinite focal length": {"k": [float("inf")] * 9},
        "with a negative focal length": {"k": [-1.0] * 9},
        "with a distortion model of 100,000 characters": {"distortion_model": "x" * 100_000},
        "with 10,000 distortion coefficients": {"d": [0.0] * 10_000},
        "with binning of 2^32 - 1": {"binning_x": 2**32 - 1, "binning_y": 2**32 - 1},
    }.items():
        info = camera_info_of(1)
        for field, value in change.items():
            setattr(info, field, value)
        yield Case("camera_info", name, lambda info=info: info_case(info))


def compressed_cases(log: Path, close: list[Callable[[], None]]) -> Iterator[Case]:
    shared: list[Bench] = []
    good = compressed_of(cv2.imencode(".png", GREY)[1].tobytes())

    def bench() -> Bench:
        if not shared:
            made = Bench.__new__(Bench)
            shared.append(made)
            _open_compressed(made, log)
            close.append(made.close)
        return shared[0]

    def run(data: bytes, named: str, kinds: tuple[str, ...]) -> None:
        message = compressed_of(data)
        message.format = named
        expect(bench().send(message), *kinds)
        expect(bench().send(good), "published")

    for name, data, named, kinds in compressed_messages():
        yield Case(
            "compressed images", name, lambda data=data, named=named, kinds=kinds: run(data, named, kinds)
        )


def _open_compressed(bench: Bench, log: Path) -> None:
    from ros_harness import Peer

    from rain_removal_ros.runtime import Output

    bench.log, bench.peer = log, Peer()
    bench._context = node_process(log, "-p", "image_transport:=compressed")
    bench.process = bench._context.__enter__()
    bench.status("derain: runtime", "the node is active", lambda v: v["state"] == "active")
    bench.images = bench.peer.output(Output.IMAGE)
    bench.camera = bench.peer.camera(transport="compressed")


# -- the runtime -------------------------------------------------------------------------------------


def runtime_cases(log: Path, close: list[Callable[[], None]]) -> Iterator[Case]:
    from rain_removal_ros.runtime import Output

    shared: dict[str, Bench] = {}

    def bench(policy: str) -> Bench:
        if policy not in shared:
            while close:  # two nodes of one name would hear each other
                close.pop()()
            made = Bench(log, "-p", f"on_failure:={policy}", "-p", "inference_timeout_s:=0.3")
            made.depths = made.peer.output(Output.INVERSE_DEPTH)
            shared[policy] = made
            close.append(lambda: _close_with_what_hangs(made))
        return shared[policy]

    def run(policy: str, number: int) -> None:
        marked = GREY.copy()
        marked[0, 0] = (*MARK, number)
        counted = bench(policy).send(image_of(marked, second=number + 1))
        expect(counted, "processing failed")
        wanted = 1 if policy == "passthrough" and FAULTS[number] != "hang" else 0
        images = bench(policy).images
        if wanted:  # it is counted as failed just before it is published
            bench(policy).peer.wait_for(lambda: any(m.header.stamp.sec == number + 1 for m in images))
        answers = [m for m in images if m.header.stamp.sec == number + 1]
        assert len(answers) == wanted, f"{len(answers)} answers"
        assert all(bytes(m.data) == marked.tobytes() for m in answers), "not the image as it came"
        assert not any(m.header.stamp.sec == number + 1 for m in bench(policy).depths)
        bench(policy).good()

    def in_a_row(policy: str) -> None:
        for number in itertools.islice(itertools.cycle((1, 2, 5)), 6):
            marked = GREY.copy()
            marked[0, 0] = (*MARK, number)
            bench(policy).camera.publish(image_of(marked, second=50))
            bench(policy).values()
        bench(policy).good()
        made_anew = int(_runtime(bench(policy))["made anew"])
        assert made_anew >= 1, "the runtime was not made anew"

    for policy in ("drop", "passthrough"):
        for number, fault in enumerate(FAULTS):
            yield Case("the runtime", f"{fault}, {policy}", lambda p=policy, n=number: run(p, n))
        yield Case("the runtime", f"six failures in a row, {policy}", lambda p=policy: in_a_row(p))


def _close_with_what_hangs(bench: Bench) -> None:
    bench.process.send_signal(signal.SIGINT)
    try:
        assert ends_within(bench.process, 5) == 0
    finally:
        bench._context.__exit__(None, None, None)
        bench.peer.close()


def _runtime(bench: Bench) -> dict[str, str]:
    return values_of(bench.peer.status("derain: runtime", lambda s: True))


# -- topics, lifecycle, parameters, time --------------------------------------------------------------


def traffic_cases(log: Path, close: list[Callable[[], None]]) -> Iterator[Case]:
    shared: list[Bench] = []

    def bench() -> Bench:
        if not shared:
            shared.append(Bench(log))
            close.append(shared[0].close)
        return shared[0]

    def publisher_vanishes() -> None:
        for _ in range(5):
            bench().peer.node.destroy_publisher(bench().camera)
            bench().camera = bench().peer.camera()
            bench().good()

    def two_publishers() -> None:
        other = bench().peer.node.create_publisher(Image, "camera/image_raw", RELIABLE)
        bench().peer.wait_for(other.get_subscription_count)
        for number in range(20):
            other.publish(image_of(GREY, second=number + 1))
            bench().good()
        bench().peer.node.destroy_publisher(other)

    def subscribers_come_and_go() -> None:
        for number in range(10):
            topic = ("derained/image", "depth/inverse_depth")[number % 2]
            subscription = bench().peer.node.create_subscription(Image, f"camera/{topic}", lambda _: None, 1)
            bench().good()
            bench().peer.node.destroy_subscription(subscription)
            bench().good()

    def size_changes() -> None:
        for number in range(30):
            height, width = 64 + 8 * (number % 12), 96
            bench().camera.publish(image_of(np.zeros((height, width, 3), np.uint8), second=1))
            bench().good()

    def burst() -> None:
        before = bench().values()
        for number in range(300):
            bench().camera.publish(image_of(GREY, second=BURST + number))
        bench().good()
        after = bench().values()
        assert int(after["processing failed"]) == int(before["processing failed"])
        seconds = [m.header.stamp.sec for m in bench().images if BURST <= m.header.stamp.sec < BURST + 300]
        assert seconds == sorted(set(seconds)), "answers were reordered or doubled"

    def other_type() -> None:
        from std_msgs.msg import String

        publisher = bench().peer.node.create_publisher(String, "camera/camera_info", 1)
        publisher.publish(String(data="x" * 1000))
        bench().good()
        bench().peer.node.destroy_publisher(publisher)

    def foreign_output() -> None:
        publisher = bench().peer.node.create_publisher(Image, "camera/derained/image", 1)
        bench().peer.status("derain: camera", lambda s: "published by" in s.message)
        bench().peer.node.destroy_publisher(publisher)
        bench().good()

    def namesake() -> None:
        other = rclpy.create_node("derain", context=bench().peer.node.context)
        bench().peer.status("derain: runtime", lambda s: "have this node's name" in s.message)
        other.destroy_node()
        bench().good()

    for name, run in {
        "the camera's publisher vanishes and returns": publisher_vanishes,
        "two publishers on one topic": two_publishers,
        "subscribers come and go": subscribers_come_and_go,
        "the size changes from image to image": size_changes,
        "300 images at once": burst,
        "another type on camera_info": other_type,
        "another node publishes the derained images": foreign_output,
        "a second node of the same name": namesake,
    }.items():
        yield Case("topics", name, run)

    def transition(chain: tuple[int, ...], asked: int) -> None:
        for each in chain:
            assert bench().peer.change_state(each), f"transition {each}"
        before = bench().peer.state()
        bench().camera.publish(image_of(GREY))
        changed = bench().peer.change_state(asked)
        if not changed:
            assert bench().peer.state() == before
        _to_active(bench())
        bench().good()

    for state, chain in _CHAINS.items():
        for asked, label in _TRANSITIONS.items():
            yield Case("lifecycle", f"{label} while {state}", lambda c=chain, a=asked: transition(c, a))

    def toggles() -> None:
        for _ in range(15):
            assert bench().peer.change_state(Transition.TRANSITION_DEACTIVATE)
            bench().camera.publish(image_of(GREY))
            assert bench().peer.change_state(Transition.TRANSITION_ACTIVATE)
        bench().peer.connected()
        bench().good()

    yield Case("lifecycle", "15 toggles under load", toggles)

    def parameter(name: str, values: list) -> None:
        for value in values:
            bench().peer.set_parameter(name, value)
            bench().good()

    for name, values in {
        "while_building": ["torch", "wait", "sleep", ""],
        "on_failure": ["passthrough", "drop", "explode"],
        "inference_timeout_s": [0.0, 600.0, float("nan"), 5.0],
        "bypass_when_dry": [True, False],
        "diagnostics.max_latency_ms": [0.1, float("inf"), -1.0, 100.0],
        "diagnostics.stale_after_s": [3600.0, 2.0],
        "weights": ["/nowhere", "x" * 100_000],
        "cameras": [["rear"], []],
        "no.such.parameter": [1, "x"],
        "use_sim_time": [True, False],
    }.items():
        yield Case("parameters", f"{name} under load", lambda n=name, v=values: parameter(n, v))

    def unknown_type(kind: int) -> None:
        wild = Parameter(name="threads", value=ParameterValue(type=kind))
        result = bench().peer.call("set_parameters", SetParameters.Request(parameters=[wild])).results[0]
        assert not result.successful
        bench().good()

    for kind in (10, 100, 255):
        yield Case("parameters", f"a value of type {kind}", lambda k=kind: unknown_type(k))


_CHAINS = {
    "active": (),
    "inactive": (Transition.TRANSITION_DEACTIVATE,),
    "unconfigured": (Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_CLEANUP),
}
_TRANSITIONS = {
    Transition.TRANSITION_CONFIGURE: "configure",
    Transition.TRANSITION_ACTIVATE: "activate",
    Transition.TRANSITION_DEACTIVATE: "deactivate",
    Transition.TRANSITION_CLEANUP: "cleanup",
    99: "an unknown transition",
}


def _to_active(bench: Bench) -> None:
    state = bench.peer.state()
    if state == "unconfigured":
        assert bench.peer.change_state(Transition.TRANSITION_CONFIGURE)
        state = "inactive"
    if state == "inactive":
        assert bench.peer.change_state(Transition.TRANSITION_ACTIVATE)
    bench.peer.connected()


def time_cases(log: Path, close: list[Callable[[], None]]) -> Iterator[Case]:
    shared: list[Bench] = []
    clocks: list = []

    def bench() -> Bench:
        if not shared:
            shared.append(Bench(log, "-p", "use_sim_time:=true"))
            clocks.append(shared[0].peer.node.create_publisher(Clock, "/clock", 10))
            shared[0].peer.wait_for(clocks[0].get_subscription_count)
            close.append(shared[0].close)
        return shared[0]

    def run(seconds: list[int]) -> None:
        bench()
        for second in seconds:
            clock = Clock()
            clock.clock.sec = second
            clocks[0].publish(clock)
            bench().good()

    for name, seconds in {
        "time stands still": [],
        "time jumps an hour ahead": [100, 3700],
        "time jumps back, as a bag that loops": [1000, 10, 1000, 10],
        "time is zero": [0],
        "time is before 1970": [-1, -(2**31), 100],
        "time is at its end": [2**31 - 1, 100],
    }.items():
        yield Case("time", name, lambda seconds=seconds: run(seconds))


def qos_cases(log: Path, close: list[Callable[[], None]]) -> Iterator[Case]:
    def reliable_wanted() -> None:
        override = "qos_overrides./camera/image_raw.subscription.reliability:=reliable"
        bench = Bench(log, "-p", override, "-p", "diagnostics.stale_after_s:=0.2")
        try:
            bench.peer.node.destroy_publisher(bench.camera)
            qos = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
            publisher = bench.peer.node.create_publisher(Image, "camera/image_raw", qos)
            bench.peer.status("derain: camera", lambda s: "incompatible QoS" in s.message)
            bench.peer.node.destroy_publisher(publisher)
            bench.camera = bench.peer.camera()
            bench.good()
        finally:
            bench.close()

    def latched_info() -> None:
        bench = Bench(log)
        try:
            latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
            publisher = bench.peer.node.create_publisher(CameraInfo, "camera/camera_info", latched)
            publisher.publish(camera_info_of(1))
            bench.peer.wait_for(publisher.get_subscription_count)
            while "of camera_info" not in bench.values()["focal length (px)"]:
                bench.good()
        finally:
            bench.close()

    yield Case("QoS", "a best-effort camera where reliable is wanted", reliable_wanted)
    yield Case("QoS", "a latched camera_info", latched_info)


# -- processes and files -----------------------------------------------------------------------------


def signal_cases(log: Path, close: list[Callable[[], None]]) -> Iterator[Case]:
    def run(state: str, numbers: tuple[int, ...]) -> None:
        from ros_harness import Peer

        peer = Peer()
        arguments = ["-p", "autostart:=false"] if state in ("unconfigured", "inactive") else []
        arguments += ["-p", "image_sizes:=96x72"] if state == "building" else []
        faults = {"loading": {"FAULT_LOAD": "hang"}, "building": {"FAULT_BUILD": "hang"}}.get(state, {})
        try:
            with node_process(log, *arguments, **faults) as process:
                waited = "unconfigured" if state == "inactive" else state
                conditions = {
                    "loading": lambda v, m: v["state"] == "configuring",
                    "building": lambda v, m: "building engine" in m,
                    "hanging": lambda v, m: v["state"] == "active",
                }
                condition = conditions.get(state, lambda v, m: v["state"] == waited)
                peer.status("derain: runtime", lambda s: condition(values_of(s), s.message))
                if state == "inactive":
                    assert peer.change_state(Transition.TRANSITION_CONFIGURE)
                if state == "hanging":
                    _hang(peer)
                for number in numbers:
                    process.send_signal(number)
                status = ends_within(process, SHUTDOWN_WITHIN_S)
                assert status == 0, f"exit status {status}"
        finally:
            peer.close()

    for state in ("unconfigured", "loading", "inactive", "building", "active", "hanging"):
        for numbers in (
            (signal.SIGINT,),
            (signal.SIGTERM,),
            (signal.SIGHUP,),
            (signal.SIGINT, signal.SIGINT),
        ):
            name = " and ".join(number.name for number in numbers)
            yield Case("signals", f"{name} while {state}", lambda s=state, n=numbers: run(s, n))


def _hang(peer) -> None:
    from rain_removal_ros.runtime import Output

    images = peer.output(Output.IMAGE)
    camera = peer.camera()
    while not images:
        camera.publish(image_of(GREY))
        peer.status("derain: camera", lambda s: True)
    marked = GREY.copy()
    marked[0, 0] = (*MARK, 0)
    camera.publish(image_of(marked))
    peer.status("derain: camera", lambda s: int(values_of(s)["received"]) > int(values_of(s)["published"]))


def file_cases(log: Path, close: list[Callable[[], None]]) -> Iterator[Case]:
    """With the real runtime, a tiny network and OpenVINO."""
    folder = Path(tempfile.mkdtemp(prefix="faults-"))
    weights = write_weights(folder / "tiny.safetensors")
    original = weights.read_bytes()
    shared: list[Bench] = []

    def bench() -> Bench:
        if not shared:
            made = Bench.__new__(Bench)
            shared.append(made)
            _open_real(made, log, weights, folder / "cache")
            close.append(made.close)
        return shared[0]

    sizes = iter(range(80, 4000, 16))

    def new_size() -> None:
        image = street_like(next(sizes), 96)
        before = len(bench().images)
        while len(bench().images) == before:
            bench().camera.publish(image_of(image))
            bench().status("derain: camera", "a status", lambda v: True)
        assert bench().images[-1].height == image.shape[0]

    def deleted_cache() -> None:
        for path in (folder / "cache").iterdir():
            path.unlink()
        new_size()

    def removed_folder() -> None:
        import shutil

        shutil.rmtree(folder / "cache")
        new_size()
        assert any((folder / "cache").iterdir())

    def corrupt_cache() -> None:
        new_size()
        for path in (folder / "cache").glob("*.engine"):
            path.write_bytes(b"no engine")
        new_size()

    def foreign_cache() -> None:
        (folder / "cache").chmod(0o777)
        new_size()
        (folder / "cache").chmod(0o755)

    def full_disk() -> None:
        import shutil

        shutil.rmtree(folder / "cache")
        (folder / "cache").symlink_to("/proc/self/nowhere")
        new_size()
        (folder / "cache").unlink()
        new_size()

    def replaced_weights() -> None:
        write_weights(weights, seed=3)
        new_size()
        weights.write_bytes(original)

    def removed_weights() -> None:
        weights.unlink()
        new_size()
        weights.write_bytes(original)

    def damaged_weights() -> None:
        weights.write_bytes(original[:1000])
        new_size()
        peer = bench().peer
        assert peer.change_state(Transition.TRANSITION_DEACTIVATE)
        assert peer.change_state(Transition.TRANSITION_CLEANUP)
        assert not peer.change_state(Transition.TRANSITION_CONFIGURE)
        weights.write_bytes(original)
        _to_active(bench())
        new_size()

    def killed_builder() -> None:
        import psutil

        new_size()
        for child in psutil.Process(bench().process.pid).children(recursive=True):
            child.kill()
        new_size()

    for name, run in {
        "an image of a new size": new_size,
        "the cache is emptied while running": deleted_cache,
        "the cache's folder is removed while running": removed_folder,
        "every engine in the cache is damaged": corrupt_cache,
        "anybody may write the cache's folder": foreign_cache,
        "nothing can be written to the cache": full_disk,
        "the weights file is replaced while running": replaced_weights,
        "the weights file is removed while running": removed_weights,
        "the weights file is damaged, then mended": damaged_weights,
        "the build process is killed": killed_builder,
    }.items():
        yield Case("files", name, run)


def _open_real(bench: Bench, log: Path, weights: Path, cache: Path) -> None:
    from ros_harness import Peer

    from rain_removal_ros.runtime import Output

    bench.log, bench.peer = log, Peer()
    arguments = ("-p", f"weights:={weights}", "-p", f"cache_dir:={cache}", "-p", "backend:=openvino")
    bench._context = node_process(log, *arguments, real=True)
    bench.process = bench._context.__enter__()
    bench.status("derain: runtime", "the node is active", lambda v: v["state"] == "active")
    bench.images = bench.peer.output(Output.IMAGE)
    bench.camera = bench.peer.camera()


SUITES = (
    message_cases,
    compressed_cases,
    runtime_cases,
    traffic_cases,
    time_cases,
    qos_cases,
    signal_cases,
    file_cases,
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--only", default="", help="cases whose group and name hold this text")
    parser.add_argument("--json", type=Path, help="write the results to this file")
    arguments = parser.parse_args()
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup the nodes would ignore it
    folder = Path(tempfile.mkdtemp(prefix="faults-"))
    results: list[dict[str, object]] = []
    for suite in SUITES:
        close: list[Callable[[], None]] = []
        for case in suite(folder / f"{suite.__name__}.log", close):
            if arguments.only in f"{case.group}: {case.name}":
                results.append(_result(case.group, case.name, case.run))
        for number, each in enumerate(close, start=1):
            results.append(_result(suite.__name__, f"node {number} ends cleanly after all this", each))
    failed = [result for result in results if not result["held"]]
    groups = dict.fromkeys(str(result["group"]) for result in results)
    print(f"\n{'group':<24}{'cases':>6}{'held':>6}")
    for group in groups:
        mine = [result for result in results if result["group"] == group]
        print(f"{group:<24}{len(mine):>6}{sum(bool(result['held']) for result in mine):>6}")
    print(f"{'all':<24}{len(results):>6}{len(results) - len(failed):>6}")
    for result in failed:
        print(f"FAILED  {result['group']}: {result['name']}\n{result['why']}")
    if failed:
        print(f"the nodes' logs are in {folder}")
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n")
    return int(bool(failed) or not results)


def _result(group: str, name: str, run: Callable[[], None]) -> dict[str, object]:
    began = time.perf_counter()
    why = ""
    try:
        run()
    except Exception:
        why = traceback.format_exc(limit=-3)
    seconds = time.perf_counter() - began
    print(f"{'ok    ' if not why else 'FAILED'} {group}: {name} ({seconds:.1f} s)", flush=True)
    return {"group": group, "name": name, "held": not why, "seconds": round(seconds, 2), "why": why}


if __name__ == "__main__":
    os.chdir(Path(__file__).parents[1])
    sys.exit(main())
