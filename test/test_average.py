"""`derain average`: means of weights, exact, and refused where there is none."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from rain_removal_ros.commands.main import main
from rain_removal_ros.network import build_network, get_preset, load_network, save_network, sha256_of

SMALL = dataclasses.replace(get_preset("fast"), channels=(16, 16, 16, 16), encoder_depths=(1, 1, 1, 1))


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """Two networks of one preset: every weight of the first is 2, of the second 1."""
    paths = tmp_path / "trained.safetensors", tmp_path / "base.safetensors"
    for path, value in zip(paths, (2.0, 1.0), strict=True):
        network = build_network(SMALL)
        for tensor in network.state_dict().values():
            tensor.fill_(value)
        save_network(network, path, {"step": 7})
    return paths


def test_every_layer_gets_its_share_and_the_longest_name_counts(files, tmp_path) -> None:
    output = tmp_path / "mean.safetensors"
    shares = ["streaks=1", "encoder.stages=0.25", "encoder.stages.1=0"]
    assert main(["average", *map(str, files), "--output", str(output), "--layers", *shares]) == 0
    network, training = load_network(output)
    for name, tensor in network.state_dict().items():
        if name.endswith("num_batches_tracked") or name.startswith("streaks."):
            expected = 2
        elif name.startswith("encoder.stages.1."):
            expected = 1
        elif name.startswith("encoder.stages."):
            expected = 1.25
        else:
            expected = 1.5
        assert torch.equal(tensor, torch.full_like(tensor, expected)), name
    assert training["step"] == 7
    assert training["averaged"] == {
        "trained": {"file": files[0].name, "sha256": sha256_of(files[0])},
        "base": {"file": files[1].name, "sha256": sha256_of(files[1])},
        "share": 0.5,
        "layers": {"streaks": 1.0, "encoder.stages": 0.25, "encoder.stages.1": 0.0},
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--layers", "encoder.stage=0.5"], "no layer 'encoder.stage'; its parts are streaks, encoder"),
        (["--layers", "encoder"], "--layers encoder: a share is a number from 0 to 1"),
        (["--share", "1.5"], "--share: a share is a number from 0 to 1, not 1.5"),
    ],
)
def test_what_cannot_be_averaged_is_named(files, tmp_path, capsys, options, message) -> None:
    output = tmp_path / "mean.safetensors"
    assert main(["average", *map(str, files), "--output", str(output), *options]) == 1
    assert message in capsys.readouterr().err
    assert not output.exists()


def test_networks_of_other_presets_have_no_mean(files, tmp_path, capsys) -> None:
    other = tmp_path / "other.safetensors"
    save_network(build_network(dataclasses.replace(SMALL, streak_channels=0)), other, {})
    assert main(["average", str(files[0]), str(other), "--output", str(tmp_path / "mean.safetensors")]) == 1
    assert "the networks differ and have no mean" in capsys.readouterr().err
