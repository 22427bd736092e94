"""MCAP files, to read and to write, with all that a recorder put into them. Knows no folder of them."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import BinaryIO, TypeGuard

from mcap.exceptions import McapError
from mcap.reader import SeekingReader
from mcap.records import Attachment, Channel, McapRecord, Message, Metadata
from mcap.records import Schema as SchemaRecord
from mcap.stream_reader import StreamReader
from mcap.writer import CompressionType
from mcap.writer import Writer as Mcap
from rosbags.interfaces import Connection
from rosbags.rosbag2 import CompressionMode

from rain_removal_ros import __version__
from rain_removal_ros.bags.stored import ROS_ENCODINGS, Schema, Stored, Topic, is_the_machines, qos_of, words

QOS, TYPE_HASH = "offered_qos_profiles", "topic_type_hash"
"""What rosbag2 notes at a channel."""

ROSBAG2 = "rosbag2"
"""The name of the notes that are rosbag2's own: the file's metadata.yaml."""

Extra = Attachment | Metadata
"""What an MCAP file holds beside its messages."""


class McapFile:
    """One MCAP file. Without its index (an unfinished recording) it is read from front to back.

    extras: how many attachments and notes it holds that are not rosbag2's own.
    """

    def __init__(self, path: Path):
        self.path = path
        self.damage = ""
        self.extras = 0
        self._indexed = False
        self._extras_indexed = False
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
                notes = [index for index in summary.metadata_indexes if index.name != ROSBAG2]
                self.extras = len(summary.attachment_indexes) + len(notes)
                self._extras_indexed = True
            except Exception as error:  # the end of the file is missing, or something in its stead
                if is_the_machines(error):
                    raise
                schemas, channels, counts = self._scan(file)
                if not channels and self.damage:
                    raise
        self.topics = [
            _topic_of(channel, schemas.get(channel.schema_id), counts.get(number, 0))
            for number, channel in channels.items()
        ]

    def close(self) -> None:
        """Nothing: every reading opens the file for itself."""

    def bounds(self) -> tuple[int, int] | None:
        """When the first and the last message were recorded; None where there is none."""
        return self._bounds

    def messages(
        self, wanted: Collection[tuple[str, str]], start: int | None, stop: int | None
    ) -> Iterator[Stored]:
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
                    yield Stored(key, message.log_time, message.data)

    def read_extras(self) -> Iterator[Extra]:
        """The attachments and notes."""
        with self.path.open("rb") as file:
            if self._extras_indexed:
                reader = SeekingReader(file, validate_crcs=True)
                yield from reader.iter_attachments()
                yield from (note for note in reader.iter_metadata() if note.name != ROSBAG2)
            else:
                for record in self._records(file):
                    if _is_extra(record):
                        yield record

    def _records(self, file: BinaryIO) -> Iterator[McapRecord]:
        """All that the file holds, up to the damage that was met when it was opened."""
        try:
            yield from StreamReader(file, validate_crcs=True).records
        except Exception as error:
            if is_the_machines(error) or not self.damage:
                raise

    def _stream(
        self, file: BinaryIO, wanted: Collection[tuple[str, str]], start: int | None, stop: int | None
    ) -> Iterator[Stored]:
        schemas: dict[int, SchemaRecord] = {}
        keys: dict[int, tuple[str, str]] = {}
        for record in self._records(file):
            if isinstance(record, SchemaRecord):
                schemas[record.id] = record
            elif isinstance(record, Channel):
                schema = schemas.get(record.schema_id)
                keys[record.id] = record.topic, schema.name if schema else ""
            elif isinstance(record, Message) and keys[record.channel_id] in wanted:
                time = record.log_time
                if (start is None or time >= start) and (stop is None or time < stop):
                    yield Stored(keys[record.channel_id], time, record.data)

    def _scan(self, file: BinaryIO) -> tuple[dict[int, SchemaRecord], dict[int, Channel], dict[int, int]]:
        """What a file without index holds, up to its damage."""
        file.seek(0)
        schemas: dict[int, SchemaRecord] = {}
        channels: dict[int, Channel] = {}
        counts: dict[int, int] = {}
        try:
            for record in StreamReader(file, validate_crcs=True).records:
                if isinstance(record, SchemaRecord):
                    schemas[record.id] = record
                elif isinstance(record, Channel):
                    channels[record.id] = record
                elif isinstance(record, Message):
                    counts[record.channel_id] = counts.get(record.channel_id, 0) + 1
                    first, last = self._bounds or (record.log_time, record.log_time)
                    self._bounds = min(first, record.log_time), max(last, record.log_time)
                self.extras += _is_extra(record)
        except Exception as error:  # of whatever the damage makes
            if is_the_machines(error):
                raise
            self.damage = f"it ends early ({words(error)}) after {sum(counts.values())} messages"
        return schemas, channels, counts


def _is_extra(record: McapRecord) -> TypeGuard[Extra]:
    return isinstance(record, Attachment) or (isinstance(record, Metadata) and record.name != ROSBAG2)


def _topic_of(channel: Channel, schema: SchemaRecord | None, count: int) -> Topic:
    notes = dict(channel.metadata)
    qos, type_hash = notes.pop(QOS, ""), notes.pop(TYPE_HASH, "")
    named = schema is not None and (schema.data or schema.encoding not in ("", *ROS_ENCODINGS))
    return Topic(
        channel.topic,
        schema.name if schema else "",
        Schema(schema.encoding, schema.data) if schema and named else None,
        type_hash,
        channel.message_encoding,
        qos_of(qos),
        count,
        notes,
    )


class McapWriter:
    """One new MCAP file, for the writer of bags of the `rosbags` library: that one's own knows no schemas but
    those of ROS, one for each name, and writes no checksums.

    topics: by name and type, what is known of those that are added.
    """

    def __init__(self, path: Path, compression: CompressionMode) -> None:
        self.path = path / f"{path.name}.mcap"
        self.topics: dict[tuple[str, str], Topic] = {}
        self._schemas: dict[tuple[str, Schema], int] = {}
        self._channels: dict[int, int] = {}  # by the connection's id
        self._file = self.path.open("xb")
        try:
            packed = compression == CompressionMode.STORAGE
            self._mcap = Mcap(
                self._file, compression=CompressionType.ZSTD if packed else CompressionType.NONE
            )
            self._mcap.start("ros2", f"rain_removal_ros {__version__}")
        except BaseException:
            self._file.close()
            raise

    def add_msgtype(self, connection: Connection) -> None:
        """Nothing: topics of one type may have schemas of their own."""

    def add_connection(self, connection: Connection, offered_qos_profiles: str) -> None:
        topic = self.topics[connection.topic, connection.msgtype]
        notes = {**topic.notes, QOS: offered_qos_profiles, TYPE_HASH: connection.digest}
        self._channels[connection.id] = self._mcap.register_channel(
            topic.name, topic.serialization, self._schema(topic), notes
        )

    def _schema(self, topic: Topic) -> int:
        """The number of a topic's schema; 0: it has none."""
        if not topic.type and topic.schema is None:
            return 0
        key = topic.type, topic.schema or Schema("ros2msg", b"")
        if key not in self._schemas:
            self._schemas[key] = self._mcap.register_schema(topic.type, *key[1])
        return self._schemas[key]

    def write(self, connection: Connection, timestamp: int, data: bytes | memoryview) -> None:
        # the library only copies the data, as it does with bytes
        self._mcap.add_message(self._channels[connection.id], timestamp, data, timestamp)  # type: ignore[arg-type]

    def attach(self, extra: Extra) -> None:
        if isinstance(extra, Attachment):
            self._mcap.add_attachment(
                extra.create_time, extra.log_time, extra.name, extra.media_type, extra.data
            )
        else:
            self._mcap.add_metadata(extra.name, extra.metadata)

    def close(self, version: int, metadata: str) -> None:
        self._mcap.add_metadata(ROSBAG2, {"serialized_metadata": metadata})
        self._mcap.finish()
        self._file.close()

    def abort(self) -> None:
        self._file.close()
