"""A bag is played to the live node over real DDS: whole, at its own pace, on simulated time."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from bag_fixtures import LATCHED as LATCHED_QOS
from bag_fixtures import (
    SECOND,
    SENSOR,
    START,
    STORE,
    Sent,
    camera_info,
    compressed,
    drive,
    image,
    record,
    text,
)
from mcap.writer import Writer as McapWriter
from pipeline_fakes import FakeRestorer
from rclpy.qos import QoSProfile
from ros_harness import LATCHED, PATIENCE, derain_node, values_of
from rosbags.rosbag2 import Reader
from rosgraph_msgs.msg import Clock
from runtime_fixtures import write_weights
from std_msgs.msg import String
from test_node_process import environment

from rain_removal_ros.bags.cameras import find_cameras
from rain_removal_ros.bags.storage import Bag
from rain_removal_ros.commands.main import main
from rain_removal_ros.errors import BagError, RainRemovalError
from rain_removal_ros.replay import player as player_module
from rain_removal_ros.replay.player import NodeEnded, Player, ReplayOptions
from rain_removal_ros.replay.recording import recording
from rain_removal_ros.replay.topics import message_class, namespace_of, node_parameters, played_cameras
from rain_removal_ros.ros import process as process_module
from rain_removal_ros.runtime import Output

IMAGE, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"


def stamps(received) -> list[int]:
    return [message.header.stamp.sec * SECOND + message.header.stamp.nanosec for message in received]


def drive_stamps(frames: int, begin: int = 0) -> list[int]:
    return [START + number * SECOND // 10 for number in range(begin, begin + frames)]


@contextmanager
def playing(path: Path, said: list[str] | None = None, **options) -> Iterator[Player]:
    with Bag(path) as bag:
        say = (said if said is not None else []).append
        with Player(bag, played_cameras(find_cameras(bag), say), ReplayOptions(**options), say) as player:
            yield player


def node_for(path: Path, fake: FakeRestorer, every: bool = False, **changes):
    """The node as the replay starts it for this bag, with a fake network."""
    with Bag(path) as bag:
        parameters = node_parameters(played_cameras(find_cameras(bag), print), every)
    return derain_node(
        lambda settings, progress: fake,
        cameras=parameters["cameras"].strip("[]").split(", "),
        image_transport=parameters["image_transport"],
        image_sizes=parameters["image_sizes"],
        use_sim_time=True,
        queue_length=int(parameters.get("queue_length", 1)),
        **changes,
    )


def test_every_image_is_played_at_its_time_and_comes_back(tmp_path):
    path, said = record(tmp_path / "drive", drive(8)), []
    with node_for(path, FakeRestorer(), every=True) as peer, playing(path, said, every=True) as player:
        images = peer.output(Output.IMAGE, "front")
        clock = peer.subscribe(Clock, "/clock")
        player.wait_until_ready(timeout=PATIENCE)
        peer.wait_for(lambda: clock.publishers, "for the player's clock")
        played = player.play()
        peer.wait_for(lambda: len(images) == 8, "for every image")
        assert stamps(images) == drive_stamps(8)
        assert played.sent["/front/image_raw"] == played.sent["/front/camera_info"] == 8
        times = [message.clock.sec * SECOND + message.clock.nanosec for message in clock]
        assert times == sorted(times) and times[0] >= START and times[-1] == START + 7 * SECOND // 10 + 2
        assert any("/radar is not played: acme_msgs/msg/Radar is not installed" in text for text in said)
        status = peer.status("derain: front", lambda s: "image age max (ms)" in values_of(s))
        assert 0 <= float(values_of(status)["image age max (ms)"]) < 1000  # by the bag's clock


def test_playing_begins_when_the_network_is_compiled(tmp_path):
    path, fake = record(tmp_path / "drive", drive(2)), FakeRestorer()
    fake.build_gate.clear()
    with node_for(path, fake) as peer, playing(path) as player:
        ready = threading.Event()
        waiting = threading.Thread(target=lambda: (player.wait_until_ready(timeout=PATIENCE), ready.set()))
        waiting.start()
        peer.status("derain: runtime", lambda s: "building" in s.message)
        peer.status("derain: runtime", lambda s: values_of(s)["state"] == "active")
        assert not ready.is_set() and not player.played.sent
        fake.build_gate.set()
        waiting.join(PATIENCE)
        assert ready.is_set()
        assert {size for size, _ in fake.builds} == {(64, 96)}


def test_the_node_goes_on_when_a_loop_throws_the_clock_back(tmp_path):
    path = record(tmp_path / "drive", drive(3))
    with (
        node_for(path, FakeRestorer(), every=True) as peer,
        playing(path, loop=True, rate=2.0, every=True) as player,
    ):
        images = peer.output(Output.IMAGE, "front")
        player.wait_until_ready(timeout=PATIENCE)
        thread = threading.Thread(target=player.play)
        thread.start()
        peer.wait_for(lambda: stamps(images).count(START) >= 3, "for the third loop")
        player.stop()
        thread.join(PATIENCE)
        assert stamps(images)[:4] == [*drive_stamps(3), START]


def test_a_part_of_a_bag_is_played_with_what_was_latched_before_it(tmp_path):
    path = record(tmp_path / "drive", drive(8))
    with node_for(path, FakeRestorer()) as peer, playing(path, start=0.3, duration=0.25) as player:
        images = peer.output(Output.IMAGE, "front")
        player.wait_until_ready(timeout=PATIENCE)
        player.play()
        peer.wait_for(lambda: len(images) == 3, "for the part's images")
        assert stamps(images) == drive_stamps(3, begin=3)
        late = peer.subscribe(String, "/map", LATCHED)
        peer.wait_for(lambda: late, "for the latched message, after the end")
        assert late[0].data == "streets"


def test_latched_messages_of_several_publishers_all_reach_a_late_subscriber(tmp_path):
    transforms = [
        Sent("/tf_like", "std_msgs/msg/String", START + number, text(str(number)), (LATCHED_QOS, LATCHED_QOS))
        for number in range(3)
    ]
    path = record(tmp_path / "drive", [*transforms, *drive(1)])
    with node_for(path, FakeRestorer()) as peer, playing(path) as player:
        player.wait_until_ready(timeout=PATIENCE)
        player.play()
        late = peer.subscribe(String, "/tf_like", LATCHED)
        peer.wait_for(lambda: len(late) == 3, "for all three")
        assert [message.data for message in late] == ["0", "1", "2"]


def test_a_recording_that_starts_in_1970_is_not_waited_for(tmp_path):
    sent = drive(6)
    for number, each in enumerate(sent[:4]):
        each.time = number * 1000
    path = record(tmp_path / "drive", sent)
    shown: list[tuple[float, float]] = []
    with node_for(path, FakeRestorer()) as peer, playing(path) as player:
        images = peer.output(Output.IMAGE, "front")
        player.wait_until_ready(timeout=PATIENCE)
        player.play(lambda seconds, total: shown.append((seconds, total)))
        peer.wait_for(lambda: drive_stamps(6)[-1] in stamps(images), "for the last image")
    assert shown[-1][0] < 1.0 and shown[-1][1] < 1.0


def test_cameras_of_different_rates_and_compressed_images_are_played(tmp_path):
    sent = []
    for number in range(6):
        time = START + number * SECOND // 10
        sent.append(Sent("front/image_raw/compressed", COMPRESSED, time, compressed(number), (SENSOR,)))
        if number % 3 == 0:
            small = compressed(number, height=70, width=100)
            sent.append(Sent("rear/image_raw/compressed", COMPRESSED, time + 9, small, (SENSOR,)))
    path, fake = record(tmp_path / "drive", sent, "sqlite3"), FakeRestorer()
    with node_for(path, fake, every=True) as peer, playing(path, every=True) as player:
        front, rear = peer.output(Output.IMAGE, "front"), peer.output(Output.IMAGE, "rear")
        player.wait_until_ready(timeout=PATIENCE)
        player.play()
        peer.wait_for(lambda: len(front) == 6 and len(rear) == 2, "for every image")
        assert (rear[0].width, rear[0].height) == (100, 70)
        assert {size for size, _ in fake.builds} == {(64, 96), (70, 100)}


def test_the_outputs_are_recorded_on_the_bags_own_time(tmp_path):
    path = record(tmp_path / "drive", drive(4))
    with (
        node_for(path, FakeRestorer()) as peer,
        playing(path) as player,
        recording(player, player.cameras, tmp_path / "out", segmentation=False),
    ):
        peer.output(Output.IMAGE, "front")
        player.wait_until_ready(timeout=PATIENCE)
        player.play()
        player.wait_for_outputs()
    with Reader(tmp_path / "out") as reader:
        counts = {c.topic: c.msgcount for c in reader.connections}
        begin, end = reader.start_time, reader.end_time
    assert counts["/front/derained/image"] == counts["/front/depth/inverse_depth"] == 4
    assert counts["/front/derained/camera_info"] == 4 and counts["/diagnostics"] > 0
    assert START <= begin <= end <= START + SECOND


def test_a_node_in_a_namespace_is_played_to_and_recorded_under_its_names(tmp_path):
    path, out = record(tmp_path / "drive", drive(3)), tmp_path / "out"
    with Bag(path) as bag:
        cameras = played_cameras(find_cameras(bag), print, namespace_of("/car/derain"))
        rules = [part for source, target in cameras[0].remappings for part in ("-r", f"{source}:={target}")]
        arguments = ["--ros-args", "-r", "__ns:=/car", *rules]
        with (
            node_for(path, FakeRestorer(), every=True, cli_args=arguments),
            Player(bag, cameras, ReplayOptions(every=True), node_name="/car/derain") as player,
            recording(player, cameras, out, segmentation=False),
        ):
            player.wait_until_ready(timeout=PATIENCE)
            played = player.play()
            player.wait_for_outputs()
    assert played.derained == {"front": 3} and played.sent["/front/image_raw"] == 3
    with Reader(out) as reader:
        recorded = {c.topic: c.msgcount for c in reader.connections}
    assert recorded["/car/front/derained/image"] == 3


def test_a_bag_with_outputs_of_an_earlier_run_is_played_without_them(tmp_path):
    old = Sent("/front/derained/image", IMAGE, START, image(0))
    path, said = record(tmp_path / "drive", [old, *drive(1)]), []
    with playing(path, said):
        assert any("/front/derained/image is not played" in text for text in said)


def test_raw_and_compressed_cameras_of_one_bag_are_played_together(tmp_path):
    sent = drive(4)
    for number in range(4):
        time = START + number * SECOND // 10 + 7
        sent.append(Sent("/rear/image_raw/compressed", COMPRESSED, time, compressed(number), (SENSOR,)))
    path = record(tmp_path / "drive", sorted(sent, key=lambda each: each.time))
    with node_for(path, FakeRestorer(), every=True) as peer, playing(path, every=True) as player:
        front, rear = peer.output(Output.IMAGE, "front"), peer.output(Output.IMAGE, "rear")
        assert [(each.name, each.camera.compressed) for each in player.cameras] == [
            ("front", False),
            ("rear", True),
        ]
        player.wait_until_ready(timeout=PATIENCE)
        player.play()
        peer.wait_for(lambda: len(front) == len(rear) == 4, "for every image of both")
        assert stamps(front) == stamps(rear) == drive_stamps(4)


def test_of_one_camera_that_is_there_raw_and_compressed_the_raw_images_are_derained(tmp_path):
    sent = [*drive(1), Sent("/front/image_raw/compressed", COMPRESSED, START, compressed(0))]
    said: list[str] = []
    with Bag(record(tmp_path / "drive", sent)) as bag:
        named = ["/front/image_raw/compressed", "/front/image_raw"]
        (camera,) = played_cameras(find_cameras(bag, named), said.append)
    assert not camera.camera.compressed
    assert said == ["/front/image_raw/compressed is not derained; /front/image_raw is the same camera's"]


class SlowRestorer(FakeRestorer):
    """Far slower than the bag is played."""

    def __init__(self, seconds: float = 0.03):
        super().__init__()
        self._seconds = seconds

    def __call__(self, *arguments, **options):
        threading.Event().wait(self._seconds)
        return super().__call__(*arguments, **options)


def test_a_replay_of_every_image_loses_none_however_fast_it_is(tmp_path):
    path = record(tmp_path / "drive", drive(40))
    with node_for(path, SlowRestorer(), every=True) as peer, playing(path, rate=100, every=True) as player:
        images = peer.output(Output.IMAGE, "front", QoSProfile(depth=50))
        player.wait_until_ready(timeout=PATIENCE)
        played = player.play()
        peer.wait_for(lambda: len(images) == 40, "for every image")
        assert stamps(images) == drive_stamps(40)
        peer.wait_for(lambda: played.derained["front"] == 40)
        assert values_of(peer.status("derain: front", lambda s: True))["dropped"] == "0"


def test_a_replay_of_every_image_goes_on_when_some_never_come_back(tmp_path, monkeypatch):
    monkeypatch.setattr(player_module, "EVERY_PATIENCE_S", 0.2)
    broken = FakeRestorer()
    broken.fail_frames = RuntimeError("of no use")
    path = record(tmp_path / "drive", drive(8))
    with node_for(path, broken, every=True) as peer, playing(path, rate=100, every=True) as player:
        peer.output(Output.IMAGE, "front")
        player.wait_until_ready(timeout=PATIENCE)
        played = player.play()
        assert played.sent["/front/image_raw"] == 8 and played.derained["front"] == 0
        player.wait_for_outputs(timeout=0.1)


def test_the_last_of_every_image_are_waited_for_however_long_one_takes(tmp_path):
    path = record(tmp_path / "drive", drive(4))
    slow = SlowRestorer(seconds=0.5)
    with node_for(path, slow, every=True) as peer, playing(path, rate=100, every=True) as player:
        peer.output(Output.IMAGE, "front")
        player.wait_until_ready(timeout=PATIENCE)
        player.play()
        player.wait_for_outputs(timeout=0.05)
        assert player.played.derained["front"] == 4


def test_a_node_that_ends_while_it_is_played_to_ends_the_replay(tmp_path):
    path = record(tmp_path / "drive", drive(3))
    with playing(path, loop=True) as player, pytest.raises(NodeEnded, match="node ended with status 139 dur"):
        player.play(fate=lambda: "ended with status 139" if player.played.sent else None)


def test_a_node_that_ends_while_the_bag_waits_for_its_images_ends_the_replay(tmp_path, monkeypatch):
    monkeypatch.setattr(player_module, "EVERY_PATIENCE_S", 10 * PATIENCE)
    path, most = record(tmp_path / "drive", drive(8)), player_module.EVERY_AHEAD
    with playing(path, rate=100, every=True) as player, pytest.raises(NodeEnded, match="node is gone"):
        player.play(fate=lambda: "is gone" if player.played.sent.get("/front/image_raw") == most else None)
    assert player.played.sent["/front/image_raw"] == most


def test_the_command_says_that_its_node_ended_and_keeps_what_was_recorded(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    monkeypatch.setattr("rain_removal_ros.commands.replay.signal.signal", lambda *_: None)
    monkeypatch.setattr(process_module, "node_program", lambda python: ["true"])
    monkeypatch.setattr(Player, "wait_until_ready", lambda *_, **__: None)
    path = record(tmp_path / "drive", drive(40))
    assert main(["replay", str(path), "--record", str(tmp_path / "out")]) == 1
    assert "the node ended with status 0 during the replay" in capsys.readouterr().err
    with Reader(tmp_path / "out") as reader:
        assert "/front/derained/image" in reader.topics


def test_topics_are_remapped_to_the_nodes_where_they_are_called_otherwise(tmp_path):
    sent = [
        Sent("sensors/2d/picture", IMAGE, START, image(0)),
        Sent("/left/image_rect", IMAGE, START, image(0)),
        Sent("/front/image_raw", IMAGE, START, image(0)),
    ]
    with Bag(record(tmp_path / "drive", sent)) as bag:
        cameras = played_cameras(find_cameras(bag), print)
    assert [(camera.name, camera.remappings) for camera in cameras] == [
        ("sensors/camera_2d/picture", [("sensors/camera_2d/picture/image_raw", "/sensors/_2d/picture")]),
        ("left", [("left/image_raw", "/left/image_rect")]),
        ("front", []),
    ]


def test_cameras_and_topics_with_names_that_ros_does_not_take_do_not_stop_the_replay(tmp_path):
    sent = [
        Sent("/cam-1/image_raw", IMAGE, START, image(0)),
        Sent("/cam-1/camera_info", "sensor_msgs/msg/CameraInfo", START, camera_info(0)),
        Sent("/cam_1/image_raw", IMAGE, START, image(0)),  # whose name the first one takes
        Sent("/sensors/0/picture", IMAGE, START, image(0)),
        Sent("/odd name", "std_msgs/msg/String", START, text("a")),
        Sent("/" + "long" * 70, "std_msgs/msg/String", START, text("a")),
        Sent("/fine", "std_msgs/msg/String", START, text("a")),
    ]
    said: list[str] = []
    with playing(record(tmp_path / "drive", sent), said) as player:
        assert [(each.name, each.remappings) for each in player.cameras] == [
            ("cam_1", []),
            ("sensors/camera_0/picture", [("sensors/camera_0/picture/image_raw", "/sensors/_0/picture")]),
        ]
        played = ("/cam_1/image_raw", "/cam_1/camera_info", "/sensors/_0/picture", "/fine")
        assert player.play().sent == dict.fromkeys(played, 1)
    for begin in (
        "/cam-1/image_raw is played as /cam_1/image_raw",
        "/cam_1/image_raw is not played",
        "/odd name is not played: ROS takes no such name",
        "/longlong",
    ):
        assert any(each.startswith(begin) for each in said), begin


def test_the_images_of_a_camera_with_a_name_that_ros_does_not_take_come_back(tmp_path):
    sent = [Sent("/cam-1/image_raw", IMAGE, START + number, image(number)) for number in range(3)]
    path = record(tmp_path / "drive", sent)
    with node_for(path, FakeRestorer(), every=True) as peer, playing(path, every=True) as player:
        images = peer.output(Output.IMAGE, "cam_1")
        player.wait_until_ready(timeout=PATIENCE)
        player.play()
        peer.wait_for(lambda: len(images) == 3, "for every image")


def test_topics_without_a_type_or_of_another_encoding_are_not_played(tmp_path):
    definition = STORE.generate_msgdef(IMAGE, ros_version=2)[0].encode()
    with (tmp_path / "drive.mcap").open("wb") as file:
        writer = McapWriter(file)
        writer.start("ros2")
        schema = writer.register_schema(IMAGE, "ros2msg", definition)
        camera = writer.register_channel("/cam/image_raw", "cdr", schema)
        writer.add_message(camera, START, bytes(STORE.serialize_cdr(image(0), IMAGE)), START)
        for name, encoding in (("/untyped", "cdr"), ("/text", "json")):
            writer.add_message(writer.register_channel(name, encoding, 0), START, b"{}", START)
        writer.finish()
    said: list[str] = []
    with playing(tmp_path / "drive.mcap", said) as player:
        assert player.play().sent == {"/cam/image_raw": 1}
    assert "/text is not played: its messages are json, not CDR" in said
    assert "/untyped is not played: its type is not installed here" in said
    for name in ("", "String", "./msg/String", "os/path/join", "std_msgs/String/"):
        assert message_class(name) is None, name


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("rate", 0.0, "rate is 0; it must be from 0.01 to 100"),
        ("rate", math.nan, "rate is nan; it must be"),
        ("start", -1.0, "start is -1 s; give 0 s or more"),
        ("start", math.nan, "start is nan s"),
        ("start", math.inf, "start is inf s"),
        ("duration", 0.0, "duration is 0 s; give more than 0 s"),
        ("duration", math.nan, "duration is nan s"),
        ("duration", math.inf, "duration is inf s"),
    ],
)
def test_an_option_that_cannot_be_is_said_with_its_value(name, value, reason, tmp_path, capsys, monkeypatch):
    with pytest.raises(RainRemovalError, match=reason):
        ReplayOptions(**{name: value})
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    assert main(["replay", str(tmp_path / "drive"), f"--{name}={value}"]) == 1
    assert reason in capsys.readouterr().err


def test_a_duration_past_the_end_is_that_to_the_end(tmp_path):
    for storage in ("mcap", "sqlite3"):
        path = record(tmp_path / storage, drive(3), storage)
        with playing(path, rate=100, duration=1e300) as player:
            assert player.play().sent["/front/image_raw"] == 3


def test_what_a_watcher_raises_ends_the_replay_and_the_wait_for_its_begin(tmp_path):
    path = record(tmp_path / "drive", drive(40))

    def fail(topic: str, data: bytes) -> None:
        raise ZeroDivisionError(topic)

    with node_for(path, FakeRestorer()) as peer, playing(path, loop=True) as player:
        peer.output(Output.IMAGE, "front")
        player.wait_until_ready(timeout=PATIENCE)
        player.watch("/front/derained/image", IMAGE, fail)
        with pytest.raises(ZeroDivisionError, match="/front/derained/image"):
            player.play()
        with pytest.raises(ZeroDivisionError):
            player.wait_until_ready(timeout=PATIENCE)


def test_what_cannot_be_played_is_said(tmp_path):
    path = record(tmp_path / "drive", drive(2))
    with (
        playing(path, start=60.0) as player,
        pytest.raises(BagError, match=r"start is 60 s, but .* lasts 0.1 s"),
    ):
        player.wait_until_ready(timeout=PATIENCE)
    with playing(path) as player, pytest.raises(RainRemovalError, match="node ended with status 1 before"):
        player.wait_until_ready(lambda: "ended with status 1")
    with (
        playing(path) as player,
        pytest.raises(RainRemovalError, match="not ready after 1 s; it says nothing"),
    ):
        player.wait_until_ready(timeout=1.0)
    assert message_class("acme_msgs/msg/Radar") is None and message_class("sensor_msgs/msg/Image") is not None


def test_an_interruption_that_comes_twice_still_ends_the_recording(tmp_path):
    path = record(tmp_path / "drive", drive(5))
    replay = subprocess.Popen(
        [sys.executable, "-m", "rain_removal_ros.commands.main", "replay", str(path), "--no-node",
         "--record", str(tmp_path / "out")],
        env={**environment(), "ROS_DOMAIN_ID": os.environ["ROS_DOMAIN_ID"]},
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert replay.stderr is not None
    said = next(line for line in replay.stderr if "waiting for the node" in line)
    replay.send_signal(signal.SIGINT)
    for line in replay.stderr:  # from here on it ends
        said += line
        replay.send_signal(signal.SIGINT)
    assert replay.wait(PATIENCE) == 0 and "interrupted" in said and "Traceback" not in said
    with Reader(tmp_path / "out") as reader:
        assert "/front/derained/image" in reader.topics


def test_the_command_plays_a_bag_through_a_node_of_its_own(tmp_path):
    sent = [
        Sent("/sensors/front", IMAGE, each.time, each.message, each.qos) if each.type == IMAGE else each
        for each in drive(5)
    ]
    path = record(tmp_path / "drive", sent)
    weights = write_weights(tmp_path / "tiny.safetensors")
    arguments = ["--weights", str(weights), "--cache-dir", str(tmp_path / "cache"), "--backend", "torch-cpu"]
    ended = subprocess.run(
        [sys.executable, "-m", "rain_removal_ros.commands.main", "replay", str(path), *arguments,
         "--precision", "fp32", "--record", str(tmp_path / "out")],
        env={**environment(), "ROS_DOMAIN_ID": os.environ["ROS_DOMAIN_ID"]},
        capture_output=True, text=True, timeout=2 * PATIENCE,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert "5 images played" in ended.stdout
    with Reader(tmp_path / "out") as reader:
        counts = {c.topic: c.msgcount for c in reader.connections}
    assert counts["/sensors/front/derained/image"] >= 1
