"""Runs the node in a process of its own, waits for it, and ends it as a user would. Needs no rclpy itself."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from rain_removal_ros.errors import RainRemovalError
from rain_removal_ros.ros.status import Status
from rain_removal_ros.runtime import RuntimeSettings
from rain_removal_ros.share import dds_profile_environment, node_program

ENDS_WITHIN_S = 20.0
READY_WITHIN_S = 900.0
"""Seconds in which the node must be ready, a TensorRT engine built included."""


def node_parameters(settings: RuntimeSettings) -> dict[str, str]:
    """The node's parameters that say of the network, and of what runs it, what the settings say."""
    names = ("backend", "precision", "preset", "weights", "cache_dir", "threads", "device")
    values = {name: getattr(settings, name) for name in names}
    return {name: str(value) for name, value in values.items() if value is not None}


@contextmanager
def running_node(
    parameters: Mapping[str, str], log: Path | None = None, remappings: Sequence[tuple[str, str]] = ()
) -> Iterator[subprocess.Popen[bytes]]:
    """The node, its output in `log` (None: on this terminal); ended by SIGINT, as Ctrl-C would.

    Raises RainRemovalError where it does not end cleanly.
    """
    environment = {**os.environ, **dds_profile_environment(os.environ)}
    assignments = [part for name, value in parameters.items() for part in ("-p", f"{name}:={value}")]
    rules = [part for source, target in remappings for part in ("-r", f"{source}:={target}")]
    with ExitStack() as stack:
        output = stack.enter_context(log.open("w")) if log is not None else None
        process = subprocess.Popen(
            [*node_program(sys.executable), "--ros-args", *assignments, *rules],
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT if output is not None else None,
            start_new_session=log is None,  # the terminal's Ctrl-C is its parent's to hand on
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
            try:
                status = process.wait(timeout=ENDS_WITHIN_S)
            except subprocess.TimeoutExpired:
                process.kill()
                status = process.wait()
    if status != 0:
        where = f"its log is {log}" if log is not None else "its log is above"
        raise RainRemovalError(f"the node ended with status {status}; {where}")


def check_runs(process: subprocess.Popen[bytes], log: Path) -> None:
    """Raise RainRemovalError, with the end of its log, where the node's process has ended."""
    if process.poll() is not None:
        raise RainRemovalError(f"the node ended with status {process.poll()}; {end_of(log)}")


def wait_until_ready(
    wait_for: Callable[[Callable[[], bool], float], bool],
    ready: Callable[[], bool],
    status: Callable[[], Status | None],
    process: subprocess.Popen[bytes],
    log: Path,
) -> None:
    """Wait until `ready()`, which is asked at every message, and twice a second.

    wait_for: NodeClient's. status: what the node's diagnostics last said of its runtime.
    Raises RainRemovalError, with the end of the node's log, where the node ends, says of its runtime that it
    is an error, or takes longer than READY_WITHIN_S.
    """
    deadline = time.monotonic() + READY_WITHIN_S
    while not wait_for(ready, 0.5):
        check_runs(process, log)
        said = status()
        if said is not None and said.is_error:
            raise RainRemovalError(f"the node says: {said.message}; {end_of(log)}")
        if time.monotonic() > deadline:
            raise RainRemovalError(f"the node was not ready after {READY_WITHIN_S:.0f} s; {end_of(log)}")


def end_of(log: Path) -> str:
    """The last lines of a node's log, and where it is, for a message."""
    lines = log.read_text(errors="replace").splitlines()[-12:]
    return "\n".join([f"the end of its log {log}:", *lines])
