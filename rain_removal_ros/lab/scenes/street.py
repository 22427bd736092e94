"""Lays out a street from a seed: houses, trees, furniture and parked cars that stay, and actors that move.

Knows where things stand and how they move, not how they are drawn.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np

from rain_removal_ros.cityscapes import TrainId
from rain_removal_ros.lab.scenes import furniture, ground, people, textures, vegetation, vehicles
from rain_removal_ros.lab.scenes.buildings import FacadeStyle, house, make_styles, mirrored
from rain_removal_ros.lab.scenes.mesh import Mesh, Surface, join, quad

BEHIND = 60.0  # the street begins this far behind the camera's first position
AHEAD = 360.0  # and ends this far beyond its last
EGO_LANE = 1.65  # t of the camera and of who drives its way
ONCOMING_SPEED = 8.5
WALKING_SPEED = 1.35
CYCLING_SPEED = 4.2
PHASES = 16  # steps of a walk or of a turn of the pedals


@dataclass(frozen=True)
class Actor:
    """Someone or something that moves along the street at a constant speed and place across it."""

    shape: Callable[[int], Mesh]  # from the phase, 0..PHASES-1
    t: float
    z: float  # at time zero
    speed: float  # along z; negative comes towards the camera
    height: float  # of the ground it moves on
    stride: float  # metres a full turn of phases takes; 0: always phase zero
    turned: bool  # faces -z

    def mesh_at(self, time: float, course: ground.Course, z_range: tuple[float, float]) -> Mesh | None:
        """Its mesh in the world at `time` seconds, or None outside `z_range`."""
        z = self.z + self.speed * time
        if not z_range[0] <= z <= z_range[1]:
            return None
        phase = int(abs(z - self.z) / self.stride * PHASES) % PHASES if self.stride else 0
        yaw = float(np.arctan(course.slope(z))) + (np.pi if self.turned else 0.0)
        return self.shape(phase).moved((self.t + float(course.offset(z)), self.height, z), yaw)


@dataclass(frozen=True)
class Street:
    """Everything there is to see, in world coordinates (x right, y up, z along the street)."""

    course: ground.Course
    crossings: np.ndarray  # z of the junctions' middles
    fixed: Mesh
    actors: tuple[Actor, ...]
    atlas: textures.TextureAtlas
    asphalt: int
    grass: int

    def moving(self, time: float, z: float) -> Mesh | None:
        """The actors' triangles at `time` seconds as seen from around `z`; None if there are none."""
        near = (actor.mesh_at(time, self.course, (z - 25, z + 260)) for actor in self.actors)
        meshes = [mesh for mesh in near if mesh is not None]
        return join(meshes) if meshes else None


@dataclass(frozen=True)
class _Materials:
    styles: list[FacadeStyle]
    paving: int
    bark: int
    foliage: int
    roof: int
    concrete: int
    fence: int
    brick: int
    signs: list[tuple[int, str]]
    asphalt: int
    grass: int


def _paint(rng: np.random.Generator, atlas: textures.TextureAtlas) -> _Materials:
    brick = np.concatenate(
        [textures.brickwork(rng, (150, 92, 70), courses=32), np.zeros((512, 512, 1), np.float32)], axis=2
    )
    materials = _Materials(
        styles=make_styles(rng, atlas),
        paving=atlas.add(textures.paving(rng)),
        bark=atlas.add(textures.bark(rng)),
        foliage=atlas.add(textures.foliage(rng)),
        roof=atlas.add(textures.roof_tiles(rng)),
        concrete=atlas.add(textures.concrete(rng)),
        fence=atlas.add(textures.fence(rng)),
        brick=atlas.add(np.clip(brick, 0, 255).astype(np.uint8)),
        signs=[
            (atlas.add(textures.round_sign("30")), "round"),
            (atlas.add(textures.round_sign("50")), "round"),
            (atlas.add(textures.square_sign("P")), "square"),
            (atlas.add(textures.square_sign("crossing")), "square"),
            (0, "triangle"),
        ],
        asphalt=atlas.add(textures.asphalt(rng)),
        grass=atlas.add(textures.grass(rng)),
    )
    atlas.freeze()
    return materials


def build_street(seed: int, drive_length: float, drive_speed: float) -> Street:
    """The street that `seed` describes, long enough for a drive of `drive_length` metres at `drive_speed`
    m/s."""
    rng = np.random.default_rng([seed, 1])
    atlas = textures.TextureAtlas()
    materials = _paint(rng, atlas)
    course = ground.Course(rng.choice([-1, 1]) * rng.uniform(3.0, 7.0), rng.uniform(340, 480))
    start, end = -BEHIND, np.ceil((drive_length + AHEAD) / 60) * 60
    middles, z = [-BEHIND - 40], rng.uniform(38, 75)  # the first lies out of sight
    while z < end - 45:
        middles.append(z)
        z += rng.uniform(75, 120)
    crossings = np.asarray(middles)
    edges = [start, *crossings[1:], end]
    urban = rng.uniform(0.35, 1.0)
    parts: list[Mesh] = []
    trees = [vegetation.tree(rng, materials.bark, height=rng.uniform(7, 10)) for _ in range(6)]
    distant_trees = [
        vegetation.tree(rng, materials.bark, rng.uniform(7, 11), leaves=700, size=2.2) for _ in range(4)
    ]
    shrubs = [vegetation.shrub(rng) for _ in range(3)]
    cars = [
        vehicles.car(shape, vehicles.CAR_COLOURS[rng.integers(len(vehicles.CAR_COLOURS))])
        for shape in vehicles.CAR_SHAPES.values()
        for _ in range(3)
    ]
    for z0, z1 in pairwise(edges):
        first = z0 + (ground.CROSS_HALF if z0 > start else 0)
        last = z1 - (ground.CROSS_HALF if z1 < end else 0)
        for side in (-1, 1):
            parts += _pavement(first, last, side, materials)
            if rng.random() < urban:
                parts += _terrace(rng, first, last, side, materials)
            else:
                parts += _gardens(rng, first, last, side, materials, trees, shrubs)
            parts += _kerbside(rng, first, last, side, materials, trees, cars)
        parts += _background(rng, z0, z1, materials, distant_trees)
    for z in crossings[1:]:
        parts += _junction(rng, z, materials)
    parts += _end(rng, float(end), materials, distant_trees)
    fixed = join(parts)
    corners = fixed.corners.copy()
    corners[..., 0] += course.offset(corners[..., 2]).astype(np.float32)
    fixed = fixed.replaced(corners=corners)
    span = 4000.0
    floor = quad(
        np.array([[-span, 0, -span], [span, 0, -span], [span, 0, span], [-span, 0, span]]),
        Surface(TrainId.ROAD, tile=(8, 8)),
        np.array([[-span, -span], [span, -span], [span, span], [-span, span]]),
    )
    # the floor comes last: the renderer knows it by its place
    return Street(
        course=course,
        crossings=crossings,
        fixed=join([fixed, floor]),
        actors=tuple(_actors(rng, cars, drive_length, drive_speed, float(end))),
        atlas=atlas,
        asphalt=materials.asphalt,
        grass=materials.grass,
    )


def _placed(mesh: Mesh, side: int, t: float, z: float, y: float = 0.0, yaw: float = 0.0) -> Mesh:
    """A mesh made for the right-hand side, put at distance t from the centre line on either side."""
    mesh = mesh if side > 0 else mirrored(mesh)
    return mesh.moved((side * t, y, z), yaw)


def _pavement(z0: float, z1: float, side: int, materials: _Materials) -> list[Mesh]:
    slabs = Surface(TrainId.SIDEWALK, texture=materials.paving, tile=(3, 3))
    stone = Surface(TrainId.SIDEWALK, (0.66, 0.65, 0.62), texture=materials.concrete, tile=(1, 1))
    inner, kerb, outer = side * ground.ROAD_HALF, side * (ground.ROAD_HALF + 0.16), side * ground.FRONT
    pieces, y = max(1, round((z1 - z0) / 4)), ground.KERB
    marks = np.linspace(z0, z1, pieces + 1)
    parts = []
    for a, b in pairwise(marks):
        for x0, x1, surface in ((inner, kerb, stone), (kerb, outer, slabs)):
            points = np.array([[x0, y, a], [x1, y, a], [x1, y, b], [x0, y, b]])
            parts.append(quad(points, surface, points[:, [0, 2]]))
        face = np.array([[inner, 0, a], [inner, 0, b], [inner, y, b], [inner, y, a]])
        parts.append(quad(face, stone, face[:, [2, 1]]))
        back = np.array([[outer, 0, a], [outer, 0, b], [outer, y, b], [outer, y, a]])
        parts.append(quad(back, stone, back[:, [2, 1]]))
    for z in (z0, z1):  # along the cross street
        parts.append(quad(np.array([[inner, 0, z], [outer, 0, z], [outer, y, z], [inner, y, z]]), stone))
        reach = 2.2 if z == z0 else -2.2
        far = side * 60
        points = np.array([[outer, y, z], [far, y, z], [far, y, z + reach], [outer, y, z + reach]])
        parts.append(quad(points, slabs, points[:, [0, 2]]))
        parts.append(quad(np.array([[outer, 0, z], [far, 0, z], [far, y, z], [outer, y, z]]), stone))
    return parts


def _terrace(rng: np.random.Generator, z0: float, z1: float, side: int, materials: _Materials) -> list[Mesh]:
    """Houses wall to wall at the pavement's edge."""
    parts, z, last = [], z0 + 2.2, z1 - 2.2
    common = int(rng.integers(3, 6))
    previous = -1
    while last - z > 7:
        index = int(rng.integers(len(materials.styles)))
        index = (index + 1) % len(materials.styles) if index == previous else index
        previous = index
        style = materials.styles[index]
        bays = min(int(rng.integers(3, 7)), int((last - z) // style.bay))
        if bays < 2:
            break
        storeys = max(2, common + int(rng.integers(-1, 2)))
        mesh, width = house(rng, style, bays, storeys, materials.roof, materials.concrete)
        parts.append(_placed(mesh, side, ground.FRONT, z))
        z += width
        if rng.random() < 0.10 and last - z > 14:  # a gap closed by a wall
            gap = rng.uniform(3, 6)
            parts.append(_placed(furniture.garden_wall(gap, materials.brick), side, ground.FRONT + 0.2, z))
            z += gap
    return parts


def _gardens(
    rng: np.random.Generator,
    z0: float,
    z1: float,
    side: int,
    materials: _Materials,
    trees: list[Mesh],
    shrubs: list[Mesh],
) -> list[Mesh]:
    """Lower houses behind front gardens."""
    parts, z = [], z0 + 2.5
    setback = rng.uniform(3.0, 5.5)
    while z1 - z > 11:
        style = materials.styles[rng.integers(len(materials.styles) - 4) if rng.random() < 0.9 else 0]
        style = materials.styles[1] if style.kind == "glass" else style
        bays = int(rng.integers(3, 5))
        mesh, width = house(rng, style, bays, int(rng.integers(2, 4)), materials.roof, materials.concrete)
        plot = min(width + rng.uniform(2.5, 6.0), z1 - z - 0.2)
        if width > plot:
            break
        parts.append(_placed(mesh, side, ground.FRONT + setback, z + (plot - width) / 2))
        gate = 1.3
        kind = rng.random()
        for a, b in ((z, z + plot / 2 - gate / 2), (z + plot / 2 + gate / 2, z + plot)):
            if kind < 0.35:
                border = furniture.hedge(b - a, materials.foliage)
            elif kind < 0.55:
                border = furniture.garden_wall(b - a, materials.brick)
            elif kind < 0.8:
                border = furniture.garden_fence(b - a, materials.fence, (0.62, 0.48, 0.34))
            else:
                border = furniture.railing(b - a)
            parts.append(_placed(border, side, ground.FRONT + 0.15, a))
        for _ in range(rng.integers(1, 4)):
            shrub = shrubs[rng.integers(len(shrubs))]
            t = ground.FRONT + rng.uniform(1.4, setback - 0.8)
            parts.append(_placed(shrub, side, t, z + rng.uniform(0.5, plot - 0.5), yaw=rng.uniform(0, 6)))
        if rng.random() < 0.5:
            tree = trees[rng.integers(len(trees))].moved((0, 0, 0), rng.uniform(0, 6), rng.uniform(0.5, 0.8))
            parts.append(_placed(tree, side, ground.FRONT + 0.55 * setback, z + rng.uniform(0, plot)))
        z += plot
    return parts


def _kerbside(
    rng: np.random.Generator,
    z0: float,
    z1: float,
    side: int,
    materials: _Materials,
    trees: list[Mesh],
    cars: list[Mesh],
) -> list[Mesh]:
    """Trees, lamps, signs, bollards and bins on the pavement; parked cars beside it."""
    parts, y, t = [], ground.KERB, ground.ROAD_HALF + 0.75
    clear = ground.STOP_LINE - ground.CROSS_HALF + 1.5
    step, planted = rng.uniform(9, 15), rng.random() < 0.72
    z = z0 + clear
    while z < z1 - clear:
        if planted and rng.random() < 0.85:
            tree = trees[rng.integers(len(trees))]
            tint = tuple(rng.normal(1, 0.05, 3))
            tree = tree.tinted(tint).moved((0, 0, 0), rng.uniform(0, 6), rng.uniform(0.75, 1.05))
            parts.append(_placed(tree, side, t + 0.1, z + rng.normal(0, 0.4), y))
        z += step
    for z in np.arange(z0 + 4.5 + (13 if side > 0 else 0), z1 - 3, 27.0):
        parts.append(_placed(furniture.street_lamp(rng), side, ground.ROAD_HALF + 0.45, float(z), y))
    for z in np.arange(z0 + 6, z1 - 6, 17.0):
        if rng.random() < 0.55:
            texture, shape = materials.signs[rng.integers(len(materials.signs))]
            post = furniture.sign(texture, shape)
            place = float(z) + rng.uniform(0, 5)
            # those on the left are read by who comes the other way
            if side > 0:
                parts.append(post.moved((ground.ROAD_HALF + 0.5, y, place)))
            else:
                parts.append(
                    post.moved((-ground.ROAD_HALF - 0.5, y, place), 0.0 if rng.random() < 0.5 else np.pi)
                )
    if rng.random() < 0.5:
        for z in np.arange(z0 + 3, z0 + 14, 1.6):
            parts.append(_placed(furniture.bollard(), side, ground.ROAD_HALF + 0.4, float(z), y))
    if rng.random() < 0.6:
        parts.append(
            _placed(furniture.bin_on_post(), side, ground.ROAD_HALF + 0.6, rng.uniform(z0 + 8, z1 - 8), y)
        )
    z = z0 + clear + 3
    occupied = rng.uniform(0.45, 0.9)
    while z < z1 - clear - 4:
        if rng.random() < occupied:
            model = cars[rng.integers(len(cars))]
            yaw = (0.0 if side > 0 else np.pi) + rng.normal(0, 0.015)
            offset = side * (ground.ROAD_HALF - 1.12 + rng.normal(0, 0.06))
            parts.append(model.moved((offset, 0, z), yaw))
        z += rng.uniform(5.4, 7.0)
    return parts


def _background(
    rng: np.random.Generator, z0: float, z1: float, materials: _Materials, trees: list[Mesh]
) -> list[Mesh]:
    """What shows through gaps and above roofs: taller houses in the second row, trees in the yards."""
    parts = []
    for side in (-1, 1):
        z = z0 + 8
        while z < z1 - 18:
            style = materials.styles[rng.integers(len(materials.styles))]
            mesh, width = house(
                rng,
                style,
                int(rng.integers(4, 8)),
                int(rng.integers(3, 7)),
                materials.roof,
                materials.concrete,
            )
            if z + width < z1 - 7:
                parts.append(_placed(mesh, side, rng.uniform(34, 46), z))
            z += width + rng.uniform(2, 9)
        for _ in range(4):
            tree = trees[rng.integers(len(trees))].moved((0, 0, 0), rng.uniform(0, 6), rng.uniform(0.8, 1.3))
            parts.append(_placed(tree, side, rng.uniform(25, 31), rng.uniform(z0 + 9, max(z0 + 10, z1 - 9))))
        mesh, width = house(rng, materials.styles[0], 8, 4, materials.roof, materials.concrete)
        parts.append(_placed(mesh, side, 95, z1 - width / 2))  # closes the cross street
    return parts


def _junction(rng: np.random.Generator, z: float, materials: _Materials) -> list[Mesh]:
    """Traffic lights or signs at a cross street."""
    parts, y, t = [], ground.KERB, ground.ROAD_HALF + 0.45
    near = z - ground.ZEBRA[1] - 0.6
    far = z + ground.ZEBRA[1] + 0.6
    if rng.random() < 0.7:
        lit = 2
        parts.append(furniture.traffic_light(lit).moved((t, y, near)))
        parts.append(furniture.traffic_light(lit).moved((-t, y, near)))
        parts.append(furniture.traffic_light(lit).moved((-t, y, far), np.pi))
    else:
        texture, shape = materials.signs[3]
        parts.append(furniture.sign(texture, shape).moved((t, y, near)))
        parts.append(furniture.sign(texture, shape).moved((-t, y, far), np.pi))
    return parts


def _end(rng: np.random.Generator, end: float, materials: _Materials, trees: list[Mesh]) -> list[Mesh]:
    """Houses across the end of the street, and trees before them."""
    parts, x = [], 45.0
    while x > -45:
        style = materials.styles[rng.integers(len(materials.styles))]
        mesh, width = house(
            rng, style, int(rng.integers(4, 7)), int(rng.integers(4, 7)), materials.roof, materials.concrete
        )
        parts.append(mesh.moved((x, 0, end + 20), -np.pi / 2))
        x -= width
    for x in np.arange(-14, 15, 5.5):
        tree = trees[rng.integers(len(trees))].moved((0, 0, 0), rng.uniform(0, 6))
        parts.append(tree.moved((x + rng.normal(0, 0.6), 0, end + 9 + rng.normal(0, 1))))
    return parts


def _actors(
    rng: np.random.Generator, cars: list[Mesh], drive_length: float, drive_speed: float, end: float
) -> list[Actor]:
    duration = drive_length / drive_speed if drive_speed > 0 else 0.0

    def vehicle(mesh: Mesh, t: float, z: float, speed: float, turned: bool) -> Actor:
        return Actor(lambda phase: mesh, t, z, speed, 0.0, 0.0, turned)

    def walker(style: int) -> Callable[[int], Mesh]:
        return lru_cache(maxsize=None)(
            lambda phase: people.person(np.random.default_rng([style, 5]), phase / PHASES)
        )

    def cyclist(style: int, colour: tuple[float, float, float]) -> Callable[[int], Mesh]:
        bicycle = vehicles.bicycle(colour)
        return lru_cache(maxsize=None)(
            lambda phase: join([bicycle, people.rider(np.random.default_rng([style, 6]), phase / PHASES)])
        )

    actors = []
    heavy = [
        vehicles.bus((0.72, 0.13, 0.12)),
        vehicles.bus((0.85, 0.72, 0.18)),
        vehicles.lorry((0.16, 0.30, 0.55)),
    ]
    z, count = rng.uniform(16, 26), 0
    while z < end + ONCOMING_SPEED * duration:
        big = count % 4 == 2
        model = heavy[rng.integers(len(heavy))] if big else cars[rng.integers(len(cars))]
        actors.append(vehicle(model, -EGO_LANE - 0.05, z, -ONCOMING_SPEED, True))
        z, count = z + rng.uniform(16, 42), count + 1
    if rng.random() < 0.7:  # someone drives ahead
        leader = cars[rng.integers(len(cars))]
        actors.append(vehicle(leader, EGO_LANE, rng.uniform(22, 40), drive_speed, False))
    walkers = [walker(int(style)) for style in rng.integers(0, 1 << 30, 12)]
    for side in (-1, 1):
        z = -20.0
        while z < end:
            forwards = rng.random() < 0.5
            t = side * rng.uniform(ground.ROAD_HALF + 1.3, ground.FRONT - 0.45)
            speed = WALKING_SPEED * rng.uniform(0.8, 1.15) * (1 if forwards else -1)
            shape = walkers[rng.integers(len(walkers))]
            actors.append(Actor(shape, t, z, speed, ground.KERB, people.STRIDE, not forwards))
            if rng.random() < 0.25:  # a companion
                other = walkers[rng.integers(len(walkers))]
                actors.append(
                    Actor(other, t - side * 0.6, z + 0.15, speed, ground.KERB, people.STRIDE, not forwards)
                )
            z += rng.uniform(5, 22)
    z, ahead = rng.uniform(13, 19), rng.random() < 0.5
    while z < end + CYCLING_SPEED * duration:
        colour = vehicles.CAR_COLOURS[rng.integers(4, len(vehicles.CAR_COLOURS))]
        style = int(rng.integers(0, 1 << 30))
        if ahead:  # the nearest is followed, not overtaken
            actors.append(Actor(cyclist(style, colour), 2.9, z, 0.93 * drive_speed, 0.0, 5.0, False))
        else:
            actors.append(Actor(cyclist(style, colour), -3.0, z, -CYCLING_SPEED, 0.0, 4.0, True))
        z, ahead = z + rng.uniform(40, 110), False
    return actors
