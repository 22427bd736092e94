"""The datasets' layouts on tiny trees of files, and what is said when a file is missing or does not fit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from modules import skip_without

from rain_removal_ros.errors import DatasetError
from rain_removal_ros.files.images import SUFFIXES
from rain_removal_ros.lab.data.datasets import DriveDataset, FolderDataset, PairedDataset, open_dataset
from rain_removal_ros.lab.data.examples import outline_of
from rain_removal_ros.lab.data.raincityscapes import RainCityscapesDataset

HEIGHT, WIDTH = 12, 16
LIGHT, HEAVY = "alpha_0.01_beta_0.005_dropsize_0.01", "alpha_0.03_beta_0.015_dropsize_0.002"


def write(path: Path, array: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), array)
    return path


def picture(value: int, height: int = HEIGHT) -> np.ndarray:
    """BGR with a red channel of its own, so that swapped channels show."""
    image = np.full((height, WIDTH, 3), value, np.uint8)
    image[..., 2] = value + 50
    return image


def field(value: int, dtype: type = np.uint8) -> np.ndarray:
    return np.full((HEIGHT, WIDTH), value, dtype)


@pytest.fixture
def folder(tmp_path):
    for number, name in enumerate(("camvid_1", "camvid_2", "kitti_1")):
        write(tmp_path / "val" / "image" / f"{name}.png", picture(10 * number))
        write(tmp_path / "val" / "inverse_depth" / f"{name}.png", field(51))
        write(tmp_path / "val" / "labels" / f"{name}.png", field(13))
    (tmp_path / "index.csv").write_text(
        "split,id,label_kind,depth_kind\nval,camvid_1,human,geometry\nval,camvid_2,human,geometry\n"
        "val,kitti_1,pseudo,lidar\n"
    )
    return tmp_path


def test_a_folder_gives_image_metric_inverse_depth_labels_and_their_kinds(folder):
    dataset = open_dataset("folder", folder, "val")
    assert len(dataset) == 3
    example = dataset[2]
    assert example.name == "kitti_1"
    assert example.clean[0, 0].tolist() == [70, 20, 20]  # RGB
    assert example.rainy is None
    assert example.inverse_depth.dtype == np.float32
    assert example.inverse_depth[0, 0] == pytest.approx(0.7 * 0.2**2)
    assert (example.labels == 13).all()
    assert (example.label_kind, example.depth_kind) == ("pseudo", "lidar")
    assert dataset[0].label_kind == "human"
    assert [outline_of(dataset, index).depth_measured for index in range(3)] == [False, False, True]


def test_a_folder_takes_images_of_every_format_that_is_read(tmp_path):
    for suffix in SUFFIXES:
        write(tmp_path / "image" / f"a_{suffix[1:]}{suffix}", picture(20))
    dataset = FolderDataset(tmp_path)
    assert {example.name for example in dataset} == {f"a_{suffix[1:]}" for suffix in SUFFIXES}
    assert all(example.clean.shape == (HEIGHT, WIDTH, 3) for example in dataset)


@pytest.mark.parametrize("kind", ["folder", "cityscapes", "drive", "paired"])
def test_an_outline_is_an_example_without_what_has_to_be_read(kind, request, tmp_path):
    if kind == "drive":
        skip_without("embreex")
        dataset = DriveDataset(width=64, height=64)
    elif kind == "paired":
        write(tmp_path / "rainy" / "1.png", picture(50))
        write(tmp_path / "clean" / "1.png", picture(10))
        dataset = PairedDataset(tmp_path)
    else:
        root = request.getfixturevalue(kind)
        dataset = FolderDataset(root / "val") if kind == "folder" else RainCityscapesDataset(root, "test")
    whole, outline = dataset[len(dataset) - 1], outline_of(dataset, len(dataset) - 1)
    assert outline.clean is None and outline.inverse_depth is None and outline.labels is None
    for told in ("name", "scene", "level", "label_kind", "depth_kind", "group", "number"):
        assert getattr(outline, told) == getattr(whole, told), told


def test_what_an_index_leaves_empty_is_unsaid(folder):
    """An empty kind of depth is none that was measured."""
    (folder / "index.csv").write_text(
        "id,label_kind,depth_kind,group,focal_px\ncamvid_1,,,,\ncamvid_2,,,,\nkitti_1,,,,\n"
    )
    example = open_dataset("folder", folder, "val")[0]
    kinds = (example.label_kind, example.depth_kind, example.group, example.focal_px)
    assert kinds == (None, None, None, None)
    assert not example.depth_measured


def test_a_folder_can_be_selected_from_by_the_beginning_of_names(folder):
    assert [e.name for e in map(open_dataset("folder", folder, "val", ["kitti"]).__getitem__, range(1))] == [
        "kitti_1"
    ]
    assert len(open_dataset("folder", folder, "val", ["kitti", "camvid_2"])) == 2
    with pytest.raises(DatasetError, match=r"none of the 3 images.*begins with nuscenes"):
        open_dataset("folder", folder, "val", ["nuscenes"])


@pytest.mark.parametrize("kind", ["folder", "paired", "raincityscapes"])
def test_an_image_keeps_its_number_whatever_is_selected(folder, lists, kind):
    root, split, prefix = {
        "folder": (folder, "val", "kitti"),
        "paired": (folder / "pairs", None, "b"),
        "raincityscapes": (lists, "train", "bremen"),
    }[kind]
    for name in ("a", "b"):
        write(folder / "pairs" / "rainy" / f"rain-{name}.png", picture(100))
        write(folder / "pairs" / "clean" / f"norain-{name}.png", picture(20))
    whole, selected = open_dataset(kind, root, split), open_dataset(kind, root, split, [prefix])
    names = {whole[index].name: index for index in range(len(whole))}
    assert [whole[index].number for index in range(len(whole))] == list(range(len(whole)))
    assert 0 < len(selected) < len(whole)
    for index in range(len(selected)):
        assert selected[index].number == names[selected[index].name] > index


def test_a_folder_names_the_file_that_is_missing_damaged_or_of_another_size(folder):
    missing = folder / "val" / "labels" / "camvid_1.png"
    missing.unlink()
    with pytest.raises(DatasetError, match=r"labels/camvid_1\.png is missing \(and 0 others\)"):
        FolderDataset(folder / "val")  # before any work is done
    write(missing, field(13))
    write(folder / "val" / "inverse_depth" / "camvid_2.png", field(3)[:5])
    with pytest.raises(DatasetError, match=r"camvid_2: the parts differ in size.*16x12.*16x5"):
        FolderDataset(folder / "val")[1]
    (folder / "val" / "image" / "kitti_1.png").write_bytes(b"no image")
    with pytest.raises(DatasetError, match=r"kitti_1\.png: data of 8 bytes are no image"):
        FolderDataset(folder / "val")[2]


@pytest.mark.parametrize(
    ("part", "content", "reason"),
    [
        ("inverse_depth", field(9689, np.uint16), "holds uint16 up to 9689; 8-bit codes"),
        ("inverse_depth", picture(3), "has 3 channels"),
        ("labels", field(26), "holds uint8 up to 26; Cityscapes train ids are expected"),
        ("labels", field(5, np.uint16), "holds uint16 up to 5; Cityscapes train ids"),
    ],
)
def test_a_folder_says_which_file_holds_other_numbers_than_it_should(folder, part, content, reason):
    path = write(folder / "val" / part / "camvid_1.png", content)
    with pytest.raises(DatasetError, match=f"{part}/camvid_1.png.*{reason}"):
        FolderDataset(folder / "val")[0]
    assert path.is_file()


def test_a_folder_takes_labels_that_are_all_unlabelled(folder):
    write(folder / "val" / "labels" / "camvid_1.png", field(255))
    assert (FolderDataset(folder / "val")[0].labels == 255).all()


def test_half_an_image_is_no_ground_truth(folder):
    path = folder / "val" / "image" / "camvid_1.png"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DatasetError, match=r"camvid_1\.png: png image .* ends early"):
        FolderDataset(folder / "val")[0]


def test_two_images_of_one_stem_are_refused(folder):
    write(folder / "val" / "image" / "camvid_1.jpg", picture(0))
    with pytest.raises(DatasetError, match=r"camvid_1\.jpg and .*camvid_1\.png have one stem"):
        FolderDataset(folder / "val")


def test_pairs_whose_names_tell_that_sides_are_mixed_up_are_refused(tmp_path):
    for folder in ("rainy", "clean"):
        write(tmp_path / folder / "rain-1.png", picture(1))
    with pytest.raises(DatasetError, match=r"clean/rain-1\.png is named as an image of the other side"):
        PairedDataset(tmp_path)
    (tmp_path / "clean" / "rain-1.png").rename(tmp_path / "clean" / "norain-1.png")
    with pytest.raises(DatasetError, match=r"norain-1\.png are the same picture"):
        PairedDataset(tmp_path)[0]
    write(tmp_path / "rainy" / "1.png", picture(2))
    with pytest.raises(DatasetError, match=r"1\.png and .*rain-1\.png belong to one pair"):
        PairedDataset(tmp_path)


@pytest.mark.parametrize("part", ["gt", "depth"])
def test_a_list_in_another_order_is_refused(lists, part):
    path = lists / "data" / f"train_{part}.txt"
    path.write_text("\n".join(sorted(path.read_text().split(), reverse=True)) + "\n")
    with pytest.raises(DatasetError, match=rf"train_{part}\.txt pairs aachen.* with zurich.*same scene"):
        RainCityscapesDataset(lists, "train")


@pytest.mark.parametrize(
    ("part", "ending", "content", "reason"),
    [
        ("disparity", "disparity", field(60), "holds uint8; Cityscapes' 16-bit disparities"),
        ("gtFine", "gtFine_labelIds", field(99), "holds uint8 up to 99; Cityscapes' label ids"),
    ],
)
def test_raincityscapes_says_which_file_holds_other_numbers(cityscapes, part, ending, content, reason):
    write(cityscapes / part / "val" / "munster" / f"munster_000000_000019_{ending}.png", content)
    with pytest.raises(DatasetError, match=f"{ending}.png {reason}"):
        RainCityscapesDataset(cityscapes, "test")[0]


def test_an_index_that_lacks_an_image_is_refused(folder):
    write(folder / "val" / "image" / "new_1.png", picture(0))
    with pytest.raises(DatasetError, match=r"index\.csv has no row for .*new_1\.png"):
        FolderDataset(folder / "val")
    (folder / "index.csv").write_text("name,kind\n")
    with pytest.raises(DatasetError, match="no column `id`"):
        FolderDataset(folder / "val")


def test_an_index_that_a_spreadsheet_wrote_is_read(folder):
    (folder / "val" / "index.csv").write_text(
        "id,focal_px\ncamvid_1,90\ncamvid_2,90\nkitti_1,700\n", encoding="utf-8-sig"
    )
    assert FolderDataset(folder / "val")[2].focal_px == 700


def test_a_folder_of_images_alone_has_no_depth(tmp_path):
    write(tmp_path / "a.png", picture(1))
    example = FolderDataset(tmp_path)[0]
    assert example.inverse_depth is None and example.labels is None and example.label_kind is None


@pytest.mark.parametrize("kind", ["folder", "paired", "raincityscapes"])
def test_a_root_that_is_missing_is_named(tmp_path, kind):
    with pytest.raises(DatasetError, match="nowhere"):
        open_dataset(kind, tmp_path / "nowhere", "train")
    with pytest.raises(DatasetError, match="--data"):
        open_dataset(kind, None)


def test_an_unknown_kind_is_refused(tmp_path):
    with pytest.raises(ValueError, match="the kinds are folder"):
        open_dataset("kitti", tmp_path)


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(DatasetError, match="no images in"):
        FolderDataset(tmp_path)


@pytest.mark.parametrize(("rainy", "clean"), [("rainy", "clean"), ("input", "target"), ("rain", "norain")])
def test_pairs_are_matched_by_their_names(tmp_path, rainy, clean):
    for name in ("b", "a"):
        write(tmp_path / rainy / f"rain-{name}.png", picture(100))
        write(tmp_path / clean / f"norain-{name}.png", picture(20))
    dataset = PairedDataset(tmp_path)
    assert len(dataset) == 2
    assert dataset[0].name == "a"
    assert dataset[0].rainy[0, 0].tolist() == [150, 100, 100]
    assert dataset[0].clean[0, 0].tolist() == [70, 20, 20]
    assert len(open_dataset("paired", tmp_path, select=["b"])) == 1


def test_an_image_without_a_partner_is_named(tmp_path):
    write(tmp_path / "rainy" / "a.png", picture(1))
    write(tmp_path / "clean" / "a.png", picture(1))
    write(tmp_path / "clean" / "b.png", picture(1))
    with pytest.raises(DatasetError, match=r"clean/b\.png has no partner in .*rainy"):
        PairedDataset(tmp_path)
    write(tmp_path / "rainy" / "b.png", picture(1)[:7])
    with pytest.raises(DatasetError, match="b: the parts differ in size"):
        PairedDataset(tmp_path)[1]
    with pytest.raises(DatasetError, match="no pair of folders"):
        PairedDataset(tmp_path / "rainy")


@pytest.fixture
def lists(tmp_path):
    """RainCityscapes as DGNL-Net reads it."""
    for split, cities in (("train", ("aachen", "bremen", "zurich")), ("test", ("munster",))):
        names = {"input": [], "gt": [], "depth": []}
        for city in cities:
            for rain in (LIGHT, HEAVY):
                scene = f"{city}_000001_000019"
                rainy = f"{scene}_leftImg8bit_rain_{rain}_pattern_3.png"
                write(tmp_path / split / rainy, picture(120))
                write(tmp_path / "image" / f"{scene}_leftImg8bit.png", picture(20))
                write(tmp_path / "depth" / f"{scene}_depth.png", field(51))
                names["input"].append(rainy)
                names["gt"].append(f"{scene}_leftImg8bit.png")
                names["depth"].append(f"{scene}_depth.png")
        for part, lines in names.items():
            path = tmp_path / "data" / f"{split}_{part}.txt"
            path.parent.mkdir(exist_ok=True)
            path.write_text("\n".join(lines) + "\n")
    return tmp_path


def test_raincityscapes_in_lists(lists):
    dataset = RainCityscapesDataset(lists, "train", depth_scale=0.5)
    assert len(dataset) == 4
    light, heavy = dataset[0], dataset[1]
    assert (light.level, heavy.level) == ("light", "heavy")
    assert light.rainy[0, 0].tolist() == [170, 120, 120]
    assert light.clean[0, 0].tolist() == [70, 20, 20]
    assert light.inverse_depth[0, 0] == pytest.approx(0.1)
    assert light.labels is None
    assert light.depth_measured
    unscaled = RainCityscapesDataset(lists, "train")[0]  # no scale is documented
    assert unscaled.inverse_depth is None and not unscaled.depth_measured


def test_raincityscapes_holds_out_training_cities_and_keeps_the_test_cities_apart(lists):
    cities = {
        split: {view.city for view in RainCityscapesDataset(lists, split).views}
        for split in ("train", "val", "test")
    }
    assert cities == {"train": {"aachen", "bremen"}, "val": {"zurich"}, "test": {"munster"}}
    assert len(open_dataset("raincityscapes", lists)) == 2  # val, where none is named


def test_raincityscapes_lists_name_what_is_missing(lists):
    missing = lists / "image" / "bremen_000001_000019_leftImg8bit.png"
    missing.unlink()
    with pytest.raises(DatasetError, match=f"{missing.name} is missing, which belongs to bremen"):
        RainCityscapesDataset(lists, "train")
    with open(lists / "data" / "test_gt.txt", "a") as file:
        file.write("one_too_many.png\n")
    with pytest.raises(DatasetError, match=r"differ in length \(test_input.txt 2, test_gt.txt 3"):
        RainCityscapesDataset(lists, "test")
    (lists / "data" / "test_gt.txt").unlink()
    with pytest.raises(DatasetError, match=r"test_gt\.txt is missing"):
        RainCityscapesDataset(lists, "test")


def test_raincityscapes_refuses_names_of_another_dataset(lists):
    (lists / "data" / "test_input.txt").write_text("rain_1.png\nrain_2.png\n")
    with pytest.raises(DatasetError, match="not named as RainCityscapes"):
        RainCityscapesDataset(lists, "test")


@pytest.fixture
def cityscapes(tmp_path):
    """RainCityscapes as the Cityscapes site serves it."""
    for split, city in (("train", "aachen"), ("train", "ulm"), ("val", "munster")):
        scene = f"{city}_000000_000019"
        for rain in (LIGHT, HEAVY):
            name = f"{scene}_leftImg8bit_rain_{rain}_pattern_12.png"
            write(tmp_path / "leftImg8bit_rain" / split / city / name, picture(120))
        write(tmp_path / "leftImg8bit" / split / city / f"{scene}_leftImg8bit.png", picture(20))
        disparity = field(1 + 256 * 47, np.uint16)
        disparity[0, 0] = 0  # no match
        write(tmp_path / "disparity" / split / city / f"{scene}_disparity.png", disparity)
        labels = field(26)
        labels[0, 0] = 1
        write(tmp_path / "gtFine" / split / city / f"{scene}_gtFine_labelIds.png", labels)
        camera = tmp_path / "camera" / split / city / f"{scene}_camera.json"
        camera.parent.mkdir(parents=True)
        camera.write_text(json.dumps({"extrinsic": {"baseline": 0.2}, "intrinsic": {"fx": 2350.0}}))
    return tmp_path


def test_raincityscapes_of_the_cityscapes_site_is_metric_and_labelled(cityscapes):
    dataset = RainCityscapesDataset(cityscapes, "test")
    assert len(dataset) == 2
    example = dataset[0]
    assert example.level == "light"
    assert example.inverse_depth[1, 1] == pytest.approx(47 / (0.2 * 2350))
    assert np.isnan(example.inverse_depth[0, 0])
    assert example.focal_px == 2350
    assert example.scene == dataset[1].scene == "munster_000000_000019_leftImg8bit"
    assert example.labels[1, 1] == 13 and example.labels[0, 0] == 255
    assert (example.label_kind, example.depth_kind) == ("human", "stereo")
    assert example.depth_measured
    assert {view.city for view in RainCityscapesDataset(cityscapes, "val").views} == {"ulm"}
    assert {view.city for view in RainCityscapesDataset(cityscapes, "train").views} == {"aachen"}


def test_a_sky_by_its_label_that_stereo_did_not_match_is_far_and_nothing_else_is(cityscapes):
    labels, disparity = field(23), field(1 + 256 * 47, np.uint16)
    labels[:, :8] = 26
    disparity[:6] = 0  # no match, in the sky and on the car beside it
    for part, ending, content in (
        ("gtFine", "gtFine_labelIds", labels),
        ("disparity", "disparity", disparity),
    ):
        write(cityscapes / part / "val" / "munster" / f"munster_000000_000019_{ending}.png", content)
    depth = RainCityscapesDataset(cityscapes, "test")[0].inverse_depth
    assert depth.dtype == np.float32
    assert (depth[:6, 8:] == 0).all() and np.isnan(depth[:6, :8]).all()
    assert depth[6:] == pytest.approx(47 / (0.2 * 2350))  # what stereo matched stays, sky or not
    shutil.rmtree(cityscapes / "gtFine")
    assert np.isnan(RainCityscapesDataset(cityscapes, "test")[0].inverse_depth[:6]).all()


@pytest.mark.parametrize("layout", ["lists", "cityscapes"])
def test_views_without_a_camera_file_have_the_focal_length_of_cityscapes_camera(layout, request):
    root = request.getfixturevalue(layout)
    if layout == "cityscapes":
        for folder in ("camera", "disparity"):
            shutil.rmtree(root / folder)
    focal_px = RainCityscapesDataset(root, "test")[0].focal_px
    assert focal_px == pytest.approx(2262 / 2048 * WIDTH, rel=1e-3)


def test_raincityscapes_of_the_cityscapes_site_names_what_is_missing(cityscapes):
    camera = cityscapes / "camera" / "val" / "munster" / "munster_000000_000019_camera.json"
    camera.write_text("{}")
    with pytest.raises(DatasetError, match=r"camera\.json is not a Cityscapes camera file"):
        RainCityscapesDataset(cityscapes, "test")[0]
    camera.unlink()
    with pytest.raises(DatasetError, match=r"camera\.json is missing"):
        RainCityscapesDataset(cityscapes, "test")
    for folder in ("camera", "gtFine", "disparity"):
        for file in (cityscapes / folder).rglob("*.*"):
            file.unlink()
        for below in sorted((cityscapes / folder).rglob("*"), reverse=True):
            below.rmdir()
        (cityscapes / folder).rmdir()
    example = RainCityscapesDataset(cityscapes, "test")[0]
    assert example.inverse_depth is None and example.labels is None


def test_one_city_cannot_be_split(cityscapes):
    for file in (cityscapes / "leftImg8bit_rain" / "train" / "ulm").iterdir():
        file.unlink()
    with pytest.raises(DatasetError, match="aachen alone"):
        RainCityscapesDataset(cityscapes, "train")


def test_the_drive_gives_exact_depth_and_labels_without_any_file():
    skip_without("embreex")
    dataset = DriveDataset("val", width=96, height=64)
    example = dataset[9]
    assert (example.name, example.number) == ("drive_1001_1", 9)
    assert example.clean.shape == (64, 96, 3)
    assert example.inverse_depth.dtype == np.float32 and (example.inverse_depth == 0).any()
    assert 0 in example.labels and 10 in example.labels
    assert (example.label_kind, example.depth_kind) == ("rendered", "rendered")
    assert example.depth_measured
    down, across = np.nonzero(example.labels == 0)
    camera_height = (down - 31.5) / (example.focal_px * example.inverse_depth[down, across])
    assert np.median(camera_height) == pytest.approx(1.5, abs=0.02)
    with pytest.raises(IndexError):
        dataset[len(dataset)]
    with pytest.raises(DatasetError, match="no file names"):
        open_dataset("drive", None, select=["a"])
    with pytest.raises(DatasetError, match="reads nothing from somewhere; leave --data out"):
        open_dataset("drive", Path("somewhere"))
