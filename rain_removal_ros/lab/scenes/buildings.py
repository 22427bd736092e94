"""Houses as meshes: walls with facade textures, cornices, balconies, awnings, roofs. Knows houses, not the
street.

A house is built for the right-hand side of the street: its front lies in the plane x = 0 and faces -x, it
reaches from z = 0 to its width and from x = 0 to its depth.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rain_removal_ros.cityscapes import TrainId
from rain_removal_ros.lab.scenes import textures
from rain_removal_ros.lab.scenes.mesh import Mesh, Surface, box, boxes, join, quad, triangles

WALL_COLOURS = {
    "brick": ((148, 78, 58), (168, 104, 74), (124, 66, 54), (176, 142, 104), (112, 84, 72)),
    "plaster": ((214, 198, 166), (224, 214, 196), (198, 172, 136), (186, 192, 190), (216, 184, 158),
                (204, 206, 184), (178, 150, 128), (226, 222, 212)),
    "stone": ((188, 178, 158), (168, 160, 148), (204, 196, 178)),
    "glass": ((96, 106, 112), (128, 122, 112), (70, 78, 88)),
}  # fmt: skip
AWNING_COLOURS = ((0.55, 0.13, 0.12), (0.15, 0.30, 0.22), (0.72, 0.62, 0.42), (0.17, 0.24, 0.42))
ROOF_COLOURS = ((0.52, 0.25, 0.18), (0.44, 0.22, 0.17), (0.28, 0.28, 0.30), (0.36, 0.30, 0.27))

KINDS = (
    *("plaster", "brick", "plaster", "stone", "brick"),
    *("plaster", "glass", "plaster", "brick", "plaster"),
)
"""The walls of a town."""


@dataclass(frozen=True)
class FacadeStyle:
    """A wall with its textures' indices in the atlas."""

    kind: str
    colour: tuple[float, float, float]  # display-referred RGB, 0-255
    upper: int  # storeys with windows
    ground: int  # the ground storey
    bay: float  # width of a window bay, metres
    storey: float  # height of a storey, metres


def make_styles(rng: np.random.Generator, atlas: textures.TextureAtlas) -> list[FacadeStyle]:
    """Paint the facades of a town; fills the atlas."""
    styles = []
    for kind in KINDS:
        colour = WALL_COLOURS[kind][rng.integers(len(WALL_COLOURS[kind]))]
        upper = atlas.add(textures.facade(rng, kind, colour))
        ground = atlas.add(textures.shop_front(rng, "stone" if kind == "glass" else kind, colour))
        styles.append(FacadeStyle(kind, colour, upper, ground, rng.uniform(2.6, 3.4), rng.uniform(2.9, 3.4)))
    return styles


def mirrored(mesh: Mesh) -> Mesh:
    """The same house for the left-hand side; its writing stays readable."""
    flip = np.array([-1, 1, 1], np.float32)
    return mesh.replaced(
        corners=mesh.corners * flip, normals=mesh.normals * flip, uv=mesh.uv * np.array([-1, 1], np.float32)
    )


@dataclass(frozen=True)
class _Size:
    """Of a house, in metres."""

    width: float  # along the street, z
    depth: float  # away from it, x
    ground: float  # height of the ground storey
    height: float  # of the eaves


def house(
    rng: np.random.Generator, style: FacadeStyle, bays: int, storeys: int, roof_texture: int, concrete: int
) -> tuple[Mesh, float]:
    """A house of `bays` window bays and `storeys` storeys (ground storey included). Gives the mesh and its
    width."""
    ground = style.storey * 1.15
    height = ground + (storeys - 1) * style.storey
    size = _Size(bays * style.bay, rng.uniform(10, 13), ground, height)
    base = tuple(np.asarray(style.colour) / 255)
    lighter = tuple(np.clip(np.asarray(base) * 0.55 + 0.36, 0, 0.92))
    trim = Surface(TrainId.BUILDING, lighter, texture=concrete, tile=(4, 4))
    plain = Surface(TrainId.BUILDING, base, texture=concrete, tile=(4, 4))

    parts = _walls(rng, style, size, plain)
    reach, ledges = _ledges(rng, style, size, trim)
    parts += ledges
    if style.kind != "glass" and storeys >= 3 and rng.random() < 0.45:
        parts += _balconies(rng, style, bays, storeys, size.ground, trim)
    if style.kind == "glass" or rng.random() < 0.25:
        parts += _flat_roof(rng, size, trim, plain)
    else:
        parts += _pitched_roof(rng, size, reach, roof_texture, plain)
    if rng.random() < 0.4:
        parts += _awning(rng, style, size, bays)
    return join(parts), size.width


def _walls(rng: np.random.Generator, style: FacadeStyle, size: _Size, plain: Surface) -> list[Mesh]:
    """Front, flanks, of which most have windows, and back."""
    width, depth, height = size.width, size.depth, size.height
    upper_tile = (textures.BAYS * style.bay, textures.BAYS * style.storey)
    upper = Surface(TrainId.BUILDING, texture=style.upper, tile=upper_tile)
    ground_tile = (textures.BAYS * style.bay, size.ground)
    ground = Surface(TrainId.BUILDING, texture=style.ground, tile=ground_tile)
    start = float(rng.integers(textures.BAYS)) * style.bay  # which bays of the texture this house shows
    rise = float(rng.integers(textures.BAYS)) * style.storey

    def front(y0: float, y1: float, surface: Surface, v0: float) -> Mesh:
        points = np.array([[0, y0, width], [0, y0, 0], [0, y1, 0], [0, y1, width]])
        u0, u1 = start - width, start
        return quad(points, surface, np.array([[u0, v0], [u1, v0], [u1, v0 + y1 - y0], [u0, v0 + y1 - y0]]))

    parts = [front(0, size.ground, ground, 0), front(size.ground, height, upper, rise)]
    windows_aside = rng.random() < 0.75
    for z in (0.0, width):
        points = np.array([[0, 0, z], [depth, 0, z], [depth, height, z], [0, height, z]])
        if windows_aside and style.kind != "glass":
            u1 = round(depth / style.bay) * style.bay
            lower = points.copy()
            lower[2:, 1] = size.ground
            parts.append(quad(lower, plain))
            points[:2, 1] = size.ground
            v1 = rise + height - size.ground
            parts.append(quad(points, upper, np.array([[0, rise], [u1, rise], [u1, v1], [0, v1]])))
        else:
            parts.append(quad(points, plain))
    back = np.array([[depth, 0, 0], [depth, 0, width], [depth, height, width], [depth, height, 0]])
    return [*parts, quad(back, plain)]


def _ledges(
    rng: np.random.Generator, style: FacadeStyle, size: _Size, trim: Surface
) -> tuple[float, list[Mesh]]:
    """How far the eaves reach out, and what is on the front: ledges, some pilasters at its ends, a pipe."""
    width, height = size.width, size.height
    parts = [box((-0.12, size.ground - 0.10, 0), (0.05, size.ground + 0.10, width), trim)]
    reach = rng.uniform(0.2, 0.45)
    parts.append(box((-reach, height - 0.25, -0.02), (0.3, height + 0.12, width + 0.02), trim))
    if style.kind != "glass" and rng.random() < 0.4:
        for z in (0.0, width - 0.45):
            parts.append(box((-0.10, 0, z), (0.05, height - 0.2, z + 0.45), trim))
    pipe = Surface(TrainId.BUILDING, (0.38, 0.38, 0.37))
    parts.append(box((-0.10, 0.1, 0.08), (0.0, height, 0.17), pipe))
    return reach, parts


def _flat_roof(rng: np.random.Generator, size: _Size, trim: Surface, plain: Surface) -> list[Mesh]:
    """A parapet, the roof, and on some a hut."""
    width, depth, height = size.width, size.depth, size.height
    roof = np.array([[0, height, 0], [depth, height, 0], [depth, height, width], [0, height, width]])
    parts = [box((0, height, 0), (0.25, height + 0.7, width), trim), quad(roof, plain)]
    if rng.random() < 0.6:
        z = rng.uniform(0.2, 0.5) * width
        parts.append(box((3, height, z), (6, height + 2.2, z + 3), plain))
    return parts


def _awning(rng: np.random.Generator, style: FacadeStyle, size: _Size, bays: int) -> list[Mesh]:
    """Over one bay of the ground storey."""
    awning = Surface(TrainId.BUILDING, AWNING_COLOURS[rng.integers(len(AWNING_COLOURS))])
    z0 = rng.integers(0, bays) * style.bay + 0.2
    z1, y = z0 + style.bay - 0.4, size.ground - 0.55
    points = np.array([[0, y, z0], [0, y, z1], [-1.1, y - 0.5, z1], [-1.1, y - 0.5, z0]])
    return [quad(points, awning), box((-1.1, y - 0.68, z0), (-1.08, y - 0.5, z1), awning)]


def _balconies(
    rng: np.random.Generator, style: FacadeStyle, bays: int, storeys: int, ground_height: float, trim: Surface
) -> list[Mesh]:
    rail = Surface(TrainId.BUILDING, (0.16, 0.16, 0.17))
    parts = []
    chosen = [bay for bay in range(bays) if rng.random() < 0.5]
    for storey in range(storeys - 1):
        y = ground_height + storey * style.storey + 0.12
        for bay in chosen:
            z0, z1 = bay * style.bay + 0.35, (bay + 1) * style.bay - 0.35
            parts.append(box((-0.95, y - 0.14, z0), (0, y, z1), trim))
            parts.append(box((-0.95, y + 0.92, z0), (-0.90, y + 0.97, z1), rail))
            bars = np.arange(z0, z1, 0.16)[:, None]
            low = bars * [0, 0, 1] + [-0.94, y, 0]
            parts.append(boxes(low, np.add(low, [0.025, 0.95, 0.025]), rail))
            for z in (z0, z1 - 0.04):
                parts.append(box((-0.95, y + 0.92, z), (0, y + 0.97, z + 0.04), rail))
    return parts


def _pitched_roof(
    rng: np.random.Generator, size: _Size, reach: float, texture: int, wall: Surface
) -> list[Mesh]:
    """Tiles, a gutter, gables, chimneys, and on some dormers."""
    width, depth, height = size.width, size.depth, size.height
    label = TrainId.BUILDING
    tiles = Surface(label, ROOF_COLOURS[rng.integers(len(ROOF_COLOURS))], texture=texture, tile=(4, 4))
    ridge = height + depth / 2 * np.tan(np.radians(rng.uniform(30, 42)))
    middle, low = depth / 2, height + 0.05
    parts = [
        quad(
            np.array([[-reach, low, 0], [-reach, low, width], [middle, ridge, width], [middle, ridge, 0]]),
            tiles,
        ),
        quad(
            np.array([[depth, low, 0], [depth, low, width], [middle, ridge, width], [middle, ridge, 0]]),
            tiles,
        ),
        box((-reach - 0.12, low - 0.12, 0), (-reach, low + 0.02, width), Surface(label, (0.35, 0.35, 0.35))),
    ]
    gables = np.array([[[0, height, z], [depth, height, z], [middle, ridge, z]] for z in (0.0, width)])
    parts.append(triangles(gables, wall))
    for _ in range(rng.integers(1, 3)):  # chimneys
        z = rng.uniform(0.5, width - 1.5)
        parts.append(
            box(
                (middle - 0.3, ridge - 1, z),
                (middle + 0.4, ridge + 0.9, z + 0.9),
                Surface(label, (0.45, 0.26, 0.2)),
            )
        )
    if rng.random() < 0.5:  # dormers
        glass = Surface(label, (0.12, 0.14, 0.16), gloss=0.7)
        for z in np.arange(1.6, width - 2.2, 3.4):
            x = middle * 0.32
            y = low + (ridge - low) * 0.30
            parts.append(box((x, y - 0.4, z), (middle, y + 1.35, z + 1.3), wall))
            parts.append(box((x - 0.02, y + 0.15, z + 0.2), (x + 0.1, y + 1.15, z + 1.1), glass))
            parts.append(
                box(
                    (x - 0.15, y + 1.35, z - 0.1),
                    (middle, y + 1.45, z + 1.4),
                    Surface(label, (0.3, 0.3, 0.31)),
                )
            )
    return parts
