"""The commands on files, where Linux' own calls are missing: on macOS, and on Windows, as far as hiding them
here can tell.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]

LINUX_ALONE = ("pidfd_open", "sched_getaffinity", "sched_setaffinity", "memfd_create")
POSIX_ALONE = (
    *("fork", "killpg", "nice", "getuid", "geteuid", "getgid", "getegid", "setsid"),
    *("getpgid", "O_CLOEXEC", "O_NOFOLLOW", "O_DIRECTORY", "statvfs", "fchmod", "mkfifo"),
)
POSIX_MODULES = ("fcntl", "termios", "resource", "pwd", "grp", "pty")
SYSTEMS = {"macOS": (LINUX_ALONE, ()), "Windows": (LINUX_ALONE + POSIX_ALONE, POSIX_MODULES)}

PROGRAM = """
import builtins, io, os, pathlib, sys
names, modules, arguments = {names!r}, {modules!r}, {arguments!r}
for name in names:
    delattr(os, name)
for module in modules:
    sys.modules[module] = None  # its import raises ModuleNotFoundError
read_text = pathlib.Path.read_text
def without_proc(path, *others, **named):
    if str(path).startswith("/proc/"):
        raise FileNotFoundError(path)
    return read_text(path, *others, **named)
pathlib.Path.read_text = without_proc
from rain_removal_ros.commands.main import main
sys.exit(main(arguments))
"""


@pytest.mark.parametrize("system", SYSTEMS)
def test_an_image_is_derained_without_the_calls_that_a_system_lacks(tmp_path, system):
    names, modules = SYSTEMS[system]
    generator = np.random.default_rng(0)
    image = cv2.GaussianBlur(generator.integers(0, 256, (96, 128, 3), np.uint8), (0, 0), 3)
    cv2.imwrite(str(tmp_path / "rainy.png"), image)
    common = ("--backend", "openvino", "--precision", "fp32", str(tmp_path / "rainy.png"))
    cache = ("--cache-dir", str(tmp_path / system))
    usual = ("image", *common, str(tmp_path / "usual.png"), "--cache-dir", str(tmp_path / "usual"))
    other = ("image", *common, str(tmp_path / "other.png"), *cache)
    command = [sys.executable, "-m", "rain_removal_ros.commands.main", *usual]
    subprocess.run(command, cwd=ROOT, check=True, timeout=300)
    program = PROGRAM.format(names=names, modules=modules, arguments=list(other))
    for _ in range(2):  # the second time with the network that the first one kept
        done = subprocess.run(
            [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr
        result = cv2.imread(str(tmp_path / "other.png"))
        assert np.array_equal(result, cv2.imread(str(tmp_path / "usual.png")))
    assert list((tmp_path / system).glob("*.engine"))
