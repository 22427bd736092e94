"""The evaluation: figures on a tiny fixed set, judges in every format, the report, and the command from end
to end.
"""

from __future__ import annotations

import csv
import errno
import json
import os
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from modules import skip_without
from runtime_fixtures import TINY, TINY_SEGMENTATION, random_network, street_like, write_weights

from rain_removal_ros.commands import evaluate as command
from rain_removal_ros.commands.main import main
from rain_removal_ros.errors import DatasetError, OutputError, ParameterError, WeightsError
from rain_removal_ros.lab.data.datasets import FolderDataset
from rain_removal_ros.lab.data.examples import Dataset, Example
from rain_removal_ros.lab.evaluation import hard_dry, metrics, report
from rain_removal_ros.lab.evaluation.conditions import ROBUSTNESS, fog_of, rain_on
from rain_removal_ros.lab.evaluation.evaluate import (
    FOG_LEFT,
    STREAKS_ALONE,
    Evaluation,
    EvaluationSettings,
)
from rain_removal_ros.lab.evaluation.export import export_image, export_inputs
from rain_removal_ros.lab.evaluation.hard_dry import (
    ALL,
    ALL_HELD_OUT,
    KINDS,
    hard_dry_image,
    measure_hard_dry,
)
from rain_removal_ros.lab.evaluation.intervals import intervals
from rain_removal_ros.lab.evaluation.judges import Judge, JudgeSpecification, KeptJudge, padded
from rain_removal_ros.lab.evaluation.real_weather import measure_weather, open_weather
from rain_removal_ros.lab.evaluation.results import ResultFolder, open_results
from rain_removal_ros.lab.evaluation.streak_stage import StreakStageAlone
from rain_removal_ros.lab.evaluation.summary import MEAN, Record, as_csv, summarise
from rain_removal_ros.lab.evaluation.testbed import MASK, Testbed
from rain_removal_ros.lab.evaluation.views import in_turns
from rain_removal_ros.lab.weather.lookalikes import LOOKALIKES
from rain_removal_ros.network import save_network
from rain_removal_ros.runtime import Output, Restored
from rain_removal_ros.runtime.graph import LevelsGraph

HEIGHT, WIDTH = 64, 96
LEVELS = ("light", "medium", "heavy", "dense", "fog")
QUICK = {
    "robustness_images": 1,
    "flicker_scenes": 1,
    "flicker_frames": 3,
    "consistency_images": 1,
    "latency_size": (64, 96),
    "latency_calls": 3,
}


class Street:
    """Three views of a plane that goes to the horizon, labelled sky, car and road; the last one's labels are
    a network's.
    """

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> Example:
        inverse_depth = np.zeros((HEIGHT, WIDTH), np.float32)
        inverse_depth[24:] = np.linspace(0.005, 0.3, HEIGHT - 24, dtype=np.float32)[:, None]
        labels = np.full((HEIGHT, WIDTH), 10, np.uint8)
        labels[24:] = 0
        labels[30:50, 20:50] = 14  # a truck, which CamVid would call a car
        return Example(
            f"view_{index}",
            street_like(HEIGHT, WIDTH, index),
            inverse_depth=inverse_depth,
            labels=labels,
            label_kind="pseudo" if index == 2 else "human",
            depth_kind="lidar" if index else "geometry",
            group="north" if index else "south",
            focal_px=80.0,
            number=index,
        )


def write_street(root: Path, count: int) -> None:
    """The first views of the street as a folder dataset, its depth measured."""
    for index in range(count):
        example = Street()[index]
        for folder, array in (
            ("image", example.clean[..., ::-1]),
            ("inverse_depth", np.uint8(255 * np.sqrt(example.inverse_depth / 0.7))),
            ("labels", example.labels),
        ):
            (root / folder).mkdir(parents=True, exist_ok=True)
            assert cv2.imwrite(str(root / folder / f"view_{index}.png"), array)
    rows = [f"view_{index},lidar\n" for index in range(count)]
    (root / "index.csv").write_text("id,depth_kind\n" + "".join(rows))


class Recorded(Street):
    """The same views with rainy images of their own, of one level that is named and one that is not, and no
    depth.
    """

    def __getitem__(self, index: int) -> Example:
        example = super().__getitem__(index)
        rainy = np.clip(example.clean.astype(int) + 10, 0, 255).astype(np.uint8)
        return Example(example.name, example.clean, rainy=rainy, level="heavy" if index else None)


def _texture(image: np.ndarray) -> np.ndarray:
    """Steps from column to column, those of streaks cut short: by this a view is known in rain and fog."""
    steps = np.clip(np.diff(image.astype(float), axis=1), -12, 12)
    return steps / np.linalg.norm(steps)


class Oracle:
    """A restorer that knows the answer, short of `error` grey levels, and an inverse depth that is 1.2 times
    the truth's.
    """

    def __init__(self, dataset: Street, error: int = 0):
        self._clean = [dataset[i].clean for i in range(len(dataset))]
        self._inverse_depth = dataset[0].inverse_depth
        self._error = error

    def prepare(self, height, width, outputs, on_progress=None) -> None:
        pass

    def __call__(self, image, outputs, focal_px=None) -> Restored:
        if image.shape != self._clean[0].shape:
            return Restored(image, np.zeros(image.shape[:2], np.float32), None)
        nearest = max(self._clean, key=lambda clean: float((_texture(clean) * _texture(image)).sum()))
        moved = np.where(nearest > 127, nearest.astype(int) - self._error, nearest.astype(int) + self._error)
        return Restored(moved.astype(np.uint8), 1.2 * self._inverse_depth, rain_shy_judge(moved))

    def close(self) -> None:
        pass


class Idle(Oracle):
    """A restorer that gives back what it gets."""

    def __call__(self, image, outputs, focal_px=None) -> Restored:
        # as a network that sees pixels per metre: what it takes for 10 m at a focal length of 80 pixels
        return Restored(image, np.full(image.shape[:2], 8 / (focal_px or 80), np.float32), None)


def rain_shy_judge(image: np.ndarray) -> np.ndarray:
    """Right about a clean view, and the worse the more an image differs from one: takes bright pixels on the
    road for sky.
    """
    labels = np.full(image.shape[:2], 10, np.uint8)
    labels[24:] = 0
    labels[30:50, 20:50] = 13
    labels[24:][image[24:].mean(axis=2) > 150] = 10
    return labels


def measured(dataset, networks: dict, judges: dict | None = None, **settings) -> dict:
    testbed = Testbed(networks, judges or {}, class_set="camvid11")
    return Evaluation(dataset, testbed, EvaluationSettings(**QUICK | settings)).run()


@pytest.fixture(scope="module")
def results() -> dict:
    street = Street()
    networks = {"oracle": Oracle(street), "near": Oracle(street, error=3), "idle": Idle(street)}
    stages = {"idle": lambda image: image}
    testbed = Testbed(
        networks, {"shy": rain_shy_judge}, streak_stages=stages, mask=rain_shy_judge, class_set="camvid11"
    )
    return Evaluation(street, testbed, EvaluationSettings(**QUICK)).run()


def test_a_perfect_restorer_gets_perfect_figures(results):
    overall = results["sources"]["oracle"]["overall"][MEAN]
    assert overall["psnr"] == overall["psnr_below"] == overall["psnr_y"] == metrics.MAX_PSNR
    assert overall["ssim"] == pytest.approx(1) and overall["ssim_below"] == pytest.approx(1)
    assert overall["harmed"] == overall["sky_brightness"] == overall["sky_hue"] == 0
    assert overall["won_back/miou/shy"] == overall["won_back/agreement/shy"] == 1
    assert overall["won_back/miou/mask"] == overall["agreement/mask"] == 1
    dry = results["sources"]["oracle"]["dry"][MEAN]
    assert dry["psnr"] == dry["psnr_worst"] == metrics.MAX_PSNR
    flicker = results["networks"]["oracle"]["flicker"]
    assert flicker["derained"] == 0 < flicker["rainy"]


def test_a_known_error_gets_its_known_psnr(results):
    near = results["sources"]["near"]
    for level in (*LEVELS, "overall", "dry"):
        for part in ("psnr", "psnr_below"):
            assert near[level][MEAN][part] == pytest.approx(20 * np.log10(255 / 3), abs=1e-6)


def test_what_a_sky_leaves_room_for_is_told_beside_the_gain():
    street = Street()
    figures = measured(street, {"perfect": Oracle(street), "idle": Idle(street)}, levels=("medium",))
    sources = figures["sources"]
    clean, rainy = street[0].clean, rain_on(street[0], "medium").rainy
    kept = np.concatenate([rainy[:24], clean[24:]])
    calm = clean.copy()
    calm[:24] = np.uint8(clean[:24].mean() + 0.5)
    before = metrics.psnr(rainy, clean)
    of_first = sources["rainy"]["overall"]["south"]["psnr_gain_sky_kept"]
    assert of_first == pytest.approx(metrics.psnr(kept, clean) - before)
    of_first = sources["perfect"]["overall"]["south"]["psnr_gain_sky_calm"]
    assert of_first == pytest.approx(metrics.psnr(calm, clean) - before)
    assert sources["idle"]["overall"][MEAN]["psnr_gain_sky_calm"] > 0


def test_a_restorer_that_does_nothing_gains_nothing_and_harms_nothing(results):
    idle, rainy = results["sources"]["idle"], results["sources"]["rainy"]
    for level in LEVELS:
        figures = idle[level][MEAN]
        assert figures["psnr_gain"] == figures["ssim_below_gain"] == figures["harmed"] == 0
        assert figures["psnr"] == rainy[level][MEAN]["psnr"]
        assert figures["sky_brightness"] == rainy[level][MEAN]["sky_brightness"] > 0
        assert figures["light_below"] == rainy[level][MEAN]["light_below"] > 0  # fog is brighter
        assert results["sources"]["oracle"][level][MEAN]["light_below"] == 0
    assert idle["heavy"][MEAN]["won_back/miou/shy"] == idle["heavy"][MEAN]["won_back/agreement/shy"] == 0
    assert idle["dry"][MEAN]["psnr"] == metrics.MAX_PSNR
    network = results["networks"]["idle"]
    assert [row["psnr_gain"] for row in network["robustness"]] == [0] * len(ROBUSTNESS)
    assert network["flicker"]["derained"] == network["flicker"]["rainy"]


def test_the_rainy_figures_are_those_of_the_rain_that_the_protocol_names(results):
    street, rainy = Street(), results["sources"]["rainy"]
    views = [rain_on(street[i], "heavy") for i in range(3)]
    expected = [metrics.psnr(view.rainy, view.reference) for view in views]
    assert rainy["heavy"]["south"]["psnr"] == pytest.approx(expected[0])
    assert rainy["heavy"]["north"]["psnr"] == pytest.approx(np.mean(expected[1:]))
    assert rainy["light"][MEAN]["psnr"] > rainy["medium"][MEAN]["psnr"] > rainy["heavy"][MEAN]["psnr"]
    assert results["levels"] == list(LEVELS)


def test_every_group_counts_once_in_the_mean(results):
    for figures in results["sources"]["idle"].values():
        for name in ("psnr", "agreement/shy"):
            assert figures[MEAN][name] == pytest.approx((figures["south"][name] + figures["north"][name]) / 2)
    assert results["groups"] == {"south": 1, "north": 2}


def test_streaks_alone_are_held_against_the_fog_that_a_perfect_stage_would_leave(results):
    street = Street()
    rainy, fog = rain_on(street[0], "light").rainy, fog_of(street[0], "light")
    alone = results["sources"][STREAKS_ALONE.format("idle")]
    assert alone["light"]["south"]["psnr_to_fog"] == pytest.approx(metrics.psnr(rainy, fog))
    perfect = results["sources"][FOG_LEFT]["light"]["south"]
    assert perfect["psnr"] == pytest.approx(metrics.psnr(fog, street[0].clean))
    assert "fog" not in alone and "fog" not in results["sources"][FOG_LEFT]  # fog alone has no streaks
    assert perfect["won_back/agreement/shy"] >= alone["light"]["south"]["won_back/agreement/shy"] == 0


def test_judges_see_only_labels_that_are_not_a_networks_and_fold_classes(results):
    assert results["counts"] == {
        "images": 3,
        "views": 15,
        "labelled_images": 2,
        "robustness_images": 1,
        "flicker_scenes": 1,
    }
    assert set(results["class_iou"]["shy"]["clean"]) == {"road", "sky", "car"}  # the truck counts as a car
    clean = results["sources"]["clean"]["dry"][MEAN]["miou/shy"]
    assert clean > results["sources"]["rainy"]["overall"][MEAN]["miou/shy"]


def test_depth_is_judged_in_metres_where_it_was_measured(results):
    oracle = results["sources"]["oracle"]["overall"]
    assert oracle["north"]["inverse_abs_rel"] == pytest.approx(0.2, abs=1e-4)
    assert oracle["north"]["abs_rel"] == pytest.approx(1 - 1 / 1.2, abs=1e-4)
    assert oracle["north"]["delta_1.25"] == 1
    assert "abs_rel" not in oracle["south"]  # its depth is made up


class Large(Street):
    """The same views twice as large, so that their middle is no image too small."""

    def __getitem__(self, index: int) -> Example:
        example = super().__getitem__(index)
        parts = {
            part: cv2.resize(getattr(example, part), None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST)
            for part in ("clean", "inverse_depth", "labels")
        }
        return replace(example, focal_px=160.0, **parts)


def test_depth_by_the_focal_length_is_held_against_that_of_a_crop_and_of_the_crop_enlarged():
    summary = measured(Large(), {"idle": Idle(Large())}, limit=1, levels=("light",))
    consistency = summary["networks"]["idle"]["depth_consistency"]
    assert consistency["crop"] == pytest.approx(0, abs=1e-6)
    # what sees no pixels, only the focal length, is wrong by as much as the crop was enlarged
    assert consistency["zoom"] == pytest.approx(1 - 0.6, abs=0.02)


class Far(Idle):
    """A restorer that sees nothing nearer than 100 m."""

    def __call__(self, image, outputs, focal_px=None) -> Restored:
        return Restored(image, np.full(image.shape[:2], 0.004, np.float32), None)


def test_depth_that_nothing_near_can_be_told_by_is_not_called_consistent():
    networks = {"idle": Idle(Large()), "far": Far(Large())}
    summary = measured(Large(), networks, limit=1, levels=("light",))["networks"]
    assert "depth_consistency" in summary["idle"] and "depth_consistency" not in summary["far"]


class Distant(Street):
    """The same views, nothing of them nearer than 100 m."""

    def __getitem__(self, index: int) -> Example:
        example = super().__getitem__(index)
        return replace(example, inverse_depth=np.minimum(example.inverse_depth, np.float32(0.01)))


def test_depth_that_has_nothing_within_eighty_metres_loses_no_evaluation():
    judged = measured(Distant(), {"oracle": Oracle(Distant())}, levels=("heavy",))
    json.dumps(judged, allow_nan=False)
    north = judged["sources"]["oracle"]["heavy"]["north"]
    assert north["inverse_abs_rel"] == pytest.approx(0.2, abs=1e-4) and "abs_rel_80" not in north


def test_an_evaluation_repeats_itself(results):
    again = measured(Street(), {"idle": Idle(Street())}, {"shy": rain_shy_judge})
    without_mask = {
        level: {
            group: {name: value for name, value in figures.items() if MASK not in name}
            for group, figures in groups.items()
        }
        for level, groups in results["sources"]["idle"].items()
    }
    assert again["sources"]["idle"] == without_mask
    for part in ("robustness", "flicker"):
        assert again["networks"]["idle"][part] == results["networks"]["idle"][part]


def test_worst_cases_of_every_group_come_first_and_can_be_seen_again():
    street = Street()
    dark = Idle(street)
    dark.__class__ = type("Dark", (Idle,), {"__call__": darkened})
    evaluation = Evaluation(street, Testbed({"dark": dark}), EvaluationSettings(**QUICK))
    evaluation.run()
    worst = evaluation.worst("dark", 3)
    assert [record.group for record in worst] == ["north", "south", "north"]
    assert worst[0].figures["harmed"] >= worst[2].figures["harmed"] > 0
    view, focal_px = evaluation.view_again(worst[0])
    restored = view.rainy // 2
    assert metrics.harmed(restored, view.rainy, view.clean).mean() == worst[0].figures["harmed"]
    assert focal_px == 80


def darkened(self, image, outputs, focal_px=None) -> Restored:
    return Restored(image // 2, np.full(image.shape[:2], 0.1, np.float32), None)


def test_a_datasets_own_rain_is_taken_as_it_is():
    recorded = Recorded()
    summary = measured(recorded, {"idle": Idle(recorded)})
    assert summary["levels"] == ["recorded", "heavy"] and summary["counts"]["views"] == 3
    assert "robustness" not in summary["networks"]["idle"]  # no depth, so no rain can be rendered
    assert measured(recorded, {"idle": Idle(recorded)}, levels=("light",))["counts"]["views"] == 1


class Watched(Idle):
    """Keeps the sizes of the images that it is given."""

    def __init__(self, dataset: Street):
        super().__init__(dataset)
        self.sizes: set[tuple[int, int]] = set()

    def __call__(self, image, outputs, focal_px=None) -> Restored:
        self.sizes.add(image.shape[:2])
        return super().__call__(image, outputs, focal_px)


def test_the_papers_protocol_restores_what_it_cuts_out():
    street = Street()
    watched = Watched(street)
    cut = measured(street, {"watched": watched}, protocol="paper-crop", limit=1, consistency_images=0)
    assert cut["counts"]["images"] == 1
    assert watched.sizes == {(256, 512)}
    example = street[0]
    clean, rainy = (
        cv2.resize(image[int(0.04 * HEIGHT) : int(0.82 * HEIGHT), int(0.05 * WIDTH) : int(0.99 * WIDTH)],
                   (512, 256), interpolation=cv2.INTER_AREA)
        for image in (example.clean, rain_on(example, "heavy").rainy)
    )  # fmt: skip
    psnr = cut["sources"]["rainy"]["heavy"][MEAN]["psnr"]
    assert psnr == pytest.approx(metrics.psnr(rainy, clean))


def test_a_quick_look_takes_some_of_every_group():
    street = Street()
    assert measured(street, {"idle": Idle(street)}, limit_per_group=1)["groups"] == {"south": 1, "north": 1}


class Uneven(Street):
    """Twelve views, one of them in the south, that say of themselves what they are without being read."""

    def __init__(self):
        self.read: list[int] = []

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> Example:
        self.read.append(index)
        return replace(super().__getitem__(index), number=index)

    def outline(self, index: int) -> Example:
        return Example(f"view_{index}", None, group="north" if index else "south", number=index)


def test_groups_are_known_without_reading_the_images():
    street = Uneven()
    evaluation = Evaluation(street, Testbed({"idle": Idle(Street())}), EvaluationSettings(limit_per_group=6))
    assert evaluation.indices == [0, 1, 3, 5, 7, 9, 11] and not street.read


@pytest.mark.parametrize(
    ("sizes", "count", "expected"),
    [
        ((1, 9), 5, [0, 1, 3, 6, 9]),
        ((1, 2), 9, [0, 1, 2]),
        ((4, 4, 4), 6, [0, 3, 4, 7, 8, 11]),
        ((4, 4, 4), 7, [0, 1, 3, 4, 5, 8, 9]),
        ((3, 3), 0, []),
    ],
)
def test_as_many_images_are_taken_in_turn_as_there_are(sizes, count, expected):
    begins = np.cumsum((0, *sizes))
    groups = [list(range(begins[n], begins[n] + size)) for n, size in enumerate(sizes)]
    assert in_turns(groups, count) == expected


class Mean(Street):
    def __getitem__(self, index: int) -> Example:
        return replace(super().__getitem__(index), group="mean")


def test_a_group_that_is_called_as_the_mean_over_groups_is_refused():
    with pytest.raises(DatasetError, match="view_0 belongs to a group called 'mean'"):
        measured(Mean(), {"idle": Idle(Street())}, levels=("heavy",))


def rainy_psnr(dataset: Dataset, **settings) -> dict[tuple[str, str], float]:
    """PSNR of every rainy view by the image's name and the level."""
    idle = Testbed({"idle": Idle(Street())})
    evaluation = Evaluation(dataset, idle, EvaluationSettings(**QUICK | settings))
    evaluation.run()
    records = [record for score in evaluation.scores for record in score.records]
    return {(r.name, r.level): r.figures["psnr"] for r in records if r.source == "rainy"}


def test_an_image_has_the_same_rain_in_whatever_part_of_a_split_it_is_measured(tmp_path):
    write_street(tmp_path, 3)
    whole = rainy_psnr(FolderDataset(tmp_path))
    parts = (
        rainy_psnr(FolderDataset(tmp_path, ["view_1", "view_2"])),
        rainy_psnr(FolderDataset(tmp_path), limit=2),
        rainy_psnr(FolderDataset(tmp_path, ["view_1", "view_2"]), limit_per_group=1),
    )
    for part, images in zip(parts, (2, 2, 1), strict=True):
        assert len(part) == images * len(LEVELS)
        assert part.items() <= whole.items()


def test_what_cannot_be_evaluated_is_refused():
    street = Street()
    with pytest.raises(ParameterError, match="drizzle"):
        Evaluation(street, Testbed({"idle": Idle(street)}), EvaluationSettings(levels=("drizzle",)))
    for name in ("rainy", "clean", FOG_LEFT):  # two sources of one name would be averaged into one
        with pytest.raises(ParameterError, match=f"no network can be called '{name}'"):
            Evaluation(street, Testbed({name: Idle(street)}), EvaluationSettings())
    with pytest.raises(ParameterError, match="no network"):
        Testbed({})
    with pytest.raises(ParameterError, match="mask"):
        Testbed({"idle": Idle(street)}, {"mask": rain_shy_judge})
    flat = Example("flat", street[0].clean)
    with pytest.raises(DatasetError, match="flat has no inverse depth"):
        rain_on(flat, "light")


def test_what_rain_took_and_what_came_back_is_a_ratio_of_means_over_groups():
    def record(group: str, source: str, level: str, agreement: float) -> Record:
        return Record(0, "a", "a", group, level, source, {"agreement/j": agreement})

    records = []
    for group, before, after in (("a", 0.0, 0.8), ("b", 0.9, 0.9)):
        records += [record(group, "clean", "dry", 1), record(group, "rainy", "light", before)]
        records += [record(group, "net", "light", after)]
    figures = summarise(records)["sources"]["net"]["overall"]
    assert figures["a"]["won_back/agreement/j"] == pytest.approx(0.8)
    assert figures["b"]["won_back/agreement/j"] == 0
    assert figures[MEAN]["won_back/agreement/j"] == pytest.approx((0.85 - 0.45) / (1 - 0.45))


def test_what_was_measured_at_some_levels_alone_is_not_held_against_all_of_them():
    def record(source: str, level: str, agreement: float) -> Record:
        confusions = {"j": np.eye(19, dtype=np.int64)}
        return Record(0, "a", "a", "a", level, source, {"agreement/j": agreement}, confusions)

    records = [record("clean", "dry", 1), record("rainy", "dense", 0.2), record("rainy", "fog", 0.8)]
    records += [record("net", "dense", 0.6), record("net", "fog", 0.9), record(FOG_LEFT, "dense", 0.6)]
    summary = summarise(records)
    assert summary["overall"] == ["dense", "fog"]
    assert summary["sources"]["net"]["overall"][MEAN]["won_back/agreement/j"] == pytest.approx(0.5)
    perfect = summary["sources"][FOG_LEFT]
    assert perfect["dense"][MEAN]["won_back/agreement/j"] == pytest.approx(0.5)
    assert set(summary["class_iou"]["j"]) == {"clean", "rainy", "net"}
    assert "overall" not in perfect, "rain without streaks would lower what perfect removal wins back"


class BlueSky(Idle):
    """A restorer that paints the upper half of every image 30 grey levels bluer, and thinks that it rains."""

    def __call__(self, image, outputs, focal_px=None) -> Restored:
        painted = image.astype(int)
        painted[: len(image) // 2, :, 2] += 30
        depth = np.full(image.shape[:2], 0.1, np.float32)
        return Restored(np.clip(painted, 0, 255).astype(np.uint8), depth, rain_shy_judge(image))


def write_weather(root: Path) -> Path:
    for weather, index in (("fog", 0), ("rain", 1)):
        example = Street()[index]
        labels = example.labels
        for folder, array in (("image", np.minimum(example.clean, 200)[..., ::-1]), ("labels", labels)):
            (root / weather / folder).mkdir(parents=True)
            assert cv2.imwrite(str(root / weather / folder / f"{index}.png"), array)
    return root


def test_real_weather_tells_how_the_sky_moved_and_what_judges_see(tmp_path):
    datasets = open_weather(write_weather(tmp_path))
    testbed = Testbed({"blue": BlueSky(Street())}, {"shy": rain_shy_judge}, class_set="camvid11")
    summary, views = measure_weather(datasets, testbed)
    assert [view.weather for view in views] == ["fog", "rain"]
    fog = summary["blue"]["fog"]
    assert fog["sky_blueness"] == fog["sky_blueness_worst"] == pytest.approx(30)
    assert fog["sky_brightness"] == pytest.approx(10)
    assert 0 < fog["miou_before/shy"] <= 1 and 0 < fog["miou/shy"] <= 1 and "miou/mask" not in fog
    labels = testbed.fold(datasets["fog"][0].labels)
    seen = testbed.fold(rain_shy_judge(views[0].restored["blue"]))
    assert fog["right/shy"] == pytest.approx((seen == labels)[labels < 19].mean())
    assert 0 < fog["right_before/shy"] <= 1
    with pytest.raises(DatasetError, match="no WEATHER/image"):
        open_weather(tmp_path / "fog")


def test_the_hard_dry_set_is_the_same_every_time_and_meets_every_kind():
    street = Street()
    first = [hard_dry_image(street[0], kind) for kind in KINDS]
    assert all(np.array_equal(a, hard_dry_image(street[0], k)) for a, k in zip(first, KINDS, strict=True))
    other = replace(street[0], number=9)
    assert any(not np.array_equal(a, hard_dry_image(other, k)) for a, k in zip(first, KINDS, strict=True))
    summary, scores = measure_hard_dry(street, 2, Testbed({"idle": Idle(street), "blue": BlueSky(street)}))
    assert len(scores) == 2 * 2 * len(KINDS)
    assert set(summary["idle"]) == {*KINDS, ALL, ALL_HELD_OUT}
    assert summary["idle"][ALL]["images"] == 2 * len(LOOKALIKES)
    assert summary["idle"]["all"]["psnr_worst"] == metrics.MAX_PSNR and summary["idle"]["all"]["changed"] == 0
    assert summary["blue"]["all"]["psnr_worst"] < 30


def test_a_look_alike_is_the_same_whatever_part_of_a_split_is_taken_and_whatever_kinds_there_are(
    tmp_path, monkeypatch
):
    write_street(tmp_path, 3)
    whole, part = FolderDataset(tmp_path), FolderDataset(tmp_path, ["view_2"])
    kind = list(KINDS)[-1]
    expected = hard_dry_image(whole[2], kind)
    assert np.array_equal(hard_dry_image(part[0], kind), expected)
    monkeypatch.setattr(hard_dry, "KINDS", {kind: KINDS[kind]})
    assert np.array_equal(hard_dry_image(whole[2], kind), expected)


def test_a_streak_stage_is_taken_off_alone_at_any_size():
    network = random_network(TINY).requires_grad_(False).eval()
    network.streaks.rain.output.bias.fill_(9.0)  # it rains, whatever it sees
    image = street_like(64, 96)
    light = network.find_streaks(torch.from_numpy(image / np.float32(255)).permute(2, 0, 1)[None]).light
    expected = image - 255 * light[0].permute(1, 2, 0).numpy()
    assert np.abs(expected - image).max() > 3
    cleared = StreakStageAlone(network)(image)
    assert np.abs(cleared - np.clip(expected, 0, 255)).max() <= 0.51
    assert StreakStageAlone(network)(image[:37, :50]).shape == (37, 50, 3)


def test_every_robustness_row_is_another_view_with_a_reference_of_its_size():
    example = replace(Street()[0], number=5)
    seen = [row.observe(example) for row in ROBUSTNESS]
    assert all(s.rainy.shape == s.reference.shape and s.rainy.dtype == np.uint8 for s in seen)
    assert len({s.rainy.tobytes() for s in seen}) == len(ROBUSTNESS)
    dark = {row.name: s.reference.mean() for row, s in zip(ROBUSTNESS, seen, strict=True)}
    assert dark["night"] < dark["underexposed"] < dark["rain alone"] < dark["overexposed"]


def _decisive_judge() -> torch.nn.Module:
    """A segmentation network with random weights that sees several classes in a street; exact in float16."""
    network = random_network(TINY_SEGMENTATION, seed=3).requires_grad_(False)
    for parameter in network.parameters():
        if parameter.ndim == 4:
            parameter.copy_(parameter.half().float())  # as a weights file keeps it
    image = torch.from_numpy(street_like(HEIGHT, WIDTH, 1) / np.float32(255)).permute(2, 0, 1)[None]
    network.decoder.classify.bias -= network(image).mean(dim=(0, 2, 3))
    return network


@pytest.fixture(scope="module")
def judge_files(tmp_path_factory) -> dict[str, Path]:
    """One small segmentation network as safetensors, TorchScript, and ONNX with free and with fixed size."""
    skip_without("onnxscript")
    folder = tmp_path_factory.mktemp("judges")
    network = _decisive_judge()
    files = {"safetensors": folder / "ours.safetensors"}
    save_network(network, files["safetensors"], {})
    example = torch.rand(1, 3, HEIGHT, WIDTH)
    files["torchscript"] = folder / "script.pt"
    torch.jit.trace(network, example).save(str(files["torchscript"]))
    files["onnx"] = folder / "fixed.onnx"
    torch.onnx.export(network, (example,), files["onnx"], dynamo=True, verbose=False)
    return files


def test_a_judge_gives_the_same_labels_in_every_format(judge_files):
    image = street_like(HEIGHT, WIDTH, 1)
    labels = {form: Judge(JudgeSpecification.parse(str(path)))(image) for form, path in judge_files.items()}
    logits = _decisive_judge()(torch.from_numpy(image / np.float32(255)).permute(2, 0, 1)[None])
    expected = torch.nn.functional.interpolate(logits, (HEIGHT, WIDTH), mode="bilinear").argmax(1)[0].numpy()
    assert len(np.unique(expected)) > 2
    for form, found in labels.items():
        assert found.dtype == np.uint8 and found.shape == (HEIGHT, WIDTH)
        assert (found == expected).mean() > 0.97, form


def test_a_judge_takes_any_size_scale_and_normalisation(judge_files):
    image = street_like(75, 101, 1)
    plain = Judge(JudgeSpecification.parse(str(judge_files["safetensors"])))(image)
    enlarged = Judge(JudgeSpecification.parse(f"{judge_files['safetensors']},scale=2,name=big"))(image)
    normalised = Judge(JudgeSpecification.parse(f"{judge_files['torchscript']},normalise=imagenet"))(image)
    fixed = Judge(JudgeSpecification.parse(str(judge_files["onnx"])))(image)
    for labels in (plain, enlarged, normalised, fixed):
        assert labels.shape == (75, 101)
    assert (plain != normalised).any()


def test_a_judge_that_keeps_its_answers_is_asked_once_an_image(tmp_path, judge_files):
    judge = Judge(JudgeSpecification.parse(str(judge_files["safetensors"])))
    image = street_like(HEIGHT, WIDTH, 1)
    expected = judge(image)
    assert np.array_equal(KeptJudge(judge, tmp_path)(image), expected)
    (kept,) = tmp_path.glob("*.png")
    assert cv2.imwrite(str(kept), np.full((HEIGHT, WIDTH), 7, np.uint8))
    again = KeptJudge(judge, tmp_path)
    assert (again(image) == 7).all()
    assert np.array_equal(again(street_like(HEIGHT, WIDTH, 2)), judge(street_like(HEIGHT, WIDTH, 2)))
    assert not list(tmp_path.glob(".*"))  # nothing is left of the writing
    enlarged = JudgeSpecification.parse(f"{judge_files['safetensors']},scale=2")
    assert not (KeptJudge(Judge(enlarged), tmp_path)(image) == 7).all()


def test_a_judge_on_a_gpu_computes_in_float32_and_keeps_its_answers_apart(tmp_path, monkeypatch):
    save_network(random_network(TINY_SEGMENTATION), tmp_path / "judge.safetensors", {})
    specification = JudgeSpecification.parse(str(tmp_path / "judge.safetensors"))
    on_cpu = Judge(specification)
    allowed = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    monkeypatch.setattr(torch.nn.Module, "cuda", lambda self: self)

    def to_gpu(tensor):
        allowed.append((convolutions.allow_tf32, products.allow_tf32))
        return tensor

    monkeypatch.setattr(torch.Tensor, "cuda", to_gpu)
    convolutions, products = SimpleNamespace(allow_tf32=True), SimpleNamespace(allow_tf32=True)
    monkeypatch.setattr(torch.backends, "cudnn", convolutions)
    monkeypatch.setattr(torch.backends.cuda, "matmul", products)
    judge = Judge(specification)
    judge(street_like(HEIGHT, WIDTH, 1))
    assert allowed == [(False, False)]
    assert convolutions.allow_tf32 and products.allow_tf32
    assert judge.identity != on_cpu.identity


def test_answers_that_another_run_is_just_writing_keep_no_judge_from_being_opened(tmp_path, judge_files):
    (tmp_path / ".half.1.2.png").symlink_to(tmp_path / "renamed meanwhile")
    KeptJudge(Judge(JudgeSpecification.parse(str(judge_files["safetensors"]))), tmp_path)


@pytest.mark.parametrize(
    "text", ["a.pt,scale=no", "a.pt,scale=0", "a.pt,normalise=other", "a.pt,colour=bgr", "a.pt,scale"]
)
def test_a_malformed_judge_is_refused(text):
    with pytest.raises(ParameterError, match=r"judge 'a\.pt"):
        JudgeSpecification.parse(text)


@pytest.mark.parametrize("size", [(64, 96), (70, 91), (95, 127)])
def test_a_judge_sees_an_image_where_the_nodes_mask_sees_it(size):
    image = street_like(*size)
    larger, inside = padded(image)
    graph = LevelsGraph(random_network(TINY), None, *size, (Output.IMAGE,))
    frame = graph.pad(torch.from_numpy(image).permute(2, 0, 1)[None])
    assert (larger == frame[0].permute(1, 2, 0).numpy()).all()
    assert (larger[inside] == image).all()


def test_a_judge_that_is_none_is_refused(tmp_path, judge_files):
    with pytest.raises(WeightsError, match="does not exist"):
        Judge(JudgeSpecification.parse(str(tmp_path / "none.pt")))
    for name in ("broken.pt", "broken.onnx", "broken.safetensors"):
        (tmp_path / name).write_bytes(b"nothing")
        with pytest.raises(WeightsError, match=name):
            Judge(JudgeSpecification.parse(str(tmp_path / name)))
    derain = write_weights(tmp_path / "derain.safetensors", TINY)
    with pytest.raises(WeightsError, match="not a segmentation network"):
        Judge(JudgeSpecification.parse(str(derain)))
    torch.jit.trace(torch.nn.Conv2d(3, 4, 1), torch.rand(1, 3, 8, 8)).save(str(tmp_path / "four.pt"))
    with pytest.raises(WeightsError, match=r"shape \(1, 4, 64, 96\)"):
        Judge(JudgeSpecification.parse(str(tmp_path / "four.pt")))(street_like(HEIGHT, WIDTH))


def test_the_command_compares_networks_and_writes_a_report(tmp_path, judge_files, capsys):
    write_street(tmp_path / "data", 2)
    weights = [
        write_weights(tmp_path / run / "weights.safetensors", seed=seed)
        for seed, run in enumerate(("one", "two"))
    ]
    arguments = [
        "evaluate",
        "--data",
        tmp_path / "data",
        "--weights",
        *weights,
        "--judge",
        judge_files["safetensors"],
    ]
    arguments += [
        "--judge",
        f"{judge_files['torchscript']},name=other",
        "--classes",
        "camvid11",
        "--levels",
        "heavy",
    ]
    arguments += ["--backend", "torch-cpu", "--output", tmp_path / "out", "--robustness", 1, "--flicker", 1]
    arguments += ["--sheet", 2, "--latency-size", "96x64", "--cache-dir", tmp_path / "cache", "--hard-dry", 1]
    arguments += ["--weather", write_weather(tmp_path / "weather"), "--consistency", 1]
    arguments += ["--export", tmp_path / "images"]
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "left_by_another_run.jpg").touch()
    assert main([str(argument) for argument in arguments]) == 0

    written = json.loads((tmp_path / "out" / "report.json").read_text())
    results = written["results"]
    assert set(results["networks"]) == {"one", "two"}
    assert {"clean", "rainy", "one", "two", "one, streaks alone", FOG_LEFT} <= set(results["sources"])
    assert {"miou/ours", "miou/other", "miou/mask"} <= set(results["sources"]["one"]["heavy"][MEAN])
    assert set(results["real_weather"]["one"]) == {"fog", "rain"} and "all" in results["hard_dry"]["two"]
    assert {"abs_rel", "foggy", "rain"} <= set(results["sources"]["one"]["dry"][MEAN])
    assert set(results["hard_dry"]["one"]) == {*KINDS, ALL, ALL_HELD_OUT}
    conditions = written["conditions"]
    assert conditions["command"].startswith("derain ")
    assert conditions["protocol"] == "full" and conditions["dataset"]["examples"] == 2
    assert conditions["dataset"]["split"] is None
    assert conditions["networks"]["one"]["weights_sha256"] != conditions["networks"]["two"]["weights_sha256"]
    assert conditions["networks"]["one"]["backend"] == "torch-cpu"
    assert len(conditions["judges"]["ours"]["sha256"]) == 64
    assert conditions["machine"]["cores"] >= 1 and "torch" in conditions["versions"]
    markdown = (tmp_path / "out" / "report.md").read_text()
    for heading in (
        "Mean over groups",
        "Rain: heavy.",
        "How certain",
        "| one - two ",
        "agreement won back: other, %",
        "one by group",
        "two by level",
        "Error by distance",
        "What the sky decides",
        "Depth against measured depth",
        "mIoU of ours: ",
        "seen as foggy",
        "Real weather",
        "Hard dry",
    ):
        assert heading in markdown
    pictures, networks = {}, ("one", "two")
    for source in ("rainy", "clean", "one", "two"):
        files = sorted((tmp_path / "images" / source).iterdir())
        views = [file for file in files if "dry" not in file.name]
        assert [file.name for file in views] == ["view_0_heavy.png", "view_1_heavy.png"]
        assert len(files) == len(views) + 2 * (source in networks)
        pictures[source] = [cv2.imread(str(file))[..., ::-1] for file in views]
    assert all(np.array_equal(pictures["clean"][i], Street()[i].clean) for i in range(2))
    for name in ("rainy", "one"):
        means = [metrics.psnr(*pair) for pair in zip(pictures[name], pictures["clean"], strict=True)]
        assert results["sources"][name]["heavy"]["all"]["psnr"] == pytest.approx(np.mean(means))
    for name in ("one", "two"):
        sheet = cv2.imread(str(tmp_path / "out" / f"worst_{name}.jpg"))
        assert sheet.shape[1] == 5 * 400 and sheet.shape[0] > 2 * 260
        for of in ("weather", "hard_dry"):
            assert cv2.imread(str(tmp_path / "out" / f"{of}_{name}.jpg")).shape[1] == 3 * 400
    printed = capsys.readouterr().out
    assert "Mean over groups" in printed
    (written,) = [line for line in printed.splitlines() if line.startswith("Written to ")]
    assert (
        "images.csv, report.json, report.md, weather_one.jpg" in written
        and "left_by_another_run.jpg" not in written
    )


def exported(dataset: Dataset, networks: dict, folder: Path, **settings) -> dict:
    """What a run without judges measures, with every image that it compares written to a folder."""
    evaluation = Evaluation(
        dataset,
        Testbed(networks),
        EvaluationSettings(**QUICK | settings),
        show=partial(export_image, folder),
    )
    return evaluation.run()


def measured_beside(dataset: Dataset, folders: dict, judges: dict | None = None, **settings) -> dict:
    """What a run measures of the images in some folders, beside a restorer that does nothing."""
    testbed = Testbed({"idle": Idle(Street())}, judges or {}, class_set="camvid11")
    methods = {name: ResultFolder(folder) for name, folder in folders.items()}
    return Evaluation(dataset, testbed, EvaluationSettings(**QUICK | settings), methods=methods).run()


NO_PROBES = {"robustness_images": 0, "flicker_scenes": 0, "consistency_images": 0}


def test_a_methods_images_get_the_figures_of_a_network_that_made_the_same(tmp_path):
    street = Street()
    networks = {"near": Oracle(street, error=3)}
    exported(street, networks, tmp_path, levels=("heavy", "fog"), **NO_PROBES)
    summary = measured_beside(
        street, {"copy": tmp_path / "near"}, {"shy": rain_shy_judge}, levels=("heavy", "fog"), **NO_PROBES
    )
    expected = measured(street, networks, {"shy": rain_shy_judge}, levels=("heavy", "fog"), **NO_PROBES)
    assert summary["methods"] == ["copy"] and set(summary["networks"]) == {"idle"}
    depth_and_mask = {"abs_rel", "abs_rel_80", "inverse_abs_rel", "delta_1.25"}
    for level, groups in expected["sources"]["near"].items():
        for group, figures in groups.items():
            alone = {
                name: value
                for name, value in figures.items()
                if name not in depth_and_mask and MASK not in name
            }
            assert summary["sources"]["copy"][level][group] == pytest.approx(alone), (level, group)
    assert {"psnr_gain", "harmed", "won_back/miou/shy", "psnr_gain_sky_calm"} <= set(
        summary["sources"]["copy"]["overall"][MEAN]
    )
    assert summary["class_iou"]["shy"]["copy"] == expected["class_iou"]["shy"]["near"]


def test_a_method_without_dry_images_is_judged_on_rainy_ones_alone(tmp_path):
    street = Street()
    exported(street, {"near": Oracle(street, error=3)}, tmp_path, levels=("heavy",), **NO_PROBES)
    for path in (tmp_path / "near").glob("*_dry.png"):
        path.unlink()
    summary = measured_beside(street, {"copy": tmp_path / "near"}, levels=("heavy",), **NO_PROBES)
    assert set(summary["sources"]["copy"]) == {"heavy", "overall"}
    dataset = {"kind": "folder", "name": "a", "split": None, "examples": 3, "images": 3}
    conditions = {
        "dataset": dataset,
        "protocol": "full",
        "protocol_description": "",
        "rain": "",
        "machine": {"cpu": "", "cores": 1, "memory_gib": 1},
        "versions": {},
        "networks": {},
        "methods": {"copy": "results/near"},
        "judges": {},
        "command": "derain evaluate",
    }
    markdown = report.render_markdown({"conditions": conditions, "results": summary})
    assert "`copy`: the images in results/near" in markdown
    assert "## copy by group" in markdown and "## copy by level" in markdown


class Unread(Idle):
    """A restorer that must not be asked."""

    def __call__(self, image, outputs, focal_px=None) -> Restored:
        raise AssertionError("something was measured before the results were checked")


def test_results_that_are_not_those_of_the_views_are_refused_before_anything_is_measured(tmp_path):
    street = Street()
    inputs = tmp_path / "inputs"
    assert export_inputs(street, inputs, ("heavy",), "full") == 3
    folder = inputs / "rainy"

    def refusal() -> str:
        settings = EvaluationSettings(**QUICK | {"levels": ("heavy",)})
        testbed = Testbed({"unread": Unread(street)})
        with pytest.raises(DatasetError) as refused:
            Evaluation(street, testbed, settings, methods={"other": ResultFolder(folder)}).run()
        return str(refused.value)

    lost = folder / "view_1_heavy.png"
    content = lost.read_bytes()
    lost.unlink()
    assert "rainy/view_1_heavy.png is missing; write the inputs with" in refusal()
    lost.write_bytes(content)
    (folder / "view_1_light.png").write_bytes(content)
    assert "rainy/view_1_light.png is the result of no view that is measured; take it away" in refusal()
    (folder / "view_1_light.png").rename(folder / "view_0_dry.png")
    assert "rainy/view_1_dry.png is missing (and 1 others)" in refusal()
    (folder / "view_0_dry.png").rename(folder / "view_1_heavy.jpg")
    assert "view_1_heavy.png are results for one view" in refusal()
    (folder / "view_1_heavy.jpg").unlink()
    (folder / "notes.txt").touch()  # no image: nothing to say against it
    assert cv2.imwrite(str(lost), np.zeros((HEIGHT // 2, WIDTH, 3), np.uint8))
    assert "view_1_heavy.png has 96x32 pixels, its view 96x64" in refusal()
    lost.write_bytes(content[:-20])
    assert "view_1_heavy.png" in refusal()
    lost.write_bytes(content)
    settings = EvaluationSettings(**QUICK)
    for name in ("rainy", "dry", "idle"):
        with pytest.raises(ParameterError, match=f"no results can be called '{name}'"):
            Evaluation(
                street, Testbed({"idle": Idle(street)}), settings, methods={name: ResultFolder(folder)}
            )


@pytest.mark.parametrize(
    ("texts", "error", "said"),
    [
        (["other"], ParameterError, "'other' is not NAME=DIR"),
        (["=folder"], ParameterError, "'=folder' is not NAME=DIR"),
        (["a=.", "a=."], DatasetError, "no images in"),
        (["a=nowhere"], DatasetError, "nowhere is not a folder of restored images"),
    ],
)
def test_what_are_no_results_is_refused(tmp_path, monkeypatch, texts, error, said):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=said):
        open_results(texts)


def test_two_results_of_one_name_are_refused(tmp_path):
    assert cv2.imwrite(str(tmp_path / "a.png"), np.zeros((64, 64, 3), np.uint8))
    with pytest.raises(ParameterError, match="two results are called 'a'"):
        open_results([f"a={tmp_path}", f"a={tmp_path}"])


class Shared(Recorded):
    """Three rainy views, the last two of one clean image."""

    def __getitem__(self, index: int) -> Example:
        example = super().__getitem__(max(index, 1))
        clean = super().__getitem__(min(index, 1))
        levels = ("light", "light", "heavy")
        return replace(
            example,
            name=f"rainy_{index}",
            clean_name=clean.name,
            clean=clean.clean,
            rainy=np.clip(clean.clean.astype(int) + 10 * (1 + index), 0, 255).astype(np.uint8),
            level=levels[index],
            number=index,
        )


@pytest.mark.parametrize(
    ("levels", "images", "views"), [(("light", "heavy"), 2, 3), (("light",), 2, 2), (("heavy",), 1, 1)]
)
def test_a_clean_image_that_views_share_is_counted_and_restored_once(tmp_path, levels, images, views):
    summary = exported(Shared(), {"idle": Idle(Street())}, tmp_path, levels=levels)
    assert (summary["counts"]["images"], summary["counts"]["views"]) == (images, views)
    names = {"view_1_dry.png"} if images == 1 else {"view_0_dry.png", "view_1_dry.png"}
    assert {path.name for path in (tmp_path / "dry").iterdir()} == names
    assert {path.name for path in (tmp_path / "idle").glob("*_dry.png")} == names
    assert len(list((tmp_path / "idle").iterdir())) == images + views
    assert summary["groups"] == {"all": images}


def test_worst_cases_show_no_clean_image_twice():
    dark = Idle(Street())
    dark.__class__ = type("Dark", (Idle,), {"__call__": darkened})
    evaluation = Evaluation(Shared(), Testbed({"dark": dark}), EvaluationSettings(**QUICK))
    evaluation.run()
    assert {record.scene for record in evaluation.worst("dark", 9)} == {"view_0", "view_1"}
    assert len(evaluation.worst("dark", 9)) == 2


def test_the_command_writes_inputs_alone_and_measures_what_comes_back(tmp_path, capsys):
    write_street(tmp_path / "data", 2)
    data = ["evaluate", "--data", str(tmp_path / "data"), "--levels", "light"]
    inputs = tmp_path / "inputs"
    assert main([*data, "--export-inputs", str(inputs)]) == 0
    assert "2 views in rainy/" in capsys.readouterr().out
    written = {str(path.relative_to(inputs)) for path in inputs.rglob("*.png")}
    assert written == {
        *(f"{folder}/view_{index}_light.png" for folder in ("rainy", "clean") for index in range(2)),
        *(f"dry/view_{index}_dry.png" for index in range(2)),
    }
    restored = tmp_path / "restored"
    restored.mkdir()
    for path in (*(inputs / "rainy").iterdir(), *(inputs / "dry").iterdir()):
        path.rename(restored / path.name)
    output = tmp_path / "out"
    weights = str(write_weights(tmp_path / "w.safetensors"))
    options = ["--weights", weights, "--backend", "torch-cpu", "--output", str(output), "--sheet", "0"]
    options += ["--robustness", "0", "--flicker", "0", "--consistency", "0", "--latency-size", "96x64"]
    assert main([*data, *options, "--results", f"nothing={restored}"]) == 0
    sources = json.loads((output / "report.json").read_text())["results"]["sources"]
    assert sources["nothing"]["light"][MEAN]["psnr_gain"] == sources["nothing"]["light"][MEAN]["harmed"] == 0
    assert sources["nothing"]["light"][MEAN]["psnr"] == sources["rainy"]["light"][MEAN]["psnr"]
    assert sources["nothing"]["dry"][MEAN]["psnr"] == metrics.MAX_PSNR
    assert "## nothing by group" in (output / "report.md").read_text()

    assert main([*data, "--export-inputs", str(inputs), "--weights", weights]) == 1
    assert "--export-inputs measures nothing; leave --weights out" in capsys.readouterr().err
    weather = ["evaluate", "--weather", str(write_weather(tmp_path / "weather")), "--output", str(output)]
    assert main([*weather, "--results", f"nothing={restored}"]) == 1
    assert "--results is about a dataset, and none is given" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*data, "--export-inputs", str(inputs), "--output", str(output)])


def gains(values: dict[str, dict[str, list[float]]], views: int = 1) -> list[Record]:
    """Records of every source, group and image with a gain each, the same in so many views."""
    return [
        Record(0, f"{image}_{view}", f"{image}", group, "heavy", source, {"psnr_gain": gain})
        for source, groups in values.items()
        for group, of_images in groups.items()
        for image, gain in enumerate(of_images)
        for view in range(views)
    ]


def test_an_interval_is_about_as_wide_as_the_standard_error_says():
    generator = np.random.default_rng(1)
    north, south = generator.normal(4, 1, 200), generator.normal(2, 3, 50)
    found = intervals(gains({"a": {"north": list(north), "south": list(south)}}), ["a"], ["heavy"])
    gain = found["of"]["a"]["psnr_gain"]
    assert gain["value"] == pytest.approx((north.mean() + south.mean()) / 2)  # every group once
    error = np.sqrt(north.var() / 200 + south.var() / 50) / 2
    assert gain["low"] == pytest.approx(gain["value"] - 1.96 * error, abs=0.1 * error)
    assert gain["high"] == pytest.approx(gain["value"] + 1.96 * error, abs=0.1 * error)
    assert found["differences"] == {}


def test_a_difference_is_taken_image_by_image():
    values = [float(value) for value in np.random.default_rng(2).normal(4, 2, 30)]
    better = [value + 0.5 for value in values]
    found = intervals(gains({"b": {"all": better}, "a": {"all": values}}), ["b", "a"], ["heavy"])
    of_b = found["of"]["b"]["psnr_gain"]
    assert of_b["high"] - of_b["low"] > 1
    assert set(found["differences"]) == {"a"}
    assert list(found["differences"]["a"]["psnr_gain"].values()) == pytest.approx([0.5] * 3)


def test_views_of_one_clean_image_make_no_interval_narrower():
    values = {"a": {"all": [1.0, 2.0, 5.0, 6.0]}}
    once, often = (intervals(gains(values, views), ["a"], ["heavy"]) for views in (1, 36))
    assert once["of"]["a"]["psnr_gain"] == pytest.approx(often["of"]["a"]["psnr_gain"])


def test_a_group_of_one_image_has_no_interval():
    found = intervals(gains({"a": {"north": [1.0, 2.0], "south": [3.0]}}), ["a"], ["heavy"])
    assert found["of"] == {"a": {}}


def test_intervals_are_of_the_levels_and_of_what_the_summary_says():
    def records(source: str, agreements: list[float], level: str = "heavy") -> list[Record]:
        return [
            Record(0, str(n), str(n), "ab"[n // 3], level, source, {"agreement/j": value, "ssim": value})
            for n, value in enumerate(agreements)
        ]

    measured_ones = [
        *records("clean", [1.0] * 6, "dry"),
        *records("rainy", [0.1, 0.2, 0.3, 0.5, 0.6, 0.4]),
        *records("net", [0.5, 0.3, 0.9, 0.9, 0.8, 0.9]),
        *records("net", [0.0] * 6, "fog"),
        *records("rainy", [0.0] * 6, "fog"),
    ]
    summary = summarise(measured_ones)
    found = intervals(measured_ones, ["net"], summary["overall"])["of"]["net"]
    mean = summary["sources"]["net"]["overall"][MEAN]
    for name in ("ssim", "won_back/agreement/j"):
        assert found[name]["value"] == pytest.approx(mean[name])
        assert found[name]["low"] < found[name]["value"] < found[name]["high"]
    assert "agreement/j" not in found


def test_every_figure_of_every_image_is_a_cell_of_a_table():
    street = Street()
    evaluation = Evaluation(
        street, Testbed({"near": Oracle(street, error=3)}), EvaluationSettings(**QUICK | NO_PROBES)
    )
    summary = evaluation.run()
    rows = list(csv.DictReader(as_csv(evaluation.records).splitlines()))
    assert len(rows) == 3 * (2 * len(LEVELS) + 1)  # rainy and near at every level, near on the dry image
    chosen = [row for row in rows if (row["source"], row["level"]) == ("near", "heavy")]
    assert {(row["image"], row["clean_image"], row["group"]) for row in chosen} == {
        (f"view_{n}", f"view_{n}", "north" if n else "south") for n in range(3)
    }
    north = [row for row in chosen if row["group"] == "north"]
    for name, value in summary["sources"]["near"]["heavy"]["north"].items():
        if not name.endswith("_worst") and not name.startswith(("miou/", "classes/", "won_back/")):
            assert np.mean([float(row[name]) for row in north]) == pytest.approx(value), name
    assert next(row for row in rows if row["source"] == "rainy")["psnr_gain"] == ""


class Unlabelled(Street):
    """The same views, nothing of which is labelled."""

    def __getitem__(self, index: int) -> Example:
        example = super().__getitem__(index)
        assert example.labels is not None
        return replace(example, labels=np.full_like(example.labels, 255))


def test_labels_that_say_nothing_lose_no_evaluation():
    street = Unlabelled()
    judged = measured(street, {"near": Oracle(street, error=3)}, {"shy": rain_shy_judge}, levels=("heavy",))
    json.dumps(judged, allow_nan=False)
    assert judged["counts"]["labelled_images"] == 0
    heavy = judged["sources"]["near"]["heavy"][MEAN]
    assert heavy["psnr"] > 30 and 0 < heavy["agreement/shy"] <= 1 and "miou/shy" not in heavy


def test_real_weather_of_which_nothing_is_labelled_is_shown_without_a_judgement(tmp_path):
    root = write_weather(tmp_path)
    cv2.imwrite(str(root / "fog" / "labels" / "0.png"), np.full((HEIGHT, WIDTH), 255, np.uint8))
    testbed = Testbed({"blue": BlueSky(Street())}, {"shy": rain_shy_judge}, class_set="camvid11")
    summary, views = measure_weather(open_weather(root), testbed)
    json.dumps(summary, allow_nan=False)
    assert len(views) == 2 and summary["blue"]["fog"] == {"images": 1}
    assert 0 < summary["blue"]["rain"]["miou/shy"] <= 1
    fog, rain = report._weather({"real_weather": summary}).splitlines()[-2:]
    assert fog.startswith("| fog") and "→" not in fog and rain.count("→") == 2


def test_a_full_disk_leaves_no_half_report(tmp_path, monkeypatch):
    def full(self, content):
        self.touch()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OutputError, match=r"report\.json cannot be written \(No space left on device\)"):
        command._write_report(tmp_path, {}, {})
    assert not list(tmp_path.iterdir())


def test_the_command_names_what_is_wrong(tmp_path, capsys):
    output = ["--output", str(tmp_path / "out")]
    assert main(["evaluate", "--data", str(tmp_path / "none"), *output]) == 1
    assert "none is not a folder" in capsys.readouterr().err
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((64, 64, 3), np.uint8))
    assert (
        main(["evaluate", "--data", str(tmp_path), "--weights", str(tmp_path / "no.safetensors"), *output])
        == 1
    )
    assert "no.safetensors" in capsys.readouterr().err
    weights = str(write_weights(tmp_path / "w.safetensors"))
    assert (
        main(["evaluate", "--data", str(tmp_path), "--weights", weights, "--backend", "torch-cpu", *output])
        == 1
    )
    assert "a has no inverse depth" in capsys.readouterr().err
    assert main(["evaluate", "--dataset", "drive", "--output", str(tmp_path / "a.png")]) == 1
    assert "a.png cannot be written" in capsys.readouterr().err
    for options, text in (
        (["--dataset", "raincityscapes"], "a dataset of kind raincityscapes needs its root folder"),
        (["--split", "test"], "--split is about a dataset, and none is given"),
        (["--limit-per-group", "3"], "--limit-per-group is about a dataset, and none is given"),
    ):
        assert (
            main(["evaluate", "--weather", str(write_weather(tmp_path / options[1])), *options, *output]) == 1
        )
        assert text in capsys.readouterr().err
    for kind in (["--data", str(tmp_path)], ["--dataset", "drive"]):
        assert main(["evaluate", *kind, "--depth-scale", "0.5", *output]) == 1
        assert "--depth-scale is about RainCityscapes' depth images" in capsys.readouterr().err
    assert main(["evaluate", "--weather", str(tmp_path), *output]) == 1
    assert "WEATHER/image" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["evaluate", "--data", str(tmp_path), "--limit", "0", *output])
    assert "0 is too small; give 1 or more" in capsys.readouterr().err
