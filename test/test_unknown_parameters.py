"""Parameters that the node does not have: a misspelt one is told, another node's is not."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from rain_removal_ros.ros import unknown_parameters
from rain_removal_ros.ros.parameters import BY_NAME, PARAMETERS
from rain_removal_ros.ros.unknown_parameters import nearest, notices, slip_for

NODE = "/car/derain"


def told(file: Path, blocks: dict[str, dict]) -> list[str]:
    """What a node of this name says of a file with these blocks, whose parameters rcl gives it all."""
    file.write_text(yaml.safe_dump({names: {"ros__parameters": each} for names, each in blocks.items()}))
    given = {name for each in blocks.values() for name in unknown_parameters._flat(each)} - BY_NAME.keys()
    return notices(given, ["node", "--ros-args", "--params-file", str(file), "--"], NODE)


@pytest.mark.parametrize("names", ["/**", NODE, "/*/derain", "/**/derain"])
@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ({"on_failre": "drop"}, "on_failure"),
        ({"on_faliure": "drop"}, "on_failure"),
        ({"diagnostics": {"max_latency": 50.0}}, "diagnostics.max_latency_ms"),
        ({"inference_timeout": 2.0}, "inference_timeout_s"),
        ({"image_tranport": "raw"}, "image_transport"),
        ({"bypas": {"dry_below": 0.1}}, "bypass.dry_below"),
    ],
)
def test_a_misspelt_name_is_told_with_the_nearest_one_and_what_to_do(tmp_path, names, given, meant):
    (text,) = told(tmp_path / "p.yaml", {names: {**given, "batching": True}})
    (name,) = unknown_parameters._flat(given)
    assert f"parameter '{name}'" in text and f"did you mean {meant}?" in text
    assert "correct or remove it where it is given, and restart the node" in text


def test_every_name_with_a_letter_left_out_or_two_changed_places_is_told():
    for parameter in PARAMETERS:
        name = parameter.name
        if len(name) < unknown_parameters.SHORTEST_SLIP:
            continue
        for place in range(2, len(name) - 2):
            without = name[:place] + name[place + 1 :]
            swapped = name[:place] + name[place + 1] + name[place] + name[place + 2 :]
            for slip in (without, swapped):
                assert slip == name or slip_for(slip) == name


SHARED = {
    "use_sim_time": True,
    "start_type_description_service": False,
    "qos_overrides": {"/parameter_events": {"publisher": {"depth": 5}}},
    "robot_description": "<robot/>",
    "vehicle_info": {"wheel_base": 2.8, "width": 1.9},
    "camera": "front",
    "camera_name": "front",
    "camera_info_url": "file:///front.yaml",
    "frame_id": "base_link",
    "image_size": [1280, 720],
    "image_width": 1280,
    "image_topic": "/front/image_raw",
    "queue_size": 5,
    "qos_depth": 5,
    "device_id": 0,
    "devices": ["a"],
    "gpu_id": 0,
    "present": True,
    "reset": False,
    "presets": ["a"],
    "weight": 0.5,
    "weights_path": "a.onnx",
    "heights": [1.0],
    "thread": 1,
    "num_threads": 4,
    "auto_start": True,
    "start": True,
    "matching": True,
    "batch_size": 4,
    "back_end": "cpu",
    "backends": ["cpu"],
    "precisions": ["fp16"],
    "segmentation_model": "a",
    "segment": True,
    "cache": True,
    "timeout": 1.0,
    "timeout_s": 1.0,
    "bond_timeout": 4.0,
    "on_exit": "respawn",
    "diagnostics": {"period": 1.0, "enabled": True},
    "diagnostic_updater": {"period": 1.0, "use_fqn": True},
    "jpeg": {"quality": 90},
    "png_quality": 3,
    "compressed": {"jpeg_quality": 90},
}


@pytest.mark.parametrize("names", ["/**", "/*", "/car/*", "/car/**"])
def test_parameters_of_other_nodes_in_a_block_for_all_are_no_alarm(tmp_path, names):
    assert told(tmp_path / "p.yaml", {names: SHARED}) == []


def test_in_a_block_of_its_own_every_unknown_name_is_told_but_those_of_ros(tmp_path):
    own = {name: SHARED[name] for name in ("use_sim_time", "qos_overrides", "camera", "frame_id")}
    own["start_type_description_service"] = True
    said = told(tmp_path / "p.yaml", {"/**": {"timeout": 1.0}, NODE: own, "/car/other": {"anything": 1}})
    assert len(said) == 2
    assert "'camera'" in said[0] and "did you mean cameras?" in said[0]
    assert "'frame_id'" in said[1] and "did you mean" not in said[1]


def test_the_packaged_parameter_file_is_no_alarm(tmp_path):
    assert told(tmp_path / "p.yaml", {NODE: {name: each.default for name, each in BY_NAME.items()}}) == []


def test_a_file_that_holds_nothing_but_mistakes_is_told_in_few_words(tmp_path):
    said = told(tmp_path / "p.yaml", {NODE: {f"wrong_{number:02}": 1 for number in range(13)}})
    assert len(said) == 11 and said[-1] == "3 more parameters like these have no effect"


def test_a_file_that_cannot_be_read_again_is_judged_as_anybodys(tmp_path):
    torn = tmp_path / "torn.yaml"
    torn.write_text("[")
    for file in (torn, tmp_path / "gone.yaml", tmp_path):
        arguments = ["--ros-args", "--params-file", str(file)]
        assert len(notices(["on_failre", "frame_id"], arguments, NODE)) == 1


def test_only_a_command_lines_ros_arguments_name_parameter_files(tmp_path):
    file = tmp_path / "p.yaml"
    file.write_text(yaml.safe_dump({NODE: {"ros__parameters": {"frame_id": "a"}}}))
    for arguments in (["--params-file", str(file)], ["--ros-args", "--", "--params-file", str(file)]):
        assert notices(["frame_id"], arguments, NODE) == []
    assert notices(["frame_id"], ["--ros-args", "--params-file", str(file)], NODE)


def test_a_name_that_no_parameter_is_like_has_no_suggestion():
    assert nearest("max_latency_ms") == "diagnostics.max_latency_ms"
    assert nearest("xyz") is None and slip_for("") is None
