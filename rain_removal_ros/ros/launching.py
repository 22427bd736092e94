"""What both launch files know: texts that an argument takes, what a parameter file says, how a process ended.

Imports neither launch nor rclpy.
"""

from __future__ import annotations

import re
import signal
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
    import yaml  # launch and rclpy bring it

    try:
        contents = yaml.safe_load(file.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ParameterError(f"params_file {file} cannot be read: {error}") from error
    value = None
    for pattern, parameters in _parameters_by_node(contents):
        if re.fullmatch(pattern, node) and name in parameters:
            value = parameters[name]
    return value


def _parameters_by_node(contents: Any, above: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(regular expression of full node names, parameters), in the file's order."""
    for key, value in contents.items() if isinstance(contents, dict) else ():
        if key != "ros__parameters":
            tokens = [_PATTERNS.get(token, f"/{re.escape(token)}") for token in str(key).split("/") if token]
            yield from _parameters_by_node(value, above + "".join(tokens))
        elif isinstance(value, dict):
            yield above, value


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
