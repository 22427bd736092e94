"""`derain train`: what its options mean, and what it says."""

from __future__ import annotations

import resource
import shutil
import signal

import accelerate  # noqa: F401  without it nothing is trained, and this file is left out
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
        (("--freeze", "trunk"), "--freeze"),
    ],
)
def test_an_option_that_a_recipe_would_ignore_is_refused(street, tmp_path, capsys, options, named) -> None:
    run = ("train", "--recipe", "fine-tune", "--data", str(street.root), "--output", str(tmp_path / "run"))
    assert main([*run, *options]) == 1
    assert f"{named} is settled by --recipe fine-tune" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_settings_are_not_mixed_into_a_recipe(street, tmp_path, capsys) -> None:
    run = ("train", "--recipe", "fine-tune", "--data", str(street.root), "--output", str(tmp_path / "run"))
    for options in (("--set", "weights.harm=3"), ("--settings", "mine.toml")):
        assert main([*run, *options]) == 1
        assert f"{options[0]} does not go with --recipe fine-tune" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def settings_printed(capsys, *options: str) -> str:
    assert main(["train", *options, "--print-settings"]) == 0
    return capsys.readouterr().out


def test_printed_settings_are_what_a_run_is_made_with_and_resumed_by(street, tmp_path, capsys) -> None:
    quick = ("--preset", "segmentation", "--steps", "2", "--batch", "2", "--precision", "no")
    printed = settings_printed(capsys, *quick, "--crop", "64", "--set", "samples.noise_share=0.5")
    (tmp_path / "mine.toml").write_text(printed)
    assert settings_printed(capsys, "--settings", str(tmp_path / "mine.toml")) == printed
    run = ("train", "--data", str(street.root), "--output", str(tmp_path / "run"), "--workers", "0")
    assert main([*run, *quick, "--crop", "64", "--set", "samples.noise_share=0.5"]) == 0
    assert main([*run, "--settings", str(tmp_path / "mine.toml")]) == 0  # the same run
    capsys.readouterr()
    assert main([*run, "--settings", str(tmp_path / "mine.toml"), "--set", "samples.noise_share=0.4"]) == 1
    assert "a run with other settings" in capsys.readouterr().err


def test_options_win_over_a_file_and_no_key_is_given_twice(tmp_path, capsys) -> None:
    (tmp_path / "mine.toml").write_text("steps = 5\nbatch = 3\n[weights]\nharm = 4\n")
    file = ("--settings", str(tmp_path / "mine.toml"))
    printed = settings_printed(capsys, *file, "--steps", "7", "--set", "weights.depth=1", "seed=2")
    for line in ("steps = 7", "batch = 3", "harm = 4.0", "depth = 1.0", "seed = 2"):
        assert line in printed.splitlines()
    for twice in (("--steps", "7", "--set", "steps=8"), ("--set", "steps=8", "steps=9")):
        assert main(["train", *twice, "--print-settings"]) == 1
        assert "steps is given twice" in capsys.readouterr().err


def test_a_segmentation_network_gives_the_terms_of_meaning_weights_unless_they_have_some(capsys) -> None:
    plain = settings_printed(capsys)
    given = settings_printed(capsys, "--segmentation", "mask.safetensors")
    own = settings_printed(
        capsys,
        "--segmentation",
        "mask.safetensors",
        "--set",
        "weights.semantic=0",
        "--perceptual-weight",
        "3",
    )
    weights = {"plain": (0.0, 0.0), "given": (0.04, 0.1), "own": (0.0, 3.0)}
    for name, printed in (("plain", plain), ("given", given), ("own", own)):
        semantic, perceptual = weights[name]
        assert f"semantic = {semantic}\nperceptual = {perceptual}\n" in printed, name


def test_the_settings_of_a_stage_are_printed_to_begin_with(tmp_path, capsys) -> None:
    stage = ("--recipe", "fast", "--stage", "together")
    printed = settings_printed(capsys, *stage, "--batch", "16", "--seed", "5")
    assert "# --streaks-from: the weights of streaks-refined" in printed
    for line in ("steps = 3500", "batch = 16", "learning_rate = 0.001", "seed = 8", "width = 512"):
        assert line in printed.splitlines()
    (tmp_path / "mine.toml").write_text(printed)
    settings = settings_printed(capsys, "--settings", str(tmp_path / "mine.toml"))
    assert settings == "".join(line for line in printed.splitlines(True) if not line.startswith("#"))
    for options, said in (
        (("--recipe", "fast", "--print-settings"), "--stage says which of recipe fast; its stages are segme"),
        ((*stage[:3], "last", "--print-settings"), "there is no stage 'last' of recipe fast; its stages are"),
        (stage, "give --recipe and --print-settings with it"),
    ):
        assert main(["train", *options]) == 1
        assert said in capsys.readouterr().err


@pytest.mark.parametrize("lacking", ["data", "output"])
def test_a_run_needs_data_and_a_folder(lacking, street, tmp_path, capsys) -> None:
    given = {"data": str(street.root), "output": str(tmp_path / "run")}
    options = [text for name, value in given.items() if name != lacking for text in (f"--{name}", value)]
    assert main(["train", *options]) == 1
    assert f"nothing is trained without --{lacking}" in capsys.readouterr().err


def test_what_is_trained_on_is_no_validation(street, tmp_path, capsys) -> None:
    run = ("train", "--data", str(street.root), "--output", str(tmp_path / "run"))
    for options, said in (
        (
            ("--validate", f"{street.root}/../{street.root.name}"),
            "is trained on; give images of another split",
        ),
        (("--validate-images", "3"), "--validate-images counts images of --validate, which is not given"),
    ):
        assert main([*run, *options]) == 1
        assert said in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_the_train_command_validates(street, tmp_path, monkeypatch) -> None:
    taken = {}
    monkeypatch.setattr("rain_removal_ros.commands.train.train", lambda *_, **options: taken.update(options))
    monkeypatch.setattr(
        "rain_removal_ros.commands.train.run_recipe", lambda *_, **options: taken.update(options)
    )
    other = shutil.copytree(street.root, tmp_path / "other")
    run = ("train", "--data", str(street.root), "--output", str(tmp_path / "run"), "--validate", str(other))
    for options, images in (((), 8), (("--recipe", "fast", "--validate-images", "2"), 2)):
        assert main([*run, *options]) == 0
        assert (taken["validation"].dataset.root, taken["validation"].images) == (other, images)


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
