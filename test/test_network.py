"""The networks: shapes, guidance, folding, weights files. What a trained one achieves is the evaluation's."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from rain_removal_ros.errors import PresetError, WeightsError
from rain_removal_ros.network import (
    MAX_INVERSE_DEPTH,
    PRESETS,
    build_network,
    fold_batch_norms,
    get_preset,
    load_network,
    save_network,
)
from rain_removal_ros.network.blocks import ConvNorm, FarPattern, far_light, restore_far_pattern
from rain_removal_ros.network.presets import DerainPreset
from rain_removal_ros.network.streaks import StreakStage

DERAIN = [name for name, preset in PRESETS.items() if isinstance(preset, DerainPreset)]


def randomise(network: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Give what starts at zero random values too, so that every path counts."""
    torch.manual_seed(seed)
    for parameter in network.parameters():
        if not parameter.abs().any():
            torch.nn.init.normal_(parameter, std=0.05)
    return network


@pytest.mark.parametrize("name", DERAIN)
def test_a_derain_network_gives_a_correction_of_full_size_and_inverse_depth_at_a_quarter(name: str) -> None:
    network = build_network(name).eval()
    with torch.no_grad():
        correction, inverse_depth = network(torch.rand(2, 3, 64, 96))
        depth_alone = network.depth(torch.rand(2, 3, 64, 96))
    assert correction.shape == (2, 3, 64, 96)
    assert inverse_depth.shape == depth_alone.shape == (2, 1, 16, 24)
    assert float(inverse_depth.min()) >= 0
    assert float(inverse_depth.max()) <= MAX_INVERSE_DEPTH


@pytest.mark.parametrize("name", DERAIN)
def test_depth_alone_is_the_depth_of_the_whole_pass(name: str) -> None:
    network = randomise(build_network(name)).eval()
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(network.depth(image), network(image)[1])


def test_an_untrained_fast_network_leaves_the_image_alone() -> None:
    with torch.no_grad():
        correction, _ = build_network("fast").eval()(torch.rand(1, 3, 64, 64))
    assert not correction.any()


def test_the_gain_of_fast_is_a_contrast_about_the_airlight() -> None:
    network = build_network("fast").eval()
    torch.nn.init.constant_(network.output.bias[:16], 2.0)  # the gain's sixteen pixels
    with torch.no_grad():
        network.airlight.output.bias.fill_(0.7)
        image = torch.rand(1, 3, 32, 32)
        correction, _ = network(image)
    torch.testing.assert_close(correction, 2 * (image - 0.7))


def test_streaks_are_taken_off_before_contrast_is_given_back() -> None:
    network = build_network("fast").eval()
    torch.nn.init.constant_(network.output.bias[:16], 2.0)  # the gain's sixteen pixels
    torch.nn.init.constant_(network.streaks.output.bias, 0.05)
    with torch.no_grad():
        network.airlight.output.bias.fill_(0.7)
        image = torch.rand(1, 3, 32, 32)
        correction, _ = network(image)
    torch.testing.assert_close(image + correction, (image - 0.05) + 2 * (image - 0.05 - 0.7))


def test_far_light_is_measured_on_what_is_farthest_and_not_on_what_strays_there() -> None:
    generator = torch.Generator().manual_seed(0)
    image = torch.full((1, 3, 32, 32), 0.2)
    image[..., :16, :] = 0.8 + 0.01 * torch.randn(1, 3, 16, 32, generator=generator)  # the sky
    image[..., :16, 7] = 0.1  # a trunk that depth took for sky, 3 % of it
    inverse_depth = torch.full((1, 1, 32, 32), 0.1)  # 10 m
    inverse_depth[..., :16, :] = 0.0005
    light, spread, _ = far_light(image, inverse_depth)
    assert light.shape == spread.shape == (1, 1, 1, 1)
    assert float(light) == pytest.approx(0.8, abs=0.002)
    assert 0.008 < float(spread) < 0.014  # 0.008 without the trunk; the plain mean deviation is 0.05
    near = far_light(torch.full((1, 3, 8, 8), 0.4), torch.full((1, 1, 8, 8), 0.7)).mean
    assert float(near) == pytest.approx(0.4, abs=1e-4)  # nothing is far: the image's own mean


def test_the_pattern_of_a_sky_is_the_same_whatever_fog_left_of_it() -> None:
    torch.manual_seed(0)
    pattern = FarPattern(8)
    torch.nn.init.normal_(pattern.project.weight[:, :3])  # what sees the pattern, not its strength
    sky = 0.5 + 0.2 * torch.rand(1, 3, 16, 16)
    far = torch.zeros(1, 1, 16, 16)
    with torch.no_grad():
        clear = pattern(far_light(sky, far))
        fogged = pattern(far_light(0.05 * sky + 0.95 * 0.85, far))
    assert clear.abs().mean() > 0.5
    assert F.cosine_similarity(fogged.flatten(), clear.flatten(), dim=0) > 0.99
    assert 0.75 < float(fogged.std() / clear.std()) < 1  # of what is 20 times fainter


def with_far_pattern(image, correction, inverse_depth) -> torch.Tensor:
    return restore_far_pattern(
        image, correction, inverse_depth, far_light(F.avg_pool2d(image, 4), inverse_depth)
    )


SKY = slice(0, 32)  # rows of the view below


def fogged_view(noise: float = 0.0) -> tuple[torch.Tensor, ...]:
    """Clean and fogged view of clouds over a street, a correction that makes the sky flat and darker, inverse
    depth.
    """
    generator = torch.Generator().manual_seed(0)
    clouds = F.interpolate(torch.rand(1, 1, 6, 12, generator=generator), size=(64, 128), mode="bicubic")
    clean = (0.45 + 0.3 * clouds).expand(1, 3, 64, 128).clone()
    clean[..., 32:, :] = 0.25
    fogged = clean.clone()
    fogged[..., SKY, :] = 0.05 * clean[..., SKY, :] + 0.95 * 0.85
    fogged = fogged + noise * torch.randn(fogged.shape, generator=generator)
    fogged = (255 * fogged).round() / 255
    correction = torch.zeros_like(fogged)
    correction[..., SKY, :] = clean[..., SKY, :].mean() - fogged[..., SKY, :]
    inverse_depth = torch.full((1, 1, 16, 32), 0.1)
    inverse_depth[..., :8, :] = 0
    return clean, fogged, correction, inverse_depth


def test_the_pattern_of_a_sky_behind_fog_takes_the_place_of_a_guess() -> None:
    clean, fogged, correction, inverse_depth = fogged_view()
    restored = fogged + with_far_pattern(fogged, correction, inverse_depth)
    guessed = fogged + correction
    inner = slice(0, 28)  # without the edge, where depth is interpolated
    assert (restored - clean)[..., inner, :].abs().mean() < 0.5 * (guessed - clean)[
        ..., inner, :
    ].abs().mean()
    assert float(restored[..., SKY, :].mean()) == pytest.approx(float(clean[..., SKY, :].mean()), abs=0.01)
    torch.testing.assert_close(restored[..., 36:, :], fogged[..., 36:, :])


def test_noise_and_dry_skies_are_not_taken_for_a_hidden_pattern() -> None:
    _, fogged, correction, inverse_depth = fogged_view(noise=0.02)
    unchanged = with_far_pattern(fogged, correction, inverse_depth)
    torch.testing.assert_close(unchanged, correction, atol=0.02, rtol=0)
    clean, _, _, _ = fogged_view()
    slight = torch.full_like(clean, 3 / 255)
    torch.testing.assert_close(with_far_pattern(clean, slight, inverse_depth), slight)


def test_the_loss_on_the_image_reaches_depth_through_guidance_alone() -> None:
    image = torch.rand(1, 3, 64, 64)
    for name, reached in (("fast", True), ("fast-unguided", False)):
        network = randomise(build_network(name))
        correction, _ = network(image)
        correction.square().mean().backward()
        gradient = network.depth_head.refine[0][0].weight.grad
        assert (gradient is not None and bool(gradient.abs().sum() > 0)) is reached, name


def test_a_streak_estimate_tells_pixels_apart_and_sees_34_of_them_along_a_side() -> None:
    stage = randomise(StreakStage(8)).eval()
    image = torch.rand(1, 3, 64, 64, requires_grad=True)
    for row, column in ((32, 32), (32, 33), (33, 32), (33, 33)):
        (gradient,) = torch.autograd.grad(stage(image)[0, :, row, column].sum(), image)
        seen = gradient[0].abs().sum(dim=0)
        assert seen[row, column] > 2 * seen[16, 16]
        assert seen[16:50, 16:50].all()
        assert not seen[:, :16].any()
        assert not seen[50:].any()


@pytest.mark.parametrize("name", ["fast", "judge"])
def test_folding_batch_norms_changes_nothing_and_leaves_none(name: str) -> None:
    network = randomise(build_network(name))
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 2)
    network.eval()
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        before = network(image)
        folded = fold_batch_norms(network)
        after = folded(image)
    assert not any(isinstance(module, ConvNorm | torch.nn.BatchNorm2d) for module in folded.modules())
    for one, other in zip(before, after, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_the_papers_network_has_the_size_that_the_publication_states() -> None:
    parameters = sum(parameter.numel() for parameter in build_network("paper").parameters())
    assert parameters == pytest.approx(8.19e6, rel=0.02)


def test_a_weights_file_is_enough_to_rebuild_its_network(tmp_path) -> None:
    network = randomise(build_network("fast")).eval()
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
