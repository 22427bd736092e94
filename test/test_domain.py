"""A ROS domain of one's own: free, kept while it is in use, and never chosen over the user's."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from contextlib import ExitStack, closing

import pytest

from rain_removal_ros import domain
from rain_removal_ros.errors import RainRemovalError

KEPT_WHEN_REPLACED = """
import os, sys
from rain_removal_ros import domain
if len(sys.argv) == 1:
    domain.keep_apart()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:], "again"])
domain.keep_apart()
print(os.environ["ROS_DOMAIN_ID"], domain.free_domain()[0], os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"])
"""


def test_no_two_have_one_domain_and_one_that_is_let_go_of_is_free_again():
    first, held = domain.free_domain()
    with held:
        second, other = domain.free_domain()
        other.close()
    assert second != first
    again, held = domain.free_domain()
    held.close()
    assert again == first


def test_a_domain_in_which_somebody_speaks_is_passed_over():
    number, held = domain.free_domain()
    held.close()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as participant:
        participant.bind(("127.0.0.1", 7400 + 250 * number + 10))
        other, held = domain.free_domain()
        held.close()
    assert other != number


def test_the_users_domain_and_range_are_left_alone(monkeypatch):
    monkeypatch.setenv(domain.DOMAIN, "0")
    monkeypatch.setenv(domain.RANGE, "SUBNET")
    domain.keep_apart()
    assert (os.environ[domain.DOMAIN], os.environ[domain.RANGE]) == ("0", "SUBNET")


def test_where_every_domain_is_in_use_the_user_is_asked_for_one(monkeypatch):
    monkeypatch.setattr(domain, "DOMAINS", range(1, 3))
    told = r"every ROS domain from 1 to 2 is in use .* set ROS_DOMAIN_ID"
    with ExitStack() as stack, pytest.raises(RainRemovalError, match=told):
        for _ in range(3):
            stack.enter_context(closing(domain.free_domain()[1]))


def test_the_domain_stays_ones_own_when_the_interpreter_is_started_once_more():
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ROS_")}
    done = subprocess.run(
        [sys.executable, "-c", KEPT_WHEN_REPLACED],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    own, other, discovery = done.stdout.split()
    assert own != other and discovery == "LOCALHOST"
