"""Figures of many images in one: by source, level and group, and the mean over groups. Knows records only."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from rain_removal_ros import cityscapes
from rain_removal_ros.lab.evaluation import metrics
from rain_removal_ros.lab.weather import PAPER_LEVELS

Figures: TypeAlias = dict[str, Any]
"""Figures by name, and tables of them by source, level, group, judge: JSON-able."""

CLEAN, RAINY = "clean", "rainy"
"""Sources: the image without rain, and as the camera saw it. The others are networks."""

DRY = "dry"
"""Level of what is made of the image without rain."""

OVERALL = "overall"
"""RainCityscapes' three strengths together; what a dataset has instead, where it has none of them."""

MEAN = "mean"
"""The mean over groups, each counted once, however many images it has. Everything is chosen by it."""

WORST = {"psnr_gain": min, "psnr": min, "harmed": max, "harmed_below": max, "rain": max}
"""Of these figures the worst image's is given too."""


@dataclass(frozen=True)
class Record:
    """Figures of one image of one level as one source left it."""

    index: int
    name: str
    scene: str  # the clean image's name, which several views may share
    group: str
    level: str
    source: str
    figures: dict[str, float]
    confusions: dict[str, np.ndarray] = field(default_factory=dict)  # by judge


def as_csv(records: Iterable[Record]) -> str:
    """A line a record that has figures, with the names of the columns above: `image`, `clean_image`, `group`,
    `level`, `source`, then every figure that any has; empty where a record has it not.
    """
    records = [record for record in records if record.figures]
    names = list(dict.fromkeys(name for record in records for name in record.figures))
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["image", "clean_image", "group", "level", "source", *names])
    for record in records:
        values = (repr(float(record.figures[name])) if name in record.figures else "" for name in names)
        writer.writerow([record.name, record.scene, record.group, record.level, record.source, *values])
    return text.getvalue()


def summarise(records: Iterable[Record]) -> Figures:
    """`sources`: {source: {level: {group or MEAN: figures}}}; `levels`, `overall` (the levels that are
    OVERALL), `groups`, `counts`; `class_iou`: {judge: {source: {class: IoU}}}, all groups and the levels of
    OVERALL together.

    Figures of a group are means over its images; NAME_worst is the worst image's. `miou/JUDGE` comes of one
    confusion matrix for the group, over the `classes/JUDGE` that its truth has. `won_back/...` is (source -
    rainy) / (clean - rainy) of mIoU or agreement; under MEAN, the ratio of the means.
    """
    records = list(records)
    rainy_levels = list(dict.fromkeys(record.level for record in records if record.level != DRY))
    overall = [level for level in rainy_levels if level in PAPER_LEVELS] or rainy_levels
    groups = list(dict.fromkeys(record.group for record in records))
    sources = sorted(
        {record.source for record in records}, key=lambda name: (name != CLEAN, name != RAINY, name)
    )
    levels = {level: (level,) for level in rainy_levels} | {OVERALL: tuple(overall), DRY: (DRY,)}

    figures: dict[str, Figures] = {}
    for source in sources:
        for level, parts in levels.items():
            chosen = [r for r in records if r.source == source and r.level in parts]
            # streaks alone are measured at no level of fog alone: such a source has no figure of all levels
            if chosen and {record.level for record in chosen} == set(parts):
                by_group = {group: _of_group([r for r in chosen if r.group == group]) for group in groups}
                by_group = {group: values for group, values in by_group.items() if values}
                figures.setdefault(source, {})[level] = by_group | {MEAN: _mean(by_group.values())}
    _add_won_back(figures)
    dry = [record for record in records if record.source == CLEAN]
    comparable = [r for r in records if r.source == CLEAN or OVERALL in figures[r.source]]
    return {
        "sources": figures,
        "levels": rainy_levels,
        "overall": overall,
        "groups": {group: sum(record.group == group for record in dry) for group in groups},
        "class_iou": _class_iou(comparable, overall),
        "counts": {
            "images": len(dry),
            "views": sum(record.source == RAINY for record in records),
            "labelled_images": sum(bool(record.confusions) for record in dry),
        },
    }


def _of_group(records: list[Record]) -> dict[str, float]:
    values: dict[str, list[float]] = {}
    matrices: dict[str, np.ndarray] = {}
    for record in records:
        for name, value in record.figures.items():
            values.setdefault(name, []).append(value)
        for judge, matrix in record.confusions.items():
            matrices[judge] = matrices.get(judge, 0) + matrix
    figures = {name: float(np.mean(of_images)) for name, of_images in values.items()}
    figures |= {
        f"{name}_worst": float(worst(values[name])) for name, worst in WORST.items() if name in values
    }
    for judge, matrix in matrices.items():
        figures[f"miou/{judge}"] = metrics.mean_iou(matrix)
        figures[f"classes/{judge}"] = float((matrix.sum(axis=1) > 0).sum())
    return figures


def _mean(groups: Iterable[dict[str, float]]) -> dict[str, float]:
    groups = list(groups)
    names = dict.fromkeys(name for group in groups for name in group)
    result = {}
    for name in names:
        values = [group[name] for group in groups if name in group]
        worst = WORST.get(name.removesuffix("_worst")) if name.endswith("_worst") else None
        result[name] = float(worst(values) if worst else np.mean(values))
    return result


def _add_won_back(figures: dict[str, Figures]) -> None:
    """Adds won_back/miou/JUDGE and won_back/agreement/JUDGE to what is neither clean nor rainy."""

    def clean(group: str, name: str) -> float:
        return 1.0 if name.startswith("agreement/") else figures[CLEAN][DRY][group][name]

    for source, levels in figures.items():
        for level, groups in levels.items() if source not in (CLEAN, RAINY) else ():
            before = figures[RAINY].get(level, {MEAN: {}})
            for name in [
                n for n in groups[MEAN] if n.startswith(("miou/", "agreement/")) and n in before[MEAN]
            ]:
                having = [group for group in groups if group != MEAN and name in groups[group]]
                three = {g: (clean(g, name), before[g][name], groups[g][name]) for g in having}
                three[MEAN] = tuple(np.mean(list(three.values()), axis=0))
                for group, values in three.items():
                    share = metrics.share_won_back(*values)
                    if np.isfinite(share):
                        groups[group][f"won_back/{name}"] = float(share)


def _class_iou(records: list[Record], overall: list[str]) -> dict[str, Figures]:
    matrices: dict[tuple[str, str], np.ndarray] = {}
    for record in records:
        if record.level in overall or record.source == CLEAN:
            for judge, matrix in record.confusions.items():
                key = judge, record.source
                matrices[key] = matrices.get(key, 0) + matrix
    result: dict[str, Figures] = {}
    for (judge, source), matrix in matrices.items():
        iou = metrics.class_iou(matrix)
        result.setdefault(judge, {})[source] = {
            name: float(value)
            for (name, _), value in zip(cityscapes.CLASSES, iou, strict=True)
            if np.isfinite(value)
        }
    return result
