"""The networks: shapes, guidance, folding, weights files. What a trained one achieves is the evaluation's."""

from __future__ import annotations

import pytest
import torch

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
from rain_removal_ros.network.blocks import ConvNorm
from rain_removal_ros.network.presets import DerainPreset

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


def test_the_loss_on_the_image_reaches_depth_through_guidance_alone() -> None:
    image = torch.rand(1, 3, 64, 64)
    for name, reached in (("fast", True), ("fast-unguided", False)):
        network = randomise(build_network(name))
        correction, _ = network(image)
        correction.square().mean().backward()
        gradient = network.depth_head.refine[0][0].weight.grad
        assert (gradient is not None and bool(gradient.abs().sum() > 0)) is reached, name


def test_folding_batch_norms_changes_nothing_and_leaves_none() -> None:
    network = randomise(build_network("fast"))
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
