"""ROS parameter files as text: which blocks they hold, for which nodes, and what these give.

Imports neither launch nor rclpy.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rain_removal_ros.errors import ParameterError


def parameter_from_file(file: Path, node: str, name: str) -> Any:
    """The value that a ROS parameter file gives to parameter `name` of a node; None where it gives none.

    node: its full name, as `/car/derain`; patterns with * and ** are heeded, and the last value wins, as rcl
    has it. name: one without dots. Raises ParameterError where the file cannot be read.
    """
    value = None
    for _, parameters in blocks_for(file, node):
        if name in parameters:
            value = parameters[name]
    return value


def blocks_for(file: Path, node: str) -> list[tuple[str, Mapping[str, Any]]]:
    """The blocks of a ROS parameter file that a node of this full name takes, in the file's order: the names
    that each is for, as `/car/derain` or with * and **, and its parameters.

    Raises ParameterError where the file cannot be read.
    """
    return [block for block in _blocks(_contents(file)) if _matches(block[0], node)]


def unmatched_file_notice(file: Path, node: str) -> list[str]:
    """What to say of a ROS parameter file that gives nothing to a node of this full name; else nothing.

    rcl skips such a file without a word. Raises ParameterError where the file cannot be read.
    """
    blocks = [names for names, _ in _blocks(_contents(file))]
    if any(_matches(names, node) for names in blocks):
        return []
    held = f"it holds {', '.join(blocks)}" if blocks else "it holds no parameters"
    return [f"WARNING: params_file {file} gives nothing to the node {node}: {held}"]


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
