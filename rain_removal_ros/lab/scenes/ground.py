"""Where the road, its markings and the open ground lie, as functions of position. Knows widths, not pictures.

Street coordinates: t metres to the right of the centre line, z metres along the street.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rain_removal_ros.cityscapes import TrainId

LANE = 3.25  # width of a lane
ROAD_HALF = 5.45  # centre line to kerb: a lane and a parking strip
PAVEMENT = 3.0
FRONT = ROAD_HALF + PAVEMENT  # where houses may begin
KERB = 0.12  # height of the pavement
CROSS_HALF = 4.0  # half the width of a cross street
ZEBRA = (
    CROSS_HALF + 1.0,
    CROSS_HALF + 4.0,
)  # from where to where a crossing lies, measured from the junction's middle
STOP_LINE = CROSS_HALF + 5.0


@dataclass(frozen=True)
class Course:
    """The centre line of the street, x = amplitude (1 - cos(2 pi z / period)) in the world."""

    amplitude: float
    period: float

    def offset(self, z: np.ndarray | float) -> np.ndarray:
        """World x of the centre line at z."""
        return self.amplitude * (1 - np.cos(2 * np.pi / self.period * z))

    def slope(self, z: np.ndarray | float) -> np.ndarray:
        """dx/dz of the centre line at z."""
        return self.amplitude * 2 * np.pi / self.period * np.sin(2 * np.pi / self.period * z)


def _covered(low: float, high: float, at: np.ndarray, width: np.ndarray) -> np.ndarray:
    """Share of the interval [at - width/2, at + width/2] that lies in [low, high]."""
    inside = np.minimum(high, at + width / 2) - np.maximum(low, at - width / 2)
    return np.clip(inside, 0, None) / width


def _dashed(dash: float, period: float, at: np.ndarray, width: np.ndarray) -> np.ndarray:
    """Share of the interval that lies in [k period, k period + dash] for any whole k."""

    def length_until(position: np.ndarray) -> np.ndarray:
        periods = np.floor(position / period)
        return periods * dash + np.minimum(position - periods * period, dash)

    return (length_until(at + width / 2) - length_until(at - width / 2)) / width


def _nearest(crossings: np.ndarray, z: np.ndarray) -> np.ndarray:
    """The crossing (of an ascending array) next to each z, float32."""
    return crossings.astype(np.float32)[np.searchsorted((crossings[1:] + crossings[:-1]) / 2, z)]


def ground_labels(t: np.ndarray, z: np.ndarray, crossings: np.ndarray) -> np.ndarray:
    """Uint8 train ids of the ground (N,): road in the street and its cross streets, terrain elsewhere."""
    away = np.abs(z - _nearest(crossings, z))
    road = (np.abs(t) <= ROAD_HALF) | (away <= CROSS_HALF)
    return np.where(road, np.uint8(TrainId.ROAD), np.uint8(TrainId.TERRAIN))


def marking(
    t: np.ndarray, z: np.ndarray, width_t: np.ndarray, width_z: np.ndarray, crossings: np.ndarray
) -> np.ndarray:
    """Share (N,) of white paint in the footprint of width_t x width_z metres around each place on the
    road."""
    before = _nearest(crossings, z) - z  # positive ahead of a junction
    away = np.abs(before)
    open_road = _covered(STOP_LINE + 0.4, 1e6, away, width_z)
    centre = _covered(-0.06, 0.06, t, width_t) * _dashed(3.0, 9.0, z, width_z) * open_road
    solid = _covered(STOP_LINE, STOP_LINE + 12, away, width_z) * _covered(-0.06, 0.06, t, width_t)
    parking = (
        _covered(LANE - 0.05, LANE + 0.05, np.abs(t), width_t) * _dashed(1.0, 2.0, z, width_z) * open_road
    )
    zebra = _covered(*ZEBRA, away, width_z) * _dashed(0.5, 1.0, t - 0.25, width_t)
    zebra *= _covered(-ROAD_HALF + 0.2, ROAD_HALF - 0.2, t, width_t)
    stop_lane = np.where(before > 0, t, -t)  # traffic keeps to the right
    stop = _covered(STOP_LINE, STOP_LINE + 0.4, away, width_z) * _covered(0.1, LANE, stop_lane, width_t)
    return np.clip(np.maximum.reduce([centre, solid, parking, zebra, stop]), 0, 1)
