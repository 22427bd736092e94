"""Nothing that runs here calls anybody: commands run with sockets that refuse and record, in a fresh home."""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
from pathlib import Path

import cv2
import pytest
from runtime_fixtures import street_like, write_weights

ROOT = Path(__file__).resolve().parents[1]

RECORDER = '''
"""Every Python process of the test loads this before anything else."""
import os, socket

def refuse(what):
    def call(*arguments, **named):
        with open(os.environ["CALLS"], "a") as file:
            file.write(f"{what} {arguments!r}\\n")
        raise OSError("the test lets nobody call")
    return call

for name in ("connect", "connect_ex", "sendto"):
    setattr(socket.socket, name, refuse(name))
for name in ("getaddrinfo", "create_connection", "gethostbyname"):
    setattr(socket, name, refuse(name))
'''

UNTIL_A_CALL = """
import os, time
end = time.monotonic() + 60
while time.monotonic() < end and not os.path.getsize(os.environ["CALLS"]):
    time.sleep(0.01)
"""
"""OpenVINO's telemetry calls from a fork of its own, and since 3.12 a Python that is ending forks no more."""


@pytest.fixture
def calls(tmp_path):
    """Runs a command in a fresh home folder and gives what it, or any child of it, tried to connect to."""
    (tmp_path / "recorder").mkdir()
    (tmp_path / "recorder" / "sitecustomize.py").write_text(RECORDER)
    (tmp_path / "home").mkdir()
    record = tmp_path / "calls.txt"

    def run(*arguments: str) -> list[str]:
        record.write_text("")
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(tmp_path / "home"),
            "PYTHONPATH": os.pathsep.join([str(tmp_path / "recorder"), str(ROOT)]),
            "CALLS": str(record),
        }
        done = subprocess.run(
            [sys.executable, *arguments], env=environment, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
        return record.read_text().splitlines()

    return run


def _skip_without_telemetry() -> None:
    if not any(found.name == "openvino-telemetry" for found in importlib.metadata.distributions()):
        pytest.skip("this OpenVINO brings no telemetry")


def test_the_recorder_hears_openvinos_telemetry_where_nothing_silences_it(calls):
    _skip_without_telemetry()
    assert calls("-c", f"import openvino{UNTIL_A_CALL}")


@pytest.mark.parametrize("first", ["", "import openvino_telemetry; "])
def test_restoring_an_image_calls_nobody(calls, tmp_path, first):
    if first:
        _skip_without_telemetry()
    weights = write_weights(tmp_path / "tiny.safetensors")
    cv2.imwrite(str(tmp_path / "rainy.png"), street_like(72, 96))
    arguments = ["image", str(tmp_path / "rainy.png"), str(tmp_path / "clean"), "--backend", "openvino"]
    arguments += ["--weights", str(weights)]
    program = (
        f"{first}import sys; from rain_removal_ros.commands.main import main; sys.exit(main({arguments}))"
    )
    assert calls("-c", program) == []
    assert list((tmp_path / "clean").glob("*.png"))


def test_openvino_is_imported_in_one_place_only():
    importing = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "rain_removal_ros").rglob("*.py")
        if re.search(r"^\s*(import openvino|from openvino)\b", path.read_text(), re.MULTILINE)
    }
    assert importing == {"rain_removal_ros/runtime/without_telemetry.py"}
