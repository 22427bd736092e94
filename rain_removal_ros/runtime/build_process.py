"""Compiles networks in a process of its own: a compiler holds the interpreter for seconds and keeps memory
for good, and neither services nor other cameras are to wait for that.

One server process (`build_server.py`) for all restorers of a process. For every build it forks a child, which
is born with everything imported, ends with the build, and takes what the compiler leaked with it. The engine
comes back through a pipe. Knows the backends by the name of a function only. Elsewhere than on Linux, where
the node does not run, builds are made in the calling process.
"""

from __future__ import annotations

import importlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import IO, Any

from rain_removal_ros import errors
from rain_removal_ros.errors import BackendError, RainRemovalError

IDLE_S = 30.0
"""A server that nobody asked for anything for so long ends; the next build starts another."""

LONGEST_BUILD_S = 3600.0
"""A compiler that takes longer hangs; on the slowest machines they take minutes."""

POLLED_EVERY_S = 0.1
"""So often whoever waits for a build looks for what is more urgent, or can be done meanwhile."""

APART = hasattr(os, "pidfd_open")
"""Whether builds are made in a process of their own: on Linux."""

SERVER = "rain_removal_ros.runtime.build_server"
PRELOADED = ("rain_removal_ros.runtime.networks",)


class BuildCancelledError(BackendError):
    """The build was given up: its restorer is being closed, or something more urgent waits."""


@dataclass(frozen=True)
class BuildOrder:
    """What is to be built.

    builder: `module:function`, called in the child as function(files, **options) -> bytes; files: contents by
    name, so that a file that is replaced meanwhile changes nothing; options: JSON-able.
    """

    builder: str
    files: Mapping[str, bytes]
    options: Mapping[str, Any]


@dataclass
class Cancellation:
    """Tells a build that nobody waits for its result any more.

    of_all: that of more builds, of which this is one. gives_way: asked again and again while this one runs,
    whether something is more urgent. meanwhile: called as often, in the thread that waits for the build.
    """

    of_all: Cancellation | None = None
    gives_way: Callable[[], bool] | None = None
    meanwhile: Callable[[], None] | None = None
    _called: bool = field(default=False, init=False)

    @property
    def requested(self) -> bool:
        return self._called or (self.of_all is not None and self.of_all.requested)

    @property
    def is_polled(self) -> bool:
        """Whether `poll` does more than to look at what was requested."""
        return self.gives_way is not None or self.meanwhile is not None

    def request(self) -> None:
        self._called = True

    def poll(self) -> bool:
        """Whether the build is to be given up, asking what it gives way to, and doing what there is to do."""
        if not self.requested and self.meanwhile is not None:
            self.meanwhile()
        if not self.requested and self.gives_way is not None and self.gives_way():
            self.request()
        return self.requested


class BuildProcess:
    """The server process as seen from the one that wants engines. Starts it when it is needed."""

    def __init__(self) -> None:
        self._turn = threading.Lock()  # held during a build
        self._state = threading.Lock()  # held for moments
        self._server: subprocess.Popen[bytes] | None = None
        self._current: Cancellation | None = None

    def build(self, order: BuildOrder, cancellation: Cancellation) -> bytes:
        """The engine. Raises what the builder raised, BackendError where the child died, or
        BuildCancelledError.
        """
        with self._waiting_for_turn(cancellation):
            if not APART:
                return build_here(order.builder, order.files, order.options)
            for last_try in (False, True):
                server = self._start(cancellation)
                try:
                    assert server.stdin is not None  # a pipe
                    _send(server.stdin, order)
                    answer, engine = self._receive(server, cancellation)
                except BrokenPipeError as error:  # it had just ended for want of work
                    self._end(server)
                    if cancellation.requested:
                        raise BuildCancelledError("the build was cancelled") from error
                    if last_try:
                        raise BackendError(
                            "the build process ends before it is asked for anything; its message is on the "
                            "standard error output"
                        ) from error
                except BaseException:  # whatever it has yet to answer is not for the next who asks
                    self._end(server)
                    raise
                else:
                    if "error" in answer:
                        raise _error(answer["error"], answer["message"])
                    return engine
                finally:
                    with self._state:
                        self._current = None
        raise AssertionError("unreachable")

    @contextmanager
    def _waiting_for_turn(self, cancellation: Cancellation) -> Iterator[None]:
        while not self._turn.acquire(timeout=POLLED_EVERY_S):
            if cancellation.poll():
                raise BuildCancelledError("the build was cancelled")
        try:
            yield
        finally:
            self._turn.release()

    def cancel(self, cancellation: Cancellation) -> None:
        """Give up the build with this cancellation, whether it waits or runs."""
        with self._state:
            cancellation.request()
            if self._current is not None and self._current.requested and self._server is not None:
                _kill(self._server)

    def _start(self, cancellation: Cancellation) -> subprocess.Popen[bytes]:
        with self._state:
            if cancellation.requested:
                raise BuildCancelledError("the build was cancelled")
            self._current = cancellation
            if self._server is not None and self._server.poll() is not None:
                self._end(self._server)
                self._server = None
            if self._server is None:
                self._server = _start_server()
            return self._server

    def _receive(
        self, server: subprocess.Popen[bytes], cancellation: Cancellation
    ) -> tuple[Mapping[str, Any], bytes]:
        """The whole answer to an order: its head, and the engine if there is one."""
        assert server.stdout is not None  # a pipe
        began = time.monotonic()
        while True:
            left = max(0.0, began + LONGEST_BUILD_S - time.monotonic())
            looks_again_in = min(left, POLLED_EVERY_S) if cancellation.is_polled else left
            if select.select([server.stdout], [], [], looks_again_in)[0]:
                break
            if cancellation.poll():
                self.cancel(cancellation)
            elif looks_again_in == left:
                raise BackendError(f"the compiler did not end within {LONGEST_BUILD_S:g} s; it hangs")
        try:
            answer = json.loads(server.stdout.readline())
            engine = server.stdout.read(answer["bytes"]) if "bytes" in answer else b""
            if len(engine) == answer.get("bytes", 0) and answer.keys() & {"bytes", "error"}:
                return answer, engine
        except ValueError:  # it died in the middle of a line
            pass
        self._end(server)
        if cancellation.requested:
            raise BuildCancelledError("the build was cancelled")
        asked = "is there enough memory? " if server.returncode == -signal.SIGKILL else ""
        raise BackendError(
            f"the build process died ({_fate(server.returncode)}); {asked}see its message on the standard "
            "error output"
        )

    @staticmethod
    def _end(server: subprocess.Popen[bytes]) -> None:
        _kill(server)
        server.wait()
        for stream in (server.stdin, server.stdout):
            with suppress(BrokenPipeError):
                if stream is not None:
                    stream.close()


SHARED = BuildProcess()
"""The one that all restorers of a process use."""


def _start_server() -> subprocess.Popen[bytes]:
    program = (
        "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
        f"from {SERVER} import serve; serve(float(sys.argv[2]), sys.argv[3:])"
    )
    # an import of this process that is no plain path would not be found there
    path = json.dumps([entry for entry in sys.path if isinstance(entry, str)])
    try:
        return subprocess.Popen(
            [sys.executable, "-P", "-c", program, path, str(IDLE_S), *PRELOADED],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},  # its threads would not survive a fork
            start_new_session=True,  # Ctrl-C is the node's to deal with, and one signal ends all its children
        )
    except OSError as error:
        raise BackendError(
            f"the build process cannot be started ({error}); is there enough memory?"
        ) from error


def _send(stream: IO[bytes], order: BuildOrder) -> None:
    head = {
        "builder": order.builder,
        "files": {name: len(content) for name, content in order.files.items()},
        "options": dict(order.options),
    }
    stream.write(json.dumps(head).encode() + b"\n")
    for content in order.files.values():
        stream.write(content)
    stream.flush()


def _error(kind: str, message: str) -> Exception:
    known = getattr(errors, kind, None)
    if isinstance(known, type) and issubclass(known, RainRemovalError):
        return known(message)
    return BackendError(f"the build failed: {kind}: {message}")


def _fate(status: int) -> str:
    if status >= 0:
        return f"exit status {status}"
    try:
        return signal.Signals(-status).name
    except ValueError:
        return f"signal {-status}"


def _kill(server: subprocess.Popen[bytes]) -> None:
    """End it and its child. One that has been waited for is gone, and its number may be another's by now."""
    if server.returncode is not None:
        return
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(server.pid, signal.SIGKILL)


def build_here(builder: str, files: Mapping[str, bytes], options: Mapping[str, Any]) -> bytes:
    """The engine that a `BuildOrder`'s builder makes in this process."""
    module, function = builder.split(":")
    return getattr(importlib.import_module(module), function)(files, **options)
