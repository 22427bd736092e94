"""Rain and fog rendered onto clean images with depth. Knows numpy and OpenCV, nothing else of the project but
its errors.
"""

from rain_removal_ros.lab.weather.imaging import (
    MAX_DISTANCE,
    compose,
    distance_from_inverse_depth,
    fog,
    fog_in_linear_light,
    rain_transmission,
)
from rain_removal_ros.lab.weather.rain import (
    PAPER_LEVELS,
    PATTERNS,
    Rain,
    RainParameters,
    StreakLayer,
    dense_parameters,
    level_parameters,
)

__all__ = [
    "MAX_DISTANCE",
    "PAPER_LEVELS",
    "PATTERNS",
    "Rain",
    "RainParameters",
    "StreakLayer",
    "compose",
    "dense_parameters",
    "distance_from_inverse_depth",
    "fog",
    "fog_in_linear_light",
    "level_parameters",
    "rain_transmission",
]
