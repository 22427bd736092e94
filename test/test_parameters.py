"""One table of parameters; the parameter file, the launch arguments and the docs agree with it."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from rain_removal_ros.errors import ParameterError
from rain_removal_ros.pipeline import OnFailure, Options
from rain_removal_ros.rain_monitor import DryThresholds
from rain_removal_ros.ros.parameters import (
    BY_NAME,
    PARAMETERS,
    check,
    image_sizes,
    image_transports,
    launch_parameters,
    launch_remappings,
    markdown_table,
    parse,
    pipeline_options,
    runtime_settings,
)
from rain_removal_ros.runtime import RuntimeSettings
from rain_removal_ros.share import share_file

ROOT = Path(__file__).resolve().parents[1]
DEFAULTS = {parameter.name: parameter.default for parameter in PARAMETERS}


def flat(tree: dict, prefix: str = "") -> dict:
    """{a: {b: 1}} as {a.b: 1}."""
    leaves = {}
    for key, value in tree.items():
        leaves.update(
            flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
        )
    return leaves


def test_every_default_is_a_value_that_its_parameter_takes():
    for name, default in DEFAULTS.items():
        check(name, default)


def test_the_parameter_file_holds_every_parameter_with_its_default_and_description():
    text = share_file("config/derain.yaml").read_text()
    assert flat(yaml.safe_load(text)["/**"]["ros__parameters"]) == DEFAULTS
    comments = " ".join(line.strip(" #") for line in text.splitlines() if line.strip().startswith("#"))
    for parameter in PARAMETERS:
        assert parameter.description in comments
        assert parameter.allowed in comments


def test_the_documentation_shows_the_table():
    assert markdown_table() in (ROOT / "docs" / "node.md").read_text()


def test_the_table_loads_neither_pytorch_nor_ros():
    script = "import sys, rain_removal_ros.ros.parameters; print({'torch', 'rclpy'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "set()\n"


def test_the_defaults_are_the_runtimes_own():
    assert runtime_settings(DEFAULTS) == RuntimeSettings()
    assert pipeline_options(DEFAULTS) == Options()


def test_every_option_of_the_pipeline_is_that_of_its_parameters():
    given = {"on_failure": "passthrough", "inference_timeout_s": 9.0, "queue_length": 3, "batching": False}
    given |= {"bypass_when_dry": True, "bypass.dry_below": 0.1, "bypass.wet_above": 0.3}
    options = pipeline_options({**DEFAULTS, **given, "bypass.dry_after_s": 8.0})
    assert options == Options(
        on_failure=OnFailure.PASSTHROUGH,
        inference_timeout_s=9.0,
        queue_length=3,
        batching=False,
        bypass_when_dry=True,
        dry_thresholds=DryThresholds(0.1, 0.3, 8.0),
    )
    assert pipeline_options({**DEFAULTS, "while_building": "torch"}) == Options(serve_while_building=True)
    passing = pipeline_options({**DEFAULTS, "while_building": "passthrough"})
    assert passing == Options(pass_while_building=True)


def test_every_setting_of_the_runtime_can_be_reached():
    names = {field.name for field in dataclasses.fields(RuntimeSettings)}
    assert names - set(BY_NAME) == {"cache_limit_bytes", "contents"}  # cache_limit_mb, and no setting


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("cameras", "[front, 'rear/left']", ["front", "rear/left"]),
        ("cameras", "front", ["front"]),
        ("autostart", "False", False),
        ("segmentation", "true", True),
        ("threads", "2", 2),
        ("diagnostics.max_latency_ms", "50", 50.0),
        ("backend", "openvino", "openvino"),
        ("image_sizes", "1280x720, 1920x1080", "1280x720, 1920x1080"),
    ],
)
def test_a_launch_argument_becomes_a_value_of_the_parameters_type(name, text, value):
    parsed = parse(name, text)
    assert parsed == value and type(parsed) is type(value)


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("threads", "two", "threads:=two is not a int"),
        ("segmentation", "maybe", "not a bool"),
        ("backend", "vulkan", "must be one of auto"),
        ("cameras", "[]", "name at least one camera"),
        ("cameras", "[a b]", "cannot name a topic"),
        ("cameras", "[a, a]", "twice"),
        ("cameras", "[front, runtime]", "as the runtime's own status"),
        ("cache_limit_mb", "-1", "from 0 to"),
        ("image_transport", "raw,theora", "holds 'theora'; it must be one of raw, compressed"),
        ("image_transport", "", "holds ''"),
        ("image_sizes", "1280X720", "WIDTHxHEIGHT"),
        (
            "image_sizes",
            "1280x720,63x64",
            r"'63x64' is too small or too large; sizes from 64x64 to 4096x3072 \(or 3072x4096\) are taken",
        ),
        ("image_sizes", "4097x3072", "4097x3072"),
        ("image_sizes", "3073x4096", "3073x4096"),
        ("image_sizes", "1280x-720", "'1280x-720' is no size"),
    ],
)
def test_a_launch_argument_that_cannot_be_is_refused_with_the_reason(name, text, reason):
    with pytest.raises(ParameterError, match=reason):
        parse(name, text)


def test_launch_arguments_that_are_not_given_leave_the_parameters_to_the_file():
    arguments = dict.fromkeys(DEFAULTS, "") | {"segmentation": "true", "cameras": "[front]"}
    assert launch_parameters(arguments) == {"cameras": ["front"], "segmentation": True}


def test_one_transport_is_for_all_cameras_or_each_has_its_own():
    cameras = {"cameras": ["front", "rear"]}
    assert image_transports({**cameras, "image_transport": "compressed"}) == {
        "front": "compressed",
        "rear": "compressed",
    }
    assert image_transports({**cameras, "image_transport": "raw, compressed"}) == {
        "front": "raw",
        "rear": "compressed",
    }
    with pytest.raises(ParameterError, match="names 3 transports for 2 cameras"):
        image_transports({**cameras, "image_transport": "raw,raw,raw"})


def test_remappings_are_read_in_pairs():
    rules = "camera/image_raw:=/front/image_raw  camera/derained/image:=/front/image_rect"
    assert launch_remappings(rules) == [
        ("camera/image_raw", "/front/image_raw"),
        ("camera/derained/image", "/front/image_rect"),
    ]
    assert launch_remappings("") == []
    with pytest.raises(ParameterError, match="from:=to"):
        launch_remappings("camera/image_raw=/front")


def test_image_sizes_are_height_and_width():
    assert image_sizes(" 1280x720,1920x1080 ,") == ((720, 1280), (1080, 1920))
    assert image_sizes("64x64,4096x3072,3072x4096") == ((64, 64), (3072, 4096), (4096, 3072))
    assert image_sizes("") == ()
