"""How something is measured: in a process of its own, as quantiles and rates; and what could not be."""

from __future__ import annotations

import multiprocessing
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from rain_removal_ros.errors import RainRemovalError

WARM_UP = 5
"""Calls before the first that is timed."""


@dataclass(frozen=True)
class Quantiles:
    """Of a duration, in milliseconds."""

    median: float
    p95: float
    p99: float

    @classmethod
    def of(cls, milliseconds: Sequence[float]) -> Quantiles:
        return cls(*(round(float(value), 3) for value in np.percentile(milliseconds, (50, 95, 99))))


def rate_of(moments: Sequence[float]) -> float:
    """Events a second, of the moments of events in seconds, in order; 0 where there are fewer than two."""
    return (len(moments) - 1) / (moments[-1] - moments[0]) if len(moments) > 1 else 0.0


@dataclass(frozen=True)
class Failure:
    """A configuration that could not be measured, and why."""

    what: str
    error: str


def _serve(connection: Connection, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    try:
        connection.send((True, function(*arguments)))
    except RainRemovalError as error:
        connection.send((False, str(error)))
    except Exception:
        connection.send((False, traceback.format_exc()[-2000:]))


def isolated(what: str, function: Callable[..., Any], *arguments: Any, timeout: float = 600) -> Any:
    """`function(*arguments)` in a fresh process; a Failure where it raises, dies or takes too long."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_serve, args=(theirs, function, arguments), daemon=True)
    process.start()
    theirs.close()
    try:
        if not ours.poll(timeout):
            return Failure(what, f"took longer than {timeout:.0f} s")
        succeeded, result = ours.recv()
        return result if succeeded else Failure(what, result)
    except EOFError:
        process.join()
        return Failure(what, f"its process died with exit status {process.exitcode}")
    finally:
        process.kill()
        process.join()


def failure_lines(rows: Sequence[object]) -> list[str]:
    """One line for each Failure among the rows."""
    return [f"not measured: {row.what}: {_gist(row.error)}" for row in rows if isinstance(row, Failure)]


def _gist(error: str) -> str:
    """The line that says what went wrong: a traceback's last, and the first of what else there is."""
    lines = error.strip().splitlines()
    traced = lines[0].startswith("Traceback") or any(line.startswith('  File "') for line in lines)
    return lines[-1 if traced else 0]


def as_data(value: Any) -> Any:
    """Rows as plain data for JSON."""
    return [{"kind": type(row).__name__, **asdict(row)} for row in value]


def say_on_stderr(what: str) -> None:
    """Progress, where it does not mix with the table."""
    print(f"measure {what} ...", file=sys.stderr, flush=True)
