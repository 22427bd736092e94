"""Storage files that are compressed as a whole, unpacked no longer than they are read."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import zstandard

from rain_removal_ros.bags.mcap_files import Extra, McapFile
from rain_removal_ros.bags.sqlite_files import Sqlite3File
from rain_removal_ros.bags.stored import Stored
from rain_removal_ros.errors import BagError

OpenFile = Callable[[Path], McapFile | Sqlite3File]


class Unpacker:
    """Unpacks files into a temporary folder each. The last one stays for whoever reads it again, the ones
    before it as long as they are read.
    """

    def __init__(self, open_file: OpenFile):
        """open_file: opens what was unpacked."""
        self._open_file = open_file
        self._last: _Unpacked | None = None

    @contextmanager
    def file(self, path: Path) -> Iterator[_Unpacked]:
        """The file, unpacked. Raises BagError where there is no room for it."""
        if self._last is None or self._last.path != path:
            self.close()
            self._last = self._unpacked(path)
        unpacked = self._last
        unpacked.readers += 1
        try:
            yield unpacked
        finally:
            unpacked.readers -= 1
            if unpacked is not self._last and not unpacked.readers:
                unpacked.stack.close()

    def close(self) -> None:
        """Remove the last one, unless it is being read still."""
        if self._last is not None and not self._last.readers:
            self._last.stack.close()
        self._last = None

    def _unpacked(self, path: Path) -> _Unpacked:
        damage = ""
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bag-")))
            unpacked = folder / path.stem
            with path.open("rb") as packed:
                try:
                    with (
                        unpacked.open("wb") as target,
                        zstandard.ZstdDecompressor().stream_reader(packed, read_across_frames=True) as source,
                    ):
                        shutil.copyfileobj(source, target, 1 << 22)
                except zstandard.ZstdError as error:
                    damage = f"unpacked up to the damage only: {error}"
                except OSError as error:
                    raise BagError(
                        f"{path} cannot be unpacked into {folder.parent} ({error.strerror}); make room "
                        "there, or name another folder in TMPDIR"
                    ) from error
            file = stack.enter_context(closing(self._open_file(unpacked)))
            return _Unpacked(path, file, damage or file.damage, stack.pop_all())


@dataclass(eq=False)
class _Unpacked:
    """A file as long as it is unpacked. stack: closes and removes it; readers: how many read it now."""

    path: Path
    file: McapFile | Sqlite3File
    damage: str
    stack: ExitStack
    readers: int = 0


class PackedFile:
    """One compressed file, to be read as what it holds."""

    def __init__(self, path: Path, unpacker: Unpacker):
        self.path, self._unpacker = path, unpacker
        with unpacker.file(path) as unpacked:
            self.topics, self.damage = unpacked.file.topics, unpacked.damage
            self.extras, self._bounds = unpacked.file.extras, unpacked.file.bounds()

    def close(self) -> None:
        """Nothing: what was unpacked is the unpacker's."""

    def bounds(self) -> tuple[int, int] | None:
        """When the first and the last message were recorded; None where there is none."""
        return self._bounds

    def messages(
        self, wanted: Collection[tuple[str, str]], start: int | None, stop: int | None
    ) -> Iterator[Stored]:
        with self._unpacker.file(self.path) as unpacked:
            yield from unpacked.file.messages(wanted, start, stop)

    def read_extras(self) -> Iterator[Extra]:
        """The attachments and notes."""
        with self._unpacker.file(self.path) as unpacked:
            yield from unpacked.file.read_extras()
