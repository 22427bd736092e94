"""The benchmark and build commands: what they write, and that one failure leaves the rest standing."""

from __future__ import annotations

import importlib.util
import json
import mmap
import os
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
import torch
from runtime_fixtures import write_weights
from waiting import eventually

from rain_removal_ros.commands.main import main
from rain_removal_ros.errors import RainRemovalError
from rain_removal_ros.lab.benchmark import gpu as gpu_benchmark
from rain_removal_ros.lab.benchmark import inference, machine
from rain_removal_ros.lab.benchmark import load as load_benchmark
from rain_removal_ros.lab.benchmark import node as node_benchmark
from rain_removal_ros.lab.benchmark.gpu import (
    EngineReuse,
    GpuRow,
    benchmark_gpu,
    gpu_table,
    too_far_from_float32,
)
from rain_removal_ros.lab.benchmark.inference import benchmark_inference, inference_table, precisions_of
from rain_removal_ros.lab.benchmark.load import Ledger, LoadRow, load_table, soak_lines, sweep
from rain_removal_ros.lab.benchmark.measuring import Failure, Quantiles, failure_lines, isolated, rate_of
from rain_removal_ros.lab.benchmark.node import NodeRun, benchmark_node, node_lines, saturating_rate
from rain_removal_ros.lab.benchmark.process_figures import peak_resident_mib, resident_mib, sampled_memory
from rain_removal_ros.network import load_network, save_network
from rain_removal_ros.network.quantisation import calibrate
from rain_removal_ros.ros import process as node_process
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


def in_this_process(what, function, *arguments, timeout=0):
    """What `isolated` gives, without the seconds that another process takes to begin."""
    try:
        return function(*arguments)
    except RainRemovalError as error:
        return Failure(what, str(error))


def test_a_configuration_that_fails_is_reported_and_the_others_are_measured(weights, capsys, monkeypatch):
    settings = RuntimeSettings(backend="torch-cpu", weights=Path(weights))
    rows = benchmark_inference(settings, ["fast"], [(64, 64)], ["fp16", "fp32"], 1, say=lambda what: None)
    printed = inference_table(rows)
    assert "| torch-cpu | fp32 " in squeezed(printed)
    assert "not measured: fast 64x64 torch-cpu fp16: backend torch-cpu cannot run" in printed
    monkeypatch.setattr(inference, "isolated", in_this_process)
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


def test_a_process_that_raises_dies_or_hangs_is_a_failure():
    ended = "the process ended while it was measured"
    assert isolated("it", resident_mib, 1 << 30) == Failure("it", ended)
    assert "ValueError: invalid literal" in isolated("it", int, "seven").error
    assert isolated("it", os._exit, 3) == Failure("it", "its process died with exit status 3")
    assert "longer than 0 s" in isolated("it", time.sleep, 60, timeout=0).error
    assert isolated("it", int, "7") == 7


def test_quantiles_are_those_of_numpy():
    values = list(range(1, 101))
    assert Quantiles.of(values) == Quantiles(50.5, round(float(np.percentile(values, 95)), 3), 99.01)


def test_resident_memory_grows_with_what_is_held():
    before = resident_mib()
    with mmap.mmap(-1, 64 << 20) as held:  # of the system: an allocator may have some left that was used
        held.write(bytes(64 << 20))
        assert resident_mib() - before > 50


def test_memory_is_sampled_from_the_beginning_until_the_process_ends():
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        with sampled_memory(child.pid, 0.001) as samples:
            assert len(samples) >= 1
            eventually(lambda: len(samples) > 5, "samples")
            child.kill()
            child.wait()
        assert all(mib >= 0 for mib in samples) and samples[0] > 0
    with pytest.raises(RainRemovalError, match="ended"), sampled_memory(child.pid, 1):
        pass


def test_the_peak_of_a_process_is_its_own_and_not_that_of_who_started_it():
    held = np.ones((256, 1 << 20), np.uint8)  # what a child's getrusage tells, too
    here = peak_resident_mib()
    assert here > 256 and held.any()
    child = "from rain_removal_ros.lab.benchmark.process_figures import peak_resident_mib as p"
    child += "; print(p(), end=' ')"
    child += (
        "; import numpy; a = numpy.ones((32, 1 << 20), numpy.uint8); first = p(); del a; print(first, p())"
    )
    done = subprocess.run([sys.executable, "-c", child], capture_output=True, text=True, check=True)
    begin, full, after = map(float, done.stdout.split())
    assert begin + 20 < full == pytest.approx(after, abs=1)
    assert isolated("it", peak_resident_mib) < here - 100


def test_a_rate_is_that_of_the_time_between_events():
    assert rate_of([5.0, 5.1, 5.2, 5.3]) == pytest.approx(10)
    assert rate_of([5.0]) == rate_of([]) == 0


def test_of_a_failure_the_line_is_shown_that_says_what_went_wrong():
    traced = 'self.x()\n  File "a.py", line 3, in x\nValueError: no'
    logged = "the node ended with status 1; the end of its log:\n[INFO] something else"
    lines = failure_lines([Failure("a", traced), Failure("b", logged)])
    assert lines[0] == "not measured: a: ValueError: no"
    assert lines[1] == "not measured: b: the node ended with status 1; the end of its log:"


@pytest.mark.parametrize("device", [0, 1])
def test_the_machine_is_described_with_the_gpu_that_is_used(device, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index=0: f"GPU {index}")
    assert machine.describe_machine(device)["gpu"] == f"GPU {device}"
    assert "gpu" not in machine.describe_machine(2)


def test_every_setting_of_the_runtime_reaches_the_node():
    settings = RuntimeSettings("openvino", "bf16", "paper", Path("w"), None, Path("c"), threads=3, device=1)
    said = {"backend": "openvino", "precision": "bf16", "preset": "paper", "weights": "w", "cache_dir": "c"}
    assert node_process.node_parameters(settings) == said | {"threads": "3", "device": "1"}
    assert "weights" not in node_process.node_parameters(RuntimeSettings())


def test_an_answer_counts_however_many_images_are_under_way_until_it_is_given_up():
    ledger = Ledger(["a", "b"])
    for serial in range(300):
        for name in ("a", "b"):
            ledger.send(name, serial, serial / 20)
    ledger.receive("b", 0, 15.0)
    ledger.receive("b", 1, 15.5)
    ledger.receive("b", 1, 15.6)
    ledger.receive("a", 999, 15.6)
    assert ledger.latencies == pytest.approx([15.0, 15.45]) and ledger.back == {"a": [], "b": [15.0, 15.5]}
    ledger.send("a", 300, 31.0)
    ledger.receive("a", 5, 31.1)
    assert len(ledger.latencies) == 2 and ("a", 25) in ledger.outstanding


def load_row(**changes) -> LoadRow:
    row = LoadRow(
        "fast", "packaged", 2, "96x64", 5.0, 1.0, 10, 8, (4.0, 3.5), 20.0, 30.0, 29.0, 31.0, 0.5,
        (100.0, 101.0), 9, 9, 4, 4, 1, 1, "openvino", "fp32", 0.0, "not tried",
    )  # fmt: skip
    return replace(row, **changes)


def test_a_cell_that_fails_leaves_the_rest_of_a_sweep_standing(monkeypatch):
    asked, kept = [], []

    def pretend(settings, cameras, size, rate, frames, batching):
        asked.append((cameras, rate, frames))
        if cameras == 2:
            raise RainRemovalError("none of 4 images came back; the end of its log:\nline")
        return load_row(cameras=cameras)

    monkeypatch.setattr(load_benchmark, "run_load", pretend)
    rows = sweep(
        RuntimeSettings(),
        [1, 2, 3],
        [0.1],
        [(64, 96)],
        2.0,
        lambda what: None,
        lambda rows: kept.append(len(rows)),
    )
    assert asked == [(1, 0.1, 1), (2, 0.1, 1), (3, 0.1, 1)] and kept == [1, 2, 3]
    table = squeezed(load_table(rows))
    assert "| 3 | 96x64 | 5.0 | 3.5 to 4.0 |" in table
    assert "not measured: 2 cameras of 96x64 at 0.1 Hz: none of 4 images came back" in table
    assert "not measured: it: why" in soak_lines(Failure("it", "why"))


def node_run(**changes) -> NodeRun:
    stages = dict.fromkeys(node_benchmark.STAGES, 5.0) | {"total": 10.0}
    run = NodeRun(
        "fast", "packaged", "96x64", 10.0, 10.0, 100, 100, 10.0, stages, stages, 15.0, 12.0, 12.0,
        100.0, 100.0, 100.0, "openvino", "fp32",
    )  # fmt: skip
    return replace(run, **changes)


def test_the_node_is_given_twice_what_its_own_time_allows_and_the_preset_that_was_asked_for(monkeypatch):
    asked = []

    def pretend(settings, weights, size, frames, rate):
        asked.append((settings.preset, settings.weights.name, weights, rate))
        return node_run(preset=settings.preset, camera_rate=rate)

    monkeypatch.setattr(node_benchmark, "_run", pretend)
    rows = benchmark_node(RuntimeSettings(), "paper", (64, 96), 10, 10.0, lambda what: None)
    assert asked == [
        ("paper", "paper.safetensors", "random", 10.0),
        ("paper", "paper.safetensors", "random", 200.0),
    ]
    first, second = "\n".join(node_lines(rows[:1])), "\n".join(node_lines(rows))
    assert "node paper 96x64 (openvino fp32, packaged weights)" in first
    assert "the camera was the limit" not in first and "10.0 of 200.0 images a second" in second
    saturated = [rows[0], node_run(frames_back=60)]
    assert "the camera was the limit" not in "\n".join(node_lines(saturated))
    assert saturating_rate(node_run(rate_in=500.0)) == 500.0


def test_a_node_that_fails_is_not_given_more(monkeypatch):
    def fail_always(*arguments):
        raise RainRemovalError("the node ended with status 1")

    monkeypatch.setattr(node_benchmark, "_run", fail_always)
    (row,) = benchmark_node(RuntimeSettings(), "fast", (64, 96), 10, 10.0, lambda what: None)
    assert row == Failure("node fast 96x64 at 10 Hz", "the node ended with status 1")


@pytest.mark.skipif(importlib.util.find_spec("rclpy") is None, reason="the node needs rclpy")
def test_the_node_is_measured_over_dds(weights, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(load_benchmark, "SETTLE_S", 0.1)
    monkeypatch.setattr(inference, "isolated", in_this_process)
    path = tmp_path / "figures.json"
    common = f"--weights {weights} --backend torch-cpu --cache-dir {tmp_path} --json {path}".split()
    assert (
        main(
            [
                "benchmark",
                *common,
                *["--sizes", "96x64", "--load", "1", "--load-rates", "10", "--load-seconds", "1"],
            ]
        )
        == 0
    )
    (row,) = json.loads(path.read_text())["load"]
    assert (row["weights"], row["sent"], row["backend"]) == ("given", 10, "torch-cpu")
    assert 0 < row["back"] <= 10 and row["rate_in_hz"] <= 10.2
    small = "--sizes 64x64 --frames 1 --node --node-size 96x64 --node-frames 40 --node-rate 10"
    assert main(["benchmark", *common, *small.split()]) == 0
    first, second = json.loads(path.read_text())["node"]
    assert 0 < first["frames_back"] <= 40 and first["rate_in"] <= 10.2
    allowed = 1e3 / first["stage_median_ms"]["total"]
    assert second["camera_rate"] == pytest.approx(max(2 * allowed, first["rate_in"]), rel=0.01)
    assert "node fast 96x64 (torch-cpu fp32, given weights)" in capsys.readouterr().out


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
            [
                *[
                    "--node",
                    "--every-precision",
                    "--memory-frames 9",
                    "--weights w",
                    "--batches 2",
                    "--load 2",
                ],
                *["--precision fp32", "--threads 2", "--cache-dir c"],
            ],
        ),
        (
            "--batches 2",
            [
                *["--node", "--every-precision", "--memory-frames 9", "--load 2", "--soak 9", "--device 1"],
                "--cache-dir c",
            ],
        ),
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
