"""The rain model: the imaging equation by hand, the same rain from the same seed, and rain that falls."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from rain_removal_ros.errors import ImageError
from rain_removal_ros.lab.weather import (
    MAX_DISTANCE,
    PAPER_LEVELS,
    Rain,
    RainParameters,
    StreakLayer,
    compose,
    distance_from_inverse_depth,
    fog,
    fog_in_linear_light,
    level_parameters,
    rain_transmission,
    streak_bank,
)

LAYER = StreakLayer(density=0.004, length=0.1, width=0.002, strength=0.8, angle=10)


def test_distance_is_the_reciprocal_of_inverse_depth_and_ends_at_300_m():
    inverse_depth = np.array([0.5, 0.1, 1 / 300, 0.001, 0], np.float32)
    assert distance_from_inverse_depth(inverse_depth) == pytest.approx([2, 10, 300, 300, 300])
    assert MAX_DISTANCE == 300


def test_rain_transmission_is_constant_up_to_the_nearest_distance_and_then_decays():
    distance = np.array([1, 6, 50], np.float32)
    expected = np.exp([-0.02 * 6, -0.02 * 6, -0.02 * 50])
    assert rain_transmission(distance, alpha=0.02, nearest=6) == pytest.approx(expected, rel=1e-6)


def test_fog_is_one_minus_an_exponential_of_distance():
    distance = np.array([0, 20, 300], np.float32)
    expected = [0, 1 - np.exp(-0.2), 1 - np.exp(-3)]
    assert fog(distance, beta=0.01) == pytest.approx(expected, rel=1e-5)


def test_an_image_is_composed_as_the_equation_says():
    clean = np.array([[[200, 100, 0]]], np.uint8)
    rain, fog_share, airlight = 0.25, 0.4, 0.9
    observed = compose(clean, np.array([[rain]], np.float32), np.array([[fog_share]], np.float32), airlight)
    expected = [
        round(255 * (value / 255 * (1 - rain - fog_share) + rain + airlight * fog_share))
        for value in (200, 100, 0)
    ]
    assert observed[0, 0].tolist() == expected == [226, 191, 156]


def test_fog_in_linear_light_adds_light_and_not_grey_levels():
    scene, airlight = np.float32([[0.1, 0.5, 0.8]]), np.float32(0.8)
    assert fog_in_linear_light(scene, np.float32(0), airlight) == pytest.approx(scene, abs=1e-6)
    assert fog_in_linear_light(scene, np.float32(1), airlight) == pytest.approx(airlight)
    half = fog_in_linear_light(scene, np.float32(0.5), airlight)
    assert half == pytest.approx(((scene**2.2 + airlight**2.2) / 2) ** (1 / 2.2), abs=1e-6)
    paled = half - (scene + airlight) / 2
    assert paled[0, 0] > paled[0, 1] > 0.005 and paled[0, 2] == pytest.approx(0, abs=1e-6)


def test_rendering_puts_the_pieces_together_pixel_by_pixel():
    generator = np.random.default_rng(0)
    clean = generator.integers(0, 256, (60, 80, 3), dtype=np.uint8)
    inverse_depth = generator.uniform(0, 0.5, (60, 80)).astype(np.float32)
    parameters = RainParameters(0.02, 0.01, (LAYER,), airlight=0.8, nearest=5)
    rain = Rain(parameters, 60, 80, seed=3)
    pattern = rain.pattern(0.2).astype(np.float64)
    distance = np.minimum(1 / np.maximum(inverse_depth.astype(np.float64), 1e-9), 300)
    streaks = pattern * np.exp(-0.02 * np.maximum(distance, 5))
    share = 1 - np.exp(-0.01 * distance)
    expected = clean / 255 * (1 - streaks - share)[..., None] + (streaks + 0.8 * share)[..., None]
    expected = np.clip(np.rint(255 * expected), 0, 255)
    assert pattern.max() > 0.3
    assert np.abs(rain.render(clean, inverse_depth, 0.2) - expected).max() <= 1


def test_a_view_without_streaks_and_fog_stays_as_it_is():
    clean = np.random.default_rng(1).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    rain = Rain(RainParameters(0.02, 0.0, ()), 40, 50)
    assert (rain.render(clean, np.full((40, 50), 0.1, np.float32)) == clean).all()


def test_the_same_seed_and_time_give_the_same_rain_and_other_seeds_other_rain():
    parameters = level_parameters("medium", seed=4)
    first, again, other = (Rain(parameters, 90, 120, seed) for seed in (7, 7, 8))
    assert (first.pattern(0.3) == again.pattern(0.3)).all()
    assert (first.pattern(0.3) != other.pattern(0.3)).any()


def test_the_twelve_patterns_of_a_level_differ_and_repeat():
    assert level_parameters("heavy", 3) == level_parameters("heavy", 3)
    assert len({level_parameters("heavy", seed).layers[0].angle for seed in range(12)}) == 12


def test_the_levels_have_the_parameters_of_the_dataset():
    for level, (alpha, beta, _) in PAPER_LEVELS.items():
        parameters = level_parameters(level)
        assert (parameters.alpha, parameters.beta) == (alpha, beta)
        assert 0.75 <= parameters.airlight <= 0.95
    assert list(PAPER_LEVELS.values()) == [(0.01, 0.005, 0.01), (0.02, 0.01, 0.005), (0.03, 0.015, 0.002)]


def test_heavier_rain_takes_more_of_the_view():
    clean = np.random.default_rng(2).integers(0, 120, (120, 160, 3), dtype=np.uint8)
    inverse_depth = np.linspace(0.002, 0.2, 120, dtype=np.float32)[:, None].repeat(160, axis=1)
    harm = [
        np.abs(
            Rain(level_parameters(level), 120, 160).render(clean, inverse_depth) - clean.astype(float)
        ).mean()
        for level in ("light", "medium", "heavy")
    ]
    assert harm[0] < harm[1] < harm[2]


def test_rain_falls_along_its_angle_from_frame_to_frame():
    layer = replace(LAYER, angle=0, speed=2.0)
    rain = Rain(RainParameters(0.02, 0.01, (layer,)), 100, 140, seed=1)
    before, after = rain.pattern(0.0), rain.pattern(0.1)  # 2 image heights a second: 20 rows in 0.1 s
    shifts = {
        (down, aside): np.abs(
            after[30:70, 40:100] - before[30 - down : 70 - down, 40 - aside : 100 - aside]
        ).mean()
        for down in range(-30, 31)
        for aside in range(-10, 11)
    }
    best = min(shifts, key=shifts.get)
    assert shifts[best] < 1e-6
    assert best[0] == 20  # down
    assert abs(best[1]) <= round(0.37 * 20)  # the drift aside


def test_streaks_lean_by_their_angle():
    upright, leaning = (
        Rain(
            RainParameters(0.0, 0.0, (replace(LAYER, angle=angle, density=0.0005),)), 200, 200, seed=5
        ).pattern()
        for angle in (0, 40)
    )

    def spread(pattern: np.ndarray) -> float:
        down, aside = np.gradient(pattern)
        return float(np.abs(down).mean() / np.abs(aside).mean())

    assert spread(upright) < 0.6 * spread(leaning)


def test_a_crop_has_the_streaks_of_the_whole_view():
    layer = replace(LAYER, angle=0, width=0.001)
    parameters = RainParameters(0.0, 0.0, (layer,))
    whole = Rain(parameters, 400, 400, seed=2).pattern()
    crop = Rain(parameters, 100, 100, seed=2, reference_height=400).pattern()
    shrunk = Rain(parameters, 100, 100, seed=2).pattern()
    cover = [float((pattern > 0.1).mean()) for pattern in (whole, crop)]
    assert cover[1] == pytest.approx(cover[0], rel=0.35)

    def longest(pattern: np.ndarray) -> int:
        """The longest run of rain down a column."""
        best = run = np.zeros(pattern.shape[1], int)
        for row in pattern > 0.1:
            run = np.where(row, run + 1, 0)
            best = np.maximum(best, run)
        return int(np.median(best[best > 0]))

    assert longest(crop) > 2 * longest(shrunk)  # 40 pixels long, not 10


def test_resolution_does_not_change_how_much_rain_a_scene_has():
    parameters = RainParameters(0.0, 0.0, (replace(LAYER, width=0.004),))
    cover = [float(Rain(parameters, size, size, seed=3).pattern().mean()) for size in (180, 360, 720)]
    assert max(cover) < 1.4 * min(cover)


def test_wrong_sizes_and_levels_are_refused():
    rain = Rain(level_parameters("light"), 40, 50)
    clean, inverse_depth = np.zeros((40, 50, 3), np.uint8), np.zeros((40, 50), np.float32)
    with pytest.raises(ImageError, match="50x40"):
        rain.render(clean[:39], inverse_depth)
    with pytest.raises(ImageError, match="inverse depth"):
        rain.render(clean, inverse_depth[:, :49])
    with pytest.raises(ImageError, match="0x40"):
        Rain(level_parameters("light"), 40, 0)
    with pytest.raises(ImageError, match="differ in size"):
        compose(clean, inverse_depth, inverse_depth[:39], 0.9)
    with pytest.raises(ValueError, match="drizzle"):
        level_parameters("drizzle")


def test_fine_even_rain_covers_most_and_nothing_of_it_stands_out(monkeypatch):
    shares, brightest = {}, {}
    monkeypatch.setattr(streak_bank, "WIDE", 0.0)
    for kind, fine in (("fine", 1.0), ("other", 0.0)):
        monkeypatch.setattr(streak_bank, "FINE", fine)
        pictures = np.stack([streak_bank.draw_picture(np.random.default_rng(seed)) for seed in range(8)])
        shares[kind] = (pictures > 2).mean()
        brightest[kind] = np.quantile(pictures, 0.9999)
    assert shares["fine"] > 0.7 > shares["other"]
    assert brightest["fine"] < 130 < brightest["other"]


def test_wide_streaks_are_soft(monkeypatch):
    kept = {}
    monkeypatch.setattr(streak_bank, "FINE", 0.0)
    for wide in (0.0, 1.0):
        monkeypatch.setattr(streak_bank, "WIDE", wide)
        pictures = [streak_bank.draw_picture(np.random.default_rng(seed)) for seed in range(8)]
        spreads = [(picture.std(), cv2.blur(picture, (7, 1)).std()) for picture in pictures]
        kept[wide] = np.median([blurred / plain for plain, blurred in spreads])
    assert kept[1.0] > 0.8 > kept[0.0]  # of their contrast, over seven pixels across
