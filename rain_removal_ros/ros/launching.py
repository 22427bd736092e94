"""What both launch files know: texts that an argument takes, what a parameter file says, how a process ended.

Imports neither launch nor rclpy.
"""

from __future__ import annotations

import re
import signal
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rain_removal_ros.errors import ParameterError, RainRemovalError
from rain_removal_ros.ros.parameters import SWITCHES, Parameter

SWITCH_TEXTS = (*SWITCHES, "True", "False")
LOG_LEVELS = ("debug", "info", "warn", "error", "fatal", "DEBUG", "INFO", "WARN", "ERROR", "FATAL")
INTERRUPTED = (128 + signal.SIGINT, -signal.SIGINT, -signal.SIGTERM)
"""Exit statuses of a process that was told to end before it was ready to take the word."""


def argument_choices(parameter: Parameter) -> list[str] | None:
    """The texts that a parameter's launch argument takes, the empty one (not given) first; None: any text."""
    texts = SWITCH_TEXTS if isinstance(parameter.default, bool) else parameter.choices
    return ["", *texts] if texts else None


def argument_description(parameter: Parameter) -> str:
    """What a parameter is for, its type, its range and its default, in one sentence and brackets."""
    default = parameter.default
    shown = str(default).lower() if isinstance(default, bool) else str(default).replace("'", "") or "empty"
    details = (parameter.type_name, parameter.allowed, f"default {shown}")
    return f"{parameter.description} ({'; '.join(filter(None, details))})"


def parameter_from_file(file: Path, node: str, name: str) -> Any:
    """The value that a ROS parameter file gives to parameter `name` of a node; None where it gives none.

    node: its full name, as `/car/derain`; patterns with * and ** are heeded, and the last value wins, as rcl
    has it. name: one without dots. Raises ParameterError where the file cannot be read.
    """
    value = None
    for names, parameters in _blocks(_contents(file)):
        if _matches(names, node) and name in parameters:
            value = parameters[name]
    return value


def unmatched_file_notice(file: Path, node: str) -> list[str]:
    """What to say of a ROS parameter file that gives nothing to a node of this full name; else nothing.

    rcl skips such a file without a word. Raises ParameterError where the file cannot be read.
    """
    blocks = [names for names, _ in _blocks(_contents(file))]
    if any(_matches(names, node) for names in blocks):
        return []
    held = f"it holds {', '.join(blocks)}" if blocks else "it holds no parameters"
    return [f"WARNING: params_file {file} gives nothing to the node {node}: {held}"]


def full_name(pushed: str, namespace: str, name: str) -> str:
    """A node's full name as launch_ros makes it, as `/car/derain`. pushed: by PushRosNamespace, around it."""
    parts = namespace if namespace.startswith("/") else f"{pushed}/{namespace}"
    return "/".join(["", *filter(None, parts.split("/")), name])


def overriding_file(parameters: Mapping[str, Any]) -> Path:
    """A new ROS parameter file that wins over those before it on a node's command line.

    rcl gathers all parameters under one name where that name comes first, and heeds the names in that order.
    So what is given under the node's name or `/**`, with -p too, can lose to the file before it. The name
    here fits every node, and no other file has it.
    """
    import yaml

    with tempfile.NamedTemporaryFile("w", prefix="launch_params_", suffix=".yaml", delete=False) as file:
        yaml.safe_dump({"/**/**/**": {"ros__parameters": dict(parameters)}}, file)
    return Path(file.name)


def _contents(file: Path) -> Any:
    import yaml  # launch and rclpy bring it

    try:
        return yaml.safe_load(file.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ParameterError(f"params_file {file} cannot be read: {error}") from error


def _blocks(contents: Any, above: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(node names, as `/car/derain` or with * and **; parameters), in the file's order."""
    for key, value in contents.items() if isinstance(contents, dict) else ():
        if key != "ros__parameters":
            yield from _blocks(value, "/".join([above, *filter(None, str(key).split("/"))]))
        elif isinstance(value, dict):
            yield above, value


def _matches(names: str, node: str) -> bool:
    tokens = names.split("/")[1:]
    return (
        re.fullmatch("".join(_PATTERNS.get(each, f"/{re.escape(each)}") for each in tokens), node) is not None
    )


_PATTERNS = {"*": "/[^/]+", "**": "(/[^/]+)*"}


def check_ended_well(what: str, status: int, interrupted: bool = False) -> None:
    """Raise RainRemovalError where a launched process's exit status is a failure.

    `ros2 launch` ends with another status than 0 for an error in launch itself alone, not for a process's, so
    whoever has to know is told by this one. interrupted: the launch is ending, and the process need not have
    been through with its work.
    """
    if status == 0 or (interrupted and status in INTERRUPTED):
        return
    how = f"by signal {-status}" if status < 0 else f"with exit status {status}"
    raise RainRemovalError(f"{what} ended {how}; its log is above")
