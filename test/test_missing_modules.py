"""What happens where something is not installed: to commands, and to the tests themselves."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import modules
import pytest

from rain_removal_ros.commands.main import EXTRAS, SUBCOMMANDS, main

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


def run_without(module: str, *arguments: str) -> subprocess.CompletedProcess:
    code = WITHOUT.format(module=module, arguments=list(arguments))
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)


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
        ("accelerate", ("train", "--data", "x", "--output", "y"), 'pip install "rain_removal_ros[training]"'),
        ("embreex", ("drive", "{tmp}", "--frames", "1", "--processes", "1"), "rain_removal_ros[scenes]"),
        ("rosbags", ("bag", "x", "{tmp}/y"), "rain_removal_ros[bags]"),
        ("av", ("video", "x.mp4", "{tmp}/y.mp4"), "install the package again"),
    ],
    ids=lambda value: value if isinstance(value, str) and " " not in value else None,
)
def test_a_command_that_lacks_a_module_says_what_to_install(tmp_path, module, arguments, remedy):
    done = run_without(module, *(argument.format(tmp=tmp_path) for argument in arguments))
    assert done.returncode == 1, done.stderr
    assert remedy in done.stderr
    assert "Traceback" not in done.stderr


def test_every_extra_that_is_named_exists():
    setup = (ROOT / "setup.py").read_text()
    for extra in set(EXTRAS.values()):
        assert f'"{extra}": [' in setup


@pytest.mark.parametrize("subcommand", [name for name in SUBCOMMANDS if name != "node"])
def test_every_subcommand_explains_itself(subcommand, capsys):
    with pytest.raises(SystemExit) as ended:
        main([subcommand, "--help"])
    assert ended.value.code == 0 and f"derain {subcommand}" in capsys.readouterr().out


def test_test_files_are_left_out_for_want_of_what_they_import(monkeypatch):
    modules.is_installed.cache_clear()
    monkeypatch.setattr(modules, "is_installed", lambda name: name not in ("av", "accelerate"))
    left_out = {path.name: modules.missing_modules(path) for path in (ROOT / "test").glob("test_*.py")}
    assert left_out["test_files.py"] == {"av"}
    assert "accelerate" in left_out["test_training.py"]  # by way of the trainer
    assert left_out["test_cache.py"] == set()


def test_nothing_is_left_out_where_everything_is_installed():
    assert not {path.name for path in (ROOT / "test").glob("test_*.py") if modules.missing_modules(path)}
