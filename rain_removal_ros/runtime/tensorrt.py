"""The vehicle's backend: the half-precision network as one TensorRT engine, built by torch-tensorrt.

torch-tensorrt turns the exported network into a TensorRT plan, which is kept in the engine cache and run by
TensorRT itself on a stream of our own. A torch_tensorrt built on TensorRT-RTX is taken alike.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import re
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import torch
from torch import Tensor

from rain_removal_ros.errors import BackendError
from rain_removal_ros.runtime import Output, Progress
from rain_removal_ros.runtime.build_process import SHARED, BuildOrder, Cancellation
from rain_removal_ros.runtime.cache import EngineCache
from rain_removal_ros.runtime.compiled import CompiledFrame, Outputs, ordered
from rain_removal_ros.runtime.device_frames import DeviceFrames, give_cache_back
from rain_removal_ros.runtime.engines import EngineError, EngineRestorer
from rain_removal_ros.runtime.graph import LevelsGraph, to_bytes
from rain_removal_ros.runtime.networks import Networks, unpacked
from rain_removal_ros.runtime.pytorch import levels_graph

PRECISION = "fp16"
ALWAYS_STRONGLY_TYPED = (2, 13)
"""From this torch-tensorrt on every network is strongly typed and there is no option for it any more."""

Build = Callable[[int, int, Outputs, int, Cancellation], bytes]
"""(height, width, outputs, frames, cancellation) -> plan."""


class Compiler(Protocol):
    """What makes a plan of a graph and runs it; the seam at which the tests put one that needs no GPU."""

    device_name: str

    def versions(self) -> dict[str, str]:
        """Everything of the software and the device that a plan depends on."""

    def build(self, graph: LevelsGraph, levels: Tensor) -> bytes:
        """The plan of a half-precision graph for inputs like `levels`, (N, 3, H, W). Raises BackendError."""

    def load(self, plan: bytes, graph: LevelsGraph, engine_key: str, frames: int = 1) -> CompiledFrame:
        """The plan ready to run. Raises EngineError; BackendError for another precision than the graph's."""


def load_torch_tensorrt() -> ModuleType:
    """Import torch_tensorrt, on TensorRT or on TensorRT-RTX. Raises ImportError.

    The wheels of TensorRT-RTX 1.4 to 1.7 hold a `plugin` package that imports a module they lack, which fails
    the import of torch_tensorrt when it looks for plugins; marking it as absent lets it go on without
    plugins.
    """
    if "torch_tensorrt" not in sys.modules and _plugins_are_broken():
        absent: Any = None
        sys.modules.setdefault("tensorrt.plugin", absent)
    return importlib.import_module("torch_tensorrt")


def _plugins_are_broken() -> bool:
    if importlib.util.find_spec("tensorrt_rtx") is None or importlib.util.find_spec("tensorrt") is not None:
        return False
    return importlib.util.find_spec("tensorrt_rtx_bindings.plugin") is None


def engine_obstacle(tensorrt: ModuleType) -> str | None:
    """Why this TensorRT cannot build and load even the smallest engine on the current device; None: it can.

    TensorRT-RTX, for one, refuses data centre GPUs, which shows only here.
    """
    logger = tensorrt.Logger(tensorrt.Logger.ERROR)
    strongly_typed = getattr(tensorrt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    name = f"{getattr(tensorrt, '_package_name', tensorrt.__name__)} {tensorrt.__version__}"
    try:
        builder = tensorrt.Builder(logger)
        network = builder.create_network(0 if strongly_typed is None else 1 << int(strongly_typed))
        levels = network.add_input("levels", tensorrt.DataType.HALF, (1, 8))
        network.mark_output(network.add_activation(levels, tensorrt.ActivationType.RELU).get_output(0))
        plan = builder.build_serialized_network(network, builder.create_builder_config())
        if plan is None or tensorrt.Runtime(logger).deserialize_cuda_engine(plan) is None:
            return (
                f"{name} cannot build and load an engine on this GPU; see its messages and docs/tensorrt.md"
            )
    except (RuntimeError, TypeError) as error:
        return f"{name} cannot build and load an engine on this GPU ({error}); see docs/tensorrt.md"
    return None


def export(graph: LevelsGraph, levels: Tensor) -> torch.export.ExportedProgram:
    """The graph as one exported program. Raises BackendError where a weight is not half precision."""
    with torch.no_grad():
        program = torch.export.export(graph, (levels,))
    foreign = {
        name: tensor.dtype
        for name, tensor in (*program.state_dict.items(), *program.constants.items())
        if isinstance(tensor, Tensor) and tensor.is_floating_point() and tensor.dtype != torch.float16
    }
    if foreign:
        raise BackendError(
            f"weights that are not half precision would make an engine slower than asked for: {foreign}"
        )
    return program


def build_options(convert: Callable[..., Any], version: str) -> dict[str, object]:
    """The options that make this torch-tensorrt build a strongly typed network, which fixes the precision.

    `convert` is its `convert_exported_program_to_serialized_trt_engine`, `version` its version. Raises
    BackendError.
    """
    if "use_explicit_typing" in inspect.signature(convert).parameters:
        return {"use_explicit_typing": True}
    numbers = tuple(int(number) for number in re.findall(r"\d+", version)[:2])
    if numbers >= ALWAYS_STRONGLY_TYPED:
        return {}
    raise BackendError(
        f"torch_tensorrt {version} has no strongly typed networks, so FP16 is uncertain; install 2.8 or newer"
    )


class TorchTensorRTCompiler:
    """torch-tensorrt and TensorRT on one CUDA device."""

    def __init__(self, device_index: int = 0, cuda_graph: bool = True):
        """Raises ImportError where torch_tensorrt cannot be loaded."""
        self._torch_tensorrt = load_torch_tensorrt()
        self._tensorrt = importlib.import_module("tensorrt")
        self._device = torch.device("cuda", device_index)
        self._cuda_graph = cuda_graph
        self._logger = self._tensorrt.Logger(self._tensorrt.Logger.WARNING)
        self.device_name = torch.cuda.get_device_name(self._device)

    def versions(self) -> dict[str, str]:
        major, minor = torch.cuda.get_device_capability(self._device)
        package = getattr(self._tensorrt, "_package_name", "tensorrt")
        return {
            "torch": torch.__version__,
            "torch_tensorrt": self._torch_tensorrt.__version__,
            "tensorrt": f"{package} {self._tensorrt.__version__}",
            "cuda": str(torch.version.cuda),
            "device": self.device_name,
            "compute_capability": f"{major}.{minor}",
        }

    def build(self, graph: LevelsGraph, levels: Tensor) -> bytes:
        convert = self._torch_tensorrt.dynamo.convert_exported_program_to_serialized_trt_engine
        options = build_options(convert, self._torch_tensorrt.__version__)
        # torch-tensorrt's own place for it is shared by all users and written by several processes at once
        with (
            tempfile.TemporaryDirectory(prefix="rain_removal_ros-") as folder,
            torch.cuda.device(self._device),
        ):
            options["timing_cache_path"] = str(Path(folder) / "timing_cache.bin")
            program = export(graph.to(self._device), levels.to(self._device))
            try:
                return bytes(convert(program, arg_inputs=(levels.to(self._device),), **options))
            except Exception as error:  # its converters raise every kind
                raise BackendError(
                    f"torch_tensorrt {self._torch_tensorrt.__version__} cannot compile the whole network "
                    f"({error}); choose backend torch-cuda, or another version of torch_tensorrt"
                ) from error

    def load(self, plan: bytes, graph: LevelsGraph, engine_key: str, frames: int = 1) -> CompiledFrame:
        give_cache_back(self._device)  # TensorRT allocates beside PyTorch
        with torch.cuda.device(self._device):
            engine = TensorRTEngine(self._tensorrt, self._logger, plan, self._device)
        engine.check_types(graph.outputs)
        outputs = graph.outputs

        def run(frame: Tensor) -> tuple[Tensor, ...]:
            levels = frame.permute(0, 3, 1, 2).to(torch.float16, memory_format=torch.contiguous_format)
            return to_bytes(outputs, engine(levels))

        return DeviceFrames(
            run, graph.height, graph.width, self._device, engine_key, frames, cuda_graph=self._cuda_graph
        )


ROOM_FOR_PLANS = 4
"""So many times its size an engine needs while it is loaded, at most; with less room it may be good."""


class TensorRTEngine:
    """A plan and its execution context: half grey levels in, a LevelsGraph's outputs out."""

    def __init__(self, tensorrt: ModuleType, logger: object, plan: bytes, device: torch.device):
        """Raises EngineError where TensorRT does not take the plan, BackendError where the GPU has no room
        for it: then the plan is good, and is kept.
        """
        self._runtime = tensorrt.Runtime(logger)
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            free = torch.cuda.mem_get_info(device)[0]
            if free < ROOM_FOR_PLANS * len(plan):
                raise BackendError(
                    f"TensorRT cannot load an engine of {len(plan) >> 20} MiB into the {free >> 20} MiB that "
                    "are free on the GPU; free some of its memory, or lower graphs_in_memory"
                )
            raise EngineError(f"TensorRT {tensorrt.__version__} cannot load it")
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise BackendError(
                "TensorRT cannot make an execution context for the engine; free some of the GPU's memory, or "
                "lower graphs_in_memory"
            )
        names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
        modes = {name: self._engine.get_tensor_mode(name) for name in names}
        self._inputs = [name for name in names if modes[name] == tensorrt.TensorIOMode.INPUT]
        self._outputs = [name for name in names if modes[name] == tensorrt.TensorIOMode.OUTPUT]
        dtypes = {
            tensorrt.DataType.HALF: torch.float16,
            tensorrt.DataType.FLOAT: torch.float32,
            tensorrt.DataType.INT32: torch.int32,
            tensorrt.DataType.INT64: torch.int64,
        }
        self._dtypes = {name: dtypes.get(self._engine.get_tensor_dtype(name)) for name in names}
        self._results = tuple(
            torch.empty(tuple(self._engine.get_tensor_shape(name)), dtype=self._dtypes[name], device=device)
            for name in self._outputs
        )

    def check_types(self, outputs: Outputs) -> None:
        """Raise BackendError unless the engine takes and gives half precision where the graph does."""
        expected = {
            Output.IMAGE: (torch.float16,),
            Output.INVERSE_DEPTH: (torch.float32,),
            Output.LABELS: (torch.int32, torch.int64),
        }
        found = [self._dtypes[name] for name in (*self._inputs, *self._outputs)]
        weather = [(torch.float32,)] * (Output.IMAGE in outputs)
        wanted = [(torch.float16,), *(expected[output] for output in outputs), *weather]
        if len(found) != len(wanted) or any(
            dtype not in allowed for dtype, allowed in zip(found, wanted, strict=True)
        ):
            raise BackendError(
                f"the engine takes and gives {found} where FP16 was asked for ({wanted}); "
                "clear the engine cache with `derain build --clear` and report the torch_tensorrt version"
            )

    def __call__(self, levels: Tensor) -> tuple[Tensor, ...]:
        """Half (N, 3, H, W) -> the outputs, which the next call overwrites; on the current stream."""
        self._context.set_tensor_address(self._inputs[0], levels.data_ptr())
        for name, result in zip(self._outputs, self._results, strict=True):
            self._context.set_tensor_address(name, result.data_ptr())
        if not self._context.execute_async_v3(torch.cuda.current_stream().cuda_stream):
            raise RuntimeError(
                "TensorRT did not run the engine; its own message is on the standard error output"
            )
        return self._results


def build(
    files: Mapping[str, bytes],
    families: Mapping[str, str],
    code: str,
    height: int,
    width: int,
    outputs: Sequence[str],
    frames: int,
    device: int,
) -> bytes:
    """In the build process: the plan of a network, see `Networks.packed`."""
    chosen = ordered([Output(name) for name in outputs])
    graph = levels_graph(unpacked(files, families, code), height, width, chosen, PRECISION)
    levels = torch.zeros(frames, 3, height, width, dtype=torch.float16)
    return TorchTensorRTCompiler(device).build(graph, levels)


def build_apart(networks: Networks, device: int) -> Build:
    """Makes plans in the build process."""

    def build_plan(
        height: int, width: int, outputs: Outputs, frames: int, cancellation: Cancellation
    ) -> bytes:
        files, options = networks.packed(outputs)
        options |= {"height": height, "width": width, "frames": frames, "device": device}
        options["outputs"] = [output.value for output in outputs]
        return SHARED.build(BuildOrder(f"{__name__}:{build.__name__}", files, options), cancellation)

    return build_plan


class TensorRTRestorer(EngineRestorer):
    """Restores on an NVIDIA GPU with a TensorRT FP16 engine for every size, set of outputs and number of
    frames a call.
    """

    backend = "tensorrt"

    def __init__(
        self,
        networks: Networks,
        cache: EngineCache,
        compiler: Compiler,
        reason: str = "",
        on_progress: Progress | None = None,
        build: Build | None = None,
    ):
        """`build`: what makes the plans instead of `compiler.build` in this process."""
        super().__init__(networks, cache, compiler.device_name, PRECISION, reason, on_progress)
        self._compiler = compiler
        self._build = build or self._build_here

    def versions(self) -> dict[str, str]:
        return self._compiler.versions()

    def build(
        self, height: int, width: int, outputs: Outputs, frames: int, cancellation: Cancellation
    ) -> bytes:
        return self._build(height, width, outputs, frames, cancellation)

    def read(
        self, engine: bytes, height: int, width: int, outputs: Outputs, frames: int, engine_key: str
    ) -> CompiledFrame:
        return self._compiler.load(engine, self._graph(height, width, outputs), engine_key, frames)

    def _build_here(
        self, height: int, width: int, outputs: Outputs, frames: int, cancellation: Cancellation
    ) -> bytes:
        levels = torch.zeros(frames, 3, height, width, dtype=torch.float16)
        return self._compiler.build(self._graph(height, width, outputs), levels)

    def _graph(self, height: int, width: int, outputs: Outputs) -> LevelsGraph:
        return levels_graph(self.networks, height, width, outputs, self.precision)
