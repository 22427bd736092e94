"""What several tests share. The ROS environment is set before anything imports rclpy."""

from __future__ import annotations

import os

import rain_removal_ros.lab  # noqa: F401  networks to compare with can be built in every test

# A domain of our own, so that neither a robot nearby nor another test run is heard.
os.environ["ROS_DOMAIN_ID"] = str(1 + os.getpid() % 100)
os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
