"""What both launch files know: texts that an argument takes, a node's full name, how a process ended.

Imports neither launch nor rclpy.
"""

from __future__ import annotations

import signal

from rain_removal_ros.errors import RainRemovalError
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


def full_name(pushed: str, namespace: str, name: str) -> str:
    """A node's full name as launch_ros makes it, as `/car/derain`. pushed: by PushRosNamespace, around it."""
    parts = namespace if namespace.startswith("/") else f"{pushed}/{namespace}"
    return "/".join(["", *filter(None, parts.split("/")), name])


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
