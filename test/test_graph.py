"""The frame graph in half precision: its numerics, and that it exports as one graph."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from runtime_fixtures import TINY, street_like

from rain_removal_ros.errors import ImageError
from rain_removal_ros.runtime import Output, RuntimeSettings
from rain_removal_ros.runtime.graph import FrameGraph, LevelsGraph
from rain_removal_ros.runtime.networks import Networks
from rain_removal_ros.runtime.pytorch import frame_graph
from rain_removal_ros.runtime.tensorrt import export

FRAME = (Output.IMAGE, Output.INVERSE_DEPTH)


def assert_depth_alike(one: torch.Tensor, other: torch.Tensor) -> None:
    """Within 1 % of what it is at half of the places, 5 % at nearly all; at a steep edge it may be more."""
    error = (one - other).abs() / (one.abs() + 2.5)
    assert float(torch.quantile(error, 0.5)) <= 0.01
    assert float(torch.quantile(error, 0.95)) <= 0.05


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
        (exact, exact_depth, _), (half, half_depth, _) = (
            FrameGraph(networks(preset).to(dtype), None, 64, 96, FRAME).eval()(frame)
            for dtype in (torch.float64, torch.float16)
        )
    difference = (exact.int() - half.int()).abs()
    assert difference.max() <= 1
    assert difference.float().mean() <= 0.15
    assert_depth_alike(exact_depth, half_depth)


def test_half_precision_of_the_packaged_weights_stays_within_a_grey_level():
    networks = Networks(RuntimeSettings())
    frame = torch.from_numpy(street_like(192, 256))[None]
    with torch.inference_mode():
        (exact, exact_depth, _), (half, half_depth, _) = (
            frame_graph(networks, 192, 256, FRAME, precision)(frame) for precision in ("fp32", "fp16")
        )
    assert (exact.int() - half.int()).abs().max() <= 1
    assert_depth_alike(exact_depth, half_depth)


def test_half_precision_does_not_overflow_on_a_large_image(networks):
    image = np.concatenate([street_like(720, 640), np.full((720, 640, 3), 255, np.uint8)], axis=1)
    frame = torch.from_numpy(image)[None]
    with torch.inference_mode():
        (exact, exact_depth, _), (half, half_depth, _) = (
            FrameGraph(networks(TINY).to(dtype), None, 720, 1280, FRAME).eval()(frame)
            for dtype in (torch.float32, torch.float16)
        )
    assert (exact.int() - half.int()).abs().max() <= 1
    assert_depth_alike(exact_depth, half_depth)


def test_whole_grey_levels_pass_through_low_precision_unchanged(networks):
    """A ramp through all 256 levels, as in a sky, comes back level for level where nothing is corrected."""
    network = networks(TINY)
    for output in (network.output, network.streaks.output):
        torch.nn.init.zeros_(output.weight)
        torch.nn.init.zeros_(output.bias)
    ramp = np.broadcast_to(np.arange(256, dtype=np.uint8)[None, :, None], (64, 256, 3)).copy()
    for dtype in (torch.float16, torch.bfloat16):
        frame, levels = (
            kind(network.to(dtype), None, 64, 256, [Output.IMAGE]).eval()
            for kind in (FrameGraph, LevelsGraph)
        )
        with torch.inference_mode():
            restored, _ = frame(torch.from_numpy(ramp)[None])
            as_levels, _ = levels(torch.from_numpy(ramp).permute(2, 0, 1)[None].to(dtype))
        assert (restored[0].numpy() == ramp).all() and restored.is_contiguous()
        assert (as_levels[0].permute(1, 2, 0).float().numpy() == ramp).all() and as_levels.dtype == dtype


@pytest.mark.parametrize("size", [(64, 96), (65, 96), (64, 97), (95, 127), (77, 91)])
def test_an_image_is_mirrored_at_its_edges_whatever_its_type(networks, size):
    height, width = size
    graph = LevelsGraph(networks(TINY), None, height, width, FRAME)
    levels = torch.randint(0, 256, (2, 3, height, width), dtype=torch.uint8)
    padded = graph.pad(levels)
    assert padded.dtype == torch.uint8
    assert torch.equal(padded.float(), torch.nn.functional.pad(levels.float(), graph.padding, mode="reflect"))
    assert torch.equal(graph.crop(padded), levels)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("size", [(70, 90), (95, 127)])
def test_bytes_and_grey_levels_of_any_float_give_the_same_image(networks, dtype, size):
    frame = torch.from_numpy(street_like(*size))[None]
    network = networks(TINY).to(dtype)
    with torch.inference_mode():
        image, depth, _ = FrameGraph(network, None, *size, FRAME).eval()(frame)
        levels, same_depth, _ = LevelsGraph(network, None, *size, FRAME).eval()(
            frame.permute(0, 3, 1, 2).to(dtype)
        )
    assert (image.dtype, levels.dtype) == (torch.uint8, dtype)
    assert torch.equal(image.permute(0, 3, 1, 2).float(), levels)
    assert torch.equal(depth, same_depth)


@pytest.mark.parametrize("size", [(63, 64), (64, 63), (3073, 3073), (4097, 64), (64, 4097)])
def test_sizes_that_no_network_takes_are_refused(networks, size):
    with pytest.raises(ImageError, match="images from 64x64 to 4096x3072"):
        FrameGraph(networks(TINY), None, *size, FRAME)


@pytest.mark.parametrize("preset", ["fast", "paper", "dgnl-fast", "segmentation"])
def test_every_network_exports_without_a_break(networks, preset):
    network = networks(preset).half()
    if preset == "segmentation":
        graph = LevelsGraph(networks(TINY).half(), network, 120, 200, tuple(Output))
    else:
        graph = LevelsGraph(network, None, 120, 200, FRAME)
    program = export(graph.eval(), torch.zeros(1, 3, 120, 200, dtype=torch.float16))
    assert [type(output.arg).__name__ for output in program.graph_signature.output_specs] == [
        "TensorArgument"
    ] * (len(graph.outputs) + 1)
