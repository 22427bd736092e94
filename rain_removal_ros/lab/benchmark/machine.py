"""What a figure was measured on: machine and versions, as plain data for reports."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path

from rain_removal_ros.cpu import usable_cores

PACKAGES = (
    "torch",
    "openvino",
    "torch-tensorrt",
    "torch-tensorrt-rtx",
    "tensorrt",
    "tensorrt_rtx",
    "numpy",
    "opencv-python-headless",
)


def describe_machine(device: int = 0) -> dict[str, str | int | float]:
    """CPU, cores that this process may use, memory in GiB, the CUDA device of that index, system, Python."""
    import torch

    cpu_info = Path("/proc/cpuinfo")
    names = [
        line.split(":", 1)[1].strip()
        for line in (cpu_info.read_text().splitlines() if cpu_info.is_file() else ())
        if line.startswith("model name")
    ]
    machine: dict[str, str | int | float] = {
        "cpu": names[0] if names else platform.processor() or platform.machine(),
        "cores": usable_cores(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }
    if torch.cuda.is_available() and device < torch.cuda.device_count():
        machine["gpu"] = torch.cuda.get_device_name(device)
    return machine


def versions() -> dict[str, str]:
    """The installed versions of what computes."""
    import rain_removal_ros

    found = {"rain_removal_ros": rain_removal_ros.__version__}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
