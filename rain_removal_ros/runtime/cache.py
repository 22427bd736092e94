"""Compiled networks on disk, found again by all that decides what is in them. Knows files, not compilers.

An entry is a blob and a JSON file beside it with the key, the blob's size and its SHA-256. Both are written
to temporary names and renamed, one builder at a time per entry, and the least recently used ones give way.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from rain_removal_ros.digests import sha256_of
from rain_removal_ros.errors import RainRemovalError
from rain_removal_ros.locks import take_lock
from rain_removal_ros.runtime import Progress

FORMAT = 1
PARTIAL = ".partial-"
PARTIAL_KEPT_S = 24 * 3600.0
"""A half-written engine that was not touched for so long was left by a builder that was killed."""

POLLED_EVERY_S = 0.1
"""So often a lock that another process holds is tried."""

LOCK_ATTEMPTS = 10
"""A lock that was removed before it was taken is made anew; so often in a row it can hardly be."""

_NO_FILE_NAME = re.compile(r"[^A-Za-z0-9_.]")

log = logging.getLogger(__name__)


def default_folder() -> Path:
    """$XDG_CACHE_HOME/rain_removal_ros, else ~/.cache/rain_removal_ros.

    A user without a home, as a container may have, gets a folder of their own among the temporary files.
    """
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rain_removal_ros"
    except RuntimeError:  # neither HOME nor a passwd entry
        return Path(tempfile.gettempdir()) / f"rain_removal_ros-{os.getuid()}"


@dataclass(frozen=True)
class EngineKey:
    """All that decides what a compiled network is: equal keys may share an engine, different ones never.

    fields: weights SHA-256, preset, size, precision, outputs, versions, device, each as text.
    """

    fields: Mapping[str, str]

    @property
    def digest(self) -> str:
        """Hex digest of the fields, the same in every process and whatever their order."""
        canonical = json.dumps({"format": str(FORMAT), **self.fields}, sort_keys=True)
        return hashlib.sha256(canonical.encode()).hexdigest()[:24]

    @property
    def name(self) -> str:
        """The file name without its ending; begins with what a person looks for."""
        parts = (self.fields.get(field) for field in ("backend", "preset", "size", "precision"))
        return "-".join([_NO_FILE_NAME.sub("_", part)[:40] for part in parts if part] + [self.digest])


@dataclass(frozen=True)
class Entry:
    """An engine in the cache as its JSON file describes it."""

    name: str
    blob: Path
    fields: Mapping[str, str]
    bytes: int
    sha256: str
    last_used: float  # seconds since the epoch


class EngineCache:
    """A folder of compiled networks. Every problem with it costs a build or a warning, never a frame."""

    def __init__(self, folder: Path | None, limit_bytes: int, warn: Progress | None = None):
        """`warn` is told, in words, why an engine was not used or not kept; default: the log."""
        self.folder = Path(folder or default_folder())
        self.limit_bytes = limit_bytes
        self._warn = warn or log.warning
        self._warned_unwritable = self._warned_untrusted = False

    def find(self, key: EngineKey) -> Path | None:
        """The blob of this key, whole and ours, or None; a damaged or foreign entry is reported and removed.

        Call it, and `store`, inside `building(key)`: a blob without its description may be one being stored.
        """
        description = self._description(key.name)
        blob = self._blob(key.name)
        if not self._is_trusted():
            return None
        try:
            if not description.exists() and not blob.exists():
                return None
        except PermissionError:  # nor can it be written, of which `store` warns
            return None
        problem = self._problem(key.name, key)
        if problem:
            self.discard(key, problem)
            return None
        try:
            os.utime(description)
        except OSError as error:  # a read-only cache in a container image still serves
            log.debug("cannot mark %s as used: %s", description, error)
        return blob

    def may_hold(self, key: EngineKey) -> bool:
        """Whether it is worth while to look for this key; opens nothing."""
        try:
            return self._description(key.name).is_file()
        except OSError:
            return False

    def _is_trusted(self) -> bool:
        """Whether nobody else can have put an engine into the folder; a warning where somebody could."""
        try:
            found = self.folder.stat()
        except OSError:  # there is none yet, or it cannot be read
            return True
        problem = _writable_by_others(found)
        if problem is None:
            return True
        if not self._warned_untrusted:
            self._warned_untrusted = True
            self._warn(f"cache folder {self.folder} {problem}, so no engine in it is used, and none is kept")
        return False

    def discard(self, key: EngineKey, why: str) -> None:
        """Remove an entry that cannot be used and say why; the caller builds anew."""
        self._warn(f"cached engine {self._blob(key.name)} is not used: {why}; building it again")
        self._remove(key.name)

    def store(self, key: EngineKey, write: Callable[[Path], object]) -> Path | None:
        """Keep what `write(path)` writes; None (and one warning) where the folder cannot be written."""
        blob, description = self._blob(key.name), self._description(key.name)
        if not self._is_trusted():
            return None
        try:
            self._make_folder()
            with tempfile.TemporaryDirectory(prefix=PARTIAL, dir=self.folder) as work:
                partial = Path(work) / blob.name
                write(partial)
                entry = {
                    "format": FORMAT,
                    "key": dict(key.fields),
                    "bytes": partial.stat().st_size,
                    "sha256": sha256_of(partial),
                }
                partial_description = Path(work) / description.name
                partial_description.write_text(json.dumps(entry, indent=2, sort_keys=True) + "\n")
                for path in (partial, partial_description):  # for the node's user, where root builds
                    path.chmod(0o644)
                partial.replace(blob)
                partial_description.replace(description)
        except OSError as error:
            if not self._warned_unwritable:
                self._warned_unwritable = True
                self._warn(
                    f"cache folder {self.folder} cannot be written ({error}); the engine stays in memory "
                    "and is built again at the next start. Set cache_dir to a folder that can be written"
                )
            return None
        self._make_room(keep=key.name)
        return blob

    @contextmanager
    def building(self, key: EngineKey, given_up: Callable[[], bool] = lambda: False) -> Iterator[bool]:
        """Hold this entry's lock, so that of two processes that want one engine the second finds the first's.

        Waits while another process holds it; one that dies lets go. Gives False where waiting was given up,
        which is asked again and again. Without a writable folder nothing is shared and nothing locked;
        without locks two may build the same, and the later one's is kept.
        """
        for attempt in range(LOCK_ATTEMPTS):
            try:
                self._make_folder()
                handle = os.open(self._lock(key.name), os.O_CREAT | os.O_RDWR, 0o600)
            except OSError:
                yield True
                return
            try:
                while not (locked := take_lock(handle)) and not given_up():
                    time.sleep(POLLED_EVERY_S)
                # a file that was removed after it was opened keeps nobody else out
                removed = locked and os.fstat(handle).st_nlink == 0
                if not removed or attempt == LOCK_ATTEMPTS - 1:
                    yield locked
                    return
            finally:
                os.close(handle)

    def _make_folder(self) -> None:
        """One that all may read and only its owner write, whatever the umask: engines are no secret."""
        if not self.folder.is_dir():
            self.folder.mkdir(parents=True, exist_ok=True)
            self.folder.chmod(0o755)

    def entries(self) -> list[Entry]:
        """Every readable entry, the most recently used first."""
        found = []
        for description in self.folder.glob("*.json"):
            try:
                content = json.loads(description.read_text())
                found.append(
                    Entry(
                        name=description.stem,
                        blob=self._blob(description.stem),
                        fields=dict(content["key"]),
                        bytes=content["bytes"],
                        sha256=content["sha256"],
                        last_used=description.stat().st_mtime,
                    )
                )
            except (OSError, ValueError, KeyError, TypeError):
                log.debug("%s is not the description of an engine", description)
        return sorted(found, key=lambda entry: entry.last_used, reverse=True)

    def verify(self) -> dict[str, str | None]:
        """Every entry's name and what is wrong with it (None: nothing)."""
        names = {path.stem for ending in ("json", "engine") for path in self.folder.glob(f"*.{ending}")}
        return {name: self._problem(name) for name in sorted(names)}

    def clear(self) -> int:
        """Remove every entry, and what killed builders left; how many entries there were.

        Raises RainRemovalError where the folder cannot be written.
        """
        names = {path.stem for ending in ("json", "engine") for path in self.folder.glob(f"*.{ending}")}
        try:
            for name in names:
                for path in (self._description(name), self._blob(name), self._lock(name)):
                    path.unlink(missing_ok=True)
            for partial in self.folder.glob(f"{PARTIAL}*"):
                with suppress(FileNotFoundError):  # a builder has just finished
                    shutil.rmtree(partial)
        except OSError as error:
            raise RainRemovalError(
                f"cache folder {self.folder} cannot be cleared ({error}); "
                "clear it as the user who may write to it, or give another cache folder"
            ) from error
        return len(names)

    def _problem(self, name: str, key: EngineKey | None = None) -> str | None:
        try:
            return self._mismatch(name, key)
        except OSError as error:  # of another user, or removed meanwhile to make room
            return f"it cannot be read ({error})"

    def _mismatch(self, name: str, key: EngineKey | None) -> str | None:
        blob, description = self._blob(name), self._description(name)
        if not description.is_file():
            return "it has no description beside it"
        if not blob.is_file():
            return "its description stands without it"
        for path in (blob, description):
            problem = _writable_by_others(path.stat())
            if problem:
                return f"{path.name} {problem}"
        try:
            content = json.loads(description.read_text())
            fields, size, digest = dict(content["key"]), content["bytes"], content["sha256"]
            written, described = content["format"], EngineKey(fields).name
        except (ValueError, KeyError, TypeError) as error:
            return f"its description cannot be read ({type(error).__name__}: {error})"
        if written != FORMAT:
            return f"it was written in format {written!r}, this is {FORMAT}"
        if described != name:
            return "its description belongs to another engine"
        if key is not None and dict(key.fields) != fields:
            changed = sorted(f for f in {*fields, *key.fields} if fields.get(f) != key.fields.get(f))
            return f"it was built for another {', '.join(changed)}"
        if blob.stat().st_size != size:
            return f"it has {blob.stat().st_size} bytes instead of {size}"
        if sha256_of(blob) != digest:
            return "its checksum is wrong"
        return None

    def _make_room(self, keep: str) -> None:
        used = 0
        for entry in self.entries():
            used += entry.bytes
            if used > self.limit_bytes and entry.name != keep:
                log.info("removing %s, the cache is above %d bytes", entry.blob, self.limit_bytes)
                self._remove(entry.name)
        for partial in self.folder.glob(f"{PARTIAL}*"):
            try:
                if time.time() - partial.stat().st_mtime > PARTIAL_KEPT_S:
                    shutil.rmtree(partial)
            except OSError as error:  # another process was quicker, or it is another user's
                log.debug("cannot remove %s: %s", partial, error)
        self._remove_spare_locks()

    def _remove_spare_locks(self) -> None:
        """Remove the locks of entries that are gone, unless somebody holds them.

        It is done with the lock held. Whoever has opened the file by then, and gets the lock afterwards, sees
        that it is removed, and opens another.
        """
        for lock in self.folder.glob(".*.lock"):
            name = lock.name.removeprefix(".").removesuffix(".lock")
            try:
                if self._description(name).exists() or self._blob(name).exists():
                    continue
                handle = os.open(lock, os.O_RDWR)
                try:
                    if take_lock(handle) and os.fstat(handle).st_nlink > 0:  # else its name may be another's
                        lock.unlink(missing_ok=True)
                finally:
                    os.close(handle)
            except OSError as error:  # another process was quicker, or it is another user's
                log.debug("cannot remove %s: %s", lock, error)

    def _remove(self, name: str) -> None:
        for path in (self._description(name), self._blob(name)):
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                self._warn(f"{path} cannot be removed ({error}); remove it by hand")

    def _blob(self, name: str) -> Path:
        return self.folder / f"{name}.engine"

    def _description(self, name: str) -> Path:
        return self.folder / f"{name}.json"

    def _lock(self, name: str) -> Path:
        return self.folder / f".{name}.lock"


def _writable_by_others(found: os.stat_result) -> str | None:
    """What of a file's owner and mode lets others change it; None: nothing, or Windows, which has neither."""
    if not hasattr(os, "getuid"):
        return None
    if found.st_uid not in (os.getuid(), 0):
        return "belongs to another user"
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return "can be written by others (chmod go-w mends it)"
    return None
