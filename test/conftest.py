"""What several tests share. The environment is set before anything imports rclpy or torch."""

from __future__ import annotations

import copy
import os
import socket

import pytest


def own_domain() -> tuple[int, socket.socket]:
    """A ROS domain that no other run of the tests in this network has, and the socket that holds it."""
    for domain in range(1, 102):  # those whose ports are free on every system
        held = socket.socket()
        try:
            held.bind(("127.0.0.1", 17_400 + domain))
        except OSError:
            held.close()
            continue
        return domain, held
    raise OSError("every ROS domain is held by a run of these tests")


# Neither a robot nearby nor another run of the tests is heard, and no GPU that the machine may have is used.
_DOMAIN, _HELD = own_domain()
os.environ["ROS_DOMAIN_ID"] = str(_DOMAIN)
os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ["ACCELERATE_USE_CPU"] = "true"
os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"

from runtime_fixtures import folded  # noqa: E402

import rain_removal_ros.lab  # noqa: E402, F401  networks to compare with can be built in every test


@pytest.fixture(scope="module")
def networks():
    """Random networks by preset, made once."""
    made = {}

    def network(preset):
        name = preset if isinstance(preset, str) else "tiny"
        if name not in made:
            made[name] = folded(preset)
        return copy.deepcopy(made[name])

    return network
