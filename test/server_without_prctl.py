"""Imported into a build server, hides the call by which the kernel ends a process with its parent."""

from rain_removal_ros.runtime import build_server

build_server.ctypes = None
