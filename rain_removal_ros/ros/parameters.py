"""The node's parameters in one table, which drives their declaration, the launch arguments and the docs.

Knows what a value may be, not how ROS passes it: nothing here imports rclpy or launch.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from enum import Enum
from pathlib import Path
from typing import Any

from rain_removal_ros.errors import ParameterError
from rain_removal_ros.pipeline import OnFailure, Options
from rain_removal_ros.rain_monitor import DryThresholds
from rain_removal_ros.ros.status import RUNTIME
from rain_removal_ros.runtime import BACKENDS, PRECISIONS, RuntimeSettings
from rain_removal_ros.runtime.sizes import parse_size


class Changes(Enum):
    """When a parameter can be changed."""

    NEVER = "never"
    UNCONFIGURED = "while unconfigured"
    ANY_TIME = "any time"


@dataclass(frozen=True)
class Parameter:
    """One parameter. Its type is that of its default: bool, int, float, str or a list of str."""

    name: str
    default: bool | int | float | str | list[str]
    description: str
    changes: Changes = Changes.UNCONFIGURED
    choices: tuple[str, ...] = ()
    minimum: int | float | None = None
    maximum: int | float | None = None

    @property
    def type_name(self) -> str:
        """The type as ROS users call it."""
        names = {bool: "bool", int: "int", float: "double", str: "string", list: "string[]"}
        return names[type(self.default)]

    @property
    def allowed(self) -> str:
        """What the value may be, in words; empty where everything of its type is."""
        if self.choices:
            return " | ".join(self.choices)
        return f"{self.minimum} to {self.maximum}" if self.minimum is not None else ""


PARAMETERS: tuple[Parameter, ...] = (
    Parameter("cameras", ["camera"], "Camera names; each is the namespace of its topics.", Changes.NEVER),
    Parameter(
        "image_transport",
        "raw",
        "Subscribe to C/image_raw (raw) or to C/image_raw/compressed (compressed); one value for all "
        "cameras, or one per camera in the order of `cameras`, as raw,compressed.",
    ),
    Parameter(
        "queue_length",
        1,
        "Images per camera that may wait. 1: the newest wins. More: every image is processed in turn while "
        "no more than these wait, trading age for completeness; the subscription is then reliable.",
        Changes.NEVER,  # rclpy keeps the QoS that a topic had first
        minimum=1,
        maximum=1000,
    ),
    Parameter(
        "jpeg_quality",
        95,
        "JPEG quality of C/derained/image/compressed.",
        minimum=1,
        maximum=100,
    ),
    Parameter("segmentation", False, "Also publish C/segmentation/mask and C/segmentation/color_mask."),
    Parameter(
        "autostart",
        True,
        "Configure and activate automatically; if false, a lifecycle manager has to.",
        Changes.NEVER,
    ),
    Parameter(
        "backend",
        "auto",
        "What runs the network; auto takes the best that this machine can run, and reports why.",
        choices=BACKENDS,
    ),
    Parameter(
        "precision",
        "auto",
        "Arithmetic of the network; int8 covers most of its work. auto takes the fastest that the device "
        "and the weights support well.",
        choices=PRECISIONS,
    ),
    Parameter("preset", "fast", "Network whose packaged weights are used if `weights` is empty."),
    Parameter(
        "weights", "", "Weights file (.safetensors) of the derain network; empty: the packaged weights."
    ),
    Parameter(
        "segmentation_weights",
        "",
        "Weights file (.safetensors) of the segmentation network; empty: the packaged weights.",
    ),
    Parameter(
        "image_sizes",
        "",
        "Image sizes to compile before the first frame, as 1280x720,1920x1080; empty: a size is compiled "
        "when its first frame arrives.",
    ),
    Parameter(
        "while_building",
        "wait",
        "While a network is compiled for a new image size, frames wait (wait), PyTorch processes them "
        "(torch), or they are published unchanged (passthrough).",
        Changes.ANY_TIME,
        choices=("wait", "torch", "passthrough"),
    ),
    Parameter(
        "on_failure",
        "drop",
        "A good image that cannot be restored because the runtime failed is dropped, or published unchanged, "
        "which diagnostics report.",
        Changes.ANY_TIME,
        choices=("drop", "passthrough"),
    ),
    Parameter(
        "inference_timeout_s",
        5.0,
        "Seconds after which an inference counts as hanging and the runtime is recreated.",
        Changes.ANY_TIME,
        minimum=0.1,
        maximum=600.0,
    ),
    Parameter(
        "exit_when_broken",
        False,
        "Exit with status 1 if the runtime has failed and cannot recover, so that a supervisor restarts "
        "the node; respawn:=true sets it.",
        Changes.ANY_TIME,
    ),
    Parameter(
        "batching",
        True,
        "Restore images of several cameras that wait at the same time in one call, if measurements show "
        "that on average none is published later for it; no image waits for others.",
        Changes.ANY_TIME,
    ),
    Parameter(
        "bypass_when_dry",
        False,
        "Publish images unchanged while the camera sees neither rain nor fog; the network checks twice a "
        "second.",
        Changes.ANY_TIME,
    ),
    Parameter(
        "bypass.dry_below",
        0.05,
        "With bypass_when_dry: a camera counts as dry when its rain and its fog have both been at most "
        "this for bypass.dry_after_s.",
        Changes.ANY_TIME,
        minimum=0.0,
        maximum=1.0,
    ),
    Parameter(
        "bypass.wet_above",
        0.15,
        "With bypass_when_dry: images are restored again when rain or fog exceeds this; at least "
        "bypass.dry_below.",
        Changes.ANY_TIME,
        minimum=0.0,
        maximum=1.0,
    ),
    Parameter(
        "bypass.dry_after_s",
        3.0,
        "With bypass_when_dry: seconds for which rain and fog must be low before a camera counts as dry.",
        Changes.ANY_TIME,
        minimum=0.0,
        maximum=3600.0,
    ),
    Parameter(
        "graphs_in_memory",
        8,
        "Compiled networks (one per size and set of outputs) kept in memory, at least two per camera; the "
        "least recently used is removed first.",
        minimum=1,
        maximum=256,
    ),
    Parameter(
        "build_only",
        False,
        "Configure, compile for `image_sizes`, and exit: 0 if everything was built.",
        Changes.NEVER,
    ),
    Parameter(
        "cache_dir",
        "",
        "Folder for compiled networks; empty: $XDG_CACHE_HOME/rain_removal_ros, or "
        "~/.cache/rain_removal_ros.",
    ),
    Parameter(
        "cache_limit_mb",
        4096,
        "Maximum size of that folder, in MiB; the least recently used entries are removed first.",
        minimum=0,
        maximum=1 << 20,
    ),
    Parameter("threads", 0, "CPU threads of the network; 0: the runtime chooses.", minimum=0, maximum=1024),
    Parameter("device", 0, "Index of the CUDA device.", minimum=0, maximum=63),
    Parameter(
        "diagnostics.max_latency_ms",
        100.0,
        "Diagnostics warn if the latency from message in to message out exceeds this, in ms.",
        Changes.ANY_TIME,
        minimum=0.1,
        maximum=60000.0,
    ),
    Parameter(
        "diagnostics.stale_after_s",
        2.0,
        "Seconds without an image after which a camera is reported as stale.",
        Changes.ANY_TIME,
        minimum=0.1,
        maximum=3600.0,
    ),
    Parameter(
        "diagnostics.max_image_age_ms",
        0.0,
        "Diagnostics warn if the median age of published images, stamp to publication, exceeds this, in "
        "ms; 0: not checked, as the age means nothing if the camera uses another clock.",
        Changes.ANY_TIME,
        minimum=0.0,
        maximum=3600000.0,
    ),
    Parameter(
        "diagnostics.min_rate_in_hz",
        0.0,
        "Diagnostics warn if a camera's images come in at a lower rate than this, in Hz; 0: not checked.",
        Changes.ANY_TIME,
        minimum=0.0,
        maximum=1000.0,
    ),
    Parameter(
        "diagnostics.min_rate_out_hz",
        0.0,
        "Diagnostics warn if a camera's images are published at a lower rate than this, in Hz, while "
        "somebody subscribes; 0: not checked.",
        Changes.ANY_TIME,
        minimum=0.0,
        maximum=1000.0,
    ),
)
"""In the order in which they are documented."""

BY_NAME: Mapping[str, Parameter] = {parameter.name: parameter for parameter in PARAMETERS}

IMAGE_TRANSPORTS = ("raw", "compressed")

_CAMERA_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*(/[A-Za-z][A-Za-z0-9_]*)*")
SWITCHES = {
    **{"true": True, "false": False, "1": True, "0": False},
    **{"yes": True, "no": False, "on": True, "off": False},
}
"""What the text of a launch argument that is on or off may be, in lower case."""


def check(name: str, value: Any) -> None:
    """Raise ParameterError where a value of the right type cannot be what parameter `name` says."""
    parameter = BY_NAME[name]
    if value is None:  # as ROS reads an empty list
        raise ParameterError(f"parameter {name} is empty; give it a value, or none for {parameter.default}")
    if parameter.choices and value not in parameter.choices:
        raise ParameterError(
            f"parameter {name} is '{value}'; it must be one of {', '.join(parameter.choices)}"
        )
    if parameter.minimum is not None and not parameter.minimum <= value <= parameter.maximum:
        raise ParameterError(f"parameter {name} is {value}; it must be from {parameter.allowed}")
    if name == "cameras":
        _check_cameras(value)
    elif name == "image_sizes":
        image_sizes(value)
    elif name == "image_transport":
        _transports(value)


def check_together(values: Mapping[str, Any]) -> None:
    """Raise ParameterError where parameters, each good by itself, contradict each other."""
    dry, wet = values["bypass.dry_below"], values["bypass.wet_above"]
    if dry > wet:
        raise ParameterError(
            f"parameter bypass.dry_below is {dry} and bypass.wet_above is {wet}; "
            "the first must be at most the second"
        )
    image_transports(values)


def image_transports(values: Mapping[str, Any]) -> dict[str, str]:
    """The image transport of every camera. Raises ParameterError where there are too few or too many."""
    cameras, transports = list(values["cameras"]), _transports(values["image_transport"])
    if len(transports) == 1:
        transports *= len(cameras)
    if len(transports) != len(cameras):
        raise ParameterError(
            f"parameter image_transport names {len(transports)} transports for {len(cameras)} cameras; "
            "give one for all, or one for each"
        )
    return dict(zip(cameras, transports, strict=True))


def _transports(text: str) -> list[str]:
    transports = [part.strip() for part in text.split(",")]
    for transport in transports:
        if transport not in IMAGE_TRANSPORTS:
            raise ParameterError(
                f"parameter image_transport holds '{transport}'; it must be one of "
                f"{', '.join(IMAGE_TRANSPORTS)}, for all cameras, or one for each, as raw,compressed"
            )
    return transports


def _check_cameras(names: Iterable[str]) -> None:
    names = list(names)
    if not names:
        raise ParameterError("parameter cameras is empty; name at least one camera, as [camera]")
    for name in names:
        if not _CAMERA_NAME.fullmatch(name) or "__" in name:
            raise ParameterError(
                f"parameter cameras holds '{name}', which cannot name a topic; use letters, digits, _ and /"
            )
        if name == RUNTIME:
            raise ParameterError(
                f"parameter cameras holds '{name}', as the runtime's own status in /diagnostics is called; "
                "choose another name"
            )
    if len(set(names)) != len(names):
        raise ParameterError(f"parameter cameras names a camera twice: {', '.join(names)}")


def image_sizes(text: str) -> tuple[tuple[int, int], ...]:
    """(height, width) of each size in a list such as `1280x720, 1920x1080` (width x height).

    Raises ParameterError for what is no size, or one that the networks do not take.
    """
    try:
        return tuple(parse_size(part) for part in filter(None, (part.strip() for part in text.split(","))))
    except ParameterError as error:
        raise ParameterError(f"parameter image_sizes: {error}") from error


def runtime_settings(values: Mapping[str, Any]) -> RuntimeSettings:
    """The runtime's settings, from the node's parameters by name."""
    settings = {field.name: values[field.name] for field in fields(RuntimeSettings) if field.name in values}
    for name in ("weights", "segmentation_weights", "cache_dir"):
        settings[name] = Path(values[name]).expanduser() if values[name] else None
    return RuntimeSettings(**settings, cache_limit_bytes=values["cache_limit_mb"] << 20)


def pipeline_options(values: Mapping[str, Any]) -> Options:
    """What may change from frame to frame, from the node's parameters by name."""
    while_building = values["while_building"]
    thresholds = {field.name: values[f"bypass.{field.name}"] for field in fields(DryThresholds)}
    return Options(
        serve_while_building=while_building == "torch",
        pass_while_building=while_building == "passthrough",
        on_failure=OnFailure(values["on_failure"]),
        inference_timeout_s=values["inference_timeout_s"],
        queue_length=values["queue_length"],
        bypass_when_dry=values["bypass_when_dry"],
        dry_thresholds=DryThresholds(**thresholds),
        batching=values["batching"],
    )


def parse(name: str, text: str) -> Any:
    """The value that a launch argument's text means for parameter `name`. Raises ParameterError."""
    default = BY_NAME[name].default
    text = text.strip()
    try:
        if isinstance(default, bool):
            value: Any = SWITCHES[text.lower()]
        elif isinstance(default, list):
            value = [part.strip(" '\"") for part in text.strip("[]").split(",") if part.strip(" '\"")]
        else:
            value = type(default)(text)
    except (KeyError, ValueError) as error:
        raise ParameterError(f"{name}:={text} is not a {BY_NAME[name].type_name}") from error
    check(name, value)
    return value


def launch_switch(name: str, text: str) -> bool:
    """What a launch argument that is no parameter of the table says, on or off. Raises ParameterError."""
    try:
        return SWITCHES[text.strip().lower()]
    except KeyError as error:
        raise ParameterError(f"{name}:={text} is not a bool") from error


def launch_parameters(arguments: Mapping[str, str]) -> dict[str, Any]:
    """Node parameters from launch arguments by name. An empty text leaves a parameter as it is."""
    return {
        parameter.name: parse(parameter.name, arguments[parameter.name])
        for parameter in PARAMETERS
        if arguments.get(parameter.name, "") != ""
    }


def launch_remappings(text: str) -> list[tuple[str, str]]:
    """(from, to) pairs from `camera/image_raw:=/front/image_raw camera/camera_info:=/front/camera_info`."""
    pairs = []
    for rule in text.split():
        source, separator, target = rule.partition(":=")
        if not (source and separator and target):
            raise ParameterError(
                f"remap holds '{rule}'; rules are written from:=to, with a space between two"
            )
        pairs.append((source, target))
    return pairs


def markdown_table() -> str:
    """The parameters as a Markdown table, as docs/node.md shows them."""
    from rain_removal_ros.tables import markdown  # the node itself shows no tables

    rows = []
    for parameter in PARAMETERS:
        default = parameter.default
        shown = str(default).lower() if isinstance(default, bool) else str(default).replace("'", "") or '""'
        allowed = f" ({parameter.allowed})" if parameter.allowed else ""
        description = f"{parameter.description}{allowed}".replace("|", "\\|")
        changes = parameter.changes.value
        rows.append((f"`{parameter.name}`", parameter.type_name, f"`{shown}`", changes, description))
    return markdown(("parameter", "type", "default", "changes", "description"), rows, compact=True)
