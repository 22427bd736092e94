"""Validation during training: what is measured, on which views, and that it leaves the training as it was."""

from __future__ import annotations

import csv
import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from training_fixtures import settings

from rain_removal_ros.cityscapes import TrainId
from rain_removal_ros.errors import DatasetError
from rain_removal_ros.lab.data.datasets import Example
from rain_removal_ros.lab.evaluation.conditions import fog_of, rain_on
from rain_removal_ros.lab.evaluation.metrics import MAX_PSNR, psnr
from rain_removal_ros.lab.training import trainer
from rain_removal_ros.lab.training.trainer import train
from rain_removal_ros.lab.training.validation import FIGURES, Validation, Validator
from rain_removal_ros.lab.weather import PAPER_LEVELS
from rain_removal_ros.network.blocks import Estimate

CPU = torch.device("cpu")


class Darker(nn.Module):
    """Takes a tenth of the light off whatever it sees, and remembers what that was."""

    stride = 32

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[np.ndarray] = []

    def forward(self, image: Tensor) -> Estimate:
        self.seen.append((255 * image[0].permute(1, 2, 0)).round().byte().numpy())
        return Estimate(-0.1 * image, image[:, :1])

    def find_streaks(self, image: Tensor) -> SimpleNamespace:
        return SimpleNamespace(light=-self(image).correction)

    def clear_fog(self, image: Tensor) -> tuple[Tensor, Tensor, None]:
        estimate = self(image)
        return estimate.correction, estimate.pixels_per_metre, None


def darker(image: np.ndarray) -> np.ndarray:
    return np.rint(0.9 * image.astype(np.float32)).astype(np.uint8)


@pytest.fixture
def grouped(street) -> list[Example]:
    """Two views of one place and one of another."""
    here = [dataclasses.replace(street[index], group="here") for index in (0, 1)]
    return [*here, dataclasses.replace(street[2], clean=street[2].clean // 4, group="there")]


@pytest.mark.parametrize("part", ["all", "streaks", "fog"])
def test_gains_are_means_over_groups_of_an_evaluations_views(grouped, part) -> None:
    network = Darker()
    measured = Validator(Validation(grouped), part, CPU).measure(network)
    gains: dict[str, dict[str, list[float]]] = {name: {"here": [], "there": []} for name in FIGURES}
    for example in grouped:
        below = (example.inverse_depth != 0) & (example.labels != TrainId.SKY)
        clean = example.clean_image
        gains["psnr_dry"][example.group].append(psnr(darker(clean), clean))
        for level in PAPER_LEVELS:
            rainy, foggy = rain_on(example, level).rainy, fog_of(example, level)
            seen, wanted = {"all": (rainy, clean), "streaks": (rainy, foggy), "fog": (foggy, clean)}[part]
            assert any(np.array_equal(seen, other) for other in network.seen)
            for name, where in (("psnr_gain", None), ("psnr_gain_below", below)):
                gain = psnr(darker(seen), wanted, where) - psnr(seen, wanted, where)
                gains[name][example.group].append(gain)
    for name in FIGURES:
        wanted = np.mean([np.mean(values) for values in gains[name].values()])
        assert measured[name] == pytest.approx(wanted, abs=0.02), name  # halves are rounded either way
    dry = gains["psnr_dry"]
    assert abs(measured["psnr_dry"] - np.mean([*dry["here"], *dry["there"]])) > 1  # not the mean over views


def test_at_most_so_many_images_of_all_groups_are_measured(grouped) -> None:
    network = Darker()
    Validator(Validation(grouped, images=2), "all", CPU).measure(network)
    assert len(network.seen) == 2 * (1 + len(PAPER_LEVELS))
    shown = [example for example in grouped if any(np.array_equal(example.clean, s) for s in network.seen)]
    assert {example.group for example in shown} == {"here", "there"}


def test_a_datasets_own_rain_is_taken_and_what_cannot_be_told_is_no_number() -> None:
    rainy = np.full((64, 64, 3), 200, np.uint8)
    pair = Example("pair_0", darker(rainy), rainy=rainy)
    measured = Validator(Validation([pair]), "all", CPU).measure(Darker())
    assert measured["psnr_gain"] == pytest.approx(MAX_PSNR - psnr(rainy, darker(rainy)))
    assert np.isnan(measured["psnr_gain_below"])  # nobody knows where the sky is
    with pytest.raises(DatasetError, match="pair_0 has no inverse depth"):
        Validator(Validation([pair]), "streaks", CPU)


def test_a_run_that_is_validated_ends_with_the_very_weights_of_one_that_is_not(street, tmp_path) -> None:
    ends = {}
    for name, validation in (("plain", None), ("validated", Validation(street, images=2))):
        options = {"workers": 0, "checkpoint_every": 2, "show_progress": False, "validation": validation}
        train(settings(steps=5), [street], tmp_path / name, **options)
        ends[name] = torch.get_rng_state(), torch.load(tmp_path / name / "checkpoint.pt", weights_only=True)
    (state, plain), (other_state, validated) = ends["plain"], ends["validated"]
    assert torch.equal(state, other_state)
    for part in ("network", "average"):
        for name, tensor in plain[part].items():
            assert torch.equal(tensor, validated[part][name]), name
    for number, moments in plain["optimizer"]["state"].items():
        for name, tensor in moments.items():
            assert torch.equal(tensor, validated["optimizer"]["state"][number][name]), name
    assert not (tmp_path / "plain" / "validation.csv").exists()
    with open(tmp_path / "validated" / "validation.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["2", "4", "5"]
    assert all(np.isfinite(float(row[name])) for row in rows for name in FIGURES)
    heights = [Image.open(tmp_path / name / "log.png").height for name in ("plain", "validated")]
    assert heights[1] > heights[0]  # it has panels of its own


def test_a_repeated_checkpoint_is_measured_once_and_shown(street, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(trainer, "CLOCK_EVERY", 3)
    options = {"workers": 0, "checkpoint_every": 2, "validation": Validation(street, images=1)}
    train(settings(steps=6), [street], tmp_path, stop_after=0.0, **options)
    with open(tmp_path / "validation.csv", "a") as file:
        file.write("4,9,9,9\n")  # past the checkpoint: of a run that was cut off
    train(settings(steps=6), [street], tmp_path, **options)
    with open(tmp_path / "validation.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["2", "3", "4", "6"]
    assert "9" not in {row["psnr_gain"] for row in rows}
    assert f"psnr_gain={float(rows[-1]['psnr_gain']):.2f} dB" in capsys.readouterr().err
