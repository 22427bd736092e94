"""Measures networks side by side on one dataset: restoration, what it does for segmentation, depth, dry
images, flicker, latency.

Knows datasets by their interface, and gives plain data; reports are not its job.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TypeAlias

import cv2
import numpy as np

from rain_removal_ros.errors import DatasetError, ParameterError
from rain_removal_ros.lab.data.examples import Dataset, Example
from rain_removal_ros.lab.evaluation import metrics, probes
from rain_removal_ros.lab.evaluation.conditions import LEVELS, STREAKLESS
from rain_removal_ros.lab.evaluation.figures import (
    Labels,
    Truth,
    agreements,
    compared,
    harm,
    likeness,
    measured_depth,
)
from rain_removal_ros.lab.evaluation.intervals import intervals
from rain_removal_ros.lab.evaluation.probes import Part, with_parts
from rain_removal_ros.lab.evaluation.protocols import PROTOCOLS
from rain_removal_ros.lab.evaluation.results import ResultFolder
from rain_removal_ros.lab.evaluation.summary import CLEAN, DRY, MEAN, RAINY, Figures, Record, summarise
from rain_removal_ros.lab.evaluation.testbed import Testbed
from rain_removal_ros.lab.evaluation.views import (
    Plan,
    View,
    chosen,
    in_turns,
    name_of_view,
    plan_of,
    views_of,
)

_Add: TypeAlias = Callable[[str, str, dict[str, float], Labels], None]
"""Told a level, a source, the figures and the labels of one image."""

FOG_LEFT = "perfect streak removal"
"""Source of the fog-only image: what the best of streak stages could leave."""

STREAKS_ALONE = "{}, streaks alone"
"""Source of what a network's streak stage leaves."""


@dataclass(frozen=True)
class EvaluationSettings:
    """What is measured, and on how much."""

    levels: tuple[str, ...] = LEVELS
    protocol: str = "full"
    limit: int | None = None  # images, spread evenly over the dataset; None: all
    limit_per_group: int | None = None  # images of a group, spread evenly over it; None: all
    robustness_images: int = 7
    flicker_scenes: int = 7
    flicker_frames: int = 10
    flicker_rate: float = 10.0  # frames a second
    consistency_images: int = 7
    latency_size: tuple[int, int] = (512, 1024)  # height, width
    latency_calls: int = 30


@dataclass
class Scored:
    """All that is known of one image."""

    index: int
    group: str
    records: list[Record] = field(default_factory=list)


class Evaluation:
    """One run over one dataset. Examples are worked on by several threads."""

    def __init__(
        self,
        dataset: Dataset,
        testbed: Testbed,
        settings: EvaluationSettings,
        show: Callable[[str, str, np.ndarray], None] = lambda source, name, image: None,
        methods: Mapping[str, ResultFolder] | None = None,
    ):
        """`show` is given every image that is compared, by its source and name; `methods` hold what others
        made of the same views. Raises ParameterError.
        """
        unknown = [level for level in settings.levels if level not in LEVELS]
        if unknown or not settings.levels:
            raise ParameterError(f"unknown rain level {unknown}; the levels are {', '.join(LEVELS)}")
        taken = {CLEAN, RAINY, DRY, FOG_LEFT, *map(STREAKS_ALONE.format, testbed.streak_stages)}
        methods = methods or {}
        for name in methods.keys() & (taken | testbed.networks.keys()):
            raise ParameterError(
                f"no results can be called {name!r}, which names something else in the tables; give them "
                "another name"
            )
        for name in taken & testbed.networks.keys():
            raise ParameterError(
                f"no network can be called {name!r}, which names something else in the tables; rename its "
                "weights file, or the folder of the run where the file is called weights"
            )
        self.dataset, self.testbed, self.settings, self._show = dataset, testbed, settings, show
        self.methods = methods
        self.indices = chosen(dataset, settings.limit, settings.limit_per_group)
        self.plan = Plan({}, {})  # known when it runs
        self.scores: list[Scored] = []

    def run(self) -> Figures:
        """Everything, as JSON-able data: `sources` (figures by source, level and group, see `summarise`),
        `networks` (what is measured of each besides), `methods` (names), `intervals` (see
        `intervals`), and `counts` of images behind.

        Raises DatasetError, before anything is measured, where a method's images are not those of the views.
        """
        self.plan = plan_of(self.dataset, self.indices, self.settings.levels)
        self._check_methods()
        self.scores = self.testbed.in_workers(self._score_image, self.indices, "images")
        records = self.records
        if not any(record.source == RAINY for record in records):
            raise DatasetError(
                f"the dataset has no rainy image of the levels {', '.join(self.settings.levels)}"
            )
        results = summarise(records) | {"networks": {name: {} for name in self.testbed.networks}}
        results |= {
            "methods": list(self.methods),
            "intervals": intervals(records, [*self.testbed.networks, *self.methods], results["overall"]),
        }
        return with_parts(results, self._probe())

    @property
    def records(self) -> list[Record]:
        """All that has been measured of views and dry images."""
        return [record for score in self.scores for record in score.records]

    def _check_methods(self) -> None:
        """Raises DatasetError for a file that is missing, too much, damaged or of another size."""
        views = [name for names in self.plan.views.values() for name in names]
        for folder in self.methods.values():
            folder.check_names(views, list(self.plan.dry.values()))

        def check_sizes(index: int) -> None:
            size = self._prepared(index).clean_image.shape[:2]
            dry = [self.plan.dry[index]] if index in self.plan.dry else []
            for folder in self.methods.values():
                for name in (*self.plan.views[index], *(dry if folder.has_dry else ())):
                    folder.read(name, size)

        if self.methods:
            self.testbed.in_workers(check_sizes, self.indices, "sizes of results")

    def _probe(self) -> Iterator[Part]:
        """What the probes say on rain of their own, where it can be rendered onto the dataset's images."""
        if not _takes_rain(self.dataset[self.indices[0]]):
            return
        settings, testbed, example_of = self.settings, self.testbed, self._prepared
        groups: dict[str, list[int]] = {}
        for score in self.scores:
            groups.setdefault(score.group, []).append(score.index)
        of_groups = partial(in_turns, list(groups.values()))
        yield probes.robustness(testbed, of_groups(settings.robustness_images), example_of)
        yield probes.flicker(
            testbed,
            of_groups(settings.flicker_scenes),
            example_of,
            settings.flicker_frames,
            settings.flicker_rate,
        )
        yield probes.depth_consistency(testbed, of_groups(settings.consistency_images), example_of)

    def worst(self, network: str, count: int) -> list[Record]:
        """The rainy views of which a network harmed most, every group in turn, no clean image twice."""
        of_scene: dict[str, list[Record]] = {}
        for record in self.records:
            if record.source == network and record.level not in (DRY, *STREAKLESS):
                of_scene.setdefault(record.scene, []).append(record)
        by_group: dict[str, list[Record]] = {}
        for views in of_scene.values():
            record = max(views, key=lambda r: r.figures["harmed"])
            by_group.setdefault(record.group, []).append(record)
        ranked = [sorted(group, key=lambda r: -r.figures["harmed"]) for _, group in sorted(by_group.items())]
        turns = [
            group[turn]
            for turn in range(max(map(len, ranked), default=0))
            for group in ranked
            if turn < len(group)
        ]
        return turns[:count]

    def view_again(self, record: Record) -> tuple[View, float | None]:
        """The view that a record was taken on, and its camera's focal length."""
        example = self.dataset[record.index]
        focal_px = PROTOCOLS[self.settings.protocol].example(example).focal_px
        views = views_of(example, self.settings.levels, self.settings.protocol)
        return next(view for view in views if view.level == record.level), focal_px

    def _score_image(self, index: int) -> Scored:
        example = self.dataset[index]
        prepared = PROTOCOLS[self.settings.protocol].example(example)
        group = example.group or "all"
        if group == MEAN:
            raise DatasetError(
                f"{example.name} belongs to a group called {MEAN!r}, as the mean over groups is; rename it"
            )
        scored = Scored(index, group)
        truth: Truth | None = None

        def add(level: str, source: str, figures: dict[str, float], labels: Labels) -> None:
            assert truth is not None  # it comes with the first view
            known = truth.labels
            confusions = {}
            if known is not None:
                confusions = {judge: metrics.confusion(known, seen) for judge, seen in labels.items()}
            name = example.scene if level == DRY else example.name
            scored.records.append(
                Record(index, name, example.scene, group, level, source, figures, confusions)
            )

        for view in views_of(example, self.settings.levels, self.settings.protocol):
            if truth is None:
                truth = Truth.of(prepared, self.testbed)
                if index in self.plan.dry:
                    self._score_dry(self.plan.dry[index], prepared, truth, add)
            self._score_view(view, prepared, truth, add)
        return scored

    def _score_dry(self, name_of_files: str, example: Example, truth: Truth, add: _Add) -> None:
        """Figures and labels of the dry image, by network and by the method that has one."""

        def alone(image: np.ndarray, labels: Labels) -> dict[str, float]:
            return likeness(image, truth) | harm(image, truth.clean, truth) | agreements(labels, truth)

        self._show(DRY, name_of_files, truth.clean)
        add(DRY, CLEAN, {}, truth.seen)
        for name in self.testbed.networks:
            restored = self.testbed.restore(name, truth.clean, example.focal_px)
            self._show(name, name_of_files, restored.image)
            labels = self.testbed.judged_after(restored)
            figures = alone(restored.image, labels) | restored.opinion | measured_depth(restored, example)
            add(DRY, name, figures, labels)
        for name, folder in self.methods.items():
            if folder.has_dry:
                image = folder.read(name_of_files, truth.clean.shape[:2])
                labels = self.testbed.judged(image)
                add(DRY, name, alone(image, labels), labels)

    def _score_view(self, view: View, example: Example, truth: Truth, add: _Add) -> None:
        before = likeness(view.rainy, truth)
        bounds = {}
        if truth.sky is not None and truth.below is not None:
            image = np.where(truth.below[..., None], truth.clean, view.rainy)
            bounds["psnr_gain_sky_kept"] = metrics.psnr(image, truth.clean) - before["psnr"]

        def figures_of(image: np.ndarray, labels: Labels, whole: bool = True) -> dict[str, float]:
            return compared(image, view.rainy, before, labels, truth, whole)

        name_of_files = name_of_view(example.name, view.level)
        self._show(RAINY, name_of_files, view.rainy)
        self._show(CLEAN, name_of_files, truth.clean)
        seen = self.testbed.judged_before(view.rainy)
        to_fog = {} if view.fog is None else {"psnr_to_fog": metrics.psnr(view.rainy, view.fog)}
        add(view.level, RAINY, before | bounds | to_fog | agreements(seen, truth), seen)
        if view.fog is not None and self.testbed.streak_stages:
            labels = self.testbed.judged_before(view.fog)
            add(view.level, FOG_LEFT, figures_of(view.fog, labels, whole=False), labels)
            for name in self.testbed.streak_stages:
                cleared = self.testbed.without_streaks(name, view.rainy)
                labels = self.testbed.judged(cleared)
                figures = figures_of(cleared, labels, whole=False)
                figures["psnr_to_fog"] = metrics.psnr(cleared, view.fog)
                add(view.level, STREAKS_ALONE.format(name), figures, labels)
        for name in self.testbed.networks:
            restored = self.testbed.restore(name, view.rainy, example.focal_px)
            self._show(name, name_of_files, restored.image)
            labels = self.testbed.judged_after(restored)
            figures = figures_of(restored.image, labels)
            add(view.level, name, figures | restored.opinion | measured_depth(restored, example), labels)
        for name, folder in self.methods.items():
            image = folder.read(name_of_files, truth.clean.shape[:2])
            labels = self.testbed.judged(image)
            add(view.level, name, figures_of(image, labels), labels)

    def _prepared(self, index: int) -> Example:
        """The example put through the protocol, for rain that is rendered onto it afterwards."""
        return PROTOCOLS[self.settings.protocol].example(self.dataset[index])

    def latency(self) -> Part:
        """Of a call of every network on one image of `latency_size`; see `probes.latency`."""
        height, width = self.settings.latency_size
        clean = self._prepared(self.indices[0]).clean_image
        image = cv2.resize(clean, (width, height), interpolation=cv2.INTER_LINEAR)
        return probes.latency(self.testbed, image, self.settings.latency_calls)


def _takes_rain(example: Example) -> bool:
    """Whether rain can be rendered onto an example: its depth is known everywhere."""
    return example.inverse_depth is not None and not np.isnan(example.inverse_depth).any()
