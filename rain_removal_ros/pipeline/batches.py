"""Frames of several cameras in one call: how many, by what trials said of it on this machine."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from rain_removal_ros.errors import NotPreparedError
from rain_removal_ros.pipeline.failures import Failure
from rain_removal_ros.pipeline.interfaces import BatchKey, Key
from rain_removal_ros.runtime import BatchTrial, describe

SIZES = (8, 4, 2)
"""So many frames may go together. Each is a graph of its own, so there are not more."""

TRIED_AGAIN_AFTER_S = 600.0
"""What a trial said holds for so long: the machine may have been busy with other things."""

TRIALS_KEPT = 64


@dataclass(frozen=True)
class _Trial:
    outcome: BatchTrial | Failure
    when: float = field(default_factory=time.perf_counter)

    @property
    def is_due(self) -> bool:
        if isinstance(self.outcome, Failure):
            return self.outcome.may_be_tried_again
        return time.perf_counter() - self.when > TRIED_AGAIN_AFTER_S


class Batches:
    """Does nothing by itself; the pipeline's lock guards it.

    wanted: what is to be tried, if anything. hung: the runtime hung with several frames; a runtime made anew
    would hang with the next, so they go one by one from then on.
    """

    def __init__(self) -> None:
        self.wanted: BatchKey | None = None
        self.hung = False
        self._trials: OrderedDict[BatchKey, _Trial] = OrderedDict()

    def frames_a_call(
        self, key: Key, ready: int, in_memory: Collection[int], longest_s: float, reading_s: float = 0.0
    ) -> int:
        """How many of so many frames to restore in one call: as many as make a frame the quickest, of the
        numbers that were tried and are in memory, and whose call takes no longer than `longest_s`, where a
        frame is read first in `reading_s`. One that is to be tried becomes `wanted`.
        """
        if self.hung:
            return 1
        best = BatchTrial(1, ratio=1.0, call_s=0.0)
        due: BatchKey | None = None
        for frames in (frames for frames in SIZES if frames <= ready):
            trial = self._trials.get((key, frames))
            if due is None and best.frames == 1 and (trial is None or trial.is_due):
                due = key, frames
            if trial is not None and isinstance(trial.outcome, BatchTrial):
                outcome = trial.outcome
                serves = frames in in_memory and outcome.call_s <= longest_s
                if serves and outcome.pays_after(reading_s) and outcome.ratio < best.ratio:
                    best = outcome
        wanted = self.wanted
        if due is not None and (wanted is None or wanted[0] != key or wanted[1] < due[1]):
            self.wanted = due  # of those that wait together, not of the last of them
        return best.frames

    def on_tried(self, batch: BatchKey, outcome: BatchTrial | Failure) -> bool:
        """Remember what became of a trial, or of a call; whether it had failed before."""
        before = self._trials.pop(batch, None)
        gave_way = isinstance(outcome, Failure) and isinstance(outcome.error, NotPreparedError)
        if before is not None and isinstance(outcome, Failure) and not gave_way:
            outcome = outcome.after(before.outcome)
        self._trials[batch] = _Trial(outcome)
        while len(self._trials) > TRIALS_KEPT:
            self._trials.popitem(last=False)
        return before is not None and isinstance(before.outcome, Failure)

    def tried(self) -> set[Key]:
        """What there were trials for."""
        return {key for key, _ in self._trials}

    def told(self, in_memory: Callable[[Key], Collection[int]]) -> list[str]:
        """What trials said, and where several frames go together."""
        if self.hung:
            return ["not any more: the runtime hung with it"]
        told = []
        for (key, frames), trial in self._trials.items():
            outcome = trial.outcome
            if isinstance(outcome, Failure):
                said = f"failed: {str(outcome.error) or type(outcome.error).__name__}"
            elif outcome.ratio == float("inf"):
                said = "would take too long"
            else:
                used = outcome.pays and frames in in_memory(key)
                said = f"{outcome.ratio:.2f} of the time{'' if used else ', not used'}"
            (height, width), outputs = key
            told.append(f"{describe(height, width, outputs, frames)}: {said}")
        return told

    def forget(self) -> None:
        """Another runtime is in the place of the one that all this was about."""
        self._trials.clear()
        self.wanted = None
