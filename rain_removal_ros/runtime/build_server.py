"""The process that builds engines for another: a server that forks a child for every order, on Linux."""

from __future__ import annotations

import array
import fcntl
import importlib
import json
import os
import select
import signal
import sys
import termios
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import IO, Any, NoReturn

try:
    import ctypes
except ImportError:  # a Python that was built without libffi
    ctypes = None  # type: ignore[assignment]

from rain_removal_ros.runtime.build_process import build_here

NICENESS = 5
"""A build must not take the processor from the frames that go on meanwhile."""

PR_SET_PDEATHSIG = 1
"""Of prctl(2): a signal for this process when its parent ends."""


def serve(idle_s: float, preloaded: Sequence[str]) -> None:
    """Answer orders from standard input on standard output until it closes or nothing comes for `idle_s`."""
    orders, answers = sys.stdin.buffer, os.dup(1)
    os.dup2(2, 1)  # what a compiler prints is no answer
    os.nice(NICENESS)
    for name in preloaded:
        importlib.import_module(name)
    while select.select([orders], [], [], idle_s)[0]:
        line = orders.readline()
        if not line:
            return
        head = json.loads(line)
        files = {name: orders.read(size) for name, size in head["files"].items()}
        server, child = os.getpid(), os.fork()
        if child == 0:
            _build_and_end(head, files, answers, server)
        _watch(child, orders, answers)


def _build_and_end(
    head: Mapping[str, Any], files: Mapping[str, bytes], answers: int, server: int
) -> NoReturn:
    status = 1
    try:
        end_with(server)
        with open(answers, "wb", closefd=False) as stream:
            try:
                engine = build_here(head["builder"], files, head["options"])
                stream.write(json.dumps({"bytes": len(engine)}).encode() + b"\n")
                stream.write(engine)
            except Exception as error:  # of whatever compiler; the parent raises it again
                answer = {"error": type(error).__name__, "message": str(error)}
                stream.write(json.dumps(answer).encode() + b"\n")
        status = 0
    finally:
        os._exit(status)  # no clean-up of what belongs to the server


def end_with(parent: int) -> None:
    """Have this process killed as soon as its parent ends, which may be killed itself and then ends nobody.

    parent: the process id that it has had since its birth. Linux has a call for this; where a system or a
    sandbox refuses it, a thread watches, which a compiler that holds the interpreter may delay.
    """
    if not _killed_with_parent():
        threading.Thread(target=_end_after, args=(os.pidfd_open(parent),), daemon=True).start()
    if os.getppid() != parent:  # it ended before anybody watched
        os.kill(os.getpid(), signal.SIGKILL)


def _killed_with_parent() -> bool:
    """Ask the kernel for it; whether it has agreed."""
    try:
        prctl: Callable[..., int] = ctypes.CDLL(None).prctl
    except (AttributeError, OSError):
        return False
    return prctl(PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL)) == 0


def _end_after(process: int) -> None:
    """Wait for the end of a process (a handle of it), and end this one."""
    select.select([process], [], [])
    os.kill(os.getpid(), signal.SIGKILL)


def _bytes_waiting(pipe: IO[bytes]) -> int:
    """How much could be read at once; 0 of a pipe that is ready to be read: it was closed."""
    count = array.array("i", [0])
    fcntl.ioctl(pipe, termios.FIONREAD, count)
    return count[0]


def _watch(child: int, orders: IO[bytes], answers: int) -> None:
    """Wait for a child; end it, and this process, where nobody is left to want its engine."""
    ended = os.pidfd_open(child)
    try:
        waited_for: list[int | IO[bytes]] = [ended, orders]
        ready, _, _ = select.select(waited_for, [], [])
        # an order may come before a child that has answered has ended; the end of all orders is the parent's
        if ended not in ready and not _bytes_waiting(orders):
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
    finally:
        os.close(ended)
    code = os.waitstatus_to_exitcode(status)
    if code < 0:  # end as it did, so that the parent can tell of what
        os.kill(os.getpid(), -code)
    if code != 0:
        sys.exit(1)
