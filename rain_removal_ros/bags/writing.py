"""Writes a bag so that it is there whole or not at all: beside its place first, and put there at the end."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from rosbags.interfaces import Connection
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer, WriterError
from ruamel.yaml import YAML

from rain_removal_ros.bags.mcap_files import Extra, McapWriter
from rain_removal_ros.bags.messages import definition_of, hash_of
from rain_removal_ros.bags.sqlite_files import Sqlite3Writer
from rain_removal_ros.bags.storage import METADATA
from rain_removal_ros.bags.stored import ROS_ENCODINGS, Schema, Topic
from rain_removal_ros.errors import BagError
from rain_removal_ros.locks import take_lock

STORAGES = {"mcap": StoragePlugin.MCAP, "sqlite3": StoragePlugin.SQLITE3}
METADATA_VERSIONS: Mapping[str, Literal[8, 9]] = {"jazzy": 9, "humble": 8}
"""The metadata.yaml that each distribution and the ones after it read."""

PARTS = "parts"
INFORMATION = "rosbag2_bagfile_information"

FAILURES = (OSError, sqlite3.Error, WriterError)
"""What the disk, or the library that writes to it, may say."""

UNKNOWN_HASH = "RIHS01_" + "0" * 64
"""Written for a type whose definition neither the bag nor ROS 2 Jazzy holds."""


@dataclass(frozen=True)
class Split:
    """When a bag goes on in another file; 0: not for this reason.

    size: bytes of the messages, before compression. seconds: of the bag's time. A message is never cut, and
    each file names every topic with its quality of service, so that it can be played by itself.
    """

    size: int = 0
    seconds: float = 0.0

    def __bool__(self) -> bool:
        return bool(self.size or self.seconds)


class _Writer(Writer):
    STORAGE_PLUGINS: Mapping[StoragePlugin, type[Any]] = {
        StoragePlugin.MCAP: McapWriter,
        StoragePlugin.SQLITE3: Sqlite3Writer,
    }
    storage: McapWriter | Sqlite3Writer | None

    def add_topic(self, topic: Topic) -> Connection:
        """Add a topic with all that is known of it."""
        assert self.storage is not None
        self.storage.topics[topic.name, topic.type] = topic
        return self.add_connection(
            topic.name,
            topic.type,
            msgdef=_text_of(topic.schema) or "",
            rihs01=topic.type_hash,
            serialization_format=topic.serialization,
            offered_qos_profiles=topic.qos,
        )


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
        split: Split | None = None,
    ):
        """Raises BagError where the bag exists, another run writes it, or its folder cannot be written."""
        self.path = path
        if path.suffix in (".mcap", ".db3"):
            raise BagError(f"{path} names a file; a bag is a folder: give {path.with_suffix('')}")
        try:
            path.name.encode()
        except UnicodeEncodeError as error:  # a bag holds its files' names as text
            raise BagError(f"{path.name!a} is no text in UTF-8; give another name") from error
        check_free(path)
        self._topics = tuple(topics)
        check_storable(self._topics, storage)
        self._partial = _partial_of(path)
        try:
            self._partial.mkdir(parents=True, exist_ok=True)
            self._lock = (self._partial / "lock").open("w")
            self._take_lock()
        except OSError as error:
            raise self._failed(error) from error
        self._inside = self._partial / path.name
        self._split = split or Split()
        self._storage, self._version = storage, METADATA_VERSIONS[metadata]
        self._zstd, self._custom_data = compression == "zstd", dict(custom_data or {})
        self._parts: list[Path] = []
        self._began: int | None = None  # of the first message in this file, ns
        try:
            for old in (self._inside, self._partial / PARTS):
                shutil.rmtree(old, ignore_errors=True)
            if self._split:
                self._inside.mkdir()
                self._open(self._partial / PARTS / f"{path.name}_0")
            else:
                self._open(self._inside)
        except BaseException as error:
            self._discard()
            if isinstance(error, FAILURES):
                raise self._failed(error) from error
            raise

    def __enter__(self) -> BagWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> Literal[False]:
        try:
            if kind is None:
                self._finish()
        except FAILURES as failure:
            raise self._failed(failure) from failure
        finally:
            self._discard()
        return False

    @property
    def folder(self) -> Path:
        """Where files to go with the bag may be put before it comes into being."""
        return self._inside

    def write(self, topic: Topic, log_time: int, data: bytes | memoryview) -> None:
        """Add a message. Raises BagError where the disk is full or gone."""
        try:
            if self._is_full(log_time, len(data)):
                self._writer.close()
                self._open(self._partial / PARTS / f"{self.path.name}_{len(self._parts)}")
            self._writer.write(self._connections[topic], log_time, data)
            self._bytes += len(data)
            self._began = log_time if self._began is None else self._began
        except FAILURES as error:
            raise self._failed(error) from error

    def attach(self, extra: Extra) -> None:
        """Put an attachment, or a note, into the file that is being written. SQLite takes none."""
        assert isinstance(self._writer.storage, McapWriter)
        try:
            self._writer.storage.attach(extra)
        except FAILURES as error:
            raise self._failed(error) from error

    def _open(self, folder: Path) -> None:
        """Begin a file, in a bag of its own."""
        self._writer = _Writer(folder, version=self._version, storage_plugin=STORAGES[self._storage])
        if self._zstd:  # chunks of MCAP, as every viewer reads them; SQLite has none
            mode = CompressionMode.STORAGE if self._storage == "mcap" else CompressionMode.MESSAGE
            self._writer.set_compression(mode, CompressionFormat.ZSTD)
        for key, value in self._custom_data.items():
            self._writer.set_custom_data(key, value)
        self._writer.open()
        self._parts.append(folder)
        self._bytes = 0
        self._began = None
        self._connections: dict[Topic, Connection] = {
            topic: self._writer.add_topic(_completed(topic)) for topic in self._topics
        }

    def _is_full(self, log_time: int, size: int) -> bool:
        """Whether the next message belongs into another file."""
        if self._began is None:
            return False
        if self._split.size and self._bytes + size > self._split.size:
            return True
        return bool(self._split.seconds) and log_time - self._began >= self._split.seconds * 1e9

    def _finish(self) -> None:
        self._writer.close()
        if self._split:
            self._join()
        for name in _information(self._inside)["relative_file_paths"]:
            if not (self._inside / name).is_file():
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
        check_free(self.path)
        self._inside.rename(self.path)

    def _join(self) -> None:
        """Make one bag of the parts: their files, and a metadata.yaml of them all."""
        yaml = YAML(typ="safe")
        yaml.default_flow_style = False
        parts = [_information(part) for part in self._parts]
        whole = dict(parts[0])
        whole["relative_file_paths"] = [name for part in parts for name in part["relative_file_paths"]]
        whole["files"] = [file for part in parts for file in part["files"]]
        whole["message_count"] = sum(part["message_count"] for part in parts)
        starts = [part["starting_time"]["nanoseconds_since_epoch"] for part in parts]
        lengths = [part["duration"]["nanoseconds"] for part in parts]
        end = max(start + length for start, length in zip(starts, lengths, strict=True))
        whole["starting_time"] = {"nanoseconds_since_epoch": min(starts)}
        whole["duration"] = {"nanoseconds": end - min(starts)}
        topics = zip(*(part["topics_with_message_count"] for part in parts), strict=True)
        whole["topics_with_message_count"] = [
            {**same[0], "message_count": sum(each["message_count"] for each in same)} for same in topics
        ]
        for part, written in zip(self._parts, parts, strict=True):
            for name in written["relative_file_paths"]:
                (part / name).rename(self._inside / name)
        with (self._inside / METADATA).open("w", encoding="utf-8") as file:
            yaml.dump({INFORMATION: whole}, file)

    def _discard(self) -> None:
        """Remove what has not come into being, and let others write the bag."""
        with suppress(Exception):
            self._writer.abort()
        shutil.rmtree(self._partial, ignore_errors=True)
        self._lock.close()

    def _take_lock(self) -> None:
        if not take_lock(self._lock):
            raise BagError(f"{self.path} is being written by another run; wait for it, or stop it")

    def _failed(self, error: Exception) -> BagError:
        free = ""
        with suppress(OSError):
            free = f"; free there: {shutil.disk_usage(self.path.parent).free / 2**30:.1f} GiB"
        return BagError(
            f"{self.path} cannot be written: {error}{free}. Nothing of it was kept; give a place with more "
            "room that you may write to"
        )


def _information(folder: Path) -> dict[str, Any]:
    """What the metadata.yaml of a bag says."""
    content: dict[str, Any] = YAML(typ="safe").load((folder / METADATA).read_text("utf-8"))[INFORMATION]
    return content


def _partial_of(path: Path) -> Path:
    """The folder in which the bag `path` is written."""
    return path.parent / f".{path.name}.partial"


def discard_unfinished(path: Path) -> None:
    """Remove what a run that was killed left of the bag `path`, unless another run writes it now."""
    with suppress(OSError), (_partial_of(path) / "lock").open("r+") as lock:
        if take_lock(lock):
            shutil.rmtree(_partial_of(path), ignore_errors=True)


def _completed(topic: Topic) -> Topic:
    """The topic with the definition and the type hash that the bag does not hold, where they are known."""
    schema, known_hash = topic.schema, topic.type_hash
    if schema is None:
        definition, type_hash = definition_of(topic.type)
        schema, known_hash = Schema.of_text(definition), known_hash or type_hash
    known_hash = known_hash or hash_of(topic.type, _text_of(schema)) or UNKNOWN_HASH
    return replace(topic, schema=schema, type_hash=known_hash)


def _text_of(schema: Schema | None) -> str | None:
    """A definition of ROS as text; None for any other."""
    return schema.data.decode("utf-8", "replace") if schema and schema.encoding in ROS_ENCODINGS else None


def check_storable(topics: Iterable[Topic], storage: str) -> None:
    """Raise BagError for a topic that this kind of storage has no place for."""
    if storage != "sqlite3":
        return
    schemas: dict[str, Topic] = {}
    for topic in topics:
        if topic.schema is None:
            continue
        if topic.schema.encoding not in ROS_ENCODINGS:
            raise BagError(
                f"{topic.name} has a definition in {topic.schema.encoding}; bags of SQLite take those of ROS "
                "alone: choose mcap"
            )
        other = schemas.setdefault(topic.type, topic)
        if other.schema != topic.schema:
            raise BagError(
                f"{other.name} and {topic.name} have two definitions of {topic.type}; bags of SQLite take "
                "one: choose mcap"
            )


def check_free(path: Path) -> None:
    """Raise BagError where something is at this path already."""
    if path.exists() or path.is_symlink():
        raise BagError(f"{path} exists; nothing is overwritten: remove it, or give another name")
