"""Chooses the backend by what can really run on this machine, and says why. Only here all are known."""

from __future__ import annotations

import importlib
import importlib.util
import logging
from collections.abc import Callable
from dataclasses import dataclass

import torch

from rain_removal_ros.errors import BackendError
from rain_removal_ros.runtime import (
    OPENVINO,
    TENSORRT,
    TORCH_CPU,
    TORCH_CUDA,
    Progress,
    Restorer,
    RuntimeSettings,
)
from rain_removal_ros.runtime.cache import EngineCache
from rain_removal_ros.runtime.compiled import CompilingRestorer
from rain_removal_ros.runtime.networks import Networks
from rain_removal_ros.runtime.pytorch import (
    CPU_PRECISIONS,
    CUDA_PRECISIONS,
    TorchCpuRestorer,
    TorchCudaRestorer,
)
from rain_removal_ros.runtime.tensorrt import (
    PRECISION,
    TensorRTRestorer,
    TorchTensorRTCompiler,
    build_apart,
    engine_obstacle,
    load_torch_tensorrt,
)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Backend:
    """A backend: what keeps it from running here (None: nothing) and how its restorer is made."""

    name: str
    obstacle: Callable[[RuntimeSettings], str | None]
    create: Callable[[RuntimeSettings, Networks, str, Progress | None], CompilingRestorer]


def _precision_obstacle(settings: RuntimeSettings, precisions: tuple[str, ...]) -> str | None:
    if settings.precision in ("auto", *precisions):
        return None
    return f"it does not run in precision {settings.precision} here (choose {', '.join(precisions)} or auto)"


def _cuda_obstacle(settings: RuntimeSettings) -> str | None:
    if torch.version.cuda is None:
        return f"this PyTorch ({torch.__version__}) is built without CUDA; install a CUDA build of torch"
    if not torch.cuda.is_available():
        return (
            "PyTorch finds no CUDA device; check the NVIDIA driver with nvidia-smi, "
            "and that a container is given the GPU"
        )
    if settings.device >= torch.cuda.device_count():
        return f"there is no CUDA device {settings.device}, only {torch.cuda.device_count()}; set device"
    try:
        torch.ones(8, device=f"cuda:{settings.device}").sum().item()
    except RuntimeError as error:
        return f"CUDA device {settings.device} does not run a kernel of this PyTorch ({error})"
    return None


def _tensorrt_obstacle(settings: RuntimeSettings) -> str | None:
    if problem := _precision_obstacle(settings, (PRECISION,)):
        return problem
    if problem := _cuda_obstacle(settings):
        return problem
    if importlib.util.find_spec("torch_tensorrt") is None:
        return (
            "torch_tensorrt is not installed; pip install torch-tensorrt (or torch-tensorrt-rtx) of the "
            f"version of torch {torch.__version__}, see docs/tensorrt.md"
        )
    try:
        load_torch_tensorrt()
        with torch.cuda.device(settings.device):
            return engine_obstacle(importlib.import_module("tensorrt"))
    except (ImportError, OSError, RuntimeError) as error:
        return (
            f"torch_tensorrt cannot be loaded ({error}); it must be the version for torch {torch.__version__}"
        )


def _torch_cuda_obstacle(settings: RuntimeSettings) -> str | None:
    return _precision_obstacle(settings, CUDA_PRECISIONS) or _cuda_obstacle(settings)


def _openvino_obstacle(settings: RuntimeSettings) -> str | None:
    try:
        from rain_removal_ros.runtime.openvino import native_precisions

        return _precision_obstacle(settings, native_precisions())
    except (ImportError, RuntimeError) as error:
        return f"OpenVINO cannot be loaded ({error}); pip install openvino"


def _torch_cpu_obstacle(settings: RuntimeSettings) -> str | None:
    return _precision_obstacle(settings, CPU_PRECISIONS)


def _cache(settings: RuntimeSettings, on_progress: Progress | None) -> EngineCache:
    return EngineCache(settings.cache_dir, settings.cache_limit_bytes, on_progress)


def _create_tensorrt(
    settings: RuntimeSettings, networks: Networks, reason: str, on_progress: Progress | None
) -> CompilingRestorer:
    compiler = TorchTensorRTCompiler(settings.device)
    build = build_apart(networks, settings.device)
    return TensorRTRestorer(networks, _cache(settings, on_progress), compiler, reason, on_progress, build)


def _create_torch_cuda(
    settings: RuntimeSettings, networks: Networks, reason: str, on_progress: Progress | None
) -> CompilingRestorer:
    return TorchCudaRestorer(networks, settings.precision, settings.device, reason, on_progress)


def _create_openvino(
    settings: RuntimeSettings, networks: Networks, reason: str, on_progress: Progress | None
) -> CompilingRestorer:
    from rain_removal_ros.runtime.openvino import OpenVINORestorer

    cache = _cache(settings, on_progress)
    return OpenVINORestorer(networks, cache, settings.precision, settings.threads, reason, on_progress)


def _create_torch_cpu(
    settings: RuntimeSettings, networks: Networks, reason: str, on_progress: Progress | None
) -> CompilingRestorer:
    return TorchCpuRestorer(networks, settings.precision, settings.threads, reason, on_progress)


BACKENDS = (
    Backend(TENSORRT, _tensorrt_obstacle, _create_tensorrt),
    Backend(TORCH_CUDA, _torch_cuda_obstacle, _create_torch_cuda),
    Backend(OPENVINO, _openvino_obstacle, _create_openvino),
    Backend(TORCH_CPU, _torch_cpu_obstacle, _create_torch_cpu),
)
"""The better first: the order in which `auto` tries them."""


def choose(settings: RuntimeSettings, backends: tuple[Backend, ...] = BACKENDS) -> tuple[Backend, str]:
    """The backend and the reason in words. Raises BackendError where none can run, with the remedy."""
    if settings.backend != "auto":
        named = {backend.name: backend for backend in backends}
        if settings.backend not in named:
            raise BackendError(f"unknown backend {settings.backend!r}; choose auto, {', '.join(named)}")
        obstacle = named[settings.backend].obstacle(settings)
        if obstacle:
            raise BackendError(f"backend {settings.backend} cannot run: {obstacle}")
        return named[settings.backend], "it was asked for"
    passed_over: list[str] = []
    for backend in backends:
        obstacle = backend.obstacle(settings)
        if obstacle is None:
            return backend, "; ".join(["it is the best that runs here", *passed_over])
        passed_over.append(f"not {backend.name}: {obstacle}")
    raise BackendError(f"no backend can run: {'; '.join(passed_over)}")


def create_restorer(
    settings: RuntimeSettings,
    on_progress: Progress | None = None,
    backends: tuple[Backend, ...] = BACKENDS,
) -> Restorer:
    """See `rain_removal_ros.runtime.create_restorer`."""
    backend, reason = choose(settings, backends)
    log.info("backend %s: %s", backend.name, reason)
    restorer = backend.create(settings, Networks(settings), reason, on_progress)
    restorer.graphs_in_memory = settings.graphs_in_memory
    return restorer
