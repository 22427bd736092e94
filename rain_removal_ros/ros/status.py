"""What the node's diagnostics are called, for those who read them in other processes. Plain strings.

Imports no ROS; test_client.py holds it together with what diagnostics.py says.
"""

from __future__ import annotations

from collections.abc import Mapping
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
