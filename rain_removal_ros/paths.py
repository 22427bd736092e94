"""What pathlib leaves to the version of Python."""

from __future__ import annotations

from pathlib import Path


def exists(path: Path) -> bool:
    """Whether a file or folder is there. Raises OSError where that cannot be told (no permission for a folder
    above it, a name that is too long): since Python 3.14 `Path.exists` says no then.
    """
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True
