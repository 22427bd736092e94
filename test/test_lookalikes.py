"""Dry look-alikes of rain and fog: they change the image as they say; the same seed makes the same one."""

from __future__ import annotations

import numpy as np
import pytest

from rain_removal_ros.errors import ImageError
from rain_removal_ros.lab.weather.lookalikes import HELD_OUT, LOOKALIKES, random_lookalike

ROAD, BUILDING, SKY = 0, 2, 10
SKY_ROWS, ROAD_ROWS = slice(0, 40), slice(60, 120)


@pytest.fixture(name="view")
def street_view() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A grey road below a row of brown houses below a blue sky: image, inverse depth, labels."""
    generator = np.random.default_rng(5)
    image = np.empty((120, 160, 3), np.uint8)
    labels = np.full((120, 160), BUILDING, np.uint8)
    depth = np.full((120, 160), 0.04, np.float32)
    image[:] = (120, 90, 70)
    image[SKY_ROWS], labels[SKY_ROWS], depth[SKY_ROWS] = (110, 150, 210), SKY, 0
    image[ROAD_ROWS], labels[ROAD_ROWS] = (95, 95, 95), ROAD
    depth[ROAD_ROWS] = np.linspace(0.04, 0.3, 60, dtype=np.float32)[:, None]
    image = np.clip(image + generator.normal(0, 4, image.shape), 0, 255).astype(np.uint8)
    return image, depth, labels


KINDS = LOOKALIKES | HELD_OUT


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_changes_the_image_alike_for_the_same_seed(view, kind):
    image = view[0].copy()
    first = KINDS[kind](*view, np.random.default_rng(3))
    again = KINDS[kind](*view, np.random.default_rng(3))
    other = KINDS[kind](*view, np.random.default_rng(6))
    assert first.dtype == np.uint8 and first.shape == image.shape
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    assert not np.array_equal(first, image)
    assert np.array_equal(view[0], image), "the clean image must stay as it was"


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_takes_small_images_without_labels_and_with_unknown_depth(view, kind):
    image, depth, labels = (part[30:70, 20:51] for part in view)
    depth = depth.copy()
    depth[25:] = np.nan
    for seed in range(6):
        result = KINDS[kind](image, depth, np.full_like(labels, 255), np.random.default_rng(seed))
        assert result.shape == image.shape


def mean_change(view, kind: str, rows: slice, seeds: int = 6) -> float:
    changes = [
        LOOKALIKES[kind](*view, np.random.default_rng(seed))[rows].mean() - view[0][rows].mean()
        for seed in range(seeds)
    ]
    return float(np.mean(changes))


def test_long_exposures_clip_the_sky(view):
    result = LOOKALIKES["overexposed"](*view, np.random.default_rng(0))
    assert (result[SKY_ROWS] == 255).mean() > 0.3 > (view[0][SKY_ROWS] == 255).mean()


def test_snow_whitens_the_road_and_night_darkens_all(view):
    assert mean_change(view, "snow", ROAD_ROWS) > 20
    assert mean_change(view, "night", SKY_ROWS) < -60
    assert mean_change(view, "night", ROAD_ROWS) < -10


def test_a_wet_road_mirrors_the_sky_above_the_houses(view):
    image, depth, labels = view
    labels = np.where(labels == BUILDING, SKY, labels).astype(np.uint8)
    blue_sky = image.copy()
    blue_sky[:60] = (20, 60, 250)
    result = LOOKALIKES["wet_road"](blue_sky, depth, labels, np.random.default_rng(2)).astype(int)
    assert np.array_equal(result[:50], blue_sky[:50])
    road = result[70:]
    assert (road[..., 2] - road[..., 0]).mean() > 10, "the grey road should take the colour of the sky"


def test_overcast_takes_the_blue_from_the_sky(view):
    for seed in range(4):
        sky = LOOKALIKES["overcast"](*view, np.random.default_rng(seed))[5:30].astype(int)
        assert abs((sky[..., 2] - sky[..., 0]).mean()) < 45, "the clean sky is bluer by 100"
        assert sky.std(axis=(0, 1)).max() < 20


def test_another_cameras_rendering_lifts_near_and_far_alike_which_fog_does_not(view):
    image, depth, labels = view
    black = np.zeros_like(image)
    lifted = [LOOKALIKES["tone"](black, depth, labels, np.random.default_rng(seed)) for seed in range(20)]
    assert all(np.ptp(one, axis=(0, 1)).max() == 0 for one in lifted)
    assert sum(one.mean() > 20 for one in lifted) > 5
    greys = [LOOKALIKES["tone"](image, depth, labels, np.random.default_rng(seed)) for seed in range(20)]
    spread = [np.ptp(one[..., 2].astype(float) - one[..., 0]) for one in greys]
    assert min(spread) < 20 < max(spread), "some cameras see little colour or none"


def test_nothing_is_trained_on_what_is_held_out():
    assert HELD_OUT and not set(HELD_OUT) & set(LOOKALIKES)


def test_random_lookalikes_are_of_many_kinds_and_repeat_with_their_seed(view):
    images = [random_lookalike(*view, np.random.default_rng(seed)) for seed in range(12)]
    again = [random_lookalike(*view, np.random.default_rng(seed)) for seed in range(12)]
    assert all(np.array_equal(one, other) for one, other in zip(images, again, strict=True))
    assert len({image.tobytes() for image in images}) == 12


def test_parts_of_different_size_are_refused(view):
    image, depth, labels = view
    with pytest.raises(ImageError, match="differ in size"):
        random_lookalike(image, depth[:50], labels, np.random.default_rng(0))
    with pytest.raises(ImageError, match="uint8"):
        random_lookalike(image.astype(np.float32), depth, labels, np.random.default_rng(0))
