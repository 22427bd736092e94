"""The demo, as a user runs it: a short drive through the real node in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import av
import cv2
import embreex  # noqa: F401  without it no drive is rendered, and this file is left out
import pytest


def derain_demo(output: Path, *arguments: str) -> subprocess.CompletedProcess:
    """`derain demo` with a cache of its own."""
    command = [
        sys.executable,
        "-m",
        "rain_removal_ros.commands.main",
        "demo",
        "--output",
        str(output),
        "--width",
        "192",
    ]
    command += ["--height", "128", "--cache-dir", str(output / "cache"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, env=dict(os.environ))


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[Path, subprocess.CompletedProcess]:
    output = tmp_path_factory.mktemp("demo")
    return output, derain_demo(output, "--frames", "12", "--rate", "5")


def test_the_demo_improves_the_drive_and_says_so(finished) -> None:
    output, process = finished
    assert process.returncode == 0, process.stdout + process.stderr
    summary = json.loads((output / "summary.json").read_text())
    assert summary["psnr_derained"] > summary["psnr_rainy"]
    assert summary["ssim_derained"] > summary["ssim_rainy"]
    assert summary["frames_in"] == 12
    assert summary["frames_out"] + summary["dropped"] == 12
    assert 0 < summary["latency_ms"]["inference"]["median"] <= summary["latency_ms"]["total"]["median"]
    for word in ("PSNR", "SSIM", "inverse depth", "latency", summary["backend"], str(output / "sheet.png")):
        assert word in process.stdout


def test_the_demo_leaves_a_video_and_a_sheet(finished) -> None:
    output, _ = finished
    with av.open(str(output / "side_by_side.mp4")) as video:
        frames = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
    assert len(frames) == json.loads((output / "summary.json").read_text())["frames_out"]
    assert frames[0].shape == (256, 384, 3)
    assert cv2.imread(str(output / "sheet.png")).shape[1] == 1600


def test_the_demo_fails_where_the_node_does_not_improve_anything(tmp_path) -> None:
    from rain_removal_ros.network import build_network, save_network

    save_network(build_network("fast"), tmp_path / "untrained.safetensors", {})
    weights = str(tmp_path / "untrained.safetensors")
    process = derain_demo(tmp_path, "--frames", "4", "--rate", "5", "--weights", weights)
    assert process.returncode == 1
    assert "did not improve" in process.stdout


def test_the_demo_refuses_a_size_that_the_node_does_not_take_before_it_renders_anything(tmp_path) -> None:
    process = derain_demo(tmp_path, "--frames", "2", "--width", "4160", "--height", "2340")
    assert process.returncode == 1
    assert "4160x2340" in process.stderr and "render the drive" not in process.stderr


def test_the_demo_shows_the_nodes_log_where_the_node_cannot_start(tmp_path) -> None:
    process = derain_demo(tmp_path, "--frames", "2", "--weights", str(tmp_path / "none.safetensors"))
    assert process.returncode == 1
    assert "none.safetensors" in process.stderr
