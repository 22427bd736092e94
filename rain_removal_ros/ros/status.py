"""What the node's diagnostics are called, for those who read them in other processes. Plain strings.

Imports no ROS; test_client.py holds it together with what diagnostics.py says.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

RUNTIME = "runtime"
"""The status `NODE: runtime`; a camera's is `NODE: CAMERA`."""

STATE, ACTIVE = "state", "active"
IMAGE_SIZES = "image sizes"
PRESET, BACKEND, PRECISION = "preset", "backend", "precision"
BATCHING = "several frames in one call"
BUILDING = "building "
"""What the message of the runtime's status begins with while a network is being compiled."""

PUBLISHED = "published"
TOGETHER = "restored together with other cameras"
STAGES = ("receive to start", "conversion", "inference", "publish", "total")


def latency(stage: str, part: str) -> str:
    """The key of a stage's time. part: median, p95, p99 or max."""
    return f"{stage} {part} (ms)"


@dataclass(frozen=True)
class Status:
    """One status of the node's diagnostics. level: ok, warn, error or stale."""

    name: str
    level: str
    message: str
    values: Mapping[str, str]

    @property
    def is_error(self) -> bool:
        return self.level == "error"

    def is_ready(self, sizes: Iterable[str] = ()) -> bool:
        """Of the runtime's: whether the node is active, has compiled for images of `sizes` (`1280x720`), and
        compiles nothing now.
        """
        compiled = self.values.get(IMAGE_SIZES, "").split(", ")
        building = self.message.startswith(BUILDING)
        active = self.values.get(STATE) == ACTIVE and not self.is_error
        return active and not building and set(sizes) <= set(compiled)
