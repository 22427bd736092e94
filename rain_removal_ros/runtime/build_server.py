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
from collections.abc import Mapping, Sequence
from typing import IO, Any, NoReturn

from rain_removal_ros.runtime.build_process import build_here

NICENESS = 5
"""A build must not take the processor from the frames that go on meanwhile."""


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
        child = os.fork()
        if child == 0:
            _build_and_end(head, files, answers)
        _watch(child, orders, answers)


def _build_and_end(head: Mapping[str, Any], files: Mapping[str, bytes], answers: int) -> NoReturn:
    status = 1
    try:
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
