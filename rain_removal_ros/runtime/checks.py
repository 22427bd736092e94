"""Whether what an inference gave can be: a device that fails rarely says so, it gives something."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from rain_removal_ros.errors import InferenceError
from rain_removal_ros.runtime import Output, Restored

DTYPES = {
    Output.IMAGE: np.dtype(np.uint8),
    Output.INVERSE_DEPTH: np.dtype(np.float32),
    Output.LABELS: np.dtype(np.uint8),
}


def check_restored(restored: Restored, size: tuple[int, int], outputs: Collection[Output]) -> None:
    """Raise InferenceError unless `outputs` are there, of this size (height, width), dtype and range.

    Inverse depth must be finite and not negative; the rain gate from 0 to 1, streak light finite and
    extinction not negative, where they are given.
    """
    for output in outputs:
        array = getattr(restored, output.value)
        shape = (*size, 3) if output is Output.IMAGE else size
        if array is None:
            raise InferenceError(f"the network gave no {output.value}")
        if array.shape != shape or array.dtype != DTYPES[output]:
            raise InferenceError(
                f"the network gave {output.value} of shape {array.shape} and {array.dtype}; "
                f"{shape} and {DTYPES[output]} were to be"
            )
        if output is Output.INVERSE_DEPTH and not (array.min() >= 0 and array.max() < np.inf):
            raise InferenceError(
                f"the network gave inverse depth from {array.min()} to {array.max()} 1/m; "
                "it computes numbers that are not finite or not possible"
            )
    if restored.rain_gate is not None and not 0 <= restored.rain_gate <= 1:
        raise InferenceError(f"the network gave a rain gate of {restored.rain_gate}; it is from 0 to 1")
    if restored.streak_light is not None and not np.isfinite(restored.streak_light):
        raise InferenceError(f"the network gave streak light of {restored.streak_light}")
    if restored.extinction is not None and not 0 <= restored.extinction < np.inf:
        raise InferenceError(f"the network gave an extinction of {restored.extinction} 1/m")
