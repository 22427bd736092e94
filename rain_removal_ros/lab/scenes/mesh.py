"""Triangle meshes with the attributes a renderer needs, and the shapes a street is assembled from.

Knows geometry only: not what a street looks like, and not how it is lit or drawn.

Coordinates: x right, y up, z along the street, metres. Triangles have no preferred side.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

Colour = tuple[float, float, float]  # display-referred RGB, 0 to 1


@dataclass(frozen=True)
class Surface:
    """What a part of a mesh is made of. `tile` is the size in metres of one repetition of the texture."""

    label: int  # Cityscapes train id
    colour: Colour = (1.0, 1.0, 1.0)  # multiplies the texture
    texture: int = 0  # index into the texture atlas; 0 is plain white
    tile: tuple[float, float] = (1.0, 1.0)
    gloss: float = 0.0  # 0 matt, 1 reflects the sky like glass
    emission: float = 0.0  # added light, relative to the surface colour


@dataclass(frozen=True)
class Mesh:
    """N triangles with their attributes; every array's first axis is the triangle."""

    corners: np.ndarray  # float32 (N, 3, 3): triangle, corner, xyz
    normals: np.ndarray  # float32 (N, 3, 3): unit normals at the corners
    uv: np.ndarray  # float32 (N, 3, 2): texture coordinates in repetitions of the texture
    colour: np.ndarray  # float32 (N, 3)
    texture: np.ndarray  # int32 (N,)
    gloss: np.ndarray  # float32 (N,)
    emission: np.ndarray  # float32 (N,)
    label: np.ndarray  # uint8 (N,)

    def __len__(self) -> int:
        return len(self.corners)

    def moved(self, offset: tuple[float, float, float], yaw: float = 0.0, scale: float = 1.0) -> Mesh:
        """A copy scaled, then turned by `yaw` radians about y (from z towards x), then moved."""
        cosine, sine = np.cos(yaw), np.sin(yaw)
        rotation = np.array([[cosine, 0, sine], [0, 1, 0], [-sine, 0, cosine]], np.float32)
        corners = (self.corners * np.float32(scale)) @ rotation.T + np.asarray(offset, np.float32)
        return self.replaced(corners=corners, normals=self.normals @ rotation.T)

    def tinted(self, colour: tuple[float, float, float]) -> Mesh:
        """A copy with every surface colour multiplied by `colour`."""
        return self.replaced(colour=self.colour * np.asarray(colour, np.float32))

    def replaced(self, **arrays: np.ndarray) -> Mesh:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return Mesh(**(values | arrays))


def join(meshes: list[Mesh]) -> Mesh:
    """All triangles of several meshes in one."""
    return Mesh(**{f.name: np.concatenate([getattr(m, f.name) for m in meshes]) for f in fields(Mesh)})


def triangles(
    corners: np.ndarray, surface: Surface, uv: np.ndarray | None = None, normals: np.ndarray | None = None
) -> Mesh:
    """A mesh of one surface from (N, 3, 3) corners; flat normals unless given; `uv` in metres, default 0."""
    corners = np.ascontiguousarray(corners, np.float32)
    count = len(corners)
    if normals is None:
        flat = cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        flat /= np.sqrt((flat**2).sum(1, keepdims=True)) + 1e-12
        normals = np.repeat(flat[:, None], 3, axis=1)
    tiles = np.zeros((count, 3, 2)) if uv is None else uv / np.asarray(surface.tile)
    return Mesh(
        corners=corners,
        normals=np.asarray(normals, np.float32),
        uv=np.asarray(tiles, np.float32),
        colour=np.repeat(np.array([surface.colour], np.float32), count, axis=0),
        texture=np.repeat(np.int32(surface.texture), count),
        gloss=np.repeat(np.float32(surface.gloss), count),
        emission=np.repeat(np.float32(surface.emission), count),
        label=np.repeat(np.uint8(surface.label), count),
    )


def cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The cross product along the last axis; several times faster than NumPy's on short arrays."""
    ax, ay, az = a[..., 0], a[..., 1], a[..., 2]
    bx, by, bz = b[..., 0], b[..., 1], b[..., 2]
    return np.stack([ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx], axis=-1)


def quad(points: np.ndarray, surface: Surface, uv: np.ndarray | None = None) -> Mesh:
    """A quadrilateral, (4, 3) corners in order; uv (4, 2) in metres, by default measured along its first
    two edges."""
    points = np.asarray(points, np.float32)
    if uv is None:
        width = np.linalg.norm(points[1] - points[0])
        height = np.linalg.norm(points[3] - points[0])
        uv = np.array([[0, 0], [width, 0], [width, height], [0, height]])
    uv = np.asarray(uv, np.float32)
    order = [[0, 1, 2], [0, 2, 3]]
    return triangles(points[order], surface, uv[order])


def box(low: tuple[float, float, float], high: tuple[float, float, float], surface: Surface) -> Mesh:
    """An axis-parallel box; texture u runs horizontally, v upwards (on the top: x and z)."""
    return boxes(np.array([low]), np.array([high]), surface)


# which of (low, high) the x, y and z of a box's corners are, for the 12 triangles of its 6 sides
_BOX_SIDES = np.array(
    [
        [[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]],
        [[0, 0, 1], [1, 0, 1], [1, 1, 1], [0, 1, 1]],
        [[0, 0, 0], [0, 0, 1], [0, 1, 1], [0, 1, 0]],
        [[1, 0, 0], [1, 0, 1], [1, 1, 1], [1, 1, 0]],
        [[0, 1, 0], [1, 1, 0], [1, 1, 1], [0, 1, 1]],
        [[0, 0, 0], [1, 0, 0], [1, 0, 1], [0, 0, 1]],
    ]
)
_BOX_CORNERS = _BOX_SIDES[:, [[0, 1, 2], [0, 2, 3]]].reshape(12, 3, 3)
_BOX_UV_AXES = np.array([[0, 1], [0, 1], [2, 1], [2, 1], [0, 2], [0, 2]]).repeat(2, axis=0)


def boxes(low: np.ndarray, high: np.ndarray, surface: Surface) -> Mesh:
    """Axis-parallel boxes between low (N, 3) and high (N, 3)."""
    limits = np.stack([low, high], axis=1)  # (N, 2, 3)
    corners = limits[:, _BOX_CORNERS, np.arange(3)]  # (N, 12, 3, 3)
    uv = np.take_along_axis(corners, np.broadcast_to(_BOX_UV_AXES[:, None], (len(corners), 12, 3, 2)), axis=3)
    return triangles(corners.reshape(-1, 3, 3), surface, uv.reshape(-1, 3, 2))


def loft(rings: np.ndarray, surface: Surface, smooth: bool = True) -> Mesh:
    """A closed skin over K rings of M points, (K, M, 3), the first and the last capped; `smooth` has it lit
    as if it were round."""
    rings = np.asarray(rings, np.float32)
    around = np.concatenate([rings, rings[:, :1]], axis=1)
    length = np.linalg.norm(np.diff(around, axis=1), axis=2).mean(0).cumsum()
    u = np.concatenate([[0], length])
    v = np.concatenate([[0], np.linalg.norm(np.diff(around.mean(1), axis=0), axis=1).cumsum()])
    uv = np.stack(np.broadcast_arrays(u[None, :], v[:, None]), axis=-1).astype(np.float32)

    def cells(grid: np.ndarray) -> np.ndarray:
        a, b, c, d = grid[:-1, :-1], grid[:-1, 1:], grid[1:, 1:], grid[1:, :-1]
        shape = (-1, 3, grid.shape[-1])
        return np.concatenate([np.stack([a, b, c], 2).reshape(shape), np.stack([a, c, d], 2).reshape(shape)])

    normals = None
    if smooth:
        extended = np.concatenate([rings[:, -1:], around, rings[:, 1:2]], axis=1)
        grid = cross(extended[:, 2:] - extended[:, :-2], _differences(around))
        grid /= np.sqrt((grid**2).sum(2, keepdims=True)) + 1e-9
        if (grid * (around - around.mean(1, keepdims=True))).sum() < 0:
            grid = -grid
        normals = cells(grid)
    parts = [triangles(cells(around), surface, cells(uv), normals)]
    for ring in (rings[0], rings[-1]):
        following = np.concatenate([ring[1:], ring[:1]])
        centre = np.broadcast_to(ring.mean(0), ring.shape)
        parts.append(triangles(np.stack([centre, ring, following], 1), surface))
    return join(parts)


def _differences(points: np.ndarray) -> np.ndarray:
    """Differences of neighbours along the first axis, central within, one-sided at the ends; not scaled."""
    padded = np.concatenate([points[:1], points, points[-1:]])
    return padded[2:] - padded[:-2]


def tube(points: np.ndarray, radii: np.ndarray | float, surface: Surface, sides: int = 8) -> Mesh:
    """A round tube along K points (K, 3) with a radius at each."""
    points = np.asarray(points, np.float32)
    radii = np.broadcast_to(np.asarray(radii, np.float32), len(points))
    along = _differences(points)
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    overall = points[-1] - points[0]
    helper = (
        np.array([0, 0, 1.0]) if abs(overall[2]) < 0.7 * np.linalg.norm(overall) else np.array([1.0, 0, 0])
    )
    first = cross(along, helper)
    first /= np.linalg.norm(first, axis=1, keepdims=True)
    second = cross(along, first)
    angle = np.arange(sides) * (2 * np.pi / sides)
    circle = np.cos(angle)[None, :, None] * first[:, None] + np.sin(angle)[None, :, None] * second[:, None]
    return loft(points[:, None] + radii[:, None, None] * circle, surface)


def cylinder(
    centre: tuple[float, float, float],
    axis: int,
    radius: float,
    length: float,
    surface: Surface,
    sides: int = 16,
) -> Mesh:
    """A cylinder of the given length whose middle is `centre`, its axis along coordinate `axis` (0 x, 1 y,
    2 z)."""
    step = np.zeros(3, np.float32)
    step[axis] = length / 2
    return tube(np.stack([centre - step, centre + step]), radius, surface, sides)


def ellipsoid(
    centre: tuple[float, float, float], radii: tuple[float, float, float], surface: Surface, sides: int = 10
) -> Mesh:
    """An ellipsoid with `sides` meridians."""
    polar = np.linspace(0.12, np.pi - 0.12, max(4, sides // 2 + 1))
    angle = np.arange(sides) * (2 * np.pi / sides)
    unit = np.stack(
        [
            np.sin(polar)[:, None] * np.cos(angle),
            np.broadcast_to(np.cos(polar)[:, None], (len(polar), sides)),
            np.sin(polar)[:, None] * np.sin(angle),
        ],
        axis=-1,
    )
    return loft(unit * np.asarray(radii) + np.asarray(centre), surface)
