"""Training samples and the trainer: determinism, exact resuming, refusals. That training teaches is seen
on a tiny set.
"""

from __future__ import annotations

import csv
import dataclasses
import math
import os
import resource
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from accelerate import Accelerator
from runtime_fixtures import TINY, TINY_SEGMENTATION, write_weights

from rain_removal_ros.commands.main import main
from rain_removal_ros.errors import DatasetError, OutputError, PresetError, RainRemovalError, WeightsError
from rain_removal_ros.lab.data.datasets import Example, FolderDataset
from rain_removal_ros.lab.training import recipe, trainer
from rain_removal_ros.lab.training.fog import CALM_BELOW, apparent_extinction, calm, with_the_fogs_sky
from rain_removal_ros.lab.training.recipe import Stage
from rain_removal_ros.lab.training.samples import LOOKALIKES_DRY, RainySamples, SampleSettings, _size_of
from rain_removal_ros.lab.training.settings import (
    PARTS,
    LossWeights,
    TrainingSettings,
    learning_rate_at,
)
from rain_removal_ros.lab.training.trainer import train
from rain_removal_ros.lab.weather import fog_in_linear_light, streak_bank
from rain_removal_ros.network import build_network, get_preset, load_network, sha256_of
from rain_removal_ros.network.quantisation import convolutions, ranges_of
from rain_removal_ros.share import share_folder

SMALL = SampleSettings(size=64, pictures=3)
PLAIN = dataclasses.replace(
    SMALL,
    lookalike_share=0,
    light_share=0,
    blur_share=0,
    noise_share=0,
    sharpened_share=0,
    jpeg_share=0,
    exposure_share=0,
    rendered_share=0,
)
"""As a camera without faults takes it, in the light that it came in."""


@pytest.fixture(scope="module")
def street(tmp_path_factory) -> FolderDataset:
    """Three small views with depth and labels."""
    root = tmp_path_factory.mktemp("street")
    generator = np.random.default_rng(0)
    for folder in ("image", "inverse_depth", "labels"):
        (root / folder).mkdir()
    for index in range(3):
        image = cv2.resize(generator.integers(0, 256, (9, 12, 3), dtype=np.uint8), (128, 96))
        code = np.linspace(0, 255, 96, dtype=np.uint8)[:, None].repeat(128, axis=1)
        cv2.imwrite(str(root / "image" / f"view_{index}.png"), image)
        cv2.imwrite(str(root / "inverse_depth" / f"view_{index}.png"), code)
        cv2.imwrite(str(root / "labels" / f"view_{index}.png"), np.where(code > 128, 0, 10).astype(np.uint8))
    return FolderDataset(root)


@pytest.fixture(autouse=True)
def clock_looked_at_often(monkeypatch) -> None:
    """A run without time ends after three steps instead of ten."""
    monkeypatch.setattr(trainer, "CLOCK_EVERY", 3)


def settings(**changes) -> TrainingSettings:
    base = TrainingSettings(
        TINY,
        steps=6,
        batch=2,
        precision="no",
        samples=SMALL,
    )
    return dataclasses.replace(base, **changes)


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
        *(388, 355, 979, 579, 284, 641, 53, 297, 271, 268, 728, 739),
        *(231, 766, 430, 513, 638, 506, 623, 618, 193, 365, 80, 299),
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
    sample = RainySamples([pair], SMALL, seed=0, count=1)[0]
    assert torch.equal(sample["rainy"], sample["clean"] + 100)
    assert torch.isnan(sample["pixels_per_metre"]).all()
    assert torch.isnan(sample["streaks"]).all()  # nobody knows them
    assert sample["rain"] == 1 and torch.isnan(sample["fog"])  # nor whether there is fog
    seen = [dataclasses.replace(pair[0], inverse_depth=np.full((80, 80), 0.1, np.float32))]
    assert RainySamples([seen], SMALL, seed=0, count=1)[0]["fog"] == 1  # depth is what fog was rendered by


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


def test_a_resumed_run_ends_with_the_very_weights_of_an_uninterrupted_one(street, tmp_path) -> None:
    long = settings(steps=5)
    whole = train(long, [street], tmp_path / "whole", workers=0, show_progress=False)
    train(long, [street], tmp_path / "parts", workers=0, stop_after=0.0, show_progress=False)
    checkpoint = torch.load(tmp_path / "parts" / "checkpoint.pt", weights_only=True)
    assert checkpoint["step"] == 3
    parts = train(long, [street], tmp_path / "parts", workers=0, show_progress=False)
    one, other = load_network(whole)[0].state_dict(), load_network(parts)[0].state_dict()
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name


class ScalingAccelerator(Accelerator):
    """Scales gradients as half precision on a GPU does, and without one."""

    def __init__(self, mixed_precision: str, cpu: bool):
        super().__init__(mixed_precision="no", cpu=cpu)
        self.scaler = torch.amp.GradScaler("cpu", growth_interval=2)


def test_a_run_in_half_precision_is_resumed_with_the_scale_of_its_gradients(
    street, tmp_path, monkeypatch
) -> None:
    def go_on(output: str, **options) -> dict:
        run = settings(steps=5, precision="fp16")
        train(run, [street], tmp_path / output, workers=0, show_progress=False, **options)
        return torch.load(tmp_path / output / "checkpoint.pt", weights_only=True)

    monkeypatch.setattr(trainer, "Accelerator", ScalingAccelerator)
    whole, half = go_on("whole"), go_on("parts", stop_after=0.0)
    parts = go_on("parts")
    assert whole["scaler"]["scale"] == 2.0**16 * 2 ** (5 // 2)
    assert parts["scaler"] == whole["scaler"]
    for name, tensor in whole["network"].items():
        assert torch.equal(tensor, parts["network"][name]), name
    del half["scaler"]
    torch.save(half, tmp_path / "parts" / "checkpoint.pt")
    with pytest.raises(WeightsError, match=r"does not hold the scale of the gradients.* fp16"):
        go_on("parts")


def test_weights_name_the_weights_that_the_run_started_from(street, tmp_path) -> None:
    first = train(settings(steps=1), [street], tmp_path / "first", workers=0, show_progress=False)
    assert "start_from" not in load_network(first)[1]
    further = settings(steps=5)
    for start in ({"start_from": first, "streaks_from": first, "stop_after": 0.0}, {}):
        path = train(further, [street], tmp_path / "next", workers=0, show_progress=False, **start)
    training = load_network(path)[1]
    named = {"file": "weights.safetensors", "sha256": sha256_of(first)}
    assert (training["start_from"], training["streaks_from"]) == (named, named)


def test_a_run_is_resumed_with_the_very_segmentation_network_it_began_with(street, tmp_path) -> None:
    def trained(name: str, seed: int) -> Path:
        (tmp_path / name).mkdir()
        return write_weights(tmp_path / name / "mask.safetensors", TINY_SEGMENTATION, seed=seed)

    def go_on(segmentation: Path, **options) -> Path:
        run = settings(steps=5, segmentation="mask.safetensors")
        return train(run, [street], tmp_path / "run", segmentation, 0, show_progress=False, **options)

    first, other = trained("first", 1), trained("other", 2)
    go_on(first, stop_after=0.0)
    old, new = sha256_of(first)[:12], sha256_of(other)[:12]
    with pytest.raises(WeightsError, match=rf"mask\.safetensors of SHA-256 {old}, not .*other/mask.* {new}"):
        go_on(other)
    named = {"file": "mask.safetensors", "sha256": sha256_of(first)}
    assert load_network(go_on(first))[1]["segmentation_weights"] == named
    checkpoint = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)
    del checkpoint["origin"]["segmentation_weights"]
    torch.save(checkpoint, tmp_path / "run" / "checkpoint.pt")
    go_on(other)  # nobody knows what network an older run began with


@pytest.mark.parametrize(
    ("role", "what"), [("start_from", "first weights"), ("streaks_from", "first weights of the streak stage")]
)
def test_a_run_is_resumed_with_the_very_weights_it_began_with(street, tmp_path, role, what) -> None:
    first, other = (write_weights(tmp_path / f"{seed}.safetensors", seed=seed) for seed in (1, 2))

    def go_on(weights: Path | None, steps: int = 5, **options) -> Path:
        run = settings(steps=steps)
        options |= {role: weights}
        return train(run, [street], tmp_path / "run", workers=0, show_progress=False, **options)

    go_on(first, stop_after=0.0)
    with pytest.raises(
        WeightsError, match=rf"with {what} 1\.safetensors of SHA-256 .*, not .*2\.safetensors"
    ):
        go_on(other)
    assert load_network(go_on(None))[1][role] == {"file": "1.safetensors", "sha256": sha256_of(first)}
    run = settings(steps=1)
    train(run, [street], tmp_path / "own", workers=0, show_progress=False)
    with pytest.raises(WeightsError, match=rf"{what} of its own, not .*1\.safetensors"):
        train(run, [street], tmp_path / "own", workers=0, show_progress=False, **{role: first})


def changed_by(further: TrainingSettings, first: Path, street: FolderDataset, output: Path) -> set[str]:
    """First names of the tensors that a run that starts from `first` changes."""
    path = train(further, [street], output, workers=0, start_from=first, show_progress=False)
    before, after = (load_network(file)[0].state_dict() for file in (first, path))
    return {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}


def test_frozen_layers_keep_the_weights_they_start_with(street, tmp_path) -> None:
    first = train(settings(steps=1), [street], tmp_path / "first", workers=0, show_progress=False)
    frozen = settings(frozen=("trunk.blocks.1", "atmosphere"), learning_rate=3e-3)
    changed = changed_by(frozen, first, street, tmp_path / "next")
    assert not any(name.startswith(("trunk.blocks.1.", "atmosphere.")) for name in changed)
    for trained in ("trunk.blocks.0.", "trunk.blocks.2.", "output."):
        assert any(name.startswith(trained) for name in changed), trained


def test_a_layer_that_cannot_be_frozen_is_named(street, tmp_path) -> None:
    with pytest.raises(PresetError, match=r"no layer .trunc.; its parts are .*trunk"):
        train(settings(frozen=("trunc",)), [street], tmp_path, workers=0, show_progress=False)
    parts = tuple(name for name, _ in build_network(TINY).named_children())
    with pytest.raises(PresetError, match="nothing is left to train"):
        train(settings(frozen=parts), [street], tmp_path, workers=0, show_progress=False)


READOUTS = ("streaks.rain", "atmosphere.presence", "depth_head.output")


@pytest.mark.parametrize("part", PARTS)
def test_only_the_part_that_is_trained_changes(part: str, street, tmp_path) -> None:
    first = train(settings(steps=1), [street], tmp_path / "first", workers=0, show_progress=False)
    changed = changed_by(settings(part=part, learning_rate=3e-3), first, street, tmp_path / "next")
    names = {name.split(".")[0] for name in changed}
    assert ("streaks" in names) is (part in ("all", "streaks", "readouts"))
    alone = {"streaks": {"streaks"}, "depth": {"trunk", "context", "depth_head"}}
    if part == "readouts":
        layers = {name.rpartition(".")[0] for name in changed}
        assert {"depth_head.output", "streaks.rain.output", "atmosphere.presence.output"} <= layers
        assert all(layer.startswith(READOUTS) for layer in layers)
    else:
        assert names == alone[part] if part in alone else {"trunk", "depth_head", "output"} <= names
    assert (tmp_path / "next" / "sheet_0000006.jpg").is_file()


def test_a_finished_run_is_calibrated_for_8_bit_integers_and_one_under_way_is_not(street, tmp_path) -> None:
    path = train(settings(steps=5), [street], tmp_path, workers=0, stop_after=0.0, show_progress=False)
    assert ranges_of(load_network(path)[0]) == {}
    network = load_network(train(settings(steps=5), [street], tmp_path, workers=0, show_progress=False))[0]
    assert ranges_of(network).keys() == convolutions(network).keys()
    least, greatest = ranges_of(network)["streaks.stem"]
    assert 0 <= least < greatest <= 1, "what the stem takes is the image"


def test_what_cannot_be_started_from_or_trained_alone_is_named(street, tmp_path) -> None:
    with pytest.raises(PresetError, match="has no part 'streaks'"):
        plain = settings(preset=get_preset("paper"), part="streaks")
        train(plain, [street], tmp_path / "a", workers=0, show_progress=False)
    pair = [Example("pair_0", np.zeros((80, 80, 3), np.uint8), rainy=np.zeros((80, 80, 3), np.uint8))]
    for datasets in ([pair], [street, pair]):
        with pytest.raises(DatasetError, match="rendered rain"):
            train(settings(part="fog"), datasets, tmp_path / "b", show_progress=False)
    first = train(settings(steps=1), [street], tmp_path / "first", workers=0, show_progress=False)
    for changes in ({"streak_channels": (4, 8)}, {"depths": (2, 3, 2, 1)}, {"depth_channels": 16}):
        other = settings(preset=dataclasses.replace(TINY, **changes))
        with pytest.raises(WeightsError, match="do not fit preset fast"):
            train(other, [street], tmp_path / "c", workers=0, start_from=first, show_progress=False)


def test_a_run_goes_on_with_its_own_images_alone(street, tmp_path) -> None:
    half = {"workers": 0, "stop_after": 0.0, "show_progress": False}
    train(settings(steps=6), [street], tmp_path, **half)
    with pytest.raises(WeightsError, match="of a run on other images"):
        train(settings(steps=6), [street, street], tmp_path, **half)
    train(settings(steps=6), [street], tmp_path, **half)


def test_terms_of_meaning_need_a_segmentation_network(street, tmp_path) -> None:
    run = settings(weights=LossWeights(semantic=0.1))
    with pytest.raises(PresetError, match=r"weights 0\.1 and 0 of the semantic and perceptual terms need"):
        train(run, [street], tmp_path, show_progress=False)
    derains = write_weights(tmp_path / "derains.safetensors")
    with pytest.raises(WeightsError, match=r"derains\.safetensors holds preset fast; .* need a segmentation"):
        train(run, [street], tmp_path / "run", segmentation_weights=derains, show_progress=False)


def test_a_loss_that_grows_beyond_all_bounds_is_said_and_not_saved(street, tmp_path) -> None:
    with pytest.raises(RainRemovalError, match=r"not finite at step \d"):
        train(
            settings(steps=6, learning_rate=1e30, clip=1e30),
            [street],
            tmp_path,
            workers=0,
            checkpoint_every=2,
            show_progress=False,
        )
    for path in tmp_path.glob("weights.safetensors"):
        network = load_network(path)[0]
        assert all(tensor.isfinite().all() for tensor in network.state_dict().values())


def test_a_damaged_checkpoint_is_said(street, tmp_path) -> None:
    (tmp_path / "checkpoint.pt").write_bytes(b"no checkpoint")
    with pytest.raises(WeightsError, match=r"checkpoint\.pt is damaged; remove it"):
        train(settings(), [street], tmp_path, workers=0, show_progress=False)


def test_a_sheet_that_cannot_be_written_is_said_and_the_run_goes_on_later(street, tmp_path) -> None:
    in_its_place = tmp_path / "sheet_0000001.jpg"
    in_its_place.mkdir()
    with pytest.raises(OutputError, match=r"sheet_0000001.jpg cannot be written"):
        train(settings(steps=1), [street], tmp_path, workers=0, show_progress=False)
    in_its_place.rmdir()
    assert train(settings(steps=1), [street], tmp_path, workers=0, show_progress=False).is_file()


def test_a_repeated_step_stands_in_the_log_once(street, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(trainer, "LOGGED_EVERY", 5)
    train(settings(steps=6), [street], tmp_path, workers=0, stop_after=0.0, show_progress=False)
    (tmp_path / "log.csv").write_text("step,image\n3,1\n5,2\n")  # cut off after a row past its checkpoint
    train(settings(steps=6), [street], tmp_path, workers=0, show_progress=False)
    steps = [line.split(",")[0] for line in (tmp_path / "log.csv").read_text().splitlines()]
    assert steps == ["step", "3", "5", "6"]


SHORT = {
    "two": (
        Stage("mask", settings(preset=TINY_SEGMENTATION, steps=2)),
        Stage("streaks", settings(steps=2, part="streaks")),
        Stage("fog", settings(steps=2, part="fog"), streaks_from="streaks", teacher="mask"),
    )
}


def test_a_recipe_is_resumed_where_it_was_left_and_gives_the_last_stages_weights(
    street, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(recipe, "RECIPES", SHORT)
    assert recipe.run_recipe("two", [street], tmp_path, workers=0, stop_after=0.0) is None
    path = recipe.run_recipe("two", [street], tmp_path, workers=0)
    assert path == tmp_path / "fog" / "weights.safetensors"
    training = load_network(path)[1]
    assert training["streaks_from"]["sha256"] == sha256_of(tmp_path / "streaks" / "weights.safetensors")
    assert training["segmentation"] == "mask"
    made = sha256_of(path)
    assert sha256_of(recipe.run_recipe("two", [street], tmp_path, workers=0)) == made  # nothing is done twice
    write_weights(tmp_path / "streaks" / "weights.safetensors", seed=5)
    with pytest.raises(WeightsError, match=r"fog.*belongs to a run with first weights of the streak stage"):
        recipe.run_recipe("two", [street], tmp_path, workers=0)


SHARED_RUN = """
import sys
from pathlib import Path

sys.path.insert(0, {tests!r})
import test_training
from rain_removal_ros.lab.data.datasets import FolderDataset
from rain_removal_ros.lab.training import recipe

recipe.RECIPES = test_training.SHORT
path = recipe.run_recipe("two", [FolderDataset(Path({street!r}))], Path({output!r}), workers=0)
assert path is not None, "this process took a stage for unfinished"
"""


def test_processes_share_the_batches_of_a_recipe(street, tmp_path, monkeypatch) -> None:
    script = tmp_path / "shared_run.py"
    paths = {"tests": str(Path(__file__).parent), "street": str(street.root), "output": str(tmp_path)}
    script.write_text(SHARED_RUN.format(**paths))
    run = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(script)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr
    training = load_network(tmp_path / "fog" / "weights.safetensors")[1]
    assert training["processes"] == 2
    assert training["batch"] == 1  # half of the recipe's each
    monkeypatch.setattr(recipe, "RECIPES", SHORT)
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(PresetError, match="3 processes cannot share batches of 2"):
        recipe.run_recipe("two", [street], tmp_path / "three", workers=0)


def test_images_without_depth_teach_the_streak_stage_alone(street, tmp_path, monkeypatch) -> None:
    taught = {}
    monkeypatch.setattr(recipe, "RECIPES", {"two": SHORT["two"][1:2]})
    texture = [Example("texture_0", np.zeros((80, 80, 3), np.uint8))]
    path = recipe.run_recipe("two", [street, texture], tmp_path / "streaks", workers=0)
    taught["streaks"] = load_network(path)[1]["examples"]
    monkeypatch.setattr(recipe, "RECIPES", {"two": (Stage("fog", settings(steps=1, part="fog")),)})
    taught["fog"] = load_network(recipe.run_recipe("two", [street, texture], tmp_path, workers=0))[1][
        "examples"
    ]
    assert taught == {"streaks": 4, "fog": 3}
    with pytest.raises(DatasetError, match="stage fog needs images with depth"):
        recipe.run_recipe("two", [texture], tmp_path / "none", workers=0)


def test_labels_alone_teach_a_segmentation_network(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(recipe, "RECIPES", {"two": SHORT["two"][:1]})
    labelled = Example("view_0", np.zeros((80, 80, 3), np.uint8), labels=np.zeros((80, 80), np.uint8))
    assert recipe.run_recipe("two", [[labelled]], tmp_path / "mask", workers=0) is not None
    with pytest.raises(DatasetError, match="stage mask needs images with labels"):
        recipe.run_recipe("two", [[replace(labelled, labels=None)]], tmp_path / "none", workers=0)


def test_a_recipe_can_be_followed_in_float32(street, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(recipe, "RECIPES", {"two": SHORT["two"][1:2]})
    path = recipe.run_recipe("two", [street], tmp_path, precision="no", workers=0)
    assert load_network(path)[1]["precision"] == "no"


@pytest.mark.parametrize(("flags", "slow"), [("avx2 fma", True), ("avx512_bf16", False), ("", False)])
def test_a_cpu_without_bfloat16_is_told_of(street, tmp_path, monkeypatch, capsys, flags, slow) -> None:
    monkeypatch.setattr("rain_removal_ros.commands.train.cpu_flags", lambda: flags)
    monkeypatch.setattr("rain_removal_ros.commands.train.run_recipe", lambda *_, **__: None)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    run = ("train", "--recipe", "fast", "--data", str(street.root), "--output", str(tmp_path / "run"))
    for precision, told in (("bf16", slow), ("no", False)):
        assert main([*run, "--precision", precision]) == 0
        assert ("give --precision no" in capsys.readouterr().err) == told


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--start-from", "mine.safetensors"), "--start-from"),
        (("--steps", "100"), "--steps"),
        (("--scales", "0.5", "1"), "--scales"),
        (("--harm-weight", "3"), "--harm-weight"),
    ],
)
def test_an_option_that_a_recipe_would_ignore_is_refused(street, tmp_path, capsys, options, named) -> None:
    run = ("train", "--recipe", "fine-tune", "--data", str(street.root), "--output", str(tmp_path / "run"))
    assert main([*run, *options]) == 1
    assert f"{named} is settled by --recipe fine-tune" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_recipe_may_go_on_from_packaged_weights(street, tmp_path, monkeypatch) -> None:
    packaged = replace(settings(steps=1), preset=get_preset("fast"))
    stage = Stage("tuned", packaged, start_from=recipe.PACKAGED[0], teacher=recipe.PACKAGED[1])
    monkeypatch.setattr(recipe, "RECIPES", {"tune": (stage,)})
    training = load_network(recipe.run_recipe("tune", [street], tmp_path, workers=0))[1]
    models = share_folder() / "models"
    assert training["start_from"]["sha256"] == sha256_of(models / "fast.safetensors")
    assert training["segmentation_weights"]["sha256"] == sha256_of(models / "segmentation.safetensors")


def test_a_run_is_resumed_by_as_many_processes_as_began_it(street, tmp_path) -> None:
    """To others other samples would come."""
    run = settings(steps=14)
    train(run, [street], tmp_path, workers=0, show_progress=False, stop_after=0.0)
    checkpoint = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    torch.save(checkpoint | {"processes": 2}, tmp_path / "checkpoint.pt")
    with pytest.raises(WeightsError, match="a run that 2 processes share, not 1"):
        train(run, [street], tmp_path, workers=0, show_progress=False)


def test_a_recipe_with_larger_batches_sees_as_many_samples() -> None:
    for name, stages in recipe.RECIPES.items():
        for stage in stages:
            larger = recipe.scaled(stage, 8 * stage.settings.batch).settings
            seen = larger.steps * larger.batch
            assert seen == pytest.approx(stage.settings.steps * stage.settings.batch, rel=0.02), name
    with pytest.raises(PresetError, match="recipes are fast"):
        recipe.run_recipe("slow", [], Path("nowhere"))


def test_a_run_is_not_resumed_with_other_settings(street, tmp_path) -> None:
    train(settings(steps=1), [street], tmp_path, workers=0, show_progress=False)
    with pytest.raises(WeightsError, match="other settings"):
        train(settings(steps=2), [street], tmp_path, workers=0, show_progress=False)


def test_training_lowers_the_loss_and_leaves_log_plot_and_sheets(street, tmp_path) -> None:
    weights = LossWeights(structural=0)
    foggy = dataclasses.replace(PLAIN, dry_share=0, fog_only_share=1)  # alike enough to compare
    path = train(
        settings(steps=150, learning_rate=3e-3, weights=weights, samples=foggy),
        [street],
        tmp_path,
        workers=0,
        show_progress=False,
    )
    with open(tmp_path / "log.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == [50, 100, 150]
    for term in ("image", "depth"):
        assert float(rows[-1][term]) < float(rows[0][term]), term
    assert (tmp_path / "log.png").is_file()
    assert (tmp_path / "sheet_0000150.jpg").is_file()
    training = load_network(path)[1]
    assert training["step"] == 150
    assert training["weights"]["structural"] == 0


def test_the_learning_rate_warms_up_and_falls_to_zero() -> None:
    run = settings(steps=1000, learning_rate=1e-3, warmup_share=0.02)
    rates = [learning_rate_at(step, run) for step in range(1000)]
    assert rates[0] == pytest.approx(5e-5)
    assert max(rates) == pytest.approx(1e-3)
    assert rates[-1] < 1e-8
    assert rates.index(max(rates)) in (19, 20)


def test_the_train_command_trains_a_segmentation_network(street, tmp_path, capsys) -> None:
    arguments = [
        "train",
        "--preset",
        "segmentation",
        "--data",
        str(street.root),
        "--output",
        str(tmp_path / "run"),
    ]
    status = main(
        [*arguments, "--steps", "2", "--batch", "2", "--crop", "64", "--workers", "0", "--precision", "no"]
    )
    assert status == 0
    assert "weights.safetensors" in capsys.readouterr().out
    assert load_network(tmp_path / "run" / "weights.safetensors")[0].preset.name == "segmentation"


def test_the_train_command_says_where_nothing_teaches_depth(tmp_path, capsys, monkeypatch) -> None:
    dry = np.zeros((streak_bank.SIDE, streak_bank.SIDE), np.uint8)
    monkeypatch.setattr(streak_bank, "draw_picture", lambda generator: dry)  # to draw hundreds takes long
    (tmp_path / "data" / "image").mkdir(parents=True)
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "data" / "image" / "view.png"), noise)
    arguments = ["train", "--data", str(tmp_path / "data"), "--output", str(tmp_path / "run"), "--part"]
    options = ["--steps", "1", "--batch", "1", "--crop", "64", "--workers", "0", "--precision", "no"]
    assert main([*arguments, "all", *options]) == 0
    assert "no image comes with depth" in capsys.readouterr().err
    assert main([*arguments[:-2], str(tmp_path / "other"), "--part", "streaks", *options]) == 0
    assert "no image comes with depth" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("room", "lacking", "left"),
    [
        (100_000, "weights.safetensors", {"log.csv"}),
        (20_000_000, "checkpoint.pt", {"log.csv", "weights.safetensors"}),
    ],
)
def test_a_full_disk_ends_training_with_the_file_that_was_to_be_written_and_leaves_no_half_of_it(
    street, tmp_path, capsys, room, lacking, left
) -> None:
    arguments = f"train --preset segmentation --data {street.root} --output {tmp_path / 'run'}"
    options = "--steps 2 --batch 2 --crop 64 --workers 0 --precision no"
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, limit[1]))
    try:
        status = main([*arguments.split(), *options.split()])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert status == 1
    assert f"{lacking} cannot be written (File too large)" in capsys.readouterr().err
    assert {path.name for path in (tmp_path / "run").iterdir()} == left


def test_the_train_command_names_a_crop_that_cannot_be(street, tmp_path, capsys) -> None:
    status = main(["train", "--data", str(street.root), "--output", str(tmp_path), "--crop", "100"])
    assert status == 1
    assert "--crop 100" in capsys.readouterr().err


def test_a_dataset_too_large_to_hold_gives_the_same_samples(street, monkeypatch) -> None:
    held = RainySamples([street], replace(SMALL, measured_weight=4.0), seed=0, count=5)
    monkeypatch.setattr("rain_removal_ros.lab.training.samples.HELD_BYTES", 0)
    lazy = RainySamples([street], replace(SMALL, measured_weight=4.0), seed=0, count=5)
    assert lazy.example_count == held.example_count == 3
    for index in range(5):
        for name, tensor in held[index].items():
            assert torch.equal(tensor.nan_to_num(), lazy[index][name].nan_to_num()), name


def test_what_a_dataset_takes_is_told_by_examples_of_every_kind() -> None:
    small, large = (Example("view", np.zeros((side, side, 3), np.uint8)) for side in (10, 100))
    assert _size_of([small, large]) == 3 * (10**2 + 100**2)
    assert _size_of([]) == 0
