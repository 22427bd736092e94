"""Renders a drive's frames in several processes, in order. Knows processes, not what a frame shows."""

from __future__ import annotations

import multiprocessing
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

from rain_removal_ros.cpu import usable_cores
from rain_removal_ros.errors import RainRemovalError
from rain_removal_ros.lab.scenes.drive import Drive, DriveFrame

_worker_drive: Drive


def render_frames(
    drive: Drive,
    indices: Sequence[int] | None = None,
    processes: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Iterator[DriveFrame]:
    """Yield the frames at `indices` (default: all) in that order, rendered by `processes` (default: one a
    core).

    `on_progress(done, total)` is called as each frame is handed out. Processes are spawned, so a script
    that calls this needs the usual `if __name__ == "__main__":`. Each builds the street for itself; a
    handful of frames comes sooner with `processes=1`, which renders in this process.
    """
    indices = range(len(drive)) if indices is None else indices
    processes = usable_cores() if processes is None else processes
    if processes < 1:
        raise RainRemovalError(f"rendering with {processes} processes; give 1 or more")
    frames = (
        _spread(drive, indices, processes)
        if min(processes, len(indices)) > 1
        else (drive[i] for i in indices)
    )
    for done, frame in enumerate(frames, start=1):
        if on_progress is not None:
            on_progress(done, len(indices))
        yield frame


def _spread(drive: Drive, indices: Sequence[int], processes: int) -> Iterator[DriveFrame]:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, initializer=_take, initargs=(drive,)) as pool:
        pending: deque[Future[DriveFrame]] = deque()
        remaining = iter(indices)
        try:
            for _ in indices:
                while len(pending) < 4 * processes and (index := next(remaining, None)) is not None:
                    pending.append(pool.submit(_render, index))
                yield pending.popleft().result()
        except BrokenProcessPool as error:
            raise RainRemovalError(
                f"a process that rendered the drive died (out of memory?); try fewer than {processes}"
            ) from error
        finally:
            for future in pending:
                future.cancel()


def _take(drive: Drive) -> None:
    global _worker_drive
    _worker_drive = drive


def _render(index: int) -> DriveFrame:
    return _worker_drive[index]
