"""Recipes: stages that lean on each other's weights, resumed, shared by processes, on what can teach them."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from runtime_fixtures import TINY_SEGMENTATION, write_weights
from training_fixtures import settings

from rain_removal_ros.errors import DatasetError, PresetError, WeightsError
from rain_removal_ros.lab.data.datasets import Example
from rain_removal_ros.lab.training import recipe, trainer
from rain_removal_ros.lab.training.recipe import Stage
from rain_removal_ros.network import get_preset, load_network, sha256_of
from rain_removal_ros.share import share_folder


@pytest.fixture(autouse=True)
def clock_looked_at_often(monkeypatch) -> None:
    """A run without time ends after three steps instead of ten."""
    monkeypatch.setattr(trainer, "CLOCK_EVERY", 3)


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
import test_recipe
from rain_removal_ros.lab.data.datasets import FolderDataset
from rain_removal_ros.lab.training import recipe
from rain_removal_ros.lab.training.validation import Validation

recipe.RECIPES = test_recipe.SHORT
street = FolderDataset(Path({street!r}))
path = recipe.run_recipe(
    "two", [street], Path({output!r}), workers=0, checkpoint_every=1, validation=Validation(street, 1)
)
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
    for stage in ("streaks", "fog"):  # one of them measures while the other waits
        rows = (tmp_path / stage / "validation.csv").read_text().splitlines()
        assert [row.split(",")[0] for row in rows] == ["step", "1", "2"]
    assert not (tmp_path / "mask" / "validation.csv").exists()  # restores nothing
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


def test_a_recipe_may_go_on_from_packaged_weights(street, tmp_path, monkeypatch) -> None:
    packaged = replace(settings(steps=1), preset=get_preset("fast"))
    stage = Stage("tuned", packaged, start_from=recipe.PACKAGED[0], teacher=recipe.PACKAGED[1])
    monkeypatch.setattr(recipe, "RECIPES", {"tune": (stage,)})
    training = load_network(recipe.run_recipe("tune", [street], tmp_path, workers=0))[1]
    models = share_folder() / "models"
    assert training["start_from"]["sha256"] == sha256_of(models / "fast.safetensors")
    assert training["segmentation_weights"]["sha256"] == sha256_of(models / "segmentation.safetensors")


def test_a_recipe_with_larger_batches_sees_as_many_samples() -> None:
    for name, stages in recipe.RECIPES.items():
        for stage in stages:
            larger = recipe.scaled(stage, 8 * stage.settings.batch).settings
            seen = larger.steps * larger.batch
            assert seen == pytest.approx(stage.settings.steps * stage.settings.batch, rel=0.02), name
    with pytest.raises(PresetError, match="recipes are fast"):
        recipe.run_recipe("slow", [], Path("nowhere"))
