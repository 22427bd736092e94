"""Street furniture as meshes: lamps, traffic lights, signs, bollards, bins, fences. Knows them, not where
they stand.

Each stands on y = 0 at the origin and is meant for the right-hand side: the road lies towards -x, and what
is to be read is read from -z.
"""

from __future__ import annotations

import itertools

import numpy as np

from rain_removal_ros.cityscapes import TrainId
from rain_removal_ros.lab.scenes.mesh import (
    Mesh,
    Surface,
    box,
    boxes,
    cylinder,
    ellipsoid,
    join,
    quad,
    triangles,
    tube,
)

METAL = Surface(TrainId.POLE, (0.36, 0.38, 0.39), gloss=0.1)
DARK_METAL = Surface(TrainId.POLE, (0.13, 0.15, 0.15), gloss=0.1)


def street_lamp(rng: np.random.Generator) -> Mesh:
    """A lamp post 8 m high with an arm over the road."""
    metal = METAL if rng.random() < 0.6 else DARK_METAL
    post = tube(
        np.array([[0, 0, 0], [0, 1.2, 0], [0, 1.25, 0], [0, 7.6, 0]]),
        np.array([0.10, 0.10, 0.07, 0.055]),
        metal,
    )
    arm = tube(np.array([[0, 7.5, 0], [-0.3, 7.9, 0], [-1.0, 8.1, 0], [-1.8, 8.15, 0]]), 0.04, metal, 6)
    head = ellipsoid((-2.05, 8.13, 0), (0.38, 0.08, 0.15), metal)
    return join(
        [post, arm, head, box((-2.3, 8.03, -0.1), (-1.8, 8.06, 0.1), Surface(TrainId.POLE, (0.9, 0.9, 0.8)))]
    )


def traffic_light(lit: int) -> Mesh:
    """A signal on a post; `lit` 0 red, 1 amber, 2 green."""
    label = TrainId.TRAFFIC_LIGHT
    case = Surface(label, (0.07, 0.08, 0.075))
    parts = [tube(np.array([[0, 0, 0], [0, 3.4, 0]]), 0.06, DARK_METAL, 10)]
    parts.append(box((-0.16, 2.45, -0.30), (0.16, 3.45, -0.06), case))
    for x in (-0.21, 0.21):  # the white edge of the back board
        parts.append(box((x - 0.05, 2.40, -0.10), (x + 0.05, 3.50, -0.07), case))
    for index, colour in enumerate(((0.95, 0.10, 0.08), (1.0, 0.62, 0.10), (0.10, 0.85, 0.50))):
        shown = index == lit
        lamp = Surface(
            label, colour if shown else tuple(0.16 * np.asarray(colour)), emission=1.6 if shown else 0.0
        )
        y = 3.27 - 0.32 * index
        parts.append(cylinder((0, y, -0.30), 2, 0.11, 0.03, lamp, 14))
        hood = np.array([[0.13 * np.cos(a), 0.13 * np.sin(a)] for a in np.linspace(0, np.pi, 7)])
        quads = [
            [
                [p[0], y + p[1], -0.30],
                [q[0], y + q[1], -0.30],
                [q[0], y + q[1], -0.48],
                [p[0], y + p[1], -0.48],
            ]
            for p, q in itertools.pairwise(hood)
        ]
        parts += [quad(np.array(points), case) for points in quads]
    return join(parts)


def sign(texture: int, shape: str) -> Mesh:
    """A sign on a post; `shape` round, square or triangle; `texture` is its face."""
    label = TrainId.TRAFFIC_SIGN
    face, back = Surface(label, texture=texture, emission=0.12), Surface(label, (0.55, 0.56, 0.57))
    parts = [tube(np.array([[0, 0, 0], [0, 2.9, 0]]), 0.035, METAL, 8)]
    y, z = 2.55, -0.05
    if shape == "square":
        corners = np.array([[-0.3, -0.3], [0.3, -0.3], [0.3, 0.3], [-0.3, 0.3]])
    elif shape == "triangle":
        corners = np.array([[-0.4, -0.25], [0.4, -0.25], [0.0, 0.45]])
    else:
        angle = np.arange(20) * (2 * np.pi / 20)
        corners = 0.32 * np.stack([np.cos(angle), np.sin(angle)], 1)
    following = np.roll(corners, -1, 0)
    centre = np.broadcast_to(corners.mean(0), corners.shape)
    fan = np.stack([centre, corners, following], 1)
    at = np.concatenate([np.add(fan, [0, y]), np.full((*fan.shape[:2], 1), z)], 2)
    if shape == "triangle":
        parts.append(triangles(at, Surface(label, (0.85, 0.10, 0.10), emission=0.12)))
        inner = np.concatenate([fan * 0.68 + [0, y - 0.005], np.full((*fan.shape[:2], 1), z - 0.01)], 2)
        parts.append(triangles(inner, Surface(label, (0.93, 0.93, 0.90), emission=0.12)))
        parts.append(
            box(
                (-0.035, y - 0.10, z - 0.02), (0.035, y + 0.16, z - 0.012), Surface(label, (0.05, 0.05, 0.05))
            )
        )
    else:
        parts.append(triangles(at, face, fan / (2 * np.abs(corners).max()) + 0.5))
    parts.append(triangles(np.add(at, [0, 0, 0.02]), back))
    return join(parts)


def bollard() -> Mesh:
    """A knee-high post at the kerb."""
    return tube(
        np.array([[0, 0, 0], [0, 0.85, 0], [0, 0.92, 0]]), np.array([0.06, 0.06, 0.03]), DARK_METAL, 8
    )


def bin_on_post() -> Mesh:
    """A litter bin."""
    surface = Surface(TrainId.POLE, (0.13, 0.26, 0.18), gloss=0.1)
    return join(
        [
            tube(np.array([[0, 0, 0], [0, 1.1, 0]]), 0.03, DARK_METAL, 6),
            cylinder((0, 0.75, -0.16), 1, 0.18, 0.55, surface, 12),
        ]
    )


def garden_fence(length: float, texture: int, colour: tuple[float, float, float]) -> Mesh:
    """A board fence along z, 1.2 m high."""
    surface = Surface(TrainId.FENCE, colour, texture=texture, tile=(1.6, 1.6))
    posts = Surface(TrainId.FENCE, tuple(0.8 * np.asarray(colour)))
    parts = [box((0, 0.1, 0), (0.04, 1.15, length), surface)]
    parts += [box((-0.05, 0, z), (0.05, 1.25, z + 0.1), posts) for z in np.arange(0, length, 2.4)]
    return join(parts)


def railing(length: float) -> Mesh:
    """A metal railing along z, 1.1 m high."""
    surface = Surface(TrainId.FENCE, (0.14, 0.17, 0.16), gloss=0.1)
    parts = [box((-0.02, y, 0), (0.02, y + 0.05, length), surface) for y in (0.12, 1.05)]
    low = np.arange(0, length, 0.14)[:, None] * [0, 0, 1] + [-0.012, 0.1, 0]
    parts.append(boxes(low, np.add(low, [0.024, 1.05, 0.025]), surface))
    return join(parts)


def garden_wall(length: float, texture: int) -> Mesh:
    """A brick wall along z, 1.3 m high, with a coping."""
    surface = Surface(TrainId.WALL, texture=texture, tile=(3.2, 3.2))
    coping = Surface(TrainId.WALL, (0.66, 0.64, 0.60))
    return join(
        [box((0, 0, 0), (0.25, 1.2, length), surface), box((-0.05, 1.2, 0), (0.3, 1.3, length), coping)]
    )


def hedge(length: float, texture: int) -> Mesh:
    """A clipped hedge along z, 1.5 m high."""
    surface = Surface(TrainId.VEGETATION, texture=texture, tile=(1.5, 1.5))
    return join(
        [
            box((0, 0, 0), (0.8, 1.45, length), surface),
            box((0.08, 1.45, 0.05), (0.72, 1.55, length - 0.05), surface),
        ]
    )
