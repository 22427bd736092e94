"""Derains many bags: on the cores and GPUs of one machine by processes, on many machines by Ray.

A bag is a job: what has been done already is left alone, what fails is named, and the others go on. Knows
jobs and workers, not what becomes of a bag.
"""

from __future__ import annotations

import json
import logging
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from rain_removal_ros.bags.convert import Options, convert
from rain_removal_ros.bags.report import REPORT_FILE
from rain_removal_ros.bags.storage import COMPRESSED, METADATA, SUFFIXES
from rain_removal_ros.cpu import usable_cores
from rain_removal_ros.errors import BagError, RainRemovalError
from rain_removal_ros.extras import missing
from rain_removal_ros.runtime import KINDS, Restorer, RuntimeSettings

MakeRestorer = Callable[[RuntimeSettings], Restorer]
Listener = Callable[["Outcome"], None]


@dataclass(frozen=True)
class Job:
    """A bag and the new bag that it becomes."""

    source: Path
    target: Path


@dataclass(frozen=True)
class Outcome:
    """What became of a job. state: done | there already | failed; reason: why, or what was damaged."""

    job: Job
    state: str
    frames: int = 0
    seconds: float = 0.0
    reason: str = ""
    where: str = ""


DONE, THERE, FAILED = "done", "there already", "failed"


def find_jobs(inputs: Sequence[Path], output: Path) -> list[Job]:
    """The bags of files, folders and lists (.txt, a bag a line), each to become a bag in the folder `output`.

    Bags of a folder keep their path in it. A folder without metadata.yaml is one bag where all its files are
    of one recording and no bag lies below it; else each of its files is a bag.
    Raises BagError where there is none, or two would have one name.
    """
    ours = output.resolve()
    found: list[tuple[Path, Path]] = []  # bag, its name in the output
    for path in inputs:
        if path.suffix == ".txt" and path.is_file():
            lines = [line.strip() for line in path.read_text("utf-8").splitlines()]
            listed = [Path(line).expanduser() for line in lines if line and not line.startswith("#")]
            bags = [each if each.is_absolute() else path.parent / each for each in listed]
            found += [(bag, Path(_name(bag))) for bag in bags]
        elif not path.exists():
            raise BagError(
                f"{path} does not exist; give bags, folders of bags, or a list of them in a .txt file"
            )
        elif path.is_file() and not _is_storage(path):
            raise BagError(f"{path} is no bag; give bags, folders of bags, or a list of them in a .txt file")
        else:
            inside = [path] if path.is_file() else list(_bags_in(path, path.resolve(), {ours}))
            if not inside:
                raise BagError(f"{path} holds no bags")
            found += [
                (bag, bag.relative_to(path).with_name(_name(bag)) if bag != path else Path(_name(bag)))
                for bag in inside
            ]
    jobs: dict[Path, Job] = {}
    for bag, name in found:
        job = Job(bag.absolute(), (output / name).absolute())
        other = jobs.get(job.target)
        if other is not None and other.source != job.source:
            raise BagError(
                f"{bag} and {other.source} would both become {job.target}; clean them into two folders"
            )
        jobs[job.target] = job
    return list(jobs.values())


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
        count = min(len(workers), len(left))
        with ProcessPoolExecutor(count, context, _start_worker, (places, make_restorer)) as pool:
            futures = {pool.submit(_do_in_worker, job, options): job for job in left}
            try:
                for future in as_completed(futures):
                    outcome = future.result()
                    outcomes.append(outcome)
                    left.remove(outcome.job)
                    on_outcome(outcome)
            except BrokenProcessPool:
                # a worker was killed, for its memory perhaps; with which bag, nobody says
                outcome = _alone(left.pop(0), options, workers[0], make_restorer)
                outcomes.append(outcome)
                on_outcome(outcome)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    return outcomes


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
    return [*lines, f"{', '.join(f'{count} {state}' for state, count in counts.items())}; {frames} frames"]


def _is_storage(path: Path) -> bool:
    return path.name.removesuffix(COMPRESSED).endswith(tuple(SUFFIXES)) and path.is_file()


def _name(bag: Path) -> str:
    """Of the new bag, which is a folder: the old one's without the suffix of a file."""
    name = bag.absolute().name
    stem = name.removesuffix(COMPRESSED)
    return stem.removesuffix(Path(stem).suffix) if Path(stem).suffix in SUFFIXES else name


def _bags_in(folder: Path, top: Path, seen: set[Path]) -> Iterator[Path]:
    """The folder itself where it is a bag, else those in it and below it, each once.

    top: where the search began, resolved; a link to what the search meets anyway is passed over.
    seen: folders, resolved, that were searched already.
    """
    if folder.resolve() in seen:
        return
    seen.add(folder.resolve())
    if (folder / METADATA).is_file():
        yield folder
        return
    paths = [
        path
        for path in sorted(folder.iterdir())
        if not path.name.startswith(".") and not (path.is_symlink() and _is_met(path, top))
    ]
    files = [path for path in paths if _is_storage(path)]
    below = [bag for path in paths if path.is_dir() for bag in _bags_in(path, top, seen)]
    if files and not below and _of_one_recording(files):
        yield folder
    else:
        yield from sorted([*files, *below])


def _is_met(link: Path, top: Path) -> bool:
    """Whether a search from `top` meets what the link leads to by itself."""
    path = Path(os.path.realpath(link))  # of a link to itself, too
    return path.is_relative_to(top) and not any(part.startswith(".") for part in path.relative_to(top).parts)


def _of_one_recording(files: Sequence[Path]) -> bool:
    """Whether these are the parts of one bag, as rosbag2 numbers them: drive_0.mcap, drive_1.mcap."""
    parts = [re.fullmatch(r"(.*)_\d+", _name(file)) for file in files]
    return len(files) == 1 or (all(parts) and len({part[1] for part in parts if part is not None}) == 1)


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
    _worker = _Worker(places.get(), make_restorer)


def _do_in_worker(job: Job, options: Options) -> Outcome:
    assert _worker is not None
    there = _there_already(job)
    if there is not None:
        return there
    try:
        _worker.restorer = _worker.restorer or _restorer_of(_worker.settings, _worker.make_restorer)
    except RainRemovalError as error:
        return Outcome(job, FAILED, reason=str(error))
    return do(job, options, _worker.restorer)


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
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        try:
            return pool.submit(_do_alone, job, options, settings, make_restorer).result()
        except BrokenProcessPool:
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
    notes = list(report.damage)
    if report.failed:
        notes.append(f"{report.failed} images could not be read: {report.first_failure}")
    return Outcome(job, DONE, report.frames, time.perf_counter() - began, "; ".join(notes), where)


def _there_already(job: Job) -> Outcome | None:
    """A bag comes into being whole or not at all: one that is there is done, if it is of this source."""
    if not job.target.exists():
        return None
    try:
        report = json.loads((job.target / REPORT_FILE).read_text())
        if Path(report["source"]) == job.source:
            return Outcome(job, THERE, report["frames"])
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
