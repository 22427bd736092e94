"""The TensorRT backend without a GPU: a compiler that needs none, behind the seam of the real one."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Sequence
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
import torch
from runtime_fixtures import TINY, street_like, write_weights
from waiting import PATIENCE

from rain_removal_ros.errors import BackendError
from rain_removal_ros.runtime import BatchTrial, Output, RuntimeSettings, create_restorer
from rain_removal_ros.runtime import tensorrt as tensorrt_backend
from rain_removal_ros.runtime.cache import EngineCache
from rain_removal_ros.runtime.device_frames import STREAMS_OF_A_DEVICE, Streams
from rain_removal_ros.runtime.engines import EngineError
from rain_removal_ros.runtime.graph import LevelsGraph
from rain_removal_ros.runtime.networks import Networks
from rain_removal_ros.runtime.progress import reporting
from rain_removal_ros.runtime.selection import Backend, choose
from rain_removal_ros.runtime.tensorrt import (
    TensorRTEngine,
    TensorRTRestorer,
    build_options,
    engine_obstacle,
    export,
)

IMAGE = (Output.IMAGE,)


class FakeFrame:
    def __init__(self, plan: bytes, graph: LevelsGraph, engine_key: str):
        self.engine_key = engine_key
        self._graph = graph

    def run(self, images: Sequence[np.ndarray]) -> list[tuple[np.ndarray, ...]]:
        return [
            tuple(
                {
                    Output.IMAGE: image.copy(),
                    Output.INVERSE_DEPTH: np.ones(image.shape[:2], np.float32),
                    Output.LABELS: np.zeros(image.shape[:2], np.uint8),
                }[output]
                for output in self._graph.outputs
            )
            for image in images
        ]

    def close(self) -> None:
        self._graph = None


class FakeCompiler:
    """Builds plans that say what they are of; can be told to fail."""

    device_name = "a GPU"

    def __init__(self, **versions: str):
        self._versions = {
            "torch": "2.11.0",
            "torch_tensorrt": "2.11.0",
            "tensorrt": "tensorrt 10.15.1",
            "cuda": "13.0",
            "device": self.device_name,
            "compute_capability": "9.0",
        } | versions
        self.built = 0
        self.shapes: list[tuple[int, ...]] = []
        self.failure: Exception | None = None

    def versions(self) -> dict[str, str]:
        return self._versions

    def build(self, graph: LevelsGraph, levels: torch.Tensor) -> bytes:
        if self.failure is not None:
            raise self.failure
        assert levels.dtype == torch.float16
        assert {parameter.dtype for parameter in graph.parameters()} == {torch.float16}
        self.built += 1
        self.shapes.append(tuple(levels.shape))
        return f"plan of {tuple(levels.shape)} on {self._versions['tensorrt']}".encode()

    def load(self, plan: bytes, graph: LevelsGraph, engine_key: str, frames: int = 1) -> FakeFrame:
        if not plan.startswith(b"plan of"):
            raise EngineError("it is no plan")
        if self._versions["tensorrt"].encode() not in plan:
            raise EngineError("it is another TensorRT's plan")
        assert plan.startswith(f"plan of ({frames}, ".encode())
        return FakeFrame(plan, graph, engine_key)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return write_weights(tmp_path_factory.mktemp("weights") / "fast.safetensors")


@pytest.fixture
def start(weights, tmp_path):
    """Starts the backend anew, as a new process would, on the same cache folder."""

    def make(compiler=None, weights=weights, said=None, **settings):
        networks = Networks(RuntimeSettings(weights=weights))
        say = (said if said is not None else []).append
        cache = EngineCache(settings.get("folder", tmp_path / "cache"), 1 << 20, say)
        return TensorRTRestorer(networks, cache, compiler or FakeCompiler(), "a test", say)

    return make


def test_an_engine_is_built_once_and_found_after_a_restart(start):
    first, second = FakeCompiler(), FakeCompiler()
    key = []
    for compiler in (first, second):
        restorer = start(compiler)
        restorer.prepare(64, 96, IMAGE)
        key.append(restorer.info.engine_keys)
    assert (first.built, second.built) == (1, 0)
    assert key[0] == key[1]
    assert restorer.info.precision == "fp16"


@pytest.mark.parametrize(
    "change",
    [
        {"torch": "2.12.0"},
        {"torch_tensorrt": "2.12.0"},
        {"tensorrt": "tensorrt_rtx 1.4.0"},
        {"cuda": "12.8"},
        {"device": "another GPU"},
        {"compute_capability": "8.7"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_another_version_or_device_builds_anew(start, change):
    start().prepare(64, 96, IMAGE)
    compiler = FakeCompiler(**change)
    start(compiler).prepare(64, 96, IMAGE)
    assert compiler.built == 1


def test_other_weights_size_and_outputs_build_anew(start, tmp_path):
    compiler = FakeCompiler()
    restorer = start(compiler)
    restorer.prepare(64, 96, IMAGE)
    restorer.prepare(96, 64, IMAGE)
    restorer.prepare(64, 96, [Output.INVERSE_DEPTH])
    other = write_weights(tmp_path / "fast.safetensors", TINY, seed=1)
    start(compiler, weights=other).prepare(64, 96, IMAGE)
    assert compiler.built == 4


def test_a_plan_that_hangs_as_it_is_loaded_does_not_keep_it_from_the_runtime_that_takes_its_place(start):
    stuck, hangs, gate = FakeCompiler(), threading.Event(), threading.Event()

    def hang(*arguments):
        hangs.set()
        assert gate.wait(PATIENCE)
        raise BackendError("it came back after all")

    stuck.load = hang

    def prepare() -> None:
        with pytest.raises(BackendError, match="after all"):
            start(stuck).prepare(64, 96, IMAGE)

    thread = threading.Thread(target=prepare)
    thread.start()
    assert hangs.wait(PATIENCE)
    after, compiler = [], FakeCompiler()
    other = threading.Thread(target=lambda: after.append(start(compiler).prepare(64, 96, IMAGE)), daemon=True)
    other.start()
    other.join(PATIENCE)
    gate.set()
    thread.join(PATIENCE)
    assert after and compiler.built == 0, "what was built is there for all"


def test_engines_that_are_there_need_no_temporary_folder(monkeypatch):
    def refuse(*arguments, **options):
        raise FileNotFoundError("No usable temporary directory found")

    tensorrt = SimpleNamespace(Logger=mock.Mock(), __version__="10")
    monkeypatch.setattr(tensorrt_backend, "load_torch_tensorrt", lambda: SimpleNamespace(__version__="2.11"))
    monkeypatch.setattr(tensorrt_backend.importlib, "import_module", lambda name: tensorrt)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")
    monkeypatch.setattr(tensorrt_backend.tempfile, "TemporaryDirectory", refuse)
    assert tensorrt_backend.TorchTensorRTCompiler(0).device_name == "a GPU"


def test_a_plan_that_tensorrt_refuses_is_built_again_with_the_reason(start):
    restorer = start()
    restorer.prepare(64, 96, IMAGE)
    cache, key = restorer._cache, restorer.key(64, 96, IMAGE)
    cache.store(key, lambda path: path.write_bytes(b"something else"))
    said, compiler = [], FakeCompiler()
    start(compiler, said=said).prepare(64, 96, IMAGE)
    assert compiler.built == 1
    assert any("it is no plan; building it again" in line for line in said)


def test_a_good_plan_is_kept_where_the_gpu_has_no_room_for_it(start, monkeypatch):
    start().prepare(64, 96, IMAGE)
    tensorrt = mock.MagicMock(__version__="10.15.1")
    engine = tensorrt.Runtime.return_value.deserialize_cuda_engine.return_value
    engine.create_execution_context.return_value = None

    def load_on_a_full_gpu(plan, *_):
        return TensorRTEngine(tensorrt, logger=None, plan=plan, device=torch.device("cpu"))

    compiler = FakeCompiler()
    monkeypatch.setattr(compiler, "load", load_on_a_full_gpu)
    with pytest.raises(BackendError, match="free some of the GPU's memory"):
        start(compiler).prepare(64, 96, IMAGE)
    monkeypatch.undo()
    start(compiler).prepare(64, 96, IMAGE)
    assert compiler.built == 0  # the plan was still there


@pytest.mark.parametrize(("free", "kept"), [(1 << 20, True), (1 << 30, False)])
def test_a_plan_that_tensorrt_does_not_load_is_bad_only_where_there_was_room_for_it(monkeypatch, free, kept):
    tensorrt = mock.MagicMock(__version__="10.15.1")
    tensorrt.Runtime.return_value.deserialize_cuda_engine.return_value = None
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 8 << 30))
    with pytest.raises(BackendError if kept else EngineError, match="free on the GPU" if kept else "load it"):
        TensorRTEngine(tensorrt, logger=None, plan=bytes(1 << 20), device=torch.device("cpu"))


def test_no_stream_is_handed_out_that_is_in_use(monkeypatch):
    handles = itertools.cycle(range(STREAMS_OF_A_DEVICE))  # as PyTorch does
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: mock.Mock(cuda_stream=next(handles)))
    streams, device = Streams(), torch.device("cuda")
    taken = [streams.take(device) for _ in range(STREAMS_OF_A_DEVICE)]
    assert len({stream.cuda_stream for stream in taken}) == STREAMS_OF_A_DEVICE
    with pytest.raises(BackendError, match="lower graphs_in_memory"):
        streams.take(device)
    streams.give_back(taken[7])
    assert streams.take(device).cuda_stream == 7


def test_an_unwritable_cache_keeps_the_engine_in_memory(start, tmp_path):
    (tmp_path / "file").write_text("in the way")
    said, compiler = [], FakeCompiler()
    restorer = start(compiler, said=said, folder=tmp_path / "file" / "cache")
    for height in (64, 96, 64):
        restorer.prepare(height, 96, IMAGE)
    assert compiler.built == 2
    assert sum("cannot be written" in line for line in said) == 1
    assert restorer(street_like(64, 96), IMAGE).image is not None


def test_frames_that_go_together_have_a_plan_of_their_own(start, monkeypatch):
    monkeypatch.setattr(BatchTrial, "pays", True)
    compiler = FakeCompiler()
    for _ in range(2):
        restorer = start(compiler)
        restorer.prepare(64, 96, IMAGE)
        assert restorer.prepare_batch(64, 96, IMAGE, 4, longest_s=60.0).frames == 4
    assert compiler.shapes == [(1, 3, 64, 96), (4, 3, 64, 96)], "and are found after a restart"
    images = [street_like(64, 96, seed) for seed in range(4)]
    together = restorer.restore_together(images, IMAGE, [None] * 4)
    assert all((given.image == image).all() for given, image in zip(together, images, strict=True))


def test_two_threads_that_want_one_engine_build_it_once(start):
    compiler = FakeCompiler()
    restorers = [start(compiler), start(compiler)]
    threads = [threading.Thread(target=each.prepare, args=(64, 96, IMAGE)) for each in restorers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert compiler.built == 1


def test_a_build_tells_what_it_does(start):
    said = []
    start().prepare(64, 96, IMAGE, said.append)
    assert said[0] == "96x64 image for tensorrt fp16 on a GPU: starting"
    assert "built" in said[-1]


def test_progress_comes_again_and_again_with_the_elapsed_time():
    said, third = [], threading.Event()

    def listen(line):
        said.append(line)
        if len(said) == 3:
            third.set()

    with reporting("building", listen, interval_seconds=0.01) as stage:
        stage.text = "compiling"
        assert third.wait(30)
    assert said[0] == "building: starting"
    assert said[1] == "building: compiling, 0 s"


def test_progress_says_that_a_build_failed():
    said = []
    with pytest.raises(ZeroDivisionError), reporting("building", said.append):
        1 / 0  # noqa: B018
    assert "failed (ZeroDivisionError)" in said[-1]


def test_a_build_that_fails_is_an_error_and_can_be_tried_again(start):
    compiler = FakeCompiler()
    compiler.failure = BackendError("out of memory")
    restorer = start(compiler)
    with pytest.raises(BackendError, match="out of memory"):
        restorer.prepare(64, 96, IMAGE)
    compiler.failure = None
    restorer.prepare(64, 96, IMAGE)
    assert compiler.built == 1


def backend(name: str, obstacle: str | None) -> Backend:
    return Backend(name, lambda settings: obstacle, lambda *arguments: name)


ALL = ("tensorrt", "torch-cuda", "openvino", "torch-cpu")


@pytest.mark.parametrize("first", range(4))
def test_auto_takes_the_best_that_runs_and_says_why_not_the_better_ones(first):
    backends = tuple(backend(name, f"no {name} here" if n < first else None) for n, name in enumerate(ALL))
    chosen, reason = choose(RuntimeSettings(), backends)
    assert chosen.name == ALL[first]
    for name in ALL[:first]:
        assert f"not {name}: no {name} here" in reason


def test_a_named_backend_that_cannot_run_is_an_error_with_the_remedy():
    backends = tuple(backend(name, "install it") for name in ALL)
    with pytest.raises(BackendError, match="backend tensorrt cannot run: install it"):
        choose(RuntimeSettings(backend="tensorrt"), backends)
    with pytest.raises(BackendError, match=r"no backend can run: .*torch-cpu"):
        choose(RuntimeSettings(), backends)
    with pytest.raises(BackendError, match="unknown backend 'cuda'; choose auto, tensorrt"):
        choose(RuntimeSettings(backend="cuda"), backends)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"backend": "torch-cpu", "precision": "int8"}, "does not run in precision int8"),
        ({"backend": "torch-cpu", "precision": "fp16"}, "does not run in precision fp16"),
        ({"backend": "tensorrt", "precision": "fp32"}, "choose fp16 or auto"),
    ],
)
def test_settings_that_cannot_be_are_refused_with_what_can(weights, settings, message):
    with pytest.raises(BackendError, match=message):
        create_restorer(RuntimeSettings(weights=weights, **settings))


def test_on_a_machine_without_a_gpu_auto_explains_itself(weights, monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", None)
    restorer = create_restorer(RuntimeSettings(weights=weights))
    assert restorer.info.backend == "openvino"
    assert "not tensorrt: this PyTorch" in restorer.info.reason
    assert "not torch-cuda: this PyTorch" in restorer.info.reason
    restorer.close()


@pytest.mark.parametrize(
    ("plan", "engine", "obstacle"),
    [
        ("a plan", "an engine", None),
        (None, None, "cannot build and load an engine on this GPU; see its messages"),
        ("a plan", None, "cannot build and load an engine on this GPU; see its messages"),
        ("a plan", RuntimeError("no kernel image"), "on this GPU (no kernel image)"),
    ],
    ids=["works", "cannot build", "cannot load", "raises"],
)
def test_a_tensorrt_that_cannot_build_and_load_an_engine_here_is_an_obstacle(plan, engine, obstacle):
    tensorrt = mock.MagicMock(__name__="tensorrt", __version__="10.15.1", _package_name="tensorrt_rtx")
    tensorrt.NetworkDefinitionCreationFlag.STRONGLY_TYPED = 1
    tensorrt.Builder.return_value.build_serialized_network.return_value = plan
    tensorrt.Runtime.return_value.deserialize_cuda_engine.side_effect = [engine]
    said = engine_obstacle(tensorrt)
    if obstacle is None:
        assert said is None
    else:
        assert said.startswith("tensorrt_rtx 10.15.1 ") and obstacle in said


def test_strong_typing_is_asked_for_wherever_the_option_exists():
    def with_option(program, use_explicit_typing=False):
        return b""

    def without(program, **options):
        return b""

    assert build_options(with_option, "2.8.0") == {"use_explicit_typing": True}
    assert build_options(without, "2.13.0+cu130") == {}
    assert build_options(without, "2.14.0.dev1") == {}
    with pytest.raises(BackendError, match="FP16 is uncertain"):
        build_options(without, "2.7.1")


def test_a_graph_with_float32_weights_is_not_taken_for_fp16(weights):
    networks = Networks(RuntimeSettings(weights=weights))
    graph = LevelsGraph(networks.derain, None, 64, 64, IMAGE)
    with pytest.raises(BackendError, match="not half precision"):
        export(graph, torch.zeros(1, 3, 64, 64))
