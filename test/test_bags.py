"""A bag is derained into a new one: every image, in order, with everything else as it was."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import cv2
import numpy as np
import pytest
import zstandard
from bag_fixtures import (
    HEIGHT,
    LATCHED,
    SECOND,
    SENSOR,
    START,
    STORE,
    WIDTH,
    Sent,
    camera_info,
    compressed,
    drive,
    image,
    qos,
    radar,
    record,
    street,
    text,
)
from mcap.reader import make_reader
from mcap.writer import CompressionType
from mcap.writer import Writer as McapWriter
from pipeline_fakes import FakeRestorer, streak_light_of
from rosbags.rosbag2 import CompressionFormat, CompressionMode, Reader
from rosbags.typesys import Stores, get_typestore
from ruamel.yaml import YAML
from runtime_fixtures import write_weights

from rain_removal_ros.bags.cameras import find_cameras
from rain_removal_ros.bags.convert import Options, convert
from rain_removal_ros.bags.mcap_files import McapFile
from rain_removal_ros.bags.messages import read_picture
from rain_removal_ros.bags.report import drive_seconds
from rain_removal_ros.bags.storage import Bag
from rain_removal_ros.bags.unpacking import Unpacker
from rain_removal_ros.bags.writing import BagWriter, Split
from rain_removal_ros.commands.main import main
from rain_removal_ros.encodings import MOSAICS, PACKED_YUV, PLANAR_YUV
from rain_removal_ros.errors import BagError, ParameterError
from rain_removal_ros.runtime import Output

IMAGE, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
STORAGES = ("mcap", "sqlite3")


def contents(path: Path) -> dict[str, list[tuple[int, bytes]]]:
    """(time, bytes) of every message by topic, as the `rosbags` library reads them."""
    read: dict[str, list[tuple[int, bytes]]] = {}
    with Reader(path) as reader:
        for connection, time, data in reader.messages():
            read.setdefault(connection.topic, []).append((time, bytes(data)))
    return read


def messages(path: Path, topic: str) -> list:
    with Reader(path) as reader:
        chosen = [connection for connection in reader.connections if connection.topic == topic]
        return [STORE.deserialize_cdr(data, c.msgtype) for c, _, data in reader.messages(chosen)]


def pixels(message, channels: int = 3) -> np.ndarray:
    return np.asarray(message.data).reshape(message.height, message.width, channels)


def stamp(message) -> int:
    return message.header.stamp.sec * SECOND + message.header.stamp.nanosec


def images(topic: str, sent: list, type_name: str = IMAGE) -> list[Sent]:
    """Messages of one topic, ten a second."""
    return [
        Sent(topic, type_name, START + number * SECOND // 10, message) for number, message in enumerate(sent)
    ]


def derained(path: Path, target: Path, **options):
    return convert(path, target, FakeRestorer(), Options(**options))


# -- what comes out --------------------------------------------------------------------------------


@pytest.mark.parametrize("target_storage", STORAGES)
@pytest.mark.parametrize("source_storage", STORAGES)
def test_every_image_is_derained_and_every_other_message_stays_byte_for_byte(
    tmp_path, source_storage, target_storage
):
    source = record(tmp_path / "in", drive(7), source_storage)
    report = derained(source, tmp_path / "out", storage=target_storage)
    before, after = contents(source), contents(tmp_path / "out")
    assert {topic: after[topic] for topic in before} == before
    assert set(after) - set(before) == {
        "/front/derained/image",
        "/front/derained/camera_info",
        "/front/depth/inverse_depth",
    }
    results = messages(tmp_path / "out", "/front/derained/image")
    assert len(results) == report.frames == 7
    for number, result in enumerate(results):
        np.testing.assert_array_equal(pixels(result)[..., ::-1], street(number) + 10)
        assert (result.encoding, result.header.frame_id) == ("bgr8", "camera")
    stamps = [stamp(message) for message in messages(source, "/front/image_raw")]
    depths = messages(tmp_path / "out", "/front/depth/inverse_depth")
    infos = messages(tmp_path / "out", "/front/derained/camera_info")
    for made in (results, depths, infos):
        assert [stamp(message) for message in made] == stamps
    assert depths[0].encoding == "32FC1" and (depths[0].data.view(np.float32) == 0.25).all()
    assert infos[3].k[0] == 90.0
    times = [time for time, _ in after["/front/derained/image"]]
    assert times == [time for time, _ in before["/front/image_raw"]]


@pytest.mark.parametrize("storage", STORAGES)
def test_types_hashes_and_quality_of_service_are_kept(tmp_path, storage):
    source = record(
        tmp_path / "in", drive(), storage, silent=[Sent("/quiet", "std_msgs/msg/String", 0, text(""))]
    )
    derained(source, tmp_path / "out", storage=storage)
    with Reader(source) as before, Reader(tmp_path / "out") as after:
        kept = {c.topic: (c.msgtype, c.digest, c.msgdef.data, c.msgcount, c.ext) for c in after.connections}
        for c in before.connections:
            assert kept[c.topic] == (c.msgtype, c.digest, c.msgdef.data, c.msgcount, c.ext)
        assert kept["/map"][4].offered_qos_profiles == [LATCHED]
        assert kept["/front/derained/image"][4].offered_qos_profiles == [SENSOR]
        assert kept["/front/derained/image"][1] == STORE.hash_rihs01(IMAGE)
    metadata = YAML(typ="safe").load((tmp_path / "out/metadata.yaml").read_text())[
        "rosbag2_bagfile_information"
    ]
    assert metadata["storage_identifier"] == storage
    assert metadata["message_count"] == sum(t["message_count"] for t in metadata["topics_with_message_count"])
    assert all((tmp_path / "out" / name).is_file() for name in metadata["relative_file_paths"])
    assert any(key.startswith("rain_removal_ros") for key in metadata["custom_data"])


def test_another_makers_library_reads_the_mcap_file(tmp_path):
    source = record(tmp_path / "in", drive(4))
    derained(source, tmp_path / "out", compression="zstd")
    with (tmp_path / "out/out.mcap").open("rb") as file:
        reader = make_reader(file, validate_crcs=True)
        summary = reader.get_summary()
        counts = {
            summary.channels[number].topic: n
            for number, n in summary.statistics.channel_message_counts.items()
        }
        assert counts["/front/derained/image"] == counts["/front/image_raw"] == 4
        assert {chunk.compression for chunk in summary.chunk_indexes} == {"zstd"}
        read = [(channel.topic, message.log_time) for _, channel, message in reader.iter_messages()]
    assert [time for _, time in read] == sorted(time for _, time in read)


@pytest.mark.parametrize(
    ("storage", "compression", "split", "files"),
    [
        ("mcap", "none", Split(seconds=0.35), 3),
        ("sqlite3", "zstd", Split(size=70_000, seconds=0.35), 4),
        ("mcap", "zstd", Split(size=1000), 21),  # smaller than an image, which is never cut
        ("sqlite3", "none", Split(size=10**9), 1),
    ],
)
def test_a_bag_in_several_files_holds_the_same_and_each_file_can_be_played_by_itself(
    tmp_path, storage, compression, split, files
):
    source, target = record(tmp_path / "in", drive(10)), tmp_path / "out"
    with (
        Bag(source) as bag,
        BagWriter(target, bag.topics, storage=storage, compression=compression, split=split) as writer,
    ):
        for each in bag.messages():
            writer.write(each.topic, each.log_time, each.data)
    assert contents(target) == contents(source)
    metadata = YAML(typ="safe").load((target / "metadata.yaml").read_text())["rosbag2_bagfile_information"]
    names = metadata["relative_file_paths"]
    suffix = {"mcap": "mcap", "sqlite3": "db3"}[storage]
    assert len(names) == files and names == [f"out_{number}.{suffix}" for number in range(files)]
    assert [file["path"] for file in metadata["files"]] == names
    assert sorted(path.name for path in target.iterdir()) == sorted([*names, "metadata.yaml"])
    assert sum(file["message_count"] for file in metadata["files"]) == metadata["message_count"] == 31
    assert sum(t["message_count"] for t in metadata["topics_with_message_count"]) == 31
    starts = [file["starting_time"]["nanoseconds_since_epoch"] for file in metadata["files"]]
    lengths = [file["duration"]["nanoseconds"] for file in metadata["files"]]
    assert starts == sorted(starts) and starts[0] == metadata["starting_time"]["nanoseconds_since_epoch"]
    assert starts[-1] + lengths[-1] == starts[0] + metadata["duration"]["nanoseconds"]
    for name, start, length in zip(names, starts, lengths, strict=True):
        with Bag(target / name) as part:
            topics = {topic.name: topic for topic in part.topics}
            assert topics["/map"].qos == (LATCHED,) and topics["/front/image_raw"].qos == (SENSOR,)
            assert part.bounds == (start, start + length) and part.message_count > 0
            if split.seconds:
                assert length < split.seconds * 1e9


def test_a_split_bag_is_whole_or_not_there_at_all(tmp_path):
    with (
        Bag(record(tmp_path / "in", drive(4))) as bag,
        pytest.raises(KeyboardInterrupt),
        BagWriter(tmp_path / "out", bag.topics, split=Split(seconds=0.1)) as writer,
    ):
        for each in bag.messages():
            writer.write(each.topic, each.log_time, each.data)
        raise KeyboardInterrupt
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]


@pytest.mark.parametrize("split_seconds", [0.0, 0.35])
@pytest.mark.parametrize("name", ["out#1", "out?x", "100%41", "wet#drives/out"])
def test_a_bag_of_sqlite_may_lie_under_any_name(tmp_path, name, split_seconds):
    source, target = record(tmp_path / "in", drive(7)), tmp_path / name
    for _ in range(2):  # a second run does not meet what the first one left
        derained(source, target, storage="sqlite3", split_seconds=split_seconds)
        with Bag(target) as bag:
            found = [each.topic.name for each in bag.messages()]
            assert not bag.damage and found.count("/front/derained/image") == found.count("/radar") == 7
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["in", Path(name).parts[0]])
        assert len(list(target.glob("*.db3"))) == (2 if split_seconds else 1)
        shutil.rmtree(target)


@pytest.mark.parametrize("split", [Split(), Split(seconds=1.0)])
def test_a_bag_that_cannot_be_begun_is_said_leaves_nothing_and_is_free_for_another_run(
    tmp_path, monkeypatch, split
):
    with monkeypatch.context() as patched:
        patched.setattr("rain_removal_ros.bags.writing.Sqlite3Writer.SQLITE_SCHEMA", "no statement")
        with pytest.raises(BagError, match=r"out cannot be written: .*syntax error"):
            BagWriter(tmp_path / "out", [], storage="sqlite3", split=split)
    assert not list(tmp_path.iterdir())
    with BagWriter(tmp_path / "out", [], storage="sqlite3", split=split):
        pass
    assert (tmp_path / "out/metadata.yaml").is_file()


@pytest.mark.parametrize("storage", STORAGES)
def test_a_bag_whose_file_is_gone_does_not_come_into_being(tmp_path, storage):
    with (
        pytest.raises(
            BagError, match=r"out cannot be written: .*(No such file.*out\.mcap|readonly database)"
        ),
        BagWriter(tmp_path / "out", [], storage=storage) as writer,
    ):
        for file in writer.folder.iterdir():
            file.unlink()
    assert not list(tmp_path.iterdir())


def test_a_conversion_splits_its_bag(tmp_path):
    source = record(tmp_path / "in", drive(10))
    derained(source, tmp_path / "out", split_seconds=0.35)
    assert len(list((tmp_path / "out").glob("out_*.mcap"))) == 3
    assert len(messages(tmp_path / "out", "/front/derained/image")) == 10
    assert (tmp_path / "out/derain_report.json").is_file()


def test_a_split_that_cannot_be_is_refused():
    for wrong in ({"split_megabytes": -1.0}, {"split_seconds": float("nan")}):
        with pytest.raises(ParameterError, match=r"split (size|duration) is (-1|nan)"):
            Options(**wrong)


def test_a_bag_for_humble_says_so(tmp_path):
    derained(record(tmp_path / "in", drive(1)), tmp_path / "out", metadata="humble")
    metadata = YAML(typ="safe").load((tmp_path / "out/metadata.yaml").read_text())[
        "rosbag2_bagfile_information"
    ]
    assert metadata["version"] == 8
    assert isinstance(metadata["topics_with_message_count"][0]["topic_metadata"]["offered_qos_profiles"], str)


def test_the_derained_image_takes_the_rainy_ones_place_where_asked(tmp_path):
    source = record(tmp_path / "in", drive(3))
    derained(source, tmp_path / "out", replace=True, outputs=frozenset({Output.IMAGE}))
    before, after = contents(source), contents(tmp_path / "out")
    assert set(after) == set(before)
    for number, result in enumerate(messages(tmp_path / "out", "/front/image_raw")):
        np.testing.assert_array_equal(pixels(result)[..., ::-1], street(number) + 10)
    assert after["/front/camera_info"] == before["/front/camera_info"]


def test_outputs_are_made_anew_only_where_asked(tmp_path):
    once = tmp_path / "once"
    derained(record(tmp_path / "in", drive(3)), once)
    with pytest.raises(BagError, match=r"holds /front/derained/image.* --again"):
        derained(once, tmp_path / "twice")
    derained(once, tmp_path / "twice", again=True)
    assert contents(tmp_path / "twice") == contents(once)


def test_derained_images_become_jpeg_where_asked_and_where_the_rainy_ones_are(tmp_path):
    sent = [*drive(2), *images("/rear/image_raw/compressed", [compressed(n) for n in range(2)], COMPRESSED)]
    source = record(tmp_path / "in", sorted(sent, key=lambda each: each.time))
    derained(source, tmp_path / "asked", jpeg_quality=100)
    derained(source, tmp_path / "own")
    assert "/front/derained/image" in contents(tmp_path / "own")
    result = messages(tmp_path / "own", "/rear/derained/image/compressed")[1]
    assert result.format == "rgb8; jpeg compressed bgr8"
    for path, topic in (("asked", "/front"), ("own", "/rear")):
        result = messages(tmp_path / path, f"{topic}/derained/image/compressed")[1]
        decoded = cv2.imdecode(np.asarray(result.data), cv2.IMREAD_COLOR)[..., ::-1]
        assert np.abs(decoded.astype(int) - (street(1) + 10)).mean() < 6
    with pytest.raises(BagError, match="choose one of the two"):
        derained(source, tmp_path / "both", jpeg_quality=90, replace=True)


def test_the_segmentation_mask_is_added_where_asked(tmp_path):
    derained(record(tmp_path / "in", drive(2)), tmp_path / "out", outputs=frozenset({Output.LABELS}))
    masks = messages(tmp_path / "out", "/front/segmentation/mask")
    assert [mask.encoding for mask in masks] == ["mono8", "mono8"] and (masks[0].data == 8).all()
    assert "/front/derained/image" not in contents(tmp_path / "out")


def test_the_report_says_frames_latency_and_what_was_taken_away(tmp_path):
    report = derained(record(tmp_path / "in", drive(6)), tmp_path / "out")
    written = json.loads((tmp_path / "out/derain_report.json").read_text())
    assert written["frames"] == 6 and written["cameras"][0]["topic"] == "/front/image_raw"
    assert [frame["change"] for frame in written["cameras"][0]["frames"]] == [10.0] * 6
    assert written["weights"] == "fake.safetensors" and written["rate"] > 0
    assert set(written["stages"]) == {"reading", "decoding", "network", "encoding", "writing"}
    assert (tmp_path / "out/derain_report.png").read_bytes().startswith(b"\x89PNG")
    assert any("network was at work" in line for line in report.profile())


def test_a_plot_shows_a_name_as_it_is_and_one_that_fails_does_not_cost_the_bag(tmp_path, monkeypatch):
    source = record(tmp_path / "run_$1^$2", drive(2))
    derained(source, tmp_path / "plain")
    assert (tmp_path / "plain/derain_report.png").is_file()

    def fail(self, path, **_):
        path.write_bytes(b"half a plot")
        raise ImportError("numpy.core.multiarray failed to import")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", fail)
    said: list[str] = []
    report = convert(source, tmp_path / "out", FakeRestorer(), Options(), say=said.append)
    assert report.frames == 2 and len(messages(tmp_path / "out", "/front/derained/image")) == 2
    assert not (tmp_path / "out/derain_report.png").exists()
    notice = "derain_report.png is missing: it cannot be drawn (ImportError: numpy.core.multiarray"
    assert said[-1].startswith(notice)
    written = json.loads((tmp_path / "out/derain_report.json").read_text())
    assert written["notices"] == [said[-1]]


def test_the_cameras_focal_length_reaches_the_network_and_its_weather_the_report(tmp_path):
    wet, calibrated = FakeRestorer(), record(tmp_path / "in", drive(3))
    wet.streak_light, wet.extinction = streak_light_of(0.4), 0.01
    report = convert(calibrated, tmp_path / "out", wet, Options())
    assert wet.focal_lengths == [90.0] * 3
    camera = json.loads((tmp_path / "out/derain_report.json").read_text())["cameras"][0]
    weather = camera["frames"][2]["weather"]
    assert weather["rain"] == pytest.approx(0.4) and weather["visibility_m"] == pytest.approx(391.2, abs=0.1)
    assert "rain 0.40" in " ".join(report.summary())
    other_size = Sent("/cam/camera_info", "sensor_msgs/msg/CameraInfo", START, camera_info(0, 100, 200))
    uncalibrated = FakeRestorer()
    bag = record(tmp_path / "other", [other_size, *images("/cam/image_raw", [image(0)])])
    convert(bag, tmp_path / "out_other", uncalibrated, Options())
    assert uncalibrated.focal_lengths == [None]
    assert len(messages(tmp_path / "out_other", "/cam/derained/image")) == 1
    assert not messages(tmp_path / "out_other", "/cam/derained/camera_info"), "what does not fit is withheld"


def test_an_image_that_the_network_makes_nothing_of_stays_and_is_counted(tmp_path):
    broken = FakeRestorer()
    broken.wrong = {"inverse_depth": np.full((HEIGHT, WIDTH), np.nan, np.float32)}
    with pytest.raises(BagError, match=r"no image can be read: .*not finite"):
        convert(record(tmp_path / "in", drive(2)), tmp_path / "out", broken, Options())
    assert not (tmp_path / "out").exists()


def test_the_command_derains_with_a_real_network_and_tells_its_rate(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    source = record(tmp_path / "in", drive(3))
    weights = write_weights(tmp_path / "tiny.safetensors")
    backend = ["--backend", "torch-cpu", "--precision", "fp32"]
    assert (
        main(["bag", str(source), str(tmp_path / "out"), "--weights", str(weights), "--profile", *backend])
        == 0
    )
    said = capsys.readouterr()
    assert "3 frames" in said.out and "network" in said.out and "3/3" in said.err
    assert len(messages(tmp_path / "out", "/front/derained/image")) == 3


def test_bags_need_neither_ros_nor_a_network_to_be_imported():
    program = (
        "import rain_removal_ros.bags.convert, rain_removal_ros.commands.bag, sys\n"
        "sys.exit(sorted({'rclpy', 'torch'} & set(sys.modules)) or 0)"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr


# -- cameras ---------------------------------------------------------------------------------------


def test_cameras_of_every_encoding_size_and_rate_go_through_one_bag(tmp_path):
    expected: dict[str, str] = {}
    sent: list[Sent] = []

    def camera(name: str, encoding: str, layout: np.ndarray, width: int, height: int, output: str) -> None:
        for number in range(1 + len(expected) % 3):
            message = image(0, encoding, pixels=layout, width=width, height=height)
            sent.append(Sent(f"/{name}/image_raw", IMAGE, START + number * SECOND + len(expected), message))
        expected[f"/{name}"] = output

    for number, encoding in enumerate(("rgb8", "bgr8", "mono8")):
        width, height = 64 + 2 * number, 66 + 2 * number
        layout = image(0, encoding, width=width, height=height).data.reshape(height, -1)
        camera(encoding, encoding, layout, width, height, encoding)
    grey = np.full((70, 72), 99, np.uint8)
    for pattern in MOSAICS:
        camera(f"bayer_{pattern}8", f"bayer_{pattern}8", grey, 72, 70, "rgb8")
    camera("bayer_rggb16", "bayer_rggb16", grey.astype(np.uint16) << 8, 72, 70, "rgb16")
    for encoding in PACKED_YUV:
        camera(encoding, encoding, np.full((70, 72, 2), 99, np.uint8), 72, 70, "rgb8")
    for encoding in PLANAR_YUV:
        camera(encoding, encoding, np.full((105, 72), 99, np.uint8), 72, 70, "rgb8")
    camera("rgb16", "rgb16", np.full((70, 80, 3), 0x1234, np.uint16), 80, 70, "rgb16")
    source = record(tmp_path / "in", sorted(sent, key=lambda each: each.time))
    report = derained(source, tmp_path / "out")
    before, after = contents(source), contents(tmp_path / "out")
    for base, encoding in expected.items():
        result = messages(tmp_path / "out", f"{base}/derained/image")
        original = messages(source, f"{base}/image_raw")
        assert {message.encoding for message in result} == {encoding}, base
        assert [(m.width, m.height) for m in result] == [(m.width, m.height) for m in original]
        assert len(after[f"{base}/derained/image"]) == len(before[f"{base}/image_raw"])
    assert report.frames == len(sent) and report.failed == 0


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize(
    "format_", ["jpg", "16UC1; jpeg compressed ", "", "png", "bgr8; jpeg compressed bgr8"]
)
def test_compressed_images_are_read_whatever_their_format_says(tmp_path, format_, suffix):
    sent = images("/cam/image_raw/compressed", [compressed(n, suffix, format_) for n in range(2)], COMPRESSED)
    assert derained(record(tmp_path / "in", sent), tmp_path / "out").frames == 2
    assert len(contents(tmp_path / "out")["/cam/derained/image/compressed"]) == 2


@pytest.mark.parametrize("name", ["/front", "front", "/front/image_raw", "front/image_raw"])
@pytest.mark.parametrize("slash", ["/", ""])
def test_cameras_are_named_with_or_without_a_leading_slash(tmp_path, name, slash):
    sent = [*images(f"{slash}front/image_raw", [image(0)]), *images(f"{slash}rear/image_raw", [image(0)])]
    derained(record(tmp_path / "in", sent), tmp_path / "out", cameras=(name,))
    added = set(contents(tmp_path / "out")) - {each.topic for each in sent}
    assert added == {f"{slash}front/derained/image", f"{slash}front/depth/inverse_depth"}


def test_a_camera_that_is_not_there_is_an_error_that_names_those_that_are(tmp_path):
    with pytest.raises(BagError, match="no camera side; its image topics: /front/image_raw"):
        derained(record(tmp_path / "in", drive(1)), tmp_path / "out", cameras=("side",))
    with pytest.raises(BagError, match="/radar is a acme_msgs/msg/Radar"):
        derained(tmp_path / "in", tmp_path / "out", cameras=("radar",))


def compressed_16_bits(format_: str):
    message = compressed(0, ".png", format_)
    _, message.data = cv2.imencode(".png", street(0)[..., 0].astype(np.uint16) << 8)
    return message


def test_what_is_no_cameras_image_is_passed_over_with_a_word(tmp_path):
    depth = np.zeros((HEIGHT, WIDTH), np.uint16)
    sent = [
        *images("/front/image_raw", [image(0)]),
        *images("/front/image_raw/compressed", [compressed(0)], COMPRESSED),
        *images("/front/depth/image", [image(0, "16UC1", pixels=depth)]),
        *images("/range", [image(0, "16UC1", pixels=depth)]),
        *images("/lidar_as_picture", [image(0, "mono16", pixels=depth)]),
        *images("/a/compressedDepth", [compressed(0, ".png", "16UC1; compressedDepth")], COMPRESSED),
        *images("/semantic_mask", [image(0, "mono8")]),
        *images("/thermal/compressed", [compressed_16_bits("mono16; png compressed mono16")], COMPRESSED),
        *images("/stereo/compressed", [compressed_16_bits("16UC1; png compressed ")], COMPRESSED),
    ]
    with Bag(record(tmp_path / "in", sent)) as bag:
        assert [camera.topic.name for camera in find_cameras(bag)] == ["/front/image_raw"]
        for name in (
            "/front/image_raw/compressed",
            "/front/depth",
            "/range",
            "/lidar",
            "/a/comp",
            "/semantic",
            "/thermal/compressed is not taken (mono16; png compressed mono16 may be a depth image)",
            "/stereo",
        ):
            assert any(notice.startswith(name) for notice in bag.notices), name
        named = ["/lidar_as_picture", "/thermal/compressed"]
        assert [camera.topic.name for camera in find_cameras(bag, named)] == named


def empty_image(number: int):
    message = image(number)
    message.height = message.width = message.step = 0
    message.data = np.zeros(0, np.uint8)
    return message


def test_a_camera_whose_first_images_are_empty_is_taken_all_the_same(tmp_path):
    sent = [
        *images("/front/image_raw", [image(number) for number in range(30)]),
        *images("/rear/image_raw", [empty_image(n) if n < 25 else image(n) for n in range(30)]),
    ]
    source = record(tmp_path / "in", sorted(sent, key=lambda each: each.time))
    report = derained(source, tmp_path / "out")
    assert [(len(camera.frames), camera.failed) for camera in report.cameras] == [(30, 0), (5, 25)]
    assert derained(source, tmp_path / "named", cameras=("rear",)).frames == 5


def test_a_camera_without_any_image_to_read_is_said_with_its_name(tmp_path, monkeypatch):
    depth = np.zeros((HEIGHT, WIDTH), np.uint16)
    sent = [
        *images("/front/image_raw", [image(0)]),
        *images("/rear/image_raw", [empty_image(number) for number in range(12)]),
        *images("/range", [image(0, "16UC1", pixels=depth)] * 30),
    ]
    looked_at: list[str] = []

    def read(message):
        looked_at.append(message.encoding)
        return read_picture(message)

    monkeypatch.setattr("rain_removal_ros.bags.cameras.read_picture", read)
    with Bag(record(tmp_path / "in", sent)) as bag:
        assert [camera.topic.name for camera in find_cameras(bag)] == ["/front/image_raw"]
        rear, depths = bag.notices
        assert "/rear/image_raw is not taken (image of 0x0" in rear and "/range is not taken" in depths
        assert "name it" not in rear + depths
        assert looked_at.count("16UC1") == 10  # what says that it is no camera's is believed soon
        with pytest.raises(BagError, match=r"/rear/image_raw: image of 0x0"):
            find_cameras(bag, ["front", "rear"])


@pytest.mark.parametrize("names", [(), ("front",)])
def test_a_raw_topic_without_a_message_does_not_hide_its_compressed_images(tmp_path, names):
    sent = images("/front/image_raw/compressed", [compressed(n) for n in range(2)], COMPRESSED)
    silent = [Sent("/front/image_raw", IMAGE, START, image(0))]
    source = record(tmp_path / "in", sent, silent=silent)
    assert derained(source, tmp_path / "out", cameras=names).frames == 2
    assert len(messages(tmp_path / "out", "/front/derained/image/compressed")) == 2


def test_a_cameras_raw_and_compressed_images_are_not_both_derained(tmp_path):
    sent = [
        *images("/front/image_raw", [image(0)]),
        *images("/front/image_raw/compressed", [compressed(0)], COMPRESSED),
    ]
    source, named = record(tmp_path / "in", sent), tuple(each.topic for each in sent)
    with pytest.raises(BagError, match=r"image_raw and .*/compressed are one camera's.*name one of the two"):
        derained(source, tmp_path / "out", cameras=named)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
    assert derained(source, tmp_path / "out", cameras=named[1:]).frames == 1


def test_two_image_topics_of_one_namespace_keep_their_outputs_apart(tmp_path):
    sent = [*images("/cam/image_rect", [image(0)]), *images("/cam/image_raw", [image(0)])]
    derained(record(tmp_path / "in", sent), tmp_path / "out")
    after = contents(tmp_path / "out")
    assert {"/cam/image_rect/derained/image", "/cam/image_raw/derained/image"} <= set(after)


def test_images_with_empty_stamps_keep_them_and_their_place(tmp_path):
    sent = images("/cam/image_raw", [image(number, time=0) for number in range(4)])
    derained(record(tmp_path / "in", sent), tmp_path / "out")
    results = messages(tmp_path / "out", "/cam/derained/image")
    assert [stamp(result) for result in results] == [0] * 4
    for number, result in enumerate(results):
        np.testing.assert_array_equal(pixels(result), street(number) + 10)


def test_one_calibration_for_the_whole_drive_goes_with_every_image(tmp_path):
    calibration = Sent(
        "/cam/camera_info", "sensor_msgs/msg/CameraInfo", START + SECOND, camera_info(99), (LATCHED,)
    )
    sent = [*images("/cam/image_raw", [image(number) for number in range(3)]), calibration]
    derained(record(tmp_path / "in", sent), tmp_path / "out")
    infos = messages(tmp_path / "out", "/cam/derained/camera_info")
    assert [stamp(info) for info in infos] == [stamp(image(number)) for number in range(3)]


def test_a_recording_that_starts_in_1970_is_taken_as_it_is(tmp_path):
    sent = drive(4)
    for number, each in enumerate(sent[:6]):
        each.time = number * 1000
    source = record(tmp_path / "in", sent)
    report = derained(source, tmp_path / "out")
    before, after = contents(source), contents(tmp_path / "out")
    assert {topic: after[topic] for topic in before} == before
    assert report.frames == 4
    assert drive_seconds(report.cameras[0].frames)[-1] < 1.0


# -- bags as they are found ------------------------------------------------------------------------


def split(tmp_path: Path, storage: str, keep_qos: bool = True) -> Path:
    """A recording in two files, as rosbag2 splits one. Its metadata may lack the quality of service."""
    target = tmp_path / "split"
    target.mkdir()
    suffix = {"mcap": ".mcap", "sqlite3": ".db3"}[storage]
    metadata, names = None, []
    for number in range(2):
        part = record(tmp_path / f"part{number}", drive(3, begin=3 * number), storage)
        name = f"split_{number}{suffix}"
        (part / f"part{number}{suffix}").rename(target / name)
        names.append(name)
        metadata = metadata or YAML(typ="safe").load((part / "metadata.yaml").read_text())
    information = metadata["rosbag2_bagfile_information"]
    information["relative_file_paths"] = names
    if not keep_qos:
        for topic in information["topics_with_message_count"]:
            topic["topic_metadata"]["offered_qos_profiles"] = []
    with (target / "metadata.yaml").open("w") as file:
        YAML(typ="safe").dump(metadata, file)
    return target


@pytest.mark.parametrize("keep_qos", [True, False])
@pytest.mark.parametrize("storage", STORAGES)
def test_a_split_bag_comes_out_whole_with_its_quality_of_service(tmp_path, storage, keep_qos):
    report = derained(split(tmp_path, storage, keep_qos), tmp_path / "out", storage=storage)
    assert report.frames == 6 and not report.damage
    after = contents(tmp_path / "out")
    assert len(after["/front/image_raw"]) == len(after["/front/derained/image"]) == 6
    with Reader(tmp_path / "out") as reader:
        profiles = {c.topic: c.ext.offered_qos_profiles for c in reader.connections}
    assert profiles["/map"] == [LATCHED] and profiles["/front/image_raw"] == [SENSOR]
    assert profiles["/radar"] == [qos(depth=7)]


@pytest.mark.parametrize(
    ("storage", "mode"),
    [(storage, mode) for storage in STORAGES for mode in ("MESSAGE", "FILE")] + [("mcap", "STORAGE")],
)
def test_compressed_bags_are_read(tmp_path, storage, mode):
    def compress(writer) -> None:
        writer.set_compression(CompressionMode[mode], CompressionFormat.ZSTD)

    source = record(tmp_path / "in", drive(3), storage, prepare=compress)
    assert derained(source, tmp_path / "out").frames == 3
    before, after = contents(source), contents(tmp_path / "out")
    assert {topic: after[topic] for topic in before} == before


@pytest.mark.parametrize("storage", STORAGES)
def test_compressed_messages_are_read_without_the_metadata_that_says_so(tmp_path, storage):
    def compress(writer) -> None:
        writer.set_compression(CompressionMode.MESSAGE, CompressionFormat.ZSTD)

    source = record(tmp_path / "in", drive(3), storage, prepare=compress)
    before = contents(source)
    (file,) = [path for path in source.iterdir() if path.suffix in (".mcap", ".db3")]
    assert derained(file, tmp_path / "of_file").frames == 3
    (source / "metadata.yaml").unlink()
    assert derained(source, tmp_path / "of_folder").frames == 3
    for target in ("of_file", "of_folder"):
        after = contents(tmp_path / target)
        assert {topic: after[topic] for topic in before} == before


def test_a_compressed_bag_takes_room_for_one_of_its_files(tmp_path, monkeypatch):
    source, room = tmp_path / "in", tmp_path / "room"
    source.mkdir()
    room.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(room))
    for number in range(3):
        part = record(tmp_path / f"part{number}", drive(3, begin=3 * number)) / f"part{number}.mcap"
        (source / f"in_{number}.mcap.zstd").write_bytes(zstandard.compress(part.read_bytes()))
    with Bag(source) as bag:
        assert bag.message_count == 28 and len(list(room.iterdir())) == 1
        first, other = (bag.messages([bag.topic(name)]) for name in ("/radar", "/front/image_raw"))
        next(first)
        read = [each.log_time for each in other]  # one reader is left behind in the first file
        assert len(read) == 9 and len(list(room.iterdir())) == 2
        assert len(list(first)) == 8
    assert not list(room.iterdir())
    left: list[int] = []

    def count(_) -> None:
        left.append(len(list(room.iterdir())))

    convert(source, tmp_path / "out", FakeRestorer(), Options(), count)
    assert len(left) == 9 and max(left) <= 1 and not list(room.iterdir())
    unpacked: list[str] = []

    def unpack(self, path, real=Unpacker._unpacked):
        unpacked.append(path.name)
        return real(self, path)

    monkeypatch.setattr(Unpacker, "_unpacked", unpack)
    monkeypatch.setattr("rain_removal_ros.commands.bag.create_restorer", lambda settings: FakeRestorer())
    assert main(["bag", str(source), str(tmp_path / "again")]) == 0
    assert sorted(unpacked) == [f"in_{number}.mcap.zstd" for number in (0, 0, 1, 1, 2, 2)]


def test_no_room_to_unpack_a_bag_is_not_called_damage(tmp_path, monkeypatch):
    def compress(writer) -> None:
        writer.set_compression(CompressionMode.FILE, CompressionFormat.ZSTD)

    def full(source, target, length) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    source = record(tmp_path / "in", drive(3), "mcap", prepare=compress)
    monkeypatch.setattr("shutil.copyfileobj", full)
    with pytest.raises(BagError, match=r"unpacked into .*No space left.*TMPDIR"):
        derained(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("storage", STORAGES)
def test_a_single_storage_file_is_a_bag_too(tmp_path, storage):
    source = record(tmp_path / "in", drive(3), storage)
    (file,) = [path for path in source.iterdir() if path.suffix in (".mcap", ".db3")]
    derained(file, tmp_path / "out")
    with Reader(tmp_path / "out") as reader:
        profiles = {c.topic: c.ext.offered_qos_profiles for c in reader.connections}
        digests = {c.topic: c.digest for c in reader.connections}
    assert profiles["/map"] == [LATCHED] and digests["/radar"] == STORE.hash_rihs01("acme_msgs/msg/Radar")


@pytest.mark.parametrize("storage", STORAGES)
def test_a_recording_without_metadata_is_read_as_found(tmp_path, storage):
    source = split(tmp_path, storage)
    (source / "metadata.yaml").unlink()
    said: list[str] = []
    report = convert(source, tmp_path / "out", FakeRestorer(), Options(), say=said.append)
    assert report.frames == 6 and any("metadata.yaml is missing" in text for text in said)


def test_a_bag_of_an_old_distribution_is_read(tmp_path):
    source = record(tmp_path / "in", drive(3), "sqlite3")
    (source / "metadata.yaml").unlink()
    with closing(sqlite3.connect(source / "in.db3")) as database:  # Foxy's schema
        for statement in ("DROP TABLE schema", "DROP TABLE metadata", "DROP TABLE message_definitions",
                          "ALTER TABLE topics DROP COLUMN type_description_hash",
                          "ALTER TABLE topics DROP COLUMN offered_qos_profiles"):  # fmt: skip
            database.execute(statement)
        database.commit()
    assert derained(source, tmp_path / "out").frames == 3
    with Reader(tmp_path / "out") as reader:
        kept = {c.topic: (c.msgdef.data, c.digest, c.msgcount) for c in reader.connections}
    definition, _ = STORE.generate_msgdef(IMAGE, ros_version=2)
    assert kept["/front/image_raw"] == (definition, STORE.hash_rihs01(IMAGE), 3)
    assert kept["/radar"][2] == 3


@pytest.mark.parametrize(
    ("version", "distribution", "type_name"),
    [
        (5, Stores.ROS2_HUMBLE, "sensor_msgs/msg/Range"),
        (5, Stores.ROS2_HUMBLE, "visualization_msgs/msg/Marker"),
        (4, Stores.ROS2_FOXY, "visualization_msgs/msg/Marker"),
        (None, Stores.ROS2_HUMBLE, "sensor_msgs/msg/Range"),
    ],
)
def test_a_bag_without_definitions_gets_those_of_its_distribution(tmp_path, version, distribution, type_name):
    other = Sent("/other", type_name, START + 1, None, data=b"\0\1\0\0 as it was")
    source = record(tmp_path / "in", [*drive(1), other], "sqlite3", version=8)
    with closing(sqlite3.connect(source / "in.db3")) as database:
        for statement in ("DROP TABLE message_definitions",
                          "ALTER TABLE topics DROP COLUMN type_description_hash"):  # fmt: skip
            database.execute(statement)
        database.commit()
    metadata = YAML(typ="safe").load((source / "metadata.yaml").read_text())
    metadata["rosbag2_bagfile_information"]["version"] = version
    for topic in metadata["rosbag2_bagfile_information"]["topics_with_message_count"]:
        del topic["topic_metadata"]["type_description_hash"]
    if version is None:
        (source / "metadata.yaml").unlink()
    else:
        with (source / "metadata.yaml").open("w") as file:
            YAML(typ="safe").dump(metadata, file)
    derained(source, tmp_path / "out")
    store = get_typestore(distribution)
    with Reader(tmp_path / "out") as reader:
        kept = {c.topic: (c.msgdef.data, c.digest) for c in reader.connections}
    definition, _ = store.generate_msgdef(type_name, ros_version=2)
    assert kept["/other"] == (definition, store.hash_rihs01(type_name))
    assert kept["/radar"] == ("", "RIHS01_" + "0" * 64)
    assert contents(tmp_path / "out")["/other"] == [(START + 1, other.data)]


def test_an_mcap_file_without_chunks_is_read(tmp_path):
    with (tmp_path / "fast.mcap").open("wb") as file:  # as rosbag2 writes with the preset fastwrite
        writer = McapWriter(file, use_chunking=False)
        writer.start("ros2")
        definition = STORE.generate_msgdef(IMAGE, ros_version=2)[0].encode()
        schema = writer.register_schema(IMAGE, "ros2msg", definition)
        channel = writer.register_channel("/cam/image_raw", "cdr", schema)
        for number in range(4):
            data = bytes(STORE.serialize_cdr(image(number), IMAGE))
            writer.add_message(channel, START + number, data, START + number)
        writer.finish()
    report = derained(tmp_path / "fast.mcap", tmp_path / "out")
    assert report.frames == 4 and not report.damage
    assert [stamp(message) for message in messages(tmp_path / "out", "/cam/derained/image")] == [
        stamp(image(number)) for number in range(4)
    ]


PROTOBUF, IDL = bytes(range(256)), b"module acme { module msg { struct A { long x; }; }; };"


def mcap_of_many(path: Path, *, chunks: bool = True, whole: bool = True) -> Path:
    """A recording of a camera and of what recorders other than rosbag2 write, also beside the messages."""
    with path.open("wb") as file:
        writer = McapWriter(file, use_chunking=chunks)
        writer.start("ros2")
        definition = STORE.generate_msgdef(IMAGE, ros_version=2)[0].encode()
        camera = writer.register_channel(
            "/cam/image_raw", "cdr", writer.register_schema(IMAGE, "ros2msg", definition), {"lens": "8 mm"}
        )
        for topic, serialization, name, encoding, data in (
            ("/video", "protobuf", "foxglove.CompressedVideo", "protobuf", PROTOBUF),
            ("/thing", "json", "acme.Thing", "jsonschema", b'{"type": "object"}'),
            ("/a", "cdr", "acme/msg/A", "ros2idl", IDL),
            ("/m", "cdr", "acme/msg/M", "ros2msg", b"int32 x  # \xb5m"),
            ("/n", "cdr", "acme/msg/M", "ros2msg", b"int32 x\nint32 y"),
        ):
            channel = writer.register_channel(
                topic, serialization, writer.register_schema(name, encoding, data)
            )
            writer.add_message(channel, START + 1, b"\x01\x02", START)
        writer.add_message(writer.register_channel("/json", "json", 0), START + 2, b"{}", START)
        for number in range(2):
            data = bytes(STORE.serialize_cdr(image(number), IMAGE))
            writer.add_message(camera, START + 3 + number, data, START)
        writer.add_attachment(START, START + 1, "calibration.yaml", "text/yaml", b"k: [1, 2]")
        writer.add_metadata("vehicle", {"plate": "X 1"})
        if whole:
            writer.finish()
    return path


@pytest.mark.parametrize(("chunks", "whole"), [(True, True), (False, True), (False, False)])
@pytest.mark.parametrize("split_seconds", [0.0, 1e-9])
def test_what_other_recorders_put_into_an_mcap_file_is_kept(tmp_path, chunks, whole, split_seconds):
    source = mcap_of_many(tmp_path / "in.mcap", chunks=chunks, whole=whole)
    report = derained(source, tmp_path / "out", split_seconds=split_seconds)
    assert report.frames == 2 and not report.notices
    found = {}
    for path in sorted((tmp_path / "out").glob("*.mcap")):
        with path.open("rb") as file:
            reader = make_reader(file, validate_crcs=True)
            for schema, channel, message in reader.iter_messages():
                defined = (schema.name, schema.encoding, schema.data) if schema else None
                found[channel.topic] = (channel.message_encoding, defined, message.data)
                if channel.topic == "/cam/image_raw":
                    assert channel.metadata["lens"] == "8 mm"
            attached = [(each.name, each.media_type, each.data) for each in reader.iter_attachments()]
            notes = [(each.name, each.metadata) for each in reader.iter_metadata() if each.name != "rosbag2"]
            is_first = path.stem in ("out", "out_0")
            assert attached == ([("calibration.yaml", "text/yaml", b"k: [1, 2]")] if is_first else [])
            assert notes == ([("vehicle", {"plate": "X 1"})] if is_first else [])
    sent = b"\x01\x02"
    assert found["/video"] == ("protobuf", ("foxglove.CompressedVideo", "protobuf", PROTOBUF), sent)
    assert found["/thing"] == ("json", ("acme.Thing", "jsonschema", b'{"type": "object"}'), sent)
    assert found["/json"] == ("json", None, b"{}")
    assert found["/a"] == ("cdr", ("acme/msg/A", "ros2idl", IDL), sent)
    assert found["/m"] == ("cdr", ("acme/msg/M", "ros2msg", b"int32 x  # \xb5m"), sent)
    assert found["/n"] == ("cdr", ("acme/msg/M", "ros2msg", b"int32 x\nint32 y"), sent)


def test_what_sqlite_has_no_place_for_is_refused_or_told(tmp_path):
    source, names = mcap_of_many(tmp_path / "in.mcap"), ("/video", "/thing", "/m", "/n")
    with pytest.raises(BagError, match=r"/video has a definition in protobuf; .*choose mcap"):
        derained(source, tmp_path / "out", storage="sqlite3")
    with Bag(source) as bag:
        of_ros = [topic for topic in bag.topics if topic.name not in names[:2]]
        with pytest.raises(BagError, match=r"/m and /n have two definitions of acme/msg/M; .*choose mcap"):
            BagWriter(tmp_path / "out", of_ros, storage="sqlite3")
        with BagWriter(tmp_path / "kept", [bag.topic("/m"), bag.topic("/a")], storage="sqlite3"):
            pass
    with Bag(tmp_path / "kept") as kept:
        assert kept.topic("/a").schema == ("ros2idl", IDL)
        assert kept.topic("/m").schema == ("ros2msg", b"int32 x  # \xb5m")
    assert [path.name for path in tmp_path.iterdir() if "out" in path.name] == []

    def attach(path: Path) -> Path:
        with path.open("wb") as file:
            writer = McapWriter(file)
            writer.start("ros2")
            channel = writer.register_channel("/cam/image_raw", "cdr", writer.register_schema(IMAGE, "", b""))
            writer.add_message(channel, START, bytes(STORE.serialize_cdr(image(0), IMAGE)), START)
            writer.add_attachment(START, START, "calibration.yaml", "text/yaml", b"k: [1, 2]")
            writer.finish()
        return path

    report = derained(attach(tmp_path / "attached.mcap"), tmp_path / "told", storage="sqlite3")
    assert report.notices == ["not kept: calibration.yaml; SQLite takes no attachments and notes, mcap does"]


def test_a_topic_that_is_defined_in_two_ways_is_told(tmp_path):
    with (tmp_path / "in.mcap").open("wb") as file:
        writer = McapWriter(file)
        writer.start("ros2")
        for definition in (b"int32 x", b"int32 y"):
            writer.register_channel("/m", "cdr", writer.register_schema("acme/msg/M", "ros2msg", definition))
        writer.finish()
    with Bag(tmp_path / "in.mcap") as bag:
        assert bag.notices == [
            "/m (acme/msg/M) is defined in 2 ways; the first definition is taken for all its messages"
        ]


@pytest.mark.parametrize("suffix", [".mcap", ".mcap.zstd"])
def test_a_file_that_the_metadata_do_not_name_is_told(tmp_path, suffix):
    source = record(tmp_path / "in", drive(2))
    (source / f"later{suffix}").write_bytes((source / "in.mcap").read_bytes())
    (source / "in.mcap.zstd").write_bytes(b"the same, packed")
    report = derained(source, tmp_path / "out")
    assert report.frames == 2 and len(report.notices) == 1
    assert report.notices[0].startswith(f"metadata.yaml does not name later{suffix}; give")


def test_what_a_killed_recorder_left_in_its_write_ahead_log_is_read_too(tmp_path):
    whole = record(tmp_path / "whole", drive(5), "sqlite3")
    left = tmp_path / "left"
    left.mkdir()
    with closing(sqlite3.connect(whole / "whole.db3")) as database:
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("UPDATE topics SET offered_qos_profiles = ''")
        database.execute(
            "CREATE TABLE late AS SELECT * FROM messages WHERE timestamp > ?", [START + 2 * SECOND // 10]
        )
        database.execute("DELETE FROM messages")
        database.commit()
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        database.execute("INSERT INTO messages SELECT * FROM late")
        database.commit()
        for name in ("whole.db3", "whole.db3-wal"):
            shutil.copy(whole / name, left / name)
    report = derained(left, tmp_path / "out")
    assert report.frames == 3 and not report.damage


@pytest.mark.parametrize("storage", STORAGES)
def test_a_truncated_bag_is_derained_up_to_its_end_and_says_so(tmp_path, storage, capsys, monkeypatch):
    source = record(tmp_path / "in", drive(200), storage)
    (file,) = [path for path in source.iterdir() if path.suffix in (".mcap", ".db3")]
    whole = file.stat().st_size
    with file.open("r+b") as opened:
        opened.truncate(int(whole * 0.6))
    report = derained(source, tmp_path / "out")
    assert 60 <= report.frames < 150
    assert report.damage and file.name in report.damage[0]
    results = messages(tmp_path / "out", "/front/derained/image")
    for number, result in enumerate(results):
        np.testing.assert_array_equal(pixels(result)[..., ::-1], street(number) + 10)
    monkeypatch.setattr("rain_removal_ros.commands.bag.create_restorer", lambda settings: FakeRestorer())
    assert main(["bag", str(source), str(tmp_path / "again")]) == 1
    assert f"damage: {file.name}" in capsys.readouterr().out


def test_a_damaged_chunk_ends_its_file_but_not_the_bag(tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    for part in range(2):
        with (source / f"in_{part}.mcap").open("wb") as file:
            writer = McapWriter(file, compression=CompressionType.NONE, chunk_size=40_000)
            writer.start("ros2")
            schema = writer.register_schema(
                IMAGE, "ros2msg", STORE.generate_msgdef(IMAGE, ros_version=2)[0].encode()
            )
            channel = writer.register_channel("/cam/image_raw", "cdr", schema)
            for number in range(part * 20, part * 20 + 20):
                data = bytes(STORE.serialize_cdr(image(number), IMAGE))
                writer.add_message(channel, START + number, data, START + number)
            writer.finish()
    first = source / "in_0.mcap"
    content = bytearray(first.read_bytes())
    content[len(content) // 2] ^= 0xFF
    first.write_bytes(content)
    report = derained(source, tmp_path / "out")
    assert 20 + 5 < report.frames < 40
    assert len(report.damage) == 1 and "in_0.mcap" in report.damage[0] and "crc" in report.damage[0]


def of_the_disk() -> sqlite3.Error:
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = sqlite3.SQLITE_IOERR_READ
    return error


@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), MemoryError(), of_the_disk()])
def test_a_disk_that_fails_is_not_called_damage_and_leaves_no_bag(tmp_path, monkeypatch, error):
    def fail(*_) -> None:
        raise error

    def read(self, *arguments, real=McapFile.messages):
        for number, each in enumerate(real(self, *arguments)):
            yield each if number < 6 else fail()

    source = record(tmp_path / "in", drive(4))
    for where, replacement in (("messages", read), ("_scan", fail)):
        with monkeypatch.context() as patched:
            patched.setattr(McapFile, where, replacement)
            if replacement is fail:  # when the bag is opened
                patched.setattr("mcap.reader.SeekingReader.get_summary", fail)
            with pytest.raises(BagError, match=r"in\.mcap cannot be read: .*; try again"):
                derained(source, tmp_path / "out")
        assert [path.name for path in tmp_path.iterdir()] == ["in"]
    assert derained(source, tmp_path / "out").frames == 4


def test_a_disk_that_fails_at_a_cameras_first_image_does_not_cost_the_camera(tmp_path, monkeypatch):
    def fail(*_) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(McapFile, "messages", fail)
    with Bag(record(tmp_path / "in", drive(1))) as bag, pytest.raises(BagError, match="Input/output error"):
        find_cameras(bag)


def test_an_image_that_cannot_be_read_stays_and_is_counted(tmp_path, capsys, monkeypatch):
    sent = images("/cam/image_raw", [image(number) for number in range(5)])
    sent[2].data = sent[2].data[:3000]
    sent[3].message.step = 7
    sent[3].data = bytes(STORE.serialize_cdr(sent[3].message, IMAGE))
    source = record(tmp_path / "in", sent)
    for options in ({}, {"replace": True}):
        target = tmp_path / f"out{len(options)}"
        report = derained(source, target, **options)
        assert (report.frames, report.failed) == (3, 2)
        assert len(contents(target)["/cam/image_raw"]) == 5
    assert contents(tmp_path / "out0")["/cam/image_raw"] == contents(source)["/cam/image_raw"]
    monkeypatch.setattr("rain_removal_ros.commands.bag.create_restorer", lambda settings: FakeRestorer())
    assert main(["bag", str(source), str(tmp_path / "told")]) == 1
    assert "2 images could not be read" in capsys.readouterr().out


def test_a_type_that_nobody_knows_is_copied_with_a_hash_of_zeros(tmp_path):
    source = record(tmp_path / "in", drive(2), "sqlite3")
    with sqlite3.connect(source / "in.db3") as database:
        database.execute("DELETE FROM message_definitions WHERE topic_type = 'acme_msgs/msg/Radar'")
        database.execute("UPDATE topics SET type_description_hash = ''")
    database.close()
    (source / "metadata.yaml").unlink()
    derained(source, tmp_path / "out")
    with Reader(tmp_path / "out") as reader:
        digests = {c.topic: c.digest for c in reader.connections}
    assert digests["/radar"] == "RIHS01_" + "0" * 64
    assert digests["/front/image_raw"] == STORE.hash_rihs01(IMAGE)
    assert [data for _, data in contents(tmp_path / "out")["/radar"]] == [
        bytes(STORE.serialize_cdr(radar(n), "acme_msgs/msg/Radar")) for n in range(2)
    ]


# -- what cannot be --------------------------------------------------------------------------------


def bad_inputs(tmp_path: Path) -> dict[str, Path]:
    paths = {
        name: tmp_path / name
        for name in ("empty", "text.mcap", "text.db3", "notes.txt", "old.bag", "missing")
    }
    paths["empty"].mkdir()
    for name in ("text.mcap", "text.db3", "notes.txt", "old.bag"):
        paths[name].write_text("this is no bag\n")
    paths["talk"] = record(tmp_path / "talk", [Sent("/map", "std_msgs/msg/String", START, text("a"))])
    paths["nothing"] = record(tmp_path / "nothing", [])
    return paths


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("empty", "holds neither metadata.yaml nor"),
        ("text.mcap", "no bag, or damaged beyond reading.*magic"),
        ("text.db3", "no bag, or damaged beyond reading.*no SQLite database"),
        ("notes.txt", "is no bag; give a bag's folder"),
        ("old.bag", "ROS 1 bag; convert it first: rosbags-convert"),
        ("missing", "does not exist"),
        ("talk", r"no camera images: its topics are /map \(std_msgs/msg/String\)"),
        ("nothing", "no camera images: it is empty"),
    ],
)
def test_what_is_no_drive_is_a_clear_error_and_leaves_nothing(tmp_path, name, said, capsys, monkeypatch):
    path = bad_inputs(tmp_path)[name]
    with pytest.raises(BagError, match=said):
        derained(path, tmp_path / "out")
    assert not [left for left in tmp_path.iterdir() if "out" in left.name]
    with monkeypatch.context() as patched:  # the command says so before it loads a network
        patched.setattr("rain_removal_ros.commands.bag.create_restorer", pytest.fail)
        assert main(["bag", str(path), str(tmp_path / "out")]) == 1
    assert re.search(said, capsys.readouterr().err)


def test_nothing_is_overwritten(tmp_path, capsys):
    source = record(tmp_path / "in", drive(1))
    before = contents(source)
    for target in (source, tmp_path / "there"):
        (tmp_path / "there").mkdir(exist_ok=True)
        assert main(["bag", str(source), str(target)]) == 1
        assert "exists; nothing is overwritten" in capsys.readouterr().err
    assert contents(source) == before and not list((tmp_path / "there").iterdir())
    with pytest.raises(BagError, match="a bag is a folder"):
        derained(source, tmp_path / "out.mcap")


@pytest.mark.parametrize("storage", STORAGES)
def test_a_full_disk_is_said_and_leaves_nothing(tmp_path, storage):
    source = record(tmp_path / "in", drive(80))
    program = (
        "import resource, sys; from pathlib import Path; sys.path.insert(0, sys.argv[1])\n"
        "from pipeline_fakes import FakeRestorer\n"
        "from rain_removal_ros.bags.convert import Options, convert\n"
        "from rain_removal_ros.errors import BagError\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, 2_000_000))\n"
        "try: convert(Path(sys.argv[2]), Path(sys.argv[3]), FakeRestorer(), Options(storage=sys.argv[4]))\n"
        "except BagError as error: sys.exit(f'BagError: {error}')"
    )
    command = [
        sys.executable,
        "-c",
        program,
        str(Path(__file__).parent),
        str(source),
        str(tmp_path / "out"),
        storage,
    ]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 1
    assert "BagError" in ended.stderr and "cannot be written" in ended.stderr and "GiB" in ended.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_a_folder_without_permission_is_said(tmp_path, monkeypatch):
    source = record(tmp_path / "in", drive(1))

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "mkdir", refuse)
        with pytest.raises(BagError, match=r"out cannot be written: .*Permission denied"):
            derained(source, tmp_path / "out")
    with monkeypatch.context() as patched:
        patched.setattr(Path, "read_text", refuse)
        with pytest.raises(BagError, match=r"metadata.yaml cannot be read: Permission denied"):
            derained(source, tmp_path / "out")


class Interrupted(FakeRestorer):
    """Is interrupted at its third frame."""

    def __call__(self, image, outputs, focal_px=None, **options):
        if len(self.calls) == 2:
            raise KeyboardInterrupt
        return super().__call__(image, outputs, focal_px, **options)


def test_an_interrupted_run_leaves_nothing_and_a_killed_one_is_begun_anew(tmp_path):
    source = record(tmp_path / "in", drive(6))
    with pytest.raises(KeyboardInterrupt):
        convert(source, tmp_path / "out", Interrupted(), Options())
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
    left = tmp_path / ".out.partial/out"  # what a run leaves that could not clean up
    left.mkdir(parents=True)
    (left / "out.mcap").write_bytes(b"half a bag")
    assert derained(source, tmp_path / "out").frames == 6
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]


def test_two_runs_do_not_write_the_same_bag(tmp_path):
    source = record(tmp_path / "in", drive(1))
    with BagWriter(tmp_path / "out", []), pytest.raises(BagError, match="being written by another run"):
        derained(source, tmp_path / "out")
    assert (tmp_path / "out/metadata.yaml").is_file()


def test_options_that_contradict_each_other_are_refused():
    with pytest.raises(ParameterError, match="1 to 100"):
        Options(jpeg_quality=0)
    with pytest.raises(ParameterError, match="replaced only where"):
        Options(replace=True, outputs=frozenset({Output.INVERSE_DEPTH}))
