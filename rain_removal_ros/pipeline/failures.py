"""What could not be compiled or made, remembered until it is tried again."""

from __future__ import annotations

import time
import traceback
from dataclasses import dataclass, field, replace

from rain_removal_ros.errors import ImageError
from rain_removal_ros.frame_statistics import Problem

RETRY_AFTER_S = 10.0
"""What could not be compiled or made (a graph, a stand-in, a runtime) is tried again after this long; what
fails again, after twice as long each time.
"""

MOST_DOUBLINGS = 5
"""An engine that takes minutes to build, and fails at its end, would else be built without a pause."""

MAX_HANGING = 3
"""With so many inferences that never came back, making another runtime would only lose more memory."""

MAX_NOT_REMADE = 3
"""A runtime that could not be made anew so often does not come back by itself: where a driver has given up on
a process, it has for good.
"""

LONGEST_REMAKING_S = 300.0
"""A device that hangs may hang whoever makes it anew; compiling anew takes no longer on most machines."""

LONGEST_LOADING_S = 120.0
"""A compiled graph is loaded, and run for the first time, in seconds; where that takes longer than this, the
device hangs.
"""

UNWANTED_AFTER_S = 60.0
"""What has been free to be tried again for so long, and was not, is not wanted any more."""


@dataclass(frozen=True)
class Failure:
    """What was raised, when (time.perf_counter()), and how many times in a row it has been by now.

    asked: it was asked for ahead, so no frame has to want it.
    """

    error: BaseException
    when: float = field(default_factory=time.perf_counter)
    attempts: int = 1
    asked: bool = False

    @property
    def may_be_tried_again(self) -> bool:
        return time.perf_counter() > self._due

    @property
    def is_unwanted(self) -> bool:
        return not self.asked and time.perf_counter() > self._due + UNWANTED_AFTER_S

    @property
    def _due(self) -> float:
        return self.when + RETRY_AFTER_S * 2 ** min(self.attempts - 1, MOST_DOUBLINGS)

    def after(self, before: object) -> Failure:
        """This one, counted after what came of the attempt before."""
        return replace(self, attempts=before.attempts + 1) if isinstance(before, Failure) else self

    @property
    def problem(self) -> Problem:
        return problem_of_build(self.error)


def problem_of_build(error: BaseException) -> Problem:
    """A size that no network takes is the image's fault, not the compiler's."""
    return Problem.BAD_INPUT if isinstance(error, ImageError) else Problem.BUILD


def without_variables(error: BaseException) -> BaseException:
    """The error, which is kept, without the variables of the calls that it came through: they may hold what
    was compiled so far, on a device without room for it.
    """
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        traceback.clear_frames(link.__traceback__)
        link = link.__cause__ or link.__context__
    return error
