"""One version number and the package's files, however it is installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import xml.etree.ElementTree as ElementTree
from importlib.util import find_spec
from pathlib import Path

import pytest

import rain_removal_ros
from rain_removal_ros import share
from rain_removal_ros.errors import RainRemovalError

ROOT = Path(__file__).resolve().parents[1]
PROBE = """
from rain_removal_ros import __version__, share
print(__version__, share.share_folder(), *share.node_program("python"), sep="\\n")
"""


def test_package_xml_and_setup_py_have_the_version_of_the_package():
    package = ElementTree.parse(ROOT / "package.xml").getroot()
    assert package.findtext("version") == rain_removal_ros.__version__
    version = subprocess.run(
        [sys.executable, "setup.py", "--version"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert version.stdout.split()[-1] == rain_removal_ros.__version__


def test_package_xml_names_what_the_node_imports():
    package = ElementTree.parse(ROOT / "package.xml").getroot()
    named = {element.text for element in package.iter("exec_depend")}
    assert {
        "rclpy",
        "sensor_msgs",
        "std_msgs",
        "diagnostic_msgs",
        "lifecycle_msgs",
        "rcl_interfaces",
    } <= named
    assert {"launch", "launch_ros", "python3-numpy", "python3-opencv"} <= named


def run(*command: str | Path, cwd: Path) -> str:
    """What a command prints, in an environment that does not know where this source tree is."""
    hidden = ("PYTHONPATH", "AMENT_PREFIX_PATH", "PIP_NO_INDEX")
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def installed_environment(folder: Path, *pip_options: str) -> Path:
    """The Python of a virtual environment with the package in it; the libraries are the tests' own."""
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    here = sysconfig.get_path("purelib")
    site = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).strip()
    Path(site, "libraries.pth").write_text(here + "\n")
    options = ["-q", "--no-deps", "--no-index", "--no-build-isolation", "--disable-pip-version-check"]
    run(python, "-m", "pip", "install", *options, *pip_options, cwd=folder)
    return python


UNTRACKED = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "install", "log", "dist")


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """What is tracked of the source tree, elsewhere, so that builds leave nothing behind here."""
    folder = tmp_path_factory.mktemp("source")
    listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:  # unpacked and no checkout
        return Path(shutil.copytree(ROOT, folder, dirs_exist_ok=True, ignore=UNTRACKED))
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return folder


@pytest.mark.skipif(
    not (find_spec("setuptools.command.bdist_wheel") or find_spec("wheel")),
    reason="this setuptools builds no wheels by itself, and wheel is not installed",
)
@pytest.mark.parametrize("editable", [False, True], ids=["pip install", "pip install -e"])
def test_an_installed_package_finds_its_files_and_puts_its_commands_on_the_path(source, tmp_path, editable):
    python = installed_environment(tmp_path / "env", *(["-e"] if editable else []), str(source))
    version, folder, *program = run(python, "-c", PROBE, cwd=tmp_path).splitlines()
    assert version == rain_removal_ros.__version__
    assert Path(folder) == (source if editable else tmp_path / "env" / "share" / "rain_removal_ros")
    for file in ("package.xml", "launch/derain.launch.py", "config/derain.yaml", share.DDS_PROFILE):
        assert (Path(folder) / file).is_file()
    assert program == ["python", "-m", "rain_removal_ros.ros.main"]
    answer = run(tmp_path / "env" / "bin" / "derain", "--version", cwd=tmp_path)
    assert answer.strip() == f"rain_removal_ros {rain_removal_ros.__version__}"
    assert (tmp_path / "env" / "bin" / "derain_node").is_file()


def test_a_source_distribution_holds_what_builds_tests_and_documents_it(source, tmp_path):
    run(sys.executable, "setup.py", "-q", "sdist", "--dist-dir", tmp_path, cwd=source)
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as content:
        held = {name.partition("/")[2] for name in content.getnames()}
    wanted = {
        *("README.md", "CHANGELOG.rst", "LICENSE", "Makefile", "constraints.txt", "package.xml", "setup.cfg"),
        *("docs/node.md", "docs/images/before_after.png", "launch/derain.launch.py", "config/derain.yaml"),
        *("models/fast.safetensors", "resource/rain_removal_ros", "test/conftest.py", "test/ros2/check.sh"),
        *("rain_removal_ros/py.typed", "rain_removal_ros/ros/node.py", "rain_removal_ros/lab/__init__.py"),
    }
    assert wanted <= held
    assert not [name for name in held if "__pycache__" in name]


def test_what_runs_on_the_systems_python_joins_the_active_environment(tmp_path, monkeypatch):
    """As `ros2 launch` does, whose Python sees nothing of an environment that is active."""
    venv.create(tmp_path / "env", with_pip=False)
    python = tmp_path / "env" / "bin" / "python"
    packages = run(
        python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path
    ).strip()
    Path(packages, "only_in_the_environment.py").write_text("HERE = True\n")
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delenv("VIRTUAL_ENV", raising=False)
    assert share.join_active_environment() == sys.executable
    monkeypatch.setenv("VIRTUAL_ENV", sys.prefix)
    assert share.join_active_environment() == sys.executable
    monkeypatch.setenv("VIRTUAL_ENV", str(tmp_path / "gone"))
    assert share.join_active_environment() == sys.executable
    assert find_spec("only_in_the_environment") is None
    monkeypatch.setenv("VIRTUAL_ENV", str(tmp_path / "env"))
    before = [*sys.path]
    assert share.join_active_environment() == str(python)
    assert find_spec("only_in_the_environment").origin == str(Path(packages, "only_in_the_environment.py"))
    assert sys.path[: len(before)] == before, "the system's own packages come first"


def test_an_ament_prefix_is_searched_where_there_is_no_source_tree(tmp_path, monkeypatch):
    prefix = tmp_path / "install"
    folder = prefix / "share" / "rain_removal_ros"
    (folder / "config").mkdir(parents=True)
    (folder / "package.xml").write_text("<package/>")
    monkeypatch.setattr(share, "__file__", str(tmp_path / "site-packages" / "rain_removal_ros" / "share.py"))
    monkeypatch.setenv("AMENT_PREFIX_PATH", f"/opt/ros/none:{prefix}")
    assert share.share_folder() == folder
    program = prefix / "lib" / "rain_removal_ros" / "derain_node"
    assert share.node_program("python") == ["python", "-m", "rain_removal_ros.ros.main"]
    program.parent.mkdir(parents=True)
    program.touch()
    assert share.node_program("python") == [str(program)]
    with pytest.raises(RainRemovalError, match=r"config/derain\.yaml is missing"):
        share.share_file("config/derain.yaml")
    monkeypatch.setenv("AMENT_PREFIX_PATH", "")
    monkeypatch.setattr(share.sysconfig, "get_path", lambda *_: str(tmp_path))
    with pytest.raises(RainRemovalError, match="finds its files in none of"):
        share.share_folder()


def test_a_checkout_right_below_the_root_starts_the_node_too(monkeypatch):
    monkeypatch.setattr(share, "share_folder", lambda: Path("/app"))  # as in many a container
    assert share.node_program("python") == ["python", "-m", "rain_removal_ros.ros.main"]


def test_fast_dds_gets_the_profile_unless_the_user_has_set_one():
    environment = share.dds_profile_environment({"HOME": "/root"})
    assert set(environment) == {"FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE"}
    profile = ElementTree.parse(environment["FASTDDS_DEFAULT_PROFILES_FILE"]).getroot()
    space = "{http://www.eprosima.com/XMLSchemas/fastRTPS_Profiles}"
    assert int(profile.find(f".//{space}segment_size").text) >= 2 * 1920 * 1080 * 3
    assert share.dds_profile_environment({"FASTDDS_DEFAULT_PROFILES_FILE": "/mine.xml"}) == {}


def test_without_ros_the_node_command_says_what_to_install():
    hidden = "import sys; sys.modules['rclpy'] = None"
    code = f"{hidden}; from rain_removal_ros.commands.main import main; sys.exit(main(['node']))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert 'pip install "rain_removal_ros[ros]"' in done.stderr and "Traceback" not in done.stderr
