"""Two bags are compared frame by frame, as a team does it in its own CI with a drive of its own."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from bag_fixtures import SECOND, START, Sent, camera_info, drive, image, record, street
from pipeline_fakes import FakeRestorer

from rain_removal_ros.bags.convert import Options, convert
from rain_removal_ros.commands.main import main
from rain_removal_ros.lab.scenes.drive import Drive
from rain_removal_ros.lab.weather import Rain, level_parameters
from rain_removal_ros.runtime import Output, Restored, RuntimeSettings, create_restorer

EVERY = frozenset(Output)
TOPIC, IMAGE = "/front/derained/image", "sensor_msgs/msg/Image"


class Changed(FakeRestorer):
    """The fake, whose frame `number` is off by `levels`, its depth by a tenth and its mask in one row."""

    def __init__(self, number: int, levels: int):
        super().__init__()
        self.number, self.levels = number, levels

    def __call__(self, image, outputs, focal_px=None, **options):
        restored = super().__call__(image, outputs, focal_px, **options)
        if len(self.calls) - 1 != self.number:
            return restored
        labels = restored.labels.copy()
        labels[0] = 9
        return Restored(restored.image + np.uint8(self.levels), restored.inverse_depth * 1.1, labels)


@pytest.fixture(scope="module")
def bags(tmp_path_factory) -> Path:
    """The folder of a pinned bag `a`, its `twin`, one whose frame 3 is `worse`, and one that `lacks` two."""
    folder = tmp_path_factory.mktemp("bags")
    source = record(folder / "in", drive(6))
    dropped = (START + 2, START + 4 * SECOND // 10 + 2)
    short = record(folder / "short", [each for each in drive(6) if each.time not in dropped])
    for name, bag, restorer in (
        ("a", source, FakeRestorer()),
        ("twin", source, FakeRestorer()),
        ("worse", source, Changed(3, 5)),
        ("lacks", short, FakeRestorer()),
    ):
        convert(bag, folder / name, restorer, Options(outputs=EVERY))
    return folder


def compared(bags: Path, other: str, *options: str) -> tuple[int, dict]:
    report = bags / f"{other}.json"
    status = main(["compare", str(bags / "a"), str(bags / other), "--json", str(report), *options])
    return status, {topic["topic"]: topic for topic in json.loads(report.read_text())["topics"]}


def test_the_same_drive_derained_twice_is_the_same(bags, capsys):
    status, topics = compared(bags, "twin")
    assert status == 0 and "B is within the tolerance" in capsys.readouterr().out
    assert set(topics) == {TOPIC, "/front/depth/inverse_depth", "/front/segmentation/mask"}
    assert all(topic["compared"] == topic["identical"] == 6 for topic in topics.values())
    assert all(topic["first_difference"] is None for topic in topics.values())


def test_a_frame_past_the_tolerance_fails_and_is_named(bags, capsys):
    status, topics = compared(bags, "worse", "--max-depth-error", "0.05", "--max-mask-error", "0.01")
    said = capsys.readouterr().out
    assert status == 1 and "B is past the tolerance" in said
    assert topics[TOPIC]["first_difference"] == 3 and "first differing frame 3" in said
    assert topics[TOPIC]["values"]["psnr"]["3"] == pytest.approx(20 * np.log10(255 / 5))
    assert topics[TOPIC]["first_failure"].startswith("frame 3: psnr 34")
    assert topics["/front/depth/inverse_depth"]["values"]["depth error"]["3"] == pytest.approx(0.1, rel=1e-4)
    assert topics["/front/segmentation/mask"]["values"]["mask error"]["3"] == pytest.approx(1 / 64)
    for topic in ("depth/inverse_depth: 1 frames past", "segmentation/mask: 1 frames past"):
        assert topic in said


def test_what_the_tolerance_allows_passes_and_the_difference_is_still_named(bags, capsys):
    status, topics = compared(bags, "worse", "--min-psnr", "34")
    assert status == 0
    assert topics[TOPIC]["first_difference"] == 3 and topics[TOPIC]["identical"] == 5
    assert compared(bags, "worse", "--min-psnr", "34", "--min-ssim", "0.999999")[0] == 1
    capsys.readouterr()


def test_missing_frames_fail_unless_they_are_allowed(bags, capsys):
    status, topics = compared(bags, "lacks")
    assert status == 1 and topics[TOPIC]["only_in_a"] == [0, 4] and topics[TOPIC]["compared"] == 4
    assert "B lacks 2 images, 0 may be" in capsys.readouterr().out
    assert compared(bags, "lacks", "--max-drops", "2")[0] == 0


def test_latency_is_compared_where_both_bags_have_their_report(bags, tmp_path, capsys):
    for name, seconds in (("a", 0.010), ("twin", 0.025)):
        report = bags / name / "derain_report.json"
        content = json.loads(report.read_text())
        for frame in content["cameras"][0]["frames"]:
            frame["seconds"] = seconds
        report.write_text(json.dumps(content))
    assert compared(bags, "twin", "--max-latency-ratio", "3")[0] == 0
    assert compared(bags, "twin", "--max-latency-ratio", "2")[0] == 1
    said = capsys.readouterr().out
    assert "median latency 10.0 ms in A, 25.0 ms in B" in said and "latency is 2.50 times A's" in said


def test_a_bag_is_compared_with_its_truth_in_a_topic_of_another_name(tmp_path, capsys):
    rainy, truth = [], []
    for number in range(3):
        time = START + number * SECOND // 10
        rainy.append(Sent("/cam/image_raw", IMAGE, time, image(number)))
        clean = street(number)[..., ::-1] + np.uint8(10)
        truth.append(Sent("/clean", IMAGE, time, image(number, "bgr8", pixels=clean)))
    convert(record(tmp_path / "in", rainy), tmp_path / "out", FakeRestorer(), Options())
    record(tmp_path / "truth", truth, "sqlite3")
    arguments = ["compare", str(tmp_path / "out"), str(tmp_path / "truth")]
    assert main([*arguments, "--pair", "cam/derained/image", "clean"]) == 0
    assert main([*arguments, "--pair", "/cam/image_raw", "/clean"]) == 1
    assert "3 compared, 3 identical" in capsys.readouterr().out


def test_images_without_stamps_are_compared_in_their_order(tmp_path):
    for name, levels in (("a", 0), ("b", 1)):
        sent = [Sent("/cam/image_raw", IMAGE, START + n, image(n, time=0)) for n in range(4)]
        restorer = Changed(2, levels) if levels else FakeRestorer()
        convert(record(tmp_path / f"in_{name}", sent), tmp_path / name, restorer, Options(outputs=EVERY))
    report = tmp_path / "report.json"
    main(["compare", str(tmp_path / "a"), str(tmp_path / "b"), "--json", str(report)])
    topic = next(t for t in json.loads(report.read_text())["topics"] if t["topic"] == "/cam/derained/image")
    assert topic["compared"] == 4 and topic["first_difference"] == 2


def test_other_sizes_and_damaged_images_fail(tmp_path, capsys):
    a = [Sent("/x", IMAGE, START + n, image(n)) for n in range(3)]
    b = [Sent("/x", IMAGE, START + n, image(n, height=72 if n == 1 else 64)) for n in range(3)]
    b[2].data = b[2].data[:100]
    record(tmp_path / "a", a)
    record(tmp_path / "b", b)
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "b"), "--pair", "/x", "/x"]) == 1
    said = capsys.readouterr().out
    assert "96x64 pixels in A, 96x72 in B" in said and "1 cannot be compared" in said
    assert "1 missing in B, the first is frame 2" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "holds no outputs of derain; name topics of images with --pair: /front/image_raw"),
        (("--pair", "/front/image_raw", "/side"), "holds no images /side; its topics of images"),
        (("--pair", "/radar", "/radar"), "holds no images /radar"),
    ],
)
def test_bags_with_nothing_to_compare_are_an_error(bags, capsys, arguments, said):
    assert main(["compare", str(bags / "in"), str(bags / "in"), *arguments]) == 1
    assert said in capsys.readouterr().err


def test_the_packaged_weights_do_with_a_small_drive_what_they_are_pinned_to(tmp_path, capsys):
    """A rendered drive through the real network: it comes closer to its truth than the rain was."""
    rainy, clean = [], []
    drive = Drive(256, 128, frame_count=3, seed=4)
    rain = Rain(level_parameters("heavy"), 128, 256)
    for number, frame in enumerate(drive):
        seen = rain.render(frame.image, frame.inverse_depth, frame.stamp)
        time = START + number * SECOND // 10
        rainy += [
            Sent("/front/camera_info", "sensor_msgs/msg/CameraInfo", time, camera_info(number, 128, 256)),
            Sent("/front/image_raw", IMAGE, time, image(number, pixels=seen, height=128, width=256)),
        ]
        clean.append(
            Sent("/front/clean", IMAGE, time, image(number, pixels=frame.image, height=128, width=256))
        )
    source, truth = record(tmp_path / "in", rainy), record(tmp_path / "truth", clean)
    settings = RuntimeSettings(backend="torch-cpu", precision="fp32", cache_dir=tmp_path / "cache")
    restorer = create_restorer(settings)
    try:
        convert(source, tmp_path / "out", restorer, Options(outputs=frozenset({Output.IMAGE})))
    finally:
        restorer.close()

    def mean_psnr(topic: str) -> float:
        report = tmp_path / "report.json"
        pair = ["--pair", topic, "/front/clean", "--json", str(report)]
        main(["compare", str(tmp_path / "out"), str(truth), *pair])
        return float(np.mean(list(json.loads(report.read_text())["topics"][0]["values"]["psnr"].values())))

    assert mean_psnr(TOPIC) > mean_psnr("/front/image_raw") + 1
    capsys.readouterr()
