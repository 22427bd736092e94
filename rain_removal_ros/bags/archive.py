"""Derains many bags: on the cores and GPUs of one machine by processes, on many machines by Ray.

A bag is a job: what has been done already is left alone, what fails is named, and the others go on. Knows
jobs and workers, not what becomes of a bag.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing import active_children, get_context, parent_process
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from rain_removal_ros.bags.convert import Options, convert
from rain_removal_ros.bags.jobs import Job
from rain_removal_ros.bags.report import REPORT_FILE
from rain_removal_ros.bags.writing import discard_unfinished
from rain_removal_ros.cpu import usable_cores
from rain_removal_ros.errors import RainRemovalError
from rain_removal_ros.extras import missing
from rain_removal_ros.runtime import KINDS, Restorer, RuntimeSettings

MakeRestorer = Callable[[RuntimeSettings], Restorer]
Listener = Callable[["Outcome"], None]


@dataclass(frozen=True)
class Outcome:
    """What became of a job. state: done | there already | failed; reason: why, or what the new bag lacks."""

    job: Job
    state: str
    frames: int = 0
    seconds: float = 0.0
    reason: str = ""
    where: str = ""

    @property
    def is_whole(self) -> bool:
        """Whether the new bag is there, with all that its source holds."""
        return self.state != FAILED and not self.reason


DONE, THERE, FAILED = "done", "there already", "failed"


def run_here(
    jobs: Sequence[Job],
    options: Options,
    settings: RuntimeSettings,
    on_outcome: Listener,
    *,
    processes: int = 0,
    make_restorer: MakeRestorer | None = None,
) -> list[Outcome]:
    """Do the jobs in processes of this machine, one for each GPU, or for every few cores.

    processes: how many; 0: as the machine suggests. make_restorer: how a worker gets its network; it must be
    importable.
    """
    outcomes, left = _leave_alone(jobs, on_outcome)
    workers = _workers(settings, processes) if left else []
    while left:
        context = get_context("spawn")  # a network's threads do not survive a fork
        places = context.Queue()
        for place in workers:
            places.put(place)
        try:
            with _pool(min(len(workers), len(left)), left, _start_worker, places, make_restorer) as pool:
                for future in as_completed([pool.submit(_do_in_worker, job, options) for job in left]):
                    outcome = future.result()
                    outcomes.append(outcome)
                    left.remove(outcome.job)
                    on_outcome(outcome)
        except BrokenProcessPool:
            # a worker was killed, for its memory perhaps; with which bag, nobody says
            outcome = _alone(left.pop(0), options, workers[0], make_restorer)
            outcomes.append(outcome)
            on_outcome(outcome)
    return outcomes


@contextmanager
def _pool(
    processes: int, jobs: Sequence[Job], start: Callable[..., None], *arguments: Any
) -> Iterator[ProcessPoolExecutor]:
    """Processes that do these jobs. On an error, an interruption above all, they end and leave nothing."""
    before = set(active_children())
    pool = ProcessPoolExecutor(processes, get_context("spawn"), start, arguments)
    try:
        yield pool
    except BrokenProcessPool:
        raise
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        _end([process for process in active_children() if process not in before])
        for job in jobs:
            discard_unfinished(job.target)
        raise
    finally:
        pool.shutdown()


def _end(processes: Sequence[BaseProcess]) -> None:
    """End processes that remove what they have begun; after a while, whatever they are at."""
    try:
        for process in processes:
            process.terminate()
        until = time.monotonic() + GRACE_S
        for process in processes:
            process.join(max(0.0, until - time.monotonic()))
    finally:  # also for a second Ctrl-C
        for process in processes:
            process.kill()
        for process in processes:
            process.join()


GRACE_S = 10.0
"""A worker ends with the image that it is at, but not while it compiles a network."""


def run_on_ray(
    jobs: Sequence[Job],
    options: Options,
    settings: RuntimeSettings,
    on_outcome: Listener,
    *,
    address: str,
    cores: int = 2,
    make_restorer: MakeRestorer | None = None,
) -> list[Outcome]:
    """Do the jobs on the Ray cluster at `address` (auto: the one that this machine belongs to).

    Every machine must see the bags under the same paths and have this package. A job takes a GPU where the
    cluster has any, else `cores` cores. A job whose machine dies is done again on another.
    """
    try:
        import ray
    except ModuleNotFoundError as error:
        raise RainRemovalError(f"--ray needs {missing(error) or error}") from error
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # an archive is its owner's business alone
    started = not ray.is_initialized()
    if started:
        ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING)
    try:
        gpus = 1 if ray.cluster_resources().get("GPU", 0) >= 1 else 0
        threads = settings.threads or (0 if gpus else cores)
        here = replace(settings, threads=threads)
        # a process of its own for each bag: nothing of a bad one is left for the next
        task = ray.remote(num_cpus=1 if gpus else cores, num_gpus=gpus, max_retries=2, max_calls=1)(_do_alone)
        outcomes, left = _leave_alone(jobs, on_outcome)
        waiting = {task.remote(job, options, here, make_restorer): job for job in left}
        while waiting:
            (ready,), _ = ray.wait(list(waiting), num_returns=1)
            job = waiting.pop(ready)
            try:
                outcome = ray.get(ready)
            except ray.exceptions.RayError as error:
                outcome = Outcome(job, FAILED, reason=f"its worker died: {_first_line(error)}")
            outcomes.append(outcome)
            on_outcome(outcome)
        return outcomes
    finally:
        if started:
            ray.shutdown()


def _leave_alone(jobs: Sequence[Job], on_outcome: Listener) -> tuple[list[Outcome], list[Job]]:
    """(outcomes of the jobs whose new bag is there, the other jobs)."""
    outcomes, left = [], []
    for job in jobs:
        there = _there_already(job)
        if there is None:
            left.append(job)
        else:
            outcomes.append(there)
            on_outcome(there)
    return outcomes, left


def table(outcomes: Sequence[Outcome]) -> list[str]:
    """What became of the jobs, the failed ones last, with the sum."""
    rows = [("bag", "", "frames", "s", "frames/s", "")]
    for outcome in sorted(outcomes, key=lambda each: (each.state == FAILED, str(each.job.source))):
        rate = f"{outcome.frames / outcome.seconds:.2f}" if outcome.seconds else ""
        seconds = f"{outcome.seconds:.1f}" if outcome.seconds else ""
        rows.append(
            (str(outcome.job.source), outcome.state, str(outcome.frames), seconds, rate, outcome.reason)
        )
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    lines = []
    for name, *cells, reason in rows:
        shown = [name.ljust(widths[0]), cells[0].ljust(widths[1])]
        shown += [cell.rjust(width) for cell, width in zip(cells[1:], widths[2:], strict=True)]
        lines.append("  ".join([*shown, reason]).rstrip())
    counts = {state: sum(outcome.state == state for outcome in outcomes) for state in (DONE, THERE, FAILED)}
    frames = sum(outcome.frames for outcome in outcomes)
    lacking = sum(outcome.state != FAILED and not outcome.is_whole for outcome in outcomes)
    text = f"{', '.join(f'{count} {state}' for state, count in counts.items())}; {frames} frames"
    return [*lines, f"{text}; {lacking} of the bags lack what the table says" if lacking else text]


# -- in the workers --------------------------------------------------------------------------------


@dataclass
class _Worker:
    """What a process keeps from bag to bag."""

    settings: RuntimeSettings
    make_restorer: MakeRestorer | None
    restorer: Restorer | None = None


_worker: _Worker | None = None


def _start_worker(places: Any, make_restorer: MakeRestorer | None) -> None:
    global _worker
    _obey()
    _worker = _Worker(places.get(), make_restorer)


def _obey() -> None:
    """Have this process end when the one that started it says so, or is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the one that started it
    signal.signal(signal.SIGTERM, _leave)
    parent = parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(GRACE_S)
        os._exit(128 + signal.SIGTERM)

    threading.Thread(target=watch, name="watch", daemon=True).start()


def _leave(number: int, _: object) -> None:
    signal.signal(number, signal.SIG_IGN)  # what has been begun is removed now
    raise SystemExit(128 + number)


@contextmanager
def _leaving() -> Iterator[None]:
    """Let this process end where it is told to: the pool would hand that on as a result, and begin another
    job.
    """
    try:
        yield
    except SystemExit as error:
        os._exit(int(error.code or 0))


def _do_in_worker(job: Job, options: Options) -> Outcome:
    assert _worker is not None
    with _leaving():
        there = _there_already(job)
        if there is not None:
            return there
        try:
            _worker.restorer = _worker.restorer or _restorer_of(_worker.settings, _worker.make_restorer)
        except RainRemovalError as error:
            return Outcome(job, FAILED, reason=str(error))
        return do(job, options, _worker.restorer)


def _do_alone_in_worker(
    job: Job, options: Options, settings: RuntimeSettings, make_restorer: MakeRestorer | None
) -> Outcome:
    with _leaving():
        return _do_alone(job, options, settings, make_restorer)


def _do_alone(
    job: Job, options: Options, settings: RuntimeSettings, make_restorer: MakeRestorer | None
) -> Outcome:
    """A job with a network of its own."""
    there = _there_already(job)
    if there is not None:
        return there
    try:
        restorer = _restorer_of(settings, make_restorer)
    except RainRemovalError as error:
        return Outcome(job, FAILED, reason=str(error))
    try:
        return do(job, options, restorer)
    finally:
        restorer.close()


def _alone(
    job: Job, options: Options, settings: RuntimeSettings, make_restorer: MakeRestorer | None
) -> Outcome:
    """A job in a process that may die with it."""
    try:
        with _pool(1, [job], _obey) as pool:
            return pool.submit(_do_alone_in_worker, job, options, settings, make_restorer).result()
    except BrokenProcessPool:
        discard_unfinished(job.target)
        return Outcome(job, FAILED, reason="its process was killed, for want of memory perhaps")


def do(job: Job, options: Options, restorer: Restorer) -> Outcome:
    """One job. Never raises for what is wrong with the bag or its place."""
    there = _there_already(job)
    if there is not None:
        return there
    began = time.perf_counter()
    where = f"{os.uname().nodename} {os.getpid()}"
    try:
        report = convert(job.source, job.target, restorer, options)
    except RainRemovalError as error:
        return Outcome(job, FAILED, seconds=time.perf_counter() - began, reason=str(error), where=where)
    except Exception as error:  # a defect met by one bag must not end the others
        reason = f"{type(error).__name__}: {error}"
        return Outcome(job, FAILED, seconds=time.perf_counter() - began, reason=reason, where=where)
    lacking = _lacking(report.damage, [(each.failed, each.first_failure) for each in report.cameras])
    return Outcome(job, DONE, report.frames, time.perf_counter() - began, lacking, where)


def _lacking(damage: Sequence[str], failures: Sequence[tuple[int, str | None]]) -> str:
    """What a new bag lacks; empty: nothing. failures: of each camera, how many images and why the first."""
    count, why = sum(count for count, _ in failures), next((why for _, why in failures if why), None)
    return "; ".join([*damage, *([f"{count} images could not be read: {why}"] if count else [])])


def _there_already(job: Job) -> Outcome | None:
    """A bag comes into being whole or not at all: one that is there is done, if it is of this source."""
    if not job.target.exists():
        return None
    try:
        report = json.loads((job.target / REPORT_FILE).read_text())
        if Path(report["source"]) == job.source:
            failures = [(camera["failed"], camera["first_failure"]) for camera in report["cameras"]]
            return Outcome(job, THERE, report["frames"], reason=_lacking(report["damage"], failures))
        reason = f"{job.target} is there, but was made from {report['source']}"
    except (OSError, ValueError, KeyError, TypeError):
        reason = f"{job.target} is there, but was not made by derain"
    return Outcome(job, FAILED, reason=f"{reason}; remove it, or give another folder")


def _restorer_of(settings: RuntimeSettings, make_restorer: MakeRestorer | None) -> Restorer:
    if make_restorer is not None:
        return make_restorer(settings)
    from rain_removal_ros.runtime import create_restorer

    return create_restorer(settings)


def _workers(settings: RuntimeSettings, processes: int) -> list[RuntimeSettings]:
    """The settings of every worker: one a GPU; else so many that each has a few cores."""
    gpus = _gpus(settings)
    if gpus:
        count = processes or gpus
        return [replace(settings, device=number % gpus) for number in range(count)]
    cores = usable_cores()
    count = processes or max(1, cores // CORES_A_WORKER)
    return [replace(settings, threads=settings.threads or max(1, cores // count)) for _ in range(count)]


CORES_A_WORKER = 4
"""A network gains little from more; so many cores do several bags sooner than one after the other."""


def _gpus(settings: RuntimeSettings) -> int:
    if settings.backend in KINDS and not KINDS[settings.backend].on_gpu:
        return 0
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
