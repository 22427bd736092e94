"""`derain train`: what its options mean, and what it says."""

from __future__ import annotations

import resource
import signal

import cv2
import numpy as np
import pytest

from rain_removal_ros.commands.main import main
from rain_removal_ros.lab.weather import streak_bank
from rain_removal_ros.network import load_network


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
