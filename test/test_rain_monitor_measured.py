"""The rain monitor before rendered rain and fog: what any weights must hold, and what measures it."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import embreex  # noqa: F401  without it no drive is rendered, and this file is left out
import numpy as np
import pytest

from rain_removal_ros.commands.main import main
from rain_removal_ros.errors import DatasetError, RainRemovalError
from rain_removal_ros.files.images import write_image
from rain_removal_ros.lab.data import depth_code
from rain_removal_ros.lab.data.examples import Example
from rain_removal_ros.lab.evaluation.monitor import (
    SWEEPS,
    correlation,
    measure,
    rank_correlation,
    report,
)
from rain_removal_ros.lab.scenes import Drive
from rain_removal_ros.runtime import Restored, RuntimeSettings, create_restorer

HEIGHT, WIDTH = 192, 320
FEW = tuple(
    type(sweep)(sweep.name, sweep.of, sweep.strengths[::2], sweep.parameters) for sweep in SWEEPS
)  # none, a little, much, very much


@pytest.fixture(scope="module")
def views() -> list[Example]:
    drive = Drive(WIDTH, HEIGHT, frame_count=8, rate=0.5, seed=1000)
    return [
        Example(
            f"drive_{index}",
            clean=drive[index].image,
            inverse_depth=drive[index].inverse_depth,
            focal_px=drive.camera.fx,
            number=number,
        )
        for number, index in enumerate((0, 5))
    ]


class Says:
    """A restorer that says of every image what `of` makes of its number."""

    info = SimpleNamespace(weights="made_up.safetensors")

    def __init__(self, of):
        self.of, self.images, self.focal_lengths = of, 0, []

    def __call__(self, image, outputs, focal_px=None) -> Restored:
        self.images += 1
        self.focal_lengths.append(focal_px)
        light, extinction = self.of(self.images)
        return Restored(image, None, None, streak_light=light, extinction=extinction)


def test_the_packaged_network_says_more_where_more_rain_and_fog_was_rendered(views, tmp_path):
    settings = RuntimeSettings(backend="torch-cpu", precision="fp32", threads=1, cache_dir=tmp_path)
    restorer = create_restorer(settings)
    try:
        readings = measure(restorer, views, sweeps=FEW)
    finally:
        restorer.close()
    print(report(readings, FEW))
    for sweep in FEW:
        own = [reading for reading in readings if reading.sweep == sweep.name]
        attribute = "rain" if sweep.of == "rain" else "visibility_m"
        said = [
            float(np.median([getattr(r.said, attribute) for r in own if r.strength == strength]))
            for strength in sweep.strengths
        ]
        assert correlation(readings, sweep) > 0.85, sweep.name
        if sweep.of == "rain":
            assert said == sorted(said) and said[-1] > said[0] + 0.3, sweep.name
        else:
            assert said == sorted(said, reverse=True) and said[-1] < said[0] / 2, sweep.name
    dry = [reading.said.rain for reading in readings if reading.sweep == "streaks" and not reading.strength]
    assert max(dry) < 0.05, "a dry street is taken for rain"


def test_what_was_rendered_is_told_by_the_monitors_own_measures(views):
    readings = measure(Says(lambda number: (0.01 * number, 0.001)), views[:1], sweeps=FEW)
    for sweep in FEW:
        of_sweep = [reading for reading in readings if reading.sweep == sweep.name]
        rain = [reading.rendered.rain for reading in of_sweep]
        visibility = [reading.rendered.visibility_m for reading in of_sweep]
        if sweep.of == "rain":
            assert rain[0] == 0 and rain == sorted(set(rain)) and set(visibility) == {10_000.0}
            assert correlation(readings, sweep) == pytest.approx(1)
        else:
            assert len(set(rain)) == 1 and visibility == sorted(set(visibility), reverse=True)
            assert correlation(readings, sweep) == 0, "what never changes follows nothing"


def test_a_view_meets_the_same_rain_whatever_other_views_there_are(views):
    says = Says(lambda number: (0.0, 0.0))
    together, alone = measure(says, views, sweeps=FEW[:1]), measure(says, views[1:], sweeps=FEW[:1])
    assert [r for r in together if r.view == "drive_5"] == alone
    other = measure(says, [replace(views[1], number=7)], sweeps=FEW[:1])
    assert [r.rendered for r in other] != [r.rendered for r in alone]


def test_the_cameras_focal_length_reaches_the_network(views):
    says = Says(lambda number: (0.0, 0.0))
    measure(says, views[:1], sweeps=FEW[:1])
    unsaid = replace(views[0], focal_px=None)
    measure(says, [unsaid], 123.0, sweeps=FEW[:1])
    assert set(says.focal_lengths) == {views[0].focal_px, 123.0}


def test_what_cannot_be_measured_is_told(views):
    with pytest.raises(RainRemovalError, match=r"made_up.safetensors does not say how strong"):
        measure(Says(lambda number: (None, None)), views[:1])
    with pytest.raises(DatasetError, match="drive_0 has no clean image or no inverse depth"):
        measure(Says(lambda number: (0.0, 0.0)), [replace(views[0], inverse_depth=None)])


def test_rank_correlation_is_spearmans_with_mean_ranks_for_equal_numbers():
    assert rank_correlation([1, 2, 3, 4], [10, 20, 30, 99]) == pytest.approx(1)
    assert rank_correlation([1, 2, 3, 4], [4, 3, 2, 1]) == pytest.approx(-1)
    assert rank_correlation([1, 2, 2, 4], [1, 3, 2, 4]) == pytest.approx(0.9486833)
    assert rank_correlation([1, 2, 3], [5, 5, 5]) == 0
    generator = np.random.default_rng(0)
    assert abs(rank_correlation(generator.random(500), generator.random(500))) < 0.15


def test_the_command_refuses_views_that_the_drive_has_not(capsys):
    assert main(["monitor", "--views", "49"]) == 1
    assert "--views is 49; there are 1 to 48" in capsys.readouterr().err


def test_the_command_measures_views_of_ones_own(views, tmp_path, capsys):
    for folder in ("image", "inverse_depth"):
        (tmp_path / folder).mkdir()
    for view in views:
        write_image(tmp_path / "image" / f"{view.name}.png", view.clean)
        write_image(tmp_path / "inverse_depth" / f"{view.name}.png", depth_code.encode(view.inverse_depth))
    command = ["monitor", "--data", str(tmp_path), "--views", "2", "--json", str(tmp_path / "said.json")]
    assert main(command) == 0
    assert "2 views; rain is 0 to 1" in capsys.readouterr().out
    said = json.loads((tmp_path / "said.json").read_text())["readings"]
    assert {reading["view"] for reading in said} == {view.name for view in views}
    assert main([*command, "--size", "64x64"]) == 1
    assert "--size is that of the drive's views" in capsys.readouterr().err
