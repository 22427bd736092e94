"""Writes a bag so that it is there whole or not at all: beside its place first, and put there at the end."""

from __future__ import annotations

import fcntl
import shutil
import sqlite3
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Literal

from rosbags.interfaces import Connection
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer, WriterError

from rain_removal_ros.bags.messages import definition_of, hash_of
from rain_removal_ros.bags.storage import Topic
from rain_removal_ros.errors import BagError

STORAGES = {"mcap": StoragePlugin.MCAP, "sqlite3": StoragePlugin.SQLITE3}
COMPRESSIONS = ("none", "zstd")
METADATA_VERSIONS: Mapping[str, Literal[8, 9]] = {"jazzy": 9, "humble": 8}
"""The metadata.yaml that each distribution and the ones after it read."""

UNKNOWN_HASH = "RIHS01_" + "0" * 64
"""Written for a type whose definition neither the bag nor ROS 2 Jazzy holds."""


class BagWriter:
    """A new bag in the folder `path`; a context manager, at whose regular end the bag comes into being.

    Until then all is in a hidden folder beside it. One that an interrupted run left there is removed.
    """

    def __init__(
        self,
        path: Path,
        topics: Iterable[Topic],
        *,
        storage: str = "mcap",
        compression: str = "none",
        metadata: str = "jazzy",
        custom_data: Mapping[str, str] | None = None,
    ):
        """Raises BagError where the bag exists, another run writes it, or its folder cannot be written."""
        self.path = path
        if path.suffix in (".mcap", ".db3"):
            raise BagError(f"{path} names a file; a bag is a folder: give {path.with_suffix('')}")
        check_free(path)
        self._partial = path.parent / f".{path.name}.partial"
        try:
            self._partial.mkdir(parents=True, exist_ok=True)
            self._lock = (self._partial / "lock").open("w")
            self._take_lock()
            self._inside = self._partial / path.name
            shutil.rmtree(self._inside, ignore_errors=True)
            self._writer = Writer(
                self._inside, version=METADATA_VERSIONS[metadata], storage_plugin=STORAGES[storage]
            )
            if compression == "zstd":  # chunks of MCAP, as every viewer reads them; SQLite has none
                mode = CompressionMode.STORAGE if storage == "mcap" else CompressionMode.MESSAGE
                self._writer.set_compression(mode, CompressionFormat.ZSTD)
            for key, value in (custom_data or {}).items():
                self._writer.set_custom_data(key, value)
            self._writer.open()
            self._connections: dict[Topic, Connection] = {topic: self._add(topic) for topic in topics}
        except OSError as error:
            raise self._failed(error) from error

    def __enter__(self) -> BagWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> Literal[False]:
        try:
            if kind is None:
                self._finish()
        except (OSError, sqlite3.Error, WriterError) as failure:
            raise self._failed(failure) from failure
        finally:
            with suppress(Exception):
                self._writer.abort()
            shutil.rmtree(self._partial, ignore_errors=True)
            self._lock.close()
        return False

    @property
    def folder(self) -> Path:
        """Where files to go with the bag may be put before it comes into being."""
        return self._inside

    def write(self, topic: Topic, log_time: int, data: bytes | memoryview) -> None:
        """Add a message. Raises BagError where the disk is full or gone."""
        try:
            self._writer.write(self._connections[topic], log_time, data)
        except (OSError, sqlite3.Error) as error:
            raise self._failed(error) from error

    def _finish(self) -> None:
        self._writer.close()
        check_free(self.path)
        self._inside.rename(self.path)

    def _take_lock(self) -> None:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BagError(f"{self.path} is being written by another run; wait for it, or stop it") from error

    def _add(self, topic: Topic) -> Connection:
        definition, known_hash = topic.definition, topic.type_hash
        if not definition:
            definition, type_hash = definition_of(topic.type)
            known_hash = known_hash or type_hash
        return self._writer.add_connection(
            topic.name,
            topic.type,
            msgdef=definition,
            rihs01=known_hash or hash_of(topic.type, definition) or UNKNOWN_HASH,
            serialization_format=topic.serialization,
            offered_qos_profiles=topic.qos,
        )

    def _failed(self, error: Exception) -> BagError:
        free = ""
        with suppress(OSError):
            free = f"; free there: {shutil.disk_usage(self.path.parent).free / 2**30:.1f} GiB"
        return BagError(
            f"{self.path} cannot be written: {error}{free}. Nothing of it was kept; give a place with more "
            "room that you may write to"
        )


def check_free(path: Path) -> None:
    """Raise BagError where something is at this path already."""
    if path.exists() or path.is_symlink():
        raise BagError(f"{path} exists; nothing is overwritten: remove it, or give another name")
