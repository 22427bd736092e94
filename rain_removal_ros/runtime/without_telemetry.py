"""OpenVINO without its telemetry: everything here that needs OpenVINO takes it from this module.

By itself OpenVINO reports every import and conversion to an analytics host, unless the user's home folder
says no. A vehicle calls nobody, whatever its home folder says.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

TELEMETRY = "openvino_telemetry"


def _refuse() -> None:
    """Have OpenVINO find no telemetry package, for which it has stubs; silence one that is loaded already."""
    loaded: ModuleType | None = sys.modules.get(TELEMETRY)
    if loaded is None:
        absent: Any = None  # importing it raises ImportError
        sys.modules[TELEMETRY] = absent
        return
    from openvino_telemetry.utils.sender import TelemetrySender

    TelemetrySender.send = lambda self, backend, message: None


_refuse()

import openvino  # noqa: E402  only now

__all__ = ["openvino"]
