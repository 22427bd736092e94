"""Reads a bag of rosbag2 as it lies on the disk: MCAP or SQLite, split, compressed, unfinished or damaged.

A storage file is read by what it holds itself; `metadata.yaml` adds what only it knows (the files' order,
quality of service, type hashes). Knows topics and bytes, not what messages mean.
"""

from __future__ import annotations

import re
import shutil
import sqlite3
import tempfile
from collections.abc import Collection, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import zstandard
from mcap.exceptions import McapError
from mcap.reader import SeekingReader
from mcap.records import Channel, Message, Schema
from mcap.stream_reader import StreamReader
from rosbags.interfaces import Qos
from rosbags.rosbag2.errors import ReaderError
from rosbags.rosbag2.metadata import parse_qos
from rosbags.typesys import Stores
from ruamel.yaml import YAML, YAMLError

from rain_removal_ros.bags.messages import definition_of
from rain_removal_ros.errors import BagError

METADATA = "metadata.yaml"
SUFFIXES = {".mcap": "mcap", ".db3": "sqlite3"}
COMPRESSED = ".zstd"
ZSTD = b"\x28\xb5\x2f\xfd"
"""What compressed data begin with; CDR begins with a zero."""

FOXYS_METADATA = 4
"""The highest version of metadata.yaml that Foxy wrote; Humble wrote the next."""


@dataclass(frozen=True, eq=False)
class Topic:
    """A topic of a bag, with all that a copy of it has to say."""

    name: str
    type: str  # sensor_msgs/msg/Image
    definition: str = ""  # text of the message definition; empty: the bag does not hold it
    type_hash: str = ""  # RIHS01_...; empty: the bag does not hold it
    serialization: str = "cdr"
    qos: tuple[Qos, ...] = ()
    count: int = 0  # messages, as far as the bag says


class Record(NamedTuple):
    """One message as stored."""

    topic: Topic
    log_time: int  # ns, when it was recorded
    data: bytes


class _Stored(NamedTuple):
    """One message of a storage file, before its topic is known by the bag's own object."""

    key: tuple[str, str]
    log_time: int
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
        """Raises BagError where there is no bag, or nothing of it can be read."""
        self.path = path
        self.notices: list[str] = []
        self._damage: dict[str, str] = {}  # by file
        self._stack = ExitStack()
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
        At damage, the rest of that file is left out and `damage` says so.
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
            except Exception as error:  # whatever the damage makes of the libraries that read it
                self._damaged(file.path.name, f"{_words(error)}; read were the {read} messages before it")

    # -- opening -----------------------------------------------------------------------------------

    def _open(self) -> None:
        metadata, paths = self._find()
        self._metadata = metadata
        self.custom_data = metadata.custom_data if metadata is not None else {}
        self._files = []
        for path in paths:
            try:
                self._files.append(self._stack.enter_context(closing(self._open_file(path))))
            except PermissionError as error:
                raise BagError(f"{path} cannot be read: {error.strerror}") from error
            except BagError:  # no fault of the bag's
                raise
            except Exception as error:  # as above
                self._damaged(path.name, f"it cannot be read at all: {_words(error)}")
        if not self._files:
            raise BagError(f"{self.path} is no bag, or damaged beyond reading: {'; '.join(self.damage)}")
        for file in self._files:
            if file.damage:
                self._damaged(file.path.name, file.damage)
        self.topics = _merged([metadata.topics if metadata else (), *(file.topics for file in self._files)])

    def _is_compressed(self, data: bytes) -> bool:
        """Whether a message is; only metadata.yaml says so, and without it the message's first bytes."""
        if self._metadata is not None:
            return self._metadata.message_compression
        return data[: len(ZSTD)] == ZSTD

    def _damaged(self, name: str, what: str) -> None:
        self._damage[name] = what

    def _find(self) -> tuple[_Metadata | None, list[Path]]:
        path = self.path
        if not path.exists():
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
            found = sorted((p for p in path.iterdir() if _kind(p)), key=_by_number)
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
        return metadata, paths

    def _read_metadata(self, path: Path) -> _Metadata | None:
        try:
            text = path.read_text("utf-8")
        except FileNotFoundError:
            self.notices.append(
                f"{METADATA} is missing: the recording was not ended; its files are read as found"
            )
            return None
        except OSError as error:
            raise BagError(f"{path} cannot be read: {error.strerror}") from error
        try:
            content = YAML(typ="safe").load(text)["rosbag2_bagfile_information"]
            return _Metadata(
                files=tuple(content["relative_file_paths"]),
                topics=tuple(_topic_of(each) for each in content["topics_with_message_count"]),
                version=int(content.get("version", 0)),
                message_compression=(content.get("compression_mode") or "").lower() == "message",
                custom_data={str(k): str(v) for k, v in (content.get("custom_data") or {}).items()},
            )
        except (YAMLError, ReaderError, KeyError, TypeError, ValueError, AttributeError) as error:
            self.notices.append(f"{METADATA} is damaged ({_words(error)}); the bag's files are read as found")
            return None

    def _open_file(self, path: Path) -> _McapFile | _Sqlite3File:
        if path.suffix == COMPRESSED:
            path = self._unpack(path)
        if _kind(path) == "mcap":
            return _McapFile(path)
        old = self._metadata is not None and self._metadata.version <= FOXYS_METADATA
        return _Sqlite3File(path, Stores.ROS2_FOXY if old else Stores.ROS2_HUMBLE)

    def _unpack(self, path: Path) -> Path:
        """The unpacked file, in a temporary folder. Raises BagError where there is no room for it."""
        folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="bag-")))
        unpacked = folder / path.stem
        with path.open("rb") as packed:
            try:
                with unpacked.open("wb") as target:
                    self._decompress(packed, target, path.name)
            except OSError as error:
                raise BagError(
                    f"{path} cannot be unpacked into {folder.parent} ({error.strerror}); make room there, or "
                    "name another folder in TMPDIR"
                ) from error
        return unpacked

    def _decompress(self, packed: BinaryIO, target: BinaryIO, name: str) -> None:
        try:
            with zstandard.ZstdDecompressor().stream_reader(packed, read_across_frames=True) as source:
                shutil.copyfileobj(source, target, 1 << 22)
        except zstandard.ZstdError as error:
            self._damaged(name, f"unpacked up to the damage only: {error}")


class _McapFile:
    """One MCAP file. Without its index (an unfinished recording) it is read from front to back."""

    def __init__(self, path: Path):
        self.path = path
        self.damage = ""
        self._indexed = False
        self._bounds: tuple[int, int] | None = None
        with path.open("rb") as file:
            try:
                summary = SeekingReader(file, validate_crcs=True).get_summary()
                if summary is None or not summary.channels:
                    raise McapError("no index")
                self._indexed = bool(summary.chunk_indexes)
                statistics = summary.statistics
                counts = statistics.channel_message_counts if statistics else {}
                if statistics and statistics.message_count:
                    self._bounds = statistics.message_start_time, statistics.message_end_time
                schemas, channels = summary.schemas, summary.channels
            except Exception:  # the end of the file is missing, or something in its stead
                schemas, channels, counts = self._scan(file)
                if not channels and self.damage:
                    raise
        self.topics = [
            _topic_of_channel(channel, schemas.get(channel.schema_id), counts.get(number, 0))
            for number, channel in channels.items()
        ]

    def close(self) -> None:
        """Nothing: every reading opens the file for itself."""

    def bounds(self) -> tuple[int, int] | None:
        """When the first and the last message were recorded; None where there is none."""
        return self._bounds

    def messages(
        self, wanted: Collection[tuple[str, str]], start: int | None, stop: int | None
    ) -> Iterator[_Stored]:
        with self.path.open("rb") as file:
            if not self._indexed:
                yield from self._stream(file, wanted, start, stop)
                return
            reader = SeekingReader(file, validate_crcs=True)
            names = {name for name, _ in wanted}
            for schema, channel, message in reader.iter_messages(
                names, starting_at=start, ending_before=stop
            ):
                key = channel.topic, schema.name if schema else ""
                if key in wanted:
                    yield _Stored(key, message.log_time, message.data)

    def _stream(
        self, file: BinaryIO, wanted: Collection[tuple[str, str]], start: int | None, stop: int | None
    ) -> Iterator[_Stored]:
        schemas: dict[int, Schema] = {}
        keys: dict[int, tuple[str, str]] = {}
        try:
            for record in StreamReader(file, validate_crcs=True).records:
                if isinstance(record, Schema):
                    schemas[record.id] = record
                elif isinstance(record, Channel):
                    schema = schemas.get(record.schema_id)
                    keys[record.id] = record.topic, schema.name if schema else ""
                elif isinstance(record, Message) and keys[record.channel_id] in wanted:
                    time = record.log_time
                    if (start is None or time >= start) and (stop is None or time < stop):
                        yield _Stored(keys[record.channel_id], time, record.data)
        except Exception:
            if not self.damage:  # else it was said when the file was opened
                raise

    def _scan(self, file: BinaryIO) -> tuple[dict[int, Schema], dict[int, Channel], dict[int, int]]:
        """What a file without index holds, up to its damage."""
        file.seek(0)
        schemas: dict[int, Schema] = {}
        channels: dict[int, Channel] = {}
        counts: dict[int, int] = {}
        try:
            for record in StreamReader(file, validate_crcs=True).records:
                if isinstance(record, Schema):
                    schemas[record.id] = record
                elif isinstance(record, Channel):
                    channels[record.id] = record
                elif isinstance(record, Message):
                    counts[record.channel_id] = counts.get(record.channel_id, 0) + 1
                    first, last = self._bounds or (record.log_time, record.log_time)
                    self._bounds = min(first, record.log_time), max(last, record.log_time)
        except Exception as error:  # of whatever the damage makes
            self.damage = f"it ends early ({_words(error)}) after {sum(counts.values())} messages"
        return schemas, channels, counts


class _Sqlite3File:
    """One SQLite file, of any of rosbag2's schemas, with the write-ahead log that a recorder left.

    distribution: whose message definitions a file is taken to mean that is too old to hold any.
    """

    def __init__(self, path: Path, distribution: Stores = Stores.ROS2_HUMBLE):
        self.path, self._distribution = path, distribution
        self.damage = ""
        with path.open("rb") as file:  # SQLite does not tell a missing permission from a missing file
            if file.read(16) != b"SQLite format 3\0":
                raise ValueError("it is no SQLite database")
        logged = path.with_name(path.name + "-wal")
        has_log = logged.is_file() and logged.stat().st_size > 0
        try:
            self._connect("mode=ro" if has_log else "mode=ro&immutable=1")
        except sqlite3.OperationalError as error:
            if not has_log:
                raise
            self.damage = f"its write-ahead log cannot be read ({error}); give write access to its folder"
            self._connect("mode=ro&immutable=1")

    def close(self) -> None:
        self._connection.close()

    def bounds(self) -> tuple[int, int] | None:
        """When the first and the last message were recorded; None where there is none, or it is damaged."""
        try:
            first, last = self._connection.execute(
                "SELECT MIN(timestamp), MAX(timestamp) FROM messages"
            ).fetchone()
        except sqlite3.Error:
            return None
        return None if first is None else (first, last)

    def messages(
        self, wanted: Collection[tuple[str, str]], start: int | None, stop: int | None
    ) -> Iterator[_Stored]:
        ids = [number for number, key in self._keys.items() if key in wanted]
        bounds = [("timestamp >= ?", start), ("timestamp < ?", stop)]
        conditions = [
            f"topic_id IN ({','.join('?' * len(ids))})",
            *(c for c, value in bounds if value is not None),
        ]
        values = [*ids, *(value for _, value in bounds if value is not None)]
        order = "id" if self.damage else "timestamp, id"  # a damaged file's index may be what is damaged
        query = "SELECT topic_id, timestamp, data FROM messages"
        query += f" WHERE {' AND '.join(conditions)} ORDER BY {order}"
        for number, log_time, data in self._connection.execute(query, values):
            yield _Stored(self._keys[number], log_time, data)

    def _connect(self, how: str) -> None:
        self._connection = sqlite3.connect(
            f"{self.path.absolute().as_uri()}?{how}", uri=True, check_same_thread=False
        )
        self._connection.execute("PRAGMA writable_schema=ON")  # else SQLite reads nothing of a truncated file
        try:
            self.topics, self._keys = self._read_topics()
        except BaseException:
            self._connection.close()
            raise

    def _read_topics(self) -> tuple[list[Topic], dict[int, tuple[str, str]]]:
        columns = {row[1] for row in self._connection.execute("PRAGMA table_info(topics)")}
        if not columns:
            raise ValueError("it holds no topics")
        optional = [c for c in ("offered_qos_profiles", "type_description_hash") if c in columns]
        chosen = ", ".join(["id", "name", "type", "serialization_format", *optional])
        rows = self._connection.execute(f"SELECT {chosen} FROM topics ORDER BY id").fetchall()
        hashes: dict[str, str] = {}
        try:
            definitions = dict(
                self._connection.execute(
                    "SELECT topic_type, encoded_message_definition FROM message_definitions"
                )
            )
        except sqlite3.Error:
            definitions = {}
        if "type_description_hash" not in columns:  # before Iron a bag held neither definitions nor hashes
            known = {row[2]: definition_of(row[2], self._distribution) for row in rows}
            definitions = {kind: definition for kind, (definition, _) in known.items()}
            hashes = {kind: type_hash for kind, (_, type_hash) in known.items()}
        try:
            counts = dict(
                self._connection.execute("SELECT topic_id, count(*) FROM messages GROUP BY topic_id")
            )
        except sqlite3.Error as error:
            self.damage = f"it is damaged ({error}); read is what comes before"
            counts = {}
        topics = []
        for number, name, kind, serialization, *rest in rows:
            extra = dict(zip(optional, rest, strict=True))
            topics.append(
                Topic(
                    name,
                    kind,
                    definitions.get(kind, ""),
                    extra.get("type_description_hash") or hashes.get(kind, ""),
                    serialization,
                    _qos(extra.get("offered_qos_profiles")),
                    counts.get(number, 0),
                )
            )
        return topics, {row[0]: (row[1], row[2]) for row in rows}


def _kind(path: Path) -> str | None:
    name = path.name.removesuffix(COMPRESSED)
    return SUFFIXES.get(Path(name).suffix)


def _by_number(path: Path) -> list[Any]:
    """drive_2.mcap comes before drive_10.mcap."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path.name)]


def _words(error: BaseException) -> str:
    text = str(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _qos(text: Any) -> tuple[Qos, ...]:
    try:
        return tuple(parse_qos(text or []))
    except (ReaderError, KeyError, TypeError):  # a profile that says too little says nothing
        return ()


def _topic_of(entry: dict[str, Any]) -> Topic:
    metadata = entry["topic_metadata"]
    return Topic(
        metadata["name"],
        metadata["type"],
        type_hash=metadata.get("type_description_hash") or "",
        serialization=metadata["serialization_format"],
        qos=_qos(metadata.get("offered_qos_profiles")),
    )


def _topic_of_channel(channel: Channel, schema: Schema | None, count: int) -> Topic:
    return Topic(
        channel.topic,
        schema.name if schema else "",
        schema.data.decode("utf-8", "replace") if schema else "",
        channel.metadata.get("topic_type_hash", ""),
        channel.message_encoding,
        _qos(channel.metadata.get("offered_qos_profiles")),
        count,
    )


def _merged(lists: Collection[Collection[Topic]]) -> list[Topic]:
    """One topic for each name and type: what one file does not say of it, another may."""
    merged: dict[tuple[str, str], Topic] = {}
    for topic in (topic for topics in lists for topic in topics):
        known = merged.setdefault((topic.name, topic.type), replace(topic, count=0))
        merged[topic.name, topic.type] = replace(
            known,
            definition=known.definition or topic.definition,
            type_hash=known.type_hash or topic.type_hash,
            qos=known.qos or topic.qos,
            count=known.count + topic.count,
        )
    return list(merged.values())
