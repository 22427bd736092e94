"""The packaged weights: they load, they are small enough, and they do what their card says."""

from __future__ import annotations

import re

import numpy as np
import pytest
from modules import skip_without

from rain_removal_ros.lab.data.datasets import DriveDataset
from rain_removal_ros.lab.evaluation.metrics import psnr
from rain_removal_ros.lab.weather import PAPER_LEVELS, Rain, level_parameters
from rain_removal_ros.network import load_network
from rain_removal_ros.runtime import Output, RuntimeSettings, create_restorer
from rain_removal_ros.share import share_file

VIEWS = (0, 17, 42)  # of the drive's validation streets


def card_of(name: str) -> str:
    """What models/README.md says of one file."""
    _, card = share_file("models/README.md").read_text().split(f"\n## {name}.safetensors\n")
    return card.partition("\n## ")[0]


@pytest.mark.parametrize("name", ["fast", "segmentation", "judge"])
def test_packaged_weights_describe_their_network_and_training(name: str) -> None:
    path = share_file(f"models/{name}.safetensors")
    network, training = load_network(path)
    assert network.preset.name == name
    assert path.stat().st_size <= 16 << 20
    card = card_of(name)
    said = re.search(rf"(?<![\d,]){training['step']:,} steps", card)
    assert said, f"the card of {name} tells of another run"


def test_the_packaged_network_gains_on_the_drive_what_its_card_says(tmp_path) -> None:
    skip_without("embreex")
    card = card_of("fast")
    stated = re.search(r"drive subset: gain \+([\d.]+) dB, dry images ([\d.]+) dB", card)
    drive = DriveDataset("val")
    restorer = create_restorer(RuntimeSettings(backend="torch-cpu", precision="fp32", cache_dir=tmp_path))
    gains, dry = [], []
    for index in VIEWS:
        view = drive[index]
        clean = np.ascontiguousarray(view.clean)
        dry.append(psnr(restorer(clean, [Output.IMAGE]).image, clean))
        for level in PAPER_LEVELS:
            rain = Rain(level_parameters(level, index % 12), *clean.shape[:2], index)
            rainy = rain.render(clean, view.inverse_depth)
            gains.append(psnr(restorer(rainy, [Output.IMAGE]).image, clean) - psnr(rainy, clean))
    print(f"drive subset: gain +{np.mean(gains):.2f} dB, dry images {np.mean(dry):.1f} dB")
    assert np.mean(gains) == pytest.approx(float(stated[1]), abs=0.15)
    assert np.mean(dry) == pytest.approx(float(stated[2]), abs=1.0)
