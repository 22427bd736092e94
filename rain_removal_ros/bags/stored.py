"""What a storage file holds, whatever its format: topics and their messages; and what it means when it
cannot be read. Knows no format.
"""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from rosbags.interfaces import Qos
from rosbags.rosbag2.errors import ReaderError
from rosbags.rosbag2.metadata import parse_qos

ROS_ENCODINGS = ("ros2msg", "ros2idl")


class Schema(NamedTuple):
    """The definition of a topic's type, as stored."""

    encoding: str  # ros2msg | ros2idl | what other recorders write: protobuf, jsonschema, ...
    data: bytes

    @classmethod
    def of_text(cls, text: str, encoding: str = "ros2msg") -> Schema | None:
        """Of a definition as text; None for an empty one."""
        return cls(encoding, text.encode()) if text else None


@dataclass(frozen=True, eq=False)
class Topic:
    """A topic of a bag, with all that a copy of it has to say."""

    name: str
    type: str  # sensor_msgs/msg/Image
    schema: Schema | None = None  # None: the bag does not hold it
    type_hash: str = ""  # RIHS01_...; empty: the bag does not hold it
    serialization: str = "cdr"
    qos: tuple[Qos, ...] = ()
    count: int = 0  # messages, as far as the bag says
    notes: Mapping[str, str] = field(default_factory=dict)  # what else an MCAP channel says of itself


class Stored(NamedTuple):
    """One message of a storage file, before its topic is known by the bag's own object."""

    key: tuple[str, str]
    log_time: int
    data: bytes


def words(error: BaseException) -> str:
    """A library's error for the user."""
    text = str(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def is_the_machines(error: BaseException) -> bool:
    """Whether a file could not be read for want of memory, or for a failure of its disk or network, which
    says nothing of what the file holds. (EINVAL does: a damaged file leads to places that are not there.)
    """
    if isinstance(error, sqlite3.Error):
        return getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_IOERR
    if isinstance(error, OSError):
        return error.errno not in (None, errno.EINVAL)
    return isinstance(error, MemoryError)


def qos_of(text: Any) -> tuple[Qos, ...]:
    """The profiles that a bag notes; none where they cannot be read."""
    try:
        return tuple(parse_qos(text or []))
    except (ReaderError, KeyError, TypeError):  # a profile that says too little says nothing
        return ()
