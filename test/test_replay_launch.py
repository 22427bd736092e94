"""What replay.launch.py starts, with a stand-in for launch: the node, the player and the viewers."""

from __future__ import annotations

import argparse
import builtins
import json
from pathlib import Path

import pytest
from bag_fixtures import START, Sent, compressed, drive, image, record
from launch_stand_in import Shutdown, ended, launch
from ruamel.yaml import YAML

from rain_removal_ros.bags.cameras import find_cameras
from rain_removal_ros.bags.storage import Bag
from rain_removal_ros.commands import replay as replay_command
from rain_removal_ros.errors import BagError, RainRemovalError
from rain_removal_ros.replay.layouts import write_layout
from rain_removal_ros.replay.topics import EVERY_QUEUE, played_cameras
from rain_removal_ros.ros.parameters import PARAMETERS
from rain_removal_ros.share import (
    BUILTIN_TRANSPORTS_VARIABLE,
    DDS_PROFILE,
    DDS_PROFILE_VARIABLES,
    share_file,
)

REPLAY = share_file("launch/replay.launch.py")
DERAIN = "derain.launch.py"
COMPRESSED = "sensor_msgs/msg/CompressedImage"


def test_the_replay_starts_the_node_and_a_player_for_what_the_bag_holds(tmp_path, monkeypatch):
    for variable in (*DDS_PROFILE_VARIABLES, BUILTIN_TRANSPORTS_VARIABLE):  # a user's own would stay
        monkeypatch.delenv(variable, raising=False)
    sent = [*drive(2), Sent("/side/picture", "sensor_msgs/msg/Image", START, image(0, height=70, width=80))]
    path = record(tmp_path / "drive", sent)
    given = {"rate": "0.5", "loop": "true", "start": "0.1", "segmentation": "true", "viewer": "web"}
    launched = launch(REPLAY, bag=str(path), **given)
    (node,) = launched.included[DERAIN].nodes
    assert node.values()["use_sim_time"] is True
    values = node.values()
    assert values["cameras"] == ["front", "side/picture"] and values["image_sizes"] == "96x64,80x70"
    assert values["segmentation"] is True and values["autostart"] is True
    assert node.remappings == [("side/picture/image_raw", "/side/picture")]

    (process,) = launched.processes
    assert process.command[1:4] == ["-m", "rain_removal_ros.commands.main", "replay"]
    parser = argparse.ArgumentParser()
    replay_command.add_arguments(parser)
    player = parser.parse_args(process.command[4:])
    assert (player.bag, player.rate, player.loop, player.start) == (path, 0.5, True, 0.1)
    assert player.duration is None and player.record is None
    assert player.no_node and player.segmentation and player.serve is not None
    assert player.cameras == ["/front/image_raw", "/side/picture"]
    for each in (process, node):
        (shutdown,) = ended(each, 0)
        assert isinstance(shutdown, Shutdown)
    assert ended(process, 130, in_shutdown=True), "Ctrl-C while it starts is no failure"
    with pytest.raises(RainRemovalError, match="the replay ended with exit status 1"):
        ended(process, 1)
    with pytest.raises(RainRemovalError, match="the node ended by signal 11"):
        ended(node, -11)
    assert DDS_PROFILE in "".join(process.additional_env.values()), "it publishes the images"


def test_a_recording_goes_where_the_shell_would_put_it(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    record(tmp_path / "drive", drive(1))
    (process,) = launch(REPLAY, bag="~/drive", record="~/out").processes
    assert process.command[process.command.index("--record") + 1] == str(tmp_path / "out")


def test_the_replay_takes_every_parameter_that_the_bag_leaves_open(tmp_path):
    path = record(tmp_path / "drive", drive(1))
    decided = {"cameras", "image_transport", "image_sizes", "autostart", "build_only"}
    given = {p.name: p.choices[-1] for p in PARAMETERS if p.choices and p.name not in decided}
    assert given
    (node,) = launch(REPLAY, bag=str(path), **given).included[DERAIN].nodes
    values = node.values()
    assert {name: values[name] for name in given} == given
    assert {p.name for p in PARAMETERS} - decided <= set(launch(REPLAY, bag=str(path)).declared)


def test_what_the_bag_decides_is_not_the_parameter_files_to_say(tmp_path):
    path, file = record(tmp_path / "drive", drive(1)), tmp_path / "derain.yaml"
    file.write_text("/**: {ros__parameters: {build_only: true, autostart: false, cameras: [rear]}}\n")
    (node,) = launch(REPLAY, bag=str(path), params_file=str(file)).included[DERAIN].nodes
    assert node.parameters[0] == str(file)
    values = node.values()
    assert (values["build_only"], values["autostart"], values["cameras"]) == (False, True, ["front"])


@pytest.mark.parametrize(
    ("contents", "arguments", "masks"),
    [
        ("/**: {ros__parameters: {segmentation: true}}", {}, True),
        ("/dry: {ros__parameters: {segmentation: true}}", {}, False),
        ("/dry: {ros__parameters: {segmentation: true}}", {"name": "dry"}, True),
        ("/**: {ros__parameters: {segmentation: true}}", {"segmentation": "false"}, False),
        ("/**: {ros__parameters: {segmentation: false}}", {"segmentation": "true"}, True),
    ],
)
def test_the_player_records_masks_where_the_node_makes_them(tmp_path, contents, arguments, masks):
    path, file = record(tmp_path / "drive", drive(1)), tmp_path / "derain.yaml"
    file.write_text(contents)
    (process,) = launch(REPLAY, bag=str(path), params_file=str(file), **arguments).processes
    assert ("--segmentation" in process.command) is masks


@pytest.mark.parametrize(("pushed", "node"), [("/car", "/car/derain"), ("/fleet/car", "/fleet/car/derain")])
def test_a_pushed_namespace_moves_the_node_and_its_outputs_but_not_the_bag(tmp_path, pushed, node):
    path, file = record(tmp_path / "drive", drive(1)), tmp_path / "derain.yaml"
    file.write_text(f"{node}: {{ros__parameters: {{segmentation: true}}}}")
    given = {"bag": str(path), "ros_namespace": pushed, "params_file": str(file), "viewer": "foxglove"}
    launched = launch(REPLAY, **given)
    included = launched.included[DERAIN]
    (under_test,), (process,) = included.nodes, launched.processes
    assert not any("gives nothing" in text for text in included.said)
    assert under_test.namespace == "", "launch_ros puts what was pushed before it"
    assert under_test.remappings == [
        ("front/image_raw", "/front/image_raw"),
        ("front/camera_info", "/front/camera_info"),
    ]
    assert process.command[process.command.index("--node-name") + 1] == node
    assert "--segmentation" in process.command, "as the block of the node's full name says"
    said = " ".join(launched.said)
    layout = Path(said.split("import the layout ")[1]).read_text()
    assert f'"{pushed}/front/derained/image"' in layout and '"/front/image_raw"' in layout
    assert f'name==\\"{node[1:]}: front\\"' in layout


def test_a_module_that_reads_bags_and_is_missing_is_named_with_what_brings_it(tmp_path, monkeypatch):
    def without_rosbags(name: str, *arguments, real=builtins.__import__, **options):
        if name == "rain_removal_ros.bags.storage":
            raise ModuleNotFoundError("No module named 'rosbags'", name="rosbags")
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without_rosbags)
    with pytest.raises(RainRemovalError, match=r"replay\.launch\.py needs rosbags, .*pip install"):
        launch(REPLAY, bag=str(tmp_path / "drive"))


def test_the_replay_plays_the_cameras_that_are_named(tmp_path):
    sent = [*drive(1), Sent("/side/image_raw", "sensor_msgs/msg/Image", START, image(0))]
    path = record(tmp_path / "drive", sent)
    (node,) = launch(REPLAY, bag=str(path), cameras="[/side]").included[DERAIN].nodes
    assert any(parameters.get("cameras") == ["side"] for parameters in node.parameters)
    with pytest.raises(BagError, match="holds no camera rear"):
        launch(REPLAY, bag=str(path), cameras="rear")
    with pytest.raises(RuntimeError, match=r"\"tv\" is not valid.*'none', 'rviz', 'foxglove', 'web'"):
        launch(REPLAY, bag=str(path), viewer="tv")
    with pytest.raises(AssertionError, match="argument bag is required"):
        launch(REPLAY)


def test_raw_and_compressed_cameras_of_a_bag_are_played_together_and_every_image_on_request(tmp_path):
    sent = [*drive(1), Sent("/rear/image_raw/compressed", COMPRESSED, START, compressed(0))]
    path = record(tmp_path / "drive", sent)
    launched = launch(REPLAY, bag=str(path), every="true")
    (node,) = launched.included[DERAIN].nodes
    values = node.values()
    assert (values["cameras"], values["image_transport"]) == (["front", "rear"], "raw,compressed")
    assert values["queue_length"] == EVERY_QUEUE
    (process,) = launched.processes
    assert "--every" in process.command


def test_viewers_open_with_a_layout_of_the_bags_camera(tmp_path):
    sent = [
        Sent("/front/picture", "sensor_msgs/msg/Image", each.time, each.message) for each in drive(2)[2:3]
    ]
    path = record(tmp_path / "drive", sent)
    (rviz,) = launch(REPLAY, bag=str(path), viewer="rviz").nodes
    assert rviz.package == "rviz2" and Path(rviz.arguments[1]).is_file()
    (bridge,) = launch(REPLAY, bag=str(path), viewer="foxglove").nodes
    assert bridge.package == "foxglove_bridge"

    with Bag(path) as bag:
        (camera,) = played_cameras(find_cameras(bag), print)
    name = camera.name
    topics = {
        "/front/picture",
        f"/{name}/derained/image",
        f"/{name}/depth/inverse_depth",
        f"/{name}/segmentation/color_mask",
    }
    displays = YAML(typ="safe").load(write_layout("rviz", camera, tmp_path))["Visualization Manager"][
        "Displays"
    ]
    assert {display["Topic"]["Value"] for display in displays} == topics
    panels = json.loads(write_layout("foxglove", camera, tmp_path).read_text())["configById"]
    assert {p["imageMode"]["imageTopic"] for name, p in panels.items() if name.startswith("Image!")} == topics
    paths = [path["value"] for path in panels["Plot!latency"]["paths"]]
    assert all(f'name=="derain: {name}"' in each for each in paths) and "inference median (ms)" in paths[-1]
    assert f"dry: {name}" in write_layout("foxglove", camera, tmp_path, "dry").read_text()
    assert panels["DiagnosticSummary!health"]["topicToRender"] == "/diagnostics"
