"""The pipeline's threads: those that do their part, and those that were left behind where something hangs."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any


class Threads:
    """Guarded by the pipeline's lock.

    running: those that do their part. left_behind: those whose part others have taken over, as they hang in
    the device or wait for one that does; nothing can end them, but they may come back.
    """

    def __init__(self) -> None:
        self.running: list[threading.Thread] = []
        self.left_behind: list[threading.Thread] = []
        self._hanging: list[threading.Thread] = []

    def start(self, name: str, target: Callable[..., None], *arguments: Any) -> None:
        """Start a thread of this name; several may have the same."""
        thread = threading.Thread(target=target, args=arguments, name=name, daemon=True)
        self.running = [*_alive(self.running), thread]
        thread.start()

    def take(self, name: str) -> list[threading.Thread]:
        """Those of this name that run; whoever takes them keeps them from now on."""
        taken = [thread for thread in _alive(self.running) if thread.name == name]
        self.running = [thread for thread in self.running if thread not in taken]
        return taken

    def leave_behind(self, name: str, *, hanging: bool) -> None:
        """Have those of this name no longer run. hanging: they hang in the device themselves, and do not only
        wait for one that does.
        """
        taken = self.take(name)
        self.left_behind = [*_alive(self.left_behind), *taken]
        if hanging:
            self._hanging = [*_alive(self._hanging), *taken]

    @property
    def hanging(self) -> int:
        """How many hang in the device."""
        return len(_alive(self._hanging))


def _alive(threads: list[threading.Thread]) -> list[threading.Thread]:
    return [thread for thread in threads if thread.is_alive()]
