"""Graphs that are built once, as engines, and kept in the engine cache from then on. Knows no framework."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping

from rain_removal_ros.errors import BackendError
from rain_removal_ros.runtime import Progress, describe
from rain_removal_ros.runtime.build_process import BuildCancelledError, Cancellation
from rain_removal_ros.runtime.cache import EngineCache, EngineKey
from rain_removal_ros.runtime.compiled import CompiledFrame, CompilingRestorer, GraphKey, Outputs
from rain_removal_ros.runtime.networks import Networks
from rain_removal_ros.runtime.progress import Stage, reporting


class EngineError(Exception):
    """An engine that cannot be used here, and why: it is damaged, or another version's."""


class EngineRestorer(CompilingRestorer):
    """A restorer whose graphs come from engines: a backend adds how one is built, and how it is read."""

    def __init__(
        self,
        networks: Networks,
        cache: EngineCache,
        device: str,
        precision: str,
        reason: str = "",
        on_progress: Progress | None = None,
    ):
        super().__init__(networks, device, precision, reason, on_progress)
        self._cache = cache

    @abstractmethod
    def versions(self) -> Mapping[str, str]:
        """What engines depend on besides networks, size, outputs and precision."""

    @abstractmethod
    def build(
        self, height: int, width: int, outputs: Outputs, frames: int, cancellation: Cancellation
    ) -> bytes:
        """An engine of this size, these outputs and so many frames a call. Raises BackendError."""

    @abstractmethod
    def read(
        self, engine: bytes, height: int, width: int, outputs: Outputs, frames: int, engine_key: str
    ) -> CompiledFrame:
        """An engine ready to run. Raises EngineError where it cannot be used, BackendError where it is not
        what was asked for.
        """

    def key(self, height: int, width: int, outputs: Outputs, frames: int = 1) -> EngineKey:
        """What the engine of this size, these outputs and so many frames a call depends on."""
        return EngineKey(
            {
                **self.networks.identity(outputs),
                **self.versions(),
                "backend": self.backend,
                "size": f"{width}x{height}",
                "outputs": "+".join(output.value for output in outputs),
                "precision": self.precision,
                **({"frames": str(frames)} if frames > 1 else {}),
            }
        )

    def _compile(
        self, graph: GraphKey, on_progress: Progress | None, cancellation: Cancellation
    ) -> CompiledFrame:
        key = self.key(*graph)
        what = f"{describe(*graph)} for {self.backend} {self.precision} on {self.device_name}"
        with reporting(what, on_progress) as stage:
            from_cache = True
            while True:
                engine, built = self._engine(key, graph, stage, cancellation, from_cache)
                stage.text = "loading"
                try:
                    with self._loading():
                        frame = self.read(engine, *graph, key.digest)
                except EngineError as error:
                    if built:
                        raise BackendError(
                            f"the engine that was just built cannot be used: {error}"
                        ) from error
                    self._cache.discard(key, str(error))
                    from_cache = False
                else:
                    stage.text = "built" if built else "loaded from the cache"
                    return frame

    def _compile_from_cache(self, graph: GraphKey, on_progress: Progress | None) -> CompiledFrame | None:
        key = self.key(*graph)
        if not self._cache.may_hold(key):
            return None
        with self._cache.building(key, lambda: True) as ours:  # whoever builds it is not waited for
            engine = self._cached(key) if ours else None
        if engine is None:
            return None
        what = f"{describe(*graph)} for {self.backend} {self.precision} on {self.device_name}"
        with reporting(what, on_progress) as stage:
            stage.text = "loading"
            try:
                with self._loading():
                    frame = self.read(engine, *graph, key.digest)
            except EngineError as error:
                self._cache.discard(key, str(error))
                stage.text = "the cached one cannot be used"
                return None
            stage.text = "loaded from the cache"
            return frame

    def _engine(
        self, key: EngineKey, graph: GraphKey, stage: Stage, cancellation: Cancellation, from_cache: bool
    ) -> tuple[bytes, bool]:
        """The engine, and whether it was built for this. Its lock is let go of before anybody loads it: a
        device may hang then, and the runtime that takes this one's place needs the engine as well.
        """
        stage.text = "waiting for another process that is building it"
        with self._cache.building(key, cancellation.poll) as ours:
            if not ours:
                raise BuildCancelledError("the build was cancelled")
            stage.text = "looking in the cache"
            engine = self._cached(key) if from_cache else None
            if engine is not None:
                return engine, False
            stage.text = "compiling"
            built = self.build(*graph, cancellation)
            stage.text = "saving"
            self._cache.store(key, lambda path: path.write_bytes(built))
            return built, True

    def _cached(self, key: EngineKey) -> bytes | None:
        path = self._cache.find(key)
        try:
            return None if path is None else path.read_bytes()
        except OSError as error:
            self._cache.discard(key, str(error))
            return None
