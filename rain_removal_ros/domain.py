"""A ROS domain of one's own, for what nobody else is to hear or to disturb. Imports no ROS.

Has to be asked for before anything imports rclpy, which reads the environment.
"""

from __future__ import annotations

import os
import socket

from rain_removal_ros.errors import RainRemovalError

DOMAINS = range(1, 102)
"""Those whose ports no system gives to others; 0 is everybody's."""

DOMAIN, RANGE = "ROS_DOMAIN_ID", "ROS_AUTOMATIC_DISCOVERY_RANGE"
_HELD_AT = 17_400
_held: list[socket.socket] = []


def keep_apart() -> None:
    """Have ROS of this process and its children speak in a free domain, on this machine alone.

    What the environment says of either is left as it is. Raises RainRemovalError where no domain is free.
    """
    if not os.environ.get(DOMAIN):
        domain, held = free_domain()
        _held.append(held)
        os.environ[DOMAIN] = str(domain)
    os.environ.setdefault(RANGE, "LOCALHOST")


def free_domain() -> tuple[int, socket.socket]:
    """A domain that nobody on this machine uses, and the socket that keeps it from other callers while it is
    open, in whatever replaces this process too (rclpy's wheels start the interpreter once more).

    Raises RainRemovalError where none is free.
    """
    for domain in DOMAINS:
        held = socket.socket()
        try:
            held.bind(("127.0.0.1", _HELD_AT + domain))
            if not _is_spoken_in(domain):
                held.set_inheritable(True)
                return domain, held
        except OSError:
            pass  # held by another
        held.close()
    raise RainRemovalError(
        f"every ROS domain from {DOMAINS[0]} to {DOMAINS[-1]} is in use on this machine; set {DOMAIN} to "
        "the one to use"
    )


def _is_spoken_in(domain: int) -> bool:
    """Whether the first participant's port (RTPS 2.2, 9.6.1.1) is taken."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind(("", 7410 + 250 * domain))
        except OSError:
            return True
    return False
