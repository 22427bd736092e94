"""Builders for the build process' tests: they answer, fail, die or wait as their options say."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from pathlib import Path

from rain_removal_ros.errors import WeightsError


def echo(files: Mapping[str, bytes], text: str = "") -> bytes:
    print("a compiler that talks on standard output")
    return b"".join(files.values()) + text.encode()


def refuse(files: Mapping[str, bytes]) -> bytes:
    raise WeightsError("weights file x does not fit")


def defect(files: Mapping[str, bytes]) -> bytes:
    raise KeyError("a defect")


def die(files: Mapping[str, bytes], number: int) -> bytes:
    os.kill(os.getpid(), number)
    signal.pause()
    return b""


def leave(files: Mapping[str, bytes]) -> bytes:
    os._exit(3)


def wait_for_ever(files: Mapping[str, bytes], started: str) -> bytes:
    Path(started).write_text(str(os.getpid()))
    signal.pause()
    return b""


def sleep_for_ever(files: Mapping[str, bytes]) -> bytes:
    signal.pause()
    return b""
