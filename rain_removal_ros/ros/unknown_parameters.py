"""Parameters that the node was given and does not have. ROS ignores them without a word, so a misspelt one
leaves its default in place.

Not every one is a mistake: a block for all nodes (`/**`) holds other nodes' parameters as well. Such a name
is reported only where it looks like a slip of typing. Imports no rclpy.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rain_removal_ros.errors import ParameterError, shown
from rain_removal_ros.ros.parameter_files import blocks_for
from rain_removal_ros.ros.parameters import BY_NAME

OF_ROS = ("use_sim_time", "start_type_description_service")
OF_ROS_BELOW = "qos_overrides."
"""Declared by rclpy itself, some of them only with a topic, and some not by every version."""

MOST_SAID = 10
"""So many are told one by one."""

SHORTEST_SLIP = 7
"""Shorter names are words that other nodes have parameters of too: preset, present; device, devise."""


def notices(given: Collection[str], arguments: Sequence[str], node: str) -> list[str]:
    """What to say of parameters that this node was given and has not declared; one text for each.

    given: their names. arguments: the process's, in which the parameter files are named. node: its full name.
    """
    names = sorted(name for name in given if name not in OF_ROS and not name.startswith(OF_ROS_BELOW))
    meant_for_it = _in_its_own_blocks(arguments, node) if names else set()
    said = []
    for name in names:
        declared = nearest(name) if name in meant_for_it else slip_for(name)
        if name in meant_for_it or declared is not None:
            meant = f"did you mean {declared}? " if declared is not None else ""
            said.append(
                f"parameter {shown(name)} is none of this node's and has no effect; {meant}"
                "correct or remove it where it is given, and restart the node"
            )
    more = len(said) - MOST_SAID
    return said if more <= 0 else [*said[:MOST_SAID], f"{more} more parameters like these have no effect"]


def nearest(name: str) -> str | None:
    """The node's parameter whose name is most like this one; None where none is like it."""
    return next(iter(difflib.get_close_matches(name, BY_NAME, 1)), None)


def slip_for(name: str) -> str | None:
    """The node's parameter that this name can hardly be anything but a misspelling of; None where it may well
    be another node's.

    A slip leaves the first letter, and changes one character (two or three in long names; two neighbours that
    change places count as one). A plural or singular (`camera`), a word in two (`auto_start`) and a group of
    parameters (`jpeg.quality`) are none.
    """
    slips = [declared for declared in BY_NAME if _is_slip(name, declared)]
    return min(slips, key=lambda declared: _changes(name, declared), default=None)


def _is_slip(name: str, declared: str) -> bool:
    if len(declared) < SHORTEST_SLIP or name[:1] != declared[0] or name.count(".") > declared.count("."):
        return False
    if name in (f"{declared}s", declared.removesuffix("s")) or name.replace("_", "") == declared:
        return False
    most = min(1 + len(declared) // 12, 3)
    return abs(len(name) - len(declared)) <= most and _changes(name, declared) <= most


def _changes(one: str, other: str) -> int:
    """How many characters are added, left out, replaced, or have changed places with their neighbours."""
    rows = [list(range(len(other) + 1))]
    for i, character in enumerate(one, 1):
        row = [i]
        for j, wanted in enumerate(other, 1):
            row.append(min(rows[-1][j] + 1, row[-1] + 1, rows[-1][j - 1] + (character != wanted)))
            if i > 1 and j > 1 and one[i - 2 : i] == other[j - 1] + other[j - 2]:
                row[j] = min(row[j], rows[-2][j - 2] + 1)
        rows.append(row)
    return rows[-1][-1]


def _in_its_own_blocks(arguments: Sequence[str], node: str) -> set[str]:
    """The parameters that files give in blocks that name this very node, and no others with it."""
    names: set[str] = set()
    for file in _parameter_files(arguments):
        try:
            found = blocks_for(file, node) if file.is_file() else []  # a pipe can be read only once
        except ParameterError:  # rcl has read it, so PyYAML is stricter; what follows is judged as anybody's
            continue
        names.update(
            name
            for names_of_nodes, parameters in found
            if not names_of_nodes.endswith("*")
            for name in _flat(parameters)
        )
    return names


def _parameter_files(arguments: Sequence[str]) -> Iterator[Path]:
    """Those that a command line gives to ROS, between --ros-args and --."""
    of_ros = False
    for index, argument in enumerate(arguments):
        if argument in ("--ros-args", "--"):
            of_ros = argument == "--ros-args"
        elif of_ros and argument == "--params-file" and index + 1 < len(arguments):
            yield Path(arguments[index + 1])


def _flat(tree: Mapping[Any, Any], above: str = "") -> Iterator[str]:
    """The names in {a: {b: 1}}, as a.b."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{above}{key}.")
        else:
            yield f"{above}{key}"
