"""Reads a bag of rosbag2 as it lies on the disk: MCAP or SQLite, split, compressed, unfinished or damaged.

A storage file is read by what it holds itself; `metadata.yaml` adds what only it knows (the files' order,
quality of service, type hashes). Knows topics and bytes, not what messages mean.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import zstandard
from rosbags.rosbag2.errors import ReaderError
from rosbags.typesys import Stores
from ruamel.yaml import YAML, YAMLError

from rain_removal_ros.bags.mcap_files import Extra, McapFile
from rain_removal_ros.bags.sqlite_files import Sqlite3File
from rain_removal_ros.bags.stored import Topic, is_the_machines, qos_of, words
from rain_removal_ros.bags.unpacking import PackedFile, Unpacker
from rain_removal_ros.errors import BagError
from rain_removal_ros.paths import exists

__all__ = ["COMPRESSED", "METADATA", "SUFFIXES", "Bag", "Record", "Topic"]

METADATA = "metadata.yaml"
SUFFIXES = {".mcap": "mcap", ".db3": "sqlite3"}
COMPRESSED = ".zstd"
ZSTD = b"\x28\xb5\x2f\xfd"
"""What compressed data begin with; CDR begins with a zero."""

FOXYS_METADATA = 4
"""The highest version of metadata.yaml that Foxy wrote; Humble wrote the next."""


class Record(NamedTuple):
    """One message as stored."""

    topic: Topic
    log_time: int  # ns, when it was recorded
    data: bytes


@dataclass(frozen=True)
class _Metadata:
    files: tuple[str, ...]
    topics: tuple[Topic, ...]
    version: int
    message_compression: bool
    custom_data: dict[str, str]


class Bag:
    """A bag to read from; a context manager.

    topics: in the order in which the bag lists them.
    custom_data: what whoever recorded it noted in metadata.yaml.
    notices: what is unusual about the bag but takes nothing away, such as a missing metadata.yaml.
    damage: what could not be read, known in full after the last message.
    """

    def __init__(self, path: Path):
        """Raises BagError where there is no bag, nothing of it can be read, or its disk fails."""
        self.path = path
        self.notices: list[str] = []
        self._damage: dict[str, str] = {}  # by file
        self._stack = ExitStack()
        self._unpacker = self._stack.enter_context(closing(Unpacker(self._open_plain)))
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Bag:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the files and remove what was unpacked."""
        self._stack.close()

    @property
    def damage(self) -> list[str]:
        return [f"{name}: {what}" for name, what in self._damage.items()]

    @property
    def message_count(self) -> int:
        """As far as the bag says."""
        return sum(topic.count for topic in self.topics)

    @property
    def bounds(self) -> tuple[int, int]:
        """When the first and the last message were recorded, ns; (0, 0) for a bag without any."""
        known = [bounds for file in self._files if (bounds := file.bounds()) is not None]
        return (min(first for first, _ in known), max(last for _, last in known)) if known else (0, 0)

    def topic(self, name: str) -> Topic | None:
        """The topic of this name, given with or without its leading slash."""
        return next((t for t in self.topics if t.name.lstrip("/") == name.lstrip("/")), None)

    def messages(
        self, topics: Collection[Topic] | None = None, start: int | None = None, stop: int | None = None
    ) -> Iterator[Record]:
        """Messages in the order in which they were recorded, of all topics or of these.

        start, stop: ns; only messages recorded from `start` on and before `stop`.
        At damage, the rest of that file is left out and `damage` says so. Raises BagError where it is the
        disk that fails, or memory, rather than what the file holds.
        """
        chosen = {(topic.name, topic.type): topic for topic in (self.topics if topics is None else topics)}
        for file in self._files:
            read = 0
            try:
                for key, log_time, data in file.messages(chosen, start, stop):
                    if self._is_compressed(data):
                        data = zstandard.ZstdDecompressor().decompress(data)
                    read += 1
                    yield Record(chosen[key], log_time, data)
            except BagError:  # no fault of the bag's
                raise
            except Exception as error:  # whatever the damage makes of the libraries that read it
                if is_the_machines(error):
                    raise _failed(file.path, error) from error
                self._damaged(file.path.name, f"{words(error)}; read were the {read} messages before it")

    def extras(self) -> Iterator[Extra]:
        """The attachments and notes that its MCAP files hold; damage and errors are as in `messages`."""
        for file in self._files:
            if not file.extras:
                continue
            try:
                yield from file.read_extras()
            except BagError:
                raise
            except Exception as error:  # as above
                if is_the_machines(error):
                    raise _failed(file.path, error) from error
                self._damaged(file.path.name, f"its attachments cannot be read: {words(error)}")

    # -- opening -----------------------------------------------------------------------------------

    def _open(self) -> None:
        metadata, paths = self._find()
        self._metadata = metadata
        self.custom_data = metadata.custom_data if metadata is not None else {}
        self._files = []
        for path in paths:
            try:
                self._files.append(self._stack.enter_context(closing(self._open_file(path))))
            except BagError:
                raise
            except Exception as error:  # as above
                if is_the_machines(error):
                    raise _failed(path, error) from error
                self._damaged(path.name, f"it cannot be read at all: {words(error)}")
        if not self._files:
            raise BagError(f"{self.path} is no bag, or damaged beyond reading: {'; '.join(self.damage)}")
        for file in self._files:
            if file.damage:
                self._damaged(file.path.name, file.damage)
        self.topics = _merged([metadata.topics if metadata else (), *(file.topics for file in self._files)])
        self.notices += _defined_twice(topic for file in self._files for topic in file.topics)

    def _is_compressed(self, data: bytes) -> bool:
        """Whether a message is; only metadata.yaml says so, and without it the message's first bytes."""
        if self._metadata is not None:
            return self._metadata.message_compression
        return data[: len(ZSTD)] == ZSTD

    def _damaged(self, name: str, what: str) -> None:
        self._damage[name] = what

    def _find(self) -> tuple[_Metadata | None, list[Path]]:
        path = self.path
        if not exists(path):
            raise BagError(f"{path} does not exist; give a bag's folder, or its .mcap or .db3 file")
        if path.is_file():
            if path.suffix == ".bag":
                raise BagError(
                    f"{path} is a ROS 1 bag; convert it first: rosbags-convert --src {path} --dst {path.stem}"
                )
            if _kind(path) is None:
                raise BagError(f"{path} is no bag; give a bag's folder, or its .mcap or .db3 file")
            return None, [path]
        try:
            found = sorted((p for p in path.iterdir() if _kind(p) and not p.is_dir()), key=_by_number)
        except OSError as error:
            raise BagError(f"{path} cannot be read: {error.strerror}") from error
        metadata = self._read_metadata(path / METADATA)
        if metadata is None:
            if not found:
                raise BagError(f"{path} is no bag: it holds neither {METADATA} nor a .mcap or .db3 file")
            return None, found
        paths = [path / Path(name).name for name in metadata.files]
        for missing in [p for p in paths if not p.is_file()]:
            packed = missing.with_name(missing.name + COMPRESSED)
            unpacked = missing.with_suffix("") if missing.suffix == COMPRESSED else missing
            other = next((p for p in (packed, unpacked) if p.is_file()), None)
            if other is None:
                self._damaged(missing.name, f"{METADATA} names this file, but it is missing")
                paths.remove(missing)
            else:
                paths[paths.index(missing)] = other
        named = {each.name.removesuffix(COMPRESSED) for each in paths}
        strange = [each.name for each in found if each.name.removesuffix(COMPRESSED) not in named]
        if strange:
            self.notices.append(
                f"{METADATA} does not name {', '.join(strange)}; give what it does not name by itself, or "
                f"remove {METADATA}, which has all files read as found"
            )
        return metadata, paths

    def _read_metadata(self, path: Path) -> _Metadata | None:
        try:
            content = YAML(typ="safe").load(path.read_text("utf-8"))["rosbag2_bagfile_information"]
            return _Metadata(
                files=tuple(content["relative_file_paths"]),
                topics=tuple(_topic_of(each) for each in content["topics_with_message_count"]),
                version=int(content.get("version", 0)),
                message_compression=(content.get("compression_mode") or "").lower() == "message",
                custom_data={str(k): str(v) for k, v in (content.get("custom_data") or {}).items()},
            )
        except FileNotFoundError:
            self.notices.append(
                f"{METADATA} is missing: the recording was not ended; its files are read as found"
            )
            return None
        except OSError as error:
            raise BagError(f"{path} cannot be read: {error.strerror}") from error
        except (YAMLError, ReaderError, KeyError, TypeError, ValueError, AttributeError) as error:
            self.notices.append(f"{METADATA} is damaged ({words(error)}); the bag's files are read as found")
            return None

    def _open_file(self, path: Path) -> McapFile | Sqlite3File | PackedFile:
        return PackedFile(path, self._unpacker) if path.suffix == COMPRESSED else self._open_plain(path)

    def _open_plain(self, path: Path) -> McapFile | Sqlite3File:
        if _kind(path) == "mcap":
            return McapFile(path)
        old = self._metadata is not None and self._metadata.version <= FOXYS_METADATA
        return Sqlite3File(path, Stores.ROS2_FOXY if old else Stores.ROS2_HUMBLE)


def _kind(path: Path) -> str | None:
    name = path.name.removesuffix(COMPRESSED)
    return SUFFIXES.get(Path(name).suffix)


def _by_number(path: Path) -> list[Any]:
    """drive_2.mcap comes before drive_10.mcap."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path.name)]


def _topic_of(entry: dict[str, Any]) -> Topic:
    metadata = entry["topic_metadata"]
    return Topic(
        metadata["name"],
        metadata["type"],
        type_hash=metadata.get("type_description_hash") or "",
        serialization=metadata["serialization_format"],
        qos=qos_of(metadata.get("offered_qos_profiles")),
    )


def _merged(lists: Collection[Collection[Topic]]) -> list[Topic]:
    """One topic for each name and type: what one file does not say of it, another may."""
    merged: dict[tuple[str, str], Topic] = {}
    for topic in (topic for topics in lists for topic in topics):
        known = merged.setdefault((topic.name, topic.type), replace(topic, count=0))
        merged[topic.name, topic.type] = replace(
            known,
            schema=known.schema or topic.schema,
            notes=known.notes or topic.notes,
            type_hash=known.type_hash or topic.type_hash,
            qos=known.qos or topic.qos,
            count=known.count + topic.count,
        )
    return list(merged.values())


def _defined_twice(topics: Iterable[Topic]) -> list[str]:
    """A notice of each topic that the files define in several ways; the first way is what a copy gets."""
    ways: dict[tuple[str, str], set[tuple[Any, ...]]] = {}
    for topic in topics:
        ways.setdefault((topic.name, topic.type), set()).add((topic.schema, topic.serialization))
    return [
        f"{name} ({kind}) is defined in {len(each)} ways; the first definition is taken for all its messages"
        for (name, kind), each in ways.items()
        if len(each) > 1
    ]


def _failed(path: Path, error: BaseException) -> BagError:
    """What the machine failed in, rather than the bag."""
    why = "there is no memory left" if isinstance(error, MemoryError) else getattr(error, "strerror", error)
    remedy = "change its permissions" if isinstance(error, PermissionError) else "try again, or copy it first"
    return BagError(f"{path} cannot be read: {why}; {remedy}")
