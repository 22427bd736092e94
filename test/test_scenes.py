"""The procedural drive: frames, depth, labels and motion agree with each other, and the folder it writes
can be read."""

from __future__ import annotations

import argparse
import pickle
import sys

import cv2
import embreex  # noqa: F401  without it no drive is rendered, and this file is left out
import numpy as np
import pytest

from rain_removal_ros.commands import drive as drive_command
from rain_removal_ros.errors import RainRemovalError
from rain_removal_ros.lab.data.datasets import FolderDataset
from rain_removal_ros.lab.scenes import Drive, TrainId, render_frames
from rain_removal_ros.lab.scenes.drive import build_renderer
from rain_removal_ros.lab.scenes.ground import ROAD_HALF, Course, marking
from rain_removal_ros.lab.scenes.raycast import RayCaster
from rain_removal_ros.lab.scenes.textures import TextureAtlas


@pytest.fixture(scope="module")
def drive() -> Drive:
    return Drive(width=160, height=90, frame_count=40, rate=10.0, seed=0)


@pytest.fixture(scope="module")
def other_street() -> Drive:
    return Drive(width=160, height=90, frame_count=40, rate=10.0, seed=5)


@pytest.fixture(scope="module")
def frame(drive):
    return drive[0]


def test_a_frame_has_the_stated_shapes_types_and_time(drive, frame):
    assert frame.image.shape == (90, 160, 3) and frame.image.dtype == np.uint8
    assert frame.inverse_depth.shape == (90, 160) and frame.inverse_depth.dtype == np.float32
    assert frame.labels.shape == (90, 160) and frame.labels.dtype == np.uint8
    assert len(drive) == 40
    assert drive.stamp(7) == pytest.approx(0.7)
    assert frame.index == 0 and frame.stamp == 0.0


def test_the_same_seed_gives_the_same_frame_and_another_seed_another_street(frame, other_street):
    build_renderer.cache_clear()  # so that the street is built once more
    again = Drive(width=160, height=90, frame_count=40, rate=10.0, seed=0)[0]
    for name in ("image", "inverse_depth", "labels"):
        np.testing.assert_array_equal(getattr(again, name), getattr(frame, name))
    assert (other_street[0].labels != frame.labels).mean() > 0.05


def test_a_frame_does_not_depend_on_what_was_rendered_before(drive, frame):
    drive[30]
    again = drive[0]
    np.testing.assert_array_equal(again.image, frame.image)
    np.testing.assert_array_equal(again.inverse_depth, frame.inverse_depth)


def test_frames_from_several_processes_are_those_of_one(drive, frame):
    told = []
    frames = list(
        render_frames(drive, [0, 20], processes=2, on_progress=lambda done, total: told.append((done, total)))
    )
    assert [f.index for f in frames] == [0, 20]
    assert told == [(1, 2), (2, 2)]
    np.testing.assert_array_equal(frames[0].image, frame.image)
    np.testing.assert_array_equal(frames[1].labels, drive[20].labels)


def test_a_drive_travels_to_another_process_without_its_street(drive, frame):
    assert frame.index == 0  # so the street has been built
    assert len(pickle.dumps(drive)) < 2000


def test_depth_of_the_road_is_that_of_a_plane_below_the_camera(drive, frame):
    camera = drive.camera
    rows, columns = np.nonzero(frame.labels == TrainId.ROAD)
    below = rows > camera.cy + 2
    expected = (rows[below] - camera.cy) / (1.5 * camera.fy)  # 1 / z with z = h fy / (v - cy)
    np.testing.assert_allclose(frame.inverse_depth[rows[below], columns[below]], expected, rtol=1e-3)
    assert below.sum() > 1000


def test_the_sky_and_nothing_else_has_inverse_depth_zero(drive):
    for index in (0, 25):
        frame = drive[index]
        np.testing.assert_array_equal(frame.inverse_depth == 0, frame.labels == TrainId.SKY)
        assert (frame.labels == TrainId.SKY).any()
        assert frame.inverse_depth.max() < 2.0


def test_labels_are_train_ids_of_a_street_with_many_classes(drive, other_street):
    seen = set()
    for street in (drive, other_street):
        for index in (0, 20, 39):
            seen |= set(np.unique(street[index].labels).tolist())
    assert seen <= {int(label) for label in TrainId}
    assert {
        TrainId.ROAD, TrainId.SIDEWALK, TrainId.BUILDING, TrainId.POLE, TrainId.VEGETATION, TrainId.SKY,
        TrainId.PERSON, TrainId.CAR, TrainId.TRAFFIC_SIGN,
    } <= seen  # fmt: skip


def test_the_camera_moves_at_the_stated_speed(drive):
    start, _ = drive.pose(0)
    end, heading = drive.pose(20)
    assert np.linalg.norm(end - start) == pytest.approx(9.0 * 2.0, rel=0.02)
    ahead, _ = drive.pose(21)
    assert np.arctan2(ahead[0] - end[0], ahead[2] - end[2]) == pytest.approx(heading, abs=0.01)


def test_points_of_the_fixed_world_reproject_into_the_next_frame(drive):
    """Depth, camera model and motion agree: what is a house here is a house there, where geometry says."""
    camera = drive.camera
    (position, heading), (next_position, next_heading) = drive.pose(10), drive.pose(11)
    here, there = drive[10], drive[11]
    rows, columns = np.nonzero(here.labels == TrainId.BUILDING)
    depth = 1 / here.inverse_depth[rows, columns]
    x, y = (columns - camera.cx) / camera.fx * depth, (rows - camera.cy) / camera.fy * depth
    cosine, sine = np.cos(heading), np.sin(heading)
    world = position + np.stack([x * cosine + depth * sine, -y, depth * cosine - x * sine], axis=1)
    step = world - next_position
    cosine, sine = np.cos(next_heading), np.sin(next_heading)
    z = step[:, 0] * sine + step[:, 2] * cosine
    u = camera.cx + camera.fx * (step[:, 0] * cosine - step[:, 2] * sine) / z
    v = camera.cy - camera.fy * step[:, 1] / z
    column, row = np.rint(u).astype(int), np.rint(v).astype(int)
    inside = (column >= 0) & (column < camera.width) & (row >= 0) & (row < camera.height) & (z > 0)
    reached = there.inverse_depth[row[inside], column[inside]] * z[inside]
    assert inside.sum() > 500
    assert np.median(np.abs(reached - 1)) < 0.01


def test_at_speed_zero_everything_stands_still_and_only_noise_differs():
    still = Drive(width=96, height=64, frame_count=50, seed=3, speed=0.0, noise=2.0)
    first, last = still[0], still[49]
    np.testing.assert_array_equal(first.inverse_depth, last.inverse_depth)
    np.testing.assert_array_equal(first.labels, last.labels)
    difference = first.image.astype(float) - last.image
    assert np.abs(difference).max() < 20
    assert difference.std() == pytest.approx(2.0 * np.sqrt(2), rel=0.1)  # of two independent noises
    assert still.stamp(49) == pytest.approx(4.9)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"frame_count": 0}, "frame count is 0"),
        ({"width": 63}, "width is 63"),
        ({"height": 32}, "height is 32"),
        ({"height": 5000}, "height is 5000"),
        ({"rate": 0.0}, "rate is 0.0"),
        ({"rate": float("nan")}, "rate is nan"),
        ({"seed": -1}, "seed is -1"),
        ({"speed": -3.0}, "speed is -3.0"),
        ({"noise": -1.0}, "noise is -1.0"),
        ({"frame_count": 10_000}, "is 9000 m long"),
    ],
)
def test_senseless_arguments_are_refused_by_name_and_value(arguments, named):
    with pytest.raises(RainRemovalError, match=named):
        Drive(**arguments)


def test_a_frame_outside_the_drive_is_an_index_error_and_negative_counts_from_the_end(drive):
    with pytest.raises(IndexError, match="frame 40 of a drive of 40"):
        drive[40]
    assert drive[-40].index == 0


def test_the_command_writes_a_folder_that_decodes_to_the_drive(tmp_path, capsys):
    parser = argparse.ArgumentParser()
    drive_command.add_arguments(parser)
    words = f"{tmp_path} --frames 1 --width 96 --height 64 --rate 5 --seed 4 --processes 1"
    assert drive_command.run(parser.parse_args(words.split())) == 0
    assert str(tmp_path) in capsys.readouterr().out
    drive = Drive(width=96, height=64, frame_count=1, rate=5.0, seed=4)
    for index, frame in enumerate(drive):
        image = cv2.imread(str(tmp_path / "image" / f"drive4_{index:05d}.png"))
        codes = cv2.imread(str(tmp_path / "inverse_depth" / f"drive4_{index:05d}.png"), cv2.IMREAD_UNCHANGED)
        labels = cv2.imread(str(tmp_path / "labels" / f"drive4_{index:05d}.png"), cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(image[..., ::-1], frame.image)
        np.testing.assert_array_equal(labels, frame.labels)
        assert codes.dtype == np.uint8 and codes.ndim == 2
        np.testing.assert_array_equal(codes == 0, frame.inverse_depth == 0)
        decoded = 0.7 * (codes / 255.0) ** 2
        step = 2 * 0.7 * (codes + 1) / 255.0**2  # between neighbouring codes
        near = frame.inverse_depth <= 0.7
        assert (np.abs(decoded - frame.inverse_depth) <= step)[near].all()
    example = FolderDataset(tmp_path)[0]
    assert example.focal_px == pytest.approx(drive.camera.fx)
    assert (example.label_kind, example.depth_kind) == ("rendered", "rendered")


def test_the_command_says_where_it_cannot_write(tmp_path):
    (tmp_path / "taken").write_text("a file")
    parser = argparse.ArgumentParser()
    drive_command.add_arguments(parser)
    with pytest.raises(RainRemovalError, match="taken"):
        drive_command.run(parser.parse_args([str(tmp_path / "taken"), "--frames", "1"]))


def test_rendering_with_no_process_is_refused(drive):
    with pytest.raises(RainRemovalError, match="0 processes"):
        next(render_frames(drive, processes=0))


def test_without_the_ray_library_rendering_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "embreex.rtcore_scene", None)
    with pytest.raises(RainRemovalError, match="-m pip install embreex"):
        RayCaster(np.zeros((1, 3, 3), np.float32))


def test_rays_meet_the_nearest_triangle_and_are_blocked_within_reach():
    near = np.array([[-1, -1, 2], [1, -1, 2], [0, 1, 2]], np.float32)
    caster = RayCaster(np.stack([np.add(near, [0, 0, 3]), near]))
    origins = np.zeros((2, 3), np.float32)
    directions = np.array([[0, 0, 2], [0, 0, -1]], np.float32)
    hits = caster.first_hits(origins, directions)
    np.testing.assert_allclose(hits.distance, [1.0, np.inf])  # in lengths of the direction
    np.testing.assert_array_equal(hits.triangle, [1, -1])
    np.testing.assert_array_equal(caster.blocked(origins, directions, reach=1.1), [True, False])
    np.testing.assert_array_equal(caster.blocked(origins, directions, reach=0.9), [False, False])


def test_road_markings_cover_exactly_their_share_of_a_large_footprint():
    """One dash of 3 m in 9 m, 12 cm wide: a footprint of 9 m x 1.2 m around the centre line is 1/30 paint."""
    crossings = np.array([-1000.0])
    share = marking(np.zeros(1), np.array([20.0]), np.array([1.2]), np.array([9.0]), crossings)
    assert share == pytest.approx(1 / 30, rel=1e-6)
    outside = marking(
        np.array([ROAD_HALF - 0.5]), np.array([20.0]), np.array([0.1]), np.array([0.1]), crossings
    )
    assert outside == 0


def test_the_course_slope_is_the_derivative_of_its_offset():
    course = Course(amplitude=5.0, period=400.0)
    z = np.linspace(0, 300, 7)
    measured = (course.offset(z + 0.01) - course.offset(z - 0.01)) / 0.02
    np.testing.assert_allclose(course.slope(z), measured, atol=1e-6)


def test_the_atlas_averages_over_the_footprint_in_each_direction():
    stripes = np.zeros((16, 16, 4), np.uint8)
    stripes[:, ::2] = 200  # vertical stripes of one texel
    atlas = TextureAtlas()
    index = atlas.add(stripes)
    atlas.freeze()
    uv = np.array([[0.5 / 16, 0.5], [1.5 / 16, 0.5]], np.float32)  # centres of two neighbouring stripes
    texture = np.full(2, index)
    sharp = atlas.sample(texture, uv, np.array([[1 / 16, 0.5]] * 2, np.float32))
    np.testing.assert_allclose(sharp[:, 0] * 255, [200, 0], atol=1)
    wide = atlas.sample(texture, uv, np.array([[0.5, 1 / 16]] * 2, np.float32))
    np.testing.assert_allclose(wide[:, 0] * 255, [100, 100], atol=1)
