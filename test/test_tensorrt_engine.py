"""That the networks are one strongly typed graph in half precision for TensorRT, shown by building engines.

TensorRT-RTX builds them without a GPU.
"""

from __future__ import annotations

import pytest
import torch

from rain_removal_ros.runtime import Output
from rain_removal_ros.runtime.graph import LevelsGraph
from rain_removal_ros.runtime.tensorrt import export

tensorrt_rtx = pytest.importorskip(
    "tensorrt_rtx",
    reason="tensorrt-rtx has wheels for x86_64 and up to Python 3.13 alone; without it no engine is built",
)

FRAME = (Output.IMAGE, Output.INVERSE_DEPTH)
AMPERE, ORIN, ADA, BLACKWELL = (
    getattr(tensorrt_rtx.ComputeCapability, name) for name in ("SM80", "SM86", "SM89", "SM120")
)
HALF, FLOAT, INT32 = (getattr(tensorrt_rtx.DataType, name) for name in ("HALF", "FLOAT", "INT32"))


class ListeningLogger(tensorrt_rtx.ILogger):
    """Keeps what TensorRT warns of. TensorRT takes one logger a process, so there is one."""

    def __init__(self):
        super().__init__()
        self.warnings = []

    def log(self, severity, message):
        if severity <= tensorrt_rtx.ILogger.Severity.WARNING:
            self.warnings.append(message)


LOGGER = ListeningLogger()


@pytest.mark.parametrize(
    ("preset", "outputs", "size", "targets"),
    [
        ("fast", FRAME, (512, 1024), (AMPERE, ORIN, ADA, BLACKWELL)),
        ("fast", tuple(Output), (120, 200), (AMPERE,)),
        ("paper", FRAME, (120, 200), (AMPERE,)),
    ],
    ids=["fast", "fast with padding and labels", "paper with padding"],
)
def test_tensorrt_builds_one_half_precision_engine_without_a_warning(
    networks, preset, outputs, size, targets
):
    segmentation = networks("segmentation").half() if Output.LABELS in outputs else None
    graph = LevelsGraph(networks(preset).half(), segmentation, *size, outputs).eval()
    program = export(graph, torch.zeros(1, 3, *size, dtype=torch.float16))
    onnx = torch.onnx.export(program, dynamo=True, verbose=False)
    LOGGER.warnings.clear()
    builder = tensorrt_rtx.Builder(LOGGER)
    network = builder.create_network(1 << int(tensorrt_rtx.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = tensorrt_rtx.OnnxParser(network, LOGGER)
    assert parser.parse(onnx.model_proto.SerializeToString()), [
        str(parser.get_error(index)) for index in range(parser.num_errors)
    ]
    types = [network.get_input(0).dtype, *(network.get_output(n).dtype for n in range(network.num_outputs))]
    expected = {Output.IMAGE: HALF, Output.INVERSE_DEPTH: FLOAT, Output.LABELS: INT32}
    assert types == [HALF, *(expected[output] for output in outputs), FLOAT]  # the weather comes last
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    convolutions = [
        layer.get_output(0).dtype
        for layer in layers
        if layer.type in (tensorrt_rtx.LayerType.CONVOLUTION, tensorrt_rtx.LayerType.DECONVOLUTION)
    ]
    assert convolutions
    assert set(convolutions) == {HALF}
    for target in targets:
        config = builder.create_builder_config()
        config.num_compute_capabilities = 1
        config.set_compute_capability(target, 0)
        plan = builder.build_serialized_network(network, config)
        assert plan is not None
        assert plan.nbytes > 10_000
    assert [line for line in LOGGER.warnings if "CUDA" not in line] == []
