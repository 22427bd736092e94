"""Walking people and a cyclist's rider as meshes. Knows bodies, not where they go.

Each stands on y = 0 with its middle at the origin and faces +z.
"""

from __future__ import annotations

import numpy as np

from rain_removal_ros.cityscapes import TrainId
from rain_removal_ros.lab.scenes.mesh import Mesh, Surface, box, ellipsoid, join, loft, tube

CLOTHES = (
    (0.10, 0.12, 0.18), (0.16, 0.16, 0.17), (0.42, 0.12, 0.12), (0.20, 0.30, 0.42), (0.52, 0.46, 0.36),
    (0.70, 0.68, 0.62), (0.24, 0.28, 0.20), (0.55, 0.36, 0.14), (0.36, 0.38, 0.42), (0.30, 0.20, 0.30),
)  # fmt: skip
SKIN = ((0.80, 0.62, 0.51), (0.62, 0.44, 0.33), (0.40, 0.27, 0.20), (0.86, 0.70, 0.60))
HAIR = ((0.10, 0.07, 0.05), (0.26, 0.17, 0.10), (0.45, 0.34, 0.20), (0.42, 0.41, 0.40))
STRIDE = 1.45  # metres of two steps


def _torso(surface: Surface, lower: float, upper: float, lean: float) -> Mesh:
    height = np.linspace(0, 1, 7)
    breadth = np.array([0.165, 0.16, 0.15, 0.165, 0.19, 0.185, 0.09])
    thickness = np.array([0.115, 0.11, 0.10, 0.115, 0.12, 0.11, 0.07])
    angle = np.arange(12) * (2 * np.pi / 12)
    rings = np.zeros((7, 12, 3))
    rings[..., 0] = breadth[:, None] * np.cos(angle)
    rings[..., 1] = (lower + (upper - lower) * height)[:, None]
    rings[..., 2] = thickness[:, None] * np.sin(angle) + (lean * height)[:, None]
    return loft(rings, surface)


def _head(
    label: int, skin: tuple[float, float, float], hair: tuple[float, float, float], z: float, y: float
) -> list[Mesh]:
    return [
        tube(np.array([[0, y - 0.2, z], [0, y - 0.08, z]]), 0.055, Surface(label, skin), 8),
        ellipsoid((0, y, z + 0.01), (0.078, 0.115, 0.095), Surface(label, skin)),
        ellipsoid((0, y + 0.035, z - 0.022), (0.087, 0.105, 0.098), Surface(label, hair)),
    ]


def person(rng: np.random.Generator, phase: float) -> Mesh:
    """A pedestrian; `phase` in [0, 1) is the point in the stride of two steps. Consumes the same draws at
    any phase."""
    label = TrainId.PERSON
    top, trousers = (CLOTHES[rng.integers(len(CLOTHES))] for _ in range(2))
    skin, hair = SKIN[rng.integers(len(SKIN))], HAIR[rng.integers(len(HAIR))]
    coat, bag, scale = rng.random() < 0.4, rng.random() < 0.4, rng.uniform(0.92, 1.06)
    jacket = Surface(label, top)
    parts = [_torso(jacket, 0.88, 1.48, 0.02), *_head(label, skin, hair, 0.03, 1.64)]
    if coat:
        angle = np.arange(12) * np.pi / 6
        skirt = ((0.22, 0.58), (0.19, 0.75), (0.165, 0.95))  # half breadth at height
        rings = np.array([[[b * np.cos(a), y, 0.7 * b * np.sin(a)] for a in angle] for b, y in skirt])
        parts.append(loft(rings, jacket))
    for side in (-1, 1):
        swing = side * np.sin(2 * np.pi * phase)
        lift = max(0.0, side * np.cos(2 * np.pi * phase))
        hip = np.array([side * 0.09, 0.92, 0])
        knee = np.add(hip, [0, -0.43, 0.20 * swing + 0.10 * lift])
        ankle = np.add(knee, [0, -0.42 + 0.10 * lift, 0.16 * swing - 0.20 * lift])
        parts.append(
            tube(np.stack([hip, knee, ankle]), np.array([0.092, 0.066, 0.045]), Surface(label, trousers), 8)
        )
        shoe = Surface(label, (0.08, 0.07, 0.07))
        parts.append(
            box(
                (ankle[0] - 0.045, ankle[1] - 0.08, ankle[2] - 0.07),
                (ankle[0] + 0.045, ankle[1], ankle[2] + 0.17),
                shoe,
            )
        )
        shoulder = np.array([side * 0.19, 1.40, 0.02])
        elbow = np.add(shoulder, [side * 0.05, -0.28, -0.13 * swing - 0.02])
        hand = np.add(elbow, [0, -0.23, -0.12 * swing + 0.08])
        parts.append(tube(np.stack([shoulder, elbow, hand]), np.array([0.058, 0.047, 0.038]), jacket, 7))
        parts.append(
            ellipsoid(tuple(np.add(hand, [0, -0.05, 0.01])), (0.035, 0.06, 0.04), Surface(label, skin), 6)
        )
    if bag:
        parts.append(
            box(
                (-0.15, 1.02, -0.25), (0.15, 1.42, -0.10), Surface(label, CLOTHES[rng.integers(len(CLOTHES))])
            )
        )
    return join(parts).moved((0, 0, 0), scale=float(scale))


def rider(rng: np.random.Generator, phase: float) -> Mesh:
    """Who sits on a bicycle; `phase` in [0, 1) is the turn of the pedals."""
    label = TrainId.RIDER
    jacket = Surface(label, CLOTHES[rng.integers(len(CLOTHES))])
    trousers = Surface(label, CLOTHES[rng.integers(2)])
    skin, helmet = SKIN[rng.integers(len(SKIN))], (0.75, 0.75, 0.72)
    parts = [_torso(jacket, 0.92, 1.50, 0.22).moved((0, 0, -0.22)), *_head(label, skin, helmet, 0.06, 1.66)]
    for side in (-1, 1):
        angle = 2 * np.pi * phase + (np.pi if side > 0 else 0)
        foot = np.array([side * 0.11, 0.30 + 0.17 * np.sin(angle), -0.06 + 0.17 * np.cos(angle)])
        hip = np.array([side * 0.10, 0.95, -0.20])
        knee = (hip + foot) / 2 + [side * 0.02, 0.08, 0.22]
        parts.append(tube(np.stack([hip, knee, foot]), np.array([0.09, 0.065, 0.05]), trousers, 8))
        shoulder, hand = np.array([side * 0.18, 1.42, -0.02]), np.array([side * 0.25, 1.04, 0.28])
        parts.append(
            tube(
                np.stack([shoulder, (shoulder + hand) / 2 + [side * 0.05, -0.05, -0.03], hand]),
                0.045,
                jacket,
                7,
            )
        )
    return join(parts)
