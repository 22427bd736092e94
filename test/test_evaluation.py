"""The evaluation: figures on a tiny fixed set, judges in every format, the report, and the command from end
to end.
"""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from runtime_fixtures import TINY, TINY_SEGMENTATION, random_network, street_like, write_weights

from rain_removal_ros.commands.main import main
from rain_removal_ros.errors import DatasetError, ParameterError, WeightsError
from rain_removal_ros.lab.data.datasets import Example
from rain_removal_ros.lab.evaluation import metrics
from rain_removal_ros.lab.evaluation.conditions import ROBUSTNESS, rain_on
from rain_removal_ros.lab.evaluation.evaluate import Evaluation, EvaluationSettings
from rain_removal_ros.lab.evaluation.judges import Judge, JudgeSpecification
from rain_removal_ros.network import save_network
from rain_removal_ros.runtime import Restored

HEIGHT, WIDTH = 64, 96
LEVELS = ("light", "medium", "heavy")
QUICK = {
    "robustness_images": 1,
    "flicker_scenes": 1,
    "flicker_frames": 3,
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
        )


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

    def __call__(self, image, outputs) -> Restored:
        if image.shape != self._clean[0].shape:
            return Restored(image, np.zeros(image.shape[:2], np.float32), None)
        nearest = max(self._clean, key=lambda clean: float((_texture(clean) * _texture(image)).sum()))
        moved = np.where(nearest > 127, nearest.astype(int) - self._error, nearest.astype(int) + self._error)
        return Restored(moved.astype(np.uint8), 1.2 * self._inverse_depth, None)

    def close(self) -> None:
        pass


class Idle(Oracle):
    """A restorer that gives back what it gets."""

    def __call__(self, image, outputs) -> Restored:
        return Restored(image, np.full(image.shape[:2], 0.1, np.float32), None)


def rain_shy_judge(image: np.ndarray) -> np.ndarray:
    """Right about a clean view, and the worse the more an image differs from one: takes bright pixels on the
    road for sky.
    """
    labels = np.full(image.shape[:2], 10, np.uint8)
    labels[24:] = 0
    labels[30:50, 20:50] = 13
    labels[24:][image[24:].mean(axis=2) > 150] = 10
    return labels


@pytest.fixture(scope="module")
def results() -> dict:
    street = Street()
    networks = {"oracle": Oracle(street), "near": Oracle(street, error=3), "idle": Idle(street)}
    settings = EvaluationSettings(class_set="camvid11", **QUICK)
    return Evaluation(street, networks, {"shy": rain_shy_judge}, settings).run()


def test_a_perfect_restorer_gets_perfect_figures(results):
    oracle = results["networks"]["oracle"]
    assert oracle["restoration"]["overall"]["psnr"] == metrics.MAX_PSNR
    assert oracle["restoration"]["overall"]["ssim"] == pytest.approx(1)
    assert oracle["dry"]["psnr"] == oracle["dry"]["psnr_worst"] == metrics.MAX_PSNR
    assert oracle["judges"]["shy"]["overall"]["won_back"] == 1
    assert oracle["flicker"]["derained"] == 0 < oracle["flicker"]["rainy"]


def test_a_known_error_gets_its_known_psnr(results):
    near = results["networks"]["near"]
    for level in (*LEVELS, "overall"):
        assert near["restoration"][level]["psnr"] == pytest.approx(20 * np.log10(255 / 3), abs=1e-6)
    assert near["dry"]["psnr"] == pytest.approx(20 * np.log10(255 / 3), abs=1e-6)


def test_a_restorer_that_does_nothing_gains_nothing_and_harms_nothing(results):
    idle = results["networks"]["idle"]
    for level in LEVELS:
        assert idle["restoration"][level]["psnr_gain"] == 0
        assert idle["restoration"][level]["psnr"] == results["rainy"][level]["psnr"]
        assert idle["judges"]["shy"][level]["won_back"] == 0
    assert idle["dry"]["psnr"] == metrics.MAX_PSNR
    assert [row["psnr_gain"] for row in idle["robustness"]] == [0] * len(ROBUSTNESS)
    assert idle["flicker"]["derained"] == idle["flicker"]["rainy"]


def test_the_rainy_figures_are_those_of_the_rain_that_the_protocol_names(results):
    street = Street()
    expected = np.mean(
        [metrics.psnr(rain_on(street[i], i, "heavy").rainy, street[i].clean) for i in range(3)]
    )
    assert results["rainy"]["heavy"]["psnr"] == pytest.approx(expected)
    assert (
        results["rainy"]["light"]["psnr"]
        > results["rainy"]["medium"]["psnr"]
        > results["rainy"]["heavy"]["psnr"]
    )
    assert results["rainy"]["overall"]["images"] == 9


def test_judges_see_only_labels_that_are_not_a_networks_and_fold_classes(results):
    assert results["counts"] == {
        "images": 3,
        "views": 9,
        "judged_images": 2,
        "robustness_images": 1,
        "flicker_scenes": 1,
    }
    clean, rainy = results["judges"]["shy"]["clean"], results["judges"]["shy"]["rainy"]
    assert set(clean["iou"]) == {"road", "sky", "car"}  # the truck counts as a car
    assert clean["miou"] > rainy["overall"]["miou"]


def test_depth_is_judged_in_metres_and_by_the_kind_of_its_truth(results):
    depth = results["networks"]["oracle"]["depth"]
    assert depth["all"]["inverse_abs_rel"] == pytest.approx(0.2, abs=1e-4)
    assert depth["all"]["abs_rel"] == pytest.approx(1 - 1 / 1.2, abs=1e-4)
    assert depth["all"]["delta_1.25"] == 1
    assert {kind: figures["views"] for kind, figures in depth.items()} == {
        "all": 9,
        "geometry": 3,
        "lidar": 6,
    }


def test_an_evaluation_repeats_itself(results):
    street = Street()
    settings = EvaluationSettings(class_set="camvid11", workers=1, **QUICK)
    again = Evaluation(street, {"idle": Idle(street)}, {"shy": rain_shy_judge}, settings).run()
    first = {**results["networks"]["idle"], "latency": None}
    assert {**again["networks"]["idle"], "latency": None} == first


def test_worst_cases_come_first_and_can_be_seen_again():
    street = Street()
    evaluation = Evaluation(street, {"near": Oracle(street, 3)}, {}, EvaluationSettings(**QUICK))
    evaluation.run()
    worst = evaluation.worst_views("near", 4)
    gains = [scores.gain("near") for scores in worst]
    assert gains == sorted(gains) and len(gains) == 4
    view = evaluation.view_again(worst[0])
    assert metrics.psnr(view.rainy, view.clean) == worst[0].rainy[0]


def test_a_datasets_own_rain_is_taken_as_it_is():
    recorded = Recorded()
    summary = Evaluation(recorded, {"idle": Idle(recorded)}, {}, EvaluationSettings(**QUICK)).run()
    assert summary["rainy"]["recorded"]["images"] == 1 and summary["rainy"]["heavy"]["images"] == 2
    assert "robustness" not in summary["networks"]["idle"]  # no depth, so no rain can be rendered
    light = Evaluation(
        recorded, {"idle": Idle(recorded)}, {}, EvaluationSettings(levels=("light",), **QUICK)
    ).run()
    assert light["counts"]["views"] == 1


def test_the_papers_protocol_restores_what_it_cuts_out():
    street = Street()
    settings = EvaluationSettings(protocol="paper-crop", limit=1, **QUICK)
    summary = Evaluation(street, {"idle": Idle(street)}, {"shy": rain_shy_judge}, settings).run()
    full = Evaluation(street, {"idle": Idle(street)}, {}, EvaluationSettings(limit=1, **QUICK)).run()
    assert summary["counts"]["images"] == 1
    assert summary["rainy"]["heavy"]["psnr"] != full["rainy"]["heavy"]["psnr"]


def test_what_cannot_be_evaluated_is_refused():
    street = Street()
    with pytest.raises(ParameterError, match="drizzle"):
        Evaluation(street, {"idle": Idle(street)}, {}, EvaluationSettings(levels=("drizzle",)))
    with pytest.raises(ParameterError, match="no network"):
        Evaluation(street, {}, {}, EvaluationSettings())
    flat = Example("flat", street[0].clean)
    with pytest.raises(DatasetError, match="flat has no inverse depth"):
        rain_on(flat, 0, "light")


def test_every_robustness_row_is_another_view_with_a_reference_of_its_size():
    example = Street()[0]
    seen = [row.observe(example, 5) for row in ROBUSTNESS]
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


@pytest.mark.parametrize(
    "text", ["a.pt,scale=no", "a.pt,scale=0", "a.pt,normalise=other", "a.pt,colour=bgr", "a.pt,scale"]
)
def test_a_malformed_judge_is_refused(text):
    with pytest.raises(ParameterError, match=r"judge 'a\.pt"):
        JudgeSpecification.parse(text)


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
    street = Street()
    for index in range(2):
        example = street[index]
        for folder, array in (
            ("image", example.clean[..., ::-1]),
            ("inverse_depth", np.uint8(255 * np.sqrt(example.inverse_depth / 0.7))),
            ("labels", example.labels),
        ):
            (tmp_path / "data" / folder).mkdir(parents=True, exist_ok=True)
            assert cv2.imwrite(str(tmp_path / "data" / folder / f"view_{index}.png"), array)
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
    arguments += ["--sheet", 2, "--latency-size", "96x64", "--cache-dir", tmp_path / "cache"]
    assert main([str(argument) for argument in arguments]) == 0

    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert set(report["results"]["networks"]) == {"one", "two"}
    assert set(report["results"]["judges"]) == {"ours", "other"}
    conditions = report["conditions"]
    assert conditions["command"].startswith("derain ")
    assert conditions["protocol"] == "full" and conditions["dataset"]["examples"] == 2
    assert conditions["networks"]["one"]["weights_sha256"] != conditions["networks"]["two"]["weights_sha256"]
    assert conditions["networks"]["one"]["backend"] == "torch-cpu"
    assert len(conditions["judges"]["ours"]["sha256"]) == 64
    assert conditions["machine"]["cores"] >= 1 and "torch" in conditions["versions"]
    markdown = (tmp_path / "out" / "report.md").read_text()
    for heading in ("Side by side", "No harm", "Depth from the rainy image", "Judge other", "Robustness"):
        assert heading in markdown
    for name in ("one", "two"):
        sheet = cv2.imread(str(tmp_path / "out" / f"worst_{name}.jpg"))
        assert sheet.shape[1] == 4 * 400 and sheet.shape[0] > 2 * 260
    assert "Side by side" in capsys.readouterr().out


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
    assert main(["evaluate", "--data", str(tmp_path), "--limit", "0", *output]) == 1
    assert "--limit 0" in capsys.readouterr().err
