"""The trainer: determinism, exact resuming, refusals. That training teaches is seen on a tiny set."""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from runtime_fixtures import TINY, TINY_SEGMENTATION, write_weights
from torch import nn
from training_fixtures import PLAIN, settings

from rain_removal_ros.errors import DatasetError, OutputError, PresetError, RainRemovalError, WeightsError
from rain_removal_ros.lab.data.datasets import Example, FolderDataset
from rain_removal_ros.lab.training import trainer
from rain_removal_ros.lab.training.settings import PARTS, LossWeights, TrainingSettings, learning_rate_at
from rain_removal_ros.lab.training.trainer import parameter_groups, train
from rain_removal_ros.network import PRESETS, build_network, get_preset, load_network, sha256_of
from rain_removal_ros.network.quantisation import convolutions, ranges_of


@pytest.fixture(autouse=True)
def clock_looked_at_often(monkeypatch) -> None:
    """A run without time ends after three steps instead of ten."""
    monkeypatch.setattr(trainer, "CLOCK_EVERY", 3)


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

    def __init__(self, mixed_precision: str, cpu: bool, **_):
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


@pytest.mark.parametrize("part", PARTS)
def test_only_the_part_that_is_trained_changes(part: str, street, tmp_path) -> None:
    first = train(settings(steps=1), [street], tmp_path / "first", workers=0, show_progress=False)
    changed = changed_by(settings(part=part, learning_rate=3e-3), first, street, tmp_path / "next")
    names = {name.split(".")[0] for name in changed}
    assert ("streaks" in names) is (part in ("all", "streaks"))
    alone = {"streaks": {"streaks"}, "depth": {"trunk", "context", "depth_head"}}
    assert names == alone[part] if part in alone else {"trunk", "depth_head", "output"} <= names
    assert (tmp_path / "next" / "sheet_0000006.jpg").is_file()


@pytest.mark.parametrize("preset", PRESETS)
def test_the_weights_of_layers_decay_and_biases_norms_and_scales_do_not(preset) -> None:
    network = build_network(preset)
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    groups = parameter_groups(network, settings(preset=get_preset(preset), weight_decay=0.5))
    decays = {names[id(p)]: group["weight_decay"] for group in groups for p in group["params"]}
    assert decays.keys() == set(names.values())
    for name, module in network.named_modules():
        layer = isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear)
        for own, parameter in module.named_parameters(prefix=name, recurse=False):
            weighs = layer and own.endswith(".weight")
            assert decays[own] == (0.5 if weighs else 0.0), f"{own} {tuple(parameter.shape)}"


def test_a_run_whose_other_weights_decayed_is_not_resumed(street, tmp_path) -> None:
    run = settings(steps=5)
    train(run, [street], tmp_path, workers=0, show_progress=False, stop_after=0.0)
    checkpoint = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    one, other = checkpoint["optimizer"]["param_groups"][:2]
    other["params"].append(one["params"].pop())
    torch.save(checkpoint, tmp_path / "checkpoint.pt")
    with pytest.raises(WeightsError, match=r"weight decay was for other weights; give another output folder"):
        train(run, [street], tmp_path, workers=0, show_progress=False)


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


def test_a_run_is_resumed_by_as_many_processes_as_began_it(street, tmp_path) -> None:
    """To others other samples would come."""
    run = settings(steps=14)
    train(run, [street], tmp_path, workers=0, show_progress=False, stop_after=0.0)
    checkpoint = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    torch.save(checkpoint | {"processes": 2}, tmp_path / "checkpoint.pt")
    with pytest.raises(WeightsError, match="a run that 2 processes share, not 1"):
        train(run, [street], tmp_path, workers=0, show_progress=False)


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
