"""Trees and hedges as meshes. Knows plants, not where they stand. Each stands on y = 0 at the origin."""

from __future__ import annotations

import numpy as np

from rain_removal_ros.cityscapes import TrainId
from rain_removal_ros.lab.scenes.mesh import Mesh, Surface, ellipsoid, join, triangles, tube

LEAF_COLOURS = (
    (0.30, 0.42, 0.15),
    (0.24, 0.36, 0.14),
    (0.36, 0.45, 0.16),
    (0.22, 0.33, 0.18),
    (0.46, 0.42, 0.14),
)


def _leaves(
    rng: np.random.Generator,
    clumps: np.ndarray,
    radii: np.ndarray,
    middle: np.ndarray,
    count: int,
    size: float,
    colour: np.ndarray,
) -> Mesh:
    """Rhombic leaf sprays around the clumps, lit as if the crown were a solid."""
    share = radii**2 / (radii**2).sum()
    owner = rng.choice(len(clumps), count, p=share)
    direction = rng.standard_normal((count, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    reach = 0.62 + 0.46 * rng.random(count) ** 0.7
    centre = clumps[owner] + direction * (radii[owner] * reach)[:, None] * [1.0, 0.85, 1.0]
    axis = direction + 0.9 * rng.standard_normal((count, 3)) + [0, -0.35, 0]
    axis /= np.linalg.norm(axis, axis=1, keepdims=True)
    across = np.cross(axis, rng.standard_normal((count, 3)))
    across /= np.linalg.norm(across, axis=1, keepdims=True)
    length = size * rng.uniform(0.10, 0.23, count)[:, None]
    width = length * rng.uniform(0.28, 0.5, count)[:, None]
    tip, root = centre + axis * length, centre - axis * length
    left, right = centre + across * width, centre - across * width
    corners = np.concatenate([np.stack([tip, left, right], 1), np.stack([root, right, left], 1)])
    outward = centre - middle
    outward /= np.linalg.norm(outward, axis=1, keepdims=True) + 1e-6
    normal = 0.55 * direction + 0.6 * outward + 0.35 * across + [0, 0.15, 0]
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    normals = np.repeat(np.concatenate([normal, normal])[:, None], 3, axis=1)
    shade = (0.50 + 0.55 * (reach - 0.62) / 0.46) * rng.normal(1.0, 0.13, count)
    shade *= 0.85 + 0.2 * np.clip(outward[:, 1], -1, 1)
    tone = np.asarray(colour) * shade[:, None] * (1 + rng.normal(0, 0.06, (count, 3)) * [1, 0.4, 0.6])
    mesh = triangles(corners, Surface(TrainId.VEGETATION), normals=normals)
    return mesh.replaced(colour=np.clip(np.concatenate([tone, tone]), 0.02, 1).astype(np.float32))


def tree(
    rng: np.random.Generator, bark: int, height: float = 8.0, leaves: int = 3800, size: float = 1.0
) -> Mesh:
    """A broad-leaved tree with an irregular crown; `bark` is the trunk's texture, `size` scales the leaves (a
    distant tree needs fewer and larger ones)."""
    wood = Surface(TrainId.VEGETATION, (0.9, 0.9, 0.9), texture=bark, tile=(0.6, 1.2))
    fork = height * rng.uniform(0.28, 0.36)
    bend = rng.normal(0, 0.10, (4, 2)).cumsum(0)
    levels = np.array([-0.1, 0.4 * fork, fork, height * 0.78])
    trunk = np.stack([bend[:, 0] - bend[0, 0], levels, bend[:, 1] - bend[0, 1]], 1)
    parts = [tube(trunk, np.array([0.20, 0.15, 0.12, 0.03]) * height / 8, wood, 9)]
    middle = np.array([trunk[3, 0], height * 0.66, trunk[3, 2]])
    spread, rise = height * rng.uniform(0.24, 0.31), height * rng.uniform(0.26, 0.32)
    count = int(rng.integers(11, 16))
    direction = rng.standard_normal((count, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    clumps = middle + direction * [spread, rise, spread] * rng.uniform(0.45, 1.0, (count, 1))
    clumps[:, 1] = np.maximum(clumps[:, 1], fork + 0.5)
    radii = rng.uniform(0.11, 0.18, count) * height
    for clump in clumps[:7]:
        start = trunk[2] + (trunk[3] - trunk[2]) * rng.uniform(0.0, 0.5)
        knee = (start + clump) / 2 + [0, -0.15, 0]
        parts.append(tube(np.stack([start, knee, clump]), np.array([0.07, 0.05, 0.02]) * height / 8, wood, 5))
    colour = np.asarray(LEAF_COLOURS[rng.integers(len(LEAF_COLOURS))])
    core = Surface(TrainId.VEGETATION, tuple(colour * 0.33))
    parts += [
        ellipsoid(tuple(c), (0.62 * r, 0.52 * r, 0.62 * r), core, 8)
        for c, r in zip(clumps, radii, strict=True)
    ]
    parts.append(_leaves(rng, clumps, radii, middle, leaves, size, colour))
    return join(parts)


def shrub(rng: np.random.Generator, height: float = 1.3) -> Mesh:
    """A bush without a trunk."""
    clumps = (
        np.stack([rng.normal(0, 0.35, 5), rng.uniform(0.35, 0.65, 5), rng.normal(0, 0.35, 5)], 1) * height
    )
    radii = rng.uniform(0.30, 0.42, 5) * height
    colour = np.asarray(LEAF_COLOURS[rng.integers(4)]) * 0.9
    core = Surface(TrainId.VEGETATION, tuple(colour * 0.35))
    parts = [
        ellipsoid(tuple(c), (0.7 * r, 0.6 * r, 0.7 * r), core, 8) for c, r in zip(clumps, radii, strict=True)
    ]
    parts.append(_leaves(rng, clumps, radii, np.array([0, 0.4 * height, 0]), 420, 1.0, colour))
    return join(parts)
