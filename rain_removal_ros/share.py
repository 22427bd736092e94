"""Finds the files that come with the package (config, launch, models), however it was installed."""

from __future__ import annotations

import os
import site
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path

from rain_removal_ros.errors import RainRemovalError

PACKAGE = "rain_removal_ros"
DDS_PROFILE = "config/fastdds_large_images.xml"
DDS_PROFILE_VARIABLES = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")
"""Where Fast DDS looks for its profiles: the first up to ROS 2 Jazzy, the second since Kilted."""

BUILTIN_TRANSPORTS_VARIABLE = "FASTDDS_BUILTIN_TRANSPORTS"
"""A user's choice of transports (UDPv4, LARGE_DATA, ...), which Fast DDS does not heed beside our profile."""


def share_folder() -> Path:
    """The folder that holds config/, launch/ and models/.

    Tried in this order: the source tree (pip -e, colcon --symlink-install, a plain checkout), the ROS
    prefixes in AMENT_PREFIX_PATH (colcon), the environment's own share folder and the user's (pip).
    """
    candidates = [Path(__file__).resolve().parents[1]]
    prefixes = [prefix for prefix in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if prefix]
    prefixes += [
        sysconfig.get_path("data"),
        sysconfig.get_path("data", sysconfig.get_preferred_scheme("user")),
    ]
    candidates += [Path(prefix) / "share" / PACKAGE for prefix in prefixes]
    for candidate in candidates:
        if (candidate / "package.xml").is_file() and (candidate / "config").is_dir():
            return candidate
    raise RainRemovalError(
        f"{PACKAGE} finds its files in none of {', '.join(map(str, candidates))}; install the package again"
    )


def share_file(relative: str) -> Path:
    """One of the package's files, as `config/derain.yaml`. Raises RainRemovalError where it is missing."""
    path = share_folder() / relative
    if not path.is_file():
        raise RainRemovalError(f"{path} is missing; install the package again")
    return path


def packaged_weights(name: str) -> Path:
    """Where the weights file of this name is that comes with the package, if it does."""
    return share_folder() / "models" / f"{name}.safetensors"


def dds_profile_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that give Fast DDS the profile for large images.

    None where the user has set one, or has chosen transports with FASTDDS_BUILTIN_TRANSPORTS.
    """
    if any(environment.get(name) for name in (*DDS_PROFILE_VARIABLES, BUILTIN_TRANSPORTS_VARIABLE)):
        return {}
    return dict.fromkeys(DDS_PROFILE_VARIABLES, str(share_file(DDS_PROFILE)))


def dds_profile_notice(environment: Mapping[str, str]) -> str:
    """Which DDS profile a process gets with `dds_profile_environment`, in words."""
    profile = dds_profile_environment(environment)
    if profile:
        return f"DDS profile for large images: {next(iter(profile.values()))}"
    if any(environment.get(name) for name in DDS_PROFILE_VARIABLES):
        return "DDS profile: the user's own"
    chosen = environment[BUILTIN_TRANSPORTS_VARIABLE]
    return f"DDS profile for large images: not used, as {BUILTIN_TRANSPORTS_VARIABLE} is {chosen}"


def join_active_environment() -> str:
    """Let this process import what the active virtual environment has, too, and return that one's Python.

    `ros2` runs on the system's Python, which sees nothing of an environment that is active; a node that it
    starts does. Nothing changes where none is active, this Python is the environment's own, or of another
    version.
    """
    folder = os.environ.get("VIRTUAL_ENV", "")
    python = Path(folder) / "bin" / "python"
    if not folder or Path(sys.prefix) == Path(folder) or not python.is_file():
        return sys.executable
    packages = sysconfig.get_path("purelib", "venv", {"base": folder, "platbase": folder})
    if not Path(packages).is_dir():
        return sys.executable
    site.addsitedir(packages)  # after the system's own, which ROS is built for
    return str(python)


def node_program(python: str) -> list[str]:
    """The command that starts the node: lib/rain_removal_ros/derain_node (colcon), else `python -m` (pip)."""
    installed = share_folder().parent.parent / "lib" / PACKAGE / "derain_node"
    return [str(installed)] if installed.is_file() else [python, "-m", f"{PACKAGE}.ros.main"]
