"""The backends that run without a GPU: what they give, what they refuse, what they say about themselves."""

from __future__ import annotations

import dataclasses
import itertools
import json
import shutil
import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from runtime_fixtures import TINY, TINY_SEGMENTATION, random_network, street_like, write_weights
from safetensors import safe_open
from safetensors.torch import save, save_file
from waiting import eventually

from rain_removal_ros.errors import (
    BackendError,
    ImageError,
    InferenceError,
    NotPreparedError,
    PresetError,
    WeightsError,
)
from rain_removal_ros.network import load_network, save_network, sha256_of
from rain_removal_ros.network import weights as weights_module
from rain_removal_ros.network.quantisation import calibrate, convolutions, quantised
from rain_removal_ros.runtime import (
    ASSUMED_FOCAL,
    BACKENDS,
    KINDS,
    BatchTrial,
    Output,
    RuntimeSettings,
    compiled,
    create_restorer,
    selection,
)
from rain_removal_ros.runtime import networks as networks_module
from rain_removal_ros.runtime import openvino as openvino_backend
from rain_removal_ros.runtime.build_process import SHARED
from rain_removal_ros.runtime.cache import EngineCache, EngineKey
from rain_removal_ros.runtime.checks import check_restored
from rain_removal_ros.runtime.compiled import CompilingRestorer, as_restored
from rain_removal_ros.runtime.graph import FrameGraph
from rain_removal_ros.runtime.networks import Networks, source_digest, unpacked, with_contents
from rain_removal_ros.runtime.openvino import (
    OpenVINORestorer,
    computed_precisions,
    float_precisions,
    native_precisions,
)

EVERYTHING = tuple(Output)
IMAGE = (Output.IMAGE,)
OPENVINO_BOUNDS = {"fp32": (0.01, 1), "bf16": (1.0, 6), "fp16": (0.2, 2)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runtime")
    write_weights(folder / "fast.safetensors")
    write_weights(folder / "segmentation.safetensors", TINY_SEGMENTATION)
    return folder


@pytest.fixture(scope="module")
def calibrated(folder):
    """The same network as fast.safetensors', calibrated for 8-bit integers."""
    network = random_network(TINY)
    images = [torch.from_numpy(street_like(96, 160)).permute(2, 0, 1)[None] / 255]
    network.input_ranges = calibrate(network, images)
    path = folder / "calibrated.safetensors"
    save_network(network, path, {})
    return path


@pytest.fixture
def restorer(folder):
    """Makes restorers of the tiny networks and closes them."""
    made = []

    def make(backend="openvino", precision="fp32", **settings):
        defaults = {
            "weights": folder / "fast.safetensors",
            "segmentation_weights": folder / "segmentation.safetensors",
            "cache_dir": folder / "cache",
        }
        made.append(
            create_restorer(RuntimeSettings(backend=backend, precision=precision, **defaults | settings))
        )
        return made[-1]

    yield make
    for each in made:
        each.close()


def eager(folder, image, outputs=EVERYTHING):
    """The float32 truth: the frame graph of the saved networks, run by PyTorch."""
    graph = FrameGraph(
        random_network(TINY), random_network(TINY_SEGMENTATION), *image.shape[:2], outputs=outputs
    ).eval()
    with torch.inference_mode():
        results = [output[0].numpy() for output in graph(torch.from_numpy(image)[None])]
    return as_restored(outputs, results, outputs, image.shape[:2], ASSUMED_FOCAL * image.shape[1])


def test_every_backend_that_can_be_asked_for_can_be_chosen():
    assert ("auto", *(backend.name for backend in selection.BACKENDS)) == BACKENDS


# Mean and largest difference in grey levels, with random weights.
@pytest.mark.parametrize(
    ("backend", "precision", "mean", "largest"),
    [("torch-cpu", "fp32", 0.01, 1), ("torch-cpu", "bf16", 1.0, 6)]
    + [("openvino", precision, *OPENVINO_BOUNDS[precision]) for precision in float_precisions()],
)
def test_a_backend_gives_what_float32_pytorch_gives(restorer, folder, backend, precision, mean, largest):
    image = street_like(96, 160)
    restored = restorer(backend, precision)(image, EVERYTHING)
    expected = eager(folder, image)
    expected_image, expected_depth, expected_labels = expected.image, expected.inverse_depth, expected.labels
    assert np.abs(expected_image.astype(int) - image).mean() > 2, "the network must do something"
    difference = np.abs(restored.image.astype(int) - expected_image)
    assert restored.image.dtype == np.uint8
    assert difference.mean() <= mean
    assert difference.max() <= largest
    assert restored.inverse_depth.dtype == np.float32
    tolerance = 1e-3 if precision == "fp32" else 0.1
    np.testing.assert_allclose(restored.inverse_depth, expected_depth, rtol=tolerance, atol=1e-3)
    for number in ("rain_gate", "streak_light", "extinction"):
        assert getattr(restored, number) == pytest.approx(getattr(expected, number), rel=tolerance, abs=2e-3)
    assert restored.labels.dtype == np.uint8
    assert (restored.labels == expected_labels).mean() >= (0.99 if precision == "fp32" else 0.9)


@pytest.mark.parametrize("size", [(64, 64), (65, 127), (240, 321)])
def test_every_size_keeps_its_shape_and_its_pixels_in_place(restorer, folder, size):
    image = street_like(*size)
    restored = restorer("openvino", "fp32")(image, EVERYTHING)
    expected = eager(folder, image)
    assert restored.image.shape == (*size, 3)
    assert np.abs(restored.image.astype(float) - expected.image).mean() < 0.01
    np.testing.assert_allclose(restored.inverse_depth, expected.inverse_depth, rtol=1e-3, atol=1e-4)
    assert (restored.labels == expected.labels).mean() > 0.99


@pytest.mark.parametrize("backend", ["openvino", "torch-cpu"])
def test_only_what_is_asked_for_comes_back(restorer, backend):
    subject = restorer(backend)
    image = street_like(64, 96)
    for outputs in ([Output.INVERSE_DEPTH], [Output.IMAGE], [Output.LABELS, Output.IMAGE]):
        restored = subject(image, outputs)
        assert {output for output in Output if getattr(restored, output.value) is not None} == set(outputs)


def test_depth_and_fog_are_metric_for_the_camera_that_is_named(restorer):
    subject, image = restorer(), street_like(64, 96)
    assumed, named = subject(image), subject(image, focal_px=2 * ASSUMED_FOCAL * 96)
    np.testing.assert_allclose(named.inverse_depth, assumed.inverse_depth / 2, rtol=1e-5)
    assert named.extinction == pytest.approx(assumed.extinction / 2)
    assert named.rain_gate == assumed.rain_gate
    for focal in (0, -5.0, float("nan"), float("inf")):
        with pytest.raises(ImageError, match="focal length of"):
            subject(image, focal_px=focal)
    without = subject(image, [Output.INVERSE_DEPTH])
    assert (without.rain_gate, without.extinction) == (None, None)


def test_a_network_that_does_not_say_what_the_weather_is_like_is_not_taken_for_one_that_fails(
    restorer, tmp_path
):
    silent = write_weights(tmp_path / "silent.safetensors", "dgnl-fast")
    restored = restorer("torch-cpu", weights=silent)(street_like(64, 64), [Output.IMAGE])
    assert (restored.rain_gate, restored.streak_light, restored.extinction) == (None, None, None)
    check_restored(restored, (64, 64), [Output.IMAGE])
    network = random_network(TINY)
    with torch.no_grad():  # finite weights, as a damaged file may have, of which infinities come
        for parameter in network.streaks.parameters():
            parameter.normal_().mul_(1e4)
    save_network(network, tmp_path / "wild.safetensors", {})
    restored = restorer("torch-cpu", weights=tmp_path / "wild.safetensors")(
        street_like(64, 64), [Output.IMAGE]
    )
    with pytest.raises(InferenceError, match="the network gave"):
        check_restored(restored, (64, 64), [Output.IMAGE])


def test_depth_alone_runs_a_graph_without_the_image_head(restorer):
    subject = restorer("openvino", "fp32")
    subject.prepare(64, 96, [Output.INVERSE_DEPTH])
    subject.prepare(64, 96, [Output.IMAGE, Output.INVERSE_DEPTH])
    depth_alone, both = (frame._request.get_compiled_model() for frame in subject._compiled.values())
    convolutions = [
        sum("Conv" in str(op.get_rt_info()["layerType"].value) for op in model.get_runtime_model().get_ops())
        for model in (depth_alone, both)
    ]
    assert convolutions[0] < convolutions[1]


def test_a_prepared_larger_graph_serves_fewer_outputs_without_compiling(restorer):
    subject = restorer()
    subject.prepare(64, 96, [Output.IMAGE, Output.INVERSE_DEPTH])
    restored = subject(street_like(64, 96), [Output.INVERSE_DEPTH])
    assert restored.image is None
    assert len(subject.info.engine_keys) == 1


def test_results_are_the_callers_to_keep(restorer):
    subject = restorer()
    first = subject(street_like(64, 96, seed=1))
    kept = first.image.copy(), first.inverse_depth.copy()
    subject(street_like(64, 96, seed=2))
    assert (first.image == kept[0]).all()
    assert (first.inverse_depth == kept[1]).all()


@pytest.mark.parametrize("backend", ["openvino", "torch-cpu"])
def test_views_that_are_strided_or_read_only_are_taken(restorer, backend):
    subject = restorer(backend)
    padded = street_like(64, 100)
    padded.setflags(write=False)
    view = padded[:, 2:98, ::-1]
    assert (subject(view).image == subject(view.copy()).image).all()


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((64, 64, 3), np.float32),
        np.zeros((64, 64), np.uint8),
        np.zeros((64, 64, 4), np.uint8),
        np.zeros((63, 64, 3), np.uint8),
        np.zeros((3073, 3073, 3), np.uint8),
        np.zeros((64, 4097, 3), np.uint8),
        np.zeros((0, 64, 3), np.uint8),
    ],
    ids=lambda image: f"{image.dtype}-{'x'.join(map(str, image.shape))}",
)
def test_images_that_no_network_takes_are_refused_and_the_next_good_one_is_restored(restorer, image):
    subject = restorer()
    with pytest.raises(ImageError, match=r"image of .* taken"):
        subject(image)
    assert subject(street_like(64, 64)).image.shape == (64, 64, 3)


def test_compiled_graphs_in_memory_are_bounded(restorer):
    subject = restorer("torch-cpu", graphs_in_memory=3)
    for extra in range(5):
        subject(street_like(64, 64 + extra), [Output.IMAGE])
    assert len(subject.info.engine_keys) == 3
    assert (64, 64) not in subject.info.input_sizes
    assert not subject.prepared(64, 64) and subject.prepared(64, 68) == {frozenset({Output.IMAGE})}


def test_what_is_not_prepared_is_not_compiled_where_only_what_is_prepared_may_serve(restorer):
    subject = restorer("torch-cpu")
    with pytest.raises(NotPreparedError, match="64x64 image"):
        subject(street_like(64, 64), [Output.IMAGE], prepared_only=True)
    subject.prepare(64, 64, [Output.IMAGE])
    assert subject(street_like(64, 64), [Output.IMAGE], prepared_only=True).image is not None


def test_info_says_what_runs(restorer, folder):
    subject = restorer("openvino", "fp32")
    subject.prepare(64, 96, [Output.IMAGE])
    info = subject.info
    assert (info.backend, info.precision, info.preset) == ("openvino", "fp32", "fast")
    assert info.weights == "fast.safetensors"
    assert info.weights_sha256 == sha256_of(folder / "fast.safetensors")
    assert info.input_sizes == ((64, 96),)
    assert len(info.engine_keys) == 1


@pytest.mark.parametrize("precision", native_precisions())
def test_the_precision_reported_is_the_one_that_runs(restorer, calibrated, precision):
    subject = restorer("openvino", precision, weights=calibrated)
    subject.prepare(64, 64, [Output.IMAGE])
    frame = next(iter(subject._compiled.values()))
    ran = computed_precisions(frame._request.get_compiled_model())
    floats = float_precisions()[0] if precision == "int8" else precision
    assert subject.info.precision == precision
    quantised = len(convolutions(random_network(TINY))) if precision == "int8" else 0
    assert ran["u8"] + ran["i8"] == quantised
    assert ran[openvino_backend.ELEMENT_TYPES[floats]] > quantised


@pytest.mark.parametrize(
    ("capabilities", "vnni", "native"),
    [
        (["FP32", "INT8"], False, ("fp32",)),
        (["FP32", "INT8"], True, ("int8", "fp32")),
        (["FP32", "FP16", "INT8"], False, ("fp16", "fp32")),
        (["BF16", "FP32"], False, ("bf16", "fp32")),
        (["BF16", "WINOGRAD", "FP32", "FP16", "INT8"], True, ("int8", "bf16", "fp16", "fp32")),
        ([], False, ("fp32",)),
    ],
)
def test_auto_takes_the_fastest_precision_of_the_cpu_and_refuses_what_it_lacks(
    restorer, calibrated, monkeypatch, capabilities, vnni, native
):
    monkeypatch.setattr(openvino_backend, "cpu_capabilities", lambda: capabilities)
    monkeypatch.setattr(openvino_backend, "cpu_flags", lambda: "avx512_vnni" if vnni else "")
    assert native_precisions() == native
    assert restorer("openvino", "auto", weights=calibrated).info.precision == native[0]
    assert restorer("openvino", "auto").info.precision == float_precisions()[0]
    for precision in ("int8", *openvino_backend.ELEMENT_TYPES):
        if precision in native:
            assert restorer("openvino", precision, weights=calibrated).info.precision == precision
        else:
            with pytest.raises(BackendError, match=f"choose one of {', '.join(native)} or auto"):
                OpenVINORestorer(
                    Networks(RuntimeSettings(weights=calibrated)),
                    EngineCache(calibrated.parent, 1 << 30),
                    precision,
                )
            with pytest.raises(BackendError, match=f"choose {', '.join(native)} or auto"):
                restorer("openvino", precision, weights=calibrated)


def test_integers_are_not_trusted_on_a_cpu_with_amx(restorer, calibrated, monkeypatch):
    """OpenVINO computes them wrongly there now and then, while another thread computes something else."""
    monkeypatch.setattr(openvino_backend, "cpu_flags", lambda: "avx512_vnni amx_bf16 amx_int8")
    monkeypatch.setattr(openvino_backend, "cpu_capabilities", lambda: ["BF16", "FP32", "INT8"])
    info = restorer("openvino", "auto", weights=calibrated).info
    assert info.precision == "bf16"
    assert "bf16 and not int8, which OpenVINO computes wrongly" in info.reason
    networks = Networks(RuntimeSettings(weights=calibrated))
    with pytest.raises(BackendError, match="wrong images now and then on CPUs with AMX"):
        openvino_backend.configure(networks, "int8", 0)
    with pytest.raises(BackendError, match="choose bf16, fp32 or auto"):
        restorer("openvino", "int8", weights=calibrated)


def test_integers_need_weights_that_were_calibrated(restorer, folder, monkeypatch):
    monkeypatch.setattr(openvino_backend, "cpu_flags", lambda: "avx512_vnni")
    monkeypatch.setattr(openvino_backend, "cpu_capabilities", lambda: ["FP32"])
    with pytest.raises(BackendError, match=r"weights fast.safetensors were not calibrated for int8; train"):
        restorer("openvino", "int8")
    networks = Networks(RuntimeSettings(weights=folder / "fast.safetensors"))
    with pytest.raises(BackendError, match=r"precision bf16 does not run .*; choose one of fp32 or auto"):
        openvino_backend.configure(networks, "bf16", 0)
    info = restorer("openvino", "auto").info
    assert info.precision == "fp32"
    assert "fp32 and not int8, which fast.safetensors was not calibrated for" in info.reason


def test_integers_give_what_the_quantised_network_gives_and_nearly_what_floats_give(
    restorer, calibrated, monkeypatch
):
    """On a CPU that computes integers as floats too: what is measured is the graph, not its speed. One
    without VNNI adds products in 16 bits, which saturate; nobody is given integers there.
    """
    allowed = 0.2 if "vnni" in openvino_backend.cpu_flags() else 1.0
    monkeypatch.setattr(openvino_backend, "cpu_flags", lambda: "avx512_vnni")
    monkeypatch.setattr(openvino_backend, "cpu_capabilities", lambda: ["FP32"])
    image = street_like(96, 160)
    given = restorer("openvino", "int8", weights=calibrated)(image)
    network = load_network(calibrated)[0]
    outputs = (Output.IMAGE, Output.INVERSE_DEPTH)
    expected = []
    for each in (quantised(network), network):
        with torch.inference_mode():
            results = FrameGraph(each, None, 96, 160, outputs).eval()(torch.from_numpy(image)[None])
        expected.append(as_restored(outputs, [r[0].numpy() for r in results], outputs, (96, 160), 128.0))
    differences = [np.abs(given.image.astype(int) - truth.image) for truth in expected]
    assert differences[0].mean() <= allowed
    assert differences[1].mean() <= 2.0
    assert np.abs(expected[1].image.astype(int) - image).mean() > 2, "the network must do something"


@pytest.mark.parametrize("precision", openvino_backend.ELEMENT_TYPES)
def test_each_precision_is_asked_of_openvino_by_its_own_name(restorer, monkeypatch, precision):
    monkeypatch.setattr(openvino_backend, "cpu_capabilities", lambda: ["BF16", "FP16", "FP32"])
    asked = []

    def build(order, cancellation):
        asked.append(order.options["configuration"]["INFERENCE_PRECISION_HINT"])
        raise RuntimeError("seen enough")

    monkeypatch.setattr(SHARED, "build", build)
    subject = restorer("openvino", precision, cache_dir=Path("/proc/no-such-folder"))
    with pytest.raises(RuntimeError, match="seen enough"):
        subject.prepare(64, 64, [Output.IMAGE])
    assert asked == [{"fp32": "f32", "bf16": "bf16", "fp16": "f16"}[precision]]


@pytest.mark.parametrize(
    ("precision", "ran"),
    [
        ("fp32", {"bf16": 9}),
        ("fp32", {"f32": 5, "u8": 9}),
        ("fp32", {}),
        ("int8", {"f32": 9}),
        ("int8", {"u8": 9, "bf16": 5}),
    ],
)
def test_another_precision_than_was_asked_for_is_an_error(restorer, calibrated, monkeypatch, precision, ran):
    monkeypatch.setattr(openvino_backend, "cpu_flags", lambda: "avx512_vnni")
    monkeypatch.setattr(openvino_backend, "cpu_capabilities", lambda: ["FP32"])
    subject = restorer("openvino", precision, weights=calibrated)
    monkeypatch.setattr(openvino_backend, "computed_precisions", lambda model: Counter(ran))
    with pytest.raises(BackendError, match=rf"OpenVINO computes .* where {precision} was asked for; choose"):
        subject.prepare(64, 64, [Output.IMAGE])


def test_a_compiled_graph_comes_from_the_cache_the_second_time(folder, tmp_path):
    def prepare_and_listen(threads=1):
        said = []
        settings = RuntimeSettings(
            backend="openvino",
            precision="fp32",
            weights=folder / "fast.safetensors",
            cache_dir=tmp_path,
            threads=threads,
        )
        subject = create_restorer(settings, said.append)
        subject.prepare(64, 96, [Output.IMAGE])
        result = subject(street_like(64, 96), [Output.IMAGE]).image
        subject.close()
        return result, " ".join(said)

    built, first = prepare_and_listen()
    loaded, second = prepare_and_listen()
    _, third = prepare_and_listen(threads=2)
    assert "built" in first
    assert "loaded from the cache" in second
    assert "built" in third, "other settings are another engine"
    assert (built == loaded).all()
    for blob in tmp_path.glob("*.engine"):
        blob.write_bytes(blob.read_bytes()[:1000])
    repaired, fourth = prepare_and_listen()
    assert "bytes instead of" in fourth
    assert "built" in fourth
    assert (repaired == built).all()


def test_an_engine_that_openvino_cannot_import_is_built_again(folder, tmp_path, restorer):
    restorer(cache_dir=tmp_path).prepare(64, 64, [Output.IMAGE])
    said = []
    subject = create_restorer(
        RuntimeSettings(
            backend="openvino",
            precision="fp32",
            weights=folder / "fast.safetensors",
            cache_dir=tmp_path,
        ),
        said.append,
    )
    key = subject.key(64, 64, (Output.IMAGE,))
    subject._cache.store(key, lambda path: path.write_bytes(b"no engine"))
    subject.prepare(64, 64, [Output.IMAGE])
    assert any("OpenVINO cannot import it" in line for line in said)
    assert subject(street_like(64, 64), [Output.IMAGE]).image is not None


def test_weights_that_are_replaced_on_disk_change_nothing_of_what_was_loaded(folder, restorer, tmp_path):
    weights = tmp_path / "fast.safetensors"
    weights.write_bytes((folder / "fast.safetensors").read_bytes())
    subject = restorer("openvino", "fp32", weights=weights, cache_dir=tmp_path / "cache")
    write_weights(weights, seed=7)
    image = street_like(64, 96)
    expected = eager(folder, image, (Output.IMAGE,)).image
    restored = subject(image, [Output.IMAGE]).image
    assert np.abs(restored.astype(int) - expected).max() <= 1
    weights.unlink()
    assert subject(street_like(96, 64), [Output.IMAGE]).image is not None


def test_closing_does_not_wait_for_a_build(restorer, monkeypatch):
    subject = restorer("openvino")
    building, failure = threading.Event(), []

    def build(order, cancellation):
        building.set()
        return original(replace(order, builder="build_fixtures:sleep_for_ever", options={}), cancellation)

    def prepare():
        try:
            subject.prepare(64, 1000, [Output.IMAGE])
        except BackendError as error:
            failure.append(error)

    original = SHARED.build
    monkeypatch.setattr(SHARED, "build", build)
    thread = threading.Thread(target=prepare)
    thread.start()
    assert building.wait(30)
    subject.close()
    thread.join(30)
    assert not thread.is_alive() and "cancelled" in str(failure[0])


def test_what_is_cached_is_loaded_while_something_else_is_compiled(restorer, tmp_path, monkeypatch):
    restorer("openvino", cache_dir=tmp_path).prepare(64, 96, [Output.IMAGE])
    subject, loaded, failure = restorer("openvino", cache_dir=tmp_path), [], []

    def build(order, cancellation):
        return original(replace(order, builder="build_fixtures:sleep_for_ever", options={}), cancellation)

    def meanwhile():
        loaded.append((subject.prepare_cached(64, 96, [Output.IMAGE]), subject.prepared(64, 96)))

    def prepare():
        try:
            subject.prepare(64, 1000, [Output.IMAGE], None, meanwhile)
        except BackendError as error:
            failure.append(error)

    original = SHARED.build
    monkeypatch.setattr(SHARED, "build", build)
    thread = threading.Thread(target=prepare)
    thread.start()
    eventually(lambda: loaded)
    assert loaded[0] == (True, {frozenset([Output.IMAGE])})
    assert thread.is_alive() and subject(street_like(64, 96), [Output.IMAGE], prepared_only=True)
    subject.close()
    thread.join(30)
    assert not thread.is_alive() and "cancelled" in str(failure[0])


def test_what_is_not_cached_or_being_built_or_damaged_is_not_waited_for(restorer, tmp_path):
    subject, cache = restorer("openvino", cache_dir=tmp_path), EngineCache(tmp_path, 1 << 30)
    assert not subject.prepare_cached(64, 96, [Output.IMAGE])
    assert list(tmp_path.iterdir()) == [], "not even a lock"
    key = subject.key(64, 96, (Output.IMAGE,))
    cache.store(key, lambda path: path.write_bytes(b"of no use"))
    with cache.building(key):
        assert not subject.prepare_cached(64, 96, [Output.IMAGE])
    assert cache.find(key)
    assert not subject.prepare_cached(64, 96, [Output.IMAGE])
    assert cache.find(key) is None and not subject.prepared(64, 96)


def test_closing_does_not_wait_for_another_process_that_builds_the_same(restorer, tmp_path):
    subject, failure = restorer("openvino", cache_dir=tmp_path), []

    def prepare():
        try:
            subject.prepare(64, 1000, [Output.IMAGE])
        except BackendError as error:
            failure.append(error)

    other = EngineCache(tmp_path, 1 << 30)
    with other.building(subject.key(64, 1000, (Output.IMAGE,))):
        thread = threading.Thread(target=prepare)
        thread.start()
        thread.join(0.3)
        assert thread.is_alive(), "it waits"
        subject.close()
        thread.join(30)
    assert not thread.is_alive() and "cancelled" in str(failure[0])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(restorer, tmp_path, value):
    network = random_network(TINY)
    with torch.no_grad():
        next(network.parameters()).view(-1)[0] = value
    save_network(network, tmp_path / "broken.safetensors", {})
    with pytest.raises(WeightsError, match=r"broken.* holds numbers that are not finite"):
        restorer(weights=tmp_path / "broken.safetensors")


@pytest.mark.parametrize(
    "ranges",
    [{}, {"other": [0, 1]}, [0, 1], "all", None, {"streaks.stem": [0, 1]}]
    + [{"*": pair} for pair in ([1, 0], [0], [0, 1, 2], ["a", 1], [0, 10**400], [0, float("nan")], 5, None)],
    ids=str,
)
def test_ranges_for_integers_that_cannot_be_are_refused(restorer, calibrated, tmp_path, ranges):
    with safe_open(calibrated, framework="pt") as file:
        metadata, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if isinstance(ranges, dict) and "*" in ranges:
        ranges = dict.fromkeys(json.loads(metadata["ranges"]), ranges["*"])
    save_file(tensors, tmp_path / "forged.safetensors", metadata | {"ranges": json.dumps(ranges)})
    with pytest.raises(WeightsError, match=r"forged.safetensors does not describe a network"):
        restorer(weights=tmp_path / "forged.safetensors")


@pytest.mark.parametrize(
    "change",
    [{"channels": (16, 24, 24, 100_000)}, {"depths": (1, 1, 1, 100_000)}, {"depth_channels": -8}],
    ids=str,
)
def test_a_small_file_that_describes_a_huge_network_is_refused_before_it_is_built(
    restorer, tmp_path, monkeypatch, change
):
    network = random_network(TINY)
    network.preset = dataclasses.replace(TINY, **change)
    save_network(network, tmp_path / "forged.safetensors", {})
    monkeypatch.setattr(weights_module, "build_network", lambda preset: pytest.fail("it was built"))
    with pytest.raises(WeightsError, match="for which the file holds no weights"):
        restorer(weights=tmp_path / "forged.safetensors")


def test_one_large_tensor_does_not_let_a_small_file_describe_a_huge_network(restorer, tmp_path):
    huge = dataclasses.replace(TINY, channels=(16_000,) * 4, depths=(0, 0, 0, 1))
    metadata = {"preset": json.dumps(dataclasses.asdict(huge))}
    tensors = {"x": torch.zeros(16_000, 0)} | {str(n): torch.zeros(1) for n in range(20)}
    (tmp_path / "forged.safetensors").write_bytes(save(tensors, metadata))
    with pytest.raises(WeightsError, match="tensors are not those of its preset"):
        restorer(weights=tmp_path / "forged.safetensors")


@pytest.mark.parametrize("preset", [[], 5, "x", None])
def test_a_preset_that_is_no_description_is_refused(restorer, tmp_path, preset):
    content = save({"x": torch.zeros(1)}, {"preset": json.dumps(preset)})
    (tmp_path / "forged.safetensors").write_bytes(content)
    with pytest.raises(WeightsError, match="not a description"):
        restorer(weights=tmp_path / "forged.safetensors")


def test_networks_of_contents_that_were_read_once_need_no_file_any_more(folder, tmp_path):
    own, mask = tmp_path / "own.safetensors", tmp_path / "mask.safetensors"
    own.write_bytes((folder / "fast.safetensors").read_bytes())
    mask.write_bytes((folder / "segmentation.safetensors").read_bytes())
    settings = RuntimeSettings(weights=own, segmentation_weights=mask)
    before = Networks(settings).identity([Output.LABELS])
    settings = with_contents(settings, segmentation=True)
    own.write_bytes(b"replaced")
    mask.unlink()
    assert Networks(settings).identity([Output.LABELS]) == before


PACKAGE = Path(compiled.__file__).parents[1]
ENGINE_SOURCES = sorted(
    {f"network/{path.name}" for path in (PACKAGE / "network").glob("*.py")}
    | {"runtime/graph.py", *(f"runtime/{kind.source}" for kind in KINDS.values())}
)


def test_the_source_that_is_named_for_a_backend_is_its_own():
    sources = [PACKAGE / "runtime" / kind.source for kind in KINDS.values()]
    assert all(f'backend = "{name}"' in path.read_text() for name, path in zip(KINDS, sources, strict=True))


def test_changed_code_of_networks_or_backends_never_runs_an_old_engine(restorer, tmp_path, monkeypatch):
    for folder in ("network", "runtime"):
        shutil.copytree(PACKAGE / folder, tmp_path / folder)
    digests = [source_digest(tmp_path)]
    assert digests == [networks_module.graph_code()]
    for name in ENGINE_SOURCES:
        with open(tmp_path / name, "ab") as source:
            source.write(b"#")
        digests.append(source_digest(tmp_path))
    assert len(set(digests)) == len(digests) == 1 + len(ENGINE_SOURCES) > 10
    subject, keys = restorer(), set()
    for digest in digests:
        monkeypatch.setattr(networks_module, "_SOURCE_DIGEST", digest)
        keys.add(subject.key(64, 64, IMAGE).name)
    assert len(keys) == len(digests)


def test_a_build_process_of_other_code_than_that_of_who_asks_refuses(folder):
    networks = Networks(RuntimeSettings(weights=folder / "fast.safetensors"))
    files, options = networks.packed([Output.IMAGE])
    assert unpacked(files, **options).identity([Output.IMAGE]) == networks.identity([Output.IMAGE])
    with pytest.raises(BackendError, match="changed on disk since this process began; restart it"):
        unpacked(files, **options | {"code": "0" * 16})


def test_the_code_of_networks_that_others_brought_is_part_of_what_an_engine_depends_on(restorer, tmp_path):
    write_weights(tmp_path / "paper.safetensors", "paper")
    ours, theirs = restorer("torch-cpu"), restorer("torch-cpu", weights=tmp_path / "paper.safetensors")
    codes = [subject.networks.identity([Output.IMAGE])["graph_code"] for subject in (ours, theirs)]
    assert codes[1].startswith(codes[0]) and codes[1] != codes[0]


def test_a_weights_file_that_may_not_be_read_is_not_called_damaged(restorer, folder, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(WeightsError, match="cannot be read by this user"):
        restorer()


@pytest.mark.parametrize("name", ["x" * 300, "a\0b", "../../etc/cron.d/x", ""])
def test_a_preset_name_that_could_lead_elsewhere_is_refused(restorer, tmp_path, name):
    write_weights(tmp_path / "forged.safetensors", dataclasses.replace(TINY, name=name))
    with pytest.raises(WeightsError, match="names its preset"):
        restorer(weights=tmp_path / "forged.safetensors")
    assert "/" not in EngineKey({"preset": name, "size": name}).name
    assert len(EngineKey({"preset": name}).name) < 200


def test_missing_and_foreign_weights_are_named(folder, restorer, tmp_path):
    with pytest.raises(WeightsError, match=r"absent.* does not exist"):
        restorer(weights=tmp_path / "absent.safetensors")
    with pytest.raises(WeightsError, match="holds a segmentation network"):
        restorer(weights=folder / "segmentation.safetensors")
    with pytest.raises(WeightsError, match="not a segmentation network"):
        restorer(segmentation_weights=folder / "fast.safetensors")
    with pytest.raises(PresetError, match="unknown preset 'swift'"):
        restorer(preset="swift")


def test_a_closed_restorer_says_so(restorer):
    subject = restorer("torch-cpu")
    subject.close()
    with pytest.raises(BackendError, match="closed"):
        subject(street_like(64, 64))


class TimedFrame:
    """A graph that gives back what it gets, in the seconds that its restorer has for so many frames."""

    def __init__(self, restorer, frames):
        self.engine_key, self.closed = f"{frames} frames", False
        self._restorer, self._frames = restorer, frames

    def run(self, images):
        assert len(images) == self._frames and not self.closed
        self._restorer.now += self._restorer.seconds[self._frames]
        self._restorer.on_run(self._frames)
        return [(image.copy(),) for image in images]

    def close(self):
        self.closed = True


class TimedRestorer(CompilingRestorer):
    """What every backend shares, on a clock of its own: one frame takes 10 ms."""

    backend = "a test's"

    def __init__(self, **seconds):
        networks = SimpleNamespace(preset="fast", weights=Path("fast.safetensors"), weights_sha256="")
        super().__init__(networks, "a clock", "fp32", "a test")
        self.now, self.seconds = 0.0, {1: 0.01} | {int(n[1:]): s for n, s in seconds.items()}
        self.made: list[TimedFrame] = []
        self.rests: list[float] = []
        self.on_run = lambda frames: None

    def _compile(self, graph, on_progress, cancellation):
        self.made.append(TimedFrame(self, graph[-1]))
        return self.made[-1]

    def try_batch(self, frames, size=(64, 64), longest_s=1.0, gives_way=None):
        return self.prepare_batch(*size, IMAGE, frames, longest_s, gives_way=gives_way)


@pytest.fixture
def timed(monkeypatch):
    """Makes restorers whose calls take the seconds that are given for so many frames, as n4=0.03."""

    def make(**seconds):
        restorer = TimedRestorer(**seconds)
        clock = SimpleNamespace(perf_counter=lambda: restorer.now, sleep=restorer.rests.append)
        monkeypatch.setattr(compiled, "time", clock)
        restorer.prepare(64, 64, IMAGE)
        return restorer

    return make


def test_a_graph_is_being_loaded_while_it_runs_for_the_first_time_and_never_else(timed):
    subject, seen = timed(n4=0.024), []
    assert subject.loading_since is None
    subject.on_run = lambda frames: seen.append((frames, subject.loading_since is not None))
    subject.prepare(64, 128, IMAGE)
    subject(np.zeros((64, 128, 3), np.uint8), IMAGE)
    assert seen == [(1, True), (1, False)]
    seen.clear()
    subject.try_batch(4)
    loading = [frames for frames, whether in seen if whether]
    assert loading == [4] and len(seen) > 5
    subject.on_run = lambda frames: (_ for _ in ()).throw(RuntimeError("CUDA error 2"))
    with pytest.raises(RuntimeError):
        subject.prepare(64, 192, IMAGE)
    assert subject.loading_since is None
    assert subject.made[-1].closed, "what it holds of the device is given back"


def test_frames_go_together_where_that_pays(timed):
    subject = timed(n4=0.024)
    assert not subject.prepared_batches(64, 64, IMAGE)
    trial = subject.try_batch(4)
    assert (trial.frames, trial.pays) == (4, True)
    assert (trial.ratio, trial.call_s) == pytest.approx((0.6, 0.024))
    assert subject.prepared_batches(64, 64, IMAGE) == {4}
    assert not subject.prepared_batches(64, 65, IMAGE) and not subject.prepared_batches(64, 64, EVERYTHING)
    assert subject.prepared(64, 64) == {frozenset(IMAGE)}, "what serves one frame is told apart"
    images = [street_like(64, 64, seed) for seed in range(4)]
    restored = subject.restore_together(images, IMAGE, [None] * 4)
    assert all((given.image == image).all() for given, image in zip(restored, images, strict=True))


def test_a_batch_that_serves_is_tried_again_in_turn_with_frames_only(timed):
    subject, in_turn = timed(n4=0.024), []
    subject.try_batch(4)
    subject.on_run = lambda frames: in_turn.append(subject._running._lock.locked())
    assert subject.try_batch(4).pays
    assert len(in_turn) > 5 and all(in_turn)


@pytest.mark.parametrize(
    ("seconds", "ratio"),
    [
        ([0.024] * 9, 0.6),
        ([0.024, 0.024, 0.08, *[0.024] * 6], 0.6),
        ([0.08, 0.024, 0.08, *[0.032] * 6], 0.8),
        ([0.024, *[0.048] * 8], 1.2),
        ([0.048] * 9, 1.2),
    ],
    ids=str,
)
def test_a_trial_goes_on_while_its_turns_disagree_and_leaves_most_of_the_time_to_frames(
    timed, seconds, ratio
):
    subject = timed(n4=0.024)
    turns = []

    def on_run(frames):
        if frames == 4:
            subject.seconds[4] = seconds[len(turns)] if len(turns) < len(seconds) else 0.0
            turns.append(subject.seconds[4])

    subject.on_run = on_run
    assert subject.try_batch(4).ratio == pytest.approx(ratio)
    assert len(subject.rests) == (3 if len(set(seconds)) == 1 else 9)
    assert subject.rests[0] == pytest.approx(3 * (0.04 + seconds[0]))


@pytest.mark.parametrize("seconds", [0.0251, 0.04, 0.2])
def test_what_does_not_pay_gives_its_memory_back(timed, seconds):
    subject = timed(n4=seconds)
    trial = subject.try_batch(4)
    assert not trial.pays and trial.ratio == pytest.approx(seconds / 0.04)
    assert not subject.prepared_batches(64, 64, IMAGE)
    assert [frame.closed for frame in subject.made] == [False, True]
    with pytest.raises(NotPreparedError, match="4 x 64x64 image"):
        subject.restore_together([street_like(64, 64)] * 4, IMAGE, [None] * 4)


def test_what_would_hold_up_other_frames_for_too_long_is_not_even_compiled(timed):
    subject = timed(n8=0.01)
    trial = subject.try_batch(8, longest_s=0.07)
    assert not trial.pays and len(subject.made) == 1


def test_a_trial_needs_the_graph_of_one_frame_and_room(timed):
    subject = timed(n2=0.01)
    with pytest.raises(NotPreparedError, match="no graph of one frame"):
        subject.try_batch(2, size=(64, 65))
    subject.graphs_in_memory = 1
    with pytest.raises(NotPreparedError, match="no room for 2 x 64x64 image"):
        subject.try_batch(2)
    assert len(subject.made) == 1 and subject.prepared(64, 64)


def test_a_batch_gives_way_before_anything_else_and_keeps_the_graph_beside_it_in_use(timed):
    subject = timed(n2=0.01)
    subject.graphs_in_memory = 3
    subject.try_batch(2)
    subject.prepare(64, 65, IMAGE)
    subject.restore_together([street_like(64, 64)] * 2, IMAGE, [None] * 2)
    subject.prepare(64, 66, IMAGE)
    assert not subject.prepared_batches(64, 64, IMAGE)
    assert subject.info.input_sizes == ((64, 65), (64, 64), (64, 66))
    subject.prepare(64, 67, IMAGE)
    assert subject.info.input_sizes == ((64, 64), (64, 66), (64, 67)), "64x64 was used after 65x64"


@pytest.mark.parametrize("call", range(1, 2 + 2 * 5, 3))
def test_a_trial_holds_up_a_frame_for_one_call_and_no_longer(timed, call):
    subject = timed(n4=0.024)
    frame = threading.Thread(target=lambda: subject(street_like(64, 64), IMAGE, prepared_only=True))
    calls = []

    def on_run(frames):
        calls.append(threading.current_thread())
        if len(calls) == call:
            frame.start()
            while not subject._running._turn.locked():  # until it waits
                threading.Event().wait(0.001)

    subject.on_run = on_run
    subject.try_batch(4)
    frame.join()
    assert calls.index(frame) == call


@pytest.mark.parametrize("call", [1, 3, 9])
@pytest.mark.parametrize("happening", ["fails", "is closed"])
def test_a_trial_that_ends_early_leaves_nothing_in_memory(timed, happening, call):
    subject = timed(n4=0.024)
    calls = []

    def on_run(frames):
        calls.append(frames)
        if len(calls) == call:
            if happening == "fails":
                raise RuntimeError("no memory")
            subject.cancel_builds()

    subject.on_run = on_run
    with pytest.raises(RuntimeError if happening == "fails" else BackendError, match=r"memory|cancelled"):
        subject.try_batch(4)
    assert len(calls) == call
    assert not subject.prepared_batches(64, 64, IMAGE)
    assert all(frame.closed for frame in subject.made[1:])
    subject.close()


@pytest.mark.parametrize("turn", [1, 3, 9])
@pytest.mark.parametrize("before", [False, True])
def test_a_trial_gives_way_and_only_what_was_there_before_stays(timed, before, turn):
    subject = timed(n4=0.024)
    if before:
        subject.try_batch(4)
    asked = itertools.count(1)
    with pytest.raises(NotPreparedError, match="more urgent"):
        subject.try_batch(4, gives_way=lambda: next(asked) == turn)
    assert subject.prepared_batches(64, 64, IMAGE) == ({4} if before else set())
    assert all(frame.closed is not before for frame in subject.made[1:])
    assert subject.try_batch(4).pays


def test_what_pays_no_more_when_it_is_tried_again_gives_its_memory_back(timed):
    subject = timed(n4=0.024)
    subject.try_batch(4)
    subject.seconds[4] = 0.05
    assert not subject.try_batch(4).pays
    assert not subject.prepared_batches(64, 64, IMAGE)
    assert len(subject.made) == 2 and subject.made[1].closed


def test_images_that_cannot_go_together_are_refused(timed):
    subject = timed(n2=0.01)
    subject.try_batch(2)
    good = street_like(64, 64)
    for images in ([good, street_like(64, 65)], [good, good[..., :1]], [good, good.astype(float)], []):
        with pytest.raises(ImageError, match="image"):
            subject.restore_together(images, IMAGE, [None] * len(images))
    assert len(subject.restore_together([good, good], IMAGE, [None, None])) == 2


BATCHED = [("torch-cpu", "fp32"), *(("openvino", precision) for precision in native_precisions())]


@pytest.mark.parametrize(("backend", "precision"), BATCHED)
@pytest.mark.parametrize("size", [(96, 160), (65, 127)])
def test_frames_together_give_what_each_gives_alone(
    restorer, calibrated, monkeypatch, backend, precision, size
):
    monkeypatch.setattr(BatchTrial, "pays", True)
    subject = restorer(backend, precision, weights=calibrated)
    images = [street_like(*size, seed) for seed in range(3)]
    images[1] = np.ascontiguousarray(images[1][:, :, ::-1])[:, :, ::-1]  # not packed
    focal_px = [None, 80.0, 200.0]
    alone = [subject(image, EVERYTHING, focal) for image, focal in zip(images, focal_px, strict=True)]
    assert subject.prepare_batch(*size, EVERYTHING, 3, 60.0).pays
    together = subject.restore_together(images, EVERYTHING, focal_px)
    again = subject.restore_together(images[::-1], EVERYTHING, focal_px[::-1])[::-1]
    assert len(subject.info.engine_keys) == 2 and subject.info.input_sizes == (size,)
    for given in (together, again):
        for one, other in zip(alone, given, strict=True):
            check_restored(other, size, EVERYTHING)
            assert np.abs(one.image.astype(int) - other.image).max() <= 1
            np.testing.assert_allclose(one.inverse_depth, other.inverse_depth, rtol=1e-2, atol=1e-4)
            assert (one.labels == other.labels).mean() > 0.99
            for number in ("rain_gate", "streak_light", "extinction"):
                assert getattr(other, number) == pytest.approx(getattr(one, number), rel=1e-2, abs=1e-4)
    with pytest.raises(ImageError, match="focal length of -1"):
        subject.restore_together(images, EVERYTHING, [None, -1.0, None])


def test_engines_of_several_frames_are_cached_beside_those_of_one_whose_keys_stay(
    restorer, monkeypatch, tmp_path
):
    monkeypatch.setattr(BatchTrial, "pays", True)
    said = []
    for _ in range(2):
        subject = restorer(cache_dir=tmp_path)
        subject.prepare(64, 96, IMAGE)
        subject.prepare_batch(64, 96, IMAGE, 2, 60.0, on_progress=said.append)
    assert "frames" not in subject.key(64, 96, IMAGE).fields
    assert subject.key(64, 96, IMAGE, 2).fields["frames"] == "2"
    assert said[0].startswith("2 x 96x64 image for openvino")
    assert [line for line in said if "in all" in line][1].count("loaded from the cache")
    assert len(list(tmp_path.glob("*.engine"))) == 2
