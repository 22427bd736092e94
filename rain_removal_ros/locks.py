"""Locks on open files, by which processes keep out of each other's way."""

from __future__ import annotations

from typing import IO, Any

try:
    import fcntl
except ModuleNotFoundError:  # on Windows
    fcntl = None  # type: ignore[assignment]


def take_lock(file: int | IO[Any]) -> bool:
    """Whether the open file is locked for this process now; False where another holds it. It is let go when
    the file is closed, or the process ends.

    True as well where nothing can be locked: on Windows, and on some file systems that come over the network.
    """
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True
