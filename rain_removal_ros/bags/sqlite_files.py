"""SQLite files of rosbag2, to read and to write. Knows no folder of them."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterator
from pathlib import Path

from rosbags.interfaces import Connection
from rosbags.rosbag2 import CompressionMode
from rosbags.rosbag2.storage_sqlite3 import Sqlite3Writer as RosbagsWriter
from rosbags.typesys import Stores

from rain_removal_ros.bags.mcap_files import Extra
from rain_removal_ros.bags.messages import definition_of
from rain_removal_ros.bags.stored import Schema, Stored, Topic, is_the_machines, qos_of


class Sqlite3File:
    """One SQLite file, of any of rosbag2's schemas, with the write-ahead log that a recorder left.

    distribution: whose message definitions a file is taken to mean that is too old to hold any.
    """

    def __init__(self, path: Path, distribution: Stores = Stores.ROS2_HUMBLE):
        self.path, self._distribution = path, distribution
        self.damage, self.extras = "", 0  # there are none, see McapFile
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

    def read_extras(self) -> Iterator[Extra]:
        return iter(())

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
    ) -> Iterator[Stored]:
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
            yield Stored(self._keys[number], log_time, data)

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
        schemas: dict[str, Schema | None] = {}
        hashes: dict[str, str] = {}
        try:
            for kind, encoding, data in self._connection.execute(
                "SELECT topic_type, encoding, CAST(encoded_message_definition AS BLOB) "
                "FROM message_definitions"
            ):
                schemas[kind] = Schema(encoding, data) if data else None
        except sqlite3.Error as error:  # there is no such table, or it is damaged
            if is_the_machines(error):
                raise
        if "type_description_hash" not in columns:  # before Iron a bag held neither definitions nor hashes
            known = {row[2]: definition_of(row[2], self._distribution) for row in rows}
            schemas = {kind: Schema.of_text(definition) for kind, (definition, _) in known.items()}
            hashes = {kind: type_hash for kind, (_, type_hash) in known.items()}
        try:
            counts = dict(
                self._connection.execute("SELECT topic_id, count(*) FROM messages GROUP BY topic_id")
            )
        except sqlite3.Error as error:
            if is_the_machines(error):
                raise
            self.damage = f"it is damaged ({error}); read is what comes before"
            counts = {}
        topics = []
        for number, name, kind, serialization, *rest in rows:
            extra = dict(zip(optional, rest, strict=True))
            topics.append(
                Topic(
                    name,
                    kind,
                    schemas.get(kind),
                    extra.get("type_description_hash") or hashes.get(kind, ""),
                    serialization,
                    qos_of(extra.get("offered_qos_profiles")),
                    counts.get(number, 0),
                )
            )
        return topics, {row[0]: (row[1], row[2]) for row in rows}


class Sqlite3Writer(RosbagsWriter):
    """One new SQLite file, by the `rosbags` library's own writer, for any path: that one takes `#`, `?` and
    `%` for parts of an address.

    topics: by name and type, what is known of those that are added.
    """

    def __init__(self, path: Path, compression: CompressionMode) -> None:
        assert compression != CompressionMode.STORAGE  # SQLite has none
        self.topics: dict[tuple[str, str], Topic] = {}
        self.path = path / f"{path.name}.db3"
        self.conn = sqlite3.connect(self.path.absolute())
        try:
            self.conn.executescript(self.SQLITE_SCHEMA)
            self.cursor = self.conn.cursor()
        except BaseException:
            self.conn.close()
            raise

    def add_msgtype(self, connection: Connection) -> None:
        schema = self.topics[connection.topic, connection.msgtype].schema or Schema("ros2msg", b"")
        self.cursor.execute(
            "INSERT INTO message_definitions (topic_type, encoding, encoded_message_definition, "
            "type_description_hash) VALUES(?, ?, CAST(? AS TEXT), ?)",
            (connection.msgtype, *schema, connection.digest),
        )
