"""The terms of the loss against values computed by hand."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from rain_removal_ros.lab.baselines.efficientnet import PerceptualFeatures
from rain_removal_ros.lab.training import losses
from rain_removal_ros.lab.training.trainer import LossWeights, Objective, TrainingSettings
from rain_removal_ros.network import MAX_INVERSE_DEPTH, build_network, get_preset


def test_image_l1_is_the_mean_absolute_difference() -> None:
    clean = torch.zeros(1, 3, 2, 2)
    restored = clean.clone()
    restored[0, 0, 0, 0] = 0.6
    assert float(losses.image_l1(restored, clean)) == pytest.approx(0.6 / 12)


def test_fidelity_is_minus_the_psnr_in_tens_of_decibels() -> None:
    clean = torch.zeros(2, 3, 4, 4)
    restored = torch.stack([torch.full((3, 4, 4), 0.1), torch.full((3, 4, 4), 0.01)])
    expected = (math.log10(0.01 + 1e-5) + math.log10(0.0001 + 1e-5)) / 2
    assert float(losses.fidelity(restored, clean)) == pytest.approx(expected, rel=1e-5)


def test_gradient_l1_counts_edges_and_not_offsets() -> None:
    clean = torch.rand(1, 3, 8, 8)
    assert float(losses.gradient_l1(clean + 0.3, clean)) == pytest.approx(0, abs=1e-6)
    streak = torch.zeros(1, 1, 4, 4)
    streak[..., 1] = 1.0  # two vertical edges a row, of three differences a row; none along the streak
    assert float(losses.gradient_l1(streak, torch.zeros_like(streak))) == pytest.approx(2 / 3)


def test_coarse_gradient_counts_smears_and_forgives_what_averages_out() -> None:
    clean = torch.rand(1, 3, 8, 8)
    checked = torch.ones(8, 8)
    checked[::2, ::2] = checked[1::2, 1::2] = -1
    assert float(losses.coarse_gradient_l1(clean + 0.1 * checked, clean)) == pytest.approx(0, abs=1e-6)
    smear = torch.zeros(1, 1, 8, 8)
    smear[..., 4:] = 1.0  # one edge a row, of three differences at 1/2 and of one at 1/4
    assert float(losses.coarse_gradient_l1(smear, torch.zeros_like(smear))) == pytest.approx((1 / 3 + 1) / 2)


def test_streaks_l1_counts_error_and_edges_and_leaves_unknown_pixels_out() -> None:
    def smooth(error: float) -> float:
        return math.sqrt(error**2 + 1e-4) - 0.01

    truth = torch.zeros(1, 3, 2, 2, dtype=torch.float16)
    assert float(losses.streaks_l1(truth.float(), truth)) == pytest.approx(0, abs=1e-7)
    estimate = torch.zeros(1, 3, 2, 2)
    estimate[0, 1, 0, 1] = 0.3  # one pixel of twelve, one edge along either axis
    assert float(losses.streaks_l1(estimate, truth)) == pytest.approx(
        (1 + 0.5 * 2) * smooth(0.3) / 12, rel=1e-4
    )
    truth[0, 1:] = math.nan
    assert float(losses.streaks_l1(estimate, truth)) == 0
    assert float(losses.streaks_l1(estimate + 0.1, truth)) == pytest.approx(smooth(0.1), rel=1e-4)
    assert float(losses.streaks_l1(estimate, torch.full_like(truth, math.nan))) == 0


def test_structural_is_zero_for_equal_images_and_follows_the_equation_for_flat_ones() -> None:
    image = torch.rand(1, 3, 16, 16)
    assert float(losses.structural(image, image)) == pytest.approx(0, abs=1e-5)
    one, other = torch.full((1, 3, 16, 16), 0.4), torch.full((1, 3, 16, 16), 0.8)
    luminance = (2 * 0.4 * 0.8 + 1e-4) / (0.4**2 + 0.8**2 + 1e-4)
    assert float(losses.structural(one, other)) == pytest.approx(1 - luminance, rel=1e-3)


def test_depth_l1_compares_roots_and_leaves_unknown_pixels_out() -> None:
    truth = torch.full((1, 8, 8), MAX_INVERSE_DEPTH / 4)
    truth[:, :4] = math.nan
    estimate = torch.full((1, 1, 2, 2), MAX_INVERSE_DEPTH)
    expected = math.sqrt(1 + 1e-4) - math.sqrt(0.25 + 1e-4)
    assert float(losses.depth_l1(estimate, truth)) == pytest.approx(expected, rel=1e-5)
    assert float(losses.depth_l1(estimate, torch.full((1, 8, 8), math.nan))) == 0


def test_perceptual_is_the_mean_over_layers_of_the_relative_difference() -> None:
    clean = [torch.full((1, 2, 4, 4), 2.0), torch.full((1, 3, 2, 2), -4.0)]
    restored = [clean[0] + 0.5, clean[1] - 1.0]
    assert float(losses.perceptual(restored, clean)) == pytest.approx((0.5 / 2 + 1 / 4) / 2)
    assert float(losses.perceptual(clean, clean)) == 0


def test_perceptual_features_come_from_trained_weights_and_see_a_faint_streak() -> None:
    features = PerceptualFeatures()
    assert not any(p.requires_grad for p in features.parameters())
    image = torch.full((1, 3, 64, 64), 0.15)
    streak = image.clone()
    streak[..., 20:44, 30] += 0.04
    maps = features(image)
    assert [tuple(m.shape[2:]) for m in maps] == [(32, 32), (32, 32), (16, 16), (8, 8), (4, 4)]
    noticed = float(losses.perceptual(features(streak), maps))
    assert noticed > 5 * float((streak - image).abs().mean() / image.mean())


def test_semantic_is_the_divergence_of_class_probabilities() -> None:
    p, q = torch.tensor([0.75, 0.25]), torch.tensor([0.5, 0.5])
    logits_clean, logits_restored = p.log().view(1, 2, 1, 1), q.log().view(1, 2, 1, 1)
    expected = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    assert float(losses.semantic(logits_restored, logits_clean)) == pytest.approx(expected, rel=1e-5)
    assert float(losses.semantic(logits_clean, logits_clean)) == pytest.approx(0, abs=1e-7)


def test_segmentation_cross_entropy_leaves_unlabelled_pixels_out() -> None:
    logits = torch.zeros(1, 19, 2, 2)
    labels = torch.full((1, 2, 2), 255, dtype=torch.uint8)
    assert float(losses.segmentation_cross_entropy(logits, labels)) == 0
    labels[0, 0, 0] = 3
    assert float(losses.segmentation_cross_entropy(logits, labels)) == pytest.approx(math.log(19), rel=1e-5)


def test_the_semantic_term_teaches_the_derain_network_and_leaves_the_frozen_one_alone() -> None:
    torch.manual_seed(0)
    network = build_network("fast")
    frozen = build_network("segmentation").eval().requires_grad_(False)
    objective = Objective(
        network, TrainingSettings(get_preset("fast"), steps=1, weights=LossWeights(perceptual=0.1)), frozen
    )
    batch = {
        "rainy": torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8),
        "clean": torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8),
        "streaks": torch.zeros(1, 3, 64, 64, dtype=torch.float16),
        "inverse_depth": torch.full((1, 64, 64), math.nan, dtype=torch.float16),
        "labels": torch.full((1, 64, 64), 255, dtype=torch.uint8),
    }
    terms, _, _ = objective(batch)
    assert set(terms) == {term.name for term in dataclasses.fields(LossWeights)}
    for term in ("semantic", "perceptual"):
        network.zero_grad()
        terms[term].backward(retain_graph=True)
        assert network.output.weight.grad.abs().sum() > 0, term
    assert all(parameter.grad is None for parameter in frozen.parameters())
    assert not any("decoder" in name for name, _ in objective.named_parameters())
