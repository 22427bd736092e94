"""The terms of the loss against values computed by hand."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from rain_removal_ros.lab.data.datasets import Example
from rain_removal_ros.lab.training import losses
from rain_removal_ros.lab.training.objective import Objective
from rain_removal_ros.lab.training.settings import PARTS, LossWeights, TrainingSettings
from rain_removal_ros.lab.training.trainer import choose_part
from rain_removal_ros.network import build_network, get_preset


def test_image_l1_is_the_mean_absolute_difference() -> None:
    clean = torch.zeros(1, 3, 2, 2)
    restored = clean.clone()
    restored[0, 0, 0, 0] = 0.6
    assert float(losses.image_l1(restored, clean)) == pytest.approx(0.6 / 12)


def test_fidelity_is_minus_the_psnr_in_tens_of_decibels() -> None:
    clean = torch.zeros(2, 3, 4, 4)
    restored = torch.stack([torch.full((3, 4, 4), 0.1), torch.full((3, 4, 4), 0.01)])
    expected = (math.log10(0.01 + 3e-4) + math.log10(0.0001 + 3e-4)) / 2
    everything = torch.ones(2, 4, 4, dtype=torch.bool)
    assert float(losses.fidelity(restored, clean, everything)) == pytest.approx(expected, rel=1e-5)


def test_fidelity_leaves_out_what_is_not_counted() -> None:
    clean = torch.zeros(2, 3, 4, 4)
    restored = torch.full_like(clean, 0.1)
    restored[:, :, :3] = 0.7  # a sky
    counted = torch.zeros(2, 4, 4, dtype=torch.bool)
    counted[0, 3] = True  # of the second sample nothing is
    expected = (math.log10(0.01 + 3e-4) + math.log10(3e-4)) / 2
    assert float(losses.fidelity(restored, clean, counted)) == pytest.approx(expected, rel=1e-5)


def test_gradient_l1_counts_edges_and_not_offsets() -> None:
    clean = torch.rand(1, 3, 8, 8)
    assert float(losses.gradient_l1(clean + 0.3, clean)) == pytest.approx(0, abs=1e-6)
    streak = torch.zeros(1, 1, 4, 4)
    streak[..., 1] = 1.0  # two vertical edges a row, of three differences a row; none along the streak
    assert float(losses.gradient_l1(streak, torch.zeros_like(streak))) == pytest.approx(2 / 3)


def smooth(error: float) -> float:
    return math.sqrt(error**2 + 1.6e-5) - 0.004


def test_streaks_l1_counts_light_left_over_more_and_leaves_unknown_pixels_out() -> None:
    truth = torch.full((1, 3, 2, 2), 0.3, dtype=torch.float16)
    assert float(losses.streaks_l1(truth.float(), truth)) == pytest.approx(0, abs=1e-7)
    for estimate, expected in ((0.2, losses.LEFT_OVER * smooth(0.1)), (0.4, smooth(0.1))):
        loss = float(losses.streaks_l1(torch.full((1, 3, 2, 2), estimate), truth))
        assert loss == pytest.approx(expected, rel=5e-3)
    truth[0, 1:] = math.nan
    assert float(losses.streaks_l1(torch.full((1, 3, 2, 2), 0.4), truth)) == pytest.approx(
        smooth(0.1), rel=5e-3
    )
    assert float(losses.streaks_l1(torch.ones(1, 3, 2, 2), torch.full_like(truth, math.nan))) == 0


def test_presence_is_a_cross_entropy_over_samples_that_can_be_told() -> None:
    logits = torch.tensor([2.0, -1.0, 5.0]).view(3, 1, 1, 1)
    truth = torch.tensor([1.0, 0.0, math.nan])
    expected = (math.log(1 + math.exp(-2)) + math.log(1 + math.exp(-1))) / 2
    assert float(losses.presence(logits, truth)) == pytest.approx(expected, rel=1e-5)
    dearer = (math.log(1 + math.exp(-2)) + 3 * math.log(1 + math.exp(-1))) / 2
    assert float(losses.presence(logits, truth, false_alarm=3)) == pytest.approx(dearer, rel=1e-5)


def test_airlight_l1_is_the_mean_error_where_there_is_fog() -> None:
    airlights = torch.tensor([0.8, 0.5, 0.1])[:, None, None, None]
    assert float(losses.airlight_l1(airlights, torch.tensor([0.7, 0.8, math.nan]))) == pytest.approx(0.2)


def test_extinction_l1_compares_cube_roots_where_there_is_fog() -> None:
    roots = torch.tensor([1.5, 9.0, 9.0]).view(3, 1, 1, 1)
    assert float(losses.extinction_l1(roots, torch.tensor([8.0, 0.0, math.nan]))) == pytest.approx(0.5)


def test_structural_is_zero_for_equal_images_and_follows_the_equation_for_flat_ones() -> None:
    image = torch.rand(1, 3, 16, 16)
    assert float(losses.structural(image, image)) == pytest.approx(0, abs=1e-5)
    one, other = torch.full((1, 3, 16, 16), 0.4), torch.full((1, 3, 16, 16), 0.8)
    luminance = (2 * 0.4 * 0.8 + 1e-4) / (0.4**2 + 0.8**2 + 1e-4)
    assert float(losses.structural(one, other)) == pytest.approx(1 - luminance, rel=1e-3)


def test_depth_l1_compares_logarithms_and_leaves_unknown_pixels_out() -> None:
    least = losses.LEAST_PIXELS_PER_METRE
    truth = torch.full((2, 8, 8), 20 - least)
    truth[:, :4] = math.nan
    measured = torch.ones(2, dtype=torch.bool)
    for estimate in (40 - least, 10 - least):  # half as far and twice as far are as wrong
        error = losses.depth_l1(torch.full((2, 1, 2, 2), estimate), truth, measured)
        assert float(error) == pytest.approx(math.log(2), rel=1e-4)
    sky = losses.depth_l1(torch.zeros(2, 1, 2, 2), torch.zeros(2, 8, 8), measured)
    assert float(sky) == 0
    assert float(losses.depth_l1(torch.ones(2, 1, 2, 2), torch.full((2, 8, 8), math.nan), measured)) == 0


def test_distance_error_counts_what_is_called_too_far_by_how_many_times() -> None:
    added = losses.FARTHEST_PIXELS_PER_METRE
    truth = torch.full((2, 8, 8), 20 - added)
    truth[:, :4] = math.nan
    measured = torch.ones(2, dtype=torch.bool)
    for estimate, wrong in ((5 - added, 3.0), (80 - added, 0.75)):  # four times as far, and a quarter
        error = losses.distance_error(torch.full((2, 1, 2, 2), estimate), truth, measured)
        assert float(error) == pytest.approx(wrong, rel=1e-4)
    assert float(losses.distance_error(torch.zeros(2, 1, 2, 2), torch.zeros(2, 8, 8), measured)) == 0


def test_derived_depth_is_taught_up_to_its_scale() -> None:
    truth = torch.tensor([[40.0, 20.0, 10.0, 0.0]]).expand(4, 4)[None]
    derived, measured = torch.tensor([False]), torch.tensor([True])
    bent = truth[:, None].clone()
    bent[..., 0] *= 2  # what is nearest, twice as near
    sky = truth[:, None].clone()
    sky[..., 3] = 5
    for error in (losses.depth_l1, losses.distance_error):
        assert float(error(2 * truth[:, None], truth, derived)) == pytest.approx(0, abs=1e-5)
        assert float(error(2 * truth[:, None], truth, measured)) > 0.1
        for wrong in (bent, sky):
            as_measured = losses.DERIVED * float(error(wrong, truth, measured))
            assert float(error(wrong, truth, derived)) == pytest.approx(as_measured, rel=1e-4)
        assert float(error(2 * bent * (truth > 0), truth, derived)) == pytest.approx(
            losses.DERIVED * float(error(bent, truth, measured)), rel=1e-4
        )


def test_what_derived_depth_teaches_is_finite_where_everything_is_called_sky() -> None:
    truth = torch.full((1, 4, 4), 20.0)
    estimate = torch.zeros(1, 1, 4, 4, requires_grad=True)
    loss = losses.depth_l1(estimate + 1e-3, truth, torch.tensor([False]))
    loss.backward()
    assert math.isfinite(loss.item()) and estimate.grad is not None and bool((estimate.grad < 0).all())


def test_harm_counts_what_is_left_worse_than_it_came() -> None:
    clean, observed = torch.full((1, 3, 2, 2), 0.5), torch.full((1, 3, 2, 2), 0.6)
    assert float(losses.harm(torch.full_like(clean, 0.4), observed, clean)) == 0  # off by as much as before
    assert float(losses.harm(observed, observed, clean)) == 0
    worse = observed.clone()
    worse[..., 0] = 0.8
    expected = (0.3 - 0.1 - losses.HARMLESS) / 2
    assert float(losses.harm(worse, observed, clean)) == pytest.approx(expected, rel=1e-5)


def test_perceptual_is_the_mean_over_layers_of_the_relative_difference() -> None:
    clean = [torch.full((1, 2, 4, 4), 2.0), torch.full((1, 3, 2, 2), -4.0)]
    restored = [clean[0] + 0.5, clean[1] - 1.0]
    assert float(losses.perceptual(restored, clean)) == pytest.approx((0.5 / 2 + 1 / 4) / 2)
    assert float(losses.perceptual(clean, clean)) == 0


def test_semantic_is_the_divergence_of_class_probabilities() -> None:
    p, q = torch.tensor([0.75, 0.25]), torch.tensor([0.5, 0.5])
    logits_clean, logits_restored = p.log().view(1, 2, 1, 1), q.log().view(1, 2, 1, 1)
    expected = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    assert float(losses.semantic(logits_restored, logits_clean)) == pytest.approx(expected, rel=1e-5)
    assert float(losses.semantic(logits_clean, logits_clean)) == pytest.approx(0, abs=1e-7)


def test_segmentation_cross_entropy_weighs_rare_classes_and_leaves_unlabelled_pixels_out() -> None:
    logits = torch.zeros(1, 19, 2, 4)
    labels = torch.full((1, 2, 4), 255, dtype=torch.uint8)
    assert float(losses.segmentation_cross_entropy(logits, labels, 0.5)) == 0
    labels[0, 0] = 3
    labels[0, 1, 0] = 5  # four pixels of one class weigh twice what one of another does
    assert float(losses.segmentation_cross_entropy(logits, labels, 0.5)) == pytest.approx(
        math.log(19), rel=1e-5
    )
    logits[0, 5, 1, 0] = 50.0
    expected = 2 * math.log(19) / (2 + 1)
    alike = float(losses.segmentation_cross_entropy(logits, labels, 0.0))
    assert alike == pytest.approx(4 * math.log(19) / 5, rel=1e-5)
    assert float(losses.segmentation_cross_entropy(logits, labels, 0.5)) == pytest.approx(expected, rel=1e-5)


def batch() -> dict[str, torch.Tensor]:
    """One sample of noise in rain and fog."""
    generator = torch.Generator().manual_seed(0)

    def noise() -> torch.Tensor:
        return torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8, generator=generator)

    return {
        "rainy": noise(),
        "clean": noise(),
        "streaks": torch.full((1, 3, 64, 64), 0.05, dtype=torch.float16),
        "leftover": torch.zeros(1),
        "pixels_per_metre": torch.full((1, 64, 64), 20.0, dtype=torch.float16),
        "depth_measured": torch.ones(1, dtype=torch.bool),
        "rain": torch.ones(1),
        "fog": torch.ones(1),
        "extinction": torch.full((1,), 4.0),
        "airlight": torch.full((1,), 0.8),
        "labels": torch.full((1, 64, 64), 255, dtype=torch.uint8),
    }


@pytest.mark.parametrize("part", PARTS)
def test_every_term_of_a_part_teaches_it_and_leaves_the_rest_and_the_frozen_network_alone(part: str) -> None:
    torch.manual_seed(0)
    network = build_network("fast")
    frozen = build_network("segmentation").eval().requires_grad_(False)
    weights = LossWeights(semantic=0.04, perceptual=0.1)
    settings = TrainingSettings(get_preset("fast"), steps=1, part=part, weights=weights)
    choose_part(network, settings, [[Example("view", np.zeros((64, 64, 3), np.uint8))]])
    objective = Objective(network, settings, frozen)
    terms, _, _ = objective(batch())
    named = {term.name for term in dataclasses.fields(LossWeights)}
    own = {"streaks", "structural", "presence", "semantic", "perceptual"}
    of_part = {
        "streaks": own,
        "fog": named - {"streaks"},
        "depth": {"depth", "distance"},
        "all": named,
    }
    assert set(terms) == of_part[part]
    of_parts = {}
    for name, term in terms.items():
        network.zero_grad()
        term.backward(retain_graph=True)
        taught = {
            name.split(".")[0]
            for name, parameter in network.named_parameters()
            if parameter.grad is not None and parameter.grad.any()
        }
        assert taught or name == "harm", name  # a network that starts as the identity harms nothing
        of_parts[name] = taught
    reached = set().union(*of_parts.values())
    if part == "streaks":
        assert reached == {"streaks"}
    elif part == "depth":
        assert reached == {"trunk", "context", "depth_head"}
    else:
        assert {"trunk", "output", "atmosphere", "depth_head"} <= reached
        assert ("streaks" in reached) is (part == "all")
        assert ("streaks" in of_parts["image"]) is (part == "all"), (
            "the whole restoration teaches the streaks"
        )
    assert all(parameter.grad is None for parameter in frozen.parameters())
    assert not any("decoder" in name for name, _ in objective.named_parameters())
