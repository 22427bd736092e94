"""How far the mean over groups would move with other images of the same groups: bootstrap intervals (Efron,
Annals of Statistics 1979). Knows records only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from rain_removal_ros.lab.evaluation.summary import RAINY, Figures, Record

RESAMPLES, SEED = 5000, 6421
SHARE = 0.95
"""Of the resampled means, those that an interval holds."""

FIGURES = ("psnr_gain", "psnr_below_gain", "ssim")
"""Their intervals are given, and those of the agreement that is won back, for every judge."""

WON_BACK = "won_back/"


def intervals(records: Iterable[Record], sources: Sequence[str], levels: Sequence[str]) -> Figures:
    """`share`, `resamples`, `seed`; `of`: {source: {figure: {value, low, high}}}, the mean over groups at
    these levels together; `differences`: {source: the same}, the first source less each other one, on the
    same images.

    Every group's clean images are drawn anew, as many as it has, with all their views; what is resampled is
    the clean image, as its views are no images of their own. A figure that some group has of a single
    image, of which nothing can be drawn, or that a source lacks, is left out.
    """
    records = [record for record in records if record.level in levels]
    names = dict.fromkeys(name for record in records for name in record.figures)
    judges = [name for name in names if name.startswith("agreement/")]
    of: dict[str, dict[str, np.ndarray]] = {source: {} for source in sources}
    for name in (*FIGURES, *judges):
        wanted = (*sources, RAINY) if name in judges else sources
        means = _resampled(records, wanted, name)
        for source in sources:
            if source not in means:
                continue
            if name not in judges:
                of[source][name] = means[source]
            elif RAINY in means and (means[RAINY] < 1).all():
                of[source][WON_BACK + name] = (means[source] - means[RAINY]) / (1 - means[RAINY])
    first, *others = sources
    return {
        "share": SHARE,
        "resamples": RESAMPLES,
        "seed": SEED,
        "of": {
            source: {name: _interval(values) for name, values in of[source].items()} for source in sources
        },
        "differences": {
            source: {
                name: _interval(of[first][name] - values)
                for name, values in of[source].items()
                if name in of[first]
            }
            for source in others
        },
    }


def _resampled(records: list[Record], sources: Sequence[str], name: str) -> dict[str, np.ndarray]:
    """By source float (1 + RESAMPLES,): a figure's mean over groups, of the images as they are and of every
    draw, which is the same for all sources. Empty where a group has it of one image alone.
    """
    sums: dict[str, dict[str, dict[str, list[float]]]] = {}  # by group, scene, source
    for record in records:
        if record.source in sources and name in record.figures:
            of_scene = sums.setdefault(record.group, {}).setdefault(record.scene, {})
            of_scene.setdefault(record.source, []).append(record.figures[name])
    if not sums or any(len(scenes) < 2 for scenes in sums.values()):
        return {}
    generator = np.random.default_rng(SEED)
    of_groups: dict[str, list[np.ndarray]] = {}
    for _, scenes in sorted(sums.items()):
        drawn = generator.multinomial(len(scenes), np.full(len(scenes), 1 / len(scenes)), RESAMPLES)
        times = np.concatenate([np.ones((1, len(scenes))), drawn])  # how often each counts
        for source in sources:
            values = [of_scene.get(source, []) for of_scene in scenes.values()]
            if all(values):
                totals, counts = (np.array([float(of(one)) for one in values]) for of in _TOTAL_AND_COUNT)
                of_groups.setdefault(source, []).append((times @ totals) / (times @ counts))
    return {source: np.mean(means, axis=0) for source, means in of_groups.items() if len(means) == len(sums)}


_TOTAL_AND_COUNT: tuple[Callable[[list[float]], float], ...] = (sum, len)


def _interval(values: np.ndarray) -> dict[str, float]:
    """The value as it is, which comes first, and the percentiles of the draws."""
    low, high = np.percentile(values[1:], (50 * (1 - SHARE), 50 * (1 + SHARE)))
    return {"value": float(values[0]), "low": float(low), "high": float(high)}
