"""How strong rain and fog are, from what the network says of a frame, and when to call it dry.

Knows neither ROS nor networks: numbers in, numbers out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

FOG_DISTANCE_M = 50.0
"""Fog of strength f hides the share f of what lies this far away: a car's braking distance in town."""

MAX_VISIBILITY_M = 10_000.0
"""Beyond this an image says nothing about visibility."""

CONTRAST_THRESHOLD = 0.02
"""Koschmieder: visibility ends where contrast has fallen to 2 %, at -ln 0.02 = 3.912 over the extinction."""

DRY_BELOW = 0.05
WET_ABOVE = 0.15
"""Rain or fog above this ends a dry spell; only when both are below DRY_BELOW can one begin."""

DRY_AFTER_S = 3.0
"""So long both must have been low before a camera is taken to be dry."""

LOOK_AGAIN_S = 0.5
"""While it is dry, the network looks for rain this often."""


@dataclass(frozen=True)
class Weather:
    """What one frame says.

    rain: 0 (none) to 1. fog: 0 (none) to 1, the share of light that is lost over FOG_DISTANCE_M.
    visibility_m: meteorological visibility, in metres, up to MAX_VISIBILITY_M.
    """

    rain: float
    fog: float
    visibility_m: float

    @classmethod
    def of(cls, rain: float | None, extinction: float | None) -> Weather | None:
        """From a frame's rain (0 to 1) and extinction coefficient (1/m); None where either is unknown."""
        if rain is None or extinction is None or not (math.isfinite(rain) and math.isfinite(extinction)):
            return None
        extinction = max(0.0, extinction)
        lost = -math.log(CONTRAST_THRESHOLD)
        return cls(
            rain=min(1.0, max(0.0, rain)),
            fog=1 - math.exp(-extinction * FOG_DISTANCE_M),
            visibility_m=min(MAX_VISIBILITY_M, lost / extinction) if extinction > 0 else MAX_VISIBILITY_M,
        )


class DryWatch:
    """Whether a camera sees dry weather, with hysteresis in strength and in time. Times are seconds."""

    def __init__(self) -> None:
        self.dry = False
        self._low_since: float | None = None
        self._looked: float | None = None

    def update(self, weather: Weather | None, now: float) -> None:
        """Take what a frame says; None: it says nothing, so that it may be raining."""
        self._looked = now
        strongest = 1.0 if weather is None else max(weather.rain, weather.fog)
        if strongest > WET_ABOVE or (strongest > DRY_BELOW and not self.dry):
            self.dry, self._low_since = False, None
        elif strongest <= DRY_BELOW:
            self._low_since = now if self._low_since is None else self._low_since
            self.dry = self.dry or now - self._low_since >= DRY_AFTER_S

    def must_look(self, now: float) -> bool:
        """Whether it is time for the network to look again."""
        return self._looked is None or now - self._looked >= LOOK_AGAIN_S
