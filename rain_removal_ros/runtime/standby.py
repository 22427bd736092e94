"""Keeps frames coming while an engine is built: another restorer stands in for it. Knows no backend."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Collection

import numpy as np

from rain_removal_ros.runtime import Output, Progress, Restored, Restorer, RuntimeInfo
from rain_removal_ros.runtime.compiled import CompilingRestorer, Outputs, describe, ordered

Wanted = tuple[int, int, Outputs]


class StandbyRestorer:
    """A restorer whose builds run in a thread while a stand-in serves the frames.

    A build that fails is raised by the next call for that size, and the stand-in serves it no longer: what
    was asked for is never silently something else.
    """

    def __init__(
        self, restorer: CompilingRestorer, make_stand_in: Callable[[], Restorer], on_progress: Progress | None
    ):
        self._restorer = restorer
        self._make_stand_in = make_stand_in
        self._on_progress = on_progress
        self._stand_in: Restorer | None = None
        self._stand_in_serves = False
        self._failures: dict[Wanted, BaseException] = {}
        self._builder: threading.Thread | None = None
        self._closed = False

    @property
    def info(self) -> RuntimeInfo:
        """The restorer's, or the stand-in's while that serves, with what is being built."""
        info = self._restorer.info
        if not self._stand_in_serves:
            return info
        reason = f"serves while {info.backend} builds {info.building or 'an engine'}; {info.reason}"
        return dataclasses.replace(self._stand_in.info, building=info.building, reason=reason)

    def prepare(
        self, height: int, width: int, outputs: Collection[Output], on_progress: Progress | None = None
    ) -> None:
        """Start the build, if there is one to do, and make the stand-in ready."""
        wanted = (height, width, ordered(outputs))
        if not self._restorer.is_ready(*wanted):
            self._start_building(wanted, on_progress or self._on_progress)
            self._stand_in_for().prepare(*wanted)

    def __call__(
        self, image: np.ndarray, outputs: Collection[Output] = (Output.IMAGE, Output.INVERSE_DEPTH)
    ) -> Restored:
        wanted = (*image.shape[:2], ordered(outputs))
        if self._restorer.is_ready(*wanted):
            self._stand_in_serves = False
            return self._restorer(image, outputs)
        if wanted in self._failures:
            self._stand_in_serves = False
            raise self._failures[wanted]
        restored = self._stand_in_for()(image, outputs)  # first, so that no engine is built for a bad image
        self._stand_in_serves = True
        self._start_building(wanted, self._on_progress)
        return restored

    def wait(self) -> None:
        """Until no build is running."""
        if self._builder is not None:
            self._builder.join()

    def close(self) -> None:
        """Give back the memory; that of an engine still being built once it is built."""
        self._closed = True
        if self._stand_in is not None:
            self._stand_in.close()
        if self._builder is None or not self._builder.is_alive():
            self._restorer.close()

    def _stand_in_for(self) -> Restorer:
        if self._stand_in is None:
            self._stand_in = self._make_stand_in()
        return self._stand_in

    def _start_building(self, wanted: Wanted, on_progress: Progress | None) -> None:
        if self._builder is not None and self._builder.is_alive():
            return
        self._builder = threading.Thread(
            target=self._build, args=(wanted, on_progress), name=f"build {describe(*wanted)}", daemon=True
        )
        self._builder.start()

    def _build(self, wanted: Wanted, on_progress: Progress | None) -> None:
        try:
            self._restorer.prepare(*wanted, on_progress)
        except Exception as error:
            self._failures[wanted] = error
        if self._closed:
            self._restorer.close()
