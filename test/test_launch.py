"""The launch file is run, with a stand-in for launch: what it declares, refuses and starts."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from launch_stand_in import Launched, Shutdown, ended, environment_of, launch
from runtime_fixtures import write_weights

from rain_removal_ros.errors import ParameterError, RainRemovalError
from rain_removal_ros.ros.parameter_files import parameter_from_file
from rain_removal_ros.ros.parameters import PARAMETERS
from rain_removal_ros.share import (
    BUILTIN_TRANSPORTS_VARIABLE,
    DDS_PROFILE,
    DDS_PROFILE_VARIABLES,
    share_file,
)

ROOT = Path(__file__).resolve().parents[1]
DERAIN = share_file("launch/derain.launch.py")


@pytest.fixture(autouse=True)
def no_profile_of_the_users(monkeypatch):
    for variable in (*DDS_PROFILE_VARIABLES, BUILTIN_TRANSPORTS_VARIABLE):
        monkeypatch.delenv(variable, raising=False)


def only_node(launched: Launched):
    (node,) = launched.nodes
    return node


def test_every_parameter_is_an_argument_that_may_be_left_out_and_says_what_it_is_for():
    declared = launch(DERAIN).declared
    for parameter in PARAMETERS:
        argument = declared[parameter.name]
        assert argument.default_value == ""
        assert parameter.description in argument.description and parameter.allowed in argument.description
        assert parameter.type_name in argument.description and "default" in argument.description
        assert argument.choices is None or argument.choices[0] == ""
        if parameter.choices:
            assert argument.choices == ["", *parameter.choices]
    others = set(declared) - {parameter.name for parameter in PARAMETERS}
    assert others == {
        "name",
        "namespace",
        "params_file",
        "remap",
        "use_sim_time",
        "log_level",
        "respawn",
        "required",
    }
    assert all(declared[name].description for name in others)


def test_without_arguments_the_node_starts_with_its_own_defaults_and_the_dds_profile():
    launched = launch(DERAIN)
    node = only_node(launched)
    assert [node.executable, *node.arguments] == [sys.executable, "-m", "rain_removal_ros.ros.main"]
    assert (node.name, node.namespace, node.parameters, node.remappings) == ("derain", "", [], [])
    assert node.additional_env == dict.fromkeys(DDS_PROFILE_VARIABLES, str(share_file(DDS_PROFILE)))
    assert DDS_PROFILE in " ".join(launched.said)


@pytest.mark.parametrize("variable", DDS_PROFILE_VARIABLES)
def test_a_dds_profile_of_the_users_stays(monkeypatch, variable):
    monkeypatch.setenv(variable, "/mine.xml")
    launched = launch(DERAIN)
    assert only_node(launched).additional_env == {}
    assert "the user's own" in " ".join(launched.said)


def test_transports_that_the_user_chose_stay_and_the_launch_says_so(monkeypatch):
    monkeypatch.setenv(BUILTIN_TRANSPORTS_VARIABLE, "UDPv4")
    launched = launch(DERAIN)
    assert only_node(launched).additional_env == {}
    assert f"not used, as {BUILTIN_TRANSPORTS_VARIABLE} is UDPv4" in " ".join(launched.said)


def test_the_dds_profile_has_room_for_all_outputs_of_a_frame_at_1920x1080():
    profile = ElementTree.parse(share_file(DDS_PROFILE))
    value = {each.tag.rpartition("}")[2]: each.text for each in profile.iter()}
    image, inverse_depth, mask, color_mask = (1920 * 1080 * size for size in (3, 4, 1, 3))
    frame = image + inverse_depth + mask + color_mask
    assert int(value["segment_size"]) > frame
    assert int(value["port_queue_capacity"]) * 64_000 > frame, "images travel in pieces of less than 64 KiB"


def test_arguments_become_parameters_of_their_types_after_the_parameter_file(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "derain.yaml").write_text("derain: {ros__parameters: {threads: 1}}\n")
    node = only_node(
        launch(
            DERAIN,
            cameras="[front, rear/left]",
            segmentation="true",
            threads="2",
            **{"diagnostics.max_latency_ms": "50"},
            params_file="~/derain.yaml",
        )
    )
    assert node.parameters[0] == str(tmp_path / "derain.yaml")
    values = node.values()
    assert values == {
        "cameras": ["front", "rear/left"],
        "segmentation": True,
        "threads": 2,
        "diagnostics.max_latency_ms": 50.0,
    }
    assert type(values["threads"]) is int and type(values["diagnostics.max_latency_ms"]) is float


@pytest.mark.parametrize(
    "names", [["/car/dry", "/**"], ["/**", "/car/dry"], ["/*/dry", "car/dry", "/**/dry", "/**", "/car/*"]]
)
@pytest.mark.parametrize("respawn", ["false", "true"])
def test_arguments_win_over_every_block_of_a_parameter_file(tmp_path, names, respawn):
    block = "{ros__parameters: {threads: 1, diagnostics.max_latency_ms: 1.0, exit_when_broken: false}}"
    (tmp_path / "derain.yaml").write_text("".join(f"{name}: {block}\n" for name in names))
    arguments = {"threads": "2", "diagnostics.max_latency_ms": "50", "params_file": f"{tmp_path}/derain.yaml"}
    node = only_node(launch(DERAIN, name="dry", namespace="car", respawn=respawn, **arguments))
    command = node.command(tmp_path)
    had = "import json, sys, rclpy; rclpy.init(args=sys.argv); node = rclpy.create_node('other', "
    had += "automatically_declare_parameters_from_overrides=True); print(json.dumps([node.get_parameter(name)"
    had += ".value for name in ('threads', 'diagnostics.max_latency_ms', 'exit_when_broken')]))"
    options = command[command.index("--ros-args") :]
    done = subprocess.run(
        [sys.executable, "-c", had, *options], capture_output=True, text=True, timeout=60, check=True
    )
    assert json.loads(done.stdout) == [2, 50.0, respawn == "true"]


@pytest.mark.parametrize(
    ("pushed", "namespace", "names", "node"),
    [
        ("", "car", "derain", "/car/derain"),
        ("/car", "", "/derain", "/car/derain"),
        ("/car", "roof", "/car/derain", "/car/roof/derain"),
        ("/car", "/roof", "/car/*", "/roof/derain"),
        ("", "", "/car/*", "/derain"),
    ],
)
def test_a_parameter_file_that_gives_the_node_nothing_is_said(tmp_path, pushed, namespace, names, node):
    file = tmp_path / "derain.yaml"
    given = {"params_file": str(file), "namespace": namespace, "ros_namespace": pushed}
    file.write_text(f"{names}: {{ros__parameters: {{threads: 1}}}}\n")
    said = " ".join(launch(DERAIN, **given).said)
    held = "/derain" if names == "derain" else names
    assert f"params_file {file} gives nothing to the node {node}: it holds {held}" in said
    file.write_text(
        f"{names}: {{ros__parameters: {{threads: 1}}}}\n{node}: {{ros__parameters: {{threads: 2}}}}\n"
    )
    assert "gives nothing" not in " ".join(launch(DERAIN, **given).said)
    file.write_text("")
    assert "it holds no parameters" in " ".join(launch(DERAIN, **given).said)


def test_a_list_of_cameras_needs_no_brackets_that_a_shell_would_read():
    assert only_node(launch(DERAIN, cameras="front,rear")).parameters == [{"cameras": ["front", "rear"]}]


@pytest.mark.parametrize(("text", "value"), [("true", True), ("1", True), ("false", False)])
def test_the_node_takes_its_time_from_the_clock_where_asked(text, value):
    assert {"use_sim_time": value} in only_node(launch(DERAIN, use_sim_time=text)).parameters


@pytest.mark.parametrize(
    ("argument", "text", "reason"),
    [
        ("params_file", "/nowhere/derain.yaml", "params_file /nowhere/derain.yaml does not exist"),
        ("threads", "two", "threads:=two is not a int"),
        ("cameras", "[]", "name at least one camera"),
        ("image_sizes", "1280x-720", "is no size"),
        ("remap", "camera/image_raw=/front", "from:=to"),
    ],
)
def test_an_argument_that_cannot_be_ends_the_launch_with_the_reason(argument, text, reason):
    with pytest.raises(ParameterError, match=reason):
        launch(DERAIN, **{argument: text})


@pytest.mark.parametrize(
    ("argument", "text"),
    [
        *((name, "maybe") for name in ("use_sim_time", "respawn", "required", "segmentation", "build_only")),
        *((name, "vulkan") for name in ("backend", "precision", "on_failure", "while_building", "log_level")),
    ],
)
def test_an_argument_of_a_few_texts_takes_no_other_and_launch_names_them(argument, text):
    with pytest.raises(RuntimeError, match=f'Argument "{argument}" provided value "{text}" is not valid'):
        launch(DERAIN, **{argument: text})


@pytest.mark.parametrize("text", ["true", "True", "1", "on"])
def test_a_switch_is_written_as_people_write_it(text):
    assert only_node(launch(DERAIN, segmentation=text)).parameters == [{"segmentation": True}]
    assert only_node(launch(DERAIN, respawn=text)).respawn is True


def test_name_namespace_remappings_and_log_level_reach_the_node():
    remap = "camera/image_raw:=/front/image_raw  camera/derained/image:=/front/image_rect"
    node = only_node(launch(DERAIN, name="dry", namespace="car", remap=remap, log_level="debug"))
    assert (node.name, node.namespace) == ("dry", "car")
    assert node.remappings[1] == ("camera/derained/image", "/front/image_rect")
    assert node.ros_arguments == ["--log-level", "debug"]


def test_what_is_launched_beside_the_node_goes_on_without_it_unless_asked_otherwise():
    node = only_node(launch(DERAIN))
    assert (node.on_exit, node.respawn, node.output) == (None, False, "screen")
    (shutdown,) = ended(only_node(launch(DERAIN, required="true")), 0)
    assert isinstance(shutdown, Shutdown)


@pytest.mark.parametrize(
    ("status", "how"), [(1, "with exit status 1"), (-signal.SIGSEGV, f"by signal {signal.SIGSEGV.value}")]
)
@pytest.mark.parametrize("argument", ["required", "build_only"])
def test_a_node_that_failed_ends_the_launch_with_an_error_where_it_matters(argument, status, how):
    node = only_node(launch(DERAIN, **{argument: "true"}))
    with pytest.raises(RainRemovalError, match=f"the node ended {how}"):
        ended(node, status)
    assert not [each for each in ended(node, 0) if argument == "build_only"], "others go on"


def test_a_build_that_was_interrupted_is_an_error_and_a_node_that_was_is_none():
    assert ended(only_node(launch(DERAIN, required="true")), -signal.SIGINT, in_shutdown=True)
    with pytest.raises(RainRemovalError, match="by signal 2"):
        ended(only_node(launch(DERAIN, build_only="true")), -signal.SIGINT, in_shutdown=True)
    with pytest.raises(RainRemovalError, match="by signal 9"):
        ended(only_node(launch(DERAIN, required="true")), -signal.SIGKILL, in_shutdown=True)


def test_a_node_that_is_started_again_ends_where_its_runtime_is_broken():
    node = only_node(launch(DERAIN, respawn="true"))
    assert node.respawn is True and node.respawn_delay > 0 and node.values() == {"exit_when_broken": True}
    overridden = only_node(launch(DERAIN, respawn="true", exit_when_broken="false")).values()
    assert overridden == {"exit_when_broken": False}


@pytest.mark.parametrize("other", ["required", "build_only"])
def test_a_node_that_is_started_again_is_neither_required_nor_there_to_build_only(other):
    with pytest.raises(ParameterError, match=f"respawn:=true and {other}:=true"):
        launch(DERAIN, respawn="true", **{other: "true"})


def test_a_parameter_file_that_builds_only_counts_as_the_argument_does(tmp_path):
    file = tmp_path / "derain.yaml"
    file.write_text("/car/*: {ros__parameters: {build_only: true}}\n")
    given = {"params_file": str(file), "namespace": "car"}
    with pytest.raises(ParameterError, match=f"respawn:=true and build_only: true of {file} contradict"):
        launch(DERAIN, respawn="true", **given)
    with pytest.raises(RainRemovalError, match="the node ended with exit status 1"):
        ended(only_node(launch(DERAIN, **given)), 1)
    assert only_node(launch(DERAIN, respawn="true", build_only="false", **given)).respawn is True
    assert only_node(launch(DERAIN, respawn="true", params_file=str(file))).respawn is True, "another's"


@pytest.mark.parametrize(
    ("contents", "value"),
    [
        ("/**: {ros__parameters: {segmentation: true}}", True),
        ("derain: {ros__parameters: {segmentation: true}}", None),
        ("/car/derain: {ros__parameters: {segmentation: true}}", True),
        ("car: {derain: {ros__parameters: {segmentation: true}}}", True),
        ("/*: {ros__parameters: {segmentation: true}}", None),
        ("/*/derain: {ros__parameters: {segmentation: true}}", True),
        ("/**/derain: {ros__parameters: {segmentation: true}}", True),
        ("/car/**: {ros__parameters: {threads: 1}}", None),
        (
            "/car/derain: {ros__parameters: {segmentation: true}}\n"
            "/**: {ros__parameters: {segmentation: false}}",
            False,
        ),
        ("", None),
        ("- of no use", None),
    ],
)
def test_a_parameter_file_is_read_as_the_node_reads_it(tmp_path, contents, value):
    (tmp_path / "derain.yaml").write_text(contents)
    assert parameter_from_file(tmp_path / "derain.yaml", "/car/derain", "segmentation") is value


def test_a_parameter_file_that_is_no_yaml_is_said(tmp_path):
    (tmp_path / "derain.yaml").write_text("derain: [")
    with pytest.raises(ParameterError, match=r"derain\.yaml cannot be read"):
        launch(DERAIN, params_file=str(tmp_path / "derain.yaml"))


@pytest.mark.parametrize(("sizes", "status"), [("96x72", 0), ("", 1)])
def test_what_is_launched_runs_with_the_arguments(tmp_path, sizes, status):
    weights = write_weights(tmp_path / "tiny.safetensors")
    arguments = {"image_sizes": sizes} if sizes else {}
    launched = launch(
        DERAIN,
        weights=str(weights),
        cache_dir=str(tmp_path / "cache"),
        backend="openvino",
        build_only="true",
        cameras="front,rear",
        name="dry",
        namespace="car",
        **arguments,
    )
    done = subprocess.run(
        only_node(launched).command(tmp_path),
        cwd=ROOT,
        env=environment_of(only_node(launched)),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == status, done.stderr
    assert "[car.dry]" in done.stderr
    if status:
        assert "build_only needs image_sizes" in done.stderr
    else:
        assert "built engine for 96x72" in done.stderr
        assert list((tmp_path / "cache").glob("*.engine"))
