"""Which bags of an archive become which new ones: those of folders, files and lists. Knows no workers."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rain_removal_ros.bags.storage import COMPRESSED, METADATA, SUFFIXES
from rain_removal_ros.errors import BagError
from rain_removal_ros.paths import exists


@dataclass(frozen=True)
class Job:
    """A bag and the new bag that it becomes."""

    source: Path
    target: Path


def find_jobs(inputs: Sequence[Path], output: Path) -> list[Job]:
    """The bags of files, folders and lists (.txt, a bag a line), each to become a bag in the folder `output`.

    Bags of a folder keep their path in it. A folder without metadata.yaml is one bag where all its files are
    of one recording and no bag lies below it; else each of its files is a bag.
    Raises BagError where there is none, two would have one name, or one would lie in another.
    """
    ours = output.resolve()
    found: list[tuple[Path, Path]] = []  # bag, its name in the output
    for path in inputs:
        if path.suffix == ".txt" and path.is_file():
            text = path.read_text("utf-8-sig", "surrogateescape")  # as the system has names of any bytes
            lines = [line.strip() for line in text.splitlines()]
            listed = [Path(line).expanduser() for line in lines if line and not line.startswith("#")]
            bags = [each if each.is_absolute() else path.parent / each for each in listed]
            found += [(bag, Path(_name(bag))) for bag in bags]
        elif not exists(path):
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
    for job in jobs.values():
        around = next((jobs[parent] for parent in job.target.parents if parent in jobs), None)
        if around is not None:
            raise BagError(
                f"{job.source} would become {job.target}, inside of what {around.source} becomes; clean them "
                "into two folders"
            )
    return list(jobs.values())


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
