"""Files that appear whole under their name, or not at all. Knows paths, not what is written."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import get_ident

from rain_removal_ros.errors import OutputError


def cannot_be_written(path: Path, error: OSError) -> OutputError:
    """The error to raise for what the system said while `path` was written."""
    return OutputError(f"{path} cannot be written ({error.strerror or error})")


def make_folder(folder: Path) -> Path:
    """The folder itself, made with those above it and seen to take files. Raises OutputError."""
    probe = folder / f".writable-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
    except OSError as error:
        raise OutputError(
            f"folder {folder} cannot be written ({error.strerror}); choose another output"
        ) from error
    finally:
        with suppress(OSError):
            probe.unlink(missing_ok=True)
    return folder


@contextmanager
def appearing(path: Path) -> Iterator[Path]:
    """A path in the same folder to write to; it takes the name `path` when the block ends without an error.

    Otherwise nothing is left. The folder is made, and the file may be read by whom the umask allows.
    Raises OutputError for whatever the system refuses, in the block too.
    """
    partial = path.with_name(f".partial-{os.getpid()}-{get_ident()}-{path.stem[:40]}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.touch()
        yield partial
        partial.replace(path)
    except OSError as error:
        raise cannot_be_written(path, error) from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes | memoryview) -> None:
    """Write a whole file, atomically. Raises OutputError."""
    with appearing(path) as partial:
        partial.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Write a whole text file, atomically, as UTF-8. Raises OutputError."""
    write_bytes(path, text.encode())
