"""Where rays hit triangles, by Intel Embree. The only file that knows the ray library; it knows nothing of
light."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rain_removal_ros.errors import RainRemovalError
from rain_removal_ros.extras import missing


@dataclass(frozen=True)
class Hits:
    """What N rays met first."""

    distance: np.ndarray  # float32 (N,), in lengths of the direction vector; infinite where nothing was met
    triangle: np.ndarray  # int32 (N,), -1 where nothing was met
    barycentric: np.ndarray  # float32 (N, 2), weights of the triangle's second and third corner


class RayCaster:
    """Triangles (N, 3, 3) in a bounding volume hierarchy."""

    def __init__(self, corners: np.ndarray) -> None:
        try:
            from embreex.mesh_construction import TriangleMesh
            from embreex.rtcore_scene import EmbreeScene
        except ModuleNotFoundError as error:
            raise RainRemovalError(f"rendering a drive needs {missing(error) or error}") from error
        self._scene = EmbreeScene()
        self._mesh = TriangleMesh(self._scene, np.ascontiguousarray(corners, np.float32))

    def first_hits(self, origins: np.ndarray, directions: np.ndarray) -> Hits:
        """The nearest triangle along each ray; float32 (N, 3) origins and directions of any length."""
        found = self._scene.run(origins, directions, query="INTERSECT", output=True)
        triangle = found["primID"]
        missed = triangle < 0
        distance = np.where(missed, np.float32(np.inf), found["tfar"])
        return Hits(distance, triangle, np.stack([found["u"], found["v"]], axis=1))

    def blocked(self, origins: np.ndarray, directions: np.ndarray, reach: float = 1e4) -> np.ndarray:
        """Whether anything lies on each ray within `reach` lengths of its direction; bool (N,)."""
        limits = np.full(len(origins), reach, np.float32)
        return self._scene.run(origins, directions, limits, query="OCCLUDED") == 0
