"""The node over real DDS with a compiled network, and with the files and folders that users get wrong."""

from __future__ import annotations

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticStatus
from ros_harness import ACTIVATE, CONFIGURE, array_of, derain_node, header_of, image_of, values_of
from runtime_fixtures import TINY_SEGMENTATION, street_like, write_weights
from sensor_msgs.msg import Image

from rain_removal_ros.lab.weather import Rain, level_parameters
from rain_removal_ros.runtime import Output, RuntimeSettings, create_restorer

HEIGHT, WIDTH = 101, 133
EVERY_OUTPUT = frozenset(Output)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return write_weights(tmp_path_factory.mktemp("weights") / "tiny.safetensors")


@pytest.fixture(scope="module")
def segmentation_weights(tmp_path_factory):
    return write_weights(tmp_path_factory.mktemp("weights") / "labels.safetensors", TINY_SEGMENTATION)


def test_what_comes_out_is_what_the_network_gives(weights, segmentation_weights, tmp_path):
    settings = RuntimeSettings(
        backend="openvino",
        precision="fp32",
        threads=1,
        weights=weights,
        segmentation_weights=segmentation_weights,
        cache_dir=tmp_path,
    )
    restorer = create_restorer(settings)
    frame = street_like(HEIGHT, WIDTH)
    expected = restorer(frame, EVERY_OUTPUT)
    restorer.close()
    parameters = {
        "weights": str(weights),
        "segmentation_weights": str(segmentation_weights),
        "cache_dir": str(tmp_path),
        "backend": "openvino",
        "precision": "fp32",
        "threads": 1,
        "segmentation": True,
    }
    with derain_node(**parameters) as peer:
        images, depths, masks = (peer.output(output) for output in Output)
        camera = peer.camera()
        while not (
            images and depths and masks
        ):  # the first frames come while the outputs are still being built
            camera.publish(image_of(frame[..., ::-1], "bgr8", second=5))
            peer.status("derain: camera", lambda s: True)
        assert images[-1].header == depths[-1].header == masks[-1].header == header_of(5)
        assert images[-1].encoding == "bgr8"
        np.testing.assert_array_equal(array_of(images[-1], 3), expected.image[..., ::-1])
        np.testing.assert_array_equal(array_of(depths[-1], 1, np.float32)[..., 0], expected.inverse_depth)
        np.testing.assert_array_equal(array_of(masks[-1], 1)[..., 0], expected.labels)
        assert (expected.image != frame).any()


def test_diagnostics_name_the_backend_the_weights_and_the_engine(weights, tmp_path):
    sizes = f"{WIDTH}x{HEIGHT}"
    with derain_node(weights=str(weights), cache_dir=str(tmp_path), image_sizes=sizes) as peer:
        status = peer.status("derain: runtime", lambda s: values_of(s).get("image sizes") == sizes)
        values = values_of(status)
        assert values["backend"] in ("openvino", "torch-cpu", "torch-cuda", "tensorrt")
        assert values["weights"] == "tiny.safetensors" and len(values["weights sha256"]) == 64
        assert values["engine keys"] and values["reason"] and values["device"]


def test_a_missing_weights_file_fails_configure_and_a_repaired_parameter_mends_it(weights, tmp_path):
    missing = tmp_path / "missing.safetensors"
    with derain_node(weights=str(missing), cache_dir=str(tmp_path)) as peer:
        status = peer.status("derain: runtime", lambda s: s.level == DiagnosticStatus.ERROR)
        assert str(missing) in status.message and "does not exist" in status.message
        assert not peer.change_state(CONFIGURE)
        assert peer.set_parameter("weights", str(weights)).successful
        assert peer.change_state(CONFIGURE) and peer.change_state(ACTIVATE)
        images = peer.output(Output.IMAGE)
        camera = peer.camera()
        camera.publish(image_of(street_like(HEIGHT, WIDTH)))
        peer.wait_for(lambda: images, "for the first image after the repair")


def test_a_damaged_weights_file_fails_configure_and_the_right_file_in_its_place_mends_it(weights, tmp_path):
    damaged = tmp_path / "weights.safetensors"
    damaged.write_bytes(weights.read_bytes()[:5000])
    with derain_node(weights=str(damaged), cache_dir=str(tmp_path)) as peer:
        status = peer.status("derain: runtime", lambda s: s.level == DiagnosticStatus.ERROR)
        assert "damaged" in status.message
        damaged.write_bytes(weights.read_bytes())
        assert peer.change_state(CONFIGURE) and peer.state() == "inactive"


def test_a_damaged_segmentation_file_fails_configure(weights, tmp_path):
    damaged = tmp_path / "segmentation.safetensors"
    damaged.write_bytes(weights.read_bytes()[:5000])
    with derain_node(segmentation=True, segmentation_weights=str(damaged), cache_dir=str(tmp_path)) as peer:
        status = peer.status("derain: runtime", lambda s: s.level == DiagnosticStatus.ERROR)
        assert f"{damaged} is damaged" in status.message


def test_an_unknown_preset_fails_configure_and_the_message_names_the_known_ones(tmp_path):
    with derain_node(preset="hurricane", cache_dir=str(tmp_path)) as peer:
        status = peer.status("derain: runtime", lambda s: s.level == DiagnosticStatus.ERROR)
        assert "hurricane" in status.message and "fast" in status.message


def test_a_cache_folder_that_cannot_be_written_is_a_warning_and_frames_are_restored(weights, tmp_path):
    in_the_way = tmp_path / "file"
    in_the_way.write_text("not a folder")
    with derain_node(weights=str(weights), cache_dir=str(in_the_way / "cache")) as peer:
        images: list[Image] = peer.output(Output.IMAGE)
        camera = peer.camera()
        camera.publish(image_of(street_like(HEIGHT, WIDTH)))
        peer.wait_for(lambda: images, "for an image without a cache")
        assert peer.told(str(in_the_way))


def test_the_packaged_weights_restore_depth_and_labels_without_any_parameter_but_segmentation(tmp_path):
    inverse_depth = np.linspace(0, 0.3, HEIGHT, dtype=np.float32)[:, None].repeat(WIDTH, axis=1)
    rain = Rain(level_parameters("heavy"), HEIGHT, WIDTH, seed=0)
    frame = rain.render(street_like(HEIGHT, WIDTH), inverse_depth)
    with derain_node(cache_dir=str(tmp_path), segmentation=True) as peer:
        images, depths, masks = (peer.output(output) for output in Output)
        camera = peer.camera()
        while not (images and depths and masks):
            camera.publish(image_of(frame, second=5))
            peer.status("derain: camera", lambda s: True)
        runtime = peer.status("derain: runtime", lambda s: "weights" in values_of(s))
        assert values_of(runtime)["weights"] == "fast.safetensors"
        moved = np.abs(array_of(images[-1], 3).astype(int) - frame)
        assert moved.mean() > 5
        depth = array_of(depths[-1], 1, np.float32)
        # in 1/m: nothing is nearer than half a metre; in pixels per metre it would be a hundred times as much
        assert np.isfinite(depth).all() and (depth > 0).all() and (depth < 2).all()
        assert set(np.unique(array_of(masks[-1], 1))) <= set(range(19))
