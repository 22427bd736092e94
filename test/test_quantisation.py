"""8-bit integers: what is calibrated, what is quantised, and how far that is from floats."""

from __future__ import annotations

import pytest
import torch
from runtime_fixtures import TINY, TINY_SEGMENTATION, random_network
from torch import nn

from rain_removal_ros.network.quantisation import (
    QuantisedConv2d,
    calibrate,
    convolutions,
    quantised,
    ranges_of,
)


def images(*brightness: float) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [value * torch.rand(1, 3, 64, 64, generator=generator) for value in brightness]


def test_the_streak_stage_and_the_decoder_are_quantised_and_what_finds_weather_and_depth_is_not():
    chosen = convolutions(random_network(TINY))
    parts = {name.split(".")[0] for name in chosen}
    assert parts == {"streaks", "stages", "fine", "detail"}
    assert not any(name.startswith("streaks.rain.") for name in chosen)
    assert convolutions(random_network(TINY_SEGMENTATION)) == {}
    assert convolutions(random_network("paper")) == {}


def test_ranges_are_the_mean_over_images_of_what_each_layer_takes():
    network = random_network(TINY)
    dark, bright = images(0.1, 1.0)
    one, other = calibrate(network, [dark]), calibrate(network, [bright])
    both = calibrate(network, [dark, bright])
    assert both.keys() == convolutions(network).keys()
    for name, pair in both.items():
        means = [(a + b) / 2 for a, b in zip(one[name], other[name], strict=True)]
        assert pair == pytest.approx(means)
    stem = one["streaks.stem"]
    assert stem == pytest.approx((float(dark.min()), float(dark.max())))
    assert not any(module._forward_pre_hooks for module in network.modules()), "it still watches"


@pytest.mark.parametrize(("least", "greatest"), [(0.0, 1.0), (-0.3, 0.9), (0.2, 0.9), (-0.9, -0.2)])
def test_a_quantised_convolution_is_within_half_a_level_of_every_number_it_takes(least, greatest):
    layer = nn.Conv2d(1, 1, 1, bias=False)
    nn.init.ones_(layer.weight)
    generator = torch.Generator().manual_seed(0)
    x = least + (greatest - least) * torch.rand(1, 1, 32, 32, generator=generator)
    with torch.no_grad():
        given = QuantisedConv2d(layer, least, greatest)(x)
    level = (max(greatest, 0.0) - min(least, 0.0)) / 255
    assert 0 < (given - x).abs().max() <= 1.01 * level  # 0 is a level, which moves the ends by half of one


def test_numbers_beyond_the_range_end_at_it():
    layer = nn.Conv2d(1, 1, 1, bias=False)
    nn.init.ones_(layer.weight)
    with torch.no_grad():
        given = QuantisedConv2d(layer, -0.5, 1.0)(torch.tensor([-9.0, 0.0, 9.0]).reshape(1, 1, 1, 3))
    assert given.flatten().tolist() == pytest.approx([-0.5, 0.0, 1.0], abs=1.5 / 255)


def test_a_copy_is_quantised_and_the_network_stays_as_it_is():
    network = random_network(TINY)
    with pytest.raises(ValueError, match="ranges for 8-bit integers"):
        quantised(network)
    (image,) = images(1.0)
    network.input_ranges = calibrate(network, [image])
    with torch.no_grad():
        before, integers, after = network(image), quantised(network)(image), network(image)
    assert torch.equal(before.correction, after.correction)
    difference = (integers.correction - before.correction).abs()
    assert 0 < difference.mean() < 0.1 * before.correction.abs().mean()
    assert ranges_of(quantised(network)) == network.input_ranges
