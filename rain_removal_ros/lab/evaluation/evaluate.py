"""Measures networks side by side on one dataset: restoration, what it does for segmentation, depth, dry
images, flicker, latency.

Knows datasets by their interface, and gives plain data; reports are not its job.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeAlias

import cv2
import numpy as np

from rain_removal_ros.cityscapes import UNLABELLED, TrainId
from rain_removal_ros.errors import DatasetError, ParameterError
from rain_removal_ros.lab.data.examples import Dataset, Example, outline_of
from rain_removal_ros.lab.evaluation import metrics, probes
from rain_removal_ros.lab.evaluation.conditions import LEVELS, STREAKLESS, fog_of, rain_on
from rain_removal_ros.lab.evaluation.probes import Part, with_parts
from rain_removal_ros.lab.evaluation.protocols import PROTOCOLS
from rain_removal_ros.lab.evaluation.summary import CLEAN, DRY, MEAN, RAINY, Figures, Record, summarise
from rain_removal_ros.lab.evaluation.testbed import Answer, Testbed

Labels: TypeAlias = dict[str, np.ndarray]
"""What every judge sees in one image, by judge."""

_Add: TypeAlias = Callable[[str, str, dict[str, float], Labels], None]
"""Told a level, a source, the figures and the labels of one image."""

RECORDED = "recorded"
"""Level of a dataset's own rainy images where it does not name their strength."""

FOG_LEFT = "perfect streak removal"
"""Source of the fog-only image: what the best of streak stages could leave."""

STREAKS_ALONE = "{}, streaks alone"
"""Source of what a network's streak stage leaves."""

LEAST_SKY = 0.005
"""Share of an image from which on its sky is judged."""


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


@dataclass(frozen=True)
class View:
    """One rainy view of an example, its parts put through the protocol."""

    level: str
    rainy: np.ndarray
    clean: np.ndarray
    fog: np.ndarray | None  # the same without streaks, where the rain was rendered and has some


@dataclass
class Scored:
    """All that is known of one image."""

    index: int
    group: str
    records: list[Record] = field(default_factory=list)


def views_of(example: Example, settings: EvaluationSettings) -> Iterator[View]:
    """The rainy views of an example: its own rainy image, else rain rendered at every level asked for.

    Raises DatasetError where there is nothing clean to compare with, or neither a rainy image nor depth to
    render rain with.
    """
    if example.clean is None:
        raise DatasetError(
            f"{example.name} has no clean image to compare with; such images can only be looked at"
        )
    picture = PROTOCOLS[settings.protocol].picture
    clean = picture(example.clean)
    if example.rainy is not None:
        level = example.level or RECORDED
        if level == RECORDED or level in settings.levels:
            yield View(level, picture(example.rainy), clean, None)
        return
    for level in settings.levels:
        fog = None if level in STREAKLESS else picture(fog_of(example, level))
        yield View(level, picture(rain_on(example, level).rainy), clean, fog)


@dataclass(frozen=True)
class _Truth:
    """What the images of one example are held against."""

    clean: np.ndarray
    below: np.ndarray | None  # bool (H, W): what is not sky; None: unknown, or nothing
    sky: np.ndarray | None  # bool (H, W); None: unknown, or too little of it
    labels: np.ndarray | None  # folded train ids by a person's hand; None: nobody's
    seen: Labels  # in the clean image
    inverse_depth: np.ndarray | None  # float32 (H, W), 1/m


class Evaluation:
    """One run over one dataset. Examples are worked on by several threads."""

    def __init__(
        self,
        dataset: Dataset,
        testbed: Testbed,
        settings: EvaluationSettings,
        show: Callable[[str, str, np.ndarray], None] = lambda source, name, image: None,
    ):
        """`show` is given every image that is compared, by its source and name. Raises ParameterError."""
        unknown = [level for level in settings.levels if level not in LEVELS]
        if unknown or not settings.levels:
            raise ParameterError(f"unknown rain level {unknown}; the levels are {', '.join(LEVELS)}")
        taken = {CLEAN, RAINY, FOG_LEFT, *map(STREAKS_ALONE.format, testbed.streak_stages)}
        for name in taken & testbed.networks.keys():
            raise ParameterError(
                f"no network can be called {name!r}, which names something else in the tables; rename its "
                "weights file, or the folder of the run where the file is called weights"
            )
        self.dataset, self.testbed, self.settings, self._show = dataset, testbed, settings, show
        self.indices = self._chosen()
        self.scores: list[Scored] = []

    def _chosen(self) -> list[int]:
        limit, per_group = self.settings.limit, self.settings.limit_per_group
        chosen = _spread(range(len(self.dataset)), limit)
        if per_group is None:
            return chosen
        groups: dict[str | None, list[int]] = {}
        for index in chosen:
            groups.setdefault(outline_of(self.dataset, index).group, []).append(index)
        return sorted(index for members in groups.values() for index in _spread(members, per_group))

    def run(self) -> Figures:
        """Everything, as JSON-able data: `sources` (figures by source, level and group, see `summarise`),
        `networks` (what is measured of each besides), and `counts` of images behind.
        """
        self.scores = self.testbed.in_workers(self._score_image, self.indices, "images")
        records = [record for score in self.scores for record in score.records]
        if not any(record.source == RAINY for record in records):
            raise DatasetError(
                f"the dataset has no rainy image of the levels {', '.join(self.settings.levels)}"
            )
        results = summarise(records) | {"networks": {name: {} for name in self.testbed.networks}}
        return with_parts(results, self._probe())

    def _probe(self) -> Iterator[Part]:
        """What the probes say on rain of their own, where it can be rendered onto the dataset's images."""
        if not _takes_rain(self.dataset[self.indices[0]]):
            return
        settings, testbed, example_of = self.settings, self.testbed, self._prepared
        groups: dict[str, list[int]] = {}
        for score in self.scores:
            groups.setdefault(score.group, []).append(score.index)
        chosen = partial(in_turns, list(groups.values()))
        yield probes.robustness(testbed, chosen(settings.robustness_images), example_of)
        yield probes.flicker(
            testbed,
            chosen(settings.flicker_scenes),
            example_of,
            settings.flicker_frames,
            settings.flicker_rate,
        )
        yield probes.depth_consistency(testbed, chosen(settings.consistency_images), example_of)

    def worst(self, network: str, count: int) -> list[Record]:
        """The rainy views of which a network harmed most, every group in turn, no image twice."""
        by_group: dict[str, list[Record]] = {}
        for score in self.scores:
            views = [r for r in score.records if r.source == network and r.level not in (DRY, *STREAKLESS)]
            if views:
                by_group.setdefault(score.group, []).append(max(views, key=lambda r: r.figures["harmed"]))
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
        views = views_of(example, self.settings)
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
        truth: _Truth | None = None

        def add(level: str, source: str, figures: dict[str, float], labels: Labels) -> None:
            assert truth is not None  # it comes with the first view
            known = truth.labels
            confusions = {}
            if known is not None:
                confusions = {judge: metrics.confusion(known, seen) for judge, seen in labels.items()}
            scored.records.append(Record(index, example.name, group, level, source, figures, confusions))

        for view in views_of(example, self.settings):
            if truth is None:
                truth = self._truth(prepared)
                add(DRY, CLEAN, {}, truth.seen)
                for name, (figures, labels) in self._dry(prepared, truth).items():
                    add(DRY, name, figures, labels)
            self._score_view(view, prepared, truth, add)
        return scored

    def _truth(self, example: Example) -> _Truth:
        sky = sky_of(example)
        below = None if sky is None or sky.all() else ~sky
        if sky is not None and sky.mean() < LEAST_SKY:
            sky = None
        labels = None
        if example.labels is not None and example.label_kind != "pseudo":
            folded = self.testbed.fold(example.labels)
            labels = folded if (folded != UNLABELLED).any() else None
        clean = example.clean_image
        seen = self.testbed.judged_before(clean)
        return _Truth(clean, below, sky, labels, seen, example.inverse_depth)

    def _dry(self, example: Example, truth: _Truth) -> dict[str, tuple[dict[str, float], Labels]]:
        """Figures and labels of the dry image, by network."""
        results = {}
        for name in self.testbed.networks:
            restored = self.testbed.restore(name, truth.clean, example.focal_px)
            labels = self.testbed.judged_after(restored)
            figures = _likeness(restored.image, truth) | _harm(restored.image, truth.clean, truth)
            figures |= restored.opinion | _agreements(labels, truth) | _measured_depth(restored, example)
            results[name] = figures, labels
        return results

    def _score_view(self, view: View, example: Example, truth: _Truth, add: _Add) -> None:
        before = _likeness(view.rainy, truth)
        bounds = {}
        if truth.sky is not None and truth.below is not None:
            image = np.where(truth.below[..., None], truth.clean, view.rainy)
            bounds["psnr_gain_sky_kept"] = metrics.psnr(image, truth.clean) - before["psnr"]

        def compared(image: np.ndarray, labels: Labels, whole: bool = True) -> dict[str, float]:
            figures = _likeness(image, truth, whole)
            gains = {
                f"{name}_gain": value - before[name] for name, value in figures.items() if name in _GAINING
            }
            harm = _harm(image, view.rainy, truth)
            return figures | gains | harm | _agreements(labels, truth)

        name_of_view = f"{example.name}_{view.level}"
        self._show(RAINY, name_of_view, view.rainy)
        self._show(CLEAN, name_of_view, truth.clean)
        seen = self.testbed.judged_before(view.rainy)
        to_fog = {} if view.fog is None else {"psnr_to_fog": metrics.psnr(view.rainy, view.fog)}
        add(view.level, RAINY, before | bounds | to_fog | _agreements(seen, truth), seen)
        if view.fog is not None and self.testbed.streak_stages:
            labels = self.testbed.judged_before(view.fog)
            add(view.level, FOG_LEFT, compared(view.fog, labels, whole=False), labels)
            for name in self.testbed.streak_stages:
                cleared = self.testbed.without_streaks(name, view.rainy)
                labels = self.testbed.judged(cleared)
                figures = compared(cleared, labels, whole=False)
                figures["psnr_to_fog"] = metrics.psnr(cleared, view.fog)
                add(view.level, STREAKS_ALONE.format(name), figures, labels)
        for name in self.testbed.networks:
            restored = self.testbed.restore(name, view.rainy, example.focal_px)
            self._show(name, name_of_view, restored.image)
            labels = self.testbed.judged_after(restored)
            figures = compared(restored.image, labels) | restored.opinion
            if truth.sky is not None:
                image = restored.image.copy()
                image[truth.sky] = np.uint8(truth.clean[truth.sky].mean() + 0.5)
                figures["psnr_gain_sky_calm"] = metrics.psnr(image, truth.clean) - before["psnr"]
            figures |= _measured_depth(restored, example)
            add(view.level, name, figures, labels)

    def _prepared(self, index: int) -> Example:
        """The example put through the protocol, for rain that is rendered onto it afterwards."""
        return PROTOCOLS[self.settings.protocol].example(self.dataset[index])

    def latency(self) -> Part:
        """Of a call of every network on one image of `latency_size`; see `probes.latency`."""
        height, width = self.settings.latency_size
        clean = self._prepared(self.indices[0]).clean_image
        image = cv2.resize(clean, (width, height), interpolation=cv2.INTER_LINEAR)
        return probes.latency(self.testbed, image, self.settings.latency_calls)


_GAINING = ("psnr", "ssim", "psnr_below", "ssim_below")


def sky_of(example: Example) -> np.ndarray | None:
    """Where an example's labels or depth say sky, bool (H, W); None: it has neither."""
    sky = None if example.labels is None else example.labels == TrainId.SKY
    if example.inverse_depth is not None:
        sky = (example.inverse_depth == 0) if sky is None else sky | (example.inverse_depth == 0)
    return sky


def _spread(indices: Sequence[int], count: int | None) -> list[int]:
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
    chosen = [_spread(members, share) for members in groups]
    turns = [members[turn] for turn in range(share) for members in chosen if turn < len(members)]
    return sorted(turns[:count])


def _takes_rain(example: Example) -> bool:
    """Whether rain can be rendered onto an example: its depth is known everywhere."""
    return example.inverse_depth is not None and not np.isnan(example.inverse_depth).any()


def _likeness(image: np.ndarray, truth: _Truth, whole: bool = True) -> dict[str, float]:
    """How like the truth an image is: everywhere, below the sky, in the sky, and by distance; without what
    takes long where the image is but half a result.
    """
    figures = {"psnr": metrics.psnr(image, truth.clean)}
    if truth.inverse_depth is not None:
        errors = metrics.errors_by_distance(image, truth.clean, truth.inverse_depth)
        figures |= {f"error/{band}": error for band, error in errors.items()}
    if truth.below is not None:
        figures["psnr_below"] = metrics.psnr(image, truth.clean, truth.below)
        figures["light_below"] = metrics.light_shift(image, truth.clean, truth.below).brightness
    if not whole:
        return figures
    similarity = metrics.ssim_map(image, truth.clean)
    figures["ssim"] = float(similarity.mean(dtype=np.float64))
    if truth.below is not None:
        inside = metrics.inside_border(truth.below)
        if inside.any():
            figures["ssim_below"] = float(similarity[inside].mean(dtype=np.float64))
    if truth.sky is not None:
        shift = metrics.light_shift(image, truth.clean, truth.sky)
        figures |= {"sky_brightness": abs(shift.brightness), "sky_hue": abs(shift.blueness)}
        figures["sky_structure"] = shift.structure
    return figures


def _harm(image: np.ndarray, observed: np.ndarray, truth: _Truth) -> dict[str, float]:
    harmed = metrics.harmed(image, observed, truth.clean)
    figures = {"harmed": float(harmed.mean())}
    if truth.below is not None:
        figures["harmed_below"] = float(harmed[truth.below].mean())
    return figures


def _agreements(labels: Labels, truth: _Truth) -> dict[str, float]:
    return {
        f"agreement/{judge}": metrics.agreement(seen, truth.seen[judge])
        for judge, seen in labels.items()
        if judge in truth.seen
    }


def _measured_depth(restored: Answer, example: Example) -> dict[str, float]:
    """Errors of a depth where the truth is no derived one; rendered fog shows it, a dry image does not."""
    if example.inverse_depth is None or not example.depth_measured:
        return {}
    errors = metrics.depth_errors(restored.inverse_depth, example.inverse_depth)
    if errors is None:
        return {}
    figures = {
        "abs_rel": errors.abs_rel,
        "abs_rel_80": errors.abs_rel_80,
        "inverse_abs_rel": errors.inverse_abs_rel,
        "delta_1.25": errors.delta,
    }
    if np.isnan(errors.abs_rel_80):  # nothing is as near
        del figures["abs_rel_80"]
    return figures
