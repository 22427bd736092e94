"""The benchmark and build commands: what they write, and that one failure leaves the rest standing."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
import torch
from runtime_fixtures import write_weights

from rain_removal_ros.commands.main import main
from rain_removal_ros.errors import BackendError
from rain_removal_ros.lab.benchmark import gpu as gpu_benchmark
from rain_removal_ros.lab.benchmark.benchmark import (
    Failure,
    Quantiles,
    benchmark_inference,
    inference_table,
    isolated,
    precisions_of,
    resident_mib,
)
from rain_removal_ros.lab.benchmark.gpu import (
    EngineReuse,
    GpuRow,
    benchmark_gpu,
    gpu_table,
    too_far_from_float32,
)
from rain_removal_ros.network import load_network, save_network
from rain_removal_ros.network.quantisation import calibrate
from rain_removal_ros.runtime import RuntimeSettings
from rain_removal_ros.runtime import openvino as openvino_backend
from rain_removal_ros.runtime.device_frames import DeviceTimes
from rain_removal_ros.runtime.pytorch import CPU_PRECISIONS
from rain_removal_ros.tables import markdown


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return str(write_weights(tmp_path_factory.mktemp("weights") / "fast.safetensors"))


def squeezed(text: str) -> str:
    """With one space where there are several."""
    return re.sub(" +", " ", text)


def test_the_benchmark_prints_a_table_and_writes_json(weights, tmp_path, capsys):
    path = tmp_path / "new" / "figures.json"
    command = f"benchmark --weights {weights} --sizes 96x64 --frames 5 --memory-frames 20 --backend torch-cpu"
    status = main([*command.split(), "--json", str(path)])
    assert status == 0
    printed = capsys.readouterr().out
    assert "| fast | 96x64 | torch-cpu | fp32 " in squeezed(printed)
    assert "memory over 20 frames of 96x64" in printed
    results = json.loads(path.read_text())
    (row,) = results["inference"]
    assert row["milliseconds"]["median"] <= row["milliseconds"]["p95"] <= row["milliseconds"]["p99"]
    assert row["peak_memory_mib"] > 50
    assert results["machine"]["cores"] == len(os.sched_getaffinity(0))
    assert "torch" in results["versions"]


def test_a_configuration_that_fails_is_reported_and_the_others_are_measured(weights, capsys):
    settings = RuntimeSettings(backend="torch-cpu", weights=Path(weights))
    rows = benchmark_inference(settings, ["fast"], [(64, 64)], ["fp16", "fp32"], 1, say=lambda what: None)
    printed = inference_table(rows)
    assert "| torch-cpu | fp32 " in squeezed(printed)
    assert "not measured: fast 64x64 torch-cpu fp16: backend torch-cpu cannot run" in printed
    command = f"benchmark --weights {weights} --sizes 64x64 --frames 1 --backend torch-cpu"
    assert main([*command.split(), "--precision", "fp16"]) == 1
    assert main([*command.split(), "--every-precision"]) == 0
    printed = squeezed(capsys.readouterr().out)
    assert all(f"| torch-cpu | {precision} " in printed for precision in CPU_PRECISIONS)


def test_every_precision_is_what_the_cpu_has_and_the_weights_can_do(weights, monkeypatch):
    monkeypatch.setattr(openvino_backend, "cpu_capabilities", lambda: ["FP32", "BF16"])
    monkeypatch.setattr(openvino_backend, "cpu_flags", lambda: "avx512_vnni")
    settings, weights = RuntimeSettings(backend="openvino"), Path(weights)
    assert precisions_of(settings, weights) == ("bf16", "fp32")
    network = load_network(weights)[0]
    network.input_ranges = calibrate(network, [torch.rand(1, 3, 64, 64)])
    save_network(network, weights.with_name("calibrated.safetensors"), {})
    assert precisions_of(settings, weights.with_name("calibrated.safetensors")) == ("int8", "bf16", "fp32")


def test_batches_are_timed_side_by_side(weights, tmp_path, capsys):
    path = tmp_path / "figures.json"
    command = f"benchmark --weights {weights} --sizes 96x64 --frames 2 --precision fp32 --batches 1 2"
    assert main([*command.split(), "--json", str(path)]) == 0
    printed = squeezed(capsys.readouterr().out)
    assert "| fast | 96x64 | fp32 | 1 |" in printed and "| fast | 96x64 | fp32 | 2 |" in printed
    assert [row["frames"] for row in json.loads(path.read_text())["batches"]] == [1, 2]


def fail() -> None:
    raise BackendError("no such device")


def die() -> None:
    os._exit(3)


def test_a_process_that_raises_dies_or_hangs_is_a_failure():
    assert isolated("it", fail) == Failure("it", "no such device")
    assert isolated("it", die) == Failure("it", "its process died with exit status 3")
    assert "longer than 0 s" in isolated("it", fail, timeout=0).error
    assert isolated("it", int, "7") == 7


def test_quantiles_are_those_of_numpy():
    values = list(range(1, 101))
    assert Quantiles.of(values) == Quantiles(50.5, round(float(np.percentile(values, 95)), 3), 99.01)


def test_resident_memory_grows_with_what_is_held():
    before = resident_mib()
    held = np.ones((64, 1 << 20), np.uint8)
    assert resident_mib() - before > 50
    assert held.any()


def test_a_markdown_table_is_aligned_unless_it_is_to_be_compact():
    rows = [(1, 22222), ("abc", 3)]
    header, rule, *lines = markdown(("a", "long"), rows).splitlines()
    assert len({len(line) for line in (header, rule, *lines)}) == 1
    assert [line.index("|", 1) for line in (header, rule, *lines)] == [header.index("|", 1)] * 4
    compact = markdown(("a", "long"), rows, figures=True, compact=True)
    assert compact.splitlines()[0] == "| a | long |" and squeezed(compact) == compact
    assert ":|" in compact.splitlines()[1]
    assert "| a" in markdown(("a", "b"), [])


@pytest.mark.parametrize(
    ("instead", "options"),
    [
        (
            "--backend tensorrt",
            ["--node", "--every-precision", "--memory-frames 9", "--weights w", "--batches 2", "--load 2"],
        ),
        ("--batches 2", ["--node", "--every-precision", "--memory-frames 9", "--load 2", "--soak 9"]),
        ("--load 2", ["--node", "--every-precision", "--memory-frames 9", "--presets paper"]),
        ("--soak 9", ["--presets paper"]),
    ],
    ids=["gpu", "batches", "load", "soak"],
)
def test_what_is_measured_instead_refuses_options_that_it_would_ignore(instead, options, capsys):
    for option in options:
        assert main(["benchmark", *instead.split(), *option.split()]) == 1
        assert f"{option.split()[0]} is not part of" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["--every-precision --precision bf16", "--presets fast --weights w"])
def test_two_options_that_say_the_same_are_refused(command, capsys):
    assert main(["benchmark", *command.split()]) == 1
    assert "both say what is measured" in capsys.readouterr().err


class CpuFrames:
    """What DeviceFrames does, on the CPU."""

    def __init__(self, function, height, width, device, engine_key, batch, cuda_graph):
        self.function = function

    def run_batch(self, images):
        with torch.inference_mode():
            return tuple(output.numpy() for output in self.function(torch.from_numpy(images)))

    def times(self):
        return DeviceTimes(0.25, 1.0, 0.5, 1.75)


def test_a_row_of_the_gpu_table_compares_half_precision_with_float32_image_for_image(weights, monkeypatch):
    pretended = SimpleNamespace(
        device=lambda *name: torch.device("cpu"),
        backends=mock.MagicMock(),
        inference_mode=torch.inference_mode,
        from_numpy=torch.from_numpy,
    )
    monkeypatch.setattr(gpu_benchmark, "torch", pretended)
    monkeypatch.setattr(gpu_benchmark, "DeviceFrames", CpuFrames)
    row = gpu_benchmark.measure_row("eager", Path(weights), "given", 64, 96, 2, 0, calls=2)
    assert (row.batch, row.size, row.total.median) == (2, "96x64", 1.75)
    assert row.psnr_db > gpu_benchmark.MIN_PSNR
    assert 0 < row.inverse_depth_error < 0.05


def gpu_row(runner: str, psnr_db: float) -> GpuRow:
    ms = Quantiles(1.0, 1.1, 1.2)
    return GpuRow(
        "fast", "packaged", runner, "1024x512", 1, 2.0, ms, ms, ms, ms, ms, psnr_db, inverse_depth_error=0.001
    )


def test_the_gpu_table_shows_rows_reuse_and_failures():
    reuse = EngineReuse("fast", "1024x512", 20.0, 0.5, 1 << 20, True, True, "fp16", {})
    rows = [gpu_row("engine", 55.0), reuse, Failure("engine paper", "Traceback\nout of memory")]
    text = gpu_table(rows)
    assert "| fast | 1024x512 | 1 | engine | 1.00 " in squeezed(text)
    assert "built in 20.0 s, loaded again in 0.5 s" in text
    assert "not measured: engine paper: out of memory" in text


def test_an_engine_below_50_db_is_found():
    bad = gpu_row("engine + CUDA graph", 49.9)
    assert too_far_from_float32([gpu_row("eager", 40.0), gpu_row("engine", 50.1), bad]) == [bad]


def test_the_gpu_table_keeps_what_it_has_and_stops_when_its_time_is_up(monkeypatch):
    measured, kept = [], []

    def pretend(what, function, *arguments, timeout):
        measured.append(what)
        return gpu_row("engine", 55.0)

    monkeypatch.setattr(gpu_benchmark, "isolated", pretend)
    rows = benchmark_gpu(0, lambda what: None, lambda rows: kept.append(len(rows)), presets=["fast"])
    assert len(measured) == 1 + 4 * len(gpu_benchmark.RUNNERS)
    assert measured[0] == "engine reuse fast 1024x512"
    assert "torch.compile" in measured[-1]
    assert kept[0] == 1
    assert kept[-1] == len(rows)
    late = benchmark_gpu(0, lambda what: None, lambda rows: None, presets=["fast"], budget_seconds=1)
    assert all(isinstance(row, Failure) and "used up" in row.error for row in late)


def test_build_builds_lists_verifies_and_clears(weights, tmp_path, capsys):
    def build(*arguments):
        status = main(["build", "--cache-dir", str(tmp_path), *arguments])
        printed = capsys.readouterr()
        return status, printed.out + printed.err

    status, said = build("--weights", weights, "--backend", "openvino", "--outputs", "image", "--", "96x64")
    assert status == 0
    assert "built" in said
    assert build("--list")[1].startswith("openvino fast 96x64 image ")
    assert build("--verify")[0] == 0
    (blob,) = tmp_path.glob("*.engine")
    blob.write_bytes(blob.read_bytes()[:100])
    status, said = build("--verify")
    assert status == 1
    assert "100 bytes instead of" in said
    assert "1 engines removed" in build("--clear")[1]
    assert build("--list")[1].startswith("0 engines")
    assert "give the image sizes" in build("--weights", weights)[1]
    assert "nothing to build ahead" in build("--weights", weights, "--backend", "torch-cpu", "64x64")[1]
