"""Measures networks side by side on one dataset: restoration, depth, segmentation, dry images, flicker,
latency.

Knows restorers and judges by their call, datasets by their interface, and gives plain data; reports are not
its job.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import cv2
import numpy as np

from rain_removal_ros import cityscapes
from rain_removal_ros.errors import DatasetError, ParameterError
from rain_removal_ros.lab.data.datasets import Dataset, Example
from rain_removal_ros.lab.evaluation import metrics
from rain_removal_ros.lab.evaluation.conditions import ROBUSTNESS, ROBUSTNESS_LEVEL, rain_on
from rain_removal_ros.lab.evaluation.judges import folding_table
from rain_removal_ros.lab.evaluation.protocols import PROTOCOLS
from rain_removal_ros.lab.weather import PAPER_LEVELS
from rain_removal_ros.runtime import Output, Restored, Restorer

JudgeFunction = Callable[[np.ndarray], np.ndarray]  # uint8 (H, W, 3) RGB -> uint8 (H, W) train ids

OVERALL = "overall"
RECORDED = "recorded"
"""Level of a dataset's own rainy images where it does not name their strength."""


@dataclass(frozen=True)
class EvaluationSettings:
    """What is measured, and on how much."""

    levels: tuple[str, ...] = tuple(PAPER_LEVELS)
    protocol: str = "full"
    class_set: str = "cityscapes19"
    limit: int | None = None  # images, spread evenly over the dataset; None: all
    robustness_images: int = 24
    flicker_scenes: int = 6
    flicker_frames: int = 10
    flicker_rate: float = 10.0  # frames a second
    latency_size: tuple[int, int] = (512, 1024)  # height, width
    latency_calls: int = 30
    workers: int = 2


@dataclass(frozen=True)
class View:
    """One rainy view of an example, its parts already put through the protocol."""

    index: int
    name: str
    level: str
    rainy: np.ndarray
    clean: np.ndarray


@dataclass
class ViewScores:
    """Figures of one rainy view; dictionaries by network or by judge."""

    index: int
    name: str
    level: str
    rainy: tuple[float, float]  # PSNR, SSIM
    derained: dict[str, tuple[float, float]] = field(default_factory=dict)
    depth: dict[str, metrics.DepthErrors] = field(default_factory=dict)
    rainy_confusion: dict[str, np.ndarray] = field(default_factory=dict)
    derained_confusion: dict[tuple[str, str], np.ndarray] = field(default_factory=dict)  # by (network, judge)

    def gain(self, network: str) -> float:
        return self.derained[network][0] - self.rainy[0]


@dataclass
class ImageScores:
    """Figures of one example: its rainy views, and what happens to it dry."""

    depth_kind: str | None
    views: list[ViewScores] = field(default_factory=list)
    dry: dict[str, tuple[float, float]] = field(default_factory=dict)
    clean_confusion: dict[str, np.ndarray] = field(default_factory=dict)
    dry_confusion: dict[tuple[str, str], np.ndarray] = field(default_factory=dict)


def views_of(example: Example, index: int, settings: EvaluationSettings) -> Iterator[View]:
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
            yield View(index, example.name, level, picture(example.rainy), clean)
        return
    for level in settings.levels:
        yield View(index, example.name, level, picture(rain_on(example, index, level).rainy), clean)


class Evaluation:
    """One run over one dataset.

    Examples are worked on by several threads; a network or judge serves one at a time.
    """

    def __init__(
        self,
        dataset: Dataset,
        networks: Mapping[str, Restorer],
        judges: Mapping[str, JudgeFunction],
        settings: EvaluationSettings,
        track: Callable[[Iterator, int, str], Iterator] = lambda items, total, what: items,
    ):
        """`track(iterable, total, what)` wraps what takes long, for a progress bar. Raises ParameterError."""
        unknown = [level for level in settings.levels if level not in PAPER_LEVELS]
        if unknown or not settings.levels:
            raise ParameterError(f"unknown rain level {unknown}; the levels are {', '.join(PAPER_LEVELS)}")
        if not networks:
            raise ParameterError("no network to evaluate; give weights or a preset")
        self.dataset, self.networks, self.judges, self.settings = dataset, networks, judges, settings
        self._track = track
        self._locks = {name: threading.Lock() for name in networks}
        self._folding = folding_table(settings.class_set)
        self.indices = self._spread(len(dataset) if settings.limit is None else settings.limit)
        self.scores: list[ImageScores] = []

    def _spread(self, count: int) -> list[int]:
        """At most `count` indices, spread evenly over the dataset."""
        count = min(count, len(self.dataset))
        return sorted({int(i) for i in np.linspace(0, len(self.dataset) - 1, count)}) if count else []

    def run(self) -> dict:
        """Everything, as JSON-able data: `rainy`, `judges`, `networks`, and the `counts` of images behind."""
        threads = cv2.getNumThreads()
        cv2.setNumThreads(1)  # the workers and the networks share the cores
        try:
            self.scores = list(self._in_workers(self._score_image, self.indices, "images"))
            if not any(score.views for score in self.scores):
                raise DatasetError(
                    f"the dataset has no rainy image of the levels {', '.join(self.settings.levels)}"
                )
            summary = self._summary()
            example = self.dataset[self.indices[0]]
            if _takes_rain(example):
                self._add_robustness(summary)
                self._add_flicker(summary)
            self._add_latency(summary, example.clean)
        finally:
            cv2.setNumThreads(threads)
        return summary

    def worst_views(self, network: str, count: int) -> list[ViewScores]:
        """The rainy views that a network brought nearest to, or farthest below, where they were: least PSNR
        gain first.
        """
        views = [view for score in self.scores for view in score.views]
        return sorted(views, key=lambda view: view.gain(network))[:count]

    def view_again(self, scores: ViewScores) -> View:
        """The view that these scores were taken on."""
        return next(
            view
            for view in views_of(self.dataset[scores.index], scores.index, self.settings)
            if view.level == scores.level
        )

    def restore(self, network: str, image: np.ndarray) -> Restored:
        with self._locks[network]:
            return self.networks[network](image, (Output.IMAGE, Output.INVERSE_DEPTH))

    def _in_workers(self, function: Callable, items: Sequence, what: str) -> Iterator:
        with ThreadPoolExecutor(self.settings.workers) as pool:
            yield from self._track(pool.map(function, items), len(items), what)

    def _score_image(self, index: int) -> ImageScores:
        example = self.dataset[index]
        scores = ImageScores(example.depth_kind)
        protocol = PROTOCOLS[self.settings.protocol]
        depth = None if example.inverse_depth is None else protocol.field(example.inverse_depth)
        labels = None
        if self.judges and example.labels is not None and example.label_kind != "pseudo":
            labels = self._folding[protocol.field(example.labels)]
        for view in views_of(example, index, self.settings):
            scores.views.append(self._score_view(view, depth, labels))
        if not scores.views:
            return scores
        clean = view.clean
        for name in self.networks:
            dry = self.restore(name, clean).image
            scores.dry[name] = _similarity(dry, clean)
            scores.dry_confusion.update({(name, j): m for j, m in self._judge(dry, labels).items()})
        scores.clean_confusion = self._judge(clean, labels)
        return scores

    def _score_view(self, view: View, depth: np.ndarray | None, labels: np.ndarray | None) -> ViewScores:
        scores = ViewScores(view.index, view.name, view.level, _similarity(view.rainy, view.clean))
        scores.rainy_confusion = self._judge(view.rainy, labels)
        for name in self.networks:
            restored = self.restore(name, view.rainy)
            scores.derained[name] = _similarity(restored.image, view.clean)
            if (
                depth is not None
                and (errors := metrics.depth_errors(restored.inverse_depth, depth)) is not None
            ):
                scores.depth[name] = errors
            scores.derained_confusion.update(
                {(name, j): m for j, m in self._judge(restored.image, labels).items()}
            )
        return scores

    def _judge(self, image: np.ndarray, labels: np.ndarray | None) -> dict[str, np.ndarray]:
        if labels is None:
            return {}
        return {
            name: metrics.confusion(labels, self._folding[judge(image)])
            for name, judge in self.judges.items()
        }

    def _summary(self) -> dict:
        views = [view for score in self.scores for view in score.views]
        judged = [score for score in self.scores if score.clean_confusion]
        summary = {
            "counts": {"images": len(self.scores), "views": len(views), "judged_images": len(judged)},
            "rainy": _by_level(views, lambda group: _similarity_means([view.rainy for view in group])),
            "judges": {},
            "networks": {},
        }
        for judge in self.judges if judged else ():
            summary["judges"][judge] = {
                "clean": _segmentation(sum(score.clean_confusion[judge] for score in judged)),
                "rainy": _by_level(
                    [view for score in judged for view in score.views],
                    lambda group, judge=judge: _segmentation(
                        sum(view.rainy_confusion[judge] for view in group)
                    ),
                ),
            }
        for name in self.networks:
            summary["networks"][name] = self._network_summary(name, views, judged, summary["judges"])
        return summary

    def _network_summary(
        self, name: str, views: list[ViewScores], judged: list[ImageScores], judges: dict
    ) -> dict:
        def restoration(group: list[ViewScores]) -> dict:
            gains = [view.gain(name) for view in group]
            means = _similarity_means([view.derained[name] for view in group])
            return means | {
                "psnr_gain": float(np.mean(gains)),
                "psnr_gain_worst": float(np.min(gains)),
                "ssim_gain": means["ssim"] - float(np.mean([view.rainy[1] for view in group])),
            }

        dry = [score.dry[name] for score in self.scores if score.dry]
        result = {
            "restoration": _by_level(views, restoration),
            "dry": _similarity_means(dry) | {"psnr_worst": min(psnr for psnr, _ in dry)},
            "depth": self._depth_summary(name),
            "judges": {},
        }
        for judge, baseline in judges.items():

            def segmentation(group: list[ViewScores], judge: str = judge) -> dict:
                return _segmentation(sum(view.derained_confusion[name, judge] for view in group))

            levels = _by_level([view for score in judged for view in score.views], segmentation)
            for level, figures in levels.items():
                figures["won_back"] = _number(
                    metrics.share_won_back(
                        baseline["clean"]["miou"], baseline["rainy"][level]["miou"], figures["miou"]
                    )
                )
            levels["dry"] = _segmentation(sum(score.dry_confusion[name, judge] for score in judged))
            result["judges"][judge] = levels
        return result

    def _depth_summary(self, name: str) -> dict:
        """Mean over rainy views, for all and for every kind of truth."""
        groups: dict[str, list[metrics.DepthErrors]] = {}
        for score in self.scores:
            for view in score.views:
                if name in view.depth:
                    groups.setdefault("all", []).append(view.depth[name])
                    if score.depth_kind:
                        groups.setdefault(score.depth_kind, []).append(view.depth[name])
        return {
            kind: {
                "abs_rel": float(np.mean([e.abs_rel for e in errors])),
                "inverse_abs_rel": float(np.mean([e.inverse_abs_rel for e in errors])),
                "delta_1.25": float(np.mean([e.delta for e in errors])),
                "views": len(errors),
            }
            for kind, errors in groups.items()
        }

    def _protocol_example(self, index: int) -> Example:
        """The example put through the protocol, for rain that is rendered onto it afterwards."""
        example = self.dataset[index]
        protocol = PROTOCOLS[self.settings.protocol]
        return replace(
            example,
            clean=protocol.picture(example.clean),
            inverse_depth=None if example.inverse_depth is None else protocol.field(example.inverse_depth),
        )

    def _add_robustness(self, summary: dict) -> None:
        """Under every network: PSNR of rainy and derained, and the gain, for each row of
        `conditions.ROBUSTNESS`.
        """

        def score(index: int) -> list[dict[str, tuple[float, float]]]:
            example = self._protocol_example(index)
            rows = []
            for row in ROBUSTNESS:
                seen = row.observe(example, index)
                before = metrics.psnr(seen.rainy, seen.reference)
                rows.append(
                    {
                        name: (before, metrics.psnr(self.restore(name, seen.rainy).image, seen.reference))
                        for name in self.networks
                    }
                )
            return rows

        indices = self._spread(min(self.settings.robustness_images, len(self.indices)))
        if not indices:
            return
        scores = list(self._in_workers(score, indices, "robustness"))
        summary["counts"]["robustness_images"] = len(indices)
        for name in self.networks:
            rows = []
            for number, row in enumerate(ROBUSTNESS):
                pairs = np.array([of_image[number][name] for of_image in scores])
                rainy, derained = pairs.mean(axis=0)
                rows.append(
                    {
                        "name": row.name,
                        "description": row.description,
                        "psnr_rainy": float(rainy),
                        "psnr": float(derained),
                        "psnr_gain": float(derained - rainy),
                        "psnr_gain_worst": float((pairs[:, 1] - pairs[:, 0]).min()),
                    }
                )
            summary["networks"][name]["robustness"] = rows

    def _add_flicker(self, summary: dict) -> None:
        """Grey levels by which a pixel of a static scene wavers under moving rain, before and after."""
        settings = self.settings

        def score(index: int) -> dict[str, float]:
            example = self._protocol_example(index)
            flickers = {name: metrics.Flicker() for name in ("rainy", *self.networks)}
            for frame in range(settings.flicker_frames):
                rainy = rain_on(example, index, ROBUSTNESS_LEVEL, frame / settings.flicker_rate).rainy
                flickers["rainy"].add(rainy)
                for name in self.networks:
                    flickers[name].add(self.restore(name, rainy).image)
            return {name: flicker.value for name, flicker in flickers.items()}

        indices = self._spread(min(settings.flicker_scenes, len(self.indices)))
        if not indices:
            return
        scores = list(self._in_workers(score, indices, "flicker"))
        summary["counts"]["flicker_scenes"] = len(indices)
        rainy = float(np.mean([score["rainy"] for score in scores]))
        for name in self.networks:
            derained = float(np.mean([score[name] for score in scores]))
            summary["networks"][name]["flicker"] = {
                "rainy": rainy,
                "derained": derained,
                "unit": "grey levels",
            }

    def _add_latency(self, summary: dict, image: np.ndarray) -> None:
        """Milliseconds of a call on one image of `latency_size`, one at a time, after all else is done."""
        height, width = self.settings.latency_size
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
        for name, restorer in self.networks.items():
            outputs = (Output.IMAGE, Output.INVERSE_DEPTH)
            restorer.prepare(height, width, outputs)
            durations = []
            for _ in self._track(
                range(self.settings.latency_calls), self.settings.latency_calls, f"latency {name}"
            ):
                start = time.perf_counter()
                restorer(image, outputs)
                durations.append(1000 * (time.perf_counter() - start))
            median, p95 = np.percentile(durations, (50, 95))
            summary["networks"][name]["latency"] = {
                "median_ms": float(median),
                "p95_ms": float(p95),
                "size": f"{width}x{height}",
                "calls": len(durations),
            }


def _takes_rain(example: Example) -> bool:
    """Whether rain can be rendered onto an example: its depth is known everywhere."""
    return example.inverse_depth is not None and not np.isnan(example.inverse_depth).any()


def _similarity(image: np.ndarray, reference: np.ndarray) -> tuple[float, float]:
    return metrics.psnr(image, reference), metrics.ssim(image, reference)


def _similarity_means(pairs: Sequence[tuple[float, float]]) -> dict[str, float | int]:
    psnr, ssim = np.mean(pairs, axis=0)
    return {"psnr": float(psnr), "ssim": float(ssim), "images": len(pairs)}


def _by_level(views: list[ViewScores], figures: Callable[[list[ViewScores]], dict]) -> dict[str, dict]:
    """The figures of every level that occurs, and of all views together."""
    levels = [*PAPER_LEVELS, RECORDED]
    groups = {level: [view for view in views if view.level == level] for level in levels}
    return {level: figures(group) for level, group in groups.items() if group} | {OVERALL: figures(views)}


def _segmentation(matrix: np.ndarray) -> dict:
    """mIoU and the IoU of every class that the truth has."""
    iou = metrics.class_iou(matrix)
    return {
        "miou": metrics.mean_iou(matrix),
        "iou": {
            name: float(value)
            for (name, _), value in zip(cityscapes.CLASSES, iou, strict=True)
            if np.isfinite(value)
        },
    }


def _number(value: float) -> float | None:
    """JSON knows no NaN."""
    return value if np.isfinite(value) else None
