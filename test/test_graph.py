"""The frame graph in half precision: its numerics, and that it is one strongly typed graph for TensorRT."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import tensorrt_rtx
import torch
from runtime_fixtures import TINY, random_network, street_like

from rain_removal_ros.errors import ImageError
from rain_removal_ros.network import fold_batch_norms
from rain_removal_ros.runtime import Output, RuntimeSettings
from rain_removal_ros.runtime.graph import FrameGraph, LevelsGraph
from rain_removal_ros.runtime.networks import Networks
from rain_removal_ros.runtime.pytorch import frame_graph
from rain_removal_ros.runtime.tensorrt import export

FRAME = (Output.IMAGE, Output.INVERSE_DEPTH)
AMPERE, ORIN, ADA, BLACKWELL = (
    getattr(tensorrt_rtx.ComputeCapability, name) for name in ("SM80", "SM86", "SM89", "SM120")
)
HALF, FLOAT, INT32 = (getattr(tensorrt_rtx.DataType, name) for name in ("HALF", "FLOAT", "INT32"))
HIGH_INVERSE_DEPTH_ERROR = 1e-3  # 1/m, where inverse depth reaches 0.7


def folded(preset):
    """A folded random network. Everything lies at about one distance: where that is random, rounding decides
    what is farthest, and so what the far pattern is.
    """
    network = random_network(preset)
    if network.preset.family == "fast":
        network.depth_head.output.weight.data.mul_(0.001)
    return fold_batch_norms(network).requires_grad_(False)


@pytest.fixture(scope="module")
def networks():
    """Random networks by preset, made once."""
    made = {}

    def network(preset):
        name = preset if isinstance(preset, str) else "tiny"
        if name not in made:
            made[name] = folded(preset)
        return copy.deepcopy(made[name])

    return network


SATURATED = (np.random.default_rng(0).random((64, 96, 3)) < 0.5).astype(np.uint8) * 255


@pytest.mark.parametrize("preset", ["fast", "paper"])
@pytest.mark.parametrize(
    "image",
    [
        street_like(64, 96),
        np.zeros((64, 96, 3), np.uint8),
        np.full((64, 96, 3), 255, np.uint8),
        SATURATED,
    ],
    ids=["street", "black", "white", "saturated"],
)
def test_half_precision_stays_within_a_grey_level_of_float64(networks, preset, image):
    frame = torch.from_numpy(image)[None]
    with torch.inference_mode():
        (exact, exact_depth), (half, half_depth) = (
            FrameGraph(networks(preset).to(dtype), None, 64, 96, FRAME, dtype).eval()(frame)
            for dtype in (torch.float64, torch.float16)
        )
    difference = (exact.int() - half.int()).abs()
    assert difference.max() <= 1
    assert difference.float().mean() <= 0.15
    assert (exact_depth - half_depth).abs().max() <= HIGH_INVERSE_DEPTH_ERROR


def test_half_precision_of_the_packaged_weights_stays_within_a_grey_level():
    networks = Networks(RuntimeSettings())
    frame = torch.from_numpy(street_like(192, 256))[None]
    with torch.inference_mode():
        (exact, exact_depth), (half, half_depth) = (
            frame_graph(networks, 192, 256, FRAME, precision)(frame) for precision in ("fp32", "fp16")
        )
    assert (exact.int() - half.int()).abs().max() <= 1
    assert (exact_depth - half_depth).abs().max() <= HIGH_INVERSE_DEPTH_ERROR


def test_half_precision_does_not_overflow_on_a_large_image(networks):
    image = np.concatenate([street_like(720, 640), np.full((720, 640, 3), 255, np.uint8)], axis=1)
    frame = torch.from_numpy(image)[None]
    with torch.inference_mode():
        (exact, exact_depth), (half, half_depth) = (
            FrameGraph(networks(TINY).to(dtype), None, 720, 1280, FRAME, dtype).eval()(frame)
            for dtype in (torch.float32, torch.float16)
        )
    assert (exact.int() - half.int()).abs().max() <= 1
    assert (exact_depth - half_depth).abs().max() <= HIGH_INVERSE_DEPTH_ERROR


def test_whole_grey_levels_pass_through_low_precision_unchanged(networks):
    """A ramp through all 256 levels, as in a sky, comes back level for level where nothing is corrected."""
    network = networks(TINY)
    for output in (network.output, network.streaks.output):
        torch.nn.init.zeros_(output.weight)
        torch.nn.init.zeros_(output.bias)
    ramp = np.broadcast_to(np.arange(256, dtype=np.uint8)[None, :, None], (64, 256, 3)).copy()
    for dtype in (torch.float16, torch.bfloat16):
        graph = FrameGraph(network.to(dtype), None, 64, 256, [Output.IMAGE], dtype).eval()
        with torch.inference_mode():
            (restored,) = graph(torch.from_numpy(ramp)[None])
        assert (restored[0].numpy() == ramp).all()


@pytest.mark.parametrize("size", [(63, 64), (64, 63), (2161, 64), (64, 3841)])
def test_sizes_that_no_network_takes_are_refused(networks, size):
    with pytest.raises(ImageError, match="images from 64x64 to 3840x2160"):
        FrameGraph(networks(TINY), None, *size, FRAME)


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
    graph = LevelsGraph(networks(preset).half(), segmentation, *size, outputs, torch.float16).eval()
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
    assert types == [HALF, *(expected[output] for output in outputs)]
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


@pytest.mark.parametrize("preset", ["fast", "paper", "dgnl-fast", "segmentation"])
def test_every_network_exports_without_a_break(networks, preset):
    network = networks(preset).half()
    if preset == "segmentation":
        graph = LevelsGraph(networks(TINY).half(), network, 120, 200, tuple(Output), torch.float16)
    else:
        graph = LevelsGraph(network, None, 120, 200, FRAME, torch.float16)
    program = export(graph.eval(), torch.zeros(1, 3, 120, 200, dtype=torch.float16))
    assert [type(output.arg).__name__ for output in program.graph_signature.output_specs] == [
        "TensorArgument"
    ] * len(graph.outputs)
