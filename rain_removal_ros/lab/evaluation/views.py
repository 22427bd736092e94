"""Which views of a dataset are measured, and what each is called wherever it is written or read. Knows
datasets and the rain, not networks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from rain_removal_ros.cityscapes import TrainId
from rain_removal_ros.errors import DatasetError
from rain_removal_ros.lab.data.examples import Dataset, Example, outline_of
from rain_removal_ros.lab.evaluation.conditions import STREAKLESS, fog_of, rain_on
from rain_removal_ros.lab.evaluation.protocols import PROTOCOLS
from rain_removal_ros.lab.evaluation.summary import DRY

RECORDED = "recorded"
"""Level of a dataset's own rainy images where it does not name their strength."""


@dataclass(frozen=True)
class View:
    """One rainy view of an example, its parts put through the protocol."""

    level: str
    rainy: np.ndarray
    clean: np.ndarray
    fog: np.ndarray | None  # the same without streaks, where the rain was rendered and has some


def views_of(example: Example, levels: Sequence[str], protocol: str) -> Iterator[View]:
    """The rainy views of an example: its own rainy image, else rain rendered at every one of the levels.

    Raises DatasetError where there is nothing clean to compare with, or neither a rainy image nor depth to
    render rain with.
    """
    if example.clean is None:
        raise DatasetError(
            f"{example.name} has no clean image to compare with; such images can only be looked at"
        )
    picture = PROTOCOLS[protocol].picture
    clean = picture(example.clean)
    if example.rainy is not None:
        level = example.level or RECORDED
        if level == RECORDED or level in levels:
            yield View(level, picture(example.rainy), clean, None)
        return
    for level in levels:
        fog = None if level in STREAKLESS else picture(fog_of(example, level))
        yield View(level, picture(rain_on(example, level).rainy), clean, fog)


def name_of_view(name: str, level: str) -> str:
    """What the files of a view are called, without their ending."""
    return f"{name}_{level}"


def name_of_dry(example: Example) -> str:
    """What the files of an example's clean image are called: the same for all examples that share it."""
    return f"{example.scene}_{DRY}"


def chosen(dataset: Dataset, limit: int | None, per_group: int | None) -> list[int]:
    """At most `limit` indices of a dataset, spread evenly over it, then at most `per_group` of every group.
    None: all.
    """
    indices = spread(range(len(dataset)), limit)
    if per_group is None:
        return indices
    groups: dict[str | None, list[int]] = {}
    for index in indices:
        groups.setdefault(outline_of(dataset, index).group, []).append(index)
    return sorted(index for members in groups.values() for index in spread(members, per_group))


def sky_of(example: Example) -> np.ndarray | None:
    """Where an example's labels or depth say sky, bool (H, W); None: it has neither."""
    sky = None if example.labels is None else example.labels == TrainId.SKY
    if example.inverse_depth is not None:
        sky = (example.inverse_depth == 0) if sky is None else sky | (example.inverse_depth == 0)
    return sky


def spread(indices: Sequence[int], count: int | None) -> list[int]:
    """At most `count` of the indices, spread evenly over them."""
    indices = list(indices)
    if count is None or count >= len(indices):
        return indices
    return [indices[i] for i in sorted({int(i) for i in np.linspace(0, len(indices) - 1, count)})]


def in_turns(groups: Sequence[Sequence[int]], count: int) -> list[int]:
    """`count` of the indices, or all where there are fewer, every group in turn as long as it has some."""
    share = -(-count // max(1, len(groups)))
    wanted = min(count, sum(len(members) for members in groups))
    while sum(min(share, len(members)) for members in groups) < wanted:
        share += 1
    shares = [spread(members, share) for members in groups]
    turns = [members[turn] for turn in range(share) for members in shares if turn < len(members)]
    return sorted(turns[:count])


@dataclass(frozen=True)
class Plan:
    """What is measured on each image of a dataset, known without reading the images."""

    views: dict[int, tuple[str, ...]]  # names of the rainy views, by index; () where no level is wanted
    dry: dict[int, str]  # name of the clean image, at the first index of those that share it


def plan_of(dataset: Dataset, indices: Sequence[int], levels: Sequence[str]) -> Plan:
    """The views of these indices. Reads one example, which tells whether the dataset has rain of its own."""
    own_rain = dataset[indices[0]].rainy is not None
    views, dry, met = {}, {}, set()
    for index in indices:
        example = outline_of(dataset, index)
        wanted = tuple(levels)
        if own_rain:
            level = example.level or RECORDED
            wanted = (level,) if level == RECORDED or level in levels else ()
        views[index] = tuple(name_of_view(example.name, level) for level in wanted)
        if wanted and example.scene not in met:
            met.add(example.scene)
            dry[index] = name_of_dry(example)
    return Plan(views, dry)
