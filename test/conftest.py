"""What several tests share. The environment is set before anything imports rclpy or torch."""

from __future__ import annotations

import copy
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from modules import missing_modules

from rain_removal_ros.domain import DOMAIN, RANGE, keep_apart

# Neither a robot nearby nor another run of the tests is heard, and no GPU that the machine may have is used.
for name in (DOMAIN, RANGE):
    os.environ.pop(name, None)
keep_apart()
os.environ["CUDA_VISIBLE_DEVICES"] = ""

# Beside a plain ROS installation (colcon test) not all that the tests use is there: the files that need what
# is missing are left out, and the header says so. `make test`, which installs everything, fails instead.
LEFT_OUT = {
    path.name: missing
    for path in sorted(Path(__file__).parent.glob("test_*.py"))
    if (missing := missing_modules(path))
}
collect_ignore = list(LEFT_OUT)

if not missing_modules(Path(__file__).with_name("runtime_fixtures.py")):
    import rain_removal_ros.lab.baselines  # noqa: F401  networks to compare with can be built in every test


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


@pytest.fixture(scope="module")
def street(tmp_path_factory):
    """A tiny dataset to train on."""
    from training_fixtures import write_street

    return write_street(tmp_path_factory.mktemp("street"))


@pytest.fixture
def as_in_a_terminal() -> Iterator[None]:
    """Signals that do what they do by default, for the test and what it starts: nohup, and a shell's `&`,
    have tests begin with some of them ignored.
    """
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGHUP)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
