"""What the way of a frame measures: counts since the start, rates and times over a window. Judges nothing."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum

import numpy as np

from rain_removal_ros.errors import bounded
from rain_removal_ros.rain_monitor import Weather

WINDOW_S = 10.0
"""Rates and latencies are those of the last ten seconds."""


class Stage(Enum):
    """The stages of a frame's way; their times, in seconds, add up to TOTAL."""

    WAITING = "waiting"  # for the worker, and in its hands for frames that go along
    CONVERSION = "conversion"  # message to RGB, and restored RGB to messages
    INFERENCE = "inference"  # of the whole call that it was part of
    PUBLISHING = "publishing"
    TOTAL = "total"  # message in to message out


class Problem(Enum):
    """Why a frame was not restored."""

    BAD_INPUT = "bad input"  # the message is not what it claims to be
    FAILED = "processing failed"  # the network or the middleware raised, hung, or gave what cannot be
    BUILD = "build failed"


class Way(Enum):
    """How a frame that was published came to be."""

    RESTORED = "restored"
    PASSED_THROUGH = "passed through"  # the input, because the runtime failed
    BYPASSED = "bypassed"  # the input, because it is dry


@dataclass(frozen=True)
class StageTimes:
    """The time that one frame spent in each stage, in seconds; None in the network, where it never was."""

    waiting: float
    conversion: float
    inference: float | None
    publishing: float

    @property
    def total(self) -> float:
        return self.waiting + self.conversion + (self.inference or 0.0) + self.publishing


@dataclass(frozen=True)
class Distribution:
    """Of a quantity over the window, in the unit of the quantity."""

    count: int
    minimum: float
    median: float
    p95: float
    p99: float
    maximum: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Distribution | None:
        """None where there are no values."""
        if not values:
            return None
        quantiles = np.quantile(np.asarray(values), (0, 0.5, 0.95, 0.99, 1))
        return cls(len(values), *(float(value) for value in quantiles))


@dataclass
class Counts:
    """What has become of a camera's frames since the start."""

    received: int = 0
    published: int = 0
    dropped: int = 0  # overtaken by a newer frame before the worker came to them
    idle: int = 0  # not computed, because nobody subscribes
    together: int = 0  # restored in one call with frames of other cameras
    problems: dict[Problem, int] = field(default_factory=lambda: dict.fromkeys(Problem, 0))
    ways: dict[Way, int] = field(default_factory=lambda: dict.fromkeys(Way, 0))  # that were published


@dataclass(frozen=True)
class CameraSnapshot:
    """One camera's counts since the start, and rates and times over the window."""

    camera: str
    counts: Counts
    recent_problems: dict[Problem, int]  # within the window
    last_problems: dict[Problem, str]  # of each kind, the newest last
    rate_in: float  # Hz
    rate_out: float  # Hz
    stages: dict[Stage, Distribution]  # seconds; empty before the first frame
    image_age: Distribution | None  # seconds from the image's stamp until it was published
    seconds_since_received: float | None
    seconds_since_published: float | None
    last_way: Way | None = None
    weather: Weather | None = None  # as the last restored frame says
    dry: bool = False  # as the rain monitor has it
    focal_px: float | None = None  # what the last restored frame's depth was scaled with; None: assumed


@dataclass
class CameraStatistics:
    """What a snapshot of one camera is made of. The pipeline's lock guards it."""

    camera: str
    counts: Counts = field(default_factory=Counts)
    last_problems: dict[Problem, str] = field(default_factory=dict)
    last_way: Way | None = None
    weather: Weather | None = None
    focal_px: float | None = None
    arrivals: deque[float] = field(default_factory=deque)
    departures: deque[tuple[float, StageTimes, float | None]] = field(default_factory=deque)
    problem_times: deque[tuple[float, Problem]] = field(default_factory=deque)
    arrives_since: float | None = None  # where rates are counted from, if within the window
    departs_since: float | None = None
    last_received: float | None = None
    last_published: float | None = None

    def on_received(self, now: float) -> None:
        self.counts.received += 1
        self.last_received = now
        self.arrives_since = now if self.arrives_since is None else self.arrives_since
        self.arrivals.append(now)
        self._forget_before(now - WINDOW_S)

    def on_published(self, now: float, way: Way, times: StageTimes, age: float | None) -> None:
        self.counts.published += 1
        self.counts.ways[way] += 1
        self.last_way = way
        self.last_published = now
        self.departs_since = now if self.departs_since is None else self.departs_since
        self.departures.append((now, times, age))
        self._forget_before(now - WINDOW_S)

    def on_idle(self) -> None:
        """Of a frame that nobody wants: with the next one that is published, a rate begins anew."""
        self.counts.idle += 1
        self.departs_since = None

    def on_pause(self) -> None:
        """Of a node that takes no images for a while: its rates begin anew afterwards."""
        self.arrives_since = self.departs_since = None

    def on_problem(self, now: float, problem: Problem, error: BaseException) -> None:
        self.counts.problems[problem] += 1
        self.problem_times.append((now, problem))
        self.last_problems.pop(problem, None)
        self.last_problems[problem] = bounded(f"{problem.value}: {str(error) or type(error).__name__}")

    def copy(self) -> CameraStatistics:
        """One that another thread may take its time with."""
        entries_shared = {name: copy.copy(value) for name, value in vars(self).items()}
        return replace(self, **entries_shared | {"counts": copy.deepcopy(self.counts)})

    def snapshot(self, now: float, dry: bool) -> CameraSnapshot:
        self._forget_before(now - WINDOW_S)
        times = [times for _, times, _ in self.departures]
        spent = {stage: [getattr(t, stage.value) for t in times] for stage in Stage}
        stages = {stage: Distribution.of([s for s in spent[stage] if s is not None]) for stage in Stage}
        recent = dict.fromkeys(Problem, 0)
        for _, problem in self.problem_times:
            recent[problem] += 1
        return CameraSnapshot(
            camera=self.camera,
            counts=copy.deepcopy(self.counts),
            recent_problems=recent,
            last_problems=dict(self.last_problems),
            rate_in=_rate(self.arrivals, self.arrives_since, now),
            rate_out=_rate((departed for departed, *_ in self.departures), self.departs_since, now),
            stages={
                stage: distribution for stage, distribution in stages.items() if distribution is not None
            },
            image_age=Distribution.of([age for _, _, age in self.departures if age is not None]),
            seconds_since_received=None if self.last_received is None else now - self.last_received,
            seconds_since_published=None if self.last_published is None else now - self.last_published,
            last_way=self.last_way,
            weather=self.weather,
            dry=dry,
            focal_px=self.focal_px,
        )

    def _forget_before(self, start: float) -> None:
        while self.arrivals and self.arrivals[0] < start:
            self.arrivals.popleft()
        for entries in (self.departures, self.problem_times):
            while entries and entries[0][0] < start:
                entries.popleft()


def _rate(times: Iterable[float], since: float | None, now: float) -> float:
    """Hz, over the window or what has passed of it since `since`, at least a second."""
    if since is None:
        return 0.0
    return sum(time >= since for time in times) / min(WINDOW_S, max(1.0, now - since))
