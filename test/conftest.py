"""What several tests share. The ROS environment is set before anything imports rclpy."""

from __future__ import annotations

import os
from pathlib import Path

# A domain of our own, so that neither a robot nearby nor another test run is heard.
os.environ["ROS_DOMAIN_ID"] = str(1 + os.getpid() % 100)
os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
for variable in ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE"):
    os.environ[variable] = str(Path(__file__).with_name("fastdds_tests.xml"))

# One thread a test process: with more, threads that spin for each other make a busy machine crawl.
os.environ.setdefault("OMP_NUM_THREADS", "1")
