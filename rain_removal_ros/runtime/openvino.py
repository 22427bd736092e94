"""The CPU backend: OpenVINO, most of the work in 8-bit integers and the rest in bfloat16 where the CPU has
them natively, through the engine cache.
"""

from __future__ import annotations

import io
import os
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import cast

import numpy as np
import torch

from rain_removal_ros.cpu import cpu_flags
from rain_removal_ros.errors import BackendError
from rain_removal_ros.network.quantisation import quantised, ranges_of
from rain_removal_ros.runtime import Output, Progress
from rain_removal_ros.runtime.build_process import SHARED, BuildOrder, Cancellation
from rain_removal_ros.runtime.cache import EngineCache
from rain_removal_ros.runtime.compiled import Outputs, ordered
from rain_removal_ros.runtime.engines import EngineError, EngineRestorer
from rain_removal_ros.runtime.graph import FrameGraph
from rain_removal_ros.runtime.networks import Networks, unpacked
from rain_removal_ros.runtime.sizes import MIN_SIDE
from rain_removal_ros.runtime.without_telemetry import openvino

ELEMENT_TYPES = {"bf16": "bf16", "fp16": "f16", "fp32": "f32"}
"""What OpenVINO calls the kinds of floats, the fastest first."""

INT8 = "int8"
INTEGERS = ("u8", "i8")


def cpu_capabilities() -> Collection[str]:
    """What OpenVINO says of this CPU: BF16, FP16, FP32, INT8, ..."""
    return openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def integers_go_wrong() -> bool:
    """Whether OpenVINO's 8-bit integers are not to be trusted on this CPU.

    Seen with OpenVINO 2026.4 and AMX: while another thread of the process runs or loads another model, one
    image in twelve comes out wrong, as if it rained (off by up to 100 grey levels); in bfloat16 none of 400.
    """
    return "amx_int8" in cpu_flags()


def multiplies_integers() -> bool:
    """Whether this CPU has instructions that multiply and add 8-bit integers (VNNI), without which integers
    are no faster, and on some CPUs not exact, and they can be trusted.
    """
    return "vnni" in cpu_flags() and not integers_go_wrong()


def float_precisions() -> tuple[str, ...]:
    """The kinds of floats that this CPU computes natively, the fastest first; fp32 always."""
    capabilities = cpu_capabilities()
    return tuple(name for name in ELEMENT_TYPES if name.upper() in capabilities or name == "fp32")


def native_precisions() -> tuple[str, ...]:
    """What this CPU computes natively, the fastest first; fp32 always. int8 needs calibrated weights."""
    return ((INT8,) if multiplies_integers() else ()) + float_precisions()


def convert(
    networks: Networks, height: int, width: int, outputs: Outputs, integers: bool = False, frames: int = 1
) -> openvino.Model:
    """The frame graph of this size as an OpenVINO model, uint8 (frames, H, W, 3) to the outputs; with
    `integers` calibrated weights are quantised.

    Tracing runs the network once, so it is done on the smallest image that is padded alike and then reshaped.
    """
    stride = cast(int, networks.derain.stride)
    low, narrow = (-(-MIN_SIDE // stride) * stride + side % stride for side in (height, width))
    derain = quantised(networks.derain) if integers else networks.derain
    graph = FrameGraph(derain, networks.segmentation(outputs), low, narrow, outputs).eval()
    example = torch.zeros(frames, low, narrow, 3, dtype=torch.uint8)
    with torch.inference_mode():
        traced = torch.jit.trace(graph, example, check_trace=False)
    model = openvino.convert_model(traced, example_input=example)
    model.reshape([frames, height, width, 3])
    return model


def build(
    files: Mapping[str, bytes],
    families: Mapping[str, str],
    code: str,
    height: int,
    width: int,
    outputs: Sequence[str],
    frames: int,
    configuration: Mapping[str, str | int],
    integers: bool,
) -> bytes:
    """In the build process: an exported engine, see `Networks.packed`."""
    asked = ordered([Output(name) for name in outputs])
    model = convert(unpacked(files, families, code), height, width, asked, integers, frames)
    compiled = openvino.Core().compile_model(model, "CPU", dict(configuration))
    stream = io.BytesIO()
    compiled.export_model(stream)
    return stream.getvalue()


def configure(networks: Networks, precision: str, threads: int) -> tuple[str, dict[str, str | int]]:
    """(The precision that `precision` stands for, how OpenVINO compiles for it).

    Raises BackendError where the CPU does not have it, or the weights were not calibrated for it.
    """
    native, floats = native_precisions(), float_precisions()
    calibrated = bool(ranges_of(networks.derain))
    if precision == INT8 and not calibrated:
        raise BackendError(
            f"weights {networks.weights.name} were not calibrated for int8; train them with this version "
            "(docs/training.md), or choose auto"
        )
    if precision == INT8 and integers_go_wrong():
        raise BackendError(
            "OpenVINO's int8 gives wrong images now and then on CPUs with AMX, as this one; choose auto or "
            "bf16, which is as fast here"
        )
    possible = native if calibrated else floats
    chosen = possible[0] if precision == "auto" else precision
    if chosen not in possible:
        raise BackendError(
            f"precision {precision} does not run natively on this CPU with OpenVINO; "
            f"choose one of {', '.join(possible)} or auto"
        )
    return chosen, {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": ELEMENT_TYPES[floats[0] if chosen == INT8 else chosen],
        **({"INFERENCE_NUM_THREADS": threads} if threads else {}),
    }


def computed_precisions(model: openvino.CompiledModel) -> Counter[str]:
    """How many convolutions of a compiled model really run in which element type."""
    seen: Counter[str] = Counter()
    for operation in model.get_runtime_model().get_ordered_ops():
        details = operation.get_rt_info()
        if "Convolution" in str(details["layerType"].value):
            seen[str(details["runtimePrecision"].value)] += 1
    return seen


class OpenVINOFrame:
    """One compiled graph and its only infer request."""

    def __init__(self, model: openvino.CompiledModel, engine_key: str):
        self.engine_key = engine_key
        self._request = model.create_infer_request()

    def run(self, images: Sequence[np.ndarray]) -> list[tuple[np.ndarray, ...]]:
        """See `CompiledFrame.run`; a single image is not copied where its rows are packed."""
        together = np.stack(images) if len(images) > 1 else np.ascontiguousarray(images[0])[None]
        self._request.infer([together], share_inputs=True)
        outputs = [tensor.data for tensor in self._request.output_tensors]
        return [tuple(output[place].copy() for output in outputs) for place in range(len(images))]

    def close(self) -> None:
        self._request = None


class OpenVINORestorer(EngineRestorer):
    """Restores on the CPU with OpenVINO."""

    backend = "openvino"

    def __init__(
        self,
        networks: Networks,
        cache: EngineCache,
        precision: str = "auto",
        threads: int = 0,
        reason: str = "",
        on_progress: Progress | None = None,
    ):
        """Raises BackendError where the CPU does not have the precision that was asked for, or the weights
        were not calibrated for it.
        """
        self._core = openvino.Core()
        chosen, self._configuration = configure(networks, precision, threads)
        if precision == "auto" and chosen != INT8 and INT8 in native_precisions():
            why = f"{chosen} and not int8, which {networks.weights.name} was not calibrated for"
            reason = "; ".join(part for part in (reason, why) if part)
        if precision == "auto" and integers_go_wrong():
            why = f"{chosen} and not int8, which OpenVINO computes wrongly now and then on CPUs with AMX"
            reason = "; ".join(part for part in (reason, why) if part)
        device = str(self._core.get_property("CPU", "FULL_DEVICE_NAME")).strip()
        super().__init__(networks, cache, device, chosen, reason, on_progress)
        self._threads = threads

    def versions(self) -> dict[str, str]:
        return {
            "openvino": openvino.get_version(),
            "torch": torch.__version__,
            "device": f"{self.device_name}, {os.cpu_count()} CPUs",
            "threads": str(self._threads or "automatic"),
        }

    def build(
        self, height: int, width: int, outputs: Outputs, frames: int, cancellation: Cancellation
    ) -> bytes:
        files, options = self.networks.packed(outputs)
        options |= {
            "height": height,
            "width": width,
            "outputs": [output.value for output in outputs],
            "frames": frames,
            "configuration": self._configuration,
            "integers": self.precision == INT8,
        }
        return SHARED.build(BuildOrder(f"{__name__}:{build.__name__}", files, options), cancellation)

    def read(
        self, engine: bytes, height: int, width: int, outputs: Outputs, frames: int, engine_key: str
    ) -> OpenVINOFrame:
        try:
            model = self._core.import_model(io.BytesIO(engine), "CPU", self._configuration)
        except RuntimeError as error:
            raise EngineError(f"OpenVINO cannot import it ({error})") from error
        self._check_precision(model)
        return OpenVINOFrame(model, engine_key)

    def _check_precision(self, model: openvino.CompiledModel) -> None:
        computed, wanted = computed_precisions(model), self._configuration["INFERENCE_PRECISION_HINT"]
        integers = sum(computed.pop(name, 0) for name in INTEGERS)
        [(most, _)] = computed.most_common(1) or [("nothing", 0)]
        if most != wanted or (integers > 0) != (self.precision == INT8):
            raise BackendError(
                f"OpenVINO computes {integers} convolutions in integers and most others in {most} where "
                f"{self.precision} was asked for; choose another precision, or backend torch-cpu"
            )
