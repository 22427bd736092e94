"""A node in a process of its own, and a peer that sends it what ought not to be and sees that it goes on."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from ros_harness import RELIABLE, Peer, image_of, values_of
from sensor_msgs.msg import Image

from rain_removal_ros.runtime import Output

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
FIRST_GOOD = 1_000_000
GREY = np.full((72, 96, 3), 100, np.uint8)


def environment(**more: str) -> dict[str, str]:
    paths = [str(ROOT), str(HERE.parent), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), **more}


@contextmanager
def node_process(log: Path, *arguments: str, real: bool = False, **faults: str) -> Iterator[subprocess.Popen]:
    """The node, killed in the end if it is still there."""
    program = ["-m", "rain_removal_ros.ros.main"] if real else [str(HERE / "faulty_node.py")]
    with log.open("a") as output:
        process = subprocess.Popen(
            [sys.executable, *program, "--ros-args", *arguments],
            env=environment(**faults),
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def ends_within(process: subprocess.Popen, seconds: float) -> int:
    """The exit status; AssertionError where it takes longer."""
    began = time.perf_counter()
    try:
        status = process.wait(seconds)
    except subprocess.TimeoutExpired as error:
        raise AssertionError(f"it did not end within {seconds} s") from error
    assert time.perf_counter() - began <= seconds
    return status


class Bench:
    """One node and its peer, for many cases."""

    def __init__(self, log: Path, *arguments: str, **faults: str):
        self.log = log
        self.peer = Peer()
        self._context = node_process(log, *arguments, **faults)
        self.process = self._context.__enter__()
        self.stamps = itertools.count(FIRST_GOOD)
        self.status("derain: runtime", "the node is active", lambda v: v["state"] == "active")
        self.images = self.peer.output(Output.IMAGE)
        self.camera = self.peer.camera()
        self.good()

    def close(self) -> None:
        self.process.send_signal(signal.SIGINT)
        try:
            assert ends_within(self.process, 5) == 0, "it did not end with status 0"
        finally:
            self._context.__exit__(None, None, None)
            self.peer.close()

    def status(self, name: str, what: str, condition) -> Any:
        assert self.process.poll() is None, f"the node ended with status {self.process.poll()}"
        return self.peer.status(name, lambda s: condition(values_of(s)))

    def values(self, camera: str = "camera") -> dict[str, str]:
        return values_of(self.peer.status(f"derain: {camera}", lambda s: True))

    def good(self, image: Image | None = None) -> Image:
        """Send good images until one is answered: the header is its own, the pixels are restored, nothing
        foreign comes in between.
        """
        while True:
            assert self.process.poll() is None, f"the node ended with status {self.process.poll()}"
            stamp = next(self.stamps)
            message = image_of(GREY, second=stamp)
            self.camera.publish(message)
            self.peer.client.wait_for(
                lambda stamp=stamp: any(m.header.stamp.sec == stamp for m in self.images[-8:]), timeout=1.0
            )
            answers = [m for m in self.images[-8:] if m.header.stamp.sec == stamp]
            if answers:
                assert len(answers) == 1, "one image was answered twice"
                assert answers[0].header == message.header
                if bytes(answers[0].data[:3]) == bytes([110] * 3):
                    return answers[0]

    def send(self, message: Any, publisher: Any = None) -> dict[str, int]:
        """Send one message of a camera and wait until the node has done with it: what it was counted as."""
        before = self._counts()
        (publisher or self.camera).publish(message)

        def done(values: dict[str, str]) -> bool:
            now = _counted(values)
            twice = int(values["published passed through"])  # they are counted as failed too
            settled = sum(now[key] for key in COUNTED) - twice
            return now["received"] > before["received"] and settled >= now["received"]

        after = _counted(values_of(self.status("derain: camera", "the message is counted", done)))
        return {key: after[key] - before[key] for key in after if after[key] != before[key]}

    def _counts(self) -> dict[str, int]:
        return _counted(self.values())


COUNTED = (
    "published",
    "dropped",
    "not computed, no subscribers",
    "bad input",
    "processing failed",
    "build failed",
)


def _counted(values: dict[str, str]) -> dict[str, int]:
    return {key: int(values[key]) for key in ("received", *COUNTED)}


__all__ = ["GREY", "RELIABLE", "Bench", "ends_within", "environment", "node_process"]
