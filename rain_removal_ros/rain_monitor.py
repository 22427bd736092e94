"""How strong rain and fog are, from what the network says of a frame, and when to call it dry.

Knows neither ROS nor networks: numbers in, numbers out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

FULL_STREAK_LIGHT = 0.05
"""Streaks that add this share of white to an image on average make rain of 1 - 1/e; a downpour adds twice
as much.
"""

FOG_DISTANCE_M = 50.0
"""Fog of strength f hides the share f of what lies this far away: a car's braking distance in town."""

MAX_VISIBILITY_M = 10_000.0
"""Beyond this an image says nothing about visibility."""

CONTRAST_THRESHOLD = 0.02
"""Koschmieder: visibility ends where contrast has fallen to 2 %, at -ln 0.02 = 3.912 over the extinction."""

LOOK_AGAIN_S = 0.5
"""While it is dry, the network looks for rain this often."""

UNSEEN_S = 10.0
"""Two looks so far apart say nothing of what was between: a dry spell does not begin with the first."""


@dataclass(frozen=True)
class Weather:
    """What one frame says.

    rain: 0 (none) to 1, 1 - exp(-L / FULL_STREAK_LIGHT) for streaks that add the mean light L.
    fog: 0 (none) to 1, the share of light that is lost over FOG_DISTANCE_M.
    visibility_m: meteorological visibility, in metres, up to MAX_VISIBILITY_M.
    """

    rain: float
    fog: float
    visibility_m: float

    @classmethod
    def of(cls, streak_light: float | None, extinction: float | None) -> Weather | None:
        """From the mean light that streaks add to a frame (share of white) and the fog's extinction
        coefficient (1/m); None where either is unknown.
        """
        if streak_light is None or extinction is None:
            return None
        if not (math.isfinite(streak_light) and math.isfinite(extinction)):
            return None
        streak_light, extinction = max(0.0, streak_light), max(0.0, extinction)
        lost = -math.log(CONTRAST_THRESHOLD)
        return cls(
            rain=1 - math.exp(-streak_light / FULL_STREAK_LIGHT),
            fog=1 - math.exp(-extinction * FOG_DISTANCE_M),
            visibility_m=min(MAX_VISIBILITY_M, lost / extinction) if extinction > 0 else MAX_VISIBILITY_M,
        )


@dataclass(frozen=True)
class DryThresholds:
    """When a camera sees dry weather.

    wet_above: rain or fog above this ends a dry spell. dry_below: only when both have been at most this for
    dry_after_s seconds can one begin.
    """

    dry_below: float = 0.05
    wet_above: float = 0.15
    dry_after_s: float = 3.0


class DryWatch:
    """Whether a camera sees dry weather, with hysteresis in strength and in time. Times are seconds."""

    def __init__(self) -> None:
        self.dry = False
        self._low_since: float | None = None
        self._looked: float | None = None

    def update(self, weather: Weather | None, now: float, thresholds: DryThresholds) -> None:
        """Take what a frame says; None: it says nothing, so that it may be raining."""
        if self._looked is not None and now - self._looked > max(UNSEEN_S, thresholds.dry_after_s):
            self._low_since = None
        self._looked = now
        strongest = 1.0 if weather is None else max(weather.rain, weather.fog)
        if strongest > thresholds.wet_above or (strongest > thresholds.dry_below and not self.dry):
            self.dry, self._low_since = False, None
        elif strongest <= thresholds.dry_below:
            self._low_since = now if self._low_since is None else self._low_since
            self.dry = self.dry or now - self._low_since >= thresholds.dry_after_s

    def must_look(self, now: float) -> bool:
        """Whether it is time for the network to look again."""
        return self._looked is None or now - self._looked >= LOOK_AGAIN_S

    def may_look_later(self, now: float) -> bool:
        """Whether the last look is fresh enough to go by, where the network cannot look now."""
        return self._looked is not None and now - self._looked <= UNSEEN_S
