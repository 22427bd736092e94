"""Draws a street as a camera sees it: exact depth and labels at pixel centres, a shaded and anti-aliased
image.

Knows light and surfaces; not where the camera drives, nor what the street is made of.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, reduce

import cv2
import numpy as np

from rain_removal_ros.cityscapes import TrainId
from rain_removal_ros.lab.scenes import ground
from rain_removal_ros.lab.scenes.light import Sky
from rain_removal_ros.lab.scenes.mesh import Mesh, cross
from rain_removal_ros.lab.scenes.raycast import RayCaster
from rain_removal_ros.lab.scenes.street import Street

SUBSAMPLES = ((-0.10, -0.40), (0.40, 0.10), (-0.30, 0.30))  # of a pixel with an edge, beside its centre
EDGE_CONTRAST = 0.08  # display-referred difference to a neighbour that makes a pixel worth more rays
SHADOW_DISTANCE = 280.0  # metres from the camera beyond which nothing casts a shadow
HAZE_DISTANCE = 2600.0  # metres after which a share 1/e of an object's own light is left
OCCLUSION_STEP = 4  # pixels between places where ambient occlusion is measured
OCCLUSION_RAYS = 8
OCCLUSION_REACH = 4.0  # metres
COVER_STEP = 8  # pixels a cell of the map of what may move
ROUGH_GROUND = 8.0  # metres a tile of the ground's textures


class Geometry:
    """A mesh with its ray caster and what shading needs per triangle."""

    def __init__(self, mesh: Mesh) -> None:
        self.mesh = mesh
        self.caster = RayCaster(mesh.corners)
        normal = cross(mesh.corners[:, 1] - mesh.corners[:, 0], mesh.corners[:, 2] - mesh.corners[:, 0])
        self.normal = normal / (np.sqrt((normal**2).sum(1, keepdims=True)) + np.float32(1e-20))
        alike = np.abs(np.einsum("ij,ikj->ik", self.normal, mesh.normals)).min(1)
        self.curved = alike < 0.9999  # lit as if it were not flat

    @cached_property
    def gradient(self) -> np.ndarray:
        """How the texture coordinates change over the triangle: float32 (N, uv, xyz), tiles a metre."""
        mesh = self.mesh
        first = mesh.corners[:, 1] - mesh.corners[:, 0]
        second = mesh.corners[:, 2] - mesh.corners[:, 0]
        aa, bb, ab = (first**2).sum(1), (second**2).sum(1), (first * second).sum(1)
        scale = 1 / (aa * bb - ab**2 + 1e-20)
        step = mesh.uv[:, 1:] - mesh.uv[:, :1]  # (N, 2 edges, uv)
        along_first = (bb[:, None] * step[:, 0] - ab[:, None] * step[:, 1]) * scale[:, None]
        along_second = (aa[:, None] * step[:, 1] - ab[:, None] * step[:, 0]) * scale[:, None]
        gradient = along_first[:, :, None] * first[:, None] + along_second[:, :, None] * second[:, None]
        return gradient.astype(np.float32)


@dataclass(frozen=True)
class View:
    """Where a camera is and how it sees. Pixel (0, 0) is the centre of the upper left pixel."""

    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float
    position: np.ndarray  # float32 (3,), world
    yaw: float  # radians from z towards x; the camera looks horizontally

    def directions(self, u: np.ndarray, v: np.ndarray) -> np.ndarray:
        """Float32 (N, 3) rays through pixels (u, v), one metre long along the optical axis."""
        right, forward = self.axes()
        x = ((u - self.cx) / self.fx).astype(np.float32)
        rays = np.empty((len(x), 3), np.float32)
        rays[:, 0] = x * right[0] + forward[0]
        rays[:, 1] = (self.cy - v) / self.fy
        rays[:, 2] = x * right[2] + forward[2]
        return rays

    def axes(self) -> tuple[np.ndarray, np.ndarray]:
        """The camera's right and forward axes in the world."""
        cosine, sine = np.cos(self.yaw), np.sin(self.yaw)
        return np.array([cosine, 0, -sine], np.float32), np.array([sine, 0, cosine], np.float32)


@dataclass
class _Surfaces:
    """What N rays met, ready to be lit. Everything float32 unless said otherwise."""

    depth: np.ndarray  # (N,) along the optical axis
    label: np.ndarray  # uint8 (N,)
    position: np.ndarray  # (N, 3)
    normal: np.ndarray  # (N, 3) for shading
    facing: np.ndarray  # (N, 3) of the triangle, towards the viewer
    albedo: np.ndarray  # (N, 3) linear
    gloss: np.ndarray  # (N,)
    emission: np.ndarray  # (N,)


@dataclass(frozen=True)
class _Hits:
    """Which of the rays met a triangle, and where in it."""

    geometries: list[Geometry]  # what stands still and, where there is any, what moves
    ray: np.ndarray  # (N,) index of the ray
    depth: np.ndarray  # float32 (N,) along the optical axis
    triangle: np.ndarray  # (N,) index in its geometry
    weights: np.ndarray  # float32 (N, 3) of its corners
    moves: np.ndarray  # bool (N,): of what moves

    def gather(
        self, array: Callable[[Geometry], np.ndarray], chosen: np.ndarray | slice = slice(None)
    ) -> np.ndarray:
        """The rows of a geometry's array that belong to the triangles of the chosen hits."""
        of_moving, triangle = self.moves[chosen], self.triangle[chosen]
        values = array(self.geometries[0]).take(triangle, axis=0, mode="clip")
        if of_moving.any():
            values[of_moving] = array(self.geometries[1])[triangle[of_moving]]
        return values


def _trace(view: View, geometries: list[Geometry], rays: np.ndarray, may_move: np.ndarray) -> _Hits:
    """What rays (M, 3) from the camera meet first; only those where `may_move` (M,) is true are tried on what
    moves.
    """
    origins = np.empty_like(rays)
    origins[:] = view.position
    found = geometries[0].caster.first_hits(origins, rays)
    distance, triangle, weights = found.distance, found.triangle, found.barycentric
    moves = np.zeros(len(rays), bool)
    if len(geometries) > 1:
        tried = np.flatnonzero(may_move)
        found = geometries[1].caster.first_hits(origins[tried], rays[tried])
        nearer = np.flatnonzero(found.distance < distance[tried])
        changed = tried[nearer]
        distance[changed], triangle[changed] = found.distance[nearer], found.triangle[nearer]
        weights[changed] = found.barycentric[nearer]
        moves[changed] = True
    hit = np.flatnonzero(triangle >= 0)
    weights = weights[hit]
    weights = np.stack([1 - weights[:, 0] - weights[:, 1], weights[:, 0], weights[:, 1]], axis=1)
    return _Hits(geometries, hit, distance[hit], triangle[hit], weights, moves[hit])


def _surfaces(view: View, rays: np.ndarray, hits: _Hits, on_floor: np.ndarray) -> _Surfaces:
    """The surfaces that were hit by rays (N, 3), before any texture; the floor, by index, is level."""
    facing = hits.gather(lambda geometry: geometry.normal)
    facing *= -np.copysign(np.float32(1), np.einsum("ij,ij->i", facing, rays))[:, None]
    facing[on_floor] = (0, 1, 0)
    label = hits.gather(lambda geometry: geometry.mesh.label)
    normal = facing.copy()
    curved = np.flatnonzero(hits.gather(lambda geometry: geometry.curved))
    corners = hits.gather(lambda geometry: geometry.mesh.normals, curved)
    bent = np.einsum("ij,ijk->ik", hits.weights[curved], corners)
    inward = (np.einsum("ij,ij->i", bent, facing[curved]) < 0) & (label[curved] != TrainId.VEGETATION)
    length = np.sqrt(np.einsum("ij,ij->i", bent, bent)) + np.float32(1e-9)
    normal[curved] = bent / np.where(inward, -length, length)[:, None]
    return _Surfaces(
        depth=hits.depth,
        label=label,
        position=view.position + hits.depth[:, None] * rays,
        normal=normal,
        facing=facing,
        albedo=hits.gather(lambda geometry: geometry.mesh.colour),
        gloss=hits.gather(lambda geometry: geometry.mesh.gloss),
        emission=hits.gather(lambda geometry: geometry.mesh.emission),
    )


class Renderer:
    """Draws one street under one sky."""

    def __init__(self, street: Street, sky: Sky) -> None:
        self.street = street
        self.sky = sky
        self.fixed = Geometry(street.fixed)
        self.floor = len(street.fixed) - 2  # the last two triangles

    def draw(self, view: View, moving: Mesh | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Exposed linear float32 (H, W, 3) image, float32 (H, W) inverse depth along the optical axis (0 =
        sky) in 1/m, and uint8 (H, W) train ids. Depth and labels are those at the pixels' centres."""
        geometries = [self.fixed] if moving is None else [self.fixed, Geometry(moving)]
        may_move = (
            np.zeros(view.height * view.width, bool) if moving is None else _covered(view, moving.corners)
        )
        v, u = np.divmod(np.arange(view.height * view.width, dtype=np.int32), view.width)
        surfaces, hit = self._meet(view, geometries, u, v, may_move)
        occlusion = self._ambient_occlusion(view, geometries, surfaces, hit)
        image = self._light(view, geometries, u, v, surfaces, hit, occlusion[hit])
        shape = (view.height, view.width)
        inverse_depth, labels = np.zeros(shape, np.float32), np.full(shape, TrainId.SKY, np.uint8)
        inverse_depth.flat[hit] = 1 / surfaces.depth
        labels.flat[hit] = surfaces.label

        edges = np.flatnonzero(_edges(display(image.reshape(*shape, 3) * self.sky.exposure)))
        total = image[edges]
        for right, down in SUBSAMPLES:
            u_sub, v_sub = u[edges] + np.float32(right), v[edges] + np.float32(down)
            surfaces, hit = self._meet(view, geometries, u_sub, v_sub, may_move[edges])
            total += self._light(view, geometries, u_sub, v_sub, surfaces, hit, occlusion[edges][hit])
        image[edges] = total / (1 + len(SUBSAMPLES))
        return image.reshape(*shape, 3) * self.sky.exposure, inverse_depth, labels

    def _meet(
        self, view: View, geometries: list[Geometry], u: np.ndarray, v: np.ndarray, may_move: np.ndarray
    ) -> tuple[_Surfaces, np.ndarray]:
        """The surfaces that rays through pixels (u, v) meet, and the indices of the rays that met one. Only
        rays where `may_move` (N,) is true are tried on what moves."""
        rays = view.directions(u, v)
        hits = _trace(view, geometries, rays, may_move)
        rays = rays[hits.ray]
        on_floor = np.flatnonzero((hits.triangle >= self.floor) & ~hits.moves)
        surfaces = _surfaces(view, rays, hits, on_floor)
        self._paint_textures(view, rays, hits, surfaces)
        self._paint_floor(view, rays, surfaces, on_floor)
        surfaces.albedo *= surfaces.albedo  # from display-referred to linear
        return surfaces, hits.ray

    def _paint_textures(self, view: View, rays: np.ndarray, hits: _Hits, surfaces: _Surfaces) -> None:
        texture = hits.gather(lambda geometry: geometry.mesh.texture)
        textured = np.flatnonzero(texture > 0)
        corners = hits.gather(lambda geometry: geometry.mesh.uv, textured)
        uv = np.einsum("ij,ijk->ik", hits.weights[textured], corners)
        gradient = hits.gather(lambda geometry: geometry.gradient, textured)
        spread = self._spread(view, rays[textured], surfaces.depth[textured], surfaces.facing[textured])
        texel = self.street.atlas.sample(texture[textured], uv, _extent(gradient, spread))
        surfaces.albedo[textured] *= texel[:, :3]
        surfaces.gloss[textured] += texel[:, 3]

    def _paint_floor(self, view: View, rays: np.ndarray, surfaces: _Surfaces, chosen: np.ndarray) -> None:
        street, atlas = self.street, self.street.atlas
        position, depth = surfaces.position[chosen], surfaces.depth[chosen]
        z = position[:, 2]
        t = position[:, 0] - street.course.offset(z).astype(np.float32)
        label = ground.ground_labels(t, z, street.crossings)
        road = label == TrainId.ROAD
        spread = self._spread(view, rays[chosen], depth, surfaces.facing[chosen])
        width = np.maximum(np.abs(spread[:, 0, ::2]), np.abs(spread[:, 1, ::2])) + np.float32(1e-4)
        uv = np.stack([t, z], axis=1) / np.float32(ROUGH_GROUND)
        texture = np.where(road, street.asphalt, street.grass)
        colour = atlas.sample(texture, uv, width / ROUGH_GROUND)[:, :3]
        asphalt = np.full(len(chosen), street.asphalt)
        worn = atlas.sample(asphalt, uv / 7.3 + np.float32(0.37), width / (7.3 * ROUGH_GROUND))[:, 0]
        gutter = 1 - 0.22 * np.exp(-np.abs(ground.ROAD_HALF - np.abs(t)) / 0.22)
        tracks = 1 + 0.05 * np.cos(2 * np.pi * (np.abs(t) - ground.LANE / 2) / 1.55) * (
            np.abs(t) < ground.LANE
        )
        colour = colour * ((0.74 + 0.72 * worn) * np.where(road, gutter * tracks, 1.0))[:, None]
        paint = ground.marking(t, z, width[:, 0], width[:, 1], street.crossings) * road
        paint = paint * np.clip(0.55 + 1.9 * (worn - 0.20), 0.35, 0.92)
        surfaces.albedo[chosen] = (
            colour + (np.array((0.84, 0.84, 0.81), np.float32) - colour) * paint[:, None]
        )
        surfaces.gloss[chosen] = 0.03 * road
        surfaces.label[chosen] = label

    @staticmethod
    def _spread(view: View, rays: np.ndarray, depth: np.ndarray, normal: np.ndarray) -> np.ndarray:
        """How far on the surface the neighbouring pixels' rays land, (N, 2 neighbours, 3) in metres."""
        right = view.axes()[0] / view.fx
        down = np.array([0, -1 / view.fy, 0], np.float32)
        steps = np.stack([right, down]).astype(np.float32)  # (2, 3)
        slant = np.einsum("ij,ij->i", normal, rays)
        slant = np.where(np.abs(slant) < 1e-3, np.copysign(np.float32(1e-3), slant), slant)
        sideways = (normal @ steps.T) / slant[:, None]  # (N, 2)
        return depth[:, None, None] * (steps[None] - sideways[..., None] * rays[:, None])

    def _light(
        self,
        view: View,
        geometries: list[Geometry],
        u: np.ndarray,
        v: np.ndarray,
        surfaces: _Surfaces,
        hit: np.ndarray,
        occlusion: np.ndarray,
    ) -> np.ndarray:
        """Linear radiance (N, 3) of all rays through (u, v), those that met nothing included."""
        sky = self.sky
        rays = view.directions(u, v)
        rays /= np.linalg.norm(rays, axis=1, keepdims=True)
        result = np.empty_like(rays)
        missed = np.ones(len(rays), bool)
        missed[hit] = False
        result[missed] = sky.radiance(rays[missed])

        rays = rays[hit]
        leaf = surfaces.label == TrainId.VEGETATION
        towards = surfaces.normal @ sky.sun_direction
        sunlight = np.where(leaf, 0.30 + 0.70 * np.maximum(towards, 0), np.maximum(towards, 0))
        lit = np.flatnonzero((sunlight > 0.01) & (surfaces.depth < SHADOW_DISTANCE))
        lift = (0.002 + 0.0004 * surfaces.depth[lit])[:, None]
        start = (surfaces.position[lit] + lift * surfaces.facing[lit]).astype(np.float32)
        direction = np.broadcast_to(sky.sun_direction, start.shape).astype(np.float32)
        for geometry in geometries:
            sunlight[lit[geometry.caster.blocked(start, direction)]] = 0

        up = (0.5 + 0.5 * surfaces.normal[:, 1:2]).astype(np.float32)
        bounce = 0.16 * (sky.ambient + 0.5 * sky.sun)
        ambient = (sky.ambient * (0.30 + 0.70 * up) + bounce * (1 - up)) * occlusion[:, None]
        colour = surfaces.albedo * (ambient + sky.sun * sunlight[:, None])
        colour += surfaces.albedo * surfaces.emission[:, None]

        shiny = np.flatnonzero(surfaces.gloss > 0.02)
        normal = surfaces.normal[shiny]
        cosine = np.einsum("ij,ij->i", rays[shiny], normal)
        mirrored = rays[shiny] - 2 * cosine[:, None] * normal
        reflected = sky.mirrored(mirrored)
        strength = surfaces.gloss[shiny] * (0.10 + 0.90 * (1 - np.clip(np.abs(cosine), 0, 1)) ** 4)
        colour[shiny] += (reflected - colour[shiny]) * strength[:, None]

        clear = np.exp(-surfaces.depth / HAZE_DISTANCE)[:, None]
        result[hit] = colour * clear + sky.horizon * (1 - clear)
        return result

    def _ambient_occlusion(
        self, view: View, geometries: list[Geometry], surfaces: _Surfaces, hit: np.ndarray
    ) -> np.ndarray:
        """Share (H*W,) of the surroundings that light reaches from; measured on a coarse grid, spread along
        surfaces."""
        count = view.height * view.width
        flat = np.full(count, -1, np.int32)
        flat[hit] = np.arange(len(hit), dtype=np.int32)
        index = flat.reshape(view.height, view.width)
        half = OCCLUSION_STEP // 2
        coarse = index[half::OCCLUSION_STEP, half::OCCLUSION_STEP]
        chosen = np.flatnonzero(coarse.ravel() >= 0)
        sample = coarse.ravel()[chosen]
        facing = surfaces.facing[sample]
        start = surfaces.position[sample] + (0.004 + 0.0005 * surfaces.depth[sample])[:, None] * facing
        rng = np.random.default_rng(7)
        angle = 2 * np.pi * rng.random((coarse.size, OCCLUSION_RAYS))[chosen]
        height = (
            np.arange(OCCLUSION_RAYS) + rng.random((coarse.size, OCCLUSION_RAYS))[chosen]
        ) / OCCLUSION_RAYS
        ring = np.sqrt(np.maximum(0, 1 - (2 * height - 1) ** 2))
        sphere = np.stack([ring * np.cos(angle), 2 * height - 1, ring * np.sin(angle)], axis=-1)
        directions = (sphere + 1.001 * facing[:, None]).astype(
            np.float32
        )  # cosine-distributed about the normal
        directions /= np.linalg.norm(directions, axis=2, keepdims=True)
        directions = directions.reshape(-1, 3)
        starts = np.repeat(start, OCCLUSION_RAYS, axis=0).astype(np.float32)
        blocked = np.zeros(len(starts), bool)
        for geometry in geometries:
            blocked |= geometry.caster.blocked(starts, directions, OCCLUSION_REACH)
        open_share = 1 - 0.85 * blocked.reshape(-1, OCCLUSION_RAYS).mean(1)

        common = np.zeros((count, 4), np.float32)  # of neighbours: log depth and direction
        common[hit, 0], common[hit, 1:] = np.log(surfaces.depth), surfaces.facing
        place = common.reshape(view.height, view.width, 4)
        coarse_place = np.ascontiguousarray(place[half::OCCLUSION_STEP, half::OCCLUSION_STEP])
        rows, columns = np.arange(coarse.shape[0]), np.arange(coarse.shape[1])
        measured = np.zeros(coarse.shape, np.float32)
        measured.flat[chosen] = open_share
        valid = (coarse >= 0).astype(np.float32)
        smooth = _spread_along(measured, coarse_place, valid, coarse_place, rows, columns, 2)
        rows = np.minimum(np.arange(view.height) // OCCLUSION_STEP, coarse.shape[0] - 1)
        columns = np.minimum(np.arange(view.width) // OCCLUSION_STEP, coarse.shape[1] - 1)
        return _spread_along(smooth, coarse_place, valid, place, rows, columns, 1).ravel()


def _spread_along(
    values: np.ndarray,
    place: np.ndarray,
    valid: np.ndarray,
    target: np.ndarray,
    rows: np.ndarray,
    columns: np.ndarray,
    reach: int,
) -> np.ndarray:
    """Means of `values` (h, w) over (2 reach + 1)^2 neighbours of (rows, columns) that share the target's
    surface.

    `place` (h, w, 4) and `target` (H, W, 4) hold log depth and direction, `valid` (h, w) is 1 where there
    is a value. Gives (H, W) for H rows and W columns; 1 where no neighbour fits."""
    total = np.full(target.shape[:2], 1e-4, np.float32)
    weight = np.full(target.shape[:2], 1e-4, np.float32)
    for down in range(-reach, reach + 1):
        row = np.clip(rows + down, 0, values.shape[0] - 1)
        for right in range(-reach, reach + 1):
            column = np.clip(columns + right, 0, values.shape[1] - 1)
            near = place[row][:, column]
            alike = np.maximum(0, np.einsum("ijk,ijk->ij", near[..., 1:], target[..., 1:]))
            alike = alike * alike / (1 + 200 * (near[..., 0] - target[..., 0]) ** 2)
            alike *= valid[row][:, column]
            total += alike * values[row][:, column]
            weight += alike
    return total / weight


def _covered(view: View, corners: np.ndarray) -> np.ndarray:
    """Bool (H*W,): pixels that any of the triangles (N, 3, 3) may show in; some more, but none less."""
    right, forward = view.axes()
    relative = corners - view.position
    z = relative @ forward
    ahead = relative[(z > 0.1).any(1)]
    if (z[(z > 0.1).any(1)] <= 0.1).any():  # a triangle reaches behind the camera: it may show anywhere
        return np.ones(view.height * view.width, bool)
    z = ahead @ forward
    column = np.floor((view.cx + view.fx * (ahead @ right) / z) / COVER_STEP)
    row = np.floor((view.cy - view.fy * ahead[..., 1] / z) / COVER_STEP)
    rows, columns = view.height // COVER_STEP + 1, view.width // COVER_STEP + 1
    # one cell to spare on each side, for samples beside a pixel's centre
    top, bottom = np.clip(row.min(1) - 1, 0, rows), np.clip(row.max(1) + 2, 0, rows)
    left, end = np.clip(column.min(1) - 1, 0, columns), np.clip(column.max(1) + 2, 0, columns)
    top, bottom, left, end = (edge.astype(np.int32) for edge in (top, bottom, left, end))
    change = np.zeros((rows + 1, columns + 1), np.int32)  # of the number of triangles, along both axes
    for edge, side, step in ((top, left, 1), (top, end, -1), (bottom, left, -1), (bottom, end, 1)):
        np.add.at(change, (edge, side), step)
    cells = change.cumsum(0).cumsum(1)[:rows, :columns] > 0
    pixels = cells.repeat(COVER_STEP, 0).repeat(COVER_STEP, 1)
    return pixels[: view.height, : view.width].ravel()


def _extent(gradient: np.ndarray, spread: np.ndarray) -> np.ndarray:
    """The footprint (N, 2) in tiles of texture, from its gradient (N, uv, xyz) and the spread (N, 2, xyz)."""
    return _largest(np.abs(np.einsum("iuk,ink->iun", gradient, spread)))


def _largest(array: np.ndarray) -> np.ndarray:
    """The maximum along the last axis; faster than NumPy's reduction where that axis is short."""
    return reduce(np.maximum, np.moveaxis(array, -1, 0))


def _edges(image: np.ndarray) -> np.ndarray:
    """Bool (H, W): pixels that differ visibly from a neighbour."""
    edge = np.zeros(image.shape[:2], bool)
    across = _largest(np.abs(np.diff(image, axis=1))) > EDGE_CONTRAST
    downwards = _largest(np.abs(np.diff(image, axis=0))) > EDGE_CONTRAST
    edge[:, 1:] |= across
    edge[:, :-1] |= across
    edge[1:] |= downwards
    edge[:-1] |= downwards
    return edge


def display(exposed: np.ndarray) -> np.ndarray:
    """Tone-mapped, display-referred RGB 0-1 of radiance times exposure, any shape, float32."""
    return np.sqrt(1 - np.exp(-np.maximum(exposed, 0)))


def to_camera(exposed: np.ndarray, rng: np.random.Generator, noise: float) -> np.ndarray:
    """Uint8 (H, W, 3) as a camera delivers radiance times exposure: tone curve, the lens's softness and
    vignetting, sensor noise of `noise` grey levels."""
    height, width = exposed.shape[:2]
    y, x = np.linspace(-1, 1, height, dtype=np.float32), np.linspace(-1, 1, width, dtype=np.float32)
    shading = 1 - 0.14 * (x[None, :] ** 2 + y[:, None] ** 2) / 2
    picture = cv2.GaussianBlur(display(exposed * shading[..., None]), (3, 3), 0.45) * 255
    if noise > 0:
        picture = picture + noise * rng.standard_normal(picture.shape, dtype=np.float32)
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8)
