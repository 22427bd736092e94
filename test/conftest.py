"""What several tests share. The environment is set before anything imports rclpy or torch."""

from __future__ import annotations

import copy
import os
import socket
from pathlib import Path

import pytest
from modules import missing_modules


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

# Beside a plain ROS installation (colcon test) not all that the tests use is there: the files that need what
# is missing are left out, and the header says so. `make test`, which installs everything, fails instead.
LEFT_OUT = {
    path.name: missing
    for path in sorted(Path(__file__).parent.glob("test_*.py"))
    if (missing := missing_modules(path))
}
collect_ignore = list(LEFT_OUT)

if not missing_modules(Path(__file__).with_name("runtime_fixtures.py")):
    import rain_removal_ros.lab  # noqa: F401  networks to compare with can be built in every test


def pytest_report_header() -> list[str]:
    """What is left out, and for want of what."""
    if LEFT_OUT and os.environ.get("RAIN_REMOVAL_TEST_EVERYTHING"):
        raise pytest.UsageError(f"not installed, though everything is to be tested: {LEFT_OUT}")
    return [f"left out: {name}, without {', '.join(sorted(missing))}" for name, missing in LEFT_OUT.items()]


@pytest.fixture(scope="module")
def networks():
    """Random networks by preset, made once."""
    from runtime_fixtures import frozen

    made = {}

    def network(preset):
        name = preset if isinstance(preset, str) else "tiny"
        if name not in made:
            made[name] = frozen(preset)
        return copy.deepcopy(made[name])

    return network
