"""What the rain monitor says of rain and fog of known strength, rendered onto dry views with exact depth.

Knows the rain model, a restorer by its call, and the node's own monitor; not where views come from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from rain_removal_ros.errors import DatasetError, RainRemovalError
from rain_removal_ros.lab.data.examples import Example
from rain_removal_ros.lab.weather import Rain, RainParameters, dense_parameters, level_parameters
from rain_removal_ros.rain_monitor import Weather
from rain_removal_ros.runtime import Output, Restorer
from rain_removal_ros.tables import markdown

DENSITIES = (0.0, 0.0625, 0.125, 0.25, 0.5, 1.0, 2.0)
"""Times the density of streaks of RainCityscapes' medium rain, or of a downpour's curtains."""

EXTINCTIONS = (0.0, 0.001, 0.0025, 0.005, 0.01, 0.02, 0.04)
"""1/m: visibilities without end and of 3900, 1560, 780, 390, 200 and 100 m."""


def _streaks(seed: int, strength: float) -> RainParameters:
    return _thinned(level_parameters("medium", seed), strength)


def _curtains(seed: int, strength: float) -> RainParameters:
    return _thinned(dense_parameters(seed), strength)


def _fog(seed: int, strength: float) -> RainParameters:
    return replace(level_parameters("medium", seed), beta=strength, layers=())


def _fog_behind_streaks(seed: int, strength: float) -> RainParameters:
    return replace(level_parameters("medium", seed), beta=strength)


def _thinned(parameters: RainParameters, density: float) -> RainParameters:
    layers = tuple(replace(layer, density=layer.density * density) for layer in parameters.layers)
    return replace(parameters, beta=0.0, layers=layers)


@dataclass(frozen=True)
class Sweep:
    """One kind of weather from none to much of it. of: what its strengths change, rain or visibility."""

    name: str
    of: str
    strengths: tuple[float, ...]
    parameters: Callable[[int, float], RainParameters]  # of a seed and a strength


SWEEPS = (
    Sweep("streaks", "rain", DENSITIES, _streaks),
    Sweep("curtains of streaks", "rain", DENSITIES, _curtains),
    Sweep("fog", "visibility", EXTINCTIONS, _fog),
    Sweep("fog behind streaks", "visibility", EXTINCTIONS, _fog_behind_streaks),
)


@dataclass(frozen=True)
class Reading:
    """What was rendered onto one view, and what the monitor says of it."""

    sweep: str
    view: str
    strength: float
    rendered: Weather  # by the monitor's own measures, from what was rendered
    said: Weather


def measure(
    restorer: Restorer,
    views: Sequence[Example],
    focal_px: float | None = None,
    sweeps: Sequence[Sweep] = SWEEPS,
    on_reading: Callable[[Reading], None] = lambda reading: None,
) -> list[Reading]:
    """Every strength of every sweep on every view. focal_px: of views that do not say.

    Raises DatasetError for a view without clean image or depth, RainRemovalError for a network that does not
    say what the weather is like.
    """
    readings = []
    for sweep in sweeps:
        for view in views:
            for reading in _of_view(restorer, sweep, view, view.focal_px or focal_px):
                readings.append(reading)
                on_reading(reading)
    return readings


def _of_view(restorer: Restorer, sweep: Sweep, view: Example, focal_px: float | None) -> Iterator[Reading]:
    clean, inverse_depth = view.clean, view.inverse_depth
    if clean is None or inverse_depth is None:
        raise DatasetError(f"{view.name} has no clean image or no inverse depth to render weather with")
    height, width = clean.shape[:2]
    seed = view.number  # whatever other views there are
    for strength in sweep.strengths:
        parameters = sweep.parameters(seed, strength)
        observed, streaks = Rain(parameters, height, width, seed).render_with_streaks(clean, inverse_depth)
        light = float((streaks[..., None] * (1 - clean / np.float32(255))).mean())
        restored = restorer(observed, [Output.IMAGE], focal_px)
        rendered = Weather.of(light, parameters.beta)
        said = Weather.of(restored.streak_light, restored.extinction)
        if rendered is None or said is None:
            raise RainRemovalError(
                f"{restorer.info.weights} does not say how strong rain and fog are; give weights that do"
            )
        yield Reading(sweep.name, view.name, strength, rendered, said)


def rank_correlation(a: Sequence[float], b: Sequence[float]) -> float:
    """Spearman's, -1 to 1, with the mean rank for equal numbers; 0 where one of the two never changes."""
    first, second = _ranks(a), _ranks(b)
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return 0.0
    return float(np.corrcoef(first, second)[0, 1])


def _ranks(values: Sequence[float]) -> np.ndarray:
    _, places, counts = np.unique(np.asarray(values), return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[places]


def correlation(readings: Sequence[Reading], sweep: Sweep) -> float:
    """Rank correlation of what was rendered with what the monitor says, over all views of a sweep."""
    own = [reading for reading in readings if reading.sweep == sweep.name]
    return rank_correlation(
        [_value(reading.rendered, sweep) for reading in own], [_value(reading.said, sweep) for reading in own]
    )


def _said(readings: Sequence[Reading], sweep: Sweep) -> list[list[float]]:
    return [
        [_value(r.said, sweep) for r in readings if r.sweep == sweep.name and r.strength == strength]
        for strength in sweep.strengths
    ]


def _value(weather: Weather, sweep: Sweep) -> float:
    return weather.rain if sweep.of == "rain" else weather.visibility_m


def report(readings: Sequence[Reading], sweeps: Sequence[Sweep] = SWEEPS) -> str:
    """A Markdown table of every sweep: what was rendered, and what the monitor says, with the other of its
    numbers beside.
    """
    parts = []
    for sweep in sweeps:
        own = [reading for reading in readings if reading.sweep == sweep.name]
        rows = []
        for strength, said in zip(sweep.strengths, _said(own, sweep), strict=True):
            here = [reading for reading in own if reading.strength == strength]
            rendered = float(np.mean([_value(reading.rendered, sweep) for reading in here]))
            others = [_value(r.said, replace(sweep, of=_OTHER[sweep.of])) for r in here]
            rows.append(
                (
                    f"{strength:g}",
                    _shown(rendered, sweep.of),
                    _shown(float(np.median(said)), sweep.of),
                    f"{_shown(min(said), sweep.of)} to {_shown(max(said), sweep.of)}",
                    _shown(float(np.median(others)), _OTHER[sweep.of]),
                )
            )
        what = "density" if sweep.of == "rain" else "extinction (1/m)"
        other = _OTHER[sweep.of]
        header = (what, f"{sweep.of} rendered", f"{sweep.of} said", "least to most", f"{other} said")
        text = f"{sweep.name}: rank correlation {correlation(own, sweep):.3f}"
        parts.append(f"{text}\n\n{markdown(header, rows, figures=True)}")
    return "\n\n".join(parts)


_OTHER = {"rain": "visibility", "visibility": "rain"}


def _shown(value: float, kind: str) -> str:
    return f"{value:.2f}" if kind == "rain" else f"{value:.0f} m"
