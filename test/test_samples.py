"""Training samples: what they are drawn from and how weather comes onto them."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from training_fixtures import PLAIN, SMALL

from rain_removal_ros.errors import DatasetError
from rain_removal_ros.lab.data.datasets import Example, FolderDataset
from rain_removal_ros.lab.training.fog import CALM_BELOW, apparent_extinction, calm, with_the_fogs_sky
from rain_removal_ros.lab.training.samples import LOOKALIKES_DRY, RainySamples, _size_of
from rain_removal_ros.lab.weather import fog_in_linear_light


def test_a_sample_depends_on_seed_and_index_alone(street: FolderDataset) -> None:
    first, second = (RainySamples([street], SMALL, seed=4, count=20) for _ in range(2))
    for index in (7, 3):
        for name, tensor in first[index].items():
            assert torch.equal(torch.nan_to_num(tensor), torch.nan_to_num(second[index][name])), name
    other = RainySamples([street], SMALL, seed=5, count=20)
    assert not torch.equal(first[7]["rainy"], other[7]["rainy"])


def test_a_sample_draws_in_the_order_that_it_always_did(street: FolderDataset, monkeypatch) -> None:
    """Where its generator stands afterwards tells how many draws there were and of what kind, whatever
    version of OpenCV drew the pictures.
    """
    made = []

    def recording(seed: object) -> np.random.Generator:
        made.append(np.random.Generator(np.random.PCG64(seed)))
        return made[-1]

    drawn = dataclasses.replace(SMALL, lookalike_share=0)  # look-alikes draw by what they see
    samples = RainySamples([street], drawn, seed=0, count=24)
    monkeypatch.setattr("rain_removal_ros.lab.training.samples.np.random.default_rng", recording)
    following = []
    for index in range(len(samples)):
        made.clear()
        samples[index]
        following.append(int(made[0].integers(1000)))
    assert following == [
        *(48, 355, 222, 579, 11, 641, 277, 297, 271, 268, 445, 622),
        *(231, 419, 828, 629, 638, 506, 565, 618, 307, 365, 824, 367),
    ]


def test_the_stated_share_of_samples_is_dry_and_the_rest_is_not(street: FolderDataset) -> None:
    shares = dataclasses.replace(PLAIN, dry_share=0.3)
    samples = RainySamples([street], shares, seed=0, count=120)
    dry = sum(torch.equal(samples[i]["rainy"], samples[i]["clean"]) for i in range(120))
    assert 20 <= dry <= 52  # 36 expected, standard deviation 5


def test_dry_samples_are_as_often_noisy_as_rainy_ones_are(street: FolderDataset) -> None:
    noisy, quiet = (dataclasses.replace(PLAIN, dry_share=1, noise_share=share) for share in (0.5, 0.0))
    with_noise, without = (RainySamples([street], shares, seed=0, count=120) for shares in (noisy, quiet))
    differ = sum(not torch.equal(with_noise[i]["rainy"], without[i]["rainy"]) for i in range(120))
    assert abs(differ - 60) <= 16  # three standard deviations


def test_most_lookalikes_stay_dry(street: FolderDataset) -> None:
    others = dataclasses.replace(SMALL, lookalike_share=1, dry_share=0, fog_only_share=0.5)
    samples = RainySamples([street], others, seed=0, count=120)
    dry = sum(float(samples[i]["rain"]) == float(samples[i]["fog"]) == 0 for i in range(120))
    assert abs(dry - 120 * LOOKALIKES_DRY) <= 16  # three standard deviations


def test_samples_for_segmentation_are_dry_labelled_and_come_through_a_real_camera(street) -> None:
    noisy = dataclasses.replace(SMALL, noise_share=1.0)
    quiet = dataclasses.replace(SMALL, noise_share=0.0)
    noises = []
    for settings in (noisy, quiet):
        samples = RainySamples([street], settings, seed=0, count=6, rain=False)
        for index in range(6):
            sample = samples[index]
            assert torch.equal(sample["rainy"], sample["clean"])
            assert set(sample["labels"].unique().tolist()) <= {0, 10}
        noises.append(
            np.median([float(samples[i]["clean"].float().diff(dim=-1).abs().mean()) for i in range(6)])
        )
    assert noises[0] > noises[1]


def sky_over_street() -> tuple[np.ndarray, np.ndarray]:
    """A blue sky with a cloud over a grey street, and where the sky is."""
    image = np.full((64, 64, 3), 90, np.uint8)
    image[:32] = (120, 160, 220)
    image[8:16, 8:40] = 240
    sky = np.zeros((64, 64), bool)
    sky[:32] = True
    return image, sky


def test_behind_thick_fog_a_calm_sky_is_asked_for_and_behind_thin_fog_the_skys_own() -> None:
    image, sky = sky_over_street()
    thick = calm(image, sky, transmission=0.001)
    assert np.ptp(thick[:28].reshape(-1, 3).astype(int), axis=0).max() <= 3  # no clouds
    assert np.ptp(thick[:28].reshape(-1, 3).astype(int), axis=1).max() <= 3  # no hue
    assert abs(float(thick[:28].mean()) - float(image[:28].mean())) < 6  # as bright as it is
    assert np.array_equal(thick[36:], image[36:])
    assert np.array_equal(calm(image, sky, transmission=CALM_BELOW), image)


def test_a_sky_of_the_fogs_own_has_its_light_and_the_street_stays() -> None:
    image, sky = sky_over_street()
    grey = with_the_fogs_sky(image, sky, np.array([0.8, 0.8, 0.8], np.float32), np.random.default_rng(0))
    assert np.abs(grey[:28] / 255 - 0.8).max() < 0.1
    assert np.array_equal(grey[36:], image[36:])
    without = with_the_fogs_sky(image, np.zeros_like(sky), np.ones(3), np.random.default_rng(0))
    assert np.array_equal(without, image)


def test_a_dataset_pair_keeps_its_own_rain() -> None:
    clean = np.full((80, 80, 3), 50, np.uint8)
    pair = [Example("pair_0", clean, rainy=clean + 100)]
    rainy = dataclasses.replace(SMALL, dry_share=0)
    sample = RainySamples([pair], rainy, seed=0, count=1)[0]
    assert torch.equal(sample["rainy"], sample["clean"] + 100)
    assert torch.isnan(sample["pixels_per_metre"]).all()
    assert torch.isnan(sample["streaks"]).all()  # nobody knows them
    assert sample["rain"] == 1 and torch.isnan(sample["fog"])  # nor whether there is fog
    seen = [dataclasses.replace(pair[0], inverse_depth=np.full((80, 80), 0.1, np.float32))]
    assert RainySamples([seen], rainy, seed=0, count=1)[0]["fog"] == 1  # depth is what fog was rendered by


def test_of_pairs_the_stated_share_is_dry_or_a_network_would_forget_what_is() -> None:
    clean = np.full((80, 80, 3), 50, np.uint8)
    pair = [Example("pair_0", clean, rainy=clean + 100)]
    samples = RainySamples([pair], dataclasses.replace(PLAIN, dry_share=0.3), seed=0, count=120)
    dry = [sample for sample in map(samples.__getitem__, range(120)) if sample["rain"] == 0]
    assert 20 <= len(dry) <= 52  # 36 expected, standard deviation 5
    for sample in dry:
        assert torch.equal(sample["rainy"], sample["clean"])
        assert sample["fog"] == 0 and not sample["streaks"].any()


def test_the_light_of_streaks_is_what_rain_adds_to_fog(street) -> None:
    quiet = dataclasses.replace(PLAIN, dry_share=0, fog_only_share=0)
    streaks_only = RainySamples([street], dataclasses.replace(quiet, streaks_only_share=1), seed=1, count=8)
    for index in range(8):
        sample = streaks_only[index]
        added = (sample["rainy"].float() - sample["clean"].float()) / 255
        assert (sample["streaks"].float() - added).abs().max() < 1.5 / 255
    assert max(float(streaks_only[i]["streaks"].max()) for i in range(8)) > 0.1
    dry = RainySamples([street], dataclasses.replace(quiet, dry_share=1), seed=1, count=1)
    assert not dry[0]["streaks"].any()


def test_a_closer_crop_of_a_view_has_more_pixels_per_metre_at_the_same_distance(street) -> None:
    level = [
        dataclasses.replace(street[0], inverse_depth=np.full((96, 128), 0.1, np.float32), focal_px=100.0)
    ]
    for scale in (1.0, 1.5):
        fixed = dataclasses.replace(SMALL, scales=(scale, scale), small_zoom=1)
        samples = RainySamples([level], fixed, seed=0, count=1)
        assert float(samples[0]["pixels_per_metre"].median()) == pytest.approx(10 * scale, rel=0.02)


def test_an_image_smaller_than_a_crop_may_be_seen_at_its_own_size(street) -> None:
    image = np.random.default_rng(0).integers(0, 256, (50, 40, 3)).astype(np.uint8)
    small = [Example("small_0", image, inverse_depth=np.full((50, 40), 0.1, np.float32), focal_px=100.0)]
    quiet = dataclasses.replace(PLAIN, scales=(0.9, 0.9), small_zoom=1, dry_share=1)
    enlarged = RainySamples([small], quiet, seed=0, count=1)[0]
    assert float(enlarged["pixels_per_metre"].median()) == pytest.approx(10 * 64 / 40, rel=0.02)
    mirrored = RainySamples([small], dataclasses.replace(quiet, mirrored_share=1), seed=0, count=8)
    for index in range(8):
        sample = mirrored[index]
        assert float(sample["pixels_per_metre"].median()) == pytest.approx(10, rel=0.02)
        shown = {tuple(pixel) for pixel in sample["clean"].flatten(1).T.tolist()}
        assert shown == {tuple(pixel) for pixel in image.reshape(-1, 3).tolist()}  # all of it, and no more


def test_small_images_are_seen_at_many_scales_too(street) -> None:
    image = np.full((50, 40, 3), 90, np.uint8)
    small = [Example("small_0", image, inverse_depth=np.full((50, 40), 0.1, np.float32), focal_px=100.0)]
    many = dataclasses.replace(PLAIN, scales=(0.4, 1.3), small_zoom=2, dry_share=1)
    samples = RainySamples([small], many, seed=0, count=60)
    scales = [float(samples[i]["pixels_per_metre"].median()) / 10 for i in range(60)]
    assert 64 / 40 - 0.1 < min(scales) < 1.8
    assert 2.8 < max(scales) < 3.3  # twice what fills the crop


def test_a_crop_may_be_wider_than_high_and_shows_its_pixels_as_they_are(street) -> None:
    wide = dataclasses.replace(PLAIN, size=32, width=96, scales=(1, 1), small_zoom=1, dry_share=1)
    places = {tuple(pixel) for example in street for pixel in example.clean.reshape(-1, 3).tolist()}
    dry = RainySamples([street], wide, seed=1, count=4)
    rainy = RainySamples([street], dataclasses.replace(wide, dry_share=0, fog_only_share=0), seed=1, count=4)
    for index in range(4):
        sample = dry[index]
        assert sample["rainy"].shape == sample["streaks"].shape == (3, 32, 96)
        assert sample["labels"].shape == sample["pixels_per_metre"].shape == (32, 96)
        assert {tuple(pixel) for pixel in sample["clean"].flatten(1).T.tolist()} <= places
        assert rainy[index]["streaks"].shape == (3, 32, 96)


def test_fog_is_stated_with_its_extinction_and_dry_samples_with_none(street) -> None:
    foggy = dataclasses.replace(SMALL, dry_share=0, fog_only_share=1, streaks_only_share=0, lookalike_share=0)
    samples = RainySamples([street], foggy, seed=2, count=6)
    for index in range(6):
        sample = samples[index]
        assert (float(sample["fog"]), float(sample["rain"])) == (1, 0)
        assert float(sample["extinction"]) > 0
        assert 0 < float(sample["airlight"]) <= 1
        assert not sample["streaks"].any()
    dry = RainySamples([street], dataclasses.replace(foggy, dry_share=1), seed=2, count=1)[0]
    assert (float(dry["fog"]), float(dry["extinction"])) == (0, 0)
    assert math.isnan(float(dry["airlight"]))


@pytest.mark.parametrize("kind", ["dry", "foggy", "streaks"])
def test_a_scene_taken_darker_is_asked_for_as_dark(street, kind) -> None:
    shares = {"dry": (1, 0, 0), "foggy": (0, 1, 0), "streaks": (0, 0, 1)}[kind]
    names = ("dry_share", "fog_only_share", "streaks_only_share")
    foggy = dataclasses.replace(PLAIN, **dict(zip(names, shares, strict=True)))
    means = {}
    for share in (0.0, 1.0):
        samples = RainySamples([street], dataclasses.replace(foggy, exposure_share=share), seed=2, count=24)
        seen = [samples[index] for index in range(24)]
        means[share] = {
            name: np.mean([float(sample[name].float().mean()) for sample in seen]) for name in seen[0]
        }
    for name in (
        "rainy",
        "clean",
        *(["airlight"] if kind == "foggy" else []),
    ):  # 0.4 to 0.9 of the light, 0.65 in the mean
        assert 0.5 < means[1.0][name] / means[0.0][name] < 0.8, name


@pytest.mark.parametrize("fog_only", [0, 1])
def test_another_cameras_rendering_is_asked_for_as_it_renders_the_weather(street, fog_only) -> None:
    """Scene, fog and streaks alike: what is behind the weather has the same tones as the weather."""
    kind = dataclasses.replace(PLAIN, dry_share=0, fog_only_share=fog_only, streaks_only_share=1 - fog_only)
    other = 0
    for index in range(12):
        plain, rendered = (
            RainySamples([street], dataclasses.replace(kind, rendered_share=share), seed=3, count=12)[index]
            for share in (0.0, 1.0)
        )
        other += not torch.equal(plain["clean"], rendered["clean"])
        added = (rendered["rainy"].float() - rendered["clean"].float()) / 255
        if not fog_only:
            assert (rendered["streaks"].float() - added).abs().max() < 1.5 / 255
            continue
        # where little of the scene is left, it shows the fog's light
        thick = added.mean(dim=0) > 0.6
        if thick.any():
            seen = rendered["rainy"].float().mean(dim=0)[thick].mean() / 255
            assert float(seen) == pytest.approx(float(rendered["airlight"]), abs=0.2)
        assert float(rendered["extinction"]) > 0
    assert other >= 10


def test_a_fog_that_nobody_sees_is_not_said_to_be_there(street) -> None:
    near = [dataclasses.replace(street[0], inverse_depth=np.full((96, 128), 5.0, np.float32))]
    foggy = dataclasses.replace(PLAIN, dry_share=0, fog_only_share=1, paper_fog_share=1)
    samples = RainySamples([near], foggy, seed=0, count=8)
    for index in range(8):
        assert math.isnan(float(samples[index]["fog"]))  # 0.2 m of it


def test_sharpening_comes_after_the_weather(street) -> None:
    edges = {}
    for share in (0.0, 1.0):
        rainy = dataclasses.replace(PLAIN, dry_share=0, fog_only_share=0, sharpened_share=share)
        samples = RainySamples([street], rainy, seed=2, count=8)
        edges[share] = [float(samples[i]["rainy"].float().diff(dim=-1).abs().mean()) for i in range(8)]
    assert all(sharp > plain for sharp, plain in zip(edges[1.0], edges[0.0], strict=True))


def test_the_extinction_of_fog_is_the_one_that_grey_levels_show() -> None:
    generator = np.random.default_rng(3)
    scene = generator.uniform(0.1, 0.4, (40, 40, 3)).astype(np.float32)
    distance = generator.uniform(5, 200, (40, 40)).astype(np.float32)
    airlight = np.full((1, 1, 3), 0.85, np.float32)
    share = 1 - np.exp(-0.01 * distance)[..., None]
    even = scene * (1 - share) + airlight * share
    assert apparent_extinction(scene, even, airlight, distance) == pytest.approx(0.01, rel=1e-3)
    linear = fog_in_linear_light(scene, share, airlight)  # pales what is dark more than that
    assert 0.012 < apparent_extinction(scene, linear, airlight, distance) < 0.02
    assert math.isnan(apparent_extinction(airlight - 0.1 * scene, airlight, airlight, distance))


def test_training_without_clean_images_is_refused() -> None:
    with pytest.raises(DatasetError, match="no clean image"):
        RainySamples([[Example("wet", None, rainy=np.zeros((80, 80, 3), np.uint8))]], SMALL, seed=0, count=1)
    with pytest.raises(DatasetError, match="no examples"):
        RainySamples([], SMALL, seed=0, count=1)


def test_derived_depth_stands_for_measured_depth_only_where_nothing_is_measured() -> None:
    image, depth = np.full((96, 96, 3), 90, np.uint8), np.full((96, 96), 0.05, np.float32)
    derived = Example("street_1", image, inverse_depth=depth, depth_kind="geometry")
    measured = replace(derived, name="street_2", depth_kind="lidar")

    def kinds(*examples: Example) -> set[bool]:
        samples = RainySamples([list(examples)], SMALL, seed=0, count=12)
        return {bool(samples[index]["depth_measured"]) for index in range(len(samples))}

    assert kinds(derived) == {True}
    assert kinds(measured) == {True}
    assert kinds(derived, measured) == {True, False}


def test_a_dataset_too_large_to_hold_gives_the_same_samples(street, monkeypatch) -> None:
    held = RainySamples([street], replace(SMALL, measured_weight=4.0), seed=0, count=5)
    monkeypatch.setattr("rain_removal_ros.lab.training.samples.HELD_BYTES", 0)
    lazy = RainySamples([street], replace(SMALL, measured_weight=4.0), seed=0, count=5)
    assert lazy.example_count == held.example_count == 3
    for index in range(5):
        for name, tensor in held[index].items():
            assert torch.equal(tensor.nan_to_num(), lazy[index][name].nan_to_num()), name


@pytest.mark.parametrize(("processes", "held"), [(None, True), ("1", True), ("2", False)])
def test_the_processes_of_a_machine_share_the_memory_for_datasets(
    street, monkeypatch, processes, held
) -> None:
    """Each holds a copy of its own."""
    read = []

    class Counted:
        def __len__(self) -> int:
            return len(street)

        def __getitem__(self, index: int) -> Example:
            read.append(index)
            return street[index]

    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    if processes is not None:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", processes)
    monkeypatch.setattr("rain_removal_ros.lab.training.samples.HELD_BYTES", 1.5 * _size_of(street))
    samples = RainySamples([Counted()], SMALL, seed=0, count=1)
    read.clear()
    samples[0]
    assert (len(read) == 0) is held


def test_what_a_dataset_takes_is_told_by_examples_of_every_kind() -> None:
    small, large = (Example("view", np.zeros((side, side, 3), np.uint8)) for side in (10, 100))
    assert _size_of([small, large]) == 3 * (10**2 + 100**2)
    assert _size_of([]) == 0
