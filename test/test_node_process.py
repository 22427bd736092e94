"""The node as users start it, in a process of its own: images across processes, signals, exit statuses."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from runtime_fixtures import write_weights

from rain_removal_ros.share import dds_profile_environment

pytestmark = pytest.mark.usefixtures("as_in_a_terminal")

ROOT = Path(__file__).resolve().parents[1]
PATIENCE = 60.0
LOADED = "tiny.safetensors"


@pytest.fixture(scope="module")
def arguments(tmp_path_factory) -> list[str]:
    folder = tmp_path_factory.mktemp("process")
    weights = write_weights(folder / "tiny.safetensors")
    return ["--ros-args", "-p", f"weights:={weights}", "-p", f"cache_dir:={folder / 'cache'}"]


def environment() -> dict[str, str]:
    paths = [str(ROOT), str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "PYTHONUNBUFFERED": "1"}


def run_node(*arguments: str) -> subprocess.CompletedProcess:
    """`derain node` that is expected to end by itself."""
    return subprocess.run(
        [sys.executable, "-m", "rain_removal_ros.commands.main", "node", *arguments],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )


@contextmanager
def running_node(*arguments: str) -> Iterator[subprocess.Popen]:
    """`derain node` once its network is loaded."""
    command = [sys.executable, "-m", "rain_removal_ros.commands.main", "node", *arguments]
    with subprocess.Popen(command, env=environment(), stderr=subprocess.PIPE, text=True) as process:
        try:
            said = []
            for line in process.stderr:
                said.append(line)
                if LOADED in line:
                    break
            assert process.poll() is None, "".join(said)
            yield process
        finally:
            if process.poll() is None:
                process.kill()


@pytest.mark.parametrize(("width", "height"), [(1280, 720), (1920, 1080)])
def test_best_effort_images_of_a_camera_process_come_back(arguments, width, height):
    wanted = 8
    with running_node(*arguments) as node:
        camera = subprocess.run(
            [sys.executable, str(Path(__file__).with_name("camera_process.py"))]
            + [str(number) for number in (width, height, wanted)],
            env={**environment(), **dds_profile_environment({})},
            capture_output=True,
            text=True,
            timeout=2 * PATIENCE,
        )
        assert camera.returncode == 0, camera.stderr
        result = json.loads(camera.stdout.splitlines()[-1])
        node.send_signal(signal.SIGINT)
        assert node.wait(PATIENCE) == 0
    assert result["size"] == [width, height] and result["encoding"] == "bgr8"
    assert len(result["images"]) >= wanted
    assert result["published"] + result["dropped"] == result["received"] >= wanted
    assert set(result["infos"]) & set(result["images"])


@pytest.mark.parametrize(
    "signals",
    [
        [signal.SIGINT],
        [signal.SIGINT, signal.SIGINT],
        [signal.SIGTERM],
        [signal.SIGTERM, signal.SIGINT],
        [signal.SIGHUP],
    ],
    ids=lambda signals: "+".join(number.name for number in signals),
)
def test_a_signal_ends_the_node_cleanly_however_often_it_comes(arguments, signals):
    with running_node(*arguments) as node:
        for number in signals:
            node.send_signal(number)
        _, errors = node.communicate(timeout=PATIENCE)
        assert node.returncode == 0
        assert "Traceback" not in errors
        # What DDS says of shared memory that the machine does not have is its own.
        assert not [line for line in errors.splitlines() if "[ERROR]" in line or "[FATAL]" in line]


def test_a_hangup_that_is_ignored_where_the_node_is_started_does_not_end_it(arguments):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with running_node(*arguments) as node:
            assert not catches(node.pid, signal.SIGHUP) and catches(node.pid, signal.SIGTERM)
            node.send_signal(signal.SIGHUP)
            node.send_signal(signal.SIGTERM)
            node.communicate(timeout=PATIENCE)
            assert node.returncode == 0
    finally:
        signal.signal(signal.SIGHUP, before)


def test_ctrl_c_again_and_again_until_the_very_end_changes_nothing(arguments):
    with running_node(*arguments) as node:
        while node.poll() is None:
            node.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                node.wait(0.005)
        assert node.returncode == 0
        assert "Traceback" not in node.stderr.read()


def test_a_signal_before_the_node_is_imported_ends_it_cleanly(arguments):
    command = [sys.executable, "-m", "rain_removal_ros.commands.main", "node", *arguments]
    with subprocess.Popen(command, env=environment(), stderr=subprocess.PIPE, text=True) as node:
        while not catches(node.pid, signal.SIGTERM):  # its first act; Python itself leaves SIGTERM alone
            assert node.poll() is None
        node.send_signal(signal.SIGINT)
        _, errors = node.communicate(timeout=PATIENCE)
    assert node.returncode == 0 and "Traceback" not in errors


def catches(process_id: int, number: signal.Signals) -> bool:
    [caught] = [
        line.split()[1]
        for line in Path(f"/proc/{process_id}/status").read_text().splitlines()
        if line.startswith("SigCgt:")
    ]
    return bool(int(caught, 16) & 1 << (number - 1))


def test_build_only_compiles_and_exits(arguments, tmp_path):
    done = run_node(
        *arguments, "-p", "build_only:=true", "-p", "image_sizes:=96x72", "-p", f"cache_dir:={tmp_path}"
    )
    assert done.returncode == 0, done.stderr
    assert "built engine for 96x72 image+inverse_depth" in done.stderr
    assert any(path.is_file() for path in tmp_path.rglob("*"))


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        (["-p", "build_only:=true"], "build_only needs image_sizes"),
        (
            ["-p", "build_only:=true", "-p", "image_sizes:=16x16"],
            "'16x16' is too small or too large; sizes from 64x64 to 4096x3072",
        ),
        (
            ["-p", "build_only:=true", "-p", "image_sizes:=96x72", "-p", "weights:=/nowhere"],
            "/nowhere does not exist",
        ),
        (["-p", "backend:=vulkan"], "parameter backend is 'vulkan'; it must be one of"),
        (["-p", "threads:=-1"], "threads"),
        (["-p", "threads:=two"], "threads"),
        (["-p", "cameras:=[1, 2]"], "cameras"),
        (["-p", "cameras:=[]"], "parameter cameras is empty"),
        (["--params-file", "/nowhere.yaml"], "/nowhere.yaml"),
        (["--no-such-ros-argument"], "no-such-ros-argument"),
    ],
)
def test_a_node_that_cannot_start_says_why_and_fails(arguments, more, reason):
    done = run_node(*arguments, *more)
    assert done.returncode == 1
    assert any(part in done.stderr for part in reason.split("|")), done.stderr
    assert "Traceback" not in done.stderr


def test_a_name_in_a_file_for_this_node_that_is_no_parameter_of_it_is_told(arguments, tmp_path):
    file = tmp_path / "derain.yaml"
    file.write_text("/derain: {ros__parameters: {build_only: true, frame_id: base_link}}")
    done = run_node(*arguments, "--params-file", str(file))
    assert done.returncode == 1, "it has no image_sizes"
    assert "parameter 'frame_id' is none of this node's and has no effect" in done.stderr


def test_help_tells_how_to_give_ros_arguments():
    done = run_node("--help")
    assert done.returncode == 0 and "--ros-args" in done.stdout
