"""Runs the node in a process of its own, waits for it, and ends it as a user would. Needs no rclpy itself."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from rain_removal_ros.errors import RainRemovalError
from rain_removal_ros.runtime import RuntimeSettings
from rain_removal_ros.share import dds_profile_environment, node_program

ENDS_WITHIN_S = 20.0


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


def fate_of(process: subprocess.Popen[bytes]) -> str | None:
    """How the node's process ended, as `ended with status 1`; None while it runs."""
    status = process.poll()
    return None if status is None else f"ended with status {status}"


def check_runs(process: subprocess.Popen[bytes], log: Path) -> None:
    """Raise RainRemovalError, with the end of its log, where the node's process has ended."""
    ended = fate_of(process)
    if ended is not None:
        raise RainRemovalError(f"the node {ended}; {end_of(log)}")


@contextmanager
def showing_end_of(log: Path) -> Iterator[None]:
    """Add the end of a node's log to the message of a RainRemovalError that the block raises."""
    try:
        yield
    except RainRemovalError as error:
        raise RainRemovalError(f"{error}; {end_of(log)}") from error


def end_of(log: Path) -> str:
    """The last lines of a node's log, and where it is, for a message."""
    lines = log.read_text(errors="replace").splitlines()[-12:]
    return "\n".join([f"the end of its log {log}:", *lines])
