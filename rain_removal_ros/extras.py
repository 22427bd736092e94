"""What to install where a module is missing. Knows names, and imports nothing of them."""

from __future__ import annotations

import sys

EXTRAS = {
    "rclpy": "ros",
    "sensor_msgs": "ros",
    "std_msgs": "ros",
    "diagnostic_msgs": "ros",
    "lifecycle_msgs": "ros",
    "builtin_interfaces": "ros",
    "rcl_interfaces": "ros",
    "rosgraph_msgs": "ros",
    "rosbags": "bags",
    "ruamel": "bags",
    "mcap": "bags",
    "zstandard": "bags",
    "aiohttp": "bags",
    "ray": "archives",
    "embreex": "scenes",
    "accelerate": "training",
    "matplotlib": "training",
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
    else:
        remedy = f'pip install "rain_removal_ros[{EXTRAS[module]}]"'
        if EXTRAS[module] == "ros":
            remedy = f"source a ROS 2 installation, or without one: {remedy}"
    return f"{module}, which is not installed for {sys.executable}; {remedy}"
