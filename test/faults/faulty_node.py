"""The node in a process of its own with a restorer that fails as an image's first pixel, or FAULT_*, says.

python faulty_node.py [--ros-args ...]; FAULT_LOAD=hang and FAULT_BUILD=hang never come back.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Collection

import numpy as np

from rain_removal_ros.ros.ending import Ending

MARK = (9, 8)
"""An image whose first pixel is (9, 8, n) has fault n of FAULTS."""

FAULTS = (
    "hang",
    "raise",
    "out of memory",
    "exit",
    "interrupt",
    "nan depth",
    "infinite depth",
    "negative depth",
    "3x3 image",
    "float image",
    "no image",
    "nan rain gate",
)


def main() -> int:
    ending = Ending()
    from pipeline_fakes import FakeRestorer

    from rain_removal_ros.ros import node
    from rain_removal_ros.ros.run import run
    from rain_removal_ros.runtime import Output, Restored

    class FaultyRestorer(FakeRestorer):
        def prepare(self, height: int, width: int, outputs: Collection[Output], *told) -> None:
            if os.environ.get("FAULT_BUILD") == "hang":
                threading.Event().wait()
            super().prepare(height, width, outputs, *told)

        def __call__(
            self, image: np.ndarray, outputs: Collection[Output], focal_px=None, **options
        ) -> Restored:
            self.calls.clear()
            self.focal_lengths.clear()
            first = tuple(int(value) for value in image[0, 0])
            fault = FAULTS[first[2]] if first[:2] == MARK and first[2] < len(FAULTS) else ""
            size = image.shape[:2]
            if fault == "hang":
                threading.Event().wait()
            if fault in RAISED:
                raise RAISED[fault]
            self.wrong = WRONG[fault](size) if fault else {}
            return super().__call__(image, outputs, focal_px, **options)

    def make_restorer(settings, on_progress) -> FaultyRestorer:
        if os.environ.get("FAULT_LOAD") == "hang":
            threading.Event().wait()
        return FaultyRestorer()

    node.DIAGNOSTICS_EVERY_S = 0.1
    try:
        return run(ending, sys.argv, make_restorer)
    finally:
        ending.over()


RAISED = {
    "raise": RuntimeError("CUDA error 719: unspecified launch failure"),
    "out of memory": MemoryError("out of device memory"),
    "exit": SystemExit(3),
    "interrupt": KeyboardInterrupt(),
}
WRONG = {
    "nan depth": lambda size: {"inverse_depth": np.full(size, np.nan, np.float32)},
    "infinite depth": lambda size: {"inverse_depth": np.full(size, np.inf, np.float32)},
    "negative depth": lambda size: {"inverse_depth": np.full(size, -1, np.float32)},
    "3x3 image": lambda size: {"image": np.zeros((3, 3, 3), np.uint8)},
    "float image": lambda size: {"image": np.zeros((*size, 3), np.float32)},
    "no image": lambda size: {"image": None},
    "nan rain gate": lambda size: {"rain_gate": float("nan")},
}

if __name__ == "__main__":
    sys.exit(main())
