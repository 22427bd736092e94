"""The figures of merit against values worked out by hand, or by another implementation."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
from skimage.metrics import structural_similarity

from rain_removal_ros.lab.evaluation.judges import folding_table
from rain_removal_ros.lab.evaluation.metrics import (
    MAX_PSNR,
    Flicker,
    agreement,
    class_iou,
    confusion,
    depth_errors,
    errors_by_distance,
    harmed,
    inside_border,
    light_shift,
    luma,
    luma_likeness,
    mean_iou,
    psnr,
    share_won_back,
    ssim,
    ssim_map,
)
from rain_removal_ros.lab.evaluation.protocols import PROTOCOLS


def test_psnr_by_hand():
    reference = np.zeros((2, 2, 3), np.uint8)
    image = reference.copy()
    image[0, 0, 0] = 30  # mean squared error 900 / 12 = 75
    assert psnr(image, reference) == pytest.approx(10 * np.log10(65025 / 75))
    assert psnr(reference, reference) == MAX_PSNR


def test_psnr_of_a_part_of_the_image():
    reference, where = np.zeros((2, 2, 3), np.uint8), np.array([[True, True], [False, False]])
    image = reference.copy()
    image[0, 0, 0], image[1, 1] = 30, 200  # mean squared error in the first row 900 / 6
    assert psnr(image, reference, where) == pytest.approx(10 * np.log10(65025 / 150))


def test_a_map_of_similarity_leaves_the_border_out_and_knows_where_the_difference_is():
    image = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    other = image.copy()
    other[:12] = 255 - other[:12]
    similarity = ssim_map(image, other)
    assert similarity.shape == (30, 20, 3)
    below = inside_border(np.arange(40)[:, None].repeat(30, axis=1) >= 20)
    assert similarity[below].min() > 0.999 > similarity[~below].mean()
    assert similarity.mean() == pytest.approx(ssim(image, other), abs=1e-6)


def test_a_pixel_is_harmed_that_ends_more_than_ten_levels_farther_from_the_truth():
    truth = np.full((1, 4, 3), 100, np.uint8)
    observed = np.uint8([[[120] * 3, [120] * 3, [100] * 3, [80] * 3]])
    restored = np.uint8([[[130] * 3, [131] * 3, [89] * 3, [100] * 3]])
    assert harmed(restored, observed, truth).tolist() == [[False, True, True, False]]


def test_errors_by_distance_by_hand():
    reference = np.full((1, 5, 3), 100, np.uint8)
    image = reference.copy()
    image[0, :, :] += np.array([0, 3, 6, 9, 12], np.uint8)[:, None]
    inverse_depth = 1 / np.array([[np.nan, np.inf, 90, 10, 15]])
    errors = errors_by_distance(image, reference, inverse_depth)
    assert errors == {
        "sky": 3,
        "over 80 m": 6,
        "10-20 m": pytest.approx(np.sqrt((9**2 + 12**2) / 2)),  # ten metres begin a band
    }


def test_how_a_sky_moved_by_hand():
    sky = np.zeros((20, 10), bool)
    sky[:10] = True
    grey = np.full((20, 10, 3), 200, np.uint8)
    painted = grey.copy()
    painted[:5, :, 2], painted[5:10, :, 0], painted[12:] = 230, 170, 0
    shift = light_shift(painted, grey, sky)
    assert shift.brightness == pytest.approx(0)
    assert shift.blueness == pytest.approx(30)  # half of it 30 more blue, half 30 less red
    assert shift.structure == pytest.approx(10)  # upper half 210, lower half 190
    assert light_shift(grey, grey, sky).structure == 0


def test_agreement_is_the_share_of_equal_labels():
    assert agreement(np.uint8([[1, 2, 3, 255]]), np.uint8([[1, 2, 4, 255]])) == 0.75


def test_psnr_refuses_what_cannot_be_compared():
    image = np.zeros((4, 4, 3), np.uint8)
    with pytest.raises(ValueError, match=r"\(4, 3, 3\)"):
        psnr(image, image[:, :3])
    with pytest.raises(ValueError, match="float64"):
        psnr(image, image.astype(float))


def test_ssim_equals_scikit_images():
    generator = np.random.default_rng(0)
    image = cv2.GaussianBlur(generator.integers(0, 256, (60, 75, 3), dtype=np.uint8), (0, 0), 2)
    other = np.clip(image + generator.normal(0, 12, image.shape), 0, 255).astype(np.uint8)
    expected = structural_similarity(
        image,
        other,
        channel_axis=2,
        data_range=255,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
    )
    assert 0.2 < expected < 0.95
    assert ssim(image, other) == pytest.approx(expected, abs=2e-5)
    assert ssim(image, image) == pytest.approx(1)
    with pytest.raises(ValueError, match="11x11"):
        ssim(image[:10], other[:10])


def test_the_luma_is_that_of_bt_601():
    colours = np.uint8([[[0, 0, 0], [255, 255, 255], [255, 0, 0], [0, 255, 0], [0, 0, 255]]])
    assert luma(colours)[0] == pytest.approx([16, 235, 81.481, 144.553, 40.966], abs=1e-3)


def test_likeness_of_the_luma_by_hand_and_by_scikit_image():
    generator = np.random.default_rng(4)
    image = cv2.GaussianBlur(generator.integers(0, 256, (40, 50, 3), dtype=np.uint8), (0, 0), 2)
    other = np.clip(image + generator.normal(0, 12, image.shape), 0, 255).astype(np.uint8)
    psnr_y, ssim_y = luma_likeness(other, image)
    error = (other.astype(float) - image) @ np.array([65.481, 128.553, 24.966]) / 255
    assert psnr_y == pytest.approx(10 * np.log10(255**2 / np.square(error).mean()), abs=1e-3)
    settings = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    expected = structural_similarity(luma(other), luma(image), data_range=255, **settings)
    assert 0.2 < expected < 0.95
    assert ssim_y == pytest.approx(expected, abs=2e-5)
    assert luma_likeness(image, image) == (MAX_PSNR, pytest.approx(1))


def test_depth_errors_by_hand():
    truth = np.array(
        [[0.1, 0.05, 0.0, 0.001]], np.float32
    )  # 10 m, 20 m, sky, 1000 m: the last two are not judged
    predicted = np.array([[0.125, 0.04, 0.5, 0.5]], np.float32)  # 8 m, 25 m
    errors = depth_errors(predicted, truth)
    assert errors.abs_rel == pytest.approx((0.2 + 0.25) / 2, abs=1e-6)
    assert errors.inverse_abs_rel == pytest.approx((0.25 + 0.2) / 2, abs=1e-6)
    assert errors.abs_rel_80 == errors.abs_rel
    assert depth_errors(np.float32([[0.12, 0.02, 0, 0]]), truth).delta == 0.5
    beyond = depth_errors(np.float32([[0.1, 0.001]]), np.float32([[0.1, 0.05]]))  # 20 m taken for far away
    assert beyond.abs_rel == pytest.approx((300 / 20 - 1) / 2, abs=1e-4)
    assert beyond.abs_rel_80 == pytest.approx((80 / 20 - 1) / 2, abs=1e-4)
    assert math.isnan(depth_errors(np.float32([[0.01]]), np.float32([[0.01]])).abs_rel_80)
    assert depth_errors(predicted, np.zeros((1, 4), np.float32)) is None


def test_unknown_depth_is_not_judged():
    truth = np.array([[0.1, np.nan]], np.float32)
    assert depth_errors(np.array([[0.1, 0.4]], np.float32), truth).abs_rel == pytest.approx(0, abs=1e-6)


def test_iou_by_hand():
    truth = np.array([[0, 0, 0, 1], [1, 10, 255, 255]], np.uint8)
    predicted = np.array([[0, 0, 1, 1], [0, 10, 10, 5]], np.uint8)
    iou = class_iou(confusion(truth, predicted))
    assert iou[0] == 2 / 4  # two right, one missed, one too many
    assert iou[1] == 1 / 3
    assert iou[10] == 1  # what is predicted where the truth is unlabelled counts for nothing
    assert np.isnan(iou[5]) and np.isnan(iou[2])
    assert mean_iou(confusion(truth, predicted)) == pytest.approx((1 / 2 + 1 / 3 + 1) / 3)


def test_a_class_that_only_the_prediction_has_lowers_the_others_and_is_no_class_of_its_own():
    truth, predicted = np.zeros((1, 4), np.uint8), np.array([[0, 0, 0, 7]], np.uint8)
    assert mean_iou(confusion(truth, predicted)) == 3 / 4
    assert np.isnan(mean_iou(confusion(np.full((1, 4), 255, np.uint8), predicted)))


def test_what_is_no_train_id_is_not_counted_as_one():
    truth = np.array([[0, 255]], np.uint8)
    assert confusion(truth, np.array([[0, 255]], np.uint8)).sum() == 1
    with pytest.raises(ValueError, match="255 was predicted"):
        confusion(truth, np.array([[255, 0]], np.uint8))


def test_confusions_of_several_images_add_up():
    generator = np.random.default_rng(3)
    truth, predicted = generator.integers(0, 19, (2, 2, 50, 50), dtype=np.uint8)
    together = confusion(truth.reshape(-1, 50), predicted.reshape(-1, 50))
    assert (sum(confusion(t, p) for t, p in zip(truth, predicted, strict=True)) == together).all()


def test_camvid_folds_what_it_does_not_tell_apart_and_keeps_the_unlabelled():
    folded = folding_table("camvid11")[np.array([13, 14, 15, 16, 17, 18, 6, 3, 9, 0, 255])]
    assert folded.tolist() == [13, 13, 13, 13, 12, 12, 7, 2, 8, 0, 255]
    assert (folding_table("cityscapes19") == np.arange(256)).all()


def test_the_share_won_back():
    assert share_won_back(clean=0.5, rainy=0.1, derained=0.4) == pytest.approx(0.75)
    assert share_won_back(clean=0.5, rainy=0.1, derained=0.05) < 0
    assert np.isnan(share_won_back(clean=0.5, rainy=0.5, derained=0.5))


def test_flicker_is_the_root_of_the_mean_variance_over_time():
    still, flicker = Flicker(), Flicker()
    for value in (10, 20, 10, 20):
        still.add(np.full((3, 4, 3), 77, np.uint8))
        frame = np.full((1, 2), 100, np.uint8)
        frame[0, 0] = value  # one pixel with a variance of 25, one with none
        flicker.add(frame)
    assert still.value == 0
    assert flicker.value == pytest.approx(np.sqrt(25 / 2))


def test_the_papers_protocol_cuts_and_squeezes():
    rows = np.arange(100, dtype=np.uint8)[:, None, None].repeat(200, axis=1).repeat(3, axis=2)
    picture = PROTOCOLS["paper-crop"].picture(rows)
    assert picture.shape == (256, 512, 3)
    assert (int(picture[0, 0, 0]), int(picture[-1, 0, 0])) == (4, 81)
    field = PROTOCOLS["paper-crop"].field(np.eye(100, 200, dtype=np.uint8) * 13)
    assert set(np.unique(field)) == {0, 13}
    assert PROTOCOLS["full"].picture(rows) is rows
