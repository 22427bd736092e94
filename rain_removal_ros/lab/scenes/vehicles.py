"""Cars, vans, buses and bicycles as meshes. Knows their shapes, not where they drive.

Each stands on y = 0 with its middle at the origin and its front towards +z.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rain_removal_ros.cityscapes import TrainId
from rain_removal_ros.lab.scenes.mesh import Mesh, Surface, box, cylinder, join, loft, quad, triangles, tube

CAR_COLOURS = (
    (0.80, 0.81, 0.82), (0.52, 0.54, 0.56), (0.13, 0.14, 0.16), (0.08, 0.08, 0.09), (0.55, 0.08, 0.08),
    (0.10, 0.18, 0.36), (0.86, 0.86, 0.84), (0.28, 0.33, 0.38), (0.16, 0.28, 0.20), (0.62, 0.56, 0.46),
)  # fmt: skip


@dataclass(frozen=True)
class CarShape:
    """Metres; positions along the car are measured from its middle, forwards positive."""

    length: float
    width: float
    shoulder: float  # height of the lower edge of the windows
    roof: float
    nose: float  # height of the bonnet's front edge
    tail: float  # height of the boot's rear edge
    screen: tuple[float, float]  # where the windscreen starts (bottom) and ends (top)
    rear: tuple[float, float]  # the same of the rear window
    wheel: float  # radius


CAR_SHAPES = {
    "hatchback": CarShape(4.0, 1.74, 0.93, 1.46, 0.72, 0.90, (1.00, 0.30), (-1.85, -1.45), 0.31),
    "saloon": CarShape(4.6, 1.80, 0.92, 1.43, 0.70, 0.93, (0.95, 0.20), (-1.55, -0.95), 0.32),
    "estate": CarShape(4.7, 1.82, 0.95, 1.48, 0.72, 0.95, (1.10, 0.40), (-2.20, -1.85), 0.33),
    "off-roader": CarShape(4.5, 1.88, 1.08, 1.70, 0.92, 1.05, (1.05, 0.45), (-2.10, -1.85), 0.37),
    "van": CarShape(4.9, 1.94, 1.15, 1.95, 0.95, 1.12, (1.75, 1.05), (-2.40, -2.30), 0.34),
}


def car(shape: CarShape, colour: tuple[float, float, float]) -> Mesh:
    """A car of the given shape and paint."""
    paint, dark = Surface(TrainId.CAR, colour, gloss=0.35), Surface(TrainId.CAR, (0.09, 0.09, 0.10))
    parts = [_body(shape, paint), *_cabin(shape, paint)]
    for side in (-1, 1):
        for z in (-0.29 * shape.length, 0.31 * shape.length):
            parts += _wheel(shape, side, z, dark)
        parts += _lamps(shape, side)
        parts.append(_mirror(shape, side, paint))
        parts += _door_gaps(shape, side, dark)
    return join([*parts, *_ends(shape, dark)])


def _body(shape: CarShape, paint: Surface) -> Mesh:
    """All below the windows: one section, drawn from tail to nose between sill and deck."""
    along = np.array([-0.5, -0.485, -0.45, -0.36, -0.15, 0.1, 0.28, 0.38, 0.45, 0.485, 0.5], np.float32)
    breadth = np.array([0.80, 0.90, 0.96, 1.0, 1.0, 1.0, 1.0, 0.97, 0.92, 0.84, 0.72], np.float32)
    breadth = shape.width / 2 * breadth
    bonnet = shape.screen[0] / shape.length
    deck = np.interp(
        along,
        [-0.5, -0.47, shape.rear[0] / shape.length + 0.01, bonnet, 0.42, 0.485, 0.5],
        [
            shape.tail - 0.12,
            shape.tail,
            shape.shoulder,
            shape.shoulder,
            shape.nose + 0.06,
            shape.nose,
            shape.nose - 0.1,
        ],
    )
    sill = np.interp(along, [-0.5, -0.45, 0.45, 0.5], [0.36, 0.24, 0.22, 0.32])
    section = np.array(
        [[0.0, 0.0], [0.86, 0.0], [0.97, 0.16], [1.0, 0.55], [0.98, 0.80], [0.91, 0.95], [0.75, 1.0]]
    )
    section = np.concatenate([section, [[0.0, 1.03]], section[:0:-1] * [-1, 1]])
    rings = np.zeros((len(along), len(section), 3), np.float32)
    rings[..., 0] = section[:, 0] * breadth[:, None]
    rings[..., 1] = sill[:, None] + section[:, 1] * (deck - sill)[:, None]
    rings[..., 2] = (along * shape.length)[:, None]
    return loft(rings, paint)


def _cabin(shape: CarShape, paint: Surface) -> list[Mesh]:
    """Pillars and roof, and the panes between them."""
    half = shape.width / 2
    low, high = 0.90 * half, 0.72 * half
    base, edge = shape.shoulder - 0.02, shape.roof - 0.07
    corners = np.array(
        [  # bottom and top, right front, right rear, left rear, left front
            [[low, base, shape.screen[0]], [low, base, shape.rear[0]], [-low, base, shape.rear[0]],
             [-low, base, shape.screen[0]]],
            [[high, edge, shape.screen[1]], [high, edge, shape.rear[1]], [-high, edge, shape.rear[1]],
             [-high, edge, shape.screen[1]]],
        ]
    )  # fmt: skip
    crown = corners[1] * [0.88, 1, 1] + [0, 0.07, 0]
    crown[:, 2] += np.array([-0.16, 0.12, 0.12, -0.16])
    panes = [(1, 0.07, 0.93), (3, 0.05, 0.95)]  # rear window, windscreen
    panes += [(0, 0.07, 0.47), (0, 0.52, 0.93), (2, 0.07, 0.48), (2, 0.53, 0.93)]
    return [
        loft(np.stack([corners[0], corners[1], crown]), paint, smooth=False),
        *(_pane(corners, *pane) for pane in panes),
    ]


def _pane(corners: np.ndarray, face: int, left: float, right: float) -> Mesh:
    """Glass before one of the cabin's four faces, between shares of its width; corners: (2, 4, 3)."""
    a, b = corners[:, face], corners[:, (face + 1) % 4]
    bottom, upper = 0.10, 0.93
    points = np.array(
        [
            (1 - v) * ((1 - u) * a[0] + u * b[0]) + v * ((1 - u) * a[1] + u * b[1])
            for u, v in ((left, bottom), (right, bottom), (right, upper), (left, upper))
        ]
    )
    normal = np.cross(points[1] - points[0], points[3] - points[0])
    normal /= np.linalg.norm(normal)
    outward = 1 if normal @ (points.mean(0) - corners.reshape(-1, 3).mean(0)) > 0 else -1
    return quad(points + 0.012 * outward * normal, Surface(TrainId.CAR, (0.07, 0.08, 0.09), gloss=0.85))


def _wheel(shape: CarShape, side: int, z: float, dark: Surface) -> list[Mesh]:
    """Arch, tyre, rim and hub."""
    half, radius = shape.width / 2, shape.wheel
    tyre = Surface(TrainId.CAR, (0.06, 0.06, 0.065))
    rim = Surface(TrainId.CAR, (0.62, 0.63, 0.65), gloss=0.3)
    x = side * (half - 0.09)
    return [
        cylinder((x, radius + 0.02, z), 0, radius + 0.05, 0.20, dark, 18),
        cylinder((side * (half - 0.095), radius, z), 0, radius, 0.22, tyre, 18),
        cylinder((x, radius, z), 0, radius * 0.62, 0.225, rim, 12),
        cylinder((x, radius, z), 0, radius * 0.2, 0.235, dark, 8),
    ]


def _lamps(shape: CarShape, side: int) -> list[Mesh]:
    half = shape.width / 2
    headlamp = Surface(TrainId.CAR, (0.93, 0.94, 0.92), gloss=0.5, emission=0.35)
    tail_lamp = Surface(TrainId.CAR, (0.62, 0.04, 0.04), gloss=0.3, emission=0.25)
    x, front = side * half * 0.62, 0.487 * shape.length
    y = shape.nose
    ahead = box((x - 0.17, y - 0.17, front - 0.2), (x + 0.17, y - 0.03, front + 0.01), headlamp)
    x, back = side * half * 0.78, -0.487 * shape.length
    y = shape.tail
    behind = box((x - 0.11, y - 0.30, back - 0.02), (x + 0.11, y - 0.06, back + 0.2), tail_lamp)
    return [ahead, behind]


def _mirror(shape: CarShape, side: int, paint: Surface) -> Mesh:
    x, y, z = side * (shape.width / 2 + 0.02), shape.shoulder + 0.03, shape.screen[0] - 0.36
    return box((x - 0.10, y - 0.06, z - 0.05), (x + 0.10, y + 0.08, z), paint)


def _door_gaps(shape: CarShape, side: int, dark: Surface) -> list[Mesh]:
    x = side * (shape.width / 2 - 0.004)
    return [
        box((x - 0.006, 0.32, z), (x + 0.006, shape.shoulder - 0.10, z + 0.014), dark)
        for z in (shape.screen[0] - 0.1, (shape.screen[1] + shape.rear[1]) / 2)
    ]


def _ends(shape: CarShape, dark: Surface) -> list[Mesh]:
    """Grille, bumpers and number plates."""
    half = shape.width / 2
    front, back = 0.5 * shape.length, -0.5 * shape.length
    grille = shape.nose - 0.34
    plate = Surface(TrainId.CAR, (0.90, 0.90, 0.86))
    return [
        box((-0.62 * half, grille, front - 0.1), (0.62 * half, grille + 0.15, front + 0.012), dark),
        box((-0.78 * half, 0.30, front - 0.15), (0.78 * half, 0.37, front + 0.014), dark),
        box((-0.80 * half, 0.34, back - 0.012), (0.80 * half, 0.44, back + 0.1), dark),
        box((-0.26, 0.44, front), (0.26, 0.55, front + 0.02), plate),
        box((-0.26, shape.tail - 0.30, back - 0.022), (0.26, shape.tail - 0.19, back + 0.05), plate),
    ]


def bus(colour: tuple[float, float, float]) -> Mesh:
    """A city bus, 11 m long."""
    label = TrainId.BUS
    paint, dark = Surface(label, colour, gloss=0.2), Surface(label, (0.08, 0.08, 0.09))
    glass = Surface(label, (0.10, 0.12, 0.13), gloss=0.85)
    tyre = Surface(label, (0.05, 0.05, 0.055))
    length, half, roof = 11.0, 1.25, 3.05
    parts = [
        box((-half, 0.35, -length / 2), (half, roof, length / 2), paint),
        box((-half - 0.01, 0.33, -length / 2 - 0.01), (half + 0.01, 0.62, length / 2 + 0.01), dark),
        box(
            (-half - 0.008, 1.18, -length / 2),
            (half + 0.008, 1.30, length / 2),
            Surface(label, (0.85, 0.85, 0.83)),
        ),
        box((-0.92 * half, roof, -4), (0.92 * half, roof + 0.18, 3), paint),
        box((-half + 0.12, 1.05, length / 2 - 0.1), (half - 0.12, 2.55, length / 2 + 0.015), glass),
        box((-half + 0.12, 2.62, length / 2 - 0.1), (half - 0.12, 2.92, length / 2 + 0.015), dark),
        box((-half + 0.2, 1.5, -length / 2 - 0.015), (half - 0.2, 2.6, -length / 2 + 0.1), glass),
    ]
    for side in (-1, 1):
        for index in range(7):
            z = -5.2 + index * 1.5
            x0, x1 = sorted((side * (half - 0.1), side * (half + 0.012)))
            parts.append(box((x0, 1.35, z), (x1, 2.55, z + 1.38), glass))
        for z in (-3.2, 3.0):
            arch = (side * (half - 0.05), 0.5, z)
            parts.append(cylinder(arch, 0, 0.60, 0.13, dark, 20))
            parts.append(cylinder((side * (half - 0.12), 0.48, z), 0, 0.48, 0.30, tyre, 18))
            rim = Surface(label, (0.6, 0.6, 0.6))
            parts.append(cylinder((side * (half - 0.12), 0.48, z), 0, 0.27, 0.31, rim, 12))
        x = side * 0.95
        lamp = Surface(label, (0.93, 0.94, 0.92), gloss=0.5, emission=0.35)
        parts.append(box((x - 0.16, 0.62, length / 2 - 0.1), (x + 0.16, 0.78, length / 2 + 0.02), lamp))
        rear = Surface(label, (0.62, 0.04, 0.04), emission=0.25)
        parts.append(box((x - 0.12, 0.7, -length / 2 - 0.02), (x + 0.12, 1.1, -length / 2 + 0.1), rear))
    return join(parts)


def lorry(colour: tuple[float, float, float]) -> Mesh:
    """A delivery lorry with a box body, 7 m long."""
    label = TrainId.TRUCK
    paint, dark = Surface(label, colour, gloss=0.25), Surface(label, (0.08, 0.08, 0.09))
    glass = Surface(label, (0.10, 0.12, 0.13), gloss=0.85)
    parts = [
        box((-1.2, 0.95, -3.5), (1.2, 3.3, 1.6), Surface(label, (0.84, 0.84, 0.82))),
        box((-1.1, 0.45, -3.4), (1.1, 0.95, 1.8), dark),
        box((-1.1, 0.5, 1.75), (1.1, 1.55, 3.5), paint),
        box((-1.05, 1.55, 1.75), (1.05, 2.45, 3.15), paint),
        quad(np.array([[-0.98, 1.55, 3.51], [0.98, 1.55, 3.51], [0.9, 2.4, 3.18], [-0.9, 2.4, 3.18]]), glass),
        box((-1.07, 1.6, 2.2), (1.07, 2.2, 3.05), glass),
        box((-1.0, 0.45, 3.4), (1.0, 0.7, 3.55), dark),
    ]
    for side in (-1, 1):
        for z in (-2.3, 2.5):
            parts.append(cylinder((side * 1.0, 0.45, z), 0, 0.45, 0.3, dark, 18))
        x = side * 0.85
        parts.append(
            box(
                (x - 0.14, 0.75, 3.4),
                (x + 0.14, 0.92, 3.53),
                Surface(label, (0.93, 0.94, 0.92), emission=0.35),
            )
        )
        parts.append(
            box(
                (x - 0.14, 0.7, -3.53),
                (x + 0.14, 0.9, -3.4),
                Surface(label, (0.62, 0.04, 0.04), emission=0.25),
            )
        )
    return join(parts)


def bicycle(colour: tuple[float, float, float]) -> Mesh:
    """A bicycle, 1.7 m long."""
    frame, dark = Surface(TrainId.BICYCLE, colour, gloss=0.2), Surface(TrainId.BICYCLE, (0.07, 0.07, 0.08))
    parts = []
    for z in (-0.52, 0.52):
        angle = np.linspace(0, 2 * np.pi, 21)
        rim = np.stack([np.cos(angle), np.sin(angle)], 1)
        outer, inner = 0.345 * rim, 0.305 * rim
        for x in (-0.02, 0.02):
            ring = np.stack([outer[:-1], outer[1:], inner[1:], inner[:-1]], 1)
            points = np.concatenate([np.full((20, 4, 1), x), ring[..., 1:] + 0.345, ring[..., :1] + z], 2)
            parts.append(triangles(points[:, [0, 1, 2, 0, 2, 3]].reshape(-1, 3, 3), dark))
        for spoke in np.arange(0, np.pi, np.pi / 5):
            step = 0.31 * np.array([0, np.sin(spoke), np.cos(spoke)])
            parts.append(tube(np.array([0, 0.345, z]) + np.outer([-1, 1], step), 0.004, dark, 3))
    joints = {
        "rear": (0, 0.345, -0.52),
        "pedals": (0, 0.30, -0.06),
        "seat": (0, 0.92, -0.22),
        "head": (0, 0.86, 0.34),
    }
    joints["front"] = (0, 0.345, 0.52)
    bars = [
        ("rear", "pedals"),
        ("pedals", "seat"),
        ("pedals", "head"),
        ("rear", "seat"),
        ("seat", "head"),
        ("head", "front"),
    ]
    parts += [tube(np.array([joints[a], joints[b]]), 0.022, frame, 5) for a, b in bars]
    parts.append(tube(np.array([[-0.28, 1.02, 0.28], [0.28, 1.02, 0.28]]), 0.018, dark, 5))
    parts.append(tube(np.array([[0, 0.86, 0.34], [0, 1.02, 0.28]]), 0.018, dark, 5))
    parts.append(box((-0.07, 0.92, -0.34), (0.07, 0.97, -0.10), dark))
    return join(parts)
