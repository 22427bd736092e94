"""Training samples and the trainer: determinism, exact resuming, refusals. That training teaches is seen
on a tiny set.
"""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from rain_removal_ros.commands.main import main
from rain_removal_ros.errors import DatasetError, PresetError, WeightsError
from rain_removal_ros.lab.data.datasets import Example, FolderDataset
from rain_removal_ros.lab.training.crops import CropSettings, RainySamples, other_sky
from rain_removal_ros.lab.training.trainer import LossWeights, TrainingSettings, learning_rate_at, train
from rain_removal_ros.network import build_network, get_preset, load_network, sha256_of

SMALL = CropSettings(size=64)


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


def settings(**changes) -> TrainingSettings:
    base = TrainingSettings(
        dataclasses.replace(get_preset("fast"), channels=(16, 16, 16, 16), encoder_depths=(1, 1, 1, 1)),
        steps=6,
        batch=2,
        precision="no",
        crops=SMALL,
    )
    return dataclasses.replace(base, **changes)


def test_a_sample_depends_on_seed_and_index_alone(street: FolderDataset) -> None:
    first, second = (RainySamples([street], SMALL, seed=4, count=20) for _ in range(2))
    for index in (7, 3):
        for name, tensor in first[index].items():
            assert torch.equal(torch.nan_to_num(tensor), torch.nan_to_num(second[index][name])), name
    other = RainySamples([street], SMALL, seed=5, count=20)
    assert not torch.equal(first[7]["rainy"], other[7]["rainy"])


def test_the_stated_share_of_samples_is_dry_and_the_rest_is_not(street: FolderDataset) -> None:
    samples = RainySamples([street], dataclasses.replace(SMALL, dry_share=0.3), seed=0, count=120)
    dry = sum(torch.equal(samples[i]["rainy"], samples[i]["clean"]) for i in range(120))
    assert 20 <= dry <= 52  # 36 expected, standard deviation 5


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


def test_another_sky_is_laid_over_what_is_overexposed_and_nothing_else() -> None:
    image = np.full((64, 64, 3), 250, np.uint8)
    image[20:] = 90  # a dark sky lies between the bright one and the street
    sky = np.zeros((64, 64), bool)
    sky[:40] = True
    changed = other_sky(image, sky, np.random.default_rng(3))
    assert np.array_equal(changed[24:], image[24:])
    assert changed[:16].std() > 3
    assert changed[:16].mean() < 245
    assert np.array_equal(other_sky(image, np.zeros_like(sky), np.random.default_rng(3)), image)


def test_a_dataset_pair_keeps_its_own_rain() -> None:
    clean = np.full((80, 80, 3), 50, np.uint8)
    pair = [Example("pair_0", clean, rainy=clean + 100)]
    sample = RainySamples([pair], SMALL, seed=0, count=1)[0]
    assert torch.equal(sample["rainy"], sample["clean"] + 100)
    assert torch.isnan(sample["inverse_depth"]).all()
    assert torch.isnan(sample["streaks"]).all()  # nobody knows them


def test_the_light_of_streaks_is_what_rain_adds_to_fog(street) -> None:
    quiet = dataclasses.replace(SMALL, noise_share=0, jpeg_share=0, dry_share=0, fog_only_share=0)
    streaks_only = RainySamples([street], dataclasses.replace(quiet, streaks_only_share=1), seed=1, count=8)
    for index in range(8):
        sample = streaks_only[index]
        added = (sample["rainy"].float() - sample["clean"].float()) / 255
        assert (sample["streaks"].float() - added).abs().max() < 1.5 / 255
    assert max(float(streaks_only[i]["streaks"].max()) for i in range(8)) > 0.1
    dry = RainySamples([street], dataclasses.replace(quiet, dry_share=1), seed=1, count=1)
    assert not dry[0]["streaks"].any()


def test_training_without_clean_images_is_refused() -> None:
    with pytest.raises(DatasetError, match="no clean image"):
        RainySamples([[Example("wet", None, rainy=np.zeros((80, 80, 3), np.uint8))]], SMALL, seed=0, count=1)
    with pytest.raises(DatasetError, match="no examples"):
        RainySamples([], SMALL, seed=0, count=1)


def test_a_resumed_run_ends_with_the_very_weights_of_an_uninterrupted_one(street, tmp_path) -> None:
    whole = train(settings(), [street], tmp_path / "whole", workers=0, show_progress=False)
    train(settings(), [street], tmp_path / "parts", workers=0, stop_after=0.0, show_progress=False)
    checkpoint = torch.load(tmp_path / "parts" / "checkpoint.pt", weights_only=True)
    assert checkpoint["step"] == 1
    parts = train(settings(), [street], tmp_path / "parts", workers=0, show_progress=False)
    one, other = load_network(whole)[0].state_dict(), load_network(parts)[0].state_dict()
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name


def test_weights_name_the_weights_that_the_run_started_from(street, tmp_path) -> None:
    first = train(settings(steps=1), [street], tmp_path / "first", workers=0, show_progress=False)
    assert load_network(first)[1]["start_from"] is None
    train(
        settings(),
        [street],
        tmp_path / "next",
        workers=0,
        stop_after=0.0,
        start_from=first,
        show_progress=False,
    )
    resumed = train(settings(), [street], tmp_path / "next", workers=0, show_progress=False)
    assert load_network(resumed)[1]["start_from"] == {
        "file": "weights.safetensors",
        "sha256": sha256_of(first),
    }


def changed_by(further: TrainingSettings, first: Path, street: FolderDataset, output: Path) -> set[str]:
    """Names of the tensors that a run that starts from `first` changes or adds."""
    path = train(further, [street], output, workers=0, start_from=first, show_progress=False)
    before, after = (load_network(file)[0].state_dict() for file in (first, path))
    return {
        name for name, tensor in after.items() if name not in before or not torch.equal(tensor, before[name])
    }


def test_frozen_layers_keep_the_weights_they_start_with(street, tmp_path) -> None:
    first = train(settings(steps=1), [street], tmp_path / "first", workers=0, show_progress=False)
    changed = changed_by(settings(frozen=("encoder.stages.1", "airlight")), first, street, tmp_path / "next")
    assert not any(name.startswith(("encoder.stages.1.", "airlight.")) for name in changed)
    for trained in ("encoder.stages.0.", "encoder.stages.2.", "context.", "streaks.", "output."):
        assert any(name.startswith(trained) for name in changed), trained


def test_a_layer_that_cannot_be_frozen_is_named(street, tmp_path) -> None:
    with pytest.raises(PresetError, match=r"no layer .encode.; its parts are .*encoder"):
        train(settings(frozen=("encode",)), [street], tmp_path, workers=0, show_progress=False)
    parts = tuple(name for name, _ in build_network(settings().preset).named_children())
    with pytest.raises(PresetError, match="nothing is left to train"):
        train(settings(frozen=parts), [street], tmp_path, workers=0, show_progress=False)


def test_the_streak_stage_is_trained_alone_from_weights_without_one(street, tmp_path) -> None:
    plain = dataclasses.replace(settings().preset, streak_channels=0)
    first = train(
        settings(preset=plain, steps=1), [street], tmp_path / "first", workers=0, show_progress=False
    )
    changed = changed_by(settings(streaks_alone=True, learning_rate=3e-3), first, street, tmp_path / "next")
    assert "streaks.output.weight" in changed
    assert all(name.startswith("streaks.") for name in changed)
    assert (tmp_path / "next" / "sheet_0000006.jpg").is_file()


def test_what_cannot_be_started_from_or_trained_alone_is_named(street, tmp_path) -> None:
    plain = dataclasses.replace(settings().preset, streak_channels=0)
    with pytest.raises(PresetError, match="has no streak stage"):
        train(settings(preset=plain, streaks_alone=True), [street], tmp_path / "a", show_progress=False)
    pair = [Example("pair_0", np.zeros((80, 80, 3), np.uint8), rainy=np.zeros((80, 80, 3), np.uint8))]
    with pytest.raises(DatasetError, match="rendered rain"):
        train(settings(streaks_alone=True), [pair], tmp_path / "b", show_progress=False)
    first = train(settings(steps=1), [street], tmp_path / "first", workers=0, show_progress=False)
    for changes in ({"streak_channels": 0}, {"decoder_depths": (2, 3, 2)}, {"depth_channels": 8}):
        other = settings(preset=dataclasses.replace(settings().preset, **changes))
        with pytest.raises(WeightsError, match="do not fit preset fast"):
            train(other, [street], tmp_path / "c", workers=0, start_from=first, show_progress=False)


def test_a_run_is_not_resumed_with_other_settings(street, tmp_path) -> None:
    train(settings(steps=1), [street], tmp_path, workers=0, show_progress=False)
    with pytest.raises(WeightsError, match="other settings"):
        train(settings(steps=2), [street], tmp_path, workers=0, show_progress=False)


def test_training_lowers_the_loss_and_leaves_log_plot_and_sheets(street, tmp_path) -> None:
    weights = LossWeights(structural=0)
    path = train(
        settings(steps=100, batch=4, learning_rate=3e-3, weights=weights),
        [street],
        tmp_path,
        workers=0,
        show_progress=False,
    )
    with open(tmp_path / "log.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == [50, 100]
    assert float(rows[1]["image"]) < float(rows[0]["image"])
    assert (tmp_path / "log.png").is_file()
    assert (tmp_path / "sheet_0000100.jpg").is_file()
    training = load_network(path)[1]
    assert training["step"] == 100
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


def test_the_train_command_names_a_crop_that_cannot_be(street, tmp_path, capsys) -> None:
    status = main(["train", "--data", str(street.root), "--output", str(tmp_path), "--crop", "100"])
    assert status == 1
    assert "--crop 100" in capsys.readouterr().err


def test_a_dataset_too_large_to_hold_gives_the_same_kind_of_samples(street, monkeypatch) -> None:
    monkeypatch.setattr("rain_removal_ros.lab.training.crops.HELD_BYTES", 0)
    lazy = RainySamples([street], SMALL, seed=0, count=5)
    assert lazy.example_count == 3
    assert lazy[2]["rainy"].shape == (3, 64, 64)
