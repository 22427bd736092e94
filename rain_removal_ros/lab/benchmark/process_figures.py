"""What the operating system says of a process while it is measured: memory, processor time, handles."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from rain_removal_ros.errors import RainRemovalError


def resident_mib(process_id: int | None = None) -> float:
    """Resident memory of a process now, this one if none is named, in MiB.

    Raises RainRemovalError where the process has ended.
    """
    with _alive():
        pages = int((_folder(process_id) / "statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def peak_resident_mib() -> float:
    """The most resident memory that this process had since its program began, in MiB.

    getrusage's maximum is also that of the process that forked it.
    """
    status = (_folder() / "status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024  # in kB


@dataclass(frozen=True)
class ProcessFigures:
    """A process at one moment."""

    cpu_s: float  # processor time since it began
    memory_mib: float  # resident
    handles: int
    threads: int
    shared_memory_files: int  # of the whole machine

    @classmethod
    def of(cls, process_id: int) -> ProcessFigures:
        """Raises RainRemovalError where the process has ended."""
        folder = _folder(process_id)
        with _alive():
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            return cls(
                cpu_s=(int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"),
                memory_mib=resident_mib(process_id),
                handles=len(list((folder / "fd").iterdir())),
                threads=len(list((folder / "task").iterdir())),
                shared_memory_files=len(list(Path("/dev/shm").iterdir())),
            )


@contextmanager
def sampled_memory(process_id: int, every_s: float) -> Iterator[list[float]]:
    """The resident memory of a process, MiB: now, and every so many seconds while the block lasts.

    Raises RainRemovalError where the process has ended before; if it ends later, no more samples come.
    """
    samples = [resident_mib(process_id)]
    ended = threading.Event()

    def sample() -> None:
        with suppress(RainRemovalError):  # that it has ended is told by who waits for it
            while not ended.wait(every_s):
                samples.append(resident_mib(process_id))

    thread = threading.Thread(target=sample, name="memory", daemon=True)
    thread.start()
    try:
        yield samples
    finally:
        ended.set()
        thread.join()


def _folder(process_id: int | None = None) -> Path:
    return Path("/proc", "self" if process_id is None else str(process_id))


@contextmanager
def _alive() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RainRemovalError("the process ended while it was measured") from error
