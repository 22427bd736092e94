"""The networks under test and the judges that they are tried by: one call at a time each, from several
threads.

Knows restorers and judges by their call, and what cameras' images are, not what is measured.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from rain_removal_ros.errors import ParameterError, RainRemovalError
from rain_removal_ros.lab.evaluation.judges import TRACING, folding_table
from rain_removal_ros.lab.evaluation.workers import Item, Result, Track, in_workers, untracked
from rain_removal_ros.runtime import Output, Restorer

JudgeFunction = Callable[[np.ndarray], np.ndarray]  # uint8 (H, W, 3) RGB -> uint8 (H, W) train ids
ImageFunction = Callable[[np.ndarray], np.ndarray]  # uint8 (H, W, 3) RGB -> the like

MASK = "mask"
"""The judge's name under which the labels that a network itself publishes are judged."""

OUTPUTS = (Output.IMAGE, Output.INVERSE_DEPTH, Output.LABELS)


@dataclass(frozen=True)
class Answer:
    """What a network made of an image."""

    image: np.ndarray  # uint8 (H, W, 3) RGB
    inverse_depth: np.ndarray  # float32 (H, W), 1/m
    labels: np.ndarray | None  # uint8 (H, W), train ids; None: the restorer gives none
    rain_gate: float | None  # its own opinion of whether it rains, 0-1; None: it has none
    extinction: float | None = None  # of the fog that it sees, 1/m; 0: none, so nothing of it is taken off

    @property
    def opinion(self) -> dict[str, float]:
        """`rain` and `foggy`, 1 where it sees fog at all, as figures among others, where there are any."""
        fog = {} if self.extinction is None else {"foggy": float(self.extinction > 0)}
        return fog if self.rain_gate is None else {"rain": self.rain_gate} | fog


@dataclass
class Testbed:
    """What is tried, and by whom.

    `known_judges` answer for images that no network made (clean, rainy); they may keep their answers.
    `streak_stages` take off streaks alone. `mask` labels as the networks' own mask does, where they did not
    restore first.
    """

    __test__ = False  # not a test, whatever pytest makes of its name

    networks: Mapping[str, Restorer]
    judges: Mapping[str, JudgeFunction] = field(default_factory=dict)
    known_judges: Mapping[str, JudgeFunction] | None = None
    mask: JudgeFunction | None = None
    streak_stages: Mapping[str, ImageFunction] = field(default_factory=dict)
    class_set: str = "cityscapes19"
    workers: int = 2
    track: Track = untracked

    def __post_init__(self) -> None:
        if not self.networks:
            raise ParameterError("no network to evaluate; give weights or a preset")
        if MASK in self.judges:
            raise ParameterError(
                f"no judge can be called {MASK!r}, as the networks' own labels are; add ,name=N"
            )
        self._locks = {name: threading.Lock() for name in (*self.networks, *self.streak_stages)}
        self._compiled: set[tuple[str, tuple[int, int]]] = set()
        self._folding = folding_table(self.class_set)

    def restore(self, network: str, image: np.ndarray, focal_px: float | None = None) -> Answer:
        """What a network makes of a uint8 (H, W, 3) image; focal_px: its camera's focal length."""
        restorer, size = self.networks[network], image.shape[:2]
        with self._locks[network]:
            if (network, size) not in self._compiled:
                with TRACING:
                    restorer.prepare(size[0], size[1], OUTPUTS)
                self._compiled.add((network, size))
            restored = restorer(image, OUTPUTS, focal_px=focal_px)
        if restored.image is None or restored.inverse_depth is None:
            raise RainRemovalError(f"{network} gave no image or no inverse depth, which were asked for")
        return Answer(
            restored.image, restored.inverse_depth, restored.labels, restored.rain_gate, restored.extinction
        )

    def without_streaks(self, network: str, image: np.ndarray) -> np.ndarray:
        """The image as the network's streak stage alone leaves it."""
        with self._locks[network]:
            return self.streak_stages[network](image)

    def fold(self, labels: np.ndarray) -> np.ndarray:
        """Train ids as the class set knows them."""
        return self._folding[labels]

    def judged(self, image: np.ndarray) -> dict[str, np.ndarray]:
        """What every judge sees in an image that a network made, by judge, folded."""
        return {name: self.fold(judge(image)) for name, judge in self.judges.items()}

    def judged_before(self, image: np.ndarray) -> dict[str, np.ndarray]:
        """What every judge, and the mask, sees in an image that no network made."""
        judges = dict(self.judges if self.known_judges is None else self.known_judges)
        if self.mask is not None:
            judges[MASK] = self.mask
        return {name: self.fold(judge(image)) for name, judge in judges.items()}

    def judged_after(self, restored: Answer) -> dict[str, np.ndarray]:
        """What every judge sees in a restored image, and the labels that came with it as MASK."""
        labels = self.judged(restored.image)
        if restored.labels is not None:
            labels[MASK] = self.fold(restored.labels)
        return labels

    def in_workers(
        self, function: Callable[[Item], Result], items: Sequence[Item], what: str
    ) -> list[Result]:
        """function of every item, by `workers` threads, in order."""
        return in_workers(function, items, what, self.workers, self.track)
